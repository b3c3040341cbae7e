"""What ctrdist.sharding.torchrec_internals takes from TorchRec's private parts is still there."""

import pytest
import torch
from torch.distributed._shard.metadata import ShardMetadata
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbeddingBag
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, table_wise
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.distributed.process_group import World
from ctrdist.sharding import torchrec_internals as internals
from tests.ranks import run_ranks

NAMES = ["a", "b"]


def sharded_model() -> DistributedModelParallel:
    tables = [
        EmbeddingBagConfig(name=name, embedding_dim=4, num_embeddings=9, feature_names=[name])
        for name in NAMES
    ]
    model = EmbeddingBagCollection(device=torch.device("meta"), tables=tables)
    apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    kinds = {name: table_wise(rank=0, device="cpu", compute_kernel="fused") for name in NAMES}
    plan = construct_module_sharding_plan(
        model, kinds, local_size=1, world_size=1, device_type="cpu"
    )
    return DistributedModelParallel(
        model, device=torch.device("cpu"), plan=ShardingPlan({"": plan})
    )


def look(world: World) -> dict[str, object]:
    model = sharded_model()
    collection = internals.wrapped_module(model)
    assert isinstance(collection, ShardedEmbeddingBagCollection)
    groups = [
        group
        for group in internals.table_groups(model)
        if isinstance(group, BatchedFusedEmbeddingBag)
    ]
    tables = [table for group in groups for table in internals.tables_of_group(group)]
    found: dict[str, object] = {
        "configs": [config.name for config in internals.bag_configs(collection)],
        "tables": sorted(table.name for table in tables),
        "offsets": [list(table.local_metadata.shard_offsets) for table in tables],
        "sharded": all(
            isinstance(value, internals.ShardedTensor) for value in model.state_dict().values()
        ),
    }
    calls = []
    plain = groups[0].emb_module.forward

    class Counting(internals.TableLookup):
        def __call__(self, *args: object, **kwargs: object) -> torch.Tensor:
            calls.append(1)
            return plain(*args, **kwargs)

    Counting(groups[0].emb_module).install()
    ids = KeyedJaggedTensor(NAMES, torch.tensor([1, 2]), lengths=torch.tensor([1, 1]))
    found["shape"] = tuple(model(ids).wait().values().shape)
    found["calls"] = len(calls)
    return found


def test_a_sharded_collection_shows_its_tables_and_takes_another_forward():
    (found,) = run_ranks(look, 1)
    assert found["configs"] == found["tables"] == NAMES
    assert found["offsets"] == [[0, 0]] * 2
    assert found["sharded"]
    assert found["shape"] == (1, 8) and found["calls"] == 1


def test_a_spec_holds_its_parts():
    part = internals.ShardMetadata([0, 0], [2, 4], "rank:0/cpu")
    assert internals.ShardMetadata is ShardMetadata
    spec = internals.EnumerableShardingSpec([part])
    assert spec.shards == [part] and spec.shards[0].placement.rank() == 0
    with pytest.raises(ValueError):
        internals.EnumerableShardingSpec([part, part])  # torch checks that parts do not overlap
