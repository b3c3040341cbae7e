"""Compiles the C files of this package when they are first used, and loads them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

_FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fopenmp-simd",
    "-std=c11",
    "-shared",
    "-fPIC",
)


@cache
def load_native(source: Path) -> ctypes.CDLL | None:
    """The compiled file, or None where there is no C compiler.

    Compiled once for each kind of CPU, in a second, and kept beside the file where one may write.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        log.info("no C compiler on PATH: %s is done without, and slower", source.stem)
        return None
    key = hashlib.sha256(
        "\n".join([source.read_text(), compiler, *_FLAGS, _cpu_flags()]).encode()
    ).hexdigest()[:16]
    built = source.parent / "__pycache__" / f"{source.stem}-{key}.so"
    if not built.exists():
        try:
            built = _compile(compiler, source, built)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", "") or error
            log.warning(
                "%s cannot compile %s (%s): done without, and slower",
                compiler,
                source.name,
                str(detail).strip()[-300:],
            )
            return None
    return ctypes.CDLL(str(built))


def _compile(compiler: str, source: Path, wanted: Path) -> Path:
    try:
        wanted.parent.mkdir(exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=wanted.parent, prefix="native-"))
    except OSError:  # a read-only installation: for this process alone
        made = Path(tempfile.mkdtemp(prefix="ctrdist-native-"))
        wanted = made / wanted.name
    try:
        output = made / "made.so"
        subprocess.run(
            [compiler, *_FLAGS, str(source), "-o", str(output), "-lm"],
            check=True,
            capture_output=True,
            text=True,
        )
        os.replace(output, wanted)  # at once: other workers of this machine may look for it
    finally:
        if made != wanted.parent:
            shutil.rmtree(made, ignore_errors=True)
    return wanted


def _cpu_flags() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags"))}))
