"""Guard rails: does a correction hold on controls it has not seen, and what did it cost?

Every check returns findings; none is silent, and none changes anything. Source: batch spec, section 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import Corrector, Finding
from microsnoop.correction.rows import Obs, column, is_control

_FOLDS = 5
_VARIANCE = (0.5, 2.0)
_CORRELATION = 0.2
_SIGNAL = 0.05


@dataclass(frozen=True)
class Whiteness:
    """How white held-out controls come out: their mean variance (1 would be ideal) and mean |correlation| (0).

    ``floor`` is the mean |correlation| that as many rows of independent noise would have.
    """

    variance: float
    correlation: float
    floor: float

    def findings(self) -> list[Finding]:
        """Return ``not_white`` where held-out controls are far from white."""
        low, high = _VARIANCE
        wrong = []
        if not low <= self.variance <= high:
            wrong.append(f"their mean variance is {self.variance:.2f} (between {low:g} and {high:g} is good)")
        if self.correlation > max(_CORRELATION, 1.5 * self.floor):
            wrong.append(
                f"their mean |correlation| is {self.correlation:.2f} (noise of so few rows has {self.floor:.2f})"
            )
        if not wrong:
            return []
        return [
            Finding("not_white", f"controls that were held out do not come out white: {'; '.join(wrong)}")
        ]


def held_out_whiteness(
    build: Callable[[], Corrector], X: NDArray[Any], obs: Obs, *, folds: int = _FOLDS, seed: int = 0
) -> Whiteness | None:
    """Fit on the controls of some plates, correct those of the others, and see how white they are.

    Folds are whole plates, or rows where there are fewer plates than folds. None where nothing can be held out: a fit
    for each plate knows nothing of a plate it has not seen, and a transductive method corrects no new rows.

    Parameters
    ----------
    build
        Makes a new, unfitted corrector.
    X, obs
        All rows (n, d); only controls are used.
    """
    control = is_control(obs, len(X))
    rows = {name: np.asarray(obs[name])[control] for name in ("is_control", "plate", "batch") if name in obs}
    values = np.asarray(X)[control]
    unit = column(obs, "plate", len(X))[control] if "plate" in obs else np.arange(len(values)).astype(str)
    if len(np.unique(unit)) < folds:
        unit = np.arange(len(values)).astype(str)
    units = np.random.default_rng(seed).permutation(np.unique(unit))
    if len(units) < folds:
        return None
    sizes, variances, correlations = [], [], []
    for part in np.array_split(units, folds):
        held = np.isin(unit, part)
        if held.sum() < 3:
            continue
        try:
            fitted = build().fit(values[~held], {name: v[~held] for name, v in rows.items()})
            white = fitted.transform(values[held], {name: v[held] for name, v in rows.items()})
        except CorrectionError as error:
            if error.code in ("too_few_controls", "transductive"):
                return None
            raise
        variance = white.var(axis=0, ddof=1, dtype=np.float64)
        sizes.append(len(white))
        variances.append(float(variance.mean()))
        correlations.append(_off_diagonal(white[:, variance > 0]))
    if not sizes:
        return None
    # mean |r| of independent normal columns of m rows is about sqrt(2 / (pi (m - 1)))
    floor = float(np.mean(np.sqrt(2 / (np.pi * (np.array(sizes) - 1)))))
    return Whiteness(float(np.mean(variances)), float(np.mean(correlations)), floor)


def signal_loss(what: str, before: float, after: float) -> list[Finding]:
    """Return ``signal_loss`` where a mean average precision fell by more than 0.05."""
    if not before - after > _SIGNAL:
        return []
    return [
        Finding(
            "signal_loss",
            f"mAP of {what} fell from {before:.3f} to {after:.3f} by the correction",
            strong=True,
        )
    ]


def batch_remains(before: float, after: float, chance: float) -> list[Finding]:
    """Return ``batch_remains`` where a classifier finds the batch of a row as well as before."""
    if after < before or before <= chance:
        return []
    return [
        Finding(
            "batch_remains",
            f"15 nearest neighbours still tell the batch of a control: accuracy {after:.3f} after, {before:.3f} before "
            f"the correction (chance {chance:.3f})",
        )
    ]


def _off_diagonal(rows: NDArray[Any]) -> float:
    if rows.shape[1] < 2:
        return 0.0
    correlation = np.abs(np.corrcoef(rows.astype(np.float64), rowvar=False))
    d = len(correlation)
    return float((correlation.sum() - np.trace(correlation)) / (d * (d - 1)))
