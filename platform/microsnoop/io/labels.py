"""Label images: one plane in which each pixel holds the number of the object it belongs to, 0 where there is none.

Any known format. What is not clearly a label image is refused rather than taken for one: numbers that were made
into colours, changed by a lossy compression or rounded would cut out the wrong cells without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import RejectCode
from microsnoop.io.formats import RGB, ImageInfo
from microsnoop.io.images import DEFAULT_LIMIT_PX, ImageReader, ImageSource
from microsnoop.ops.geometry import Box

_AS_INTEGERS = "save the label numbers as a TIFF or PNG of integers"
_ROUNDED_IN_FLOAT32 = 2**24


def labels_info(uri: str, *, reader: ImageReader | None = None) -> ImageInfo:
    """Describe a label image from its header; a file of any size can be described where it is ``by_region``.

    Raises
    ------
    RowRejected
        ``decode_error``: not readable. ``shape_mismatch``: several planes, or a lossy compression.
    """
    if reader is None:
        with ImageReader() as opened:
            return labels_info(uri, reader=opened)
    info = reader.info(ImageSource((uri,)))
    if info.lossy:
        raise _no_labels(uri, "JPEG changes numbers, so these are no labels any more")
    if len(info.channels) > 1 and info.channels != RGB:
        raise _no_labels(uri, f"a label image has one plane, this one has {len(info.channels)}")
    return info


def read_labels(
    uri: str, *, box: Box | None = None, limit_px: int = DEFAULT_LIMIT_PX, reader: ImageReader | None = None
) -> NDArray[Any]:
    """Read a label image, or a part of it.

    Parameters
    ----------
    box
        The part to read, inside the image.
    limit_px
        Largest image, or part of a ``by_region`` file, that is read.
    reader
        Keeps the file open from one part to the next; then its own limit counts.

    Returns
    -------
    (H, W) in uint8, uint16 or int32; none is negative. Grey saved as colour is one plane; floats that are
    whole numbers, as some segmenters write them, become int32.

    Raises
    ------
    ValueError
        ``box`` reaches over the border of the image.
    RowRejected
        ``decode_error``: not readable, too large, or numbers beyond 31 bits. ``shape_mismatch``: colours, several
        planes, negative or fractional numbers, a lossy compression. The message names the file.
    """
    if reader is None:
        with ImageReader(limit_px=limit_px) as opened:
            return read_labels(uri, box=box, reader=opened)
    labels_info(uri, reader=reader)
    planes = reader.read(ImageSource((uri,)), box=box).planes
    if len(planes) > 1 and not (planes == planes[:1]).all():
        raise _no_labels(uri, "holds colours, not labels")
    plane: NDArray[Any] = planes[0]
    if plane.dtype.kind == "f":
        plane = _as_integers(plane, uri)
    if plane.dtype.kind == "i" and plane.min() < 0:
        raise _no_labels(uri, f"a label cannot be negative, but {plane.min()} is there")
    return plane


def _as_integers(plane: NDArray[Any], uri: str) -> NDArray[np.int32]:
    if not np.isfinite(plane).all() or (plane != np.trunc(plane)).any():
        raise _no_labels(uri, "labels are whole numbers, these are not")
    if np.abs(plane).max() >= _ROUNDED_IN_FLOAT32:  # neighbours may have become one number
        raise _no_labels(uri, f"labels from {_ROUNDED_IN_FLOAT32:,} on are not exact as floats")
    return plane.astype(np.int32)


def _no_labels(uri: str, why: str) -> RowRejected:
    return RowRejected(RejectCode.SHAPE_MISMATCH, f"{uri}: {why}; {_AS_INTEGERS}")
