"""Study files: which runs they ask for, and how they are refused."""

import json
import re
from pathlib import Path

import pytest

from ctrdist.errors import ConfigError
from ctrdist.studies.comparison import comparison_rows, markdown
from ctrdist.studies.search import base_experiment, read_search
from ctrdist.studies.study import Results, StudyRun, read_study, read_yaml, study_runs
from ctrdist.training.complete import complete
from tests.datasets import write_dataset

STUDIES = Path(__file__).resolve().parents[3] / "jobs/configs/studies"
STUDY = """
model: dlf
seeds: [1, 2]
reference: full
variants:
  full: {}
  w/o gate: {model.gate: plain, train.epochs: 7}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data")
    write_dataset(path, {"train": 60, "valid": 20}, user=True)
    return str(path)


def planned(
    path: Path,
    data: str,
    seeds: tuple[int, ...] = (),
    variants: tuple[str, ...] = (),
    settings: dict[str, object] | None = None,
) -> list[StudyRun]:
    return study_runs(
        read_study(str(path)),
        path=str(path),
        name="s",
        seeds=seeds,
        variants=variants,
        settings={"auto": [], **(settings or {}), "data": data, "runs": "runs"},
        complete=complete,
    )


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_each_variant_is_trained_with_each_seed(tmp_path, data):
    runs = planned(write(tmp_path, STUDY), data)
    names = [run.experiment.run_name for run in runs]
    assert names == ["s.full.1", "s.w-o-gate.1", "s.full.2", "s.w-o-gate.2"]
    assert [run.experiment.train.seed for run in runs] == [1, 1, 2, 2]
    assert [run.experiment.model.gate for run in runs] == ["max", "plain", "max", "plain"]
    assert {run.experiment.tracking.experiment for run in runs} == {"s"}


def test_settings_of_the_command_line_win_over_the_variants(tmp_path, data):
    runs = planned(
        write(tmp_path, STUDY),
        data,
        settings={"train.epochs": 3},
        seeds=(5,),
        variants=("w/o gate",),
    )
    assert [(run.seed, run.experiment.train.epochs) for run in runs] == [(5, 3)]


def test_a_grid_is_every_combination(tmp_path, data):
    text = "model: tf4ctr\ngrid: {model.selection: [ser, gm], model.fusion: [wsf, cf]}\n"
    runs = planned(write(tmp_path, text), data)
    assert [run.variant for run in runs] == ["ser + wsf", "ser + cf", "gm + wsf", "gm + cf"]
    assert [run.experiment.model.fusion for run in runs] == ["wsf", "cf", "wsf", "cf"]


def test_a_variant_may_be_of_another_model_and_preset(tmp_path, data):
    (tmp_path / "other.yaml").write_text("model: {num_layers: 5}\n")
    text = "model: dlf\nvariants: {a: {}, b: {model: transformer, preset: other.yaml}}\n"
    first, second = planned(write(tmp_path, text), data)
    assert first.experiment.model_name == "dlf"
    assert second.experiment.model_name == "transformer"
    assert second.experiment.model.num_layers == 5


def test_differences_may_be_against_several_references(tmp_path, data):
    path = write(
        tmp_path,
        "model: dlf\nvariants: {a: {}, b: {}, c: {reference: c}, d: {reference: c}}\n",
    )
    study = read_study(str(path))
    assert study.references == {"a": "a", "b": "a", "c": "c", "d": "c"}
    assert len({json.dumps(run.compared) for run in planned(path, data)}) == 1
    auc = {"a": 0.5, "b": 0.6, "c": 0.7, "d": 0.4}
    results = {
        name: {
            seed: {split: {"auc": value + seed / 100} for split in ("valid", "test")}
            | {"train_seconds": 1.0}
            for seed in (1, 2)
        }
        for name, value in auc.items()
    }
    rows = comparison_rows(results, study.references)
    differences = [row.get("auc_difference", {}).get("mean") for row in rows]
    assert differences == [None, pytest.approx(0.1), None, pytest.approx(-0.3)]
    lines = markdown("s", rows).splitlines()
    assert [line.split(" | ")[-2] for line in lines if line.startswith("| ")] == [
        "against", "–", "a", "–", "c",
    ]  # fmt: skip
    results["b"][2]["test"]["auc"] += 1e-4
    results["d"][2]["test"]["auc"] += 0.1
    lines = markdown("s", comparison_rows(results, study.references)).splitlines()
    # t is 2001 and 5 with one degree of freedom: p = 2 / π arctan(1 / t)
    assert [line.split(" | ")[-1] for line in lines[-4:]] == [
        "– |",
        "< 0.001 * |",
        "– |",
        "0.126 |",
    ]
    one = comparison_rows(results, dict.fromkeys(auc, "a"))
    assert "against a." in markdown("s", one) and "| against |" not in markdown("s", one)


def test_a_study_goes_on_after_an_upgrade(tmp_path, data):
    """Its results were begun when there was no average yet, and codebooks had an l2 only."""
    run = planned(write(tmp_path, STUDY), data)[0]
    results = Results(tmp_path)
    results.record(run, {"auc": 0.5})
    (path,) = tmp_path.glob("*.json")
    older = json.loads(path.read_text())
    del older["settings"]["optim"]["ema_decay"], older["settings"]["optim"]["codebooks"]
    older["settings"]["optim"]["tables"]["codebook_l2"] = None
    path.write_text(json.dumps(older))
    assert results.of(run) == {"auc": 0.5}
    other = planned(write(tmp_path, STUDY), data, settings={"optim.ema_decay": 0.9})[0]
    with pytest.raises(ConfigError, match=r"other settings \(optim.ema_decay: 0.0 → 0.9\)"):
        results.of(other)
    older["settings"]["optim"]["gone"] = 1
    path.write_text(json.dumps(older))
    with pytest.raises(ConfigError, match=r"optim.gone: 1 → None"):
        results.of(run)


def test_paths_and_names_are_not_compared(tmp_path, data):
    run = planned(write(tmp_path, STUDY), data)[0]
    assert {"model", "optim", "train", "loader", "loss"} <= set(run.compared)
    assert not {"data", "runs", "run_name", "tracking"} & set(run.compared)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("variants: [a]\n", "variants"),
        ("model: dlf\n", "nothing to train"),
        ("model: dlf\nreference: x\nvariants: {a: {}}\n", "reference x is none of the variants: a"),
        ("model: dlf\nvariants: {a: {reference: x}}\n", "reference x is none of the variants: a"),
        ("model: dlf\nvariant: {a: {}}\n", "the nearest is 'variants'"),
        ("- 1\n", "must be a mapping with keys such as"),
        ("a: [\n", "not valid YAML"),
        ("variants: {a: {}}\n", "variant a: no model is named"),
        (
            "model: dlf\nvariants: {a: {model.gat: plain}}\n",
            r"variant a: .*nearest is 'model\.gate'",
        ),
        ("model: dlf\nvariants: {a b: {}, a-b: {}}\n", "differ in punctuation only"),
    ],
)
def test_a_wrong_study_is_refused(tmp_path, data, text, message):
    with pytest.raises(ConfigError, match=message):
        planned(write(tmp_path, text), data)


def test_what_is_not_there_is_named(tmp_path, data):
    path = write(tmp_path, STUDY)
    with pytest.raises(ConfigError, match=r"no such file. There are: study\."):
        read_study(str(tmp_path / "studdy.yaml"))
    with pytest.raises(ConfigError, match=r"--variants none: not in .*it has full, w/o gate"):
        planned(path, data, variants=("none",))


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_can_be_run(path, data):
    values = read_yaml(str(path))
    if "space" in values:
        search = read_search(str(path))
        settings = {"data": data, "runs": "runs"}
        base_experiment(search, path=str(path), name="s", settings=settings, complete=complete)
        return
    runs = planned(path, data)
    assert runs and all(re.fullmatch(r"[\w.=-]+", run.experiment.run_name) for run in runs)
    first = [run for run in runs if run.seed == runs[0].seed]
    assert len({json.dumps(run.compared) for run in first}) == len(first)  # no two are one
