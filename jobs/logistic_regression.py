"""Logistic regression on a preprocessed data set: the baseline that a deep model must exceed.

One weight per id and per numeric field, fitted with scikit-learn on one machine. The regulariser
is chosen on the valid split.

python jobs/logistic_regression.py --data data/criteo
"""

import math
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.paths import IS_PATH
from jobs.console.cli import call, required, run

_BATCH_ROWS = 65536


@dataclass(frozen=True, kw_only=True)
class LogisticConfig:
    """Settings of the baseline."""

    data: str = field(default="", metadata=IS_PATH)
    """Directory that jobs/preprocess.py wrote."""
    label: str = ""
    """Name of the label, where the data set has several; empty: the first."""
    strengths: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Inverse regularisation strengths C to try; the best on valid is taken."""
    max_rows: int = 2_000_000
    """Most rows of the train split, from its beginning. valid and test are used whole. All rows are
    held in memory."""


def fit(config: LogisticConfig) -> dict[str, Any]:
    """Fits with each strength, and shows and returns the metrics of the best on valid."""
    required(config, data="DIR")
    from ctrdist.log import setup

    setup(0)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    from ctrdist.data.manifest import open_dataset
    from ctrdist.metrics.evaluate import evaluate_predictions

    # a hundred iterations are enough to rank strengths
    warnings.simplefilter("ignore", ConvergenceWarning)
    dataset = open_dataset(config.data, config.label)
    shift = math.log(dataset.split("train").negatives_kept)
    start = time.monotonic()
    matrix, label, weight = features(dataset, "train", config.max_rows)
    splits = {name: features(dataset, name) for name in ("valid", "test")}
    best: dict[str, Any] = {}
    for strength in config.strengths:
        model = LogisticRegression(C=strength, max_iter=100).fit(matrix, label, weight)
        measured = {
            name: evaluate_predictions(model.decision_function(x) + shift, y, None, w)
            for name, (x, y, w) in splits.items()
        }
        if not best or measured["valid"]["logloss"] < best["valid"]["logloss"]:
            best = {"strength": strength, **measured}
    for split in ("valid", "test"):
        metrics = best[split]
        print(f"{split}: AUC {metrics['auc']:.5f}, logloss {metrics['logloss']:.5f}")
    return {**best, "rows": len(label), "seconds": time.monotonic() - start}


def features(dataset: Any, split: str, max_rows: int | None = None) -> tuple[Any, Any, Any]:
    """Returns the first rows of a split.

    These are an (N, ids + numbers) sparse matrix, (N,) labels, and (N,) weights or None.
    """
    import numpy as np
    from scipy import sparse

    from ctrdist.config.experiment import LoaderConfig
    from ctrdist.data.loader import Loader
    from ctrdist.data.rows import weights_of_log

    sizes = [each.vocabulary_size for each in dataset.schema.categorical]
    first = np.concatenate([[0], np.cumsum(sizes)])
    kept = 1.0 if split == "train" else dataset.split(split).negatives_kept
    parts, labels, weights, rows = [], [], [], 0
    for batch in Loader(dataset, split, LoaderConfig(batch_size=_BATCH_ROWS), shuffle=False):
        size = len(batch.label_B)
        lengths = batch.sparse.lengths().numpy().reshape(len(sizes), size)
        rows_of = [np.repeat(np.arange(size), lengths[i]) for i in range(len(sizes))]
        row = np.concatenate([np.zeros(0, dtype=np.int64), *rows_of])
        column = batch.sparse.values().numpy() + np.repeat(first[:-1], lengths.sum(1))
        ones = np.ones(len(row), dtype=np.float32)
        ids = sparse.csr_matrix((ones, (row, column)), shape=(size, first[-1]))
        parts.append(sparse.hstack([ids, sparse.csr_matrix(batch.numeric_BK.numpy())]))
        labels.append(batch.label_B.numpy())
        weight_B = weights_of_log(batch, kept)
        if weight_B is not None:
            weights.append(weight_B.numpy())
        rows += size
        if max_rows is not None and rows >= max_rows:
            break
    weight = np.concatenate(weights)[:max_rows] if weights else None
    return sparse.vstack(parts).tocsr()[:max_rows], np.concatenate(labels)[:max_rows], weight


if __name__ == "__main__":
    run(lambda: call(fit, LogisticConfig, __doc__))
