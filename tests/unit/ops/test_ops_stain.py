"""Planes out of colour pictures: mixed stains come apart again, luminance is what the formula says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.color import hed2rgb

from microsnoop.ops.stain import colour_plane

Freeze = Callable[[NDArray], NDArray]


@pytest.fixture
def stained(rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """The hematoxylin of a picture (96, 128), and the picture (3, 96, 128), eosin in it independent."""
    stains = np.zeros((96, 128, 3))
    stains[..., 0] = rng.uniform(0, 0.1, (96, 128))
    stains[..., 1] = rng.uniform(0, 0.1, (96, 128))
    return stains[..., 0], np.moveaxis(hed2rgb(stains), -1, 0)


def test_hematoxylin_comes_back_and_eosin_does_not(stained: tuple[NDArray, NDArray], frozen: Freeze) -> None:
    amount, rgb = stained
    plane = colour_plane(frozen(rgb), "hematoxylin")
    assert plane.dtype == np.float32
    assert plane.shape == (96, 128)
    np.testing.assert_allclose(plane, amount, atol=1e-3)


@pytest.mark.parametrize("how", ["hematoxylin", "grey"])
def test_the_dtype_only_rounds(how: str, stained: tuple[NDArray, NDArray]) -> None:
    _, rgb = stained
    exact = colour_plane(rgb, how)  # type: ignore[arg-type]
    for dtype in (np.uint8, np.uint16):
        whole = np.rint(rgb * np.iinfo(dtype).max).astype(dtype)
        assert np.abs(colour_plane(whole, how) - exact).max() < 0.02  # type: ignore[arg-type]


def test_grey_is_luminance() -> None:
    rgb = np.zeros((3, 96, 128), np.uint8)
    rgb[0, :, :40], rgb[1, :, 40:80], rgb[2, :, 80:] = 255, 255, 255
    plane = colour_plane(rgb, "grey")
    np.testing.assert_allclose(plane[0, [0, 40, 80]], [0.2125, 0.7154, 0.0721], atol=1e-6)
    assert colour_plane(np.full((3, 2, 5), 255, np.uint8), "grey") == pytest.approx(1)


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        (np.zeros((96, 128)), r"\(3, H, W\)"),
        (np.zeros((96, 128, 3)), r"\(3, H, W\)"),
        (np.full((3, 4, 5), 1.5), r"floats in \[0, 1\]"),
        (np.full((3, 4, 5), np.nan), r"floats in \[0, 1\]"),
        (np.zeros((3, 4, 5), np.int16), r"floats in \[0, 1\]"),
    ],
)
def test_pictures_that_are_refused(planes: NDArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        colour_plane(planes, "grey")


def test_an_unknown_plane_is_refused() -> None:
    with pytest.raises(ValueError, match="one of"):
        colour_plane(np.zeros((3, 4, 5)), "eosin")  # type: ignore[arg-type]
