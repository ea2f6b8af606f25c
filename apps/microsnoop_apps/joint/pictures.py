"""Which pictures a joint analysis gets, and the numbers they are made of."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop_apps.joint import figures
from microsnoop_apps.joint.experiment import NAMES, Experiment
from microsnoop_apps.joint.tables import fixed
from microsnoop_apps.profiling import Floats
from microsnoop_apps.profiling.pictures import Picture

PICTURES = ("maps", "agreement", "places", "history")
MOST_MAPPED = 20_000
_NEAR = 15
_TERMS = ("reconstruction_rna", "reconstruction_image", "penalty", "triplet_rna", "triplet_image", "loss")


def draw(experiment: Experiment, out: Path) -> tuple[list[Picture], dict[str, Floats]]:
    """Draw every picture that the cells allow into a folder; return them, and the maps of all cells by method.

    The second is empty where only some cells were mapped.
    """
    n = len(experiment.loaded.paired.obs_ids)
    rows = np.arange(n)
    if n > MOST_MAPPED:
        rows = np.sort(np.random.default_rng(experiment.config.seed).choice(n, MOST_MAPPED, replace=False))
    maps = {
        method: umap(scored.found.latent[rows], seed=experiment.config.seed)
        for method, scored in experiment.methods.items()
    }
    found = [_maps(experiment, maps, rows, out), _agreement(experiment, out)]
    found += [_places(experiment, rows, out), _history(experiment, out)]
    return [picture for picture in found if picture is not None], maps if len(rows) == n else {}


def umap(latent: NDArray[np.float32], *, seed: int) -> Floats:
    """Return a UMAP (n, 2) of coordinates (n, d), Euclidean, 15 neighbours: the same seed gives the same map."""
    import anndata as ad
    import scanpy as sc

    data = ad.AnnData(np.ascontiguousarray(latent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a seed makes it run in one thread
        sc.pp.neighbors(data, n_neighbors=min(_NEAR, data.n_obs - 1), use_rep="X", random_state=seed)
        sc.tl.umap(data, random_state=seed)
    return np.asarray(data.obsm["X_umap"], np.float64)


def _maps(experiment: Experiment, maps: dict[str, Floats], rows: NDArray[np.int64], out: Path) -> Picture:
    notes = {
        (label, NAMES[method]): f"silhouette {fixed(found.silhouette.mean)}"
        for method, scored in experiment.methods.items()
        for label, found in scored.labels.items()
    }
    places = {NAMES[method]: xy for method, xy in maps.items()}
    path = figures.spaces(places, colourings(experiment, rows), out / "maps.png", notes=notes)
    n = len(experiment.loaded.paired.obs_ids)
    some = f" {len(rows):,} of {n:,} cells, drawn at random." if len(rows) < n else ""
    return Picture(
        "The cells in each space",
        path,
        "UMAP (Euclidean, 15 neighbours, seeded) of each representation, the same cells side by side; WNN by the "
        "diffusion map of its graph. From top to bottom: clusters of MUSE, known labels where there are any "
        "(silhouette of the labels in the representation itself, not on the map), and the weight of the "
        "transcripts in each cell of "
        "MUSE. Distances on a UMAP mean little; compare the silhouettes." + some,
    )


def colourings(experiment: Experiment, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Return what maps are coloured by, for some of the cells."""
    muse = experiment.muse.found
    found: dict[str, Any] = {"clusters of MUSE": muse.labels[rows].astype(str).astype(object)}
    for annotation in experiment.loaded.labels:
        found[annotation.name] = annotation.values[rows]
    if muse.weight_rna is not None:
        found["weight of transcripts"] = muse.weight_rna[rows].astype(np.float64)
    return found


def _agreement(experiment: Experiment, out: Path) -> Picture | None:
    labels = experiment.muse.labels
    if not labels:
        return None
    panels = {}
    for label in labels:
        rows = []
        for method in experiment.config.methods:
            scored = experiment.methods.get(method)
            found = scored.labels[label].kmeans if scored is not None else None
            numbers = (
                (np.nan,) * 3
                if found is None
                else (found.ari, found.ari_interval.low, found.ari_interval.high)
            )
            rows.append((NAMES[method], *numbers))
        panels[label] = rows
    path = figures.agreement(panels, out / "agreement.png", joint=NAMES["muse"])
    return Picture(
        "Agreement with known labels",
        path,
        "Adjusted Rand index of k-means, with as many clusters as labels, in each representation; 95 % bootstrap "
        "interval. 0 is chance, 1 the same partition.",
    )


def _places(experiment: Experiment, rows: NDArray[np.int64], out: Path) -> Picture | None:
    """Draw the tissue, where all cells share one system of coordinates."""
    spatial = experiment.loaded.paired.spatial
    given = experiment.config.input
    one = given is not None and given.seqfish is None and experiment.loaded.n_groups <= 1
    if spatial is None or not one or not np.isfinite(spatial[rows]).any():
        return None
    xy = np.asarray(spatial[rows, :2], np.float64)
    path = figures.tissue(xy, colourings(experiment, rows), out / "places.png")
    return Picture(
        "The cells in the tissue", path, "Positions as they were given, y downwards; no method has seen them."
    )


def _history(experiment: Experiment, out: Path) -> Picture:
    model = experiment.model
    terms = {name: model.history_[name] for name in _TERMS if name in model.history_}
    path = figures.history(terms, model.phases_, model.updates_, out / "history.png")
    return Picture(
        "How MUSE learned",
        path,
        "Terms of the loss by epoch. First reconstruction alone, then triplets by the first labels, then by "
        "labels that are renewed. Reconstruction of the transcripts counts only what is above 0.",
    )
