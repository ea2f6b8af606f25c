"""``.npy`` arrays: (H, W), (C, H, W), or a stack (N, H, W) or (N, C, H, W) of which one image is read at a time."""

from __future__ import annotations

import math
import os
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import RejectCode
from microsnoop.io.formats import ImageInfo, Pixels, as_pixels, check_size, default_names


class NpyImage:
    """An array file; arrays of Python objects are refused, because reading them would run code."""

    def __init__(self, stream: BinaryIO, name: str, *, limit_px: int, stack: bool) -> None:
        self._stream, self._name = stream, name
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
        check_size(name, self._shape, limit_px=limit_px)
        self._image_bytes = math.prod(self._shape) * self._dtype.itemsize
        if self._start + n_images * self._image_bytes > self._size:
            raise RowRejected(
                RejectCode.DECODE_ERROR,
                f"{name}: truncated: {self._size:,} bytes, but {shape} {self._dtype} needs more",
            )
        self.info = ImageInfo(
            n_images, default_names(self._shape[0]), self._shape[1], self._shape[2], str(self._dtype)
        )
        if self._fortran and n_images > 1:
            raise RowRejected(
                RejectCode.DECODE_ERROR, f"{name}: a stack in Fortran order cannot be read image by image"
            )

    def read(self, index: int) -> Pixels:
        """Return planes (C, H, W) of one image; only its bytes are read."""
        if not 0 <= index < self.info.n_images:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"{self._name}: has {self.info.n_images} images, index {index} was asked",
            )
        self._stream.seek(self._start + index * self._image_bytes)
        flat = np.frombuffer(self._stream.read(self._image_bytes), self._dtype)
        if self._fortran:
            return as_pixels(np.ascontiguousarray(flat.reshape(self._shape[::-1]).T), self._name)
        return as_pixels(flat.reshape(self._shape), self._name)

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
        raise RowRejected(RejectCode.DECODE_ERROR, f"{name}: holds Python objects, which are never loaded")
    if dtype.kind not in "buif" or dtype.itemsize == 0:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{name}: pixels of type {dtype} are not numbers")
    return shape, bool(fortran), dtype
