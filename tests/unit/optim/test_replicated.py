"""Data-parallel tables move as the same algorithm moves sharded ones."""

import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.optim.replicated import ReplicatedTables

NAME = "tables.embedding_bags.tokens/C0.weight"
SHAPE = (40, 8)
# rows that are looked up, per step: the references must not move the others
ROWS = [[1, 5, 7], [1, 2], [5, 7, 30, 1], [39]]


def gradients() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    result = []
    for rows in ROWS:
        grad = torch.zeros(SHAPE)
        grad[rows] = torch.randn(len(rows), SHAPE[1], generator=generator)
        result.append(grad)
    return result


def trained(name: str, weight_decay: float = 0.0) -> torch.Tensor:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, SHAPE[0] * SHAPE[1]).view(SHAPE))
    table = TableOptimConfig(name=name, lr=0.1, eps=1e-3, weight_decay=weight_decay)
    replicated = ReplicatedTables({NAME: weight}, OptimConfig(tables=table))
    for step, grad in enumerate(gradients()):
        weight.grad = grad.clone()
        replicated.step(lambda _: 0.1, step + 1)
        replicated.zero_grad()
        assert weight.grad is None
    return weight.detach()


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda w: torch.optim.SGD([w], lr=0.1)),
        ("adagrad", lambda w: torch.optim.Adagrad([w], lr=0.1, eps=1e-3)),
        ("rowwise_adagrad", lambda w: RowWiseAdagrad([w], lr=0.1, eps=1e-3)),
    ],
)
def test_equals_the_plain_optimiser(name, reference):
    weight = torch.nn.Parameter(torch.linspace(-1, 1, SHAPE[0] * SHAPE[1]).view(SHAPE))
    optimiser = reference(weight)
    for grad in gradients():
        weight.grad = grad.clone()
        optimiser.step()
    torch.testing.assert_close(trained(name), weight.detach())


def test_fused_adam_moves_looked_up_rows_only():
    """Written out: moments of a row decay only when the row is seen, the bias by the step."""
    expected = torch.linspace(-1, 1, SHAPE[0] * SHAPE[1]).view(SHAPE).clone()
    first, second = torch.zeros(SHAPE), torch.zeros(SHAPE)
    rowwise, mean_second = expected.clone(), torch.zeros(SHAPE[0])
    for t, (rows, grad) in enumerate(zip(ROWS, gradients(), strict=True), start=1):
        for row in rows:
            g = grad[row]
            first[row] = 0.9 * first[row] + 0.1 * g
            second[row] = 0.999 * second[row] + 0.001 * g * g
            mean_second[row] = 0.999 * mean_second[row] + 0.001 * (g * g).mean()
            m = first[row] / (1 - 0.9**t)
            correction = 1 - 0.999**t
            expected[row] -= 0.1 * m / ((second[row] / correction).sqrt() + 1e-3)
            rowwise[row] -= 0.1 * m / ((mean_second[row] / correction).sqrt() + 1e-3)
    torch.testing.assert_close(trained("fused_adam"), expected)
    torch.testing.assert_close(trained("fused_rowwise_adam"), rowwise)


def test_weight_decay_is_decoupled_and_of_looked_up_rows_only():
    plain, decayed = trained("rowwise_adagrad"), trained("rowwise_adagrad", weight_decay=0.5)
    start = torch.linspace(-1, 1, SHAPE[0] * SHAPE[1]).view(SHAPE)
    seen = sorted({row for rows in ROWS for row in rows})
    unseen = [row for row in range(SHAPE[0]) if row not in seen]
    assert torch.equal(decayed[unseen], start[unseen])
    # seen in one step only: w(1 − lr·λ) − lr·g/(…)
    torch.testing.assert_close(plain[39] - decayed[39], 0.1 * 0.5 * start[39])


def test_state_is_named_and_shaped_as_that_of_sharded_tables():
    for name, shapes in {
        "sgd": {},
        "adagrad": {"momentum1": SHAPE},
        "rowwise_adagrad": {"momentum1": SHAPE[:1]},
        "fused_adam": {"momentum1": SHAPE, "exp_avg_sq": SHAPE},
    }.items():
        replicated = ReplicatedTables(
            {NAME: torch.zeros(SHAPE)}, OptimConfig(tables=TableOptimConfig(name=name))
        )
        state = replicated.tensors().get(NAME, {})
        assert {k: tuple(v.shape) for k, v in state.items()} == {
            f"tokens/C0.{key}": shape for key, shape in shapes.items()
        }
