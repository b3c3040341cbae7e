"""Information abundance of the fields' tables, in any layout over the workers."""

# F fields, V rows of a table, D columns

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ctrdist.distributed.process_group import sum_over_ranks
from ctrdist.metrics.information_abundance import gram_matrix, information_abundance
from ctrdist.models.tables import table_name
from ctrdist.sharding.plan import Shard
from ctrdist.sharding.shard import table_parts
from ctrdist.training.build import Engine

_BLOCK_ROWS = 65536
"""Rows that are assembled at a time, of a table that is split by columns."""


def refresh_abundance(engine: Engine) -> None:
    """Fills the `abundance_F` of a tower that has one, after each epoch; every rank calls it.

    It is a buffer of the tower, saved in checkpoints. A numeric field has a single vector, whose
    share is 1.
    """
    share_F: Tensor | None = getattr(engine.tower, "abundance_F", None)
    if share_F is None:
        return
    schema = engine.dataset.schema
    found = shares_of_most(engine, abundances(engine))
    tables = [found[table_name("tokens", field.name)] for field in schema.categorical]
    share_F.copy_(torch.tensor([1.0] * len(schema.numeric) + tables))


def shares_of_most(engine: Engine, found: Mapping[str, float]) -> dict[str, float]:
    """Table → r = IA / min(V − 1, D), between 0 and 1, from its information abundance IA.

    The padding row does not count, hence V − 1.
    """
    widths: dict[str, int] = dict(engine.tower.groups)  # type: ignore[arg-type]
    most = {
        table_name(group, field.name): max(1, min(field.vocabulary_size - 1, width))
        for group, width in widths.items()
        for field in engine.dataset.schema.categorical
    }
    return {table: abundance / most[table] for table, abundance in found.items()}


@torch.no_grad()
def abundances(engine: Engine, most_rows: int | None = None) -> dict[str, float]:
    """Table → information abundance, for all tables of fields with at most so many rows.

    Every rank calls it. Each sums its rows' part of EᵀE, in 2 V D² floating-point operations, and
    D² numbers are sent. If a table is split by columns, blocks of rows are first assembled on all
    ranks, and the whole table is sent.
    """
    rank, device = engine.world.rank, engine.world.device
    parts: dict[str, list[tuple[Tensor, int, int]]] = {}
    for table, part, row, column in table_parts(engine.model):
        parts.setdefault(table, []).append((part, row, column))
    widths: dict[str, int] = dict(engine.tower.groups)  # type: ignore[arg-type]
    found = {}
    shards: dict[str, list[Shard]] = {}
    for shard in engine.layout.shards:
        shards.setdefault(shard.table, []).append(shard)
    for table, held in shards.items():
        rows, columns = (max(sum(s.rows) for s in held), max(sum(s.columns) for s in held))
        of_a_field = table.partition("/")[0] in widths
        if not of_a_field or (most_rows is not None and rows > most_rows):
            continue
        copied = held[0].kind == "data_parallel"
        own = parts.get(table, []) if rank == 0 or not copied else []
        total_DD = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        if any(s.columns[1] < columns for s in held):
            for first, block_VD in _blocks(own, rows, columns, device):
                total_DD += gram_matrix(block_VD, first)
        else:
            for part, row, _ in own:
                total_DD += gram_matrix(part, row)
            total_DD = sum_over_ranks(total_DD)
        used = widths[table.partition("/")[0]]  # without the columns that only pad the table
        found[table] = information_abundance(total_DD[:used, :used])
    return found


def _blocks(
    parts: list[tuple[Tensor, int, int]], rows: int, columns: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yields blocks of whole rows: index of the first row, and (V, D) float32 on all ranks."""
    for begin in range(0, rows, _BLOCK_ROWS):
        end = min(begin + _BLOCK_ROWS, rows)
        block_VD = torch.zeros(end - begin, columns, device=device)
        for part, row, column in parts:
            low, high = max(begin, row), min(end, row + len(part))
            if low < high:
                inside = block_VD[low - begin : high - begin, column : column + part.shape[1]]
                inside.copy_(part[low - row : high - row])
        yield begin, sum_over_ranks(block_VD)
