"""MUSE as a model: what it gives, what it refuses, new cells, more than two modalities, memory, and that it works."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from microsnoop.core.errors import ConfigError, JointError
from microsnoop_integrations.graph_clusters import cluster
from microsnoop_integrations.joint.baselines import principal_components
from microsnoop_integrations.muse import Muse, MuseParameters, gating, training
from microsnoop_integrations.muse import model as module
from microsnoop_integrations.muse.modality import modality

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {
    "latent": 8, "hidden": 16, "k": 10, "init_epochs": 2, "init_steps": 0, "n_epochs": 3, "n_steps": 0,
    "image_components": 6, "image_standardise": "no",
}  # fmt: skip
N, P, Q = 90, 14, 9


def cells(n: int = N, *, seed: int = 0, spread: float = 0.4) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """Transcripts that tell 0 from 1 and {2, 3}, images that tell 2 from 3 and {0, 1}; read-only."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    kinds = np.random.default_rng(7)
    x = 2 * kinds.normal(size=(3, P))[np.array([0, 1, 2, 2])[label]] + spread * rng.normal(size=(n, P))
    y = kinds.normal(size=(3, Q))[np.array([0, 0, 1, 2])[label]] + spread * rng.normal(size=(n, Q))
    x, y = np.maximum(x, 0).astype(np.float32), y.astype(np.float32)
    x[:, 0] += 0.5
    x.flags.writeable = y.flags.writeable = False
    return x, y, label


def tiny(**changes: Any) -> Muse:
    return Muse(MuseParameters(**{**TINY, **changes}), device="cpu")


@pytest.fixture(scope="module")
def fitted() -> Muse:
    x, y, _ = cells()
    return tiny().fit(x, y, obs_ids=[f"c{i}" for i in range(N)], genes=[f"g{i}" for i in range(P)])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at how replicable clusters are: it changes nothing where the gate is ``none``."""
    monkeypatch.setattr(gating, "replicability", lambda *_, **__: 0.5)


def refused(call: Any) -> JointError:
    with pytest.raises(JointError) as error:
        call()
    return error.value


# --- what is found ---------------------------------------------------------------------------------


def test_what_a_fitted_model_holds(fitted: Muse) -> None:
    assert fitted.latent_.shape == (N, 8)
    assert fitted.hidden_x_.shape == fitted.hidden_y_.shape == (N, 16)
    for values in (fitted.latent_, fitted.hidden_x_, fitted.hidden_y_, fitted.weight_x_):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
    assert not np.array_equal(fitted.hidden_x_, fitted.hidden_y_)
    assert fitted.labels_.dtype == np.int64
    np.testing.assert_array_equal(fitted.labels_, cluster(fitted.latent_, k=10))
    assert fitted.names == ("rna", "image")
    assert fitted.obs_ids_[:2] == ("c0", "c1")
    assert fitted.genes_ == tuple(f"g{i}" for i in range(P))
    assert fitted.features_ == tuple(f"feature_{i}" for i in range(Q))
    assert fitted.phases_ == ["reconstruct"] * 2 + ["triplets"] * 2 + ["main"] * 3
    assert all(len(values) == 7 for values in fitted.history_.values())
    assert {"loss", "learned", "penalty", "triplet_rna", "triplet_image"} < set(fitted.history_)
    assert fitted.margin_ > 0
    assert fitted.seconds_ > 0
    assert set(fitted.replicability_) == set(fitted.gates_) == {"rna", "image"}
    assert all(0 <= weight <= 1 for weight in fitted.gates_.values())
    assert not fitted.network_.training


def test_weight_is_the_share_of_what_transcripts_add(fitted: Muse) -> None:
    joint = fitted.network_.joint.weight.detach().numpy().astype(np.float64)
    rna = (fitted.hidden_x_ - fitted.hidden_x_.mean(axis=0)) @ joint[:, :16].T
    image = (fitted.hidden_y_ - fitted.hidden_y_.mean(axis=0)) @ joint[:, 16:].T
    a, b = np.linalg.norm(rna, axis=1), np.linalg.norm(image, axis=1)
    np.testing.assert_allclose(fitted.weight_x_, a / (a + b), rtol=1e-4)
    # both together are what the latent differs from its mean by
    np.testing.assert_allclose(rna + image, fitted.latent_ - fitted.latent_.mean(axis=0), atol=1e-4)


def test_initial_labels_are_clusters_of_principal_components(
    monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    given: list[Any] = []
    run = training.Trainer.run

    def noted(self: Any, labels: Any) -> None:
        given.append(labels)
        run(self, labels)

    monkeypatch.setattr(training.Trainer, "run", noted)
    x, y, label = cells()
    model = tiny(resolution=0.7).fit(x, y)
    reduction = model.reduction_
    assert reduction is not None
    for own, values in zip(given[0], (x, reduction.transform(y)), strict=True):
        scores = principal_components(values, components=100).scores
        np.testing.assert_array_equal(own, cluster(scores, k=10, resolution=0.7))
    tiny(resolution=0.7).fit(x, y, labels_y=np.array(list("dcba"))[label])
    np.testing.assert_array_equal(given[1][0], given[0][0])
    np.testing.assert_array_equal(given[1][1], 3 - label)


def test_names_of_initial_labels_do_not_matter(quick: None) -> None:
    x, y, label = cells()
    first = tiny(lambda_regul=0.1).fit(x, y, labels_x=label, labels_y=label % 2)
    other = np.array(["w", "a", "zz", "k"])
    again = tiny(lambda_regul=0.1).fit(x, y, labels_x=other[label], labels_y=other[label % 2])
    np.testing.assert_array_equal(first.latent_, again.latent_)
    shuffled = np.random.default_rng(0).permutation(label)
    third = tiny(lambda_regul=0.1).fit(x, y, labels_x=shuffled, labels_y=label % 2)
    assert not np.array_equal(first.latent_, third.latent_)


def test_seeds_reproduce_and_differ(fitted: Muse) -> None:
    x, y, _ = cells()
    again, other = tiny().fit(x, y), tiny(seed=1).fit(x, y)
    np.testing.assert_array_equal(again.latent_, fitted.latent_)
    np.testing.assert_array_equal(again.labels_, fitted.labels_)
    assert again.history_["loss"] == fitted.history_["loss"]
    assert not np.array_equal(other.latent_, fitted.latent_)


def test_a_model_can_be_fitted_again(fitted: Muse) -> None:
    x, y, _ = cells()
    model = tiny().fit(x[:70], y[:70])
    model.fit(x, y)
    np.testing.assert_array_equal(model.latent_, fitted.latent_)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix])
def test_sparse_transcripts_give_what_dense_ones_give(fitted: Muse, kind: Any) -> None:
    x, y, _ = cells()
    model = tiny().fit(kind(x), y)
    np.testing.assert_allclose(model.latent_, fitted.latent_, atol=1e-5)
    np.testing.assert_array_equal(model.labels_, fitted.labels_)
    np.testing.assert_array_equal(model.transform(kind(x), y), model.transform(x, y))


# --- modalities ------------------------------------------------------------------------------------


def test_two_modalities_are_the_same_by_either_way(quick: None) -> None:
    x, y, label = cells()
    model = tiny(image_components=None, gate="none").fit(x, y, labels_x=label)
    again = tiny(gate="none").fit_modalities(
        [modality("rna", x, masked=True), modality("image", y)], labels=[label, None]
    )
    np.testing.assert_array_equal(model.latent_, again.latent_)
    np.testing.assert_array_equal(model.weight_x_, again.weight_x_)
    assert {k: v for k, v in model.history_.items() if "triplet" not in k} == {
        k: v for k, v in again.history_.items() if "triplet" not in k
    }
    np.testing.assert_array_equal(again.transform(x, y), again.latent_)


def test_three_modalities(quick: None) -> None:
    x, y, _ = cells()
    third = np.random.default_rng(1).normal(size=(N, 5)).astype(np.float32)
    parts = [modality("rna", x, masked=True), modality("image", y), modality("shape", third, weight=0.5)]
    model = tiny().fit_modalities(parts)
    assert model.names == tuple(model.gates_) == ("rna", "image", "shape")
    assert [h.shape for h in model.hidden_] == [(N, 16)] * 3
    assert model.network_.joint.in_features == 48
    assert {"reconstruction_shape", "triplet_shape"} < set(model.history_)
    np.testing.assert_allclose(sum(model.parts()), model.latent_ - model.latent_.mean(axis=0), atol=1e-4)


def test_modalities_must_be_two_of_the_same_cells() -> None:
    x, y, _ = cells()
    both = [modality("rna", x, masked=True), modality("image", y[:-1])]
    assert refused(lambda: tiny().fit_modalities(both)).code == "row_count_mismatch"
    assert refused(lambda: tiny().fit_modalities(both[:1])).code == "row_count_mismatch"
    with pytest.raises(ValueError, match="negative"):
        modality("image", y, weight=-1.0)
    with pytest.raises(ValueError, match="matrix"):
        modality("image", y[0])


# --- what labels of a weak modality do -------------------------------------------------------------


def noise(seed: int, n: int = 150, d: int = 50) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def weak(model: Muse) -> list[str]:
    return [f.message.split()[2] for f in model.findings_ if f.code == "weak_modality" and f.strong]


def test_images_that_are_noise_are_said_and_hardly_count() -> None:
    x, _, _ = cells(150, spread=0.2)
    model = tiny(image_components=None).fit(x, noise(0))
    assert weak(model) == ["image"]
    assert model.gates_["image"] < 0.25
    assert model.gates_["rna"] == 1
    # without the gate the finding stays
    open_gate = tiny(image_components=None, gate="none").fit(x, noise(0))
    assert weak(open_gate) == ["image"]
    assert open_gate.gates_ == {"rna": 1.0, "image": 1.0}
    assert open_gate.replicability_ == model.replicability_


def test_both_modalities_good_are_not_weak(fitted: Muse) -> None:
    assert weak(fitted) == []


def test_where_both_are_noise_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([0.0, 0.01])
    monkeypatch.setattr(gating, "replicability", lambda *_, **__: next(found))
    model = tiny(image_components=None).fit(np.abs(noise(1)), noise(2))
    assert model.gates_ == {"rna": 1.0, "image": 1.0}
    assert weak(model) == ["rna", "image"]


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda x, y: (x - 1, y), "negative_input"),
        (lambda x, y: (sparse.csr_matrix(x - 1), y), "negative_input"),
        (lambda x, y: (np.where(x == x[3, 2], np.nan, x), y), "not_finite"),
        (lambda x, y: (x, np.where(y == y[3, 2], np.inf, y)), "not_finite"),
        (lambda x, y: (x * (np.arange(N) != 5)[:, None], y), "empty_cell"),
        (lambda x, y: (sparse.csr_matrix(x * (np.arange(N) != 5)[:, None]), y), "empty_cell"),
        (lambda x, y: (x[:-1], y), "row_count_mismatch"),
        (lambda x, y: (x[:63], y[:63]), "too_few_cells"),
        (lambda x, y: (x, np.ones_like(y)), "no_variance"),
    ],
)
def test_input_that_is_refused_before_any_training(
    spoil: Any, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.Trainer, "__post_init__", lambda _: pytest.fail("training was begun"))
    x, y, _ = cells()
    error = refused(lambda: tiny().fit(*spoil(x, y)))
    assert error.code == code
    if code == "empty_cell":
        assert "row 5" in error.message
    if code == "negative_input":
        assert "principal components" in error.message


def test_the_fewest_cells(quick: None) -> None:
    x, y, _ = cells()
    assert tiny().fit(x[:64], y[:64]).latent_.shape == (64, 8)
    error = refused(lambda: tiny(k=68).fit(x[:69], y[:69]))
    assert error.code == "too_few_cells"
    assert "70" in error.message
    assert tiny(k=68).fit(x[:70], y[:70]).latent_.shape == (70, 8)


def test_names_and_labels_must_fit() -> None:
    x, y, label = cells()
    for wrong in ({"genes": ["a"]}, {"features": ["a"]}, {"obs_ids": ["a"]}):
        assert refused(lambda wrong=wrong: tiny().fit(x, y, **wrong)).code == "feature_mismatch"
    assert refused(lambda: tiny().fit(x, y, labels_x=label[1:])).code == "row_count_mismatch"


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="'cuda' is not available"):
        Muse(device="cuda")


# --- new cells -------------------------------------------------------------------------------------


def test_training_cells_are_placed_where_they_were(fitted: Muse) -> None:
    x, y, _ = cells()
    np.testing.assert_allclose(fitted.transform(x, y), fitted.latent_, atol=1e-5)
    some = fitted.transform(x[[5, 3]], y[[5, 3]], genes=list(fitted.genes_), features=fitted.features_)
    assert some.dtype == np.float32
    np.testing.assert_allclose(some, fitted.latent_[[5, 3]], atol=1e-5)


def test_a_missing_modality_is_stood_in_for_by_its_mean(fitted: Muse) -> None:
    x, y, _ = cells()
    joint, bias = (p.detach().numpy() for p in (fitted.network_.joint.weight, fitted.network_.joint.bias))
    means = [h.mean(axis=0) for h in (fitted.hidden_x_, fitted.hidden_y_)]
    without_y = np.concatenate([fitted.hidden_x_, np.tile(means[1], (N, 1))], axis=1) @ joint.T + bias
    without_x = np.concatenate([np.tile(means[0], (N, 1)), fitted.hidden_y_], axis=1) @ joint.T + bias
    np.testing.assert_allclose(fitted.transform(x, None, missing="mean"), without_y, atol=1e-5)
    np.testing.assert_allclose(fitted.transform(None, y, missing="mean"), without_x, atol=1e-5)
    sparse_x = sparse.csr_matrix(x)
    np.testing.assert_allclose(fitted.transform(sparse_x, None, missing="mean"), without_y, atol=1e-5)
    # nothing is missing: nothing is stood in for
    np.testing.assert_allclose(fitted.transform(x, y, missing="mean"), fitted.latent_, atol=1e-5)


def test_new_cells_that_are_refused(fitted: Muse) -> None:
    x, y, _ = cells()
    for call, code in (
        (lambda: fitted.transform(x, None), "missing_modality"),
        (lambda: fitted.transform(None, y), "missing_modality"),
        (lambda: fitted.transform(None, None, missing="mean"), "missing_modality"),
        (lambda: fitted.transform(x[:, 1:], y), "feature_mismatch"),
        (lambda: fitted.transform(x, y[:, 1:]), "feature_mismatch"),
        (lambda: fitted.transform(x[:, 1:], None, missing="mean"), "feature_mismatch"),
        (lambda: fitted.transform(x[1:], y), "row_count_mismatch"),
        (lambda: fitted.transform(x - 1, y), "negative_input"),
        (lambda: fitted.transform(x, np.where(y == y[2, 1], np.nan, y)), "not_finite"),
        (lambda: fitted.transform(x, y, genes=fitted.genes_[::-1]), "feature_mismatch"),
        (lambda: fitted.transform(x, y, features=fitted.features_[1:]), "feature_mismatch"),
    ):
        assert refused(call).code == code
    with pytest.raises(ValueError, match="zero"):
        fitted.transform(x, y, missing="zero")


def test_labels_are_those_of_most_neighbours(fitted: Muse) -> None:
    names = np.array(["b", "a", "c"])[np.arange(N) % 3]
    some = fitted.latent_[10:30] + np.float32(0.01)
    found, share = fitted.transfer_labels(names, some, voters=7)
    for i, near in enumerate(np.argsort(cdist(some, fitted.latent_), axis=1)[:, :7]):
        votes = {name: int((names[near] == name).sum()) for name in "abc"}
        assert votes[str(found[i])] == max(votes.values())
        assert share[i] == pytest.approx(max(votes.values()) / 7)
    assert share.dtype == np.float32
    with pytest.raises(ValueError, match="90 training cells"):
        fitted.transfer_labels(names[1:], some)


# --- as a package ----------------------------------------------------------------------------------


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, microsnoop_integrations.muse as muse; assert 'torch' not in sys.modules;"
        "assert 'Muse' in dir(muse); muse.MuseParameters(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_there() -> None:
    import microsnoop_integrations.muse as package

    assert [getattr(package, name) for name in package.__all__]
    assert package.Muse is module.Muse
    with pytest.raises(AttributeError, match="it offers Muse"):
        _ = package.nothing


# --- as large as it gets, and that it works --------------------------------------------------------


def test_nothing_is_as_large_as_cells_by_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 5_000
    x, y, _ = cells(n)
    largest = 0
    distances = training.pairwise_distances

    def noted(latent: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(latent))
        return distances(latent)

    monkeypatch.setattr(training, "pairwise_distances", noted)
    labels = np.arange(n) % 3
    monkeypatch.setattr(module, "cluster", lambda values, **_: labels[: len(values)])
    monkeypatch.setattr(training, "cluster", lambda values, **_: labels[: len(values)])
    monkeypatch.setattr(gating, "replicability", lambda *_, **__: 0.5)
    model = tiny(init_epochs=1, n_epochs=1, batch_size=500, margin_sample=300)
    tracemalloc.start()
    try:
        model.fit(sparse.csr_matrix(x), y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert largest == 500
    # one byte a pair would be 25 MB; the cells themselves are 0.5 MB
    assert peak < 10e6


def test_both_modalities_tell_more_than_each_and_than_shuffled_pairs() -> None:
    x, y, label = cells(320, seed=3, spread=0.5)
    p: dict[str, Any] = {"k": 30, "init_steps": 60, "n_steps": 150, "resolution": 0.5, "lr": 3e-3}

    def score(labels: NDArray[np.int64]) -> float:
        return float(adjusted_rand_score(label, labels))

    joint = tiny(**p).fit(x, y)
    alone = [score(cluster(principal_components(v).scores, k=30, resolution=0.5)) for v in (x, y)]
    shuffled = tiny(**p).fit(x, y[np.random.default_rng(0).permutation(320)])
    assert score(joint.labels_) > max(alone) + 0.05
    assert score(joint.labels_) > score(shuffled.labels_) + 0.05
