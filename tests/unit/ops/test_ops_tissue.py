"""Tissue masks: slides of which the answer is known, cleaning against naive twins, ink, weak contrast."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu

from microsnoop.core.slide_config import TissueConfig
from microsnoop.core.slide_errors import SlideCode, SlideError, SlideFlag
from microsnoop.ops.tissue import (
    TissueMask,
    fill_holes,
    grey_of,
    ink_mask,
    open_and_close,
    remove_small,
    tissue_mask,
)

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)
Freeze = Callable[[NDArray], NDArray]
MASKS = arrays(bool, st.tuples(st.integers(3, 14), st.integers(3, 17)))
H, W = 240, 320


def _glass(rng: np.random.Generator, level: float = 0.9, noise: float = 0.01) -> NDArray[np.uint8]:
    # slightly tinted, as glass is: without any colour it would lie outside the range of saturations
    values = (level + noise * rng.normal(size=(H, W, 1))) * (1.02, 1.0, 0.98)
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _disc(y: float, x: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:H, :W]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def _slide(rng: np.random.Generator, *, radius: float = 60) -> NDArray[np.uint8]:
    picture = _glass(rng)
    inside = _disc(120, 170, radius)
    picture[inside] = np.clip(rng.normal((150, 80, 140), 12, (inside.sum(), 3)), 0, 255).astype(np.uint8)
    return picture


def _reject(picture: NDArray[np.uint8], **options: Any) -> SlideError:
    with pytest.raises(SlideError) as caught:
        tissue_mask(picture, mpp=8.0, settings=TissueConfig(**options), name="a.svs")
    assert caught.value.code == SlideCode.NO_TISSUE
    assert "a.svs" in caught.value.message
    return caught.value


# ---------------------------------------------------------------- known slides


@pytest.mark.parametrize("method", ["otsu", "saturation"])
def test_the_area_of_a_dark_disc(method: Any, rng: np.random.Generator, frozen: Freeze) -> None:
    picture = frozen(_slide(rng))
    found = tissue_mask(picture, mpp=8.0, settings=TissueConfig(method=method))
    assert found.tissue_um2 == pytest.approx(math.pi * (60 * 8) ** 2, rel=0.03)
    assert found.mask.shape == (H, W)
    assert found.mask.dtype == bool
    assert found.tissue_um2 == pytest.approx(found.mask.sum() * 64)
    overlap = (found.mask & _disc(120, 170, 60)).sum() / (found.mask | _disc(120, 170, 60)).sum()
    assert overlap > 0.97
    assert not found.flags
    assert found.contrast is not None
    assert found.contrast > 0.85


def test_mpp_may_differ_between_x_and_y(rng: np.random.Generator) -> None:
    picture = _slide(rng)
    both, square = tissue_mask(picture, mpp=(8.0, 8.08)), tissue_mask(picture, mpp=8.0)
    assert both.tissue_um2 / both.mask.sum() == pytest.approx(8 * 8.08)
    np.testing.assert_array_equal(both.mask, square.mask)


@pytest.mark.parametrize("value", [255, 0])
def test_a_slide_of_one_value_has_no_tissue(value: int) -> None:
    assert "0 of 76800 pixels" in _reject(np.full((H, W, 3), value, np.uint8)).message


def test_grainy_glass_has_no_tissue(rng: np.random.Generator) -> None:
    assert "darker than 0.920" in _reject(_glass(rng, 0.96)).message


def test_without_t_max_grainy_glass_would_be_tissue(rng: np.random.Generator) -> None:
    loose = TissueConfig(t_max=1.0, morph_um=0, min_area_um2=0)
    assert tissue_mask(_glass(rng, 0.96), mpp=8.0, settings=loose).weak_contrast


def test_99_values_in_range_are_too_few(rng: np.random.Generator) -> None:
    picture = np.full((H, W, 3), 255, np.uint8)
    picture[100:109, 100:111] = rng.integers(90, 110, (9, 11, 3))
    assert "99 of 76800" in _reject(picture).message
    picture[150, 150] = 100
    assert "left after cleaning" in _reject(picture).message


def test_a_frame_is_removed(rng: np.random.Generator) -> None:
    picture = _slide(rng)
    plain = tissue_mask(picture, mpp=8.0)
    picture[:8] = picture[-8:] = 30  # 1/30 of 240 rows, 11 of 320 columns
    picture[:, :11] = picture[:, -11:] = 30
    framed = tissue_mask(picture, mpp=8.0)
    np.testing.assert_array_equal(framed.mask, plain.mask)
    assert framed.threshold == plain.threshold
    assert framed.removed["frame"] == pytest.approx(1 - (224 * 298) / (H * W))
    thick = picture.copy()
    thick[:20] = 80
    assert tissue_mask(thick, mpp=8.0).mask[12, 100]
    assert not tissue_mask(thick, mpp=8.0).mask[:8].any()


def test_closing_does_not_reach_into_a_narrow_frame(rng: np.random.Generator) -> None:
    picture = rng.normal((150, 80, 140), 12, (H, W, 3)).astype(np.uint8)
    picture[:, : W // 2] = 230
    found = tissue_mask(picture, mpp=1.0, settings=TissueConfig(border=0.01, min_area_um2=0))
    assert found.mask[2:-2, W // 2 + 5 : -3].all()
    assert not found.mask[:2].any()
    assert not found.mask[:, -3:].any()


def test_no_border_keeps_tissue_at_the_edge(rng: np.random.Generator) -> None:
    picture = _glass(rng)
    picture[:100, :100] = 120
    found = tissue_mask(picture, mpp=8.0, settings=TissueConfig(border=0))
    np.testing.assert_array_equal(found.mask, np.pad(np.ones((100, 100), bool), ((0, 140), (0, 220))))


def test_the_threshold_is_otsus_on_values_in_range(rng: np.random.Generator) -> None:
    picture = _slide(rng)
    picture[200:230, 200:300] = 5  # black: out of range, so it moves nothing and is no tissue
    picture[20:40, 20:60] = 255
    grey = (picture @ np.array([0.2125, 0.7154, 0.0721])) / 255
    inner = grey[8:-8, 11:-11]
    inner = inner[(inner > 0.1) & (inner < 0.98)]
    found = tissue_mask(picture, mpp=8.0)
    assert found.threshold == pytest.approx(threshold_otsu(inner, nbins=256), abs=1e-4)
    assert not found.mask[205:225, 205:295].any()


def test_tissue_on_clipped_glass_of_one_value() -> None:
    picture = np.full((H, W, 3), 255, np.uint8)
    picture[_disc(120, 170, 60)] = 128
    found = tissue_mask(picture, mpp=8.0)
    assert found.tissue_um2 == pytest.approx(math.pi * 480**2, rel=0.03)
    assert found.weak_contrast  # nothing was separated: look at it


def test_grey_is_the_weighted_sum(rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    wanted = (0.2125 * picture[..., 0] + 0.7154 * picture[..., 1] + 0.0721 * picture[..., 2]) / 255
    np.testing.assert_allclose(grey_of(picture), wanted, atol=1e-6)
    assert grey_of(np.full((2, 2, 3), 255, np.uint8)).max() == pytest.approx(1.0)


# ---------------------------------------------------------------- contrast


@pytest.mark.parametrize(
    ("draw", "share", "weak"),
    [
        (lambda rng, n: rng.normal(0.55, 0.08, n), 0.64, True),
        (lambda rng, n: rng.uniform(0.2, 0.9, n), 0.75, False),
        (lambda rng, n: np.where(rng.random(n) < 0.3, 0.45, 0.88) + rng.normal(0, 0.05, n), 0.93, False),
    ],
)
def test_the_share_between_classes(
    draw: Callable, share: float, weak: bool, rng: np.random.Generator
) -> None:
    values = np.repeat(draw(rng, H * W).reshape(H, W, 1), 3, axis=2)
    picture = np.clip(np.rint(values * 255), 26, 249).astype(np.uint8)
    found = tissue_mask(picture, mpp=8.0, settings=TissueConfig(morph_um=0, min_area_um2=0))
    assert found.contrast == pytest.approx(share, abs=0.02)
    assert found.weak_contrast is weak
    assert (SlideFlag.WEAK_CONTRAST in found.flags) is weak


# ---------------------------------------------------------------- cleaning


def _naive_square(mask: NDArray, side: int, *, grow: bool, first: int) -> NDArray:
    """Any (grow) or all pixels inside the image of the square that begins ``first`` before each pixel."""
    result = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        rows = slice(max(0, y + first), max(0, y + first + side))
        part = mask[rows, max(0, x + first) : max(0, x + first + side)]
        result[y, x] = part.any() if grow else part.all()
    return result


@given(MASKS, st.integers(2, 5))
@PROPERTY
def test_closing_and_opening_equal_a_loop(mask: NDArray, side: int) -> None:
    before = mask.copy()
    back, ahead = -(side // 2), -(side - 1 - side // 2)
    closed = _naive_square(_naive_square(mask, side, grow=True, first=back), side, grow=False, first=ahead)
    opened = _naive_square(_naive_square(closed, side, grow=False, first=ahead), side, grow=True, first=back)
    np.testing.assert_array_equal(open_and_close(mask, side), opened)
    assert (closed >= mask).all()  # closing adds, opening removes: nothing is shifted
    assert (opened <= closed).all()
    np.testing.assert_array_equal(mask, before)


def _pieces(mask: NDArray, neighbours: int) -> list[list[tuple[int, int]]]:
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    steps = [step for step in steps if neighbours == 8 or 0 in step]
    seen, pieces = np.zeros_like(mask), []
    for start in zip(*np.nonzero(mask), strict=True):
        if seen[start]:
            continue
        queue, piece = deque([start]), []
        seen[start] = True
        while queue:
            y, x = queue.popleft()
            piece.append((y, x))
            for dy, dx in steps:
                near = (y + dy, x + dx)
                inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
                if inside and mask[near] and not seen[near]:
                    seen[near] = True
                    queue.append(near)
        pieces.append(piece)
    return pieces


@given(MASKS, st.floats(0, 12) | st.integers(0, 12))
@PROPERTY
def test_small_pieces_and_holes_equal_a_loop(mask: NDArray, limit: float) -> None:
    kept, filled = np.zeros_like(mask), mask.copy()
    for piece in _pieces(mask, 8):
        if len(piece) >= limit:
            kept[tuple(zip(*piece, strict=True))] = True
    for hole in _pieces(~mask, 4):
        at_border = any(y in (0, mask.shape[0] - 1) or x in (0, mask.shape[1] - 1) for y, x in hole)
        if len(hole) < limit and not at_border:
            filled[tuple(zip(*hole, strict=True))] = True
    np.testing.assert_array_equal(remove_small(mask, limit), kept)
    np.testing.assert_array_equal(fill_holes(mask, limit), filled)


def test_small_pieces_go_and_small_holes_are_filled(rng: np.random.Generator) -> None:
    picture = _slide(rng)
    picture[30:58, 30:57] = 100  # 756 px of 64 µm² are below 50,000 µm²; 28 × 28 = 784 px are not
    picture[190:218, 30:58] = 100
    picture[110:127, 160:177] = 230  # 289 px are below 20,000 µm²; 18 × 18 = 324 px are not
    picture[80:98, 170:188] = 230
    found = tissue_mask(picture, mpp=8.0)
    assert not found.mask[30:58, 30:57].any()
    assert found.mask[190:218, 30:58].all()
    assert found.mask[110:127, 160:177].all()
    assert not found.mask[81:97, 171:187].any()
    assert found.removed["small"] == pytest.approx(756 / (H * W), rel=0.02)
    assert found.removed["filled"] == pytest.approx(289 / (H * W), rel=0.02)


@pytest.mark.parametrize(("mpp", "bridged"), [(8.0, False), (4.0, True)])
def test_the_square_is_16_um(mpp: float, bridged: bool, rng: np.random.Generator) -> None:
    picture = _glass(rng)
    picture[60:180, 60:150] = 110
    picture[60:180, 153:240] = 110  # a gap of 3 px: closed by a square of 4 px, not by one of 2 px
    found = tissue_mask(picture, mpp=mpp, settings=TissueConfig(fill_holes_um2=0))
    assert found.mask[100, 151] == bridged


def test_compat_has_squares_of_2_px_and_no_area_filter(rng: np.random.Generator) -> None:
    picture = _slide(rng)
    picture[30:33, 30:33] = 100
    picture[60] = 230  # a line of one pixel is closed by 2 px
    picture[150:153] = 230  # one of three is not
    found = tissue_mask(picture, mpp=1.0, compat=True)
    assert found.mask[30:33, 30:33].all()
    assert found.mask[118, 170]
    assert not found.mask[151].any()


# ---------------------------------------------------------------- ink and overrides


def test_ink_is_background_when_asked(rng: np.random.Generator) -> None:
    picture = _slide(rng)
    marks = {"green": (20, 150, 40), "blue": (30, 60, 190), "black": (20, 20, 22)}
    for number, colour in enumerate(marks.values()):
        picture[20 + 70 * number : 60 + 70 * number, 20:70] = colour
    plain = tissue_mask(picture, mpp=8.0)
    assert plain.mask[25:55, 25:65].all()
    assert plain.removed["pen"] == 0
    found = tissue_mask(picture, mpp=8.0, settings=TissueConfig(pen_filter=True))
    assert not found.mask[:, 20:70].any()
    assert found.removed["pen"] == pytest.approx(3 * 40 * 50 / (H * W), rel=0.02)
    assert found.tissue_um2 == pytest.approx(math.pi * 480**2, rel=0.03)


def test_ink_in_blocks_of_rows_equals_the_whole(rng: np.random.Generator) -> None:
    picture = rng.integers(0, 256, (600, 11, 3), dtype=np.uint8)
    hue, saturation, _ = np.moveaxis(rgb2hsv(picture), -1, 0)
    coloured = ((hue >= 80 / 360) & (hue <= 170 / 360)) | ((hue >= 185 / 360) & (hue <= 240 / 360))
    wanted = (coloured & (saturation > 0.4)) | (grey_of(picture) < 0.1)
    np.testing.assert_array_equal(ink_mask(picture), wanted)


@pytest.mark.parametrize("stain", [(150, 80, 140), (90, 60, 150), (200, 120, 180), (110, 70, 40)])
def test_stains_are_no_ink(stain: tuple[int, int, int]) -> None:
    assert not ink_mask(np.full((2, 2, 3), stain, np.uint8)).any()


def test_the_whole_slide_as_an_explicit_choice() -> None:
    found = tissue_mask(np.full((6, 8, 3), 255, np.uint8), mpp=2.0, settings=TissueConfig(whole_slide=True))
    assert isinstance(found, TissueMask)
    assert found.mask.all()
    assert found.tissue_um2 == 6 * 8 * 4
    assert found.threshold is None
    assert found.flags == (SlideFlag.WHOLE_SLIDE,)


@pytest.mark.parametrize(
    ("picture", "mpp", "message"),
    [
        (np.zeros((5, 5), np.uint8), 8.0, "uint8"),
        (np.zeros((5, 5, 4), np.uint8), 8.0, "uint8"),
        (np.zeros((5, 5, 3), np.uint16), 8.0, "uint8"),
        (np.zeros((0, 5, 3), np.uint8), 8.0, "uint8"),
        (np.zeros((5, 5, 3), np.uint8), 0.0, "positive"),
        (np.zeros((5, 5, 3), np.uint8), (8.0, math.nan), "positive"),
    ],
)
def test_bad_arguments(picture: NDArray, mpp: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tissue_mask(picture, mpp=mpp)


def test_a_users_mask_needs_no_threshold() -> None:
    with pytest.raises(ValueError, match="user_mask"):
        tissue_mask(
            np.zeros((5, 5, 3), np.uint8), mpp=8.0, settings=TissueConfig(method="user", user_masks="m")
        )
