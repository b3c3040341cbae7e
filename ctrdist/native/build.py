"""Compiles the C files of this folder when they are first used, and loads them."""

import ctypes
import hashlib
import logging
import os
import platform
import re
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

_FUNCTION = re.compile(r"^([\w *]+?)\bctrdist_(\w+)\(([^)]*)\)\s*\{", re.MULTILINE)
"""A definition: the type of its result, its name without the prefix, its arguments."""


class Pointer(ctypes.c_void_p):
    """An argument that takes contiguous arrays and tensors in place of addresses."""

    @classmethod
    def from_param(cls, value: Any) -> Any:
        """The address of the first value; None for None."""
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return ctypes.c_void_p(value.ctypes.data)
        if hasattr(value, "data_ptr"):  # a tensor; torch is not imported for this
            return ctypes.c_void_p(value.data_ptr())
        return ctypes.c_void_p.from_param(value)


_TYPES: dict[str, Any] = {
    "void": None,
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}


class NativeLibrary:
    """One C file of this folder. Its functions' names begin with ctrdist_."""

    def __init__(self, name: str) -> None:
        """Compiles nothing yet; `name` is that of the file, without suffix."""
        self.name = name
        self._loaded: list[ctypes.CDLL | None] = []

    def load(self) -> ctypes.CDLL | None:
        """The loaded library; None where it cannot be compiled, which is logged once."""
        if not self._loaded:
            source = _FOLDER / f"{self.name}.c"
            library = _load(source)
            for result, name, given in _FUNCTION.findall(source.read_text()) if library else ():
                function = getattr(library, f"ctrdist_{name}")
                function.restype = _type(result, ctypes.c_void_p)
                types = [_type(one, Pointer) for one in given.split(",")]
                function.argtypes = [kind for kind in types if kind is not None]
            self._loaded.append(library)
        return self._loaded[0]

    def __getitem__(self, function: str) -> Any:
        """A function by its name without the prefix; there must be a C compiler."""
        return getattr(self.load(), f"ctrdist_{function}")


def _type(declaration: str, pointer: Any) -> Any:
    """The ctypes type of a result or an argument, from its declaration in C."""
    if "*" in declaration:
        return pointer
    return next(_TYPES[word] for word in declaration.split() if word in _TYPES)


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
