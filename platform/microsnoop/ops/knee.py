"""Where a falling curve bends: Kneedle, for the eigenvalues of a correlation matrix.

Source: batch spec, section 4; Satopaa, Albrecht, Irwin and Raghavan (2011), "Finding a Kneedle in a haystack".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FLAT = 1e-12  # a range of values below this share of the largest is rounding error


def find_knee(values: NDArray[np.float64], *, sensitivity: float = 1.0) -> int | None:
    """Return the index of the knee of a falling, convex curve, or None where it has none.

    The points (j, values_j) are scaled to [0, 1] on both axes. The difference ``D_j = 1 - value~_j - j~`` is how
    far a point lies below the line from the first to the last. The knee is the first local maximum of D after
    which D falls below ``that maximum - sensitivity · mean(Δ j~)`` before the next local maximum. The two ends
    are no candidates; of a flat top the first point counts.

    Parameters
    ----------
    values
        (d,), finite, falling. Not changed.
    sensitivity
        Above 0: how many steps of j~ the curve must fall to confirm a knee.

    Raises
    ------
    ValueError
        Values that are not finite or rise, or ``sensitivity`` out of range.
    """
    if values.ndim != 1 or not np.isfinite(values).all() or (np.diff(values) > 0).any():
        raise ValueError("a knee is looked for in one line of finite values that never rise")
    if not (np.isfinite(sensitivity) and sensitivity > 0):
        raise ValueError(f"sensitivity must be a number above 0, got {sensitivity}")
    if len(values) < 3 or values[0] - values[-1] <= _FLAT * np.abs(values).max():
        return None
    difference = difference_curve(values)
    fall = sensitivity / (len(values) - 1)
    peaks = _local_maxima(difference)
    for peak, following in zip(peaks, [*peaks, len(values)][1:], strict=True):
        if (difference[peak:following] < difference[peak] - fall - _FLAT).any():
            return peak
    return None


def difference_curve(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``D_j = 1 - value~_j - j~`` (d,) of a curve that is not constant, d at least 2."""
    scaled = (values - values.min()) / (values.max() - values.min())
    return np.asarray(1 - scaled - np.linspace(0, 1, len(values)))


def _local_maxima(curve: NDArray[np.float64]) -> list[int]:
    """Return inner points that are above the one before and, after a flat top, above the next that differs."""
    # steps smaller than rounding are flat; otherwise a straight line would be full of maxima
    steps = np.where(np.abs(np.diff(curve)) <= _FLAT, 0, np.sign(np.diff(curve))).astype(int)
    found, top = [], -1
    for j, step in enumerate(steps):
        if step > 0:
            top = j + 1
        elif step < 0 and top >= 0:
            found.append(top)
            top = -1
    return found
