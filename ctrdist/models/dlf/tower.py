"""DLF: low-order, high-order and implicit interactions, fused by attention (arXiv:2505.19182).

There are two forms. The paper's text leaves sizes open, and the authors' code computes something
else: `paper` reconstructs (5)-(16) with blocks as in the code, `code` computes the same as the
released class.
"""

# B batch, F fields, D embedding dim, N tokens of a layer's input, R rank, M tokens per block,
# T tokens of a layer's output, I blocks (as queries), J blocks (as keys), H heads, E = D / H

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ctrdist.batch import GATE_MEAN, Output
from ctrdist.models import gpu_ops
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.layers import TokenLinear, linear, mlp_of, short_attention, token_weight

GATE_FLOOR = 1e-6
"""ε of (9)."""


class DLF(nn.Module):
    """logit = head(E^(L+1)), E^(l+1) = layer(E^(l), E^(1)), E^(1) the field embeddings: (16)."""

    parts: Mapping[str, tuple[str, ...]] = {
        "low_order": ("layers.*.low.*",),
        "high_order": ("layers.*.high.*",),
        "implicit": ("layers.*.implicit.*", "layers.*.compress.*"),
        "fusion": ("layers.*.attention.*", "layers.*.fusion.*"),
        "residual": ("layers.*.residual.*",),
    }

    def __init__(self, config: DLFConfig, num_fields: int) -> None:
        """Builds the tower for F = num_fields."""
        super().__init__()
        self.groups = {"tokens": config.embedding_dim}
        layer_class = CodeLayer if config.form == "code" else PaperLayer
        self.layers = nn.ModuleList()
        tokens = num_fields
        for _ in range(config.num_layers):
            layer = layer_class(config, num_fields, tokens)
            self.layers.append(layer)
            tokens = layer.out_tokens
        width = tokens * config.embedding_dim
        self.head: nn.Module = (
            mlp_of(config, width, [config.hidden_dim], 1)
            if config.form == "code"
            else linear(width, 1)
        )

    def forward(self, emb: Mapping[str, Tensor]) -> Output:
        """emb["tokens"]: (B, F, D). Returns log-odds, without a sigmoid."""
        x0_BFD = emb["tokens"]
        x_BND = x0_BFD
        gate_means: list[Tensor] = []
        for layer in self.layers:
            x_BND, gate_mean = layer(x_BND, x0_BFD)
            if gate_mean is not None:
                gate_means.append(gate_mean)
        logits_B = self.head(x_BND.flatten(1)).squeeze(1)
        aux = {GATE_MEAN: torch.stack(gate_means)} if gate_means else {}
        return Output(logits_B=logits_B.float(), aux=aux)


class FactorBlock(nn.Module):
    """Products of pairs of tokens, compressed to M tokens: MLP(LayerNorm(vec(left (xᵀ W)))).

    The low-order block (5) has left = E^(1), the high-order block (6) left = x. W (N, R) is W_LI or
    W_CI of the paper; the MLP with one hidden layer replaces its W_LO or W_CO and the bias.
    """

    def __init__(self, config: DLFConfig, left_tokens: int, in_tokens: int) -> None:
        super().__init__()
        size = in_tokens * config.rank
        self.out_shape = (config.tokens_per_block, config.embedding_dim)
        self.weight_NR = token_weight(in_tokens, config.rank)
        # as released: E^(1) is first mapped to N tokens, so that both factor blocks have one size
        self.left = (
            nn.Identity() if left_tokens == in_tokens else TokenLinear(left_tokens, in_tokens)
        )
        self.norm = nn.LayerNorm(size)
        out_dim = config.tokens_per_block * config.embedding_dim
        self.mlp = mlp_of(config, size, [config.hidden_dim], out_dim)

    def forward(self, left_BFD: Tensor, x_BND: Tensor) -> Tensor:
        """left_BFD: (B, left_tokens, D), x_BND: (B, N, D); gives (B, M, D)."""
        xw_BDR = functional.linear(x_BND.transpose(1, 2), self.weight_NR.T)
        product_BNR = gpu_ops.product(self.left(left_BFD), xw_BDR)  # never the (N, N) matrix
        return self.mlp(self.norm(product_BNR.flatten(1))).unflatten(1, self.out_shape)


class CodeLayer(nn.Module):
    """LayerNorm([high ‖ low ‖ compressed] + residual), as in the authors' class."""

    def __init__(self, config: DLFConfig, num_fields: int, in_tokens: int) -> None:
        super().__init__()
        self.out_tokens = 3 * config.tokens_per_block
        self.high = FactorBlock(config, in_tokens, in_tokens)
        self.low = FactorBlock(config, num_fields, in_tokens)
        self.compress = TokenLinear(in_tokens, config.tokens_per_block)
        self.residual = _residual(in_tokens, self.out_tokens)
        self.norm = nn.LayerNorm(config.embedding_dim)

    def forward(self, x_BND: Tensor, x0_BFD: Tensor) -> tuple[Tensor, None]:
        """x_BND: (B, N, D), x0_BFD: (B, F, D); gives (B, 3M, D), and None, as it has no gate."""
        blocks = [self.high(x_BND, x_BND), self.low(x0_BFD, x_BND), self.compress(x_BND)]
        return self.norm(torch.cat(blocks, dim=1) + self.residual(x_BND)), None


class PaperLayer(nn.Module):
    """E^(l+1) = LayerNorm(Z + gate(E^(l)) ⊙ E^(l)), Z = fusion of three blocks: (5)-(9), (15).

    The LayerNorm is the released code's; the paper does not mention one.
    """

    def __init__(self, config: DLFConfig, num_fields: int, in_tokens: int) -> None:
        super().__init__()
        self.low = FactorBlock(config, num_fields, in_tokens) if config.low_order_block else None
        self.high = FactorBlock(config, in_tokens, in_tokens)
        self.implicit = TokenLinear(in_tokens, config.tokens_per_block, bias=True)
        num_blocks = 3 if config.low_order_block else 2
        self.fusion = nn.ModuleList(
            _fusion(config, num_blocks) for _ in range(config.fusion_rounds)
        )
        self.concat = config.fusion_output == "concat"
        copies = 2 if config.fusion_rounds and self.concat else 1
        self.out_tokens = copies * num_blocks * config.tokens_per_block
        self.residual = (
            None if config.gate == "none" else GatedResidual(config, in_tokens, self.out_tokens)
        )
        self.norm = nn.LayerNorm(config.embedding_dim)

    def forward(self, x_BND: Tensor, x0_BFD: Tensor) -> tuple[Tensor, Tensor | None]:
        """x_BND: (B, N, D), x0_BFD: (B, F, D); gives (B, T, D), T = 6M with the defaults.

        Also gives the mean of the gate, see :class:`GatedResidual`.
        """
        blocks = [self.high(x_BND, x_BND), self.implicit(x_BND)]  # (6), (7)
        if self.low is not None:
            blocks.insert(0, self.low(x0_BFD, x_BND))  # (5)
        z_IBMD = torch.stack(blocks).relu()
        fused_IBMD = z_IBMD
        for fusion in self.fusion:
            fused_IBMD = fusion(fused_IBMD)
        if len(self.fusion):  # (15)
            z_IBMD = torch.cat([fused_IBMD, z_IBMD]) if self.concat else fused_IBMD + z_IBMD
        z_BTD = z_IBMD.transpose(0, 1).flatten(1, 2)
        if self.residual is None:
            return self.norm(z_BTD), None
        residual_BTD, gate_mean = self.residual(x_BND)
        return self.norm(z_BTD + residual_BTD), gate_mean


class GatedResidual(nn.Module):
    """max(ε, W_G E) ⊙ E of (9), where E is the layer's input mapped to T tokens."""

    def __init__(self, config: DLFConfig, in_tokens: int, out_tokens: int) -> None:
        super().__init__()
        self.kind = config.gate
        self.project = _residual(in_tokens, out_tokens)
        gated = config.gate in ("max", "sigmoid")
        self.gate = (
            linear(config.embedding_dim, config.embedding_dim, bias=False) if gated else None
        )

    def forward(self, x_BND: Tensor) -> tuple[Tensor, Tensor | None]:
        """x_BND: (B, N, D); gives (B, T, D), and in training with a gate its () float32 mean."""
        e_BTD = self.project(x_BND)
        if self.gate is None:
            return e_BTD, None
        score_BTD = self.gate(e_BTD)
        gate_BTD = score_BTD.sigmoid() if self.kind == "sigmoid" else score_BTD.clamp(GATE_FLOOR)
        mean = gate_BTD.detach().mean(dtype=torch.float32) if self.training else None
        return gate_BTD * e_BTD, mean


def _fusion(config: DLFConfig, num_blocks: int) -> nn.Module:
    """Builds one round of fusion: (I, B, M, D) outputs of the blocks → Z̃ of the same size."""
    if config.fusion == "mlp":
        return MLPFusion(config, num_blocks)
    if config.fusion == "gate_pool":
        return GatePool(num_blocks, config.embedding_dim)
    own = config.fusion == "naf"
    return AttentionFusion(num_blocks, config.embedding_dim, config.attention_heads, own=own)


class AttentionFusion(nn.Module):
    """One round of network-aware attention fusion over I blocks of M tokens: (10)-(14).

    Each block attends to its own tokens (13) and, with one softmax per block, to those of every
    other block (11). Scores are scaled by 1/√E. Each block has its own weights.

    Without `own` it is the paper's attention pooling, reconstructed from Section 5.4: a block
    attends to other blocks only, so Z̃ is A^cross of (12).
    """

    def __init__(self, num_blocks: int, dim: int, heads: int, *, own: bool = True) -> None:
        super().__init__()
        self.num_blocks, self.dim, self.heads, self.own = num_blocks, dim, heads, own
        self.qkv_IDX = _block_weight(num_blocks, dim, 3 * dim, fan_out=dim)  # (10)
        self.cross_IXD = _block_weight(num_blocks, (num_blocks - 1) * dim, dim)  # W_cross, (12)
        self.cross_bias_ID = nn.Parameter(torch.zeros(num_blocks, dim))
        if own:
            self.fuse_IXD = _block_weight(num_blocks, 2 * dim, dim)  # W_f, (14): cross rows first
            self.fuse_bias_ID = nn.Parameter(torch.zeros(num_blocks, dim))
        # order[i][j]: index of A_{i→j} among i's weights: the other blocks in order, then i itself
        blocks = range(num_blocks)
        order = [[num_blocks - 1 if i == j else j - (j > i) for j in blocks] for i in blocks]
        self.register_buffer("order_IJ", torch.tensor(order), persistent=False)

    def forward(self, z_IBMD: Tensor) -> Tensor:
        """z_IBMD: (I, B, M, D) outputs of the blocks; gives Z̃ of the same size."""
        blocks, batch, tokens, dim = z_IBMD.shape
        rows = batch * tokens
        qkv = torch.bmm(z_IBMD.reshape(blocks, rows, dim), self.qkv_IDX)
        attended = self._attend(qkv.view(blocks, batch, tokens, 3, self.heads, dim // self.heads))
        attended_IXY = attended.reshape(blocks, rows, blocks * dim)
        weight_IYD, bias_ID = self._output_map()
        fused = torch.baddbmm(bias_ID.unsqueeze(1), attended_IXY, weight_IYD)
        return fused.view(blocks, batch, tokens, dim)

    def _attend(self, qkv_IBM3HE: Tensor) -> Tensor:
        """A_{i→j} of (11) and (13) for all pairs of blocks: (I, B, M, J, H, E).

        Without a kernel for it each key block j is a set of heads whose queries are the tokens of
        all blocks. So a softmax covers the keys of one block, as in (11).
        """
        blocks, batch, tokens, _, heads, width = qkv_IBM3HE.shape
        if gpu_ops.fits_attention(qkv_IBM3HE, blocks, tokens):
            return gpu_ops.attention(qkv_IBM3HE)
        query, key, value = qkv_IBM3HE.unbind(3)
        query_BHXE = query.permute(1, 3, 0, 2, 4).reshape(batch, heads, blocks * tokens, width)
        key_value = (batch, blocks * heads, tokens, width)
        attended = short_attention(
            query_BHXE.repeat(1, blocks, 1, 1),
            key.permute(1, 0, 3, 2, 4).reshape(key_value),
            value.permute(1, 0, 3, 2, 4).reshape(key_value),
        )
        attended_BJHIME = attended.reshape(batch, blocks, heads, blocks, tokens, width)
        return attended_BJHIME.permute(3, 0, 4, 1, 2, 5)

    def _output_map(self) -> tuple[Tensor, Tensor]:
        """(12) and (14) as one map of [A_{i→1} ‖ … ‖ A_{i→I}]: (I, I·D, D) weight and (I, D) bias.

        Both are linear, and their product costs little compared with the map of B·M tokens.
        """
        cross_IXD: Tensor = self.cross_IXD
        bias_ID: Tensor = self.cross_bias_ID
        if self.own:
            of_cross_IDD, of_self_IDD = self.fuse_IXD.split(self.dim, dim=1)
            cross_IXD = torch.bmm(cross_IXD, of_cross_IDD)
            bias_ID = torch.bmm(bias_ID.unsqueeze(1), of_cross_IDD).squeeze(1) + self.fuse_bias_ID
        else:
            of_self_IDD = cross_IXD.new_zeros(self.num_blocks, self.dim, self.dim)
        ordered_IXD = torch.cat([cross_IXD, of_self_IDD], dim=1)
        ordered_IJDD = ordered_IXD.unflatten(1, (self.num_blocks, self.dim))
        order_IJ = self.get_buffer("order_IJ")
        block_I1 = torch.arange(self.num_blocks, device=order_IJ.device).unsqueeze(1)
        return ordered_IJDD[block_I1, order_IJ].flatten(1, 2), bias_ID


class GatePool(nn.Module):
    """Z̃_i = Σ_j g_ij ⊙ Z_j with g_i· = softmax over j of Z_j W_ij, for each token and dimension.

    The paper's gate pooling, reconstructed: Section 5.4 only says that learned gates weigh the
    embeddings. Each block has its own gates, so that there are as many fused tokens as from (14).
    """

    def __init__(self, num_blocks: int, dim: int) -> None:
        super().__init__()
        self.weight_JDX = _block_weight(num_blocks, dim, num_blocks * dim, fan_out=dim)

    def forward(self, z_JBMD: Tensor) -> Tensor:
        """z_JBMD: (I, B, M, D) outputs of the blocks; gives Z̃ of the same size."""
        blocks, batch, tokens, dim = z_JBMD.shape
        score_JXY = torch.bmm(z_JBMD.reshape(blocks, batch * tokens, dim), self.weight_JDX)
        gate_JBMID = score_JXY.softmax(0).view(blocks, batch, tokens, blocks, dim)
        return (gate_JBMID * z_JBMD.unsqueeze(3)).sum(0).permute(2, 0, 1, 3)


class MLPFusion(nn.Module):
    """vec[Z̃_1 ‖ … ‖ Z̃_I] = MLP(vec[Z_1 ‖ … ‖ Z_I]), with one hidden layer.

    The paper's MLP-based fusion, reconstructed: Section 5.4 calls it a non-linear transformation.
    """

    def __init__(self, config: DLFConfig, num_blocks: int) -> None:
        super().__init__()
        size = num_blocks * config.tokens_per_block * config.embedding_dim
        self.mlp = mlp_of(config, size, [config.hidden_dim], size)

    def forward(self, z_IBMD: Tensor) -> Tensor:
        """z_IBMD: (I, B, M, D) outputs of the blocks; gives Z̃ of the same size."""
        blocks, _, tokens, dim = z_IBMD.shape
        fused_BX = self.mlp(z_IBMD.transpose(0, 1).flatten(1))
        return fused_BX.unflatten(1, (blocks, tokens, dim)).transpose(0, 1)


def _residual(in_tokens: int, out_tokens: int) -> nn.Module:
    """Returns the identity, or a map to the layer's number of output tokens where it differs."""
    return nn.Identity() if in_tokens == out_tokens else TokenLinear(in_tokens, out_tokens)


def _block_weight(
    num_blocks: int, in_dim: int, out_dim: int, fan_out: int | None = None
) -> nn.Parameter:
    """Returns (I, in, out) weights, Xavier normal for each block's map by itself."""
    std = (2.0 / (in_dim + (fan_out or out_dim))) ** 0.5
    return nn.Parameter(torch.randn(num_blocks, in_dim, out_dim) * std)
