"""Runs jobs and finds the sockets on which they listen."""

import ipaddress
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]


def listening_inodes() -> dict[str, str]:
    """Inode → address of each TCP socket of this machine on which a process listens."""
    found = {}
    for family in ("tcp", "tcp6"):
        for line in Path("/proc/net", family).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                words = bytes.fromhex(local.split(":")[0])
                octets = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                found[inode] = str(ipaddress.ip_address(octets))
    return found


def owners(process: psutil.Process, inodes: dict[str, str]) -> set[tuple[str, str]]:
    """(Process name, address) of those sockets that belong to a process or its descendants."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            if each.name() == "gcs_server":
                environment = each.environ()  # empty while the process starts or ends
                assert not environment or asks_for_token(environment), environment
            for fd in Path(f"/proc/{each.pid}/fd").iterdir():
                link = os.readlink(fd)
                if link.startswith("socket:[") and link[8:-1] in inodes:
                    found.add((each.name(), inodes[link[8:-1]]))
        except (psutil.NoSuchProcess, FileNotFoundError, PermissionError):
            continue
    return found


def asks_for_token(environment: dict[str, str]) -> bool:
    return environment["RAY_AUTH_MODE"] == "token" and len(environment["RAY_AUTH_TOKEN"]) >= 32


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def watched(
    name: str, *arguments: str, **variables: str
) -> tuple[subprocess.CompletedProcess[str], set[tuple[str, str]]]:
    """Runs jobs/<name>.py with some variables; returns the sockets on which it has listened too."""
    without = ("RAY_", "GLOO_", "NCCL_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(without)} | variables
    command = [sys.executable, f"jobs/{name}.py", *arguments]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=err
        ) as process:
            try:
                found = _sockets_until_end(process)
            finally:
                process.kill()
        out.seek(0)
        err.seek(0)
        done = subprocess.CompletedProcess(command, process.returncode, out.read(), err.read())
    return done, found


def _sockets_until_end(process: subprocess.Popen[bytes]) -> set[tuple[str, str]]:
    tree, found, known = psutil.Process(process.pid), set(), set[str]()
    while process.poll() is None:
        inodes = listening_inodes()
        if not inodes.keys() <= known:  # reading all descriptors is slow
            found |= owners(tree, inodes)
            known = set(inodes)
        time.sleep(0.1)
    return found


def check_loopback(found: set[tuple[str, str]], *names: str) -> None:
    """All sockets are on loopback, and processes with these names were seen."""
    assert {each for each in found if not is_loopback(each[1])} == set()
    seen = {process for process, _ in found}
    assert all(any(process.startswith(name) for process in seen) for name in names), seen
