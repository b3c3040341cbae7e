"""DEA-R and the transformer against a float64 reference with loops over rows, heads and pairs."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ctrdist.models.dual_attention.settings import DualAttentionConfig, TransformerConfig
from ctrdist.models.dual_attention.tower import CollapseFilter, DualAttention, Fusion
from ctrdist.models.dual_attention.transformer import Context, Transformer
from tests.unit.models.dlf.test_dlf_equations import Weights, assert_agree, layer_norm

ROWS, FIELDS = 6, 5
SMALL: dict[str, Any] = {
    "embedding_dim": 6,
    "num_layers": 2,
    "attention_heads": 2,
    "hidden_dims": (7,),
    "batch_norm": False,
    "codebook_dim": 4,
    "temperature": 0.5,
}


def softmax(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum(-1, keepdim=True)


def linear(w: Weights, x: Tensor) -> Tensor:
    out = x @ w["weight"].T
    return out + w["bias"] if "bias" in w else out


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def filtered(w: Weights, c: DualAttentionConfig, plain: Tensor, x: Tensor, side: Side, h: int):
    """A^ca of a head for one row: plain (F, F), x (F, D)."""
    fields = len(plain)
    rows = []
    for i in range(fields):
        kept = []
        for j in range(fields):
            if c.filter == "top_rho":
                rank = int((plain[i] > plain[i, j]).sum())
                share = plain.new_tensor(float(rank < math.ceil(c.rho * fields)))
            else:
                seen = torch.cat([x[i], side.frequency[i : i + 1]]) if c.frequency else x[i]
                threshold = sigmoid(w["threshold.weight"][h] @ seen) / fields
                above = (plain[i, j] - threshold) * fields / c.temperature
                share = sigmoid(above)
                if c.filter == "straight_through" or not (side.training or c.filter == "soft"):
                    hard = (above >= 0).to(plain.dtype)
                    share = share + (hard - share).detach() if side.training else hard + 0 * above
                if c.filter == "information_abundance":
                    share = share * side.abundance[i] * side.abundance[j]
            kept.append(plain[i, j] * (1.0 if i == j else share))
        row = torch.stack(kept)
        rows.append(row / row.sum())
    return torch.stack(rows)


def fused(w: Weights, c: DualAttentionConfig, pair: Tensor, score: Tensor, other: Tensor, h: int):
    """A of a head for one row, (F, F) each."""
    combo = softmax(pair)
    if c.fusion == "multiply":
        return combo * other / (combo * other).sum(-1, keepdim=True)
    if c.fusion == "weighted_sum":
        share = sigmoid(w["balance_H"][h])
    else:
        both = torch.stack([pair, score], -1)
        share = sigmoid(linear(w / "gate", gelu(linear(w / "hidden", both))))[..., 0]
    return share * combo + (1 - share) * other


class Side:
    """The context of one row's attention, besides its tokens."""

    def __init__(self, pairs: Tensor, frequency: Tensor, abundance: Tensor, training: bool):
        self.pairs, self.frequency, self.abundance = pairs, frequency, abundance
        self.training = training


def attention(w: Weights, c: TransformerConfig, x: Tensor, side: Side, layer: int) -> Tensor:
    """One row: x (F, D)."""
    heads = []
    width = c.embedding_dim // c.attention_heads
    for h in range(c.attention_heads):
        own = slice(h * width, (h + 1) * width)
        q, k, v = (linear(w / name, x)[:, own] for name in ("query", "key", "value"))
        score = q @ k.T / width**0.5
        weights = softmax(score)
        if isinstance(c, DualAttentionConfig):
            if c.filter != "none":
                weights = filtered(w / "filter", c, weights, x, side, h)
            if c.combo:
                pair = side.pairs[layer * c.attention_heads + h]
                weights = fused(w / "fusion", c, pair, score, weights, h)
        heads.append(weights @ v)
    return linear(w / "output", torch.cat(heads, -1))


def tower(w: Weights, c: TransformerConfig, x: Tensor, sides: list[Side]) -> Tensor:
    logits = []
    for row, side in zip(x, sides, strict=True):
        for index in range(c.num_layers):
            own = w / "layers" / index
            row = layer_norm(
                own / "attention_norm", row + attention(own / "attention", c, row, side, index)
            )
            hidden = gelu(linear(own / "feed_forward" / 0, row))
            row = layer_norm(
                own / "feed_forward_norm", row + linear(own / "feed_forward" / 2, hidden)
            )
        hidden = linear(w / "head" / 0, row.flatten()).clamp(min=0)
        logits.append(linear(w / "head" / 3, hidden)[0])
    return torch.stack(logits)


class WithPairs(nn.Module):
    """A tower and its scores of pairs, so that their gradient is compared too."""

    def __init__(self, tower: nn.Module, scores: int) -> None:
        super().__init__()
        self.tower = tower
        scored = torch.randn(ROWS, scores, FIELDS, FIELDS)
        self.pairs = nn.Parameter(scored + scored.transpose(2, 3))


def shaken(module: nn.Module) -> nn.Module:
    """Norms and biases off their defaults, so that leaving one out shows."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if "norm" in name or "bias" in name or "balance" in name:
                value.add_(0.3 * torch.randn_like(value))
    return module


DUAL = [
    *(
        {"filter": kind, "fusion": fusion}
        for kind, fusion in product(
            ("hard", "soft", "straight_through", "information_abundance", "top_rho", "none"),
            ("gated_balance", "weighted_sum", "multiply"),
        )
    ),
    {"filter": "hard", "frequency": False},
    *({"filter": kind, "combo": False} for kind in ("soft", "top_rho", "none")),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("switches", DUAL, ids=lambda s: "-".join(map(str, s.values())))
def test_dual_attention_equals_the_equations(switches: dict[str, Any], training: bool) -> None:
    torch.manual_seed(1)
    sizes = {k: v for k, v in SMALL.items() if k != "codebook_dim" or switches.get("combo", True)}
    if switches["filter"] in ("top_rho", "none"):
        del sizes["temperature"]
    config = DualAttentionConfig(**sizes, **switches)
    dual = DualAttention(config, FIELDS)
    if dual.abundance_F is not None:
        dual.abundance_F.uniform_(0.2, 1.0)
    frequency = torch.randn(ROWS, FIELDS)
    abundance = torch.ones(FIELDS) if dual.abundance_F is None else dual.abundance_F
    module: nn.Module = shaken(dual)
    if config.combo:
        module = WithPairs(module, config.num_layers * config.attention_heads)
    module.train(training)

    def run(x: Tensor) -> Tensor:
        emb = {"tokens": x, "frequency": frequency}
        if isinstance(module, WithPairs):
            emb["pairs"] = module.pairs
        return dual(emb).logits_B

    def reference(w: Weights, x: Tensor) -> Tensor:
        pairs = w["pairs"] if config.combo else torch.zeros(ROWS)
        sides = [
            Side(pairs[b], frequency[b].double(), abundance.double(), training) for b in range(ROWS)
        ]
        return tower(w / "tower" if config.combo else w, config, x, sides)

    if not training and config.has_threshold and config.filter != "soft":
        run = detached_threshold(dual, run)
    assert_agree(module, run, reference, torch.randn(ROWS, FIELDS, 6))


def detached_threshold(dual: DualAttention, run: Any) -> Any:
    """With a gradient of 0 where there is none: of a threshold that drops, in evaluation."""

    def with_zero(x: Tensor) -> Tensor:
        unused = sum(0.0 * p.sum() for n, p in dual.named_parameters() if "threshold" in n)
        return run(x) + unused

    return with_zero


@pytest.mark.parametrize("heads", [1, 3])
def test_transformer_equals_the_equations(heads: int) -> None:
    torch.manual_seed(1)
    config = TransformerConfig(
        embedding_dim=6, attention_heads=heads, hidden_dims=(7,), batch_norm=False
    )
    model = shaken(Transformer(config, FIELDS))
    side = Side(torch.zeros(1), torch.zeros(1), torch.zeros(1), True)
    assert_agree(
        model,
        lambda x: model({"tokens": x}).logits_B,
        lambda w, x: tower(w, config, x, [side] * ROWS),
        torch.randn(ROWS, FIELDS, 6),
    )


def test_without_both_mechanisms_it_is_the_transformer() -> None:
    plain = {k: v for k, v in SMALL.items() if k not in ("codebook_dim", "temperature")}
    torch.manual_seed(1)
    transformer = Transformer(TransformerConfig(**plain), FIELDS)
    torch.manual_seed(1)
    dual = DualAttention(DualAttentionConfig(**plain, combo=False, filter="none"), FIELDS)
    assert dual.pairs is None and not dual.frequency
    state = transformer.state_dict()
    assert state.keys() == dual.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in dual.state_dict().items())
    x = torch.randn(ROWS, FIELDS, 6)
    results = []
    for model in (transformer, dual):
        logits = model({"tokens": x}).logits_B
        logits.sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", ["hard", "soft", "top_rho", "information_abundance"])
def test_a_filtered_row_sums_to_one_and_keeps_itself(kind: Any) -> None:
    torch.manual_seed(1)
    keep = {"rho": 0.2} if kind == "top_rho" else {"frequency": False}
    config = DualAttentionConfig(embedding_dim=6, filter=kind, **keep)
    layer = CollapseFilter(config, FIELDS).eval()
    plain = (8 * torch.randn(64, 2, FIELDS, FIELDS)).softmax(-1)
    out = layer(plain, torch.randn(64, FIELDS, 6), Context(None, None, torch.rand(FIELDS)))
    torch.testing.assert_close(out.sum(-1), torch.ones(64, 2, FIELDS))
    own = out.diagonal(dim1=2, dim2=3)
    assert (own >= plain.diagonal(dim1=2, dim2=3) - 1e-6).all()
    if kind in ("hard", "top_rho"):
        assert (out == 0).any()
    if kind == "top_rho":  # ⌈0.2 · 5⌉ = 1, and itself
        assert ((out > 0).sum(-1) <= 2).all()


def test_weighted_sum_begins_in_the_middle() -> None:
    fusion = Fusion(DualAttentionConfig(fusion="weighted_sum"))
    pair, score = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    out = fusion(pair, score, score.softmax(-1))
    torch.testing.assert_close(out, (pair.softmax(-1) + score.softmax(-1)) / 2)
