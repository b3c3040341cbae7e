"""The checkpoints that a run may resume from, and the loss that it may have then."""

from dataclasses import replace

import pytest
import yaml

from ctrdist.checkpoint.store import Opened, Texts
from ctrdist.config.experiment import Experiment, experiment_of
from ctrdist.config.losses import LossConfig
from ctrdist.config.optimizers import TableOptimConfig
from ctrdist.config.parse import to_dict
from ctrdist.errors import CheckpointError
from ctrdist.models.tf4ctr.settings import TF4CTRConfig
from ctrdist.training.build import check_same_model

RUN = experiment_of("tf4ctr", TF4CTRConfig)(loss=LossConfig(name="twin_focus", gamma=2.0))


def saved(experiment: Experiment, *, without: str = "") -> Opened:
    values = to_dict(experiment)
    values.pop(without, None)
    texts = Texts(config=yaml.safe_dump(values), schema="{}", plan="{}")
    return Opened(path="run/step-1", step=1, state={}, texts=texts)


def test_the_same_settings_go_on() -> None:
    check_same_model(saved(RUN), RUN, "{}")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (LossConfig(), "made with loss.name = 'twin_focus', this run has loss.name = 'log'"),
        (replace(RUN.loss, c=0.9), "loss.c = 0.7, this run has loss.c = 0.9"),
        (replace(RUN.loss, gamma=1.0), "loss.gamma = 2.0, this run has loss.gamma = 1.0"),
        (replace(RUN.loss, alpha=0.5), "loss.alpha = 0.25, this run has loss.alpha = 0.5"),
    ],
)
def test_another_loss_is_refused(loss: LossConfig, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_same_model(saved(RUN), replace(RUN, loss=loss), "{}")


def test_a_checkpoint_from_before_there_were_losses_has_the_log_loss() -> None:
    older = saved(replace(RUN, loss=LossConfig()), without="loss")
    check_same_model(older, replace(RUN, loss=LossConfig()), "{}")
    with pytest.raises(CheckpointError, match=r"loss.name = 'log', this run has .*'twin_focus'"):
        check_same_model(older, RUN, "{}")


def test_widths_are_compared_as_values() -> None:
    other = replace(RUN, model=TF4CTRConfig(simple_hidden_dims=(400,)))
    with pytest.raises(CheckpointError, match=r"simple_hidden_dims = \[400, 400\], .* = \[400\]"):
        check_same_model(saved(RUN), other, "{}")


def test_codebooks_keep_their_optimiser() -> None:
    own = replace(RUN, optim=replace(RUN.optim, codebooks=TableOptimConfig(name="adagrad")))
    assert RUN.optim.tables.name == "rowwise_adagrad"
    message = r"optim.codebooks.name = 'adagrad', this run has optim.codebooks.name = 'rowwise_"
    with pytest.raises(CheckpointError, match=message):
        check_same_model(saved(own), RUN, "{}")
    values = to_dict(RUN)
    del values["optim"]["codebooks"]  # a checkpoint from before there was the setting
    older = replace(saved(RUN), texts=replace(saved(RUN).texts, config=yaml.safe_dump(values)))
    check_same_model(older, RUN, "{}")
    with pytest.raises(CheckpointError, match=r"'rowwise_adagrad', this run has .* 'adagrad'"):
        check_same_model(older, own, "{}")
