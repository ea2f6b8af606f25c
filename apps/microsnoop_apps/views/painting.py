"""Coloured outlines and boxes over the picture of a field. Arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.geometry import Box
from microsnoop.ops.outlines import Colour, outline

REJECTED: Colour = (150, 150, 150)
OTHER: Colour = (95, 105, 125)  # an object that is neither in the file nor rejected
THIN_PX = 1
_DOT_PX = 6
_DARK: Colour = (20, 20, 20)
_SHOWN_PX = 1000  # a smaller picture is enlarged by a whole number,
_LARGEST_PX = 4000  # a larger one is shrunk by one


@dataclass(frozen=True)
class Size:
    """How a field (H, W) is brought to the size of the picture: each pixel ``zoom`` times, or means of blocks."""

    zoom: int = 1
    shrink: int = 1

    @classmethod
    def of(cls, height_px: int, width_px: int) -> Size:
        """Return what suits a field of this size."""
        longest = max(height_px, width_px)
        return cls(max(1, round(_SHOWN_PX / longest)), -(-longest // _LARGEST_PX))

    @property
    def factor(self) -> float:
        """Picture pixels a pixel of the field."""
        return self.zoom / self.shrink

    @property
    def line_px(self) -> int:
        """How thick the outlines are that matter."""
        return min(4, 1 + self.zoom)

    def planes(self, planes: NDArray[Any]) -> NDArray[Any]:
        """Return planes (C, H, W) in the size of the picture."""
        if self.shrink > 1:
            return block_means(planes, self.shrink)
        return planes.repeat(self.zoom, axis=1).repeat(self.zoom, axis=2)

    def mask(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Return a label mask (H, W) in the size of the picture; labels are never mixed."""
        s = self.shrink
        if s > 1:
            height, width = mask.shape[0] // s, mask.shape[1] // s
            return mask[s // 2 : height * s : s, s // 2 : width * s : s]
        return mask.repeat(self.zoom, axis=0).repeat(self.zoom, axis=1)

    def box(self, box: Box) -> Box:
        """Return a box in the size of the picture."""
        y0, x0 = (int(v * self.factor // 1) for v in (box.y0_px, box.x0_px))
        y1 = int((box.y0_px + box.height_px) * self.factor // 1)
        x1 = int((box.x0_px + box.width_px) * self.factor // 1)
        return Box(y0, x0, max(1, y1 - y0), max(1, x1 - x0))


def block_means(planes: NDArray[Any], side_px: int) -> NDArray[np.float32]:
    """Return the means of blocks of planes (C, H, W); what is left over at the far borders is cut off."""
    count, height, width = planes.shape[0], planes.shape[1] // side_px, planes.shape[2] // side_px
    whole = planes[:, : height * side_px, : width * side_px].reshape(count, height, side_px, width, side_px)
    means: NDArray[np.float32] = whole.mean(axis=(2, 4), dtype=np.float32)
    return means


def paint_labels(
    picture: NDArray[np.uint8], mask: NDArray[Any], colours: Mapping[int, Colour], *, line_px: int
) -> None:
    """Paint the outlines of the labels in ``colours`` over a picture (H, W, 3), in place, inside each object."""
    edge = _band(mask, line_px)
    labels, which = np.unique(mask[edge], return_inverse=True)
    chosen = np.isin(labels, list(colours))
    edge[edge] = chosen[which]
    table = np.array([colours.get(int(label), (0, 0, 0)) for label in labels], np.uint8).reshape(-1, 3)
    picture[edge] = table[which[chosen[which]]]


def paint_boxes(
    picture: NDArray[np.uint8], boxes: Sequence[Box], colours: Sequence[Colour], *, line_px: int
) -> None:
    """Paint frames just inside of boxes over a picture (H, W, 3), in place; what lies outside is not seen."""
    height, width = picture.shape[:2]
    for box, colour in zip(boxes, colours, strict=True):
        y0, x0, y1, x1 = box.y0_px, box.x0_px, box.y0_px + box.height_px, box.x0_px + box.width_px
        for top, bottom, left, right in (
            (y0, min(y0 + line_px, y1), x0, x1),
            (max(y1 - line_px, y0), y1, x0, x1),
            (y0, y1, x0, min(x0 + line_px, x1)),
            (y0, y1, max(x1 - line_px, x0), x1),
        ):
            rows = slice(min(max(top, 0), height), min(max(bottom, 0), height))
            cols = slice(min(max(left, 0), width), min(max(right, 0), width))
            picture[rows, cols] = colour


def paint_dots(
    picture: NDArray[np.uint8], centres: Sequence[tuple[float, float]], colours: Sequence[Colour]
) -> None:
    """Paint discs with a dark rim at (y, x) over a picture (H, W, 3), in place, later ones over earlier ones."""
    height, width = picture.shape[:2]
    for (y, x), colour in zip(centres, colours, strict=True):
        rows, cols = (
            np.arange(max(0, round(c) - _DOT_PX), min(side, round(c) + _DOT_PX + 1))
            for c, side in ((y, height), (x, width))
        )
        away = np.hypot(rows[:, None] - round(y), cols[None] - round(x))
        for reach, paint in ((_DOT_PX, _DARK), (_DOT_PX - 1.5, colour)):
            near_y, near_x = np.nonzero(away <= reach)
            picture[rows[near_y], cols[near_x]] = paint


def _band(mask: NDArray[Any], line_px: int) -> NDArray[np.bool_]:
    """Return the pixels of objects within ``line_px`` of their boundary: one ring after the other."""
    left = mask.copy()
    band = np.zeros(mask.shape, bool)
    for _ in range(line_px):
        ring = outline(left)
        band |= ring
        left[ring] = 0
    return band
