"""Writes a raw log in Criteo's shape with planted interactions, and the best reachable AUC.

python jobs/make_log.py --rows 300000 --output demo/raw
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.console.cli import call, run
from preprocessing.config.synthetic import LogConfig


def main(config: LogConfig) -> dict[str, Any]:
    """Writes the log, and describes it."""
    from preprocessing.sources.synthetic import write_log

    start = time.monotonic()
    truth = write_log(config)
    seconds = time.monotonic() - start
    print(
        f"{truth.rows:,} rows ({truth.positives / truth.rows:.3f} clicked) "
        f"in {truth.files} files in {config.output}, {seconds:.1f} s\n"
        f"best reachable on the last {truth.test_rows:,} rows: AUC {truth.bayes_auc:.4f} "
        f"({truth.expected_auc:.4f} expected), logloss {truth.bayes_logloss:.4f}\n"
        f"next: python jobs/preprocess.py --config jobs/configs/data/criteo.yaml "
        f"--input {config.output}/day_*.tsv --output DIR"
    )
    return {**asdict(truth), "output": config.output, "seconds": round(seconds, 3)}


if __name__ == "__main__":
    run(lambda: call(main, LogConfig, __doc__))
