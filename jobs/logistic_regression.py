"""Logistic regression on a preprocessed data set: the line that a deep model must clear.

One weight per id, one per numeric field; scikit-learn, on one machine. The regulariser is chosen
on the valid split.

python jobs/logistic_regression.py --data data/criteo
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.parse import parse
from ctrdist.errors import ConfigError
from jobs.console.cli import print_json, run


@dataclass(frozen=True, kw_only=True)
class LogisticConfig:
    """Settings."""

    data: str = ""
    """Directory that jobs/preprocess.py wrote."""
    strengths: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Inverse regularisation C to try; the best on valid is taken."""
    max_rows: int = 2_000_000
    """Most rows of the training split, from its beginning: they are held in memory."""


def main() -> None:
    """Fits and evaluates."""
    config, switches = parse(
        LogisticConfig,
        description=__doc__,
        flags={"json": "The last line on stdout is one JSON object with the results."},
        prog="jobs/logistic_regression.py",
    )
    if not config.data:
        raise ConfigError("--data DIR is missing: the directory that jobs/preprocess.py wrote.")
    from ctrdist.log import setup

    setup(0)
    result = fit(config)
    for split in ("valid", "test"):
        metrics = result[split]
        print(f"{split}: AUC {metrics['auc']:.5f}, logloss {metrics['logloss']:.5f}")
    if switches["json"]:
        print_json(result)


def fit(config: LogisticConfig) -> dict[str, Any]:
    """Tries each strength on valid and evaluates the best on test."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    from ctrdist.data.manifest import open_dataset
    from ctrdist.metrics.evaluate import evaluate_predictions

    warnings.simplefilter(
        "ignore", ConvergenceWarning
    )  # a hundred steps are enough to rank strengths
    dataset = open_dataset(config.data)
    start = time.monotonic()
    splits = {name: features(dataset, name, config.max_rows) for name in ("train", "valid", "test")}
    best: dict[str, Any] | None = None
    for strength in config.strengths:
        model = LogisticRegression(C=strength, max_iter=100).fit(
            splits["train"][0], splits["train"][1]
        )
        measured = {
            name: evaluate_predictions(model.decision_function(splits[name][0]), splits[name][1])
            for name in ("valid", "test")
        }
        if best is None or measured["valid"]["logloss"] < best["valid"]["logloss"]:
            best = {"strength": strength, **measured}
    assert best is not None
    return {**best, "rows": len(splits["train"][1]), "seconds": time.monotonic() - start}


def features(dataset: Any, split: str, max_rows: int) -> tuple[Any, Any]:
    """(N, ids + numeric fields) sparse matrix and (N,) labels of a split."""
    import numpy as np
    from scipy import sparse

    from ctrdist.config.experiment import LoaderConfig
    from ctrdist.data.loader import Loader

    schema = dataset.schema
    sizes = [field.vocabulary_size for field in schema.categorical]
    first = np.concatenate([[0], np.cumsum(sizes)])
    parts, labels, rows = [], [], 0
    for batch in Loader(dataset, split, LoaderConfig(), shuffle=False, batch_size=65536):
        size = len(batch.label_B)
        lengths = batch.sparse.lengths().numpy().reshape(len(sizes), size)
        row = np.concatenate([np.repeat(np.arange(size), lengths[i]) for i in range(len(sizes))])
        column = batch.sparse.values().numpy() + np.repeat(first[:-1], lengths.sum(1))
        ones = np.ones(len(row), dtype=np.float32)
        ids = sparse.csr_matrix((ones, (row, column)), shape=(size, first[-1]))
        parts.append(sparse.hstack([ids, sparse.csr_matrix(batch.numeric_BK.numpy())]))
        labels.append(batch.label_B.numpy())
        rows += size
        if rows >= max_rows:
            break
    return sparse.vstack(parts).tocsr(), np.concatenate(labels)


if __name__ == "__main__":
    run(main)
