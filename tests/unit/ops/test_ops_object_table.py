"""The table of a mask's objects: against a pass for each label, against scikit-image, and strips against the whole."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.measure import label as skimage_label
from skimage.measure import regionprops

from microsnoop.ops.objects import ObjectTable, merge_tables, object_table, relabelled

PROPERTY = settings(deadline=None, derandomize=True, max_examples=200)
Freeze = Callable[[NDArray], NDArray]
COLUMNS = [field.name for field in fields(ObjectTable)]

masks = hnp.arrays(
    st.sampled_from([np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64]),
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([0, 0, 1, 2, 100]),
).map(lambda mask: np.where(mask == 100, 2**31 - 1, mask) if mask.dtype.itemsize > 2 else mask)


def rows_of(table: ObjectTable) -> list[tuple[float, ...]]:
    return list(zip(*(getattr(table, name).tolist() for name in COLUMNS), strict=True))


def naive_rows(mask: NDArray[Any]) -> list[tuple[float, ...]]:
    """One pass over the whole mask for each label; pieces by flood fill."""
    height, width = mask.shape
    found = []
    for label in sorted(set(mask.ravel().tolist()) - {0}):
        ys, xs = np.nonzero(mask == label)
        pixels = set(zip(ys.tolist(), xs.tolist(), strict=True))
        border = sum(y in (0, height - 1) or x in (0, width - 1) for y, x in pixels)
        box = (min(ys), min(xs), max(ys) + 1, max(xs) + 1)
        found.append(
            (label, *map(int, box), len(pixels), float(ys.sum()), float(xs.sum()), flood(pixels), border)
        )
    return found  # fmt: skip


def flood(pixels: set[tuple[int, int]]) -> int:
    left, n_pieces = set(pixels), 0
    while left:
        n_pieces += 1
        edge = [left.pop()]
        while edge:
            y, x = edge.pop()
            touching = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= touching
            edge += touching
    return n_pieces


def field_of_cells(rng: np.random.Generator, *, shape: tuple[int, int] = (96, 128)) -> NDArray[np.int32]:
    mask = np.zeros(shape, np.int32)
    for label in rng.choice(2**31 - 1, 60, replace=False) + 1:
        y, x = rng.integers(0, shape[0] - 4), rng.integers(0, shape[1] - 4)
        mask[y : y + rng.integers(1, 12), x : x + rng.integers(1, 15)] = label
    mask[:, 30::40] = 7  # one object in pieces, which cuts others in two
    return mask


# ---------------------------------------------------------------- one mask


@PROPERTY
@given(masks)
def test_table_equals_a_pass_for_each_label(mask: NDArray) -> None:
    mask.flags.writeable = False
    assert rows_of(object_table(mask)) == naive_rows(mask)


@PROPERTY
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 1))
)
def test_pieces_equal_a_flood_fill_on_tangled_shapes(mask: NDArray) -> None:
    assert [row[8] for row in rows_of(object_table(mask))] == [row[8] for row in naive_rows(mask)]


def test_table_equals_scikit_image(frozen: Freeze, rng: np.random.Generator) -> None:
    mask = frozen(field_of_cells(rng))
    table = object_table(mask)
    # regionprops keeps a list as long as the largest label: number them anew
    _, small = np.unique(mask, return_inverse=True)
    expected = regionprops(small.reshape(mask.shape))
    assert len(table) == len(expected) > 40
    for i, region in enumerate(expected):
        box = (table.y0_px[i], table.x0_px[i], table.y1_px[i], table.x1_px[i])
        assert box == region.bbox
        assert table.area_px[i] == region.area
        centroid = (table.centroid_y_px[i], table.centroid_x_px[i])
        assert centroid == pytest.approx(region.centroid, abs=1e-9)
        assert table.n_pieces[i] == skimage_label(region.image, connectivity=2).max()
    assert table.n_pieces.max() > 1, "the example must hold an object in pieces"
    assert (table.label == np.unique(mask)[1:]).all()


def test_a_10_by_10_object_has_100_pixels(frozen: Freeze) -> None:
    # spec 10 and 15: the published code loses the last row and column and gives 81
    mask = np.zeros((96, 128), np.uint16)
    mask[30:40, 50:60] = 7
    table = object_table(frozen(mask))
    assert table.area_px.tolist() == [100]
    assert (table.height_px[0], table.width_px[0]) == (10, 10)
    assert (table.centroid_y_px[0], table.centroid_x_px[0]) == (34.5, 54.5)


def test_a_pixel_in_row_r_has_coordinate_r() -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[17, 101] = 1
    table = object_table(mask)
    assert (table.centroid_y_px[0], table.centroid_x_px[0]) == (17.0, 101.0)


@pytest.mark.parametrize(
    ("picture", "n_pieces"),
    [
        (["#.", ".#"], 1),  # a shared corner is enough
        (["#.#", "..."], 2),
        (["#.#", "###"], 1),
        (["#.#", ".#."], 1),
        (["#..", "..#"], 2),
        (["#..", "...", "#.."], 2),
        (["###", "#.#", "###"], 1),
        (["#.#.#", "#.#.#", "#.#.#"], 3),
        (["#####", "....#", "###.#", "#...#", "#####"], 1),  # a spiral meets itself late
    ],
)
def test_pieces_known_values(picture: list[str], n_pieces: int) -> None:
    mask = np.array([[c == "#" for c in row] for row in picture]).astype(np.uint8) * 5
    assert object_table(mask).n_pieces.tolist() == [n_pieces]


def test_pieces_of_one_object_are_not_joined_through_another() -> None:
    mask = np.array([[3, 9, 3], [9, 9, 9], [3, 9, 3]], np.uint8)
    table = object_table(mask)
    assert table.label.tolist() == [3, 9]
    assert table.n_pieces.tolist() == [4, 1]


def test_border_pixels_on_each_side_and_corner() -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[0, 60:63], mask[95, 60], mask[50:54, 0], mask[50, 127] = 1, 2, 3, 4
    mask[0:2, 126:128] = 5  # a corner: three of four pixels, the corner itself once
    mask[1:95, 1:3] = 6  # one pixel inside
    assert object_table(mask).n_border_px.tolist() == [3, 1, 4, 1, 3, 0]
    assert object_table(np.ones((5, 1), np.uint8)).n_border_px.tolist() == [5]
    assert object_table(np.ones((1, 7), np.uint8)).n_border_px.tolist() == [7]


@pytest.mark.parametrize("shape", [(96, 128), (1, 1), (0, 5), (5, 0)])
def test_a_mask_without_objects_has_an_empty_table(shape: tuple[int, int]) -> None:
    table = object_table(np.zeros(shape, np.uint16))
    assert len(table) == 0
    assert [getattr(table, name).dtype.kind for name in COLUMNS] == list("iiiiiiffii")
    assert table.centroid_y_px.shape == table.height_px.shape == (0,)


def test_dtypes_are_those_promised(rng: np.random.Generator) -> None:
    table = object_table(field_of_cells(rng).astype(np.uint32))
    expected = ["float64" if name.startswith("sum") else "int64" for name in COLUMNS]
    assert [str(getattr(table, name).dtype) for name in COLUMNS] == expected


def test_a_view_with_any_strides_gives_the_same_table(rng: np.random.Generator) -> None:
    mask = field_of_cells(rng)
    assert rows_of(object_table(np.asfortranarray(mask))) == rows_of(object_table(mask))
    assert rows_of(object_table(mask[::-1, ::2])) == naive_rows(mask[::-1, ::2])


def test_memory_depends_on_the_mask_not_on_the_largest_label() -> None:
    mask = np.zeros((96, 128), np.int64)
    mask[5:9, 6:30] = 2**31
    mask[40, 50] = 2**62
    tracemalloc.start()
    try:
        table = object_table(mask)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.label.tolist() == [2**31, 2**62]
    assert peak < 2**20


@pytest.mark.parametrize(
    "mask",
    [np.zeros((96, 128), np.float32), np.zeros((96, 128), bool), np.zeros((1, 96, 128), np.uint8)],
    ids=["float", "bool", "three axes"],
)
def test_what_is_no_label_mask_is_refused(mask: NDArray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W\) and integer"):
        object_table(mask)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [(np.int16, -3, "negative labels, got -3"), (np.uint64, 2**63, "must be below 2.63")],
)
def test_labels_out_of_range_are_refused(dtype: Any, value: int, message: str) -> None:
    mask = np.zeros((96, 128), dtype)
    mask[5, 6:9] = value
    with pytest.raises(ValueError, match=message):
        object_table(mask)


# ---------------------------------------------------------------- blocks of a mask


def blocks_of(mask: NDArray[Any], rows: list[int], cols: list[int]) -> list[ObjectTable]:
    ys, xs = sorted({0, *rows, mask.shape[0]}), sorted({0, *cols, mask.shape[1]})
    return [
        object_table(mask[y0:y1, x0:x1], origin_px=(y0, x0), image_px=mask.shape)
        for y0, y1 in pairwise(ys)
        for x0, x1 in pairwise(xs)
    ]


@PROPERTY
@given(st.data())
def test_blocks_merged_equal_the_whole(data: st.DataObject) -> None:
    mask = data.draw(masks)
    rows = data.draw(st.lists(st.integers(0, mask.shape[0]), max_size=4))
    cols = data.draw(st.lists(st.integers(0, mask.shape[1]), max_size=2))
    blocks = data.draw(st.permutations(blocks_of(mask, rows, cols)))
    whole, merged = rows_of(object_table(mask)), rows_of(merge_tables(blocks))
    pieces = COLUMNS.index("n_pieces")
    for row, expected in zip(merged, whole, strict=True):
        holders = [block for block in blocks if row[0] in block.label]
        known = expected[pieces] if len(holders) == 1 else -1
        assert row == (*expected[:pieces], known, *expected[pieces + 1 :])


def test_strips_of_a_field_merge_to_the_whole_also_in_two_steps(rng: np.random.Generator) -> None:
    mask = field_of_cells(rng)
    blocks = blocks_of(mask, [1, 17, 40, 41, 90], [])
    once = rows_of(merge_tables(blocks))
    assert once == rows_of(merge_tables([merge_tables(blocks[:2]), merge_tables(blocks[2:])]))
    whole = rows_of(object_table(mask))
    assert [row[:8] + row[9:] for row in once] == [row[:8] + row[9:] for row in whole]


def test_merging_nothing_gives_an_empty_table() -> None:
    assert len(merge_tables([])) == 0
    assert len(merge_tables([object_table(np.zeros((3, 4), np.uint8))] * 2)) == 0


@pytest.mark.parametrize(
    ("origin_px", "image_px"), [((90, 0), (96, 128)), ((0, 125), (96, 128)), ((-1, 0), (96, 128)), ((1, 0), None)]
)  # fmt: skip
def test_a_block_outside_its_image_is_refused(origin_px: tuple[int, int], image_px: Any) -> None:
    with pytest.raises(ValueError, match="does not lie in"):
        object_table(np.ones((8, 4), np.uint8), origin_px=origin_px, image_px=image_px)


# ---------------------------------------------------------------- binary masks


@PROPERTY
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)),
    st.sampled_from([bool, np.uint8, np.int32, np.uint16]),
)
def test_relabelled_equals_scikit_image(inside: NDArray, dtype: Any) -> None:
    mask = inside.astype(dtype) * dtype(200) if dtype is not bool else inside
    mask.flags.writeable = False
    labels = relabelled(mask)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, skimage_label(inside, connectivity=2))
    assert (object_table(labels).n_pieces == 1).all()


def test_a_label_mask_is_not_taken_for_a_binary_one() -> None:
    mask = np.zeros((96, 128), np.uint8)
    mask[3, 4], mask[8, 9] = 1, 2
    with pytest.raises(ValueError, match="0 and one other value, got values from 1 to 2"):
        relabelled(mask)


@pytest.mark.parametrize("mask", [np.zeros((4, 5), np.float32), np.zeros((1, 4, 5), bool)])
def test_what_is_no_binary_mask_is_refused(mask: NDArray) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W\), boolean or integer"):
        relabelled(mask)
