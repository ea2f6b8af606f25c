"""Areas under ROC curves, how sure they are, and what else is said of probabilities. Source: slides spec, section 10.

AUC = P(s+ > s-) + 0.5 P(tie). Intervals are DeLong's (DeLong et al. 1988, by midranks as Sun & Xu 2014) and those of
a bootstrap over units (patients) inside each class, so that no draw lacks a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from microsnoop.ops.intervals import DRAWS, Interval, wilson
from microsnoop.ops.metrics import confusion_matrix, headline_scores
from microsnoop.ops.roc_curve import Floats, bootstrap_auc, check_two_classes

POOLING_GAP = 0.03  # pooled AUC minus mean of folds: beyond this, calibrations of folds differ


@dataclass(frozen=True)
class RocScores:
    """What a score says of two classes; all NaN where ``missing`` gives a reason."""

    auc: float
    se: float  # DeLong's
    delong: Interval
    bootstrap: Interval
    average_precision: float
    balanced_accuracy: float  # at 0.5
    brier: float
    n_positive: int
    n_negative: int
    flags: tuple[str, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class AucComparison:
    """Two scores of the same rows: AUC of each, their difference (a - b), DeLong's test of it."""

    auc_a: float
    auc_b: float
    difference: float
    se: float
    p: float
    interval: Interval


@dataclass(frozen=True)
class FoldAucs:
    """AUC of each fold (NaN: one class), their mean and SD (n - 1), the pooled AUC, and whether both disagree."""

    folds: Floats
    mean: float
    sd: float
    pooled: float
    differs: bool


@dataclass(frozen=True)
class ClassAucs:
    """One-against-rest AUC of each class (K,), NaN for the classes of ``missing``, and the mean of the others."""

    classes: Floats
    macro: float
    missing: tuple[int, ...]


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose probability lies in [low, high): how many, what was said, what was found."""

    low: float
    high: float
    n: int
    predicted: float
    observed: float
    interval: Interval


def auc(truth: NDArray[Any], scores: NDArray[Any]) -> float:
    """Return the area under the curve; not a number where there is one class only.

    Parameters
    ----------
    truth
        (N,) bool, or 0 and 1.
    scores
        (N,) finite; higher speaks for 1.

    Raises
    ------
    ValueError
        Lengths that differ, labels that are not 0 or 1, scores that are not finite.
    """
    positive, values = check_two_classes(truth, scores)
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not (n_positive and n_negative):
        return float("nan")
    ranks = float(stats.rankdata(values)[positive].sum())
    return (ranks - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def delong(truth: NDArray[Any], scores: NDArray[Any]) -> tuple[float, Interval]:
    """Return DeLong's standard error of the AUC and its 95 % interval, clipped to [0, 1].

    NaN where a class has fewer than two rows: its variance is not known.
    """
    positive, values = check_two_classes(truth, scores)
    se = float(np.sqrt(_covariance(positive, [values])[0, 0]))
    return se, _normal_interval(auc(positive, values), se, low=0.0)


def compare_auc(truth: NDArray[Any], a: NDArray[Any], b: NDArray[Any]) -> AucComparison:
    """Compare the AUC of two scores of the same rows by DeLong's test for correlated curves, two-sided.

    Without any variance, p is 1 where both areas are equal, else not a number.
    """
    positive, first = check_two_classes(truth, a)
    _, second = check_two_classes(truth, b)
    areas = auc(positive, first), auc(positive, second)
    covariance = _covariance(positive, [first, second])
    difference = areas[0] - areas[1]
    variance = max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]))
    # two scores of the same order differ by rounding only
    se = float(np.sqrt(variance)) if not variance < 1e-18 else 0.0
    if se > 0:
        p = float(2 * stats.norm.sf(abs(difference) / se))
    else:
        p = 1.0 if se == 0 and abs(difference) < 1e-12 else float("nan")
    return AucComparison(*areas, difference, se, p, _normal_interval(difference, se, low=-1.0))


def average_precision(truth: NDArray[Any], scores: NDArray[Any]) -> float:
    """Return the sum of precision times the step of recall, rows of one score together; NaN without positives."""
    positive, values = check_two_classes(truth, scores)
    if not positive.any():
        return float("nan")
    levels, place = np.unique(-values, return_inverse=True)
    found = np.bincount(place[positive], minlength=len(levels))
    precision = np.cumsum(found) / np.cumsum(np.bincount(place, minlength=len(levels)))
    return float((precision * found).sum() / positive.sum())


def score_two_classes(
    truth: NDArray[Any],
    probability: NDArray[Any],
    *,
    groups: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> RocScores:
    """Score the probability of class 1 (N,) against the truth (N,): everything but the curve.

    Raises
    ------
    ValueError
        As :func:`auc`; a probability outside [0, 1].
    """
    positive, values = check_two_classes(truth, probability)
    if len(values) and not 0 <= values.min() <= values.max() <= 1:
        raise ValueError(f"probabilities must lie in [0, 1], got {values.min()} to {values.max()}")
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    nothing = Interval(np.nan, np.nan, "none")
    if not (n_positive and n_negative):
        has = "rows of class 1 only" if n_positive else "rows of class 0 only" if n_negative else "no rows"
        return RocScores(
            np.nan, np.nan, nothing, nothing, np.nan, np.nan, np.nan, n_positive, n_negative, (), has
        )
    se, interval = delong(positive, values)
    confusion = confusion_matrix(positive.astype(np.int64), (values >= 0.5).astype(np.int64), n_classes=2)
    flags = ["constant_scores"] if values.min() == values.max() else []
    flags += ["no_variance"] if not se > 0 else []
    return RocScores(
        auc=auc(positive, values),
        se=se,
        delong=interval,
        bootstrap=bootstrap_auc(positive, values, groups=groups, draws=draws, seed=seed),
        average_precision=average_precision(positive, values),
        balanced_accuracy=float(headline_scores(confusion[None])["balanced_accuracy"][0]),
        brier=float(np.mean((values - positive) ** 2)),
        n_positive=n_positive,
        n_negative=n_negative,
        flags=tuple(flags),
    )


def fold_aucs(truth: NDArray[Any], scores: NDArray[Any], fold: NDArray[np.int64]) -> FoldAucs:
    """Return the AUC of each fold beside the pooled one, which mixes the calibrations of the folds' models."""
    positive, values = check_two_classes(truth, scores)
    found = np.array([auc(positive[fold == f], values[fold == f]) for f in np.unique(fold)])
    known = found[np.isfinite(found)]
    mean = float(known.mean()) if len(known) else float("nan")
    sd = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    pooled = auc(positive, values)
    return FoldAucs(found, mean, sd, pooled, bool(abs(pooled - mean) > POOLING_GAP))


def one_vs_rest(truth: NDArray[np.int64], scores: NDArray[Any]) -> ClassAucs:
    """Return the AUC of each class against all others: classes int64 (N,), scores (N, K)."""
    if scores.ndim != 2 or len(scores) != len(truth):
        raise ValueError(f"scores must be ({len(truth)}, K), got {scores.shape}")
    found = np.array([auc(truth == k, scores[:, k]) for k in range(scores.shape[1])])
    known = np.isfinite(found)
    macro = float(found[known].mean()) if known.any() else float("nan")
    return ClassAucs(found, macro, tuple(int(k) for k in np.flatnonzero(~known)))


def calibration(truth: NDArray[Any], probability: NDArray[Any], *, bins: int = 10) -> list[CalibrationBin]:
    """Compare what was said with what was found, in bins of equal width; bins without rows are NaN."""
    positive, values = check_two_classes(truth, probability)
    edges = np.linspace(0, 1, bins + 1)
    # a probability of 1 belongs to the last bin
    place = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    found = []
    for b in range(bins):
        rows = place == b
        n, hits = int(rows.sum()), int(positive[rows].sum())
        said = float(values[rows].mean()) if n else float("nan")
        seen = hits / n if n else float("nan")
        found.append(CalibrationBin(float(edges[b]), float(edges[b + 1]), n, said, seen, wilson(hits, n)))
    return found


def _covariance(positive: NDArray[np.bool_], scores: list[Floats]) -> Floats:
    """Return the covariance (S, S) of the AUCs of S scores, from their placement values."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if min(n_positive, n_negative) < 2:
        return np.full((len(scores), len(scores)), np.nan)
    above, below = [], []
    for values in scores:
        ranks = stats.rankdata(values)
        above.append((ranks[positive] - stats.rankdata(values[positive])) / n_negative)
        below.append((ranks[~positive] - stats.rankdata(values[~positive])) / n_positive)
    shape = (len(scores), len(scores))
    return np.asarray(
        np.cov(above).reshape(shape) / n_positive + np.cov(below).reshape(shape) / n_negative, np.float64
    )


def _normal_interval(value: float, se: float, *, low: float) -> Interval:
    half = float(stats.norm.ppf(0.975)) * se
    return Interval(float(np.clip(value - half, low, 1)), float(np.clip(value + half, low, 1)), "delong")
