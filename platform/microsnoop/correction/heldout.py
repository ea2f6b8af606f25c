"""Regularisers of sphering that are chosen on rows the fit has not seen: by likelihood of controls, or by mAP.

``heldout`` needs no labels: it asks under which ridge the controls of some batches are most probable given those of
the others. ``grid`` asks under which floor replicates of treatments on held-out plates find each other best.

Source: batch spec, section 4 (``grid``); ``heldout`` is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.rows import Obs, column, order_by_content
from microsnoop.ops.moments import Moments
from microsnoop.ops.sphering import Spectrum, decompose

RIDGES = 10 ** np.arange(-4, 1.01, 0.25)
N_FOLDS = 5
N_DRAWS = 25
_LEAST_GROUPS = 3  # different batches (or plates), so that each fit still sees two


@dataclass(frozen=True)
class Choice:
    """The value chosen, and every value tried with its score, by rising value."""

    value: float
    curve: list[tuple[float, float]]
    unit: str  # what was held out: batch, plate or row
    edge: bool  # the best is the smallest or the largest tried

    @classmethod
    def of(cls, values: Sequence[float], scores: Sequence[float], *, unit: str) -> Choice:
        """Choose the largest score; of equals the smallest value."""
        curve = sorted(zip(map(float, values), map(float, scores), strict=True))
        best = int(np.argmax([score for _, score in curve]))
        return cls(curve[best][0], curve, unit, best in (0, len(curve) - 1))


# ---------------------------------------------------------------- ridge, by the likelihood of held-out controls


def choose_ridge(
    rows: NDArray[Any], obs: Obs | None = None, *, correlation: bool = True, seed: int = 0, where: str = ""
) -> Choice:
    """Choose lambda of ``f = T + lambda · mean(T)`` by the Gaussian log likelihood of held-out controls.

    Five folds over whole batches where ``obs`` names at least three, else over whole plates likewise, else over
    rows. Mean, scales and axes come from the other folds; a held-out row with coordinates p along the axes scores
    ``-0.5 (Σ_j p_j² / f_j + Σ_j log f_j)``, over the features that vary in the fit.

    Parameters
    ----------
    rows
        Control rows (n, d), n at least 3. Not changed; their order does not matter.
    obs
        ``batch`` and ``plate`` of these rows, where known.

    Raises
    ------
    CorrectionError
        ``too_few_controls`` or ``no_variance``.
    """
    if len(rows) < _LEAST_GROUPS:
        found = f"{where or 'heldout'}: {len(rows)} control rows, to hold some out needs {_LEAST_GROUPS}"
        raise CorrectionError("too_few_controls", found, hint="choose another `reg`, such as shrinkage")
    unit, groups = _units(rows, obs)
    fold = deal(groups, seed=seed)
    parts = [Moments(rows.shape[1]).add(rows[fold == k]) for k in range(int(fold.max()) + 1)]
    total = np.zeros(len(RIDGES))
    for k, held in enumerate(parts):
        rest = Moments(rows.shape[1])
        for j, part in enumerate(parts):
            if j != k:
                rest.merge(part)
        total += log_likelihoods(decompose(rest, correlation=correlation, where=where), held)
    return Choice.of(RIDGES.tolist(), total.tolist(), unit=unit)


def log_likelihoods(spectrum: Spectrum, held: Moments) -> NDArray[np.float64]:
    """Return the score of held-out rows under every ridge of ``RIDGES``; only their moments are needed."""
    weight = np.where(spectrum.constant, 0.0, 1 / spectrum.scale)
    axes = spectrum.axes[:, ~spectrum.empty] * weight[:, None]
    squares = np.einsum("dk,dk->k", axes, held.about(spectrum.mean) @ axes)  # Σ over rows of p_k²
    filtered = spectrum.eigenvalues[~spectrum.empty] + RIDGES[:, None] * spectrum.level
    return np.asarray(-0.5 * ((squares / filtered).sum(axis=1) + held.count * np.log(filtered).sum(axis=1)))


def deal(groups: NDArray[Any], *, seed: int = 0, n_folds: int = N_FOLDS) -> NDArray[np.int64]:
    """Return the fold of each row, whole groups together: large ones first, each into the smallest fold so far.

    The seed decides among groups of one size; the order of rows plays no part.
    """
    names, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]
    filled = np.zeros(min(n_folds, len(names)), np.int64)
    fold = np.empty(len(names), np.int64)
    for group in order:
        fold[group] = int(filled.argmin())
        filled[fold[group]] += sizes[group]
    return np.asarray(fold[inverse.ravel()])


def rank_rows(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return a number 0..n-1 for each row that depends on what it holds, not on where it stands."""
    rank = np.empty(len(rows), np.int64)
    rank[order_by_content(rows)] = np.arange(len(rows))
    return rank


def _units(rows: NDArray[Any], obs: Obs | None) -> tuple[str, NDArray[Any]]:
    for unit in ("batch", "plate"):
        if obs is not None and unit in obs:
            groups = column(obs, unit, len(rows))
            if len(np.unique(groups)) >= _LEAST_GROUPS:
                return unit, groups
    return "row", rank_rows(rows)


# ---------------------------------------------------------------- floor, by mAP on held-out plates


def choose_floor(
    rows: NDArray[Any], obs: Obs, *, correlation: bool = True, floor: float | None = None, seed: int = 0
) -> Choice:
    """Choose lambda of ``f = max(T, lambda)`` from 25 draws ``10^U(-5, 3)`` by mAP on held-out plates.

    Fitted on the controls of one half of the plates; scored on the other half: the mean of the mAP of replicates
    against controls and of replicates against other treatments. Turning back to the features changes no cosine,
    so one decomposition and 25 scalings of coordinates do.

    Parameters
    ----------
    rows
        All rows (n, d), treated ones and controls. Not changed.
    obs
        ``is_control``, ``plate``, and ``treatment`` of the rows that are no controls.

    Raises
    ------
    CorrectionError
        ``too_few_plates`` below two, ``too_few_controls`` or ``no_replicates`` on one of the halves.
    """
    control, plates = column(obs, "is_control", len(rows)).astype(bool), column(obs, "plate", len(rows))
    names = np.unique(plates)
    if len(names) < 2:
        found = f"`reg: grid` needs 2 plates, one to fit and one to score, found {len(names)}"
        raise CorrectionError("too_few_plates", found, hint="choose another `reg`, such as heldout or knee")
    shuffled = np.random.default_rng(seed).permutation(names)
    held = np.isin(plates, shuffled[: (len(names) + 1) // 2])
    if held[control].all() or not held[control].any():
        found = f"`reg: grid`: all {int(control.sum())} controls are on one half of the {len(names)} plates"
        raise CorrectionError("too_few_controls", found, hint="choose another `reg`, such as heldout or knee")
    spectrum = decompose(
        Moments(rows.shape[1]).add(rows[control & ~held]), correlation=correlation, floor=floor, where="grid"
    )
    coordinates = (
        (rows[held] - spectrum.mean) * np.where(spectrum.constant, 0, 1 / spectrum.scale) @ spectrum.axes
    )
    treatment = _treatment_codes(obs, control)[held]
    lambdas = 10 ** np.random.default_rng(seed).uniform(-5, 3, N_DRAWS)
    scores = [
        replicate_map(coordinates / np.sqrt(np.maximum(spectrum.eigenvalues, lam)), treatment)
        for lam in lambdas
    ]
    return Choice.of(lambdas.tolist(), scores, unit="plate")


def replicate_map(rows: NDArray[np.float64], treatment: NDArray[np.int64]) -> float:
    """Return the mean of mAP of replicates against controls and against other treatments; controls are -1.

    Raises
    ------
    CorrectionError
        ``no_replicates``: no row has both replicates and something to tell them from.
    """
    from microsnoop.ops.average_precision import average_precision

    control = treatment < 0
    against_controls = average_precision(
        rows, pos_sameby=[treatment], neg_diffby=[control.astype(np.int64)], queries=~control
    )
    treated = treatment[~control]
    against_others = average_precision(rows[~control], pos_sameby=[treated], neg_diffby=[treated])
    both = [_group_mean(found.values, treated) for found in (against_controls, against_others)]
    if not np.isfinite(both).all():
        raise CorrectionError(
            "no_replicates",
            f"no mAP on the held-out plates: {len(treated)} treated rows of {len(np.unique(treated))} treatments "
            f"and {int(control.sum())} controls there; needed are a control and two treatments, one with replicates",
            hint="choose a `reg` that needs no labels: heldout, knee or shrinkage",
        )
    return float(np.mean(both))


def _group_mean(values: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Return the mean over groups of their means, over what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    if not known.any():
        return float("nan")
    _, inverse = np.unique(groups[known], return_inverse=True)
    return float((np.bincount(inverse, values[known]) / np.bincount(inverse)).mean())


def _treatment_codes(obs: Obs, control: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a number for each treatment, -1 for controls, whose treatment may be empty."""
    codes = np.full(len(control), -1, np.int64)
    if "treatment" not in obs:
        column(obs, "treatment", len(control))  # says that it is missing
    treated = {"treatment": np.asarray(obs["treatment"])[~control]}
    names = column(treated, "treatment", int((~control).sum()))
    codes[~control] = np.unique(names, return_inverse=True)[1].ravel()
    return codes
