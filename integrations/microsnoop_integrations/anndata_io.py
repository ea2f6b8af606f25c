"""The only writer of AnnData files: a run directory becomes ``.h5ad`` or ``.zarr``, in bounded memory.

``X`` is written block by block and each column of ``obs`` by itself, so memory holds one part of the run, one
column, and a few integers a row, however many rows there are. ``docs/schema.md`` lists every key written here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, RunError
from microsnoop.core.schema import SCHEMA_VERSION, Key
from microsnoop.io.parts import read_parts
from microsnoop.io.store import RunStore
from microsnoop.ops.profiles import GroupMean, feature_names, fuse_channels
from microsnoop_integrations.anndata_obs import Layout, find_layout, write_obs

_CHUNK_ROWS = 4096


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
    layout = find_layout(store, level)
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


def _write(store: RunStore, path: Path, layout: Layout, fuse: str, *, zarr_format: bool) -> None:
    identity = store.identity
    names = feature_names(identity["channels"], identity["dim"], how=fuse)
    root: Any = zarr.open_group(path, mode="w", zarr_format=2) if zarr_format else h5py.File(path, "w")
    try:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_x(root, store, layout, fuse, len(names))
        write_obs(root, store, layout)
        write_elem(root, "var", _var(names))
        write_elem(root, "uns", {Key.UNS: _provenance(store, layout)})
        for empty in ("obsm", "varm", "obsp", "varp", "layers"):
            if empty not in root:
                write_elem(root, empty, {})
    finally:
        if not zarr_format:
            root.close()


def _write_x(root: Any, store: RunStore, layout: Layout, fuse: str, width: int) -> None:
    """Write ``X`` block by block."""
    chunks = (min(_CHUNK_ROWS, layout.n_rows), width)
    create = root.create_array if isinstance(root, zarr.Group) else root.create_dataset
    x = create("X", shape=(layout.n_rows, width), dtype="float32", chunks=chunks)
    x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    if layout.n_tiles is None:
        for place, vectors in _vectors(store, layout):
            _scatter(x, place, fuse_channels(vectors, how=fuse))
        return
    identity = store.identity
    means = GroupMean(layout.n_rows, len(identity["channels"]) * identity["dim"])
    for place, vectors in _vectors(store, layout):
        means.add(place, vectors.reshape(len(vectors), -1))
    shape = (-1, len(identity["channels"]), identity["dim"])
    for start in range(0, layout.n_rows, _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, layout.n_rows)
        x[start:stop] = fuse_channels(means.means(slice(start, stop)).reshape(shape), how=fuse)


def _vectors(store: RunStore, layout: Layout) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (output rows, vectors (n, C, D)) of each part."""
    identity = store.identity
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


def _var(names: list[tuple[str, str, int]]) -> pd.DataFrame:
    frame = pd.DataFrame(names, columns=["name", Key.CHANNEL, Key.DIMENSION]).set_index("name")
    frame.index.name = None
    frame[Key.CHANNEL] = pd.Categorical(
        frame[Key.CHANNEL], categories=list(dict.fromkeys(frame[Key.CHANNEL]))
    )
    return frame


def _provenance(store: RunStore, layout: Layout) -> dict[str, Any]:
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
