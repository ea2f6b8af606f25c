"""From one record to its samples: decode once, choose the windows, cut them, find their intensity maps.

Everything that can be wrong with one image or one cell ends here as a rejected row, never as an exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, Kind, RejectCode, Stage, cell_id, tile_id
from microsnoop.io.images import Image, ImageReader, ImageSource
from microsnoop.io.store import row_key
from microsnoop.ops.geometry import Box, cut
from microsnoop.ops.intensity import Scaling, padded_scaling, plane_scaling
from microsnoop.ops.modes import Window, windows

Row = dict[str, Any]


@dataclass(frozen=True)
class ReadJob:
    """What the reading stage must know of the run."""

    cfg: EmbedConfig
    channels: tuple[str, ...]
    input_px: int
    processing_key: str
    session: str  # unique for each session: files held open by an earlier one are not trusted


@dataclass(frozen=True)
class _Region:
    """What a record asks for: its whole image, or one of its boxes."""

    parent_id: str
    label: str | None
    box: Box | None
    asked: tuple[int | None, int | None, int | None, int | None]


@dataclass(frozen=True)
class _Planned:
    """A window to cut, or the reason why this region has none."""

    region: _Region
    window: Window | None
    flags: tuple[Flag, ...] = ()
    reject: RowRejected | None = None


def samples_of(record: Row, reader: ImageReader, job: ReadJob) -> Iterator[Row]:
    """Yield one row (``schema.sample_schema``) for every sample of a record: pixels, or the reason for none."""
    regions = _regions(record)
    try:
        image = _read(record, reader, job)
    except RowRejected as error:
        for i, region in enumerate(regions):
            yield _row(record, region, None, job, (i, len(regions)), error=error)
        return
    height_px, width_px = image.planes.shape[1:]
    pixel_size_um = record["pixel_size_um"] or image.pixel_size_um
    record = {
        **record,
        "pixel_size_um": pixel_size_um,
        "image_height_px": height_px,
        "image_width_px": width_px,
    }
    planned = [plan for region in regions for plan in _plan(region, image, job, pixel_size_um)]
    skip = set(record.get("skip_obs_ids") or ())
    for i, plan in enumerate(planned):
        row = _row(record, plan.region, plan.window, job, (i, len(planned)), error=plan.reject)
        if row["obs_id"] in skip:
            continue
        if plan.window is not None:
            try:
                row |= _pixels(image, plan, job)
            except RowRejected as error:
                row |= _reject(error, row)
        yield row


def _regions(record: Row) -> list[_Region]:
    boxes = record.get("boxes")
    if boxes is None:
        return [_Region(record["image_id"], None, None, (None, None, None, None))]
    regions = []
    for b in boxes:
        asked = (b["y0_px"], b["x0_px"], b["height_px"], b["width_px"])
        box = Box(*asked) if min(asked[2:]) >= 1 else None
        regions.append(_Region(cell_id(record["image_id"], b["label"]), b["label"], box, asked))
    return regions


def _read(record: Row, reader: ImageReader, job: ReadJob) -> Image:
    source = ImageSource.of(record)
    if not source.uris:
        raise RowRejected(
            RejectCode.DECODE_ERROR,
            f"the image {record['image_id']!r} of the cell table is not in the input list",
        )
    image = reader.read(source, channels=job.cfg.input.channels)
    if image.channels != job.channels:
        raise RowRejected(
            RejectCode.CHANNEL_MISMATCH,
            f"{source.name}: has the channel(s) {', '.join(image.channels)}, but this run is made of "
            f"{', '.join(job.channels)}; choose channels by position or name with input.channels",
        )
    return image


def _plan(region: _Region, image: Image, job: ReadJob, pixel_size_um: float | None) -> list[_Planned]:
    height_px, width_px = image.planes.shape[1:]
    box = region.box if region.label is not None else Box(0, 0, height_px, width_px)
    try:
        if box is None or not box.overlaps(height_px, width_px):
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"the box (y0, x0, height, width) = {region.asked} lies outside its image of "
                f"{height_px} × {width_px} px",
            )
        real = cut(image.planes, box)
        shortest = min(real.shape[1:])
        if shortest < job.cfg.input.min_side_px:
            raise RowRejected(
                RejectCode.TOO_SMALL,
                f"{real.shape[1]} × {real.shape[2]} px is below input.min_side_px = {job.cfg.input.min_side_px}",
            )
        found, flags = windows(
            box, job.cfg, side_px=job.input_px, pixel_size_um=pixel_size_um, draw_key=region.parent_id
        )
    except RowRejected as error:
        return [_Planned(region, None, reject=error)]
    inside = [window for window in found if window.box.overlaps(height_px, width_px)]
    return [_Planned(region, window, tuple(flags)) for window in inside]


def _pixels(image: Image, plan: _Planned, job: ReadJob) -> Row:
    """Cut a window and describe its pixels."""
    assert plan.window is not None
    box, cfg = plan.window.box, job.cfg
    planes = np.ascontiguousarray(cut(image.planes, box))
    if planes.dtype.kind == "f" and not np.isfinite(planes).all():
        bad = [c for c, plane in zip(image.channels, planes, strict=True) if not np.isfinite(plane).all()]
        raise RowRejected(
            RejectCode.NON_FINITE_PIXELS, f"NaN or infinite pixels in the channel(s) {', '.join(bad)}"
        )
    whole = cfg.mode == "tile" and cfg.tile.norm == "image"
    scaling = _scaling(_region_pixels(image, plan) if whole else planes, job, plan.window)
    if cfg.normalise.constant_plane == "reject" and scaling.constant.any():
        flat = [c for c, constant in zip(image.channels, scaling.constant, strict=True) if constant]
        raise RowRejected(RejectCode.CONSTANT_PLANE, f"no contrast in the channel(s) {', '.join(flat)}")
    clipped = () if box.inside(*image.planes.shape[1:]) else (Flag.CLIPPED_WINDOW,)
    return {
        "flags": sorted({*image.flags, *plan.flags, *scaling.flags, *clipped}),
        "n_constant_planes": int(scaling.constant.sum()),
        "pixels": planes.tobytes(),
        "dtype": str(planes.dtype),
        "rows_px": planes.shape[1],
        "cols_px": planes.shape[2],
        "factor": plan.window.factor,
        "offset": scaling.offset,
        "span": scaling.span,
        "pad_level": scaling.pad_level,
    }


def _region_pixels(image: Image, plan: _Planned) -> NDArray[Any]:
    return image.planes if plan.region.box is None else cut(image.planes, plan.region.box)


def _scaling(planes: NDArray[Any], job: ReadJob, window: Window) -> Scaling:
    cfg = job.cfg.normalise
    if not cfg.enabled:
        zeros = np.zeros(len(planes))
        return Scaling(zeros, zeros + 1, zeros, np.zeros(len(planes), bool), ())
    if "pad_before_normalize" in job.cfg.compat:
        side_px = 0 if window.factor is None else job.input_px
        return padded_scaling(planes, low=cfg.low, high=cfg.high, side_px=max(side_px, *planes.shape[1:]))
    return plane_scaling(planes, low=cfg.low, high=cfg.high, pad=cfg.pad)


def _row(
    record: Row,
    region: _Region,
    window: Window | None,
    job: ReadJob,
    position: tuple[int, int],
    *,
    error: RowRejected | None,
) -> Row:
    """Return the identity of a sample; with ``error`` it is a reject."""
    box, kind = region.asked, Kind.IMAGE if region.label is None else Kind.CELL
    obs_id = region.parent_id
    if window is not None:
        box = (window.box.y0_px, window.box.x0_px, window.box.height_px, window.box.width_px)
        if window.is_tile:
            kind, obs_id = Kind.TILE, tile_id(region.parent_id, window.box.y0_px, window.box.x0_px)
    row: Row = {
        **{name: record.get(name) for name in ("image_id", "pixel_size_um", "uris", "index")},
        "image_height_px": record.get("image_height_px"),
        "image_width_px": record.get("image_width_px"),
        "obs_id": obs_id,
        "parent_id": region.parent_id,
        "kind": str(kind),
        "label": region.label,
        "sample_index": position[0],
        "n_samples": position[1],
        **dict(zip(("y0_px", "x0_px", "height_px", "width_px"), box, strict=True)),
        "flags": [],
        "n_constant_planes": None,
        "row_key": row_key(record["record_key"], box, job.processing_key),
    }
    return row if error is None else row | _reject(error, row)


def _reject(error: RowRejected, row: Row) -> Row:
    """Return the columns of a reject; its message names the file, whoever wrote it."""
    source = next((uri for uri in row["uris"] or () if uri), row["obs_id"])
    message = error.message if source in error.message else f"{source}: {error.message}"
    return {"stage": str(Stage.READ), "code": str(error.code), "message": message}
