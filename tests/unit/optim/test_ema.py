"""The average of a model's weights, against a reference in float64."""

import numpy as np
import pytest
import torch

from ctrdist.config.optimizers import OptimConfig
from ctrdist.errors import ConfigError
from ctrdist.optim.ema import WeightEMA
from ctrdist.optim.fused import check_optim

TABLE = "tables.embedding_bags.emb/user.weight"


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        "tower.weight": torch.randn(4, 3),
        TABLE: torch.randn(5, 4),
        "tower.norm.num_batches_tracked": torch.tensor(7),
    }


def expected(history: list[np.ndarray], decay: float) -> np.ndarray:
    """history: the weight as it began, then after each step."""
    average = history[0].astype(np.float64)
    for step, weight in enumerate(history[1:]):
        d = min(decay, (1 + step) / (10 + step))
        average = d * average + (1 - d) * weight.astype(np.float64)
    return average


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_is_the_moving_average_of_all_steps(decay):
    live = state()
    ema = WeightEMA(live, decay, {"emb/user"})
    history = {name: [live[name].numpy().copy()] for name in ("tower.weight", TABLE)}
    for step in range(40):
        for name, seen in history.items():
            live[name].add_(0.1 * torch.randn_like(live[name]))
            seen.append(live[name].numpy().copy())
        ema.update(step)
    for name, seen in history.items():
        want = expected(seen, decay)
        np.testing.assert_allclose(ema.averages()[name].numpy(), want, rtol=0, atol=1e-6)
        assert torch.equal(ema.trained()[name], live[name])
        assert abs(want - seen[-1]).max() > 0.01  # else any other answer would pass


def test_a_model_has_the_averages_only_within_the_block_however_deep_it_is():
    live = state()
    ema = WeightEMA(live, 0.9, {"emb/user"})
    began = live["tower.weight"].clone()
    live["tower.weight"].add_(1.0)
    trained = live["tower.weight"].clone()
    with ema.in_place():
        with ema.in_place():
            assert torch.equal(live["tower.weight"], began)
        assert torch.equal(live["tower.weight"], began)
        assert torch.equal(ema.averages()["tower.weight"], began)
        assert torch.equal(ema.trained()["tower.weight"], trained)
    assert torch.equal(live["tower.weight"], trained)


def test_what_is_loaded_into_averages_and_trained_arrives_in_either_state():
    for exchanged in (False, True):
        live = state()
        ema = WeightEMA(live, 0.9, {"emb/user"})
        if exchanged:
            ema.exchange()
        ema.averages()["tower.weight"].fill_(1.0)
        ema.trained()["tower.weight"].fill_(2.0)
        assert live["tower.weight"].eq(1.0 if exchanged else 2.0).all()


def test_tables_of_a_fused_optimiser_and_whole_numbers_are_left_alone():
    assert set(WeightEMA(state(), 0.9, set()).averages()) == {"tower.weight"}
    assert set(WeightEMA(state(), 0.9, {"emb/user"}).averages()) == {"tower.weight", TABLE}


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_that_averages_nothing_is_refused(decay):
    with pytest.raises(ConfigError, match=r"optim\.ema_decay"):
        check_optim(OptimConfig(ema_decay=decay), "cpu")
