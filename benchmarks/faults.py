"""Kills training runs at random moments, starts them again, and checks that nothing is lost.

Each run gets a kill -9 of a worker, of the driver, or of the whole local cluster. Killed workers
are started again by the run itself; otherwise the same command is given again, often with another
number of workers and another sharding plan. Every run must see each row of each epoch once; where
neither workers nor plan have changed, all tensors of its checkpoint, optimisers included, must
equal those of an undisturbed run bit by bit.

python benchmarks/faults.py --runs 50
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.datasets import write_dataset
from tests.faults import Job, differing

TARGETS = ("worker", "driver", "cluster")
WORKERS = (1, 2, 3, 4)
PLANS = ("auto", "table_wise", "row_wise", "column_wise")
BATCH, EPOCHS = 50, 2  # of tests.faults.SMALL_MODEL
LAYOUT_CHANGES = 0.5
"""Share of the restarts by hand that draw workers and plan anew."""
DURING_START = 0.15
"""Share of the kills that come some seconds after the start, mostly before the first step."""


class Campaign:
    """Runs, and what is known of the undisturbed ones."""

    def __init__(self, folder: Path, rows: int, seed: int) -> None:
        self.rows, self.random = rows, random.Random(seed)
        self._runs, self._data = folder / "runs", str(folder / "data")
        self._undisturbed: dict[tuple[int, str], dict] = {}
        splits = {"train": rows, "valid": 300, "test": 300}
        # no table of nine rows: over four workers one would hold none, which FBGEMM refuses on CPU
        write_dataset(folder / "data", splits, multi_valued=False)

    def disturbed(self, number: int) -> dict[str, str]:
        """One run with one kill; a row of the table."""
        draw, name = self.random, f"run-{number:03d}"
        target = draw.choice(TARGETS)
        before = after = (draw.choice(WORKERS), draw.choice(PLANS))
        if target != "worker" and draw.random() < LAYOUT_CHANGES:
            after = (draw.choice(WORKERS), draw.choice(PLANS))
        early, seconds = draw.random() < DURING_START, draw.uniform(1, 20)
        step = 0 if early else draw.randrange(1, EPOCHS * self.rows // BATCH)
        begun = time.monotonic()
        row = {
            "run": name,
            "killed": target,
            "when": f"{seconds:.1f} s" if early else f"step {step}",
            "before": f"{before[0]} {before[1]}",
            "after": "the same" if after == before else f"{after[0]} {after[1]}",
        }
        job = self._start(name, before)
        try:
            if early:
                time.sleep(seconds)
            else:
                job.wait_for_step(step)
            self._kill(job, target)
            result = job.result() if target == "worker" else self._start(name, after).result()
            row |= self._check(result, after if after == before else None)
        except AssertionError as error:  # a run that fails must not end the campaign
            print(f"{name}: {error}", file=sys.stderr)
            row |= {"rows": "FAILED", "weights": "–"}
        return {**row, "seconds": f"{time.monotonic() - begun:.0f}"}

    def _start(self, name: str, layout: tuple[int, str], launcher: tuple[str, ...] = ()) -> Job:
        settings = {"workers": layout[0], "sharding.default": layout[1]}
        return Job(self._data, self._runs, name, settings, launcher=launcher)

    def _kill(self, job: Job, target: str) -> None:
        if target == "driver":
            job.process.kill()
            job.process.wait()
        elif target == "cluster":
            job.kill_all()
        else:
            while not (workers := job.workers()):
                time.sleep(0.1)
            self.random.choice(workers).kill()

    def _check(self, result: dict, layout: tuple[int, str] | None) -> dict[str, str]:
        """Rows seen, and where the layout has not changed, bits."""
        seen, wanted = result["rows_seen"], EPOCHS * self.rows
        rows = "each once" if seen == wanted else f"{seen} of {wanted}"
        if layout is None:
            return {"rows": rows, "weights": "–"}
        if layout not in self._undisturbed:  # without Ray, which changes nothing and takes longer
            launcher = (sys.executable, "-m", "torch.distributed.run")
            launcher = (*launcher, "--nproc-per-node", str(layout[0]))
            name = f"undisturbed-{layout[0]}-{layout[1]}"
            self._undisturbed[layout] = self._start(name, layout, launcher).result()
        expected = self._undisturbed[layout]
        unequal = differing(result["checkpoint"], expected["checkpoint"])
        same = not unequal and result["test"] == expected["test"]
        return {"rows": rows, "weights": "equal" if same else f"DIFFER {' '.join(unequal[:3])}"}


def summarise(table: list[dict[str, str]]) -> int:
    """Prints a line per target; gives how many runs went wrong."""
    print(
        f"\n{'killed':10} {'runs':>5} {'rows each once':>15} {'weights compared':>17} {'equal':>6}"
    )
    for target in TARGETS:
        rows = [row for row in table if row["killed"] == target]
        once = sum(row["rows"] == "each once" for row in rows)
        compared = sum(row["weights"] != "–" for row in rows)
        equal = sum(row["weights"] == "equal" for row in rows)
        print(f"{target:10} {len(rows):5} {once:15} {compared:17} {equal:6}")
    good = [row for row in table if row["rows"] == "each once" and row["weights"] in ("equal", "–")]
    print(f"{len(good)} of {len(table)} runs ended as they should")
    return len(table) - len(good)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rows", type=int, default=6001, help="of the train split")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    table = []
    with tempfile.TemporaryDirectory(prefix="ctrdist-faults-") as folder:
        campaign = Campaign(Path(folder), options.rows, options.seed)
        for number in range(options.runs):
            row = campaign.disturbed(number)
            table.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return min(summarise(table), 1)


if __name__ == "__main__":
    sys.exit(main())
