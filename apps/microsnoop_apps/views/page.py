"""A picture of exact pixels with plain text on it: what is pasted arrives unchanged, and `$` is just a `$`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from microsnoop.core.errors import ConfigError, RunError

RGB = tuple[int, int, int]

INK, PALE_INK, PAPER = (25, 25, 30), (110, 110, 118), (255, 255, 255)
_LONG = 400  # more characters than any line has room for


class Page:
    """A white page of ``height_px`` × ``width_px``; places are (y, x) from its upper left corner."""

    def __init__(self, height_px: int, width_px: int) -> None:
        self._image = Image.new("RGB", (width_px, height_px), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def paste(self, picture: NDArray[np.uint8], *, y: int, x: int) -> None:
        """Put a picture (H, W, 3) there."""
        self._image.paste(Image.fromarray(picture), (x, y))

    def fill(self, colour: RGB, *, y: int, x: int, height: int, width: int, frame: RGB | None = None) -> None:
        """Fill a rectangle, with a thin line around it if asked for."""
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour, outline=frame)

    def write(
        self,
        text: str,
        *,
        y: int,
        x: int,
        size_px: int = 14,
        bold: bool = False,
        anchor: str = "lm",
        colour: RGB = INK,
        room_px: int | None = None,
    ) -> int:
        """Write one line, shortened with `…` to ``room_px``; return its width in pixels.

        ``anchor``: what of the line stands at (y, x), as Pillow names it: left, middle, right, then vertically.
        """
        text = " ".join(text.split())[:_LONG]
        font = _font(size_px, bold)
        if room_px is not None and font.getlength(text) > room_px:
            text = _shortened(text, font, room_px)
        self._draw.text((x, y), text, font=font, fill=colour, anchor=anchor)
        return round(font.getlength(text))

    def save(self, path: Path) -> Path:
        """Write the page as PNG.

        Raises
        ------
        RunError
            The file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._image.save(path, format="PNG")
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error
        return path


def picture_path(data: Path, out: Path | None, what: str) -> Path:
    """Return where a picture goes: beside the data unless ``out`` says otherwise.

    Raises
    ------
    ConfigError
        It is no ``.png``.
    """
    if out is None:
        name = data.stem if data.suffix in (".h5ad", ".zarr") else data.name
        return data.with_name(f"{name}.{what}.png")
    if out.suffix != ".png":
        raise ConfigError(f"--out {out} must end in .png")
    return out


def text_width(text: str, *, size_px: int = 14, bold: bool = False) -> int:
    """Return how wide a line is."""
    return round(_font(size_px, bold).getlength(" ".join(text.split())[:_LONG]))


def _shortened(text: str, font: Any, room_px: int) -> str:
    """Leave out the end of a name, or the beginning of a path, whose end says more."""
    path = "/" in text
    while text and font.getlength(f"{text}…") > room_px:
        text = text[1:] if path else text[:-1]
    return f"…{text}" if path else f"{text}…"


@lru_cache(maxsize=16)
def _font(size_px: int, bold: bool) -> Any:
    """DejaVu Sans comes with matplotlib and has the signs that biologists write: µ, Greek, ±."""
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size_px)
