"""What clusters are worth without any label from outside, and whether image features are standardised for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import JointError
from microsnoop.core.muse_config import MuseParameters
from microsnoop_integrations.muse import image_scaling
from microsnoop_integrations.muse import replicability as module
from microsnoop_integrations.muse.image_scaling import reduce_images
from microsnoop_integrations.muse.replicability import gates, replicability

Freeze = Callable[[NDArray], NDArray]


def clouds(n: int = 200, *, apart: float, seed: int = 0, d: int = 6) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = apart * rng.normal(size=(4, d))
    return (centres[rng.integers(0, 4, n)] + rng.normal(size=(n, d))).astype(np.float32)


def test_separate_clusters_are_found_again_and_noise_is_not(frozen: Freeze) -> None:
    found = [replicability(frozen(clouds(apart=apart)), k=10) for apart in (0.0, 2.0, 9.0)]
    assert found[0] < 0.2
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.95


def test_order_of_noise_does_not_look_like_clusters() -> None:
    # both halves are clustered alike here, were they not dealt at random
    rising = np.concatenate([clouds(100, apart=0.0, seed=s) for s in (1, 2)])
    assert replicability(rising, k=10) < 0.2


def test_seeds_reproduce() -> None:
    scores = clouds(apart=1.5)
    assert replicability(scores, k=8, seed=3) == replicability(scores, k=8, seed=3)
    assert len({replicability(scores, k=8, seed=seed) for seed in range(4)}) > 1


def test_only_a_sample_of_many_cells_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, dict[str, Any]]] = []

    def clustered(values: NDArray, **settings: Any) -> NDArray[np.int64]:
        seen.append((len(values), settings))
        return np.arange(len(values)) % 3

    monkeypatch.setattr(module, "cluster", clustered)
    monkeypatch.setattr(module, "SAMPLE", 90)
    replicability(clouds(400, apart=1.0), k=30, resolution=0.4, method="louvain", seed=5, repeats=2)
    assert [size for size, _ in seen] == [45] * 4
    # a third of a half, so that few cells can be halved too
    assert all(s == {"k": 15, "resolution": 0.4, "method": "louvain", "seed": 5} for _, s in seen)


def test_labels_are_carried_over_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = clouds(120, apart=30.0)
    ordered = np.sort(scores[:, 0])
    widest = int(np.diff(ordered).argmax())
    middle = ordered[widest : widest + 2].mean()

    def clustered(values: NDArray, **_: Any) -> NDArray[np.int64]:
        # by the side of one axis, named differently each time: names must not count
        clustered.flip ^= 1  # type: ignore[attr-defined]
        return (values[:, 0] > middle).astype(np.int64) ^ clustered.flip  # type: ignore[attr-defined]

    clustered.flip = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "cluster", clustered)
    assert replicability(scores, k=10) > 0.9


def test_weights_grow_with_what_is_found() -> None:
    weights = [gates([1.0, value])[1] for value in np.linspace(0, 1, 21)]
    assert weights == sorted(weights)
    assert weights[0] == 0
    assert weights[-1] == 1
    assert all(0 <= w <= 1 for w in weights)
    assert gates([0.3, 0.8]) == gates([0.8, 0.3])[::-1]
    # less than nothing is nothing
    assert gates([0.9, -0.01]) == [1.0, 0.0]
    assert len(gates([0.5, 0.6, 0.7])) == 3


def test_where_nothing_is_found_all_count_the_same() -> None:
    assert gates([0.0, 0.0]) == [1.0, 1.0]
    assert gates([0.01, -0.02, 0.0]) == [1.0] * 3


# --- scaling of image features ---------------------------------------------------------------------


def parameters(**changes: Any) -> MuseParameters:
    return MuseParameters(**{"k": 10, "image_components": 5, **changes})


def test_a_loud_feature_of_noise_is_scaled_down(frozen: Freeze) -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([clouds(apart=5.0), 300 * rng.normal(size=(200, 8))], axis=1)
    assert (reduce_images(frozen(y), None, parameters()).sd != 1).all()
    # asked for, it is done or not without looking
    assert (reduce_images(y, None, parameters(image_standardise="no")).sd == 1).all()


def test_small_noise_beside_what_matters_is_not_blown_up() -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([clouds(apart=5.0), 0.01 * rng.normal(size=(200, 60))], axis=1)
    assert (reduce_images(y, None, parameters()).sd == 1).all()
    assert (reduce_images(y, None, parameters(image_standardise="yes")).sd != 1).all()


def test_where_it_makes_no_difference_features_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_scaling, "replicability", lambda *_, **__: 0.5)
    assert (reduce_images(clouds(apart=1.0), None, parameters()).sd == 1).all()


@pytest.mark.parametrize("standardise", ["auto", "yes", "no"])
def test_constant_features_weigh_nothing(standardise: str) -> None:
    y = clouds(apart=4.0)
    y[:, 2] = 7.5
    names = tuple("abcdef")
    reduction = reduce_images(y, names, parameters(image_standardise=standardise))
    assert reduction.features == names
    assert not reduction.axes[2].any()
    reduced = reduction.transform(y)
    assert np.isfinite(reduced).all()
    assert float(reduced.var(axis=0).mean()) == pytest.approx(1.0, rel=1e-4)


def test_features_that_are_the_same_in_all_cells_are_refused() -> None:
    with pytest.raises(JointError) as error:
        reduce_images(np.tile(np.arange(4.0, dtype=np.float32), (70, 1)), None, parameters())
    assert error.value.code == "no_variance"
