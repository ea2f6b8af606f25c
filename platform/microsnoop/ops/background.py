"""Smooth surroundings of a plane at a chosen scale, and the noise of its pixels. All O(pixels) at any scale."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.float32]


def bin_means(plane: Plane, bin_px: int) -> Plane:
    """Average squares of ``bin_px`` pixels; the last ones are completed with the outermost row and column."""
    if bin_px == 1:
        return plane
    height, width = (math.ceil(side / bin_px) for side in plane.shape)
    padding = ((0, height * bin_px - plane.shape[0]), (0, width * bin_px - plane.shape[1]))
    blocks = np.pad(plane, padding, mode="edge").reshape(height, bin_px, width, bin_px)
    means: Plane = blocks.mean(axis=(1, 3), dtype=np.float32)
    return means


def local_mean(plane: Plane, sigma_px: float) -> Plane:
    """Smooth like a Gaussian of ``sigma_px``: three box filters, whose cost does not grow with the scale."""
    side = max(3, round(2 * sigma_px)) | 1  # odd: no shift
    for _ in range(3):
        plane = ndimage.uniform_filter(plane, side, mode="nearest")
    return plane


def background(plane: Plane, diameter_px: float) -> Plane:
    """Estimate the illumination under bright objects: a low percentile of wide surroundings, smoothed.

    Works on bins of half a diameter: the lowest quarter of the pixels within six diameters is background
    unless objects cover three quarters of it.
    """
    bin_px = max(1, int(diameter_px / 2))
    coarse = bin_means(plane, bin_px)
    reach = round(6 * diameter_px / bin_px) | 1
    coarse = ndimage.percentile_filter(coarse, 25, size=reach, mode="nearest")
    coarse = local_mean(coarse, 1.5 * diameter_px / bin_px)
    if bin_px == 1:
        return coarse
    rows, cols = ((np.arange(side) + 0.5) / bin_px - 0.5 for side in plane.shape)
    return _bilinear(coarse, rows, cols)


def masked_mean(plane: Plane, keep: NDArray[np.bool_], sigma_px: float) -> Plane:
    """Smooth over the pixels to keep alone; elsewhere it continues what lies around (0 far from any)."""
    weight: Plane = np.maximum(local_mean(keep.astype(np.float32), sigma_px), np.float32(1e-3))
    mean: Plane = local_mean(np.where(keep, plane, 0).astype(np.float32), sigma_px) / weight
    return mean


def pixel_noise(plane: Plane, where: NDArray[np.bool_]) -> float:
    """Estimate the standard deviation of white noise among some pixels (Immerkaer 1996: edges cancel)."""
    second = ndimage.convolve1d(ndimage.convolve1d(plane, [1, -2, 1], axis=0), [1, -2, 1], axis=1)
    return math.sqrt(math.pi / 2) * float(np.abs(second[where]).mean()) / 6


def _bilinear(coarse: Plane, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> Plane:
    def along(values: Plane, at: NDArray[np.float64], axis: int) -> Plane:
        at = np.clip(at, 0, values.shape[axis] - 1)
        low = at.astype(np.intp)
        high = np.minimum(low + 1, values.shape[axis] - 1)
        part = np.expand_dims((at - low).astype(np.float32), 1 - axis)
        mixed: Plane = np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part
        return mixed

    return along(along(coarse, rows, 0), cols, 1)
