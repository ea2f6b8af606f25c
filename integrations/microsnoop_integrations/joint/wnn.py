"""Weighted nearest neighbours of both modalities: an adapter to ``muon`` (extra ``multimodal``). Spec, section 7.

Hao et al. 2021: each cell weighs the modalities by how well its neighbours in each predict it, and its neighbours
are chosen by the weighted similarity. The package compiles its search anew for every call: half a minute
of any call (2 cores) is that, whatever the number of cells.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import LinearOperator, eigsh

from microsnoop.core.errors import JointError
from microsnoop.core.optional import require
from microsnoop_integrations.graph_clusters import Method, cluster_graph, neighbour_graph
from microsnoop_integrations.joint.baselines import COMPONENTS, principal_components
from microsnoop_integrations.joint.representation import Representation

if TYPE_CHECKING:
    from mudata import MuData

BANDWIDTH_NEIGHBOURS = 20
CANDIDATES = 200  # nearest of each modality among which the neighbours are chosen
_SHORT_SEARCH = "Failed to correctly find n_neighbors"
_NEAREST = 1e-12  # a distance of 0 would not count as an entry of a sparse matrix


def wnn(
    x: Any,
    y: Any,
    *,
    components: int = COMPONENTS,
    dimensions: int = 50,
    k: int = 30,
    resolution: float = 1.0,
    method: Method = "leiden",
    seed: int = 0,
) -> Representation:
    """Join the cells to a graph by both modalities, and cluster them on it.

    Each modality enters by its principal components, every cell's divided by their length. WNN gives a graph and no
    coordinates; the ``latent`` is ours, so that coordinates can be scored: the leading ``dimensions`` of the graph's
    diffusion map. ``weight_rna`` is WNN's weight of the transcripts in each cell.

    Parameters
    ----------
    x, y
        (n, p) transcripts and (n, q) image features, dense or CSR, finite, rows of the same cells.
    components
        Of each modality, capped at min(n - 1, features).
    dimensions
        Of the latent, capped at n - 2.
    k
        Neighbours of each cell in the graph, and in each modality.
    resolution, method
        Of the clusters, see :func:`microsnoop_integrations.graph_clusters.cluster_graph`.

    Raises
    ------
    MissingDependency
        ``muon`` is not installed.
    JointError
        ``not_finite``, ``no_variance``, ``too_few_cells`` (n <= k + 1); ``wnn_failed``: the
        package gave no usable graph.
    ValueError
        Settings below 1, or not matrices of the same number of rows.
    """
    start = time.perf_counter()
    muon = _muon()
    n = int(np.shape(x)[0])
    _check(n, k, dimensions)
    blocks = [_unit(principal_components(m, components=components, seed=seed).scores) for m in (x, y)]
    if len(blocks[1]) != n:
        raise ValueError(f"rows must be the same cells in both matrices, got {n} and {len(blocks[1])}")
    counts = (k, min(BANDWIDTH_NEIGHBOURS, n - 1), min(max(CANDIDATES, k + 1), n - 1))
    notes = [f"{n} cells: {n - 1} candidates of each modality, not {CANDIDATES}"] if n <= CANDIDATES else []
    graph, weight = _neighbours(muon, blocks, counts, seed=seed, notes=notes)
    if not (np.isfinite(graph.data).all() and np.isfinite(weight).all()):
        raise JointError(
            "wnn_failed",
            "the weights of the neighbour graph are no numbers",
            hint="many cells may be copies of one another; look for repeated rows",
        )
    labels = cluster_graph(graph, resolution=resolution, method=method, seed=seed)
    info = {
        "components": [block.shape[1] for block in blocks],
        "bandwidth_neighbours": counts[1],
        "candidates": counts[2],
        "k": k,
        "resolution": resolution,
        "method": method,
        "seed": seed,
        "mean_weight_rna": float(weight.mean()),
    }
    latent = diffusion_map(graph, dimensions=dimensions, seed=seed)
    seconds = time.perf_counter() - start
    return Representation("WNN", latent, labels, weight, seconds, tuple(notes), info, graph)


def diffusion_map(graph: csr_matrix, *, dimensions: int = 50, seed: int = 0) -> NDArray[np.float32]:
    """Give coordinates whose distances are those of a random walk on a graph: float32 (n, d).

    Coifman and Lafon 2006, one step of the walk: eigenvectors of the transition matrix, the constant one left out,
    each times its eigenvalue. Parts of the graph that are not connected come to lie at different places. The
    largest entry of a coordinate is positive.

    Parameters
    ----------
    graph
        Sparse (n, n), symmetric, not negative; every node with a neighbour.
    dimensions
        Capped at n - 2.

    Raises
    ------
    JointError
        ``wnn_failed``: a node without a neighbour.
    """
    n = graph.shape[0]
    degree = np.asarray(graph.sum(axis=1), np.float64).ravel()
    if not (degree > 0).all():
        raise JointError("wnn_failed", f"{(degree <= 0).sum()} of {n} cells have no neighbour in the graph")
    root = np.sqrt(degree)
    walk = diags(1 / root) @ graph.astype(np.float64) @ diags(1 / root)
    # the trivial direction is known; taken out beforehand, it cannot mix with others of the same eigenvalue
    # (there are several where the graph is not connected)
    trivial = root / np.linalg.norm(root)
    rest = LinearOperator((n, n), matvec=lambda v: walk @ v - trivial * (trivial @ v), dtype=np.float64)
    first = np.random.default_rng(seed).normal(size=n)
    values, vectors = eigsh(rest, k=min(dimensions, n - 2), which="LA", v0=first)
    order = np.argsort(-values, kind="stable")
    found = vectors[:, order] / trivial[:, None] * np.maximum(values[order], 0)
    largest = found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])]
    return np.asarray(found * np.where(largest < 0, -1.0, 1.0), np.float32)


def _muon() -> ModuleType:
    with warnings.catch_warnings():
        # it asks scanpy for its version in a way that scanpy gives up
        warnings.filterwarnings("ignore", "`__version__` is deprecated", FutureWarning)
        # and brings umap, which misses a package that neither of us needs
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        return require("muon", extra="multimodal")


def _neighbours(
    muon: ModuleType,
    blocks: list[NDArray[np.float32]],
    counts: tuple[int, int, int],
    *,
    seed: int,
    notes: list[str],
) -> tuple[csr_matrix, NDArray[np.float32]]:
    """Run the search: the graph float32 (n, n), and each cell's weight of the first block, float32 (n,)."""
    from mudata import set_options

    k, bandwidth, candidates = counts
    # what comes of a division by 0 is looked for afterwards
    with set_options(pull_on_update=False), _short_searches(notes), np.errstate(all="ignore"):
        data = _modalities(blocks, k, seed=seed, notes=notes)
        muon.pp.neighbors(
            data,
            n_neighbors=k,
            n_bandwidth_neighbors=bandwidth,
            n_multineighbors=candidates,
            random_state=seed,
        )
    graph = csr_matrix(data.obsp["connectivities"], dtype=np.float32)
    graph = csr_matrix(graph - diags(graph.diagonal()), dtype=np.float32)
    graph.eliminate_zeros()
    return graph, data.obs["rna:mod_weight"].to_numpy(np.float32)


@contextlib.contextmanager
def _short_searches(notes: list[str]) -> Iterator[None]:
    """Turn the search's warning that it found too few neighbours into a note; any other warning is issued again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in caught:
        if _SHORT_SEARCH not in str(one.message):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if any(_SHORT_SEARCH in str(one.message) for one in caught):
        notes.append(
            "the approximate search found too few neighbours of some cells: their bandwidths are rough"
        )


def _modalities(blocks: list[NDArray[np.float32]], k: int, *, seed: int, notes: list[str]) -> MuData:
    """Return both blocks as the package wants them: with the neighbours of each by itself."""
    import anndata as ad
    import pandas as pd
    from mudata import MuData

    names = [str(row) for row in range(len(blocks[0]))]
    mods = {}
    for name, block in zip(("rna", "image"), blocks, strict=True):
        var = pd.DataFrame(index=[f"{name}_{at}" for at in range(block.shape[1])])
        mods[name] = ad.AnnData(block, obs=pd.DataFrame(index=names), var=var)
        found = neighbour_graph(block, k=k, seed=seed)
        if found.note:
            notes.append(f"{name}: {found.note}")
        mods[name].obsp["distances"] = _distances(block, found.neighbours)
        mods[name].uns["neighbors"] = {
            "distances_key": "distances",
            "params": {"n_neighbors": k, "use_rep": "X", "metric": "euclidean"},
        }
    return MuData(mods)


def _distances(block: NDArray[np.float32], neighbours: NDArray[np.int64]) -> csr_matrix:
    """Return the distances (n, n) of each cell to its neighbours."""
    n, k = neighbours.shape
    found = np.empty(n * k, np.float32)
    for at in range(k):  # one neighbour of every cell at a time: no array (n, k, d)
        found[at::k] = np.linalg.norm(block - block[neighbours[:, at]], axis=1)
    graph = csr_matrix(
        (np.maximum(found, _NEAREST), neighbours.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n)
    )
    graph.sort_indices()
    return graph


def _unit(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(scores, axis=1, keepdims=True)
    return np.divide(scores, length, out=np.zeros_like(scores), where=length > 0)


def _check(n: int, k: int, dimensions: int) -> None:
    if k < 1 or dimensions < 1:
        raise ValueError(f"k and dimensions must be at least 1, got {k} and {dimensions}")
    if n <= k + 1:
        raise JointError(
            "too_few_cells",
            f"{n} cells cannot have {k} neighbours each among their candidates",
            hint=f"give a k below {n - 1}, or more cells",
        )
