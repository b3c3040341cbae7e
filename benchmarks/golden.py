"""Fingerprints of data sets and trained weights, to compare two versions of the code.

The program runs the commands of a checkout as subprocesses and reads the files they write, so it
can fingerprint any version. Two versions agree where their fingerprints are equal:

    python benchmarks/golden.py --code ../before --work /tmp/before --out before.json
    python benchmarks/golden.py --work /tmp/after --from /tmp/before --compare before.json

Data sets: Criteo (80,000 rows), Frappe, MovieLens, a generated log of a million rows, and a variant
of MovieLens with every kind of column and a parent. Weights: every model after 50 steps, on one
and on two workers. With --from, the new code trains on the data sets of the other version and
resumes its half-trained runs, so old files are read as well.

Needs the click logs of CTRDIST_DATA; without that variable, ../shared/data of this repository.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOGS = Path(os.environ.get("CTRDIST_DATA", ROOT.parent / "shared" / "data"))
STEPS = 50
VARIANT = """
name: variant
format: {type: csv, separator: "::", quote: "", encoding: latin-1}
split: {by: time, fractions: [0.8, 0.1, 0.1], seed: 7}
min_count: 2
shuffle: true
shard_bytes: 2000000
row_group_size: 10000
columns:
  - {name: UserID, role: user, max_size: 1000, num_buckets: 500}
  - {name: MovieID, encoding: hash, num_buckets: 2000}
  - {name: Rating, role: label, threshold: 4}
  - {name: Timestamp, role: timestamp, derive: [hour, weekday, weekend]}
joins:
  - file: users.dat
    key: UserID
    columns:
      - {name: UserID, role: ignore}
      - {name: Gender}
      - {name: Age, role: numeric, numeric_as: both, buckets: quantile, num_quantiles: 4}
      - {name: Occupation, role: numeric, transform: min_max}
      - {name: Zip}
  - file: movies.dat
    key: MovieID
    columns:
      - {name: MovieID, role: ignore}
      - {name: Title, role: ignore}
      - {name: Genres, role: multi_valued, separator: "|", max_length: 3}
crosses:
  - {name: gender_zip, columns: [Gender, Zip], num_buckets: 300}
"""
CHILD = VARIANT.replace("name: variant", "name: child").replace(", num_buckets: 500", "")
PARENT = CHILD.replace("name: child", "name: parent").replace("by: time", "by: hash")
KERNEL = "--optim.tables.name adagrad --optim.tables.lr 0.05 --optim.tables.l2 0"
"""Tables under the optimiser that the CPU kernel and shared memory serve."""


class Runs:
    """Runs the commands of one checkout."""

    def __init__(self, code: Path, work: Path):
        self.code, self.work = code.resolve(), work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)

    def job(self, *command: str) -> dict[str, Any]:
        """Runs `python COMMAND --json` in the checkout and returns the object it prints last."""
        environment = os.environ | {
            "PYTHONPATH": str(self.code),
            "OMP_NUM_THREADS": "1",
            "CTRDIST_RUNS": str(self.work / "runs"),
        }
        done = subprocess.run(
            [sys.executable, *command, "--json"],
            cwd=self.code,
            env=environment,
            text=True,
            capture_output=True,
        )
        if done.returncode:
            sys.exit(
                f"golden: {' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return result

    def preprocess(self, name: str, preset: str, inputs: Sequence[Path], *options: str) -> Path:
        """Writes the data set NAME, in place of an older one, and returns its directory."""
        output = self.work / "data" / name
        shutil.rmtree(output, ignore_errors=True)
        arguments = ["--config", preset, "--output", str(output), "--input", *map(str, inputs)]
        self.job("jobs/preprocess.py", *arguments, *options)
        return output

    def train(
        self, name: str, model: str, preset: str, data: Path, workers: int, steps: int, options: str
    ) -> tuple[Path, dict[str, Any]]:
        """Trains to a number of steps; returns the newest checkpoint and the metrics."""
        result = self.job(
            *f"-m torch.distributed.run --standalone --nproc-per-node {workers}".split(),
            *f"jobs/train_{model}.py --config {preset} --data {data} --run-name {name}".split(),
            *f"--train.max_steps {steps} --train.epochs 1000 --tracking.mlflow false".split(),
            *f"--train.monitor auc --diagnostics.attention_rows 0 {options}".split(),
        )
        folder = self.work / "runs" / name / "checkpoints"
        return folder / f"step-{steps:09}", result


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def data_set_items(folder: Path) -> dict[str, str]:
    """Fingerprint of each file of a data set, and of each part of its manifest."""
    items = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith("."):
            items[name] = digest(path.read_bytes())
    del items["manifest.json"]
    manifest = json.loads((folder / "manifest.json").read_text())
    for key, value in manifest.items():
        items[f"manifest.{key}"] = digest(json.dumps(value, sort_keys=True).encode())
    rows = {name: split["rows"] for name, split in manifest["splits"].items()}
    return items | {"rows": json.dumps(rows, sort_keys=True)}


def tensor_items(folder: Path) -> dict[str, str]:
    """Fingerprint of each tensor of a checkpoint, whatever files its chunks lie in."""
    import numpy as np

    marker = json.loads((folder / "complete.json").read_text())
    assert marker, folder
    parts: dict[str, list[tuple[list[int], list[int], bytes]]] = {}
    for index in sorted(folder.glob("r*.json")):
        data = index.with_suffix(".bin").read_bytes()
        for chunk in json.loads(index.read_text())["chunks"]:
            content = data[chunk["begin"] : chunk["begin"] + chunk["bytes"]]
            parts.setdefault(chunk["name"], []).append((chunk["offsets"], chunk["sizes"], content))
    items = {}
    tensors = json.loads((folder / "metadata.json").read_text())["tensors"]
    for name, tensor in sorted(tensors.items()):
        width = {"float32": 4, "float64": 8, "int64": 8, "int32": 4, "bool": 1, "uint8": 1}
        whole = np.zeros(tensor["size"], dtype=f"V{width[tensor['dtype']]}")
        for offsets, sizes, content in parts.get(name, []):
            box = tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))
            whole[box] = np.frombuffer(content, whole.dtype).reshape(sizes)
        items[name] = f"{tensor['dtype']} {tensor['size']} {digest(whole.tobytes())}"
    return items


def fingerprint_data(runs: Runs, quick: bool) -> dict[str, dict[str, str]]:
    """Preprocesses the logs; returns the fingerprints by data set."""
    presets = "jobs/configs/data"
    movielens = [LOGS / "movielens-1m" / "ratings.first487650.dat.gz"]
    frappe = [LOGS / "frappe" / f"{name}.csv.gz" for name in ("train", "validation", "test")]
    criteo = [LOGS / "criteo" / "dac_80k_hash20.tsv.gz"]
    options = ["--numeric_as", "both", "--min_count", "10"]
    found = {
        "criteo": runs.preprocess("criteo", f"{presets}/criteo.yaml", criteo, *options),
        "frappe": runs.preprocess("frappe", f"{presets}/frappe.yaml", frappe),
    }
    yamls = {}
    for name, text in (("variant", VARIANT), ("parent", PARENT), ("child", CHILD)):
        yamls[name] = runs.work / f"{name}.yaml"
        yamls[name].write_text(text.lstrip())
    found["variant"] = runs.preprocess("variant", str(yamls["variant"]), movielens)
    found["movielens"] = runs.preprocess("movielens", f"{presets}/movielens1m.yaml", movielens)
    if not quick:
        found["parent"] = runs.preprocess("parent", str(yamls["parent"]), movielens)
        chain = ["--parent", str(found["parent"])]
        found["child"] = runs.preprocess("child", str(yamls["child"]), movielens, *chain)
        log = runs.work / "log"
        shutil.rmtree(log, ignore_errors=True)
        runs.job("jobs/make_log.py", "--rows", "1000000", "--output", str(log))
        days = sorted(log.glob("day_*.tsv"))
        options = ["--shard_bytes", "30000000"]
        found["generated"] = runs.preprocess("generated", f"{presets}/criteo.yaml", days, *options)
        made = {f"log {day.name}": digest(day.read_bytes()) for day in days}
        return {name: data_set_items(path) for name, path in found.items()} | {"log": made}
    return {name: data_set_items(path) for name, path in found.items()}


def fingerprint_weights(runs: Runs, before: Path, quick: bool) -> dict[str, dict[str, str]]:
    """Trains each model; returns fingerprints of the tensors, and the metrics, by run.

    Args:
        runs: commands of the checkout.
        before: directory with the data sets, and with half-trained runs to be resumed.
        quick: two workers only, and no resumed run.
    """
    presets = "jobs/configs"
    recipes = [
        ("dlf", f"{presets}/criteo_dlf.yaml", "criteo", ""),
        ("dlf", f"{presets}/demo_dlf.yaml", "criteo", ""),
        ("tf4ctr", f"{presets}/frappe_tf4ctr.yaml", "frappe", KERNEL),
        ("dual_attention", f"{presets}/movielens1m_dual_attention.yaml", "movielens", ""),
        ("transformer", "", "frappe", KERNEL),
    ]
    found = {}
    for model, preset, data, options in recipes:
        if not preset:
            preset = str(runs.work / "empty.yaml")
            text = "loader: {batch_size: 512}\n"
            if (runs.code / "ctrdist/config/auto.py").exists():
                text += "auto: []\n"  # an older checkout has fixed defaults only
            Path(preset).write_text(text)
        for workers in (2,) if quick else (1, 2):
            name = f"{model}-{Path(preset).stem}-{workers}"
            shutil.rmtree(runs.work / "runs" / name, ignore_errors=True)
            resumed = workers == 2 and model in ("dlf", "dual_attention") and not quick
            arguments = (name, model, preset, before / "data" / data, workers)
            options = f"{options} --loader.batch_size 1024"
            if resumed:
                half = before / "halves" / name
                if not half.exists():
                    runs.train(*arguments, STEPS // 2, options)
                    shutil.copytree(runs.work / "runs" / name, half)
                shutil.copytree(half, runs.work / "runs" / name, dirs_exist_ok=True)
            checkpoint, result = runs.train(*arguments, STEPS, options)
            items = {
                f"{split} {metric}": repr(value)
                for split in ("valid", "test")
                for metric, value in sorted((result.get(split) or {}).items())
                if isinstance(value, float)
            }
            found[name] = tensor_items(checkpoint) | items
            print(f"{time.strftime('%H:%M:%S')} {name}: {len(found[name])} items", flush=True)
    return found


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Prints for each group whether its items are equal; returns how many groups differ."""
    different = 0
    for group, items in after.items():
        old = before.get(group)
        if old is None:
            print(f"{group}: not among the earlier fingerprints")
            continue
        wrong = sorted(name for name in old if items.get(name) != old[name])
        added = sorted(items.keys() - old.keys())
        different += bool(wrong)
        print(f"{group}: {'DIFFERENT' if wrong else 'equal'} ({len(old)} items)")
        if added:
            print(f"    new: {', '.join(added)}")
        for name in wrong[:12]:
            print(f"    {name}: {old[name]} → {items.get(name, 'absent')}")
        if len(wrong) > 12:
            print(f"    and {len(wrong) - 12} more")
    return different


def main() -> None:
    """Parses the command line, fingerprints, and compares where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, default=ROOT, help="checkout whose commands are run")
    parser.add_argument("--work", type=Path, required=True, help="directory for data sets and runs")
    parser.add_argument("--from", dest="before", type=Path, help="--work of an earlier call")
    parser.add_argument("--out", type=Path, help="JSON file for the fingerprints")
    parser.add_argument("--compare", type=Path, help="JSON file of an earlier call")
    parser.add_argument("--only", choices=["data", "weights"])
    parser.add_argument("--quick", action="store_true", help="fewer data sets and runs")
    args = parser.parse_args()
    runs = Runs(args.code, args.work)
    before = (args.before or args.work).resolve()
    found: dict[str, dict[str, str]] = {}
    if args.only != "weights":
        found |= {f"data {k}": v for k, v in fingerprint_data(runs, args.quick).items()}
    if args.only != "data":
        weights = fingerprint_weights(runs, before, args.quick)
        found |= {f"weights {k}": v for k, v in weights.items()}
    if args.out:
        args.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if args.compare:
        sys.exit(1 if compare(json.loads(args.compare.read_text()), found) else 0)


if __name__ == "__main__":
    main()
