"""Rows and columns of an exported run: which row goes where, and ``obs`` written column by column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from anndata.io import write_elem
from numpy.typing import NDArray

from microsnoop.core.schema import META_PREFIX, Key
from microsnoop.io.parts import read_parts
from microsnoop.io.store import RunStore

_OBS_COLUMNS = (
    "image_id", "parent_id", "kind", "label", "sample_index", "y0_px", "x0_px", "height_px", "width_px",
    "image_height_px", "image_width_px", "pixel_size_um", "index", "n_constant_planes",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Which row of the run goes to which row of the file.

    ``part_rows[p][i]`` is the output row of row i of part p; ``n_tiles`` counts the rows that are averaged into
    each output row where tiles are (then ``first`` of them gives the output row's columns).
    """

    part_rows: list[NDArray[np.int64]]
    n_rows: int
    n_tiles: NDArray[np.int64] | None


def find_layout(store: RunStore, level: str) -> Layout:
    """Give every row of every part its place in the file: order of the input list, then of its samples."""
    tables = [
        table
        for _, table in read_parts(store.embedding_parts(), ("image_id", "sample_index", "parent_id", "kind"))
    ]
    if not tables:
        return Layout([], 0, None)
    rows = pa.concat_tables(tables)
    image = pc.index_in(rows["image_id"], value_set=store.records["image_id"].combine_chunks())
    order = np.lexsort((rows["sample_index"].to_numpy(), image.to_numpy()))
    has_tiles = bool(pc.any(pc.equal(rows["kind"], "tile")).as_py())
    if level == "image" or (level == "auto" and has_tiles):
        # parents in the order in which their first tile comes
        parents = rows["parent_id"].take(pa.array(order)).combine_chunks().dictionary_encode()
        group = np.empty(len(order), np.int64)
        group[order] = parents.indices.to_numpy()
        n_tiles = np.bincount(group)
        place, count = group, len(parents.dictionary)
    else:
        place, n_tiles, count = np.empty(len(order), np.int64), None, len(order)
        place[order] = np.arange(len(order))
    bounds = np.cumsum([0, *(table.num_rows for table in tables)])
    return Layout([place[a:b] for a, b in pairwise(bounds)], count, n_tiles)


def write_obs(root: Any, store: RunStore, layout: Layout) -> None:
    """Write ``obs`` column by column, and ``obsm["spatial"]`` where the pixel size of every row is known."""
    obs = root.create_group("obs")
    source = _FirstRows(store, layout)
    index = source.column("obs_id" if layout.n_tiles is None else "parent_id")
    columns: list[str] = []

    def write(name: str, values: Any) -> None:
        write_elem(obs, name, values)
        columns.append(name)

    write_elem(obs, "_index", np.asarray(index.to_pylist(), object))
    for name in _OBS_COLUMNS:
        values = source.column(name)
        if values.null_count < len(values):  # a column that holds nothing says nothing
            write(name, _as_obs(values))
    for name in ("uris", "flags"):
        write(name.removesuffix("s") if name == "uris" else name, _as_obs(source.joined(name)))
    if layout.n_tiles is not None:
        write("n_tiles", layout.n_tiles)
    for name, values in source.metadata():
        write(_obs_name(name, columns), _as_obs(values))
    obs.attrs.update({"_index": "_index", "encoding-type": "dataframe", "encoding-version": "0.2.0"})
    obs.attrs["column-order"] = np.asarray(columns, object) if isinstance(root, h5py.File) else columns
    spatial = source.centres_um()
    write_elem(root, "obsm", {} if spatial is None else {Key.SPATIAL: spatial})


class _FirstRows:
    """Columns of the output rows: of each, its first row in the run (rows differ only where tiles are averaged)."""

    def __init__(self, store: RunStore, layout: Layout) -> None:
        self._store = store
        place = np.concatenate(layout.part_rows)
        first = np.full(layout.n_rows, -1, np.int64)
        first[place[::-1]] = np.arange(len(place))[::-1]
        self._take = pa.array(first)
        self._tiled = layout.n_tiles is not None

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column, in output order."""
        parts = [table[name] for _, table in read_parts(self._store.embedding_parts(), (name,))]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks]).take(self._take)

    def joined(self, name: str) -> pa.Array:
        """Return a list column as text."""
        return pc.binary_join(self.column(name).combine_chunks(), ";")

    def metadata(self) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """Yield metadata of images and cells, joined by key."""
        for key, table in (("image_id", self._store.records), ("parent_id", self._store.cells)):
            if table is None:
                continue
            keys = table["image_id" if key == "image_id" else "parent_id"].combine_chunks()
            position = pc.index_in(self.column(key), value_set=keys)
            for name in (n for n in table.column_names if n.startswith(META_PREFIX)):
                yield name, table[name].take(position)

    def centres_um(self) -> NDArray[np.float64] | None:
        """Return centres (x, y) in µm, None unless every row's pixel size is known."""
        size = self.column("pixel_size_um")
        if size.null_count or self._tiled:
            return None
        y, x = (
            pc.add(self.column(start), pc.divide(pc.cast(self.column(length), pa.float64()), 2.0)).to_numpy()
            for start, length in (("y0_px", "height_px"), ("x0_px", "width_px"))
        )
        return np.stack([x, y], axis=1) * size.to_numpy()[:, None]


def _obs_name(column: str, taken: list[str]) -> str:
    """Return the user's own name of a metadata column, with ``meta_`` in front only where ours has that name."""
    name = column.removeprefix(META_PREFIX).replace("/", "_") or column
    return f"{META_PREFIX}{name}" if name in taken or name == "_index" else name


def _as_obs(values: pa.Array | pa.ChunkedArray) -> Any:
    """Return what AnnData stores for a column: text as categories unless it hardly repeats, numbers, truth values."""
    if pa.types.is_string(values.type):
        whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        encoded = whole.dictionary_encode()
        if len(encoded.dictionary) > len(values) // 2 and not values.null_count:
            return np.asarray(values.to_pylist(), object)
        codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        return pd.Categorical.from_codes(codes, categories=encoded.dictionary.to_pylist())
    if pa.types.is_boolean(values.type):
        return values.to_pandas().astype("boolean").array if values.null_count else values.to_numpy()
    if pa.types.is_integer(values.type) and values.null_count:
        return values.to_pandas().astype("Int64").array
    return values.to_numpy()
