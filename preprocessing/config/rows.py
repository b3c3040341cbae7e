"""Settings of the rows that a data set takes from its log."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ctrdist.errors import ConfigError

_KINDS = ("in", "not_in", "min", "max")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """A draw of a part of the rows with label 0, of which many logs have far more than needed."""

    negatives: float = 1.0
    """Share of the rows with label 0 that is kept. Training learns the probabilities of the whole
    log all the same: it corrects log-odds by the logarithm of this share."""
    seed: int = 2024
    """Seed of the draw, which depends on a row's index in the log alone."""
    splits: list[Literal["train", "valid", "test"]] = field(default_factory=lambda: ["train"])
    """Splits that are drawn from; the others keep all rows. Metrics of a drawn split weigh each of
    its rows with label 0 by 1 / negatives, and so estimate those of the whole split."""

    def share(self, split: str) -> float:
        """The share of a split's rows with label 0 that is kept."""
        return self.negatives if split in self.splits else 1.0

    @property
    def draws(self) -> bool:
        """Tells whether any row is left out."""
        return self.negatives < 1


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A condition of `where` on one column."""

    column: str
    values: tuple[Any, ...] | None = None
    """The values that it is about; None stands for a missing one."""
    keep: bool = True
    """Rows with these values are kept; otherwise they are left out."""
    least: float | None = None
    most: float | None = None


def conditions(where: Sequence[Mapping[str, Any]]) -> tuple[Condition, ...]:
    """The conditions of `where`; raises ConfigError for one that is malformed."""
    return tuple(_condition(given) for given in where)


def _condition(given: Mapping[str, Any]) -> Condition:
    shape = "{column: country, in: [DE, FR]}, with in, not_in, or one or both of min and max"
    kinds = [name for name in _KINDS if name in given]
    unknown = sorted(set(given) - {"column", *_KINDS})
    if not isinstance(given.get("column"), str) or unknown or not kinds:
        raise ConfigError(f"where: {dict(given)} is no condition; give it as {shape}.")
    listed = [name for name in kinds if name in ("in", "not_in")]
    if listed and len(kinds) > 1:
        raise ConfigError(
            f"where: {given['column']} has {' and '.join(kinds)}; give a condition for each."
        )
    if listed:
        values = given[listed[0]]
        if not isinstance(values, list) or not values or any(_is_nested(v) for v in values):
            raise ConfigError(
                f"where: {listed[0]} of {given['column']} is {values!r}; give a list of values, "
                "such as [DE, FR]."
            )
        return Condition(column=given["column"], values=tuple(values), keep=listed[0] == "in")
    bounds = [given.get(name) for name in ("min", "max")]
    for name, bound in zip(("min", "max"), bounds, strict=True):
        if name in given and (isinstance(bound, bool) or not isinstance(bound, int | float)):
            raise ConfigError(f"where: {name} of {given['column']} is {bound!r}; give a number.")
    return Condition(column=given["column"], least=bounds[0], most=bounds[1])


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)
