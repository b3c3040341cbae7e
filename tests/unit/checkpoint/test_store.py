"""The files of a checkpoint: what is written is what is read, or an error that names the file."""

import json
import pickletools
import resource
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from ctrdist.checkpoint import reader, writer
from ctrdist.checkpoint.folder import Folder
from ctrdist.checkpoint.store import MARKER, CheckpointStore, Texts, complete, load_tensors, read
from ctrdist.config.experiment import CheckpointConfig
from ctrdist.errors import CheckpointError, DamagedCheckpointError

TEXTS = Texts(config="model: {}\n", schema="{}", plan="{}")


@pytest.fixture(scope="module", autouse=True)
def world_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def small_blocks(monkeypatch):
    """So that a few kilobytes have many blocks and reads."""
    monkeypatch.setattr(writer, "_BLOCK_BYTES", 512)
    monkeypatch.setattr(reader, "_READ_BYTES", 2048)


def save(directory: Path, tensors: dict, step: int = 1, **config: int | bool) -> Path:
    store = CheckpointStore(directory, CheckpointConfig(**config))
    path = store.save(step, tensors, {"rows": 7}, TEXTS)
    store.wait()
    return Path(path)


def everything() -> dict:
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(300, 7, generator=generator)
    dtypes = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    return {
        "model": {
            "weight": normal,
            "transposed": normal.T,
            "cube": torch.randn(5, 6, 7, generator=generator),
            **{str(dtype): normal.to(dtype) for dtype in dtypes},
        },
        "optim": {"step": torch.tensor(3.5), "none": torch.empty(0), "no rows": torch.empty(0, 16)},
    }


def zeros_like(tensors: dict) -> dict:
    return {
        k: zeros_like(v) if isinstance(v, dict) else torch.zeros_like(v) for k, v in tensors.items()
    }


def assert_equal(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            assert_equal(value, b[key])
        else:
            assert b[key].dtype == value.dtype
            assert torch.equal(value, b[key]), key


@pytest.mark.parametrize("asynchronous", [True, False])
def test_each_dtype_and_shape_comes_back(tmp_path, small_blocks, asynchronous):
    wanted = everything()
    path = save(tmp_path, wanted, asynchronous=asynchronous)
    found = zeros_like(wanted)
    load_tensors(path, found)
    assert_equal(wanted, found)
    opened = read(path)
    assert opened.step == 1 and opened.state == {"rows": 7} and opened.texts == TEXTS


def test_a_part_of_the_tensors_can_be_loaded(tmp_path):
    wanted = everything()
    path = save(tmp_path, wanted)
    found = {"model": zeros_like(wanted["model"])}
    load_tensors(path, found)
    assert_equal(wanted["model"], found["model"])


def test_an_asynchronous_save_holds_what_was_there_when_it_began(tmp_path):
    store = CheckpointStore(tmp_path, CheckpointConfig(keep=9))
    tensor = torch.zeros(1000, 1000)
    for step in range(1, 4):
        tensor.fill_(step)
        store.save(step, {"t": tensor}, {}, TEXTS)
    tensor.fill_(-1)
    store.wait()
    for step in range(1, 4):
        load_tensors(store.path_of(step), {"t": tensor})
        assert tensor.eq(step).all()


def test_nothing_is_pickled(tmp_path):
    path = save(tmp_path, everything())
    files = list(path.iterdir())
    assert {file.suffix for file in files} == {".bin", ".json", ".yaml"}
    for file in files:
        if file.suffix == ".json":
            json.loads(file.read_text())
        else:
            with pytest.raises(ValueError):
                list(pickletools.genops(file.read_bytes()))


def test_a_value_that_is_no_tensor_is_refused_by_name(tmp_path):
    store = CheckpointStore(tmp_path, CheckpointConfig())
    with pytest.raises(CheckpointError, match=r"optim\.name is not one.*stored as JSON"):
        store.save(1, {"optim": {"name": "adam", "t": torch.ones(2)}}, {}, TEXTS)
    assert complete(tmp_path) == []


@pytest.mark.parametrize(
    ("wanted", "says"),
    [({"a": torch.zeros(3, 5)}, "does not fit"), ({"b": torch.zeros(3, 4)}, "does not fit")],
)
def test_another_shape_or_name_is_no_damage(tmp_path, wanted, says):
    path = save(tmp_path, {"a": torch.zeros(3, 4)})
    with pytest.raises(CheckpointError, match=says) as caught:
        load_tensors(path, wanted)
    assert not isinstance(caught.value, DamagedCheckpointError)


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "flipped bit": lambda file: flip(file, file.stat().st_size // 2),
    "first byte": lambda file: flip(file, 0),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize(
    "pattern", ["r*.bin", "r*.json", "metadata.json", "state.json", "config.yaml", "plan.json"]
)
def test_damage_is_found_and_named(tmp_path, small_blocks, kind, pattern):
    tensors = {"a": torch.randn(300, 7), "b": torch.randn(30)}
    path = save(tmp_path, tensors)
    file = next(path.glob(pattern))
    DAMAGES[kind](file)
    with pytest.raises(DamagedCheckpointError) as caught:
        read(path)
        load_tensors(path, zeros_like(tensors))
    assert file.name in str(caught.value)
    assert "use an older one" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", '{"version": 2}', "[1]"])
def test_a_damaged_marker_is_damage(tmp_path, text):
    path = save(tmp_path, {"a": torch.ones(3)})
    (path / MARKER).write_text(text)
    with pytest.raises(DamagedCheckpointError, match=MARKER):
        read(path)


def test_a_load_reads_only_the_blocks_it_needs(tmp_path, small_blocks):
    """Damage elsewhere in the file is not even seen."""
    whole = {"a": torch.randn(1000, 16), "b": torch.randn(1000, 16)}
    path = save(tmp_path, whole)
    flip(next(path.glob("*.bin")), 1000 * 16 * 4 + 7)  # in b
    found = {"a": torch.zeros(1000, 16)}
    load_tensors(path, found)
    assert torch.equal(found["a"], whole["a"])


def test_leftovers_do_not_count_and_are_removed(tmp_path):
    whole = save(tmp_path, {"a": torch.ones(3)}, step=5)
    cut_off = save(tmp_path, {"a": torch.ones(3)}, step=6)
    (cut_off / MARKER).unlink()
    (tmp_path / "notes").mkdir()
    assert complete(tmp_path) == [str(whole)]
    CheckpointStore(tmp_path, CheckpointConfig()).remove_leftovers()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", whole.name]


def test_an_error_in_the_background_surfaces_at_the_next_save(tmp_path):
    """A bound on the size of files stands for a full disk."""
    store = CheckpointStore(tmp_path, CheckpointConfig())
    store.save(1, {"a": torch.ones(3)}, {}, TEXTS)
    store.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        store.save(2, {"a": torch.ones(100_000)}, {}, TEXTS)
        store.leave(60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(CheckpointError, match=r"checkpoint of step 2: worker 0: .*too large") as e:
        store.save(3, {"a": torch.ones(3)}, {}, TEXTS)
    assert "not whole" in str(e.value)
    assert store.wait() is None
    assert len(complete(tmp_path)) == 1


class Boxes:
    """Plans by hand: chunks of one tensor, each with its offsets."""

    def __init__(self, chunks: dict[tuple[int, ...], torch.Tensor]) -> None:
        self.chunks = chunks

    def resolve_data(self, item: WriteItem) -> torch.Tensor:
        return self.chunks[tuple(item.index.offset)]

    def resolve_tensor(self, item) -> torch.Tensor:
        box = zip(item.dest_offsets, item.lengths, strict=True)
        return self.chunks[tuple(item.dest_index.offset)][
            tuple(slice(begin, begin + length) for begin, length in box)
        ]


def cut(whole: torch.Tensor, cuts: list[list[int]]) -> dict[tuple[int, ...], torch.Tensor]:
    bounds = [
        list(pairwise(sorted({0, *c, size}))) for c, size in zip(cuts, whole.shape, strict=True)
    ]
    return {
        tuple(begin for begin, _ in box): whole[tuple(slice(*b) for b in box)].clone()
        for box in product(*bounds)
    }


def chunk_metadata(chunks: dict[tuple[int, ...], torch.Tensor]) -> list[ChunkStorageMetadata]:
    return [ChunkStorageMetadata(torch.Size(o), t.shape) for o, t in chunks.items()]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_chunks_can_be_read_as_any_others(tmp_path_factory, small_blocks, data):
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    some_cuts = st.tuples(*(st.lists(st.integers(1, size), max_size=3) for size in shape))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
    whole = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).to(dtype)
    saved, wanted = cut(whole, data.draw(some_cuts)), cut(whole, data.draw(some_cuts))

    folder = Folder(tmp_path_factory.mktemp("chunks"))
    folder.put(writer.BEGUN, b"token")
    properties = TensorProperties(dtype=dtype)
    catalogue = TensorStorageMetadata(properties, whole.shape, chunk_metadata(saved))
    results, writers = [], []
    for rank in range(2):  # every other chunk to each rank
        items = [
            WriteItem(
                index=MetadataIndex("t", chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=whole.shape),
            )
            for chunk in catalogue.chunks[rank::2]
        ]
        writers.append(writer.Writer(folder, "token", rank, writer.HostBuffer()))
        results.append(writers[-1].write_data(SavePlan(items), Boxes(saved)).value())
        writers[-1].write()
    writers[0].finish(Metadata({"t": catalogue}), results)

    reading = reader.Reader(folder, writers[0].metadata, folder.get)
    found = {offsets: torch.zeros_like(chunk) for offsets, chunk in wanted.items()}
    read_back = reading.read_metadata().state_dict_metadata["t"]
    plan = LoadPlan(create_read_items_for_chunk_list("t", read_back, chunk_metadata(found)))
    reading.read_data(plan, Boxes(found)).wait()
    for offsets, chunk in wanted.items():
        assert torch.equal(found[offsets], chunk)


def test_a_checkpoint_written_in_november_2026_is_read():
    """The files are those of commit f00b060. Later versions must read them as they are."""
    run = Path(__file__).parents[2] / "files" / "run_202611"
    for path in (run, run / "checkpoints", run / "checkpoints" / "step-000000003"):
        opened = read(path)
        assert opened.step == 3 and opened.state == {"epoch": 1, "loader": {"row": 12}}
    assert opened.texts == TEXTS
    tensors = {
        "model": {"weight": torch.zeros(3, 2), "half": torch.zeros(4, dtype=torch.bfloat16)},
        "step": torch.tensor(0),
    }
    load_tensors(opened.path, tensors)
    assert torch.equal(tensors["model"]["weight"], torch.arange(6.0).view(3, 2))
    assert tensors["model"]["half"].tolist() == [0, 1, 2, 3] and tensors["step"] == 7
