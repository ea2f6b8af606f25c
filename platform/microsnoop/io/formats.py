"""What every image reader gives: an :class:`ImageFile` with a description and planes (C, H, W), whole or a part.

A file is recognised by its first bytes, never by its extension.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import MicrosnoopError, RowRejected
from microsnoop.core.schema import MAX_CHANNELS, Flag, RejectCode
from microsnoop.ops.geometry import Box

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy")
RGB = ("red", "green", "blue")
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "raster"),
    (b"\xff\xd8\xff", "raster"),
    (b"BM", "raster"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"\x93NUMPY", "npy"),
)
_BYTES_A_READ = 2**22


@dataclass(frozen=True)
class ImageInfo:
    """What a file holds, known from its header alone.

    ``by_region``: a rectangle is read at a cost that grows with the rectangle, not with the image.
    ``lossy``: the pixels were changed by the compression (JPEG), so they are no measurement of single values.
    """

    n_images: int
    channels: tuple[str, ...]
    height_px: int
    width_px: int
    dtype: str
    pixel_size_um: float | None = None
    by_region: bool = False
    lossy: bool = False


@dataclass(frozen=True)
class Pixels:
    """Planes (C, H, W) in one of the dtypes of :func:`as_pixels`, and what happened on the way."""

    planes: NDArray[Any]
    flags: tuple[Flag, ...] = ()


class ImageFile(Protocol):
    """An open image file."""

    info: ImageInfo

    def read(self, index: int, box: Box | None = None, *, channels: Sequence[int] | None = None) -> Pixels:
        """Return the planes of one image of the file (index 0 where it holds only one).

        Parameters
        ----------
        box
            The part to return, inside the image; None: all of it.
        channels
            Positions of the planes to return, in this order; None: all of them.

        Raises
        ------
        ValueError
            ``box`` reaches over the border of the image.
        RowRejected
            As when the file is opened, and where what is asked has more pixels than the limit.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


def sniff(stream: BinaryIO, name: str) -> str:
    """Return which reader a file needs: ``raster``, ``tiff`` or ``npy``.

    Raises
    ------
    RowRejected
        Empty, or none of the known formats.
    """
    head = stream.read(8)
    stream.seek(0)
    if not head:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{name}: the file is empty (0 bytes)")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    raise RowRejected(
        RejectCode.DECODE_ERROR,
        f"{name}: not an image of a known format (PNG, JPEG, BMP, TIFF, NPY); it starts with {head!r}",
    )


def check_size(name: str, shape: Sequence[int], *, limit_px: int | None) -> None:
    """Refuse an image (C, H, W), or the part of it that is to be read, before anything is decompressed.

    Raises
    ------
    RowRejected
        More pixels a plane than ``limit_px`` (None: any number), more than 60 channels, or an empty side.
    """
    channels, height, width = shape
    if min(channels, height, width) < 1:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH, f"{name}: an image of {height} × {width} px has no pixels"
        )
    if limit_px is not None and height * width > limit_px:
        raise RowRejected(
            RejectCode.DECODE_ERROR,
            f"{name}: {height:,} × {width:,} px is more than the limit of {limit_px / 1e6:g} megapixels; raise "
            "input.max_image_mpx if you trust the file",
        )
    if channels > MAX_CHANNELS:
        raise RowRejected(
            RejectCode.CHANNEL_MISMATCH,
            f"{name}: {channels} channels of {height} × {width} px; at most {MAX_CHANNELS} are supported "
            "(arrays are read as (C, H, W); a stack of images needs input.stack: true or an index column)",
        )


def check_box(box: Box | None, info: ImageInfo, *, name: str, limit_px: int) -> None:
    """Refuse a part (None: all) of an image that is not inside it, or is larger than ``limit_px``.

    Raises
    ------
    ValueError
        ``box`` reaches over the border.
    RowRejected
        More than ``limit_px`` pixels.
    """
    if box is not None and not box.inside(info.height_px, info.width_px):
        raise ValueError(f"{name}: {box} is not inside the image of {info.height_px} × {info.width_px} px")
    size = (info.height_px, info.width_px) if box is None else (box.height_px, box.width_px)
    check_size(name, (1, *size), limit_px=limit_px)


def part_of(pixels: Pixels, box: Box | None, channels: Sequence[int] | None) -> Pixels:
    """Return some planes and a rectangle of pixels that were decoded whole."""
    planes = pixels.planes
    if channels is not None and list(channels) != list(range(len(planes))):
        planes = planes[list(channels)]
    if box is not None:
        rows = slice(box.y0_px, box.y0_px + box.height_px)
        # a copy, so that the whole image is not kept in memory by a piece of it
        planes = planes[:, rows, box.x0_px : box.x0_px + box.width_px].copy()
    return Pixels(planes, pixels.flags)


def read_rectangle(
    stream: Any, start: int, *, shape: tuple[int, int, int], dtype: np.dtype[Any], box: Box, name: str
) -> NDArray[Any]:
    """Return a rectangle (h, w, n) of a plane (H, W, n) whose bytes lie row by row from ``start`` on.

    Only the rows of the box are read, and of them only its columns where that saves at least half.

    Raises
    ------
    RowRejected
        The file ends before them.
    """
    width, samples = shape[1:]
    pixel_bytes = samples * dtype.itemsize
    row_bytes, span_bytes = width * pixel_bytes, box.width_px * pixel_bytes
    n_rows = max(1, _BYTES_A_READ // row_bytes) if 2 * span_bytes >= row_bytes else 1
    result = np.empty((box.height_px, box.width_px, samples), dtype)
    for y in range(0, box.height_px, n_rows):
        rows = min(n_rows, box.height_px - y)
        n_bytes = (rows - 1) * row_bytes + span_bytes
        stream.seek(start + (box.y0_px + y) * row_bytes + box.x0_px * pixel_bytes)
        data = stream.read(n_bytes)
        if len(data) < n_bytes:
            raise RowRejected(
                RejectCode.DECODE_ERROR, f"{name}: truncated: the file ends before its pixels do"
            )
        strides = (row_bytes, pixel_bytes, dtype.itemsize)
        result[y : y + rows] = np.ndarray((rows, box.width_px, samples), dtype, data, strides=strides)
    return result


def as_pixels(array: NDArray[Any], name: str) -> Pixels:
    """Bring decoded planes to uint8, uint16, int32 or float32, native byte order, nothing lost unsaid.

    Raises
    ------
    RowRejected
        A dtype that holds no real numbers, or integers beyond 32 bits.
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return Pixels(array.astype(np.uint8))
    if kind == "u" and size <= 2:
        return Pixels(array.astype(array.dtype.newbyteorder("="), copy=False))
    if kind in "ui":
        if array.size and (array.max() > np.iinfo(np.int32).max or array.min() < np.iinfo(np.int32).min):
            raise RowRejected(
                RejectCode.DECODE_ERROR,
                f"{name}: {array.dtype} values up to {array.max()} do not fit 32 bits",
            )
        return Pixels(array.astype(np.int32))
    if kind == "f":
        # beyond float32 becomes inf, which is rejected as not finite; a signalling NaN becomes a plain one
        with np.errstate(over="ignore", invalid="ignore"):
            narrowed = array.astype(np.float32)
        return Pixels(narrowed, (Flag.FLOAT64_NARROWED,) if size > 4 else ())
    raise RowRejected(RejectCode.DECODE_ERROR, f"{name}: pixels of type {array.dtype} are not numbers")


def default_names(count: int) -> tuple[str, ...]:
    """Return names for channels that have none: ``c0``, ``c1``, ..."""
    return tuple(f"c{i}" for i in range(count))


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` with blanks filled and repeats numbered: ``DAPI``, ``DAPI_2``."""
    result: list[str] = []
    for i, raw in enumerate(names):
        name = raw.strip() or f"c{i}"
        others = (f"{name}_{n}" for n in itertools.count(2))
        result.append(name if name not in result else next(other for other in others if other not in result))
    return tuple(result)


def as_reject(error: Exception, name: str) -> MicrosnoopError:
    """Turn whatever a decoder raised into a reject that names the file.

    Decoders of third parties raise anything on a damaged file (ValueError, KeyError, struct.error, zlib.error,
    their own kinds); each means that this file cannot be read, and none may end the run.
    """
    if isinstance(error, MicrosnoopError):
        return error
    return RowRejected(
        RejectCode.DECODE_ERROR, f"{name}: cannot be decoded ({type(error).__name__}: {error})"
    )
