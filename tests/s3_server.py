"""A real S3 server on this machine: rclone, which serves the folders of a folder as buckets."""

import shutil
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest


class S3Server:
    """One server, always at the same port. It does not run yet."""

    def __init__(self, root: Path) -> None:
        beside = Path(sysconfig.get_path("scripts")) / "rclone"
        program = str(beside) if beside.exists() else shutil.which("rclone")
        if program is None:
            pytest.skip("no rclone here: it is in the extra `dev`")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [
            *(program, "serve", "s3", "--auth-key", "key,secret", "--vfs-cache-mode", "off"),
            *("--addr", f"127.0.0.1:{self.port}", str(root)),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Returns once it answers."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError("the S3 server does not answer")

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
