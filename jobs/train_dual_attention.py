"""Trains DEA-R, a reconstruction of Dual Enhanced Attention: tables and codebooks sharded.

python jobs/train_dual_attention.py --config jobs/configs/criteo_dual_attention.yaml --data DIR
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jobs.console.cli import run
from jobs.console.train_model import train_model

if __name__ == "__main__":
    run(lambda: train_model("dual_attention", __doc__))
