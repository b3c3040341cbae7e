"""Makes a data set for training from a raw click log: vocabularies, ids, Parquet.

python jobs/preprocess.py --config jobs/configs/data/criteo.yaml --input day_*.tsv --output
data/criteo
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.console.cli import call, run
from preprocessing.config.settings import PreprocessConfig, join_paths

DRY_RUN = "Show the columns and the inputs that were found, and start nothing."


def main(config: PreprocessConfig, switches: Mapping[str, bool]) -> dict[str, Any]:
    """Preprocesses with Ray, and describes the data set."""
    from cluster.session import connect
    from jobs.console.data_set import show_data_plan, show_data_set
    from preprocessing.pipeline import check, preprocess

    if switches["dry_run"]:
        shards = check(config).inputs
        show_data_plan(config, shards)
        return {"shards": len(shards), "bytes": sum(s.bytes for s in shards)}

    def start_ray() -> None:
        print("starting Ray …", file=sys.stderr, flush=True)
        connect(config.workers or None)

    result = preprocess(config, start_ray)
    show_data_set(result)
    splits = {
        name: {"rows": s.rows, "positives": s.positives}
        for name, s in result.manifest.splits.items()
    }
    return {
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


if __name__ == "__main__":
    arguments = join_paths(sys.argv[1:])
    run(lambda: call(main, PreprocessConfig, __doc__, argv=arguments, dry_run=DRY_RUN))
