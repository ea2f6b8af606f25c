"""The only writer of AnnData files: a run directory becomes ``.h5ad`` or ``.zarr``, in bounded memory.

``X`` is written block by block and each column of ``obs`` by itself, so memory holds one part of the run, one
column, and a few integers a row, however many rows there are. Where rows are aggregated, it also holds the sums
of some thousand output rows, or, for a statistic that needs all rows of a group, 256 MB of rows (or one group, if
that is larger). ``docs/schema.md`` lists every key written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from microsnoop.io.replacing import replacing
from microsnoop.io.store import RunStore
from microsnoop.ops.aggregate import MAX_GROUP_ROWS, REDUCERS, chunk_groups, reduce_groups, statistics
from microsnoop.ops.profiles import feature_names, fuse_channels
from microsnoop_integrations.anndata_obs import Layout, find_layout, write_obs

_CHUNK_ROWS = 4096
_LEVELS = ("auto", "sample", "image", "field")
_SUMS = 2**23  # numbers of aggregated rows at a time: sums in float64 and their copies, about 300 MB
_MEMBERS = 2**26  # numbers of rows to aggregate at a time, where all of a group are needed: 256 MB


def export(
    run: RunStore | Path | str,
    path: Path | str | None = None,
    *,
    level: str = "auto",
    fuse: str = "",
    aggregate: str = "mean",
) -> Path:
    """Write a run as AnnData.

    Parameters
    ----------
    run
        The run directory.
    path
        ``.h5ad`` or ``.zarr``; default ``<run>.h5ad`` beside the run.
    level
        ``sample``: one row for every embedded row. ``image``: tiles are aggregated to the image or cell they were
        cut from, with their number in ``obs["n_tiles"]``. ``field``: one row for every image of the input list,
        made of all its cells or tiles, with their numbers and that of its rejects; an image without any embedded
        row is NaN in ``X``. ``auto``: ``image`` where there are tiles, else ``sample``.
    fuse
        ``concat``, ``mean`` or ``chans``; default the run's own setting.
    aggregate
        How rows become one at the levels ``image`` and ``field``: ``mean``, ``median``, ``mean_std``, ``trimmed`` or
        ``modz`` (``ops.aggregate``). First the vectors (C, D) are aggregated, each channel over the rows that have
        it, then channels are fused; so ``std`` fused by ``mean`` is the mean of the channels' deviations.

    Returns
    -------
    The path written. Rows are in the order of the input list, whatever order they were computed in.

    Raises
    ------
    RunError
        Nothing embedded, or the disk cannot be written.
    ConfigError
        An unknown extension, level or statistic; a statistic where nothing is aggregated; a group of more than
        1,000,000 rows for any statistic but the mean.
    """
    store = run if isinstance(run, RunStore) else RunStore(Path(run))
    target = Path(path) if path is not None else store.path.with_name(f"{store.path.name}.h5ad")
    if target.suffix not in (".h5ad", ".zarr"):
        raise ConfigError(f"{target} must end in .h5ad or .zarr")
    if level not in _LEVELS:
        raise ConfigError(f"unknown level {level!r}: choose one of {', '.join(_LEVELS)}")
    if aggregate not in REDUCERS:
        raise ConfigError(f"unknown statistic {aggregate!r}: choose one of {', '.join(REDUCERS)}")
    identity = store.identity
    layout = find_layout(store, level)
    _check(store, layout, aggregate)
    form = _Form(
        channels=identity["channels"],
        dim=identity["dim"],
        fuse=fuse or str(store.info["config"]["fuse"]),
        aggregate="" if layout.sizes is None else aggregate,
    )
    with replacing(target) as partial:
        _write(store, partial, layout, form, zarr_format=target.suffix == ".zarr")
    return target


def read(path: Path | str) -> ad.AnnData:
    """Read an AnnData file that :func:`export` wrote (or any other), by its extension."""
    path = Path(path)
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def write(data: ad.AnnData, path: Path | str) -> Path:
    """Write an AnnData object as ``.h5ad`` or ``.zarr``: whole, or not at all.

    Raises
    ------
    RunError
        The disk cannot be written.
    """
    target = Path(path)
    with replacing(target) as partial:
        data.write_zarr(partial) if target.suffix == ".zarr" else data.write_h5ad(partial)
    return target


def _check(store: RunStore, layout: Layout, aggregate: str) -> None:
    if not layout.part_rows:
        raise RunError(
            f"{store.path} holds no embedded row to export", hint="`microsnoop verify` lists the rejects"
        )
    if aggregate == "mean":
        return
    if layout.sizes is None:
        raise ConfigError(
            f"{aggregate!r} has nothing to aggregate: every embedded row is a row of the file",
            hint="--level field makes one row of each image",
        )
    if layout.sizes.max() > MAX_GROUP_ROWS:
        raise ConfigError(
            f"{aggregate!r} needs all rows of a group in memory; the largest has {layout.sizes.max():,}, "
            f"allowed are {MAX_GROUP_ROWS:,}",
            hint="--aggregate mean has no such limit",
        )


@dataclass(frozen=True)
class _Form:
    """What decides the columns of ``X``: channels, dim, how channels are fused and rows aggregated."""

    channels: list[str]
    dim: int
    fuse: str
    aggregate: str = ""  # empty where nothing is aggregated

    @property
    def statistics(self) -> tuple[str, ...]:
        return statistics(self.aggregate) if self.aggregate else ("",)

    def columns(self) -> list[tuple[str, str, int, str]]:
        """Return (name, channel, dimension, statistic) of every column: all of one statistic, then the next."""
        names = feature_names(self.channels, self.dim, how=self.fuse)
        return [
            (f"{name}:{statistic}" if place else name, channel, dimension, statistic)
            for place, statistic in enumerate(self.statistics)
            for name, channel, dimension in names
        ]

    def fused(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Fuse vectors (n, C·D) or, one a statistic, (n, S, C·D); the statistics come side by side."""
        split = vectors.reshape(len(vectors), len(self.statistics), len(self.channels), self.dim)
        return np.concatenate(
            [fuse_channels(split[:, s], how=self.fuse) for s in range(split.shape[1])], axis=1
        )


def _write(store: RunStore, path: Path, layout: Layout, form: _Form, *, zarr_format: bool) -> None:
    var = _var(form)
    root: Any = zarr.open_group(path, mode="w", zarr_format=2) if zarr_format else h5py.File(path, "w")
    try:
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        _write_x(root, store, layout, form, len(var))
        write_obs(root, store, layout)
        write_elem(root, "var", var)
        write_elem(root, "uns", {Key.UNS: _provenance(store, layout, form)})
        for empty in ("obsm", "varm", "obsp", "varp", "layers"):
            if empty not in root:
                write_elem(root, empty, {})
    finally:
        if not zarr_format:
            root.close()


def _write_x(root: Any, store: RunStore, layout: Layout, form: _Form, width: int) -> None:
    """Write ``X`` block by block."""
    chunks = (min(_CHUNK_ROWS, layout.n_rows), width)
    create = root.create_array if isinstance(root, zarr.Group) else root.create_dataset
    x = create("X", shape=(layout.n_rows, width), dtype="float32", chunks=chunks)
    x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    if layout.sizes is None:
        for place, vectors in _vectors(store.embedding_parts(), layout.part_rows):
            _scatter(x, place, form.fused(vectors))
        return
    flat, files = len(form.channels) * form.dim, store.embedding_parts()
    for rows, parts in _chunks(layout, flat, form.aggregate):
        blocks = _inside(_vectors([files[p] for p in parts], [layout.part_rows[p] for p in parts]), rows)
        x[rows] = form.fused(reduce_groups(blocks, layout.sizes[rows], width=flat, how=form.aggregate))


def _chunks(layout: Layout, width: int, aggregate: str) -> Iterator[tuple[slice, list[int]]]:
    """Yield runs of output rows that fit into memory together, and the parts that hold rows of theirs.

    Parts come nearly in the order of the input list, so hardly any is read more often than twice.
    """
    assert layout.sizes is not None
    # sums are small however many rows there are
    limit = int(layout.sizes.sum()) if aggregate == "mean" else _MEMBERS // width
    groups = max(_SUMS // (width * len(statistics(aggregate))), 1)
    chunks = chunk_groups(layout.sizes, max_groups=groups, max_rows=limit)
    starts = np.array([rows.start for rows in chunks])
    parts: list[list[int]] = [[] for _ in chunks]
    for part, place in enumerate(layout.part_rows):
        for chunk in np.unique(np.searchsorted(starts, place, side="right") - 1):
            parts[chunk].append(part)
    yield from zip(chunks, parts, strict=True)


def _vectors(
    parts: Sequence[Path], places: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (output rows, vectors (n, C·D)) of each part."""
    for (_, table), place in zip(read_parts(parts, ("vectors",)), places, strict=True):
        yield place, table["vectors"].combine_chunks().flatten().to_numpy().reshape(len(place), -1)


def _inside(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]], rows: slice
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Keep what goes to some output rows, which are counted from the first of these."""
    for place, vectors in blocks:
        here = (place >= rows.start) & (place < rows.stop)
        yield place[here] - rows.start, vectors[here]


def _scatter(x: Any, place: NDArray[np.int64], values: NDArray[np.float32]) -> None:
    """Write rows to their places, in runs of neighbours: parts are nearly in order, so there are few."""
    order = np.argsort(place)
    place, values = place[order], values[order]
    for run in np.split(np.arange(len(place)), np.flatnonzero(np.diff(place) != 1) + 1):
        x[int(place[run[0]]) : int(place[run[-1]]) + 1] = values[run]


def _var(form: _Form) -> pd.DataFrame:
    frame = pd.DataFrame(form.columns(), columns=["name", Key.CHANNEL, Key.DIMENSION, "statistic"])
    frame = frame.set_index("name")
    frame.index.name = None
    for name in (Key.CHANNEL, "statistic"):
        frame[name] = pd.Categorical(frame[name], categories=list(dict.fromkeys(frame[name])))
    return frame if form.aggregate else frame.drop(columns="statistic")


def _provenance(store: RunStore, layout: Layout, form: _Form) -> dict[str, Any]:
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
        "level": layout.level,
        **({"aggregate": form.aggregate} if form.aggregate else {}),
        "counts_json": json.dumps(store.counts()),
        "config_json": json.dumps(info["config"], ensure_ascii=False),
        "versions_json": json.dumps(info["versions"]),
    }
