"""Mean average precision: does a profile find its own kind before the others, and would chance do as well?

Source: evaluation spec, section 5; the question and its null follow Kalinin et al., "A versatile information
retrieval framework for evaluating profile strength and similarity" (2024). Memory holds one block of pairs, never
all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.false_discovery import adjust, expected_average_precision, ranking_p_values

NULL_SIZE = 10_000
_BLOCK_PAIRS = 2**20  # pairs compared at once: similarities, masks and sorted keys are then below 64 MB
_DIGITS = 12  # similarities that agree to so many digits are equal, as in ops/knn.py

Labels = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class AveragePrecision:
    """One average precision per query.

    ``values`` float64 (q,), not a number where a query has no positive or no negative; ``n_pos`` and ``n_neg``
    int64 (q,); ``query`` int64 (q,), the row of each query.
    """

    values: NDArray[np.float64]
    n_pos: NDArray[np.int64]
    n_neg: NDArray[np.int64]
    query: NDArray[np.int64]

    @property
    def n_missing(self) -> int:
        """How many queries have no value."""
        return int(np.isnan(self.values).sum())


@dataclass(frozen=True)
class MeanAveragePrecision:
    """One row per group, by ascending code; all fields (g,). What no query could answer is not a number.

    ``p`` is one-sided against random rankings, ``q`` is p after Benjamini and Hochberg, over the groups that have
    one; ``expected`` is the mean average precision of random rankings; ``n_queries`` had a value, ``n_missing``
    had not; ``significant`` is q below the threshold.
    """

    groups: NDArray[np.int64]
    values: NDArray[np.float64]
    p: NDArray[np.float64]
    q: NDArray[np.float64]
    expected: NDArray[np.float64]
    n_queries: NDArray[np.int64]
    n_missing: NDArray[np.int64]
    significant: NDArray[np.bool_]
    n_ungrouped: int  # queries without a group, left out

    @property
    def retrieved(self) -> float:
        """Share of significant groups among those that have a value; not a number where none has."""
        scored = int((self.n_queries > 0).sum())
        return float(self.significant.sum() / scored) if scored else float("nan")


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows (n, d) of length 1, float64.

    Raises
    ------
    ValueError
        Not (n, d), or rows that are not finite or have no length, named by position.
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (n, d), got shape {vectors.shape}")
    x = vectors.astype(np.float64)
    norm = np.sqrt(np.einsum("nd,nd->n", x, x))
    bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(x)} vectors hold NaN or infinite numbers or have no length, rows "
            f"{bad[:10].tolist()}: they should have been rejected"
        )
    x /= norm[:, None]
    return x


def average_precision(
    vectors: NDArray[Any],
    *,
    pos_sameby: Labels,
    pos_diffby: Labels = (),
    neg_sameby: Labels = (),
    neg_diffby: Labels = (),
    queries: NDArray[np.bool_] | None = None,
) -> AveragePrecision:
    """Rank the positives and negatives of each query by cosine similarity: mean precision at its positives.

    A positive has every label of ``pos_sameby`` in common with the query and none of ``pos_diffby``; a negative
    has every label of ``neg_sameby`` in common and none of ``neg_diffby``. The query itself is neither. Of equal
    similarities (to 12 digits, in float64) the negatives come first, so that a tie never flatters.

    Parameters
    ----------
    vectors
        (n, d), finite, no row of zeros; their lengths do not matter. Not changed.
    pos_sameby, pos_diffby, neg_sameby, neg_diffby
        Label codes, int64 (n,) each; -1 is missing. A missing label is neither equal to nor different from any
        other: a pair that such a label would have to decide is left out.
    queries
        Rows to ask for, bool (n,); all by default. Every row may be found, asked for or not.

    Raises
    ------
    ValueError
        Bad vectors, labels of another length, no ``pos_sameby``, or labels by which some pair is positive and
        negative at once.
    """
    n = len(vectors)
    _check_labels(n, pos_sameby, (*pos_sameby, *pos_diffby, *neg_sameby, *neg_diffby))
    if queries is not None and queries.shape != (n,):
        raise ValueError(f"queries must be ({n},), got {queries.shape}")
    unit = unit_rows(vectors)
    asked = np.arange(n) if queries is None else np.flatnonzero(queries)
    values = np.full(len(asked), np.nan)
    n_pos, n_neg = np.zeros(len(asked), np.int64), np.zeros(len(asked), np.int64)
    step = max(1, _BLOCK_PAIRS // max(1, n))
    for start in range(0, len(asked), step):
        block = slice(start, start + step)
        rows = asked[block]
        positive = _related(rows, n, pos_sameby, diffby=pos_diffby)
        negative = _related(rows, n, neg_sameby, diffby=neg_diffby)
        _check_apart(rows, positive, negative)
        n_pos[block], n_neg[block] = positive.sum(axis=1), negative.sum(axis=1)
        values[block] = _precision(unit[rows] @ unit.T, positive, negative)
    values[(n_pos == 0) | (n_neg == 0)] = np.nan
    return AveragePrecision(values, n_pos, n_neg, asked)


def mean_average_precision(
    ap: AveragePrecision,
    groups: NDArray[np.int64],
    *,
    null_size: int = NULL_SIZE,
    seed: int = 0,
    threshold: float = 0.05,
) -> MeanAveragePrecision:
    """Average the queries of each group and compare with random rankings of the same sizes.

    Draw i of a group's null is the mean, over its queries, of draw i of their (n_pos, n_neg). Queries of the same
    sizes share their draws, as if their rankings depended on each other entirely: the p of a group of several
    such queries is too large rather than too small. p = (1 + #{null >= mAP}) / (1 + null_size).

    Parameters
    ----------
    groups
        Of each query, int64 (q,); -1 for a query of no group.
    null_size, seed
        Draws for each pair of sizes, and their seed: the same numbers whatever the other groups and their order.
    threshold
        A group is significant when its q is below it.

    Raises
    ------
    ValueError
        Groups of another length, ``null_size`` below 1, or a threshold outside 0 to 1.
    """
    if groups.shape != ap.values.shape:
        raise ValueError(f"groups must be {ap.values.shape}, one for each query, got {groups.shape}")
    if null_size < 1 or not 0 < threshold <= 1:
        raise ValueError(f"null_size must be >= 1 and threshold in (0, 1], got {null_size} and {threshold}")
    codes = np.unique(groups[groups >= 0])
    scored = (groups >= 0) & ~np.isnan(ap.values)
    at = np.searchsorted(codes, groups[scored])
    n_queries = np.bincount(at, minlength=len(codes))
    total = np.bincount(np.searchsorted(codes, groups[groups >= 0]), minlength=len(codes))
    sizes, kind = np.unique(np.c_[ap.n_pos, ap.n_neg][scored], axis=0, return_inverse=True)
    by_size = [expected_average_precision(int(p), int(n)) for p, n in sizes]
    expected = _means(at, np.array(by_size)[kind] if len(at) else np.empty(0), n_queries)
    values = _means(at, ap.values[scored], n_queries)
    p = ranking_p_values(values, at, kind, sizes=sizes, null_size=null_size, seed=seed)
    q = adjust(p)
    return MeanAveragePrecision(
        codes, values, p, q, expected, n_queries, total - n_queries, q < threshold, int((groups < 0).sum())
    )


def _check_labels(n: int, pos_sameby: Labels, labels: Labels) -> None:
    if len(pos_sameby) == 0:
        raise ValueError("pos_sameby is empty: say by which label positives belong together")
    wrong = [codes.shape for codes in labels if codes.shape != (n,)]
    if wrong:
        raise ValueError(f"labels must be ({n},), one for each vector, got {wrong[0]}")


def _check_apart(rows: NDArray[np.int64], positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> None:
    both = positive & negative
    if both.any():
        query, other = np.argwhere(both)[0]
        raise ValueError(
            f"rows {rows[query]} and {other} are a positive and a negative pair at once: "
            "put a label of pos_sameby into neg_diffby"
        )


def _related(rows: NDArray[np.int64], n: int, sameby: Labels, *, diffby: Labels) -> NDArray[np.bool_]:
    """Return which of ``n`` rows are related to each of ``rows``, bool (b, n); none to itself."""
    related = np.ones((len(rows), n), np.bool_)
    for codes in sameby:
        own = codes[rows, None]
        related &= (own == codes) & (own >= 0)
    for codes in diffby:
        own = codes[rows, None]
        related &= (own != codes) & (own >= 0) & (codes >= 0)
    related[np.arange(len(rows)), rows] = False
    return related


def _precision(
    similarity: NDArray[np.float64], positive: NDArray[np.bool_], negative: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the mean precision at the positives of each row; 0 where there are none."""
    # one whole number says it all: twice the rounded distance, odd for a positive. Sorting it puts near before
    # far and, of equals, negatives first; it is several times faster than sorting by two keys
    key = np.rint(similarity * -(10.0**_DIGITS)).astype(np.int64)
    key *= 2
    key += positive
    key[~(positive | negative)] = np.iinfo(np.int64).max - 1  # even, and behind all others
    key.sort(axis=1)
    row, place = np.nonzero(key & 1)
    n_pos = np.bincount(row, minlength=len(key))
    before = np.cumsum(n_pos) - n_pos
    nth = np.arange(len(row)) - before[row] + 1
    sums = np.bincount(row, weights=nth / (place + 1), minlength=len(key))
    return np.asarray(sums / np.maximum(n_pos, 1))


def _means(
    at: NDArray[np.int64], values: NDArray[np.float64], n_queries: NDArray[np.int64]
) -> NDArray[np.float64]:
    sums = np.bincount(at, weights=values, minlength=len(n_queries))
    return np.asarray(np.divide(sums, n_queries, out=np.full(len(sums), np.nan), where=n_queries > 0))
