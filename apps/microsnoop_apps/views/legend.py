"""A painted field with its title, legend, colour bar and scale bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.outlines import Colour
from microsnoop_apps.views.colouring import scale_colours
from microsnoop_apps.views.page import INK, PALE_INK, Page, text_width
from microsnoop_apps.views.thumbnails import scale_bar

_MOST_ENTRIES = 30
_USUAL_PX = 1100  # a larger picture gets larger letters


@dataclass(frozen=True)
class Entry:
    """One line of a legend."""

    colour: Colour | None
    text: str


@dataclass(frozen=True)
class Legend:
    """What the colours mean: groups, objects of other kinds, and for numbers the two ends of the colour bar."""

    title: str
    groups: Sequence[Entry]
    others: Sequence[Entry]
    span: tuple[float, float] | None = None


def draw_field(
    picture: NDArray[np.uint8], legend: Legend, *, title: str, subtitle: str, px_per_unit: float, unit: str
) -> Page:
    """Lay out a picture (H, W, 3) with its legend to the right; ``px_per_unit``: picture pixels a µm or pixel."""
    height, width = picture.shape[:2]
    k = max(1.0, max(height, width) / _USUAL_PX)
    margin, top, letters = round(22 * k), round(74 * k), round(15 * k)
    entries = _entries(legend)
    texts = [legend.title, *(entry.text for entry in entries), "000000000000"]
    column = min(round(320 * k), max(text_width(text, size_px=letters) for text in texts) + round(34 * k))
    rows = round((len(entries) + 8) * 24 * k) if legend.span is None else round(460 * k)
    page = Page(top + max(height, rows) + margin, width + 3 * margin + column)
    room = width + margin + column
    page.write(title, y=round(26 * k), x=margin, size_px=round(20 * k), bold=True, room_px=room)
    page.write(subtitle, y=round(54 * k), x=margin, size_px=round(14 * k), colour=PALE_INK, room_px=room)
    page.paste(picture, y=top, x=margin)
    x, y = width + 2 * margin, top + letters
    page.write(legend.title, y=y, x=x, size_px=letters, bold=True, room_px=column)
    y += round(28 * k)
    if legend.span is not None:
        y = _colour_bar(page, legend.span, y=y, x=x, k=k)
    for entry in entries:
        side = round(15 * k)
        if entry.colour is not None:
            page.fill(entry.colour, y=y - side // 2, x=x, height=side, width=side, frame=PALE_INK)
        page.write(entry.text, y=y, x=x + round(24 * k), size_px=letters, room_px=column - round(24 * k))
        y += round(24 * k)
    length, units = scale_bar(px_per_unit, room_px=min(round(120 * k), width))
    page.fill(INK, y=y + round(30 * k), x=x, height=round(5 * k), width=length)
    page.write(f"{units:g} {unit}", y=y + round(50 * k), x=x, size_px=letters)
    return page


def _entries(legend: Legend) -> list[Entry]:
    groups = list(legend.groups[:_MOST_ENTRIES])
    more = len(legend.groups) - len(groups)
    return [*groups, *([Entry(None, f"and {more} more")] if more else []), *legend.others]


def _colour_bar(page: Page, span: tuple[float, float], *, y: int, x: int, k: float) -> int:
    """Draw the scale of numbers, high above low; return where what follows begins."""
    height, width = round(256 * k), round(20 * k)
    bar = np.repeat(scale_colours(height)[::-1, None], width, axis=1)
    page.paste(np.ascontiguousarray(bar), y=y, x=x)
    low, high = span
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        page.write(
            f"{value:.4g}", y=y + round((1 - share) * (height - 1)), x=x + width + 8, size_px=round(15 * k)
        )
    return y + height + round(28 * k)
