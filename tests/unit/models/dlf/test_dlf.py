"""What must hold for DLF whatever its equations are."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ctrdist.batch import GATE_MEAN
from ctrdist.losses.objective import log_loss_sum
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dlf.tower import DLF
from ctrdist.models.layers import short_attention

SMALL: dict[str, Any] = {
    "embedding_dim": 8,
    "tokens_per_block": 3,
    "rank": 4,
    "hidden_dim": 16,
    "num_layers": 2,
}
FORMS = ["paper", "code"]
FUSIONS = ["naf", "attention_pool", "gate_pool", "mlp", "concat"]
BUILDS: list[dict[str, Any]] = [{"form": "code"}, *({"fusion": fusion} for fusion in FUSIONS)]


def build(seed: int = 1, num_fields: int = 5, **settings: Any) -> DLF:
    torch.manual_seed(seed)
    return DLF(DLFConfig(**{**SMALL, **settings}), num_fields)


def logits(model: DLF, tokens: Tensor) -> Tensor:
    return model({"tokens": tokens}).logits_B


@pytest.mark.parametrize(
    ("fields", "layers", "tokens", "expected"),
    [
        (10, 3, 32, 14_463_905),
        (10, 8, 32, 36_871_905),
        (39, 3, 32, 15_190_065),
        (39, 8, 32, 37_611_985),
        (10, 3, 16, 7_359_841),
    ],
)
def test_code_form_has_the_released_number_of_parameters(
    fields: int, layers: int, tokens: int, expected: int
) -> None:
    config = DLFConfig(
        form="code", embedding_dim=64, tokens_per_block=tokens, rank=24, num_layers=layers
    )
    with torch.device("meta"):  # counts need no memory
        model = DLF(config, fields)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_groups_name_the_embedding_width() -> None:
    assert build(embedding_dim=12).groups == {"tokens": 12}


ALL_SWITCHES = [
    {"form": "code", "num_layers": 1},
    {"form": "code", "num_layers": 8},
    *(
        {
            "num_layers": layers,
            "gate": gate,
            "fusion_output": output,
            "low_order_block": low,
            "attention_layers": repeats,
        }
        for layers, gate, output, low, repeats in product(
            (1, 8), ("max", "sigmoid", "none", "plain"), ("concat", "sum"), (True, False), (0, 1, 4)
        )
        if (layers == 1 or repeats != 4) and (repeats or output == "concat")
    ),
    *(
        {"num_layers": 2, "fusion": fusion, "fusion_output": output, "low_order_block": low}
        for fusion, output, low in product(
            ("mlp", "gate_pool", "attention_pool"), ("concat", "sum"), (True, False)
        )
    ),
    {"num_layers": 2, "fusion": "concat"},
]


@pytest.mark.parametrize("switches", ALL_SWITCHES, ids=lambda s: "-".join(map(str, s.values())))
def test_gradients_reach_every_parameter(switches: dict[str, Any]) -> None:
    # eval: in training a batch norm takes away any constant, so the bias before it has gradient 0
    model = build(**switches).eval()
    tokens = torch.randn(16, 5, 8, requires_grad=True)
    (logits(model, tokens) * torch.randn(16)).sum().backward()
    named = [("tokens", tokens), *model.named_parameters()]
    unreached = [name for name, p in named if p.grad is None or not p.grad.abs().sum() > 0]
    assert not unreached


SWITCHES: list[dict[str, Any]] = [
    {"form": "code"},
    {"low_order_block": False},
    {"fusion": "concat"},
    {"fusion": "mlp"},
    {"fusion": "gate_pool"},
    {"fusion": "attention_pool"},
    {"low_order_block": False, "fusion": "concat"},
    {"attention_layers": 1},
    {"attention_heads": 4},
    {"fusion_output": "sum"},
    {"gate": "sigmoid"},
    {"gate": "none"},
    {"gate": "plain"},
    {"num_layers": 3},
    {"batch_norm": False},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_each_switch_changes_the_output(switches: dict[str, Any]) -> None:
    full = build().eval()
    other = build(**switches).eval()
    # the weights that both have are made equal, so that only the switch can make the difference
    shapes = {k: v.shape for k, v in other.state_dict().items()}
    shared = {k: v for k, v in full.state_dict().items() if shapes.get(k) == v.shape}
    assert shared
    other.load_state_dict(shared, strict=False)
    with torch.no_grad():  # a statistic that batch norm, where on, must use
        for name, buffer in (*full.named_buffers(), *other.named_buffers()):
            if name.endswith("running_var"):
                buffer.fill_(0.5)
    tokens = torch.randn(16, 5, 8)
    assert (logits(full, tokens) - logits(other, tokens)).abs().max() > 1e-3


def test_no_attention_layers_leave_concat() -> None:
    tokens = torch.randn(4, 5, 8)
    off, none = build(fusion="concat").eval(), build(attention_layers=0).eval()
    assert torch.equal(logits(off, tokens), logits(none, tokens))


@pytest.mark.parametrize(
    ("switches", "tokens"),
    [
        ({}, 18),
        ({"fusion": "concat"}, 9),
        *(
            ({"fusion": fusion, "fusion_output": output, "low_order_block": low}, tokens)
            for fusion in ("naf", "mlp", "gate_pool", "attention_pool")
            for output, low, tokens in (
                ("concat", True, 18),
                ("sum", True, 9),
                ("concat", False, 12),
                ("sum", False, 6),
            )
        ),
    ],
    ids=str,
)
def test_every_fusion_gives_the_tokens_that_its_output_says(
    switches: dict[str, Any], tokens: int
) -> None:
    model = build(**switches)
    x_BND = torch.randn(4, 5, 8)
    for layer in model.layers:
        x_BND, _ = layer(x_BND, torch.randn(4, 5, 8))
        assert x_BND.shape == (4, tokens, 8)


@pytest.mark.parametrize(
    ("gate", "dim"),
    [
        pytest.param("max", 16, marks=pytest.mark.slow),
        ("sigmoid", 16),
        ("plain", 16),
        ("max", 64),
    ],
)
def test_twelve_layers_train_with_finite_gradients(gate: str, dim: int) -> None:
    torch.manual_seed(1)
    config = DLFConfig(
        num_layers=12, gate=gate, embedding_dim=dim, tokens_per_block=4, rank=4, hidden_dim=32
    )
    model = DLF(config, 10)
    tokens = torch.nn.Parameter(0.01 * torch.randn(16, 10, dim))
    label = (torch.rand(16) < 0.5).float()
    optimizer = torch.optim.Adam([tokens, *model.parameters()], lr=0.003)
    losses = []
    for _ in range(16):
        optimizer.zero_grad()
        loss = log_loss_sum(logits(model, tokens), label) / 16
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_mean_gates_come_while_training_a_tower_that_has_gates() -> None:
    tokens = {"tokens": torch.randn(16, 5, 8)}
    model = build(gate="sigmoid", num_layers=2)
    assert model(tokens).aux[GATE_MEAN].shape == (2,)
    assert not model.eval()(tokens).aux
    for switches in ({"gate": "plain"}, {"gate": "none"}, {"form": "code"}):
        assert not build(**switches)(tokens).aux


@pytest.mark.parametrize("switches", BUILDS, ids=str)
def test_dropout_acts_in_training_only(switches: dict[str, Any]) -> None:
    model = build(**switches, dropout=0.5)
    tokens = torch.randn(64, 5, 8)
    assert not torch.equal(logits(model, tokens), logits(model, tokens))
    model.eval()
    assert torch.equal(logits(model, tokens), logits(model, tokens))


@pytest.mark.parametrize("switches", BUILDS, ids=str)
def test_overfits_random_labels(switches: dict[str, Any]) -> None:
    model = build(**switches, num_fields=6, hidden_dim=32)
    tokens = torch.nn.Parameter(torch.randn(256, 6, 8))
    label = (torch.rand(256) < 0.5).float()
    optimizer = torch.optim.Adam([tokens, *model.parameters()], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = log_loss_sum(logits(model, tokens), label) / 256
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@pytest.mark.parametrize("switches", BUILDS, ids=str)
def test_rows_do_not_depend_on_their_batch_in_eval(switches: dict[str, Any]) -> None:
    model = build(**switches).eval()
    tokens = torch.randn(64, 5, 8)
    whole = logits(model, tokens)
    for sizes in ([1] * 64, [63, 1], [7, 50, 7]):
        parts = torch.cat([logits(model, part) for part in tokens.split(sizes)])
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("switches", BUILDS, ids=str)
def test_state_survives_saving(switches: dict[str, Any], tmp_path: Path) -> None:
    model = build(**switches)
    logits(model, torch.randn(32, 5, 8))  # moves the running statistics
    torch.save(model.state_dict(), tmp_path / "tower.pt")
    other = build(seed=2, **switches)
    other.load_state_dict(torch.load(tmp_path / "tower.pt", weights_only=True))
    tokens = torch.randn(8, 5, 8)
    assert torch.equal(logits(model.eval(), tokens), logits(other.eval(), tokens))


@pytest.mark.parametrize("switches", BUILDS, ids=str)
def test_same_seed_gives_the_same_step(switches: dict[str, Any]) -> None:
    def step() -> list[Tensor]:
        model = build(**switches, dropout=0.2)
        out = logits(model, torch.randn(32, 5, 8))
        out.square().sum().backward()
        return [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    for first, second in zip(step(), step(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("settings", [{"gate": "sigmoid"}, *BUILDS], ids=str)
def test_runs_under_bfloat16_autocast(settings: dict[str, Any]) -> None:
    model = build(**settings)
    tokens = torch.randn(64, 5, 8, requires_grad=True)
    expected = logits(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        out = logits(model, tokens)
    assert out.dtype == torch.float32
    assert 0 < (out - expected).norm() / expected.norm() < 0.1
    out.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("switches", BUILDS, ids=str)
def test_traces_as_one_graph(switches: dict[str, Any]) -> None:
    model = build(**switches)
    # the tracer without code generation, which would take minutes
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    tokens = torch.randn(16, 5, 8)
    ours, theirs = compiled({"tokens": tokens}), model({"tokens": tokens})
    # compiled, softmax is torch's own
    torch.testing.assert_close(ours.logits_B, theirs.logits_B)
    assert ours.aux.keys() == theirs.aux.keys()
    for name, value in theirs.aux.items():
        torch.testing.assert_close(ours.aux[name], value)


def test_no_matrix_of_token_pairs_is_kept() -> None:
    saved: list[torch.Size] = []

    def remember(tensor: Tensor) -> Tensor:
        saved.append(tensor.shape)
        return tensor

    model = build(num_fields=40, tokens_per_block=20)  # D = 8, k = 4, N = 40, then 120
    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        logits(model, torch.randn(2, 40, 8))
    pairs = {(n, m) for n in (40, 120) for m in (40, 120)}
    assert saved
    assert not [shape for shape in saved if len(shape) > 2 and tuple(shape[-2:]) in pairs]


@pytest.mark.parametrize("rows", [1, 256, 600])
def test_short_attention_is_that_of_pytorch(rows: int) -> None:
    torch.manual_seed(1)
    sizes = [(rows, 6, 9, 4), (rows, 6, 3, 4), (rows, 6, 3, 4)]
    tensors = [torch.randn(size, requires_grad=True) for size in sizes]
    direction = torch.randn(sizes[0])
    results = []
    for kernel in (short_attention, functional.scaled_dot_product_attention):
        out = kernel(*tensors)
        results.append([out, *torch.autograd.grad((out * direction).sum(), tensors)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_single_field_and_a_single_row_will_do(form: str) -> None:
    model = build(form=form, num_fields=1)
    tokens = torch.randn(32, 1, 8)
    logits(model, tokens).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert logits(model.eval(), tokens[:1]).isfinite().all()
