"""How often a slide is drawn in training, so that a confounder cannot stand in for the target.

Source: Lazard et al. 2022; slides spec, section 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import Sampling

MISSING = "na"


@dataclass(frozen=True)
class Weights:
    """Weight of each slide, float64 (N,), and the strata in which one target alone occurs (not to be balanced)."""

    values: NDArray[np.float64]
    unbalanced_strata: tuple[str, ...] = ()
    by_pair: Mapping[tuple[str, str], float] = field(default_factory=dict)  # of stratum and target

    def of(
        self, strata: Sequence[str] | NDArray[Any], targets: Sequence[str] | NDArray[Any]
    ) -> NDArray[np.float64]:
        """Return the weights of other slides (M,) by what they are; 1 for what was not seen.

        A validation loss so weighted is that of the world that was trained in: without, the epoch would be chosen
        that uses the confounder best.
        """
        return np.array(
            [self.by_pair.get((str(b), str(t)), 1.0) for b, t in zip(strata, targets, strict=True)]
        )

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Chance of each slide to be the next one."""
        return np.asarray(self.values / self.values.sum())


def sampling_weights(
    strata: Sequence[str] | NDArray[Any],
    targets: Sequence[str] | NDArray[Any],
    *,
    method: Sampling = "bias_corrected",
) -> Weights:
    """Weigh the slides of a training part.

    ``bias_corrected``: n(b) / n(b, t) in stratum b and target t, so that within b targets are equally likely and the
    share of b stays; slides of a stratum with one target keep weight 1. ``inverse``: 1 / n(b, t). ``none``: 1.

    Raises
    ------
    InputError
        ``unbalanced_stratum``: more than half of the slides stand in strata of one target.
    """
    pairs = [(str(b), str(t)) for b, t in zip(strata, targets, strict=True)]
    both, of_stratum = Counter(pairs), Counter(b for b, _ in pairs)
    if method == "none":
        return _weigh(pairs, dict.fromkeys(both, 1.0))
    if method == "inverse":
        return _weigh(pairs, {pair: 1 / n for pair, n in both.items()})
    lone = sorted(b for b, n in of_stratum.items() if n in {both[pair] for pair in both if pair[0] == b})
    inside = sum(of_stratum[b] for b in lone)
    if 2 * inside > len(pairs):
        raise InputError(
            f"unbalanced_stratum: {inside} of {len(pairs)} slides are in strata of one target ({', '.join(lone)}): "
            "the confounder cannot be told from the target",
            hint="merge levels of the confounder, or choose sampling: none and read the site audit",
        )
    return _weigh(pairs, {(b, t): of_stratum[b] / n for (b, t), n in both.items()}, tuple(lone))


def draw(weights: Weights, n: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw n slides with replacement, int64 (n,)."""
    return rng.choice(len(weights.values), size=n, p=weights.probabilities)


@dataclass(frozen=True)
class Stratifier:
    """How confounders become strata; learned from a training part: quartiles where a column is continuous."""

    edges: Mapping[str, NDArray[np.float64] | None]

    @classmethod
    def fit(cls, columns: Mapping[str, Sequence[Any]], *, continuous: Sequence[str] = ()) -> Stratifier:
        """Learn from columns (N,); those that are continuous are cut at the quartiles of their known values.

        Raises
        ------
        InputError
            A continuous column holds something else than numbers.
        """
        return cls({n: _quartiles(n, v) if n in continuous else None for n, v in columns.items()})

    def strata(self, columns: Mapping[str, Sequence[Any]], n: int) -> NDArray[Any]:
        """Return the stratum of each of n rows: levels of all columns joined; an unknown value is the level ``na``."""
        levels = [_levels(columns[name], edges) for name, edges in self.edges.items()]
        return np.array([" | ".join(row) for row in zip(*levels, strict=True)] if levels else [""] * n, str)


def count_missing(columns: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Return how many values of each column are unknown, columns without any left out."""
    counts = {name: sum(_unknown(value) for value in values) for name, values in columns.items()}
    return {name: n for name, n in counts.items() if n}


def _weigh(
    pairs: list[tuple[str, str]], by_pair: dict[tuple[str, str], float], lone: tuple[str, ...] = ()
) -> Weights:
    return Weights(np.array([by_pair[pair] for pair in pairs]), lone, by_pair)


def _unknown(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _quartiles(name: str, values: Sequence[Any]) -> NDArray[np.float64]:
    try:
        numbers = np.array([float(value) for value in values if not _unknown(value)])
    except (TypeError, ValueError) as error:
        raise InputError(f"the confounder {name!r} must hold numbers to be continuous: {error}") from error
    if not len(numbers) or not np.isfinite(numbers).all():
        raise InputError(f"the confounder {name!r} holds no numbers, or infinite ones")
    return np.unique(np.quantile(numbers, [0.25, 0.5, 0.75]))


def _levels(values: Sequence[Any], edges: NDArray[np.float64] | None) -> list[str]:
    if edges is None:
        return [MISSING if _unknown(value) else str(value) for value in values]
    return [
        MISSING if _unknown(value) else f"q{1 + int(np.searchsorted(edges, float(value), side='left'))}"
        for value in values
    ]
