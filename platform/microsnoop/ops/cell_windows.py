"""Windows around the objects of a mask: which objects are kept, and which pixels around each of them.

Source: Microsnoop spec, section 10. Corrected against the published code: boxes keep their last row and column, the
border rule holds on all four sides, an object that is left out is named with a code instead of vanishing, and at a
border the object stays in the middle of its window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.codes import Flag, RejectCode
from microsnoop.ops.geometry import Box
from microsnoop.ops.objects import ObjectTable

CropKind = Literal["region", "fixed", "bbox", "mask"]
Oversize = Literal["cap", "shrink", "reject"]
Align = Literal["object", "crop"]


@dataclass(frozen=True)
class CropRules:
    """Which objects are cropped, and how (lengths in pixels of the image, areas in pixels).

    ``region`` takes ``half_side_px``, or ``ratio`` times the longer side of the object's box, to each side of its
    centre; ``fixed`` half of ``window_px``; ``bbox`` and ``mask`` the box itself. ``oversize`` says what becomes of
    a window above ``window_px``, ``align`` whether a window may reach over the border (so that the object stays in
    its middle) or is clipped there. Without ``exclude_border`` the margin has no effect.

    Raises
    ------
    ValueError
        A name that is not listed, a number out of range, or ``half_side_px`` for a kind that has no ratio.
    """

    kind: CropKind
    ratio: float
    window_px: int
    oversize: Oversize
    half_side_px: int | None = None
    align: Align = "object"
    exclude_border: bool = True
    border_margin_px: int = 0
    min_area_px: float = 16.0
    max_area_px: float | None = None
    every_nth: int = 1
    max_cells: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("kind", CropKind), ("oversize", Oversize), ("align", Align)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name} must be one of {get_args(allowed)}, got {getattr(self, name)!r}")
        lowest: dict[str, float] = {"window_px": 2, "border_margin_px": 0, "min_area_px": 0, "every_nth": 1}
        lowest |= {"half_side_px": 1, "max_area_px": self.min_area_px, "max_cells": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least:g}, got {value}")
        if not (self.ratio > 0 and math.isfinite(self.ratio)):
            raise ValueError(f"ratio must be above 0 and finite, got {self.ratio}")
        if self.half_side_px is not None and self.kind != "region":
            raise ValueError(f"half_side_px belongs to kind region, not {self.kind}")


@dataclass(frozen=True)
class CellWindow:
    """The pixels around one object.

    ``box`` is the window in pixels of the image. ``factor`` is the scale at which it is shown: 1, or below 1 so
    that the longer side just fits ``window_px`` (``ops.geometry.scaled_px(side, factor) == window_px``).
    """

    box: Box
    factor: float = 1.0
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """Why an object has no window; the message names the numbers that decided."""

    code: RejectCode
    message: str


def plan_cells(
    table: ObjectTable,
    rules: CropRules,
    *,
    image_px: tuple[int, int],
    generator_for_draw: np.random.Generator,
) -> list[CellWindow | Skipped]:
    """Decide for every object of an image: its window, or why it has none.

    The first rule that speaks against an object names it: area, border, oversize, then the draw among what is left
    (every nth by label, then ``max_cells`` without replacement), which depends on nothing but the generator and
    the objects left. The generator is used only when there are more than ``max_cells``.

    Parameters
    ----------
    table
        The objects of the whole image; those of a block are merged first.
    image_px
        Height and width of the image.

    Returns
    -------
    One entry for each object, in the order of the table (by label).

    Raises
    ------
    ValueError
        An object reaches over the image: table and image do not belong together.
    """
    first = min(table.y0_px.min(initial=0), table.x0_px.min(initial=0))
    if first < 0 or table.y1_px.max(initial=0) > image_px[0] or table.x1_px.max(initial=0) > image_px[1]:
        raise ValueError(f"the table holds objects outside an image of {image_px[0]} × {image_px[1]} px")
    windows, cut_off = _source_windows(table, rules, image_px)
    skipped = _rejected(table, rules, image_px, windows)
    eligible = np.array([i for i in range(len(table)) if i not in skipped], np.int64)
    skipped |= _not_drawn(eligible, rules, generator_for_draw)
    longest = np.maximum(windows[:, 2], windows[:, 3])
    entries: list[CellWindow | Skipped] = []
    for i, (window, side_px) in enumerate(zip(windows.tolist(), longest.tolist(), strict=True)):
        if i in skipped:
            entries.append(skipped[i])
            continue
        shrunk = rules.oversize == "shrink" and side_px > rules.window_px
        flags = [
            flag
            for flag, holds in (
                (Flag.FRAGMENTED, table.n_pieces[i] > 1),
                (Flag.TRUNCATED, cut_off[i]),
                (Flag.SHRUNK, shrunk),
            )
            if holds
        ]
        entries.append(CellWindow(Box(*window), rules.window_px / side_px if shrunk else 1.0, tuple(flags)))
    return entries


def erase_outside(
    planes: NDArray[Any], mask_window: NDArray[Any], label: int, *, levels: NDArray[Any]
) -> NDArray[np.float32]:
    """Set the pixels outside one object to a level (crop kind ``mask``; Microsnoop spec, section 10).

    Parameters
    ----------
    planes
        (C, h, w), real dtype, the pixels of a window. Not changed.
    mask_window
        (h, w), integer, the same window of the label mask.
    levels
        (C,), the value outside, in units of ``planes``.

    Returns
    -------
    float32, (C, h, w).

    Raises
    ------
    ValueError
        Shapes that do not fit together.
    """
    if planes.ndim != 3 or mask_window.shape != planes.shape[1:] or levels.shape != planes.shape[:1]:
        raise ValueError(
            f"expected planes (C, h, w), mask (h, w) and levels (C,), got {planes.shape}, {mask_window.shape} "
            f"and {levels.shape}"
        )
    inside = mask_window == label
    return np.where(inside, planes, levels[:, None, None]).astype(np.float32)


def _source_windows(
    table: ObjectTable, rules: CropRules, image_px: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return y0, x0, height, width (n, 4) of every object's window, and whether it cuts off some of its box."""
    low = np.stack([table.y0_px, table.x0_px], axis=1)
    high = np.stack([table.y1_px, table.x1_px], axis=1)
    if rules.kind in ("bbox", "mask"):
        size = np.minimum(high - low, rules.window_px) if rules.oversize == "cap" else high - low
        start = low + (high - low - size) // 2  # the central part
    else:
        half = _half_sides((high - low).max(axis=1, initial=0), rules)[:, None]
        start = (low + high) // 2 - half
        size = np.broadcast_to(2 * half, start.shape)
    stop = start + size
    cut_off: NDArray[np.bool_] = ((start > low) | (stop < high)).any(axis=1)
    if rules.align == "crop":
        start, stop = np.maximum(start, 0), np.minimum(stop, image_px)
    return np.concatenate([start, stop - start], axis=1), cut_off


def _half_sides(extent_px: NDArray[np.int64], rules: CropRules) -> NDArray[np.int64]:
    """Return half the side of every square window; ``extent_px`` is the longer side of the object's box."""
    if rules.kind == "fixed":
        return np.full(len(extent_px), rules.window_px // 2, np.int64)
    if rules.half_side_px is not None:
        half = np.full(len(extent_px), rules.half_side_px, np.int64)
    else:
        half = np.maximum(1, np.rint(rules.ratio * extent_px).astype(np.int64))
    return np.minimum(half, rules.window_px // 2) if rules.oversize == "cap" else half


def _rejected(
    table: ObjectTable, rules: CropRules, image_px: tuple[int, int], windows: NDArray[np.int64]
) -> dict[int, Skipped]:
    """Return the objects that may not be cropped, by position, with the first rule that says so."""
    found: dict[int, Skipped] = {}
    lowest, highest = rules.min_area_px, math.inf if rules.max_area_px is None else rules.max_area_px
    for i in np.flatnonzero((table.area_px < lowest) | (table.area_px > highest)).tolist():
        message = f"an area of {table.area_px[i]} px, allowed: {lowest:g} to {highest:g}"
        found.setdefault(i, Skipped(RejectCode.AREA_OUT_OF_RANGE, message))
    if rules.exclude_border:
        margin = rules.border_margin_px
        near = np.minimum(table.y0_px, table.x0_px) <= margin
        near |= (table.y1_px >= image_px[0] - margin) | (table.x1_px >= image_px[1] - margin)
        for i in np.flatnonzero(near).tolist():
            message = (
                f"rows {table.y0_px[i]} to {table.y1_px[i] - 1}, columns {table.x0_px[i]} to {table.x1_px[i] - 1} "
                f"of {image_px[0]} × {image_px[1]} px, allowed: more than {margin} px from every border"
            )
            found.setdefault(i, Skipped(RejectCode.BORDER_CELL, message))
    if rules.oversize == "reject":
        for i in np.flatnonzero(windows[:, 2:].max(axis=1, initial=0) > rules.window_px).tolist():
            message = f"a window of {windows[i, 2]} × {windows[i, 3]} px, allowed: {rules.window_px} px"
            found.setdefault(i, Skipped(RejectCode.OVERSIZE, message))
    return found


def _not_drawn(
    eligible: NDArray[np.int64], rules: CropRules, generator: np.random.Generator
) -> dict[int, Skipped]:
    """Return the eligible objects that the selection leaves out, by position."""
    kept = eligible[:: rules.every_nth]
    others = np.setdiff1d(eligible, kept)
    why = f"every_nth: {rules.every_nth} keeps {len(kept)} of {len(eligible)} eligible objects"
    left_out = {i: Skipped(RejectCode.NOT_DRAWN, why) for i in others.tolist()}
    if rules.max_cells is not None and len(kept) > rules.max_cells:
        drawn = generator.choice(kept, rules.max_cells, replace=False, shuffle=False)
        why = f"max_cells: {rules.max_cells} of {len(kept)} eligible objects are drawn"
        left_out |= {i: Skipped(RejectCode.NOT_DRAWN, why) for i in np.setdiff1d(kept, drawn).tolist()}
    return left_out
