"""The layout of a contact sheet: a row a group, nearest to the left, farthest to the right, all at one scale."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import RunError
from microsnoop.io.parts import write_atomic
from microsnoop_apps.views.groups import Pick
from microsnoop_apps.views.page import PALE_INK, Page, text_width
from microsnoop_apps.views.thumbnails import Look, scale_bar, thumbnail

THUMB_PX = 120
_GAP_PX, _MARGIN_PX, _BETWEEN_PX, _CAPTION_PX = 6, 24, 34, 22
_HEADER_PX, _BLOCK_TITLE_PX = 74, 26
_LABEL_PX = (110, 260)
_LABEL_SIZE_PX = 16
_NARROWEST_PX = 960


@dataclass(frozen=True)
class Shown:
    """A picture (H, W, 3), which of its pixels are real, and the side of one in µm, if known, and in image pixels."""

    picture: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    pixel_size_um: float | None
    pixel_px: int = 1

    def pixel(self, unit: str) -> float:
        """Return the side of a pixel in ``µm`` or ``px``."""
        return self.pixel_size_um or 1.0 if unit == "µm" else self.pixel_px


@dataclass(frozen=True)
class _Columns:
    """Where the two blocks of pictures stand."""

    label_px: int
    nearest: int
    farthest: int

    def x_of(self, side: str, position: int) -> int:
        step = THUMB_PX + _GAP_PX
        start = _MARGIN_PX + self.label_px
        if side == "farthest":
            start += self.nearest * step + (_BETWEEN_PX if self.nearest else 0)
        return start + position * step

    @property
    def width_px(self) -> int:
        return max(_NARROWEST_PX, self.x_of("farthest", self.farthest) - _GAP_PX + _MARGIN_PX)


def draw_sheet(
    picks: Sequence[Pick],
    shown: Sequence[Shown],
    *,
    sizes: dict[str, int],
    title: str,
    subtitle: str,
    look: Look,
) -> Page:
    """Lay out pictures of ``picks``, one each; ``sizes`` are the rows of each group, in the order of the sheet.

    Distances grow from left to right: the farthest of all stands last.
    """
    columns = _columns(picks, sizes)
    step = THUMB_PX + _CAPTION_PX + _GAP_PX
    top = _HEADER_PX + _BLOCK_TITLE_PX
    page = Page(top + len(sizes) * step + _MARGIN_PX // 2, columns.width_px)
    _header(page, title, subtitle, look, columns.width_px)
    zoom, unit = _zoom(shown)
    _scale(page, zoom, unit, columns.width_px)
    for side, n, text in (
        ("nearest", columns.nearest, "nearest to the centre"),
        ("farthest", columns.farthest, "farthest from the centre"),
    ):
        if n:
            page.write(text, y=top - 14, x=columns.x_of(side, 0), size_px=14, bold=True)
    digits = 5 if 0 < max(pick.distance for pick in picks) < 0.02 else 3
    names = list(sizes)
    for pick, one in zip(picks, shown, strict=True):
        x = columns.x_of(pick.side, _position(pick, picks))
        y = top + names.index(pick.group) * step
        factor = zoom * one.pixel(unit)
        page.paste(thumbnail(one.picture, one.inside, zoom=factor, side_px=THUMB_PX), y=y, x=x)
        page.write(
            f"{pick.distance:.{digits}f}", y=y + THUMB_PX + 10, x=x + THUMB_PX // 2, size_px=12, anchor="mm",
            colour=PALE_INK,
        )  # fmt: skip
    for i, (name, size) in enumerate(sizes.items()):
        middle = top + i * step + THUMB_PX // 2
        page.write(
            name,
            y=middle - 10,
            x=_MARGIN_PX,
            size_px=_LABEL_SIZE_PX,
            bold=True,
            room_px=columns.label_px - 12,
        )
        page.write(f"n = {size:,}", y=middle + 12, x=_MARGIN_PX, size_px=13, colour=PALE_INK)
    return page


def write_table(path: Path, picks: Sequence[Pick], obs: pd.DataFrame) -> None:
    """Write what is on a sheet as CSV, in the order of the groups.

    Raises
    ------
    RunError
        The file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["group", "rank", "side", "distance", "obs_id", "image_id"])
    names, images = obs.index, obs["image_id"]
    for pick in picks:
        row = [
            pick.group,
            pick.rank,
            pick.side,
            f"{pick.distance:.6g}",
            names[pick.row],
            images.iloc[pick.row],
        ]
        table.writerow(row)
    try:
        write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _columns(picks: Sequence[Pick], sizes: dict[str, int]) -> _Columns:
    widest = max(text_width(name, size_px=_LABEL_SIZE_PX, bold=True) for name in sizes) + 16
    most = {
        side: max((p.rank for p in picks if p.side == side), default=0) for side in ("nearest", "farthest")
    }
    return _Columns(int(np.clip(widest, *_LABEL_PX)), most["nearest"], most["farthest"])


def _position(pick: Pick, picks: Sequence[Pick]) -> int:
    if pick.side == "nearest":
        return pick.rank - 1
    return sum(p.group == pick.group and p.side == pick.side for p in picks) - pick.rank


def _header(page: Page, title: str, subtitle: str, look: Look, width_px: int) -> None:
    room = width_px - 2 * _MARGIN_PX - 2 * THUMB_PX
    page.write(title, y=26, x=_MARGIN_PX, size_px=20, bold=True, room_px=room)
    x = _MARGIN_PX
    if look.together or len(look.channels) == 1:
        x += page.write(f"{look.text}; ", y=54, x=x, size_px=14) + 5
    else:
        for name, colour, meaning in zip(look.channels, look.colours, look.names, strict=True):
            page.fill(colour, y=48, x=x, height=13, width=13, frame=PALE_INK)
            x += 18 + page.write(f"{name} {meaning}", y=54, x=x + 18, size_px=14) + 14
    page.write(subtitle, y=54, x=x, size_px=14, colour=PALE_INK, room_px=width_px - x - 2 * THUMB_PX)


def _zoom(shown: Sequence[Shown]) -> tuple[float, str]:
    """Return sheet pixels a µm where every scale is known, else a pixel: the largest window fills its square."""
    unit = "µm" if all(one.pixel_size_um for one in shown) else "px"
    return THUMB_PX / max(max(one.inside.shape) * one.pixel(unit) for one in shown), unit


def _scale(page: Page, zoom: float, unit: str, width_px: int) -> None:
    length, units = scale_bar(zoom, room_px=THUMB_PX)
    x = width_px - _MARGIN_PX - length
    page.fill((25, 25, 30), y=48, x=x, height=5, width=length)
    page.write(f"{units:g} {unit}", y=32, x=x + length // 2, size_px=14, anchor="mm")
