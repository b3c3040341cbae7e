"""Settings of a made-up log. They import no numpy and no Arrow, so that --help answers at once."""

from dataclasses import dataclass, field

from ctrdist.config.paths import IS_PATH
from ctrdist.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """A log to write."""

    output: str = field(default="", metadata=IS_PATH)
    """Local directory for day_0.tsv, day_1.tsv, … and truth.json."""
    rows: int = 300_000
    """Rows of all files."""
    files: int = 4
    """Files over which they are spread evenly; the rows do not depend on it."""
    seed: int = 2024
    """Seed of effects and rows."""
    overwrite: bool = False
    """true: an existing log may be replaced."""

    def __post_init__(self) -> None:
        if self.files < 1 or self.rows < max(100, self.files):
            raise ConfigError(
                f"rows {self.rows}, files {self.files}: give at least 100 rows and 1 file, "
                "and no more files than rows."
            )
