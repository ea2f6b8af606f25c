"""Sphering: after it, the features of control rows are uncorrelated and have variance 1.

Directions in which controls vary are nuisance (plates, weeks, positions): they are shrunk to the size of all others,
so that what sets a treatment apart counts as much. It does not make plates indistinguishable: a shift between them
becomes one direction of d with variance 1.

Source: batch spec, sections 4 and 9; Kessy, Lewin and Strimmer (2018); the default regulariser is the published one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import EVERYTHING, Fit, ScopedCorrector
from microsnoop.correction.heldout import Choice, choose_floor, choose_ridge
from microsnoop.correction.regularisers import FINDINGS, Lifted, lift_by_knee, lift_by_shrinkage, lift_nothing
from microsnoop.correction.rows import Obs, check_matrix, is_control, named, order_by_content
from microsnoop.ops.knee import find_knee
from microsnoop.ops.moments import Moments
from microsnoop.ops.sphering import (
    VARIANTS,
    Spectrum,
    decompose,
    sphere,
    standardised_covariance,
    whitening_matrix,
)

_RIDGE = 0.01
REGULARISERS = ("knee", "floor", "ridge", "shrinkage", "heldout", "grid", "none")
_TAKES_LAM = ("floor", "ridge", "shrinkage")  # the regularisers that `lam` says something to


class Sphering(ScopedCorrector):
    """``z = (x - mean) Wᵀ`` with ``W = G diag(1/sqrt f(T)) Gᵀ D^(-1/2)``, fitted on control rows.

    D holds the floored variances of the features, ``G diag(T) Gᵀ`` is their correlation matrix. Each fit holds
    the arrays ``mean`` (d,), ``matrix`` W (d, d), ``eigenvalues`` T (d,), largest first, and ``filtered`` f(T), and
    in ``info``: ``reg`` (the one in effect), ``reg_asked``, ``variant``, ``lambda``, ``a``, ``knee_index``, ``n``,
    ``d``, ``constant`` (names of features), ``curve`` ([value, score] of all that ``heldout`` or ``grid`` tried).

    Parameters
    ----------
    variant
        ``ZCA-cor`` (nearest to the standardised features), ``PCA-cor`` (the same, along the axes), or ``ZCA`` and
        ``PCA``, which start from the covariance and do not scale features first.
    reg
        f(T): ``knee`` max(T, T_knee / knee_divisor), published; ``floor`` max(T, lam); ``ridge`` T + lam;
        ``shrinkage`` (1 - a) T + a · mean(T), a by Ledoit and Wolf unless ``lam`` states it; ``heldout``
        T + lambda · mean(T), lambda by the likelihood of held-out controls; ``grid`` max(T, lambda), lambda by
        mAP on held-out plates (needs ``treatment`` and ``plate``); ``none`` T. mean(T) of correlations is 1.
    lam
        For ``floor`` (required), ``ridge`` (default 0.01) and ``shrinkage``; nothing else takes it.
    knee_divisor, sensitivity, on_no_knee
        Of ``knee``; without a knee ``shrinkage`` instead, or ``error``.
    constant_feature
        What controls do not vary in cannot be scaled: ``zero`` gives a column of zeros, or ``error``.
    variance_floor
        Smallest variance that a feature is scaled by. Default: 1e-6 of the median where features share a unit, else
        none; published: 1e-3, absolute.
    scope, on_small_group
        One fit (``global``, published) or one per ``batch`` or ``plate``; see :class:`ScopedCorrector`.
    seed
        Of ``grid`` and ``heldout``.
    precision
        ``float64``, or ``float32``: twice as fast, for rows in the millions.
    """

    method: ClassVar[str] = "sphering"
    _seen: tuple[NDArray[Any], Obs | None] | None = None  # all rows, while a fit needs more than its controls

    def __init__(
        self,
        *,
        variant: str = "ZCA-cor",
        reg: str = "knee",
        lam: float | None = None,
        knee_divisor: float = 10.0,
        sensitivity: float = 1.0,
        on_no_knee: str = "shrinkage",
        constant_feature: str = "zero",
        variance_floor: float | None = None,
        scope: str = "global",
        on_small_group: str = "error",
        seed: int = 0,
        precision: str = "float64",
    ) -> None:
        self.variant = variant
        self.reg = reg
        self.lam = lam
        self.knee_divisor = knee_divisor
        self.sensitivity = sensitivity
        self.on_no_knee = on_no_knee
        self.constant_feature = constant_feature
        self.variance_floor = variance_floor
        self.scope = scope
        self.on_small_group = on_small_group
        self.seed = seed
        self.precision = precision

    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        self._check_parameters()
        self._seen = (X, obs) if self.reg in ("grid", "heldout") else None
        try:
            return super().fit(X, obs, features=features)
        finally:
            self._seen = None

    def _fit(self, rows: NDArray[Any], group: str) -> Fit:
        correlation, back = VARIANTS[self.variant]
        spectrum = decompose(
            Moments(rows.shape[1]).add(rows), correlation=correlation, floor=self.variance_floor, where=group
        )
        constant = [self.features_in_[j] for j in np.flatnonzero(spectrum.constant)]
        if constant and self.constant_feature == "error":
            found = f"{group}: {len(constant)} of {rows.shape[1]} features do not vary in controls: {named(constant)}"
            raise CorrectionError(
                "constant_in_controls", found, hint="leave them out, or `constant_feature: zero`"
            )
        filtered, info = self._lift(spectrum, rows, group)
        arrays = {
            "mean": spectrum.mean,
            "matrix": whitening_matrix(spectrum, filtered, back=back),
            "eigenvalues": spectrum.eigenvalues,
            "filtered": filtered,
        }
        facts = {"n": spectrum.n, "d": rows.shape[1], "constant": constant, "variant": self.variant}
        return Fit(arrays, {"reg": self.reg, "reg_asked": self.reg, **info, **facts})

    def _apply(self, fit: Fit, rows: NDArray[Any]) -> NDArray[Any]:
        mean, matrix = fit.arrays["mean"], fit.arrays["matrix"]
        return sphere(rows, mean, matrix, precision=self.precision, dtype=np.float32)

    # ------------------------------------------------------------ f(T)

    def _lift(self, spectrum: Spectrum, rows: NDArray[Any], group: str) -> Lifted:
        """Return f(T) by the regulariser asked for, and what is to be known of it."""
        values, correlation = spectrum.eigenvalues, VARIANTS[self.variant][0]
        if self.reg == "knee":
            return lift_by_knee(
                spectrum,
                rows,
                divisor=self.knee_divisor,
                sensitivity=self.sensitivity,
                on_no_knee=self.on_no_knee,
                correlation=correlation,
                where=group,
            )
        if self.reg == "shrinkage":
            return lift_by_shrinkage(spectrum, rows, share=self.lam, correlation=correlation)
        if self.reg == "heldout":
            obs = self._rows_seen(group, controls=True)[1]
            choice = choose_ridge(rows, obs, correlation=correlation, seed=self.seed, where=group)
            return values + choice.value * spectrum.level, {**_facts(choice), "heldout_edge": choice.edge}
        if self.reg == "grid":
            seen, obs = self._rows_seen(group, controls=False)
            choice = choose_floor(
                seen, obs, correlation=correlation, floor=self.variance_floor, seed=self.seed
            )
            return np.maximum(values, choice.value), _facts(choice)
        if self.reg == "none":
            return lift_nothing(spectrum, where=group)
        lam = _RIDGE if self.lam is None else float(self.lam)
        return np.maximum(values, lam) if self.reg == "floor" else values + lam, {"lambda": lam}

    def _rows_seen(self, group: str, *, controls: bool) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the rows of a group, all of them or its controls, and their obs."""
        assert self._seen is not None
        values, obs = check_matrix(self._seen[0]), self._seen[1]
        groups = self._groups(obs, len(values))
        chosen = np.ones(len(values), bool) if group == EVERYTHING else groups == group
        if controls:
            chosen &= is_control(obs, len(values))
        names = ("is_control", "plate", "batch", "treatment")
        return values[chosen], {k: np.asarray(obs[k])[chosen] for k in names if obs is not None and k in obs}

    # ------------------------------------------------------------ what concerns all groups

    def _finish(self) -> None:
        if not VARIANTS[self.variant][1]:
            self.features_out_ = [f"axis{j}" for j in range(len(self.features_in_))]
        for code, strong, text in FINDINGS:
            told = {group: text(fit.info) for group, fit in self.fits_.items()}
            groups = [group for group, words in told.items() if words]
            if groups:
                self.note(code, f"{told[groups[0]]} ({named(groups)})", strong=strong)

    def _check_parameters(self) -> None:
        for name, value, allowed in (
            ("variant", self.variant, tuple(VARIANTS)),
            ("reg", self.reg, REGULARISERS),
            ("on_no_knee", self.on_no_knee, ("shrinkage", "error")),
            ("constant_feature", self.constant_feature, ("zero", "error")),
            ("on_small_group", self.on_small_group, ("error", "global")),
            ("precision", self.precision, ("float64", "float32")),
        ):
            if value not in allowed:
                raise _bad(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name, number in (("knee_divisor", self.knee_divisor), ("sensitivity", self.sensitivity)):
            if not (np.isfinite(number) and number > 0):
                raise _bad(f"{name} must be above 0, got {number}")
        if self.variance_floor is not None and not (
            np.isfinite(self.variance_floor) and self.variance_floor >= 0
        ):
            raise _bad(f"variance_floor must be at least 0, got {self.variance_floor}")
        if self.lam is None and self.reg == "floor":
            raise _bad("`reg: floor` needs lam, the smallest eigenvalue to divide by")
        if self.lam is not None and self.reg not in _TAKES_LAM:
            raise _bad(f"lam says nothing to `reg: {self.reg}`, only to {', '.join(_TAKES_LAM)}")
        if self.lam is not None and not (np.isfinite(self.lam) and self.lam > 0):
            raise _bad(f"lam must be above 0, got {self.lam}")
        if self.lam is not None and self.reg == "shrinkage" and self.lam > 1:
            raise _bad(f"lam of `reg: shrinkage` is a share of at most 1, got {self.lam}")


def knee_stability(
    rows: NDArray[Any],
    *,
    bootstraps: int = 20,
    seed: int = 0,
    max_rows: int = 20_000,
    correlation: bool = True,
    sensitivity: float = 1.0,
) -> tuple[float, float]:
    """Return the 10 % and 90 % quantile of the knee's index over bootstraps of control rows (n, d).

    A draw without a knee counts as d, so that a knee which comes and goes is not called stable. More than
    ``max_rows`` rows are thinned first. The order of rows does not matter.

    Source: batch spec, section 9: a range above 0.1 d is called unstable.

    Raises
    ------
    CorrectionError
        ``not_finite``, ``too_few_controls``, or ``no_variance`` in some draw.
    """
    if bootstraps < 1 or max_rows < 2:
        raise ValueError(f"bootstraps must be at least 1 and max_rows 2, got {bootstraps} and {max_rows}")
    values, rng = check_matrix(rows), np.random.default_rng(seed)
    order = order_by_content(values)
    if len(order) > max_rows:
        order = order[rng.choice(len(order), max_rows, replace=False)]
    found = []
    for _ in range(bootstraps):
        moments = Moments(values.shape[1]).add(values[order[rng.integers(len(order), size=len(order))]])
        matrix = standardised_covariance(moments, correlation=correlation, where="bootstrap")
        eigenvalues = np.linalg.eigvalsh(matrix)[::-1].clip(min=0)
        index = find_knee(eigenvalues, sensitivity=sensitivity)
        found.append(values.shape[1] if index is None else index)
    low, high = np.quantile(found, [0.1, 0.9])
    return float(low), float(high)


def _facts(choice: Choice) -> dict[str, Any]:
    return {"lambda": choice.value, "held_out": choice.unit, "curve": [list(point) for point in choice.curve]}


def _bad(message: str) -> CorrectionError:
    return CorrectionError("bad_parameter", f"sphering: {message}")
