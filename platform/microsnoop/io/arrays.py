"""``.npy`` arrays: (H, W), (C, H, W), or a stack (N, H, W) or (N, C, H, W) of which one image is read at a time.

Rectangles are read row by row; of an array in Fortran order, whose columns lie together, column by column.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import RejectCode
from microsnoop.io.formats import (
    ImageInfo,
    Pixels,
    as_pixels,
    check_box,
    check_size,
    default_names,
    part_of,
    read_rectangle,
)
from microsnoop.ops.geometry import Box


class NpyImage:
    """An array file; arrays of Python objects are refused, because reading them would run code."""

    def __init__(self, stream: BinaryIO, name: str, *, limit_px: int, stack: bool) -> None:
        self._stream, self._name, self._limit_px = stream, name, limit_px
        shape, self._fortran, self._dtype = _read_header(stream, name)
        self._start = stream.tell()
        self._size = stream.seek(0, os.SEEK_END)
        expected = {True: (3, 4), False: (2, 3)}[stack]
        if len(shape) not in expected:
            wanted = "(N, H, W) or (N, C, H, W)" if stack else "(H, W) or (C, H, W)"
            hint = "" if stack else "; a stack of images needs input.stack: true or an index column"
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH, f"{name}: an array of shape {shape} is not {wanted}{hint}"
            )
        n_images, image_shape = (shape[0], shape[1:]) if stack else (1, shape)
        self._shape = image_shape if len(image_shape) == 3 else (1, *image_shape)
        check_size(name, self._shape, limit_px=None)  # the limit counts when something is read
        self._image_bytes = math.prod(self._shape) * self._dtype.itemsize
        if self._start + n_images * self._image_bytes > self._size:
            raise RowRejected(
                RejectCode.DECODE_ERROR,
                f"{name}: truncated: {self._size:,} bytes, but {shape} {self._dtype} needs more",
            )
        names, dtype = default_names(self._shape[0]), str(self._dtype)
        self.info = ImageInfo(n_images, names, self._shape[1], self._shape[2], dtype, by_region=True)
        if self._fortran and n_images > 1:
            raise RowRejected(
                RejectCode.DECODE_ERROR, f"{name}: a stack in Fortran order cannot be read image by image"
            )

    def read(self, index: int, box: Box | None = None, *, channels: Sequence[int] | None = None) -> Pixels:
        """Return planes (C, H, W) of one image, or of a part of it; only its bytes are read."""
        if not 0 <= index < self.info.n_images:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"{self._name}: has {self.info.n_images} images, index {index} was asked",
            )
        check_box(box, self.info, name=self._name, limit_px=self._limit_px)
        if box is not None:
            return as_pixels(self._region(index, box, channels), self._name)
        self._stream.seek(self._start + index * self._image_bytes)
        flat = np.frombuffer(self._stream.read(self._image_bytes), self._dtype)
        if self._fortran:
            whole = as_pixels(np.ascontiguousarray(flat.reshape(self._shape[::-1]).T), self._name)
        else:
            whole = as_pixels(flat.reshape(self._shape), self._name)
        return part_of(whole, None, channels)

    def _region(self, index: int, box: Box, channels: Sequence[int] | None) -> NDArray[Any]:
        """Return some planes of a part of an image, in the dtype of the file."""
        count, height, width = self._shape
        wanted = list(range(count)) if channels is None else list(channels)
        start = self._start + index * self._image_bytes
        if self._fortran:  # in the file it is an image (W, H, C)
            turned = Box(box.x0_px, box.y0_px, box.width_px, box.height_px)
            shape = (width, height, count)
            array = read_rectangle(
                self._stream, start, shape=shape, dtype=self._dtype, box=turned, name=self._name
            )
            return np.ascontiguousarray(array.transpose(2, 1, 0)[wanted])
        result = np.empty((len(wanted), box.height_px, box.width_px), self._dtype)
        for plane, channel in zip(result, wanted, strict=True):
            plane[...] = read_rectangle(
                self._stream,
                start + channel * height * width * self._dtype.itemsize,
                shape=(height, width, 1),
                dtype=self._dtype,
                box=box,
                name=self._name,
            )[..., 0]
        return result

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


def _read_header(stream: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy_format.read_magic(stream)
        # version 3 differs from 2 only in how it writes names of fields, which no image has
        long_header = npy_format.read_array_header_2_0
        read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): long_header, (3, 0): long_header}[version]
        shape, fortran, dtype = read(stream)
    except (ValueError, KeyError) as error:
        raise RowRejected(
            RejectCode.DECODE_ERROR, f"{name}: the array header is damaged ({error})"
        ) from error
    if dtype.hasobject:
        hint = " (if Cellpose wrote it, export its masks as _cp_masks.tif)" if shape == () else ""
        raise RowRejected(
            RejectCode.DECODE_ERROR, f"{name}: holds Python objects, which are never loaded{hint}"
        )
    if dtype.kind not in "buif" or dtype.itemsize == 0:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{name}: pixels of type {dtype} are not numbers")
    return shape, bool(fortran), dtype
