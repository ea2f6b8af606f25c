"""Exact nearest neighbours by cosine, in blocks, with ties decided the same way everywhere; and their vote.

Source: evaluation spec, section 1. Memory holds one block of similarities, never all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 32 * 2**20
_SPARE = 8  # candidates beyond k that are compared in float64 as well
_FLOAT32_ERROR = 4e-6  # of a dot product of two unit vectors, generously
_DIGITS = 12  # similarities that agree to so many digits are equal


@dataclass(frozen=True)
class Neighbours:
    """The k nearest candidates of each query: ``index`` int64 (Q, k), ``similarity`` float64 (Q, k)."""

    index: NDArray[np.int64]
    similarity: NDArray[np.float64]


def nearest(
    queries: NDArray[Any],
    candidates: NDArray[Any],
    *,
    k: int,
    query_groups: NDArray[np.int64] | None = None,
    candidate_groups: NDArray[np.int64] | None = None,
) -> Neighbours:
    """Find the ``k`` candidates with the largest cosine similarity to each query, nearest first.

    Searched in float32, decided in float64; equal similarities go to the lowest index. Lengths of vectors do
    not matter.

    Parameters
    ----------
    queries, candidates
        (Q, D) and (N, D), finite, no row of zeros. Not changed.
    query_groups, candidate_groups
        A candidate of the query's own group is never its neighbour. With row numbers as groups this is
        leave-one-out by identity: exact duplicates under another number stay in.

    Raises
    ------
    ValueError
        Rows that are not finite or have no length (named by position), or fewer than ``k`` candidates left.
    """
    if (query_groups is None) != (candidate_groups is None):
        raise ValueError("give both query_groups and candidate_groups, or neither")
    unit_candidates = _unit(candidates, "candidates")
    unit_queries = unit_candidates if queries is candidates else _unit(queries, "queries")
    _check_count(len(candidates), k, query_groups, candidate_groups)
    index = np.empty((len(queries), k), np.int64)
    similarity = np.empty((len(queries), k))
    block = max(1, _BLOCK_BYTES // (4 * max(1, len(candidates))))
    for start in range(0, len(queries), block):
        rows = slice(start, min(start + block, len(queries)))
        rough = unit_queries[rows] @ unit_candidates.T
        if query_groups is not None and candidate_groups is not None:
            rough[query_groups[rows, None] == candidate_groups[None, :]] = -np.inf
        index[rows], similarity[rows] = _decide(rough, queries[rows], candidates, k)
    return Neighbours(index, similarity)


def vote(found: Neighbours, labels: NDArray[np.int64], *, n_classes: int, k: int | None = None) -> Any:
    """Return the most frequent label among the ``k`` nearest (default: all found), int64 (Q,).

    Ties go to the tied label with the smallest summed distance, then to the one whose member is nearest.

    Parameters
    ----------
    labels
        Of the candidates, int64 in 0..n_classes-1.
    """
    k = k or found.index.shape[1]
    near = labels[found.index[:, :k]]
    rows = np.arange(len(near))
    counts = np.zeros((len(near), n_classes), np.int64)
    distance = np.zeros((len(near), n_classes))
    first = np.full((len(near), n_classes), k)
    for rank in reversed(range(k)):  # from far to near: what stays in `first` is the nearest
        label = near[:, rank]
        counts[rows, label] += 1
        distance[rows, label] += 1 - found.similarity[:, rank]
        first[rows, label] = rank
    tied = counts == counts.max(axis=1, keepdims=True)
    distance = np.where(tied, np.round(distance, _DIGITS), np.inf)
    tied &= distance == distance.min(axis=1, keepdims=True)
    return np.where(tied, first, k + 1).argmin(axis=1)


def choose_k(
    vectors: NDArray[Any],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    *,
    n_classes: int,
    choices: Sequence[int] = (1, 3, 5, 11, 21),
) -> int:
    """Return the k with the best leave-one-(group-)out accuracy on these rows; the smallest of equals.

    Choices that some row cannot have enough candidates for are left out.
    """
    available = len(vectors) - int(np.unique(groups, return_counts=True)[1].max())
    usable = [k for k in choices if k <= available] or [1]
    found = nearest(vectors, vectors, k=max(usable), query_groups=groups, candidate_groups=groups)
    hits = [int((vote(found, labels, n_classes=n_classes, k=k) == labels).sum()) for k in usable]
    return usable[int(np.argmax(hits))]


def count_duplicates(found: Neighbours) -> int:
    """Return how many queries have a neighbour in exactly their own direction (distance 0)."""
    return int((np.round(found.similarity[:, 0], _DIGITS) >= 1).sum())


def _unit(vectors: NDArray[Any], what: str) -> NDArray[np.float32]:
    norm = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of the {what} have NaN, infinite numbers or no length, rows {bad[:10].tolist()}: "
            "they should have been rejected"
        )
    return np.asarray(vectors / norm[:, None], np.float32)


def _check_count(
    n: int, k: int, query_groups: NDArray[np.int64] | None, candidate_groups: NDArray[np.int64] | None
) -> None:
    largest = 0
    if query_groups is not None and candidate_groups is not None:
        groups, sizes = np.unique(candidate_groups, return_counts=True)
        present = np.isin(groups, query_groups)
        largest = int(sizes[present].max(initial=0))
    if not 1 <= k <= n - largest:
        raise ValueError(f"too_few_neighbours: k = {k} asked, but only {n - largest} candidates are allowed")


def _decide(
    rough: NDArray[np.float32], queries: NDArray[Any], candidates: NDArray[Any], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Order the best candidates of each row by float64 similarity, then by index."""
    n = rough.shape[1]
    m = min(n, k + _SPARE)
    chosen = (
        np.argpartition(rough, n - m, axis=1)[:, n - m :] if m < n else np.tile(np.arange(n), (len(rough), 1))
    )
    values = np.take_along_axis(rough, chosen, axis=1)
    kth = -np.partition(-values, k - 1, axis=1)[:, k - 1]
    # where the float32 error could hide a candidate beyond the chosen ones, all that come near are compared
    crowded = (values.min(axis=1) >= kth - _FLOAT32_ERROR) & (m < n)
    index = np.empty((len(rough), k), np.int64)
    similarity = np.empty((len(rough), k))
    plain = np.flatnonzero(~crowded)
    step = max(1, _BLOCK_BYTES // (8 * m * queries.shape[1]))
    for start in range(0, len(plain), step):
        rows = plain[start : start + step]
        index[rows], similarity[rows] = _exact(rough[rows], queries[rows], candidates, chosen[rows], k)
    for row in np.flatnonzero(crowded):
        near = np.flatnonzero(rough[row] >= kth[row] - _FLOAT32_ERROR)[None]
        index[row], similarity[row] = (
            part[0] for part in _exact(rough[[row]], queries[[row]], candidates, near, k)
        )
    return index, similarity


def _exact(
    rough: NDArray[np.float32], queries: NDArray[Any], candidates: NDArray[Any], chosen: Any, k: int
) -> tuple[Any, Any]:
    near = candidates[chosen].astype(np.float64)
    query = queries.astype(np.float64)
    norms = (
        np.sqrt(np.einsum("qmd,qmd->qm", near, near)) * np.sqrt(np.einsum("qd,qd->q", query, query))[:, None]
    )
    exact = np.einsum("qd,qmd->qm", query, near) / norms
    excluded = np.isneginf(np.take_along_axis(rough, chosen, axis=1))
    exact = np.where(excluded, -np.inf, np.round(exact, _DIGITS))
    order = np.lexsort((chosen, -exact), axis=1)[:, :k]
    return np.take_along_axis(chosen, order, axis=1), np.take_along_axis(exact, order, axis=1)
