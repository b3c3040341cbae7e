"""The watchdog ends a process that hangs, with its stacks, and no other."""

import subprocess
import sys
from pathlib import Path

from ctrdist.training.faults.watchdog import EXIT_CODE

SCRIPT = """
import sys, time
from pathlib import Path
from ctrdist.training.faults import watchdog
watchdog._GRACE_SECONDS = 0.1
beats = int(sys.argv[2])
def a_collective_that_hangs(): time.sleep(20)
def emit(message): print(message, flush=True)
with watchdog.Watchdog(0.5, Path(sys.argv[1]), 3, emit) as dog:
    for _ in range(beats):
        time.sleep(0.1)
        dog.beat()
    if not beats:
        a_collective_that_hangs()
time.sleep(0.8)
"""


def run(path: Path, beats: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, str(path), str(beats)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_hanging_process_ends_with_its_stacks(tmp_path):
    done = run(tmp_path, 0)
    assert done.returncode == EXIT_CODE, done.stderr
    assert done.stdout.startswith("Hang(rank=3, seconds=0.5, ")
    stacks = (tmp_path / "stacks/rank-3.txt").read_text()
    assert "a_collective_that_hangs" in stacks and "worker 3" in stacks


def test_a_process_that_gets_on_is_left_alone_and_so_is_one_that_is_done(tmp_path):
    done = run(tmp_path, 12)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not (tmp_path / "stacks").exists()
