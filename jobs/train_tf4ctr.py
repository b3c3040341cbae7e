"""Trains TF4CTR; tables sharded over the workers, the run tracked in MLflow.

python jobs/train_tf4ctr.py --config jobs/configs/frappe_tf4ctr.yaml --data DIR --workers 2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.console.cli import run
from jobs.console.train_model import train_model

if __name__ == "__main__":
    run(lambda: train_model("tf4ctr", __doc__))
