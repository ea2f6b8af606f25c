"""Silhouettes against scikit-learn, in the cases that it refuses, and without all pairs in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import silhouette_samples, silhouette_score

from microsnoop.ops import silhouette as module
from microsnoop.ops.silhouette import silhouette

Freeze = Callable[[NDArray], NDArray]


@pytest.mark.parametrize(
    ("n", "d", "clusters"), [(5, 1, 2), (40, 3, 2), (300, 7, 5), (257, 30, 17), (20, 4, 19)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_scikit_learn(
    n: int,
    d: int,
    clusters: int,
    dtype: type,
    frozen: Freeze,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = frozen(
        rng.permutation(np.r_[np.arange(clusters), rng.integers(0, clusters, n - clusters)]) * 3 - 4
    )
    x = frozen((rng.normal(size=(n, d)) + rng.normal(size=(60, d))[labels]).astype(dtype))
    found = silhouette(x, labels)
    assert found.mean == pytest.approx(silhouette_score(x.astype(float), labels), abs=1e-9)
    np.testing.assert_allclose(found.values, silhouette_samples(x.astype(float), labels), atol=1e-9)
    assert (found.n, found.n_clusters) == (n, clusters)
    assert found.n_single == (np.unique(labels, return_counts=True)[1] == 1).sum()
    assert found.rows.tolist() == list(range(n))
    monkeypatch.setattr(module, "_BLOCK_BYTES", 8 * n * 3)  # 3 rows at a time
    np.testing.assert_allclose(silhouette(x, labels).values, found.values, atol=1e-12)


def test_known_values() -> None:
    found = silhouette(np.array([[0.0], [1.0], [4.0], [6.0], [9.0]]), np.array(["a", "a", "b", "b", "c"]))
    # row 0: own 1, b (4 + 6) / 2, c 9; row 3: own 2, a 5.5, c 3; row 4 is alone
    expected = [4 / 5, 3 / 4, (3.5 - 2) / 3.5, 1 / 3, 0]
    np.testing.assert_allclose(found.values, expected)
    assert found.mean == pytest.approx(np.mean(expected))
    assert (found.n_clusters, found.n_single) == (3, 1)


def test_one_cluster_is_missing_not_zero(rng: np.random.Generator) -> None:
    found = silhouette(rng.normal(size=(9, 2)), np.zeros(9, int))
    assert np.isnan(found.mean)
    assert np.isnan(found.values).all()
    assert (found.n, found.n_clusters, found.n_single) == (9, 1, 0)
    assert np.isnan(silhouette(np.ones((1, 2)), np.zeros(1, int)).mean)


def test_each_cell_its_own_label_is_zero(rng: np.random.Generator) -> None:
    found = silhouette(rng.normal(size=(9, 2)), np.arange(9))
    assert (found.mean, found.n_single) == (0, 9)


def test_equal_rows() -> None:
    assert silhouette(np.full((6, 3), 0.1), np.array([0, 0, 0, 1, 1, 1])).mean == 0
    # two points, each many times: cells of a label are exactly at one place
    x = np.repeat([[0.1, 0.7], [0.3, 0.2]], 5, axis=0).astype(np.float32)
    assert silhouette(x, np.repeat([0, 1], 5)).mean == 1


@pytest.mark.parametrize(("offset", "spread"), [(1e7, 1.0), (0.0, 1e-8)])
def test_digits_survive(offset: float, spread: float, rng: np.random.Generator) -> None:
    small = rng.integers(0, 64, size=(60, 3)) / 8.0  # exact in float64, wherever they are moved
    labels = (small[:, 0] > 4) * 1
    known = silhouette_score(small, labels)
    x = small * spread + offset
    if not offset:  # a far third cluster, within which nothing changes: its cells are judged by a and b alone
        x = np.r_[x, x[:30] + 1e3]
        labels = np.r_[labels, np.full(30, 2)]
        found = silhouette(x, labels)
        assert found.values[:60].mean() == pytest.approx(known, abs=1e-4)
        return
    assert silhouette(x, labels).mean == pytest.approx(known, abs=1e-6)


def test_sample_is_seeded_and_compares_its_own_rows(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 3, 500)
    x = rng.normal(size=(500, 2)) + labels[:, None]
    found = silhouette(x, labels, sample=120, rng=np.random.default_rng(4))
    again = silhouette(x, labels, sample=120, rng=np.random.default_rng(4))
    other = silhouette(x, labels, sample=120, rng=np.random.default_rng(5))
    assert found.n == 120 == len(np.unique(found.rows))
    assert (np.diff(found.rows) > 0).all()
    assert found.mean == again.mean != other.mean
    assert found.mean == pytest.approx(silhouette_score(x[found.rows], labels[found.rows]), abs=1e-9)
    assert silhouette(x, labels, sample=120).mean == silhouette(x, labels, sample=120).mean
    assert silhouette(x, labels, sample=500).mean == silhouette(x, labels, sample=None).mean


def test_memory_stays_below_all_pairs(rng: np.random.Generator) -> None:
    n = 6_000  # all pairs: 275 MiB as float64, 34 MiB as bool
    x, labels = rng.normal(size=(n, 4)), rng.integers(0, 5, n)
    twice = np.repeat(x[:2], 1_500, axis=0)  # all distances are 0 or computed again: 69 MiB
    peaks = []
    tracemalloc.start()
    try:
        for rows in (x, twice):
            tracemalloc.reset_peak()
            silhouette(rows, labels[: len(rows)], sample=None)
            peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
    finally:
        tracemalloc.stop()
    assert peaks[0] < 30
    assert peaks[1] < 100


@pytest.mark.parametrize(
    ("x", "labels", "sample", "said"),
    [
        (np.zeros((4, 2)), np.zeros(3), None, r"each of 4 rows.*\(3,\)"),
        (np.zeros((4, 2)), np.zeros((4, 1)), None, "each of 4 rows"),
        (np.zeros((0, 2)), np.zeros(0), None, "at least one"),
        (np.zeros(4), np.zeros(4), None, r"\(n, d\)"),
        (np.array([[0.0], [np.nan]]), np.arange(2), None, "not finite"),
        (np.zeros((4, 2)), np.arange(4), 1, "sample must be at least 2"),
    ],
)
def test_bad_arguments_are_named(x: NDArray, labels: NDArray, sample: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        silhouette(x, labels, sample=sample)
