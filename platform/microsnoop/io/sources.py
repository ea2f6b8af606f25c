"""The state of a record's files, and the key that says from which source a row was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from microsnoop.io.opener import fingerprints

_STATE = {"fingerprints", "mask_fingerprint", "record_key"}


def with_fingerprints(records: pa.Table) -> pa.Table:
    """Add or renew the columns that hold the state of the files: of images, and of masks where there are any."""
    uris = records["uris"].to_pylist()
    masks = records["mask_uri"].to_pylist() if "mask_uri" in records.column_names else []
    named = [uri for row in (*uris, masks) for uri in row if uri is not None]
    marks = dict(zip(named, fingerprints(named), strict=True))
    prints = [[None if uri is None else marks[uri] for uri in row] for row in uris]
    records = _put(records, "fingerprints", pa.array(prints, pa.list_(pa.string())))
    if "mask_uri" in records.column_names:
        of_masks = pa.array([None if uri is None else marks[uri] for uri in masks], pa.string())
        records = _put(records, "mask_fingerprint", of_masks)
    return records


def with_keys(records: pa.Table) -> pa.Table:
    """Add or renew ``record_key`` from the columns that name a record's source and its state."""
    names = ("uris", "fingerprints", "uri_channels", "index", "pixel_size_um")
    columns = [records[name].to_pylist() for name in names]
    further: list[list[Any]] = [[] for _ in range(records.num_rows)]
    if "mask_uri" in records.column_names:
        masks = zip(records["mask_uri"].to_pylist(), records["mask_fingerprint"].to_pylist(), strict=True)
        further = [[*more, *mask] for more, mask in zip(further, masks, strict=True)]
    if "block" in records.column_names:
        blocks = records["block"].to_pylist()
        further = [
            more if block is None else [*more, *block.values()]
            for more, block in zip(further, blocks, strict=True)
        ]
    keys = [source_key(*row, further=more) for *row, more in zip(*columns, further, strict=True)]
    return _put(records, "record_key", pa.array(keys, pa.string()))


def refreshed(records: pa.Table, image_ids: set[str]) -> pa.Table:
    """Return ``records`` with the file states and keys of some images taken anew."""
    rows = [i for i, name in enumerate(records["image_id"].to_pylist()) if name in image_ids]
    fresh = with_keys(with_fingerprints(records.take(pa.array(rows, pa.int64()))))
    for name in _STATE.intersection(records.column_names):
        values = records[name].to_pylist()
        for row, value in zip(rows, fresh[name].to_pylist(), strict=True):
            values[row] = value
        records = _put(records, name, pa.array(values, records.schema.field(name).type))
    return records


def source_key(
    uris: Sequence[str | None],
    prints: Sequence[str | None],
    uri_channels: Sequence[str] | None,
    index: int | None,
    pixel_size_um: float | None,
    *,
    further: Sequence[Any] = (),
) -> str:
    """Return the key of a record's source: which files, in which state, which image of them, at what scale.

    ``further`` is what only some records have: the mask and its state, the block.
    """
    text = json.dumps([uris, prints, uri_channels, index, pixel_size_um, *further], ensure_ascii=False)
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _put(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    if name not in table.column_names:
        return table.append_column(name, values)
    return table.set_column(table.schema.get_field_index(name), name, values)
