"""Centre and scale of features, by moments or by ranks, and a logarithm that keeps the sign."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MAD_TO_SD = 1.4826  # of a normal distribution
MAD_EPSILON = 1e-18  # added to every MAD, as published

_ROUNDING = 16 * np.finfo(np.float64).eps
_BLOCK_NUMBERS = 4_000_000  # numbers turned into float64 at a time


def center_by_moments(rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each feature.

    Parameters
    ----------
    rows
        (n, d), real and finite, n at least 2. Not changed.

    Returns
    -------
    Mean and standard deviation (divisor n - 1), each (d,) float64. The deviation of a constant feature is
    exactly 0.

    Raises
    ------
    ValueError
        Not (n, d), or fewer than two rows.
    """
    _check(rows, 2)
    mean, scale = np.empty(rows.shape[1]), np.empty(rows.shape[1])
    for columns in _column_blocks(rows):
        x = rows[:, columns].astype(np.float64)
        first = x[0].copy()
        x -= first  # what is constant is now 0, not the rounding error of its mean
        mean[columns] = first + x.mean(axis=0)
        scale[columns] = x.std(axis=0, ddof=1)
    return mean, scale


def center_by_ranks(rows: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return median and median absolute deviation (MAD) of each feature.

    Parameters
    ----------
    rows
        (n, d), real and finite, n at least 1. Not changed.

    Returns
    -------
    Median and MAD = median |x - median|, without any factor, each (d,) float64.

    Raises
    ------
    ValueError
        Not (n, d), or no row.
    """
    _check(rows, 1)
    median, mad = np.empty(rows.shape[1]), np.empty(rows.shape[1])
    for columns in _column_blocks(rows):
        x = rows[:, columns].astype(np.float64)
        median[columns] = np.median(x, axis=0)
        x -= median[columns]
        mad[columns] = np.median(np.abs(x, out=x), axis=0)
    return median, mad


def has_no_spread(center: NDArray[np.float64], scale: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which features (d,) have no spread: a scale of 0, or no larger than the rounding of their centre."""
    return scale <= _ROUNDING * np.abs(center)


def log_keeping_sign(z: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``sign(z) · log(1 + |z|)``, float64, in the shape of z.

    Odd and strictly rising, close to z near 0 and logarithmic far from it: it tames heavy tails and keeps every
    order.
    """
    values = np.asarray(z, dtype=np.float64)
    return np.copysign(np.log1p(np.abs(values)), values)


def _column_blocks(rows: NDArray[Any]) -> list[slice]:
    step = max(_BLOCK_NUMBERS // len(rows), 1)
    return [slice(start, start + step) for start in range(0, rows.shape[1], step)]


def _check(rows: NDArray[Any], least: int) -> None:
    if rows.ndim != 2 or len(rows) < least or not rows.shape[1]:
        raise ValueError(f"rows must be (n, d) with n of at least {least}, got shape {rows.shape}")
