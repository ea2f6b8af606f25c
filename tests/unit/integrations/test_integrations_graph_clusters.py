"""Neighbour graphs and clusters: truth found, seeded, numbered by size, and clear about what cannot be clustered."""

from __future__ import annotations

import inspect
import random
import threading
import time
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import igraph
import numpy as np
import pynndescent
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.metrics import adjusted_rand_score

from microsnoop.core.errors import JointError
from microsnoop.ops.jaccard import jaccard_graph, nearest_neighbours
from microsnoop_integrations import graph_clusters as module
from microsnoop_integrations.graph_clusters import (
    cluster,
    cluster_graph,
    cluster_grid,
    kmeans,
    neighbour_graph,
    number_by_size,
)

Freeze = Callable[[NDArray], NDArray]


def blobs(rng: np.random.Generator, sizes: tuple[int, ...] = (50, 120, 80)) -> tuple[NDArray, NDArray]:
    """Rows around distant centres, shuffled, and which centre each belongs to."""
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    x = rng.normal(size=(len(truth), 6)) + 12 * rng.normal(size=(len(sizes), 6))[truth]
    return x.astype(np.float32), truth


def modularity(graph: NDArray, labels: NDArray, resolution: float = 1.0) -> float:
    degree, total = graph.sum(axis=1), graph.sum()
    same = labels[:, None] == labels[None, :]
    return float(((graph - resolution * np.outer(degree, degree) / total) * same).sum() / total)


# ---------------------------------------------------------------- clusters


@pytest.mark.parametrize("method", ["leiden", "louvain"])
def test_blobs_are_found_and_numbered_by_size(method: Any, frozen: Freeze, rng: np.random.Generator) -> None:
    x, truth = blobs(rng)
    labels = cluster(frozen(x), k=15, resolution=0.3, method=method)
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [120, 80, 50]
    assert (labels == np.array([2, 0, 1])[truth]).all()


@pytest.mark.parametrize("method", ["leiden", "louvain"])
@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.5])
def test_no_partition_of_a_small_graph_is_better(
    method: Any, resolution: float, rng: np.random.Generator
) -> None:
    weight = rng.random((7, 7)) * (rng.random((7, 7)) < 0.5)
    graph = np.triu(weight, 1) + np.triu(weight, 1).T
    best = max(modularity(graph, np.array(labels), resolution) for labels in product(range(4), repeat=7))
    found = cluster_graph(csr_matrix(graph), resolution=resolution, method=method)
    reached = modularity(graph, found, resolution)
    assert reached <= best + 1e-12
    assert reached >= best - 0.02


def test_weights_of_both_directions_count_and_the_diagonal_does_not() -> None:
    # a square: strong edges 0-1 and 2-3, each stored in one direction only; weak ones across; heavy loops
    graph = np.array([[50, 9, 0, 0.5], [0, 70, 1, 0], [0, 0, 0, 0], [0, 0, 9, 90]])
    assert cluster_graph(csr_matrix(graph)).tolist() == [0, 0, 1, 1]
    assert cluster_graph(csr_matrix(graph[:, ::-1][::-1])).tolist() == [0, 0, 1, 1]
    strong = np.array([[0, 1, 9, 0], [1, 0, 0, 9], [9, 0, 0, 1], [0, 9, 1, 0.0]])
    assert cluster_graph(csr_matrix(strong)).tolist() == [0, 1, 0, 1]


def test_parts_that_are_not_connected_stay_apart() -> None:
    rings = np.kron(np.eye(4), np.ones((5, 5)) - np.eye(5))
    labels = cluster_graph(csr_matrix(rings), resolution=1e-3)
    assert labels.tolist() == np.repeat(np.arange(4), 5).tolist()  # of equal ones the first cell decides
    assert cluster_graph(csr_matrix((3, 3))).tolist() == [0, 1, 2]
    lonely = np.zeros((4, 4))
    lonely[3, 2] = 1
    assert cluster_graph(csr_matrix(lonely)).tolist() == [1, 2, 0, 0]


@pytest.mark.parametrize("method", ["leiden", "louvain"])
def test_the_seed_decides_and_nothing_else(method: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(300, 5)).astype(np.float32)  # no structure: many partitions are about equally good
    first = cluster(x, k=10, method=method, seed=3)
    random.seed(99)
    state = random.getstate()
    igraph.set_random_number_generator(random)
    np.testing.assert_array_equal(cluster(x, k=10, method=method, seed=3), first)
    assert random.getstate() == state  # nothing drawn from the generator that everybody shares
    others = [cluster(x, k=10, method=method, seed=seed) for seed in range(4, 8)]
    assert any((other != first).any() for other in others)


def test_threads_do_not_disturb_each_other(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = neighbour_graph(rng.normal(size=(120, 4)), k=10).graph
    alone = [cluster_graph(graph, seed=seed) for seed in range(4)]
    found: dict[int, NDArray] = {}
    leiden = igraph.Graph.community_leiden

    def slow(*args: Any, **settings: Any) -> Any:
        time.sleep(0.05)  # all the others have set their generators by now, unless they wait
        return leiden(*args, **settings)

    def work(seed: int) -> None:
        found[seed] = cluster_graph(graph, seed=seed)

    monkeypatch.setattr(igraph.Graph, "community_leiden", slow)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        np.testing.assert_array_equal(found[seed], alone[seed])


def test_igraph_gets_its_generator_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(igraph, "set_random_number_generator", given.append)
    monkeypatch.setattr(igraph.Graph, "community_leiden", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cluster_graph(csr_matrix(np.ones((3, 3))), seed=5)
    assert given[0].random() == random.Random(5).random()
    assert given[1:] == [random]
    assert not module._IGRAPH.locked()


def test_grid_equals_single_runs_and_builds_one_graph(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, _ = blobs(rng)
    single = {r: cluster(x, k=12, resolution=r, seed=2) for r in (0.2, 0.5, 1.0, 2.0)}
    built = []

    def count(*args: Any, **settings: Any) -> Any:
        built.append(settings)
        return neighbour_graph(*args, **settings)

    monkeypatch.setattr(module, "neighbour_graph", count)
    grid = cluster_grid(x, k=12, seed=2)
    assert list(grid) == [0.2, 0.5, 1.0, 2.0]
    assert len(built) == 1
    for resolution, labels in grid.items():
        np.testing.assert_array_equal(labels, single[resolution])
    assert grid[2.0].max() > grid[0.2].max()


def test_row_order_only_reorders_a_clear_result(rng: np.random.Generator) -> None:
    x, _ = blobs(rng)
    order = rng.permutation(len(x))
    np.testing.assert_array_equal(
        cluster(x[order], k=15, resolution=0.3), cluster(x, k=15, resolution=0.3)[order]
    )


def test_numbers_follow_size_then_first_row() -> None:
    assert number_by_size(np.array([7, 7, -1, 3, 3, 3, -1, 9])).tolist() == [1, 1, 2, 0, 0, 0, 2, 3]
    assert number_by_size(np.array(["b", "a", "a", "b"])).tolist() == [0, 1, 1, 0]


# ---------------------------------------------------------------- what cannot be clustered


@pytest.mark.parametrize("n", [1, 5, 30])
def test_too_few_cells_are_refused(n: int) -> None:
    with pytest.raises(JointError, match=f"{n} cells cannot have 30") as caught:
        cluster(np.zeros((n, 2)))
    assert caught.value.code == "too_few_cells"
    assert f"k below {n}" in caught.value.hint
    assert cluster(np.arange(31.0)[:, None]).shape == (31,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"method": "walktrap", "k": 2}, "walktrap"),
        ({"resolution": 0.0, "k": 2}, "resolution"),
        ({"resolution": np.nan, "k": 2}, "resolution"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cluster(np.arange(20.0)[:, None], **settings)


def test_bad_data_are_named() -> None:
    x = np.ones((40, 2))
    x[7, 1] = np.nan
    for call in (cluster, cluster_grid, lambda rows: kmeans(rows, 2)):
        with pytest.raises(ValueError, match=r"rows \[7\]"):
            call(x)
    for bad in (np.nan, -1.0, np.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            cluster_graph(csr_matrix([[0, bad], [1.0, 0]]))
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        cluster_graph(csr_matrix((2, 3)))
    with pytest.raises(ValueError, match="n above 0"):
        cluster_graph(csr_matrix((0, 0)))


def test_all_cells_the_same_is_legal() -> None:
    labels = cluster(np.ones((50, 3)), k=5)
    assert labels.shape == (50,)
    assert set(labels) == set(range(labels.max() + 1))


# ---------------------------------------------------------------- exact or approximate


def test_small_data_are_searched_exactly(rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 3))
    found = neighbour_graph(x, k=4)
    assert (found.approximate, found.note) == (False, "")
    np.testing.assert_array_equal(found.neighbours, nearest_neighbours(x, 4))
    assert (found.graph != jaccard_graph(found.neighbours)).nnz == 0


def test_many_cells_are_searched_approximately(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = rng.normal(size=(90, 3)) + 500
    exact = nearest_neighbours(x, 89)
    asked: dict[str, Any] = {}

    class Descent:
        """Like the real one: nearest first by float32, mostly with the row itself, and some not found."""

        def __init__(self, data: NDArray, **settings: Any) -> None:
            asked.update(settings, data=data)
            lists = np.c_[np.arange(90), exact][:, : settings["n_neighbors"]].copy()
            lists[3] = exact[3, : lists.shape[1]]  # not itself
            lists[4, 2:] = -1  # one other cell found
            lists[5, 1:-1] = lists[5, 2:]  # misses its nearest
            lists[5, -1] = exact[5, 60]
            lists[6, [2, 3]] = lists[6, [3, 2]]  # two that float32 cannot tell apart
            lists[7, [0, 2]] = lists[7, [2, 0]]  # itself behind duplicates
            self.neighbor_graph = (lists.astype(np.int32), None)

    monkeypatch.setattr(pynndescent, "NNDescent", Descent)
    monkeypatch.setattr(module, "APPROXIMATE_ABOVE", 89)
    found = neighbour_graph(x, k=7, seed=11)
    assert found.approximate
    assert "90 cells are approximate" in found.note
    assert "seed 11" in found.note
    assert (asked["random_state"], asked["metric"]) == (11, "euclidean")
    assert np.abs(asked["data"].mean(axis=0)).max() < 1e-3  # float32 has no digits to spare for the offset
    expected = exact[:, :7].copy()
    expected[5] = exact[5, 1:8]  # of those that were found
    np.testing.assert_array_equal(found.neighbours, expected)
    assert (found.graph != jaccard_graph(found.neighbours)).nnz == 0
    assert not neighbour_graph(x, k=7, approximate=False).approximate
    monkeypatch.setattr(module, "APPROXIMATE_ABOVE", 90)
    assert not neighbour_graph(x, k=7).approximate
    assert neighbour_graph(x, k=7, approximate=True).approximate
    assert len(set(cluster(x, k=7, approximate=True))) >= 1


def test_the_approximate_search_still_takes_our_settings() -> None:
    known = inspect.signature(pynndescent.NNDescent.__init__).parameters
    assert {"data", "n_neighbors", "metric", "random_state"} <= set(known)
    assert hasattr(pynndescent.NNDescent, "neighbor_graph")


# ---------------------------------------------------------------- k-means


def test_kmeans_finds_known_numbers(frozen: Freeze, rng: np.random.Generator) -> None:
    x, truth = blobs(rng, (30, 90, 60, 45))
    labels = kmeans(frozen(x), 4, seed=1)
    assert np.bincount(labels).tolist() == [90, 60, 45, 30]
    assert adjusted_rand_score(truth, labels) == 1
    noise = rng.normal(size=(400, 8)).astype(np.float32)
    np.testing.assert_array_equal(kmeans(noise, 9, seed=4), kmeans(noise, 9, seed=4))
    assert any((kmeans(noise, 9, seed=seed) != kmeans(noise, 9, seed=4)).any() for seed in range(3))


def test_kmeans_takes_the_best_of_ten_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import sklearn.cluster

    asked: dict[str, Any] = {}

    def start(n_clusters: int, **settings: Any) -> Any:
        asked.update(settings, n_clusters=n_clusters)
        return SimpleNamespace(fit_predict=lambda x: np.zeros(len(x), np.int32))

    monkeypatch.setattr(sklearn.cluster, "KMeans", start)
    kmeans(np.eye(6), 3, seed=8)
    assert asked == {"n_clusters": 3, "n_init": 10, "random_state": 8}


def test_kmeans_at_the_edges() -> None:
    assert kmeans(np.eye(3), 3).tolist() == [0, 1, 2]
    assert kmeans(np.repeat(np.eye(2), [3, 5], axis=0), 4).tolist() == [1] * 3 + [0] * 5
    assert kmeans(np.ones((4, 2)), 1).tolist() == [0] * 4
    with pytest.raises(JointError, match="3 cells cannot form 4 clusters") as caught:
        kmeans(np.eye(3), 4)
    assert caught.value.code == "too_few_cells"
    with pytest.raises(ValueError, match="at least 1"):
        kmeans(np.eye(3), 0)
