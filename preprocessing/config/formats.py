"""Input formats: the layout of a raw file, and the table of the formats."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class InputFormat:
    """All that is known of an input format, but for the code that reads it."""

    module: str
    """Module of preprocessing.sources with the function `raw_blocks`."""
    is_text: bool = True
    """Rows are lines. Then a compressed file is one stream, which cannot be cut."""
    separator: str = ""
    """Default text between two columns; empty where the format needs none."""
    quote: str = ""
    """Default character around values that contain the separator."""
    expansion: int = 1
    """About how many bytes of text a byte of an uncompressed file stands for."""


INPUT_FORMATS: dict[str, InputFormat] = {
    "tsv": InputFormat(module="delimited", separator="\t"),
    "csv": InputFormat(module="delimited", separator=",", quote='"'),
    "jsonl": InputFormat(module="jsonl"),
    "parquet": InputFormat(module="parquet", is_text=False, expansion=3),
}


@dataclass(frozen=True, kw_only=True)
class FormatConfig:
    """Layout of a raw file. A name that ends in .gz or .zst is decompressed."""

    type: Literal["tsv", "csv", "jsonl", "parquet"] = "tsv"
    """Text with one row per line (for jsonl, one JSON object), or Parquet."""
    separator: str | None = None
    """Text between two columns, one character or more. null: a tab for tsv, a comma for csv."""
    header: bool = False
    """true: the first line names the columns; they are found by name, and the file may have more.
    false: `columns` names every column of the file in its order."""
    encoding: str = "utf-8"
    """One of Python's encodings that keep ASCII."""
    quote: str | None = None
    """Character around values that contain the separator; empty for none. null: " for csv, none for
    tsv."""
    missing: list[str] = field(default_factory=lambda: [""])
    """Texts that stand for a missing value."""
