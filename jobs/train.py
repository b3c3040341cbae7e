"""Trains any model; tables sharded over the workers, the run tracked in MLflow.

python jobs/train.py --model dlf --config jobs/configs/frappe_dlf.yaml --data DIR --workers 2

jobs/train_dlf.py and the like are the same job for one model.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.errors import ConfigError
from ctrdist.models.registry import model_names
from jobs.console.cli import run
from jobs.console.train_model import train_model


def main() -> None:
    """Trains the model that --model names."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", nargs="?")
    given, rest = parser.parse_known_args()
    if not given.model:
        raise ConfigError(
            f"--model NAME is missing: one of {', '.join(model_names())}. "
            "`--model NAME --help` lists its settings."
        )
    train_model(given.model, __doc__, rest, f"jobs/train.py --model {given.model}")


if __name__ == "__main__":
    run(main)
