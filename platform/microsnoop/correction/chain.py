"""Corrections one after the other, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import Corrector
from microsnoop.correction.rows import Obs, check_matrix


class Chain(Corrector):
    """Each step is fitted on what the former makes of the rows, with the same controls.

    The steps hold what was learned; ``fits_`` of the chain stays empty. Its findings are those of the steps,
    with the step in front of the message; ``n_control_`` and ``control_hash_`` are those of the step that was
    fitted on most rows. With a transductive step only ``fit_transform`` gives rows.

    Parameters
    ----------
    steps
        Corrections in the order in which they are applied, at least one. Fitting the chain fits these very objects.
    """

    method: ClassVar[str] = "chain"

    def __init__(self, steps: list[Corrector]) -> None:
        self.steps = steps

    @property
    def transductive(self) -> bool:  # type: ignore[override]
        """Whether some step corrects only the rows it was fitted with."""
        return any(step.transductive for step in self.steps)

    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        rows, names = self._fit_all_but_last(X, obs, features)
        self.steps[-1].fit(rows, obs, features=names)
        self._keep()
        return self

    def fit_transform(
        self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        rows, names = self._fit_all_but_last(X, obs, features)
        corrected = self.steps[-1].fit_transform(rows, obs, features=names)
        self._keep()
        return corrected

    def transform(
        self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        for step in self.steps:
            if step.transductive:
                step.transform(X, obs)  # raises, and says what to do
        values = check_matrix(X)
        self.check_features(features, values.shape[1])
        names: Sequence[str] | None = features
        for step in self.steps:
            values = step.transform(values, obs, features=names)
            names = step.features_out_
        return values

    def _fit_all_but_last(
        self, X: NDArray[Any], obs: Obs | None, features: Sequence[str] | None
    ) -> tuple[NDArray[Any], Sequence[str] | None]:
        if not self.steps:
            raise CorrectionError("bad_parameter", "a chain needs at least one step")
        if len({id(step) for step in self.steps}) < len(self.steps):
            raise CorrectionError("bad_parameter", "a chain holds one and the same object twice: copy it")
        self.__dict__.pop("fits_", None)  # a chain that fails half-way is not a fitted one
        rows, names = X, features
        for step in self.steps[:-1]:
            rows = step.fit_transform(rows, obs, features=names)
            names = step.features_out_
        return rows, names

    def _keep(self) -> None:
        largest = max(self.steps, key=lambda step: step.n_control_)
        self.n_control_, self.control_hash_ = largest.n_control_, largest.control_hash_
        self.features_in_ = list(self.steps[0].features_in_)
        self.features_out_ = list(self.steps[-1].features_out_)
        self.findings_, self.fits_ = [], {}
        for number, step in enumerate(self.steps, 1):
            for finding in step.findings_:
                self.note(
                    finding.code, f"step {number} ({step.method}): {finding.message}", strong=finding.strong
                )
