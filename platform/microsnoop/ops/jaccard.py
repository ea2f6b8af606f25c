"""Exact Euclidean neighbours in blocks, and the graph that joins rows by the neighbours they share.

Source: multimodal spec, section 5; Jaccard weights after Levine et al. 2015 (PhenoGraph). Memory holds one block of
distances, never all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

_BLOCK_BYTES = 64 * 2**20  # of float32 distances at once
_PAIRS = 2**15  # pairs of rows that are compared in float64 at once
_HITS = 2**20  # rough distances that are looked at again at once
_HALF_ULP = 2.0**-24  # largest relative error of one float32 rounding
_BITS = 40  # squared distances that agree to so many bits are equal: the rest is rounding
_NOT_A_ROW = np.float32(3e38)
_TABLE_BYTES = 2**21  # of a table that is read at random, and should fit in cache


def nearest_neighbours(
    x: NDArray[Any], k: int, *, queries: NDArray[np.int64] | None = None, block_rows: int | None = None
) -> NDArray[np.int64]:
    """Find the ``k`` nearest other rows of each row by Euclidean distance, nearest first.

    Exact: searched in float32 with a bound on its rounding errors, decided in float64. A row is never its own
    neighbour, its exact duplicates are; equal distances go to the lowest index.

    Parameters
    ----------
    x
        (n, d), real and finite. Not changed.
    k
        At least 1 and below n.
    queries
        (m,) row numbers: find neighbours of these rows only, among all rows. Default: of all rows.
    block_rows
        Rows whose distances are held at once. Default: as many as fit in 64 MiB. The result does not depend on it.

    Returns
    -------
    int64 (n, k), or (m, k): a row for each query.

    Raises
    ------
    ValueError
        Not (n, d), values that are not finite, ``k`` or ``block_rows`` out of range.
    """
    check_rows(x)
    n = len(x)
    if not 1 <= k < n:
        raise ValueError(f"k must be at least 1 and below the number of rows, {n}, got {k}")
    if block_rows is not None and block_rows < 1:
        raise ValueError(f"block_rows must be at least 1, got {block_rows}")
    asked = np.arange(n) if queries is None else queries
    # columns fall into ``width`` groups of ``depth``: the minima of groups say where the nearest can be
    depth = max(1, int(np.sqrt(n / k)))
    width = -(-n // depth)
    left, right, squares = _operands(x, depth * width)
    rows = min(block_rows or max(1, _BLOCK_BYTES // (4 * depth * width)), len(asked))
    buffer = np.empty((rows, depth * width), np.float32)  # made once: fresh pages cost more than the product
    found = np.empty((len(asked), k), np.int64)
    for start in range(0, len(asked), max(1, rows)):
        own = asked[start : start + rows]
        rough = np.matmul(left[own], right.T, out=buffer[: len(own)])
        rough[np.arange(len(own)), own] = _NOT_A_ROW
        folded = rough.reshape(len(own), depth, width)
        minima = folded.min(axis=1)
        kth = np.partition(minima, k - 1, axis=1)[:, k - 1]
        limit = _loosen(kth, squares[own], x.shape[1])
        for place, column in _below(folded, minima, limit):
            first, last = start + int(place[0]), start + int(place[-1]) + 1
            found[first:last] = _decide(x, asked, place + start, column=column, k=k)
    return found


def order_neighbours(x: NDArray[Any], found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Put the neighbours (n, k) of each row of ``x`` in order: by distance in float64, then by index."""
    n, k = found.shape
    ordered, rows = np.empty_like(found), np.arange(n)
    step = max(1, _PAIRS // k)
    for start in range(0, n, step):
        part = found[start : start + step]
        place = np.repeat(rows[start : start + step], k)
        ordered[start : start + step] = _decide(x, rows, place, column=part.ravel(), k=k)
    return ordered


def count_shared(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the indices that two lists of neighbours have in common, row by row, int64 (n,).

    Parameters
    ----------
    first, second
        (n, k) and (n, m); no index twice in a row.
    """
    both = np.sort(np.concatenate([first, second], axis=1).astype(np.int32), axis=1)
    return np.asarray((both[:, 1:] == both[:, :-1]).sum(axis=1), np.int64)


def jaccard_graph(neighbours: NDArray[np.int64]) -> csr_matrix:
    """Weigh the edge from each row to each of its neighbours by the share of neighbours that both have.

    ``w(i, j) = |N(i) and N(j)| / |N(i) or N(j)|`` for j in N(i), and the mean of both directions as the weight of the
    pair, 0 standing for a direction that is no edge. Edges without a shared neighbour vanish.

    Parameters
    ----------
    neighbours
        Indices (n, k), no index twice in a row, no row its own neighbour.

    Returns
    -------
    float32 (n, n) CSR, symmetric, zero diagonal, sorted indices, only positive entries.

    Raises
    ------
    ValueError
        Not (n, k), an index out of range, twice in a row, or a row that is its own neighbour.
    """
    _check_neighbours(neighbours)
    n, k = neighbours.shape
    shared = np.empty((n, k), np.int64)
    rows = max(1, _TABLE_BYTES // max(n, k * k * 8))
    is_neighbour = np.zeros((min(rows, n), n), np.bool_)
    for start in range(0, n, rows):
        own = neighbours[start : start + rows]
        place = np.arange(len(own))
        is_neighbour[place[:, None], own] = True
        # of each neighbour's neighbours (rows, k, k): which are mine as well?
        mine = is_neighbour[place[:, None, None], neighbours[own]]
        shared[start : start + rows] = mine.sum(axis=2)
        is_neighbour[place[:, None], own] = False
    weight = (shared / (2 * k - shared)).astype(np.float32)
    starts = np.arange(0, n * k + 1, k)
    directed = csr_matrix((weight.ravel(), neighbours.ravel(), starts), shape=(n, n))
    graph = csr_matrix((directed + directed.T) * np.float32(0.5))
    graph.eliminate_zeros()
    graph.sort_indices()
    return graph


def check_rows(x: NDArray[Any]) -> None:
    """Raise a ValueError unless ``x`` is (n, d) with at least one column, and finite."""
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"rows must be (n, d) with at least one column, got shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(x)} rows hold values that are not finite (NaN or infinite), "
            f"rows {bad[:10].tolist()}: leave them out"
        )


def _check_neighbours(neighbours: NDArray[np.int64]) -> None:
    if neighbours.ndim != 2 or not neighbours.size:
        raise ValueError(f"neighbours must be (n, k), got shape {neighbours.shape}")
    n = len(neighbours)
    if neighbours.min() < 0 or neighbours.max() >= n:
        raise ValueError(f"neighbours hold an index outside 0..{n - 1}")
    if (neighbours == np.arange(n)[:, None]).any():
        raise ValueError("a row is its own neighbour")
    ordered = np.sort(neighbours, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise ValueError("a row has the same neighbour twice")


def _operands(
    x: NDArray[Any], n_columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Return two matrices whose product is squared distance less the query's squared norm, and that norm.

    Centred, because float32 loses what is small beside the norms; scaled, so that no square overflows.
    """
    n, d = x.shape
    centre = x.mean(axis=0, dtype=np.float64)
    largest = max(float(np.abs(x[:, c] - centre[c]).max()) for c in range(d))
    scale = 1.0 / largest if largest > 0 else 1.0
    left = np.ones((n, d + 1), np.float32)
    for start in range(0, n, _PAIRS):
        rows = slice(start, start + _PAIRS)
        left[rows, :d] = (x[rows] - centre) * scale
    squares = np.einsum("nd,nd->n", left[:, :d], left[:, :d], dtype=np.float64)
    right = np.zeros((n_columns, d + 1), np.float32)
    np.multiply(left[:, :d], -2, out=right[:n, :d])
    right[:n, d] = squares
    right[n:, d] = _NOT_A_ROW  # the last group may be short: what fills it is farther than any row
    return left, right, squares


def _loosen(kth: NDArray[np.float32], squares: NDArray[np.float64], d: int) -> NDArray[np.float32]:
    """Raise the rough k-th distance of each query until nothing within rounding of it can be missed.

    The float32 product of rows x and y is off by at most g (x² + y²), g = 2 (d + 6) / 2^24, and a neighbour at
    squared distance D has y² <= 2 x² + 2 D: both bounds below need no norm of the candidate.
    """
    g = 2 * (d + 6) * _HALF_ULP
    farthest = (kth + squares + 3 * g * squares).clip(min=0) / (1 - 2 * g)
    limit = farthest * (1 + 2 * g) - squares * (1 - 3 * g)
    return np.nextafter(limit.astype(np.float32), np.float32(np.inf)) + np.finfo(np.float32).tiny


def _below(
    folded: NDArray[np.float32], minima: NDArray[np.float32], limit: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (row, column) of all distances up to each row's limit: whole rows, ascending, some at a time."""
    _, depth, width = folded.shape
    near = minima <= limit[:, None]
    total = np.cumsum(near.sum(axis=1)) * depth
    first = 0
    while first < len(folded):
        done = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, done + _HITS, side="right")))
        row, group = np.nonzero(near[first:last])
        row += first
        hit, level = np.nonzero(folded[row, :, group] <= limit[row, None])
        yield row[hit], level * width + group[hit]
        first = last


def _decide(
    x: NDArray[Any], asked: NDArray[np.int64], place: NDArray[np.int64], *, column: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Order pairs (asked[place], column) by place, float64 distance and column; return each place's first ``k``."""
    squared = np.empty(len(place))
    step = max(1, _PAIRS * 32 // x.shape[1])
    for start in range(0, len(place), step):
        part = slice(start, start + step)
        difference = x[asked[place[part]]].astype(np.float64)
        difference -= x[column[part]]
        squared[part] = np.einsum("pd,pd->p", difference, difference)
    mantissa, exponent = np.frexp(squared)
    squared = np.ldexp(np.round(np.ldexp(mantissa, _BITS)), exponent)
    order = np.lexsort((column, squared, place))
    firsts = np.flatnonzero(np.r_[True, place[1:] != place[:-1]])
    return np.asarray(column[order][firsts[:, None] + np.arange(k)], np.int64)
