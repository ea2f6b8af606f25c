"""Names of columns, codes and keys, and the Arrow schemas of the files a run writes.

These are promises: a change of meaning raises ``SCHEMA_VERSION`` and keeps a reader for the old files
(``tests/golden`` holds one file of every version). ``docs/schema.md`` is the readable form.

Axis letters used all through the project: N sample, C channel, H W height and width, S input side, D dim.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from microsnoop.core.codes import Flag as Flag
from microsnoop.core.codes import Kind as Kind
from microsnoop.core.codes import RejectCode as RejectCode
from microsnoop.core.codes import Stage as Stage

SCHEMA_VERSION = 1
META_PREFIX = "meta_"
SCHEMA_KEY = b"microsnoop"
MAX_CHANNELS = 60


class Key:
    """Names under which results stand in an AnnData object."""

    UNS = "microsnoop"
    SPATIAL = "spatial"
    CHANNEL = "channel"
    DIMENSION = "dimension"
    LEIDEN = "leiden"


# One record: one image to read, with the boxes to cut from it when it holds cells.
RECORD_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("image_id", pa.string()),
    ("uris", pa.list_(pa.string())),
    ("fingerprints", pa.list_(pa.string())),  # "size:mtime" or an object store's tag; null where missing
    ("uri_channels", pa.list_(pa.string())),  # one name per URI when channels are separate files, else null
    ("index", pa.int64()),  # position in a stack, or null
    ("pixel_size_um", pa.float64()),
    ("record_key", pa.string()),
)
BOX_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("label", pa.string()),
    ("y0_px", pa.int64()),
    ("x0_px", pa.int64()),
    ("height_px", pa.int64()),
    ("width_px", pa.int64()),
)
# What a sample, an embedding and a reject have in common: identity, place, source, provenance. Metadata is
# not repeated in every row: it stands in records.parquet and cells.parquet and is joined by key at export,
# so that a corrected plate map costs no embedding.
ROW_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("obs_id", pa.string()),
    ("image_id", pa.string()),
    ("parent_id", pa.string()),
    ("kind", pa.string()),
    ("label", pa.string()),
    ("sample_index", pa.int64()),
    ("n_samples", pa.int64()),
    ("y0_px", pa.int64()),
    ("x0_px", pa.int64()),
    ("height_px", pa.int64()),
    ("width_px", pa.int64()),
    ("image_height_px", pa.int64()),
    ("image_width_px", pa.int64()),
    ("pixel_size_um", pa.float64()),
    ("uris", pa.list_(pa.string())),
    ("index", pa.int64()),
    ("flags", pa.list_(pa.string())),
    ("n_constant_planes", pa.int64()),
    ("row_key", pa.string()),
)
# Pixels travel between the reading and the embedding stage in the dtype of the file.
PIXEL_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("pixels", pa.large_binary()),
    ("dtype", pa.string()),
    ("rows_px", pa.int64()),
    ("cols_px", pa.int64()),
    ("factor", pa.float64()),
    ("offset", pa.list_(pa.float64())),
    ("span", pa.list_(pa.float64())),
    ("pad_level", pa.list_(pa.float64())),
)
ERROR_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("stage", pa.string()),
    ("code", pa.string()),
    ("message", pa.string()),
)


def cell_id(image_id: str, label: str) -> str:
    """Return the id of a cell: ``image_id#label``."""
    return f"{image_id}#{label}"


def tile_id(parent_id: str, y0_px: int, x0_px: int) -> str:
    """Return the id of a tile: ``parent_id@y0,x0``, where the parent is an image or a cell."""
    return f"{parent_id}@{y0_px},{x0_px}"


def sample_schema() -> pa.Schema:
    """Schema between the reading and the embedding stage: identity, pixels, and an error where it failed."""
    return pa.schema([*_fields(ROW_FIELDS), *_fields(PIXEL_FIELDS), *_fields(ERROR_FIELDS)])


def result_schema(width: int) -> pa.Schema:
    """Schema after the embedding stage: identity, a vector of ``width`` numbers or null, and the error."""
    return pa.schema([*_fields(ROW_FIELDS), _vector(width), *_fields(ERROR_FIELDS)])


def embedding_schema(*, channels: Sequence[str], dim: int) -> pa.Schema:
    """Schema of ``embeddings/*.parquet``; ``vectors`` is (C, D) row by row, its shape is in the metadata."""
    header = {"schema_version": SCHEMA_VERSION, "channels": list(channels), "dim": dim}
    return pa.schema([*_fields(ROW_FIELDS), _vector(len(channels) * dim)], metadata=_header(header))


def reject_schema() -> pa.Schema:
    """Schema of ``rejects/*.parquet``."""
    fields = [*_fields(ROW_FIELDS), *_fields(ERROR_FIELDS)]
    return pa.schema(fields, metadata=_header({"schema_version": SCHEMA_VERSION}))


def read_header(schema: pa.Schema) -> dict[str, Any]:
    """Return what a file of ours says about itself: ``schema_version``, and ``channels`` and ``dim``."""
    header: dict[str, Any] = json.loads((schema.metadata or {}).get(SCHEMA_KEY, b"{}"))
    return header


def require_columns(names: Iterable[str], *, stage: str, needed: Iterable[str]) -> None:
    """Raise ``ValueError`` naming the stage, the missing columns and the ones that came."""
    present = list(names)
    missing = [name for name in needed if name not in present]
    if missing:
        raise ValueError(f"{stage} needs the columns {missing}, but got only {sorted(present)}")


def _vector(width: int) -> pa.Field:
    return pa.field("vectors", pa.list_(pa.float32(), width))


def _header(header: dict[str, Any]) -> dict[bytes, bytes]:
    return {SCHEMA_KEY: json.dumps(header).encode()}


def _fields(pairs: Iterable[tuple[str, pa.DataType]]) -> list[pa.Field]:
    return [pa.field(name, dtype) for name, dtype in pairs]
