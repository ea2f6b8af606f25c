"""What all corrections have in common: fitting on control rows by scope, refusing what would be wrong.

A correction learns from control rows (of all plates, or of each plate or batch by itself) and is applied to every row.
``X`` is (n, d), rows are profiles of cells, fields or wells; ``obs`` says for each row what it is, in columns
``is_control`` (bool), ``plate``, ``batch`` and ``obs_id``, as a DataFrame or a dict of arrays. Nothing is ever changed
in place, and no result depends on the order of rows.

Source: batch spec, section 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.rows import (
    Obs,
    blocks,
    check_matrix,
    column,
    feature_names,
    hash_ids,
    is_control,
    named,
)

SCOPES = ("global", "batch", "plate")
EVERYTHING = "all rows"  # the name of the one group of scope `global`


@dataclass(frozen=True)
class Finding:
    """What a reader of corrected numbers must know; ``strong`` where the numbers hardly mean anything."""

    code: str
    message: str
    strong: bool = False


@dataclass
class Fit:
    """What was learned from the controls of one group: arrays, and facts that JSON can hold."""

    arrays: dict[str, NDArray[Any]]
    info: dict[str, Any] = field(default_factory=dict)


class Corrector(BaseEstimator, ABC):  # type: ignore[misc]
    """The contract of all corrections.

    Attributes (after ``fit``)
    --------------------------
    fits_
        Group name: what was learned there.
    features_in_, features_out_
        Names of the columns that come and go.
    findings_
        What a reader must know (:class:`Finding`).
    n_control_, control_hash_
        Number of rows fitted on, and a hash of their ids where ``obs`` has ``obs_id``.
    """

    method: ClassVar[str]
    minimum: ClassVar[int] = 2  # control rows a group must have
    transductive: ClassVar[bool] = False  # corrects only the rows it was fitted with

    fits_: dict[str, Fit]
    findings_: list[Finding]
    features_in_: list[str]
    features_out_: list[str]
    n_control_: int
    control_hash_: str

    @abstractmethod
    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        """Learn from the control rows; without ``obs`` every row is one.

        Parameters
        ----------
        X
            (n, d), real and finite. Not changed.
        obs
            ``is_control``, and ``plate`` or ``batch`` where the method or its scope needs it.
        features
            Names of the d columns.

        Raises
        ------
        CorrectionError
            ``not_finite``, ``too_few_controls`` (with the group), or what the method itself cannot do.
        """

    @abstractmethod
    def transform(
        self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return corrected rows, float32 (n, number of ``features_out_``).

        Raises
        ------
        CorrectionError
            ``not_fitted``, ``feature_mismatch``, ``not_finite``, or a group that was not among the fitted.
        """

    def fit_transform(
        self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Fit on the control rows and return all rows corrected."""
        return self.fit(X, obs, features=features).transform(X, obs, features=features)

    def note(self, code: str, message: str, *, strong: bool = False) -> None:
        """Keep a finding."""
        self.findings_.append(Finding(code, message, strong))

    def begin(
        self, X: NDArray[Any], obs: Obs | None, features: Sequence[str] | None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Begin a fit: check what came, forget what was; return the matrix and which rows are controls."""
        values = check_matrix(X)
        control = is_control(obs, len(values))
        self.features_in_ = feature_names(features, values.shape[1])
        self.features_out_ = list(self.features_in_)
        self.findings_, self.fits_ = [], {}
        self.n_control_, self.control_hash_ = int(control.sum()), hash_ids(obs, control)
        return values, control

    def check_features(self, features: Sequence[str] | None, width: int) -> None:
        """Refuse rows that are not made of the features this was fitted on."""
        if not hasattr(self, "fits_"):
            raise CorrectionError("not_fitted", f"{self.method} must be fitted before it is applied")
        if width != len(self.features_in_):
            raise CorrectionError(
                "feature_mismatch",
                f"{self.method} was fitted on {len(self.features_in_)} features, the rows have {width}",
            )
        if features is not None and list(features) != self.features_in_:
            odd = [(a, b) for a, b in zip(self.features_in_, features, strict=True) if a != b]
            raise CorrectionError(
                "feature_mismatch",
                f"{self.method}: {len(odd)} features differ in name or order, the first is {odd[0][1]!r} "
                f"where {odd[0][0]!r} was fitted",
            )

    def check_minimum(self, n: int, group: str) -> None:
        """Raise ``too_few_controls`` where a group has not enough control rows."""
        if n < self.minimum:
            raise CorrectionError(
                "too_few_controls",
                f"{self.method}: {group} has {n} control row(s), needed are {self.minimum}",
                hint="check which rows are controls; `on_small_group: global` uses the fit of all controls",
            )


class ScopedCorrector(Corrector):
    """A correction fitted once for all rows, or once a plate or batch, each on its own controls.

    Subclasses say how one group is fitted (``_fit``) and applied (``_apply``), and have the parameters ``scope``
    (``global``, ``batch`` or ``plate``) and ``on_small_group`` (``error``, or ``global``: the fit of all controls).
    """

    scope: str
    on_small_group: str

    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        values, control = self.begin(X, obs, features)
        groups = self._groups(obs, len(values))
        self.check_minimum(self.n_control_, EVERYTHING)
        small: list[str] = []
        for group in np.unique(groups):
            rows = values[control & (groups == group)]
            if len(rows) < self.minimum and self.on_small_group == "global":
                small.append(str(group))
                continue
            self.check_minimum(len(rows), str(group))
            self.fits_[str(group)] = self._fit(rows, str(group))
        if small:
            self.fits_[EVERYTHING] = self._fit(values[control], EVERYTHING)
            what = f"{len(small)} {self.scope}(s) with fewer than {self.minimum} control rows"
            self.note("global_fit_used", f"{what} use the fit of all controls: {named(small)}")
        self._finish()
        return self

    def transform(
        self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        values = check_matrix(X)
        self.check_features(features, values.shape[1])
        groups = self._groups(obs, len(values))
        out = np.empty((len(values), len(self.features_out_)), np.float32)
        for group in np.unique(groups):
            fit, rows = self._fit_of(str(group)), np.flatnonzero(groups == group)
            for block in blocks(len(rows)):
                out[rows[block]] = self._apply(fit, values[rows[block]])
        return out

    @abstractmethod
    def _fit(self, rows: NDArray[Any], group: str) -> Fit:
        """Learn from the control rows (m, d) of one group."""

    @abstractmethod
    def _apply(self, fit: Fit, rows: NDArray[Any]) -> NDArray[Any]:
        """Return rows (m, d) corrected by the fit of their group: (m, number of ``features_out_``)."""

    def _finish(self) -> None:
        """Decide what concerns all groups at once, after all are fitted: features that go, findings."""

    def _groups(self, obs: Obs | None, n: int) -> NDArray[Any]:
        if self.scope not in SCOPES:
            raise CorrectionError("bad_parameter", f"{self.method}: scope must be one of {', '.join(SCOPES)}")
        return np.full(n, EVERYTHING) if self.scope == "global" else column(obs, self.scope, n)

    def _fit_of(self, group: str) -> Fit:
        if group in self.fits_:
            return self.fits_[group]
        if self.on_small_group == "global" and EVERYTHING in self.fits_:
            return self.fits_[EVERYTHING]
        raise CorrectionError(
            "too_few_controls",
            f"{self.method}: the {self.scope} {group!r} was not among the fitted ones",
            hint="fit on all plates that are to be corrected",
        )
