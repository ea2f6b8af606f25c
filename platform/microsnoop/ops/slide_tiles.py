"""Which tiles a slide is cut into, and how the pixels of one become a square of the wanted size.

A tile is its place: the upper left corner (x0, y0) in level-0 pixels. Nothing is read here.
Source: slides spec, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from microsnoop.core.slide_config import TilingConfig
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.ops.area_average import area_average
from microsnoop.ops.geometry import resample_matrix
from microsnoop.ops.modes import keyed_generator
from microsnoop.ops.tissue import Mask, check_thumbnail, grey_of

SAME_SCALE = 0.02  # scales that differ by no more are taken for the same
_ROUNDING = 1e-9


@dataclass(frozen=True)
class TileGeometry:
    """How tiles of a slide are read.

    ``side0_px``, ``stride0_px``: side and distance of tiles in level-0 pixels. ``level``, ``region_px``: the
    level of the pyramid to read, and the side of what is read there, which :func:`fit_tile` brings to
    ``tile_px``. ``footprint0_px``: level-0 pixels that reading touches, never less than the side.
    """

    tile_px: int
    side0_px: int
    stride0_px: float
    level: int
    region_px: int
    footprint0_px: int


@dataclass(frozen=True)
class TileGrid:
    """The kept tiles of a slide, row by row, and how many there were.

    ``x0``, ``y0`` (n,) int64: upper left corners in level-0 pixels; ``tissue_fraction`` (n,) float64.
    ``n_grid`` tiles fit on the slide; ``n_background`` of them have too little tissue, and ``n_not_drawn`` are
    left out by ``max_tiles``: ``n_grid`` is their sum and ``len(x0)``.
    """

    geometry: TileGeometry
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    tissue_fraction: NDArray[np.float64]
    n_grid: int
    n_background: int
    n_not_drawn: int

    def __len__(self) -> int:
        return len(self.x0)


def choose_level(downsamples: Sequence[float], wanted: float, *, slack: float = SAME_SCALE) -> int:
    """Return the coarsest level that is at least as fine as ``wanted`` (level-0 pixels a pixel), up to ``slack``."""
    fit = [k for k, factor in enumerate(downsamples) if factor <= wanted * (1 + slack + _ROUNDING)]
    return max(fit, key=lambda k: downsamples[k], default=0)


def tile_geometry(
    downsamples: Sequence[float],
    *,
    mpp: float,
    tiling: TilingConfig,
    compat_level: int | None = None,
    name: str = "the slide",
) -> TileGeometry:
    """Decide the side of tiles and the level they are read from.

    Parameters
    ----------
    downsamples
        Level-0 pixels a pixel of each level; the first is 1.
    mpp
        µm a pixel at level 0 (mean of x and y).
    compat_level
        Read this level, one pixel of it a pixel of the tile, whatever its µm per pixel are (Lazard et al.).

    Raises
    ------
    SlideError
        ``too_coarse``: the slide is coarser than the tiles and ``allow_upsample`` is off, or it has no such level.
    """
    if not 0 < mpp < np.inf:
        raise ValueError(f"µm per pixel must be positive, got {mpp}")
    tile_px = tiling.tile_px
    if compat_level is not None:
        if compat_level >= len(downsamples):
            raise SlideError(
                SlideCode.TOO_COARSE,
                f"{name}: has {len(downsamples)} levels, level {compat_level} was asked",
                "tile by tiling.target_mpp instead of compat.level",
            )
        level, factor, region_px = compat_level, downsamples[compat_level], tile_px
    else:
        factor = tiling.target_mpp / mpp
        if tiling.target_mpp < (1 - SAME_SCALE) * mpp * (1 - _ROUNDING) and not tiling.allow_upsample:
            raise SlideError(
                SlideCode.TOO_COARSE,
                f"{name}: scanned at {mpp:g} µm/px, tiles at {tiling.target_mpp:g} µm/px would be enlarged",
                f"set tiling.target_mpp to {mpp:g} or more, or tiling.allow_upsample: true",
            )
        level = choose_level(downsamples, factor)
        scale = factor / downsamples[level]
        same = abs(scale - 1) <= SAME_SCALE * (1 + _ROUNDING)
        region_px = tile_px if same else max(1, round(tile_px * scale))
    side0_px = max(1, round(tile_px * factor))
    touched_px = int(region_px * downsamples[level] + _ROUNDING)
    return TileGeometry(
        tile_px=tile_px,
        side0_px=side0_px,
        stride0_px=(tile_px - tiling.overlap_px) * factor,
        level=level,
        region_px=region_px,
        footprint0_px=max(side0_px, touched_px),
    )


def tile_grid(
    mask: Mask,
    geometry: TileGeometry,
    *,
    mask_px: tuple[float, float],
    size_px: tuple[int, int],
    tiling: TilingConfig,
    slide_id: str,
) -> TileGrid:
    """Lay tiles over a slide and keep those with enough tissue.

    Parameters
    ----------
    mask
        (H, W) tissue; its first pixel begins where the slide begins. Not changed.
    geometry
        From :func:`tile_geometry`.
    mask_px
        (x, y) side of a mask pixel in level-0 pixels.
    size_px
        (width, height) of the slide at level 0.
    slide_id
        Key of the draw for ``max_tiles``, with ``tiling.seed``: the same tiles wherever the slide is processed.

    Raises
    ------
    ValueError
        ``mask`` is not (H, W) bool, or does not cover the slide.
    SlideError
        ``too_few_tiles``: fewer than ``min_tiles`` have enough tissue.
    """
    _check_mask(mask, mask_px, size_px)
    columns = _starts(size_px[0], geometry)
    rows = _starts(size_px[1], geometry)
    sums = _integral(mask)
    kept_x, kept_y, kept_fraction = [], [], []
    left, right = _in_mask(columns, geometry.side0_px, mask_px[0], mask.shape[1])
    top, bottom = _in_mask(rows, geometry.side0_px, mask_px[1], mask.shape[0])
    area = np.maximum(right - left, _ROUNDING)
    grid_x = np.arange(mask.shape[1] + 1)
    for y0, y_from, y_to in zip(rows, top, bottom, strict=True):  # row by row: memory of the kept tiles only
        band = _row_at(sums, y_to) - _row_at(sums, y_from)
        within = np.interp(right, grid_x, band) - np.interp(left, grid_x, band)
        fraction = np.clip(within / (area * max(y_to - y_from, _ROUNDING)), 0, 1)
        keep = fraction >= tiling.min_tissue - _ROUNDING
        kept_x.append(columns[keep])
        kept_y.append(np.full(int(keep.sum()), y0))
        kept_fraction.append(fraction[keep])
    x0 = np.concatenate([np.zeros(0, np.int64), *kept_x])
    y0s = np.concatenate([np.zeros(0, np.int64), *kept_y])
    fractions = np.concatenate([np.zeros(0), *kept_fraction])
    n_grid, n_tissue = len(columns) * len(rows), len(x0)
    _check_count(n_tissue, n_grid, geometry, size_px, tiling, slide_id)
    drawn = np.arange(n_tissue)
    if tiling.max_tiles is not None and n_tissue > tiling.max_tiles:
        generator = keyed_generator(tiling.seed, "slide_tiles", slide_id)
        drawn = np.sort(generator.choice(n_tissue, tiling.max_tiles, replace=False))
    return TileGrid(
        geometry=geometry,
        x0=x0[drawn],
        y0=y0s[drawn],
        tissue_fraction=fractions[drawn],
        n_grid=n_grid,
        n_background=n_grid - n_tissue,
        n_not_drawn=n_tissue - len(drawn),
    )


def fit_tile(region: NDArray[np.uint8], tile_px: int) -> NDArray[np.uint8]:
    """Bring a region that was read (h, w, 3) uint8 to (tile_px, tile_px, 3) uint8; its input is not changed.

    A side that is at most 2 % too long is cut, not resized; a larger one is averaged by area. A shorter one
    (``allow_upsample``) is interpolated.

    Raises
    ------
    ValueError
        Not (h, w, 3) uint8, or ``tile_px`` below 1.
    """
    check_thumbnail(region)
    if tile_px < 1:
        raise ValueError(f"a tile has at least one pixel a side, got {tile_px}")
    height, width = region.shape[:2]
    shorter, longer = min(height, width), max(height, width)
    if shorter >= tile_px and longer <= tile_px * (1 + SAME_SCALE):
        return region[:tile_px, :tile_px].copy()
    if shorter >= tile_px:
        resized = area_average(region, (tile_px, tile_px))
    else:
        rows = resample_matrix(height, tile_px, antialias=True)
        columns = resample_matrix(width, tile_px, antialias=True)
        resized = np.einsum("yh,hwc,xw->yxc", rows, region.astype(np.float32), columns, optimize=True)
    fitted: NDArray[np.uint8] = np.clip(np.rint(resized), 0, 255).astype(np.uint8)
    return fitted


def sharpness(tile: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian (4 neighbours) of a tile's grey values in 0 to 255; low is blurred."""
    check_thumbnail(tile)
    return float(ndimage.laplace(grey_of(tile) * 255, mode="reflect").var())


def saturated_fraction(tile: NDArray[np.uint8]) -> float:
    """Return the share of pixels of which a colour is 0 or 255."""
    check_thumbnail(tile)
    return float(((tile == 0) | (tile == 255)).any(axis=2).mean())


def _check_mask(mask: Mask, mask_px: tuple[float, float], size_px: tuple[int, int]) -> None:
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask must be (H, W) bool, got {mask.shape} {mask.dtype}")
    for pixels, side_px, length_px in zip(mask.shape[::-1], mask_px, size_px, strict=True):
        if not 0 < side_px < np.inf or abs(pixels * side_px - length_px) > side_px:
            raise ValueError(
                f"a mask of {mask.shape[1]} × {mask.shape[0]} px of {mask_px[0]:g} × {mask_px[1]:g} level-0 px "
                f"is not of a slide of {size_px[0]} × {size_px[1]} px"
            )


def _check_count(
    n_tissue: int,
    n_grid: int,
    geometry: TileGeometry,
    size_px: tuple[int, int],
    tiling: TilingConfig,
    slide_id: str,
) -> None:
    if n_tissue >= tiling.min_tiles:
        return
    size = f"{size_px[0]} × {size_px[1]} px"
    why = (
        f"a slide of {size} is smaller than a tile of {geometry.footprint0_px} level-0 px"
        if n_grid == 0
        else f"{n_tissue} of {n_grid} tiles have at least {tiling.min_tissue:.0%} tissue, {tiling.min_tiles} are "
        f"needed (slide of {size}, tiles of {geometry.side0_px} level-0 px)"
    )
    raise SlideError(SlideCode.TOO_FEW_TILES, f"{slide_id}: {why}", "lower tiling.min_tiles or min_tissue")


def _starts(length_px: int, geometry: TileGeometry) -> NDArray[np.int64]:
    """Return where tiles start along one side so that they lie fully inside it."""
    room_px = length_px - geometry.footprint0_px
    if room_px < 0:
        return np.zeros(0, np.int64)
    starts = np.rint(np.arange(int(room_px / geometry.stride0_px) + 2) * geometry.stride0_px).astype(np.int64)
    # strides below one level-0 pixel (tiles enlarged, nearly all overlap) would give the same tile twice
    return np.unique(starts[starts <= room_px])


def _integral(mask: Mask) -> NDArray[np.float64]:
    """Return (H + 1, W + 1) sums of everything above and to the left."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1))
    np.cumsum(mask, axis=0, dtype=np.float64, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums


def _in_mask(
    starts: NDArray[np.int64], side0_px: int, mask_px: float, length: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where tiles begin and end along one side of the mask, in its pixels."""
    return np.minimum(starts / mask_px, length), np.minimum((starts + side0_px) / mask_px, length)


def _row_at(sums: NDArray[np.float64], y: float) -> NDArray[np.float64]:
    """Return the row of an integral image at a position between its rows; within a pixel sums are linear."""
    above = min(int(y), len(sums) - 2)
    row: NDArray[np.float64] = sums[above] + (y - above) * (sums[above + 1] - sums[above])
    return row
