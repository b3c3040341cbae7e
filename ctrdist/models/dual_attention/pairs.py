"""Combo-ID scores of DEA-R: numbers that are read from codebooks at hashed pairs of ids."""

# B batch, S rows of the padded lookup, F fields, D embedding dim, K codebooks,
# C columns of a codebook, P pairs of fields that have one id each, M pairs i ≤ j without ids,
# X = F², Q = P + M, R scores of a pair

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.batch import Batch
from ctrdist.errors import ConfigError
from ctrdist.models import gpu_ops
from ctrdist.models.dual_attention.settings import DualAttentionConfig
from ctrdist.models.layers import short_softmax
from ctrdist.models.tables import CODEBOOKS, STORED, Codebook, table_name
from ctrdist.schema import Schema

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 / golden ratio: odd, with irregular bits."""
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Constants of the finaliser of SplitMix64 (Stafford's variant 13), in which each bit of the input
changes each bit of the output with a probability near one half."""


class PairMemory(nn.Module):
    """B_ij^r = u_rᵀ Σ_k g_ij^k e_ij^k of (1) in :mod:`ctrdist.models.dual_attention.tower`.

    A softmax over k ignores terms that are equal for all k. A gate with one w for all codebooks, as
    a single vector over [e^k ‖ P(E_i ⊙ E_j)] would be, would therefore ignore E. So each codebook
    has its own w_k and v_k, where v_k stands for the product of its vector with P. A single
    codebook has no gate. B has no bias, as the softmax over j would ignore it.

    Pairs are those of different single-valued categorical fields. All other pairs, and each field
    with itself, have no id: e_ij is then (c_i + c_j) / 2, with learned vectors c of the fields.

    Memory: codebooks are read one after the other, and R + 1 numbers per pair are kept of each.
    Training also keeps all codewords until backward, or looks them up again with
    `recompute_lookups`. For 39 fields as categories at B = 4096, d_c = 16, R = 6, K = 2 the peak is
    400 MB without a gradient, 1,010 MB in training or 740 MB with `recompute_lookups`; each further
    codebook takes 97, 320 or 85 MB more.
    """

    def __init__(self, config: DualAttentionConfig, schema: Schema, tables_dtype: str) -> None:
        """Declares the codebooks, on the meta device, with the number format of the tables.

        Raises:
            ConfigError: fewer than two fields can be paired.
        """
        super().__init__()
        self.config = config
        pairs = self._index_pairs(schema)
        count, width = config.codebooks, config.codebook_dim
        self.tables = [
            Codebook(
                name=table_name(CODEBOOKS, str(k)),
                init_std=config.codebook_init_std,
                ids_per_row=pairs,
            )
            for k in range(count)
        ]
        # One collection each, so that they can be looked up one at a time. Not pooled: in a pooled
        # row-wise lookup every worker would make and reduce a vector for the pairs of all workers.
        self.codebooks = nn.ModuleList(
            EmbeddingCollection(
                device=torch.device("meta"),
                tables=[
                    EmbeddingConfig(
                        name=table.name,
                        embedding_dim=width,
                        num_embeddings=config.codebook_rows,
                        feature_names=[table.name],
                        data_type=STORED[tables_dtype],
                    )
                ],
            )
            for table in self.tables
        )
        self.read_RC = _weight(config.pair_scores, width)  # u
        self.field_FC = nn.Parameter(
            torch.randn(schema.num_fields, width) * config.codebook_init_std
        )
        gated = count > 1
        self.gate_KC = _weight(count, width) if gated else None  # w
        self.context_KD = _weight(count, config.embedding_dim) if gated else None  # v

    def _index_pairs(self, schema: Schema) -> int:
        """Registers the indices of pairs as buffers and returns P."""
        single = [c for c, field in enumerate(schema.categorical) if not field.multi_valued]
        _check_pairs(schema, len(single))
        fields = schema.num_fields
        i_P, j_P = torch.triu_indices(len(single), len(single), offset=1)
        token_C = torch.tensor(single) + len(schema.numeric)
        # index of B_ij among the P pairs with ids and, after them, those i ≤ j without
        number_FF = torch.full((fields, fields), -1)
        number_FF[token_C[i_P], token_C[j_P]] = torch.arange(len(i_P))
        number_FF = torch.maximum(number_FF, number_FF.T)
        i_M, j_M = (number_FF.triu() + torch.ones(fields, fields).tril(-1) < 0).nonzero().unbind(1)
        number_FF[i_M, j_M] = number_FF[j_M, i_M] = len(i_P) + torch.arange(len(i_M))
        for name, value in (
            ("single_C", torch.tensor(single)),
            ("left_P", i_P.contiguous()),
            ("right_P", j_P.contiguous()),
            ("index_P", token_C[i_P] * fields + token_C[j_P]),
            ("without_2M", torch.stack([i_M, j_M])),
            ("number_X", number_FF.flatten()),
            ("places_Q2", gpu_ops.places_of(number_FF.flatten(), len(i_P) + len(i_M))),
            ("places_X1", gpu_ops.places_of(token_C[i_P] * fields + token_C[j_P], fields**2)),
        ):
            self.register_buffer(name, value, persistent=False)
        return len(i_P)

    def forward(self, batch: Batch, emb_BFD: Tensor) -> Tensor:
        """emb_BFD: (B, F, D), read by the gate; gives (B, R, F, F) scores."""
        ids_BC = self._ids(batch)
        row_B = batch.row_B if self.config.shuffle_pairs else None
        reads, gates = [], []
        for k, codebook in enumerate(self.codebooks):
            weight: Tensor = self.read_RC  # u
            if self.gate_KC is not None:  # (R + 1, C): the gate's weight w_k and u
                weight = torch.cat([self.gate_KC[k : k + 1], weight])
            arguments = (k, codebook, batch.sparse.stride(), ids_BC, row_B, weight)
            if self.config.recompute_lookups and torch.is_grad_enabled():
                read = checkpoint(self._read, *arguments, use_reentrant=False)
            else:
                read = self._read(*arguments)
            if self.context_KD is None:
                return self._as_matrix(read)
            gates.append(read[..., 0] + self._context(emb_BFD, self.context_KD[k]))
            reads.append(read[..., 1:])
        return self._as_matrix(_weighted(gates, reads))

    def _ids(self, batch: Batch) -> Tensor:
        """Returns (B, C) ids of the paired fields."""
        # a single-valued field has one id for each row from the offset of its key on, whatever the
        # lengths of multi-valued fields before it
        begin_C = batch.sparse.offsets()[self.single_C * batch.sparse.stride()]
        step_B = torch.arange(batch.label_B.numel(), device=begin_C.device)
        return batch.sparse.values()[step_B.unsqueeze(1) + begin_C]

    def _read(
        self,
        k: int,
        codebook: nn.Module,
        stride: int,
        ids_BC: Tensor,
        row_B: Tensor | None,
        weight: Tensor,
    ) -> Tensor:
        """Returns (B, P, R + 1) numbers read from the codewords of one codebook."""
        address_BP = pair_addresses(
            ids_BC, self.left_P, self.right_P, self.config.codebook_rows, k, row_B
        )
        size, pairs = address_BP.shape
        lengths_S = torch.zeros(stride, dtype=torch.int32, device=address_BP.device)
        lengths_S[:size] = pairs  # padded rows have no ids
        name = self.tables[k].name
        addresses = KeyedJaggedTensor([name], address_BP.flatten(), lengths=lengths_S)
        codeword_BPC = codebook(addresses)[name].values().view(size, pairs, -1)
        return functional.linear(codeword_BPC, weight)

    def _context(self, emb_BFD: Tensor, context_D: Tensor) -> Tensor:
        """Returns (B, P): v_kᵀ (E_i ⊙ E_j) of all pairs, without storing a vector for each."""
        product_BFF = gpu_ops.product(emb_BFD * context_D, emb_BFD.transpose(1, 2))
        return gpu_ops.pick(product_BFF.flatten(1), self.index_P, self.places_X1)

    def _as_matrix(self, score_BPR: Tensor) -> Tensor:
        """Returns (B, R, F, F), symmetric, with learned scores for pairs without ids."""
        own_FR = functional.linear(self.field_FC, self.read_RC)
        without_RM = own_FR[self.without_2M].mean(0).T.to(score_BPR.dtype)
        both = [score_BPR.transpose(1, 2), without_RM.expand(len(score_BPR), -1, -1)]
        score_BRX = gpu_ops.pick(torch.cat(both, dim=2), self.number_X, self.places_Q2)
        return score_BRX.unflatten(2, (len(self.field_FC), -1))

    single_C: Tensor
    left_P: Tensor
    right_P: Tensor
    index_P: Tensor
    without_2M: Tensor
    number_X: Tensor
    places_Q2: Tensor
    places_X1: Tensor


def _check_pairs(schema: Schema, single: int) -> None:
    if single >= 2:
        return
    multi = len(schema.categorical) - single
    raise ConfigError(
        f"dual_attention (DEA-R): combo: true pairs single-valued categorical fields, and data set "
        f"{schema.name} has {single} of them, apart from {multi} multi-valued and "
        f"{len(schema.numeric)} numeric fields. It needs two: preprocess with --numeric_as bucket "
        "or both, which makes numbers categories, or set model.combo: false."
    )


def _weighted(gates: list[Tensor], reads: list[Tensor]) -> Tensor:
    """Returns (B, P, R): Σ_k g^k read^k, g = softmax_k of the (B, P) gates; empties the lists."""
    score_BPK = torch.stack(gates, dim=-1).float()
    gates.clear()
    share_BPK = short_softmax(score_BPK).to(reads[0].dtype)
    del score_BPK
    total = share_BPK[..., :1] * reads[0]
    for k in range(1, len(reads)):
        total = torch.addcmul(total, share_BPK[..., k : k + 1], reads[k])
    reads.clear()
    return total


def _weight(outputs: int, inputs: int) -> nn.Parameter:
    """(outputs, inputs) Xavier normal for each output by itself, as these are separate vectors."""
    return nn.Parameter(torch.randn(outputs, inputs) * (2.0 / (inputs + 1)) ** 0.5)


def pair_addresses(
    ids_BC: Tensor, left_P: Tensor, right_P: Tensor, rows: int, salt: int, row_B: Tensor | None
) -> Tensor:
    """(B, P) int32 in [0, rows): h_salt(field i, id_i, field j, id_j) for each pair i < j.

    Signed integers wrap around like unsigned ones, so all devices give the same addresses.
    At most three (B, P) tensors of int64 exist at a time.

    Args:
        ids_BC: (B, C) ids.
        left_P: i of each pair, an index of a column.
        right_P: j of each pair.
        rows: rows of the codebook, less than 2^31.
        salt: index of the hash function.
        row_B: index of each row in its split, to hash it as well; None to hash ids only.
    """
    columns = torch.arange(ids_BC.shape[1], device=ids_BC.device)
    # field and id side by side in 64 bits: mixing keeps different ones different
    own_BC = _mix(ids_BC.long() + (columns << 32) + _signed((salt + 1) * _GOLDEN))
    hash_BP = own_BC.index_select(1, right_P).mul_(_signed(_GOLDEN))
    hash_BP += own_BC.index_select(1, left_P)
    if row_B is not None:
        hash_BP += _mix(row_B.long() * _signed(_GOLDEN)).unsqueeze(1)
    # the upper 31 bits as a fraction of 2^31, times the rows: no division and almost no bias
    address_BP = _shifted(_mix(hash_BP), 33).mul_(rows)
    return _shifted(address_BP, 31).int()


def _mix(x: Tensor) -> Tensor:
    """Applies a bijection of 64-bit numbers, in place."""
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        x ^= _shifted(x, shift)
        x *= _signed(factor)
    x ^= _shifted(x, 31)
    return x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifts an unsigned number to the right."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Returns the signed number with the same 64 bits."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number
