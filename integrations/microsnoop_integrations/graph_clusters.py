"""Clusters of cells: neighbour graphs with Jaccard weights, Leiden or Louvain on them, and k-means; all seeded.

Source: multimodal spec, section 5. Clusters are numbered by falling size, equal ones by their first cell.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, triu

from microsnoop.core.errors import JointError
from microsnoop.ops.jaccard import check_rows, jaccard_graph, nearest_neighbours, order_neighbours

Method = Literal["leiden", "louvain"]

APPROXIMATE_ABOVE = 50_000
RESOLUTIONS = (0.2, 0.5, 1.0, 2.0)
_SPARE = 20  # more neighbours than asked are looked for: the approximate search is better at them
_IGRAPH = threading.Lock()  # its random numbers belong to the whole process


@dataclass(frozen=True)
class NeighbourGraph:
    """Who is near whom: ``neighbours`` int64 (n, k), nearest first, and ``graph`` float32 (n, n), Jaccard weights.

    ``approximate`` says that some true neighbours may be missing; ``note`` says so to a reader, else it is empty.
    """

    neighbours: NDArray[np.int64]
    graph: csr_matrix
    approximate: bool
    note: str = ""


def neighbour_graph(
    x: NDArray[Any], *, k: int = 30, approximate: bool | None = None, seed: int = 0
) -> NeighbourGraph:
    """Join each cell to its ``k`` nearest others (Euclidean), weighted by the neighbours that both share.

    Parameters
    ----------
    x
        (n, d), real and finite. Not changed.
    approximate
        Search with nearest-neighbour descent, seeded, instead of comparing all pairs. Default: above 50,000 cells.

    Raises
    ------
    JointError
        ``too_few_cells``: ``k`` is not below the number of cells.
    ValueError
        Not (n, d), NaN or infinite values, ``k`` below 1.
    """
    check_rows(x)
    n = len(x)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k >= n:
        raise JointError(
            "too_few_cells",
            f"{n} cells cannot have {k} neighbours each",
            hint=f"give a k below {n}, or more cells",
        )
    if approximate is None:
        approximate = n > APPROXIMATE_ABOVE
    if not approximate:
        neighbours = nearest_neighbours(x, k)
        return NeighbourGraph(neighbours, jaccard_graph(neighbours), False)
    neighbours = _descend(x, k, seed)
    note = f"neighbours of {n} cells are approximate (nearest-neighbour descent, seed {seed})"
    return NeighbourGraph(neighbours, jaccard_graph(neighbours), True, note)


def cluster(
    x: NDArray[Any],
    *,
    k: int = 30,
    resolution: float = 1.0,
    method: Method = "leiden",
    seed: int = 0,
    approximate: bool | None = None,
) -> NDArray[np.int64]:
    """Cluster cells by their coordinates: int64 (n,), 0 is the largest cluster.

    The same as ``cluster_graph`` on ``neighbour_graph``; parameters and errors are theirs.
    """
    _check_method(method, resolution)
    found = neighbour_graph(x, k=k, approximate=approximate, seed=seed)
    return cluster_graph(found.graph, resolution=resolution, method=method, seed=seed)


def cluster_grid(
    x: NDArray[Any],
    resolutions: Sequence[float] = RESOLUTIONS,
    *,
    k: int = 30,
    method: Method = "leiden",
    seed: int = 0,
    approximate: bool | None = None,
) -> dict[float, NDArray[np.int64]]:
    """Cluster at several resolutions on one graph: resolution -> what ``cluster`` gives for it."""
    for resolution in resolutions:
        _check_method(method, resolution)
    graph = neighbour_graph(x, k=k, approximate=approximate, seed=seed).graph
    return {r: cluster_graph(graph, resolution=r, method=method, seed=seed) for r in resolutions}


def cluster_graph(
    graph: csr_matrix, *, resolution: float = 1.0, method: Method = "leiden", seed: int = 0
) -> NDArray[np.int64]:
    """Cluster the nodes of a weighted graph by modularity: int64 (n,), 0 is the largest cluster.

    Leiden runs until nothing changes any more. Parts that are not connected never share a cluster.

    Parameters
    ----------
    graph
        Sparse (n, n), weights finite and not negative. The mean of both directions counts, the diagonal does not.
    resolution
        Above 0; more gives more clusters.

    Raises
    ------
    ValueError
        Not square, empty, weights negative or not finite, an unknown method, a resolution that is not above 0.
    """
    _check_method(method, resolution)
    if graph.shape[0] != graph.shape[1] or not graph.shape[0]:
        raise ValueError(f"a graph must be (n, n) with n above 0, got {graph.shape}")
    if graph.nnz and not (np.isfinite(graph.data).all() and graph.data.min() >= 0):
        raise ValueError("weights of a graph must be finite and not negative")
    import igraph

    both = triu(graph.astype(np.float64) + graph.T.astype(np.float64), k=1, format="coo")
    both.sum_duplicates()
    kept = both.data > 0
    edges = np.column_stack([both.row[kept], both.col[kept]]).astype(np.int64)
    weights = both.data[kept] / 2
    if not len(edges):
        return np.arange(
            graph.shape[0], dtype=np.int64
        )  # nobody has a neighbour: each cell is its own cluster
    network = igraph.Graph(n=graph.shape[0], edges=edges)
    with _igraph_seed(igraph, seed):
        if method == "leiden":
            found = network.community_leiden(
                objective_function="modularity", weights=weights, resolution=resolution, n_iterations=-1
            )
        else:
            found = network.community_multilevel(weights=weights, resolution=resolution)
    return number_by_size(np.asarray(found.membership, np.int64))


def kmeans(x: NDArray[Any], n_clusters: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Cluster cells into a known number of clusters, the best of ten starts: int64 (n,), 0 is the largest.

    Fewer clusters come back where fewer cells differ.

    Raises
    ------
    JointError
        ``too_few_cells``: fewer cells than clusters.
    ValueError
        Not (n, d), NaN or infinite values, ``n_clusters`` below 1.
    """
    check_rows(x)
    if n_clusters < 1:
        raise ValueError(f"n_clusters must be at least 1, got {n_clusters}")
    if len(x) < n_clusters:
        raise JointError(
            "too_few_cells",
            f"{len(x)} cells cannot form {n_clusters} clusters",
            hint=f"ask for at most {len(x)} clusters",
        )
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # several threads add up centres in the order in which they happen to end, and the last bits follow them
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct cells than clusters: said above
        model = KMeans(n_clusters, n_init=10, random_state=seed)
        return number_by_size(model.fit_predict(np.ascontiguousarray(x)))


def number_by_size(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Number labels (n,) anew, 0 for the most frequent; of equal ones the one seen first. int64 (n,)."""
    _, first, own, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[own]


def _check_method(method: str, resolution: float) -> None:
    if method not in ("leiden", "louvain"):
        raise ValueError(f"method must be 'leiden' or 'louvain', got {method!r}")
    if not (np.isfinite(resolution) and resolution > 0):
        raise ValueError(f"resolution must be a finite number above 0, got {resolution}")


@contextmanager
def _igraph_seed(igraph: Any, seed: int) -> Iterator[None]:
    """Let igraph draw from a generator of its own; afterwards from Python's ``random`` again, as it does at start."""
    with _IGRAPH:
        igraph.set_random_number_generator(random.Random(seed))  # noqa: S311 - not for secrets
        try:
            yield
        finally:
            igraph.set_random_number_generator(random)


def _descend(x: NDArray[Any], k: int, seed: int) -> NDArray[np.int64]:
    """Find most of the ``k`` nearest neighbours of each cell without comparing all pairs."""
    from pynndescent import NNDescent

    n = len(x)
    wanted = min(n, k + 1 + _SPARE)
    centred = np.asarray(x - x.mean(axis=0, dtype=np.float64), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # of cells with fewer neighbours than asked: filled below
        index = NNDescent(centred, n_neighbors=wanted, metric="euclidean", random_state=seed)
        found = np.asarray(index.neighbor_graph[0], np.int64)
    rows = np.arange(n)[:, None]
    usable = (found >= 0) & (found != rows)
    # usable ones first, in the order in which they were found
    found = np.take_along_axis(found, np.argsort(~usable, axis=1, kind="stable"), axis=1)[:, :k]
    lacking = np.flatnonzero(usable.sum(axis=1) < k)
    if len(lacking):
        found[lacking] = nearest_neighbours(x, k, queries=lacking)
    return order_neighbours(x, found)
