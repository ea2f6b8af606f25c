"""Intensity scaling of planes: exact percentiles, and the affine map that follows from them.

The reading stage computes the two numbers of each plane's map (``offset`` and ``span``); the pixels
themselves travel in the dtype of the file and are mapped where the encoder runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.schema import Flag

# A histogram beats sorting once a plane has many more pixels than the dtype has values.
_HISTOGRAM_MIN_PIXELS = {1: 1_000, 2: 100_000}


@dataclass(frozen=True)
class Scaling:
    """The affine intensity map of one sample: ``y = (x - offset) / span``, then padded with ``pad_level``.

    ``offset``, ``span`` and ``pad_level`` are float64 (C,); ``pad_level`` is in units of y.
    """

    offset: NDArray[np.float64]
    span: NDArray[np.float64]
    pad_level: NDArray[np.float64]
    constant: NDArray[np.bool_]
    flags: tuple[Flag, ...]

    def without(self, channels: Sequence[int]) -> Scaling:
        """Return the same map with some planes left as they are, and out of the flags: they hold no image."""
        if not channels:
            return self
        held = np.ones(len(self.offset), bool)
        held[list(channels)] = False
        constant = self.constant & held
        flags = tuple(f for f in self.flags if f is not Flag.CONSTANT_PLANE or constant.any())
        offset, level = np.where(held, self.offset, 0.0), np.where(held, self.pad_level, 0.0)
        return Scaling(offset, np.where(held, self.span, 1.0), level, constant, flags)


def unscaled(n_planes: int) -> Scaling:
    """Return the map of planes that are scaled already."""
    zeros = np.zeros(n_planes)
    return Scaling(zeros, zeros + 1, zeros, np.zeros(n_planes, bool), ())


def percentiles(plane: NDArray[Any], q: Sequence[float]) -> NDArray[np.float64]:
    """Return the percentiles ``q`` (in percent) of all pixels, linearly interpolated, exactly as numpy does.

    Integer planes are counted (8 and 16 bits, one pass, no copy) or partly sorted in their own dtype.

    Parameters
    ----------
    plane
        Any real dtype, any shape, at least one pixel.

    Returns
    -------
    float64, shape (len(q),).
    """
    if plane.size == 0:
        raise ValueError("percentiles of a plane without pixels are not defined")
    position = np.asarray(q, np.float64) / 100 * (plane.size - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, plane.size - 1)
    if plane.dtype.kind not in "ui":
        return np.percentile(plane.reshape(-1).astype(np.float64, copy=False), q)
    worth_counting = _HISTOGRAM_MIN_PIXELS.get(plane.dtype.itemsize)
    if plane.dtype.kind == "u" and worth_counting is not None and plane.size >= worth_counting:
        cumulative = np.cumsum(np.bincount(plane.reshape(-1)))
        low = np.searchsorted(cumulative, below, side="right").astype(np.float64)
        high = np.searchsorted(cumulative, above, side="right").astype(np.float64)
    else:  # small planes: only the ranks that are asked for are put in their places
        ranked = np.partition(plane.reshape(-1), np.unique([below, above]))
        low, high = ranked[below].astype(np.float64), ranked[above].astype(np.float64)
    return low + (high - low) * (position - below)


def plane_scaling(
    planes: NDArray[Any],
    *,
    low: float = 1.0,
    high: float = 99.0,
    pad: str = "zero",
) -> Scaling:
    """Find the map that makes the percentiles ``low`` and ``high`` of each plane 0 and 1.

    Where both percentiles agree but the plane is not constant (a few bright pixels), the whole range is
    used and the sample is flagged ``sparse_plane``; a constant plane maps to zeros and is flagged
    ``constant_plane``. Source: Microsnoop spec, section 8; the published code pads first, which ties the
    percentiles to the size of the padding.

    Parameters
    ----------
    planes
        (C, H, W), real dtype, finite. Not changed.
    pad
        ``zero`` pads with the low percentile, ``edge_median`` with the median of the outermost ring,
        ``reflect`` needs no level.

    Returns
    -------
    Scaling with arrays of shape (C,).
    """
    if planes.ndim != 3:
        raise ValueError(f"planes must be (C, H, W), got shape {planes.shape}")
    flags: set[Flag] = set()
    offset, span, level, constant = (np.zeros(len(planes), dtype) for dtype in (float, float, float, bool))
    for c, plane in enumerate(planes):
        p_low, p_high = percentiles(plane, (low, high))
        scale = p_high - p_low
        if scale <= 0:
            scale = float(plane.max()) - float(plane.min())
            constant[c] = scale == 0
            flags.add(Flag.CONSTANT_PLANE if constant[c] else Flag.SPARSE_PLANE)
        offset[c], span[c] = p_low, scale or 1.0
        if pad == "edge_median" and not constant[c]:
            level[c] = (_edge_median(plane) - p_low) / span[c]
    return Scaling(offset, span, level, constant, tuple(sorted(flags)))


def padded_scaling(planes: NDArray[Any], *, low: float = 1.0, high: float = 99.0, side_px: int) -> Scaling:
    """Find the map as the published code does: percentiles after zero-padding to ``side_px``, range floored.

    Only for parity (``compat: [pad_before_normalize]``): small objects are scaled by the amount of padding
    around them. Arrays and shapes as in :func:`plane_scaling`.
    """
    count, height, width = planes.shape
    n_zeros = max(side_px, height) * max(side_px, width) - height * width
    offset, span, level = (np.zeros(count) for _ in range(3))
    for c, plane in enumerate(planes):
        pixels = np.concatenate([plane.reshape(-1).astype(np.float64), np.zeros(n_zeros)])
        offset[c], p_high = np.percentile(pixels, (low, high))
        span[c] = max(p_high - offset[c], 1e-6)
        level[c] = (0.0 - offset[c]) / span[c]
    return Scaling(offset, span, level, np.zeros(count, bool), ())


def normalise(
    planes: NDArray[Any], scaling: Scaling, *, clip: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Apply ``scaling`` to planes (C, H, W); float32 of the same shape, optionally clipped.

    This is the plain form of what the embedder does on the device, and its oracle in the tests.
    """
    mapped = (planes.astype(np.float64) - scaling.offset[:, None, None]) / scaling.span[:, None, None]
    if clip is not None:
        mapped = np.clip(mapped, *clip)
    return mapped.astype(np.float32)


def _edge_median(plane: NDArray[Any]) -> float:
    ring = np.ones(plane.shape, bool)
    ring[1:-1, 1:-1] = False
    return float(np.median(plane[ring]))
