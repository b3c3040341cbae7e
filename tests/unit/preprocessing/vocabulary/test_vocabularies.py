"""Vocabularies and ids equal those of a plain count, however shards are grouped and read."""

import hashlib
import tempfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctrdist.errors import ConfigError, DataError
from ctrdist.features import hashing
from ctrdist.native.distinct import read_blocks
from ctrdist.storage import Store
from preprocessing.config.settings import ColumnConfig, PreprocessConfig
from preprocessing.runtime.work_dir import from_json, to_json
from preprocessing.scan import shard_values
from preprocessing.scan.shard_values import ColumnValues, ValuesIndex, write_values
from preprocessing.vocabulary import assign_ids as assigning
from preprocessing.vocabulary import file as vocabulary_file
from preprocessing.vocabulary import merge, parent
from preprocessing.vocabulary.hash_partition import Part, plan_groups
from preprocessing.vocabulary.merge import MergedGroup, MergedPart, Rule

Shard = dict[str, list[tuple[str, int]]]
"""Column → (value, count in training) by local id."""


def stable(array: pa.Array) -> np.ndarray:
    """Another hash: the first 8 bytes of BLAKE2."""
    texts = [hashlib.blake2b(v.encode(), digest_size=8).digest() for v in array.to_pylist()]
    return np.frombuffer(b"".join(texts), np.uint64)


def forged(array: pa.Array) -> np.ndarray:
    """Nearly all values have one of four hashes, two of them in one bucket."""
    few = np.array([1 << 56, 1 << 56 | 1, 3 << 56, 255 << 56], np.uint64)
    return few[(stable(array) % np.uint64(4)).astype(int)]


def shipped(message):
    """The message as a mark restores it."""
    return from_json(type(message), to_json(message))


class Vocabularies:
    """All stages over some shards."""

    def __init__(self, folder, shards, rules, *, max_bytes=2**30, groups=None, hashes=stable,
                 old=None):  # fmt: skip
        self.store, self.data = Store(f"{folder}/work"), Store(f"{folder}/data")
        self.indices: list[ValuesIndex] = []
        for i, shard in enumerate(shards):
            columns = {}
            for name, pairs in shard.items():
                array = pa.array([v for v, _ in pairs], pa.string())
                counts = np.array([c for _, c in pairs], np.int64)
                columns[name] = ColumnValues(array, hashes(array), counts)
            self.indices.append(shipped(write_values(self.store, f"scan/{i}.values", columns)))
        parents = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parent, "hash_strings", hashes)
            for name in rules if old is not None else []:
                parents += parent.write_parent(self.store, f"old/{name}", old, name)
        parents = [shipped(index) for index in parents]
        if groups is None:
            groups = plan_groups([*parents, *self.indices], list(rules), max_bytes=max_bytes)
        merged = [
            shipped(merge.merge(
                self.store, group, self.indices, rules, f"merged/{i}", parents
            ))
            for i, group in enumerate(groups)
        ]  # fmt: skip
        self.merged = merged
        self.columns = {
            name: shipped(assigning.assign_ids(
                self.store, name, merged, rule.max_size, self.data,
                f"vocabulary/{name}.parquet", f"ids/{name}",
            ))
            for name, rule in rules.items()
        }  # fmt: skip
        self.assigned = [
            shipped(assigning.write_shard_ids(self.store, m, self.columns, rules, f"ids/{i}"))
            for i, m in enumerate(merged)
        ]

    def vocabulary(self, name):
        """[(value, count)] in the order of ids."""
        table = pq.read_table(self.data.path(f"vocabulary/{name}.parquet"))
        assert table.column("id").to_pylist() == list(range(2, 2 + table.num_rows))
        return list(zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True))

    def raw(self, name):
        return self.data.get(f"vocabulary/{name}.parquet")

    def tables(self):
        """For each shard: column → ids by local id."""
        return [
            {
                name: table.tolist()
                for name, table in assigning.id_tables(self.store, index, i, self.assigned).items()
            }
            for i, index in enumerate(self.indices)
        ]


def expected(shards, column, rule, parent=None):
    """([(value, count)] by id, value → id), by a plain count."""
    counts = Counter()
    for shard in shards:
        for value, count in shard[column]:
            counts[value] += count
    old = dict(parent or [])
    new = [(v, c) for v, c in counts.items() if v not in old and c >= rule.min_count and c > 0]
    if parent is not None and rule.new_values == "unknown":
        new = []
    new.sort(key=lambda x: (-x[1], x[0].encode()))
    kept = [(v, c + counts[v]) for v, c in old.items()] + new
    if rule.max_size is not None:
        kept = kept[: max(len(old), rule.max_size)]
    ids = {v: 2 + i for i, (v, _) in enumerate(kept)}
    for value in counts:
        if value not in ids and rule.num_buckets:
            sip = int(hashing.hash_values(pa.array([value]))[0])
            ids[value] = 2 + len(kept) + sip % rule.num_buckets
    return kept, ids


def check(made, shards, rules, parents=None):
    tables = made.tables()
    for name, rule in rules.items():
        kept, ids = expected(shards, name, rule, (parents or {}).get(name))
        assert made.vocabulary(name) == kept
        assert made.columns[name].size == len(kept)
        for shard, table in zip(shards, tables, strict=True):
            assert table[name] == [*(ids.get(v, 1) for v, _ in shard[name]), 1]


TEXT = st.one_of(
    st.sampled_from(
        ["", "a", "a\0", "a\0\0", "é", "\U0001f600", "common prefix 1", "common prefix 2"]
    ),
    st.text("ab\0é", max_size=12),
    st.text(max_size=3),
)
ENTRIES = st.dictionaries(TEXT, st.integers(0, 5), max_size=25).map(lambda d: list(d.items()))
RULE = st.builds(
    Rule,
    min_count=st.integers(1, 4),
    max_size=st.none() | st.integers(1, 8),
    num_buckets=st.none() | st.integers(1, 5),
)


@st.composite
def cuts(draw, columns):
    """Any groups of any parts."""
    parts = []
    for column in columns:
        width = 256 // draw(st.sampled_from([1, 1, 2, 16]))
        parts += [Part(column, b, b + width) for b in range(0, 256, width)]
    parts = draw(st.permutations(parts)) if len(parts) < 20 else parts
    size = draw(st.integers(1, 40))
    return [parts[i : i + size] for i in range(0, len(parts), size)]


@pytest.mark.parametrize("hashes", [stable, forged])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_shards_in_any_groups_give_the_vocabulary_of_a_plain_count(hashes, data):
    shards = data.draw(st.lists(st.fixed_dictionaries({"x": ENTRIES, "y": ENTRIES}), max_size=5))
    rules = {"x": data.draw(RULE), "y": data.draw(RULE)}
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        whole = Vocabularies(one, shards, rules, hashes=hashes)
        check(whole, shards, rules)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assigning, "ROUND_ROWS", data.draw(st.sampled_from([1, 7, 2**20])))
            patch.setattr(assigning, "ROUND_BYTES", data.draw(st.sampled_from([1, 30, 2**28])))
            cut = Vocabularies(two, shards, rules, hashes=hashes, groups=data.draw(cuts(rules)))
        assert [cut.raw(name) for name in rules] == [whole.raw(name) for name in rules]
        assert cut.tables() == whole.tables()


def many(rng, shards, values_):
    """Shards of Zipf's values, with long and short texts."""
    made = []
    for _ in range(shards):
        ids = rng.permutation(np.unique(rng.zipf(1.2, values_) % 5000))
        names = [f"{i:08x}" if i % 3 else f"http://long.example/{i % 7}/{i}" for i in ids.tolist()]
        made.append({"x": list(zip(names, rng.integers(0, 40, len(ids)).tolist(), strict=True))})
    return made


def test_larger_columns_and_vocabularies_of_several_row_groups(tmp_path, monkeypatch, c_or_python):
    shards = many(np.random.default_rng(5), 4, 6000)
    rules = {"x": Rule(min_count=2, num_buckets=50)}
    monkeypatch.setattr(vocabulary_file, "GROUP_ROWS", 512)
    monkeypatch.setattr(merge, "_ROWS", 100)
    monkeypatch.setattr(assigning, "_ROWS", 100)
    whole = Vocabularies(tmp_path / "one", shards, rules)
    check(whole, shards, rules)
    monkeypatch.setattr(assigning, "ROUND_ROWS", 600)
    cut = Vocabularies(tmp_path / "two", shards, rules, max_bytes=20_000)
    assert len(cut.merged) > 4 and cut.columns["x"].rounds > 4
    assert cut.raw("x") == whole.raw("x") and cut.tables() == whole.tables()
    groups = pq.ParquetFile(cut.data.path("vocabulary/x.parquet")).metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes[:-1] == [512] * (len(sizes) - 1) and len(sizes) > 3
    assert cut.columns["x"].sha256 == hashlib.sha256(cut.raw("x")).hexdigest()


def test_files_are_the_same_without_a_compiler(tmp_path, drop_compiler):
    shards = many(np.random.default_rng(6), 3, 2000)
    rules = {"x": Rule(num_buckets=7)}
    Vocabularies(tmp_path / "c", shards, rules, max_bytes=50_000)
    drop_compiler()
    Vocabularies(tmp_path / "python", shards, rules, max_bytes=50_000)
    one, two = Store(str(tmp_path / "c")), Store(str(tmp_path / "python"))
    assert one.names() == two.names() and len(one.names()) > 10
    assert all(one.get(name) == two.get(name) for name in one.names())


def test_the_order_of_shards_changes_no_byte(tmp_path):
    shards = many(np.random.default_rng(7), 4, 1000)
    rules = {"x": Rule(min_count=2)}
    forth = Vocabularies(tmp_path / "forth", shards, rules)
    back = Vocabularies(tmp_path / "back", shards[::-1], rules)
    assert forth.raw("x") == back.raw("x") and forth.tables() == back.tables()[::-1]


@pytest.mark.parametrize("hashes", [stable, forged])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_three_data_sets_in_a_chain_keep_their_ids(hashes, data):
    old, before = None, None
    with tempfile.TemporaryDirectory() as folder:
        for step in range(3):
            shards = data.draw(st.lists(st.fixed_dictionaries({"x": ENTRIES}), max_size=3))
            mode = data.draw(st.sampled_from(["append", "append", "unknown"]))
            rule = Rule(data.draw(st.integers(1, 3)), data.draw(st.none() | st.integers(1, 12)),
                        data.draw(st.none() | st.integers(1, 3)) if mode == "unknown" else None,
                        mode)  # fmt: skip
            rules = {"x": rule}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(parent, "_ROWS", 3)
                patch.setattr(assigning, "ROUND_ROWS", data.draw(st.sampled_from([4, 2**20])))
                made = Vocabularies(f"{folder}/{step}", shards, rules, hashes=hashes, old=old,
                                  groups=data.draw(cuts(["x"])))  # fmt: skip
            check(made, shards, rules, {"x": before} if before is not None else None)
            now = made.vocabulary("x")
            assert [v for v, _ in now][: len(before or [])] == [v for v, _ in before or []]
            old, before = made.data, now


def test_a_hashed_column_needs_no_vocabulary(tmp_path, c_or_python):
    pairs = [("", 3), ("é", 0), ("a\0", 1), *((f"value {i}", i) for i in range(500))]
    made = Vocabularies(tmp_path, [{"x": pairs}], {})
    table = assigning.hashed_id_table(made.store, made.indices[0], "x", 100)
    wanted = 2 + hashing.hash_values(pa.array([v for v, _ in pairs])) % np.uint64(100)
    assert table.dtype == np.int32 and table.tolist() == [*wanted.tolist(), 1]


def test_groups_hold_every_bucket_once_and_stay_in_their_memory():
    sizes = {"small": 10, "tiny": 1, "large": 1_000_000, "huge": 10**9, "other": 20}
    index = ValuesIndex("f", [*sizes, "hashed"], [*sizes.values(), 5], [0] * 6, 0)
    limit = 2**24
    groups = plan_groups([index] * 2, list(sizes), max_bytes=limit)
    covered = [part for group in groups for part in group]
    for name in sizes:
        edges = [(p.first, p.last) for p in covered if p.column == name]
        assert [a for a, _ in edges] == [0, *(b for _, b in edges[:-1])] and edges[-1][1] == 256
    assert "hashed" not in {p.column for p in covered}
    assert [p.column for p in groups[0]] == ["small", "tiny"] or any(
        {p.column for p in g} == {"small", "tiny", "other"} for g in groups
    )
    assert sum(p.column == "large" for p in covered) == 16  # 2 · 72 MB by 16 MiB, a power of two
    assert sum(p.column == "huge" for p in covered) == 256


def test_slices_and_large_strings_are_values_too(tmp_path):
    array = pa.array(["before", "a", "", "bc", "after"], pa.large_string())[1:4]
    counts = np.array([1, 2, 3])
    store = Store(str(tmp_path))
    index = write_values(store, "f", {"x": ColumnValues(array, stable(array), counts)})
    edges = shard_values.edges_of(store, index, ["x"])["x"]
    _, found, texts = read_blocks(shard_values.read_range(store, index, edges, 0, 256), edges[:, 0])
    local_ids = shard_values.read_local_ids(store, index, edges)
    assert {(texts[i].decode(), found[i], local_ids[i]) for i in range(3)} == {
        ("a", 1, 0), ("", 2, 1), ("bc", 3, 2)
    }  # fmt: skip


def test_new_values_cannot_take_the_ids_of_hash_buckets():
    column = ColumnConfig(name="site", num_buckets=10)
    config = PreprocessConfig(
        columns=[ColumnConfig(name="y", role="label"), column], parent="old", min_count=3
    )
    with pytest.raises(ConfigError, match=r"site has num_buckets 10.*new_values to unknown"):
        Rule.of(column, config)
    assert Rule.of(ColumnConfig(name="site", max_size=9), config) == Rule(3, 9, None, "append")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"value": ["a", "b"], "id": [2, 4], "count": [1, 1]}, "do not go from 2"),
        ({"value": ["a"], "id": [2]}, "has the columns value, id"),
        ({"value": ["a", "a"], "id": [2, 3], "count": [1, 1]}, "has a value twice"),
        (None, "does not exist"),
        (b"PAR0", "is no Parquet file"),
    ],
)
def test_a_damaged_parent_is_refused(tmp_path, table, message):
    old = Store(str(tmp_path / "old"))
    if isinstance(table, bytes):
        old.put("vocabulary/x.parquet", table)
    elif table is not None:
        with old.write("vocabulary/x.parquet") as file:
            pq.write_table(pa.table(table), file)
    with pytest.raises(DataError, match=message):
        Vocabularies(tmp_path / "new", [{"x": [("a", 1)]}], {"x": Rule()}, old=old)


def test_more_values_than_ids_are_refused(tmp_path):
    part = MergedPart("x", 0, 256, 0, 2**31, 2**31, 0, 0, False)
    with pytest.raises(DataError, match=r"2,147,483,648 values.*min_count"):
        store = Store(str(tmp_path))
        group = MergedGroup("m", 1, 0, [part])
        assigning.assign_ids(store, "x", [group], None, store, "v.parquet", "ids")


def test_values_of_one_hash_stay_apart(tmp_path, c_or_python):
    names = [
        *(f"{i:04d}" for i in range(40)),
        *(f"a long common beginning {i:04d}" for i in range(40)),
    ]
    shards = [{"x": [(name, i + 1) for i, name in enumerate(names[start:])]} for start in (0, 30)]
    rules = {"x": Rule()}
    made = Vocabularies(
        tmp_path, shards, rules, hashes=lambda array: np.full(len(array), 7 << 56, np.uint64)
    )
    check(made, shards, rules)
