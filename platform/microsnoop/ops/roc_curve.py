"""ROC curves and the bootstrap over units (patients) inside each class. Source: slides spec, section 10.

Rows of one score are one level, and a draw is how many positives and negatives stand at each level: no draw is ever
sorted again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.ops.intervals import DRAWS, Interval

_NUMBERS_AT_ONCE = 2**22
_GRID = 101

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RocCurve:
    """Corners of a curve (T,), thresholds falling from infinity, and a vertical 95 % band on a grid of FPR (G,)."""

    thresholds: Floats
    fpr: Floats
    tpr: Floats
    grid: Floats
    low: Floats
    high: Floats


def check_two_classes(truth: NDArray[Any], scores: NDArray[Any]) -> tuple[NDArray[np.bool_], Floats]:
    """Return the truth as bool (N,) and the scores as float64 (N,).

    Raises
    ------
    ValueError
        Lengths that differ, labels that are not 0 or 1, scores that are not finite.
    """
    truth, values = np.asarray(truth), np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"truth and scores must be (N,), got {truth.shape} and {values.shape}")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("the truth must hold 0 and 1 only")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} scores are not finite")
    return truth.astype(bool), values


def bootstrap_auc(
    truth: NDArray[Any],
    scores: NDArray[Any],
    *,
    groups: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return a 95 % percentile interval of the AUC; units are drawn inside each class.

    Parameters
    ----------
    groups
        Units 0..G-1 (patients) of the rows, int64 (N,); None: each row is one. Units with rows of both classes are a
        class of their own.
    """
    positive, values = check_two_classes(truth, scores)
    method = "bootstrap-rows" if groups is None else "bootstrap-groups"
    if positive.all() or not positive.any():
        return Interval(np.nan, np.nan, method)
    found = []
    for ones, zeros in _draws(positive, values, groups, draws=draws, seed=seed):
        below = np.cumsum(zeros, axis=1) - zeros / 2
        found.append((ones * below).sum(axis=1) / (ones.sum(axis=1) * zeros.sum(axis=1)))
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5])
    return Interval(float(low), float(high), method)


def roc_curve(
    truth: NDArray[Any],
    scores: NDArray[Any],
    *,
    groups: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> RocCurve:
    """Return the curve and its vertical bootstrap band (as :func:`bootstrap_auc` draws).

    Raises
    ------
    ValueError
        One class only.
    """
    positive, values = check_two_classes(truth, scores)
    if positive.all() or not positive.any():
        raise ValueError("a ROC curve needs rows of both classes")
    levels, place = np.unique(values, return_inverse=True)
    tables = [np.bincount(place[rows], minlength=len(levels))[None] for rows in (positive, ~positive)]
    tpr, fpr = (_cumulative(table)[0] for table in tables)
    grid = np.linspace(0, 1, _GRID)
    curves = [
        _vertical(x, y, grid)
        for ones, zeros in _draws(positive, values, groups, draws=draws, seed=seed)
        for x, y in zip(_cumulative(zeros), _cumulative(ones), strict=True)
    ]
    low, high = np.percentile(curves, [2.5, 97.5], axis=0)
    return RocCurve(np.concatenate([[np.inf], levels[::-1]]), fpr, tpr, grid, low, high)


def _draws(
    positive: NDArray[np.bool_],
    values: Floats,
    groups: NDArray[np.int64] | None,
    *,
    draws: int,
    seed: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield blocks of draws: how many positives and negatives (b, L) stand at each of the L scores, ascending."""
    levels, place = np.unique(values, return_inverse=True)
    n_levels = len(levels)
    unit = np.unique(np.arange(len(values)) if groups is None else groups, return_inverse=True)[1]
    columns = place + n_levels * ~positive
    shape = (int(unit.max()) + 1, 2 * n_levels)
    table = sparse.csr_array((np.ones(len(values), np.int64), (unit, columns)), shape=shape)
    has = [np.bincount(unit[rows], minlength=shape[0]) > 0 for rows in (positive, ~positive)]
    strata = [
        np.flatnonzero(has[0] & ~has[1]),
        np.flatnonzero(has[1] & ~has[0]),
        np.flatnonzero(has[0] & has[1]),
    ]
    rng = np.random.default_rng(seed)
    step = max(1, _NUMBERS_AT_ONCE // (2 * n_levels))
    for start in range(0, draws, step):
        times = np.zeros((min(step, draws - start), shape[0]), np.int64)
        for members in strata:
            if n := len(members):
                times[:, members] = rng.multinomial(n, np.full(n, 1 / n), len(times))
        counts = np.asarray(times @ table)
        yield counts[:, :n_levels], counts[:, n_levels:]


def _cumulative(counts: NDArray[np.int64]) -> Floats:
    """Return the share (b, L + 1) of rows at or above each score, from the highest on, 0 first."""
    shares = np.cumsum(counts[:, ::-1], axis=1) / counts.sum(axis=1, keepdims=True)
    return np.concatenate([np.zeros((len(counts), 1)), shares], axis=1)


def _vertical(fpr: Floats, tpr: Floats, grid: Floats) -> Floats:
    """Read a curve (T,) at each FPR of the grid: the top of a vertical step, straight between corners."""
    last = np.searchsorted(fpr, grid, side="right") - 1
    after = np.minimum(last + 1, len(fpr) - 1)
    width = fpr[after] - fpr[last]
    share = np.divide(grid - fpr[last], width, out=np.zeros_like(grid), where=width > 0)
    return np.asarray(tpr[last] + share * (tpr[after] - tpr[last]))
