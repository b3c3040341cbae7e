"""The files of a checkpoint: raw tensor bytes and JSON. Nothing here is ever unpickled.

torch.distributed.checkpoint plans: who writes which chunk of which tensor, and which parts of which
chunks a rank needs under another plan or world size. What it plans is written and read here. Each
rank has one file of bytes and an index of it; metadata.json says which chunk is in whose file. A
chunk's bytes have a checksum per block, so that a rank that reads some rows of a chunk need read,
and can check, only the blocks that hold them. docs/checkpoints.md describes the format.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import (
    ChunkStorageMetadata,
    LoadPlan,
    LoadPlanner,
    Metadata,
    ReadItem,
    SavePlan,
    SavePlanner,
    StorageReader,
    StorageWriter,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ctrdist.checkpoint.folder import Folder, damaged
from ctrdist.errors import CheckpointError

METADATA = "metadata.json"
_BEGUN = "begun"
"""Holds the token of the save that is going on."""
_ALIGN = 64
"""Chunks begin at multiples of this, so that any dtype can be viewed in place."""
_BLOCK_BYTES = 4 * 2**20
"""About so much has a checksum of its own."""
_READ_BYTES = 16 * 2**20
"""Neighbouring blocks are read at once up to this."""
_READERS = 4
"""Reads at a time: object stores want several, disks do not mind."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A tensor, or a box cut out of one, in a rank's file."""

    name: str
    """Of the tensor."""
    dtype: str
    offsets: tuple[int, ...]
    """Of the chunk in the tensor."""
    sizes: tuple[int, ...]
    begin: int
    """Of its bytes in the file; rows follow each other, little-endian."""
    bytes: int
    block_bytes: int
    """A whole number of rows; the last block may be shorter."""
    crc32: list[int]
    """Of each block."""


def begin(folder: Folder, token: str) -> None:
    """Begins a save in an empty or missing folder; on one rank."""
    folder.make()
    folder.write(_BEGUN, token.encode())


def end(folder: Folder) -> None:
    """Ends it, before the marker; on one rank."""
    folder.remove(_BEGUN)


def stem(rank: int, token: str) -> str:
    """Name of a rank's files of one save, without suffix."""
    return f"r{rank:05d}-{token}"


class HostBuffer:
    """Memory for snapshots, used again by each save."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int, pinned: bool) -> Tensor:
        """So many bytes; what was taken before is overwritten.

        Args:
            size: bytes.
            pinned: page-locked, which copies from a GPU want.
        """
        if self._bytes.numel() < size:
            self._bytes = torch.empty(0, dtype=torch.uint8)  # first let go of the old one
            self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return self._bytes[:size]


class Writer(StorageWriter):
    """One rank's part of one save.

    The planner's calls, which are collective, only lay the file out and take the snapshot;
    :meth:`write` writes it, and talks to no other rank.
    """

    def __init__(self, folder: Folder, token: str, rank: int, buffer: HostBuffer | None) -> None:
        """Prepares a save.

        Args:
            folder: of the checkpoint, begun by :func:`begin`.
            token: of the save.
            rank: this one.
            buffer: for the snapshot; None: the tensors themselves are written, and must not change
                before they are.
        """
        self.metadata = b""
        """metadata.json, on the coordinator, once it is planned."""
        self._folder, self._token = folder, token
        self._stem = stem(rank, token)
        self._buffer = buffer
        self._chunks: list[tuple[Chunk, Tensor]] = []

    def reset(self, checkpoint_id: Any = None) -> None:
        """Part of the interface; a writer is used once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Makes sure that this rank sees the directory that rank 0 has made.

        Raises:
            CheckpointError: it is another one, on a disk of this machine for instance.
        """
        try:
            seen = self._folder.read(_BEGUN).decode()
        except FileNotFoundError:
            seen = ""
        if seen != self._token:
            raise CheckpointError(
                f"{self._folder}: a worker does not see what worker 0 has written there. "
                "Checkpoints need a directory that all workers share: set checkpoint.directory, "
                "or --runs, to one, or to s3://."
            )

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Part of the interface; never chosen by an address."""
        return False

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Refuses what is no tensor.

        Raises:
            CheckpointError: names the value.
        """
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                raise CheckpointError(
                    f"a checkpoint holds tensors, and {item.index.fqn} is none. Put it into the "
                    "state, which is stored as JSON, or make it a tensor."
                )
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Part of the interface; each rank lays out its own file."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Lays the file out and takes the snapshot; writes nothing yet."""
        end, tensors = 0, []
        for item in plan.items:
            assert item.tensor_data is not None, "prepare_local_plan lets tensors through only"
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            tensors.append(tensor.detach())
            begin = -(-end // _ALIGN) * _ALIGN
            end = begin + tensor.numel() * tensor.element_size()
            chunk = Chunk(
                name=item.index.fqn,
                dtype=str(tensor.dtype).removeprefix("torch."),
                offsets=tuple(item.tensor_data.chunk.offsets),
                sizes=tuple(tensor.shape),
                begin=begin,
                bytes=end - begin,
                block_bytes=_block_bytes(tensor),
                crc32=[],
            )
            self._chunks.append((chunk, tensor))
        if self._buffer is not None:
            self._snapshot(self._buffer, end)
        done: Future[list[WriteResult]] = Future()
        done.set_result(
            [
                WriteResult(
                    index=MetadataIndex(chunk.name, chunk.offsets),
                    size_in_bytes=chunk.bytes,
                    storage_data=f"{self._stem}.bin",
                )
                for chunk, _ in self._chunks
            ]
        )
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On the coordinator: puts metadata.json together."""
        files = {result.index: result.storage_data for rank in results for result in rank}
        tensors = {}
        for name, value in metadata.state_dict_metadata.items():
            assert isinstance(value, TensorStorageMetadata)
            tensors[name] = {
                "dtype": str(value.properties.dtype).removeprefix("torch."),
                "size": list(value.size),
                "chunks": [
                    {
                        "offsets": list(chunk.offsets),
                        "sizes": list(chunk.sizes),
                        "file": files[MetadataIndex(name, chunk.offsets)],
                    }
                    for chunk in value.chunks
                ],
            }
        self.metadata = json.dumps({"tensors": tensors}).encode()

    def write(self) -> None:
        """Writes the bytes, then the index, whose presence says that this rank is done."""
        chunks, position = [], 0
        with self._folder.stream(f"{self._stem}.bin") as handle:
            for chunk, tensor in self._chunks:
                handle.write(bytes(chunk.begin - position))
                position = chunk.begin + chunk.bytes
                sums = []
                flat = tensor.reshape(-1).view(torch.uint8)
                for begin in range(0, chunk.bytes, chunk.block_bytes):
                    block = flat[begin : begin + chunk.block_bytes].cpu().numpy().data
                    sums.append(zlib.crc32(block))
                    handle.write(block)
                chunks.append({**asdict(chunk), "crc32": sums})
        self._chunks = []  # lets go of the tensors
        index = {"bytes": position, "chunks": chunks}
        self._folder.write(f"{self._stem}.json", json.dumps(index).encode())

    def _snapshot(self, buffer: HostBuffer, size: int) -> None:
        on_gpu = any(tensor.is_cuda for _, tensor in self._chunks)
        memory = buffer.take(size, pinned=on_gpu)
        copies = []
        for chunk, tensor in self._chunks:
            place = memory[chunk.begin : chunk.begin + chunk.bytes]
            copy = place.view(tensor.dtype).view(tensor.shape)
            copy.copy_(tensor, non_blocking=True)
            copies.append((chunk, copy))
        if on_gpu:
            torch.cuda.synchronize()
        self._chunks = copies


class Reader(StorageReader):
    """Reads what a rank needs of a checkpoint, each byte checked."""

    def __init__(self, folder: Folder, metadata: bytes, read_checked: Callable[[str], bytes]):
        """Prepares a load.

        Args:
            folder: of the checkpoint.
            metadata: content of its metadata.json.
            read_checked: gives a small file of the checkpoint, after checking it.
        """
        self._folder = folder
        self._read_checked = read_checked
        self._tensors: dict[str, Any] = json.loads(metadata)["tensors"]
        self._files = {
            (name, *chunk["offsets"]): chunk["file"]
            for name, tensor in self._tensors.items()
            for chunk in tensor["chunks"]
            if 0 not in chunk["sizes"]  # an empty one may begin where another one does
        }
        self._memory = threading.local()

    def reset(self, checkpoint_id: Any = None) -> None:
        """Part of the interface; a reader is used once."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Sizes and chunks of all tensors."""
        return Metadata(
            state_dict_metadata={
                name: TensorStorageMetadata(
                    properties=TensorProperties(dtype=getattr(torch, tensor["dtype"])),
                    size=torch.Size(tensor["size"]),
                    chunks=[
                        ChunkStorageMetadata(torch.Size(c["offsets"]), torch.Size(c["sizes"]))
                        for c in tensor["chunks"]
                    ],
                )
                for name, tensor in self._tensors.items()
            }
        )

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Part of the interface; nothing to set up."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Part of the interface; never chosen by an address."""
        return False

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Part of the interface."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Part of the interface."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the blocks that hold what is planned, and copies it to where it belongs.

        Raises:
            DamagedCheckpointError: a block is not what was written.
        """
        indexes: dict[str, dict[tuple[Any, ...], Chunk]] = {}
        blocks: dict[tuple[str, int], _Block] = {}
        for item in plan.items:
            key = (item.storage_index.fqn, *(item.storage_index.offset or ()))
            file = self._files[key]
            if file not in indexes:
                indexes[file] = self._index(file)
            target = planner.resolve_tensor(item).detach()
            _plan_blocks(indexes[file][key], file, item, target, blocks)
        pool = ThreadPoolExecutor(_READERS, thread_name_prefix="checkpoint-read")
        try:
            for _ in pool.map(self._read_run, _runs(list(blocks.values()))):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _index(self, file: str) -> dict[tuple[Any, ...], Chunk]:
        index = json.loads(self._read_checked(f"{file.removesuffix('.bin')}.json"))
        chunks = (
            Chunk(**{**c, "offsets": tuple(c["offsets"]), "sizes": tuple(c["sizes"])})
            for c in index["chunks"]
        )
        return {(c.name, *c.offsets): c for c in chunks if c.bytes}

    def _read_run(self, run: list[_Block]) -> None:
        begin, size = run[0].begin, run[-1].end - run[0].begin
        if len(getattr(self._memory, "bytes", b"")) < size:
            self._memory.bytes = bytearray(max(size, _READ_BYTES))
        view = memoryview(self._memory.bytes)[:size]
        try:
            self._folder.read_into(run[0].file, begin, view)
        except FileNotFoundError as error:
            raise damaged(self._folder, run[0].file, "missing") from error
        except EOFError as error:
            raise damaged(self._folder, run[0].file, "ends too early") from error
        for block in run:
            part = view[block.begin - begin : block.end - begin]
            if zlib.crc32(part) != block.crc32:
                where = f"bytes {block.begin:,} to {block.end:,} (of {block.chunk.name})"
                raise damaged(
                    self._folder, block.file, f"{where} do not match their checksum"
                ) from None
            for copy in block.copies:
                copy(part)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Bytes with a checksum, and what is to be copied from them."""

    chunk: Chunk
    file: str
    begin: int
    end: int
    crc32: int
    copies: list[Callable[[memoryview], None]]


def _plan_blocks(
    chunk: Chunk,
    file: str,
    item: ReadItem,
    target: Tensor,
    blocks: dict[tuple[str, int], _Block],
) -> None:
    """Adds the blocks of a chunk that hold what the item wants, copied to target."""
    sizes, offsets = chunk.sizes or (1,), tuple(item.storage_offsets) or (0,)
    target = target if target.dim() else target.unsqueeze(0)
    row_bytes = chunk.bytes // sizes[0]
    block_rows = chunk.block_bytes // row_bytes
    first, last = offsets[0], offsets[0] + target.shape[0]
    for number in range(first // block_rows, -(-last // block_rows)):
        row = number * block_rows
        end_row = min(row + block_rows, sizes[0])
        begin = chunk.begin + row * row_bytes
        block = blocks.setdefault(
            (file, begin),
            _Block(
                chunk=chunk,
                file=file,
                begin=begin,
                end=begin + (end_row - row) * row_bytes,
                crc32=chunk.crc32[number],
                copies=[],
            ),
        )
        low, high = max(row, first), min(end_row, last)
        box = [(low - row, high - low)]
        box += zip(offsets[1:], target.shape[1:], strict=True)
        block.copies.append(
            _copy_to(
                target[low - first : high - first], chunk.dtype, (end_row - row, *sizes[1:]), box
            )
        )


def _copy_to(
    target: Tensor, dtype: str, shape: tuple[int, ...], box: list[tuple[int, int]]
) -> Callable[[memoryview], None]:
    """Copies a box of the tensor that a block's bytes hold."""

    def copy(data: memoryview) -> None:
        block = torch.frombuffer(data, dtype=getattr(torch, dtype)).view(shape)
        part = reduce(lambda t, d: t.narrow(d[0], *d[1]), enumerate(box), block)
        target.copy_(part)

    return copy


def _runs(blocks: list[_Block]) -> list[list[_Block]]:
    """Neighbours in one file, together no larger than one read."""
    if not blocks:
        return []
    blocks.sort(key=lambda block: (block.file, block.begin))
    runs = [[blocks[0]]]
    for before, block in pairwise(blocks):
        near = block.file == before.file and block.begin - before.end < _ALIGN
        if near and block.end - runs[-1][0].begin <= _READ_BYTES:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def _block_bytes(tensor: Tensor) -> int:
    if not tensor.numel():
        return _BLOCK_BYTES
    rows = tensor.shape[0] if tensor.dim() else 1
    row_bytes = tensor.numel() * tensor.element_size() // rows
    return max(1, _BLOCK_BYTES // row_bytes) * row_bytes


def checked(folder: Folder, name: str, facts: Mapping[str, int]) -> bytes:
    """A small file of a checkpoint, if it is what was written.

    Args:
        folder: of the checkpoint.
        name: of the file.
        facts: its "bytes" and "crc32" as the marker has them.

    Raises:
        DamagedCheckpointError: it is missing or altered.
    """
    try:
        data = folder.read(name)
    except FileNotFoundError as error:
        raise damaged(folder, name, "missing") from error
    if len(data) != facts["bytes"]:
        raise damaged(
            folder, name, f"{len(data):,} bytes, the marker says {facts['bytes']:,} bytes"
        )
    if zlib.crc32(data) != facts["crc32"]:
        raise damaged(folder, name, "does not match its checksum")
    return data
