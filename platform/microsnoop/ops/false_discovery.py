"""What chance alone would find: random rankings, the p of a mean average precision, and false discoveries.

Source: evaluation spec, section 5.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

_BLOCK_RANKS = 2**21  # ranks drawn at once
_NULLS_KEPT = 512  # null distributions in memory: 40 MB at 10,000 draws
_DENSE = 16  # from one drawn rank in so many on, shuffling all ranks is faster than drawing some
_DIGITS = 12  # means that agree to so many digits are equal


def expected_average_precision(n_pos: int, n_neg: int) -> float:
    """Return the exact mean average precision of random rankings; with one positive H_n / n, harmonic number H."""
    n = n_pos + n_neg
    harmonic = float((1 / np.arange(1, n + 1)).sum())
    return (harmonic + (n_pos - 1) * (n - harmonic) / max(1, n - 1)) / n


def random_average_precision(n_pos: int, n_neg: int, *, size: int, seed: int) -> NDArray[np.float64]:
    """Return the average precision of ``size`` random rankings, float64 (size,).

    They depend on the seed and the two numbers alone. Only the rarer kind is drawn: a precision is
    1 - (negatives before) / rank, so the negatives' ranks say as much as the positives'.
    """
    total, few = n_pos + n_neg, min(n_pos, n_neg)
    if n_pos < 1 or n_neg < 1:
        raise ValueError(f"a random ranking needs positives and negatives, got {n_pos} and {n_neg}")
    rng = np.random.default_rng([seed, n_pos, n_neg])
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, total + 1))])
    nth = np.arange(1, few + 1)
    found = np.empty(size)
    step = max(1, _BLOCK_RANKS // (total if _DENSE * few >= total else few))
    for start in range(0, size, step):
        block = slice(start, min(start + step, size))
        ranks = _draw_ranks(few, total, size=block.stop - start, rng=rng)
        if few == n_pos:
            found[block] = (nth / ranks).mean(axis=1)
        else:  # positives between negative m and the next lose m / rank each
            after = np.c_[ranks[:, 1:], np.full(len(ranks), total + 1)]
            found[block] = 1 - (nth * (harmonic[after - 1] - harmonic[ranks])).sum(axis=1) / n_pos
    return found


def ranking_p_values(
    values: NDArray[np.float64],
    at: NDArray[np.int64],
    kind: NDArray[np.int64],
    *,
    sizes: NDArray[np.int64],
    null_size: int,
    seed: int,
) -> NDArray[np.float64]:
    """Compare the mean average precision of groups with random rankings of the same sizes.

    p = (1 + #{null >= mAP}) / (1 + null_size); draw i of a group's null is the mean, over its queries, of draw i
    of their sizes.

    Parameters
    ----------
    values
        Mean average precision of each group, float64 (g,).
    at, kind
        Group and row of ``sizes`` of each query, int64 (q,).
    sizes
        Distinct pairs (positives, negatives), int64 (s, 2).

    Returns
    -------
    float64 (g,), not a number for a group without queries.
    """

    @lru_cache(maxsize=_NULLS_KEPT)
    def null(size: int) -> NDArray[np.float64]:
        return random_average_precision(int(sizes[size, 0]), int(sizes[size, 1]), size=null_size, seed=seed)

    p = np.full(len(values), np.nan)
    order = np.lexsort((kind, at))
    members = np.split(kind[order], np.flatnonzero(np.diff(at[order])) + 1) if len(at) else []
    # groups of like sizes follow each other, so that a null is drawn once even where not all can be kept
    for kinds, group in sorted(zip((m.tolist() for m in members), np.unique(at).tolist(), strict=True)):
        used, times = np.unique(kinds, return_counts=True)
        draws = sum(count * null(int(size)) for size, count in zip(used, times, strict=True)) / len(kinds)
        # a draw that equals the score must count as equal, whatever the last digit of either mean
        p[group] = (1 + int((draws >= values[group] - 10.0**-_DIGITS).sum())) / (1 + null_size)
    return p


def adjust(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p (g,) after Benjamini and Hochberg, float64 (g,); what is not a number stays so and counts as no test."""
    q = np.full(len(p), np.nan)
    tested = ~np.isnan(p)
    if tested.any():
        q[tested] = false_discovery_control(p[tested])
    return q


def _draw_ranks(count: int, total: int, *, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return ``size`` random sets of ``count`` of the ranks 1..total, each ascending, int64 (size, count)."""
    if _DENSE * count >= total:
        taken = np.zeros((size, total), np.bool_)
        taken[:, :count] = True
        rng.permuted(taken, axis=1, out=taken)
        return np.nonzero(taken)[1].reshape(size, count) + 1
    ranks = np.sort(rng.integers(1, total + 1, (size, count)), axis=1)
    while True:  # a rank drawn twice is drawn again, which leaves all sets equally likely
        again = np.zeros(ranks.shape, np.bool_)
        again[:, 1:] = ranks[:, 1:] == ranks[:, :-1]
        rows = again.any(axis=1)
        if not rows.any():
            return ranks
        open_rows = ranks[rows]
        open_rows[again[rows]] = rng.integers(1, total + 1, int(again.sum()))
        ranks[rows] = np.sort(open_rows, axis=1)
