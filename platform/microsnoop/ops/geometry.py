"""Boxes, tiles and the linear map that brings any window into the encoder's square.

Padding and resizing are both linear in the pixels and separable, so every mode is one pair of matrices:
``y = rows @ x @ cols.T``. Pixels outside the image contribute nothing, which is zero padding without
ever making the padded image. The same two matrices serve numpy here and torch on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, order=True)
class Box:
    """A half-open window ``[y0, y0 + height) × [x0, x0 + width)`` in pixels; may reach over the border."""

    y0_px: int
    x0_px: int
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        if self.height_px < 1 or self.width_px < 1:
            raise ValueError(f"a box needs at least one pixel a side, got {self}")

    def inside(self, height_px: int, width_px: int) -> bool:
        """Whether the box lies fully inside an image of this size."""
        return (
            self.y0_px >= 0
            and self.x0_px >= 0
            and self.y0_px + self.height_px <= height_px
            and self.x0_px + self.width_px <= width_px
        )

    def clipped(self, height_px: int, width_px: int) -> Box:
        """Return the part that lies in an image of this size.

        Raises
        ------
        ValueError
            There is none.
        """
        y0, x0 = max(0, self.y0_px), max(0, self.x0_px)
        y1, x1 = min(height_px, self.y0_px + self.height_px), min(width_px, self.x0_px + self.width_px)
        if y1 <= y0 or x1 <= x0:
            raise ValueError(f"{self} lies outside an image of {height_px} × {width_px} px")
        return Box(y0, x0, y1 - y0, x1 - x0)

    def shifted(self, y_px: int, x_px: int) -> Box:
        """Return the box moved down and right."""
        return Box(self.y0_px + y_px, self.x0_px + x_px, self.height_px, self.width_px)

    def holds(self, y_px: Any, x_px: Any) -> Any:
        """Whether points (numbers or arrays) lie in the box; of boxes side by side exactly one holds a point."""
        inside_y = (y_px >= self.y0_px) & (y_px < self.y0_px + self.height_px)
        return inside_y & (x_px >= self.x0_px) & (x_px < self.x0_px + self.width_px)

    def overlaps(self, height_px: int, width_px: int) -> bool:
        """Whether the box shares a pixel with an image of this size."""
        return (
            self.y0_px < height_px
            and self.x0_px < width_px
            and self.y0_px + self.height_px > 0
            and self.x0_px + self.width_px > 0
        )


@dataclass(frozen=True)
class Placement:
    """How real pixels (h, w) become the encoder's square (S, S): ``rows`` (S, h) and ``cols`` (S, w), float32.

    ``copy`` holds the upper left corner when the map only moves pixels (no resizing), so that a plain copy
    can be done instead of two matrix products.
    """

    rows: NDArray[np.float32]
    cols: NDArray[np.float32]
    copy: tuple[int, int] | None


def box_around(y_px: float, x_px: float, *, size_px: int) -> Box:
    """Return the square window of ``size_px`` whose centre pixel holds (y, x)."""
    half = size_px // 2
    return Box(math.floor(y_px) - half, math.floor(x_px) - half, size_px, size_px)


def cut(image: NDArray[Any], box: Box, *, origin_px: tuple[int, int] = (0, 0)) -> NDArray[Any]:
    """Return the part of ``image`` (C, H, W) that lies in ``box`` (a view, smaller than the box at a border).

    ``origin_px`` is where the first pixel of ``image`` lies in the coordinates of the box (y, x).
    """
    real = box.shifted(-origin_px[0], -origin_px[1]).clipped(*image.shape[-2:])
    rows = slice(real.y0_px, real.y0_px + real.height_px)
    cols = slice(real.x0_px, real.x0_px + real.width_px)
    part: NDArray[Any] = image[..., rows, cols]
    return part


def bounding_box(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around all of ``boxes`` (at least one)."""
    y0, x0 = min(box.y0_px for box in boxes), min(box.x0_px for box in boxes)
    y1 = max(box.y0_px + box.height_px for box in boxes)
    x1 = max(box.x0_px + box.width_px for box in boxes)
    return Box(y0, x0, y1 - y0, x1 - x0)


def tile_starts(side_px: int, *, window_px: int, overlap: float = 0.1) -> list[int]:
    """Return where windows start along one axis so that they cover every pixel.

    ``n = ceil((1 + 2 overlap) side / window)`` windows, evenly spread from 0 to ``side - window``, duplicates
    removed; one window when the side fits. Source: Microsnoop spec, section 9.

    Raises
    ------
    ValueError
        ``overlap`` outside [0.05, 0.5] (the published code clamps without a word).
    """
    if not 0.05 <= overlap <= 0.5:
        raise ValueError(f"overlap must lie in [0.05, 0.5], got {overlap}")
    if side_px <= window_px:
        return [0]
    count = math.ceil((1 + 2 * overlap) * side_px / window_px)
    return sorted({int(start) for start in np.linspace(0, side_px - window_px, count)})


def tile_boxes(height_px: int, width_px: int, *, window_px: int, overlap: float = 0.1) -> list[Box]:
    """Return the tiles of an image, row by row; a side shorter than the window gives a shorter tile."""
    tile_height, tile_width = min(window_px, height_px), min(window_px, width_px)
    return [
        Box(y0, x0, tile_height, tile_width)
        for y0 in tile_starts(height_px, window_px=window_px, overlap=overlap)
        for x0 in tile_starts(width_px, window_px=window_px, overlap=overlap)
    ]


def scaled_px(side_px: int, factor: float) -> int:
    """Return a side after scaling: rounded down, at least one pixel."""
    # 1e-9: 0.5 um / 0.25 um times 100 px must not become 199
    return max(1, math.floor(side_px * factor + 1e-9))


@lru_cache(maxsize=64)
def resample_matrix(source_px: int, target_px: int, *, antialias: bool) -> NDArray[np.float32]:
    """Return the (target, source) weights of one-dimensional bilinear resampling, half-pixel centres.

    With ``antialias`` the triangle is as wide as the shrink factor, so that no pixel is skipped. Rows sum
    to 1; beyond the edge the outermost pixel counts (without antialias) or weights are renormalised (with).
    """
    scale = source_px / target_px
    width = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(target_px) + 0.5) * scale - 0.5
    if not (antialias and scale > 1):
        centres = np.clip(centres, 0, source_px - 1)
    distance = np.abs(centres[:, None] - np.arange(source_px)[None, :]) / width
    weights = np.maximum(0.0, 1.0 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix: NDArray[np.float32] = weights.astype(np.float32)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=32)  # of 2,048 px windows these are 0.1 GB
def place(
    box: Box,
    image_px: tuple[int, int],
    *,
    side_px: int,
    factor: float | None,
    antialias: bool = True,
    reflect: bool = False,
) -> Placement:
    """Return the map from the real pixels of ``box`` to the square of ``side_px``.

    Parameters
    ----------
    box
        The window in its image; parts outside the image are padding, so its centre stays the centre.
    image_px
        Height and width of the image.
    factor
        None: the window is padded to a square (odd pixel on the far side) and resized to fill the input.
        A number: both sides are multiplied by it and the result is padded to the input.
    reflect
        Fill the padding with the mirror image instead of leaving it at the pad level.

    Raises
    ------
    ValueError
        The scaled window is larger than the input square.
    """
    square_px = max(box.height_px, box.width_px) if factor is None else None
    y_real = (max(0, -box.y0_px), min(box.height_px, image_px[0] - box.y0_px))
    x_real = (max(0, -box.x0_px), min(box.width_px, image_px[1] - box.x0_px))
    options = _AxisOptions(side_px, factor, square_px, antialias, reflect)
    rows, top = _axis_map(box.height_px, y_real, options)
    cols, left = _axis_map(box.width_px, x_real, options)
    corner = (top, left) if top is not None and left is not None and not reflect else None
    rows.flags.writeable = cols.flags.writeable = False  # they are shared by all who ask for this window
    return Placement(rows, cols, corner)


def apply_placement(
    planes: NDArray[Any], placement: Placement, *, pad_level: NDArray[np.float64] | float = 0.0
) -> NDArray[np.float32]:
    """Bring real pixels (C, h, w) into the square (C, S, S); the padding gets ``pad_level`` ((C,) or a number).

    The plain form of what the embedder does on the device, and its oracle in the tests.
    """
    level = np.broadcast_to(np.asarray(pad_level, np.float32), len(planes))[:, None, None]
    inner = planes.astype(np.float32) - level
    return (placement.rows @ inner @ placement.cols.T + level).astype(np.float32)


@dataclass(frozen=True)
class _AxisOptions:
    side_px: int
    factor: float | None
    square_px: int | None
    antialias: bool
    reflect: bool


def _axis_map(
    window_px: int, real: tuple[int, int], options: _AxisOptions
) -> tuple[NDArray[np.float32], int | None]:
    """Return the (S, real pixels) map of one axis, and where they start if none of them is resized.

    ``real`` is the part of the window that lies inside the image.
    """
    start, stop = real
    side_px = options.side_px
    if options.factor is None:  # the window sits in a square of source pixels, which is resized as a whole
        square_px = options.square_px or window_px
        padding = (square_px - window_px) // 2
        weights = _resize(square_px, side_px, options.antialias)
        taken = _take(weights, padding + start, padding + stop, options.reflect)
        return taken, padding + start if square_px == side_px else None
    target_px = scaled_px(window_px, options.factor)
    if target_px > side_px:
        raise ValueError(
            f"a side of {window_px} px × {options.factor:g} does not fit an input of {side_px} px"
        )
    padding = (side_px - target_px) // 2  # the window is resized first and padded in the input's own pixels
    inner = _take(_resize(window_px, target_px, options.antialias), start, stop, options.reflect)
    if options.reflect:
        outer = inner[_mirror(target_px, padding, side_px - padding - target_px)]
    else:
        outer = np.zeros((side_px, stop - start), np.float32)
        outer[padding : padding + target_px] = inner
    return outer, padding + start if target_px == window_px else None


def _resize(source_px: int, target_px: int, antialias: bool) -> NDArray[np.float32]:
    if source_px == target_px:
        return np.eye(source_px, dtype=np.float32)
    return resample_matrix(source_px, target_px, antialias=antialias)


def _take(weights: NDArray[np.float32], start: int, stop: int, reflect: bool) -> NDArray[np.float32]:
    """Keep the columns of real pixels; the others are dropped (pad level) or folded back (mirror image)."""
    if not reflect:
        return np.array(weights[:, start:stop])
    folded = np.zeros((len(weights), stop - start), np.float32)
    np.add.at(folded.T, _mirror(stop - start, start, weights.shape[1] - stop), weights.T)
    return folded


def _mirror(size_px: int, before_px: int, after_px: int) -> NDArray[np.intp]:
    """Return source positions of an axis extended by its mirror image (a single pixel is repeated)."""
    return np.pad(np.arange(size_px), (before_px, after_px), mode="reflect" if size_px > 1 else "edge")
