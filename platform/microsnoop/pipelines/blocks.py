"""Large fields, cut into blocks before any pixel is read: each block is a record of its own.

So one huge field spreads over all workers, is resumed block by block, and no process ever holds more of it than a
block and its surroundings. Only the headers of files that can be large are looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import BLOCK_FIELDS, WINDOW_COLUMNS
from microsnoop.io.formats import ImageInfo
from microsnoop.io.images import ImageReader, ImageSource
from microsnoop.io.manifest import InputList
from microsnoop.io.sources import with_keys
from microsnoop.ops.geometry import Box
from microsnoop.ops.modes import Window, windows
from microsnoop.pipelines.fields import Row
from microsnoop.pipelines.samples import starts_in

_BLOCK_TYPE = pa.struct([pa.field(*field) for field in BLOCK_FIELDS])
_THREADS = 8  # waiting for headers, not computing
_BEST_COMPRESSION = 16  # a field of block_px² 8-bit pixels in a smaller file is as good as empty


def split_large(inputs: InputList, cfg: EmbedConfig, *, input_px: int) -> InputList:
    """Replace records of large fields by one record a block, where mode and file allow it.

    The mode must not need the whole field at once: tiles scaled one by one, cells of a table, objects of a mask.
    Blocks in which nothing lies (no tile drawn, no cell) are left out.

    Parameters
    ----------
    input_px
        Side of the encoder's input, which decides where tiles lie.
    """
    records = inputs.records
    listed = "boxes" in records.column_names
    if not (listed or cfg.mode == "crop" or (cfg.mode == "tile" and cfg.tile.norm == "tile")):
        return inputs
    rows = [i for i, prints in enumerate(records["fingerprints"].to_pylist()) if _may_be_large(prints, cfg)]
    if not rows:
        return inputs
    candidates = dict(zip(rows, records.take(pa.array(rows)).to_pylist(), strict=True))
    with ThreadPoolExecutor(_THREADS) as pool:
        infos = dict(zip(rows, pool.map(lambda row: _info(candidates[row], cfg), rows), strict=True))
    large = {row: info for row, info in infos.items() if info is not None and _is_large(info, cfg)}
    if not large:
        return inputs
    positions: list[int] = []
    blocks: list[Row | None] = []
    boxes: list[Any] = records["boxes"].to_pylist() if listed else []
    kept_boxes: list[Any] = []
    for row in range(records.num_rows):
        if row not in large:
            parts: list[tuple[Row | None, Any]] = [(None, boxes[row] if listed else None)]
        else:
            parts = list(_blocks_of(candidates[row], large[row], cfg, input_px))
        positions += [row] * len(parts)
        blocks += [block for block, _ in parts]
        kept_boxes += [own for _, own in parts]
    table = records.take(pa.array(positions))
    if listed:
        place = table.schema.get_field_index("boxes")
        table = table.set_column(place, "boxes", pa.array(kept_boxes, records.schema.field("boxes").type))
    table = table.append_column("block", pa.array(blocks, _BLOCK_TYPE))
    n_blocks = sum(block is not None for block in blocks)
    note = f"{len(large):,} large fields are read in {n_blocks:,} blocks of {cfg.input.block_px:,} px"
    return replace(inputs, records=with_keys(table), notes=(*inputs.notes, note))


def _may_be_large(prints: list[str | None], cfg: EmbedConfig) -> bool:
    """Whether the size of a file leaves room for a field above ``block_px``; saves opening thousands of files."""
    sizes = [int(size) for text in prints if text and (size := text.partition(":")[0]).isdecimal()]
    return max(sizes, default=0) * _BEST_COMPRESSION >= cfg.input.block_px**2


def _info(record: Row, cfg: EmbedConfig) -> ImageInfo | None:
    """Return what the header says; a file that cannot be opened stays one record and is rejected when it is read."""
    with ImageReader(limit_px=int(cfg.input.max_image_mpx * 1e6)) as reader:
        try:
            return reader.info(ImageSource.of(record))
        except RowRejected:
            return None


def _is_large(info: ImageInfo, cfg: EmbedConfig) -> bool:
    return info.by_region and max(info.height_px, info.width_px) > cfg.input.block_px


def _blocks_of(record: Row, info: ImageInfo, cfg: EmbedConfig, input_px: int) -> Iterator[tuple[Row, Any]]:
    """Yield (block, its boxes) of one field, row by row."""
    listed = record.get("boxes")
    tiles: list[Window] = []
    if listed is None and cfg.mode == "tile":
        whole = Box(0, 0, info.height_px, info.width_px)
        size_um = record["pixel_size_um"] or info.pixel_size_um
        tiles, _ = windows(whole, cfg, side_px=input_px, pixel_size_um=size_um, draw_key=record["image_id"])
    for number, core in enumerate(_grid(info.height_px, info.width_px, cfg.input.block_px)):
        own = None if listed is None else [b for b in listed if _centre_in(b, core, info)]
        if own == [] or (tiles and not any(starts_in(tile, core) for tile in tiles)):
            continue
        place = dict(
            zip(WINDOW_COLUMNS, (core.y0_px, core.x0_px, core.height_px, core.width_px), strict=True)
        )
        yield {"number": number, **place}, own


def _grid(height_px: int, width_px: int, block_px: int) -> Iterator[Box]:
    """Yield blocks side by side that cover a field, all of nearly the same size."""
    rows, cols = _cuts(height_px, block_px), _cuts(width_px, block_px)
    for y0, y1 in rows:
        for x0, x1 in cols:
            yield Box(y0, x0, y1 - y0, x1 - x0)


def _cuts(side_px: int, block_px: int) -> list[tuple[int, int]]:
    count = math.ceil(side_px / block_px)
    bounds = [round(i * side_px / count) for i in range(count + 1)]
    return list(itertools.pairwise(bounds))


def _centre_in(box: Row, core: Box, info: ImageInfo) -> bool:
    """Whether a cell's centre lies in a block; one outside of the image belongs to the nearest block."""
    y = min(max(box["y0_px"] + box["height_px"] / 2, 0), info.height_px - 1)
    x = min(max(box["x0_px"] + box["width_px"] / 2, 0), info.width_px - 1)
    return bool(core.holds(y, x))
