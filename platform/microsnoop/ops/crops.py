"""Random crops of a pool of images: which image, which window. Plain draws, seeded by the caller."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.geometry import Box

CROP_SCALE = (0.2, 1.1)
_MIN_CROP_PX = 8


def source_weights(sources: NDArray[Any], *, alpha: float = 0.5) -> NDArray[np.float64]:
    """Return the probability (n,) of each image: a source of n images is drawn with probability ∝ n^alpha.

    With the default an image weighs one over the square root of the size of its source: a source of 900 images is
    drawn three times as often as one of 100, not nine times; neither the largest source nor the rarest image rules
    (Microsnoop spec, section 1).
    """
    if sources.ndim != 1 or not sources.size:
        raise ValueError(f"sources must be (n,) with at least one image, got shape {sources.shape}")
    _, member, counts = np.unique(sources, return_inverse=True, return_counts=True)
    weights = counts[member] ** (alpha - 1.0)
    return np.asarray(weights / weights.sum(), np.float64)


def draw_crop(
    height_px: int,
    width_px: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float] = CROP_SCALE,
) -> Box:
    """Draw a square window: its side log-uniform as a share of the image's shorter side, its place uniform.

    A window larger than the image in one direction is centred there and reaches over the border by as much on
    both sides, which is padding, as for a cell near the border.
    """
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {scale}")
    share = math.exp(rng.uniform(math.log(low), math.log(high)))
    side = max(_MIN_CROP_PX, round(share * min(height_px, width_px)))
    return Box(_start(height_px, side, rng), _start(width_px, side, rng), side, side)


def _start(extent_px: int, side_px: int, rng: np.random.Generator) -> int:
    if side_px > extent_px:
        return -((side_px - extent_px) // 2)
    return int(rng.integers(0, extent_px - side_px + 1))
