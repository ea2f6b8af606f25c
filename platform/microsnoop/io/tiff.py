"""TIFF, BigTIFF, ImageJ and OME-TIFF: planes as (C, H, W), stacks page by page.

Axes as tifffile names them: Y X space, S colour samples, C channels; Q and I are pages of unknown meaning
(channels, unless the file is read as a stack); anything else (T time, Z depth, R positions ...) longer than 1
makes the file a stack, and a file that is not meant as one is refused with that reason.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.formats import RGB, ImageInfo, Pixels, as_pixels, check_size, default_names, unique_names
from microsnoop.io.tiff_metadata import channel_names, pixel_size_um

# tifffile reports damage through its logger and goes on; what matters is checked here and raised
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

_UNKNOWN = "QI"


@dataclass(frozen=True)
class _Layout:
    """Which axis of the series is what; ``stack`` and ``channel`` are positions in its shape, or None."""

    stack: int | None
    channel: int | None
    y: int
    x: int


class TiffImage:
    """The first series of a TIFF file, at full resolution."""

    def __init__(self, stream: BinaryIO, name: str, *, limit_px: int, stack: bool) -> None:
        self._stream, self._name = stream, name
        self._tif = tifffile.TiffFile(stream, name=name)
        if not self._tif.series:
            raise RowRejected(RejectCode.DECODE_ERROR, f"{name}: a TIFF file without any image")
        self._series = self._tif.series[0]
        axes, shape = self._series.axes, self._series.shape
        self._layout = _find_layout(axes, shape, name, stack=stack)
        count = shape[self._layout.channel] if self._layout.channel is not None else 1
        height, width = shape[self._layout.y], shape[self._layout.x]
        check_size(name, (count, height, width), limit_px=limit_px)
        self._check_complete()
        self._samples = self._layout.channel is not None and axes[self._layout.channel] == "S"
        self._alpha = self._samples and self._has_alpha()
        self.info = ImageInfo(
            n_images=shape[self._layout.stack] if self._layout.stack is not None else 1,
            channels=self._names(count - self._alpha),
            height_px=height,
            width_px=width,
            dtype=str(self._series.dtype),
            pixel_size_um=pixel_size_um(self._tif),
        )

    def read(self, index: int) -> Pixels:
        """Return planes (C, H, W) of one image; of a stack, only the pages of that image are read."""
        if not 0 <= index < self.info.n_images:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"{self._name}: has {self.info.n_images} images, index {index} was asked",
            )
        planes = self._planes(self._read_array(index))
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

    def _read_array(self, index: int) -> NDArray[Any]:
        """Return the series' array with the stack axis reduced to length 1."""
        series, layout = self._series, self._layout
        if layout.stack is None:
            array: NDArray[Any] = series.asarray(maxworkers=1)
            return array
        per_image = len(series.pages) / self.info.n_images
        if layout.stack == 0 and per_image >= 1 and per_image.is_integer():
            first = index * int(per_image)
            pages = [series.pages[first + i].asarray(maxworkers=1) for i in range(int(per_image))]
            return np.stack(pages).reshape((1, *series.shape[1:]))
        return np.take(series.asarray(maxworkers=1), [index], axis=layout.stack)

    def _planes(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring an array with all axes of the series (stack axis 1) to (C, H, W)."""
        layout = self._layout
        wanted = [axis for axis in (layout.channel, layout.y, layout.x) if axis is not None]
        others = [axis for axis in range(array.ndim) if axis not in wanted]
        ordered = array.transpose(*others, *wanted)
        return ordered.reshape(-1, *ordered.shape[-2:])

    def _names(self, count: int) -> tuple[str, ...]:
        colour = (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR)
        if self._samples and count == 3 and self._series.keyframe.photometric in colour:
            return RGB
        named = channel_names(self._tif, count)
        return unique_names(named) if named is not None else default_names(count)

    def _has_alpha(self) -> bool:
        """Whether the last sample is declared as transparency (a fourth stain is not)."""
        extra = self._series.keyframe.extrasamples
        return len(extra) == 1 and extra[0] in (
            tifffile.EXTRASAMPLE.ASSOCALPHA,
            tifffile.EXTRASAMPLE.UNASSALPHA,
        )

    def _check_complete(self) -> None:
        """Refuse a file whose pixels lie (partly) beyond its end or in other files: no reader may invent them."""
        size = self._tif.filehandle.size
        pages = self._series.pages
        # of a very long stack the first and last page: they bound the others in every file written in order
        looked_at = range(len(pages)) if len(pages) <= 256 else (0, len(pages) - 1)
        for page in (pages[i] for i in looked_at):
            if page is None:
                raise RowRejected(
                    RejectCode.DECODE_ERROR,
                    f"{self._name}: part of a multi-file OME-TIFF: some planes are elsewhere",
                )
            ends = [start + n for start, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
            if max(ends, default=0) > size:
                raise RowRejected(
                    RejectCode.DECODE_ERROR,
                    f"{self._name}: truncated: {size:,} bytes, but its pixels reach to byte {max(ends):,}",
                )


def _find_layout(axes: str, shape: Sequence[int], name: str, *, stack: bool) -> _Layout:
    """Decide what each axis means, or reject the file with the reason."""
    if axes.count("Y") != 1 or axes.count("X") != 1:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH, f"{name}: axes {axes} of shape {tuple(shape)} are not an image"
        )
    y, x = axes.index("Y"), axes.index("X")
    long = [i for i, size in enumerate(shape) if size > 1 and i not in (y, x)]
    samples = [i for i in long if axes[i] == "S"]
    channels = [i for i in long if axes[i] == "C"]
    unknown = [i for i in long if axes[i] in _UNKNOWN]
    stacked = [i for i in long if i not in samples + channels + unknown]
    if stack and not stacked:  # the first page axis counts the images, a second one their channels
        stacked, unknown = unknown[:1], unknown[1:]
    channels += unknown
    if len(samples + channels) > 1 or len(stacked) > (1 if stack else 0):
        kinds = ", ".join(f"{axes[i]} {shape[i]}" for i in long)
        fix = (
            "only one axis besides the channels can be a stack"
            if stack
            else "set input.stack: true to make each position an image, or give an index column"
        )
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH, f"{name}: more than one image plane a channel ({kinds}); {fix}"
        )
    channel = (samples + channels)[0] if samples + channels else None
    return _Layout(stack=stacked[0] if stacked else None, channel=channel, y=y, x=x)
