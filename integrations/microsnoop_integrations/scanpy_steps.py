"""scanpy on embeddings: neighbours, UMAP and Leiden, seeded, under documented keys; and a picture of them."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import numpy as np

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
    gives the same result on one machine.

    Raises
    ------
    ConfigError
        Fewer than four rows: there is no neighbourhood to speak of.
    """
    if data.n_obs < _MIN_ROWS:
        raise ConfigError(f"a UMAP needs at least {_MIN_ROWS} rows, there are {data.n_obs}")
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


def plot_umap(data: ad.AnnData, path: Path, *, color: str | None = None, title: str = "") -> Path:
    """Save a UMAP picture, coloured by a column of ``obs`` (default: the Leiden clusters).

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
    xy, values = np.asarray(data.obsm["X_umap"]), data.obs[color]
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(20_000 / data.n_obs, 0.5, 24))
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
