"""Names, codes and Arrow schemas are promises: each is written down here a second time."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core import codes, schema
from microsnoop.core.schema import (
    block_id,
    cell_id,
    embedding_schema,
    read_header,
    reject_schema,
    require_columns,
    result_schema,
    sample_schema,
    tile_id,
    unit_ids,
)

ROW = {
    "obs_id": "string",
    "image_id": "string",
    "parent_id": "string",
    "kind": "string",
    "label": "string",
    "sample_index": "int64",
    "n_samples": "int64",
    "y0_px": "int64",
    "x0_px": "int64",
    "height_px": "int64",
    "width_px": "int64",
    "image_height_px": "int64",
    "image_width_px": "int64",
    "pixel_size_um": "double",
    "uris": "list<item: string>",
    "index": "int64",
    "flags": "list<item: string>",
    "n_constant_planes": "int64",
    "row_key": "string",
    "block": "int64",
    "scale": "double",
    "area_px": "int64",
    "centroid_y_px": "double",
    "centroid_x_px": "double",
    "object_y0_px": "int64",
    "object_x0_px": "int64",
    "object_height_px": "int64",
    "object_width_px": "int64",
    "n_border_px": "int64",
    "missing_channels": "list<item: string>",
}
PIXELS = {
    "pixels": "large_binary",
    "dtype": "string",
    "rows_px": "int64",
    "cols_px": "int64",
    "factor": "double",
    "offset": "list<item: double>",
    "span": "list<item: double>",
    "pad_level": "list<item: double>",
}
ERROR = {"stage": "string", "code": "string", "message": "string"}
RECORD = {
    "image_id": "string",
    "uris": "list<item: string>",
    "fingerprints": "list<item: string>",
    "uri_channels": "list<item: string>",
    "index": "int64",
    "pixel_size_um": "double",
    "record_key": "string",
}
BOX = {"label": "string", "y0_px": "int64", "x0_px": "int64", "height_px": "int64", "width_px": "int64"}


def columns(found: pa.Schema) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in found]


def vectors(width: int) -> dict[str, str]:
    return {"vectors": f"fixed_size_list<item: float>[{width}]"}


def test_columns_of_every_table() -> None:
    assert schema.SCHEMA_VERSION == 2
    assert schema.READABLE_VERSIONS == (1, 2)
    assert columns(sample_schema()) == [*ROW.items(), *PIXELS.items(), *ERROR.items()]
    assert columns(result_schema(512)) == [*ROW.items(), *vectors(512).items(), *ERROR.items()]
    found = embedding_schema(channels=["DNA", "ER", "AGP"], dim=256)
    assert columns(found) == [*ROW.items(), *vectors(768).items()]
    assert columns(reject_schema()) == [*ROW.items(), *ERROR.items()]
    assert [(name, str(dtype)) for name, dtype in schema.RECORD_FIELDS] == list(RECORD.items())
    assert [(name, str(dtype)) for name, dtype in schema.BOX_FIELDS] == list(BOX.items())


def test_codes_in_files() -> None:
    assert [str(code) for code in codes.RejectCode] == [
        "decode_error",
        "shape_mismatch",
        "channel_mismatch",
        "non_finite_pixels",
        "constant_plane",
        "too_small",
        "too_large_for_native",
        "empty_mask",
        "border_cell",
        "area_out_of_range",
        "oversize",
        "not_drawn",
        "background",
        "bad_embedding",
    ]
    assert [str(flag) for flag in codes.Flag] == [
        "sparse_plane",
        "constant_plane",
        "auto_tiled",
        "clipped_window",
        "fragmented",
        "truncated",
        "shrunk",
        "missing_channel",
        "alpha_dropped",
        "cmyk_converted",
        "float64_narrowed",
    ]
    assert [str(kind) for kind in codes.Kind] == ["image", "cell", "tile"]
    assert [str(stage) for stage in codes.Stage] == ["read", "embed"]


def test_schema_offers_the_codes_themselves() -> None:
    for name in ("RejectCode", "Flag", "Kind", "Stage"):
        assert getattr(schema, name) is getattr(codes, name)


def test_ids() -> None:
    assert cell_id("plate/A01_s1.tif", "17") == "plate/A01_s1.tif#17"  # spec 10
    assert tile_id("img", 160, 0) == "img@160,0"
    assert block_id("img", 3) == "img[block 3]"
    assert tile_id(cell_id("img", "3"), -5, 12) == "img#3@-5,12"


def test_units_are_images_or_blocks_of_large_ones() -> None:
    rows = pa.table({"image_id": ["a", "b", "b"]})
    assert unit_ids(rows) == ["a", "b", "b"]
    assert unit_ids(rows.append_column("block", pa.array([None, 0, 1]))) == ["a", "b[block 0]", "b[block 1]"]
    blocks = pa.array([None, {"number": 4}, {"number": 5}])
    assert unit_ids(rows.append_column("block", blocks)) == ["a", "b[block 4]", "b[block 5]"]


def test_header_survives_a_parquet_file() -> None:
    found = embedding_schema(channels=["DNA", "é"], dim=3)
    sink = pa.BufferOutputStream()
    pq.write_table(found.empty_table(), sink)
    again = pq.read_schema(pa.BufferReader(sink.getvalue()))
    assert read_header(again) == {"schema_version": 2, "channels": ["DNA", "é"], "dim": 3}
    assert read_header(reject_schema()) == {"schema_version": 2}


def test_header_of_a_foreign_file_is_empty() -> None:
    assert read_header(pa.schema([("a", pa.int64())])) == {}
    assert read_header(pa.schema([("a", pa.int64())], metadata={b"pandas": b"{}"})) == {}


def test_require_columns_names_stage_missing_and_present() -> None:
    with pytest.raises(ValueError, match=r"^read_samples needs the columns \['c', 'a'\], but got only"):
        require_columns(["d", "b"], stage="read_samples", needed=["c", "b", "a"])
    with pytest.raises(ValueError, match=r"got only \['b', 'd'\]$"):
        require_columns(["d", "b"], stage="s", needed=["a"])


def test_require_columns_takes_any_iterable_once() -> None:
    require_columns(iter(["a", "b", "c"]), stage="s", needed=iter(["c", "a"]))
    require_columns([], stage="s", needed=[])
    with pytest.raises(ValueError, match="'a'"):
        require_columns(iter([]), stage="s", needed=iter(["a"]))
