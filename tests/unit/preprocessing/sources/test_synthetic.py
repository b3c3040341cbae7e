"""The synthetic log repeats, has the same rows in any files, and tells the truth about itself."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctrdist.errors import DataError
from preprocessing.config.synthetic import LogConfig
from preprocessing.sources import synthetic
from preprocessing.sources.synthetic import weighted_auc, write_log


def lines(folder) -> list[str]:
    files = sorted(folder.glob("day_*.tsv"))
    return [line for file in files for line in file.read_text().split("\n") if line]


def test_the_same_seed_gives_the_same_rows_in_any_number_of_files(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK_ROWS", 400)
    truths = [
        write_log(LogConfig(output=str(tmp_path / n), rows=1_000, files=f, seed=s))
        for n, f, s in (("a", 1, 7), ("b", 3, 7), ("c", 3, 8))
    ]
    a, b, c = (lines(tmp_path / n) for n in "abc")
    assert len(a) == 1_000 and a == b and a != c
    assert [len(p.read_text().splitlines()) for p in sorted((tmp_path / "b").glob("day_*"))] == [
        333,
        333,
        334,
    ]
    assert truths[0].bayes_auc == truths[1].bayes_auc
    assert all(len(line.split("\t")) == 40 for line in a)
    assert truths[0].positives == sum(line[0] == "1" for line in a)


def test_the_truth_is_that_of_the_planted_odds(tmp_path):
    truth = write_log(LogConfig(output=str(tmp_path / "log"), rows=60_000))
    told = json.loads((tmp_path / "log/truth.json").read_text())
    assert told["bayes_auc"] == truth.bayes_auc and told["test_rows"] == 12_000
    assert abs(truth.bayes_auc - truth.expected_auc) < 0.01
    assert 0.8 < truth.expected_auc < 0.9
    assert abs(truth.positives / truth.rows - synthetic.CLICK_RATE) < 0.01
    missing = np.mean([line.split("\t")[12] == "" for line in lines(tmp_path / "log")])
    assert abs(missing - synthetic.MISSING_INTEGERS[11]) < 0.02


def test_parts_have_their_strengths_and_pairs_show_nothing_to_a_linear_model():
    planted = synthetic._calibrated(synthetic._plant(np.random.default_rng(1)), 1)
    categories, integers = synthetic._draw(planted, np.random.default_rng(2), 100_000)
    parts = synthetic._parts(planted, categories, integers)
    scaled = [scale * part for scale, part in zip(planted.scales, parts, strict=True)]
    np.testing.assert_allclose([p.std() for p in scaled], synthetic.STRENGTHS, rtol=0.1)
    for left, right in synthetic.PAIRS:
        for field in (left, right):
            sums = np.bincount(categories[field], scaled[1])
            means = sums / np.maximum(np.bincount(categories[field]), 1)
            seen = np.sqrt(np.average(means**2, weights=np.bincount(categories[field])))
            assert seen < 0.1 * synthetic.STRENGTHS[1]


def test_weighted_auc_is_auc_for_labels_and_its_expectation_for_probabilities(rng):
    score = rng.integers(0, 20, 300) / 20
    label = (rng.random(300) < score).astype(float)
    np.testing.assert_allclose(weighted_auc(score, label), roc_auc_score(label, score))
    p = rng.random(400)
    draws = [roc_auc_score(rng.random(400) < p, p) for _ in range(400)]
    assert abs(weighted_auc(p, p) - np.mean(draws)) < 0.005


def test_a_log_that_is_there_is_kept_unless_told(tmp_path):
    config = {"output": str(tmp_path), "rows": 200}
    write_log(LogConfig(**config, files=4))
    with pytest.raises(DataError, match=r"a log is there.*--overwrite true"):
        write_log(LogConfig(**config))
    write_log(LogConfig(**config, files=1, overwrite=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["day_0.tsv", "truth.json"]
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(DataError, match="something else is there"):
        write_log(LogConfig(**config, overwrite=True))
