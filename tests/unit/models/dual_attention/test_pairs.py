"""Hashed pairs of ids and what is read from codebooks, against Python integers and loops."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from ctrdist.batch import Batch
from ctrdist.errors import ConfigError
from ctrdist.models.dual_attention.pairs import PairMemory, pair_addresses
from ctrdist.models.dual_attention.settings import DualAttentionConfig
from ctrdist.schema import CategoricalField, Schema

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def address(i: int, id_i: int, j: int, id_j: int, rows: int, salt: int, row: int | None) -> int:
    left, right = (
        mix(((field << 32) + id_ + (salt + 1) * GOLDEN) & MASK)
        for field, id_ in ((i, id_i), (j, id_j))
    )
    mixed = left + right * GOLDEN
    if row is not None:
        mixed += mix(row * GOLDEN & MASK)
    return ((mix(mixed & MASK) >> 33) * rows) >> 31


def all_pairs(ids_BC: Tensor, rows: int, salt: int, row_B: Tensor | None = None) -> Tensor:
    left, right = torch.triu_indices(ids_BC.shape[1], ids_BC.shape[1], 1)
    return pair_addresses(ids_BC, left, right, rows, salt, row_B)


@pytest.mark.parametrize("rows", [1, 1000, 2**31 - 1])
@pytest.mark.parametrize("shuffled", [False, True])
def test_addresses_are_those_of_python_integers(rows: int, shuffled: bool) -> None:
    torch.manual_seed(1)
    ids = torch.randint(0, 2**31 - 1, (20, 4), dtype=torch.int32)
    row = torch.randint(0, 2**40, (20,)) if shuffled else None
    for salt in (0, 5):
        found = all_pairs(ids, rows, salt, row)
        assert found.dtype == torch.int32 and found.min() >= 0 and found.max() < rows
        for b in range(20):
            pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
            for p, (i, j) in enumerate(pairs):
                own = None if row is None else int(row[b])
                expected = address(i, int(ids[b, i]), j, int(ids[b, j]), rows, salt, own)
                assert int(found[b, p]) == expected


def test_addresses_spread_evenly_and_hashes_are_independent() -> None:
    ids = torch.cartesian_prod(torch.arange(200), torch.arange(200))  # small ids, as real ones are
    one, two = (all_pairs(ids, 1000, salt).flatten() for salt in (0, 1))
    for found in (one, two):
        count = torch.bincount(found, minlength=1000).double()  # 40 expected in each
        assert 0.8 < float(((count - 40) ** 2 / 40).mean()) < 1.2  # χ² over its degrees of freedom
    assert abs(float((one == two).double().mean()) * 1000 - 1) < 0.6
    # those who meet in one codebook part in the other
    met = Counter(zip(one.tolist(), two.tolist(), strict=True))
    assert max(met.values()) <= 3


def test_an_address_depends_on_fields_and_ids_alone() -> None:
    ids = torch.tensor([[3, 7, 7], [7, 3, 7], [3, 7, 9]])
    found = all_pairs(ids, 2**30, 0)
    assert found[0, 0] == found[2, 0]  # the same pair beside another id
    assert found.unique().numel() == found.numel() - 1  # otherwise all differ


def test_shuffled_pairs_have_another_address_in_each_row() -> None:
    ids = torch.full((500, 3), 4)
    found = all_pairs(ids, 2**30, 0, torch.arange(500))
    assert found.unique().numel() == found.numel()
    assert torch.equal(found, all_pairs(ids, 2**30, 0, torch.arange(500)))


def schema_of(single: int, numeric: int = 0, multi: bool = False) -> Schema:
    fields = [CategoricalField(name=f"C{i}", vocabulary_size=9) for i in range(single)]
    if multi:
        fields.insert(1, CategoricalField(name="tags", vocabulary_size=9, multi_valued=True))
    return Schema(
        name="tiny", numeric=tuple(f"I{k}" for k in range(numeric)), categorical=tuple(fields)
    )


def batch_of(schema: Schema, size: int, filling: int = 0) -> tuple[Batch, Tensor]:
    """Random rows, and the (B, C) ids of the single-valued fields."""
    values, lengths, singles = [], [], []
    for field in schema.categorical:
        length = torch.ones(size + filling, dtype=torch.int32)
        if field.multi_valued:
            length = torch.randint(0, 4, (size + filling,), dtype=torch.int32)
        length[size:] = 0
        ids = torch.randint(1, 9, (int(length.sum()),), dtype=torch.int32)
        values.append(ids)
        lengths.append(length)
        if not field.multi_valued:
            singles.append(ids)
    sparse = KeyedJaggedTensor(
        [f.name for f in schema.categorical],
        torch.cat(values),
        lengths=torch.cat(lengths),
        stride=size + filling,
    )
    batch = Batch(
        numeric_BK=torch.randn(size, len(schema.numeric)),
        sparse=sparse,
        label_B=torch.zeros(size),
        row_B=torch.arange(100, 100 + size),
        global_size=size,
    )
    return batch, torch.stack(singles, 1)


def memory_of(schema: Schema, width: int = 6, scores: int = 3, **settings: Any) -> PairMemory:
    sizes = {"codebooks": 2, "codebook_rows": 40, "codebook_dim": 4, "codebook_init_std": 1.0}
    heads = {"embedding_dim": width, "num_layers": scores, "attention_heads": 1}
    torch.manual_seed(1)
    config = DualAttentionConfig(**{**sizes, **heads, **settings})  # type: ignore[arg-type]
    memory = PairMemory(config, schema, "float32")
    memory.codebooks.to_empty(device="cpu")
    for weight in memory.codebooks.parameters():
        torch.nn.init.normal_(weight)
    return memory


def reference(
    w: dict[str, Tensor], memory: PairMemory, schema: Schema, ids: Tensor, rows: Tensor, emb: Tensor
) -> Tensor:
    """(B, R, F, F) by the equations, in float64."""
    declared = memory.config
    numbers = [c for c, f in enumerate(schema.categorical) if not f.multi_valued]
    place = {len(schema.numeric) + c: index for index, c in enumerate(numbers)}
    tables = [w[f"codebooks.{k}.embeddings.codebook/{k}.weight"] for k in range(declared.codebooks)]
    out = []
    for b in range(len(ids)):
        cells = []
        for i in range(schema.num_fields):
            for j in range(schema.num_fields):
                low, high = min(i, j), max(i, j)
                e = (w["field_FC"][i] + w["field_FC"][j]) / 2
                if i != j and low in place and high in place:
                    row = int(rows[b]) if declared.shuffle_pairs else None
                    codewords, gates = [], []
                    for k, table in enumerate(tables):
                        key = (place[low], int(ids[b, place[low]]))
                        key += (place[high], int(ids[b, place[high]]))
                        codewords.append(table[address(*key, declared.codebook_rows, k, row)])
                        if declared.codebooks > 1:
                            product = emb[b, i] * emb[b, j]
                            gates.append(
                                w["gate_KC"][k] @ codewords[k] + w["context_KD"][k] @ product
                            )
                    e = codewords[0]
                    if gates:
                        share = torch.stack(gates).exp()
                        share = share / share.sum()
                        e = sum(s * c for s, c in zip(share, codewords, strict=True))
                cells.append(w["read_RC"] @ e)
        out.append(torch.stack(cells, 1).unflatten(1, (schema.num_fields, schema.num_fields)))
    return torch.stack(out)


CASES: list[tuple[dict[str, Any], Schema]] = [
    ({}, schema_of(4)),
    ({"codebooks": 1}, schema_of(3, numeric=1)),
    ({"codebooks": 3, "shuffle_pairs": True}, schema_of(3, numeric=2, multi=True)),
    ({"recompute_lookups": True}, schema_of(3, multi=True)),
]


@pytest.mark.parametrize("filling", [0, 2])
@pytest.mark.parametrize(("settings", "schema"), CASES, ids=lambda c: str(c)[:40])
def test_scores_equal_the_equations(settings: dict[str, Any], schema: Schema, filling: int) -> None:
    memory = memory_of(schema, **settings)
    batch, ids = batch_of(schema, 5, filling)
    emb = torch.randn(5, schema.num_fields, 6)
    emb32, emb64 = emb.clone().requires_grad_(), emb.double().requires_grad_()
    weights = {k: v.detach().double().requires_grad_() for k, v in memory.named_parameters()}
    out = memory(batch, emb32)
    expected = reference(weights, memory, schema, ids, batch.row_B, emb64)
    assert (out - expected).norm() / expected.norm() < 1e-5
    direction = torch.randn(out.shape)
    (out * direction).sum().backward()
    (expected * direction.double()).sum().backward()
    gradients = [(p.grad, weights[name].grad) for name, p in memory.named_parameters()]
    if memory.context_KD is not None:
        gradients.append((emb32.grad, emb64.grad))
    for ours, theirs in gradients:
        assert ours is not None and theirs is not None and theirs.norm() > 0
        assert (ours - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.parametrize("schema", [schema_of(1, 3), schema_of(1, multi=True)])
def test_refuses_data_without_a_pair(schema: Schema) -> None:
    with pytest.raises(ConfigError, match=r"has 1 of them.*numeric_as bucket.*combo: false"):
        memory_of(schema)


class Alive(TorchDispatchMode):
    """Bytes of the storages that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.storages = {k: v for k, v in self.storages.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return out


def peak(rows: int, *, gradient: bool, **settings: Any) -> float:
    """MB beside the tables and the batch, of Criteo's 39 fields, for 4,096 rows."""
    schema = schema_of(39)
    memory = memory_of(schema, 16, 6, codebook_dim=16, codebook_rows=1000, **settings)
    batch, _ = batch_of(schema, rows)
    emb = torch.randn(rows, 39, 16)
    with Alive() as alive, torch.set_grad_enabled(gradient):
        out = memory(batch, emb)
        if gradient:
            out.sum().backward()
    return alive.peak / rows * 4096 / 1e6


@pytest.mark.parametrize(
    ("settings", "gradient", "base", "more"),
    [({}, False, 400, 97), ({}, True, 1010, 320), ({"recompute_lookups": True}, True, 740, 85)],
)
def test_peak_memory_is_as_documented(
    settings: dict[str, Any], gradient: bool, base: int, more: int
) -> None:
    two, three = (peak(32, gradient=gradient, codebooks=k, **settings) for k in (2, 3))
    assert two == pytest.approx(base, rel=0.05)
    assert three - two == pytest.approx(more, rel=0.1)


def test_no_codeword_outlives_its_codebook_without_a_gradient() -> None:
    codewords = 4096 * 741 * 16 * 4 / 1e6  # 194
    many = peak(32, gradient=False, codebooks=8)
    assert many - peak(32, gradient=False, codebooks=7) < codewords * 0.55
