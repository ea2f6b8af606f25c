"""Whole slides: one protocol for all readers, :func:`open_slide` that chooses one, and the thumbnail of a slide.

Positions are (x, y) in level-0 pixels. A reader stays in the process that opened it; only paths travel. Label
and macro pictures, which can show a patient's name, are never read, and of a file's properties only harmless
ones are kept. Source: slides spec, sections 1 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io.slide_kinds import Kind, find_kind, stem
from microsnoop.io.slide_levels import CACHE_BYTES, Level, SlideSource
from microsnoop.io.slide_mpp import Mpp
from microsnoop.ops.area_average import area_average
from microsnoop.ops.geometry import Box
from microsnoop.ops.slide_tiles import choose_level

_BLOCK_PX = 1_024  # of a level, while a thumbnail is made: 12 MB as float32
_ROUNDED_SIZES = 1e-3  # levels of 4.0006 are meant as 4
_SMALLEST_PX = 128  # what cannot be read is narrowed down to squares of this side


class SlideReader(Protocol):
    """An open slide.

    ``levels`` are ordered from the finest; ``mpp`` is µm per pixel (x, y) at level 0, None where it is not known
    (:meth:`resolved_mpp` then says why).
    """

    slide_id: str
    path: str
    levels: tuple[Level, ...]
    properties: Mapping[str, str]

    @property
    def mpp(self) -> tuple[float, float] | None: ...

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height at level 0."""
        ...

    def resolved_mpp(self) -> Mpp:
        """Return µm per pixel with its source and flags.

        Raises
        ------
        SlideError
            ``mpp_missing`` or ``anisotropic``.
        """
        ...

    def read_region(
        self, x0: int, y0: int, *, level: int, width_px: int, height_px: int
    ) -> NDArray[np.uint8]:
        """Return (height_px, width_px, 3) uint8 of a level; (x0, y0) is its corner in level-0 pixels.

        Transparency is laid on white, and what lies outside the slide is white.

        Raises
        ------
        ValueError
            No such level, or a side below 1.
        SlideError
            ``decode_error``: a piece cannot be read, not even the second time.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True)
class Thumbnail:
    """A whole slide at the scale of its mask.

    ``pixels`` (H, W, 3) uint8. ``mpp``: µm a pixel (x, y). ``pixel0_px``: side of a pixel (x, y) in level-0
    pixels; the last row and column may reach over the slide. ``bad_fraction``: share of the level that could not
    be read and is white here.
    """

    pixels: NDArray[np.uint8]
    mpp: tuple[float, float]
    pixel0_px: tuple[float, float]
    level: int
    bad_fraction: float


def open_slide(
    path: str,
    *,
    slide_id: str | None = None,
    mpp: float | tuple[float, float] | None = None,
    allow_objective_guess: bool = False,
    reader: Kind = "auto",
    cache_bytes: int = CACHE_BYTES,
) -> SlideReader:
    """Open a slide; only its header is read.

    Parameters
    ----------
    path
        A local path, or a URL for the readers of this package (TIFF, PNG, JPEG).
    slide_id
        Default: the file name without its extension.
    mpp
        Override of µm per pixel at level 0.
    allow_objective_guess
        Take it from the objective where nothing else is known (flagged).
    reader
        ``auto``: OpenSlide for formats of scanners, else the tiled TIFF reader, else PNG or JPEG.
    cache_bytes
        Decoded pieces kept in memory.

    Raises
    ------
    SlideError
        ``decode_error`` (missing, empty, unknown, damaged) or ``untiled``.
    MissingDependency
        The format needs OpenSlide, which is not installed.
    """
    source = SlideSource(
        path=path,
        slide_id=stem(path) if slide_id is None else slide_id,
        override=mpp,
        allow_objective_guess=allow_objective_guess,
        cache_bytes=cache_bytes,
    )
    kind = find_kind(path) if reader == "auto" else reader
    if kind == "openslide":
        from microsnoop.io.slide_openslide import OpenSlideReader

        return OpenSlideReader(source)
    if kind == "tiff":
        from microsnoop.io.slide_tiff import TiffSlideReader

        return TiffSlideReader(source)
    from microsnoop.io.slide_plain import PlainSlideReader

    return PlainSlideReader(source)


def read_thumbnail(
    reader: SlideReader, mask_mpp: float, *, max_bad: float = 0.01, compat: bool = False
) -> Thumbnail:
    """Read a whole slide at ``mask_mpp`` µm a pixel: the nearest finer level, averaged by area, block by block.

    A slide that is coarser than that stays as it is. What cannot be read is white and counted.

    Parameters
    ----------
    max_bad
        Largest share of the level that may be unreadable.
    compat
        The lowest-resolution level as it is (Lazard et al. 2022).

    Raises
    ------
    SlideError
        ``mpp_missing``, ``anisotropic``, or ``decode_error``: more than ``max_bad`` cannot be read.
    """
    mpp = reader.resolved_mpp()
    if not 0 < mask_mpp < math.inf:
        raise ValueError(f"µm per pixel must be positive, got {mask_mpp}")
    width0, height0 = reader.size_px
    number = len(reader.levels) - 1
    if not compat:
        downsamples = [one.downsample for one in reader.levels]
        number = choose_level(downsamples, mask_mpp / mpp.mean_um, slack=_ROUNDED_SIZES)
    level = reader.levels[number]
    level_x, level_y = (
        width0 / level.width_px,
        height0 / level.height_px,
    )  # level-0 pixels a pixel of the level
    pixel_x, pixel_y = (
        (1.0, 1.0)
        if compat
        else (
            max(1.0, mask_mpp / mpp.x_um / level_x),
            max(1.0, mask_mpp / mpp.y_um / level_y),
        )
    )
    shape = (_count(level.height_px, pixel_y), _count(level.width_px, pixel_x))
    pixels = np.empty((*shape, 3), np.uint8)
    bad_px = 0
    for rows, ys in _blocks(shape[0], pixel_y, level.height_px):
        for columns, xs in _blocks(shape[1], pixel_x, level.width_px):
            box = Box(ys[0], xs[0], ys[1] - ys[0], xs[1] - xs[0])
            region, bad = _read_or_white(reader, number, box)
            bad_px += bad
            part = (rows.stop - rows.start, columns.stop - columns.start)
            offset = (rows.start * pixel_y - ys[0], columns.start * pixel_x - xs[0])
            averaged = area_average(region, part, pixel_px=(pixel_y, pixel_x), offset_px=offset)
            pixels[rows, columns] = np.rint(averaged).astype(np.uint8)
    bad_fraction = bad_px / (level.width_px * level.height_px)
    if bad_fraction > max_bad:
        raise SlideError(
            SlideCode.DECODE_ERROR,
            f"{reader.path}: {bad_fraction:.1%} of level {number} cannot be read, at most {max_bad:.1%} may be bad",
            "copy the file again from where it came from",
        )
    per_px = (pixel_x * level_x, pixel_y * level_y)
    return Thumbnail(
        pixels, (per_px[0] * mpp.x_um, per_px[1] * mpp.y_um), per_px, number, float(bad_fraction)
    )


def _count(length_px: int, pixel_px: float) -> int:
    # 1e-6: a slide of exactly n pixels must not get a further one from rounding
    return max(1, math.ceil(length_px / pixel_px - 1e-6))


def _blocks(n_out: int, pixel_px: float, length_px: int) -> Iterator[tuple[slice, tuple[int, int]]]:
    """Yield parts of one side of the thumbnail, and the pixels of the level (from, to) that they cover."""
    step = max(1, int(_BLOCK_PX / pixel_px))
    for start in range(0, n_out, step):
        stop = min(n_out, start + step)
        yield (
            slice(start, stop),
            (int(start * pixel_px), min(length_px, math.ceil(stop * pixel_px))),
        )


def _read_or_white(reader: SlideReader, number: int, box: Box) -> tuple[NDArray[np.uint8], int]:
    """Return a box of a level; what cannot be read, narrowed down to small squares, is white and counted."""
    level = reader.levels[number]
    x_px, y_px = reader.size_px[0] / level.width_px, reader.size_px[1] / level.height_px
    try:
        region = reader.read_region(
            round(box.x0_px * x_px),
            round(box.y0_px * y_px),
            level=number,
            width_px=box.width_px,
            height_px=box.height_px,
        )
        return region, 0
    except SlideError:
        region = np.full((box.height_px, box.width_px, 3), 255, np.uint8)
        if max(box.height_px, box.width_px) <= _SMALLEST_PX:
            return region, box.height_px * box.width_px
    bad = 0
    half_y, half_x = math.ceil(box.height_px / 2), math.ceil(box.width_px / 2)
    for y in range(0, box.height_px, half_y):
        for x in range(0, box.width_px, half_x):
            height, width = min(half_y, box.height_px - y), min(half_x, box.width_px - x)
            part, part_bad = _read_or_white(reader, number, Box(box.y0_px + y, box.x0_px + x, height, width))
            region[y : y + height, x : x + width] = part
            bad += part_bad
    return region, bad
