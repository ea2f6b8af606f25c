"""Boxes of a label mask, against one pass over the whole mask for each label."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from microsnoop.ops.geometry import Box
from microsnoop.ops.objects import boxes_from_mask

PROPERTY = settings(deadline=None, derandomize=True, max_examples=150)
Freeze = Callable[[NDArray], NDArray]


def naive_boxes(mask: NDArray[Any]) -> dict[int, Box]:
    found = {}
    for label in sorted(set(mask.ravel().tolist()) - {0}):
        ys, xs = np.nonzero(mask == label)
        y0, x0 = int(ys.min()), int(xs.min())
        found[label] = Box(y0, x0, int(ys.max()) - y0 + 1, int(xs.max()) - x0 + 1)
    return found


@PROPERTY
@given(
    hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.sampled_from([0, 0, 0, 1, 2, 5, 100, 101]),
    )
)
def test_boxes_equal_a_pass_for_each_label(mask: NDArray) -> None:
    mask.flags.writeable = False
    found = boxes_from_mask(mask)
    assert found == naive_boxes(mask)
    assert list(found) == sorted(found)


def test_boxes_of_a_field_of_many_cells(frozen: Freeze, rng: np.random.Generator) -> None:
    mask = np.zeros((96, 128), np.int32)
    for label in rng.permutation(np.arange(1, 400, 7)):
        y, x = rng.integers(0, 90), rng.integers(0, 120)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 12)] = label
    assert boxes_from_mask(frozen(mask)) == naive_boxes(mask)


def test_a_10_by_10_object_has_100_pixels(frozen: Freeze) -> None:
    # spec 10 and 15: the published code loses the last row and column and gives 81
    mask = np.zeros((96, 128), np.uint16)
    mask[30:40, 50:60] = 3
    (box,) = boxes_from_mask(frozen(mask)).values()
    assert box == Box(30, 50, 10, 10)
    assert box.height_px * box.width_px == 100


def test_an_object_in_pieces_is_one_object(frozen: Freeze) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[5, 7] = mask[90, 120] = 4
    assert boxes_from_mask(frozen(mask)) == {4: Box(5, 7, 86, 114)}


def test_objects_on_all_four_sides(frozen: Freeze) -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[0, 60], mask[95, 60], mask[50, 0], mask[50, 127] = 1, 2, 3, 4
    assert boxes_from_mask(frozen(mask)) == {
        1: Box(0, 60, 1, 1),
        2: Box(95, 60, 1, 1),
        3: Box(50, 0, 1, 1),
        4: Box(50, 127, 1, 1),
    }


@pytest.mark.parametrize("shape", [(96, 128), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_a_mask_without_objects_has_no_boxes(shape: tuple[int, int], dtype: Any) -> None:
    assert boxes_from_mask(np.zeros(shape, dtype)) == {}


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_a_mask_without_pixels_has_no_boxes(shape: tuple[int, int]) -> None:
    assert boxes_from_mask(np.zeros(shape, np.uint8)) == {}


def test_boxes_hold_plain_numbers(frozen: Freeze) -> None:
    mask = np.zeros((96, 128), np.uint16)
    mask[3:5, 7] = 2
    ((label, box),) = boxes_from_mask(frozen(mask)).items()
    assert [type(v) for v in (label, box.y0_px, box.x0_px, box.height_px, box.width_px)] == [int] * 5


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((96, 128), np.float32),
        np.zeros((96, 128), bool),
        np.zeros((1, 96, 128), np.uint8),
        np.zeros(96, np.uint8),
    ],
    ids=["float", "bool", "three axes", "one axis"],
)
def test_what_is_no_label_mask_is_refused(mask: NDArray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W\) and integer"):
        boxes_from_mask(mask)


def test_negative_labels_are_refused() -> None:
    mask = np.zeros((96, 128), np.int16)
    mask[5, 6] = -3
    with pytest.raises(ValueError, match="negative labels, got -3"):
        boxes_from_mask(mask)


def test_memory_depends_on_the_mask_not_on_the_largest_label() -> None:
    mask = np.zeros((96, 128), np.uint32)
    mask[5, 6] = 500_000
    tracemalloc.start()
    try:
        boxes_from_mask(mask)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_no_object_of_an_unsigned_mask_is_lost() -> None:
    mask = np.zeros((96, 128), np.uint64)
    mask[5, 6] = 2**63 + 5
    try:
        found = boxes_from_mask(mask)
    except ValueError:
        return
    assert found == {2**63 + 5: Box(5, 6, 1, 1)}
