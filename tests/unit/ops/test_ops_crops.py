"""Draws of images and windows: shares, limits, seeds."""

from __future__ import annotations

import numpy as np
import pytest

from microsnoop.ops.crops import draw_crop, source_weights


def test_a_source_counts_by_the_root_of_its_size() -> None:
    sources = np.array(["a"] * 900 + ["b"] * 100 + ["c"])
    weights = source_weights(sources)
    assert weights.sum() == pytest.approx(1)
    shares = [weights[sources == name].sum() for name in "abc"]
    assert np.array(shares) / shares[2] == pytest.approx([30, 10, 1])
    mixed = np.random.default_rng(0).permutation(len(sources))
    assert source_weights(sources[mixed]) == pytest.approx(weights[mixed])


@pytest.mark.parametrize("bad", [np.array([]), np.array([["a", "b"]])])
def test_no_sources_is_an_error(bad) -> None:
    with pytest.raises(ValueError, match="sources must be"):
        source_weights(bad)


def test_sides_are_log_uniform_shares_of_the_shorter_side() -> None:
    rng = np.random.default_rng(0)
    boxes = [draw_crop(256, 384, rng) for _ in range(4000)]
    assert all(box.height_px == box.width_px for box in boxes)
    sides = np.array([box.height_px for box in boxes])
    assert sides.min() == pytest.approx(0.2 * 256, abs=1)
    assert sides.max() == pytest.approx(1.1 * 256, abs=2)
    middle = 256 * np.sqrt(0.2 * 1.1)  # half of all lie below the geometric mean
    assert (sides < middle).mean() == pytest.approx(0.5, abs=0.03)


def test_windows_lie_inside_or_are_centred() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        box = draw_crop(96, 128, rng)
        if box.height_px <= 96:
            assert box.inside(96, 128)
        else:
            assert box.y0_px == -((box.height_px - 96) // 2)
            assert 0 <= box.x0_px <= 128 - box.width_px
    starts = {draw_crop(96, 128, rng, scale=(0.5, 0.5)).x0_px for _ in range(2000)}
    assert (min(starts), max(starts)) == (0, 80)


def test_small_images_and_bad_scales() -> None:
    rng = np.random.default_rng(2)
    assert draw_crop(3, 2, rng).height_px == 8
    for scale in ((0.0, 1.0), (0.5, 0.4)):
        with pytest.raises(ValueError, match="scale"):
            draw_crop(50, 50, rng, scale=scale)


def test_the_seed_decides() -> None:
    one, same, other = ([draw_crop(64, 96, np.random.default_rng(s)) for _ in range(3)] for s in (5, 5, 6))
    assert one == same
    assert one != other
