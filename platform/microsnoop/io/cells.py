"""A table of cells (centres or boxes), attached to the records of their images.

A cell whose image is not in the input list is not lost: its image becomes a record without a file, and the
cell a reject that says so.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import ConfigError, InputError
from microsnoop.core.schema import BOX_FIELDS, cell_id
from microsnoop.io.tables import meta_columns, numbers, read_table
from microsnoop.ops.geometry import box_around

_CENTRE = ("x_px", "y_px")
_BOX = ("x0_px", "y0_px", "width_px", "height_px")
_FAR_PX = 2**31
_BOX_NAMES = [name for name, _ in BOX_FIELDS]
BOXES_TYPE = pa.list_(pa.struct([pa.field(*field) for field in BOX_FIELDS]))


def attach_cells(records: pa.Table, cfg: InputConfig) -> tuple[pa.Table, pa.Table, list[str]]:
    """Add the column ``boxes`` to ``records``: for each image its cells.

    Returns
    -------
    Records (images without a cell are left out, images only the cells know are added), the cells' metadata
    keyed by ``parent_id``, and notes.

    Raises
    ------
    InputError
        Columns missing, coordinates that are not numbers, a label twice in one image.
    """
    where = str(cfg.cells)
    table = read_table(where, columns=cfg.cells_columns)
    if "image" not in table.column_names:
        raise InputError(
            f"{where} has no column `image`",
            hint=f"it has {', '.join(table.column_names)}; map it with input.cells_columns",
        )
    windows, used = _windows(table, cfg, where)
    by_image = _group(_texts(table, "image", where), records)
    labels = _labels(table, by_image, where)
    boxes = {
        image_id: [dict(zip(_BOX_NAMES, (labels[row], *windows[row]), strict=True)) for row in rows]
        for image_id, rows in by_image.items()
    }
    joined, notes = _joined(records, boxes)
    return joined, _metadata(table, by_image, labels, records, used), notes


def _metadata(
    table: pa.Table,
    by_image: dict[str, list[int]],
    labels: list[str],
    records: pa.Table,
    used: tuple[str, ...],
) -> pa.Table:
    taken = {"image", "label", *used}
    own = meta_columns(table, [name for name in table.column_names if name not in taken])
    clash = sorted(own.keys() & set(records.column_names))
    if clash:
        raise InputError(
            f"images and cells both have the column(s) {', '.join(clash)}", hint="rename one of them"
        )
    parents = [""] * table.num_rows
    for image_id, rows in by_image.items():
        for row in rows:
            parents[row] = cell_id(image_id, labels[row])
    return pa.table({"parent_id": pa.array(parents), **own})


def _windows(
    table: pa.Table, cfg: InputConfig, where: str
) -> tuple[list[tuple[int, int, int, int]], tuple[str, ...]]:
    """Return (y0, x0, height, width) of every row, and the columns they came from.

    Sides are checked when the image is read.
    """
    names = table.column_names
    if all(name in names for name in _BOX):
        x0s, y0s, widths, heights = (_coordinates(table, name, where) for name in _BOX)
        rows = zip(y0s, x0s, heights, widths, strict=True)
        return [(math.floor(y0), math.floor(x0), math.ceil(h), math.ceil(w)) for y0, x0, h, w in rows], _BOX
    if all(name in names for name in _CENTRE):
        if cfg.cell_size_px is None:
            raise ConfigError(
                f"{where} holds centres: input.cell_size_px must say how large a window to cut around them"
            )
        xs, ys = (_coordinates(table, name, where) for name in _CENTRE)
        squares = [box_around(y, x, size_px=cfg.cell_size_px) for x, y in zip(xs, ys, strict=True)]
        return [(box.y0_px, box.x0_px, box.height_px, box.width_px) for box in squares], _CENTRE
    raise InputError(
        f"{where} has neither {', '.join(_CENTRE)} nor {', '.join(_BOX)}",
        hint=f"it has {', '.join(names)}; map them with input.cells_columns",
    )


def _coordinates(table: pa.Table, name: str, where: str) -> list[float]:
    values: list[float] = numbers(table, name, where=where)
    bad = [i for i, value in enumerate(values, start=1) if value is None or not abs(value) < _FAR_PX]
    if bad:
        raise InputError(f"{where}: the column {name} has no usable number in row(s) {bad[:10]}")
    return values


def _texts(table: pa.Table, name: str, where: str) -> list[str]:
    values = table[name].to_pylist()
    bad = [i for i, value in enumerate(values, start=1) if value is None]
    if bad:
        raise InputError(f"{where}: the column {name} is empty in row(s) {bad[:10]}")
    return [str(value) for value in values]


def _group(images: list[str], records: pa.Table) -> dict[str, list[int]]:
    """Return image_id -> rows of the cell table; a name may be an id or a file name, with extension or not."""
    ids = records["image_id"].to_pylist()
    aliases: dict[str, set[str]] = defaultdict(set)
    for image_id, uris in zip(ids, records["uris"].to_pylist(), strict=True):
        for text in filter(None, [image_id, *uris]):
            for tail in _tails(text):
                aliases[tail].add(image_id)
    known = set(ids)
    groups: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(images):
        # the cells may name more folders than the list does, but never other ones
        matches = {image} if image in known else aliases.get(image, set())
        matches = matches or known.intersection(_tails(image)) or {image}
        if len(matches) > 1:
            raise InputError(
                f"the cell table's image {image!r} could be any of {sorted(matches)[:3]}",
                hint="use the image_id",
            )
        groups[next(iter(matches))].append(row)
    if not known & groups.keys():
        raise InputError(
            f"no image of the cell table is in the input list: cells name e.g. {images[0]!r}, images e.g. {ids[0]!r}",
            hint="the column `image` must hold image ids or file names",
        )
    return groups


def _tails(path: str) -> list[str]:
    """Return a path without its first folders, one after the other, and each without its extension."""
    parts = PurePosixPath(path).parts
    tails = ["/".join(parts[i:]) for i in range(len(parts))]
    return [
        *tails,
        *(str(PurePosixPath(tail).with_suffix("")) for tail in tails if PurePosixPath(tail).suffix),
    ]


def _labels(table: pa.Table, by_image: dict[str, list[int]], where: str) -> list[str]:
    """Return the label of every row: the user's, or 1, 2, ... within each image."""
    given = _texts(table, "label", where) if "label" in table.column_names else None
    labels = [""] * table.num_rows
    for image_id, rows in by_image.items():
        for n, row in enumerate(rows, start=1):
            labels[row] = str(n if given is None else given[row])
        repeated = [label for label, n in Counter(labels[row] for row in rows).items() if n > 1]
        if repeated:
            raise InputError(f"{where}: image {image_id!r} has the label(s) {repeated[:5]} more than once")
    return labels


def _joined(records: pa.Table, boxes: dict[str, list[dict[str, Any]]]) -> tuple[pa.Table, list[str]]:
    ids = records["image_id"].to_pylist()
    known = set(ids)
    kept = [i for i, image_id in enumerate(ids) if image_id in boxes]
    unknown = [image_id for image_id in boxes if image_id not in known]
    notes = []
    if len(kept) < len(ids):
        notes.append(f"{len(ids) - len(kept):,} images have no cell in the table and were left out")
    if unknown:
        notes.append(
            f"{len(unknown):,} images of the cell table are not in the input list, e.g. {unknown[0]!r}"
        )
    table = records.take(pa.array(kept, pa.int64()))
    if unknown:
        blank = {name: pa.nulls(len(unknown), table.schema.field(name).type) for name in table.column_names}
        blank["image_id"] = pa.array(unknown)
        blank["uris"] = pa.array([[] for _ in unknown], pa.list_(pa.string()))
        table = pa.concat_tables([table, pa.table(blank, schema=table.schema)])
    column = pa.array([boxes[image_id] for image_id in table["image_id"].to_pylist()], BOXES_TYPE)
    return table.append_column("boxes", column), notes
