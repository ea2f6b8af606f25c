"""The built-in segmenter against drawn discs of known number, place and area, and against plain noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from microsnoop.ops.foreground import ThresholdSettings, find_foreground
from microsnoop.ops.match import match_objects
from microsnoop.ops.segment import foreground, segment_threshold

Freeze = Callable[[NDArray], NDArray]
DEFAULTS = ThresholdSettings()
SHAPE = (288, 384)


def draw(
    centres: list[tuple[int, int]], *, radius: float, shape: tuple[int, int] = SHAPE
) -> NDArray[np.int32]:
    rows, cols = np.indices(shape)
    mask = np.zeros(shape, np.int32)
    for label, (y, x) in enumerate(centres, start=1):
        mask[(rows - y) ** 2 + (cols - x) ** 2 <= radius**2] = label
    return mask


def grid(step: int, shape: tuple[int, int] = SHAPE) -> list[tuple[int, int]]:
    return [(y, x) for y in range(step // 2, shape[0], step) for x in range(step // 2, shape[1], step)]


def picture(truth: NDArray, rng: np.random.Generator, *, noise: float = 4.0) -> NDArray[np.float64]:
    """Discs of height 100 on a ground of 50, slightly blurred, with camera noise."""
    clean = 50 + 100 * ndimage.gaussian_filter((truth > 0).astype(float), 1)
    return clean + noise * rng.normal(size=truth.shape)


@pytest.mark.parametrize(("radius", "step"), [(4, 24), (8, 32), (15, 48), (30, 96)])
@pytest.mark.parametrize("threshold", ["auto", "global", "local"])
def test_discs_of_any_size_are_found_with_their_area(
    radius: int, step: int, threshold: str, rng: np.random.Generator, frozen: Freeze
) -> None:
    truth = draw(grid(step), radius=radius)
    found = segment_threshold(
        frozen(picture(truth, rng)),
        replace(DEFAULTS, threshold=threshold),  # type: ignore[arg-type]
    )
    assert found.dtype == np.int32
    matched = match_objects(truth, found, iou=0.6)
    assert (matched.fp, matched.fn) == (0, 0)
    area_px = np.count_nonzero(found) / found.max()
    assert abs(np.sqrt(area_px / np.pi) - radius) < 1  # outlines lie within one pixel


@pytest.mark.parametrize("radius", [6, 12, 25])
def test_the_diameter_is_estimated(radius: int, rng: np.random.Generator) -> None:
    found = find_foreground(picture(draw(grid(4 * radius), radius=radius), rng), DEFAULTS)
    assert found is not None
    assert found.diameter_px == pytest.approx(2 * radius, rel=0.3)


def test_touching_discs_are_split_and_long_ones_are_not(rng: np.random.Generator) -> None:
    pairs = [(y, x + side) for y in range(40, 280, 60) for x in range(50, 380, 90) for side in (-11, 11)]
    truth = draw(pairs, radius=12)
    plane = picture(truth, rng)
    matched = match_objects(truth, segment_threshold(plane, DEFAULTS))
    assert (matched.tp, matched.fp, matched.fn) == (len(pairs), 0, 0)
    whole = segment_threshold(plane, replace(DEFAULTS, split=False))
    assert whole.max() == len(pairs) // 2


def test_long_objects_with_a_slight_waist_stay_whole(rng: np.random.Generator) -> None:
    ends = [(y, x + side) for y, x in grid(96) for side in (-18, 18)]
    truth = np.minimum(draw(ends, radius=11), 1)
    for y, x in grid(96):
        truth[y - 10 : y + 11, x - 18 : x + 19] = 1
    truth = ndimage.label(truth)[0]
    matched = match_objects(truth, segment_threshold(picture(truth, rng), DEFAULTS), iou=0.8)
    assert (matched.tp, matched.fp, matched.fn) == (12, 0, 0)


def test_labels_run_from_the_top_without_gaps(rng: np.random.Generator) -> None:
    found = segment_threshold(picture(draw(grid(48), radius=12), rng), DEFAULTS)
    labels, first = np.unique(found, return_index=True)
    np.testing.assert_array_equal(labels, np.arange(found.max() + 1))
    assert (np.diff(first[1:]) > 0).all()


@pytest.mark.parametrize("threshold", ["auto", "global", "local"])
def test_uneven_illumination_changes_nothing(threshold: str, rng: np.random.Generator) -> None:
    truth = draw(grid(48), radius=12)
    rows, cols = np.indices(SHAPE)
    # a ramp three times as high as the objects: no single threshold on the raw picture can do it
    ramp = 300 * (rows / SHAPE[0] + cols / SHAPE[1]) / 2
    chosen = replace(DEFAULTS, threshold=threshold, polarity="bright")  # type: ignore[arg-type]
    matched = match_objects(truth, segment_threshold(picture(truth, rng) + ramp, chosen))
    assert (matched.fp, matched.fn) == (0, 0)


def test_dim_objects_beside_bright_ones_are_found(rng: np.random.Generator) -> None:
    truth = draw(grid(48), radius=12)
    heights = np.where(np.arange(truth.max() + 1) % 2, 1.0, 0.6)
    plane = 50 + 100 * ndimage.gaussian_filter(heights[truth] * (truth > 0), 1) + rng.normal(size=SHAPE)
    assert match_objects(truth, segment_threshold(plane, DEFAULTS)).f1 == 1


def test_dark_objects(rng: np.random.Generator) -> None:
    truth = draw(grid(48), radius=12)
    dark = 255 - picture(truth, rng)
    bright_way = segment_threshold(255 - dark, replace(DEFAULTS, polarity="bright"))
    for polarity in ("auto", "dark"):
        found = segment_threshold(dark, replace(DEFAULTS, polarity=polarity))  # type: ignore[arg-type]
        assert match_objects(bright_way, found, iou=0.9).f1 == 1
    wrong = segment_threshold(dark, replace(DEFAULTS, polarity="bright"))
    assert match_objects(truth, wrong).tp == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: rng.normal(size=SHAPE),
        lambda rng: rng.random(SHAPE),
        lambda rng: rng.poisson(0.05, SHAPE),
        lambda rng: rng.poisson(0.5, SHAPE),
        lambda rng: rng.poisson(20, SHAPE),
        lambda rng: np.round(100 + 2 * rng.normal(size=SHAPE)).astype(np.uint8),
        lambda rng: ndimage.gaussian_filter(rng.normal(size=SHAPE), 1),
        lambda rng: ndimage.gaussian_filter(rng.normal(size=SHAPE), 4),
        lambda rng: rng.normal(size=SHAPE) + np.linspace(0, 20, SHAPE[1]),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_noise_alone_gives_an_empty_mask(make: Callable[[np.random.Generator], NDArray], seed: int) -> None:
    plane = make(np.random.default_rng(seed))
    assert segment_threshold(plane, DEFAULTS).max() == 0
    assert not foreground(plane, DEFAULTS).any()
    assert segment_threshold(plane, replace(DEFAULTS, min_contrast=0)).max() > 0  # the guard does it


def test_one_object_in_noise_is_all_there_is(rng: np.random.Generator) -> None:
    truth = draw([(100, 200)], radius=14)
    found = segment_threshold(picture(truth, rng, noise=6), DEFAULTS)
    matched = match_objects(truth, found)
    assert (matched.tp, matched.fp) == (1, 0)


@pytest.mark.parametrize(
    "plane",
    [np.zeros((96, 128)), np.full((96, 128), 7, np.uint16), np.ones((1, 1)), np.ones((2, 3), bool)],
    ids=["zeros", "sevens", "pixel", "bool"],
)
def test_a_constant_plane_holds_nothing(plane: NDArray) -> None:
    assert segment_threshold(plane, DEFAULTS).shape == plane.shape
    assert segment_threshold(plane, DEFAULTS).max() == 0


@pytest.mark.parametrize("shape", [(1, 2), (2, 2), (3, 200), (200, 3), (7, 9), (33, 5)])
def test_tiny_planes_do_not_break(shape: tuple[int, int], rng: np.random.Generator) -> None:
    found = segment_threshold(rng.random(shape), DEFAULTS)
    assert found.shape == shape
    assert found.dtype == np.int32


@settings(max_examples=15, deadline=None)
@given(
    scale=st.integers(1, 200),
    shift=st.integers(-1000, 30_000),
    exponent=st.integers(-20, 20),
)
def test_only_contrast_counts(scale: int, shift: int, exponent: int) -> None:
    rng = np.random.default_rng(1)
    plane = np.round(picture(draw(grid(32, (96, 128)), radius=9, shape=(96, 128)), rng)).astype(np.int64)
    expected = segment_threshold(plane, DEFAULTS)
    assert expected.max() == 12
    np.testing.assert_array_equal(segment_threshold(scale * plane + shift, DEFAULTS), expected)
    np.testing.assert_array_equal(segment_threshold(plane * 2.0**exponent, DEFAULTS), expected)


def test_holes_are_filled_unless_told_otherwise(rng: np.random.Generator) -> None:
    truth = draw(grid(72), radius=20)
    rings = np.where(draw(grid(72), radius=8) > 0, 0, truth)
    plane = picture(rings, rng)
    assert match_objects(truth, segment_threshold(plane, DEFAULTS), iou=0.8).f1 == 1
    opened = segment_threshold(plane, replace(DEFAULTS, fill_holes=False, split=False))
    assert (opened[tuple(np.transpose(grid(72)))] == 0).all()


def test_specks_are_dropped(rng: np.random.Generator) -> None:
    truth = draw(grid(48), radius=12)
    plane = picture(truth, rng)
    for y, x in grid(48)[:10]:
        plane[y + 24 - 1 : y + 24 + 2, x : x + 3] = 200  # 3 × 3 px between the discs
    assert segment_threshold(plane, DEFAULTS).max() == truth.max()


def test_foreground_is_the_mask_without_labels(rng: np.random.Generator, frozen: Freeze) -> None:
    plane = frozen(picture(draw(grid(48), radius=12), rng).astype(np.float32))
    mask = foreground(plane, DEFAULTS)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, segment_threshold(plane, replace(DEFAULTS, split=False)) > 0)


def test_same_picture_same_mask_turned_picture_turned_mask(rng: np.random.Generator) -> None:
    truth = draw(grid(48), radius=12)
    plane = picture(truth, rng)
    np.testing.assert_array_equal(segment_threshold(plane, DEFAULTS), segment_threshold(plane, DEFAULTS))
    turned = segment_threshold(plane.T, DEFAULTS)
    assert match_objects(truth.T, turned, iou=0.6).f1 == 1


def test_planes_that_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        plane = np.zeros((96, 128))
        plane[3, 5] = bad
        with pytest.raises(ValueError, match="not finite"):
            segment_threshold(plane, DEFAULTS)
        with pytest.raises(ValueError, match="not finite"):
            foreground(plane, DEFAULTS)
    for other in (np.zeros((3, 96, 128)), np.zeros((0, 5)), np.zeros((4, 4), complex)):
        with pytest.raises(ValueError, match="a plane must be"):
            segment_threshold(other, DEFAULTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"polarity": "up"}, "polarity is one of"),
        ({"threshold": "otsu"}, "threshold is one of"),
        ({"diameter_px": 0}, "diameter_px must be at least"),
        ({"diameter_px": float("nan")}, "diameter_px must be at least"),
        ({"min_contrast": -1}, "min_contrast must be"),
    ],
)
def test_settings_that_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThresholdSettings(**wrong)  # type: ignore[arg-type]
