"""The description of a run in Markdown, as MLflow shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctrdist.training.build import Engine
    from ctrdist.training.observe.messages import Start

DESCRIPTION = "mlflow.note.content"
"""The tag of a run that has it."""
_FIGURES = {"auc": "AUC", "logloss": "logloss", "ne": "NE", "calibration": "calibration"}


def describe(engine: Engine, start: Start, command: str, result: str) -> str:
    """Says what was trained, with which result, on which data, and how to repeat it.

    MLflow shows the first five lines or so; the others are a click away.
    """
    experiment, schema = engine.experiment, engine.dataset.schema
    splits = engine.dataset.manifest.splits
    train = splits["train"]
    data = ", ".join(f"{split.rows:,} {name}" for name, split in splits.items())
    return f"""\
**{experiment.model_name}** predicts `{engine.dataset.label or schema.label}` on **{schema.name}**.

{result}

- Data: {data} rows; {100 * train.positives / max(train.rows, 1):.3g} % of the training rows are \
clicks; {len(schema.categorical)} categorical and {len(schema.numeric)} numeric fields. \
`{experiment.data}`
- Model: {start.table_parameters:,} weights in {start.tables} tables, \
{start.dense_parameters:,} in the tower; {start.workers} worker(s) on {start.device}.

**Repeat it** with the settings of the artifact `config.yaml`, or as it was started:

```
{command}
```
"""


def result_table(summary: Mapping[str, Any]) -> str:
    """The metrics of a run's results as a table, with what they mean."""
    rows: dict[str, Mapping[str, float]] = {}
    for name, split in (("test", "test"), ("valid, best epoch", "valid")):
        rows[name] = found = summary[split]
        if found and "wide_logloss" in found:
            share = found["wide_logloss"] / found["logloss"]
            rows[f"{split}, logistic regression (epoch 0)"] = {
                "auc": found["wide_auc"],
                "logloss": found["wide_logloss"],
                "ne": found["ne"] * share,
            }
    lines = [
        f"| {name} | "
        + " | ".join(f"{found[key]:.5f}" if key in found else "–" for key in _FIGURES)
        + " |"
        for name, found in rows.items()
        if found
    ]
    head = "| " + " | ".join(["", *_FIGURES.values()]) + " |"
    return "\n".join(
        [
            head,
            "|---" * (1 + len(_FIGURES)) + "|",
            *lines,
            "",
            f"After {summary['epochs']} epochs: {summary['stopped']}. NE below 1: better than the "
            "click rate alone. Calibration above 1: too many clicks are predicted.",
        ]
    )
