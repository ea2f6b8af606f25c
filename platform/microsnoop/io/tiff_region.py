"""Rectangles of a TIFF file: only the tiles, strips or rows that a box touches are read and decoded.

tifffile decodes whole pages. What it knows of a page (where its pieces lie, how one is decoded) is used here
piece by piece. Files whose pieces are as large as the image gain nothing and are not read this way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from microsnoop.io.formats import read_rectangle
from microsnoop.io.tiff_check import check_pages, check_pieces
from microsnoop.ops.geometry import Box

_MAX_PIECE_BYTES = 2**25  # decoded: a tile of 4,096 × 4,096 px in 16 bits


@dataclass(frozen=True)
class PlaneGrid:
    """The image as ``n_planes`` planes of ``shape`` (H, W, samples), in the order of the file's axes."""

    series: tuple[Any, ...]
    n_planes: int
    shape: tuple[int, int, int]

    def read(self, tif: tifffile.TiffFile, numbers: Sequence[int], *, box: Box, name: str) -> NDArray[Any]:
        """Return a part of some planes: (N, h, w, samples), in native byte order.

        Raises
        ------
        RowRejected
            ``decode_error``: a piece that is needed is not there in full.
        """
        per_series = self.n_planes // len(self.series)
        dtype = np.dtype(self.series[0].dtype).newbyteorder("=")
        result = np.empty((len(numbers), box.height_px, box.width_px, self.shape[2]), dtype)
        for out, number in zip(result, numbers, strict=True):
            series, within = self.series[number // per_series], number % per_series
            if series.dataoffset is not None:
                check_pages(tif, series, [], name)
                self._read_rows(tif, series.dataoffset, within, box=box, name=name, out=out)
                continue
            separate, depth = series.keyframe.shaped[:2]
            page, within = series.pages[within // (separate * depth)], within % (separate * depth)
            if page is not None and page.keyframe.is_final:
                check_pieces(tif, page, name)
                self._read_rows(tif, page.dataoffsets[0], within, box=box, name=name, out=out)
            else:
                _read_pieces(tif, page, divmod(within, depth), box=box, name=name, out=out)
        return result

    def _read_rows(
        self, tif: tifffile.TiffFile, start: int, number: int, *, box: Box, name: str, out: NDArray[Any]
    ) -> None:
        """Fill ``out`` from planes that lie in the file one after the other as they are."""
        dtype = out.dtype.newbyteorder(tif.byteorder)
        start += number * math.prod(self.shape) * dtype.itemsize
        out[...] = read_rectangle(tif.filehandle, start, shape=self.shape, dtype=dtype, box=box, name=name)


def plane_grid(
    series: Sequence[Any], shape: Sequence[int], *, y: int, x: int, stack: int | None
) -> PlaneGrid | None:
    """Return how the planes of an image (its axes Y and X at ``y`` and ``x``) lie, None if not in small pieces."""
    if x != y + 1 or (stack is not None and stack > x):
        return None
    n_planes, plane = math.prod(shape[:y]), (shape[y], shape[x], math.prod(shape[x + 1 :]))
    per_series, rest = divmod(n_planes, len(series))
    if rest or not all(_in_small_pieces(one, plane, per_series) for one in series):
        return None
    return PlaneGrid(tuple(series), n_planes, plane)


def _in_small_pieces(series: Any, plane: tuple[int, int, int], n_planes: int) -> bool:
    if series.transform is not None or series.is_multifile:
        return False
    if series.dataoffset is not None:
        return True
    keyframe = series.keyframe
    separate, depth, *page_plane = keyframe.shaped
    if tuple(page_plane) != plane or len(series.pages) * separate * depth != n_planes:
        return False  # axes that cross pages
    if keyframe.is_contiguous:
        return bool(keyframe.is_final)  # else not compressed, and yet not as it is
    if keyframe.jpegheader is not None or (not keyframe.is_tiled and keyframe.rowsperstrip >= plane[0]):
        return False  # one strip (NDPI: one that is tiled only by marks within it)
    piece_bytes: int = math.prod(_piece(keyframe)) * plane[2] * series.dtype.itemsize
    return piece_bytes <= _MAX_PIECE_BYTES


def _piece(keyframe: Any) -> tuple[int, int, int]:
    """Return the depth, height and width of a tile or strip."""
    if keyframe.is_tiled:
        return keyframe.tiledepth, keyframe.tilelength, keyframe.tilewidth
    return 1, keyframe.rowsperstrip, keyframe.imagewidth


def _read_pieces(
    tif: tifffile.TiffFile, page: Any, place: tuple[int, int], *, box: Box, name: str, out: NDArray[Any]
) -> None:
    """Fill ``out`` from the tiles or strips of one plane of a page; ``place`` is its sample and depth."""
    if page is None:
        check_pieces(tif, page, name)
    keyframe, stream = page.keyframe, tif.filehandle
    numbers = _touched(keyframe, place, box)
    check_pieces(tif, page, name, numbers=numbers)
    for number in sorted(numbers, key=page.dataoffsets.__getitem__):
        data = None
        if page.databytecounts[number]:
            stream.seek(page.dataoffsets[number])
            data = stream.read(page.databytecounts[number])
        piece, (_, z0, y0, x0, _), size = keyframe.decode(data, number, jpegtables=page.jpegtables)
        top, bottom = max(box.y0_px, y0), min(box.y0_px + box.height_px, y0 + size[1])
        left, right = max(box.x0_px, x0), min(box.x0_px + box.width_px, x0 + size[2])
        target = out[top - box.y0_px : bottom - box.y0_px, left - box.x0_px : right - box.x0_px]
        if piece is None:
            target[...] = keyframe.nodata
        else:
            target[...] = piece[place[1] - z0, top - y0 : bottom - y0, left - x0 : right - x0]


def _touched(keyframe: Any, place: tuple[int, int], box: Box) -> list[int]:
    """Return the numbers of the tiles or strips that a box touches, in one plane of a page."""
    sample, z = place
    depth, height, width = _piece(keyframe)
    n_deep = math.ceil(keyframe.imagedepth / depth)
    n_down, n_across = math.ceil(keyframe.imagelength / height), math.ceil(keyframe.imagewidth / width)
    first = (sample * n_deep + z // depth) * n_down * n_across
    rows = range(box.y0_px // height, math.ceil((box.y0_px + box.height_px) / height))
    columns = range(box.x0_px // width, math.ceil((box.x0_px + box.width_px) / width))
    return [first + row * n_across + column for row in rows for column in columns]
