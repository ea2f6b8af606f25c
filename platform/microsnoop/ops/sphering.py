"""Sphering: turn and stretch rows so that the controls among them have uncorrelated features of variance 1.

Pure functions: moments of the controls -> spectrum -> (eigenvalues lifted by a regulariser) -> matrix -> rows.

Source: batch spec, section 4; Kessy, Lewin and Strimmer (2018), "Optimal whitening and decorrelation".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.ops.moments import Moments

# name: (of the correlation matrix, turned back to the features); otherwise of the covariance, along the axes
VARIANTS: dict[str, tuple[bool, bool]] = {
    "ZCA-cor": (True, True),
    "ZCA": (False, True),
    "PCA-cor": (True, False),
    "PCA": (False, False),
}
RELATIVE_FLOOR = 1e-6  # of the median variance
_CONSTANT = 1e-12  # of the largest variance
_ONE_UNIT = 1e3  # the middle half of the variances of features of one unit lies within this factor
_BLOCK_NUMBERS = 2**21

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """What the controls say about the features: their means, scales, and the axes along which they vary.

    Attributes
    ----------
    n
        Number of control rows.
    mean, spread, scale
        (d,): mean and standard deviation (divisor n - 1) of each feature, and what it is divided by: the
        square root of the floored variance for correlations, 1 for covariances and for constant features.
    constant
        (d,) bool: features that do not vary and cannot be scaled.
    eigenvalues, axes
        T (d,), largest first, never negative, and G (d, d) with one axis a column. A constant feature has an axis
        of its own, with the eigenvalue ``level``. The entry of largest size of each axis is positive.
    empty
        (d,) bool: axes of constant features.
    level
        Mean eigenvalue of what varies: 1 for correlations.
    """

    n: int
    mean: Floats
    spread: Floats
    scale: Floats
    constant: NDArray[np.bool_]
    eigenvalues: Floats
    axes: Floats
    empty: NDArray[np.bool_]
    level: float


def find_constant(mean: Floats, variance: Floats) -> NDArray[np.bool_]:
    """Return which features do not vary: no more than their mean's rounding error, or ``V_j <= 1e-12 max(V)``.

    The second rule compares features, and holds only where they share a unit (:func:`share_unit`).
    """
    rounding = np.square(16 * np.finfo(np.float64).eps * mean)
    least = _CONSTANT * variance.max() if share_unit(variance) else 0.0
    return np.asarray(variance <= np.maximum(least, rounding))


def share_unit(variance: Floats) -> bool:
    """Whether the variances (d,) of features can be compared: their middle half lies within a factor of 1,000.

    Numbers of an embedding can; areas, intensities and angles of one table cannot: what is small there is small by its
    unit, and must not be taken for constant or held back by a floor.
    """
    some = variance[variance > 0]
    low, high = np.quantile(some, [0.25, 0.75]) if len(some) else (1.0, 1.0)
    return bool(high <= _ONE_UNIT * low)


def standardised_covariance(moments: Moments, *, correlation: bool = True, where: str = "") -> Floats:
    """Return R (or the covariance) of those features that vary, (v, v).

    Raises
    ------
    CorrectionError
        ``too_few_controls`` below two rows, ``no_variance`` where no feature varies.
    """
    at = f"{where}: " if where else ""
    if moments.count < 2:
        found = f"{at}{moments.count} control row(s) have no variance, needed are 2"
        raise CorrectionError("too_few_controls", found, hint="check which rows are controls")
    covariance = moments.covariance()
    varying = ~find_constant(moments.mean, np.diag(covariance))
    if not varying.any():
        raise CorrectionError(
            "no_variance",
            f"{at}all {moments.width} features are the same in all {moments.count} control rows",
            hint="check that the controls are different images, and that the features were computed",
        )
    covariance = covariance[np.ix_(varying, varying)]
    if not correlation:
        return covariance
    spread = np.sqrt(np.diag(covariance))
    return np.asarray(covariance / spread / spread[:, None])


def decompose(
    moments: Moments, *, correlation: bool = True, floor: float | None = None, where: str = ""
) -> Spectrum:
    """Return the spectrum of controls whose moments are given.

    Parameters
    ----------
    correlation
        Of the correlation matrix, features divided by ``sqrt(max(V_j, floor))``; else of the covariance.
    floor
        Smallest variance that a feature is scaled by. Default: 1e-6 of the median variance where features share a
        unit, else none. The published code has 1e-3, which features of unit-norm embeddings hardly reach.
    where
        Name of the group, for messages.

    Raises
    ------
    CorrectionError
        ``too_few_controls`` or ``no_variance``.
    """
    matrix = standardised_covariance(moments, correlation=correlation, where=where)
    variance = np.diag(moments.covariance())
    constant = find_constant(moments.mean, variance)
    varying = np.flatnonzero(~constant)
    values, vectors = np.linalg.eigh(matrix)
    level = float(np.trace(matrix) / len(matrix))
    # a constant feature is one more axis of average variance, so that d eigenvalues stay d
    eigenvalues = np.concatenate([values.clip(min=0), np.full(int(constant.sum()), level)])
    axes = np.zeros((moments.width, moments.width))
    axes[varying[:, None], np.arange(len(varying))] = vectors
    axes[np.flatnonzero(constant), np.arange(len(varying), moments.width)] = 1
    order = np.argsort(-eigenvalues, kind="stable")
    axes = axes[:, order]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))])
    least = floor
    if least is None:
        least = RELATIVE_FLOOR * float(np.median(variance)) if share_unit(variance) else 0.0
    floored = np.maximum(variance, least) if correlation else np.ones(moments.width)
    return Spectrum(
        n=moments.count,
        mean=moments.mean,
        spread=np.where(constant, 0, np.sqrt(variance)),
        scale=np.sqrt(np.where(constant, 1, floored)),
        constant=constant,
        eigenvalues=eigenvalues[order],
        axes=axes,
        empty=order >= len(varying),
        level=level,
    )


def whitening_matrix(spectrum: Spectrum, filtered: Floats, *, back: bool) -> Floats:
    """Return W (d, d) of ``z = (x - mean) Wᵀ``: ``diag(1/sqrt f) Gᵀ D^(-1/2)``, with G before it if ``back``.

    Parameters
    ----------
    filtered
        f(T), (d,), above 0.
    back
        Turn back to the features (ZCA); else rows are coordinates along the axes (PCA).

    Returns
    -------
    (d, d) float64, C order. Constant features have no weight, and in ZCA an output of 0.
    """
    if filtered.shape != spectrum.eigenvalues.shape or not (np.isfinite(filtered) & (filtered > 0)).all():
        raise ValueError("every eigenvalue needs one number above 0 that it is divided by")
    matrix = (spectrum.axes / np.sqrt(filtered)).T
    if back:
        matrix = spectrum.axes @ matrix
    matrix = matrix / spectrum.scale
    matrix[:, spectrum.constant] = 0
    return np.ascontiguousarray(matrix)


def sphere(
    rows: NDArray[Any],
    mean: Floats,
    matrix: Floats,
    *,
    precision: str = "float64",
    dtype: type[np.floating[Any]] = np.float64,
) -> NDArray[Any]:
    """Return ``(rows - mean) @ matrix.T``, block by block.

    Parameters
    ----------
    rows
        (m, d). Not changed.
    mean, matrix
        (d,) and (k, d).
    precision
        Of the product: ``float64``, or ``float32``, which is about twice as fast. Rows are centred in float64
        either way, because the mean may be far larger than what rows differ by.
    dtype
        Of the result (m, k).
    """
    if precision not in ("float64", "float32"):
        raise ValueError(f"precision must be float64 or float32, got {precision!r}")
    turned = np.ascontiguousarray(matrix.T, dtype=precision)
    step = max(1, _BLOCK_NUMBERS // rows.shape[1])
    out = np.empty((len(rows), len(matrix)), dtype)
    centred = np.empty((min(step, len(rows)), rows.shape[1]), precision)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        np.subtract(block, mean, out=centred[: len(block)], casting="same_kind")
        out[start : start + step] = centred[: len(block)] @ turned
    return out
