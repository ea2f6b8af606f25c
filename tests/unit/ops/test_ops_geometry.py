"""Boxes, windows over the border, and tiles that cover every pixel."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.ops.geometry import Box, box_around, cut, scaled_px, tile_boxes, tile_starts

PROPERTY = settings(deadline=None, derandomize=True, max_examples=150)
HEIGHT, WIDTH = 96, 128

boxes = st.builds(
    Box,
    st.integers(-60, 110),
    st.integers(-60, 140),
    st.integers(1, 150),
    st.integers(1, 150),
)


def pixels_of(box: Box) -> set[tuple[int, int]]:
    return {
        (y, x)
        for y in range(box.y0_px, box.y0_px + box.height_px)
        for x in range(box.x0_px, box.x0_px + box.width_px)
    }


# ---------------------------------------------------------------- boxes


@pytest.mark.parametrize(("height_px", "width_px"), [(0, 5), (5, 0), (-1, 5), (5, -3)])
def test_a_box_without_pixels_is_refused(height_px: int, width_px: int) -> None:
    with pytest.raises(ValueError, match="at least one pixel a side"):
        Box(0, 0, height_px, width_px)


def test_boxes_are_values_and_sort_row_by_row() -> None:
    assert Box(1, 2, 3, 4) == Box(1, 2, 3, 4)
    assert len({Box(1, 2, 3, 4), Box(1, 2, 3, 4)}) == 1
    assert sorted([Box(1, 0, 5, 5), Box(0, 9, 5, 5), Box(0, 1, 5, 5)])[0] == Box(0, 1, 5, 5)


@pytest.mark.parametrize(
    ("box", "inside", "overlaps"),
    [
        (Box(0, 0, 96, 128), True, True),
        (Box(0, 0, 97, 128), False, True),
        (Box(0, 0, 96, 129), False, True),
        (Box(0, 0, 128, 96), False, True),  # height and width not swapped
        (Box(-1, 0, 5, 5), False, True),
        (Box(0, -1, 5, 5), False, True),
        (Box(-5, 0, 5, 5), False, False),  # half-open: ends where the image begins
        (Box(-4, 0, 5, 5), False, True),
        (Box(0, -5, 5, 5), False, False),
        (Box(95, 127, 5, 5), False, True),
        (Box(96, 0, 5, 5), False, False),
        (Box(0, 128, 5, 5), False, False),
        (Box(0, 97, 5, 5), True, True),
        (Box(97, 0, 5, 5), False, False),
    ],
)
def test_inside_and_overlaps_on_the_border(box: Box, inside: bool, overlaps: bool) -> None:
    assert box.inside(HEIGHT, WIDTH) is inside
    assert box.overlaps(HEIGHT, WIDTH) is overlaps


@settings(PROPERTY, max_examples=60)
@given(
    st.builds(Box, st.integers(-8, 14), st.integers(-8, 18), st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 9),
    st.integers(1, 13),
)
def test_inside_and_overlaps_against_sets_of_pixels(box: Box, height_px: int, width_px: int) -> None:
    image = pixels_of(Box(0, 0, height_px, width_px))
    window = pixels_of(box)
    assert box.inside(height_px, width_px) is (window <= image)
    assert box.overlaps(height_px, width_px) is bool(window & image)


@pytest.mark.parametrize(
    ("y_px", "x_px", "size_px", "expected"),
    [
        (50, 20, 160, Box(-30, -60, 160, 160)),  # spec 15: rows 30..69, ratio 2 -> centre 50, q = 80
        (10, 20, 5, Box(8, 18, 5, 5)),
        (10, 20, 4, Box(8, 18, 4, 4)),
        (10.9, 20.1, 5, Box(8, 18, 5, 5)),
        (-0.5, 0.5, 3, Box(-2, -1, 3, 3)),  # rounded down, not towards zero
        (7, 3, 1, Box(7, 3, 1, 1)),
    ],
)
def test_box_around_known_values(y_px: float, x_px: float, size_px: int, expected: Box) -> None:
    assert box_around(y_px, x_px, size_px=size_px) == expected


@PROPERTY
@given(st.floats(-500, 500), st.floats(-500, 500), st.integers(1, 301))
def test_box_around_has_the_point_in_its_centre_pixel(y_px: float, x_px: float, size_px: int) -> None:
    box = box_around(y_px, x_px, size_px=size_px)
    assert (box.height_px, box.width_px) == (size_px, size_px)
    assert (box.y0_px + size_px // 2, box.x0_px + size_px // 2) == (math.floor(y_px), math.floor(x_px))


# ---------------------------------------------------------------- cutting


@PROPERTY
@given(boxes)
def test_cut_gives_the_pixels_that_box_and_image_share(box: Box) -> None:
    image = np.arange(2 * HEIGHT * WIDTH, dtype=np.int32).reshape(2, HEIGHT, WIDTH)
    image.flags.writeable = False
    rows = [y for y in range(box.y0_px, box.y0_px + box.height_px) if 0 <= y < HEIGHT]
    cols = [x for x in range(box.x0_px, box.x0_px + box.width_px) if 0 <= x < WIDTH]
    if not rows or not cols:
        with pytest.raises(ValueError, match="outside an image of 96 × 128 px"):
            cut(image, box)
        return
    np.testing.assert_array_equal(cut(image, box), image[:, rows][:, :, cols])


def test_cut_copies_nothing(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (3, HEIGHT, WIDTH), dtype=np.uint8)
    assert np.shares_memory(cut(image, Box(-3, 100, 20, 60)), image)


# ---------------------------------------------------------------- tiles


@pytest.mark.parametrize(
    ("side_px", "expected"),
    [  # spec 9, overlap 0.1, window 224
        (1, [0]),
        (223, [0]),
        (224, [0]),
        (225, [0, 1]),
        (520, [0, 148, 296]),
        (1024, [0, 160, 320, 480, 640, 800]),
    ],
)
def test_tile_starts_known_values(side_px: int, expected: list[int]) -> None:
    assert tile_starts(side_px, window_px=224) == expected
    assert tile_starts(side_px, window_px=224, overlap=0.1) == expected


@pytest.mark.parametrize("overlap", [0.05, 0.1, 0.5])
def test_tiles_cover_every_side_from_1_to_1200(overlap: float) -> None:
    for side_px in range(1, 1201):
        starts = tile_starts(side_px, window_px=224, overlap=overlap)
        covered = np.zeros(side_px, int)
        for start in starts:
            assert start >= 0
            assert start == 0 or start + 224 <= side_px, (side_px, start)
            covered[start : start + 224] += 1
        assert covered.min() >= 1, f"side {side_px}: pixels {np.flatnonzero(covered == 0)} in no tile"
        assert starts == sorted(set(starts))
        assert starts[-1] == max(0, side_px - 224)


@pytest.mark.parametrize(("overlap", "exact"), [(0.05, "1/20"), (0.1, "1/10"), (0.5, "1/2")])
def test_tile_starts_follow_the_formula_in_exact_numbers(overlap: float, exact: str) -> None:
    # spec 9: n = ceil((1 + 2 o) s / 224), starts = trunc(linspace(0, s - b, n)). Where (1 + 2 o) s / 224 is a
    # whole number, floating point may give one window more, as in the published code.
    for side_px in range(225, 1201):
        share = (1 + 2 * Fraction(exact)) * side_px / 224
        count = math.ceil(share)
        expected = sorted({k * (side_px - 224) // (count - 1) for k in range(count)})
        found = tile_starts(side_px, window_px=224, overlap=overlap)
        if share.denominator == 1 and len(found) == count + 1:
            continue
        assert found == expected, side_px


@PROPERTY
@given(st.integers(1, 3000), st.integers(1, 400), st.floats(0.05, 0.5))
def test_tile_starts_cover_any_window(side_px: int, window_px: int, overlap: float) -> None:
    starts = np.array(tile_starts(side_px, window_px=window_px, overlap=overlap))
    assert starts[0] == 0
    assert starts[-1] == max(0, side_px - window_px)
    assert (np.diff(starts) > 0).all()
    assert (np.diff(starts) <= window_px).all()


def test_more_overlap_never_gives_fewer_tiles() -> None:
    counts = [len(tile_starts(1000, window_px=224, overlap=o)) for o in (0.05, 0.1, 0.2, 0.3, 0.5)]
    assert counts == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("overlap", [0.0, 0.049, 0.501, 1.0, -0.1, math.nan])
@pytest.mark.parametrize("side_px", [100, 1000])
def test_overlap_out_of_range_raises_and_is_never_clamped(overlap: float, side_px: int) -> None:
    with pytest.raises(ValueError, match=r"overlap must lie in \[0.05, 0.5\]"):
        tile_starts(side_px, window_px=224, overlap=overlap)


def test_tile_boxes_go_row_by_row() -> None:
    found = tile_boxes(300, 520, window_px=224)
    assert found == [Box(y, x, 224, 224) for y in (0, 76) for x in (0, 148, 296)]


@pytest.mark.parametrize(
    ("height_px", "width_px", "tile"),
    [(96, 128, (96, 128)), (96, 500, (96, 224)), (500, 128, (224, 128)), (224, 224, (224, 224))],
)
def test_a_short_side_gives_a_short_tile(height_px: int, width_px: int, tile: tuple[int, int]) -> None:
    found = tile_boxes(height_px, width_px, window_px=224)
    assert {(box.height_px, box.width_px) for box in found} == {tile}
    assert all(box.inside(height_px, width_px) for box in found)


@settings(PROPERTY, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 150), st.floats(0.05, 0.5))
def test_tile_boxes_cover_the_plane(height_px: int, width_px: int, window_px: int, overlap: float) -> None:
    covered = np.zeros((height_px, width_px), int)
    found = tile_boxes(height_px, width_px, window_px=window_px, overlap=overlap)
    for box in found:
        assert box.inside(height_px, width_px)
        covered[box.y0_px : box.y0_px + box.height_px, box.x0_px : box.x0_px + box.width_px] += 1
    assert covered.min() >= 1
    assert len(set(found)) == len(found)


# ---------------------------------------------------------------- scaled sides


@pytest.mark.parametrize(
    ("side_px", "factor", "expected"),
    [
        (100, 0.5, 50),
        (101, 0.5, 50),
        (100, 0.5 / 0.25, 200),
        (100, 0.29, 29),  # 28.999999999999996 in floating point
        (3, 0.1, 1),  # at least one pixel
        (1, 0.001, 1),
        (10, 0.3 / 0.1, 30),  # 2.9999999999999996 times 10
        (224, 1.0, 224),
        (99, 0.999, 98),
    ],
)
def test_scaled_side_known_values(side_px: int, factor: float, expected: int) -> None:
    assert scaled_px(side_px, factor) == expected


@PROPERTY
@given(st.integers(1, 5000), st.integers(1, 400), st.integers(1, 400))
def test_scaled_side_is_the_exact_floor(side_px: int, numerator: int, denominator: int) -> None:
    exact = Fraction(side_px * numerator, denominator)
    assert scaled_px(side_px, numerator / denominator) == max(1, math.floor(exact))


def test_cut_of_read_only_pixels_stays_read_only(frozen: Callable[[NDArray], NDArray]) -> None:
    assert not cut(frozen(np.zeros((1, HEIGHT, WIDTH))), Box(0, 0, 4, 4)).flags.writeable
