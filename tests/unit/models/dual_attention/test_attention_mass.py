"""The attention that diagnostics show is the one that the tower computes with."""

from typing import Any

import pytest
import torch

from ctrdist.models.dual_attention.settings import DualAttentionConfig, TransformerConfig
from ctrdist.models.registry import build_tower

FIELDS, ROWS = 6, 9


def tower_and_input(name: str, settings: dict[str, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    cls = TransformerConfig if name == "transformer" else DualAttentionConfig
    tower = build_tower(name, cls(embedding_dim=8, hidden_dims=(4,), **settings), FIELDS).eval()
    emb = {"tokens": torch.randn(ROWS, FIELDS, 8)}
    if getattr(tower, "pairs", None):
        emb["pairs"] = torch.randn(ROWS, tower.pairs.pair_scores, FIELDS, FIELDS)
    if getattr(tower, "frequency", False):
        emb["frequency"] = torch.randn(ROWS, FIELDS)
    return tower, emb


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("transformer", {}),
        ("dual_attention", {"combo": False, "filter": "none"}),
        ("dual_attention", {"fusion": "multiply"}),
        ("dual_attention", {"filter": "top_rho"}),
        ("dual_attention", {"filter": "information_abundance", "combo": False}),
    ],
)
def test_mass_is_the_mean_of_what_each_layer_multiplies_its_values_by(name, settings):
    tower, emb = tower_and_input(name, settings)
    seen = []
    for layer in tower.layers:
        attend = layer.attention.attend

        def recorded(query, key, value, x_BFD, context, attend=attend):
            # values that are the unit matrix leave the map itself
            unit = torch.eye(FIELDS).expand(*value.shape[:3], FIELDS)
            seen.append(attend(query, key, unit, x_BFD, context).mean((0, 1)))
            return attend(query, key, value, x_BFD, context)

        layer.attention.attend = recorded
    with torch.no_grad():
        tower(emb)
        multiplied = torch.stack(seen)
        mass_LFF = tower.attention_mass(emb)
    assert mass_LFF.shape == (2, FIELDS, FIELDS)
    torch.testing.assert_close(mass_LFF, multiplied, rtol=1e-5, atol=1e-6)
    assert (mass_LFF[0] - mass_LFF[1]).abs().max() > 1e-4
