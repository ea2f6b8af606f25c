"""The two stages of the embedding pipeline, as Ray Data calls them: Arrow tables in, Arrow tables out."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from microsnoop.core.errors import MicrosnoopError
from microsnoop.core.schema import (
    ERROR_FIELDS,
    PIXEL_FIELDS,
    RECORD_FIELDS,
    ROW_FIELDS,
    RejectCode,
    Stage,
    require_columns,
    result_schema,
    sample_schema,
)
from microsnoop.io.images import ImageReader
from microsnoop.models.card import EncoderBundle
from microsnoop.models.device import DevicePlan
from microsnoop.models.embedder import Embedder, EmbedderOptions
from microsnoop.ops.geometry import Box
from microsnoop.ops.intensity import Scaling
from microsnoop.ops.modes import PixelSample
from microsnoop.pipelines.fields import ReadJob, Row
from microsnoop.pipelines.samples import samples_of

log = logging.getLogger(__name__)

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


class EmbedActor:
    """Holds one encoder and turns samples into vectors; as many rows leave as came, in the same order.

    ::

        in    obs_id, .., pixels, dtype, offset, span, ..    or a reject, which passes through
        out   obs_id, .., vectors (C·D)                      or the reason why there is none
    """

    def __init__(
        self, bundle: EncoderBundle, plan: DevicePlan, options: EmbedderOptions, channels: Sequence[str]
    ) -> None:
        self._embedder = Embedder(bundle, plan, options)
        self._channels, self._n_channels = list(channels), len(channels)
        self._chunk_rows = max(1, 4 * plan.batch_planes // len(channels))

    def __call__(self, samples: pa.Table) -> pa.Table:
        """Embed one block."""
        names = [name for fields in (ROW_FIELDS, PIXEL_FIELDS, ERROR_FIELDS) for name, _ in fields]
        require_columns(samples.column_names, stage="EmbedActor", needed=names)
        codes: list[str | None] = samples["code"].to_pylist()
        messages: list[str | None] = samples["message"].to_pylist()
        stages: list[str | None] = samples["stage"].to_pylist()
        width = self._n_channels * self._embedder.card.dim
        vectors = np.full((samples.num_rows, width), np.nan, np.float32)
        good = [i for i, code in enumerate(codes) if code is None]
        for start in range(0, len(good), self._chunk_rows):
            chosen = good[start : start + self._chunk_rows]
            rows = samples.take(pa.array(chosen)).select([name for name, _ in (*ROW_FIELDS, *PIXEL_FIELDS)])
            embedded, failures = self._embed(rows.to_pylist())
            vectors[chosen] = embedded.reshape(len(chosen), width)
            for position, message in failures.items():
                row = chosen[position]
                source = next((uri for uri in samples["uris"][row].as_py() if uri), "")
                stages[row], codes[row] = Stage.EMBED, RejectCode.BAD_EMBEDDING
                messages[row] = f"{source}: {message}"
        return result_table(samples, vectors, stages, codes, messages)

    def _embed(self, rows: list[Row]) -> tuple[NDArray[np.float32], dict[int, str]]:
        """Return vectors (n, C, D), NaN where a row failed, and the reasons by position."""
        samples = [pixel_sample(row, self._n_channels) for row in rows]
        failures: dict[int, str] = {}
        try:
            vectors = self._embedder.embed(samples)
        except MicrosnoopError:
            raise
        except Exception as error:
            log.warning("a batch of %d rows failed, trying row by row: %s", len(rows), error)
            vectors = self._one_by_one(samples, failures)
            if len(failures) == len(rows):  # then it is not the rows
                raise
        for i in np.flatnonzero(not_finite(vectors, rows, self._channels)):
            failures.setdefault(int(i), "the encoder's output has no length or is not finite")
        return vectors, failures

    def _one_by_one(self, samples: Sequence[PixelSample], failures: dict[int, str]) -> NDArray[np.float32]:
        vectors = np.full((len(samples), self._n_channels, self._embedder.card.dim), np.nan, np.float32)
        for i, sample in enumerate(samples):
            try:
                vectors[i] = self._embedder.embed([sample])[0]
            except Exception as error:  # noqa: BLE001  (one bad row must not take its batch with it)
                failures[i] = f"the encoder failed on this row: {type(error).__name__}: {error}"
        return vectors


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
