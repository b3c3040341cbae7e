"""The CPU kernel against sums and updates written out in float64."""

import numpy as np
import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
)
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)

from ctrdist.errors import DataError
from ctrdist.native.embedding import has_embedding
from ctrdist.sharding.cpu import kernel as cpu_kernel

RATE, EPS = 0.1, 1e-3
ROWS = (5, 70_000, 3000, 1)  # one, two and three digits of the sort; many and no duplicates
NAMES = ["a", "b", "c", "d"]


def fbgemm_tables(optimizer, pooling, dims) -> SplitTableBatchedEmbeddingBagsCodegen:
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [
            (rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)
            for rows, dim in zip(ROWS, dims, strict=True)
        ],
        optimizer=optimizer,
        learning_rate=RATE,
        eps=EPS,
        pooling_mode=pooling,
    )
    torch.manual_seed(0)
    for weight in tables.split_embedding_weights():
        weight.normal_()
    return tables


def with_kernel(tables) -> cpu_kernel.KernelLookup:
    assert has_embedding(), "the tests need a C compiler"
    assert cpu_kernel.applies(tables)
    return cpu_kernel.KernelLookup(tables, NAMES)


def draw(rng, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and offsets: bags of 0 to 3 ids."""
    lengths = rng.integers(0, 4, size=(len(ROWS), batch))
    ids = [rng.integers(0, rows, lengths[k].sum()) for k, rows in enumerate(ROWS)]
    offsets = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    return torch.from_numpy(np.concatenate(ids)), torch.from_numpy(offsets)


def reference(weights, states, ids, offsets, grad, optimizer, mean):
    """Pooled rows, and weights and states after a step; all float64."""
    batch, pooled, column = grad.shape[0], [], 0
    offsets = offsets.numpy()
    for k, weight in enumerate(weights):
        dim = weight.shape[1]
        out, total = np.zeros((batch, dim)), np.zeros_like(weight)
        for b in range(batch):
            own = ids[offsets[k * batch + b] : offsets[k * batch + b + 1]].numpy()
            scale = 1 / max(len(own), 1) if mean else 1.0
            for i in own:
                out[b] += scale * weight[i]
                total[i] += scale * grad[b, column : column + dim]
        pooled.append(out)
        column += dim
        if optimizer == EmbOptimType.EXACT_SGD:
            weight -= RATE * total
            continue
        square = total**2
        if optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD:
            square = square.mean(1, keepdims=True)
        states[k] += square
        weight -= RATE * total / (np.sqrt(states[k]) + EPS)
    return np.concatenate(pooled, 1)


@pytest.mark.parametrize("dims", [(16, 16, 16, 16), (4, 8, 12, 128)], ids=["even", "mixed"])
@pytest.mark.parametrize("pooling", [PoolingMode.SUM, PoolingMode.MEAN])
@pytest.mark.parametrize(
    "optimizer",
    [EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD],
)
def test_three_steps_equal_the_reference(optimizer, pooling, dims):
    rng = np.random.default_rng(1)
    tables = fbgemm_tables(optimizer, pooling, dims)
    lookup = with_kernel(tables)
    weights = [w.double().numpy() for w in tables.split_embedding_weights()]
    rowwise = optimizer == EmbOptimType.EXACT_ROWWISE_ADAGRAD
    states = [np.zeros((rows, 1 if rowwise else d)) for rows, d in zip(ROWS, dims, strict=True)]
    for _ in range(3):
        ids, offsets = draw(rng, batch=40)
        grad = torch.from_numpy(rng.normal(size=(40, sum(dims)))).float()
        out = lookup(ids, offsets)
        expected = reference(
            weights, states, ids, offsets, grad.double().numpy(), optimizer, lookup.mean
        )
        out.backward(grad)
        np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    for mine, expected in zip(tables.split_embedding_weights(), weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_result_does_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            rng = np.random.default_rng(2)
            tables = fbgemm_tables(
                EmbOptimType.EXACT_ROWWISE_ADAGRAD, PoolingMode.SUM, (16, 8, 4, 16)
            )
            lookup = with_kernel(tables)
            for _ in range(2):
                ids, offsets = draw(rng, batch=100)
                lookup(ids, offsets).backward(torch.from_numpy(rng.normal(size=(100, 44))).float())
            results.append(torch.cat([w.flatten() for w in tables.split_embedding_weights()]))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("bad", [-1, 3000, 2**40])
def test_an_id_outside_its_table_is_refused_and_nothing_changes(bad):
    tables = fbgemm_tables(EmbOptimType.EXACT_SGD, PoolingMode.SUM, (4, 4, 4, 4))
    lookup = with_kernel(tables)
    before = tables.weights_host.clone()
    ids = torch.tensor([0, 1, 5, bad, 2, 0])  # one for each row of a, b, c, one of d: six bags
    offsets = torch.tensor([0, 1, 1, 2, 2, 3, 4, 5, 6])
    ids[4] = 0
    with pytest.raises(
        DataError, match=rf"table c: id {bad} was looked up, its rows are 0 to 2999"
    ):
        lookup(ids, offsets)
    assert torch.equal(before, tables.weights_host)


def test_what_the_kernel_cannot_do_is_left_to_fbgemm():
    shared = SplitTableBatchedEmbeddingBagsCodegen(
        [(5, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_SGD,
        feature_table_map=[0, 0],
    )
    decayed = SplitTableBatchedEmbeddingBagsCodegen(
        [(5, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        weight_decay=0.1,
    )
    assert not cpu_kernel.applies(shared)
    assert not cpu_kernel.applies(decayed)


def test_a_table_without_pooling_gives_a_row_per_id():
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(50, 8, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=RATE,
        eps=EPS,
        pooling_mode=PoolingMode.NONE,
    )
    torch.manual_seed(0)
    tables.split_embedding_weights()[0].normal_()
    weight = tables.split_embedding_weights()[0].double().numpy()
    state = np.zeros((50, 1))
    lookup = with_kernel(tables)
    rng = np.random.default_rng(1)
    for lengths in ([3, 0, 200, 1], [0, 0, 0, 0], [77, 1, 1, 1]):
        ids = rng.integers(0, 50, size=sum(lengths))
        grad = rng.normal(size=(len(ids), 8))
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
        out = lookup(torch.from_numpy(ids), offsets)
        np.testing.assert_allclose(out.detach().numpy(), weight[ids], rtol=1e-5, atol=1e-6)
        out.backward(torch.from_numpy(grad).float())
        total = np.zeros_like(weight)
        np.add.at(total, ids, grad)
        state += (total**2).mean(1, keepdims=True)
        weight -= RATE * total / (np.sqrt(state) + EPS)
    np.testing.assert_allclose(tables.split_embedding_weights()[0].numpy(), weight, atol=1e-6)


def test_several_tables_without_pooling_stay_with_fbgemm():
    tables = fbgemm_tables(EmbOptimType.EXACT_SGD, PoolingMode.NONE, (8, 8, 8, 8))
    assert not cpu_kernel.applies(tables)
