"""Keeps the rows of a step whose loss is not finite, so that a person can look at them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ctrdist.data.lookup import origins, read_rows
from ctrdist.data.manifest import Dataset

log = logging.getLogger(__name__)

FOLDER = "nonfinite"


def keep_rows(
    run_dir: Path, dataset: Dataset, *, step: int, epoch: int, rank: int, row_B: np.ndarray
) -> None:
    """Writes nonfinite/step-<n>-rank-<r>.json and, beside it, the rows as Parquet.

    A failure is logged only: the run is about to end with a better message.

    Args:
        run_dir: the run's directory.
        dataset: where the rows are read from once more.
        step: number of steps taken before this one.
        epoch: number of the epoch, from 0.
        rank: of the worker whose rows they are.
        row_B: (B,) index of each row in split train; column __row of the Parquet file.
    """
    path = run_dir / FOLDER / f"step-{step}-rank-{rank}.parquet"
    origin = {
        "step": step,
        "epoch": epoch,
        "rank": rank,
        "data": dataset.path,
        "data_fingerprint": dataset.manifest.fingerprint,
        "split": "train",
        "rows": row_B.tolist(),
        "files": origins(dataset, "train", row_B),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(origin) + "\n")
        pq.write_table(read_rows(dataset, "train", row_B), path)
    except (OSError, pa.ArrowException) as error:
        log.warning("%s: the rows could not be kept (%s)", path, error)
