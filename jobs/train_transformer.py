"""Trains a plain transformer over the field embeddings, the baseline of DEA-R.

python jobs/train_transformer.py --data DIR --workers 2 --run-name a
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.console.cli import run
from jobs.console.train_model import train_model

if __name__ == "__main__":
    run(lambda: train_model("transformer", __doc__))
