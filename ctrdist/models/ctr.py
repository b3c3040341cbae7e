"""A click-through-rate model: TorchRec embedding tables, and a tower over their vectors."""

# B batch, K numeric fields, C categorical fields, F = K + C, D embedding dim,
# R scores of a pair, L layers

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from ctrdist.batch import (
    COMPLEX_LOGITS,
    SIMPLE_LOGITS,
    TOWER_LOGITS,
    WIDE_LOGITS,
    Batch,
    Output,
)
from ctrdist.models.dual_attention.frequency import Frequency
from ctrdist.models.dual_attention.pairs import PairMemory
from ctrdist.models.dual_attention.settings import DualAttentionConfig
from ctrdist.models.layers import NumericEmbedding
from ctrdist.models.tables import Codebook, field_table, padded_dim, table_name
from ctrdist.models.wide import WidePart
from ctrdist.schema import Schema, module_key


class Tower(Protocol):
    """The dense part of a model: looked-up embeddings in, logits out. Single-device code.

    A tower may have these further attributes:

    - `pairs`, settings of DEA-R or None: asks for emb["pairs"], (B, R, F, F), see
      :class:`ctrdist.models.dual_attention.pairs.PairMemory`.
    - `frequency`, a bool: asks for emb["frequency"], (B, F), the standardised logarithm of the
      number of training rows that have the row's id.
    - `parts`, a mapping from a name to fnmatch patterns of parameter names: diagnostics measure the
      gradient norm of these parameters together. A parameter that no pattern matches belongs to the
      part named after the child module that holds it.
    - `attention_mass(emb)`, for towers that attend to fields: (L, F, F), the attention that each
      field pays to each other in each layer, as the mean over rows and heads.
    """

    groups: Mapping[str, int]
    """The embedding groups it needs: name → dim D.
    Each holds one table per categorical field and one vector per numeric field."""

    def __call__(self, emb: Mapping[str, Tensor]) -> Output:
        """Returns the logits of B rows.

        Args:
            emb: group → (B, F, D), fields in schema order, numeric fields first (value × vector of
                the field); and what `pairs` and `frequency` ask for.
        """
        ...


class CTRModel(nn.Module):
    """Looks up each embedding group, adds the vectors of the numeric fields and runs the tower.

    A tower may also ask for pair scores and frequencies, see :class:`Tower`. With a wide part, the
    model's log-odds in evaluation are a blend of its and the tower's; in training, they are the
    tower's alone, which has a loss of its own.

    The tables are created on the meta device: :mod:`ctrdist.sharding` distributes and fills them.
    """

    def __init__(
        self,
        schema: Schema,
        tower: nn.Module,
        tables_dtype: str = "float32",
        wide: bool = False,
        log_odds_shift: float = 0.0,
    ) -> None:
        """Declares the tables for a :class:`Tower`, and those of a wide part if it has one.

        Their number format is float32, float16 or bfloat16; the wide part's is float32. In
        evaluation, `log_odds_shift` is added to all log-odds: it is the logarithm of the share of
        the rows with label 0 that training sees.
        """
        super().__init__()
        self.log_odds_shift = log_odds_shift
        self.schema = schema
        self.tower = tower
        declared: Tower = tower  # type: ignore[assignment]
        self._dims = dict(declared.groups)
        self.tables = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                field_table(group, field, dim, tables_dtype)
                for group, dim in self._dims.items()
                for field in schema.categorical
            ],
        )
        # TorchRec names a feature that several tables look up feature@table
        shared = len(self._dims) > 1
        self._keys = [
            [
                f"{module_key(f.name)}@{table_name(group, f.name)}"
                if shared
                else module_key(f.name)
                for f in schema.categorical
            ]
            for group in self._dims
        ]
        self.numeric = nn.ModuleDict(
            {group: NumericEmbedding(len(schema.numeric), dim) for group, dim in self._dims.items()}
            if schema.numeric
            else {}
        )
        pairs: DualAttentionConfig | None = getattr(tower, "pairs", None)
        self.pairs = None if pairs is None else PairMemory(pairs, schema, tables_dtype)
        self.frequency = Frequency(schema) if getattr(tower, "frequency", False) else None
        self.wide = WidePart(schema) if wide else None

    @property
    def codebooks(self) -> list[Codebook]:
        """The tables that are looked up at hashes, apart from those of the fields."""
        return [] if self.pairs is None else self.pairs.tables

    def embed(
        self, batch: Batch, look_up: Callable[[KeyedJaggedTensor], KeyedTensor] | None = None
    ) -> dict[str, Tensor]:
        """Returns group → (B, F, D), numeric fields first, and what else the tower asks for.

        `look_up` is called in place of the tables, for instance if their ids were sent before.
        """
        parts = self._by_group((look_up or self.tables)(batch.sparse))
        size = batch.label_B.numel()
        result = {}
        for (group, dim), looked_up in zip(self._dims.items(), parts, strict=True):
            # rows past B only pad the lookup to the size of the other workers'
            emb_BCD = looked_up.unflatten(1, (len(self.schema.categorical), padded_dim(dim)))[
                :size, :, :dim
            ]
            if self.schema.numeric:
                emb_BCD = torch.cat([self.numeric[group](batch.numeric_BK), emb_BCD], dim=1)
            result[group] = emb_BCD
        if self.pairs is not None:
            result["pairs"] = self.pairs(batch, result["tokens"])
        if self.frequency is not None:
            result["frequency"] = self.frequency(batch.sparse, size)
        return result

    def _by_group(self, looked_up: KeyedTensor) -> list[Tensor]:
        """Returns (B, C · D) for each group, fields in schema order."""
        if looked_up.keys() == [key for keys in self._keys for key in keys]:
            if len(self._keys) == 1:
                return [looked_up.values()]
            widths = [padded_dim(dim) * len(self.schema.categorical) for dim in self._dims.values()]
            return list(looked_up.values().split(widths, dim=1))  # copied in backward only
        # a sharded collection may return its keys in another order
        return KeyedTensor.regroup([looked_up], self._keys)

    def forward(
        self,
        batch: Batch,
        on_lookup: Callable[[dict[str, Tensor]], None] | None = None,
        look_up: Callable[[KeyedJaggedTensor], KeyedTensor] | None = None,
    ) -> Output:
        """Returns the logits of the rows; calls `on_lookup` on the embeddings before the tower."""
        emb = self.embed(batch, look_up)
        if on_lookup is not None:
            on_lookup(emb)
        output: Output = self.tower(emb)
        if self.training:
            return output
        if self.log_odds_shift:
            output = self._shifted(output)
        if self.wide is None:
            return output
        wide_B, tower_B = self.wide(batch), output.logits_B.float()
        if self.log_odds_shift:
            wide_B = wide_B + self.log_odds_shift
        aux = {**output.aux, WIDE_LOGITS: wide_B, TOWER_LOGITS: tower_B}
        return output._replace(logits_B=self.wide.blend(wide_B, tower_B), aux=aux)

    def _shifted(self, output: Output) -> Output:
        """The output with the log-odds that hold where all rows with label 0 are there."""
        encoders = (SIMPLE_LOGITS, COMPLEX_LOGITS)
        aux = {
            name: value.float() + self.log_odds_shift if name in encoders else value
            for name, value in output.aux.items()
        }
        return Output(output.logits_B.float() + self.log_odds_shift, aux)
