"""Tiled TIFF, BigTIFF and OME-TIFF (and Aperio's) as slides, one tile at a time, without OpenSlide.

Pyramids may lie in the chain of pages or in SubIFDs. Only the largest image of a file is one of a slide: labels
and macro pictures beside it are not looked at.
"""

from __future__ import annotations

import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from microsnoop.core.optional import require
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io.opener import open_binary
from microsnoop.io.slide_levels import (
    CONVERT,
    LIMIT_PX,
    WHITE,
    LevelReader,
    PieceCache,
    SlideSource,
    on_white,
)
from microsnoop.io.slide_mpp import MppHints, hints_of_aperio, mpp_of_ome, mpp_of_tags
from microsnoop.io.tiff_check import check_directories, check_pages
from microsnoop.io.tiff_region import PlaneGrid, plane_grid
from microsnoop.ops.geometry import Box

# tifffile reports damage through its logger and goes on; what matters is checked in tiff_check and raised
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_NEED_OPENSLIDE = frozenset({"ndpi", "scn", "bif", "philips"})
_GREY, _RGB, _YCBCR = 1, 2, 6
_JPEG = (6, 7)
_COMPRESSIONS = frozenset(int(one) for one in tifffile.COMPRESSION)
_RAW_PIECE_PX = 512  # uncompressed pixels in one run have no pieces of their own
_MAX_ASPECT_DIFFERENCE = 0.02


@dataclass(frozen=True)
class _LevelPages:
    """One level: ``grid`` reads its pieces of ``piece_px`` (height, width); None: it is decoded as a whole."""

    series: Any
    grid: PlaneGrid | None
    size_px: tuple[int, int]
    piece_px: tuple[int, int]
    planar: bool


class TiffSlideReader(LevelReader):
    """A slide in a TIFF file."""

    def __init__(self, source: SlideSource) -> None:
        super().__init__(source)
        self._cache = PieceCache(source.cache_bytes)
        self._stream: Any = None
        self._tif: Any = None
        self._pages: list[_LevelPages] = []
        self._open_anew()
        sizes = [(one.size_px[1], one.size_px[0]) for one in self._pages]
        self._describe(sizes, self._hints, self._harmless)

    def _close(self) -> None:
        self._cache.clear()
        for opened in (self._tif, self._stream):
            if opened is not None:
                opened.close()
        self._tif = self._stream = None

    def _open(self) -> None:
        self._stream = open_binary(self.path)
        with warnings.catch_warnings():  # remarks on odd metadata
            warnings.simplefilter("ignore")
            self._tif = tifffile.TiffFile(self._stream, name=self.path)
            if self._tif.flags & _NEED_OPENSLIDE:
                require("openslide", extra="slides")
            check_directories(self._tif, self.path)
            series = _main(self._tif, self.path)
            self._pages = [_level(one, self.path) for one in _pyramid(series)]
            self._hints, self._harmless = _hints(self._tif), _harmless(self._tif)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        pages = self._pages[level]
        if pages.grid is None:
            whole = self._cache.get(level, lambda: self._whole(pages))
            return whole[box.y0_px : box.y0_px + box.height_px, box.x0_px : box.x0_px + box.width_px].copy()
        region = np.empty((box.height_px, box.width_px, 3), np.uint8)
        height, width = pages.piece_px
        for row in range(box.y0_px // height, math.ceil((box.y0_px + box.height_px) / height)):
            for column in range(box.x0_px // width, math.ceil((box.x0_px + box.width_px) / width)):
                piece = self._piece(level, row, column)
                y, x = row * height, column * width
                top, left = max(y, box.y0_px), max(x, box.x0_px)
                bottom = min(y + piece.shape[0], box.y0_px + box.height_px)
                right = min(x + piece.shape[1], box.x0_px + box.width_px)
                target = region[top - box.y0_px : bottom - box.y0_px, left - box.x0_px : right - box.x0_px]
                target[...] = piece[top - y : bottom - y, left - x : right - x]
        return region

    def _piece(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        return self._cache.get((level, row, column), lambda: self._decode(self._pages[level], row, column))

    def _decode(self, pages: _LevelPages, row: int, column: int) -> NDArray[np.uint8]:
        """Return one piece, cut at the border of the level."""
        assert pages.grid is not None
        (height, width), (piece_height, piece_width) = pages.size_px, pages.piece_px
        y, x = row * piece_height, column * piece_width
        box = Box(y, x, min(piece_height, height - y), min(piece_width, width - x))
        if _left_out(pages, row, column):
            return np.full((box.height_px, box.width_px, 3), WHITE, np.uint8)
        planes = pages.grid.read(self._tif, range(pages.grid.n_planes), box=box, name=self.path)
        return on_white(np.moveaxis(planes[..., 0], 0, -1) if pages.planar else planes[0])

    def _whole(self, pages: _LevelPages) -> NDArray[np.uint8]:
        page = pages.series.pages[0]
        check_pages(self._tif, pages.series, [page], self.path)
        array = page.asarray(maxworkers=1)
        if pages.planar:
            array = np.moveaxis(array, 0, -1)
        return on_white(array.reshape(*pages.size_px, -1))


def _main(tif: tifffile.TiffFile, path: str) -> Any:
    """Return the largest image of a file."""
    found = [series for series in tif.series if not series.keyframe.is_reduced and "Y" in series.axes]
    if not found:
        raise SlideError(SlideCode.DECODE_ERROR, f"{path}: a TIFF file without any image", "check the file")
    return max(found, key=lambda series: series.keyframe.imagelength * series.keyframe.imagewidth)


def _pyramid(series: Any) -> list[Any]:
    """Return the levels of an image that show all of it, from the finest."""
    height, width = _size(series)
    levels = [series.levels[0]]
    for one in series.levels[1:]:
        own_height, own_width = _size(one)
        if own_width > _size(levels[-1])[1] or min(own_height, own_width) < 1:
            continue
        # the sides of a small level are whole numbers: half a pixel is no other aspect
        slack = _MAX_ASPECT_DIFFERENCE + 1 / own_width + 1 / own_height
        if abs((width / own_width) / (height / own_height) - 1) <= slack:
            levels.append(one)
    return levels


def _size(series: Any) -> tuple[int, int]:
    return series.keyframe.imagelength, series.keyframe.imagewidth


def _level(series: Any, path: str) -> _LevelPages:
    """Check that a level is a colour picture in 8 bits that can be read in parts, or is small."""
    frame, (height, width) = series.keyframe, _size(series)
    axes = "".join(axis for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YXS" or n > 1)
    samples = frame.samplesperpixel
    colours = frame.photometric in (_GREY, _RGB) or (
        frame.photometric == _YCBCR and frame.compression in _JPEG
    )
    if (
        axes not in ("YX", "YXS", "SYX")
        or samples not in (1, 3, 4)
        or series.dtype != np.uint8
        or not colours
    ):
        raise SlideError(
            SlideCode.DECODE_ERROR,
            f"{path}: axes {series.axes} of shape {tuple(series.shape)}, {series.dtype}, photometric "
            f"{int(frame.photometric)} are not a colour picture in 8 bits",
            "export the slide as RGB, 8 bits",
        )
    if int(frame.compression) not in _COMPRESSIONS:
        raise SlideError(
            SlideCode.DECODE_ERROR, f"{path}: unknown compression {int(frame.compression)}", CONVERT
        )
    if not frame.is_tiled and height * width > LIMIT_PX:
        raise SlideError(
            SlideCode.UNTILED,
            f"{path}: {width:,} × {height:,} px in one piece or in strips; more than {LIMIT_PX / 1e6:g} megapixels "
            "must be tiled",
            CONVERT,
        )
    planar = axes == "SYX"
    y = 1 if planar else 0
    shape = tuple(n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YXS" or n > 1)
    grid = plane_grid([series], shape, y=y, x=y + 1, stack=None)
    if grid is None and height * width > LIMIT_PX:
        raise SlideError(SlideCode.UNTILED, f"{path}: its tiles are too large to be read one by one", CONVERT)
    return _LevelPages(series, grid, (height, width), _piece_size(series, height, width), planar)


def _piece_size(series: Any, height: int, width: int) -> tuple[int, int]:
    frame = series.keyframe
    if series.dataoffset is not None or frame.is_contiguous:
        return min(_RAW_PIECE_PX, height), min(_RAW_PIECE_PX, width)
    if frame.is_tiled:
        return frame.tilelength, frame.tilewidth
    return min(frame.rowsperstrip, height), width


def _left_out(pages: _LevelPages, row: int, column: int) -> bool:
    """Whether a tile was not written because there is nothing in it."""
    page = pages.series.pages[0]
    if pages.planar or not page.keyframe.is_tiled or page.keyframe.is_contiguous:
        return False
    number = row * math.ceil(pages.size_px[1] / pages.piece_px[1]) + column
    counts = page.databytecounts
    return number < len(counts) and counts[number] == 0 and any(counts)


def _hints(tif: tifffile.TiffFile) -> MppHints:
    page = tif.pages[0]
    x, y, unit = (page.tags.get(name) for name in ("XResolution", "YResolution", "ResolutionUnit"))
    tags = mpp_of_tags(
        x.value if x is not None else None,
        y.value if y is not None else None,
        unit.value if unit is not None else None,
    )
    aperio = hints_of_aperio(page.description) if tif.is_svs else MppHints()
    ome = mpp_of_ome(tif.ome_metadata) if tif.is_ome else None
    return MppHints(slide=aperio.slide, ome=ome, tiff_tags=tags, objective=aperio.objective)


def _harmless(tif: tifffile.TiffFile) -> dict[str, str]:
    form = "aperio" if tif.is_svs else "ome-tiff" if tif.is_ome else "tiff"
    kept = {"reader": "tiff", "format": form}
    if tif.is_svs and (power := hints_of_aperio(tif.pages[0].description).objective):
        kept["objective_power"] = f"{power:g}"
    return kept
