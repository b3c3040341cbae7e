"""TF4CTR against a float64 reference, for each selection, fusion and simple encoder."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from ctrdist.batch import COMPLEX_LOGITS, SIMPLE_LOGITS
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from ctrdist.models.tf4ctr.tower import TF4CTR
from tests.unit.models.dlf.test_dlf_equations import Weights, assert_agree
from tests.unit.models.test_encoders import compressed, crossed, first_order, machine, mlp

FIELDS, ROWS = 5, 24
SMALL: dict[str, Any] = {"embedding_dim": 8, "complex_hidden_dims": (12, 10), "dropout": 0.0}
NARROW: dict[str, dict[str, Any]] = {
    "mlp": {"simple_hidden_dims": (7,)},
    "cin": {"cin_maps": (3, 2), "cin_out_dim": 6},
}
SELECTIONS, FUSIONS = ("ser", "gm", "mmoe", "share"), ("wsf", "vf", "cf", "moef", "sum")


def softmax(x: Tensor) -> Tensor:
    return x.exp() / x.exp().sum(1, keepdim=True)


def select(
    w: Weights, config: TF4CTRConfig, emb: dict[str, Tensor], training: bool
) -> tuple[Tensor, Tensor]:
    """(3)-(5)."""
    if config.selection == "ser":
        return emb["easy"], emb["hard"]
    h = emb["tokens"].flatten(1)
    if config.selection == "gm":
        g = 1 / (1 + (-mlp(w / "select" / "gate", h, training, output=True)).exp())
        return (g * h).view_as(emb["tokens"]), ((1 - g) * h).view_as(emb["tokens"])
    if config.selection == "share":
        return emb["tokens"], emb["tokens"]
    last = config.selection_sizes == "paper"
    experts = [mlp(w / "select" / "experts" / k, h, training, output=last) for k in (0, 1)]
    mixed = []
    for k in (0, 1):
        g = softmax(mlp(w / "select" / "gates" / k, h, training, output=True))
        mixed.append((g[:, :1] * experts[0] + g[:, 1:] * experts[1]).view_as(emb["tokens"]))
    return mixed[0], mixed[1]


def fuse(
    w: Weights, config: TF4CTRConfig, hs: Tensor, hc: Tensor, z: list[Tensor], noise: Tensor
) -> Tensor:
    """(8)-(11)."""
    both = torch.cat([hs, hc], 1)
    if config.fusion == "sum":
        return z[0] + z[1]
    if config.fusion == "wsf":
        return w["fuse.weight_S"][0] * z[0] + w["fuse.weight_S"][1] * z[1]
    if config.fusion == "cf":
        return both @ w["fuse.output.weight"][0] + w["fuse.output.bias"]
    if config.fusion == "moef":
        g = softmax(both @ w["fuse.gate.weight"].T + w["fuse.gate.bias"])
        m = both @ w["fuse.experts.weight"].T + w["fuse.experts.bias"]
        return g[:, 0] * m[:, 0] + g[:, 1] * m[:, 1]
    simple = hs @ w["fuse.simple_score.weight"][0] + w["fuse.simple_score.bias"]
    hard = hc @ w["fuse.complex_score.weight"][0] + w["fuse.complex_score.bias"]
    p = softmax((torch.stack([simple, hard], 1) + noise) / config.vote_temperature)
    return p[:, 0] * z[0] + p[:, 1] * z[1]


def tf4ctr(
    w: Weights, config: TF4CTRConfig, emb: dict[str, Tensor], training: bool, noise: Tensor
) -> Tensor:
    """(B, 3): the fused logit and the encoders' own."""
    easy, hard = select(w, config, emb, training)
    if config.simple == "mlp":
        hs = mlp(w / "simple" / "mlp", easy.flatten(1), training)
    elif config.simple == "lr":
        hs = first_order(w / "simple", emb["linear"][..., 0])
    elif config.simple == "fm":
        hs = machine(w / "simple", easy, emb["linear"][..., 0])
    elif config.simple == "cross":
        hs = crossed(w / "simple", easy, config.cross_layers)
    else:
        hs = compressed(w / "simple", easy, len(config.cin_maps))
    hc = mlp(w / "complex" / "mlp", hard.flatten(1), training)
    z = [
        h @ w[f"{name}_head.weight"][0] + w[f"{name}_head.bias"]
        for name, h in (("simple", hs), ("complex", hc))
    ]
    fused = fuse(w, config, hs, hc, z, noise)
    if config.simple == "cin":
        fused = fused + emb["linear"][..., 0].sum(1)
    return torch.stack([fused, *z], 1)


def build(config: TF4CTRConfig) -> TF4CTR:
    """A tower whose norms and biases are not at their defaults, so that leaving one out shows."""
    torch.manual_seed(1)
    model = TF4CTR(config, FIELDS)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dim() == 1 and "num_batches" not in name:
                value.add_(0.1 * torch.rand_like(value))
    return model


def assert_equals_the_reference(config: TF4CTRConfig, training: bool) -> None:
    model = build(config).train(training)
    noise = torch.zeros(ROWS, 2)
    if training and config.fusion == "vf":  # the draw of a Gumbel variable, with the same seed
        torch.manual_seed(7)
        noise = -torch.empty(ROWS, 2).exponential_().log()

    def split(x: Tensor) -> dict[str, Tensor]:
        return dict(zip(model.groups, x.split(list(model.groups.values()), 2), strict=True))

    def run(x: Tensor) -> Tensor:
        torch.manual_seed(7)
        out = model(split(x))
        assert out.logits_B.dtype == torch.float32
        return torch.stack([out.logits_B, out.aux[SIMPLE_LOGITS], out.aux[COMPLEX_LOGITS]], 1)

    assert_agree(
        model,
        run,
        lambda w, x: tf4ctr(w, config, split(x), training, noise.double()),
        torch.randn(ROWS, FIELDS, sum(model.groups.values())),
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("selection", "fusion"), list(product(SELECTIONS, FUSIONS)))
def test_every_selection_with_every_fusion(selection: Any, fusion: Any, training: bool) -> None:
    config = TF4CTRConfig(selection=selection, fusion=fusion, **SMALL, **NARROW["mlp"])
    assert_equals_the_reference(config, training)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize(
    ("simple", "selection"),
    [*product(("fm", "cin", "cross"), SELECTIONS), ("lr", "share")],
)
def test_every_simple_encoder(simple: Any, selection: Any, fusion: Any) -> None:
    config = TF4CTRConfig(
        simple=simple, selection=selection, fusion=fusion, **SMALL, **NARROW.get(simple, {})
    )
    assert_equals_the_reference(config, training=True)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("selection", ["gm", "mmoe"])
def test_selection_in_the_sizes_of_the_code(
    selection: Any, batch_norm: bool, training: bool
) -> None:
    config = TF4CTRConfig(
        selection=selection, selection_sizes="code", batch_norm=batch_norm, **SMALL, **NARROW["mlp"]
    )
    assert_equals_the_reference(config, training)
