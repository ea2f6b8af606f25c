"""Folds, classifiers and chance: nothing leaks, nothing is drawn twice, planted leaks are found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from microsnoop.ops.classify import (
    chance_folds,
    knn_folds,
    knn_left_out,
    make_folds,
    probe_folds,
    rare_classes,
    standardise,
)
from microsnoop.ops.knn import nearest, vote

Freeze = Callable[[NDArray], NDArray]


@pytest.fixture
def noise(rng: np.random.Generator, frozen: Freeze) -> tuple[NDArray, NDArray, NDArray]:
    """Vectors that know nothing of their labels; groups of eight."""
    return (
        frozen(rng.normal(size=(240, 12)).astype(np.float32)),
        frozen(rng.integers(0, 3, 240)),
        frozen(np.arange(240) // 8),
    )


def test_folds_hold_whole_groups_and_all_rows(noise: tuple[NDArray, ...]) -> None:
    _, labels, groups = noise
    fold = make_folds(labels, groups, folds=5, seed=0)
    assert sorted(np.unique(fold)) == [0, 1, 2, 3, 4]
    assert all(len(np.unique(fold[groups == g])) == 1 for g in np.unique(groups))
    alone = make_folds(labels, None, folds=5, seed=0)
    for label in range(3):
        sizes = [int(((alone == f) & (labels == label)).sum()) for f in range(5)]
        assert max(sizes) - min(sizes) <= 1
    assert (make_folds(labels, None, folds=5, seed=1) != alone).any()
    np.testing.assert_array_equal(make_folds(labels, None, folds=5, seed=0), alone)


def test_folds_that_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="two classes"):
        make_folds(np.zeros(10, int), None, folds=5, seed=0)
    with pytest.raises(ValueError, match="5 folds need at least 5 groups, got 4"):
        make_folds(np.arange(8) % 2, np.arange(8) % 4, folds=5, seed=0)


def test_rare_classes_are_named() -> None:
    labels = np.array([0] * 20 + [1] * 3 + [2])
    fold = make_folds(labels, None, folds=5, seed=0)
    assert rare_classes(labels, fold) == ([1, 2], [2])


def test_a_planted_leak_raises_the_score_and_the_null_stays_at_chance(noise: tuple[NDArray, ...]) -> None:
    vectors, labels, _ = noise
    fold = make_folds(labels, None, folds=5, seed=0)
    leaking = np.concatenate([vectors, 8.0 * np.eye(3)[labels]], axis=1)
    for predict in (
        lambda x: knn_folds(x, labels, fold=fold, n_classes=3).classes,
        lambda x: knn_left_out(x, labels, n_classes=3).classes,
        lambda x: probe_folds(x, labels, fold=fold).classes,
    ):
        assert np.mean(predict(vectors) == labels) < 0.45
        assert np.mean(predict(leaking) == labels) > 0.95
    null = knn_left_out(leaking, labels, n_classes=3, permutations=100).null
    assert null is not None
    assert null.mean == pytest.approx(1 / 3, abs=0.04)
    assert null.p < 0.01


def test_groups_that_know_themselves_do_not_help(rng: np.random.Generator) -> None:
    groups = np.repeat(np.arange(40), 6)
    labels = rng.permutation(np.arange(40) % 2)[groups]
    vectors = rng.normal(size=(40, 24))[groups] + 0.01 * rng.normal(size=(240, 24))
    fold = make_folds(labels, groups, folds=5, seed=0)
    open_fold = make_folds(labels, None, folds=5, seed=0)
    assert np.mean(knn_folds(vectors, labels, fold=open_fold, n_classes=2).classes == labels) == 1
    assert np.mean(knn_left_out(vectors, labels, n_classes=2).classes == labels) == 1
    honest = knn_folds(vectors, labels, fold=fold, n_classes=2, groups=groups)
    assert np.mean(honest.classes == labels) < 0.75
    assert np.mean(knn_left_out(vectors, labels, n_classes=2, groups=groups).classes == labels) < 0.75


def test_folds_are_predicted_from_the_others_alone(noise: tuple[NDArray, ...]) -> None:
    vectors, labels, _ = noise
    fold = make_folds(labels, None, folds=5, seed=0)
    found = knn_folds(vectors, labels, fold=fold, n_classes=3, k=3)
    assert found.neighbours == (3,) * 5
    for f in range(5):
        near = nearest(vectors[fold == f], vectors[fold != f], k=3)
        expected = vote(near, labels[fold != f], n_classes=3)
        np.testing.assert_array_equal(found.classes[fold == f], expected)


def test_the_probe_is_scikit_learns_pipeline(noise: tuple[NDArray, ...]) -> None:
    vectors, labels, _ = noise
    vectors = vectors + 0.7 * np.eye(12)[labels]
    fold = make_folds(labels, None, folds=4, seed=0)
    found = probe_folds(vectors, labels, fold=fold)
    for f in range(4):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        model.fit(vectors[fold != f], labels[fold != f])
        np.testing.assert_array_equal(found.classes[fold == f], model.predict(vectors[fold == f]))
    assert found.notes == ()


def test_a_probe_that_does_not_converge_says_so(
    noise: tuple[NDArray, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, labels, _ = noise
    from microsnoop.ops import classify

    monkeypatch.setattr(
        classify, "LogisticRegression", lambda C, max_iter: LogisticRegression(C=C, max_iter=1)
    )
    found = probe_folds(vectors, labels, fold=make_folds(labels, None, folds=5, seed=0))
    assert found.notes == ("the probe did not converge in 5 fold(s)",)


def test_standardising_looks_at_the_training_part_and_drops_constants() -> None:
    train = np.array([[1.0, 5, 0.1], [3, 5, 0.1]], np.float32)
    a, b = standardise(train, np.array([[5.0, 7, 0.2]], np.float32))
    np.testing.assert_allclose(a, [[-1], [1]])
    np.testing.assert_allclose(b, [[3]])


def test_scaled_features_do_not_depend_on_their_units(rng: np.random.Generator) -> None:
    labels = np.arange(120) % 3
    vectors = rng.normal(size=(120, 6)) + np.eye(6)[labels]
    units = vectors * np.array([1, 1e4, 1e-4, 1, 1, 1]) + 100
    fold = make_folds(labels, None, folds=5, seed=0)
    first, second = (
        knn_folds(x, labels, fold=fold, n_classes=3, scaled=True).classes for x in (vectors, units)
    )
    np.testing.assert_array_equal(first, second)
    flat = np.concatenate([vectors, np.full((120, 2), 7.0)], axis=1)
    left_out = knn_left_out(flat, labels, n_classes=3, scaled=True)
    np.testing.assert_array_equal(
        left_out.classes, knn_left_out(vectors, labels, n_classes=3, scaled=True).classes
    )
    assert left_out.notes == ("2 constant features left out",)


def test_left_out_uses_the_published_k_and_counts_rows_that_cannot_win(rng: np.random.Generator) -> None:
    labels = np.arange(999) % 3
    vectors = rng.normal(size=(1000, 4))
    assert knn_left_out(vectors[:999], labels, n_classes=3).neighbours == (1,)
    found = knn_left_out(vectors, np.append(labels, 3), n_classes=4)
    assert found.neighbours == (11,)
    others = 100 * np.mean(found.classes[:999] == labels)
    assert found.notes == (
        f"1 rows can never be right (their class has no other group); accuracy of the others {others:.1f} %",
    )
    assert found.null is None


def test_chance_looks_at_nothing_but_frequencies() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    fold = make_folds(labels, None, folds=5, seed=0)
    majority = chance_folds(labels, fold=fold, strategy="most_frequent", seed=0).classes
    assert (majority == 0).all()
    even = np.arange(60) % 3  # balanced: the answer is still right for one row in three
    whole = chance_folds(even, fold=make_folds(even, None, folds=5, seed=0), strategy="most_frequent", seed=0)
    assert np.mean(whole.classes == even) == pytest.approx(1 / 3)
    drawn = chance_folds(labels, fold=fold, strategy="stratified", seed=0).classes
    np.testing.assert_allclose(np.bincount(drawn) / 1000, [0.6, 0.3, 0.1], atol=0.05)
    assert np.mean(drawn == labels) == pytest.approx(0.6**2 + 0.3**2 + 0.1**2, abs=0.06)
