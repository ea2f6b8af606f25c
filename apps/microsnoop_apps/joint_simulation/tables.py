"""Scores of a simulation as tables: means over data sets with intervals, and paired differences.

What is averaged: the fits to a data set first, then data sets. Intervals are 95 % by Student's t over data sets: those
are what was drawn at random, and there are too few of them for a bootstrap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from microsnoop.ops.intervals import Interval
from microsnoop_apps.joint_simulation.fits import MEASURES, NAMES, SINGLE, DataFacts, Fit

BEST_SINGLE = "best single modality"
TOLERANCE = 0.03  # below the best single modality by at most so much counts as no worse
FACTS = ("weight_rna", "replicability_rna", "replicability_image", "gate_rna", "gate_image", "margin")
FIT_HEADER = (
    "parameter", "value", "data_seed", "model_seed", "method", *MEASURES, "best_resolution", "clusters",
    "seconds", "cpu_seconds", *FACTS, "findings", "notes", "failed",
)  # fmt: skip
SUMMARY_HEADER = (
    "parameter", "value", "method", "data_sets", "fits",
    *(f"{measure}{part}" for measure in MEASURES for part in ("", "_low", "_high", "_min", "_max")),
    "seconds", "cpu_seconds", *FACTS, "failed",
)  # fmt: skip
DIFFERENCE_HEADER = (
    "parameter", "value", "measure", "method", "other", "which", "difference", "low", "high", "data_sets", "better_in",
    "within_0.03",
)  # fmt: skip
DATA_HEADER = (
    "parameter", "value", "data_seed", "cells", "empty_cells", "ceiling_transcripts", "ceiling_images",
    "pairing_ratio", "pairing_p",
)  # fmt: skip


@dataclass(frozen=True)
class Mean:
    """A mean over ``n`` data sets with its interval, and the range over all fits; NaN where there is no fit."""

    value: float
    interval: Interval
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Difference:
    """What a method has more than another on the same data sets.

    ``which`` is the other one's key, chosen at this value of the parameter where the other is the best of several.
    ``better_in`` of ``n`` data sets it has more.
    """

    value: float
    measure: str
    method: str
    other: str
    which: str
    mean: float
    interval: Interval
    n: int
    better_in: int

    @property
    def within(self) -> bool:
        """Whether it is below the other by at most 0.03."""
        return self.mean >= -TOLERANCE - 1e-9


@dataclass(frozen=True)
class Scores:
    """All fits of a simulation, and what is said of them."""

    parameter: str
    values: tuple[float, ...]
    fits: tuple[Fit, ...]
    facts: tuple[DataFacts, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Keys of the methods, in the order of ``NAMES``."""
        present = {fit.method for fit in self.fits}
        return tuple(name for name in NAMES if name in present)

    def of(self, value: float, method: str) -> list[Fit]:
        """Return the fits of a method at a value that gave scores."""
        return [fit for fit in self.fits if (fit.value, fit.method) == (value, method) and not fit.failed]

    def failures(self, value: float, method: str) -> list[str]:
        """Return why fits of a method failed."""
        return [fit.failed for fit in self.fits if (fit.value, fit.method) == (value, method) and fit.failed]

    def by_data(self, value: float, method: str, measure: str) -> dict[int, float]:
        """Return a score by data set, the mean of its fits; silhouettes that are missing are left out."""
        found: dict[int, list[float]] = {}
        for fit in self.of(value, method):
            if not np.isnan(fit.score(measure)):
                found.setdefault(fit.data_seed, []).append(fit.score(measure))
        return {seed: float(np.mean(scores)) for seed, scores in sorted(found.items())}

    def mean(self, value: float, method: str, measure: str) -> Mean:
        """Return the mean of a score over data sets."""
        data = np.array(list(self.by_data(value, method, measure).values()))
        scores = [fit.score(measure) for fit in self.of(value, method)]
        if not len(data):
            return Mean(np.nan, t_interval(data), np.nan, np.nan, 0)
        return Mean(
            float(data.mean()),
            t_interval(data),
            float(np.nanmin(scores)),
            float(np.nanmax(scores)),
            len(data),
        )

    def best_single(self, value: float, measure: str) -> str | None:
        """Return the method on one modality whose mean is largest; None where all of them failed."""
        means = {name: self.mean(value, name, measure).value for name in SINGLE if name in self.methods}
        known = {name: mean for name, mean in means.items() if not np.isnan(mean)}
        return max(known, key=lambda name: known[name]) if known else None

    def difference(self, value: float, measure: str, method: str, other: str) -> Difference | None:
        """Compare two methods on the data sets that both have scores of; ``other`` may be ``BEST_SINGLE``."""
        which = self.best_single(value, measure) if other == BEST_SINGLE else other
        if which is None:
            return None
        ours, theirs = (self.by_data(value, name, measure) for name in (method, which))
        gained = np.array([ours[seed] - theirs[seed] for seed in ours if seed in theirs])
        if not len(gained):
            return None
        return Difference(
            value, measure, method, other, which, float(gained.mean()), t_interval(gained), len(gained),
            int((gained > 0).sum()),
        )  # fmt: skip

    def fact(self, value: float, method: str, name: str) -> float:
        """Return the mean of a fact over the fits; NaN where the method has none."""
        known = [fit.model[name] for fit in self.of(value, method) if name in fit.model]
        return float(np.mean(known)) if known else np.nan

    def findings(self, method: str) -> Counter[tuple[float, str]]:
        """Count how often fits of a method warned, by value and code."""
        return Counter(
            (fit.value, found) for fit in self.fits if fit.method == method for found in fit.findings
        )


def t_interval(values: NDArray[np.float64]) -> Interval:
    """Return Student's 95 % interval of the mean of (n,) values; not a number for fewer than two."""
    if len(values) < 2:
        return Interval(np.nan, np.nan, "t")
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(float(values.mean()) - half, float(values.mean()) + half, "t")


def fit_rows(scores: Scores) -> list[list[str]]:
    """Return one line a fit (``FIT_HEADER``); what is missing is empty."""
    return [
        [
            scores.parameter, f"{fit.value:g}", str(fit.data_seed), str(fit.model_seed), NAMES[fit.method],
            *numbers(fit.score(measure) for measure in MEASURES), *numbers([fit.best_resolution]),
            "" if fit.failed else str(fit.clusters), *numbers([fit.seconds, fit.cpu_seconds]),
            *numbers(fit.model.get(name, np.nan) for name in FACTS), "; ".join(fit.findings),
            "; ".join(fit.notes), fit.failed,
        ]
        for fit in scores.fits
    ]  # fmt: skip


def summary_rows(scores: Scores) -> list[list[str]]:
    """Return one line a value and method (``SUMMARY_HEADER``)."""
    found = []
    for value in scores.values:
        for name in scores.methods:
            fits = scores.of(value, name)
            means = [scores.mean(value, name, measure) for measure in MEASURES]
            parts = ((m.value, m.interval.low, m.interval.high, m.low, m.high) for m in means)
            spent = [float(np.mean([getattr(f, s) for f in fits])) if fits else np.nan for s in
                     ("seconds", "cpu_seconds")]  # fmt: skip
            found.append([
                scores.parameter, f"{value:g}", NAMES[name], str(means[0].n), str(len(fits)),
                *numbers(number for part in parts for number in part), *numbers(spent),
                *numbers(scores.fact(value, name, fact) for fact in FACTS),
                "; ".join(dict.fromkeys(scores.failures(value, name))),
            ])  # fmt: skip
    return found


def differences(scores: Scores) -> list[Difference]:
    """Compare every joint method with the best single modality, and MUSE with every other method."""
    joint = [name for name in scores.methods if name not in SINGLE]
    pairs = [(name, BEST_SINGLE) for name in joint]
    pairs += [("muse", name) for name in scores.methods if "muse" in joint and name != "muse"]
    found = (
        scores.difference(value, measure, name, other)
        for value in scores.values
        for measure in MEASURES
        for name, other in pairs
    )
    return [one for one in found if one is not None]


def difference_rows(parameter: str, found: Iterable[Difference]) -> list[list[str]]:
    """Return one line a difference (``DIFFERENCE_HEADER``)."""
    return [
        [
            parameter, f"{one.value:g}", one.measure, NAMES[one.method], NAMES.get(one.other, one.other),
            NAMES[one.which], *numbers([one.mean, one.interval.low, one.interval.high]), str(one.n),
            str(one.better_in), "yes" if one.within else "no",
        ]
        for one in found
    ]  # fmt: skip


def data_rows(scores: Scores) -> list[list[str]]:
    """Return one line a data set (``DATA_HEADER``)."""
    return [
        [
            scores.parameter, f"{one.value:g}", str(one.data_seed), str(one.cells), str(one.empty),
            *numbers([one.ceiling_transcripts, one.ceiling_images, one.pairing_ratio, one.pairing_p]),
        ]
        for one in scores.facts
    ]  # fmt: skip


def numbers(values: Iterable[float]) -> list[str]:
    """Return numbers with six digits; what is missing is empty."""
    return ["" if np.isnan(value) else f"{value:.6g}" for value in values]


def short(value: float) -> str:
    """Return a number of two places for people, a missing one as a dash."""
    return "–" if np.isnan(value) else f"{value:.2f}"


def with_interval(mean: float, interval: Interval, *, sign: bool = False) -> str:
    """Return ``0.89 [0.85, 0.93]``; without the interval where there is none."""
    if np.isnan(mean):
        return "–"
    form = "+.2f" if sign else ".2f"
    if np.isnan(interval.low):
        return f"{mean:{form}}"
    return f"{mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def sorted_fits(fits: Sequence[Fit], values: Sequence[float]) -> tuple[Fit, ...]:
    """Return fits in one order, however their tasks came to end: value, data set, method, seed."""
    order = {name: at for at, name in enumerate(NAMES)}
    return tuple(
        sorted(fits, key=lambda f: (values.index(f.value), f.data_seed, order[f.method], f.model_seed))
    )
