"""Trains the variants of a study side by side, and compares them.

python jobs/compare.py --study jobs/configs/studies/frappe_tf4ctr_losses.yaml --data DIR

Each run takes one process. The same command resumes an interrupted comparison; finished runs are
not trained again, and further --seeds or --variants are added to them. The table and the results
of each run are written to RUNS/studies/NAME/. All runs are in the MLflow experiment NAME.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctrdist.errors import ResourceError
from ctrdist.studies.comparison import comparison_rows, markdown
from ctrdist.studies.study import Results, StudyRun, read_study, study_runs
from ctrdist.training.complete import complete
from jobs.console.cli import StudyConfig, call, print_json, required, run
from jobs.console.study_table import StudyConsole, show_comparison

DRY_RUN = "List the runs and whether they are done, and start nothing."


@dataclass(frozen=True, kw_only=True)
class CompareConfig(StudyConfig):
    """Settings of a comparison."""

    seeds: tuple[int, ...] = ()
    """Seeds in place of the study's own."""
    variants: tuple[str, ...] = ()
    """Variants to train now; empty: all."""


def main(config: CompareConfig, switches: Mapping[str, bool]) -> None:
    """Trains the missing runs, and shows the comparison."""
    required(config, study="FILE", data="DIR")
    study = read_study(config.study)
    name = config.name or Path(config.study).stem
    plan = partial(
        study_runs,
        study,
        path=config.study,
        name=name,
        settings={**config.set, "data": config.data, "runs": config.runs},
        complete=complete,
    )
    runs = plan(seeds=config.seeds, variants=config.variants)
    results = Results(Path(config.runs) / "studies" / name)
    if results.seeds():  # runs of earlier calls are in the same table and need the same settings
        for earlier in plan(seeds=results.seeds(), variants=()):
            results.of(earlier)
    missing = [each for each in runs if results.of(each) is None]
    console = StudyConsole(len(runs), len(runs) - len(missing))
    if switches["dry_run"]:
        console.list_runs(runs, missing)
        return
    failed = _train(missing, results, config, console) if missing else {}
    rows = comparison_rows(results.all(study), study.references)
    if rows:
        show_comparison(name, rows)
        (results.directory / "table.md").write_text(markdown(name, rows))
        print(f"results: {results.directory}", file=sys.stderr)
    if switches["json"]:
        print_json({"study": name, "directory": str(results.directory), "variants": rows})
    if failed:
        first, text = next(iter(failed.items()))
        raise ResourceError(
            f"{len(failed)} of {len(runs)} runs failed; the others are kept. {first}: {text}"
        )


def _train(
    runs: Sequence[StudyRun], results: Results, config: CompareConfig, console: StudyConsole
) -> dict[str, str]:
    """Trains the runs, and returns the errors of those that failed."""
    from cluster.pool import train_side_by_side

    by_name = {each.experiment.run_name: each for each in runs}
    for each in runs:
        results.record(each)

    def done(name: str, summary: dict[str, Any]) -> None:
        results.record(by_name[name], summary)
        console.done(name, summary)

    with console:
        return train_side_by_side(
            [each.experiment for each in runs],
            cores=config.cores,
            parallel=config.parallel,
            show=console.show,
            done=done,
        )


if __name__ == "__main__":
    run(lambda: call(main, CompareConfig, __doc__, dry_run=DRY_RUN))
