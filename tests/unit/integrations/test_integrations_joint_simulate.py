"""The simulator against what its definition says about each step, and what the modalities can and cannot see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from microsnoop.core.errors import ConfigError
from microsnoop_integrations.joint.baselines import concat, single
from microsnoop_integrations.joint.simulate import Simulation, SimulationParameters, ceiling, simulate

SMALL = SimulationParameters(n=120, clusters=6, latent=7, d1=11, d2=13)
ARRAYS = ("x", "y", "label", "label_x", "label_y", "obs_ids")


def twin(p: SimulationParameters, seed: int) -> tuple[list[NDArray], list[list[int]]]:
    """Follow the definition cell by cell, taking the numbers in the documented order."""
    rng = np.random.default_rng(seed)
    label = rng.integers(p.clusters, size=p.n)
    half = p.clusters // 2
    looks = [list(range(p.clusters)), list(range(p.clusters))]
    for look, later in zip(looks, (range(1, half), range(half + 1, p.clusters)), strict=True):
        for cluster in later:
            if rng.random() < p.merge:
                look[cluster] = look[cluster - 1]
    matrices = []
    for modality, look in enumerate(looks):
        means = rng.uniform(-0.5, 0.5, size=(p.clusters, p.latent))
        spread = rng.normal(0, np.sqrt(0.1), size=(p.n, p.latent))
        latents = np.array([means[look[one]] for one in label]) + spread
        width = (p.d1, p.d2)[modality]
        projected = latents @ rng.uniform(-0.5, 0.5, size=(p.latent, width))
        if modality == 0:
            clean = np.where(projected > 0, projected, 0)
            noisy = clean + rng.normal(0, p.sigma1, size=clean.shape)
            noisy = np.where(noisy > 0, noisy, 0)
            lost = rng.random(clean.shape) < np.exp(-p.decay_coef_1 * clean * clean)
        else:
            second = expit(projected) @ rng.uniform(-0.5, 0.5, size=(width, width))
            noisy = expit(second + rng.normal(0, p.sigma2, size=second.shape))
            lost = rng.random(second.shape) < p.decay_coef_2
        noisy[lost] = 0
        matrices.append(noisy)
    return matrices, looks


@pytest.mark.parametrize("seed", [0, 1, 7])
@pytest.mark.parametrize("change", [{}, {"merge": 0.3, "clusters": 7}, {"decay_coef_2": 0.5, "sigma1": 1.0}])
def test_equals_the_definition(seed: int, change: dict[str, float]) -> None:
    given = replace(SMALL, **change)
    found = simulate(given, seed=seed)
    (x, y), looks = twin(given, seed)
    np.testing.assert_allclose(found.x, x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.y, y, rtol=1e-5, atol=1e-6)
    assert found.label_x.tolist() == [looks[0][one] for one in found.label]
    assert found.label_y.tolist() == [looks[1][one] for one in found.label]


def test_shapes_types_and_ids() -> None:
    found = simulate(SMALL, seed=3)
    assert (found.x.shape, found.y.shape) == ((120, 11), (120, 13))
    assert found.x.dtype == found.y.dtype == np.float32
    assert {found.label.dtype, found.label_x.dtype, found.label_y.dtype} == {np.dtype(np.int64)}
    assert found.x.min() == 0
    assert 0 <= found.y.min() <= found.y.max() < 1
    assert list(found.obs_ids[[0, 119]]) == ["cell_0000", "cell_0119"]
    assert (found.parameters, found.seed) == (SMALL, 3)
    many = simulate(replace(SMALL, n=10_001, d1=2, d2=2), seed=0)
    assert list(many.obs_ids[[0, 10_000]]) == ["cell_00000", "cell_10000"]
    assert len(set(many.obs_ids)) == 10_001


def test_defaults_are_the_demo_setting() -> None:
    found = simulate(seed=0)
    assert (found.x.shape, found.y.shape) == ((1_000, 500), (1_000, 500))
    assert set(found.label.tolist()) == set(range(10))


def test_seeds_reproduce_and_differ() -> None:
    one, again, other = simulate(SMALL, seed=5), simulate(SMALL, seed=5), simulate(SMALL, seed=6)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not np.array_equal(one.x, other.x)
    assert not np.array_equal(one.label, other.label)


def test_image_quality_leaves_transcripts_alone() -> None:
    good, poor = simulate(SMALL, seed=2), simulate(replace(SMALL, decay_coef_2=0.5, sigma2=3.0), seed=2)
    for name in ("x", "label", "label_x", "label_y"):
        np.testing.assert_array_equal(getattr(good, name), getattr(poor, name))
    assert not np.array_equal(good.y, poor.y)


@pytest.mark.parametrize("clusters", [4, 7, 10])
def test_without_merges_both_see_all(clusters: int) -> None:
    found = simulate(replace(SMALL, merge=0.0, n=400, clusters=clusters), seed=1)
    assert len(set(found.label_x)) == len(set(found.label_y)) == clusters
    assert ceiling(found.label, found.label_x) == ceiling(found.label, found.label_y) == 1.0


@pytest.mark.parametrize(("clusters", "half"), [(4, 2), (7, 3), (10, 5)])
def test_all_merges_make_one_of_each_half(clusters: int, half: int) -> None:
    found = simulate(replace(SMALL, merge=1.0, n=400, clusters=clusters), seed=1)
    assert set(found.label_x[found.label < half]) == {0}
    np.testing.assert_array_equal(found.label_x[found.label >= half], found.label[found.label >= half])
    assert set(found.label_y[found.label >= half]) == {half}
    np.testing.assert_array_equal(found.label_y[found.label < half], found.label[found.label < half])


def test_merges_happen_as_often_as_asked() -> None:
    merges = 0
    for seed in range(150):
        found = simulate(SimulationParameters(n=200, d1=1, d2=1), seed=seed)
        merges += 20 - len(set(found.label_x)) - len(set(found.label_y))
    assert merges / (150 * 8) == pytest.approx(0.7, abs=0.04)


def test_ceiling_by_hand() -> None:
    truth, seen = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 0, 2, 2])
    # pairs together: truth 3, seen 7, both 3, of 15: (3 - 1.4) / (5 - 1.4)
    assert ceiling(truth, seen) == pytest.approx(1.6 / 3.6)


def noise_free(seed: int) -> Simulation:
    clean = {"sigma1": 0.0, "sigma2": 0.0, "decay_coef_1": 1e6, "decay_coef_2": 0.0}
    return simulate(SimulationParameters(n=500, d1=300, d2=300, merge=1.0, **clean), seed=seed)


def test_noise_free_joint_sees_what_neither_modality_does() -> None:
    found = noise_free(1)
    with threadpool_limits(1):  # on busy cores the threads of small matrices wait for one another
        seen_x, seen_y = single(found.x, name="x").labels, single(found.y, name="y").labels
        joint = concat(found.x, found.y).labels
    for reached, seen in ((seen_x, found.label_x), (seen_y, found.label_y)):
        assert ceiling(found.label, seen) < 0.6
        assert adjusted_rand_score(found.label, reached) < ceiling(found.label, seen) + 0.02
        assert adjusted_rand_score(found.label, reached) > ceiling(found.label, seen) - 0.06  # and all of it
    assert ceiling(found.label, found.label_x * 10 + found.label_y) == 1
    assert adjusted_rand_score(found.label, joint) > 0.9


def test_noise_free_entries_are_lost_as_defined() -> None:
    found = noise_free(1)
    assert (found.y > 0).all()  # no decay: nothing is lost
    assert 0.4 < (found.x > 0).mean() < 0.6  # half of the projections are negative, nothing else is lost
    poor = simulate(SimulationParameters(decay_coef_2=0.3), seed=0)
    assert (poor.y == 0).mean() == pytest.approx(0.3, abs=0.005)
    assert (simulate(replace(SMALL, decay_coef_2=1.0), seed=0).y == 0).all()
    assert (simulate(replace(SMALL, decay_coef_1=0.0), seed=0).x == 0).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"merge": -0.1}, "merge"),
        ({"merge": 1.1}, "merge"),
        ({"merge": float("nan")}, "merge"),
        ({"clusters": 3}, "4 clusters"),
        ({"n": 49}, "49 cells"),
        ({"latent": 0}, "latent"),
        ({"d1": 0}, "d1"),
        ({"d2": 0}, "d2"),
        ({"sigma1": -1.0}, "sigma1"),
        ({"sigma2": float("inf")}, "sigma2"),
        ({"decay_coef_1": float("nan")}, "decay_coef_1"),
        ({"decay_coef_2": 1.01}, "decay_coef_2"),
    ],
)
def test_bad_parameters_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SimulationParameters(**change)


def test_bounds_are_allowed() -> None:
    simulate(SimulationParameters(n=20, clusters=4, d1=1, d2=1, latent=1, merge=1.0), seed=0)
    with pytest.raises(ValueError, match="non-negative"):
        simulate(SMALL, seed=-1)
