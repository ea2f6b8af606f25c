"""Euclidean neighbours and Jaccard graphs against loops, exact in the hard cases, and never all pairs in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from microsnoop.ops import jaccard as module
from microsnoop.ops.jaccard import count_shared, jaccard_graph, nearest_neighbours, order_neighbours

Freeze = Callable[[NDArray], NDArray]


def naive_neighbours(x: NDArray, k: int) -> NDArray:
    """Sort all others by float64 distance, then index."""
    found = []
    for i, row in enumerate(x.astype(np.float64)):
        near = sorted((float(((row - x[j]) ** 2).sum()), j) for j in range(len(x)) if j != i)
        found.append([j for _, j in near[:k]])
    return np.array(found)


def naive_graph(neighbours: NDArray) -> NDArray:
    sets = [set(map(int, row)) for row in neighbours]
    weight = np.zeros((len(sets), len(sets)))
    for i, mine in enumerate(sets):
        for j in mine:
            weight[i, j] = len(mine & sets[j]) / len(mine | sets[j])
    return (weight + weight.T) / 2


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize(
    ("n", "d", "k"), [(2, 1, 1), (7, 3, 6), (60, 1, 5), (97, 5, 30), (150, 40, 1), (211, 3, 17)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_equal_loops(
    n: int, d: int, k: int, dtype: type, frozen: Freeze, rng: np.random.Generator
) -> None:
    x = frozen((rng.normal(size=(n, d)) * 3 + 5).astype(dtype))
    found = nearest_neighbours(x, k)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, naive_neighbours(x, k))


def test_ties_go_to_the_lowest_index(frozen: Freeze, rng: np.random.Generator) -> None:
    grid = frozen(np.stack(np.meshgrid(np.arange(9), np.arange(8)), -1).reshape(-1, 2)[rng.permutation(72)])
    np.testing.assert_array_equal(nearest_neighbours(grid, 11), naive_neighbours(grid, 11))


def test_a_tie_of_different_sums_is_a_tie(rng: np.random.Generator) -> None:
    # the same numbers in another order have the same length, but their float64 sums differ in the last bits
    row = rng.normal(size=40)
    x = np.stack([np.zeros(40), *(rng.permutation(row) for _ in range(12))])
    lengths = np.einsum("nd,nd->n", x, x)[1:]
    assert (np.diff(lengths) < 0).any()
    assert nearest_neighbours(x, 12)[0].tolist() == list(range(1, 13))


def test_an_offset_costs_no_time(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    # far from 0 float32 has no digits left: without centring every row would be compared in float64
    compared = []
    decide = module._decide

    def count(*args: Any, **parts: Any) -> NDArray:
        compared.append(len(parts["column"]))
        return decide(*args, **parts)

    monkeypatch.setattr(module, "_decide", count)
    nearest_neighbours(rng.normal(size=(500, 6)) + 1e5, 10)
    assert sum(compared) < 500 * 12


def test_duplicates_are_neighbours_of_each_other(rng: np.random.Generator) -> None:
    x = np.repeat(rng.normal(size=(6, 4)), 5, axis=0) + 100
    found = nearest_neighbours(x, 4)
    assert all(sorted([i, *row]) == [5 * (i // 5) + j for j in range(5)] for i, row in enumerate(found))
    assert (np.diff(found, axis=1) > 0).all()
    same = nearest_neighbours(np.full((40, 3), 7.7), 5)
    assert same[0].tolist() == [1, 2, 3, 4, 5]
    assert same[3].tolist() == [0, 1, 2, 4, 5]
    assert same[39].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "case", ["far from 0", "tight clusters", "outlier", "large", "small", "one row matters"]
)
def test_exact_where_float32_alone_is_not(case: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(300, 6))
    if case == "far from 0":
        x += 1e6
    elif case == "tight clusters":  # spread 1e-4 of the distance between them
        x = 1e-4 * x + 10 * rng.normal(size=(3, 6))[rng.integers(0, 3, 300)]
    elif case == "outlier":
        x[17] = 1e7
    elif case == "large":
        x *= 1e60
    elif case == "small":
        x *= 1e-60
    else:
        x[:, 1:] = 0
        x[5] = 1e9
    np.testing.assert_array_equal(nearest_neighbours(x, 12), naive_neighbours(x, 12))


def test_blocks_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.integers(0, 4, size=(263, 4)).astype(np.float32)  # many ties
    whole = nearest_neighbours(x, 9)
    for rows in (1, 17, 262, 1000):
        np.testing.assert_array_equal(nearest_neighbours(x, 9, block_rows=rows), whole)
    monkeypatch.setattr(module, "_PAIRS", 3)
    monkeypatch.setattr(module, "_HITS", 100)
    np.testing.assert_array_equal(nearest_neighbours(x, 9, block_rows=50), whole)
    np.testing.assert_array_equal(order_neighbours(x, np.sort(whole, axis=1)[:, ::-1]), whole)


def test_queries_choose_rows(rng: np.random.Generator) -> None:
    x = rng.normal(size=(90, 5))
    asked = np.array([88, 3, 3, 41])
    np.testing.assert_array_equal(
        nearest_neighbours(x, 7, queries=asked, block_rows=3), nearest_neighbours(x, 7)[asked]
    )
    assert nearest_neighbours(x, 7, queries=np.empty(0, np.int64)).shape == (0, 7)


def test_equals_scikit_learn_at_size(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3000, 20)).astype(np.float32)
    known = NearestNeighbors(n_neighbors=30, algorithm="kd_tree").fit(x.astype(np.float64))
    np.testing.assert_array_equal(nearest_neighbours(x, 30), known.kneighbors(return_distance=False))


def test_memory_stays_below_all_pairs(rng: np.random.Generator) -> None:
    n = 12_000  # all pairs: 137 MiB as bool, 549 MiB as float32
    x = rng.normal(size=(n, 8)).astype(np.float32)
    tracemalloc.start()
    try:
        jaccard_graph(nearest_neighbours(x, 30))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 115 * 2**20


@pytest.mark.parametrize(
    ("x", "k", "said"),
    [
        (np.zeros((5, 2)), 5, "below the number of rows, 5"),
        (np.zeros((5, 2)), 0, "at least 1"),
        (np.zeros(5), 1, r"\(n, d\)"),
        (np.zeros((5, 0)), 1, "at least one column"),
        (np.array([[0.0], [np.nan], [1.0]]), 1, r"1 of 3 rows.*rows \[1\]"),
        (np.array([[0.0], [2.0], [np.inf]]), 1, r"rows \[2\]"),
    ],
)
def test_bad_arguments_are_named(x: NDArray, k: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        nearest_neighbours(x, k)
    with pytest.raises(ValueError, match="block_rows"):
        nearest_neighbours(np.eye(3), 1, block_rows=0)


# ---------------------------------------------------------------- graph


@pytest.mark.parametrize(("n", "k"), [(3, 2), (40, 1), (75, 6), (120, 30)])
def test_graph_equals_loops(
    n: int, k: int, frozen: Freeze, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours = frozen(nearest_neighbours(rng.normal(size=(n, 3)), k)[:, rng.permutation(k)])
    graph = jaccard_graph(neighbours)
    np.testing.assert_allclose(graph.toarray(), naive_graph(neighbours), rtol=1e-6)
    assert graph.dtype == np.float32
    assert graph.shape == (n, n)
    assert (graph.data > 0).all()
    assert graph.has_sorted_indices
    assert (graph != graph.T).nnz == 0
    monkeypatch.setattr(module, "_TABLE_BYTES", 1000)
    assert (jaccard_graph(neighbours) != graph).nnz == 0


def test_a_known_graph() -> None:
    # 0 and 1 name each other and share 2; 2 names 0 and 1 and shares one with each; 3 is named by none
    graph = jaccard_graph(np.array([[1, 2], [0, 2], [0, 1], [0, 1]])).toarray()
    third = 1 / 3
    expected = [[0, third, third, third / 2], [third, 0, third, third / 2], [third, third, 0, 0]]
    np.testing.assert_allclose(graph[:3], expected, rtol=1e-6)
    np.testing.assert_allclose(graph[3], [third / 2, third / 2, 0, 0], rtol=1e-6)
    # a ring of three, k = 1: nobody shares anybody, and no edge of weight 0 is stored
    assert jaccard_graph(np.array([[1], [2], [0]])).nnz == 0


@pytest.mark.parametrize(
    ("neighbours", "said"),
    [
        ([[1], [2]], r"outside 0\.\.1"),
        ([[-1], [0]], "outside"),
        ([[1], [1]], "its own"),
        ([[1, 1], [0, 0]], "twice"),
        ([1, 0], r"\(n, k\)"),
        (np.empty((0, 3), int), r"\(n, k\)"),
    ],
)
def test_neighbours_that_make_no_graph(neighbours: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jaccard_graph(np.array(neighbours))


def test_shared_indices_are_counted(frozen: Freeze, rng: np.random.Generator) -> None:
    a = frozen(np.array([rng.permutation(50)[:7] for _ in range(80)]))
    b = frozen(np.array([rng.permutation(50)[:20] for _ in range(80)]))
    expected = [len(set(p) & set(q)) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    assert count_shared(a, b).tolist() == expected
    assert count_shared(a, a).tolist() == [7] * 80
