"""How well labels part rows: the mean silhouette on Euclidean distance, in blocks.

Source: Rousseeuw 1987; multimodal spec, section 8. Memory holds one block of distances, never all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.jaccard import check_rows

SAMPLE = 10_000
_BLOCK_BYTES = 16 * 2**20  # of float64 distances at once
_EXACT_BELOW = (
    1e-8  # share of the squared norms below which a squared distance is computed again, by difference
)


@dataclass(frozen=True)
class Silhouette:
    """Mean silhouette, and of what; ``mean`` is NaN (missing, not 0) where fewer than two clusters were compared.

    Attributes
    ----------
    mean
        In [-1, 1].
    n, n_clusters
        Rows and labels that were compared: those of the sample.
    n_single
        Labels with one row; such a row contributes 0.
    rows
        (n,) int64, ascending: which rows were compared.
    values
        (n,) float64: the silhouette of each of ``rows``; NaN with fewer than two clusters.
    """

    mean: float
    n: int
    n_clusters: int
    n_single: int
    rows: NDArray[np.int64]
    values: NDArray[np.float64]


def silhouette(
    x: NDArray[Any],
    labels: NDArray[Any],
    *,
    sample: int | None = SAMPLE,
    rng: np.random.Generator | None = None,
) -> Silhouette:
    """Compare each row's mean distance to its own cluster, a, with that to the nearest other, b: (b - a) / max(a, b).

    A row that is alone under its label contributes 0; so does one with a = b = 0.

    Parameters
    ----------
    x
        (n, d), real and finite. Not changed.
    labels
        (n,), numbers or strings; each distinct value is a cluster.
    sample
        At most so many rows, drawn without replacement, are compared with each other. None: all.
    rng
        Of the sample; default: seed 0. Not used where all rows are compared.

    Raises
    ------
    ValueError
        Shapes that do not fit, no rows, values that are not finite, ``sample`` below 2.
    """
    check_rows(x)
    n = len(x)
    if labels.shape != (n,) or n == 0:
        raise ValueError(f"labels must be one for each of {n} rows (at least one), got shape {labels.shape}")
    if sample is not None and sample < 2:
        raise ValueError(f"sample must be at least 2 rows, or None for all, got {sample}")
    rows = np.arange(n)
    if sample is not None and sample < n:
        rng = np.random.default_rng(0) if rng is None else rng
        rows = np.sort(rng.choice(n, size=sample, replace=False))
    own, sizes = np.unique(labels[rows], return_inverse=True, return_counts=True)[1:]
    single = int((sizes == 1).sum())
    if len(sizes) < 2:
        return Silhouette(np.nan, len(rows), len(sizes), single, rows, np.full(len(rows), np.nan))
    values = _values(x[rows].astype(np.float64), own, sizes)
    return Silhouette(float(values.mean()), len(rows), len(sizes), single, rows, values)


def _values(x: NDArray[np.float64], own: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    # sorted by cluster the sum over a cluster is a sum over a range; centred, the distances lose fewer digits
    order = np.argsort(own, kind="stable")
    x, own = x[order] - x.mean(axis=0), own[order]
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    squares = np.einsum("nd,nd->n", x, x)
    found = np.empty(len(x))
    step = max(1, _BLOCK_BYTES // (8 * len(x)))
    for start in range(0, len(x), step):
        block = slice(start, min(start + step, len(x)))
        sums = np.add.reduceat(_distances(x, squares, block), starts, axis=1)
        mine = own[block]
        place = np.arange(len(mine))
        within = sums[place, mine] / np.maximum(sizes[mine] - 1, 1)
        means = sums / sizes
        means[place, mine] = np.inf
        nearest = means.min(axis=1)
        larger = np.maximum(within, nearest)
        score = np.divide(nearest - within, larger, out=np.zeros(len(mine)), where=larger > 0)
        found[order[block]] = np.where(sizes[mine] == 1, 0.0, score)
    return found


def _distances(x: NDArray[np.float64], squares: NDArray[np.float64], block: slice) -> NDArray[np.float64]:
    """Return the distances from the rows of ``block`` to all rows, (rows, n)."""
    squared = x[block] @ x.T
    squared *= -2
    squared += squares
    squared += squares[block, None]
    # rows much closer than they are long: the product has lost their digits
    row, column = np.nonzero(squared <= _EXACT_BELOW * squares[block, None])
    step = max(1, _BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, len(row), step):
        r, c = row[start : start + step], column[start : start + step]
        difference = x[block][r] - x[c]
        squared[r, c] = np.einsum("pd,pd->p", difference, difference)
    return np.asarray(np.sqrt(squared.clip(min=0, out=squared), out=squared))
