"""TF4CTR: a simple and a complex encoder, each with a logit of its own (arXiv:2405.03167v4).

Sample selection gives each encoder its embeddings of a row, fusion makes one logit of both. The
encoders' own logits are in Output.aux, for the twin focus loss (ctrdist.losses.objective).
Differences of the paper and its authors' code:

- Gates and experts have the paper's sizes by default; `selection_sizes: code` has the code's.
- Heads have a bias, as in the code; (6) has none.
- The vote uses its scores as log π, as in the code: (9) takes the logarithm of a linear layer's
  output, which may be negative. The code also draws noise in evaluation, so that test scores are
  random, and computes the complex encoder's score with the simple one's width. We do neither.
- The code passes flattened embeddings to its factorisation machine, which then adds one number, the
  sum over the whole batch, to all rows. Ours is a factorisation machine.
"""

# B batch, F fields, D embedding dim, S = 2 encoders (simple, complex), X = 2 experts,
# E width of the simple encoder's output, G of the complex one's, U = E + G, N = F · D

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS, Output
from ctrdist.models.encoders import (
    FIRST_ORDER,
    CINEncoder,
    CrossEncoder,
    Encoder,
    FMEncoder,
    LREncoder,
    MLPEncoder,
)
from ctrdist.models.layers import linear, mlp_of, short_softmax
from ctrdist.models.tf4ctr.settings import TF4CTRConfig

PAPER_GATE, PAPER_EXPERT = (400, 100), (400, 200)
"""Hidden widths of gates and experts in the paper."""


class TF4CTR(nn.Module):
    """logit = fusion(simple(h_es), complex(h_hs)), (h_es, h_hs) = selection(embeddings): (3)-(11).

    With the compressed interaction network as simple encoder, the logit of a linear model is added
    to the logit, as in xDeepFM, but not to the encoder's own.
    """

    parts: Mapping[str, tuple[str, ...]] = {
        "simple": ("simple.*", "simple_head.*"),
        "complex": ("complex.*", "complex_head.*"),
    }

    def __init__(self, config: TF4CTRConfig, num_fields: int) -> None:
        """Builds the tower for F = num_fields."""
        super().__init__()
        self.select = _SELECTIONS[config.selection](config, num_fields)
        self.simple = _simple_encoder(config, num_fields, self.select.simple_dim)
        width = num_fields * config.embedding_dim
        self.complex = MLPEncoder(config, width, config.complex_hidden_dims)
        self.simple_head = linear(self.simple.out_dim, 1)
        self.complex_head = linear(self.complex.out_dim, 1)
        self.fuse = _FUSIONS[config.fusion](config, self.simple.out_dim, self.complex.out_dim)
        self.adds_linear_model = config.simple == "cin"
        first_order = self.simple.reads_first_order or self.adds_linear_model
        self.groups = {**self.select.groups, **({FIRST_ORDER: 1} if first_order else {})}

    def forward(self, emb: Mapping[str, Tensor]) -> Output:
        """emb: group → (B, F, D of the group). Returns log-odds, without a sigmoid."""
        first_BF = emb[FIRST_ORDER].squeeze(2) if FIRST_ORDER in self.groups else None
        easy_BFD, hard_BFD = self.select(emb)
        simple_BE = self.simple(easy_BFD, first_BF)
        complex_BG = self.complex(hard_BFD, None)
        logits_BS = torch.cat([self.simple_head(simple_BE), self.complex_head(complex_BG)], 1)
        logits_BS = logits_BS.float()  # (6)
        logits_B = self.fuse(simple_BE, complex_BG, logits_BS)
        if self.adds_linear_model:
            assert first_BF is not None
            logits_B = logits_B + first_BF.sum(1)
        return Output(
            logits_B=logits_B.float(),
            aux={SIMPLE_LOGITS: logits_BS[:, 0], COMPLEX_LOGITS: logits_BS[:, 1]},
        )


class Selection(nn.Module):
    """Groups of embeddings → inputs of both encoders. By itself: both read the same embeddings."""

    def __init__(self, config: TF4CTRConfig, num_fields: int) -> None:
        super().__init__()
        self.groups = {"tokens": config.embedding_dim}
        self.simple_dim = config.embedding_dim
        """D of the simple encoder; that of the complex encoder is always embedding_dim."""

    def forward(self, emb: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """emb: group → (B, F, D of the group); gives two of (B, F, D)."""
        return emb["tokens"], emb["tokens"]


class SeparateEmbeddings(Selection):
    """Each encoder has its own tables, the simple one with half the width: SER, (3)."""

    def __init__(self, config: TF4CTRConfig, num_fields: int) -> None:
        super().__init__(config, num_fields)
        self.simple_dim = config.embedding_dim // 2
        self.groups = {"easy": self.simple_dim, "hard": config.embedding_dim}

    def forward(self, emb: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """emb["easy"]: (B, F, D // 2), emb["hard"]: (B, F, D)."""
        return emb["easy"], emb["hard"]


class Gate(Selection):
    """h_es = g h, h_hs = (1 − g) h with g = σ(Gate(h)), one number per row: GM, (4)."""

    def __init__(self, config: TF4CTRConfig, num_fields: int) -> None:
        super().__init__(config, num_fields)
        self.gate = _gate(config, num_fields * config.embedding_dim, 1)

    def forward(self, emb: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """emb["tokens"]: (B, F, D)."""
        h_BFD = emb["tokens"]
        score_B11 = self.gate(h_BFD.flatten(1)).float().unsqueeze(2)
        return score_B11.sigmoid() * h_BFD, (-score_B11).sigmoid() * h_BFD


class GatedExperts(Selection):
    """h_es and h_hs are mixtures of two experts' outputs, each with its own gate: MMoE, (5)."""

    def __init__(self, config: TF4CTRConfig, num_fields: int) -> None:
        super().__init__(config, num_fields)
        width = num_fields * config.embedding_dim
        self.experts = nn.ModuleList(_expert(config, width) for _ in range(2))
        self.gates = nn.ModuleList(_gate(config, width, 2) for _ in range(2))

    def forward(self, emb: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """emb["tokens"]: (B, F, D)."""
        shape, h_BN = emb["tokens"].shape[1:], emb["tokens"].flatten(1)
        output_BXN = torch.stack([expert(h_BN) for expert in self.experts], 1)
        weight_BSX = torch.stack([short_softmax(gate(h_BN)) for gate in self.gates], 1)
        easy_BN, hard_BN = torch.bmm(weight_BSX, output_BXN).unbind(1)
        return easy_BN.unflatten(1, shape), hard_BN.unflatten(1, shape)


class Fusion(nn.Module):
    """Two encoders' representations and logits → one logit. By itself: the sum z_s + z_c."""

    def __init__(self, config: TF4CTRConfig, simple_dim: int, complex_dim: int) -> None:
        super().__init__()

    def forward(self, simple_BE: Tensor, complex_BG: Tensor, logits_BS: Tensor) -> Tensor:
        """simple_BE: (B, E), complex_BG: (B, G), logits_BS: (B, 2) float32; gives (B,)."""
        return logits_BS.sum(1)


class WeightedSum(Fusion):
    """w_s z_s + w_c z_c with unconstrained weights that start at 0.5: WSF, (8)."""

    def __init__(self, config: TF4CTRConfig, simple_dim: int, complex_dim: int) -> None:
        super().__init__(config, simple_dim, complex_dim)
        self.weight_S = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, simple_BE: Tensor, complex_BG: Tensor, logits_BS: Tensor) -> Tensor:
        """logits_BS: (B, 2); gives (B,)."""
        return (logits_BS * self.weight_S).sum(1)


class Vote(Fusion):
    """p_s z_s + p_c z_c with p a Gumbel softmax of the encoders' scores: VF, (9).

    In evaluation p is the softmax of the same scores at the same temperature, without noise.
    """

    def __init__(self, config: TF4CTRConfig, simple_dim: int, complex_dim: int) -> None:
        super().__init__(config, simple_dim, complex_dim)
        self.temperature = config.vote_temperature
        self.simple_score = linear(simple_dim, 1)
        self.complex_score = linear(complex_dim, 1)

    def forward(self, simple_BE: Tensor, complex_BG: Tensor, logits_BS: Tensor) -> Tensor:
        """simple_BE: (B, E), complex_BG: (B, G), logits_BS: (B, 2); gives (B,)."""
        score_BS = torch.cat([self.simple_score(simple_BE), self.complex_score(complex_BG)], 1)
        score_BS = score_BS.float()
        if self.training:
            vote_BS = functional.gumbel_softmax(score_BS, tau=self.temperature, dim=1)
        else:
            vote_BS = short_softmax(score_BS / self.temperature)
        return (vote_BS * logits_BS).sum(1)


class Concatenation(Fusion):
    """W_cf [ĥ_es ‖ ĥ_hs] + b_cf: CF, (10). It does not use the encoders' own logits."""

    def __init__(self, config: TF4CTRConfig, simple_dim: int, complex_dim: int) -> None:
        super().__init__(config, simple_dim, complex_dim)
        self.output = linear(simple_dim + complex_dim, 1)

    def forward(self, simple_BE: Tensor, complex_BG: Tensor, logits_BS: Tensor) -> Tensor:
        """simple_BE: (B, E), complex_BG: (B, G); gives (B,)."""
        return self.output(torch.cat([simple_BE, complex_BG], 1)).squeeze(1)


class MixtureOfExperts(Fusion):
    """g_1 m_1 + g_2 m_2 with gate and experts linear in [ĥ_es ‖ ĥ_hs]: MoEF, (11)."""

    def __init__(self, config: TF4CTRConfig, simple_dim: int, complex_dim: int) -> None:
        super().__init__(config, simple_dim, complex_dim)
        self.gate = linear(simple_dim + complex_dim, 2)
        self.experts = linear(simple_dim + complex_dim, 2)

    def forward(self, simple_BE: Tensor, complex_BG: Tensor, logits_BS: Tensor) -> Tensor:
        """simple_BE: (B, E), complex_BG: (B, G); gives (B,)."""
        both_BU = torch.cat([simple_BE, complex_BG], 1)
        return (short_softmax(self.gate(both_BU).float()) * self.experts(both_BU).float()).sum(1)


_SELECTIONS: Mapping[str, type[Selection]] = {
    "ser": SeparateEmbeddings,
    "gm": Gate,
    "mmoe": GatedExperts,
    "share": Selection,
}
_FUSIONS: Mapping[str, type[Fusion]] = {
    "wsf": WeightedSum,
    "vf": Vote,
    "cf": Concatenation,
    "moef": MixtureOfExperts,
    "sum": Fusion,
}


def _simple_encoder(config: TF4CTRConfig, num_fields: int, dim: int) -> Encoder:
    if config.simple == "fm":
        return FMEncoder()
    if config.simple == "lr":
        return LREncoder()
    if config.simple == "cin":
        return CINEncoder(num_fields, config.cin_maps, config.cin_out_dim)
    if config.simple == "cross":
        return CrossEncoder(num_fields * dim, config.cross_layers)
    return MLPEncoder(config, num_fields * dim, config.simple_hidden_dims)


def _gate(config: TF4CTRConfig, in_dim: int, out_dim: int) -> nn.Module:
    code = config.selection_sizes == "code"
    return mlp_of(config, in_dim, [max(1, in_dim // 4)] if code else PAPER_GATE, out_dim)


def _expert(config: TF4CTRConfig, dim: int) -> nn.Module:
    if config.selection_sizes == "code":
        return mlp_of(config, dim, [max(1, dim // 2), dim])
    return mlp_of(config, dim, PAPER_EXPERT, dim)
