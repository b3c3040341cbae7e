"""The cases of benchmarks/gpu.py: towers, tables and rows that are made for them."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.train_step import FIELDS, labels_of
from benchmarks.train_step import tower_of as own_tower
from ctrdist.batch import Batch, Output
from ctrdist.config.experiment import Experiment, ShardingConfig, TrainConfig
from ctrdist.config.optimizers import OptimConfig, TableOptimConfig
from ctrdist.data.manifest import DataFile, Dataset, Manifest, Split
from ctrdist.distributed.process_group import World
from ctrdist.models.ctr import CTRModel
from ctrdist.models.gpu_ops import pick, places_of
from ctrdist.models.registry import build_tower, config_class
from ctrdist.optim.fused import check_optim, fuse_table_optimizer
from ctrdist.optim.optimizers import Optimizers
from ctrdist.schema import CategoricalField, Schema
from ctrdist.sharding.batch_norm import synchronise_batch_norm
from ctrdist.sharding.plan import layout, plan_tables
from ctrdist.sharding.shard import shard_model
from ctrdist.training.build import Engine, prepare_device
from ctrdist.training.loop.prefetch import Prefetcher

TOWERS = ("mlp", "dcnv2", "dlrm", "dlf", "tf4ctr", "dual_attention", "transformer")
MADE = 4
"""Batches that are made, and then taken in turn."""
MILLION = 1_000_000
DLRM_ROWS = [n * MILLION for n in (40, 20, 10, *[6] * 2, *[4] * 3, *[2] * 6, *[1] * 12)]
"""Rows of the 26 tables of dlrm: 118 million in all, 60 GB at dim 128 in float32."""
DLRM_NUMERIC = 13
BASE: dict[str, dict[str, Any]] = {"dual_attention": {"frequency": False}}
"""Settings of towers here: a made-up data set has no counts of ids."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The settings of one measurement."""

    tower: str
    dim: int
    precision: str
    pipeline: str
    compile: str
    """no; yes: torch.compile; graphs: with CUDA graphs."""
    kernels: str
    """pytorch or triton."""
    tables: str
    """Their optimiser: adam is dense, the others are fused into the backward pass."""


class DLRM(nn.Module):
    """Dot products of all pairs of 26 embeddings and of what an MLP makes of 13 numeric fields.

    The sizes are those of NVIDIA's DLRM example (Naumov et al., arXiv:1906.00091). The first MLP
    reads the numeric fields' vectors instead of their values, so its first layer is D times wider.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.groups = {"tokens": dim}
        self.bottom = _relu_layers([DLRM_NUMERIC * dim, 512, 256, dim])
        fields = len(DLRM_ROWS) + 1
        below = torch.tril_indices(fields, fields, offset=-1)
        index_P = below[0] * fields + below[1]
        self.register_buffer("below", index_P, persistent=False)
        self.register_buffer("places", places_of(index_P, fields**2), persistent=False)
        self.top = _relu_layers([dim + below.shape[1], 1024, 1024, 512, 256])
        self.output = nn.Linear(256, 1)

    def forward(self, emb: Any) -> Output:
        """emb["tokens"]: (B, 39, D), numeric fields first."""
        numeric_BKD, emb_BCD = emb["tokens"].split([DLRM_NUMERIC, len(DLRM_ROWS)], dim=1)
        bottom_BD = self.bottom(numeric_BKD.flatten(1))
        fields_BFD = torch.cat([bottom_BD.unsqueeze(1), emb_BCD.to(bottom_BD.dtype)], 1)
        products = torch.bmm(fields_BFD, fields_BFD.transpose(1, 2)).flatten(1)
        products_BP = pick(products, self.get_buffer("below"), self.get_buffer("places"))
        top_BH = self.top(torch.cat([bottom_BD, products_BP], 1))
        return Output(self.output(top_BH).squeeze(1).float())


def _relu_layers(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(sizes):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers)


def schema_of(case: Case, rows: int, scale: float) -> Schema:
    """The fields of a case."""
    dlrm = case.tower == "dlrm"
    sizes = [max(4, int(n * scale)) for n in DLRM_ROWS] if dlrm else [rows] * FIELDS
    return Schema(
        name="made",
        numeric=tuple(f"I{i}" for i in range(DLRM_NUMERIC)) if dlrm else (),
        categorical=tuple(
            CategoricalField(name=f"C{i}", vocabulary_size=n) for i, n in enumerate(sizes)
        ),
    )


def ids_of(schema: Schema, size: int, zipf: bool, seed: int) -> np.ndarray:
    """(C, size) int32 ids, uniform, or close to Zipf(1.2): a rounded Pareto law."""
    rng = np.random.default_rng(seed)
    made = np.empty((len(schema.categorical), size), dtype=np.int32)
    for ids_B, field in zip(made, schema.categorical, strict=True):
        rows = field.vocabulary_size
        ids_B[:] = rng.integers(0, rows, size, dtype=np.int32)
        if zipf:
            drawn = rng.random(size) ** -5.0 - 1  # the tail beyond the table is uniform
            np.copyto(ids_B, drawn.clip(max=rows), where=drawn < rows, casting="unsafe")
    return made


def tower_of(case: Case, settings: dict[str, Any]) -> tuple[nn.Module, Any]:
    """The tower and its settings."""
    if case.tower == "dlrm":
        return DLRM(case.dim), None
    if case.tower in ("mlp", "dcnv2"):
        return own_tower(case.tower, case.dim), None
    settings = {**BASE.get(case.tower, {}), **settings}
    config = replace(config_class(case.tower)(), embedding_dim=case.dim, **settings)
    return build_tower(case.tower, config, FIELDS), config


def build(
    case: Case, schema: Schema, settings: dict[str, Any], world: World
) -> tuple[Engine, Prefetcher]:
    """The engine of a case, as build_engine makes it of a data set, and its prefetcher."""
    device = world.device.type
    optim = OptimConfig(tables=TableOptimConfig(name=case.tables))  # type: ignore[arg-type]
    dense = case.tables == "adam"
    kind = "table_wise" if world.size == 1 else "row_wise"
    sharding = ShardingConfig(
        default="data_parallel" if dense else kind,
        shared_memory=case.pipeline != "sparse_dist",
    )
    torch.manual_seed(0)
    tower, config = tower_of(case, settings)
    manifest = Manifest(schema_fingerprint="", splits={})
    train = TrainConfig(
        precision=case.precision,  # type: ignore[arg-type]
        compile=case.compile != "no",
        kernels=case.kernels,  # type: ignore[arg-type]
        pipeline=case.pipeline,  # type: ignore[arg-type]
    )
    experiment = Experiment(
        model_name=case.tower, model=config, optim=optim, sharding=sharding, train=train
    )
    check_optim(optim, device)
    prepare_device(experiment, device)
    model = CTRModel(schema, tower)
    fuse_table_optimizer(model, optim)
    workers = {"world_size": world.size, "local_size": world.local_size, "device": device}
    planned = plan_tables(model, sharding, optim, **workers)
    described = layout(planned, model, optim, world.size)
    if world.size > 1:
        synchronise_batch_norm(tower)
    sharded = shard_model(model, planned.plan, sharding, optim, world, seed=0, init_std=0.01)
    if case.compile != "no":
        tower.compile(
            dynamic=False, mode="reduce-overhead" if case.compile == "graphs" else "default"
        )
    engine = Engine(
        experiment=experiment,
        dataset=Dataset(path="", schema=schema, manifest=manifest),
        world=world,
        model=sharded,
        tower=tower,
        optimizers=Optimizers(sharded, optim),
        layout=described,
    )
    return engine, Prefetcher(engine)


def batches_of(engine: Engine, size: int, zipf: bool) -> list[Batch]:
    """Batches of `size` rows of this worker."""
    world, schema = engine.world, engine.dataset.schema
    keys = [field.name for field in schema.categorical]
    made = []
    for seed in range(MADE):
        ids_CB = ids_of(schema, size, zipf, seed * world.size + world.rank)
        sparse = KeyedJaggedTensor(
            keys,
            torch.from_numpy(ids_CB.reshape(-1)),
            lengths=torch.ones(ids_CB.size, dtype=torch.int32),
            offsets=torch.arange(ids_CB.size + 1, dtype=torch.int32),
            stride=size,
        )
        batch = Batch(
            numeric_BK=torch.rand(size, len(schema.numeric)),
            sparse=sparse,
            label_B=labels_of(seed, size),
            row_B=torch.arange(size),
            global_size=size * world.size,
        )
        made.append(batch.pin_memory() if world.device.type == "cuda" else batch)
    return made


def write_rows(folder: Path, schema: Schema, rows: int, files: int = 16) -> Dataset:
    """A data set of random rows, as preprocessing would write it."""
    written = []
    (folder / "train").mkdir(parents=True)
    for number in range(files):
        size = rows // files
        ids_CB = ids_of(schema, size, zipf=True, seed=number)
        numbers_KB = np.random.default_rng(number).random((len(schema.numeric), size), np.float32)
        table = pa.table(
            {
                **dict(zip(schema.numeric, numbers_KB, strict=True)),
                **{f.name: ids for f, ids in zip(schema.categorical, ids_CB, strict=True)},
                schema.label: labels_of(number, size).numpy(),
            }
        )
        name = f"train/part-{number:05d}.parquet"
        pq.write_table(table, folder / name, row_group_size=65536, compression="zstd")
        data = pq.read_metadata(folder / name)
        groups = tuple(data.row_group(i).num_rows for i in range(data.num_row_groups))
        written.append(DataFile(path=name, row_groups=groups, sha256=""))
    split = Split(files=tuple(written), rows=rows // files * files, positives=rows // 2)
    manifest = Manifest(schema_fingerprint=schema.fingerprint, splits={"train": split})
    return Dataset(path=str(folder), schema=schema, manifest=manifest)
