"""From a field to its cells: which objects this record owns, and the window of each.

Of a large field, the block that holds an object's centroid owns it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import WINDOW_COLUMNS, Flag, RejectCode, cell_id
from microsnoop.ops.cell_windows import CellWindow, CropRules, Skipped, plan_cells
from microsnoop.ops.geometry import Box
from microsnoop.ops.modes import Window, keyed_generator
from microsnoop.ops.objects import ObjectTable
from microsnoop.pipelines.fields import Field, Region, Row
from microsnoop.pipelines.labels import Labels, find_labels, known_pixel_size


@dataclass(frozen=True)
class Cell:
    """One object of a field: what is known of it, and the window to cut or the reason why there is none."""

    region: Region
    number: int  # in the mask
    facts: Row
    window: Window | None
    flags: tuple[Flag, ...]
    reject: RowRejected | None


def cells_of(field: Field) -> tuple[list[Cell], Labels]:
    """Find the objects of a field (or block) and plan their windows: every object, in the order of labels.

    Raises
    ------
    RowRejected
        ``empty_mask``: no object. Else as :func:`microsnoop.pipelines.labels.find_labels`, and ``shape_mismatch``
        where a pixel size is needed and unknown.
    """
    cfg, labels = field.job.cfg, find_labels(field)
    rules = crop_rules(cfg, field.job.input_px, field.pixel_size_um)
    table, owned = labels.table, _owned(labels.table, field)
    # an object's fate hangs on the others only through the draw; that is one draw a field where its mask is given
    drawn = rules.max_cells is not None or rules.every_nth > 1
    if labels.number is not None or not drawn:
        table, owned = _chosen(table, owned), np.ones(int(owned.sum()), bool)
    if not owned.any():
        raise RowRejected(RejectCode.EMPTY_MASK, f"{field.name}: no object in the mask{_block(field)}")
    generator = keyed_generator(cfg.seed, "cells", f"{field.image_id}{labels.prefix}")
    plans = plan_cells(table, rules, image_px=field.size_px, generator_for_draw=generator)
    scale = min(1.0, field.job.input_px / rules.window_px)
    cells = [
        _cell(field, f"{labels.prefix}{number}", number, facts, plan, None if cfg.crop.fill else scale)
        for number, facts, plan, mine in zip(
            table.label.tolist(), _facts(table), plans, owned.tolist(), strict=True
        )
        if mine
    ]
    return _without_cut(cells, field, labels), labels


def crop_rules(cfg: EmbedConfig, input_px: int, pixel_size_um: float | None) -> CropRules:
    """Return the rules in pixels of an image with this pixel size.

    Raises
    ------
    RowRejected
        ``crop.window_um`` is set and the pixel size is unknown.
    """
    crop = cfg.crop
    half_side_px = None
    if crop.window_um is not None:
        half_side_px = max(1, round(crop.window_um / 2 / known_pixel_size(pixel_size_um, "crop.window_um")))
    return CropRules(
        kind=crop.kind,
        ratio=crop.used_ratio,
        half_side_px=half_side_px,
        window_px=crop.window_px or input_px,
        oversize="shrink" if crop.fill and crop.oversize is None else crop.used_oversize,
        align=crop.align,
        exclude_border=crop.exclude_border,
        border_margin_px=crop.border_margin_px,
        min_area_px=crop.min_area_px,
        max_area_px=crop.max_area_px,
        every_nth=crop.every_nth,
        max_cells=crop.max_cells,
    )


def _cell(
    field: Field, name: str, number: int, facts: Row, plan: CellWindow | Skipped, scale: float | None
) -> Cell:
    box = Box(*(facts[f"object_{side}"] for side in WINDOW_COLUMNS))
    asked = (box.y0_px, box.x0_px, box.height_px, box.width_px)
    region = Region(cell_id(field.image_id, name), name, box, asked)
    if isinstance(plan, Skipped):
        return Cell(region, number, facts, None, (), RowRejected(plan.code, plan.message))
    factor = None if scale is None else plan.factor * scale
    return Cell(region, number, facts, Window(plan.box, factor), plan.flags, None)


def _owned(table: ObjectTable, field: Field) -> NDArray[np.bool_]:
    """Return which objects this record is about: all, or those whose centroid lies in its block."""
    if field.block is None:
        return np.ones(len(table), bool)
    return np.asarray(field.block.holds(table.centroid_y_px, table.centroid_x_px))


def _chosen(table: ObjectTable, kept: NDArray[np.bool_]) -> ObjectTable:
    return ObjectTable(**{f.name: getattr(table, f.name)[kept] for f in fields(ObjectTable)})


def _without_cut(cells: list[Cell], field: Field, labels: Labels) -> list[Cell]:
    """Reject what is cut where the segmented part of a large field ends: its true extent is not known."""
    if labels.number is None or labels.mask is None:
        return cells
    (y0, x0), (height, width) = labels.origin_px, labels.mask.shape
    seen = Box(y0, x0, height, width)
    error = RowRejected(
        RejectCode.OVERSIZE,
        "the object is cut by the halo of its block; raise segment.halo_px or input.block_px",
    )
    return [
        replace(cell, window=None, flags=(), reject=cell.reject or error)
        if cell.region.box is not None and _touches(cell.region.box, seen, field.size_px)
        else cell
        for cell in cells
    ]


def _touches(box: Box, seen: Box, size_px: tuple[int, int]) -> bool:
    """Whether a box reaches a side of what was seen that is no side of the image."""
    y1, x1 = box.y0_px + box.height_px, box.x0_px + box.width_px
    seen_y1, seen_x1 = seen.y0_px + seen.height_px, seen.x0_px + seen.width_px
    return (
        0 < box.y0_px == seen.y0_px
        or 0 < box.x0_px == seen.x0_px
        or y1 == seen_y1 < size_px[0]
        or x1 == seen_x1 < size_px[1]
    )


def _facts(table: ObjectTable) -> Iterator[Row]:
    """Yield what is known of every object, under the names of ``schema.OBJECT_COLUMNS``."""
    columns = {
        "area_px": table.area_px,
        "centroid_y_px": table.centroid_y_px,
        "centroid_x_px": table.centroid_x_px,
        "object_y0_px": table.y0_px,
        "object_x0_px": table.x0_px,
        "object_height_px": table.height_px,
        "object_width_px": table.width_px,
        "n_border_px": table.n_border_px,
    }
    for values in zip(*(column.tolist() for column in columns.values()), strict=True):
        yield dict(zip(columns, values, strict=True))


def _block(field: Field) -> str:
    return "" if field.block is None else f" of block {field.record['block']['number']}"
