"""How strongly to shrink eigenvalues towards their mean: Ledoit and Wolf's estimate, from rows in blocks.

Source: batch spec, section 4; Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional
covariance matrices".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.sphering import Spectrum

_BLOCK_NUMBERS = 2**21


def ledoit_wolf(rows: NDArray[Any], spectrum: Spectrum, *, correlation: bool = True) -> float:
    """Return the share a (0 to 1) of ``(1 - a) T + a · mean(T)`` with the least expected squared error.

    With rows z centred (and, for ``correlation``, divided by their standard deviations), S their covariance with
    divisor n over the v features that vary, and m = trace(S)/v::

        spread = ‖S - m I‖²,   error = Σ_i ‖z_i zᵢᵀ - S‖² / n²,   a = min(1, error / spread)

    Parameters
    ----------
    rows
        The control rows (n, d) that ``spectrum`` came from. Not changed.

    Raises
    ------
    ValueError
        Not the rows of this spectrum.
    """
    if rows.shape != (spectrum.n, len(spectrum.mean)):
        raise ValueError(f"the spectrum is of {spectrum.n} x {len(spectrum.mean)} rows, got {rows.shape}")
    values = spectrum.eigenvalues[~spectrum.empty] * (spectrum.n - 1) / spectrum.n
    squares = float(np.square(values).sum())
    spread = squares - len(values) * float(values.mean()) ** 2
    fourth = _fourth_powers(rows, spectrum, correlation=correlation)
    error = (fourth / spectrum.n - squares) / spectrum.n
    if spread <= 1e-14 * squares:  # already a multiple of the identity: any share gives the same
        return 0.0
    return float(np.clip(error / spread, 0, 1))


def _fourth_powers(rows: NDArray[Any], spectrum: Spectrum, *, correlation: bool) -> float:
    """Return Σ ‖z_i‖⁴ over the features that vary."""
    weight = np.where(spectrum.constant, 0.0, 1.0)
    if correlation:
        weight[~spectrum.constant] = 1 / spectrum.spread[~spectrum.constant]
    step = max(1, _BLOCK_NUMBERS // rows.shape[1])
    total = 0.0
    for start in range(0, len(rows), step):
        z = (rows[start : start + step] - spectrum.mean) * weight
        total += float(np.square(np.einsum("nd,nd->n", z, z)).sum())
    return total
