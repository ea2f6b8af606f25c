"""TIFF, BigTIFF, ImageJ and OME-TIFF: planes as (C, H, W), stacks page by page, large images by region.

Axes as tifffile names them: Y X space, S colour samples, C channels; Q and I are pages of unknown meaning
(channels, unless the file is read as a stack); anything else (T time, Z depth, R positions ...) longer than 1
makes the file a stack, and a file that is not meant as one is refused with that reason.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.formats import (
    RGB,
    ImageInfo,
    Pixels,
    as_pixels,
    check_box,
    check_size,
    default_names,
    part_of,
    unique_names,
)
from microsnoop.io.tiff_check import check_directories, check_pages, main_series
from microsnoop.io.tiff_metadata import channel_names, pixel_size_um
from microsnoop.io.tiff_region import plane_grid
from microsnoop.ops.geometry import Box

# tifffile reports damage through its logger and goes on; what matters is checked in tiff_check and raised
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_UNKNOWN = "QI"
_LOSSY = (6, 7)  # JPEG, old and new


@dataclass(frozen=True)
class _Layout:
    """Which axis is what; ``stack`` and ``channel`` are positions in the shape, or None."""

    stack: int | None
    channel: int | None
    y: int
    x: int


class TiffImage:
    """The main image of a TIFF file, at full resolution."""

    def __init__(self, stream: BinaryIO, name: str, *, limit_px: int, stack: bool) -> None:
        self._stream, self._name, self._limit_px = stream, name, limit_px
        self._tif = tifffile.TiffFile(stream, name=name)
        check_directories(self._tif, name)
        self._series = main_series(self._tif, name)
        first = self._series[0]
        joined = len(self._series) > 1  # one series a page: pages of unknown meaning
        self._shape = (len(self._series), *first.shape) if joined else tuple(first.shape)
        axes = f"Q{first.axes}" if joined else first.axes
        self._layout = _find_layout(axes, self._shape, name, stack=stack)
        channel = self._layout.channel
        count = self._shape[channel] if channel is not None else 1
        height, width = self._shape[self._layout.y], self._shape[self._layout.x]
        check_size(name, (count, height, width), limit_px=None)
        layout = self._layout
        self._grid = plane_grid(self._series, self._shape, y=layout.y, x=layout.x, stack=layout.stack)
        if self._grid is None:  # else the limit counts when something is read
            check_size(name, (count, height, width), limit_px=limit_px)
        check_pages(self._tif, first, [first.pages[0]], name)
        self._samples = channel is not None and axes[channel] == "S"
        self._alpha = self._samples and self._has_alpha()
        self.info = ImageInfo(
            n_images=self._shape[self._layout.stack] if self._layout.stack is not None else 1,
            channels=self._names(count - self._alpha),
            height_px=height,
            width_px=width,
            dtype=str(first.dtype),
            pixel_size_um=pixel_size_um(self._tif),
            by_region=self._grid is not None,
            lossy=first.keyframe.compression in _LOSSY,
        )

    def read(self, index: int, box: Box | None = None, *, channels: Sequence[int] | None = None) -> Pixels:
        """Return planes (C, H, W) of one image, or of a part of it.

        Of a stack, only the pages of that image are read; of a part, where the file is ``by_region``, only
        the pages of its channels, and of these only the tiles or strips that it touches. Whether transparency
        was dropped (a flag) is known only for what was read.
        """
        if not 0 <= index < self.info.n_images:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"{self._name}: has {self.info.n_images} images, index {index} was asked",
            )
        check_box(box, self.info, name=self._name, limit_px=self._limit_px)
        if box is not None and self._grid is not None:
            return self._as_pixels(self._read_region(index, box, channels))
        return part_of(self._as_pixels(self._planes(self._read_array(index))), box, channels)

    def _as_pixels(self, planes: NDArray[Any]) -> Pixels:
        """Bring planes to one of the dtypes of images; transparency, the last plane, is dropped."""
        flags: tuple[Flag, ...] = ()
        if self._alpha:
            opaque = (planes[-1] == np.iinfo(planes.dtype).max).all() if planes.dtype.kind == "u" else False
            planes, flags = planes[:-1], () if opaque else (Flag.ALPHA_DROPPED,)
        pixels = as_pixels(np.ascontiguousarray(planes), self._name)
        return Pixels(pixels.planes, flags + pixels.flags)

    def close(self) -> None:
        """Close the file."""
        self._tif.close()
        self._stream.close()

    def _read_region(self, index: int, box: Box, channels: Sequence[int] | None) -> NDArray[Any]:
        """Return some planes (C, h, w) of a part of an image, transparency (if any) as the last one."""
        assert self._grid is not None
        axis, y = self._layout.channel, self._layout.y
        wanted = list(range(len(self.info.channels)) if channels is None else channels)
        wanted += [len(self.info.channels)] * self._alpha
        numbers = np.arange(self._grid.n_planes).reshape(self._shape[:y])
        if self._layout.stack is not None:
            numbers = numbers.take([index], axis=self._layout.stack)
        together = axis is not None and axis > y  # the samples of a pixel: there is one plane of them
        numbers = numbers.ravel() if together else numbers.ravel()[wanted]
        array = self._grid.read(self._tif, numbers.tolist(), box=box, name=self._name)
        return np.moveaxis(array[0], -1, 0)[wanted] if together else array[..., 0]

    def _read_array(self, index: int) -> NDArray[Any]:
        """Return the whole array, with the stack axis reduced to length 1."""
        axis = self._layout.stack
        if axis is None:
            return self._read_pages(None)
        shape = (*self._shape[:axis], 1, *self._shape[axis + 1 :])
        n_pages = sum(len(series.pages) for series in self._series)
        leading = next((k for k in range(len(shape)) if math.prod(self._shape[:k]) == n_pages), None)
        if leading is not None and axis < leading:  # pages count along the leading axes
            numbers = np.arange(n_pages).reshape(self._shape[:leading]).take([index], axis=axis)
            return self._read_pages(numbers.ravel().tolist()).reshape(shape)
        first = self._series[0]
        if axis == 0 and len(self._series) == 1 and first.dataoffset is not None:
            return self._read_contiguous(first, index).reshape(shape)
        return np.take(self._read_pages(None), [index], axis=axis)

    def _read_pages(self, numbers: Sequence[int] | None) -> NDArray[Any]:
        """Return some pages stacked, or (None) everything in the shape of the image."""
        if numbers is None:
            for series in self._series:
                check_pages(
                    self._tif, series, [series.pages[i] for i in range(len(series.pages))], self._name
                )
            return np.stack([series.asarray(maxworkers=1) for series in self._series]).reshape(self._shape)
        arrays = []
        for number in numbers:
            series, within = self._series[0], number
            if len(self._series) > 1:
                per_series = len(series.pages)
                series, within = self._series[number // per_series], number % per_series
            page = series.pages[within]
            check_pages(self._tif, series, [page], self._name)
            arrays.append(page.asarray(maxworkers=1))
        return np.stack(arrays)

    def _read_contiguous(self, series: Any, index: int) -> NDArray[Any]:
        """Return one image of a stack that one directory describes as a single run of bytes."""
        dtype = np.dtype(series.dtype).newbyteorder(self._tif.byteorder)
        n_bytes = math.prod(self._shape[1:]) * dtype.itemsize
        self._stream.seek(series.dataoffset + index * n_bytes)
        data = self._stream.read(n_bytes)
        if len(data) < n_bytes:
            raise RowRejected(RejectCode.DECODE_ERROR, f"{self._name}: truncated within image {index}")
        return np.frombuffer(data, dtype)

    def _planes(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring an array with all axes (stack axis 1) to (C, H, W)."""
        layout = self._layout
        wanted = [axis for axis in (layout.channel, layout.y, layout.x) if axis is not None]
        others = [axis for axis in range(array.ndim) if axis not in wanted]
        ordered = array.transpose(*others, *wanted)
        return ordered.reshape(-1, *ordered.shape[-2:])

    def _names(self, count: int) -> tuple[str, ...]:
        colour = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        if self._samples and count == 3 and self._series[0].keyframe.photometric in colour:
            return RGB
        named = channel_names(self._tif, count)
        return unique_names(named) if named is not None else default_names(count)

    def _has_alpha(self) -> bool:
        """Whether the last sample is declared as transparency (a fourth stain is not)."""
        extra = self._series[0].keyframe.extrasamples
        return len(extra) == 1 and extra[0] in (
            tifffile.EXTRASAMPLE.ASSOCALPHA,
            tifffile.EXTRASAMPLE.UNASSALPHA,
        )


def _find_layout(axes: str, shape: Sequence[int], name: str, *, stack: bool) -> _Layout:
    """Decide what each axis means, or reject the file with the reason."""
    if axes.count("Y") != 1 or axes.count("X") != 1:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH, f"{name}: axes {axes} of shape {tuple(shape)} are not an image"
        )
    y, x = axes.index("Y"), axes.index("X")
    rest = [i for i in range(len(axes)) if i not in (y, x)]
    pages = [i for i in rest if axes[i] in _UNKNOWN]
    long = [i for i in rest if shape[i] > 1]
    channels = [i for i in long if axes[i] in "SC"]
    stacked = [i for i in long if i not in channels and i not in pages]
    if stack and not stacked and (len(pages) > 1 or (pages and shape[pages[0]] > 1)):
        stacked, pages = (
            pages[:1],
            pages[1:],
        )  # the first page axis counts the images, a second one their channels
    channels += [i for i in pages if shape[i] > 1]
    if len(channels) > 1 or len(stacked) > (1 if stack else 0):
        kinds = ", ".join(f"{axes[i]} {shape[i]}" for i in long)
        fix = (
            "only one axis besides the channels can be a stack"
            if stack
            else "set input.stack: true to make each position an image, or give an index column"
        )
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH, f"{name}: more than one image plane a channel ({kinds}); {fix}"
        )
    return _Layout(stack=stacked[0] if stacked else None, channel=channels[0] if channels else None, y=y, x=x)
