"""Results of the runs of a study on disk: one JSON file per run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctrdist.errors import ConfigError
from ctrdist.studies.study import StudyFile, StudyRun, changed_settings


class Results:
    """Settings and results of the runs that a study has begun."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def record(self, run: StudyRun, summary: dict[str, Any] | None = None) -> None:
        """Records the settings with which a run begins, and its results once it has some."""
        path = self._path(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"variant": run.variant, "seed": run.seed, "settings": run.compared}
        part = path.with_suffix(".part")
        part.write_text(json.dumps({**values, "summary": summary}, indent=1))
        part.replace(path)

    def of(self, run: StudyRun) -> dict[str, Any] | None:
        """Returns the results of a run, or None if it has not finished.

        Raises:
            ConfigError: a run of this name was begun with other settings.
        """
        path = self._path(run)
        if not path.exists():
            return None
        found = json.loads(path.read_text())
        changed = changed_settings(found["settings"], run.experiment, run.data_fingerprint)
        if changed:
            raise ConfigError(
                f"{path}: was begun with other settings ({', '.join(changed)}). Give another "
                f"--name, or remove {path} and {run.experiment.runs}/{run.experiment.run_name}."
            )
        return found["summary"]

    def seeds(self) -> list[int]:
        """Returns the seeds of all runs that were begun."""
        return sorted({values["seed"] for values in self._read()})

    def all(self, study: StudyFile) -> dict[str, dict[int, dict[str, Any]]]:
        """Returns variant → seed → results of all finished runs, in the study's order."""
        found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in study.variants}
        for values in self._read():
            if values["summary"] and values["variant"] in found:
                found[values["variant"]][values["seed"]] = values["summary"]
        return {name: dict(sorted(seeds.items())) for name, seeds in found.items() if seeds}

    def _read(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.directory.glob("*.json"))]

    def _path(self, run: StudyRun) -> Path:
        return self.directory / f"{run.experiment.run_name}.json"
