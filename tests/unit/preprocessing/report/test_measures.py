"""What is computed from counts equals what scikit-learn and numpy say of the rows."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from preprocessing.report import measures
from preprocessing.statistics.histogram import NumberCounts
from preprocessing.statistics.profile import GROUPS, NUMBER_BITS


def counted(values, label=None, split=None) -> NumberCounts:
    numbers = NumberCounts.empty(GROUPS, NUMBER_BITS)
    n = len(values)
    label = np.zeros(n) if label is None else label
    split = np.zeros(n) if split is None else split
    numbers.add(np.asarray(values, float), (2 * split + label).astype(np.uint8))
    return numbers


def table(ids, label, split, cells: int) -> np.ndarray:
    counts = np.zeros((cells, GROUPS), np.int64)
    np.add.at(counts, (ids, (2 * split + label).astype(int)), 1)
    return counts


def test_the_auc_of_a_number_is_that_of_its_rows_whichever_way_it_points(rng):
    label = rng.integers(0, 2, 4000)
    values = rng.poisson(5 + 2 * label).astype(float)
    expected = roc_auc_score(label, values)
    for sign in (1, -1):
        found = measures.area_of_numbers(counted(sign * values, label))
        assert found == pytest.approx(expected, abs=1e-12)
    gaps = np.where(label == 1, np.nan, values)  # missing alone tells the label
    assert measures.area_of_numbers(counted(gaps, label)) == 1


def test_the_auc_of_values_is_that_of_training_rates_on_held_out_rows(rng):
    n = 30_000
    ids, split = rng.integers(1, 40, n), rng.integers(0, 3, n)
    rates = rng.random(40)
    label = (rng.random(n) < rates[ids]).astype(int)
    train = split == 0
    clicks = np.bincount(ids[train], label[train], 40)
    rows = np.bincount(ids[train], minlength=40)
    scores = (clicks + 10 * label[train].mean()) / (rows + 10)
    expected = roc_auc_score(label[~train], scores[ids[~train]])
    found = measures.area_of_values(table(ids, label, split, 40))
    assert found == pytest.approx(expected, abs=1e-12) and found > 0.7


def test_values_that_occur_once_do_not_tell_their_own_label(rng):
    label = rng.integers(0, 2, 900)
    found = measures.area_of_values(table(np.arange(900), label, np.zeros(900), 900))
    assert found == pytest.approx(0.5)


def test_without_clicks_there_is_no_auc():
    assert measures.area_of_values(np.zeros((5, GROUPS), np.int64)) is None
    assert measures.area_of_numbers(counted([1.0, 2.0])) is None


def test_psi_by_hand_and_by_chance(rng):
    found, _ = measures.psi(np.array([500_000, 500_000]), np.array([250_000, 750_000]))
    assert found == pytest.approx(-0.25 * np.log(0.5) + 0.25 * np.log(1.5), rel=1e-4)
    assert measures.psi(np.array([1, 2]), np.array([0, 0])) is None
    drawn = [
        measures.psi(*(rng.multinomial(n, [0.1] * 10) for n in (5000, 500))) for _ in range(300)
    ]
    assert np.mean([one for one, _ in drawn]) == pytest.approx(drawn[0][1], rel=0.15)


def test_psi_of_numbers_sees_a_shift_and_new_gaps(rng):
    split = np.repeat([0, 1, 2], 5000)
    values = rng.lognormal(size=15_000)
    values[split == 1] *= 2
    values[split == 2] = np.where(rng.random(5000) < 0.5, np.nan, values[split == 2])
    cells = measures.psi_cells_of_numbers(counted(values, split=split))
    np.testing.assert_array_equal(cells.sum(axis=0), [5000, 5000, 5000])
    np.testing.assert_allclose(cells[:-1, 0], 500, atol=60)
    assert measures.psi(cells[:, 0], cells[:, 1])[0] > 0.2
    assert measures.psi(cells[:, 0], cells[:, 2])[0] > 0.5


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (np.arange(12), "linear"),
        (np.random.default_rng(1).normal(size=5000), "linear"),
        (np.floor(np.random.default_rng(1).lognormal(2, 3, 5000)), "symlog"),
        (-np.random.default_rng(1).lognormal(2, 3, 5000), "symlog"),
        (np.full(9, 1e300), "linear"),
        (np.full(9, -2.5), "linear"),
        (np.zeros(9), "linear"),
    ],
)
def test_bars_hold_all_rows_and_rise_from_the_least_to_the_greatest(values, scale):
    found = measures.histogram(counted(values))
    edges = found["edges"]
    assert found["scale"] == scale and edges == sorted(set(edges)) and len(edges) <= 42
    assert edges[0] <= min(values) and max(values) <= edges[-1]
    assert sum(found["rows"]) == pytest.approx(len(values), rel=0.01)
    assert sum(found["shares"][0]) == pytest.approx(1, rel=1e-3)


def test_bars_of_small_integers_are_exact():
    values = np.repeat([0, 1, 2, 5], [4, 3, 2, 1])
    label = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 1])
    found = measures.histogram(counted(values, label))
    assert found["edges"] == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert found["rows"] == [4, 3, 2, 0, 0, 1]
    assert found["click_rate"] == [0.5, pytest.approx(1 / 3, rel=1e-5), 0, None, None, 1]
    assert measures.histogram(counted([np.nan])) is None


def test_the_interval_holds_the_rate_and_stays_within_bounds():
    for clicks, rows in ((0, 10), (10, 10), (3, 10), (500, 1000)):
        low, high = measures.interval(clicks, rows)
        assert 0 <= low <= clicks / rows <= high <= 1 and high > low
    low, high = measures.interval(250, 1000)  # Wald's: 1.96 · sqrt(0.25 · 0.75 / 1000)
    assert (high - low) / 2 == pytest.approx(0.0268, abs=2e-4)
