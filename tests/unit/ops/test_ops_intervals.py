"""Intervals, paired comparisons and the permutation null: known values and simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from microsnoop.ops import intervals
from microsnoop.ops.intervals import compare, mcnemar, permutation_null, score_intervals, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(100, 103, 91.8, 99.0), (89, 92, 90.8, 98.9), (0, 10, 0, 27.8), (10, 10, 72.2, 100)],
)
def test_wilson_known_values(hits: int, n: int, low: float, high: float) -> None:
    found = wilson(hits, n)
    assert 100 * found.low == pytest.approx(low, abs=0.05)
    assert 100 * found.high == pytest.approx(high, abs=0.05)


def test_nothing_has_no_interval() -> None:
    assert np.isnan(wilson(0, 0).low)


def test_mcnemar_known_values() -> None:
    assert mcnemar(1, 8) == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar(8, 1) == mcnemar(1, 8)
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 5) == pytest.approx(1)


def test_the_bootstrap_covers_a_known_proportion() -> None:
    rng, inside = np.random.default_rng(0), 0
    for seed in range(400):
        truth = np.zeros(120, int)
        truth[:40] = 1
        # each class is recognised with probability 0.7: balanced accuracy is 0.7 on average
        predicted = np.where(rng.random(120) < 0.7, truth, 1 - truth)
        found = score_intervals(truth, predicted, n_classes=2, draws=400, seed=seed)["balanced_accuracy"]
        assert found.method == "bootstrap-rows"
        inside += found.low <= 0.7 <= found.high
    assert 0.92 <= inside / 400 <= 0.97


def test_groups_widen_the_interval_of_duplicated_rows(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 2, 60)
    predicted = np.where(rng.random(60) < 0.7, truth, 1 - truth)
    tenfold = [np.repeat(x, 10) for x in (truth, predicted, np.arange(60))]
    rows = score_intervals(tenfold[0], tenfold[1], n_classes=2)
    groups = score_intervals(tenfold[0], tenfold[1], n_classes=2, groups=tenfold[2])
    once = score_intervals(truth, predicted, n_classes=2)
    for name in ("accuracy", "balanced_accuracy", "mcc", "macro_f1"):
        assert groups[name].method == "bootstrap-groups"
        width = groups[name].high - groups[name].low
        assert width > 2.5 * (rows[name].high - rows[name].low)
        assert width == pytest.approx(once[name].high - once[name].low, rel=0.15)
    assert rows["accuracy"].method == "wilson"


def test_the_group_bootstrap_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(3)
    groups = np.sort(rng.integers(0, 15, 200))
    groups = np.unique(groups, return_inverse=True)[1]
    truth = rng.integers(0, 2, 200)
    predicted = np.where(rng.random(200) < 0.2 + 0.6 * (groups % 2), truth, 1 - truth)
    right = truth == predicted
    values = []
    for _ in range(4000):
        drawn = np.concatenate([right[groups == g] for g in rng.integers(0, 15, 15)])
        values.append(drawn.mean())
    found = score_intervals(truth, predicted, n_classes=2, groups=groups, draws=4000)["accuracy"]
    np.testing.assert_allclose([found.low, found.high], np.percentile(values, [2.5, 97.5]), atol=0.02)


def test_draws_without_a_class_are_drawn_again_and_counted() -> None:
    truth = np.array([0] * 30 + [1])
    found = score_intervals(truth, truth, n_classes=2, draws=500)
    # with one row of a class a third of the draws lacks it: after 100 redraws none does
    assert found["balanced_accuracy"].n_degenerate == 0
    assert found["balanced_accuracy"].low == 1
    groups = np.array([0] * 30 + [1])
    both = score_intervals(truth, truth, n_classes=2, groups=groups, draws=500)
    assert both["accuracy"].low == 1


def test_draws_in_portions_are_the_same_draws(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    truth, predicted, groups = rng.integers(0, 3, 90), rng.integers(0, 3, 90), np.arange(90) // 3
    whole = score_intervals(truth, predicted, n_classes=3, groups=groups)
    monkeypatch.setattr(intervals, "_DRAWN_AT_ONCE", 500)
    assert score_intervals(truth, predicted, n_classes=3, groups=groups) == whole


def test_comparison_counts_rows_and_its_interval_holds_the_difference(rng: np.random.Generator) -> None:
    right_a, right_b = rng.random(300) < 0.8, rng.random(300) < 0.6
    found = compare(right_a, right_b)
    assert found.only_a == sum(a and not b for a, b in zip(right_a, right_b, strict=True))
    assert found.only_b == sum(b and not a for a, b in zip(right_a, right_b, strict=True))
    assert found.difference == pytest.approx(right_a.mean() - right_b.mean())
    assert found.interval.low < found.difference < found.interval.high
    assert found.p == pytest.approx(stats.binomtest(found.only_a, found.only_a + found.only_b).pvalue)
    spread = np.std(right_a.astype(float) - right_b) / np.sqrt(300)
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    swapped = compare(right_b, right_a)
    assert (swapped.only_a, swapped.difference) == (found.only_b, -found.difference)
    same = compare(right_a, right_a)
    assert (same.p, same.difference, same.interval.low, same.interval.high) == (1, 0, 0, 0)
    with pytest.raises(ValueError, match="same rows"):
        compare(right_a, right_b[:-1])


def test_permuted_labels_stay_at_chance_and_a_real_score_does_not(rng: np.random.Generator) -> None:
    labels = np.repeat([0, 1], 50)
    knows = np.where(rng.random(100) < 0.9, labels, 1 - labels)
    null = permutation_null(lambda y: float((knows == y).mean()), labels)
    assert null is not None
    assert null.mean == pytest.approx(0.5, abs=0.02)
    assert null.p == pytest.approx(1 / 201)
    blind = rng.integers(0, 2, 100)
    none = permutation_null(lambda y: float((blind == y).mean()), labels)
    assert none is not None
    assert none.p > 0.02


def test_labels_of_groups_move_between_groups() -> None:
    groups, labels = np.repeat(np.arange(8), 5), np.repeat([0, 1] * 4, 5)
    seen: list[np.ndarray] = []

    def score(y: np.ndarray) -> float:
        seen.append(y)
        return 0.0

    permutation_null(score, labels, groups=groups, permutations=20)
    for y in seen:
        assert (y.reshape(8, 5) == y.reshape(8, 5)[:, :1]).all()
    assert len({tuple(y) for y in seen}) > 5
    assert permutation_null(score, labels[:25], groups=groups[:25]) is None
