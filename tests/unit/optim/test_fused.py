"""What is refused on which device, and what TorchRec is told."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection

from ctrdist.config.optimizers import DenseOptimConfig, OptimConfig, TableOptimConfig
from ctrdist.errors import ConfigError
from ctrdist.optim.fused import check_optim, fuse_table_optimizer


@pytest.mark.parametrize("name", ["fused_adam", "fused_rowwise_adam", "lamb"])
def test_kernels_without_a_cpu_version_are_refused_there(name):
    config = OptimConfig(tables=TableOptimConfig(name=name, weight_decay=0.1))
    check_optim(config, "cuda")
    with pytest.raises(ConfigError, match=r"needs a GPU.*rowwise_adagrad, adagrad or sgd"):
        check_optim(config, "cpu")


@pytest.mark.parametrize(
    ("name", "instead"), [("adagrad", "rowwise_adagrad"), ("sgd", "lamb"), ("adam", "tables.l2")]
)
def test_weight_decay_that_fbgemm_would_ignore_is_refused(name, instead):
    with pytest.raises(ConfigError, match=instead):
        check_optim(OptimConfig(tables=TableOptimConfig(name=name, weight_decay=0.1)), "cpu")
    with pytest.raises(ConfigError, match="CPU kernels ignore"):
        decayed = TableOptimConfig(name="rowwise_adagrad", weight_decay=0.1)
        check_optim(OptimConfig(tables=decayed), "cpu")
    with pytest.raises(ConfigError, match="at least 0"):
        check_optim(OptimConfig(dense=DenseOptimConfig(weight_decay=-1)), "cpu")


@pytest.mark.parametrize("name", ["rowwise_adagrad", "fused_adam", "fused_rowwise_adam", "lamb"])
def test_torchrec_is_told_algorithm_and_settings(name):
    model = torch.nn.Module()
    model.tables = EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name="tokens/C0", embedding_dim=8, num_embeddings=9, feature_names=["C0"]
            )
        ],
    )
    tables = TableOptimConfig(name=name, lr=0.3, weight_decay=0.1)
    fuse_table_optimizer(model, OptimConfig(tables=tables, dense=DenseOptimConfig(beta1=0.8)))
    weight = next(model.parameters())
    (told,) = weight._optimizer_kwargs
    assert told["lr"] == 0.3 and told["weight_decay"] == 0.1
    assert told.get("beta1") == (None if name == "rowwise_adagrad" else 0.8)
