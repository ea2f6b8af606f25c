"""What the stages of the embedding pipeline share, and the first of them: Arrow tables in, Arrow tables out.

Nothing here imports torch: processes that only read images start faster and stay small.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from microsnoop.core.schema import (
    RECORD_FIELDS,
    require_columns,
    result_schema,
    sample_schema,
)
from microsnoop.io.images import ImageReader
from microsnoop.ops.geometry import Box
from microsnoop.ops.intensity import Scaling
from microsnoop.ops.modes import PixelSample
from microsnoop.pipelines.fields import ReadJob, Row
from microsnoop.pipelines.samples import samples_of

_YIELD_BYTES = 8 * 2**20


@functools.lru_cache(maxsize=1)
def _reader(limit_px: int, session: str) -> ImageReader:  # noqa: ARG001  (a new session gets a new reader)
    """One reader a process and session: the pages of a stack are read by many calls, its header once."""
    return ImageReader(limit_px=limit_px)


def read_samples(records: pa.Table, *, job: ReadJob) -> Iterator[pa.Table]:
    """Turn records into samples.

    ::

        in    image_id, uris, index, boxes, ...                       one row an image
        out   obs_id, y0_px .., pixels, dtype, offset, span, ...      one row a sample, or
              obs_id, .., stage, code, message                        the reason why it has no pixels
    """
    require_columns(records.column_names, stage="read_samples", needed=[name for name, _ in RECORD_FIELDS])
    reader = _reader(int(job.cfg.input.max_image_mpx * 1e6), job.session)
    schema = sample_schema()
    rows: list[Row] = []
    size = 0
    for record in records.to_pylist():
        for row in samples_of(record, reader, job):
            rows.append(row)
            size += len(row.get("pixels", b""))
            if size > _YIELD_BYTES:
                yield pa.Table.from_pylist(rows, schema=schema)
                rows, size = [], 0
    if rows or not size:
        yield pa.Table.from_pylist(rows, schema=schema)


def not_finite(
    vectors: NDArray[np.float32], rows: Sequence[Row], channels: Sequence[str]
) -> NDArray[np.bool_]:
    """Return which rows of ``vectors`` (n, C, D) are not finite; channels without a file become NaN, in place."""
    bad: NDArray[np.bool_] = ~np.asarray(np.isfinite(vectors).all(axis=2))
    for i, row in enumerate(rows):
        for name in row["missing_channels"] or ():
            vectors[i, channels.index(name)] = np.nan
            bad[i, channels.index(name)] = False
    return np.asarray(bad.any(axis=1))


def pixel_sample(row: Row, n_channels: int) -> PixelSample:
    """Return the pixels (C, h, w) and maps of one row of ``schema.sample_schema``."""
    planes = np.frombuffer(row["pixels"], row["dtype"]).reshape(n_channels, row["rows_px"], row["cols_px"])
    offset, span, level = (np.asarray(row[name], np.float64) for name in ("offset", "span", "pad_level"))
    return PixelSample(
        planes=planes,
        scaling=Scaling(offset, span, level, np.zeros(n_channels, bool), ()),
        box=Box(row["y0_px"], row["x0_px"], row["height_px"], row["width_px"]),
        image_px=(row["image_height_px"], row["image_width_px"]),
        factor=row["factor"],
    )


def result_table(
    samples: pa.Table,
    vectors: NDArray[np.float32],
    stages: list[Any],
    codes: list[Any],
    messages: list[Any],
) -> pa.Table:
    """Return ``samples`` without pixels, with vectors (N, C·D), and stage, code and message where there are none."""
    schema = result_schema(vectors.shape[1])
    missing = pa.array([code is not None for code in codes], pa.bool_())
    column = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.reshape(-1)), type=schema.field("vectors").type, mask=missing
    )
    own = {"vectors": column, "stage": stages, "code": codes, "message": messages}
    columns = [own.get(name, samples[name] if name not in own else None) for name in schema.names]
    arrays = [
        pa.array(column, schema.field(name).type) if isinstance(column, list) else column
        for name, column in zip(schema.names, columns, strict=True)
    ]
    return pa.table(arrays, schema=schema)
