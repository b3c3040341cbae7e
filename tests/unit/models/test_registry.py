import subprocess
import sys

import pytest
import torch

from ctrdist.errors import ConfigError
from ctrdist.models.dlf.settings import DLFConfig
from ctrdist.models.registry import build_tower, config_class, model_names


@pytest.mark.parametrize("name", model_names())
def test_every_model_builds_from_its_defaults_and_returns_logits(name: str) -> None:
    tower = build_tower(name, config_class(name)(), 7)
    emb = {group: torch.randn(4, 7, dim) for group, dim in tower.groups.items()}
    pairs = getattr(tower, "pairs", None)
    if pairs is not None:
        emb["pairs"] = torch.randn(4, pairs.pair_scores, 7, 7)
    if getattr(tower, "frequency", False):
        emb["frequency"] = torch.randn(4, 7)
    logits_B = tower(emb).logits_B
    assert logits_B.shape == (4,)
    assert logits_B.dtype == torch.float32


def test_finds_the_config_of_dlf() -> None:
    assert config_class("dlf") is DLFConfig


def test_unknown_name_is_answered_with_the_nearest_and_all() -> None:
    for ask in (config_class, lambda name: build_tower(name, DLFConfig(), 3)):
        with pytest.raises(ConfigError, match=r"'dfl'; the nearest is 'dlf'; choose one of: .*dlf"):
            ask("dfl")
    with pytest.raises(ConfigError, match=r"'xyz'; choose one of"):
        config_class("xyz")


def test_config_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="got settings of type dict; it needs DLFConfig"):
        build_tower("dlf", {"num_layers": 3}, 3)


def test_config_class_imports_no_torch() -> None:
    code = (
        "import sys; from ctrdist.models.registry import config_class; config_class('dlf')();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
