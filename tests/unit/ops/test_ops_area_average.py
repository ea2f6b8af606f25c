"""Area averaging against a loop over partly covered pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.ops.area_average import area_average

Freeze = Callable[[NDArray], NDArray]


def naive(image: NDArray, shape: tuple[int, int], pixel_px: tuple[float, float], offset: tuple) -> NDArray:
    result = np.zeros((*shape, image.shape[2]))
    for y, x in np.ndindex(shape):
        top, left = offset[0] + y * pixel_px[0], offset[1] + x * pixel_px[1]
        bottom, right = min(top + pixel_px[0], image.shape[0]), min(left + pixel_px[1], image.shape[1])
        total, area = np.zeros(image.shape[2]), 0.0
        for row in range(math.floor(top), min(math.ceil(bottom), image.shape[0])):
            for column in range(math.floor(left), min(math.ceil(right), image.shape[1])):
                share = (min(row + 1, bottom) - max(row, top)) * (min(column + 1, right) - max(column, left))
                total += share * image[row, column]
                area += share
        result[y, x] = total / area
    return result


@pytest.mark.parametrize("shape", [(1, 1), (5, 8), (7, 3), (12, 16), (24, 32)])
def test_equals_a_loop(shape: tuple[int, int], frozen: Freeze, rng: np.random.Generator) -> None:
    image = frozen(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    found = area_average(image, shape)
    assert found.dtype == np.float32
    wanted = naive(image, shape, (12 / shape[0], 16 / shape[1]), (0, 0))
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("pixel_px", [(2.5, 3.0), (1.0, 1.25), (4.7, 16.0), (3.3, 3.3)])
def test_a_last_pixel_that_reaches_over_is_the_mean_of_what_there_is(
    pixel_px: tuple[float, float], rng: np.random.Generator
) -> None:
    image = rng.integers(0, 256, (12, 16, 2)).astype(np.float64)
    shape = (math.ceil(12 / pixel_px[0]), math.ceil(16 / pixel_px[1]))
    found = area_average(image, shape, pixel_px=pixel_px)
    np.testing.assert_allclose(found, naive(image, shape, pixel_px, (0, 0)), atol=1e-3)


def test_an_offset_moves_the_grid(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    found = area_average(image, (3, 4), pixel_px=(2.5, 3.0), offset_px=(0.75, 0.5))
    np.testing.assert_allclose(found, naive(image, (3, 4), (2.5, 3.0), (0.75, 0.5)), atol=1e-3)


def test_the_mean_is_kept(rng: np.random.Generator) -> None:
    image = rng.normal(size=(30, 41, 1))
    assert area_average(image, (7, 9)).mean() == pytest.approx(image.mean(), abs=1e-6)


def test_the_same_size_changes_nothing(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    np.testing.assert_array_equal(area_average(image, (9, 14)), image)


@pytest.mark.parametrize(
    "options",
    [{"pixel_px": (20.0, 1.0)}, {"pixel_px": (0.0, 1.0)}, {"pixel_px": (1.0, 1.0), "offset_px": (-1.0, 0.0)}],
)
def test_pixels_outside_the_image_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        area_average(np.zeros((12, 16, 1)), (2, 2), **options)


def test_not_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="channels"):
        area_average(np.zeros((12, 16)), (2, 2))
