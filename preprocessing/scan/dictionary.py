"""Values to codes 0, 1, 2, … in the order in which they first appear, and back."""

# n values that are looked up, V values of the dictionary

from __future__ import annotations

import ctypes
import weakref
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from ctrdist.native.build import load_native

_SOURCE = Path(__file__).with_suffix(".c")
_LARGE = 2**31


class Dictionary:
    """Texts to codes, outside of Python's memory; with the object its memory is freed.

    A value takes 21 to 43 bytes beside its own. Of `add` and the like one may run at a time.

    Raises:
        MemoryError: no memory for further values, or more than 2**31 − 2 of them; those before
            keep their codes.
    """

    def __init__(self) -> None:
        """Needs a C compiler: see :func:`new_dictionary`."""
        library = load_library()
        assert library is not None
        self._library = library
        self.handle = library.ctrdist_dictionary_new()
        if not self.handle:
            raise MemoryError("no memory for a dictionary")
        weakref.finalize(self, library.ctrdist_dictionary_free, self.handle)

    def add(self, values: pa.Array) -> np.ndarray:
        """Codes of values; those that are new get the next ones.

        Args:
            values: (n,) string or large_string.

        Returns:
            (n,) int32, -1 for null.
        """
        absent = _absent(values)
        bytes_, ends = _layout(values)
        codes: np.ndarray = np.empty(len(values), np.int32)
        failed = self._library.ctrdist_dictionary_add(
            self.handle, _at(bytes_), _at(ends), _at(absent), len(values), _at(codes)
        )
        return self._checked(failed, codes)

    def add_integers(self, values: np.ndarray, empty: np.ndarray | None = None) -> np.ndarray:
        """Codes of the decimal texts of (n,) int64; of the empty text where (n,) bool `empty`."""
        values = np.ascontiguousarray(values, np.int64)
        if empty is not None:
            empty = np.ascontiguousarray(empty, bool)
        codes: np.ndarray = np.empty(len(values), np.int32)
        failed = self._library.ctrdist_dictionary_add_integers(
            self.handle, _at(values), _at(empty), len(values), _at(codes)
        )
        return self._checked(failed, codes)

    def values(self) -> pa.Array:
        """(V,) the values in the order of their codes: string, or large_string from 2 GiB on."""
        size = self._library.ctrdist_dictionary_bytes(self.handle)
        ends: np.ndarray = np.empty(len(self) + 1, np.int64)
        bytes_: np.ndarray = np.empty(size, np.uint8)
        self._library.ctrdist_dictionary_read(self.handle, _at(ends), _at(bytes_), None)
        kind = pa.large_string() if size >= _LARGE else pa.string()
        if size < _LARGE:
            ends = ends.astype(np.int32)
        return pa.Array.from_buffers(
            kind, len(self), [None, pa.py_buffer(ends), pa.py_buffer(bytes_)]
        )

    def hashes(self) -> np.ndarray:
        """(V,) uint64: what :func:`hash_texts` gives for the values; kept, not computed."""
        hashes: np.ndarray = np.empty(len(self), np.uint64)
        self._library.ctrdist_dictionary_read(self.handle, None, None, _at(hashes))
        return hashes

    def truncate(self, size: int) -> None:
        """Forgets the values with codes from `size` on."""
        self._checked(self._library.ctrdist_dictionary_truncate(self.handle, size), None)

    def __len__(self) -> int:
        return self._library.ctrdist_dictionary_count(self.handle)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self._library.ctrdist_dictionary_memory(self.handle)

    def _checked(self, failed: int, result: np.ndarray | None) -> np.ndarray:
        if failed:
            raise MemoryError(f"no memory for further values; there are {len(self):,}")
        return result


class PlainDictionary:
    """The same without a C compiler: slower, and several times the memory."""

    handle = None

    def __init__(self) -> None:
        """Empty."""
        self._codes: dict[str, int] = {}

    def add(self, values: pa.Array) -> np.ndarray:
        """See :meth:`Dictionary.add`."""
        encoded = values.dictionary_encode()
        codes = self._codes
        table = [codes.setdefault(text, len(codes)) for text in encoded.dictionary.to_pylist()]
        return np.array([*table, -1], np.int32)[encoded.indices.fill_null(len(table)).to_numpy()]

    def add_integers(self, values: np.ndarray, empty: np.ndarray | None = None) -> np.ndarray:
        """See :meth:`Dictionary.add_integers`."""
        return self.add(pa.array(values, pa.int64(), mask=empty).cast(pa.string()).fill_null(""))

    def values(self) -> pa.Array:
        """See :meth:`Dictionary.values`."""
        texts = pa.array(list(self._codes), pa.large_string())
        return texts if texts.nbytes >= _LARGE else texts.cast(pa.string())

    def hashes(self) -> np.ndarray:
        """See :meth:`Dictionary.hashes`."""
        return hash_texts(self.values())

    def truncate(self, size: int) -> None:
        """See :meth:`Dictionary.truncate`."""
        for text in list(self._codes)[size:]:
            del self._codes[text]

    def __len__(self) -> int:
        return len(self._codes)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes, roughly."""
        return 150 * len(self)


def new_dictionary() -> Dictionary | PlainDictionary:
    """An empty dictionary, the fast one where it can be compiled."""
    return PlainDictionary() if load_library() is None else Dictionary()


def hash_texts(values: pa.Array) -> np.ndarray:
    """(n,) uint64, a hash of each text's bytes alone: on any machine, in any run the same.

    Its bits are even enough to partition by any of them. Not keyed: no defence against values that
    were chosen to collide.

    Args:
        values: (n,) string or large_string without nulls.
    """
    bytes_, ends = _layout(values)
    begins, lengths = ends[:-1], np.diff(ends)
    padded = np.concatenate([bytes_, np.zeros(8, np.uint8)])
    state = lengths.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    done = 0
    rows = np.arange(len(values))
    while len(rows):  # word by word, for the texts that are long enough
        at = begins[rows] + done
        words = padded[at[:, None] + np.arange(8)].astype(np.uint8)
        left = np.minimum(lengths[rows] - done, 8)
        words[np.arange(8) >= left[:, None]] = 0
        state[rows] = _mix(state[rows] ^ words.view("<u8")[:, 0].astype(np.uint64))
        done += 8
        rows = rows[lengths[rows] > done]
    return state


@cache
def load_library() -> ctypes.CDLL | None:
    """The compiled dictionary.c, or None where there is no C compiler."""
    library = load_native(_SOURCE)
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("new", pointer, ()),
        ("free", None, (pointer,)),
        ("add", ctypes.c_int, (pointer, pointer, pointer, pointer, number, pointer)),
        ("add_integers", ctypes.c_int, (pointer, pointer, pointer, number, pointer)),
        ("truncate", ctypes.c_int, (pointer, number)),
        ("count", number, (pointer,)),
        ("bytes", number, (pointer,)),
        ("memory", number, (pointer,)),
        ("read", None, (pointer, pointer, pointer, pointer)),
    ):
        function = getattr(library, f"ctrdist_dictionary_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _mix(x: np.ndarray) -> np.ndarray:
    for _ in range(2):
        x = (x ^ x >> np.uint64(32)) * np.uint64(0xD6E8FEB86659FD93)
    return x ^ x >> np.uint64(32)


def _layout(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all texts, at least one, and (n + 1,) int64, where each begins and ends."""
    _, offsets, data = values.buffers()
    kind = np.int64 if pa.types.is_large_string(values.type) else np.int32
    if offsets is None or not len(values):
        return np.zeros(1, np.uint8), np.zeros(1, np.int64)
    ends = np.frombuffer(offsets, kind)[values.offset : values.offset + len(values) + 1]
    bytes_ = np.frombuffer(data, np.uint8) if data is not None and data.size else None
    return np.zeros(1, np.uint8) if bytes_ is None else bytes_, ends.astype(np.int64)


def _absent(values: pa.Array) -> np.ndarray | None:
    return values.is_null().to_numpy(zero_copy_only=False) if values.null_count else None


def _at(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data
