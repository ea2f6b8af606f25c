"""Rows and columns of an exported run: which row goes where, and ``obs`` written column by column."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from anndata.io import write_elem
from numpy.typing import NDArray

from microsnoop.core.errors import RunError
from microsnoop.core.schema import META_PREFIX, OBJECT_COLUMNS, Key
from microsnoop.io.parts import read_parts
from microsnoop.io.store import RunStore

_OBS_COLUMNS = (
    "image_id", "parent_id", "kind", "label", "sample_index", "y0_px", "x0_px", "height_px", "width_px",
    "image_height_px", "image_width_px", "pixel_size_um", "index", "n_constant_planes", "block", "scale",
    *OBJECT_COLUMNS,
)  # fmt: skip


# What a field has of its own: the rest belongs to its cells and tiles.
_FIELD_COLUMNS = ("image_id", "image_height_px", "image_width_px", "pixel_size_um", "index")


@dataclass(frozen=True)
class Layout:
    """Which row of the run goes to which row of the file.

    ``part_rows[p][i]`` is the output row of row i of part p. ``first`` gives for each output row the row of the run
    whose columns it takes (embedded rows counted first, then at level ``field`` the rejects), -1 where it has none.
    ``sizes`` says how many rows are aggregated into each output row, and is None where none are; ``counts`` are
    columns of ``obs``. ``fields`` are the image ids, at level ``field``.
    """

    level: str
    part_rows: list[NDArray[np.int64]]
    first: NDArray[np.int64]
    sizes: NDArray[np.int64] | None = None
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    fields: pa.Array | None = None

    @property
    def n_rows(self) -> int:
        """How many rows the file has."""
        return len(self.first)


def find_layout(store: RunStore, level: str) -> Layout:
    """Give every row of every part its place in the file: order of the input list, then of its samples."""
    columns = ("image_id", "block", "sample_index", "parent_id", "kind")
    tables = [table for _, table in read_parts(store.embedding_parts(), columns)]
    if not tables:
        return Layout(level, [], np.empty(0, np.int64))
    rows = pa.concat_tables(tables)
    bounds = np.cumsum([0, *(table.num_rows for table in tables)])
    if level == "field":
        return _field_layout(store, rows, bounds)
    # a large field may stand in the list several times, once a block: its first place counts
    image = pc.index_in(rows["image_id"], value_set=store.records["image_id"].combine_chunks())
    block = pc.fill_null(rows["block"], 0).to_numpy()
    order = np.lexsort((rows["sample_index"].to_numpy(), block, image.to_numpy()))
    has_tiles = bool(pc.any(pc.equal(rows["kind"], "tile")).as_py())
    if level == "sample" or not (level == "image" or has_tiles):
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return Layout("sample", _split(place, bounds), order)
    # parents in the order in which their first tile comes
    parents = rows["parent_id"].take(pa.array(order)).combine_chunks().dictionary_encode()
    place = np.empty(len(order), np.int64)
    place[order] = parents.indices.to_numpy()
    n_tiles = np.bincount(place)
    return Layout("image", _split(place, bounds), _first(place, len(n_tiles)), n_tiles, {"n_tiles": n_tiles})


def _field_layout(store: RunStore, rows: pa.Table, bounds: NDArray[np.int64]) -> Layout:
    """Give every image of the input list one row, embedded or not; an image that stands there twice has one."""
    fields = pc.unique(store.records["image_id"])
    rejected = [table["image_id"] for _, table in read_parts(store.reject_parts(), ("image_id",))]
    place = _places(store, rows["image_id"], fields)
    lost = _places(store, pa.chunked_array([c for ids in rejected for c in ids.chunks], pa.string()), fields)
    n = len(fields)
    # cells are counted once, however many tiles were cut from them
    of_cell = np.flatnonzero(pc.not_equal(rows["parent_id"], rows["image_id"]).to_numpy())
    cells = rows["parent_id"].take(pa.array(of_cell)).combine_chunks().dictionary_encode().indices.to_numpy()
    once = of_cell[np.unique(cells, return_index=True)[1]]
    tile, whole = (pc.equal(rows["kind"], kind).to_numpy() for kind in ("tile", "image"))
    counts = {
        "n_cells": np.bincount(place[once], minlength=n),
        "n_tiles": np.bincount(place[tile], minlength=n),
        "n_images": np.bincount(place[whole], minlength=n),
    }
    counts = {name: number for name, number in counts.items() if number.any()}
    counts["n_rejected"] = np.bincount(lost, minlength=n)
    first = _first(np.concatenate([place, lost]), n)
    return Layout("field", _split(place, bounds), first, np.bincount(place, minlength=n), counts, fields)


def _places(store: RunStore, ids: pa.ChunkedArray, fields: pa.Array) -> NDArray[np.int64]:
    places = pc.index_in(ids, value_set=fields)
    if places.null_count:
        stranger = ids.filter(pc.is_null(places))[0].as_py()
        raise RunError(
            f"{store.path} has {places.null_count} rows of images that are not in its input list, e.g. {stranger!r}",
            hint="`microsnoop verify` lists them",
        )
    return places.to_numpy().astype(np.int64)


def _split(place: NDArray[np.int64], bounds: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [place[a:b] for a, b in pairwise(bounds)]


def _first(place: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the position of the first row of each place, -1 where there is none."""
    first = np.full(n, -1, np.int64)
    first[place[::-1]] = np.arange(len(place))[::-1]
    return first


def write_obs(root: Any, store: RunStore, layout: Layout) -> None:
    """Write ``obs`` column by column, and ``obsm["spatial"]`` where the pixel size of every row is known."""
    obs = root.create_group("obs")
    source = _Rows(store, layout) if layout.fields is None else _FieldRows(store, layout)
    columns: list[str] = []

    def write(name: str, values: Any) -> None:
        write_elem(obs, name, values)
        columns.append(name)

    write_elem(obs, "_index", np.asarray(source.column(source.index).to_pylist(), object))
    for name in source.columns:
        values = source.column(name)
        if values.null_count < len(values):  # a column that holds nothing says nothing
            write(name, _as_obs(values))
    for name in source.lists:
        texts = source.joined(name)
        if name != "missing_channels" or texts.null_count < len(texts):
            write("uri" if name == "uris" else name, _as_obs(texts))
    for name, numbers in layout.counts.items():
        write(name, numbers)
    for name, values in source.metadata():
        write(_obs_name(name, columns), _as_obs(values))
    obs.attrs.update({"_index": "_index", "encoding-type": "dataframe", "encoding-version": "0.2.0"})
    obs.attrs["column-order"] = np.asarray(columns, object) if isinstance(root, h5py.File) else columns
    spatial = source.centres_um() if layout.sizes is None else None
    write_elem(root, "obsm", {} if spatial is None else {Key.SPATIAL: spatial})


class _Rows:
    """Columns of the output rows: of each, its first row in the run (rows differ only where they are aggregated)."""

    columns: tuple[str, ...] = _OBS_COLUMNS
    lists: tuple[str, ...] = ("uris", "flags", "missing_channels")

    def __init__(self, store: RunStore, layout: Layout) -> None:
        self._store = store
        self._parts = store.embedding_parts()
        self._take = pa.array(layout.first, mask=layout.first < 0)
        self.index = "obs_id" if layout.sizes is None else "parent_id"

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column, in output order."""
        parts = [table[name] for _, table in read_parts(self._parts, (name,))]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks]).take(self._take)

    def joined(self, name: str) -> pa.Array:
        """Return a list column as text; what is missing in a list (a channel's file) leaves its place empty."""
        lists = self.column(name).combine_chunks()
        if pc.list_flatten(lists).null_count:  # Arrow would make null of the whole list
            texts = [
                None if one is None else ";".join(text or "" for text in one) for one in lists.to_pylist()
            ]
            return pa.array(texts, pa.string())
        return pc.binary_join(lists, ";")

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
        """Return centres (x, y) in µm, None unless every row's pixel size is known.

        Of a cell found in a mask its centre of mass, else the centre of the window.
        """
        size = self.column("pixel_size_um")
        if size.null_count:
            return None
        sides = (("y0_px", "height_px", "centroid_y_px"), ("x0_px", "width_px", "centroid_x_px"))
        y, x = (self._centres_px(*names) for names in sides)
        return np.stack([x, y], axis=1) * size.to_numpy()[:, None]

    def _centres_px(self, start: str, length: str, centroid: str) -> NDArray[np.float64]:
        middle = pc.add(self.column(start), pc.divide(pc.cast(self.column(length), pa.float64()), 2.0))
        # a centroid counts from the middle of pixel 0, a window from its edge
        return pc.coalesce(pc.add(self.column(centroid), 0.5), middle).to_numpy()


class _FieldRows(_Rows):
    """Columns of fields: what the input list says of an image, else its first row, embedded or rejected."""

    columns = _FIELD_COLUMNS
    lists = ("uris",)

    def __init__(self, store: RunStore, layout: Layout) -> None:
        super().__init__(store, layout)
        self._parts = [*store.embedding_parts(), *store.reject_parts()]
        self.index = "image_id"
        records = store.records
        once = pc.index_in(layout.fields, value_set=records["image_id"].combine_chunks())
        wanted = {*self.columns, *self.lists}
        names = [name for name in records.column_names if name in wanted or name.startswith(META_PREFIX)]
        self._records = records.select(names).take(once)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column, in output order."""
        if name not in self._records.column_names:
            return super().column(name)
        listed = self._records[name]
        return pc.coalesce(listed, super().column(name)) if listed.null_count else listed

    def metadata(self) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """Yield metadata of images: that of a cell is not its field's."""
        for name in (n for n in self._records.column_names if n.startswith(META_PREFIX)):
            yield name, self._records[name]


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
