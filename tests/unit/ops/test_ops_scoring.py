"""The kNN score against brute force; no group on both sides of a fold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from microsnoop.ops import classify
from microsnoop.ops.knn import Neighbours
from microsnoop.ops.scoring import KnnScore, knn_score

Freeze = Callable[[NDArray], NDArray]


def data(seed: int = 0, *, n_groups: int = 17, classes: int = 3) -> tuple[NDArray, NDArray, NDArray]:
    """Groups of uneven size, labels of uneven frequency, vectors that know a little of their label."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(3, 12, n_groups))
    labels = rng.choice(classes, len(groups), p=[0.5, 0.3, 0.2][:classes] if classes == 3 else None)
    vectors = rng.normal(size=(len(groups), 8)) + 0.8 * np.eye(8)[labels]
    vectors *= rng.uniform(0.2, 5, (len(groups), 1))  # lengths must not matter
    return vectors.astype(np.float32), labels, groups


def naive_score(
    vectors: NDArray, labels: NDArray, groups: NDArray, *, k: int, folds: int, seed: int
) -> dict[str, float]:
    """One row after the other: majority of the k nearest; of tied labels the one with the smaller distances."""
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    unit = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    predicted: dict[int, Any] = {}
    accuracies = []
    for train, test in splitter.split(vectors, labels, groups):
        hits = 0
        for i in test:
            nearest = sorted(train, key=lambda j, i=i: -float(unit[i] @ unit[j]))[:k]
            votes = Counter(labels[nearest].tolist())
            tied = [label for label, n in votes.items() if n == max(votes.values())]
            best = min(
                tied,
                key=lambda label, i=i, nearest=nearest: sum(
                    1 - float(unit[i] @ unit[j]) for j in nearest if labels[j] == label
                ),
            )
            predicted[int(i)] = best
            hits += best == labels[i]
        accuracies.append(hits / len(test))
    recalls = []
    for label in sorted(set(labels.tolist())):
        members = [i for i in range(len(labels)) if labels[i] == label]
        recalls.append(sum(predicted[i] == label for i in members) / len(members))
    mean = sum(accuracies) / folds
    return {
        "accuracy": mean,
        "accuracy_sd": (sum((a - mean) ** 2 for a in accuracies) / (folds - 1)) ** 0.5,
        "balanced_accuracy": sum(recalls) / len(recalls),
        "chance": max(Counter(labels.tolist()).values()) / len(labels),
        "chance_balanced": 1 / len(set(labels.tolist())),
        "n": len(labels),
        "k": k,
        "folds": folds,
    }


@pytest.mark.parametrize(("k", "folds", "seed"), [(5, 5, 0), (1, 5, 0), (4, 3, 1), (7, 2, 2), (5, 5, 3)])
def test_score_equals_brute_force(k: int, folds: int, seed: int, frozen: Freeze) -> None:
    vectors, labels, groups = map(frozen, data(seed))
    found = knn_score(vectors, labels, groups, k=k, folds=folds, seed=seed)
    for name, value in naive_score(vectors, labels, groups, k=k, folds=folds, seed=seed).items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-12), name


def test_defaults_are_five_neighbours_five_folds_seed_0() -> None:
    vectors, labels, groups = data()
    assert knn_score(vectors, labels, groups) == knn_score(vectors, labels, groups, k=5, folds=5, seed=0)


@pytest.mark.parametrize("dtype", [str, object])
def test_labels_and_groups_may_be_words(dtype: type) -> None:
    vectors, labels, groups = data()
    words, names = (np.array([f"{kind:02d}" for kind in column], dtype) for column in (labels, groups))
    assert knn_score(vectors, words, names) == knn_score(vectors, labels, groups)


def test_no_group_is_on_both_sides_and_every_row_is_predicted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, labels, groups = data()
    # column 0 is the group, column 1 the row: the search cannot help giving away what it was shown
    vectors = np.stack([groups + 1, np.arange(len(groups)) + 1], axis=1).astype(np.float32)
    searched: list[set[float]] = []
    rows: list[float] = []
    search = classify.nearest

    def spy(queries: NDArray, candidates: NDArray, *, k: int) -> Neighbours:
        searched.append(set(candidates[:, 0].tolist()))
        tested = set(queries[:, 0].tolist())
        assert not tested & searched[-1]
        assert tested | searched[-1] == {float(g + 1) for g in groups}
        rows.extend(queries[:, 1].tolist())
        return search(queries, candidates, k=k)

    monkeypatch.setattr(classify, "nearest", spy)
    knn_score(vectors, labels, groups)
    assert len(searched) == 5
    assert sorted(rows) == [float(i + 1) for i in range(len(groups))]


def test_groups_that_know_themselves_do_not_help(rng: np.random.Generator) -> None:
    # 40 groups, each a tight bundle in its own direction, labels drawn by group: with a group on both sides
    # every answer is right; without, there is nothing to learn
    directions = rng.normal(size=(40, 32))
    groups = np.repeat(np.arange(40), 8)
    labels = rng.permutation(np.arange(40) % 2)[groups]
    vectors = (directions[groups] + 0.01 * rng.normal(size=(320, 32))).astype(np.float32)
    honest = knn_score(vectors, labels, groups)
    leaking = knn_score(vectors, labels, np.arange(320))
    assert leaking.accuracy == 1
    assert honest.accuracy < 0.75
    assert honest.chance == 0.5


def test_separable_classes_score_1_and_random_vectors_about_chance(rng: np.random.Generator) -> None:
    labels = np.arange(400) % 4
    groups = np.arange(400) // 8
    good = np.eye(4)[labels] + 0.05 * rng.normal(size=(400, 4))
    score = knn_score(good.astype(np.float32), labels, groups)
    assert score == KnnScore(1.0, 0.0, 1.0, 0.25, 0.25, 400, 5, 5)
    noise = knn_score(rng.normal(size=(400, 16)).astype(np.float32), labels, groups)
    assert abs(noise.accuracy - 0.25) < 0.1
    assert abs(noise.balanced_accuracy - 0.25) < 0.1


def test_the_angle_counts_not_the_length(rng: np.random.Generator) -> None:
    vectors, labels, groups = data()
    scaled = vectors * rng.uniform(0.01, 100, (len(vectors), 1)).astype(np.float32)
    assert knn_score(scaled, labels, groups) == knn_score(vectors, labels, groups)


def test_a_rare_class_counts_fully_in_balanced_accuracy(rng: np.random.Generator) -> None:
    # vectors are noise around one direction: nearly all answers are the frequent label
    labels = (np.arange(300) % 10 == 0).astype(int)
    vectors = (rng.normal(size=(300, 16))).astype(np.float32)
    score = knn_score(vectors, labels, np.arange(300) // 5)
    assert score.chance == 0.9
    assert score.chance_balanced == 0.5
    assert score.accuracy > 0.85
    assert score.balanced_accuracy < 0.6


def test_the_seed_chooses_the_folds() -> None:
    vectors, labels, groups = data()
    scores = {knn_score(vectors, labels, groups, seed=seed).accuracy for seed in range(4)}
    assert len(scores) > 1
    assert knn_score(vectors, labels, groups, seed=2) == knn_score(vectors, labels, groups, seed=2)


def test_one_label_is_refused() -> None:
    vectors, labels, groups = data()
    with pytest.raises(ValueError, match=r"at least two labels, got only \[0\]"):
        knn_score(vectors, np.zeros_like(labels), groups)


def test_too_few_groups_are_refused() -> None:
    vectors, labels, groups = data()
    with pytest.raises(ValueError, match="5 folds need at least 5 groups, got 4"):
        knn_score(vectors, labels, groups % 4)
    knn_score(vectors, labels, groups % 5)


def test_too_many_neighbours_are_refused() -> None:
    vectors, labels, groups = data()
    with pytest.raises(ValueError, match=r"k = 1000 asked, but only \d+ candidates"):
        knn_score(vectors, labels, groups, k=1000)


def test_vectors_without_a_number_are_refused() -> None:
    vectors, labels, groups = data()
    vectors[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        knn_score(vectors, labels, groups)
