"""AUC, its intervals and tests, curves and calibration: known values, naive twins, scikit-learn, simulation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from microsnoop.ops.roc import (
    auc,
    average_precision,
    calibration,
    compare_auc,
    delong,
    fold_aucs,
    one_vs_rest,
    score_two_classes,
)
from microsnoop.ops.roc_curve import bootstrap_auc, roc_curve

PROPERTY = settings(deadline=None, derandomize=True, max_examples=80)
Freeze = Callable[[NDArray], NDArray]
TRUTH = np.array([0, 0, 1, 1])
SCORES = np.array([0.1, 0.4, 0.35, 0.8])


def cohort(n: int = 60, *, seed: int = 0, levels: int = 0, gap: float = 1.0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 3 == 0
    scores = 1 / (1 + np.exp(-(rng.normal(size=n) + gap * truth)))
    return truth, np.round(scores * levels) / levels if levels else scores


def naive_auc(truth: NDArray, scores: NDArray) -> float:
    pairs = list(product(scores[truth], scores[~truth]))
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


def naive_covariance(truth: NDArray, a: NDArray, b: NDArray) -> float:
    """DeLong by its definition: placements of each row among the rows of the other class."""

    def placements(scores: NDArray) -> tuple[list[float], list[float]]:
        kernel = np.array([[(p > n) + 0.5 * (p == n) for n in scores[~truth]] for p in scores[truth]])
        return list(kernel.mean(axis=1)), list(kernel.mean(axis=0))

    (ones_a, zeros_a), (ones_b, zeros_b) = placements(a), placements(b)
    parts = [(ones_a, ones_b), (zeros_a, zeros_b)]
    return sum(
        sum((x - np.mean(u)) * (y - np.mean(v)) for x, y in zip(u, v, strict=True)) / (len(u) - 1) / len(u)
        for u, v in parts
    )


# ---------------------------------------------------------------- AUC and DeLong


def test_known_values(frozen: Freeze) -> None:
    truth, scores = frozen(TRUTH), frozen(SCORES)
    assert auc(truth, scores) == 0.75
    se, interval = delong(truth, scores)
    assert se == pytest.approx(0.125**0.5)  # 0.354
    assert (interval.low, interval.high) == (pytest.approx(0.75 - 1.959964 * 0.125**0.5), 1.0)
    found = score_two_classes(truth, scores, draws=200)
    assert (found.n_positive, found.n_negative, found.missing, found.flags) == (2, 2, "", ())
    assert found.balanced_accuracy == 0.75  # .35 is a miss at 0.5
    assert found.brier == pytest.approx((0.01 + 0.16 + 0.65**2 + 0.04) / 4)
    assert found.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert found.bootstrap.high == 1.0
    assert found.bootstrap.method == "bootstrap-rows"


@PROPERTY
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30).filter(
        lambda rows: len({t for t, _ in rows}) == 2
    )
)
def test_auc_and_average_precision_equal_pairs_and_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    truth, scores = np.array([t for t, _ in rows]), np.array([s for _, s in rows]) / 6
    assert auc(truth, scores) == pytest.approx(naive_auc(truth, scores), abs=1e-12)
    assert auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert average_precision(truth, scores) == pytest.approx(
        average_precision_score(truth, scores), abs=1e-12
    )
    found = score_two_classes(truth, scores, draws=20)
    assert found.brier == pytest.approx(brier_score_loss(truth, scores), abs=1e-12)
    x, y, _ = sklearn_curve(truth, scores, drop_intermediate=False)
    curve = roc_curve(truth, scores, draws=20)
    np.testing.assert_allclose(curve.fpr, x, atol=1e-12)
    np.testing.assert_allclose(curve.tpr, y, atol=1e-12)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(found.auc, abs=1e-12)


@pytest.mark.parametrize("levels", [0, 5])
def test_delong_equals_its_definition(levels: int) -> None:
    truth, a = cohort(seed=1, levels=levels)
    _, b = cohort(seed=2, levels=levels, gap=0.4)
    assert delong(truth, a)[0] ** 2 == pytest.approx(naive_covariance(truth, a, a), rel=1e-9)
    found = compare_auc(truth, a, b)
    variance = (
        naive_covariance(truth, a, a) + naive_covariance(truth, b, b) - 2 * naive_covariance(truth, a, b)
    )
    assert found.se**2 == pytest.approx(variance, rel=1e-9)
    assert found.difference == pytest.approx(naive_auc(truth, a) - naive_auc(truth, b))
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.959964 * found.se, rel=1e-5)
    z = found.difference / found.se
    assert 0 < found.p < 1
    assert (found.p < 0.05) == (abs(z) > 1.959964)
    other = compare_auc(truth, b, a)
    assert other.p == pytest.approx(found.p)
    assert other.difference == -found.difference


def test_comparing_a_score_with_itself_and_with_its_own_order() -> None:
    truth, a = cohort()
    for same in (a, np.sqrt(a)):
        found = compare_auc(truth, a, same)
        assert (found.difference, found.se, found.p) == (0, 0, 1)


def test_delong_covers(rng: np.random.Generator) -> None:
    inside, true_auc, n = 0, 0.7602499389, 600  # Φ(1 / √2)
    for _ in range(n):
        truth = np.arange(80) < 40
        interval = delong(truth, rng.normal(size=80) + truth)[1]
        inside += interval.low <= true_auc <= interval.high
    assert 0.92 <= inside / n <= 0.98


def test_one_class_one_row_and_equal_scores() -> None:
    for truth, reason in (([0, 0], "class 0 only"), ([1, 1], "class 1 only"), ([], "no rows")):
        found = score_two_classes(np.array(truth), np.full(len(truth), 0.3))
        assert reason in found.missing
        assert np.isnan([found.auc, found.se, found.delong.low, found.bootstrap.high, found.brier]).all()
        assert np.isnan(auc(np.array(truth), np.full(len(truth), 0.3)))
    equal = score_two_classes(TRUTH, np.full(4, 0.7), draws=50)
    assert equal.auc == 0.5
    assert "constant_scores" in equal.flags
    assert (equal.bootstrap.low, equal.bootstrap.high) == (0.5, 0.5)
    lone = score_two_classes(np.array([0, 0, 1]), np.array([0.1, 0.6, 0.5]), draws=50)
    assert lone.auc == 0.5
    assert np.isnan(lone.se)
    assert "no_variance" in lone.flags
    with pytest.raises(ValueError, match="both classes"):
        roc_curve(np.ones(3), np.ones(3))


@pytest.mark.parametrize(
    ("truth", "scores", "message"),
    [
        ([0, 1], [0.1, 0.2, 0.3], r"must be \(N,\)"),
        ([0, 2], [0.1, 0.2], "0 and 1 only"),
        ([0, 1], [0.1, np.nan], "1 scores are not finite"),
    ],
)
def test_what_is_refused(truth: list, scores: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(np.array(truth), np.array(scores))


def test_classes_are_told_at_one_half() -> None:
    truth, scores = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0.1, 0.49, 0.49, 0.6, 0.4, 0.5, 0.51, 0.9])
    assert score_two_classes(truth, scores, draws=20).balanced_accuracy == 0.75
    more = np.where(truth == 0, scores * 0.5, scores)
    assert score_two_classes(truth, more, draws=20).balanced_accuracy == (1 + 0.75) / 2


def test_probabilities_must_be_some() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        score_two_classes(TRUTH, SCORES + 0.5)


# ---------------------------------------------------------------- bootstrap and curves


def test_bootstrap_equals_resampled_rows() -> None:
    truth, scores = cohort(40, levels=8)
    rng = np.random.default_rng(5)
    ones, zeros = np.flatnonzero(truth), np.flatnonzero(~truth)
    naive = []
    for _ in range(1_500):
        rows = np.concatenate([rng.choice(ones, len(ones)), rng.choice(zeros, len(zeros))])
        naive.append(auc(truth[rows], scores[rows]))
    found = bootstrap_auc(truth, scores, draws=4_000, seed=1)
    np.testing.assert_allclose([found.low, found.high], np.percentile(naive, [2.5, 97.5]), atol=0.02)
    assert bootstrap_auc(truth, scores, seed=1) == bootstrap_auc(truth, scores, seed=1)
    assert bootstrap_auc(truth, scores, seed=1) != bootstrap_auc(truth, scores, seed=2)


def test_rows_of_one_patient_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, scores = cohort(60)
    single = bootstrap_auc(truth, scores, groups=np.arange(60)[::-1].copy())
    alone = bootstrap_auc(truth, scores)
    np.testing.assert_allclose([single.low, single.high], [alone.low, alone.high], atol=0.02)
    five = np.tile(np.arange(60), 5)
    copies = bootstrap_auc(truth[five], scores[five], groups=five)
    np.testing.assert_allclose([copies.low, copies.high], [single.low, single.high], atol=0.02)
    assert copies.method == "bootstrap-groups"
    fooled = bootstrap_auc(truth[five], scores[five])
    assert fooled.high - fooled.low < 0.6 * (copies.high - copies.low)
    monkeypatch.setattr("microsnoop.ops.roc_curve._NUMBERS_AT_ONCE", 120)  # many small blocks
    again = bootstrap_auc(truth, scores)
    np.testing.assert_allclose([again.low, again.high], [alone.low, alone.high], atol=0.02)


def test_patients_with_slides_of_both_classes_keep_both() -> None:
    truth = np.array([1, 0, 1, 0])
    found = bootstrap_auc(truth, np.array([0.9, 0.1, 0.8, 0.2]), groups=np.array([0, 0, 1, 1]), draws=100)
    assert (found.low, found.high) == (1.0, 1.0)


def test_band_lies_around_the_curve_and_narrows_with_rows() -> None:
    widths = []
    for n in (60, 900):
        truth, scores = cohort(n)
        curve = roc_curve(truth, scores, draws=300)
        assert curve.thresholds[0] == np.inf
        assert (np.diff(curve.thresholds) < 0).all()
        assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
        assert curve.low.shape == curve.high.shape == curve.grid.shape
        between = np.interp(curve.grid, curve.fpr, curve.tpr)
        inside = (curve.low <= between + 1e-9) & (between <= curve.high + 1e-9)
        assert inside[5:].mean() > 0.95
        assert curve.high[-1] == curve.low[-1] == 1
        widths.append((curve.high - curve.low).mean())
    assert widths[1] < 0.5 * widths[0]


def test_a_vertical_step_counts_with_its_top() -> None:
    curve = roc_curve(np.array([1, 1, 0, 0]), np.array([0.9, 0.8, 0.2, 0.1]), draws=20)
    assert curve.low.min() == 1  # separated: the curve is 1 at FPR 0 already


# ---------------------------------------------------------------- folds, classes, calibration


def test_folds_and_pooled_differ_where_calibrations_do() -> None:
    truth = np.tile([0, 0, 1, 1], 3)
    scores = np.tile([0.1, 0.2, 0.3, 0.4], 3)
    fold = np.repeat([0, 1, 2], 4)
    same = fold_aucs(truth, scores, fold)
    assert (same.mean, same.sd, same.pooled, same.differs) == (1, 0, 1, False)
    shifted = fold_aucs(truth, scores + 0.25 * fold, fold)
    assert shifted.mean == 1
    assert shifted.pooled < 0.97
    assert shifted.differs
    lacking = fold_aucs(np.array([0, 1, 1, 1]), np.array([0.1, 0.9, 0.5, 0.5]), np.array([0, 0, 1, 1]))
    assert lacking.folds[0] == lacking.mean == 1
    assert np.isnan(lacking.folds[1])
    assert np.isnan(lacking.sd)


def test_several_classes(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 3, 50)
    scores = rng.random((50, 3)) + 0.5 * np.eye(3)[truth]
    found = one_vs_rest(truth, scores)
    expected = [roc_auc_score(truth == k, scores[:, k]) for k in range(3)]
    np.testing.assert_allclose(found.classes, expected)
    assert found.macro == pytest.approx(np.mean(expected))
    some = one_vs_rest(truth % 2, scores)
    assert some.missing == (2,)
    assert some.macro == pytest.approx(np.mean(some.classes[:2]))
    with pytest.raises(ValueError, match=r"\(50, K\)"):
        one_vs_rest(truth, scores[:40])


def test_calibration_bins() -> None:
    truth = np.array([0, 1, 0, 1, 1, 1])
    bins = calibration(truth, np.array([0.0, 0.19, 0.2, 0.3, 1.0, 0.99]), bins=5)
    assert [b.n for b in bins] == [2, 2, 0, 0, 2]
    assert bins[0].predicted == pytest.approx(0.095)
    assert [b.observed for b in bins[:2]] == [0.5, 0.5]
    assert bins[4].observed == 1
    assert np.isnan([bins[2].observed, bins[2].predicted, bins[2].interval.low]).all()
    assert 0 < bins[0].interval.low < 0.5 < bins[0].interval.high < 1
    assert (bins[0].low, bins[4].high) == (0, 1)
