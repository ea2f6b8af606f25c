"""How much of the batch is left in the vectors: can neighbours name it, and how much variance does it explain?

Source: evaluation spec, section 7, and batch spec, section 9.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.classify import knn_folds, make_folds
from microsnoop.ops.intervals import Interval, score_intervals

_BLOCK_NUMBERS = 2**21  # numbers of vectors in float64 at once


@dataclass(frozen=True)
class BatchAccuracy:
    """Share of rows whose batch their neighbours name, ``accuracy``; well mixed batches leave it near ``chance``.

    ``chance`` is the share of the largest batch, ``n`` the rows. ``unnameable`` (codes, int64) are the batches
    with a single group: their neighbours are never in the other folds, so their rows are always wrong.
    """

    accuracy: float
    chance: float
    interval: Interval
    n: int
    n_batches: int
    k: int
    folds: int
    unnameable: NDArray[np.int64]


def batch_accuracy(
    vectors: NDArray[Any],
    batch: NDArray[np.int64],
    *,
    groups: NDArray[np.int64] | None,
    k: int = 15,
    folds: int = 5,
    seed: int = 0,
) -> BatchAccuracy:
    """Predict each row's batch by the vote of its ``k`` nearest rows (cosine) in the other folds.

    Folds depend on batches and groups alone: before and after a correction the same rows are asked of the same
    others, and the two results may be compared row by row.

    Parameters
    ----------
    vectors
        (n, d), finite, no row of zeros. Not changed.
    batch
        Codes int64 (n,), at least 0.
    groups
        Rows that must stay together, int64 (n,): wells, where rows are images or cells, or neighbours would
        recognise the well. None where every row stands alone.

    Raises
    ------
    ValueError
        Fewer than two batches, fewer groups than folds, groups so large that each batch is one of them, or fewer
        than ``k`` rows to choose from.
    """
    n = len(vectors)
    codes, own = _batches(batch, n)
    unit = None
    if groups is not None:
        if groups.shape != (n,):
            raise ValueError(f"groups must be ({n},), got {groups.shape}")
        unit = np.unique(groups, return_inverse=True)[1]
    single = codes[_count_groups(own, np.arange(n) if unit is None else unit) == 1]
    if len(single) == len(codes):
        raise ValueError(
            f"each of {len(codes)} batches is a single group: no fold could know it; choose smaller groups (wells)"
        )
    fold = make_folds(own, unit, folds=folds, seed=seed)
    predicted = knn_folds(vectors, own, fold=fold, n_classes=len(codes), groups=unit, k=k).classes
    hit = (predicted == own).astype(np.int64)
    # right or wrong is all that the interval of an accuracy asks for: two classes, however many batches there are
    interval = score_intervals(np.ones(n, np.int64), hit, n_classes=2, groups=unit, seed=seed)["accuracy"]
    chance = float(np.bincount(own).max() / n)
    return BatchAccuracy(float(hit.mean()), chance, interval, n, len(codes), k, folds, single)


def variance_explained(vectors: NDArray[Any], batch: NDArray[np.int64]) -> float:
    """Return the share of the total variance that lies between batches: between over total sum of squares.

    Summed over features; 0 where all batches have the same mean, 1 where rows differ between batches alone. Batches
    dealt at random reach (batches - 1) / (n - 1) on average, not 0.

    Parameters
    ----------
    vectors
        (n, d), finite. Not changed.
    batch
        Codes int64 (n,), at least 0.

    Raises
    ------
    ValueError
        Not (n, d), values that are not finite, fewer than two batches, or vectors that are all the same.
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (n, d), got shape {vectors.shape}")
    codes, own = _batches(batch, len(vectors))
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(vectors)} vectors hold values that are not finite, rows {bad[:10].tolist()}"
        )
    mean = vectors.mean(axis=0, dtype=np.float64)
    sums, total = np.zeros((len(codes), len(mean))), 0.0
    step = max(1, _BLOCK_NUMBERS // max(1, len(mean)))
    for start in range(0, len(vectors), step):
        deviation = vectors[start : start + step].astype(np.float64) - mean
        np.add.at(sums, own[start : start + step], deviation)
        total += float(np.einsum("nd,nd->", deviation, deviation))
    # a column that is the same everywhere keeps the rounding error of its mean; that is no variance
    if total <= len(vectors) * float(np.square(16 * np.finfo(float).eps * mean).sum()):
        raise ValueError(f"all {len(vectors)} vectors are the same: there is no variance to explain")
    between = float((np.square(sums).sum(axis=1) / np.bincount(own)).sum())
    return min(1.0, between / total)


def _batches(batch: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the codes of the batches and, for each row, which of them it is."""
    if batch.shape != (n,):
        raise ValueError(f"batch must be ({n},), one for each vector, got {batch.shape}")
    missing = np.flatnonzero(batch < 0)
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {n} rows have no batch, rows {missing[:10].tolist()}: leave them out"
        )
    codes, own = np.unique(batch, return_inverse=True)
    if len(codes) < 2:
        raise ValueError(f"mixing needs at least two batches, got {len(codes)}")
    return codes, own


def _count_groups(own: NDArray[np.int64], unit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of groups that each batch has rows in, int64 (batches,)."""
    return np.bincount(np.unique(np.c_[own, unit], axis=0)[:, 0])
