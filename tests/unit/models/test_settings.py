"""Settings that models refuse, and the messages."""

from typing import Any

import pytest

from ctrdist.config.experiment import experiment_of
from ctrdist.config.parse import from_dict, parse, to_dict
from ctrdist.errors import ConfigError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.dual_attention.settings import DualAttentionConfig, TransformerConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_layers": 0}, "DLF: num_layers is 0; give 1 to 12"),
        ({"num_layers": 13}, "num_layers is 13; give 1 to 12"),
        ({"embedding_dim": 0}, "embedding_dim is 0; give at least 1"),
        ({"tokens_per_block": -1}, "tokens_per_block is -1"),
        ({"rank": 0}, "rank is 0"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"attention_heads": 0}, "attention_heads is 0"),
        ({"attention_layers": -1}, "attention_layers is -1; give 0 to 4"),
        ({"attention_layers": 5}, "attention_layers is 5; give 0 to 4"),
        (
            {"fusion": "attention_pool", "attention_layers": 0},
            "attention_pool computes nothing with attention_layers: 0; .*fusion: concat",
        ),
        (
            {"fusion": "concat", "fusion_output": "sum"},
            "fusion_output: sum has no fused tokens to add with fusion: concat; leave",
        ),
        (
            {"attention_layers": 0, "fusion_output": "sum"},
            "fusion_output: sum .* with attention_layers: 0; leave fusion_output out",
        ),
        ({"dropout": 1.0}, "dropout is 1.0; give at least 0 and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        (
            {"attention_heads": 3},
            "attention_heads 3 does not divide embedding_dim 16; .* 1, 2, 4, 8, 16",
        ),
        ({"form": "code", "gate": "none"}, "gate: none has no effect with form: code.*form: paper"),
        ({"form": "code", "low_order_block": False}, "low_order_block: False"),
        ({"form": "code", "fusion": "concat"}, "fusion: concat has no effect with form: code"),
        ({"form": "code", "attention_layers": 1}, "attention_layers: 1"),
        ({"form": "code", "attention_heads": 1}, "attention_heads: 1"),
        ({"form": "code", "fusion_output": "sum"}, "fusion_output: sum"),
    ],
)
def test_refuses_what_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DLFConfig(**settings)


def test_heads_need_not_divide_where_there_is_no_attention() -> None:
    for fusion in ("concat", "mlp", "gate_pool"):
        assert not DLFConfig(embedding_dim=10, attention_heads=4, fusion=fusion).has_attention
    assert not DLFConfig(embedding_dim=10, attention_heads=4, attention_layers=0).has_attention
    assert not DLFConfig(embedding_dim=9, form="code").has_attention
    for fusion in ("naf", "attention_pool"):
        with pytest.raises(ConfigError, match="attention_heads 4 does not divide"):
            DLFConfig(embedding_dim=10, attention_heads=4, fusion=fusion)


@pytest.mark.parametrize("layers", [1, 12])
@pytest.mark.parametrize("rounds", [0, 4])
def test_accepts_the_ends_of_the_ranges(layers: int, rounds: int) -> None:
    assert DLFConfig(num_layers=layers, attention_layers=rounds).fusion_rounds == rounds


def test_the_command_line_gives_the_same_refusal() -> None:
    experiment = experiment_of("dlf", DLFConfig)
    with pytest.raises(ConfigError, match="gate: sigmoid has no effect with form: code"):
        parse(experiment, ["--model.form", "code", "--model.gate", "sigmoid"])
    parsed, _ = parse(experiment, ["--model.gate", "sigmoid", "--model.embedding_dim", "8"])
    assert parsed.model == DLFConfig(gate="sigmoid", embedding_dim=8)


def test_survives_a_dictionary() -> None:
    experiment = experiment_of("dlf", DLFConfig)
    given = experiment(model=DLFConfig(form="code", num_layers=2, embedding_dim=9))
    assert from_dict(experiment, to_dict(given), "run.yaml") == given


@pytest.mark.parametrize("config", [TransformerConfig, DualAttentionConfig])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_dim": 0}, "embedding_dim is 0; give at least 1"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"attention_heads": 0}, "attention_heads is 0"),
        ({"attention_heads": 3}, "attention_heads 3 does not divide .*16; .* 1, 2, 4, 8, 16"),
        ({"feed_forward_factor": 0}, "feed_forward_factor is 0"),
        ({"hidden_dims": (400, 0)}, "hidden_dims is .*give widths from 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_transformers_refuse(config: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebooks": 0}, r"\(DEA-R\): codebooks is 0; give at least 1"),
        ({"codebook_rows": 0}, "codebook_rows is 0"),
        ({"codebook_rows": 2**31}, "give less than 2.31, or more codebooks"),
        ({"codebook_dim": 6}, "codebook_dim is 6; give a multiple of 4"),
        ({"codebook_init_std": 0.0}, "codebook_init_std is 0.0"),
        ({"temperature": 0.0}, "temperature is 0.0; give more than 0"),
        ({"filter": "top_rho", "rho": 0.0}, "rho is 0.0; give more than 0 and at most 1"),
        ({"filter": "top_rho", "rho": 1.1}, "rho is 1.1"),
        ({"fusion_dim": 0}, "fusion_dim is 0"),
        (
            {"combo": False, "shuffle_pairs": True},
            "shuffle_pairs: True has no effect with combo: false; leave shuffle_pairs out",
        ),
        ({"combo": False, "recompute_lookups": True}, "recompute_lookups: True"),
        ({"rho": 0.3}, "rho: 0.3 has no effect with filter: hard; .*change filter"),
    ],
)
def test_dual_attention_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DualAttentionConfig(**settings)


def test_an_ablation_leaves_the_rest_of_a_preset_as_it_is() -> None:
    config = DualAttentionConfig(combo=False, filter="none", codebook_rows=10**6, temperature=0.1)
    assert not config.has_threshold


def test_dual_attention_survives_a_dictionary_and_the_command_line() -> None:
    experiment = experiment_of("dual_attention", DualAttentionConfig)
    given = experiment(model=DualAttentionConfig(hidden_dims=(20, 10), filter="top_rho", rho=0.3))
    assert from_dict(experiment, to_dict(given), "run.yaml") == given
    parsed, _ = parse(experiment, ["--model.hidden_dims", "[20, 10]", "--model.fusion", "multiply"])
    assert parsed.model == DualAttentionConfig(hidden_dims=(20, 10), fusion="multiply")
