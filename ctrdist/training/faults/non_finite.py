"""Aborts a run on a non-finite loss, and keeps the step's rows for inspection."""

import json
import logging
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ctrdist.batch import Batch
from ctrdist.data.lookup import origins, read_rows
from ctrdist.data.manifest import Dataset
from ctrdist.distributed.process_group import World, sum_over_ranks
from ctrdist.errors import DataError

log = logging.getLogger(__name__)

FOLDER = "nonfinite"


def abort_on_non_finite_loss(
    run_dir: Path,
    dataset: Dataset,
    world: World,
    batch: Batch,
    loss: Tensor,
    *,
    step: int,
    epoch: int,
) -> NoReturn:
    """Keeps the rows and aborts the run; every rank calls it, before anything has been updated.

    The loss is this worker's, summed over its rows. The step and the epoch count from 0.

    Raises:
        DataError: always.
    """
    largest = torch.zeros(world.size, dtype=torch.float64, device=world.device)
    folder = run_dir / FOLDER
    if not torch.isfinite(loss):
        # tells which worker to look at first, as batch normalisation spreads a bad value to all
        values = batch.numeric_BK.double().abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
        largest[world.rank] = torch.cat((values.flatten(), values.new_ones(1))).max()
        facts = {"step": step, "epoch": epoch, "rank": world.rank}
        _keep_rows(folder, dataset, facts, batch.row_B.cpu().numpy())
    largest = sum_over_ranks(largest)  # after this all ranks have written their rows
    ranks, first = largest.nonzero().flatten().tolist(), int(largest.argmax())
    rows = folder / f"step-{step}-rank-{first}.parquet"
    raise DataError(
        f"step {step}: the loss is not finite on worker {', '.join(map(str, ranks))}, so nothing "
        f"was updated; the last checkpoint is sound. The rows are in {folder}. Look for "
        f"numeric values that are huge (the largest is {float(largest.max()):.3g}): "
        f"python -c \"import pandas; print(pandas.read_parquet('{rows}').describe().T)\". If "
        "there are none, lower optim.dense.lr or optim.tables.lr. Started again under the same "
        "name the run meets the same rows again."
    )


def _keep_rows(folder: Path, dataset: Dataset, facts: dict[str, Any], row_B: np.ndarray) -> None:
    """Writes rows of split train as step-<n>-rank-<r>.parquet, and their origin beside as JSON.

    A failure is only logged: the run is about to end with a better message. row_B has the index of
    each row in the split, which becomes column __row.
    """
    path = folder / f"step-{facts['step']}-rank-{facts['rank']}.parquet"
    origin = {
        **facts,
        "data": dataset.path,
        "data_fingerprint": dataset.manifest.fingerprint,
        "split": "train",
        "rows": row_B.tolist(),
        "files": origins(dataset, "train", row_B),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(origin) + "\n")
        pq.write_table(read_rows(dataset, "train", row_B), path)
    except (OSError, pa.ArrowException) as error:
        log.warning("%s: the rows could not be kept (%s)", path, error)
