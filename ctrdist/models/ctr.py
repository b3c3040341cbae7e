"""A click-through-rate model: TorchRec tables of embeddings, and a tower over their vectors."""

# B batch, K numeric fields, C categorical fields, F = K + C, D embedding dim

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedTensor

from ctrdist.models.layers import NumericEmbedding
from ctrdist.protocols import Batch, Output, Tower
from ctrdist.schema import Schema

_STORED = {"float32": DataType.FP32, "float16": DataType.FP16, "bfloat16": DataType.BF16}
_ALIGNMENT = 4
"""FBGEMM's kernels want widths divisible by four; other tables are padded with columns that stay
zero."""


def table_name(group: str, field: str) -> str:
    """Name of a field's table in an embedding group."""
    return f"{group}/{field}"


def padded_dim(dim: int) -> int:
    """Width of a table of D columns as it is stored."""
    return -(-dim // _ALIGNMENT) * _ALIGNMENT


class CTRModel(nn.Module):
    """Looks up each embedding group, adds the numeric fields' vectors and runs the tower.

    The tables are made on the meta device: :mod:`ctrdist.sharding` lays them out and fills them.
    """

    def __init__(self, schema: Schema, tower: nn.Module, tables_dtype: str = "float32") -> None:
        """Declares the tables.

        Args:
            schema: gives fields and vocabulary sizes.
            tower: a :class:`ctrdist.protocols.Tower`.
            tables_dtype: what tables are stored in: float32, float16 or bfloat16.
        """
        super().__init__()
        self.schema = schema
        self.tower = tower
        declared: Tower = tower  # type: ignore[assignment]
        self._dims = dict(declared.groups)
        self.tables = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=table_name(group, field.name),
                    embedding_dim=padded_dim(dim),
                    num_embeddings=field.vocabulary_size,
                    feature_names=[field.name],
                    pooling=PoolingType.MEAN if field.multi_valued else PoolingType.SUM,
                    data_type=_STORED[tables_dtype],
                )
                for group, dim in self._dims.items()
                for field in schema.categorical
            ],
        )
        # TorchRec calls a feature that several tables look up feature@table
        shared = len(self._dims) > 1
        self._keys = [
            [
                f"{f.name}@{table_name(group, f.name)}" if shared else f.name
                for f in schema.categorical
            ]
            for group in self._dims
        ]
        self.numeric = nn.ModuleDict(
            {group: NumericEmbedding(len(schema.numeric), dim) for group, dim in self._dims.items()}
            if schema.numeric
            else {}
        )

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Group → (B, F, D), numeric fields first."""
        parts = self._by_group(self.tables(batch.sparse))
        size = batch.label_B.numel()
        result = {}
        for (group, dim), looked_up in zip(self._dims.items(), parts, strict=True):
            # rows past B only fill the lookup up to the size of the other workers'
            emb_BCD = looked_up.unflatten(1, (len(self.schema.categorical), padded_dim(dim)))[
                :size, :, :dim
            ]
            if self.schema.numeric:
                emb_BCD = torch.cat([self.numeric[group](batch.numeric_BK), emb_BCD], dim=1)
            result[group] = emb_BCD
        return result

    def _by_group(self, looked_up: KeyedTensor) -> list[Tensor]:
        """For each group (B, C · D), fields in schema order."""
        if looked_up.keys() == [key for keys in self._keys for key in keys]:
            if len(self._keys) == 1:
                return [looked_up.values()]
            widths = [padded_dim(dim) * len(self.schema.categorical) for dim in self._dims.values()]
            return list(looked_up.values().split(widths, dim=1))  # copied in backward only
        # a sharded collection may return its keys in another order
        return KeyedTensor.regroup([looked_up], self._keys)

    def forward(self, batch: Batch) -> Output:
        """Logits of the batch's rows."""
        return self.tower(self.embed(batch))
