"""``microsnoop overlay``: a column of obs drawn over the field its rows come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.schema import WINDOW_COLUMNS
from microsnoop.io.formats import RGB as RGB_CHANNELS
from microsnoop.ops.geometry import Box
from microsnoop_apps.terminal import say
from microsnoop_apps.views.colouring import Colouring, colour_rows
from microsnoop_apps.views.field import (
    FieldMask,
    FieldRows,
    choose_block,
    choose_image,
    find_field_rows,
    find_mask,
    window_of,
)
from microsnoop_apps.views.legend import Entry, Legend, draw_field
from microsnoop_apps.views.page import INK, picture_path
from microsnoop_apps.views.painting import (
    OTHER,
    REJECTED,
    THIN_PX,
    Size,
    paint_boxes,
    paint_dots,
    paint_labels,
)
from microsnoop_apps.views.pixels import Cutout, Place, read_cutouts
from microsnoop_apps.views.source import RunData, open_data
from microsnoop_apps.views.thumbnails import Look, coloured, contrast, finite, look_of

_LOW, _HIGH = 0.5, 99.8  # percentiles of the field that become black and bright
_BRIGHT = 140  # the mean of a field on which white is not seen


@dataclass(frozen=True)
class OverlayOptions:
    """What to show; empty ``by`` means Leiden clusters, ``image`` and ``block`` the ones with most rows."""

    by: str = ""
    image: str = ""
    channel: str = ""
    block: int | None = None


@dataclass(frozen=True)
class _Canvas:
    """A picture to paint on: the part ``seen`` of a field, in another size."""

    picture: NDArray[np.uint8]
    size: Size
    seen: Box

    def placed(self, box: Box | None) -> Box | None:
        """Return where a box of the field is on the picture; None where it is not."""
        if box is None:
            return None
        moved = box.shifted(-self.seen.y0_px, -self.seen.x0_px)
        return self.size.box(moved) if moved.overlaps(self.seen.height_px, self.seen.width_px) else None


@dataclass(frozen=True)
class _Painted:
    """The rows of the file that are on the picture, and how many objects without a row."""

    rows: NDArray[np.int64]
    n_rejected: int
    n_other: int


def overlay(data: Path, options: OverlayOptions, *, out: Path | None = None, run: Path | None = None) -> Path:
    """Find a field and its objects as the run found them, paint, and write the picture; return its path.

    Raises
    ------
    ConfigError
        An option that does not fit the data.
    InputError, RunError
        Pixels or objects that cannot be found again as the run saw them.
    """
    target = picture_path(data, out, "overlay")
    source = open_data(data, run)
    _check_level(source)
    colouring = colour_rows(source.data.obs, options.by)
    look = _look(source, options.channel)
    image_id = choose_image(source, options.image)
    found = find_field_rows(source, image_id)
    record = choose_block(source.records_of([image_id])[image_id], found, options.block)
    block = record.get("block")
    core = None if block is None else Box(*(block[name] for name in WINDOW_COLUMNS))
    cutout = read_cutouts(source, [Place(image_id, core)], look.channels)[0]
    canvas = _background(cutout, look)
    if canvas.picture.mean() > _BRIGHT:
        colouring = replace(colouring, unknown=INK)
    if source.cfg.mode == "crop":
        painted = _paint_cells(canvas, find_mask(source, record, found), found, colouring)
    else:
        painted = _paint_windows(canvas, found, colouring)
    factor, known = canvas.size.factor, cutout.pixel_size_um
    where = image_id if block is None else f"{image_id}, block {block['number']}"
    page = draw_field(
        canvas.picture, _legend(painted, colouring, data.name), title=where,
        subtitle=f"{data.name}: {len(painted.rows):,} rows by {colouring.column}, over {look.text}",
        px_per_unit=factor / known if known else factor, unit="µm" if known else "px",
    )  # fmt: skip
    page.save(target)
    small = "" if canvas.size.shrink == 1 else f", shrunk {canvas.size.shrink} times"
    say(f"overlay: {target} shows {where}{small}")
    return target


def _check_level(source: RunData) -> None:
    averaged = source.level == "image" and (source.data.obs["kind"] == "tile").any()
    if source.level == "field" or averaged:
        what = "a field" if source.level == "field" else "an average of tiles"
        raise InputError(
            f"in {source.path} a row is {what}, which has no place in a field",
            hint=f"give the run directory, or a file of single rows: microsnoop export {source.store.path} "
            "--level sample --out NEW.h5ad",
        )


def _look(source: RunData, channel: str) -> Look:
    if not channel and set(source.channels) == set(RGB_CHANNELS):
        return look_of(source.channels)
    chosen = channel or source.channels[0]
    source.in_file([chosen])  # an unknown channel is an error now
    return look_of([chosen])


def _background(cutout: Cutout, look: Look) -> _Canvas:
    size, planes = Size.of(*cutout.planes.shape[1:]), finite(cutout.planes)
    scaling = contrast(planes, low=_LOW, high=_HIGH, together=look.together)
    return _Canvas(coloured(size.planes(planes), scaling, look), size, cutout.box)


def _paint_cells(canvas: _Canvas, field: FieldMask, found: FieldRows, colouring: Colouring) -> _Painted:
    """Outline the objects of the mask."""
    seen = set(np.unique(field.mask).tolist()) - {0}
    numbers = zip(map(field.number, found.labels), found.rows.tolist(), strict=True)
    mine = {number: row for number, row in numbers if number in seen and number is not None}
    lost = {number for row in found.rejected() if (number := field.number(row["label"])) in seen} - {
        *mine,
        None,
    }
    other = seen - set(mine) - lost
    mask = canvas.size.mask(field.mask)
    grey = dict.fromkeys(other, OTHER) | {number: REJECTED for number in lost if number is not None}
    paint_labels(canvas.picture, mask, grey, line_px=THIN_PX)
    colours = {number: colouring.colour(row) for number, row in mine.items()}
    paint_labels(canvas.picture, mask, colours, line_px=canvas.size.line_px)
    return _Painted(np.array(list(mine.values()), np.int64), len(lost), len(other))


def _paint_windows(canvas: _Canvas, found: FieldRows, colouring: Colouring) -> _Painted:
    """Frame the windows of cells of a table, of tiles, or of whole images."""
    windows = set(found.boxes)
    lost = [box for row in found.rejected() if (box := canvas.placed(window_of(row)))]
    other = [
        box
        for row in found.embedded()
        if window_of(row) not in windows and (box := canvas.placed(window_of(row)))
    ]
    for boxes, grey in ((other, OTHER), (lost, REJECTED)):
        paint_boxes(canvas.picture, boxes, [grey] * len(boxes), line_px=THIN_PX)
    placed = zip(found.rows.tolist(), map(canvas.placed, found.boxes), strict=True)
    mine = {row: box for row, box in placed if box is not None}
    colours = [colouring.colour(row) for row in mine]
    line_px = THIN_PX if found.of_cells else canvas.size.line_px
    paint_boxes(canvas.picture, list(mine.values()), colours, line_px=line_px)
    if found.of_cells:  # windows of neighbours overlap: a dot in the middle says which cell is meant
        centres = [(box.y0_px + box.height_px / 2, box.x0_px + box.width_px / 2) for box in mine.values()]
        paint_dots(canvas.picture, centres, colours)
    return _Painted(np.array(list(mine), np.int64), len(lost), len(other))


def _legend(painted: _Painted, colouring: Colouring, name: str) -> Legend:
    groups = [Entry(colour, f"{group} ({n:,})") for colour, group, n in colouring.counts(painted.rows)]
    unknown = int((~colouring.known[painted.rows]).sum())
    kinds = (
        (colouring.unknown, "no value", unknown),
        (REJECTED, "rejected", painted.n_rejected),
        (OTHER, f"not in {name}", painted.n_other),
    )
    others = [Entry(colour, f"{what} ({count:,})") for colour, what, count in kinds if count]
    return Legend(colouring.column, groups, others, colouring.span)
