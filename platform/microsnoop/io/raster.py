"""PNG, JPEG and BMP through Pillow; 16-bit PNG with several samples through imagecodecs, as Pillow halves its depth."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

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
)
from microsnoop.ops.geometry import Box

_MODES_AS_THEY_ARE = {"L", "RGB", "I;16", "I;16B", "I", "F", "1"}
_ONE_CHANNEL = {"L", "I;16", "I;16B", "I", "F", "1", "LA"}
_PILLOW_SETTINGS = threading.Lock()  # they are global to the process
_DTYPES = {"I;16": "uint16", "I;16B": "uint16", "I": "int32", "F": "float32"}


class RasterImage:
    """One PNG, JPEG or BMP file: grey as one channel, colour as red, green, blue.

    Palettes become colours, CMYK becomes RGB (flagged), an alpha channel is dropped (flagged unless it is
    fully opaque, where it carries nothing).
    """

    def __init__(self, stream: BinaryIO, name: str, *, limit_px: int) -> None:
        self._stream, self._name, self._limit_px = stream, name, limit_px
        self._deep_samples = _samples_of_deep_png(stream)
        with _without_pillows_own_limit():
            try:
                self._image = Image.open(stream, formats=("PNG", "JPEG", "BMP"))
            except UnidentifiedImageError as error:
                raise RowRejected(
                    RejectCode.DECODE_ERROR, f"{name}: the header is damaged ({error})"
                ) from error
        width, height = self._image.size
        grey = self._image.mode in _ONE_CHANNEL if not self._deep_samples else self._deep_samples == 2
        channels = default_names(1) if grey else RGB
        check_size(name, (len(channels), height, width), limit_px=limit_px)
        frames = getattr(self._image, "n_frames", 1)
        if frames > 1:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH, f"{name}: an animation of {frames} frames is not one image"
            )
        dtype = "uint16" if self._deep_samples else _DTYPES.get(self._image.mode, "uint8")
        self.info = ImageInfo(1, channels, height, width, dtype, lossy=self._image.format == "JPEG")

    def read(self, index: int, box: Box | None = None, *, channels: Sequence[int] | None = None) -> Pixels:
        """Return planes (1 or 3, H, W), or a part of them; everything is decoded."""
        if index != 0:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH, f"{self._name}: has one image, index {index} was asked"
            )
        check_box(box, self.info, name=self._name, limit_px=self._limit_px)
        array, flags = self._decode_deep() if self._deep_samples else self._decode()
        planes = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        pixels = as_pixels(np.ascontiguousarray(planes), self._name)
        return part_of(Pixels(pixels.planes, flags + pixels.flags), box, channels)

    def close(self) -> None:
        """Close image and stream."""
        self._image.close()
        self._stream.close()

    def _decode(self) -> tuple[NDArray[Any], tuple[Flag, ...]]:
        image: Image.Image = self._image
        flags: tuple[Flag, ...] = ()
        if image.mode == "CMYK":
            image, flags = image.convert("RGB"), (Flag.CMYK_CONVERTED,)
        elif image.mode not in _MODES_AS_THEY_ARE:
            transparent = "A" in image.mode or "transparency" in image.info
            target = ("LA" if image.mode == "LA" else "RGBA") if transparent else "RGB"
            image = image.convert(target)
        array = np.asarray(image)
        if image.mode in ("LA", "RGBA"):
            flags += () if (array[..., -1] == 255).all() else (Flag.ALPHA_DROPPED,)
            array = array[..., 0] if image.mode == "LA" else array[..., :3]
        return array, flags

    def _decode_deep(self) -> tuple[NDArray[Any], tuple[Flag, ...]]:
        import imagecodecs  # loads slowly, and only this rare kind of file needs it here

        self._stream.seek(0)
        array = imagecodecs.png_decode(self._stream.read())
        if self._deep_samples in (2, 4):
            opaque = (array[..., -1] == np.iinfo(array.dtype).max).all()
            colour = array[..., 0] if self._deep_samples == 2 else array[..., :3]
            return colour, () if opaque else (Flag.ALPHA_DROPPED,)
        return array, ()


def _samples_of_deep_png(stream: BinaryIO) -> int:
    """Return the samples a pixel of a 16-bit PNG with more than one (colour types 2, 4, 6), else 0."""
    head = stream.read(26)
    stream.seek(0)
    deep = head.startswith(b"\x89PNG") and len(head) == 26 and head[24] == 16
    return {2: 3, 4: 2, 6: 4}.get(head[25], 0) if deep else 0


@contextmanager
def _without_pillows_own_limit() -> Iterator[None]:
    """Open headers of any size: the check that follows uses the run's own limit instead of Pillow's."""
    with _PILLOW_SETTINGS:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
