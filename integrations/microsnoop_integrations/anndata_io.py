"""The only writer of AnnData files: a run directory becomes ``.h5ad`` or ``.zarr``, in bounded memory.

``X`` is written block by block and each column of ``obs`` by itself, so memory holds one part of the run, one
column, and a few integers a row, however many rows there are. ``docs/schema.md`` lists every key written here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import zarr
from anndata.io import write_elem
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, RunError
from microsnoop.core.schema import META_PREFIX, SCHEMA_VERSION, Key
from microsnoop.io.parts import read_parts
from microsnoop.io.store import RunStore
from microsnoop.ops.profiles import GroupMean, feature_names, fuse_channels

_OBS_COLUMNS = (
    "image_id", "parent_id", "kind", "label", "sample_index", "y0_px", "x0_px", "height_px", "width_px",
    "image_height_px", "image_width_px", "pixel_size_um", "index", "n_constant_planes",
)  # fmt: skip
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class _Layout:
    """Which row of the run goes to which row of the file.

    ``part_rows[p][i]`` is the output row of row i of part p; ``n_tiles`` counts the rows that are averaged into
    each output row where tiles are (then ``first`` of them gives the output row's columns).
    """

    part_rows: list[NDArray[np.int64]]
    n_rows: int
    n_tiles: NDArray[np.int64] | None


def export(
    run: RunStore | Path | str, path: Path | str | None = None, *, level: str = "auto", fuse: str = ""
) -> Path:
    """Write a run as AnnData.

    Parameters
    ----------
    run
        The run directory.
    path
        ``.h5ad`` or ``.zarr``; default ``<run>.h5ad`` beside the run.
    level
        ``sample``: one row for every embedded row. ``image``: tiles are averaged to the image or cell they were
        cut from, with their number in ``obs["n_tiles"]``. ``auto``: ``image`` where there are tiles.
    fuse
        ``concat``, ``mean`` or ``chans``; default the run's own setting.

    Returns
    -------
    The path written. Rows are in the order of the input list, whatever order they were computed in.

    Raises
    ------
    RunError
        Nothing embedded, or the disk cannot be written.
    ConfigError
        An unknown extension or level.
    """
    store = run if isinstance(run, RunStore) else RunStore(Path(run))
    target = Path(path) if path is not None else store.path.with_name(f"{store.path.name}.h5ad")
    if target.suffix not in (".h5ad", ".zarr"):
        raise ConfigError(f"{target} must end in .h5ad or .zarr")
    if level not in ("auto", "sample", "image"):
        raise ConfigError(f"unknown level {level!r}: auto, sample or image")
    fuse = fuse or str(store.info["config"]["fuse"])
    layout = _layout(store, level)
    if layout.n_rows == 0:
        raise RunError(
            f"{store.path} holds no embedded row to export", hint="`microsnoop verify` lists the rejects"
        )
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    try:
        _write(store, partial, layout, fuse, zarr_format=target.suffix == ".zarr")
        _remove(target)
        partial.rename(target)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error}") from error
    finally:
        _remove(partial)
    return target


def read(path: Path | str) -> ad.AnnData:
    """Read an AnnData file that :func:`export` wrote (or any other), by its extension."""
    path = Path(path)
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def _write(store: RunStore, path: Path, layout: _Layout, fuse: str, *, zarr_format: bool) -> None:
    identity = store.info["identity"]
    names = feature_names(identity["channels"], identity["dim"], how=fuse)
    root: Any = zarr.open_group(path, mode="w", zarr_format=2) if zarr_format else h5py.File(path, "w")
    try:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_x(root, store, layout, fuse, len(names))
        _write_obs(root, store, layout)
        write_elem(root, "var", _var(names))
        write_elem(root, "uns", {Key.UNS: _provenance(store, layout)})
        for empty in ("obsm", "varm", "obsp", "varp", "layers"):
            if empty not in root:
                write_elem(root, empty, {})
    finally:
        if not zarr_format:
            root.close()


def _layout(store: RunStore, level: str) -> _Layout:
    """Give every row of every part its place in the file: order of the input list, then of its samples."""
    tables = [
        table
        for _, table in read_parts(store.embedding_parts(), ("image_id", "sample_index", "parent_id", "kind"))
    ]
    if not tables:
        return _Layout([], 0, None)
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
    return _Layout([place[a:b] for a, b in pairwise(bounds)], count, n_tiles)


def _write_x(root: Any, store: RunStore, layout: _Layout, fuse: str, width: int) -> None:
    """Write ``X`` block by block."""
    chunks = (min(_CHUNK_ROWS, layout.n_rows), width)
    create = root.create_array if isinstance(root, zarr.Group) else root.create_dataset
    x = create("X", shape=(layout.n_rows, width), dtype="float32", chunks=chunks)
    x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    if layout.n_tiles is None:
        for place, vectors in _vectors(store, layout):
            _scatter(x, place, fuse_channels(vectors, how=fuse))
        return
    identity = store.info["identity"]
    means = GroupMean(layout.n_rows, len(identity["channels"]) * identity["dim"])
    for place, vectors in _vectors(store, layout):
        means.add(place, vectors.reshape(len(vectors), -1))
    shape = (-1, len(identity["channels"]), identity["dim"])
    for start in range(0, layout.n_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, layout.n_rows)
        x[start:stop] = fuse_channels(means.means(slice(start, stop)).reshape(shape), how=fuse)


def _vectors(store: RunStore, layout: _Layout) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (output rows, vectors (n, C, D)) of each part."""
    identity = store.info["identity"]
    shape = (-1, len(identity["channels"]), identity["dim"])
    for (_, table), place in zip(
        read_parts(store.embedding_parts(), ("vectors",)), layout.part_rows, strict=True
    ):
        flat = table["vectors"].combine_chunks().flatten().to_numpy()
        yield place, flat.reshape(shape)


def _scatter(x: Any, place: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Write rows to their places, in runs of neighbours: parts are nearly in order, so there are few."""
    order = np.argsort(place)
    place, values = place[order], values[order]
    for run in np.split(np.arange(len(place)), np.flatnonzero(np.diff(place) != 1) + 1):
        x[int(place[run[0]]) : int(place[run[-1]]) + 1] = values[run]


def _write_obs(root: Any, store: RunStore, layout: _Layout) -> None:
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

    def __init__(self, store: RunStore, layout: _Layout) -> None:
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


def _var(names: list[tuple[str, str, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(names, columns=["name", Key.CHANNEL, Key.DIMENSION]).set_index("name")
    frame.index.name = None
    frame[Key.CHANNEL] = pd.Categorical(
        frame[Key.CHANNEL], categories=list(dict.fromkeys(frame[Key.CHANNEL]))
    )
    return frame


def _provenance(store: RunStore, layout: _Layout) -> dict[str, Any]:
    """Return ``uns["microsnoop"]``; nested settings are JSON text, which every reader keeps as it is."""
    info = store.info
    return {
        "schema_version": SCHEMA_VERSION,
        "run_dir": str(store.path),
        "encoder": info["encoder"]["name"],
        "encoder_sha256": info["encoder"]["weights_sha256"],
        "encoder_trained": bool(info["encoder"]["trained"]),
        "encoder_licence": info["encoder"]["licence"],
        "precision": info["identity"]["precision"],
        "channels": np.asarray(info["identity"]["channels"], object),
        "dim": info["identity"]["dim"],
        "level": "sample" if layout.n_tiles is None else "image",
        "counts_json": json.dumps(store.counts()),
        "config_json": json.dumps(info["config"], ensure_ascii=False),
        "versions_json": json.dumps(info["versions"]),
    }


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
