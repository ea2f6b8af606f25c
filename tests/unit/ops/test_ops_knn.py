"""Nearest neighbours against loops over all pairs; ties, duplicates, groups, and votes made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.ops import knn
from microsnoop.ops.knn import Neighbours, choose_k, count_duplicates, nearest, vote

Freeze = Callable[[NDArray], NDArray]


def data(seed: int, n: int = 90, dim: int = 5) -> tuple[NDArray, NDArray]:
    """Vectors with exact duplicates, scaled copies and many ties (small integers), and labels."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (n, dim)).astype(np.float32)
    vectors[~vectors.any(axis=1), 0] = 1
    vectors[n // 2 :: 7] = vectors[: len(vectors[n // 2 :: 7])] * 3
    return vectors, rng.integers(0, 4, n)


def naive_nearest(queries: NDArray, candidates: NDArray, k: int, allowed: NDArray) -> list[list[int]]:
    """Each query by itself: cosine to each allowed candidate, sorted by similarity, then by position."""
    found = []
    for q, query in enumerate(queries.astype(float)):
        pairs = []
        for c, candidate in enumerate(candidates.astype(float)):
            if allowed[q, c]:
                cosine = float(query @ candidate) / float(np.linalg.norm(query) * np.linalg.norm(candidate))
                pairs.append((-round(cosine, 10), c))
        found.append([c for _, c in sorted(pairs)[:k]])
    return found


def naive_vote(labels: list[int], distances: list[float]) -> int:
    counts = Counter(labels)
    tied = [label for label, n in counts.items() if n == max(counts.values())]
    summed = {t: round(sum(d for x, d in zip(labels, distances, strict=True) if x == t), 10) for t in tied}
    closest = [t for t in tied if summed[t] == min(summed.values())]
    return next(label for label in labels if label in closest)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [1, 3, 11])
def test_neighbours_and_votes_equal_loops(seed: int, k: int, frozen: Freeze) -> None:
    vectors, labels = map(frozen, data(seed))
    ids = np.arange(len(vectors))
    found = nearest(vectors, vectors, k=k, query_groups=ids, candidate_groups=ids)
    expected = naive_nearest(vectors, vectors, k, ids[:, None] != ids[None, :])
    assert found.index.tolist() == expected
    predicted = vote(found, labels, n_classes=4)
    for row in range(len(vectors)):
        near = expected[row]
        distances = [1 - found.similarity[row, rank] for rank in range(k)]
        assert predicted[row] == naive_vote(labels[near].tolist(), distances)


@pytest.mark.parametrize("block_bytes", [1, 1000, 2**26])
def test_blocks_do_not_matter(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = data(1)
    whole = nearest(vectors[:40], vectors[40:], k=5)
    monkeypatch.setattr(knn, "_BLOCK_BYTES", block_bytes)
    parts = nearest(vectors[:40], vectors[40:], k=5)
    np.testing.assert_array_equal(whole.index, parts.index)
    np.testing.assert_array_equal(whole.similarity, parts.similarity)


def test_no_neighbour_of_the_own_group(rng: np.random.Generator) -> None:
    vectors, groups = rng.normal(size=(60, 4)), rng.integers(0, 6, 60)
    found = nearest(vectors, vectors, k=7, query_groups=groups, candidate_groups=groups)
    assert not (groups[found.index] == groups[:, None]).any()
    assert found.index.tolist() == naive_nearest(vectors, vectors, 7, groups[:, None] != groups[None, :])


def test_duplicates_under_another_number_stay_in() -> None:
    vectors = np.array([[1.0, 0], [2, 0], [0, 1], [1, 1]])
    ids = np.arange(4)
    found = nearest(vectors, vectors, k=1, query_groups=ids, candidate_groups=ids)
    assert found.index[:2, 0].tolist() == [1, 0]
    assert count_duplicates(found) == 2


def test_differences_below_float32_decide_and_equal_ones_go_to_the_lowest_index() -> None:
    angles = np.array([1e-4, 0.9e-4, 1e-4, 0.9e-4, 2e-4])  # cosines differ by 1e-9: float32 sees one number
    candidates = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = nearest(np.array([[1.0, 0.0]]), candidates, k=4)
    assert found.index.tolist() == [[1, 3, 0, 2]]


def test_more_ties_than_spare_candidates_still_go_to_the_lowest_index() -> None:
    candidates = np.ones((500, 3), np.float32)
    candidates[:100, 0] = -1
    assert nearest(np.ones((2, 3)), candidates, k=3).index.tolist() == [[100, 101, 102]] * 2


def test_all_others_as_neighbours_give_the_majority(rng: np.random.Generator) -> None:
    vectors, labels, ids = rng.normal(size=(21, 3)), np.array([0] * 12 + [1] * 9), np.arange(21)
    found = nearest(vectors, vectors, k=20, query_groups=ids, candidate_groups=ids)
    assert (vote(found, labels, n_classes=2) == 0).all()


def test_row_order_and_lengths_do_not_matter(rng: np.random.Generator) -> None:
    vectors, labels = rng.normal(size=(80, 6)), rng.integers(0, 3, 80)
    ids, order = np.arange(80), rng.permutation(80)

    def predict(x: NDArray, y: NDArray) -> NDArray:
        return vote(nearest(x, x, k=5, query_groups=ids, candidate_groups=ids), y, n_classes=3)

    plain = predict(vectors, labels)
    np.testing.assert_array_equal(predict(vectors[order], labels[order]), plain[order])
    np.testing.assert_array_equal(predict(vectors * rng.uniform(0.01, 99, (80, 1)), labels), plain)


@pytest.mark.parametrize(
    ("labels", "similarity", "answer"),
    [
        ([0, 1, 1], [0.9, 0.5, 0.4], 1),  # the most frequent
        ([0, 1, 1, 0], [0.9, 0.8, 0.7, 0.5], 1),  # a tie: summed distances 0.6 and 0.5
        ([1, 0, 0, 1], [0.9, 0.8, 0.7, 0.6], 1),  # summed distances equal: the nearest
        ([2, 1, 0], [0.9, 0.8, 0.7], 2),  # all differ: the nearest
    ],
)
def test_votes_made_by_hand(labels: list[int], similarity: list[float], answer: int) -> None:
    found = Neighbours(np.arange(len(labels))[None], np.array([similarity]))
    assert vote(found, np.array(labels), n_classes=3).tolist() == [answer]


def test_fewer_neighbours_than_found_may_vote() -> None:
    found = Neighbours(np.array([[0, 1, 2]]), np.array([[0.9, 0.5, 0.4]]))
    assert vote(found, np.array([0, 1, 1]), n_classes=2, k=1).tolist() == [0]


def test_k_is_chosen_by_leave_one_out(rng: np.random.Generator) -> None:
    # every third label is wrong: one neighbour is often fooled, many are not
    vectors = np.repeat([[1.0, 0], [0, 1]], 45, axis=0) + 0.1 * rng.normal(size=(90, 2))
    labels = np.repeat([0, 1], 45)
    labels[::3] = 1 - labels[::3]
    ids = np.arange(90)
    hits = {}
    for k in (1, 3, 5, 11, 21):
        found = nearest(vectors, vectors, k=k, query_groups=ids, candidate_groups=ids)
        hits[k] = int((vote(found, labels, n_classes=2) == labels).sum())
    chosen = choose_k(vectors, labels, ids, n_classes=2)
    assert hits[chosen] == max(hits.values()) > hits[1]
    assert chosen == min(k for k in hits if hits[k] == hits[chosen])
    assert choose_k(vectors[:4], labels[:4], ids[:4], n_classes=2) in (1, 3)


def test_what_cannot_be_compared_is_refused() -> None:
    good = np.eye(4)
    bad = good.copy()
    bad[2] = 0
    with pytest.raises(ValueError, match=r"1 of the candidates .* rows \[2\]"):
        nearest(good, bad, k=1)
    bad[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"2 of the queries .* rows \[1, 2\]"):
        nearest(bad, good, k=1)
    with pytest.raises(ValueError, match="too_few_neighbours: k = 5 asked, but only 4"):
        nearest(good, good, k=5)
    groups = np.array([0, 0, 0, 1])
    with pytest.raises(ValueError, match="too_few_neighbours: k = 2 asked, but only 1"):
        nearest(good, good, k=2, query_groups=groups, candidate_groups=groups)
    with pytest.raises(ValueError, match="both"):
        nearest(good, good, k=1, query_groups=groups)
