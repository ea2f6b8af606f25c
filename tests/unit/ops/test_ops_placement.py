"""The linear map into the encoder's square, against images that are really padded, cropped and resized.

Oracles: ``np.pad`` for what surrounds a window, ``torch.nn.functional.interpolate`` for the resizing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.ops.geometry import Box, Placement, apply_placement, cut, place, resample_matrix, scaled_px

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)
HEIGHT, WIDTH = 96, 128
TOLERANCE = 2e-5  # float32 weights on values up to 10


@pytest.fixture
def image(rng: np.random.Generator) -> NDArray[np.float64]:
    return make_image()


@lru_cache
def make_image(height_px: int = HEIGHT, width_px: int = WIDTH, seed: int = 0) -> NDArray[np.float64]:
    array = np.random.default_rng(seed).uniform(-1, 10, (2, height_px, width_px))
    array.flags.writeable = False
    return array


def resize(planes: NDArray, size_px: tuple[int, int], antialias: bool) -> NDArray[np.float64]:
    if planes.shape[1:] == size_px:
        return planes
    if 1 in size_px:  # torch 2.13 returns wrong numbers for antialias=True and an output one pixel wide
        rows, cols = (loop_weights(n, m, antialias) for n, m in zip(planes.shape[1:], size_px, strict=True))
        return np.einsum("ij,cjk,lk->cil", rows, planes, cols)
    tensor = torch.from_numpy(np.ascontiguousarray(planes, np.float64))[None]
    out = torch.nn.functional.interpolate(
        tensor, size_px, mode="bilinear", align_corners=False, antialias=antialias
    )
    return out[0].numpy()


def loop_weights(source_px: int, target_px: int, antialias: bool) -> NDArray[np.float64]:
    """The weights of one axis, one number after the other."""
    weights = np.zeros((target_px, source_px))
    scale = source_px / target_px
    for i in range(target_px):
        centre = (i + 0.5) * scale - 0.5
        if antialias and scale > 1:
            for j in range(source_px):
                weights[i, j] = max(0.0, 1 - abs(centre - j) / scale)
            weights[i] /= sum(weights[i])
        else:
            centre = min(max(centre, 0.0), source_px - 1.0)
            left = min(int(centre), source_px - 1)
            weights[i, left] += 1 - (centre - left)
            weights[i, min(left + 1, source_px - 1)] += centre - left
    return weights


def pad(planes: NDArray, before: tuple[int, int], after: tuple[int, int], level: NDArray | None) -> NDArray:
    """Pad (C, H, W) with a level a channel, or with the mirror image where ``level`` is None."""
    widths = ((before[0], after[0]), (before[1], after[1]))
    if level is None:
        return np.pad(planes, ((0, 0), *widths), mode="reflect")
    return np.stack(
        [np.pad(p, widths, constant_values=v) for p, v in zip(planes.astype(float), level, strict=True)]
    )


def explicit(
    image: NDArray,
    box: Box,
    *,
    side_px: int,
    factor: float | None,
    antialias: bool,
    level: NDArray | None,
) -> NDArray[np.float64]:
    """Make the padded image, crop the window, resize it: what the two matrices claim to do at once."""
    height_px, width_px = image.shape[1:]
    if level is None:  # the mirror image of the window's own real pixels
        real = cut(image, box)
        before = (max(0, -box.y0_px), max(0, -box.x0_px))
        after = (
            max(0, box.y0_px + box.height_px - height_px),
            max(0, box.x0_px + box.width_px - width_px),
        )
        if factor is None:
            square_px = max(box.height_px, box.width_px)
            extra = ((square_px - box.height_px) // 2, (square_px - box.width_px) // 2)
            rest = (square_px - box.height_px - extra[0], square_px - box.width_px - extra[1])
            before = (before[0] + extra[0], before[1] + extra[1])
            after = (after[0] + rest[0], after[1] + rest[1])
        window = pad(real, before, after, None)
    else:
        far = 64
        whole = pad(image, (far, far), (far, far), level)
        y0, x0 = box.y0_px + far, box.x0_px + far
        window = whole[:, y0 : y0 + box.height_px, x0 : x0 + box.width_px]
        if factor is None:
            square_px = max(window.shape[1:])
            extra = tuple((square_px - n) // 2 for n in window.shape[1:])  # odd pixel on the far side
            rest = tuple(square_px - n - e for n, e in zip(window.shape[1:], extra, strict=True))
            window = pad(window, extra, rest, level)
    if factor is None:
        return resize(window, (side_px, side_px), antialias)
    target = (scaled_px(box.height_px, factor), scaled_px(box.width_px, factor))
    small = resize(window, target, antialias)
    before = ((side_px - target[0]) // 2, (side_px - target[1]) // 2)
    after = (side_px - target[0] - before[0], side_px - target[1] - before[1])
    return pad(small, before, after, level)


# ---------------------------------------------------------------- one-dimensional weights


def test_weights_of_halving_by_hand() -> None:
    plain = [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    np.testing.assert_allclose(resample_matrix(4, 2, antialias=False), plain, atol=1e-7)
    # a triangle of half-width 2 around 0.5: 0.75, 0.75, 0.25, cut off at the edge and made to sum to 1
    smooth = [[3 / 7, 3 / 7, 1 / 7, 0], [0, 1 / 7, 3 / 7, 3 / 7]]
    np.testing.assert_allclose(resample_matrix(4, 2, antialias=True), smooth, atol=1e-7)


@pytest.mark.parametrize("antialias", [False, True])
def test_weights_of_doubling_by_hand(antialias: bool) -> None:
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_allclose(resample_matrix(2, 4, antialias=antialias), expected, atol=1e-7)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("source_px", "target_px"),
    [(96, 224), (128, 224), (224, 224), (225, 224), (520, 224), (1024, 96), (7, 3), (3, 7), (1, 5), (5, 1)],
)
def test_weights_equal_torch_interpolate(source_px: int, target_px: int, antialias: bool) -> None:
    identity = torch.eye(source_px, dtype=torch.float64)[None, None]
    # each row of the identity is one source pixel; only the last axis is resized
    oracle = torch.nn.functional.interpolate(
        identity, (source_px, target_px), mode="bilinear", align_corners=False, antialias=antialias
    )[0, 0].numpy()
    np.testing.assert_allclose(
        resample_matrix(source_px, target_px, antialias=antialias), oracle.T, atol=2e-7
    )


@settings(PROPERTY, max_examples=40)
@given(st.integers(1, 120), st.integers(1, 60), st.booleans())
def test_weights_equal_a_loop(source_px: int, target_px: int, antialias: bool) -> None:
    found = resample_matrix(source_px, target_px, antialias=antialias)
    np.testing.assert_allclose(found, loop_weights(source_px, target_px, antialias), atol=1e-6)


@PROPERTY
@given(st.integers(1, 700), st.integers(1, 300), st.booleans())
def test_weights_sum_to_one_and_are_never_negative(source_px: int, target_px: int, antialias: bool) -> None:
    matrix = resample_matrix(source_px, target_px, antialias=antialias)
    assert matrix.shape == (target_px, source_px)
    assert matrix.dtype == np.float32
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-6)  # the same from both ends


@PROPERTY
@given(st.integers(1, 700), st.integers(1, 300))
def test_antialias_skips_no_pixel(source_px: int, target_px: int) -> None:
    assert (resample_matrix(source_px, target_px, antialias=True).sum(axis=0) > 0).all()


def test_without_antialias_most_pixels_of_a_large_image_are_skipped() -> None:
    assert (resample_matrix(1000, 100, antialias=False).sum(axis=0) == 0).mean() == 0.8


def test_weights_are_shared_and_therefore_read_only() -> None:
    matrix = resample_matrix(96, 40, antialias=True)
    assert resample_matrix(96, 40, antialias=True) is matrix
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 1


# ---------------------------------------------------------------- whole placements

Geometry = tuple[Box, int, bool]


@st.composite
def geometries(draw: st.DrawFn, *, side_px: int | None = None) -> Geometry:
    """A window that shares pixels with the image and often reaches over its borders, side, antialias."""
    starts, sizes = [], []
    for image_px in (HEIGHT, WIDTH):
        before, after = draw(st.integers(-40, 40)), draw(st.integers(-40, 40))
        start, stop = sorted(draw(st.tuples(st.integers(0, image_px - 1), st.integers(0, image_px - 1))))
        kind = draw(st.sampled_from(["inside", "near", "far", "both"]))
        if kind in ("near", "both"):
            start = -abs(before) - 1
        if kind in ("far", "both"):
            stop = image_px + abs(after)
        starts.append(start)
        sizes.append(stop - start + 1)
    box = Box(starts[0], starts[1], sizes[0], sizes[1])
    return box, side_px or draw(st.sampled_from([16, 97, 128, 224, 240])), draw(st.booleans())


LEVEL = np.array([0.7, -0.25])


@PROPERTY
@given(geometries())
def test_rescale_equals_padding_cropping_resizing(geo: Geometry) -> None:
    box, side_px, antialias = geo
    image = make_image()
    placement = place(box, (HEIGHT, WIDTH), side_px=side_px, factor=None, antialias=antialias)
    found = apply_placement(cut(image, box), placement, pad_level=LEVEL)
    expected = explicit(image, box, side_px=side_px, factor=None, antialias=antialias, level=LEVEL)
    assert found.shape == (2, side_px, side_px)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@PROPERTY
@given(geometries(), st.sampled_from([1.0, 0.5, 0.37, 1.001, 1.7, 2.0, 0.05]))
def test_native_equals_padding_cropping_resizing(geo: Geometry, factor: float) -> None:
    box, side_px, antialias = geo
    assume(scaled_px(max(box.height_px, box.width_px), factor) <= side_px)
    image = make_image()
    placement = place(box, (HEIGHT, WIDTH), side_px=side_px, factor=factor, antialias=antialias)
    found = apply_placement(cut(image, box), placement, pad_level=LEVEL)
    expected = explicit(image, box, side_px=side_px, factor=factor, antialias=antialias, level=LEVEL)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@PROPERTY
@given(geometries(), st.sampled_from([None, 1.0, 0.5, 0.37, 1.7]))
def test_reflect_equals_the_mirror_image_of_numpy(geo: Geometry, factor: float | None) -> None:
    box, side_px, antialias = geo
    if factor is not None:
        assume(scaled_px(max(box.height_px, box.width_px), factor) <= side_px)
    image = make_image()
    placement = place(box, (HEIGHT, WIDTH), side_px=side_px, factor=factor, antialias=antialias, reflect=True)
    found = apply_placement(cut(image, box), placement)
    expected = explicit(image, box, side_px=side_px, factor=factor, antialias=antialias, level=None)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    # nothing is left to the level: it must not show
    other = apply_placement(cut(image, box), placement, pad_level=LEVEL)
    np.testing.assert_allclose(other, found, atol=TOLERANCE)


@PROPERTY
@given(geometries(), st.sampled_from([None, 1.0, 0.5, 1.001]))
def test_copy_does_what_the_matrices_do(geo: Geometry, factor: float | None) -> None:
    box, side_px, antialias = geo
    if factor is None:
        side_px = max(box.height_px, box.width_px)
    else:
        assume(scaled_px(max(box.height_px, box.width_px), factor) <= side_px)
    placement = place(box, (HEIGHT, WIDTH), side_px=side_px, factor=factor, antialias=antialias)
    sides = (box.height_px, box.width_px)
    resized = factor is not None and tuple(scaled_px(side, factor) for side in sides) != sides
    assert (placement.copy is None) is resized
    if placement.copy is None:
        return
    real = cut(make_image(), box)
    top, left = placement.copy
    expected = np.broadcast_to(LEVEL[:, None, None], (2, side_px, side_px)).copy()
    expected[:, top : top + real.shape[1], left : left + real.shape[2]] = real
    found = apply_placement(real, placement, pad_level=LEVEL)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_copy_where_pixels_are_resized_or_mirrored() -> None:
    size = (HEIGHT, WIDTH)
    whole = Box(0, 0, HEIGHT, WIDTH)
    assert place(whole, size, side_px=128, factor=None).copy == (16, 0)
    assert place(whole, size, side_px=224, factor=None).copy is None
    assert place(whole, size, side_px=224, factor=1.0).copy == (64, 48)
    assert place(whole, size, side_px=224, factor=0.5).copy is None
    assert place(whole, size, side_px=128, factor=None, reflect=True).copy is None
    # one axis resized, the other not: 1 px stays 1 px at factor 0.6
    assert place(Box(0, 0, 1, 100), size, side_px=224, factor=0.6).copy is None


def test_matrices_have_the_shape_of_square_and_real_pixels() -> None:
    placement = place(Box(-10, 100, 50, 60), (HEIGHT, WIDTH), side_px=224, factor=None)
    assert placement.rows.shape == (224, 40)
    assert placement.cols.shape == (224, 28)
    assert placement.rows.dtype == placement.cols.dtype == np.float32


def test_odd_pixel_of_padding_goes_to_the_far_side() -> None:
    ones = np.ones((1, 3, 6), np.float32)
    placement = place(Box(0, 0, 3, 6), (3, 6), side_px=6, factor=None)
    assert apply_placement(ones, placement)[0, :, 0].tolist() == [0, 1, 1, 1, 0, 0]
    native = place(Box(0, 0, 3, 6), (3, 6), side_px=9, factor=1.0)
    assert apply_placement(ones, native)[0].any(axis=0).tolist() == [False, *[True] * 6, False, False]


def test_centre_of_a_clipped_object_stays_in_the_middle() -> None:
    # spec 15: object centre at (112, 112) after clipping
    image = np.zeros((1, HEIGHT, WIDTH), np.float32)
    image[0, 5, 120] = 1
    box = Box(5 - 112, 120 - 112, 224, 224)
    for factor in (None, 1.0):
        placement = place(box, (HEIGHT, WIDTH), side_px=224, factor=factor)
        square = apply_placement(cut(image, box), placement)[0]
        assert [int(i) for i in np.unravel_index(square.argmax(), square.shape)] == [112, 112]
        assert square.sum() == 1


def test_rows_and_columns_are_not_swapped(image: NDArray[np.float64]) -> None:
    placement = place(Box(0, 0, HEIGHT, WIDTH), (HEIGHT, WIDTH), side_px=128, factor=1.0)
    square = apply_placement(image, placement)
    np.testing.assert_array_equal(square[:, 16:112], image.astype(np.float32))
    assert not square[:, :16].any()
    assert not square[:, 112:].any()


def test_without_resizing_pixels_come_through_bit_by_bit(rng: np.random.Generator) -> None:
    image = rng.uniform(-1, 10, (3, HEIGHT, WIDTH)).astype(np.float32)
    placement = place(Box(-20, 40, 100, 110), (HEIGHT, WIDTH), side_px=224, factor=1.0)
    square = apply_placement(cut(image, Box(-20, 40, 100, 110)), placement)
    np.testing.assert_array_equal(square[:, 62 + 20 : 62 + 100, 57 : 57 + 88], image[:, :80, 40:])


def test_single_pixel_mirrors_to_a_flat_square() -> None:
    for factor in (None, 1.0, 3.0):
        placement = place(Box(0, 0, 1, 1), (1, 1), side_px=16, factor=factor, reflect=True)
        square = apply_placement(np.full((1, 1, 1), 3.5), placement)
        np.testing.assert_allclose(square, 3.5, atol=1e-6)


@pytest.mark.parametrize("factor", [None, 1.0, 0.5])
def test_a_flat_plane_at_the_pad_level_stays_flat(factor: float | None) -> None:
    box = Box(-30, 90, 120, 77)
    placement = place(box, (HEIGHT, WIDTH), side_px=128, factor=factor)
    real = cut(np.full((1, HEIGHT, WIDTH), 4.25, np.float32), box)
    np.testing.assert_array_equal(apply_placement(real, placement, pad_level=4.25), 4.25)


def test_pad_level_is_a_number_or_one_a_channel(image: NDArray[np.float64]) -> None:
    placement = place(Box(0, 0, HEIGHT, WIDTH), (HEIGHT, WIDTH), side_px=224, factor=1.0)
    by_channel = apply_placement(image, placement, pad_level=np.array([2.0, 3.0]))
    assert by_channel[:, 0, 0].tolist() == [2, 3]
    assert apply_placement(image, placement, pad_level=2.0)[:, 0, 0].tolist() == [2, 2]
    assert apply_placement(image, placement)[:, 0, 0].tolist() == [0, 0]


def test_integer_pixels_are_placed_without_overflow(frozen: Callable[[NDArray], NDArray]) -> None:
    planes = frozen(np.full((1, 6, 4), 255, np.uint8))
    placement = place(Box(0, 0, 6, 4), (6, 4), side_px=12, factor=None)
    assert apply_placement(planes, placement, pad_level=300.0).max() == 300
    assert apply_placement(planes, placement, pad_level=300.0).min() == 255


@pytest.mark.parametrize(
    ("box", "factor"), [(Box(0, 0, 96, 225), 1.0), (Box(0, 0, 225, 96), 1.0), (Box(0, 0, 96, 128), 1.8)]
)
def test_a_window_larger_than_the_square_is_refused(box: Box, factor: float) -> None:
    with pytest.raises(ValueError, match="does not fit an input of 224 px"):
        place(box, (300, 300), side_px=224, factor=factor)


def test_a_window_that_just_fits_is_taken() -> None:
    placement = place(Box(0, 0, 224, 90), (300, 300), side_px=224, factor=1.0)
    assert placement.copy == (0, 67)
    # 225 px at 0.9999 is 224 px after rounding down
    assert place(Box(0, 0, 225, 90), (300, 300), side_px=224, factor=0.9999).rows.shape == (224, 225)


def test_rescale_takes_windows_of_any_size() -> None:
    placement = place(Box(0, 0, 700, 1300), (700, 1300), side_px=96, factor=None)
    assert math.isclose(placement.cols.sum(), 96, rel_tol=1e-5)
    # 700 of 1300 rows are real, the rest is padding
    assert math.isclose(placement.rows.sum(), 96 * 700 / 1300, rel_tol=1e-2)


def test_a_caller_cannot_spoil_the_cached_map() -> None:
    arguments = {"side_px": 48, "factor": None}
    first: Placement = place(Box(1, 2, 31, 33), (HEIGHT, WIDTH), **arguments)
    before = first.rows.copy()
    try:
        first.rows[:] = 0
    except ValueError:
        return
    after = place(Box(1, 2, 31, 33), (HEIGHT, WIDTH), **arguments)
    np.testing.assert_array_equal(after.rows, before)
