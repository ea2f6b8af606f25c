"""The WNN adapter: what it hands over and takes back (a stand-in package), the coordinates, and one real run."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from microsnoop.core.errors import JointError, MissingDependency
from microsnoop_integrations.graph_clusters import cluster_graph
from microsnoop_integrations.joint.baselines import principal_components
from microsnoop_integrations.joint.wnn import _muon, diffusion_map, wnn

Freeze = Callable[[NDArray], NDArray]


def groups(n: int = 90, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Three groups that the transcripts tell apart, and images of pure noise."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    x = rng.normal(size=(n, 20)) + 6 * np.eye(20)[label]
    return np.maximum(x, 0), rng.normal(size=(n, 25)), label


class Package:
    """In place of ``muon``: keeps what it was called with, and joins each cell to those of its first modality."""

    def __init__(self, *, weight: float = 0.75, broken: float | None = None, says: str = "") -> None:
        self.weight, self.broken, self.says = weight, broken, says
        self.blocks: dict[str, NDArray] = {}
        self.distances: dict[str, NDArray] = {}
        self.options: dict[str, Any] = {}
        self.pp = SimpleNamespace(neighbors=self.neighbors)

    def neighbors(self, data: Any, **options: Any) -> None:
        self.options = options
        for name, mod in data.mod.items():
            self.blocks[name] = np.array(mod.X)
            self.distances[name] = mod.obsp["distances"].copy()
        if self.says:
            warnings.warn(self.says, UserWarning, stacklevel=2)
        np.zeros(1) / np.zeros(1)  # as the real one does on copies of a cell
        graph = sparse.csr_array(data.mod["rna"].obsp["distances"], dtype=np.float64)
        graph.data = np.exp(-graph.data)
        graph = graph + graph.T + sparse.eye_array(data.n_obs)
        if self.broken is not None:
            graph.data[5] = self.broken
        data.obsp["connectivities"] = graph.tocsr()
        data.obs["rna:mod_weight"] = np.full(data.n_obs, self.weight)
        data.obs["image:mod_weight"] = np.full(data.n_obs, 1 - self.weight)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Package]:
    def install(**options: Any) -> Package:
        made = Package(**options)
        monkeypatch.setitem(sys.modules, "muon", made)
        return made

    return install


def test_hands_over_unit_components_and_takes_back_graph_and_weights(
    package: Callable[..., Package], frozen: Freeze
) -> None:
    made = package()
    x, y, label = groups(230)
    found = wnn(frozen(x), frozen(y), components=8, k=12, resolution=0.5, seed=3)
    scores = principal_components(x, components=8).scores
    expected = scores / np.linalg.norm(scores, axis=1, keepdims=True)
    np.testing.assert_allclose(made.blocks["rna"], expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(made.blocks["image"], axis=1), 1, atol=1e-6)
    assert made.options == {
        "n_neighbors": 12, "n_bandwidth_neighbors": 20, "n_multineighbors": 200, "random_state": 3
    }  # fmt: skip
    for name, distances in made.distances.items():
        whole = np.linalg.norm(made.blocks[name][:, None] - made.blocks[name][None], axis=2)
        np.fill_diagonal(whole, np.inf)  # others; the cell itself does not count
        nearest = np.where(whole <= np.partition(whole, 11, axis=1)[:, 11:12], whole, 0)
        np.testing.assert_allclose(distances.toarray(), nearest, atol=1e-6)
        assert distances.has_sorted_indices
    assert found.graph is not None
    assert found.graph.diagonal().max() == 0
    assert found.graph.dtype == np.float32
    assert abs(found.graph - found.graph.T).max() < 1e-6
    np.testing.assert_array_equal(found.labels, cluster_graph(found.graph, resolution=0.5, seed=3))
    assert adjusted_rand_score(label, found.labels) > 0.9
    assert found.weight_rna is not None
    assert found.weight_rna.dtype == np.float32
    assert set(found.weight_rna) == {np.float32(0.75)}
    assert (found.latent.shape, found.latent.dtype) == ((230, 50), np.float32)
    assert (found.name, found.notes) == ("WNN", ())
    assert json.loads(json.dumps(dict(found.info)))["mean_weight_rna"] == 0.75
    again = wnn(sparse.csr_matrix(x), y, components=8, k=12, resolution=0.5, seed=3)
    np.testing.assert_allclose(again.latent, found.latent, atol=1e-3)


def test_few_cells_and_large_k_change_the_candidates(package: Callable[..., Package]) -> None:
    made = package()
    x, y, _ = groups(18)
    found = wnn(x, y, k=16)
    assert (made.options["n_bandwidth_neighbors"], made.options["n_multineighbors"]) == (17, 17)
    assert found.notes == ("18 cells: 17 candidates of each modality, not 200",)
    assert found.latent.shape == (18, 16)
    x, y, _ = groups(260)
    assert wnn(x, y, k=230).info["candidates"] == made.options["n_multineighbors"] == 231


def test_copies_of_a_cell_stay_neighbours(package: Callable[..., Package]) -> None:
    made = package()
    x, y, _ = groups()
    x[:8], y[:8] = x[0], y[0]
    wnn(x, y, k=10)
    for distances in made.distances.values():
        assert (distances.data > 0).all()
        assert set(range(8)) - {3} <= set(distances[[3]].nonzero()[1])
        assert distances.diagonal().max() == 0


def test_empty_cell_has_no_direction(package: Callable[..., Package]) -> None:
    made = package()
    rng = np.random.default_rng(0)
    half = rng.integers(-9, 9, size=(30, 6)).astype(float)
    x = np.vstack([half, -half, np.zeros((1, 6))])  # the last cell is exactly the mean
    wnn(x, rng.normal(size=(61, 5)), k=10)
    lengths = np.linalg.norm(made.blocks["rna"], axis=1)
    assert lengths[-1] == 0
    np.testing.assert_allclose(lengths[:-1], 1, atol=1e-6)


def test_short_search_becomes_a_note_and_other_warnings_pass(package: Callable[..., Package]) -> None:
    x, y, _ = groups()
    package(says="Failed to correctly find n_neighbors for some samples.")
    assert any("too few neighbours" in note for note in wnn(x, y, k=10).notes)
    package(says="something else")
    with pytest.raises(UserWarning, match="something else"):
        wnn(x, y, k=10)


@pytest.mark.parametrize("broken", [{"broken": np.nan}, {"weight": np.nan}])
def test_unusable_graph_is_an_error(package: Callable[..., Package], broken: dict[str, float]) -> None:
    package(**broken)
    x, y, _ = groups()
    with pytest.raises(JointError, match="no numbers") as caught:
        wnn(x, y, k=10)
    assert caught.value.code == "wnn_failed"


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "muon", None)
    x, y, _ = groups()
    with pytest.raises(MissingDependency) as caught:
        wnn(x, y)
    assert "microsnoop-platform[multimodal]" in caught.value.hint


def test_bad_input_is_refused(package: Callable[..., Package]) -> None:
    package()
    x, y, _ = groups()
    with pytest.raises(ValueError, match="same cells"):
        wnn(x, y[:-1], k=10)
    for options in ({"k": 0}, {"dimensions": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            wnn(x, y, **options)
    with pytest.raises(JointError) as few:
        wnn(x[:31], y[:31], k=30)
    assert few.value.code == "too_few_cells"
    x[0, 0] = np.nan
    with pytest.raises(JointError) as caught:
        wnn(x, y, k=10)
    assert caught.value.code == "not_finite"


# ---------------------------------------------------------------- coordinates


def random_graph(rng: np.random.Generator, n: int) -> sparse.csr_matrix:
    weights = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.3), 1)
    return sparse.csr_matrix(weights + weights.T + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1))


def test_diffusion_distances_are_those_of_the_walk(rng: np.random.Generator) -> None:
    graph = random_graph(rng, 26)
    dense = graph.toarray()
    degree = dense.sum(axis=1)
    walk, stationary = dense / degree[:, None], degree / degree.sum()
    # all coordinates would give the distance exactly; those left out have negative or the smallest eigenvalues
    values, vectors = np.linalg.eigh(dense / np.sqrt(np.outer(degree, degree)))
    kept = (values > 0) & (values < 1 - 1e-9)
    full = vectors / np.sqrt(stationary)[:, None] * values
    left_out = full[:, values <= 0]
    found = diffusion_map(graph, dimensions=24).astype(float)
    for a, b in ((0, 1), (3, 20), (7, 8)):
        exact = ((walk[a] - walk[b]) ** 2 / stationary).sum()
        rest = ((left_out[a] - left_out[b]) ** 2).sum()
        assert ((found[a] - found[b]) ** 2).sum() == pytest.approx(exact - rest, rel=1e-4)
    assert (np.abs(found).max(axis=0) > 1e-9).sum() == kept.sum()


def test_parts_of_a_graph_lie_apart(rng: np.random.Generator) -> None:
    parts = sparse.block_diag([random_graph(rng, size) for size in (30, 22, 15)], format="csr")
    label = np.repeat(np.arange(3), (30, 22, 15))
    found = diffusion_map(parts, dimensions=2)
    for part in range(3):
        assert np.ptp(found[label == part], axis=0).max() < 1e-3
    centres = np.array([found[label == part].mean(axis=0) for part in range(3)])
    assert min(np.linalg.norm(centres[a] - centres[b]) for a, b in ((0, 1), (0, 2), (1, 2))) > 1
    np.testing.assert_array_equal(
        diffusion_map(parts, dimensions=2, seed=4), diffusion_map(parts, dimensions=2, seed=4)
    )


def test_coordinates_do_not_depend_on_the_start(rng: np.random.Generator) -> None:
    graph = random_graph(rng, 40)
    np.testing.assert_allclose(
        diffusion_map(graph, dimensions=5, seed=0), diffusion_map(graph, dimensions=5, seed=9), atol=1e-4
    )


def test_lonely_node_is_refused(rng: np.random.Generator) -> None:
    graph = sparse.block_diag([random_graph(rng, 12), np.zeros((1, 1))], format="csr")
    with pytest.raises(JointError, match="1 of 13 cells"):
        diffusion_map(graph, dimensions=3)


# ---------------------------------------------------------------- the package itself


def compare_all(x: NDArray, *, n_neighbors: int, metric: Any, metric_kwds: dict[str, Any], **_: Any) -> Any:
    """Find nearest neighbours by comparing all pairs, with the signature of the package's search."""
    if metric == "euclidean":
        far = np.linalg.norm(x[:, None] - x[None], axis=2)
    else:
        far = np.array([[metric.py_func(a, b, **metric_kwds) for b in x] for a in x])
    index = np.argsort(far, axis=1, kind="stable")[:, :n_neighbors]
    return index, np.take_along_axis(far, index, axis=1), None


@pytest.mark.skipif(find_spec("muon") is None, reason="extra multimodal is not installed")
def test_prefers_the_modality_that_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the package but its approximate search, which is compiled for a minute in every call."""
    preprocessing = _muon()._core.preproc
    monkeypatch.setattr(preprocessing, "nearest_neighbors", compare_all)
    x, y, label = groups(66)
    one, other = wnn(x, y, k=8), wnn(y, x, k=8)
    for found in (one, other):
        assert found.weight_rna is not None
        assert 0 <= found.weight_rna.min() <= found.weight_rna.max() <= 1
        assert adjusted_rand_score(label, found.labels) > 0.9
        assert found.graph is not None
        assert found.graph.shape == (66, 66)
    assert one.weight_rna.mean() > 0.6
    np.testing.assert_allclose(one.weight_rna + other.weight_rna, 1, atol=1e-4)
    again = wnn(x, y, k=8)
    np.testing.assert_array_equal(again.latent, one.latent)
    np.testing.assert_array_equal(again.weight_rna, one.weight_rna)
