"""Ends a run whose model predicts nan or infinity for rows of a split, and names the cause."""

# B rows of a batch, K numeric fields

from collections.abc import Iterable
from itertools import chain
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from ctrdist.batch import TOWER_LOGITS, Batch, Output
from ctrdist.data.lookup import origins
from ctrdist.errors import TrainingError
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import Engine

_HUGE = 1e4
"""Numeric values beyond this, of which a standardised column has none, are suspected."""


def abort_on_non_finite_predictions(
    engine: Engine, split: str, batches: Iterable[Batch]
) -> NoReturn:
    """Ends the run; every rank calls it with its rows of the split, as evaluation reads them.

    Raises:
        TrainingError: always. It names the weights that are not finite, and the numeric column with
            the largest value among the rows without a finite prediction.
    """
    device, worst = engine.world.device, (0.0, "")
    rows = 0
    weights = _weights_not_finite(engine)
    engine.model.eval()
    with torch.no_grad(), engine.autocast():
        for batch in batches:
            bad_B = ~finite(engine.model(batch.to(device))).cpu()
            rows += int(bad_B.sum())
            if bad_B.any():
                worst = max(worst, _largest(engine, split, batch, bad_B))
    found: list[tuple[int, list[str], tuple[float, str]]] = [None] * engine.world.size  # type: ignore[list-item]
    dist.all_gather_object(found, (rows, weights, worst))
    rows = sum(number for number, _, _ in found)
    weights = sorted({name for _, names, _ in found for name in names})
    size, column = max(largest for _, _, largest in found)
    causes = []
    if weights:
        shown = ", ".join(weights[:3]) + (f" and {len(weights) - 3} more" if weights[3:] else "")
        causes.append(
            f"These weights are not finite: {shown}. Training has diverged: lower optim.dense.lr "
            "or optim.tables.lr, or set optim.max_grad_norm."
        )
    if size > _HUGE:
        causes.append(f"{column}. Correct the values, or give the column another transform.")
    if not causes:
        causes.append(
            "All weights and numeric values are sound, so a computation in the model has "
            "overflowed: lower optim.dense.lr or optim.tables.lr, or use train.precision float32."
        )
    raise TrainingError(
        f"split {split}: the model predicts nan or infinity for {rows:,} rows. {' '.join(causes)} "
        "The last checkpoint before this evaluation is kept."
    )


def finite(output: Output) -> Tensor:
    """(B,) tells which rows have a finite prediction, of the tower alone too."""
    finite_B = output.logits_B.isfinite()
    tower_B = output.aux.get(TOWER_LOGITS)
    return finite_B if tower_B is None else finite_B & tower_B.isfinite()


def _weights_not_finite(engine: Engine) -> list[str]:
    """Names of the tower's weights, and of tables with the first bad row, on this worker."""
    dense = chain(engine.tower.named_parameters(), engine.tower.named_buffers())
    names = [
        f"tower.{name}"
        for name, weight in dense
        if weight.is_floating_point() and not weight.isfinite().all()
    ]
    for table, part, first_row, _ in table_parts(engine.model):
        bad_V = (~part.isfinite()).any(1)
        if bad_V.any():
            row = first_row + int(bad_V.nonzero()[0])
            names.append(f"table {table} (row {row:,})")
    return names


def _largest(engine: Engine, split: str, batch: Batch, bad_B: Tensor) -> tuple[float, str]:
    """The largest absolute numeric value of the bad rows, and a text that says where it is."""
    value_BK = batch.numeric_BK[bad_B].double()
    size_BK = value_BK.abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    if not size_BK.numel():
        return 0.0, ""
    b, k = divmod(int(size_BK.argmax()), size_BK.shape[1])
    row_B = batch.row_B[bad_B][b : b + 1].numpy()
    ((file, (place,)),) = origins(engine.dataset, split, row_B).items()
    name = engine.dataset.schema.numeric[k]
    text = f"Column {name} has the value {float(value_BK[b, k]):.3g} in row {place:,} of {file}"
    return float(size_BK[b, k]), text
