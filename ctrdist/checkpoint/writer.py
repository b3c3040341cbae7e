"""Writes the files of a checkpoint: raw tensor bytes and JSON. Nothing is pickled.

torch.distributed.checkpoint plans which rank writes which chunk of which tensor, and which parts of
chunks a rank reads under another plan or world size. This package writes and reads them. Each rank
has one file of bytes and an index of it; metadata.json tells the file of each chunk. The bytes of a
chunk have a checksum per block, so that a rank that reads some rows of a chunk reads and checks
only the blocks that hold them: see reader.py. docs/checkpoints.md describes the format.
"""

import json
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import (
    Metadata,
    SavePlan,
    SavePlanner,
    StorageWriter,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ctrdist.checkpoint.folder import Folder
from ctrdist.errors import CheckpointError

METADATA = "metadata.json"
BEGUN = "begun"
"""File with the token of the save in progress."""
CHUNK_ALIGN = 64
"""Chunks begin at multiples of this offset, so that any dtype can be viewed in place."""
_BLOCK_BYTES = 4 * 2**20
"""Approximate size of a block, which has a checksum of its own."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A tensor, or a box cut out of one, in a rank's file."""

    name: str
    """Name of the tensor."""
    dtype: str
    offsets: Sequence[int]
    """Position of the chunk in the tensor."""
    sizes: Sequence[int]
    begin: int
    """Offset of its bytes in the file. They are in row order and little-endian."""
    bytes: int
    block_bytes: int
    """Bytes of a block: a whole number of rows. The last block may be shorter."""
    crc32: list[int]
    """Checksum of each block."""


def stem(rank: int, token: str) -> str:
    """Name of a rank's files in one save, without suffix."""
    return f"r{rank:05d}-{token}"


class HostBuffer:
    """Memory for snapshots, reused by each save."""

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int, pinned: bool) -> Tensor:
        """Returns so many bytes, page-locked if asked; the next call overwrites their content."""
        if self._bytes.numel() < size:
            self._bytes = torch.empty(0, dtype=torch.uint8)  # Frees the old memory first.
            self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
        return self._bytes[:size]


class UsedOnce:
    """The parts of torch's interface that neither :class:`Writer` nor its reader needs."""

    def reset(self, checkpoint_id: Any = None) -> None:
        """Does nothing, as each object is used once."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Returns False: torch must not choose this class by an address."""
        return False

    def prepare_local_plan(self, plan: Any) -> Any:
        """Returns the plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[Any]) -> list[Any]:
        """Returns the plans as they are: each rank has its own file."""
        return plans


class Writer(UsedOnce, StorageWriter):
    """Writes one rank's part of one save.

    The planner's calls, which are collective, only lay out the file and take the snapshot.
    :meth:`write` writes it and communicates with no other rank.
    """

    def __init__(self, folder: Folder, token: str, rank: int, buffer: HostBuffer | None) -> None:
        """Prepares a save into a folder whose file BEGUN has the token.

        The snapshot goes to the buffer. Without one the tensors themselves are written, and must
        not change before that.
        """
        self.metadata = b""
        """Content of metadata.json, on the coordinator, after planning."""
        self.folder, self.token, self._buffer = folder, token, buffer
        self._stem = stem(rank, token)
        self._chunks: list[tuple[Chunk, Tensor]] = []

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Raises CheckpointError if this rank does not see the directory that rank 0 has made."""
        there = self.folder.exists(BEGUN)
        if not there or self.folder.get(BEGUN).decode() != self.token:
            raise CheckpointError(
                f"{self.folder}: a worker does not see what worker 0 has written there. "
                "Checkpoints need a directory that all workers share: set checkpoint.directory, "
                "or --runs, to one, or to s3://."
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Returns the plan as it is; raises CheckpointError if a value is not a tensor."""
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                raise CheckpointError(
                    f"a checkpoint holds tensors, and {item.index.fqn} is not one. Put it into the "
                    "state, which is stored as JSON, or make it a tensor."
                )
        return plan

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Lays out the file and takes the snapshot; writes nothing yet."""
        end, tensors = 0, []
        for item in plan.items:
            assert item.tensor_data is not None, "prepare_local_plan lets tensors through only"
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            tensors.append(tensor.detach())
            begin = -(-end // CHUNK_ALIGN) * CHUNK_ALIGN
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
        """Assembles metadata.json, on the coordinator."""
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
        """Writes the bytes, then the index, whose presence tells that this rank is done."""
        chunks, position = [], 0
        # a checksum takes half as long as writing, and a block gets it while it is written
        with (
            self.folder.write(f"{self._stem}.bin") as handle,
            ThreadPoolExecutor(1, "checkpoint-checksum") as beside,
        ):
            for chunk, tensor in self._chunks:
                handle.write(bytes(chunk.begin - position))
                position = chunk.begin + chunk.bytes
                sums = []
                flat = tensor.reshape(-1).view(torch.uint8)
                for begin in range(0, chunk.bytes, chunk.block_bytes):
                    block = flat[begin : begin + chunk.block_bytes].cpu().numpy().data
                    checksum = beside.submit(zlib.crc32, block)
                    handle.write(block)
                    sums.append(checksum.result())
                chunks.append({**asdict(chunk), "crc32": sums})
        self._chunks = []  # Releases the tensors.
        index = {"bytes": position, "chunks": chunks}
        self.folder.put(f"{self._stem}.json", json.dumps(index).encode())

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


def _block_bytes(tensor: Tensor) -> int:
    if not tensor.numel():
        return _BLOCK_BYTES
    rows = tensor.shape[0] if tensor.dim() else 1
    row_bytes = tensor.numel() * tensor.element_size() // rows
    return max(1, _BLOCK_BYTES // row_bytes) * row_bytes
