"""The cost of more workers and larger tables, on CPU.

39 fields, dim 16, batch 4096 in all, bf16, row-wise tables under Adagrad; 3 × 400 and DLF.
The batches are ready in memory, so that nothing but the step is timed. The cases take turns.

- workers: one worker of one thread beside two workers of one thread
- rows: a step's time against the rows of all tables, one worker of two threads

python benchmarks/scaling.py [--repeats 3] [--seconds 4]
"""

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.train_step import BATCH, FIELDS, engine, measure  # noqa: E402

ROWS = (10**5, 10**6, 10**7, 3 * 10**7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--parts", nargs="*", default=["workers", "rows"])
    parser.add_argument("--towers", nargs="*", default=["mlp", "dlf"])
    parser.add_argument("--out", default="", help="JSON file for the figures")
    args = parser.parse_args()
    cases: dict[str, tuple[partial, int, int]] = {}
    if "workers" in args.parts:
        for tower in args.towers:
            for ids in ("uniform", "zipf"):
                step = partial(engine, 100_000, ids == "zipf", bf16=True, tower=tower)
                for workers in (1, 2):
                    cases[f"{tower}, {ids} ids, {workers} × 1 thread"] = (step, workers, 1)
    if "rows" in args.parts:
        for rows in ROWS:
            step = partial(engine, rows // FIELDS, False, bf16=True)
            cases[f"mlp, uniform ids, {rows:,} rows"] = (step, 1, 2)
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.repeats):
        for name, case in cases.items():
            rates[name].append(measure(*case, args.seconds))
    print(f"{'':36}{'samples/s':>10}{'least':>9}{'most':>9}{'ms a step':>11}")
    for name, found in rates.items():
        middle = statistics.median(found)
        print(
            f"{name:36}{middle:10,.0f}{min(found):9,.0f}{max(found):9,.0f}"
            f"{1000 * BATCH / middle:11.1f}"
        )
    for name in rates:
        if name.endswith("2 × 1 thread"):
            one = statistics.median(rates[name.replace("2 ×", "1 ×")])
            print(f"{name}: {statistics.median(rates[name]) / one:.2f} times one worker")
    if args.out:
        Path(args.out).write_text(json.dumps(rates, indent=1))


if __name__ == "__main__":
    main()
