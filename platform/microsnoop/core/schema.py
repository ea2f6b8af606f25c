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

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)
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
# Further columns of records, present only where something stands in them.
MASK_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("mask_uri", pa.string()),
    ("mask_fingerprint", pa.string()),
)
BLOCK_FIELDS: tuple[tuple[str, pa.DataType], ...] = (
    ("number", pa.int64()),  # a large field is several records, one a block
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
    # since version 2; null where they do not apply
    ("block", pa.int64()),  # which block of a large field
    ("scale", pa.float64()),  # input pixels a pixel of the image
    ("area_px", pa.int64()),  # of the object in the mask, as all that follow
    ("centroid_y_px", pa.float64()),
    ("centroid_x_px", pa.float64()),
    ("object_y0_px", pa.int64()),
    ("object_x0_px", pa.int64()),
    ("object_height_px", pa.int64()),
    ("object_width_px", pa.int64()),
    ("n_border_px", pa.int64()),  # its pixels on the outermost rows and columns of the image
    ("missing_channels", pa.list_(pa.string())),  # channels whose vector is NaN: no file
)
WINDOW_COLUMNS = ("y0_px", "x0_px", "height_px", "width_px")
OBJECT_COLUMNS = (
    "area_px", "centroid_y_px", "centroid_x_px", "object_y0_px", "object_x0_px", "object_height_px",
    "object_width_px", "n_border_px",
)  # fmt: skip
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


def block_id(image_id: str, number: int) -> str:
    """Return the id of a row that stands for a whole block of a large field: ``image_id[block number]``."""
    return f"{image_id}[block {number}]"


def unit_ids(table: pa.Table) -> list[str]:
    """Return what each record or row belongs to: an image, or one block of a large one.

    ``table`` has ``image_id`` and, of a record, perhaps the struct ``block``; of a row, the number ``block``.
    Samples are counted, resumed and verified by these units.
    """
    images: list[str] = table["image_id"].to_pylist()
    if "block" not in table.schema.names:
        return images
    blocks = table["block"].to_pylist()
    numbers = [block["number"] if isinstance(block, dict) else block for block in blocks]
    return [
        image if number is None else block_id(image, number)
        for image, number in zip(images, numbers, strict=True)
    ]


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
