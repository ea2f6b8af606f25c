"""Segmentation by itself: label masks and pictures of fields, and how well they agree with masks that are given.

What mode crop does on the fly, for a look before a long run, for masks that are kept, and for a score.
"""

from __future__ import annotations

import functools
import hashlib
import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import InputError, RowRejected
from microsnoop.core.schema import RECORD_FIELDS, require_columns
from microsnoop.io.images import ImageReader
from microsnoop.io.manifest import InputList, read_records
from microsnoop.io.parts import write_atomic
from microsnoop.models.segmenters import check_segmenter
from microsnoop.pipelines.cluster import as_dataset
from microsnoop.pipelines.fields import Field, ReadJob, Row, open_field
from microsnoop.pipelines.labels import find_labels, segment_field, segmentation_plane
from microsnoop.pipelines.plan import probe

_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("n_objects", pa.int64()),
        ("median_area_px", pa.float64()),
        ("covered", pa.float64()),  # share of the pixels
        ("n_true", pa.int64()),  # objects of the given mask, and how many of them were found
        ("tp", pa.int64()),
        ("fp", pa.int64()),
        ("fn", pa.int64()),
        ("mask", pa.string()),
        ("preview", pa.string()),
        ("code", pa.string()),  # why there is no mask
        ("message", pa.string()),
    ]
)
_FIELDS_PER_BLOCK = 4


@dataclass(frozen=True)
class SegmentJob:
    """What a worker must know: settings, where files go, which fields get a picture, and the IoU of a match."""

    read: ReadJob
    folder: Path
    previews: frozenset[str]
    iou: float = 0.5


def prepare_segmentation(
    cfg: EmbedConfig, folder: Path, *, previews: int, iou: float = 0.5
) -> tuple[InputList, SegmentJob]:
    """Check inputs and settings; ``previews`` fields spread over the list get a picture.

    Raises
    ------
    InputError, ConfigError
        Whatever cannot work, said before any work is done.
    """
    inputs = read_records(cfg.input)
    check_segmenter(cfg.segment.method, cfg.segment.model)
    channels = probe(inputs.records, cfg).channels
    ids = inputs.records["image_id"].to_pylist()
    stems: dict[str, str] = {}
    for image_id in ids:
        other = stems.setdefault(file_stem(image_id), image_id)
        if other != image_id:
            raise InputError(
                f"the masks of {other!r} and {image_id!r} would have the same name",
                hint="give the images ids that differ in more than their ending",
            )
    spread = np.linspace(0, len(ids) - 1, min(previews, len(ids))).round().astype(int)
    chosen = frozenset(ids[i] for i in spread)
    job = ReadJob(cfg, channels, 0, "", session=uuid.uuid4().hex)
    return inputs, SegmentJob(job, folder.resolve(), chosen, iou)


def segment_stream(records: pa.Table, job: SegmentJob) -> Iterator[pa.Table]:
    """Segment every field on the connected Ray cluster; yield one row a field as they come.

    ::

        records              image_id, uris, index, mask_uri        one row a field
        -> _segment_fields   n_objects, .., tp, fp, fn, mask        one row a field, or code and message
    """
    found = as_dataset(records, rows_per_block=_FIELDS_PER_BLOCK).map_batches(
        functools.partial(_segment_fields, job=job), batch_format="pyarrow", batch_size=None
    )
    yield from found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _segment_fields(records: pa.Table, *, job: SegmentJob) -> pa.Table:
    require_columns(records.column_names, stage="_segment_fields", needed=[name for name, _ in RECORD_FIELDS])
    with ImageReader(limit_px=int(job.read.cfg.input.max_image_mpx * 1e6)) as reader:
        rows = [_segment(record, reader, job) for record in records.to_pylist()]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _segment(record: Row, reader: ImageReader, job: SegmentJob) -> Row:
    row: Row = {"image_id": record["image_id"]}
    try:
        field = open_field(record, reader, job.read)
        labels = segment_field(field)
        assert labels.mask is not None
        truth = find_labels(field).mask if record.get("mask_uri") else None
    except RowRejected as error:
        return {**row, "code": str(error.code), "message": error.message}
    stem = file_stem(record["image_id"])
    row |= {
        "n_objects": len(labels.table),
        "median_area_px": float(np.median(labels.table.area_px)) if len(labels.table) else None,
        "covered": float((labels.mask > 0).mean()),
        "mask": str(_write_mask(labels.mask, job.folder / "masks" / f"{stem}_masks.tif")),
    }
    if record["image_id"] in job.previews:
        picture = job.folder / "previews" / f"{stem}.png"
        row["preview"] = str(_write_preview(field, labels.mask, truth, picture))
    return row | _agreement(labels.mask, truth, job.iou)


def _agreement(mask: NDArray[Any], truth: NDArray[Any] | None, iou: float) -> Row:
    if truth is None:
        return {}
    from microsnoop.ops.match import match_objects

    found = match_objects(truth, mask, iou)
    return {"n_true": found.tp + found.fn, "tp": found.tp, "fp": found.fp, "fn": found.fn}


def file_stem(image_id: str) -> str:
    """Return the path below an output folder for an image: its id without ending, nothing that leaves the folder."""
    path = PurePosixPath(image_id)
    parts = [part for part in path.with_suffix("").parts if part not in ("/", "..", ".")]
    safe = "/".join(part.replace(":", "_").replace("\\", "_") for part in parts)
    if safe == str(path.with_suffix("")):
        return safe
    # two ids must never meet in one file
    return f"{safe}-{hashlib.blake2b(image_id.encode(), digest_size=4).hexdigest()}"


def _write_mask(mask: NDArray[np.int32], path: Path) -> Path:
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    dtype = np.uint16 if mask.max(initial=0) < 2**16 else np.int32
    tifffile.imwrite(buffer, mask.astype(dtype), compression="zlib", tile=(256, 256))
    write_atomic(path, buffer.getvalue())
    return path


def _write_preview(field: Field, mask: NDArray[Any], truth: NDArray[Any] | None, path: Path) -> Path:
    """Write outlines over the segmented plane; beside it the given mask, if there is one."""
    from PIL import Image as Picture

    from microsnoop.ops.outlines import draw_outlines

    plane = segmentation_plane(field, None)
    pictures = [draw_outlines(plane, mask)] + ([draw_outlines(plane, truth)] if truth is not None else [])
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Picture.fromarray(np.concatenate(pictures, axis=1)).save(buffer, format="png")
    write_atomic(path, buffer.getvalue())
    return path
