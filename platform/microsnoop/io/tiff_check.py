"""Is a TIFF file all there? tifffile logs damage and goes on with fewer pages or with zeros; here it is an error."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import tifffile

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import RejectCode

# Slide formats keep a label, a macro picture and a thumbnail beside the image: there the first series is the image.
_SLIDE_FLAGS = {"svs", "ndpi", "scn", "bif", "philips", "sis", "qpi", "avs"}


def main_series(tif: tifffile.TiffFile, name: str) -> list[Any]:
    """Return the series that make up the image: usually one; several where a writer made one of every page.

    Raises
    ------
    RowRejected
        No image at all, or several of different size or type: which one is meant?
    """
    found = [series for series in tif.series if not series.keyframe.is_reduced]
    if not found:
        _refuse(name, "a TIFF file without any image")
    first = found[0]
    if len(found) == 1 or _SLIDE_FLAGS & tif.flags:
        return [first]
    if all((s.shape, s.axes, s.dtype) == (first.shape, first.axes, first.dtype) for s in found):
        return found
    shapes = ", ".join("×".join(map(str, series.shape)) for series in found[:4])
    raise RowRejected(
        RejectCode.SHAPE_MISMATCH,
        f"{name}: holds {len(found)} images of different size or type ({shapes}); write each to a file of its own",
    )


def check_directories(tif: tifffile.TiffFile, name: str) -> None:
    """Refuse a file whose chain of directories breaks off: its later pages would simply not be seen.

    Raises
    ------
    RowRejected
        ``decode_error``.
    """
    if tif.series and tif.series[0].kind == "shaped" and tif.series[0].dataoffset is not None:
        return  # one directory describes everything
    layout, stream = tif.tiff, tif.filehandle
    last = tif.pages[len(tif.pages) - 1]
    try:
        stream.seek(last.offset)
        (n_tags,) = struct.unpack(layout.tagnoformat, stream.read(layout.tagnosize))
        stream.seek(last.offset + layout.tagnosize + n_tags * layout.tagsize)
        (following,) = struct.unpack(layout.offsetformat, stream.read(layout.offsetsize))
    except struct.error:
        _refuse(name, "truncated within its list of pages")
    known = {tif.pages[i].offset for i in range(len(tif.pages))} if following else set()
    if following and (following >= stream.size or following not in known):
        _refuse(name, "truncated: its list of pages breaks off")


def check_pages(tif: tifffile.TiffFile, series: Any, pages: Sequence[Any], name: str) -> None:
    """Refuse pages whose pixels lie (partly) beyond the end of the file, in another file, or nowhere.

    Raises
    ------
    RowRejected
        ``decode_error``.
    """
    size = tif.filehandle.size
    if series.dataoffset is not None and series.dataoffset + series.nbytes > size:
        _refuse(name, f"truncated: {size:,} bytes, its pixels need {series.dataoffset + series.nbytes:,}")
    for page in pages:
        check_pieces(tif, page, name)


def check_pieces(
    tif: tifffile.TiffFile, page: Any, name: str, *, numbers: Sequence[int] | None = None
) -> None:
    """Refuse a page one of whose strips or tiles (all, or those of ``numbers``) is not there in full.

    A tile of 0 bytes is there: slide formats leave out tiles in which there is nothing. A strip of 0 bytes, or
    a page none of whose tiles has any, was never written.

    Raises
    ------
    RowRejected
        ``decode_error``.
    """
    if page is None:
        _refuse(name, "part of a multi-file OME-TIFF: some planes are in other files")
    size = tif.filehandle.size
    offsets, counts, keyframe = page.dataoffsets, page.databytecounts, page.keyframe
    if keyframe.is_contiguous:
        pieces = [(offsets[0], keyframe.nbytes)] if offsets else [(0, 0)]
    elif len(offsets) != len(counts) or len(offsets) < math.prod(keyframe.chunked):
        pieces = [(0, 0)]
    else:
        pieces = [(offsets[i], counts[i]) for i in (range(len(offsets)) if numbers is None else numbers)]
        if keyframe.is_tiled and any(counts):
            pieces = [piece for piece in pieces if piece[1]]
    if any(0 in piece for piece in pieces):
        _refuse(name, "pieces of the image are not in the file")
    end = max((start + count for start, count in pieces), default=0)
    if end > size:
        _refuse(name, f"truncated: {size:,} bytes, but its pixels reach to byte {end:,}")


def _refuse(name: str, why: str) -> NoReturn:
    raise RowRejected(RejectCode.DECODE_ERROR, f"{name}: {why}")
