"""Objects of a label mask: boxes, areas, centroids and pieces of all of them in one pass over the pixels.

The mask is turned into runs (stretches of one label within one row); everything else is arithmetic on runs, of
which there are far fewer than pixels. Source: Microsnoop spec, section 10; the published code makes one pass over
the whole mask for each cell and loses the last row and column of every box.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array, csgraph

from microsnoop.ops.geometry import Box

PIECES_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """All objects of a mask, one entry each, sorted by label; every array is (n,).

    ``label``, the half-open box ``y0_px x0_px y1_px x1_px``, ``area_px``, ``n_pieces`` (8-connected parts, -1
    where strips were joined) and ``n_border_px`` (pixels on the outermost rows and columns of the image) are int64;
    ``sum_y`` and ``sum_x`` (of all pixel coordinates) are float64. Coordinates are those of the image.
    """

    label: NDArray[np.int64]
    y0_px: NDArray[np.int64]
    x0_px: NDArray[np.int64]
    y1_px: NDArray[np.int64]
    x1_px: NDArray[np.int64]
    area_px: NDArray[np.int64]
    sum_y: NDArray[np.float64]
    sum_x: NDArray[np.float64]
    n_pieces: NDArray[np.int64]
    n_border_px: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def centroid_y_px(self) -> NDArray[np.float64]:
        """Row of each object's centre of mass; a pixel in row r has coordinate r."""
        return self.sum_y / self.area_px

    @property
    def centroid_x_px(self) -> NDArray[np.float64]:
        """Column of each object's centre of mass; a pixel in column c has coordinate c."""
        return self.sum_x / self.area_px

    @property
    def height_px(self) -> NDArray[np.int64]:
        """Height of each box."""
        return self.y1_px - self.y0_px

    @property
    def width_px(self) -> NDArray[np.int64]:
        """Width of each box."""
        return self.x1_px - self.x0_px


def object_table(
    mask: NDArray[Any], *, origin_px: tuple[int, int] = (0, 0), image_px: tuple[int, int] | None = None
) -> ObjectTable:
    """Tabulate the objects of a label mask, or of one block of a larger mask.

    Parameters
    ----------
    mask
        (H, W), integer, 0 = background, one positive number per object; numbers need not be consecutive, and an
        object may lie in several pieces. Not changed.
    origin_px
        Row and column of the mask's first pixel in the image.
    image_px
        Height and width of the image; None: the mask is the whole image.

    Returns
    -------
    One entry per object. Time grows with the pixels, memory with the runs, neither with the labels.

    Raises
    ------
    ValueError
        Not two-dimensional, not integer, labels negative or above 2^63 - 1, or a block that does not lie in the
        image.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "ui":
        raise ValueError(f"a label mask must be (H, W) and integer, got {mask.shape} {mask.dtype}")
    height, width = mask.shape if image_px is None else image_px
    y, x = origin_px
    if min(y, x) < 0 or y + mask.shape[0] > height or x + mask.shape[1] > width:
        raise ValueError(f"a mask of {mask.shape} px at {origin_px} does not lie in {height} × {width} px")
    rows, starts, stops, values = _runs(mask)
    if not len(values):
        return _empty_table()
    # by object, then row by row: the sort is stable and runs come row by row
    order = np.argsort(values, kind="stable")
    rows, starts, stops, values = (part[order] for part in (rows, starts, stops, values))
    first = np.flatnonzero(np.diff(values, prepend=0))
    last = np.append(first[1:], len(values)) - 1
    n_pieces = _pieces(rows, starts, stops, first=first)
    rows, starts, stops = rows + y, starts + x, stops + x
    lengths = stops - starts
    at_sides = np.minimum((starts == 0).astype(np.int64) + (stops == width), lengths)
    return ObjectTable(
        label=values[first],
        y0_px=rows[first],
        x0_px=np.minimum.reduceat(starts, first),
        y1_px=rows[last] + 1,
        x1_px=np.maximum.reduceat(stops, first),
        area_px=np.add.reduceat(lengths, first),
        sum_y=np.add.reduceat(rows * lengths, first).astype(np.float64),
        # columns a..b-1 add up to (b - a)(a + b - 1) / 2, always a whole number
        sum_x=np.add.reduceat(lengths * (starts + stops - 1) // 2, first).astype(np.float64),
        n_pieces=n_pieces,
        n_border_px=np.add.reduceat(np.where((rows == 0) | (rows == height - 1), lengths, at_sides), first),
    )


def merge_tables(tables: Iterable[ObjectTable]) -> ObjectTable:
    """Join the tables of disjoint blocks of one mask by label.

    Tabulated block by block with ``origin_px`` and ``image_px``, a mask of any size gives exactly the table of
    the whole (sums are exact up to 2^53), except that ``n_pieces`` is -1 for objects that lie in several blocks.
    """
    parts = [table for table in tables if len(table)]
    if not parts:
        return _empty_table()
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(ObjectTable)}
    order = np.argsort(joined["label"], kind="stable")
    joined = {name: column[order] for name, column in joined.items()}
    first = np.flatnonzero(np.diff(joined["label"], prepend=0))
    alone = np.diff(first, append=len(order)) == 1
    how = {"y0_px": np.minimum, "x0_px": np.minimum, "y1_px": np.maximum, "x1_px": np.maximum}
    merged = {name: how.get(name, np.add).reduceat(column, first) for name, column in joined.items()}
    merged["label"] = joined["label"][first]
    merged["n_pieces"] = np.where(alone, joined["n_pieces"][first], PIECES_UNKNOWN)
    return ObjectTable(**merged)


def boxes_from_mask(mask: NDArray[Any]) -> dict[int, Box]:
    """Return the bounding box of every object of a label mask, by label.

    Parameters, errors and source as in :func:`object_table`; all pixels of the object lie in its box.
    """
    table = object_table(mask)
    columns = (table.label, table.y0_px, table.x0_px, table.height_px, table.width_px)
    return {label: Box(*box) for label, *box in zip(*(c.tolist() for c in columns), strict=True)}


def relabelled(binary_mask: NDArray[Any]) -> NDArray[np.int32]:
    """Number the 8-connected components of a binary mask 1, 2, ... in the order of their first pixels.

    Parameters
    ----------
    binary_mask
        (H, W), boolean or integer with 0 and one other value (1, 255, ...). Not changed.

    Returns
    -------
    int32, same shape, 0 = background.

    Raises
    ------
    ValueError
        Not two-dimensional, neither boolean nor integer, or several values beside 0: a label mask already.
    """
    if binary_mask.ndim != 2 or binary_mask.dtype.kind not in "bui":
        raise ValueError(
            f"a binary mask must be (H, W), boolean or integer, got {binary_mask.shape} {binary_mask.dtype}"
        )
    inside = binary_mask != 0
    values = binary_mask[inside]
    if values.size and values.min() != values.max():
        raise ValueError(
            f"a binary mask holds 0 and one other value, got values from {values.min()} to {values.max()}"
        )
    labels: NDArray[np.int32] = ndimage.label(inside, structure=np.ones((3, 3), bool), output=np.int32)[0]
    return labels


def _empty_table() -> ObjectTable:
    return ObjectTable(
        **{f.name: np.zeros(0, float if f.name.startswith("sum") else np.int64) for f in fields(ObjectTable)}
    )


def _runs(mask: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """Return row, first column, column after the last, and label of every run of object pixels, row by row."""
    empty = np.zeros(0, np.int64)
    if mask.size == 0:
        return empty, empty, empty, empty
    changes = np.ones(mask.shape, bool)
    np.not_equal(mask[:, 1:], mask[:, :-1], out=changes[:, 1:])
    flat = np.flatnonzero(changes)
    rows, starts = np.divmod(flat, mask.shape[1])
    values = mask[rows, starts]
    if values.min() < 0:
        raise ValueError(f"a label mask must not hold negative labels, got {values.min()}")
    if values.max() > np.iinfo(np.int64).max:
        raise ValueError(f"labels must be below 2^63, got {values.max()}")
    kept = values != 0
    stops = starts + np.diff(flat, append=mask.size)
    return rows[kept], starts[kept], stops[kept], values[kept].astype(np.int64)


def _pieces(
    rows: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64], *, first: NDArray[np.intp]
) -> NDArray[np.int64]:
    """Count the 8-connected pieces of each object; its runs begin at ``first`` and come row by row."""
    n = len(rows)
    owner = np.repeat(np.arange(len(first)), np.diff(first, append=n))
    # lines: the runs of one object in one row; a run can only touch runs of the line after its own
    line = np.cumsum((np.diff(rows, prepend=-1) != 0) | (np.diff(owner, prepend=-1) != 0)) - 1
    head = np.flatnonzero(np.diff(line, prepend=-1))  # the first run of each line
    below = np.append((np.diff(rows[head]) == 1) & (np.diff(owner[head]) == 0), False)[line]
    upper = np.flatnonzero(below)
    # one ascending key for all lines; a shared corner is enough to touch
    stride = int(stops.max()) + 1
    from_run = np.searchsorted(line * stride + stops, (line[upper] + 1) * stride + starts[upper], "left")
    to_run = np.searchsorted(line * stride + starts, (line[upper] + 1) * stride + stops[upper], "right")
    count = to_run - from_run
    left = np.repeat(upper, count)
    right = np.arange(len(left)) + np.repeat(from_run - (np.cumsum(count) - count), count)
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(n, n))
    _, piece = csgraph.connected_components(graph, directed=False)
    _, one_run = np.unique(piece, return_index=True)
    return np.bincount(owner[one_run], minlength=len(first))
