"""Typical variation normalisation (TVN): what controls do is typical, and no batch may do it more than another.

Controls are turned to their principal axes and whitened; then the covariance of each batch's controls is aligned.

Source: batch spec, section 6: the published forms of DeepProfiler (``dp``) and of the EFAAR benchmark (``efaar``).
Aligning covariances is CORAL (Sun, Feng and Saenko, AAAI 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import EVERYTHING, Corrector, Fit
from microsnoop.correction.components import Components, take_components, tell_capped
from microsnoop.correction.rows import Obs, blocks, check_matrix, column, named
from microsnoop.ops.coral import align_covariance, covariance, symmetric_power
from microsnoop.ops.robust import center_by_moments, has_no_spread

FORMS = ("dp", "efaar")
_RIDGE = {"dp": 1.0, "efaar": 0.5}  # published, added to the covariances of whitened controls
_EFAAR_COMPONENTS = 128  # published
_DDOF = {"dp": 0, "efaar": 1}


class TypicalVariation(Corrector):
    """TVN, fitted on the controls of all batches and of each; ``obs`` needs ``is_control`` and ``batch``.

    With ``Q diag(s) Qᵀ`` the covariance of all controls:

    - ``dp``: ``y = (x - mean) Q diag(1/sqrt(s + lam))``, then for each batch
      ``y C_b^(-1/2) C^(1/2)``, where C and C_b are the covariances (divisor n) of the whitened controls of all
      batches and of batch b, plus ``lam2 · I``.
    - ``efaar``: features standardised on the controls, ``y = (x - mean) Q diag(1/sqrt(s))``, then for each batch
      ``y C_b^(-1/2)``; all divisors are n - 1.

    Components that the controls do not vary in (beyond n - 1, constant features) have no scale: they are left
    out, finding ``components_capped``. Batches keep their means. The fit ``all rows`` holds ``columns`` (the
    features used), ``mean``, ``axes`` and ``variances`` s, each batch ``center`` and ``scale`` (of its features)
    and ``coral`` (k, k).

    Parameters
    ----------
    form
        ``dp`` or ``efaar``.
    lam
        Of ``dp`` only. Published: 1.0, which assumes features of size 1 and swamps s of unit-norm embeddings.
        ``auto`` is the median of s.
    lam2
        Default: the published 1.0 of ``dp`` and 0.5 of ``efaar``.
    n_components
        Keep at most so many. Default: all by ``dp``, 128 by ``efaar``.
    standardize_first
        Standardise the features of each batch on its own controls.
    """

    method: ClassVar[str] = "tvn"

    def __init__(
        self,
        *,
        form: str = "dp",
        lam: float | Literal["auto"] = "auto",
        lam2: float | None = None,
        n_components: int | None = None,
        standardize_first: bool = False,
    ) -> None:
        self.form = form
        self.lam = lam
        self.lam2 = lam2
        self.n_components = n_components
        self.standardize_first = standardize_first

    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        self._check_parameters()
        values, control = self.begin(X, obs, features)
        batches = column(obs, "batch", len(values))
        self._check_batches(batches, control)
        controls, of = values[control], batches[control]
        names = [str(name) for name in np.unique(of)]
        scaled, columns, scaling = self._scale(controls, of, names)
        wanted = self._wanted(scaled.shape[1])
        found = take_components(scaled, wanted, ddof=_DDOF[self.form])
        capped = tell_capped(found, scaled.shape, min(wanted, scaled.shape[1]))
        if capped:
            self.note("components_capped", f"the controls, {capped}")
        lam = self._lam(found)
        arrays = {"columns": columns, "mean": found.mean, "axes": found.axes, "variances": found.variances}
        info = {"n": len(scaled), "lam": lam, "lam2": self._ridge(), "rank": len(found.spectrum)}
        white = (scaled - found.mean) @ (found.axes / np.sqrt(found.variances + lam))
        self.fits_[EVERYTHING] = Fit(arrays, info)
        root = None
        if self.form == "dp":
            root = symmetric_power(covariance(white, ddof=0)[1], 0.5, ridge=self._ridge())
        for name in names:
            rows = white[of == name]
            source = covariance(rows, ddof=_DDOF[self.form])[1]
            coral = align_covariance(source, root, ridge=self._ridge())
            center, scale = scaling[name]
            self.fits_[name] = Fit({"center": center, "scale": scale, "coral": coral}, {"n": len(rows)})
        self.features_out_ = [f"TVN{j + 1}" for j in range(len(found.variances))]
        return self

    def transform(
        self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        values = check_matrix(X)
        self.check_features(features, values.shape[1])
        batches = column(obs, "batch", len(values))
        new = sorted(set(batches.tolist()) - (set(self.fits_) - {EVERYTHING}))
        if new:
            raise CorrectionError(
                "too_few_controls",
                f"tvn: {len(new)} batch(es) were not among the fitted ones: {named(new)}",
                hint="fit on all batches that are to be corrected",
            )
        whole = self.fits_[EVERYTHING]
        used, mean = whole.arrays["columns"], whole.arrays["mean"]
        white = whole.arrays["axes"] / np.sqrt(whole.arrays["variances"] + whole.info["lam"])
        out = np.empty((len(values), len(self.features_out_)), np.float32)
        for name in np.unique(batches):
            own, rows = self.fits_[str(name)].arrays, np.flatnonzero(batches == name)
            matrix = white @ own["coral"]
            for block in blocks(len(rows)):
                scaled = (values[rows[block]][:, used] - own["center"]) / own["scale"]
                out[rows[block]] = (scaled - mean) @ matrix
        return out

    def _scale(
        self, controls: NDArray[Any], of: NDArray[Any], names: list[str]
    ) -> tuple[NDArray[Any], NDArray[np.int64], dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
        """Return scaled controls, the features that are used, and centre and scale of these for each batch."""
        d = controls.shape[1]
        if self.standardize_first:
            scaling = {name: center_by_moments(controls[of == name]) for name in names}
        elif self.form == "efaar":
            scaling = dict.fromkeys(names, center_by_moments(controls))
        else:
            return controls, np.arange(d), dict.fromkeys(names, (np.zeros(d), np.ones(d)))
        flat = np.any([has_no_spread(center, scale) for center, scale in scaling.values()], axis=0)
        used = np.flatnonzero(~flat)
        gone = [self.features_in_[j] for j in np.flatnonzero(flat)]
        if not len(used):
            raise CorrectionError(
                "no_variance", f"tvn: none of {d} features varies in the controls of all batches"
            )
        if gone:
            found = f"{len(gone)} of {d} features have no spread among the controls: {named(gone)}"
            self.note("zero_scale_dropped", f"{found}; they are left out everywhere")
        scaling = {name: (center[used], scale[used]) for name, (center, scale) in scaling.items()}
        scaled = np.empty((len(controls), len(used)))
        for name, (center, scale) in scaling.items():
            scaled[of == name] = (controls[of == name][:, used] - center) / scale
        return scaled, used, scaling

    def _lam(self, found: Components) -> float:
        if self.form == "efaar":
            return 0.0
        return float(np.median(found.spectrum)) if self.lam == "auto" else float(self.lam)

    def _ridge(self) -> float:
        return _RIDGE[self.form] if self.lam2 is None else self.lam2

    def _wanted(self, d: int) -> int:
        if self.n_components is not None:
            return self.n_components
        return d if self.form == "dp" else _EFAAR_COMPONENTS

    def _check_batches(self, batches: NDArray[Any], control: NDArray[np.bool_]) -> None:
        names, counts = np.unique(batches[control], return_counts=True)
        n_of = {str(name): 0 for name in np.unique(batches)} | dict(
            zip(names.tolist(), counts.tolist(), strict=True)
        )
        small = [f"{name} ({n})" for name, n in n_of.items() if n < self.minimum]
        if small:
            raise CorrectionError(
                "too_few_controls",
                f"tvn: {len(small)} of {len(n_of)} batches have fewer than {self.minimum} control rows: {named(small)}",
                hint="check which rows are controls, or leave these batches out",
            )
        if EVERYTHING in n_of:
            raise CorrectionError(
                "bad_parameter", f"tvn: no batch may be called {EVERYTHING!r}", hint="rename it"
            )

    def _check_parameters(self) -> None:
        wrong = ""
        if self.form not in FORMS:
            wrong = f"form must be one of {', '.join(FORMS)}, got {self.form!r}"
        elif self.lam != "auto" and not (np.isfinite(self.lam) and self.lam >= 0):
            wrong = f"lam must be `auto` or at least 0, got {self.lam}"
        elif self.lam != "auto" and self.form == "efaar":
            wrong = "lam says nothing to `form: efaar`, only to dp"
        elif self.lam2 is not None and not (np.isfinite(self.lam2) and self.lam2 > 0):
            wrong = f"lam2 must be above 0, got {self.lam2}"
        elif self.n_components is not None and self.n_components < 1:
            wrong = f"n_components must be at least 1, got {self.n_components}"
        if wrong:
            raise CorrectionError("bad_parameter", f"tvn: {wrong}")
