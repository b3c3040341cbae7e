"""Both forms of DLF against a float64 reference with a loop for each block, pair and head."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrdist.batch import GATE_MEAN
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dlf.tower import (
    DLF,
    AttentionFusion,
    FactorBlock,
    GatedResidual,
    GatePool,
    MLPFusion,
)

SMALL: dict[str, Any] = {
    "embedding_dim": 8,
    "tokens_per_block": 3,
    "rank": 4,
    "hidden_dim": 12,
    "num_layers": 2,
}
TOLERANCE = 1e-5


class Weights:
    """The weights of a module in float64, by dotted name; `w / "low"` are those of a part."""

    def __init__(self, tensors: dict[str, Tensor], prefix: str = "") -> None:
        self.tensors, self.prefix = tensors, prefix

    @classmethod
    def of(cls, module: torch.nn.Module) -> Weights:
        names = {name for name, _ in module.named_parameters()}
        return cls(
            {
                k: v.detach().double().requires_grad_(k in names)
                for k, v in module.state_dict().items()
            }
        )

    def __truediv__(self, part: str | int) -> Weights:
        return Weights(self.tensors, f"{self.prefix}{part}.")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def __contains__(self, name: str) -> bool:
        return any(key.startswith(self.prefix + name) for key in self.tensors)


def layer_norm(w: Weights, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * w["weight"] + w["bias"]


def batch_norm(w: Weights, x: Tensor, training: bool) -> Tensor:
    mean = x.mean(0) if training else w["running_mean"]
    variance = ((x - x.mean(0)) ** 2).mean(0) if training else w["running_var"]
    return (x - mean) / (variance + 1e-5).sqrt() * w["weight"] + w["bias"]


def mlp(w: Weights, x: Tensor, training: bool) -> Tensor:
    """Linear → BatchNorm → ReLU → Dropout(0) → Linear."""
    x = x @ (w / 0)["weight"].T + (w / 0)["bias"]
    if "1.running_mean" in w:
        x = batch_norm(w / 1, x, training)
    last = 4 if "4.weight" in w else 3
    return x.clamp(min=0) @ (w / last)["weight"].T + (w / last)["bias"]


def token_map(w: Weights, x: Tensor) -> Tensor:
    out = torch.einsum("bnd,nm->bmd", x, w["weight_NM"])
    return out + w["bias_M"][:, None] if "bias_M" in w else out


def factor_block(w: Weights, left: Tensor, x: Tensor, training: bool) -> Tensor:
    if "left.weight_NM" in w:
        left = token_map(w / "left", left)
    pairs = torch.stack([a @ b.T @ w["weight_NR"] for a, b in zip(left, x, strict=True)])
    return mlp(w / "mlp", layer_norm(w / "norm", pairs.reshape(len(x), -1)), training).unflatten(
        1, (-1, x.shape[2])
    )


def code_layer(w: Weights, config: DLFConfig, x: Tensor, x0: Tensor, training: bool) -> Tensor:
    tokens = [
        factor_block(w / "high", x, x, training),
        factor_block(w / "low", x0, x, training),
        token_map(w / "compress", x),
    ]
    residual = token_map(w / "residual", x) if "residual.weight_NM" in w else x
    return layer_norm(w / "norm", torch.cat(tokens, 1) + residual)


def attention_fusion(w: Weights, z: list[Tensor], heads: int, own: bool = True) -> list[Tensor]:
    """(10)-(14); without attention to the own block it ends at (12)."""
    dim = z[0].shape[-1]
    width = dim // heads
    q, k, v = (
        [z[i] @ w["qkv_IDX"][i].split(dim, 1)[part] for i in range(len(z))] for part in range(3)
    )

    def attend(i: int, j: int) -> Tensor:
        parts = []
        for h in range(heads):
            own = slice(h * width, (h + 1) * width)
            scores = q[i][..., own] @ k[j][..., own].transpose(1, 2) / width**0.5
            weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
            parts.append(weights @ v[j][..., own])
        return torch.cat(parts, -1)

    out = []
    for i in range(len(z)):
        others = torch.cat([attend(i, j) for j in range(len(z)) if j != i], -1)  # (11)
        cross = others @ w["cross_IXD"][i] + w["cross_bias_ID"][i]  # (12)
        if not own:
            out.append(cross)
            continue
        both = torch.cat([cross, attend(i, i)], -1)  # (13)
        out.append(both @ w["fuse_IXD"][i] + w["fuse_bias_ID"][i])  # (14)
    return out


def gate_pool(w: Weights, z: list[Tensor]) -> list[Tensor]:
    """Z̃_i = Σ_j exp(Z_j W_ij) ⊙ Z_j / Σ_j exp(Z_j W_ij)."""
    dim, out = z[0].shape[-1], []
    for i in range(len(z)):
        weights = [
            (z_j @ w["weight_JDX"][j][:, i * dim : (i + 1) * dim]).exp() for j, z_j in enumerate(z)
        ]
        out.append(sum(g * z_j for g, z_j in zip(weights, z, strict=True)) / sum(weights))
    return out


def mlp_fusion(w: Weights, z: list[Tensor], training: bool) -> list[Tensor]:
    fused = mlp(w / "mlp", torch.cat(z, 1).flatten(1), training).unflatten(1, (-1, z[0].shape[2]))
    return list(fused.split(z[0].shape[1], 1))


def fuse(w: Weights, config: DLFConfig, z: list[Tensor], training: bool) -> list[Tensor]:
    if config.fusion == "mlp":
        return mlp_fusion(w, z, training)
    if config.fusion == "gate_pool":
        return gate_pool(w, z)
    return attention_fusion(w, z, config.attention_heads, own=config.fusion == "naf")


def gated_residual(w: Weights, config: DLFConfig, x: Tensor) -> Tensor:
    """The second term of (9)."""
    e = token_map(w / "project", x) if "project" in w else x
    if config.gate == "plain":
        return e
    score = e @ w["gate.weight"].T
    if config.gate == "sigmoid":
        return e / (1 + (-score).exp())
    return torch.where(score > 1e-6, score, 1e-6) * e


def paper_layer(w: Weights, config: DLFConfig, x: Tensor, x0: Tensor, training: bool) -> Tensor:
    z = [factor_block(w / "low", x0, x, training)] if config.low_order_block else []  # (5)
    z += [factor_block(w / "high", x, x, training), token_map(w / "implicit", x)]  # (6), (7)
    z = [block.clamp(min=0) for block in z]
    tokens, fused = z, z
    rounds = {"concat": 0, "mlp": 1, "gate_pool": 1}.get(config.fusion, config.attention_layers)
    if rounds:
        for index in range(rounds):
            fused = fuse(w / "fusion" / index, config, fused, training)
        concat = config.fusion_output == "concat"
        tokens = fused + z if concat else [a + b for a, b in zip(fused, z, strict=True)]  # (15)
    total = torch.cat(tokens, 1)
    if config.gate != "none":
        total = total + gated_residual(w / "residual", config, x)  # (9)
    return layer_norm(w / "norm", total)


def dlf(w: Weights, config: DLFConfig, x0: Tensor, training: bool) -> Tensor:
    layer = code_layer if config.form == "code" else paper_layer
    x = x0
    for index in range(config.num_layers):
        x = layer(w / "layers" / index, config, x, x0, training)
    if config.form == "code":
        return mlp(w / "head", x.flatten(1), training)[:, 0]
    return x.flatten(1) @ w["head.weight"][0] + w["head.bias"][0]  # (16)


def distance(out: Tensor, reference: Tensor) -> float:
    out, reference = out.detach().double(), reference.detach()
    return float((out - reference).norm() / reference.norm())


def assert_agree(
    module: torch.nn.Module,
    run: Callable[[Tensor], Tensor],
    reference: Callable[[Weights, Tensor], Tensor],
    x: Tensor,
) -> None:
    """Output, gradient of the input, and the gradient of all weights as one vector."""
    weights = Weights.of(module)
    x32, x64 = x.clone().requires_grad_(), x.double().requires_grad_()
    out, expected = run(x32), reference(weights, x64)
    assert distance(out, expected) < TOLERANCE
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    (out * direction).sum().backward()
    (expected * direction.double()).sum().backward()
    assert x64.grad is not None and x32.grad is not None
    assert distance(x32.grad, x64.grad) < TOLERANCE
    named = [(p.grad, weights[name].grad) for name, p in module.named_parameters()]
    assert all(ours is not None and theirs is not None for ours, theirs in named)
    assert (
        distance(
            torch.cat([ours.flatten() for ours, _ in named]),
            torch.cat([theirs.flatten() for _, theirs in named]),
        )
        < TOLERANCE
    )


def build(config: DLFConfig, num_fields: int = 5) -> DLF:
    """A tower whose norms and biases are not at their defaults, so that leaving one out shows."""
    torch.manual_seed(1)
    model = DLF(config, num_fields)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "running" in name or name.endswith(("norm.weight", "norm.bias")) or "bias" in name:
                value.add_(0.1 * torch.rand_like(value))
    return model


PAPER = [
    {
        "gate": gate,
        "fusion_output": output,
        "low_order_block": low,
        "attention_layers": repeats,
        "attention_heads": heads,
    }
    for gate, output, low, (repeats, heads) in product(
        ("max", "sigmoid", "none", "plain"),
        ("concat", "sum"),
        (True, False),
        ((0, 2), (1, 4), (2, 2)),
    )
    if repeats or output == "concat"
]
FUSIONS: list[dict[str, Any]] = [{"fusion": "concat"}, {"fusion": "concat", "gate": "none"}] + [
    {"fusion": fusion, "fusion_output": output, "low_order_block": low}
    for fusion, output, low in product(
        ("mlp", "gate_pool", "attention_pool"), ("concat", "sum"), (True, False)
    )
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("switches", PAPER + FUSIONS, ids=lambda s: "-".join(map(str, s.values())))
def test_paper_form_equals_the_equations(switches: dict[str, Any], training: bool) -> None:
    config = DLFConfig(**SMALL, **switches)
    model = build(config).train(training)
    assert_agree(
        model,
        lambda x: model({"tokens": x}).logits_B,
        lambda w, x: dlf(w, config, x, training),
        torch.randn(24, 5, 8),
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("form", "num_layers", "num_fields", "batch_norm"),
    [
        ("code", 1, 5, True),
        ("code", 3, 5, True),
        ("code", 2, 9, True),  # as many fields as tokens: no projections
        ("code", 2, 5, False),
        ("paper", 1, 18, True),  # likewise
        ("paper", 3, 5, True),
        ("paper", 1, 2, True),
        ("paper", 2, 5, False),
    ],
)
def test_forms_equal_the_reference_at_other_sizes(
    form: Any, num_layers: int, num_fields: int, batch_norm: bool, training: bool
) -> None:
    config = DLFConfig(**{**SMALL, "num_layers": num_layers}, form=form, batch_norm=batch_norm)
    model = build(config, num_fields).train(training)
    assert_agree(
        model,
        lambda x: model({"tokens": x}).logits_B,
        lambda w, x: dlf(w, config, x, training),
        torch.randn(24, num_fields, 8),
    )


def test_factor_block_equals_5_and_6() -> None:
    torch.manual_seed(1)
    block = FactorBlock(DLFConfig(**SMALL), 5, 7)
    left = torch.randn(24, 5, 8)
    assert_agree(
        block,
        lambda x: block(left, x),
        lambda w, x: factor_block(w, left.double(), x, True),
        torch.randn(24, 7, 8),
    )


@pytest.mark.parametrize("blocks", [2, 3])
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_attention_equals_10_to_14(blocks: int, heads: int) -> None:
    torch.manual_seed(1)
    attention = AttentionFusion(blocks, 8, heads)
    torch.nn.init.normal_(attention.cross_bias_ID)
    torch.nn.init.normal_(attention.fuse_bias_ID)
    assert_agree(
        attention,
        attention,
        lambda w, z: torch.stack(attention_fusion(w, list(z), heads)),
        torch.randn(blocks, 6, 4, 8),
    )


@pytest.mark.parametrize("blocks", [2, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_pooling_ends_at_12(blocks: int, heads: int) -> None:
    torch.manual_seed(1)
    attention = AttentionFusion(blocks, 8, heads, own=False)
    torch.nn.init.normal_(attention.cross_bias_ID)
    assert_agree(
        attention,
        attention,
        lambda w, z: torch.stack(attention_fusion(w, list(z), heads, own=False)),
        torch.randn(blocks, 6, 4, 8),
    )


@pytest.mark.parametrize("blocks", [2, 3])
def test_gate_pool_equals_its_sum_over_blocks(blocks: int) -> None:
    torch.manual_seed(1)
    pool = GatePool(blocks, 8)
    assert_agree(
        pool, pool, lambda w, z: torch.stack(gate_pool(w, list(z))), torch.randn(blocks, 6, 4, 8)
    )


@pytest.mark.parametrize("blocks", [2, 3])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_mlp_fusion_equals_its_layers(blocks: int, batch_norm: bool) -> None:
    torch.manual_seed(1)
    fusion = MLPFusion(DLFConfig(**SMALL, batch_norm=batch_norm), blocks)
    assert_agree(
        fusion,
        fusion,
        lambda w, z: torch.stack(mlp_fusion(w, list(z), True)),
        torch.randn(blocks, 24, 3, 8),
    )


@pytest.mark.parametrize("gate", ["max", "sigmoid", "plain"])
@pytest.mark.parametrize("tokens", [5, 7])
def test_gated_residual_equals_9(gate: Any, tokens: int) -> None:
    torch.manual_seed(1)
    config = DLFConfig(**SMALL, gate=gate)
    residual = GatedResidual(config, 5, tokens)
    if tokens == 5 and gate == "plain":
        x = torch.randn(6, 5, 8)
        assert torch.equal(residual(x)[0], x)
        return
    assert_agree(
        residual,
        lambda x: residual(x)[0],
        lambda w, x: gated_residual(w, config, x),
        torch.randn(6, 5, 8),
    )


@pytest.mark.parametrize("gate", ["max", "sigmoid"])
def test_mean_gates_are_those_of_the_layers(gate: Any) -> None:
    config = DLFConfig(**{**SMALL, "num_layers": 3}, gate=gate)
    model = build(config)
    x0 = torch.randn(24, 5, 8)
    weights, x, expected = Weights.of(model), x0.double(), []
    for index in range(3):
        w = weights / "layers" / index
        residual = w / "residual"
        e = token_map(residual / "project", x) if "project" in residual else x
        score = e @ residual["gate.weight"].T
        expected.append((score.sigmoid() if gate == "sigmoid" else score.clamp(min=1e-6)).mean())
        x = paper_layer(w, config, x, x0.double(), True)
    means = model({"tokens": x0}).aux[GATE_MEAN]
    assert means.dtype == torch.float32
    assert not means.requires_grad
    assert distance(means, torch.stack(expected)) < TOLERANCE
