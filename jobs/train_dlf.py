"""Trains DLF on a preprocessed data set; tables sharded over the workers, everything tracked in MLflow.

python jobs/train_dlf.py --config jobs/configs/criteo_dlf.yaml --data data/criteo --workers 2 --run-name first
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs import train  # noqa: E402
from jobs.cli import run  # noqa: E402

if __name__ == "__main__":
    run(lambda: train.main("dlf", __doc__))
