"""What is measured of one representation of the cells. Source: multimodal spec, section 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from microsnoop.core.joint_config import JointConfig
from microsnoop_apps.joint.loading import Annotation, Loaded
from microsnoop_integrations.graph_clusters import cluster_graph, kmeans, neighbour_graph
from microsnoop_integrations.joint.measures import (
    LabelAgreement,
    ModalityShare,
    NeighbourhoodAgreement,
    Separation,
    label_agreement,
    modality_share,
    neighbourhood_agreement,
    separation,
)
from microsnoop_integrations.joint.representation import Representation

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class LabelScore:
    """How a representation agrees with known labels, over the ``n`` cells that have one.

    ``default``: its clusters at the configured resolution; ``best``: at ``best_resolution``, which was chosen by these
    very labels; ``kmeans``: k-means with as many clusters as labels; ``silhouette``: of the labels in the coordinates.
    """

    label: str
    n: int
    n_labels: int
    default: LabelAgreement
    best: LabelAgreement
    best_resolution: float
    kmeans: LabelAgreement
    silhouette: Separation


@dataclass(frozen=True)
class Scored:
    """A representation with everything that is measured of it."""

    found: Representation
    own: Separation
    neighbours: NeighbourhoodAgreement
    share: ModalityShare | None = None
    labels: Mapping[str, LabelScore] = field(default_factory=dict)

    @property
    def n_clusters(self) -> int:
        """Number of clusters at the configured resolution."""
        return len(np.unique(self.found.labels))

    @property
    def weights(self) -> tuple[float, float, float] | None:
        """Median, 5 % and 95 % quantile of the weight of the transcripts in a cell; None where there is none."""
        if self.found.weight_rna is None:
            return None
        low, middle, high = np.quantile(self.found.weight_rna, [0.05, 0.5, 0.95])
        return float(middle), float(low), float(high)


def score(
    found: Representation,
    loaded: Loaded,
    config: JointConfig,
    *,
    y: NDArray[np.float32] | None = None,
    hidden: tuple[NDArray[Any], NDArray[Any]] | None = None,
) -> Scored:
    """Measure a representation.

    Parameters
    ----------
    found
        Rows in the order of ``loaded.paired``.
    y
        The image features that the method saw, where they are not those of the pair (wrong pairs).
    hidden
        Hidden values of transcripts and images, (n, h) each, of a method that has them.
    """
    paired, groups = loaded.paired, loaded.groups
    drawn: dict[str, Any] = {"draws": config.bootstrap, "seed": config.seed}
    usable = [annotation for annotation in loaded.labels if annotation.n_labels > 1]
    grid = _grid(found, config) if usable else {}
    return Scored(
        found,
        own=separation(found.latent, found.labels, groups=groups, **drawn),
        neighbours=neighbourhood_agreement(
            found.latent, paired.x, paired.y if y is None else y, k=config.muse.k, seed=config.seed
        ),
        share=None
        if hidden is None
        else modality_share(found.latent, *hidden, groups=groups, seed=config.seed),
        labels={
            annotation.name: _score_labels(found, annotation, grid, groups=groups, drawn=drawn)
            for annotation in usable
        },
    )


def kmeans_agreement(latent: NDArray[Any], annotation: Annotation, *, seed: int) -> float:
    """Return the ARI of k-means, with as many clusters as labels, among the cells that have a label."""
    rows = annotation.known
    clusters = kmeans(latent[rows], annotation.n_labels, seed=seed)
    return float(adjusted_rand_score(annotation.values[rows].astype(str), clusters))


def recluster(found: Representation, config: JointConfig, *, seeds: Sequence[int]) -> list[Labels]:
    """Cluster the same coordinates (or graph) with several seeds."""
    graph = _graph(found, config)
    p = config.muse
    return [cluster_graph(graph, resolution=p.resolution, method=p.clustering, seed=seed) for seed in seeds]


def _graph(found: Representation, config: JointConfig) -> Any:
    if found.graph is not None:
        return found.graph
    return neighbour_graph(found.latent, k=config.muse.k, seed=config.seed).graph


def _grid(found: Representation, config: JointConfig) -> dict[float, Labels]:
    """Return clusters at every resolution, the configured one among them."""
    graph, p = _graph(found, config), config.muse
    wanted = [r for r in config.resolutions if r != p.resolution]
    grid = {r: cluster_graph(graph, resolution=r, method=p.clustering, seed=config.seed) for r in wanted}
    return {p.resolution: found.labels, **grid}


def _score_labels(
    found: Representation,
    annotation: Annotation,
    grid: Mapping[float, Labels],
    *,
    groups: NDArray[Any] | None,
    drawn: Mapping[str, Any],
) -> LabelScore:
    rows = annotation.known
    truth = annotation.values[rows].astype(str)
    held: dict[str, Any] = {"groups": None if groups is None else groups[rows], **drawn}
    best = max(grid, key=lambda r: (adjusted_rand_score(truth, grid[r][rows]), -r))
    means = kmeans(found.latent[rows], annotation.n_labels, seed=drawn["seed"])
    return LabelScore(
        label=annotation.name,
        n=int(rows.sum()),
        n_labels=annotation.n_labels,
        default=label_agreement(truth, found.labels[rows], **held),
        best=label_agreement(truth, grid[best][rows], **held),
        best_resolution=best,
        kmeans=label_agreement(truth, means, **held),
        silhouette=separation(found.latent[rows], truth, **held),
    )
