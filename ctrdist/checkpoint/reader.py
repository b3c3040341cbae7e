"""Reads the parts of a checkpoint that a rank needs, in checked blocks: see writer.py."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import (
    ChunkStorageMetadata,
    LoadPlan,
    LoadPlanner,
    Metadata,
    ReadItem,
    StorageReader,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.metadata import TensorProperties
from torch.futures import Future

from ctrdist.checkpoint.folder import Folder
from ctrdist.checkpoint.writer import CHUNK_ALIGN, Chunk, UsedOnce

_READ_BYTES = 16 * 2**20
"""Most bytes of neighbouring blocks that are read at once."""
_READERS = 4
"""Number of concurrent reads. Object stores need several; disks are no slower with them."""


class Reader(UsedOnce, StorageReader):
    """Reads the parts of a checkpoint that a rank needs, and checks each byte."""

    def __init__(self, folder: Folder, metadata: bytes, read_checked: Callable[[str], bytes]):
        """Prepares a load of a directory, from the content of its metadata.json.

        `read_checked` returns a small file of the checkpoint, after checking it.
        """
        self._folder, self._read_checked = folder, read_checked
        self._tensors: dict[str, Any] = json.loads(metadata)["tensors"]
        self._files = {
            (name, *chunk["offsets"]): chunk["file"]
            for name, tensor in self._tensors.items()
            for chunk in tensor["chunks"]
            if 0 not in chunk["sizes"]  # An empty one may begin where another one does.
        }
        self._memory = threading.local()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Returns the sizes and chunks of all tensors."""
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
        """Does nothing."""

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads the blocks that hold the planned parts, and copies these into the tensors.

        Raises:
            DamagedCheckpointError: a block is not what was written.
        """
        indexes: dict[str, dict[tuple[Any, ...], Chunk]] = {}
        blocks: dict[tuple[str, int], _Block] = {}
        for item in plan.items:
            key = (item.storage_index.fqn, *(item.storage_index.offset or ()))
            file = self._files[key]
            if file not in indexes:
                index = json.loads(self._read_checked(f"{file.removesuffix('.bin')}.json"))
                chunks = [Chunk(**chunk) for chunk in index["chunks"]]
                indexes[file] = {(c.name, *c.offsets): c for c in chunks if c.bytes}
            target = planner.resolve_tensor(item).detach()
            _plan_blocks(indexes[file][key], file, item, target, blocks)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="checkpoint-read") as pool:
            list(pool.map(self._read_run, _runs(list(blocks.values()))))  # raises the first error
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read_run(self, run: list[_Block]) -> None:
        begin, size = run[0].begin, run[-1].end - run[0].begin
        if len(getattr(self._memory, "bytes", b"")) < size:
            self._memory.bytes = bytearray(max(size, _READ_BYTES))
        view = memoryview(self._memory.bytes)[:size]
        try:
            self._folder.read_into(run[0].file, begin, view)
        except FileNotFoundError as error:
            raise self._folder.damaged(run[0].file, "missing") from error
        except EOFError as error:
            raise self._folder.damaged(run[0].file, "ends too early") from error
        for block in run:
            part = view[block.begin - begin : block.end - begin]
            if zlib.crc32(part) != block.chunk.crc32[block.number]:
                where = f"bytes {block.begin:,} to {block.end:,} (of {block.chunk.name})"
                raise self._folder.damaged(block.file, f"{where} do not match their checksum")
            for copy in block.copies:
                copy(part)


@dataclass(frozen=True)
class _Block:
    """Bytes with a checksum, and the copies to make from them."""

    chunk: Chunk
    file: str
    number: int
    """Number of the block in its chunk."""
    copies: list[Callable[[memoryview], None]] = field(default_factory=list)

    @property
    def begin(self) -> int:
        return self.chunk.begin + self.number * self.chunk.block_bytes

    @property
    def end(self) -> int:
        return min(self.begin + self.chunk.block_bytes, self.chunk.begin + self.chunk.bytes)


def _plan_blocks(
    chunk: Chunk,
    file: str,
    item: ReadItem,
    target: Tensor,
    blocks: dict[tuple[str, int], _Block],
) -> None:
    """Adds the blocks of a chunk that hold the rows of an item, to be copied to the target."""
    sizes, offsets = tuple(chunk.sizes) or (1,), tuple(item.storage_offsets) or (0,)
    target = target if target.dim() else target.unsqueeze(0)
    block_rows = chunk.block_bytes * sizes[0] // chunk.bytes
    first, last = offsets[0], offsets[0] + target.shape[0]
    for number in range(first // block_rows, -(-last // block_rows)):
        row = number * block_rows
        end_row = min(row + block_rows, sizes[0])
        new = _Block(chunk, file, number)
        block = blocks.setdefault((file, new.begin), new)
        low, high = max(row, first), min(end_row, last)
        box = [(low - row, high - low), *zip(offsets[1:], target.shape[1:], strict=True)]
        shape = (end_row - row, *sizes[1:])
        part = target[low - first : high - first]
        block.copies.append(partial(_copy_box, part, getattr(torch, chunk.dtype), shape, box))


def _copy_box(
    target: Tensor,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    box: list[tuple[int, int]],
    data: memoryview,
) -> None:
    """Copies a box of the tensor that a block's bytes hold; box: (first, length) by dimension."""
    block = torch.frombuffer(data, dtype=dtype).view(shape)
    target.copy_(block[tuple(slice(first, first + length) for first, length in box)])


def _runs(blocks: list[_Block]) -> list[list[_Block]]:
    """Groups blocks that are neighbours in one file and together no larger than one read."""
    runs: list[list[_Block]] = []
    for block in sorted(blocks, key=lambda block: (block.file, block.begin)):
        last = runs[-1][-1] if runs else block
        near = block.file == last.file and block.begin - last.end < CHUNK_ALIGN
        if runs and near and block.end - runs[-1][0].begin <= _READ_BYTES:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs
