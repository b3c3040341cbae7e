"""Compiles the C files of this folder when they are first used, and loads them."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fopenmp-simd",
    "-std=c11",
    "-shared",
    "-fPIC",
)

POINTER, LONG, INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
UINT, FLOAT, DOUBLE = ctypes.c_uint32, ctypes.c_float, ctypes.c_double


class NativeLibrary:
    """One C file of this folder with the types of its functions."""

    def __init__(self, name: str, **functions: tuple[Any, ...]) -> None:
        """Declares the library; :meth:`load` compiles it.

        Args:
            name: of the C file, without suffix.
            functions: name without the prefix ctrdist_ → type of the result, types of the
                arguments.
        """
        self.name, self._functions = name, functions
        self._loaded: list[ctypes.CDLL | None] = []

    def load(self) -> ctypes.CDLL | None:
        """The loaded library; None where it cannot be compiled, which is logged once."""
        if not self._loaded:
            library = _load(_FOLDER / f"{self.name}.c")
            for name, (result, *arguments) in self._functions.items() if library else ():
                function = getattr(library, f"ctrdist_{name}")
                function.restype, function.argtypes = result, arguments
            self._loaded.append(library)
        return self._loaded[0]


def address(array: np.ndarray | None) -> int | None:
    """The memory address of the first value of a contiguous array; None for None."""
    if array is None:
        return None
    assert array.flags.c_contiguous
    return array.ctypes.data


@cache
def _compiler() -> tuple[str, ...]:
    """The compiler's command; empty where there is none."""
    given = os.environ.get("CC", "").strip()
    found = shlex.split(given) or [shutil.which("cc") or shutil.which("gcc") or ""]
    if not found[0]:
        log.warning("no C compiler (cc or gcc) found: the slower code in Python is used")
        return ()
    return tuple(found)


def _load(source: Path) -> ctypes.CDLL | None:
    """Loads a C file from its cache in __pycache__, or compiles it, in about a second."""
    compiler = _compiler()
    if not compiler:
        return None
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    key = hashlib.sha256("\n".join([*texts, *compiler, *_FLAGS, _cpu()]).encode()).hexdigest()
    cached = source.parent / "__pycache__" / f"{source.stem}-{key[:16]}.so"
    try:
        return ctypes.CDLL(str(cached)) if cached.exists() else _compile(compiler, source, cached)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning(
            "%s cannot compile %s: the slower code in Python is used (%s)",
            shlex.join(compiler),
            source.name,
            str(getattr(error, "stderr", "") or error).strip()[-300:],
        )
        return None


def _compile(compiler: tuple[str, ...], source: Path, cached: Path) -> ctypes.CDLL:
    """Compiles and loads a file; a read-only installation keeps nothing for other processes."""
    try:
        cached.parent.mkdir(exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=cached.parent, prefix="native-")
    except OSError:
        made, cached = tempfile.TemporaryDirectory(prefix="ctrdist-native-"), Path()
    with made as folder:
        output = Path(folder, "made.so")
        command = [*compiler, *_FLAGS, str(source), "-o", str(output), "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        library = ctypes.CDLL(str(output))
        if cached.name:
            os.replace(output, cached)  # at once: another process may look for it now
        return library


def _cpu() -> str:
    """Everything that -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags"))}))
