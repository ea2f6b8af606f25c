"""Joint analyses as MuData, in ``.h5mu`` or ``.zarr``, and the same as one AnnData. Spec, section 11.

``mod["rna"]``: ``X`` log-normalised, ``layers["counts"]``; ``mod["image"]``: ``X`` the embeddings as they came,
``uns["microsnoop"]`` of their encoder. Results of joint methods stand under the keys of
:mod:`microsnoop_integrations.joint.keys`. The AnnData twin has the transcripts in ``X`` and the embeddings in
``obsm["X_image"]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import zarr
from anndata.io import read_elem
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError
from microsnoop.io.replacing import replacing
from microsnoop_integrations.joint.image_features import read_features
from microsnoop_integrations.joint.keys import (
    MUSE,
    FittedMuse,
    expand,
    put_hidden,
    put_muse,
    put_representation,
)
from microsnoop_integrations.joint.paired import Paired
from microsnoop_integrations.joint.representation import Representation

RNA, IMAGE = "rna", "image"
_SUFFIXES = (".h5mu", ".zarr")


def build(
    paired: Paired,
    representations: Sequence[Representation] = (),
    *,
    model: FittedMuse | None = None,
    single: Sequence[tuple[str, Representation]] = (),
) -> mudata.MuData:
    """Return a MuData of the paired cells, in the order of the transcripts, with what methods found.

    Parameters
    ----------
    paired
        The cells. Their sources are copied, not changed.
    representations
        Of joint methods (``concat``, ``wnn``, ``mofa``, ...), rows in the order of ``paired``.
    model
        A fitted joint model; its results get the key ``muse``.
    single
        ``("rna", representation)`` and ``("image", representation)``: of one modality; they go to
        ``mod[...].obsm["X_pca"]`` and ``mod[...].obs["leiden"]``.

    Returns
    -------
    ``mod["rna"]`` with all genes (``var["highly_variable"]``: those that were used), ``mod["image"]`` with all
    features (``var["used"]``). ``obs`` holds the metadata of both. ``uns["joint"]`` counts what was left out.
    """
    rna, image = _rna(paired), _image(paired)
    if clash := set(rna.var_names) & set(image.var_names):
        image.var_names = [f"{IMAGE}:{name}" if name in clash else name for name in image.var_names]
    with mudata.set_options(pull_on_update=False):
        data = mudata.MuData({RNA: rna, IMAGE: image})
    for name, column in paired.obs.items():  # by the names of the cells
        data.obs[_plain(name)] = column
    if paired.spatial is not None:
        data.obsm["spatial"] = paired.spatial[paired.order]
    data.uns["joint"] = {
        "n_cells": len(paired.obs_ids),
        "n_genes": len(paired.genes),
        "n_rejects": len(paired.rejects),
        "notes": np.asarray(paired.notes, object),
        "dropped_genes": np.asarray(paired.dropped_genes, object),
        "rejects": paired.rejects.astype(str).set_axis(paired.rejects.index.astype(str)),
    }
    for found in representations:
        put_representation(data, found, paired.obs_ids)
    for modality, found in single:
        put_representation(
            data[modality], found, paired.obs_ids, key="pca_clusters", obsm_key="X_pca", labels_key="leiden"
        )
    if model is not None:
        put_muse(data, model, paired)
        for modality, hidden in ((RNA, model.hidden_x_), (IMAGE, model.hidden_y_)):
            put_hidden(data[modality], hidden, paired.obs_ids, key=f"X_{MUSE}_h")
    return data


def to_anndata(data: mudata.MuData, *, rna: str = RNA, image: str = IMAGE) -> ad.AnnData:
    """Return the same as one AnnData: cells and ``X`` of the transcripts, images in ``obsm["X_image"]``.

    What the modalities hold by themselves gets their name: ``obsm["X_pca_rna"]``, ``obsm["X_muse_h_image"]``. Cells
    without an image are NaN there, and cells of the images only are not in it. Names of image features stand in
    ``uns["image"]``, with what the images' own ``uns`` held.

    Parameters
    ----------
    data
        Not changed.
    rna, image
        Names of the modalities.
    """
    first, second = data[rna], data[image]
    twin = ad.AnnData(
        X=None if first.X is None else first.X.copy(),
        obs=first.obs.copy(),
        var=first.var.copy(),
        layers={name: values.copy() for name, values in first.layers.items()},
    )
    in_global = pd.Index(data.obs_names).get_indexer(first.obs_names)
    for name in data.obs:
        twin.obs[name] = data.obs[name].array[in_global]
    for name, values in data.obsm.items():
        if name not in data.mod:  # mudata keeps there which cells each modality has
            twin.obsm[name] = np.asarray(values)[in_global]
    for name, graph in data.obsp.items():
        twin.obsp[name] = graph[in_global][:, in_global]
    there = np.flatnonzero(pd.Index(first.obs_names).isin(second.obs_names))
    rows = pd.Index(second.obs_names).get_indexer(first.obs_names[there])
    twin.obsm["X_image"] = expand(np.asarray(read_features(second)[0], np.float32)[rows], there, twin.n_obs)
    for name, values in first.obsm.items():
        twin.obsm[name if name == "spatial" else f"{name}_{rna}"] = np.asarray(values)
    for name, values in second.obsm.items():
        if name != "spatial" or name not in twin.obsm:
            floats = np.asarray(values)
            whole = floats.astype(np.float64) if floats.dtype.kind != "f" else floats
            twin.obsm[name if name == "spatial" else f"{name}_{image}"] = expand(
                whole[rows], there, twin.n_obs
            )
    twin.uns = {**dict(first.uns), **dict(data.uns)}
    twin.uns["image"] = {**dict(second.uns), "features": np.asarray(second.var_names, object)}
    if "microsnoop" in second.uns:
        twin.uns["microsnoop"] = second.uns["microsnoop"]
    return twin


def write_mudata(data: mudata.MuData, path: Path | str) -> Path:
    """Write MuData as ``.h5mu`` or ``.zarr``: whole, or not at all.

    Raises
    ------
    ConfigError
        Another extension.
    RunError
        The disk cannot be written.
    """
    target = Path(path)
    if target.suffix not in _SUFFIXES:
        raise ConfigError(f"{target} must end in {' or '.join(_SUFFIXES)}")
    with replacing(target) as partial, mudata.set_options(pull_on_update=False):
        data.write_zarr(partial) if target.suffix == ".zarr" else data.write_h5mu(partial)
    return target


def read_mudata(path: Path | str) -> mudata.MuData:
    """Read ``.h5mu`` or ``.zarr``, every column of ``obs`` with the type it was written with.

    Text was written as categories, as everywhere in AnnData.

    Raises
    ------
    InputError
        Nothing there, or not MuData.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"there is no file {source}")
    try:
        written = _written_obs(source)
        with mudata.set_options(pull_on_update=False):
            data = mudata.read_zarr(source) if source.suffix == ".zarr" else mudata.read_h5mu(source)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{source} is not a MuData file: {error}") from error
    for name in written:  # mudata takes a column of whole numbers for integers
        if data.obs[name].dtype != written[name].dtype:
            data.obs[name] = written[name].array
    return data


def _rna(paired: Paired) -> ad.AnnData:
    """Return all genes of the paired cells, in the order of the source."""
    source, rows = paired.sources[0], paired.rows[0]
    expression, counts = paired.expression, paired.counts
    rna = _taken(source, np.sort(rows))
    rna.X = expression[paired.order]
    if counts is not None:
        rna.layers["counts"] = counts[paired.order]
    used = pd.Index(rna.var_names.astype(str)).isin(pd.Index(paired.genes))
    rna.var["highly_variable"] = used
    return _named(rna, paired)


def _image(paired: Paired) -> ad.AnnData:
    source, rows = paired.sources[1], paired.rows[1]
    image = _taken(source, rows[paired.order])
    _, names = read_features(source, paired.image_layer)
    if paired.image_layer is None:
        image.var["used"] = pd.Index(names).isin(pd.Index(paired.image_features))
    image.obsm["X_reduced"] = paired.y[paired.order]
    return _named(image, paired)


def _taken(source: ad.AnnData, rows: NDArray[np.int64]) -> ad.AnnData:
    part = source[rows]
    return part.to_memory() if source.isbacked else part.copy()


def _named(data: ad.AnnData, paired: Paired) -> ad.AnnData:
    """Give both modalities the same names, and columns names that HDF5 can hold."""
    data.obs_names = [paired.obs_ids[i] for i in paired.order]
    data.obs.columns = [_plain(name) for name in data.obs.columns]
    return data


def _plain(name: Any) -> str:
    return str(name).replace("/", "|")


def _written_obs(path: Path) -> pd.DataFrame:
    with _opened(path) as root:
        if root.attrs.get("encoding-type") != "MuData":
            raise ValueError(f"it holds {root.attrs.get('encoding-type', 'something else')}")
        return read_elem(root["obs"])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if path.suffix == ".zarr":
        yield zarr.open_group(path, mode="r")
        return
    with h5py.File(path, "r") as root:
        yield root
