"""Settings of the description of a log. They import no Arrow, so that --help answers at once."""

from dataclasses import dataclass, field

from ctrdist.config.paths import IS_PATH


@dataclass(frozen=True, kw_only=True)
class DescribeConfig:
    """A log to describe."""

    input: list[str] = field(default_factory=list, metadata=IS_PATH)
    """Raw files, folders or globs, as jobs/preprocess.py takes them; local or s3://."""
    output: str = field(default="", metadata=IS_PATH)
    """Local file for the YAML, which must not exist; empty: it goes to stdout."""
    name: str = ""
    """Name of the data set; empty: that of the first input."""
    label: str = ""
    """Name of the column that says whether a row is a click; c3 is the third of a log that names
    none. Empty: guessed."""
    sample_bytes: int = 8 * 2**20
    """About how many bytes of text are examined, from all over the log. Of a compressed file, up to
    thirty times its share of them are decompressed."""
