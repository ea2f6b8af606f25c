"""What every image reader gives: an :class:`ImageFile` with a description and planes (C, H, W).

A file is recognised by its first bytes, never by its extension.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import MAX_CHANNELS, Flag, RejectCode

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


@dataclass(frozen=True)
class ImageInfo:
    """What a file holds, known from its header alone."""

    n_images: int
    channels: tuple[str, ...]
    height_px: int
    width_px: int
    dtype: str
    pixel_size_um: float | None = None


@dataclass(frozen=True)
class Pixels:
    """Planes (C, H, W) in one of the dtypes of :func:`as_pixels`, and what happened on the way."""

    planes: NDArray[Any]
    flags: tuple[Flag, ...] = ()


class ImageFile(Protocol):
    """An open image file."""

    info: ImageInfo

    def read(self, index: int) -> Pixels:
        """Return the planes of one image of the file (index 0 where it holds only one)."""
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


def check_size(name: str, shape: Sequence[int], *, limit_px: int) -> None:
    """Refuse an image (C, H, W) by its header, before anything is decompressed.

    Raises
    ------
    RowRejected
        More pixels a plane than ``limit_px``, more than 60 channels, or an empty side.
    """
    channels, height, width = shape
    if min(channels, height, width) < 1:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH, f"{name}: an image of {height} × {width} px has no pixels"
        )
    if height * width > limit_px:
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
