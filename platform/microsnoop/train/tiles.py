"""Rows of the one-channel pool: decode stored tiles, or cut images of any kind into tiles. No row is lost.

A tile row: ``tile_id``, ``source``, ``image``, ``kind`` (text), ``pixels`` (T, T) uint8, ``problem`` (text; empty
for a good tile, else why there are no pixels).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from microsnoop.core.codes import RejectCode
from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError, RowRejected
from microsnoop.io.images import ImageReader, ImageSource, decode_image
from microsnoop.ops.geometry import cut, tile_boxes
from microsnoop.ops.intensity import percentiles

TileRow = dict[str, Any]
TileBatch = dict[str, NDArray[Any]]
_TEXT = ("tile_id", "source", "image", "kind", "problem")
_STRETCH = (0.1, 99.9)
_MIN_SIDE_PX = 64  # Microsnoop spec, section 1
_MIN_SD = 6.0
_OVERLAP = 0.05
_MAX_TILE_PX = 4096**2


def stored_columns(names: Sequence[str], where: str) -> list[str]:
    """Return the columns to read of a file of stored tiles.

    Raises
    ------
    InputError
        A column that is needed is missing.
    """
    missing = {"tile_id", "source", "jpeg"} - set(names)
    if missing:
        raise InputError(
            f"{where} is not a file of tiles: the column(s) {', '.join(sorted(missing))} are missing",
            hint="docs/pretraining.md lists the columns of a pool",
        )
    return [name for name in ("tile_id", "source", "image", "kind", "jpeg") if name in names]


def decode_tiles(table: pa.Table, *, tile_px: int) -> TileBatch:
    """Decode a block of stored tiles."""
    rows = []
    for stored in table.to_pylist():
        row: TileRow = {name: str(stored.get(name) or "") for name in _TEXT}
        row["image"] = row["image"] or row["tile_id"]
        try:
            plane = _one_plane(stored["jpeg"], row["tile_id"])
            row["pixels"] = _to_square(plane, tile_px, row["tile_id"])
        except RowRejected as error:
            row["problem"] = f"{error.code}: {error.message}"
        rows.append(row)
    return as_batch(rows, tile_px)


def cut_tiles(records: pa.Table, *, cfg: InputConfig, tile_px: int) -> TileBatch:
    """Read a block of image records and cut every channel into tiles."""
    rows: list[TileRow] = []
    with ImageReader(limit_px=int(cfg.max_image_mpx * 1e6)) as reader:
        for record in records.to_pylist():
            rows.extend(_tiles_of(record, reader, cfg, tile_px))
    return as_batch(rows, tile_px)


def as_batch(rows: Sequence[TileRow], tile_px: int) -> TileBatch:
    """Stack rows into columns; rows with a problem get empty pixels, which nobody looks at."""
    empty = np.zeros((tile_px, tile_px), np.uint8)
    batch: TileBatch = {name: np.array([row[name] for row in rows], dtype=object) for name in _TEXT}
    shape = (0, tile_px, tile_px)
    batch["pixels"] = (
        np.stack([row.get("pixels", empty) for row in rows]) if rows else np.empty(shape, np.uint8)
    )
    return batch


def _tiles_of(record: TileRow, reader: ImageReader, cfg: InputConfig, tile_px: int) -> Iterator[TileRow]:
    """Yield the tiles of one image, or one row that says why there are none."""
    base = {
        "source": str(record.get("meta_source") or "images"),
        "image": record["image_id"],
        "kind": str(record.get("meta_kind") or ""),
        "problem": "",
    }
    try:
        image = reader.read(ImageSource.of(record), channels=cfg.channels)
    except RowRejected as error:
        yield base | {"tile_id": record["image_id"], "problem": f"{error.code}: {error.message}"}
        return
    for channel, plane in zip(image.channels, image.planes, strict=True):
        plane_id = f"{record['image_id']}/{channel}"
        try:
            stretched = _stretch(plane, plane_id)
        except RowRejected as error:
            yield base | {"tile_id": plane_id, "problem": f"{error.code}: {error.message}"}
            continue
        for box in tile_boxes(*stretched.shape, window_px=tile_px, overlap=_OVERLAP):
            pixels = cut(stretched[None], box)[0]
            tile = base | {"tile_id": f"{plane_id}@{box.y0_px},{box.x0_px}"}
            if pixels.std() < _MIN_SD:
                yield tile | {"problem": f"empty: the standard deviation is below {_MIN_SD:g} of 255 levels"}
            else:
                yield tile | {"pixels": _to_square(pixels, tile_px, tile["tile_id"])}


def _stretch(plane: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Bring a plane (H, W) to uint8 between its 0.1 and 99.9 percentiles."""
    if min(plane.shape) < _MIN_SIDE_PX:
        raise RowRejected(RejectCode.TOO_SMALL, f"{name}: {plane.shape[0]} × {plane.shape[1]} px")
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise RowRejected(RejectCode.NON_FINITE_PIXELS, f"{name}: holds values that are not finite")
    low, high = percentiles(plane, _STRETCH)
    if not high > low:
        raise RowRejected(RejectCode.CONSTANT_PLANE, f"{name}: has no contrast")
    return np.clip((plane - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)


def _one_plane(encoded: bytes, name: str) -> NDArray[np.uint8]:
    image = decode_image(encoded or b"", name, limit_px=_MAX_TILE_PX)
    if len(image.planes) != 1 or image.planes.dtype != np.uint8:
        raise RowRejected(
            RejectCode.CHANNEL_MISMATCH,
            f"{name}: a tile is one 8-bit plane, got {len(image.planes)} of {image.planes.dtype}",
        )
    return image.planes[0]


def _to_square(plane: NDArray[np.uint8], tile_px: int, name: str) -> NDArray[np.uint8]:
    """Mirror a smaller tile up to the square; a larger one is refused, as cutting it would lose pixels unasked."""
    height, width = plane.shape
    if max(height, width) > tile_px:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH,
            f"{name}: {height} × {width} px is larger than pool.tile_px = {tile_px}",
        )
    if (height, width) == (tile_px, tile_px):
        return plane
    missing = (tile_px - height, tile_px - width)
    return np.pad(plane, [(gap // 2, gap - gap // 2) for gap in missing], mode="symmetric")
