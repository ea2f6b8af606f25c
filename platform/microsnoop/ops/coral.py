"""Covariances of rows: principal axes, powers of symmetric matrices, and their use to align covariances (CORAL)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.moments import Moments

# below this share of the largest eigenvalue a direction is rounding error, not variance
RANK_TOLERANCE = 1e-10

_BLOCK_ROWS = 16_384  # rows turned into float64 at a time


def covariance(rows: NDArray[Any], *, ddof: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean (d,) and covariance (d, d) of rows, float64.

    Parameters
    ----------
    rows
        (n, d), real and finite. Not changed, and never copied whole.
    ddof
        The divisor is n - ddof: 0 or 1.

    Raises
    ------
    ValueError
        Not (n, d), or n not larger than ``ddof``.
    """
    _check(rows, ddof + 1)
    # counted from the first row, a constant feature is 0 everywhere, not the rounding error of its mean
    first = rows[0].astype(np.float64)
    moments = Moments(rows.shape[1])
    for start in range(0, len(rows), _BLOCK_ROWS):
        moments.add(rows[start : start + _BLOCK_ROWS] - first)
    return first + moments.mean, moments.covariance(ddof)


def principal_axes(
    rows: NDArray[Any], *, ddof: int = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, variances and axes of the principal components, those of the largest variance first.

    Parameters
    ----------
    rows
        (n, d), real and finite, n at least 2. Not changed.
    ddof
        The divisor of the variances is n - ddof.

    Returns
    -------
    Mean (d,), variances (k,) and axes (d, k), float64; k = min(n, d), from the covariance where n > d, else from
    a singular value decomposition of the centred rows. Variances below 1e-10 of the largest are rounding (all
    beyond n - 1 are): they are exactly 0, and their axes mean nothing. The sign of each axis makes its entry of
    largest size positive.

    Raises
    ------
    ValueError
        Not (n, d), or fewer than two rows.
    """
    _check(rows, 2)
    n, d = rows.shape
    if n > d:
        mean, cov = covariance(rows, ddof=ddof)
        variances, axes = np.linalg.eigh(cov)
        variances, axes = variances[::-1].copy(), axes[:, ::-1]
    else:
        x = rows - rows[0].astype(np.float64)
        mean = rows[0] + x.mean(axis=0)
        _, sizes, turned = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        variances, axes = sizes**2 / (n - ddof), turned.T
    variances[variances <= RANK_TOLERANCE * variances[0]] = 0
    return mean, variances, axes * _signs(axes)


def symmetric_power(
    matrix: NDArray[np.float64], exponent: float, *, ridge: float = 0.0
) -> NDArray[np.float64]:
    """Return ``(matrix + ridge · I) ** exponent`` of a symmetric matrix (d, d), by its eigenvalues in float64.

    Eigenvalues below 0 are rounding and lifted to 0 before the ridge is added.

    Raises
    ------
    ValueError
        Not square, or a negative power of a matrix that has no inverse.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a symmetric matrix (d, d) is needed, got shape {matrix.shape}")
    values, axes = np.linalg.eigh(matrix)
    values = values.clip(min=0) + ridge
    if exponent < 0 and not values.min() > 0:
        raise ValueError("this matrix has no inverse: a ridge above 0 gives it one")
    return np.asarray((axes * values**exponent) @ axes.T)


def align_covariance(
    source: NDArray[np.float64], root: NDArray[np.float64] | None, *, ridge: float
) -> NDArray[np.float64]:
    """Return the matrix (d, d) that turns rows of covariance ``source`` into rows of another covariance.

    ``(source + ridge · I)^(-1/2) · root``, applied from the right; without a root the first factor alone, which
    whitens. Source: Sun, Feng and Saenko, "Return of Frustratingly Easy Domain Adaptation", AAAI 2016.

    Parameters
    ----------
    source
        (d, d), symmetric.
    root
        (d, d): the square root of the other covariance, ``symmetric_power(target, 0.5, ridge=ridge)``, which
        many sources share.
    ridge
        Added to the diagonal of the source.

    Raises
    ------
    ValueError
        Not square, or ``source`` has no inverse and the ridge is 0.
    """
    aligned = symmetric_power(source, -0.5, ridge=ridge)
    if root is not None:
        aligned = aligned @ root
    return aligned


def _signs(axes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]))


def _check(rows: NDArray[Any], least: int) -> None:
    if rows.ndim != 2 or len(rows) < least or not rows.shape[1]:
        raise ValueError(f"rows must be (n, d) with n of at least {least}, got shape {rows.shape}")
