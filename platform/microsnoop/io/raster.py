"""PNG, JPEG and BMP through Pillow; 16-bit colour PNG through imagecodecs, because Pillow would halve its depth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.formats import RGB, ImageInfo, Pixels, as_pixels, check_size, default_names

_MODES_AS_THEY_ARE = {"L", "RGB", "I;16", "I;16B", "I", "F", "1"}
_ONE_CHANNEL = {"L", "I;16", "I;16B", "I", "F", "1", "LA"}
_DTYPES = {"I;16": "uint16", "I;16B": "uint16", "I": "int32", "F": "float32"}


class RasterImage:
    """One PNG, JPEG or BMP file: grey as one channel, colour as red, green, blue.

    Palettes become colours, CMYK becomes RGB (flagged), an alpha channel is dropped (flagged unless it is
    fully opaque, where it carries nothing).
    """

    def __init__(self, stream: BinaryIO, name: str, *, limit_px: int) -> None:
        self._stream, self._name = stream, name
        self._deep_colour = _is_deep_colour_png(stream)
        with _without_pillows_own_limit():
            try:
                self._image = Image.open(stream, formats=("PNG", "JPEG", "BMP"))
            except UnidentifiedImageError as error:
                raise RowRejected(
                    RejectCode.DECODE_ERROR, f"{name}: the header is damaged ({error})"
                ) from error
        width, height = self._image.size
        channels = default_names(1) if self._image.mode in _ONE_CHANNEL else RGB
        check_size(name, (len(channels), height, width), limit_px=limit_px)
        frames = getattr(self._image, "n_frames", 1)
        if frames > 1:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH, f"{name}: an animation of {frames} frames is not one image"
            )
        dtype = "uint16" if self._deep_colour else _DTYPES.get(self._image.mode, "uint8")
        self.info = ImageInfo(1, channels, height, width, dtype)

    def read(self, index: int) -> Pixels:
        """Return planes (1 or 3, H, W)."""
        if index != 0:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH, f"{self._name}: has one image, index {index} was asked"
            )
        array, flags = self._decode_deep() if self._deep_colour else self._decode()
        planes = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
        pixels = as_pixels(np.ascontiguousarray(planes), self._name)
        return Pixels(pixels.planes, flags + pixels.flags)

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
        if array.shape[-1] == 4:
            opaque = (array[..., 3] == np.iinfo(array.dtype).max).all()
            return array[..., :3], () if opaque else (Flag.ALPHA_DROPPED,)
        return array, ()


def _is_deep_colour_png(stream: BinaryIO) -> bool:
    """Whether the header says PNG, 16 bits a sample, colour (types 2 and 6)."""
    head = stream.read(26)
    stream.seek(0)
    return head.startswith(b"\x89PNG") and len(head) == 26 and head[24] == 16 and head[25] in (2, 6)


@contextmanager
def _without_pillows_own_limit() -> Iterator[None]:
    """Open headers of any size: the check that follows uses the run's own limit instead of Pillow's."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
