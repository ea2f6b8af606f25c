"""PNG and JPEG pictures as slides of one level: decoded whole, so at most 200 megapixels, and without a scale."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io.opener import open_binary
from microsnoop.io.raster import RasterImage
from microsnoop.io.slide_levels import CONVERT, LIMIT_PX, LevelReader, SlideSource, on_white
from microsnoop.io.slide_mpp import MppHints
from microsnoop.ops.geometry import Box

_ANY_SIZE = 2**62


class _Picture(RasterImage):
    """A picture that is kept as Pillow decodes it; parts become colours when they are asked for."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        super().__init__(stream, name, limit_px=_ANY_SIZE)  # only the header is read here

    def crop(self, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) uint8 of a box inside the picture."""
        right, bottom = box.x0_px + box.width_px, box.y0_px + box.height_px
        part: Image.Image = self._image.crop((box.x0_px, box.y0_px, right, bottom))
        transparent = "A" in part.mode or "transparency" in part.info
        return on_white(np.asarray(part.convert("RGBA" if transparent else "RGB")))


class PlainSlideReader(LevelReader):
    """A picture without a pyramid. Its resolution in dots per inch is one for printing and not used."""

    _picture: Any = None

    def __init__(self, source: SlideSource) -> None:
        super().__init__(source)
        self._open_anew()
        info = self._picture.info
        self._describe(
            [(info.width_px, info.height_px)], MppHints(), {"reader": "plain", "format": "picture"}
        )

    def _open(self) -> None:
        stream = open_binary(self.path)
        try:
            self._picture = _Picture(stream, self.path)
        except Exception:
            stream.close()
            raise
        info = self._picture.info
        if info.dtype != "uint8":
            raise SlideError(
                SlideCode.DECODE_ERROR, f"{self.path}: pixels of type {info.dtype}, not 8 bits", CONVERT
            )
        if info.height_px * info.width_px > LIMIT_PX:
            raise SlideError(
                SlideCode.UNTILED,
                f"{self.path}: {info.width_px:,} × {info.height_px:,} px, of which a picture must be decoded as a "
                f"whole; at most {LIMIT_PX / 1e6:g} megapixels",
                CONVERT,
            )

    def _close(self) -> None:
        if self._picture is not None:
            self._picture.close()
        self._picture = None

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:  # noqa: ARG002  (there is one)
        part: NDArray[np.uint8] = self._picture.crop(box)
        return part
