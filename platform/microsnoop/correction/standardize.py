"""Features on one scale: centred and divided by the spread of reference rows, each plate by itself.

Source: batch spec, section 5.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import SCOPES, Fit, ScopedCorrector
from microsnoop.correction.components import take_all_rows
from microsnoop.correction.rows import Obs, named
from microsnoop.ops.robust import (
    MAD_EPSILON,
    MAD_TO_SD,
    center_by_moments,
    center_by_ranks,
    has_no_spread,
    log_keeping_sign,
)

_LARGEST = float(np.finfo(np.float32).max)


class Scaler(ScopedCorrector):
    """What the scalings have in common: a centre and a scale for each feature and group, and what has no scale.

    Each fit holds ``columns`` (k,), which features are kept, their ``center`` and ``scale`` (k,), and in ``info``
    the number of rows ``n`` and the names of features without spread there, ``zero_scale``.

    Parameters
    ----------
    scope
        One fit for each ``plate`` or ``batch``, or a ``global`` one.
    reference
        Fit on the ``controls`` of the group, or on ``all`` its rows.
    zero_scale
        What becomes of a feature without spread in any group: ``drop`` it in all groups (finding
        ``zero_scale_dropped``), ``error``, or, by MAD only, ``eps``: divide by 1e-18 as published, which turns
        any deviation into a number that swamps all others.
    max_dropped
        The largest share of features that may be dropped.
    on_small_group
        A group with fewer than ``minimum_rows`` reference rows: ``error``, or ``global``, the fit of all.
    minimum_rows
        The smallest number of reference rows that a group is fitted on, at least 2.

    Raises
    ------
    CorrectionError
        ``too_few_controls``, ``zero_scale`` (more features dropped than allowed, or any with ``error``),
        ``overflow`` (a result that float32 cannot hold), ``bad_parameter``.
    """

    zero_scales: ClassVar[tuple[str, ...]] = ("drop", "error")

    def __init__(
        self,
        *,
        scope: str = "plate",
        reference: str = "controls",
        zero_scale: str = "drop",
        max_dropped: float = 0.1,
        on_small_group: str = "error",
        minimum_rows: int = 8,
    ) -> None:
        self.scope = scope
        self.reference = reference
        self.zero_scale = zero_scale
        self.max_dropped = max_dropped
        self.on_small_group = on_small_group
        self.minimum_rows = minimum_rows

    @property
    def minimum(self) -> int:  # type: ignore[override]
        """Reference rows a group must have."""
        return self.minimum_rows

    def begin(
        self, X: NDArray[Any], obs: Obs | None, features: Sequence[str] | None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return super().begin(X, take_all_rows(obs, X) if self.reference == "all" else obs, features)

    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        self._check_parameters()
        return super().fit(X, obs, features=features)

    @abstractmethod
    def _measure(self, rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return centre and scale (d,) of rows (m, d)."""

    def _shape(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what becomes of scaled rows."""
        return z

    def _fit(self, rows: NDArray[Any], group: str) -> Fit:  # noqa: ARG002
        center, scale = self._measure(rows)
        without = [self.features_in_[j] for j in np.flatnonzero(has_no_spread(center, scale))]
        arrays = {"columns": np.arange(len(center)), "center": center, "scale": scale}
        return Fit(arrays, {"n": len(rows), "zero_scale": without})

    def _apply(self, fit: Fit, rows: NDArray[Any]) -> NDArray[Any]:
        columns, center, scale = (fit.arrays[name] for name in ("columns", "center", "scale"))
        kept = rows if len(columns) == rows.shape[1] else rows[:, columns]
        z = self._shape((kept - center) / scale)
        if np.abs(z).max() > _LARGEST:
            j = int(np.abs(z).max(axis=0).argmax())
            raise CorrectionError(
                "overflow",
                f"{self.method}: {self.features_out_[j]} becomes {np.abs(z).max():.3g}, more than float32 can "
                f"hold (scale {scale[j]:.3g})",
                hint="leave the feature out, or `zero_scale: drop`",
            )
        return z

    def _finish(self) -> None:
        without = {name for fit in self.fits_.values() for name in fit.info["zero_scale"]}
        if not without:
            return
        gone = [name for name in self.features_in_ if name in without]
        groups = [group for group, fit in self.fits_.items() if fit.info["zero_scale"]]
        found = (
            f"{len(gone)} of {len(self.features_in_)} features have no spread among the reference rows of "
            f"{named(groups)}: {named(gone)}"
        )
        if self.zero_scale == "eps":
            self.note("zero_scale_kept", f"{found}; they are divided by {MAD_EPSILON:g}", strong=True)
            return
        self._refuse_many(len(gone), found)
        self.note("zero_scale_dropped", f"{found}; they are left out everywhere")
        self.features_out_ = [name for name in self.features_in_ if name not in without]
        columns = np.flatnonzero([name not in without for name in self.features_in_])
        for fit in self.fits_.values():
            fit.arrays = {name: values[columns] for name, values in fit.arrays.items()}

    def _refuse_many(self, n_gone: int, found: str) -> None:
        if self.zero_scale == "error":
            raise CorrectionError(
                "zero_scale",
                f"{self.method}: {found}",
                hint="leave these features out, or `zero_scale: drop`",
            )
        if n_gone > self.max_dropped * len(self.features_in_) or n_gone == len(self.features_in_):
            raise CorrectionError(
                "zero_scale",
                f"{self.method}: {found}; at most {self.max_dropped:.0%} may be dropped",
                hint="look at these features or groups first; `max_dropped` allows a larger share",
            )

    def _check_parameters(self) -> None:
        for name, allowed in (
            ("scope", SCOPES),
            ("reference", ("controls", "all")),
            ("zero_scale", self.zero_scales),
            ("on_small_group", ("error", "global")),
        ):
            if getattr(self, name) not in allowed:
                raise self._bad(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not 0 <= self.max_dropped <= 1:
            raise self._bad(f"max_dropped is a share from 0 to 1, got {self.max_dropped}")
        if self.minimum_rows < 2:
            raise self._bad(f"minimum_rows must be at least 2, got {self.minimum_rows}")

    def _bad(self, message: str) -> CorrectionError:
        return CorrectionError("bad_parameter", f"{self.method}: {message}")


class Standardize(Scaler):
    """``(x - mean) / sd`` with mean and standard deviation (n - 1) of the reference rows; see :class:`Scaler`."""

    method: ClassVar[str] = "standardize"

    def _measure(self, rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return center_by_moments(rows)


class MadRobustize(Scaler):
    """``(x - median) / (1.4826 MAD + 1e-18)`` of the reference rows, hardly moved by outliers; see :class:`Scaler`.

    More than half of the reference rows with one and the same value make MAD 0.
    """

    method: ClassVar[str] = "mad"
    zero_scales: ClassVar[tuple[str, ...]] = ("drop", "error", "eps")

    def _measure(self, rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        median, mad = center_by_ranks(rows)
        return median, MAD_TO_SD * mad

    def _fit(self, rows: NDArray[Any], group: str) -> Fit:
        fit = super()._fit(rows, group)  # what has no spread is told before the published 1e-18 hides it
        fit.arrays["scale"] = fit.arrays["scale"] + MAD_EPSILON
        return fit


class SignedLog(Scaler):
    """``sign(z) log(1 + |z|)`` of features standardised on the controls; see :class:`Scaler`.

    Tames the heavy tails of features made by hand (intensities, areas, textures), so that no cell's outlier
    rules every distance; it knows no labels, and keeps the order of every feature.
    """

    method: ClassVar[str] = "log"

    def __init__(
        self,
        *,
        scope: str = "global",
        zero_scale: str = "drop",
        max_dropped: float = 0.1,
        on_small_group: str = "error",
        minimum_rows: int = 8,
    ) -> None:
        super().__init__(
            scope=scope,
            zero_scale=zero_scale,
            max_dropped=max_dropped,
            on_small_group=on_small_group,
            minimum_rows=minimum_rows,
        )

    def _measure(self, rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return center_by_moments(rows)

    def _shape(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        return log_keeping_sign(z)
