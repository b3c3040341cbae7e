"""Settings that follow from the data: one table of rules. Imports no torch.

A rule gives a setting that neither a preset nor an option gives. The rules rest on the results in
docs/results/first_run_cpu2_202611.md.
"""

# N training rows

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The facts of a data set that the rules read."""

    rows: int
    """N, rows of the train split."""
    ids: int
    """Sizes of all vocabularies together."""
    valid: bool
    """There is a valid split."""
    rarer_train: int
    """Rows of the rarer label in the train split."""
    counts: bool
    """The training counts of ids are known."""
    workers: int
    """Number of workers that the run asks for."""


def batch_rows(rows: int) -> int:
    """Returns the rows of a step: some 300 steps an epoch, within 128 and 16,384 rows."""
    return min(max(2 ** round(math.log2(max(rows, 1) / 300)), 128), 16384)


def _width(facts: Facts) -> int:
    """Returns the width of hidden layers: √N / 4 as a power of two, within 64 and 1,024."""
    return min(max(2 ** round(math.log2(math.sqrt(max(facts.rows, 1)) / 4)), 64), 1024)


def _dim(facts: Facts) -> int:
    return 16 if facts.rows >= 100_000 else 8


def _normalises(facts: Facts) -> bool:
    """Tells whether there are enough rows for batch normalisation; with fewer it hurts."""
    return facts.rows >= 50_000


def _small_tables(facts: Facts) -> bool:
    """Tells whether Adam, which moves every row in every step, can be afforded."""
    return facts.ids * _dim(facts) <= 3_000_000


def _folds(facts: Facts) -> int:
    """Returns the folds of cross-validation: 5 where it takes a minute or two and can tell much."""
    return 5 * (facts.valid and facts.counts and facts.rows < 20_000 and facts.rarer_train >= 100)


def _always(value: Any) -> "Rule":
    return lambda facts: value


Rule = Callable[[Facts], Any]
RULES: Mapping[str, Rule] = {
    "model.wide": lambda facts: facts.valid and facts.counts,
    "model.embedding_dim": _dim,
    "model.batch_norm": _normalises,
    "model.dropout": _always(0.2),
    "loader.batch_size": lambda facts: max(batch_rows(facts.rows), facts.workers),
    "optim.tables.name": lambda facts: "adam" if _small_tables(facts) else "rowwise_adagrad",
    "optim.tables.lr": lambda facts: 0.001 if _small_tables(facts) else 0.01,
    "optim.tables.occurrence_l2": lambda facts: (
        facts.counts * (1000.0 if _normalises(facts) else 100.0)
    ),
    "train.epochs": _always(15),
    "train.patience": _always(3),
    "train.folds": _folds,
    "train.lr_factor": _always(0.5),
    "train.monitor": _always("logloss"),
}
"""Setting, by dotted name → its rule."""
_ATTENTION: Mapping[str, Rule] = {
    "model.num_layers": _always(1),
    "model.feed_forward_factor": _always(2),
    "model.hidden_dims": lambda facts: (_width(facts),),
}
MODEL_RULES: Mapping[str, Mapping[str, Rule]] = {
    "dlf": {
        "model.num_layers": _always(1),
        "model.tokens_per_block": _always(4),
        "model.rank": _always(4),
        "model.hidden_dim": _width,
        "model.attention_layers": _always(1),
        "model.gate": _always("plain"),
    },
    "tf4ctr": {
        "model.simple_hidden_dims": lambda facts: (_width(facts),),
        "model.complex_hidden_dims": lambda facts: (_width(facts), _width(facts) // 2),
    },
    "dual_attention": {
        **_ATTENTION,
        "model.codebook_rows": _always(10_000),
        "model.codebook_dim": _always(4),
        "model.filter": _always("soft"),
    },
    "transformer": _ATTENTION,
}
"""Name of a model → rules of its own settings."""


def automatic(model_name: str) -> tuple[str, ...]:
    """Returns the dotted names of all settings of a model that have a rule."""
    return (*RULES, *MODEL_RULES.get(model_name, {}))


def resolve(model_name: str, names: tuple[str, ...], facts: Facts) -> dict[str, Any]:
    """Returns setting, by dotted name → value, for those of the names that have a rule."""
    rules = {**RULES, **MODEL_RULES.get(model_name, {})}
    return {name: rules[name](facts) for name in names if name in rules}
