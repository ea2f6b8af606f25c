"""From one record to its samples: choose the windows, decode once, cut them, find their intensity maps.

Everything that can be wrong with one image or one cell ends here as a rejected row, never as an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import WINDOW_COLUMNS, Flag, Kind, RejectCode, Stage, block_id, tile_id
from microsnoop.io.images import Image, ImageReader
from microsnoop.io.store import row_key
from microsnoop.ops.cell_windows import erase_outside
from microsnoop.ops.geometry import Box, bounding_box, cut
from microsnoop.ops.intensity import Scaling, padded_scaling, plane_scaling, unscaled
from microsnoop.ops.modes import Window, windows
from microsnoop.pipelines.crops import cells_of
from microsnoop.pipelines.fields import (
    Field,
    ReadJob,
    Region,
    Row,
    listed_regions,
    open_field,
)
from microsnoop.pipelines.labels import Labels, mask_window, segmentation_plane, threshold_settings


@dataclass(frozen=True)
class _Planned:
    """A window to cut, or the reason why this region has none."""

    region: Region
    window: Window | None
    flags: tuple[Flag, ...] = ()
    reject: RowRejected | None = None
    facts: Row | None = None
    number: int | None = None  # of the object in the mask


def samples_of(record: Row, reader: ImageReader, job: ReadJob) -> Iterator[Row]:
    """Yield one row (``schema.sample_schema``) for every sample of a record: pixels, or the reason for none."""
    regions = listed_regions(record)
    try:
        field = open_field(record, reader, job)
        planned, labels = _plan(field, regions)
        wanted = [plan.window.box for plan in planned if plan.window is not None]
        image = field.decoded(wanted) if wanted else field.image
    except RowRejected as error:
        for i, region in enumerate(regions):
            yield _row(record, _Planned(region, None, reject=error), job, (i, len(regions)))
        return
    record = {
        **record,
        "pixel_size_um": field.pixel_size_um,
        "image_height_px": field.size_px[0],
        "image_width_px": field.size_px[1],
    }
    skip = set(record.get("skip_obs_ids") or ())
    for i, plan in enumerate(planned):
        row = _row(record, plan, job, (i, len(planned)))
        if row["obs_id"] in skip:
            continue
        if plan.window is not None and plan.reject is None and image is not None:
            try:
                row |= _pixels(image, plan, field, labels)
            except RowRejected as error:
                row |= _reject(error, row)
        yield row


def _plan(field: Field, regions: Sequence[Region]) -> tuple[list[_Planned], Labels | None]:
    """Return every window of a field, or why there is none; and its label mask in mode crop."""
    if field.job.cfg.mode == "crop":
        cells, labels = cells_of(field)
        return [_Planned(c.region, c.window, c.flags, c.reject, c.facts, c.number) for c in cells], labels
    planned = [plan for region in regions for plan in _windows(region, field)]
    return _without_background(planned, field), None


def _windows(region: Region, field: Field) -> list[_Planned]:
    cfg, (height_px, width_px) = field.job.cfg, field.size_px
    box = region.box if region.label is not None else Box(0, 0, height_px, width_px)
    try:
        if box is None or not box.overlaps(height_px, width_px):
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"the box (y0, x0, height, width) = {region.asked} lies outside its image of "
                f"{height_px} × {width_px} px",
            )
        real = box.clipped(height_px, width_px)
        if min(real.height_px, real.width_px) < cfg.input.min_side_px:
            raise RowRejected(
                RejectCode.TOO_SMALL,
                f"{real.height_px} × {real.width_px} px is below input.min_side_px = {cfg.input.min_side_px}",
            )
        found, flags = windows(
            box,
            cfg,
            side_px=field.job.input_px,
            pixel_size_um=field.pixel_size_um,
            draw_key=region.parent_id,
        )
    except RowRejected as error:
        return [_Planned(region, None, reject=error)]
    inside = [window for window in found if window.box.overlaps(height_px, width_px)]
    if field.block is not None and region.label is None:
        inside = [window for window in inside if starts_in(window, field.block)]
    return [_Planned(region, window, tuple(flags)) for window in inside]


def starts_in(window: Window, block: Box) -> bool:
    """Whether a tile belongs to a block of a large field: its upper left corner lies there."""
    return bool(block.holds(window.box.y0_px, window.box.x0_px))


def _without_background(planned: list[_Planned], field: Field) -> list[_Planned]:
    """Reject tiles that hold too little foreground."""
    least = field.job.cfg.tile.foreground
    tiles = [plan.window.box for plan in planned if plan.window is not None and plan.window.is_tile]
    if not least or not tiles:
        return planned
    from microsnoop.ops.segment import foreground

    around = bounding_box(tiles).clipped(*field.size_px)
    settings = threshold_settings(field.job.cfg.segment, field.pixel_size_um)
    inside = foreground(segmentation_plane(field, around), settings)

    def checked(plan: _Planned) -> _Planned:
        if plan.window is None or not plan.window.is_tile:
            return plan
        share = float(cut(inside, plan.window.box, origin_px=(around.y0_px, around.x0_px)).mean())
        if share >= least:
            return plan
        message = f"{share:.1%} of the tile is foreground, less than tile.foreground = {least:.1%}"
        return replace(plan, reject=RowRejected(RejectCode.BACKGROUND, message))

    return [checked(plan) for plan in planned]


def _pixels(image: Image, plan: _Planned, field: Field, labels: Labels | None) -> Row:
    """Cut a window and describe its pixels."""
    assert plan.window is not None
    box, cfg = plan.window.box, field.job.cfg
    planes = np.ascontiguousarray(cut(image.planes, box, origin_px=image.origin_px))
    if planes.dtype.kind == "f" and not np.isfinite(planes).all():
        bad = [c for c, plane in zip(image.channels, planes, strict=True) if not np.isfinite(plane).all()]
        raise RowRejected(
            RejectCode.NON_FINITE_PIXELS, f"NaN or infinite pixels in the channel(s) {', '.join(bad)}"
        )
    if labels is not None and cfg.crop.kind == "mask":
        planes, scaling = _erased(planes, plan, field, labels)
    else:
        whole = cfg.mode == "tile" and cfg.tile.norm == "image"
        scaling = _scaling(_region_pixels(image, plan) if whole else planes, field.job, plan.window)
    scaling = scaling.without([image.channels.index(name) for name in field.missing])
    if cfg.normalise.constant_plane == "reject" and scaling.constant.any():
        flat = [c for c, constant in zip(image.channels, scaling.constant, strict=True) if constant]
        raise RowRejected(RejectCode.CONSTANT_PLANE, f"no contrast in the channel(s) {', '.join(flat)}")
    further = {Flag.CLIPPED_WINDOW} if not box.inside(*field.size_px) else set()
    further |= {Flag.MISSING_CHANNEL} if field.missing else set()
    return {
        "flags": sorted({*image.flags, *plan.flags, *scaling.flags, *further}),
        "n_constant_planes": int(scaling.constant.sum()),
        "missing_channels": field.missing or None,
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
    return (
        image.planes
        if plan.region.box is None
        else cut(image.planes, plan.region.box, origin_px=image.origin_px)
    )


def _erased(
    planes: NDArray[Any], plan: _Planned, field: Field, labels: Labels
) -> tuple[NDArray[np.float32], Scaling]:
    """Scale on the object's own pixels, and set the others to what becomes 0."""
    assert plan.window is not None
    assert plan.number is not None
    below = mask_window(field, labels, plan.window.box)
    cfg = field.job.cfg.normalise
    own = planes[:, below == plan.number][:, :, None]
    scaling = plane_scaling(own, low=cfg.low, high=cfg.high) if cfg.enabled else unscaled(len(planes))
    return erase_outside(planes, below, plan.number, levels=scaling.offset), scaling


def _scaling(planes: NDArray[Any], job: ReadJob, window: Window) -> Scaling:
    cfg = job.cfg.normalise
    if not cfg.enabled:
        return unscaled(len(planes))
    if "pad_before_normalize" in job.cfg.compat:
        side_px = 0 if window.factor is None else job.input_px
        return padded_scaling(planes, low=cfg.low, high=cfg.high, side_px=max(side_px, *planes.shape[1:]))
    return plane_scaling(planes, low=cfg.low, high=cfg.high, pad=cfg.pad)


def _row(record: Row, plan: _Planned, job: ReadJob, position: tuple[int, int]) -> Row:
    """Return the identity of a sample; with ``plan.reject`` it is a reject."""
    region, window = plan.region, plan.window
    block = record.get("block")
    box, kind, scale = region.asked, Kind.IMAGE if region.label is None else Kind.CELL, None
    obs_id = region.parent_id
    if block is not None and region.label is None:
        obs_id = block_id(region.parent_id, block["number"])
    if window is not None:
        box = (window.box.y0_px, window.box.x0_px, window.box.height_px, window.box.width_px)
        scale = window.factor or job.input_px / max(box[2:])
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
        **dict(zip(WINDOW_COLUMNS, box, strict=True)),
        "flags": [],
        "n_constant_planes": None,
        "row_key": row_key(record["record_key"], box, job.processing_key),
        "block": None if block is None else block["number"],
        "scale": scale,
        **(plan.facts or {}),
    }
    return row if plan.reject is None else row | _reject(plan.reject, row)


def _reject(error: RowRejected, row: Row) -> Row:
    """Return the columns of a reject; its message names the file, whoever wrote it."""
    source = next((uri for uri in row["uris"] or () if uri), row["obs_id"])
    message = error.message if source in error.message else f"{source}: {error.message}"
    return {"stage": str(Stage.READ), "code": str(error.code), "message": message}
