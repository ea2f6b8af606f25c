"""Texture of one plane of grey values: co-occurrence, local binary patterns, granularity, spectrum, gradients.

All work on the plane scaled to [0, 1] (``ops.intensity``), so that an affine change of intensity changes
nothing. Source: evaluation spec, section 8.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.filters import rank
from skimage.morphology import disk

DISTANCES_PX = (1, 2, 4, 8)
COOCCURRENCE = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
RADII_PX = range(1, 9)
RINGS = 8
_LEVELS = 32
_ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
# values that differ only by rounding must fall into one level
_ROUNDING = 1e-6


def cooccurrence(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 24 numbers: six properties at four distances, each the mean over four angles, in 32 levels.

    Where the plane is too small for a distance, or constant (correlation), the number is 0.
    """
    levels = np.minimum(np.floor(plane * _LEVELS + _ROUNDING), _LEVELS - 1).astype(np.uint8)
    counts = graycomatrix(levels, DISTANCES_PX, _ANGLES, levels=_LEVELS, symmetric=True, normed=True)
    empty = counts.sum(axis=(0, 1)) == 0
    found = []
    for name in COOCCURRENCE:
        values = np.where(empty, 0.0, graycoprops(counts, name))
        if name == "correlation" and levels.min() == levels.max():
            values = np.zeros_like(values)  # skimage answers 1 where it is not defined
        found.append(values.mean(axis=1))
    return np.asarray(np.concatenate(found))


def binary_patterns(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the shares of the 10 uniform local binary patterns (P = 8, R = 1)."""
    codes = local_binary_pattern(grey, P=8, R=1, method="uniform").astype(np.int64)
    return np.asarray(np.bincount(codes.reshape(-1), minlength=10) / codes.size)


def granularity(grey: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return which share of the summed intensity each opening removes, discs of radius 1 to 8 px."""
    sums = [float(grey.sum())]
    for radius in RADII_PX:
        footprint = disk(radius)
        opened = rank.maximum(rank.minimum(grey, footprint), footprint)
        sums.append(min(float(opened.sum()), sums[-1]))  # discs are not nested to the last pixel
    return -np.diff(sums) / sums[0] if sums[0] else np.zeros(len(RADII_PX))


def power_spectrum(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the power in 8 rings, log-spaced from one period a side to the Nyquist frequency."""
    power = np.abs(np.fft.fft2(plane - plane.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in plane.shape), indexing="ij"))
    lowest = 1 / max(plane.shape)
    if lowest >= 0.5:
        return np.zeros(RINGS)
    edges = np.geomspace(lowest, 0.5, RINGS + 1)[1:-1]
    ring = np.searchsorted(edges, frequency.reshape(-1) * (1 + 1e-9))
    sums = np.bincount(ring, weights=power.reshape(-1), minlength=RINGS)
    return sums / sums.sum() if sums.sum() > 1e-12 else np.zeros(RINGS)


def gradients(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean and standard deviation of the gradient's length, per px; 0 for a plane one pixel wide."""
    if min(plane.shape) < 2:
        return np.zeros(2)
    length = np.hypot(*np.gradient(plane))
    return np.array([length.mean(), length.std()])
