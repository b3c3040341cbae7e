"""Makes a data set for training from a raw click log: vocabularies, ids, Parquet.

python jobs/preprocess.py --config jobs/configs/data/criteo.yaml --input day_*.tsv --output
data/criteo
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.parse import parse
from jobs.console.cli import print_json, run
from preprocessing.config.settings import PreprocessConfig, join_paths

FLAGS = {
    "json": "The last line on stdout is one JSON object with the results.",
    "dry_run": "Show the columns and the inputs that were found, and start nothing.",
}


def main() -> None:
    """Reads the command line, preprocesses with Ray, and describes the data set."""
    config, switches = parse(
        PreprocessConfig,
        join_paths(sys.argv[1:]),
        description=__doc__,
        flags=FLAGS,
        prog="jobs/preprocess.py",
    )
    from cluster.session import connect
    from jobs.console.data_set import show_data_plan, show_data_set
    from preprocessing.pipeline import check, preprocess

    if switches["dry_run"]:
        shards = check(config).inputs
        show_data_plan(config, shards)
        if switches["json"]:
            print_json({"shards": len(shards), "bytes": sum(s.bytes for s in shards)})
        return

    def start_ray() -> None:
        print("starting Ray …", file=sys.stderr, flush=True)
        connect(config.workers or None)

    result = preprocess(config, start_ray)
    show_data_set(result)
    if switches["json"]:
        splits = {
            name: {"rows": s.rows, "positives": s.positives}
            for name, s in result.manifest.splits.items()
        }
        print_json(
            {
                "rows": result.rows,
                "rows_per_s": round(result.rows_per_s, 1),
                "seconds": round(result.seconds, 3),
                "passes": {name: round(s, 3) for name, s in result.passes.items()},
                "quarantined": result.quarantined,
                "unchanged": result.unchanged,
                "vocabulary": dict(result.vocabulary),
                "splits": splits,
                "output": result.output,
                "fingerprint": result.manifest.fingerprint,
            }
        )


if __name__ == "__main__":
    run(main)
