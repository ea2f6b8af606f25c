"""How sure is a score: Wilson and bootstrap intervals, paired comparisons, the permutation null.

Source: evaluation spec, section 6. Every random choice takes its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from microsnoop.ops.metrics import HEADLINE, headline_scores

DRAWS = 2_000
_REDRAWS = 100
_MIN_GROUPS = 6
_DRAWN_AT_ONCE = 2**22  # kinds of groups times draws: 32 MiB, however many groups there are


@dataclass(frozen=True)
class Interval:
    """A 95 % interval; ``n_degenerate`` draws never held all classes and were left out."""

    low: float
    high: float
    method: str
    n_degenerate: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two predictions of the same rows: ``only_a`` rows are right in a alone, ``only_b`` in b alone.

    ``p`` is McNemar's exact two-sided p; ``difference`` of the accuracies (a - b) has a bootstrap interval.
    """

    only_a: int
    only_b: int
    p: float
    difference: float
    interval: Interval


@dataclass(frozen=True)
class Null:
    """What a score is worth when labels mean nothing: mean and 95 % quantile of permuted labels, and p."""

    mean: float
    quantile_95: float
    p: float


def wilson(hits: int, n: int) -> Interval:
    """Return Wilson's 95 % interval of the proportion ``hits / n``; not a number where n is 0."""
    if n == 0:
        return Interval(np.nan, np.nan, "wilson")
    found = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Interval(float(found.low), float(found.high), "wilson")


def score_intervals(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    *,
    n_classes: int,
    groups: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return a 95 % interval for each headline score.

    Without groups accuracy has Wilson's interval and the others a percentile bootstrap over rows; with groups
    all of them a percentile bootstrap over whole groups, because rows of one group are not independent.

    Parameters
    ----------
    truth, predicted
        Classes int64 (N,).
    groups
        Group numbers 0..G-1, int64 (N,), or None.
    """
    kinds, counts = _kinds(truth * n_classes + predicted, n_classes**2, groups)
    drawn, degenerate = _bootstrap(kinds, counts, n_classes, draws=draws, rng=np.random.default_rng(seed))
    method = "bootstrap-rows" if groups is None else "bootstrap-groups"
    found = {name: _percentile(values, method, degenerate) for name, values in headline_scores(drawn).items()}
    if groups is None:
        found["accuracy"] = wilson(int((truth == predicted).sum()), len(truth))
    return {name: found[name] for name in HEADLINE}


def mcnemar(only_a: int, only_b: int) -> float:
    """Return McNemar's exact two-sided p of two counts of discordant rows; 1 where there are none."""
    total = only_a + only_b
    return float(stats.binomtest(only_a, total, 0.5).pvalue) if total else 1.0


def compare(
    right_a: NDArray[np.bool_],
    right_b: NDArray[np.bool_],
    *,
    groups: NDArray[np.int64] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare two predictions of the same rows, row by row: were they right?, bool (N,) each."""
    if right_a.shape != right_b.shape:
        raise ValueError(f"both must judge the same rows, got {right_a.shape} and {right_b.shape}")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    kinds, counts = _kinds(np.where(right_a == right_b, 1, np.where(right_a, 2, 0)), 3, groups)
    times = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), draws)
    drawn = times @ kinds  # how many rows lost, drew and won, in each draw
    differences = (drawn[:, 2] - drawn[:, 0]) / drawn.sum(axis=1)
    method = "bootstrap-rows" if groups is None else "bootstrap-groups"
    return Comparison(
        only_a,
        only_b,
        mcnemar(only_a, only_b),
        (only_a - only_b) / len(right_a),
        _percentile(differences, method, 0),
    )


def permutation_null(
    score: Callable[[NDArray[np.int64]], float],
    labels: NDArray[np.int64],
    *,
    groups: NDArray[np.int64] | None = None,
    permutations: int = 200,
    seed: int = 0,
) -> Null | None:
    """Recompute ``score(labels)`` with permuted labels; None for fewer than six groups, where it says nothing.

    Where every group has one label, labels move between groups; else they move between rows.
    """
    unit, label_of = np.arange(len(labels)), labels
    if groups is not None and (only := _label_of_groups(labels, groups)) is not None:
        unit, label_of = groups, only
    if len(label_of) < _MIN_GROUPS:
        return None
    rng = np.random.default_rng(seed)
    observed = score(labels)
    values = np.array([score(rng.permutation(label_of)[unit]) for _ in range(permutations)])
    p = (1 + int((values >= observed).sum())) / (1 + permutations)
    return Null(float(values.mean()), float(np.quantile(values, 0.95)), p)


def _label_of_groups(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the label of each group, or None where some group has several."""
    first = np.zeros(groups.max() + 1, np.int64)
    first[groups] = labels
    return first if (first[groups] == labels).all() else None


def _kinds(
    outcome: NDArray[np.int64], n_outcomes: int, groups: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the kinds of resampled units (T, O), each by its counts of outcomes, and how many of each (T,).

    Units with the same counts are interchangeable: however many rows there are, they are of O kinds.
    """
    if groups is None:
        return np.eye(n_outcomes, dtype=np.int64), np.bincount(outcome, minlength=n_outcomes)
    tables = np.zeros((int(groups.max()) + 1, n_outcomes), np.int64)
    np.add.at(tables, (groups, outcome), 1)
    return np.unique(tables[tables.sum(axis=1) > 0], axis=0, return_counts=True)


def _bootstrap(
    kinds: NDArray[np.int64], counts: NDArray[np.int64], k: int, *, draws: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """Draw units with replacement and sum their matrices: (draws, K, K), and how many draws stayed degenerate.

    A draw in which a class of the truth is missing is drawn again, up to 100 times.
    """
    n_units = int(counts.sum())

    def draw(times: int) -> NDArray[np.int64]:
        step = max(1, _DRAWN_AT_ONCE // len(kinds))
        parts = [
            rng.multinomial(n_units, counts / n_units, min(step, times - start)) @ kinds
            for start in range(0, times, step)
        ]
        return np.concatenate(parts).reshape(times, k, k)

    present = (counts @ kinds).reshape(k, k).sum(axis=1) > 0
    drawn = draw(draws)
    for _ in range(_REDRAWS):
        lacking = np.flatnonzero((drawn.sum(axis=2)[:, present] == 0).any(axis=1))
        if len(lacking) == 0:
            return drawn, 0
        drawn[lacking] = draw(len(lacking))
    good = (drawn.sum(axis=2)[:, present] > 0).all(axis=1)
    return drawn[good], int((~good).sum())


def _percentile(values: NDArray[Any], method: str, n_degenerate: int) -> Interval:
    if len(values) == 0:
        return Interval(np.nan, np.nan, method, n_degenerate)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high), method, n_degenerate)
