"""What DLFConfig refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from ctrdist.config.experiment import experiment_of
from ctrdist.config.parse import from_dict, parse, to_dict
from ctrdist.errors import ConfigError
from ctrdist.models.configs import DLFConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0; give at least 1"),
        ({"embedding_dim": 0}, "embedding_dim is 0"),
        ({"tokens_per_block": -1}, "tokens_per_block is -1"),
        ({"rank": 0}, "rank is 0"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"attention_heads": 0}, "attention_heads is 0"),
        ({"attention_layers": -1}, "attention_layers is -1; give 1 or more, or 0"),
        ({"dropout": 1.0}, "dropout is 1.0; give at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        (
            {"attention_heads": 3},
            "attention_heads 3 does not divide embedding_dim 16; .* 1, 2, 4, 8, 16",
        ),
        ({"form": "code", "gate": "none"}, "gate: none cannot be set with form: code.*form: paper"),
        ({"form": "code", "low_order_block": False}, "low_order_block: False"),
        ({"form": "code", "attention_fusion": False}, "attention_fusion: False"),
        ({"form": "code", "attention_layers": 1}, "attention_layers: 1"),
        ({"form": "code", "attention_heads": 1}, "attention_heads: 1"),
        ({"form": "code", "fusion_output": "sum"}, "fusion_output: sum"),
    ],
)
def test_refuses_what_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DLFConfig(**settings)


def test_heads_need_not_divide_where_there_is_no_attention() -> None:
    assert not DLFConfig(embedding_dim=10, attention_heads=4, attention_fusion=False).has_attention
    assert not DLFConfig(embedding_dim=9, form="code").has_attention


def test_the_command_line_gives_the_same_refusal() -> None:
    experiment = experiment_of("dlf", DLFConfig)
    with pytest.raises(ConfigError, match="gate: sigmoid cannot be set with form: code"):
        parse(experiment, ["--model.form", "code", "--model.gate", "sigmoid"])
    parsed, _ = parse(experiment, ["--model.gate", "sigmoid", "--model.embedding_dim", "8"])
    assert parsed.model == DLFConfig(gate="sigmoid", embedding_dim=8)


def test_survives_a_dictionary() -> None:
    experiment = experiment_of("dlf", DLFConfig)
    given = experiment(model=DLFConfig(form="code", num_layers=2, embedding_dim=9))
    assert from_dict(experiment, to_dict(given), "run.yaml") == given
