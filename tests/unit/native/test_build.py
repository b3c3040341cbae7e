"""C files are compiled with any command in CC, cached where possible; else Python is used."""

import ctypes
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ctrdist.native import build
from ctrdist.native.build import NativeLibrary

SOURCE = "int ctrdist_answer(void) { return 42; }\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of C files that nothing has compiled, and a compiler that is looked for anew."""
    folder = tmp_path / "native"
    folder.mkdir()
    (folder / "answer.c").write_text(SOURCE)
    (folder / "other.c").write_text(SOURCE)
    monkeypatch.setattr(build, "_FOLDER", folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    build._compiler.cache_clear()
    yield folder
    build._compiler.cache_clear()


def answer(name: str = "answer") -> NativeLibrary:
    return NativeLibrary(name)


def test_a_command_of_several_words_compiles(folder, monkeypatch, caplog):
    monkeypatch.setenv("CC", f"env LC_ALL=C {shutil.which('gcc') or 'cc'}")
    library = answer().load()
    assert library is not None and library.ctrdist_answer() == 42
    assert not caplog.records


def test_the_cache_follows_the_source_and_its_headers(folder):
    (folder / "number.h").write_text("enum { NUMBER = 1 };\n")
    (folder / "answer.c").write_text(
        '#include "number.h"\nint ctrdist_answer(void) { return NUMBER; }\n'
    )
    assert answer().load().ctrdist_answer() == 1
    assert answer().load().ctrdist_answer() == 1
    assert len(list((folder / "__pycache__").glob("*.so"))) == 1
    (folder / "number.h").write_text("enum { NUMBER = 2 };\n")
    assert answer().load().ctrdist_answer() == 2
    assert not list((folder / "__pycache__").glob("native-*"))


def test_a_read_only_installation_leaves_nothing_behind(folder, monkeypatch, tmp_path):
    make = tempfile.TemporaryDirectory

    def refuse(*args, **kwargs):
        if kwargs.get("dir") is not None:
            raise PermissionError("read-only")
        return make(*args, **kwargs)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert answer().load().ctrdist_answer() == 42
    assert [path.name for path in tmp_path.iterdir()] == ["native"]
    assert not list(folder.rglob("*.so"))


@pytest.mark.parametrize(
    ("compiler", "message"),
    [("/nowhere/cc", "/nowhere/cc cannot compile answer.c"), ("false", "false cannot compile")],
)
def test_a_compiler_that_fails_is_named_in_one_line(folder, monkeypatch, caplog, compiler, message):
    monkeypatch.setenv("CC", compiler)
    library = answer()
    assert library.load() is None and library.load() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert message in caplog.text


def test_no_compiler_at_all_is_said_once(folder, monkeypatch, caplog):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert answer().load() is None and answer("other").load() is None
    assert len(caplog.records) == 1 and "no C compiler" in caplog.text


def test_the_types_of_arguments_are_those_of_the_c_file(folder):
    (folder / "answer.c").write_text(
        "#include <stdint.h>\n"
        "int64_t ctrdist_sum(const int64_t *of,\n                    int64_t n) {\n"
        "    int64_t sum = 0;\n    while (n) sum += of[--n];\n    return sum;\n}\n"
        "const void *ctrdist_same(const void *at)\n{\n    return at;\n}\n"
        "float ctrdist_half(float of) { return of / 2; }\n"
    )
    library = answer()
    array = np.array([2**40, 2**41, 3])
    assert library["sum"](array, 3) == 2**40 + 2**41 + 3
    assert library["sum"](torch.from_numpy(array), 2) == 2**40 + 2**41
    assert library["same"](array) == array.ctypes.data and library["same"](None) is None
    assert library["half"](3.0) == 1.5
    with pytest.raises(ctypes.ArgumentError):
        library["sum"](array[::2], 2)
