"""Checkpoints of older versions stay readable."""

import pytest

from ctrdist.config.experiment import experiment_of
from ctrdist.config.migrations import migrated
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.config.parse import from_dict, to_dict
from ctrdist.models.registry import config_class

DEA = experiment_of("dual_attention", config_class("dual_attention"))
TABLES = TableOptimConfig(name="adam", lr=0.003, eps=1e-6, l2=0.1)


@pytest.mark.parametrize("l2", [None, 0.0, 1e-4])
def test_the_codebooks_l2_becomes_an_optimiser_of_their_own(l2):
    values = to_dict(DEA(optim=OptimConfig(tables=TABLES)))
    del values["optim"]["codebooks"]
    values["optim"]["tables"]["codebook_l2"] = l2
    optim = from_dict(DEA, migrated(values), "saved").optim
    assert optim.tables == TABLES
    if l2 is None:
        assert optim.codebooks is None
    else:
        own = TableOptimConfig(name="adam", lr=0.003, eps=1e-6, l2=l2)
        assert optim.codebooks == own
    assert "codebook_l2" in values["optim"]["tables"]


def test_todays_settings_stay():
    values = to_dict(DEA(optim=OptimConfig(codebooks=TABLES)))
    assert migrated(values) == values
