"""Many rows to one: the statistics that make a field of its cells, an image of its tiles.

A reducer takes the rows of one group, (k, d), and returns (d',) float64; a new one is a function and an entry of
``REDUCERS``. Sources: Microsnoop spec, section 12 (mean); batch spec, section 8 (the others).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from microsnoop.ops.profiles import GroupMean

Reducer = Callable[[NDArray[Any]], NDArray[np.float64]]

MAX_GROUP_ROWS = 1_000_000  # a statistic that needs all rows of a group holds them in memory
_BLOCK_NUMBERS = 2**22  # float64 copies are made of so many numbers at a time
_MIN_WEIGHT = 0.01


def mean(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the arithmetic mean ``Σ x_r / k`` of rows (k, d), as published: (d,), not normalised again."""
    return _by_columns(rows, lambda x: x.mean(axis=0, keepdims=True))


def median(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the median of each feature of rows (k, d): (d,); of an even k the middle of the two in the middle."""
    return _by_columns(rows, lambda x: np.median(x, axis=0, keepdims=True))


def mean_std(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return (2d,): the d means, then the d standard deviations ``sqrt(Σ (x_r - mean)² / k)``; 0 where k is 1."""
    return _by_columns(rows, lambda x: np.stack([x.mean(axis=0), x.std(axis=0)]))


def trimmed(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean of each feature without its ``floor(k / 10)`` smallest and largest values: (d,).

    Fewer than ten rows lose none: then it is the plain mean.
    """
    cut = len(rows) // 10
    return _by_columns(rows, lambda x: np.sort(x, axis=0)[cut : len(x) - cut].mean(axis=0, keepdims=True))


def modz(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``Σ w_r x_r`` of rows (k, d) with the weights of :func:`modz_weights`: (d,)."""
    weights = modz_weights(rows)
    return _by_columns(rows, lambda x: weights[None] @ x)


def modz_weights(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return how much each row counts: more, the better it agrees with the others.

    With Spearman's correlation S of the rows over their features (ties share their mean rank), negative values
    set to 0: ``w_r = max(mean of S_rs over s ≠ r, 0.01)``, then divided by their sum. A constant row agrees with
    nobody (S = 0). One row has weight 1, two have 1/2 each.

    Every row is ranked once and all correlations come from a matrix product, in blocks of at most 32 MB; ranks
    take 8·k·d bytes, the product k²·d operations.

    Source: batch spec, section 8 (L1000's MODZ). The published rounding of weights to four digits is not done.
    """
    _check(rows)
    k, d = rows.shape
    if k <= 2:
        return np.full(k, 1 / k)
    units = np.empty((k, d))  # centred ranks of length 1: their products are Spearman's correlations
    for block in _slices(k, _BLOCK_NUMBERS // d):
        ranks = rankdata(rows[block], axis=1) - (d + 1) / 2
        length = np.sqrt(np.square(ranks).sum(axis=1, keepdims=True))
        units[block] = ranks / np.where(length > 0, length, 1)
    agreement = np.empty(k)
    for block in _slices(k, _BLOCK_NUMBERS // k):
        correlation = (units[block] @ units.T).clip(min=0)
        correlation[np.arange(len(correlation)), np.arange(k)[block]] = 0  # with itself
        agreement[block] = correlation.sum(axis=1) / (k - 1)
    weights = agreement.clip(min=_MIN_WEIGHT)
    return np.asarray(weights / weights.sum())


REDUCERS: dict[str, Reducer] = {
    "mean": mean,
    "median": median,
    "mean_std": mean_std,
    "trimmed": trimmed,
    "modz": modz,
}


def statistics(how: str) -> tuple[str, ...]:
    """Return the names of what a reducer gives for every feature, in its order.

    Raises
    ------
    ValueError
        No such reducer.
    """
    if how not in REDUCERS:
        raise ValueError(f"unknown statistic {how!r}; choose one of {', '.join(REDUCERS)}")
    return ("mean", "std") if how == "mean_std" else (how,)


def reduce_rows(rows: NDArray[Any], *, how: str) -> NDArray[np.float64]:
    """Reduce one group (k, d) to (S, d), one row a statistic; NaN says that a row lacks a feature.

    A feature counts only the rows that have it, and is NaN where none has. Features that the same rows have are
    reduced together: the weights of ``modz`` come from all features at once where nothing is missing.
    """
    n = len(statistics(how))
    reducer = REDUCERS[how]
    missing = np.isnan(rows)
    if not missing.any():
        return reducer(rows).reshape(n, -1)
    found = np.full((n, rows.shape[1]), np.nan)
    _, kind = np.unique(np.packbits(missing, axis=0), axis=1, return_inverse=True)
    for number in range(kind.max() + 1):
        columns = np.flatnonzero(kind == number)
        having = np.flatnonzero(~missing[:, columns[0]])
        if len(having):
            found[:, columns] = reducer(rows[np.ix_(having, columns)]).reshape(n, -1)
    return found


def reduce_groups(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
    counts: NDArray[np.int64],
    *,
    width: int,
    how: str,
) -> NDArray[np.float32]:
    """Reduce groups whose rows come in blocks, in any order.

    Parameters
    ----------
    blocks
        (groups (n,), rows (n, width)): each row's group, 0..len(counts)-1; NaN as in :func:`reduce_rows`.
    counts
        How many rows each group has. ``mean`` needs only sums in memory, the others all ``counts.sum()`` rows.

    Returns
    -------
    (groups, S, width); a group without rows is NaN, never zeros.

    Raises
    ------
    ValueError
        Not as many rows came as ``counts`` says.
    """
    found = np.full((len(counts), len(statistics(how)), width), np.nan, np.float32)
    filled = np.flatnonzero(counts)
    if how == "mean":
        means = GroupMean(len(counts), width)
        for groups, rows in blocks:
            means.add(groups, rows)
        _check_counts(means.counts, counts)
        found[filled, 0] = means.means(filled)
        return found
    members, of = _gather(blocks, counts, width)
    order, ends = np.argsort(of, kind="stable"), np.cumsum(counts)
    for g in filled:
        found[g] = reduce_rows(members[order[ends[g] - counts[g] : ends[g]]], how=how)
    return found


def _gather(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]], counts: NDArray[np.int64], width: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return all rows (n, width) and the group of each."""
    members, total = np.empty((int(counts.sum()), width), np.float32), 0
    of, came = np.empty(len(members), np.int64), np.zeros(len(counts), np.int64)
    for groups, rows in blocks:
        came += np.bincount(groups, minlength=len(counts))
        if came.sum() > len(members):  # numpy would drop a single row that does not fit
            break
        members[total : total + len(rows)], of[total : total + len(rows)] = rows, groups
        total += len(rows)
    _check_counts(came, counts)
    return members, of


def chunk_groups(counts: NDArray[np.int64], *, max_groups: int, max_rows: int) -> list[slice]:
    """Cut groups into runs of neighbours with at most so many groups and rows; one group always fits."""
    ends = np.cumsum(counts)
    chunks: list[slice] = []
    start = 0
    while start < len(counts):
        before = ends[start] - counts[start]
        fitting = int(np.searchsorted(ends, before + max_rows, side="right"))
        stop = min(max(fitting, start + 1), start + max_groups)
        chunks.append(slice(start, min(stop, len(counts))))
        start = stop
    return chunks


def _by_columns(rows: NDArray[Any], statistic: Reducer) -> NDArray[np.float64]:
    """Apply a statistic (k, b) -> (s, b) in float64 to blocks of columns, so that no large copy is made."""
    _check(rows)
    k, d = rows.shape
    blocks = [statistic(rows[:, columns].astype(np.float64)) for columns in _slices(d, _BLOCK_NUMBERS // k)]
    return np.concatenate(blocks, axis=1).ravel()


def _slices(n: int, step: int) -> list[slice]:
    step = max(step, 1)
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _check(rows: NDArray[Any]) -> None:
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"rows must be (k, d) with at least one row and one feature, got shape {rows.shape}")


def _check_counts(came: NDArray[np.int64], expected: NDArray[np.int64]) -> None:
    if not np.array_equal(came, expected):
        g = int(np.flatnonzero(came != expected)[0])
        raise ValueError(f"group {g}: {expected[g]} rows were announced, {came[g]} came")
