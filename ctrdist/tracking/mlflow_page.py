"""The first glance at MLflow's pages: an experiment's tags, and the address of its list of runs.

MLflow 3.17 opens on its pages for language models, whatever kind the experiment has, unless the
address says otherwise. It lists runs without a metric, and its charts begin with the groups whose
names have a prefix. A saved view of the experiment changes all three. Views are tags whose format
MLflow does not document; a version that cannot read one says so and shows its own list.
"""

import json

_VIEW = "ctrdist"
VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
"""Tag of an experiment that has the saved view."""
_COLUMNS = (
    "metrics.`test_auc`",
    "metrics.`test_logloss`",
    "metrics.`test_ne`",
    "metrics.`best/auc`",
    "metrics.`best/epoch`",
    "tags.`model`",
    "tags.`data`",
)
_SECTIONS = ("Model metrics", "best", "training")
"""Groups of charts that stand first; the first has the metrics without a prefix."""
_NOTE = """\
Each run trains a model for click-through rates. Compare them by test_auc (higher is better), \
test_logloss and test_ne (lower is better).

- `auc`, `logloss`, `ne` and `calibration` are those of the valid split after each epoch, and \
`best/…` those of the best epoch so far.
- `test_…` are those of the test split, once, at the best epoch.
- `ne` is the log loss over that of always predicting the click rate: below 1 the model knows \
more. `calibration` is the mean prediction over the click rate: above 1 it predicts too many clicks.
- `training/`, `throughput/`, `tables/`, `classes/`, `grad_norm/`, `gate/` and `system/` explain a \
run. Settings that differ from their defaults are parameters; all of them are in `config.yaml`.
"""


def experiment_tags() -> dict[str, str]:
    """Tags of a new MLflow experiment: its kind, its description and the saved view."""
    sections = [
        {"uuid": name, "name": name, "display": True, "isReordered": False} for name in _SECTIONS
    ]
    state = {
        "selectedColumns": _COLUMNS,
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *_COLUMNS, "duration"],
        "columnWidths": dict.fromkeys(_COLUMNS, 92),
        # MLflow adds a chart for each metric, and a section for each prefix
        "compareRunCharts": [],
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }
    view = {"name": _VIEW, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": _NOTE,
        VIEW_TAG: json.dumps(view),
    }


def runs_page(address: str, experiment_id: str) -> str:
    """The page with the experiment's runs; for a database, on the server of `mlflow ui`."""
    if address.startswith("databricks"):  # It has pages of its own.
        return ""
    server = address.rstrip("/") if address.startswith("http") else "http://127.0.0.1:5000"
    view = f"workflowType=machine_learning&viewStateShareKey={_VIEW}"
    return f"{server}/#/experiments/{experiment_id}/runs?{view}"
