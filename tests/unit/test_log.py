"""Logging: who speaks, and that libraries are quiet; in processes of their own, as it is global."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctrdist import log

ROOT = Path(__file__).resolve().parents[2]

SPEAK = """
import logging, warnings
for name in ("ctrdist.a", "cluster.b", "__main__", "some_library"):
    logging.getLogger(name).info("info of %s", name)
    logging.getLogger(name).warning("warning of %s", name)
warnings.warn("ours is shown", FutureWarning)
warnings.warn_explicit("theirs is not", FutureWarning, "x.py", 1, module="some_library.x")
"""

# What was seen to print pages without setup: import, planner, model, lookup, fx.
TORCHREC = """
import os
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    os.environ["MASTER_PORT"] = str(s.getsockname()[1])
import torch, torchrec
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
torch.distributed.init_process_group("gloo")
config = torchrec.EmbeddingBagConfig(
    name="t", embedding_dim=8, num_embeddings=10, feature_names=["f"]
)
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torchrec.EmbeddingBagCollection(device=torch.device("meta"), tables=[config])
        self.out = torch.nn.Linear(8, 1)
    def forward(self, kjt):
        return self.out(self.emb(kjt).values())
model, sharder = Model(), EmbeddingBagCollectionSharder()
topology = Topology(world_size=1, compute_device="cpu", local_world_size=1)
planner = EmbeddingShardingPlanner(topology=topology)
plan = planner.collective_plan(model, [sharder], torch.distributed.group.WORLD)
model = DistributedModelParallel(
    model, device=torch.device("cpu"), plan=plan, sharders=[sharder]
)
kjt = torchrec.KeyedJaggedTensor.from_lengths_sync(
    ["f"], torch.tensor([1, 2]), torch.tensor([1, 1], dtype=torch.int32)
)
model(kjt).sum().backward()
torch.distributed.destroy_process_group()
"""


def stderr_of(code: str, rank: int = 0) -> str:
    setup = f"from ctrdist import log; log.setup({rank}); log.setup({rank})\n"
    environment = {k: v for k, v in os.environ.items() if k not in log.quiet_environment()}
    done = subprocess.run(
        [sys.executable, "-c", setup + code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_rank_0_says_everything_of_ours_once():
    text = stderr_of(SPEAK)
    for name in ("ctrdist.a", "cluster.b", "__main__"):
        assert text.count(f" info of {name}\n") == 1
        assert text.count(f"WARNING {name}: warning of {name}\n") == 1
    assert "info of some_library" not in text
    assert "WARNING some_library: warning of some_library\n" in text
    assert "ours is shown" in text
    assert "theirs is not" not in text


def test_other_ranks_warn_only_and_give_their_rank():
    text = stderr_of(SPEAK, rank=3)
    assert "info of" not in text
    assert "[rank 3] WARNING ctrdist.a: warning of ctrdist.a\n" in text


def test_torchrec_is_quiet_from_import_to_backward():
    assert stderr_of(TORCHREC) == ""


@pytest.mark.slow
def test_mlflow_makes_its_database_quietly(tmp_path):
    code = f"""
from mlflow import MlflowClient
MlflowClient(tracking_uri="sqlite:///{tmp_path}/x.db").search_experiments()
"""
    assert stderr_of(code) == ""


def test_quiet_environment_does_not_override_the_users(monkeypatch):
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "INFO")
    assert log.quiet_environment()["TORCH_CPP_LOG_LEVEL"] == "INFO"
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL")
    assert log.quiet_environment()["TORCH_CPP_LOG_LEVEL"] == "ERROR"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_file_handler_of_others_stays(rank, tmp_path):
    code = f"""
import logging
logging.getLogger().addHandler(logging.FileHandler({str(tmp_path / "log")!r}))
logging.getLogger().addHandler(logging.StreamHandler())
log.setup({rank})
logging.getLogger("ctrdist").warning("kept")
"""
    assert stderr_of(code).count("kept") == 1
    assert (tmp_path / "log").read_text() == "kept\n"
