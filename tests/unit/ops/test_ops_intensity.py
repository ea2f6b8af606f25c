"""Percentiles against numpy, the affine map and its invariances, and the published form beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from microsnoop.core.schema import Flag
from microsnoop.ops.geometry import Box, apply_placement, cut, place
from microsnoop.ops.intensity import normalise, padded_scaling, percentiles, plane_scaling

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)
HEIGHT, WIDTH = 96, 128
Freeze = Callable[[NDArray], NDArray]

small_planes = st.one_of(
    hnp.arrays(np.uint8, (1, 37, 41), elements=st.integers(0, 255)),  # 1,517 px: counted
    hnp.arrays(np.uint16, (1, 5, 7), elements=st.integers(0, 65535)),  # sorted
    hnp.arrays(np.int32, (1, 5, 7), elements=st.integers(-(2**31), 2**31 - 1)),
    hnp.arrays(np.float32, (1, 5, 7), elements=st.floats(-1e6, 1e6, width=32)),
)


def object_in(rng: np.random.Generator, shape: tuple[int, ...] = (1, HEIGHT, WIDTH)) -> NDArray[np.uint16]:
    return rng.gamma(2.0, 500.0, shape).astype(np.uint16)


# ---------------------------------------------------------------- percentiles


@pytest.mark.parametrize("q", [(1, 99), (0, 100), (50,), (0.5, 25, 75, 99.9)])
@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("uint8", (1, 1)),
        ("uint8", (27, 37)),  # 999 px: the last size that is sorted
        ("uint8", (25, 40)),  # 1,000 px: the first that is counted
        ("uint8", (96, 128)),
        ("uint16", (271, 369)),  # 99,999 px: sorted
        ("uint16", (250, 400)),  # 100,000 px: counted
        (">u2", (250, 400)),
        ("uint32", (350, 300)),
        ("int8", (96, 128)),
        ("int16", (350, 300)),
        ("int32", (96, 128)),
        ("float32", (96, 128)),
        ("float64", (96, 128)),
    ],
)
def test_percentiles_equal_numpy_to_the_last_bit(
    dtype: str, shape: tuple[int, int], q: tuple[float, ...], frozen: Freeze, rng: np.random.Generator
) -> None:
    plane = frozen(rng.normal(0 if dtype[0] in "if" else 120, 30, shape).astype(dtype))
    found = percentiles(plane, q)
    assert found.dtype == np.float64
    assert found.shape == (len(q),)
    np.testing.assert_array_equal(found, np.percentile(plane.astype(np.float64), q))


@settings(PROPERTY, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1000, 4000),
    st.integers(1, 256),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_counted_percentiles_equal_sorted_ones(seed: int, n: int, values: int, q: list[float]) -> None:
    plane = np.random.default_rng(seed).integers(0, values, n).astype(np.uint8)
    np.testing.assert_allclose(percentiles(plane, q), np.percentile(plane.astype(float), q), rtol=1e-12)


def test_percentiles_of_whole_range_of_uint16(frozen: Freeze, rng: np.random.Generator) -> None:
    plane = rng.integers(0, 65536, (300, 400)).astype(np.uint16)
    plane[0, :2] = 0, 65535
    np.testing.assert_array_equal(
        percentiles(frozen(plane), (0, 1, 99, 100)), np.percentile(plane.astype(float), (0, 1, 99, 100))
    )
    assert percentiles(plane, (0, 100)).tolist() == [0, 65535]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_percentiles_of_a_view_and_of_any_shape(dtype: str, rng: np.random.Generator) -> None:
    plane = rng.integers(0, 200, (400, 600)).astype(dtype)
    view = plane[::2, 5:400].T
    np.testing.assert_array_equal(percentiles(view, (1, 99)), np.percentile(view.astype(float), (1, 99)))
    np.testing.assert_array_equal(
        percentiles(plane.reshape(-1), (7,)), np.percentile(plane.astype(float), (7,))
    )


def test_percentiles_leave_their_input_as_it_was(rng: np.random.Generator) -> None:
    plane = rng.normal(size=(HEIGHT, WIDTH))
    before = plane.copy()
    percentiles(plane, (1, 99))
    np.testing.assert_array_equal(plane, before)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_percentiles_without_pixels_are_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="without pixels"):
        percentiles(np.zeros((0, 5), dtype), (1, 99))


# ---------------------------------------------------------------- the affine map


def test_low_and_high_percentile_become_0_and_1(frozen: Freeze, rng: np.random.Generator) -> None:
    planes = frozen(rng.normal(500, 70, (3, HEIGHT, WIDTH)))
    scaling = plane_scaling(planes)
    mapped = (planes - scaling.offset[:, None, None]) / scaling.span[:, None, None]
    np.testing.assert_allclose(np.percentile(mapped, 1, axis=(1, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(np.percentile(mapped, 99, axis=(1, 2)), 1, atol=1e-12)
    assert scaling.flags == ()
    assert not scaling.constant.any()
    assert [a.dtype for a in (scaling.offset, scaling.span, scaling.pad_level)] == [np.float64] * 3
    assert [a.shape for a in (scaling.offset, scaling.span, scaling.pad_level, scaling.constant)] == [
        (3,)
    ] * 4


def test_low_and_high_can_be_chosen(frozen: Freeze, rng: np.random.Generator) -> None:
    planes = frozen(object_in(rng))
    scaling = plane_scaling(planes, low=5, high=80)
    p5, p80 = np.percentile(planes.astype(float), (5, 80))
    assert (scaling.offset[0], scaling.span[0]) == (p5, p80 - p5)


def test_normalise_is_the_formula_of_the_spec(frozen: Freeze, rng: np.random.Generator) -> None:
    planes = frozen(object_in(rng, (2, HEIGHT, WIDTH)))
    found = normalise(planes, plane_scaling(planes), clip=(-1, 10))
    for c in range(2):
        p1, p99 = np.percentile(planes[c].astype(float), (1, 99))
        expected = np.clip((planes[c].astype(float) - p1) / (p99 - p1), -1, 10)
        np.testing.assert_allclose(found[c], expected, atol=1e-6)
    assert found.dtype == np.float32
    assert found.shape == planes.shape


def test_clip_is_optional(frozen: Freeze) -> None:
    planes = np.zeros((1, HEIGHT, WIDTH))
    planes[0, 0, :5] = -1000, 1000, 2, 3, 4
    planes[0, 5:40] = 1
    planes = frozen(planes)
    scaling = plane_scaling(planes)
    assert (scaling.offset[0], scaling.span[0]) == (0, 1)
    free = normalise(planes, scaling)
    assert (free.min(), free.max()) == (-1000, 1000)
    clipped = normalise(planes, scaling, clip=(-1, 10))
    assert (clipped.min(), clipped.max()) == (-1, 10)
    np.testing.assert_array_equal(clipped[0, 1:], free[0, 1:])


@PROPERTY
@given(
    st.integers(0, 2**32 - 1),
    st.floats(1e-3, 1e3),
    st.floats(-1e4, 1e4),
    st.sampled_from(["zero", "edge_median", "reflect"]),
)
def test_normalisation_is_affine_invariant(seed: int, a: float, b: float, pad: str) -> None:
    # spec 15: N(a x + b) = N(x) for a > 0
    x = np.random.default_rng(seed).gamma(2.0, 10.0, (2, 24, 32))
    plain, moved = plane_scaling(x, pad=pad), plane_scaling(a * x + b, pad=pad)
    np.testing.assert_allclose(normalise(a * x + b, moved), normalise(x, plain), atol=1e-4)
    np.testing.assert_allclose(moved.pad_level, plain.pad_level, atol=1e-4)
    assert moved.flags == plain.flags


@pytest.mark.parametrize("a", [1e-12, 1e-6, 1e9])
def test_the_unit_of_the_pixels_does_not_matter(a: float, frozen: Freeze, rng: np.random.Generator) -> None:
    x = frozen(rng.gamma(2.0, 1.0, (1, HEIGHT, WIDTH)))
    scaling = plane_scaling(a * x)
    assert scaling.flags == ()
    np.testing.assert_allclose(normalise(a * x, scaling), normalise(x, plane_scaling(x)), atol=1e-6)


@PROPERTY
@given(small_planes)
def test_the_map_is_always_finite_and_honest_about_contrast(planes: NDArray) -> None:
    scaling = plane_scaling(planes)
    wide = planes.astype(np.float64)
    low, high = np.percentile(wide, (1, 99))
    mapped = normalise(planes, scaling, clip=(-1, 10))
    assert np.isfinite(mapped).all()
    assert scaling.span[0] > 0
    if wide.max() == wide.min():
        assert scaling.flags == (Flag.CONSTANT_PLANE,)
        assert scaling.constant.tolist() == [True]
        assert not mapped.any()
    elif high == low:
        assert scaling.flags == (Flag.SPARSE_PLANE,)
        assert scaling.span[0] == wide.max() - wide.min()
        assert mapped.any()
    else:
        assert scaling.flags == ()
        assert scaling.constant.tolist() == [False]


@pytest.mark.parametrize(
    ("dtype", "value"), [("uint8", 0), ("uint8", 255), ("uint16", 999), ("int32", -7), ("float32", 0.1)]
)
@pytest.mark.parametrize("pad", ["zero", "edge_median", "reflect"])
def test_constant_plane_becomes_zeros_and_is_flagged(
    dtype: str, value: float, pad: str, frozen: Freeze
) -> None:
    planes = frozen(np.full((1, HEIGHT, WIDTH), value, dtype))
    scaling = plane_scaling(planes, pad=pad)
    assert scaling.flags == (Flag.CONSTANT_PLANE,)
    assert scaling.constant.tolist() == [True]
    assert scaling.pad_level.tolist() == [0]
    assert not normalise(planes, scaling).any()


@pytest.mark.parametrize(
    ("dtype", "background", "pixel"),
    [
        ("uint8", 0, 255),
        ("uint8", 255, 0),
        ("uint16", 7, 65535),
        ("int32", -(2**31), 2**31 - 1),
        ("float32", 1, 2),
    ],
)
def test_one_odd_pixel_is_a_sparse_plane(dtype: str, background: int, pixel: int, frozen: Freeze) -> None:
    planes = np.full((1, HEIGHT, WIDTH), background, dtype)
    planes[0, 40, 50] = pixel
    planes = frozen(planes)
    scaling = plane_scaling(planes)
    assert scaling.flags == (Flag.SPARSE_PLANE,)
    assert not scaling.constant.any()
    assert (scaling.offset[0], scaling.span[0]) == (background, abs(float(pixel) - float(background)))
    mapped = normalise(planes, scaling, clip=(-1, 10))
    assert mapped[0, 40, 50] == (1 if pixel > background else -1)
    assert np.count_nonzero(mapped) == 1


def test_channels_are_scaled_each_by_itself(frozen: Freeze, rng: np.random.Generator) -> None:
    constant = np.full((HEIGHT, WIDTH), 9.0)
    sparse = np.zeros((HEIGHT, WIDTH))
    sparse[3, 4] = 5
    planes = frozen(np.stack([rng.normal(size=(HEIGHT, WIDTH)), constant, sparse]))
    together = plane_scaling(planes, pad="edge_median")
    assert together.flags == (Flag.CONSTANT_PLANE, Flag.SPARSE_PLANE)
    assert together.constant.tolist() == [False, True, False]
    for c in range(3):
        alone = plane_scaling(planes[c : c + 1], pad="edge_median")
        for name in ("offset", "span", "pad_level", "constant"):
            assert getattr(alone, name)[0] == getattr(together, name)[c]


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (1, 1, HEIGHT, WIDTH)])
def test_planes_must_have_channels_and_two_sides(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"planes must be \(C, H, W\)"):
        plane_scaling(np.zeros(shape))


# ---------------------------------------------------------------- padding


def ring_median(plane: NDArray) -> float:
    height, width = plane.shape
    return float(
        np.median(
            [
                plane[y, x]
                for y in range(height)
                for x in range(width)
                if y in (0, height - 1) or x in (0, width - 1)
            ]
        )
    )


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (5, 9), (2, 7), (7, 2), (1, 8), (3, 3)])
def test_edge_median_is_the_median_of_the_outermost_ring(
    shape: tuple[int, int], frozen: Freeze, rng: np.random.Generator
) -> None:
    planes = frozen(rng.gamma(2.0, 50.0, (2, *shape)))
    scaling = plane_scaling(planes, pad="edge_median")
    expected = [(ring_median(planes[c]) - scaling.offset[c]) / scaling.span[c] for c in range(2)]
    np.testing.assert_allclose(scaling.pad_level, expected, rtol=1e-12)


def test_edge_median_of_a_plane_one_pixel_wide() -> None:
    planes = np.array([[[0.0], [1.0], [0.0]]])
    scaling = plane_scaling(planes, pad="edge_median", low=0, high=100)
    assert scaling.pad_level[0] == ring_median(planes[0]) == 0


@pytest.mark.parametrize("pad", ["zero", "reflect"])
def test_other_paddings_have_level_zero(pad: str, rng: np.random.Generator) -> None:
    assert plane_scaling(object_in(rng), pad=pad).pad_level.tolist() == [0]


def test_padding_does_not_move_the_percentiles(frozen: Freeze, rng: np.random.Generator) -> None:
    # spec 15: percentiles of a 20x20 object are equal alone and padded
    image = np.zeros((1, HEIGHT, WIDTH), np.uint16)
    image[0, :20, :20] = object_in(rng, (20, 20)) + 40
    alone = frozen(image[:, :20, :20])
    over_the_border = cut(frozen(image), Box(-102, -102, 122, 122))
    a, b = plane_scaling(alone), plane_scaling(over_the_border)
    assert (a.offset[0], a.span[0]) == (b.offset[0], b.span[0])
    squares = {}
    for side_px in (24, 96, 224):
        placement = place(Box(0, 0, 20, 20), (20, 20), side_px=side_px, factor=1.0)
        square = apply_placement(normalise(alone, a), placement, pad_level=a.pad_level)[0]
        first = (side_px - 20) // 2
        squares[side_px] = square[first : first + 20, first : first + 20]
        padding = np.delete(square, np.s_[first : first + 20], axis=0)
        assert not padding.any()
    np.testing.assert_array_equal(squares[24], squares[96])
    np.testing.assert_array_equal(squares[24], squares[224])


# ---------------------------------------------------------------- the published form


def test_published_form_blows_up_a_small_object() -> None:
    # spec 8: a 20x20 object in a 224 window has p1 = p99 = 0; a maximum of 250 becomes 2.5e8
    planes = np.full((1, 20, 20), 250, np.uint8)
    scaling = padded_scaling(planes, side_px=224)
    assert (scaling.offset[0], scaling.span[0], scaling.pad_level[0]) == (0, 1e-6, 0)
    assert normalise(planes, scaling).max() == np.float32(2.5e8)
    assert scaling.flags == ()
    assert not scaling.constant.any()


@pytest.mark.parametrize(
    ("shape", "side_px"),
    [
        ((20, 20), 224),
        ((60, 60), 224),
        ((96, 128), 224),
        ((96, 128), 128),
        ((300, 100), 224),
        ((223, 224), 224),  # so little padding that the low percentile is not 0
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_published_form_equals_padding_first(
    shape: tuple[int, int], side_px: int, dtype: str, frozen: Freeze, rng: np.random.Generator
) -> None:
    planes = frozen(rng.integers(30, 250, (2, *shape)).astype(dtype))
    scaling = padded_scaling(planes, side_px=side_px, low=2, high=98)
    height, width = (max(side_px, side) for side in shape)
    for c in range(2):
        padded = np.pad(planes[c].astype(float), ((0, height - shape[0]), (0, width - shape[1])))
        low, high = np.percentile(padded, (2, 98))
        expected = (padded - low) / max(high - low, 1e-6)
        found = normalise(planes, scaling)[c]
        np.testing.assert_allclose(found, expected[: shape[0], : shape[1]], rtol=1e-6)
        # what surrounds the object is a black pixel that went through the same map
        np.testing.assert_allclose(scaling.pad_level[c], (0 - low) / max(high - low, 1e-6))


def test_published_form_depends_on_the_window_ours_does_not(rng: np.random.Generator) -> None:
    planes = rng.integers(30, 250, (1, 30, 30)).astype(np.uint8)
    stds = [float(normalise(planes, padded_scaling(planes, side_px=side)).std()) for side in (30, 224)]
    assert stds[1] > 1.5 * stds[0]
    np.testing.assert_allclose(stds[0], normalise(planes, plane_scaling(planes)).std(), rtol=1e-6)
