"""Matching of two masks against a plain double loop over objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from microsnoop.ops.match import Counts, match_objects, pool

Freeze = Callable[[NDArray], NDArray]
masks = st.tuples(
    arrays(np.uint8, (5, 7), elements=st.integers(0, 4)), arrays(np.int32, (5, 7), elements=st.integers(0, 4))
)


def overlaps(truth: NDArray, predicted: NDArray) -> dict[tuple[int, int], float]:
    """Intersection over union of every pair of objects, one pair after the other."""
    return {
        (int(a), int(b)): float(
            np.sum((truth == a) & (predicted == b)) / np.sum((truth == a) | (predicted == b))
        )
        for a in np.unique(truth[truth > 0])
        for b in np.unique(predicted[predicted > 0])
    }


def best_assignment(pairs: dict[tuple[int, int], float], iou: float) -> tuple[int, float]:
    """Most pairs, then largest sum of overlaps, by trying every permutation."""
    rows, cols = sorted({a for a, _ in pairs}), sorted({b for _, b in pairs})
    slots = [*cols, *([None] * len(rows))]
    best = (0, 0.0)
    for chosen in set(itertools.permutations(slots, len(rows))):
        kept = [pairs[a, b] for a, b in zip(rows, chosen, strict=True) if b is not None and pairs[a, b] > iou]
        best = max(best, (len(kept), round(sum(kept), 9)))
    return best


@settings(max_examples=150, deadline=None)
@given(masks, st.sampled_from([0.5, 0.6, 0.75, 0.9]))
def test_twin_above_one_half(pair: tuple[NDArray, NDArray], iou: float) -> None:
    truth, predicted = pair
    expected = {key: value for key, value in overlaps(truth, predicted).items() if value > iou}
    found = match_objects(truth, predicted, iou=iou)
    assert {tuple(p): v for p, v in zip(found.pairs.tolist(), found.ious.tolist(), strict=True)} == expected
    assert found.tp == len(expected)
    assert found.tp + found.fn == len(np.unique(truth[truth > 0]))
    assert found.tp + found.fp == len(np.unique(predicted[predicted > 0]))


@settings(max_examples=60, deadline=None)
@given(masks, st.sampled_from([0.0, 0.1, 0.3]))
def test_twin_below_one_half(pair: tuple[NDArray, NDArray], iou: float) -> None:
    truth, predicted = pair
    every = overlaps(truth, predicted)
    found = match_objects(truth, predicted, iou=iou)
    assert len(set(found.pairs[:, 0])) == len(set(found.pairs[:, 1])) == found.tp
    assert all(every[a, b] == v > iou for (a, b), v in zip(found.pairs.tolist(), found.ious, strict=True))
    count, total = best_assignment(every, iou)
    assert found.tp == count
    assert found.ious.sum() == pytest.approx(total)


def test_half_is_not_enough() -> None:
    truth, half = np.array([[1, 1, 0]]), np.array([[1, 2, 0]])
    assert match_objects(truth, half).tp == 0
    assert match_objects(truth, half, iou=0.49).tp == 1


def test_most_pairs_are_preferred_to_one_large_overlap() -> None:
    truth = np.array([[1] * 10 + [2] * 10])
    predicted = np.array(
        [[7] * 2 + [9] * 10 + [0] * 8]
    )  # 1 and 9 share 8 of 12, more than both pairs together
    assert match_objects(truth, predicted).pairs.tolist() == [[1, 9]]
    assert match_objects(truth, predicted, iou=0.1).pairs.tolist() == [[1, 7], [2, 9]]


def test_a_mask_matches_itself_under_other_numbers(rng: np.random.Generator, frozen: Freeze) -> None:
    truth = np.repeat(np.repeat(np.arange(48).reshape(6, 8), 16, axis=0), 16, axis=1)  # 96 × 128
    other = (rng.permutation(np.arange(1, 48)) * 1_000_003)[truth - 1] * (truth > 0)
    found = match_objects(frozen(truth), frozen(other))
    assert (found.tp, found.fp, found.fn, found.f1) == (47, 0, 0, 1.0)
    assert (found.ious == 1).all()
    np.testing.assert_array_equal(found.pairs[:, 0], np.arange(1, 48))


def test_ratios_and_pooling() -> None:
    first, second = Counts(3, 1, 0), Counts(0, 0, 4)
    assert (first.precision, first.recall, first.f1) == (0.75, 1.0, 6 / 7)
    assert pool([first, second]) == Counts(3, 1, 4)
    assert pool([first, second]).f1 == pytest.approx(6 / 11)
    assert pool([]) == Counts(0, 0, 0)


def test_empty_masks_have_no_score() -> None:
    empty, one = np.zeros((96, 128), np.uint8), np.ones((96, 128), np.uint8)
    nothing = match_objects(empty, empty)
    assert math.isnan(nothing.f1)
    assert math.isnan(nothing.precision)
    assert math.isnan(nothing.recall)
    assert nothing.pairs.shape == (0, 2)
    missed, invented = match_objects(one, empty), match_objects(empty, one)
    assert (missed.fn, missed.fp, missed.f1, missed.recall) == (1, 0, 0.0, 0.0)
    assert (invented.fn, invented.fp, invented.f1, invented.precision) == (0, 1, 0.0, 0.0)
    assert math.isnan(missed.precision)


@pytest.mark.parametrize(
    ("truth", "predicted", "iou", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), 0.5, "both masks must be"),
        (np.zeros(3, int), np.zeros(3, int), 0.5, "both masks must be"),
        (np.zeros((2, 3)), np.zeros((2, 3), int), 0.5, "must be integer"),
        (np.zeros((2, 3), int), np.full((2, 3), -1), 0.5, "negative labels"),
        (np.zeros((2, 3), int), np.zeros((2, 3), int), 1.0, "iou must lie"),
    ],
)
def test_masks_that_are_refused(truth: NDArray, predicted: NDArray, iou: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_objects(truth, predicted, iou=iou)
