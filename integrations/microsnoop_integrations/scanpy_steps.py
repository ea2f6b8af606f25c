"""scanpy on embeddings: neighbours, UMAP and Leiden, seeded, under documented keys; and a picture of them."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import ConfigError
from microsnoop.core.schema import Key

log = logging.getLogger(__name__)

_MIN_ROWS = 4
# Okabe and Ito's palette, distinguishable with every common colour vision
_PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]


def neighbours_umap_leiden(
    data: ad.AnnData,
    *,
    n_neighbours: int = 15,
    n_components: int = 50,
    resolution: float = 1.0,
    seed: int = 0,
) -> None:
    """Add ``obsm["X_pca"]``, a neighbour graph, ``obsm["X_umap"]`` and ``obs["leiden"]`` to ``data``.

    Distances are cosine, on the principal components (all rows, capped at min(N, features) - 1). The same seed
    gives the same result on one machine. Rows without a vector (NaN in ``X``: a field without cells, a channel
    that is missing) are left out, with a warning that counts them: they stay in ``data``, with NaN coordinates, no
    neighbours and no cluster.

    Raises
    ------
    ConfigError
        Fewer than four rows with a vector: there is no neighbourhood to speak of.
    """
    # a row's sum is NaN where any of its numbers is, and needs no copy of X
    there = ~np.isnan(np.asarray(data.X.sum(axis=1), np.float64).ravel())
    if there.sum() < _MIN_ROWS:
        of = "" if there.all() else f" with a vector, of {data.n_obs}"
        raise ConfigError(f"a UMAP needs at least {_MIN_ROWS} rows, there are {there.sum()}{of}")
    if there.all():
        _add_map(data, n_neighbours, n_components, resolution, seed=seed)
        return
    log.warning("%s", _left_out(data, there))
    part = data[there].copy()
    _add_map(part, n_neighbours, n_components, resolution, seed=seed)
    _take_over(data, part, there)


def _add_map(data: ad.AnnData, n_neighbours: int, n_components: int, resolution: float, *, seed: int) -> None:
    import scanpy as sc

    components = min(n_components, data.n_obs - 1, data.n_vars - 1)
    sc.pp.pca(data, n_comps=components, random_state=seed)
    sc.pp.neighbors(
        data,
        n_neighbors=min(n_neighbours, data.n_obs - 1),
        use_rep="X_pca",
        metric="cosine",
        random_state=seed,
    )
    # with very few rows the spectral start of UMAP has too few eigenvectors
    sc.tl.umap(data, random_state=seed, init_pos="spectral" if data.n_obs > 10 else "random")
    sc.tl.leiden(
        data, resolution=resolution, random_state=seed, key_added=Key.LEIDEN, flavor="igraph", n_iterations=2,
        directed=False,
    )  # fmt: skip


def _left_out(data: ad.AnnData, there: NDArray[np.bool_]) -> str:
    """Say how many rows have no vector, or only a part of one."""
    lacking = data.X[~there]
    empty = int(np.isnan(lacking.toarray() if sparse.issparse(lacking) else lacking).all(axis=1).sum())
    counts = {
        "no vector (n_cells = 0)": empty,
        "a vector that lacks a channel": len(there) - int(there.sum()) - empty,
    }
    found = " and ".join(f"{n} of {data.n_obs} rows have {what}" for what, n in counts.items() if n)
    return f"{found} and were left out of neighbours, UMAP and clusters"


def _take_over(data: ad.AnnData, part: ad.AnnData, there: NDArray[np.bool_]) -> None:
    """Give ``data`` what was computed on its rows ``there``; the other rows get NaN and no neighbours."""
    rows = np.flatnonzero(there)
    for key in ("X_pca", "X_umap"):
        values = np.full((data.n_obs, part.obsm[key].shape[1]), np.nan, part.obsm[key].dtype)
        values[rows] = part.obsm[key]
        data.obsm[key] = values
    for key in ("distances", "connectivities"):
        graph = sparse.coo_matrix(part.obsp[key])
        places = (rows[graph.row], rows[graph.col])
        data.obsp[key] = sparse.csr_matrix((graph.data, places), shape=(data.n_obs, data.n_obs))
    codes = np.full(data.n_obs, -1)
    codes[rows] = part.obs[Key.LEIDEN].cat.codes
    data.obs[Key.LEIDEN] = pd.Categorical.from_codes(codes, categories=part.obs[Key.LEIDEN].cat.categories)
    data.varm["PCs"] = part.varm["PCs"]
    for key in ("pca", "neighbors", "umap", Key.LEIDEN):
        data.uns[key] = part.uns[key]


def plot_umap(data: ad.AnnData, path: Path, *, color: str | None = None, title: str = "") -> Path:
    """Save a UMAP picture, coloured by a column of ``obs`` (default: the Leiden clusters).

    Rows without coordinates are not in it.

    Raises
    ------
    ConfigError
        No UMAP in ``data``, or no such column.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    if "X_umap" not in data.obsm:
        raise ConfigError("there is no UMAP yet", hint="call neighbours_umap_leiden first")
    color = color or Key.LEIDEN
    if color not in data.obs:
        raise ConfigError(
            f"obs has no column {color!r}", hint=f"it has {', '.join(map(str, data.obs.columns))}"
        )
    shown = np.isfinite(data.obsm["X_umap"]).all(axis=1)
    xy, values = np.asarray(data.obsm["X_umap"])[shown], data.obs[color][shown]
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(20_000 / len(xy), 0.5, 24))
    if values.dtype.kind in "fiu":
        points = axes.scatter(
            xy[:, 0], xy[:, 1], c=values.to_numpy(float), s=size, linewidths=0, cmap="viridis"
        )
        figure.colorbar(points, ax=axes, label=color)
    else:
        groups = values.astype(str).where(values.notna(), "unknown")
        names = sorted(groups.unique())
        colors = (
            _PALETTE
            if len(names) <= len(_PALETTE)
            else [mpl.colormaps["tab20"](i % 20) for i in range(len(names))]
        )
        for name, rgb in zip(names, colors, strict=False):
            chosen = (groups == name).to_numpy()
            axes.scatter(
                xy[chosen, 0],
                xy[chosen, 1],
                s=size,
                linewidths=0,
                color=rgb,
                label=f"{name} ({chosen.sum()})",
            )
        axes.legend(title=color, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=2)
    axes.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[], title=title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return path
