"""Searches settings of a model with Ray Tune; chooses by the valid split alone.

python jobs/tune.py --study jobs/configs/studies/frappe_tf4ctr_search.yaml --data DIR --trials 30

Every trial is a run in the MLflow experiment NAME. The same command resumes an interrupted search.
The table and the best settings, as the preset best.yaml, are written to RUNS/studies/NAME/. Train
the preset with further seeds before you trust it.
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.config.parse import to_dict, with_settings
from ctrdist.errors import ConfigError, ResourceError
from ctrdist.studies.search import as_preset, base_experiment, read_search, record_search
from ctrdist.training.complete import complete
from jobs.console.cli import StudyConfig, call, required, run
from jobs.console.study_table import SearchConsole, show_search


@dataclass(frozen=True, kw_only=True)
class TuneConfig(StudyConfig):
    """Settings of a search."""

    trials: int = 30
    """Total number of trials."""
    seed: int = 2024
    """Seed of the draws; each trial trains with train.seed."""


def main(config: TuneConfig) -> dict[str, Any]:
    """Searches, and shows the trials."""
    required(config, study="FILE", data="DIR")
    if config.trials < 1:
        raise ConfigError(f"--trials {config.trials}: at least 1.")
    file = read_search(config.study)
    name = config.name or Path(config.study).stem
    settings = {**config.set, "data": config.data, "runs": config.runs}
    experiment = base_experiment(
        file, path=config.study, name=name, settings=settings, complete=complete
    )
    directory = Path(experiment.runs) / "studies" / name
    record_search(directory, file.space, config.trials, config.seed, experiment)
    from cluster.tuning import search

    trials = search(
        experiment,
        file.space,
        trials=config.trials,
        cores=config.cores,
        parallel=config.parallel,
        seed=config.seed,
        directory=str(directory / "tune"),
        show=SearchConsole(config.trials).show,
    )
    if trials[0].status == "failed":
        raise ResourceError(f"all {len(trials)} trials failed. {trials[0].error}")
    trained = [trial for trial in trials if trial.status == "trained"]
    (directory / "table.md").write_text(show_search(name, trials, experiment.train.monitor))
    if not trained:
        raise ResourceError(f"none of {len(trials)} trials was trained to its end; see the table.")
    best = with_settings(to_dict(experiment), trained[0].settings)
    (directory / "best.yaml").write_text(as_preset(best))
    print(f"results: {directory}; the best as a preset: {directory}/best.yaml", file=sys.stderr)
    return {"study": name, "directory": str(directory), "trials": list(map(asdict, trials))}


if __name__ == "__main__":
    run(lambda: call(main, TuneConfig, __doc__))
