"""Settings that TF4CTRConfig refuses, its messages, and the models that its loss accepts."""

from typing import Any

import pytest

from ctrdist.config.experiment import experiment_of
from ctrdist.config.losses import LossConfig
from ctrdist.config.parse import from_dict, parse, to_dict
from ctrdist.errors import ConfigError
from ctrdist.models.registry import check_loss, config_class
from ctrdist.models.tf4ctr.settings import TF4CTRConfig

EXPERIMENT = experiment_of("tf4ctr", TF4CTRConfig)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 1}, "embedding_dim is 1; give at least 2, for selection: ser halves it"),
        ({"embedding_dim": 0, "selection": "gm"}, "embedding_dim is 0; give at least 1\\."),
        ({"simple_hidden_dims": ()}, "simple_hidden_dims is \\[\\]; .* at least one layer"),
        ({"complex_hidden_dims": (4, 0)}, "complex_hidden_dims is \\[4, 0\\]"),
        ({"simple": "cin", "cin_maps": ()}, "cin_maps is \\[\\]"),
        ({"simple": "cin", "cin_out_dim": 0}, "cin_out_dim is 0; give at least 1"),
        ({"simple": "cross", "cross_layers": 0}, "cross_layers is 0; give at least 1"),
        ({"cross_layers": 2}, "cross_layers: 2 has no effect.*set simple: cross"),
        ({"dropout": 1.0}, "dropout is 1.0; give at least 0 and less than 1"),
        ({"fusion": "vf", "vote_temperature": 0.0}, "vote_temperature is 0.0; .* above 0"),
        ({"simple": "lr"}, "selection ser cannot be set with simple: lr.*set selection: share"),
        (
            {"simple": "fm", "simple_hidden_dims": (4,)},
            "simple_hidden_dims: \\(4,\\) has no effect with simple: fm.*set simple: mlp",
        ),
        ({"cin_maps": (4,)}, "cin_maps: \\(4,\\) has no effect.*set simple: cin"),
        ({"cin_out_dim": 4}, "cin_out_dim: 4 has no effect"),
        ({"selection_sizes": "code"}, "has no effect with selection: ser.*gm or mmoe"),
        (
            {"vote_temperature": 0.5},
            "has no effect with fusion: wsf; leave vote_temperature out.*vf",
        ),
    ],
)
def test_refuses_what_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TF4CTRConfig(**settings)


def test_the_command_line_reads_widths() -> None:
    parsed, _ = parse(EXPERIMENT, ["--model.simple_hidden_dims", "[30, 20]", "--loss.c", "0.5"])
    assert parsed.model == TF4CTRConfig(simple_hidden_dims=(30, 20))
    assert parsed.loss == LossConfig(c=0.5)
    with pytest.raises(ConfigError, match="simple_hidden_dims: got '30'; allowed: a list"):
        parse(EXPERIMENT, ["--model.simple_hidden_dims", "30"])


def test_survives_a_dictionary() -> None:
    given = EXPERIMENT(
        model=TF4CTRConfig(simple="cin", cin_maps=(3,), fusion="cf"),
        loss=LossConfig(name="twin_focus", gamma=2.0),
    )
    assert from_dict(EXPERIMENT, to_dict(given), "run.yaml") == given


def test_twin_focus_wants_a_model_of_two_encoders() -> None:
    twin = LossConfig(name="twin_focus")
    check_loss(twin, "tf4ctr")
    with pytest.raises(ConfigError, match=r"dlf has one. Set loss.name to .* two: tf4ctr"):
        check_loss(twin, "dlf")
    for name in ("log", "focal", "r_ce"):
        check_loss(LossConfig(name=name), "dlf")
    assert not hasattr(config_class("dlf")(), "two_encoders")
