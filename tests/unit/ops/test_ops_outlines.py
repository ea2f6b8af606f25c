"""Outlines against a plain loop over pixels and scikit-image, and the pictures drawn with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.segmentation import find_boundaries

from microsnoop.ops.outlines import PALETTE, draw_outlines, outline

Freeze = Callable[[NDArray], NDArray]


@pytest.fixture
def mask() -> NDArray[np.int32]:
    labels = np.zeros((96, 128), np.int32)
    labels[10:40, 20:60] = 1
    labels[10:40, 60:90] = 4  # touches 1
    labels[80:, 100:] = 9  # reaches the corner
    return labels


@given(arrays(np.uint16, st.tuples(st.integers(1, 7), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_twin(labels: NDArray) -> None:
    expected = np.zeros(labels.shape, bool)
    for (y, x), label in np.ndenumerate(labels):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if label and 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1] and labels[v, u] != label:
                expected[y, x] = True
    np.testing.assert_array_equal(outline(labels), expected)


def test_same_as_scikit_image(mask: NDArray, frozen: Freeze) -> None:
    edge = outline(frozen(mask))
    assert edge.dtype == np.bool_
    np.testing.assert_array_equal(edge, find_boundaries(mask, connectivity=1, mode="inner"))
    assert not edge[-1, 110]  # the picture's own border is no boundary


@pytest.mark.parametrize("colour", [False, True])
def test_only_outlines_are_coloured(
    mask: NDArray, colour: bool, rng: np.random.Generator, frozen: Freeze
) -> None:
    plane = rng.integers(0, 4000, (3, 96, 128) if colour else (96, 128)).astype(np.uint16)
    drawn = draw_outlines(frozen(plane), frozen(mask))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (96, 128, 3)
    edge = outline(mask)
    bare = draw_outlines(plane, np.zeros_like(mask))
    np.testing.assert_array_equal(drawn[~edge], bare[~edge])
    for label in (1, 4, 9):
        np.testing.assert_array_equal(
            np.unique(drawn[edge & (mask == label)], axis=0), [PALETTE[(label - 1) % len(PALETTE)]]
        )


def test_a_mapping_colours_what_it_names(mask: NDArray) -> None:
    drawn = draw_outlines(np.zeros(mask.shape), mask, {4: (1, 2, 3), 77: (9, 9, 9)})
    edge = outline(mask)
    np.testing.assert_array_equal(np.unique(drawn[edge & (mask == 4)], axis=0), [(1, 2, 3)])
    assert not drawn[edge & (mask != 4)].any()
    assert not draw_outlines(np.zeros(mask.shape), mask, {77: (9, 9, 9)}).any()


def test_the_picture_is_stretched_and_colours_keep_their_hue() -> None:
    plane = np.arange(96 * 128, dtype=np.float32).reshape(96, 128)
    drawn = draw_outlines(plane, np.zeros(plane.shape, int), low=0, high=100)
    assert (drawn[0, 0, 0], drawn[-1, -1, 0]) == (0, 255)
    assert (np.diff(drawn[..., 0].reshape(-1).astype(int)) >= 0).all()
    rgb = np.stack([plane, plane / 2, np.zeros_like(plane)])
    corner = draw_outlines(rgb, np.zeros(plane.shape, int), low=0, high=100)[-1, -1]
    assert corner.tolist() == [255, 128, 0]


def test_flat_and_almost_flat_pictures() -> None:
    nothing = np.zeros((96, 128), int)
    assert not draw_outlines(np.full((96, 128), 5), nothing).any()
    spot = np.zeros((96, 128), np.uint8)
    spot[3, 4] = 200
    assert draw_outlines(spot, nothing)[3, 4].tolist() == [255, 255, 255]
    assert draw_outlines(np.zeros((0, 5)), np.zeros((0, 5), int)).shape == (0, 5, 3)


def test_what_does_not_belong_together_is_refused(mask: NDArray) -> None:
    for plane in (mask.T, np.zeros((96, 128, 3)), np.zeros((2, 96, 128))):
        with pytest.raises(ValueError, match="a picture"):
            draw_outlines(plane, mask)
    with pytest.raises(ValueError, match="at least one colour"):
        draw_outlines(np.zeros(mask.shape), mask, [])
    with pytest.raises(ValueError, match="a label mask must be"):
        outline(np.zeros((2, 3, 4), int))
