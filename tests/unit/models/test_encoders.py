"""The encoders against float64 references with a loop for each field and pair."""

import pytest
import torch
from torch import Tensor

from ctrdist.models.encoders import (
    CINEncoder,
    CrossEncoder,
    Encoder,
    FMEncoder,
    LREncoder,
    MLPEncoder,
)
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from tests.unit.models.dlf.test_dlf_equations import Weights, assert_agree, batch_norm

FIELDS, DIM = 5, 4


def mlp(w: Weights, x: Tensor, training: bool, *, output: bool = False) -> Tensor:
    """Linear → BatchNorm (if there) → ReLU for each hidden layer; then a Linear, where asked for.

    A Linear is told from a norm by its weight's axes.
    """
    places = [i for i in range(40) if f"{i}.weight" in w and (w / i)["weight"].dim() == 2]
    for place in places:
        x = x @ (w / place)["weight"].T + (w / place)["bias"]
        if output and place == places[-1]:
            break
        if f"{place + 1}.running_mean" in w:
            x = batch_norm(w / (place + 1), x, training)
        x = x.clamp(min=0)
    return x


def first_order(w: Weights, first: Tensor) -> Tensor:
    total = sum(first[:, i] for i in range(first.shape[1]))
    return (total + w["bias"] if "bias" in w else total)[:, None]


def machine(w: Weights, emb: Tensor, first: Tensor) -> Tensor:
    pairs = torch.zeros(len(emb), 1, dtype=emb.dtype)
    for i in range(emb.shape[1]):
        for j in range(i + 1, emb.shape[1]):
            pairs = pairs + (emb[:, i] * emb[:, j]).sum(1, keepdim=True)
    return first_order(w / "first_order", first) + pairs


def compressed(w: Weights, emb: Tensor, layers: int) -> Tensor:
    fields, x, sums = emb.shape[1], emb, []
    for layer in range(layers):
        weight, bias = (w / "layers" / layer)["weight"], (w / "layers" / layer)["bias"]
        maps = []
        for m in range(len(weight)):
            total = bias[m] + torch.zeros_like(emb[:, 0])
            for i in range(x.shape[1]):
                for j in range(fields):
                    total = total + weight[m, i * fields + j] * x[:, i] * emb[:, j]
            maps.append(total)
        x = torch.stack(maps, 1)
        sums.append(x.sum(2))
    return torch.cat(sums, 1) @ w["output.weight"].T + w["output.bias"]


def crossed(w: Weights, emb: Tensor, layers: int) -> Tensor:
    x0 = x = emb.flatten(1)
    for layer in range(layers):
        product = torch.einsum("bn,bm,m->bn", x0, x, (w / "layers" / layer)["weight"][0])
        x = product + w["bias_LN"][layer] + x
    return x


def both(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, F, D + 1) → embeddings and first-order weights."""
    return x[..., :DIM], x[..., DIM]


def moved(encoder: Encoder) -> Encoder:
    """Biases, norms and statistics away from their defaults, so that leaving one out shows."""
    with torch.no_grad():
        for name, value in encoder.state_dict().items():
            if value.dim() == 1 and "num_batches" not in name:
                value.add_(0.1 * torch.rand_like(value))
    return encoder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("hidden", [[7], [7, 6, 3]])
def test_mlp(hidden: list[int], norm: bool, training: bool) -> None:
    config = TF4CTRConfig(dropout=0.0, batch_norm=norm)
    encoder = moved(MLPEncoder(config, FIELDS * DIM, hidden)).train(training)
    assert encoder.out_dim == hidden[-1] and not encoder.reads_first_order

    def reference(w: Weights, x: Tensor) -> Tensor:
        return mlp(w / "mlp", x.flatten(1), training)

    assert_agree(encoder, lambda x: encoder(x, None), reference, torch.randn(24, FIELDS, DIM))


def test_logistic_regression() -> None:
    encoder = moved(LREncoder(bias=True))
    assert encoder.out_dim == 1 and encoder.reads_first_order
    x = torch.randn(24, FIELDS, DIM + 1)
    assert_agree(
        encoder,
        lambda x: encoder(*both(x)),
        lambda w, x: first_order(w, both(x)[1]),
        x,
    )
    plain = LREncoder()
    assert not list(plain.parameters())
    torch.testing.assert_close(plain(*both(x)), encoder(*both(x)) - encoder.bias)


def test_factorisation_machine() -> None:
    encoder = moved(FMEncoder())
    assert encoder.out_dim == 1 and encoder.reads_first_order
    assert_agree(
        encoder,
        lambda x: encoder(*both(x)),
        lambda w, x: machine(w, *both(x)),
        torch.randn(24, FIELDS, DIM + 1),
    )


def test_factorisation_machine_reads_each_row_by_itself() -> None:
    x = torch.randn(24, FIELDS, DIM + 1)
    encoder = FMEncoder()
    assert encoder(*both(x)).std() > 0.1
    torch.testing.assert_close(encoder(*both(x[3:4])), encoder(*both(x))[3:4])


@pytest.mark.parametrize("maps", [[3], [4, 3], [2, 6, 3]])
def test_compressed_interaction_network(maps: list[int]) -> None:
    encoder = moved(CINEncoder(FIELDS, maps, 7))
    assert encoder.out_dim == 7 and not encoder.reads_first_order
    assert_agree(
        encoder,
        lambda x: encoder(x, None),
        lambda w, x: compressed(w, x, len(maps)),
        torch.randn(24, FIELDS, DIM),
    )


@pytest.mark.parametrize("layers", [1, 3])
def test_cross_network(layers: int) -> None:
    encoder = CrossEncoder(FIELDS * DIM, layers)
    torch.nn.init.normal_(encoder.bias_LN)
    assert encoder.out_dim == FIELDS * DIM and not encoder.reads_first_order
    assert_agree(
        encoder,
        lambda x: encoder(x, None),
        lambda w, x: crossed(w, x, layers),
        torch.randn(24, FIELDS, DIM),
    )


def test_the_difference_of_large_sums_is_not_taken_in_bfloat16() -> None:
    emb, first = both(torch.randn(24, FIELDS, DIM + 1))
    encoder = FMEncoder()
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder(emb.bfloat16(), first)
    torch.testing.assert_close(out, encoder(emb.bfloat16().float(), first))
