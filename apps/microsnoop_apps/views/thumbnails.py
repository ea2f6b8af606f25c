"""Small pictures of windows: padding, contrast, colours and scale. Arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from microsnoop.io.formats import RGB as RGB_CHANNELS
from microsnoop.ops.geometry import Box
from microsnoop.ops.intensity import Scaling, plane_scaling

Colour = tuple[int, int, int]

# each is two primaries or all, so that no channel is as dark as pure blue; where two overlap, it gets whiter
PALETTE: dict[str, Colour] = {
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "yellow": (255, 255, 0),
    "grey": (150, 150, 150),
}
GREY: Colour = (255, 255, 255)
OUTSIDE: Colour = (214, 217, 224)  # beyond the border of the image: like paper, unlike any dark background
_NICE = (1, 2, 5)


@dataclass(frozen=True)
class Look:
    """How channels become colours: one a channel; ``together`` stretches all by the same map, so that hues stay."""

    channels: tuple[str, ...]
    colours: tuple[Colour, ...]
    names: tuple[str, ...]
    together: bool = False

    @property
    def text(self) -> str:
        """What the colours mean, for a title."""
        if self.together:
            return "colour"
        return ", ".join(f"{c} {n}" for c, n in zip(self.channels, self.names, strict=True))


def look_of(channels: Sequence[str]) -> Look:
    """Return the colours of some channels: one is grey, red, green and blue are themselves, others get a palette.

    Raises
    ------
    ValueError
        More channels than colours.
    """
    chosen = tuple(channels)
    if len(chosen) == 1:
        return Look(chosen, (GREY,), ("grey",))
    if set(chosen) == set(RGB_CHANNELS):
        primaries = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
        return Look(chosen, tuple(primaries[name] for name in chosen), chosen, together=True)
    if not 1 <= len(chosen) <= len(PALETTE):
        raise ValueError(f"1 to {len(PALETTE)} channels have a colour, got {len(chosen)}")
    names = tuple(PALETTE)[: len(chosen)]
    return Look(chosen, tuple(PALETTE[name] for name in names), names)


def padded(planes: NDArray[Any], box: Box, image_px: tuple[int, int]) -> tuple[Any, NDArray[np.bool_]]:
    """Return a whole window (C, H, W), 0 outside of the image, and which of its pixels (H, W) are real.

    ``planes`` (C, h, w) are the real pixels of ``box``.
    """
    real = box.clipped(*image_px)
    top, left = real.y0_px - box.y0_px, real.x0_px - box.x0_px
    window = np.zeros((len(planes), box.height_px, box.width_px), planes.dtype)
    inside = np.zeros(window.shape[1:], bool)
    place = (slice(top, top + real.height_px), slice(left, left + real.width_px))
    window[:, *place] = planes
    inside[place] = True
    return window, inside


def finite(planes: NDArray[Any]) -> NDArray[Any]:
    """Return planes with the smallest number instead of NaN and infinity: a field may hold some beside its cells."""
    good = np.isfinite(planes)
    return planes if good.all() else np.where(good, planes, planes[good].min() if good.any() else 0)


def contrast(planes: NDArray[Any], *, low: float, high: float, together: bool = False) -> Scaling:
    """Return the map that makes two percentiles of each plane (C, h, w) black and bright, as the encoder's does.

    ``together``: one map for all planes.
    """
    if not together:
        return plane_scaling(planes, low=low, high=high)
    return plane_scaling(planes.reshape(1, -1, planes.shape[-1]), low=low, high=high)


def sheet_contrast(pictures: Sequence[NDArray[Any]], *, low: float, high: float, together: bool) -> Scaling:
    """Return one map for all pictures (C, h, w), from all their pixels."""
    pixels = np.concatenate([planes.reshape(len(planes), -1) for planes in pictures], axis=1)
    return contrast(pixels[:, None], low=low, high=high, together=together)


def coloured(planes: NDArray[Any], scaling: Scaling, look: Look) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) of planes (C, H, W): each channel in its colour, added up."""
    offset, span = (np.broadcast_to(v, len(planes))[:, None, None] for v in (scaling.offset, scaling.span))
    levels = np.clip((planes.astype(np.float64) - offset) / span, 0, 1)
    picture = np.einsum("chw,cr->hwr", levels, np.array(look.colours, float))
    shown: NDArray[np.uint8] = np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
    return shown


def thumbnail(
    picture: NDArray[np.uint8], inside: NDArray[np.bool_], *, zoom: float, side_px: int
) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) scaled by ``zoom`` in the middle of a white square; what is not real is padding."""
    shown = picture.copy()
    shown[~inside] = OUTSIDE
    height, width = (min(side_px, max(1, round(side * zoom))) for side in inside.shape)
    if (height, width) != inside.shape:
        # Pillow widens the kernel where it shrinks, so no pixel is skipped
        shown = np.asarray(Image.fromarray(shown).resize((width, height), Image.Resampling.BICUBIC))
    square = np.full((side_px, side_px, 3), 255, np.uint8)
    top, left = (side_px - height) // 2, (side_px - width) // 2
    square[top : top + height, left : left + width] = shown
    return square


def scale_bar(sheet_px_per_unit: float, *, room_px: int) -> tuple[int, float]:
    """Return the longest bar of 1, 2 or 5 times a power of ten units that has room: its pixels, its units."""
    most = room_px / sheet_px_per_unit
    power = 10.0 ** math.floor(math.log10(most))
    units = max(nice * power for nice in _NICE if nice * power <= most * (1 + 1e-9))
    return round(units * sheet_px_per_unit), units
