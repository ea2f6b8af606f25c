"""Tiles of a slide: known counts, tissue fractions against a loop, levels, draws, and the pixels of a tile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.core.slide_config import TilingConfig
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.ops.area_average import area_average
from microsnoop.ops.slide_tiles import (
    TileGrid,
    choose_level,
    fit_tile,
    saturated_fraction,
    sharpness,
    tile_geometry,
    tile_grid,
)

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)
Freeze = Callable[[NDArray], NDArray]


def _grid(
    size_px: tuple[int, int],
    mpp: float,
    *,
    mask: NDArray[np.bool_] | None = None,
    levels: tuple[float, ...] = (1.0,),
    compat_level: int | None = None,
    slide_id: str = "a",
    **tiling: Any,
) -> TileGrid:
    settings_ = TilingConfig(**tiling)
    shape = (-(-size_px[1] // 16), -(-size_px[0] // 16))
    mask = np.ones(shape, bool) if mask is None else mask
    side = (16.0, 16.0) if mask.shape == shape else (size_px[0] / mask.shape[1], size_px[1] / mask.shape[0])
    geometry = tile_geometry(levels, mpp=mpp, tiling=settings_, compat_level=compat_level, name=slide_id)
    return tile_grid(mask, geometry, mask_px=side, size_px=size_px, tiling=settings_, slide_id=slide_id)


# ---------------------------------------------------------------- known values


@pytest.mark.parametrize(
    ("size_px", "mpp", "count", "side0"),
    [
        ((2240, 2240), 0.5, 100, 224),
        ((2240, 2240), 0.25, 25, 448),
        ((2239, 2240), 0.5, 90, 224),
        ((2240, 2239), 0.5, 90, 224),
        ((2464, 1120), 0.5, 55, 224),
    ],
)
def test_known_counts(size_px: tuple[int, int], mpp: float, count: int, side0: int) -> None:
    found = _grid(size_px, mpp)
    assert len(found) == found.n_grid == count
    assert found.geometry.side0_px == side0
    assert (found.n_background, found.n_not_drawn) == (0, 0)
    np.testing.assert_array_equal(found.tissue_fraction, 1)
    places = np.stack([found.y0, found.x0], axis=1)
    assert (np.lexsort((places[:, 1], places[:, 0])) == np.arange(count)).all()
    assert set(found.x0.tolist()) == {side0 * i for i in range(size_px[0] // side0)}
    assert set(found.y0.tolist()) == {side0 * i for i in range(size_px[1] // side0)}


def test_9_columns_of_a_slide_that_lacks_one_pixel() -> None:
    assert len(np.unique(_grid((2239, 2240), 0.5).x0)) == 9


def test_overlap_brings_tiles_closer() -> None:
    found = _grid((2240, 1120), 0.25, overlap_px=112)
    assert found.geometry.stride0_px == 224
    assert len(found) == 9 * 4
    np.testing.assert_array_equal(np.unique(found.x0), np.arange(9) * 224)


def test_starts_are_rounded_not_the_stride() -> None:
    found = _grid((2220, 2967), 0.499)
    assert found.geometry.stride0_px == pytest.approx(224 * 0.5 / 0.499)
    wanted = [round(i * 224 * 0.5 / 0.499) for i in range(13)]
    assert np.unique(found.y0).tolist() == wanted
    assert wanted[9] == 2020  # 9 × 224 would be 2016
    assert np.unique(found.x0).tolist() == wanted[:9]


@given(
    st.tuples(st.integers(500, 3000), st.integers(500, 3000)),
    st.floats(0.2, 0.51),
    st.integers(0, 100),
)
@PROPERTY
def test_every_tile_lies_inside_and_one_more_would_not(
    size_px: tuple[int, int], mpp: float, overlap: int
) -> None:
    found = _grid(size_px, mpp, overlap_px=overlap, min_tiles=1, tile_px=128)
    reach = found.geometry.footprint0_px
    for starts, length in ((found.x0, size_px[0]), (found.y0, size_px[1])):
        distinct = np.unique(starts)
        assert distinct[0] == 0
        assert distinct[-1] + reach <= length
        assert round(len(distinct) * found.geometry.stride0_px) + reach > length
    assert len(found) == len(np.unique(found.x0)) * len(np.unique(found.y0))


def test_strides_below_a_pixel_give_no_tile_twice() -> None:
    found = _grid((70, 66), 0.5, tile_px=64, overlap_px=63, target_mpp=0.25, allow_upsample=True)
    assert found.geometry.stride0_px == 0.5
    assert len({*zip(found.x0.tolist(), found.y0.tolist(), strict=True)}) == len(found) == 39 * 35


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("wanted", "level"), [(0.5, 0), (1.0, 0), (3.8, 0), (3.93, 1), (4.0, 1), (15.6, 1), (15.7, 2), (99.0, 2)]
)
def test_the_coarsest_level_that_is_fine_enough(wanted: float, level: int) -> None:
    assert choose_level((1.0, 4.0001, 16.0), wanted) == level


def test_a_level_is_used_as_it_is_within_2_percent() -> None:
    same = tile_geometry((1.0, 4.0), mpp=0.25, tiling=TilingConfig(target_mpp=1.0))
    assert (same.level, same.region_px, same.side0_px) == (1, 224, 896)
    near = tile_geometry((1.0, 4.0), mpp=0.253, tiling=TilingConfig(target_mpp=1.0))
    assert (near.level, near.region_px, near.side0_px) == (1, 224, round(224 / 0.253))
    off = tile_geometry((1.0, 4.0), mpp=0.24, tiling=TilingConfig(target_mpp=1.0))
    assert (off.level, off.region_px, off.side0_px) == (1, 233, 933)
    half = tile_geometry((1.0, 4.0), mpp=0.25, tiling=TilingConfig())
    assert (half.level, half.region_px, half.side0_px) == (0, 448, 448)


def test_a_slide_a_little_coarser_is_read_inside() -> None:
    found = _grid((2230, 2230), 0.505)  # side 222 px, but 224 px are read
    assert (found.geometry.side0_px, found.geometry.footprint0_px, found.geometry.region_px) == (
        222,
        224,
        224,
    )
    assert (found.x0 + 224 <= 2230).all()


@pytest.mark.parametrize(
    ("mpp", "refused"), [(0.5, False), (0.51, False), (0.5102, False), (0.512, True), (0.688, True)]
)
def test_enlarging_is_refused_unless_asked(mpp: float, refused: bool) -> None:
    if not refused:
        assert tile_geometry((1.0,), mpp=mpp, tiling=TilingConfig()).region_px == 224
        return
    with pytest.raises(SlideError, match="would be enlarged") as caught:
        tile_geometry((1.0,), mpp=mpp, tiling=TilingConfig(), name="a.tif")
    assert caught.value.code == SlideCode.TOO_COARSE
    assert "a.tif" in caught.value.message
    enlarged = tile_geometry((1.0,), mpp=mpp, tiling=TilingConfig(allow_upsample=True))
    assert enlarged.region_px == enlarged.side0_px == round(224 * 0.5 / mpp)


def test_compat_reads_a_level_whatever_its_scale() -> None:
    found = tile_geometry((1.0, 4.0), mpp=0.3, tiling=TilingConfig(overlap_px=24), compat_level=1)
    assert (found.level, found.region_px, found.side0_px, found.stride0_px) == (1, 224, 896, 800)
    with pytest.raises(SlideError, match="has 2 levels, level 2"):
        tile_geometry((1.0, 4.0), mpp=0.3, tiling=TilingConfig(), compat_level=2, name="a")


# ---------------------------------------------------------------- tissue


def naive_fraction(mask: NDArray, x0: float, y0: float, side: float, px: tuple[float, float]) -> float:
    total = 0.0
    for y, x in np.ndindex(mask.shape):
        height = max(0.0, min(y0 + side, (y + 1) * px[1]) - max(y0, y * px[1]))
        width = max(0.0, min(x0 + side, (x + 1) * px[0]) - max(x0, x * px[0]))
        total += height * width * mask[y, x]
    return total / side**2


@pytest.mark.parametrize("shape", [(24, 32), (17, 23), (31, 45)])
def test_tissue_fractions_equal_a_loop(
    shape: tuple[int, int], frozen: Freeze, rng: np.random.Generator
) -> None:
    mask = frozen(rng.random(shape) < 0.5)
    found = _grid((512, 384), 0.4, mask=mask, tile_px=64, min_tissue=0, overlap_px=20)
    px = (512 / shape[1], 384 / shape[0]) if shape != (24, 32) else (16.0, 16.0)
    wanted = [
        naive_fraction(mask, x, y, found.geometry.side0_px, px)
        for x, y in zip(found.x0, found.y0, strict=True)
    ]
    np.testing.assert_allclose(found.tissue_fraction, wanted, atol=1e-9)
    assert found.geometry.side0_px == 80


def test_tiles_with_too_little_tissue_are_counted() -> None:
    mask = np.zeros((140, 140), bool)
    mask[:, : 7 * 14] = True  # seven of ten columns
    mask[:14, 7 * 14 : 7 * 14 + 11] = True  # 11/14 of one more tile
    mask[14:28, 7 * 14 : 7 * 14 + 10] = True  # 10/14 of the next
    found = _grid((2240, 2240), 0.5, mask=mask)
    assert (len(found), found.n_grid, found.n_background) == (71, 100, 29)
    assert found.tissue_fraction.min() == pytest.approx(11 / 14)


def test_a_tile_of_exactly_the_least_tissue_is_kept() -> None:
    mask = np.zeros((140, 140), bool)
    for start in range(0, 140, 14):
        mask[:, start + 3 : start + 14] = True
    assert len(_grid((2240, 2240), 0.5, mask=mask, min_tissue=11 / 14)) == 100
    with pytest.raises(SlideError):
        _grid((2240, 2240), 0.5, mask=mask, min_tissue=11 / 14 + 1e-6)


def test_full_tissue_is_kept_at_a_share_of_1() -> None:
    assert len(_grid((2239, 2111), 0.4567, min_tissue=1.0)) > 50


def test_the_tiles_cover_the_tissue_of_the_grid(rng: np.random.Generator) -> None:
    mask = rng.random((140, 140)) < 0.5
    found = _grid((2240, 2240), 0.5, mask=mask, min_tissue=0)
    assert (found.tissue_fraction * 224**2).sum() == pytest.approx(mask.sum() * 16**2)


@pytest.mark.parametrize("x_first", [True, False])
def test_axes_are_not_swapped(x_first: bool) -> None:
    mask = np.zeros((70, 140), bool)
    mask[:, :70] = x_first
    mask[:35] |= not x_first
    found = _grid((2240, 1120), 0.5, mask=mask, min_tiles=1)
    assert found.x0.max() == (4 if x_first else 9) * 224
    assert found.y0.max() == (4 if x_first else 1) * 224


def test_too_few_tiles() -> None:
    with pytest.raises(SlideError, match="9 of 9 tiles") as caught:
        _grid((672, 672), 0.5, slide_id="s7")
    assert caught.value.code == SlideCode.TOO_FEW_TILES
    assert "s7" in caught.value.message
    assert len(_grid((672, 672), 0.5, min_tiles=9)) == 9
    with pytest.raises(SlideError, match="smaller than a tile of 224"):
        _grid((223, 2240), 0.5)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((24, 32)), "bool"),
        (np.ones((24, 32, 1), bool), "bool"),
        (np.ones((24, 30), bool), "not of a slide"),
        (np.ones((32, 24), bool), "not of a slide"),
    ],
)
def test_a_mask_of_another_slide_is_refused(mask: NDArray, message: str) -> None:
    geometry = tile_geometry((1.0,), mpp=0.5, tiling=TilingConfig())
    with pytest.raises(ValueError, match=message):
        tile_grid(
            mask, geometry, mask_px=(16.0, 16.0), size_px=(512, 384), tiling=TilingConfig(), slide_id="a"
        )


# ---------------------------------------------------------------- draws


def test_the_draw_is_keyed_by_slide_and_seed() -> None:
    def draw(**options: Any) -> list[tuple[int, int]]:
        found = _grid((2240, 2240), 0.5, max_tiles=30, **options)
        assert (len(found), found.n_not_drawn, found.n_background) == (30, 70, 0)
        return list(zip(found.y0.tolist(), found.x0.tolist(), strict=True))

    first = draw()
    assert first == draw() == sorted(set(first))
    assert first != draw(slide_id="b")
    assert first != draw(seed=1)
    assert len(_grid((2240, 2240), 0.5, max_tiles=100)) == 100


def test_the_draw_is_uniform() -> None:
    counts = np.zeros(100)
    for seed in range(400):
        found = _grid((2240, 2240), 0.5, max_tiles=20, seed=seed)
        counts[found.y0 // 224 * 10 + found.x0 // 224] += 1
    # 400 draws of 20 %: mean 80, SD 8; 100 of them stay within 4 SD
    assert counts.sum() == 8000
    assert np.abs(counts - 80).max() < 32
    assert 5.5 < counts.std() < 10.5


# ---------------------------------------------------------------- pixels


def test_a_tile_of_the_right_size_is_not_touched(frozen: Freeze, rng: np.random.Generator) -> None:
    region = frozen(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8))
    fitted = fit_tile(region, 224)
    np.testing.assert_array_equal(fitted, region)
    assert not np.shares_memory(fitted, region)


def test_within_2_percent_a_tile_is_cut(rng: np.random.Generator) -> None:
    region = rng.integers(0, 256, (228, 227, 3), dtype=np.uint8)
    np.testing.assert_array_equal(fit_tile(region, 224), region[:224, :224])
    region = rng.integers(0, 256, (229, 229, 3), dtype=np.uint8)
    assert not np.array_equal(fit_tile(region, 224), region[:224, :224])


@pytest.mark.parametrize("side", [229, 280, 448, 1000])
def test_a_larger_region_is_averaged(side: int, rng: np.random.Generator) -> None:
    region = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    fitted = fit_tile(region, 224)
    assert fitted.shape == (224, 224, 3)
    assert fitted.dtype == np.uint8
    np.testing.assert_array_equal(fitted, np.rint(area_average(region, (224, 224))))
    if side == 448:
        blocks = region.reshape(224, 2, 224, 2, 3).mean((1, 3))
        assert np.abs(fitted - blocks).max() <= 0.5


def test_a_smaller_region_is_interpolated() -> None:
    ramp = np.repeat(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], 3, axis=2)
    region = np.repeat(ramp, 120, axis=0)
    fitted = fit_tile(region, 224)
    assert fitted.shape == (224, 224, 3)
    steps = np.diff(fitted[100, 5:-5, 0].astype(int))
    assert steps.min() >= 0
    assert steps.max() <= 2  # no steps of whole source pixels
    np.testing.assert_array_equal(fitted[0], fitted[-1])
    upright = fit_tile(np.ascontiguousarray(region.swapaxes(0, 1)), 224)
    np.testing.assert_array_equal(upright, fitted.swapaxes(0, 1))


def test_bad_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        fit_tile(np.zeros((5, 5, 3)), 224)
    with pytest.raises(ValueError, match="at least one pixel"):
        fit_tile(np.zeros((5, 5, 3), np.uint8), 0)


def test_quality_of_a_tile(rng: np.random.Generator) -> None:
    flat = np.full((9, 12, 3), 100, np.uint8)
    assert sharpness(flat) == pytest.approx(0, abs=1e-6)
    assert saturated_fraction(flat) == 0
    dot = flat.copy()
    dot[4, 5] = 110  # Laplacian: -40 there, 10 at four neighbours
    assert sharpness(dot) == pytest.approx((40**2 + 4 * 10**2) / 108, rel=1e-4)
    flat[0, :6, 1] = 255
    flat[1, :3, 2] = 0
    assert saturated_fraction(flat) == pytest.approx(9 / 108)
    noisy = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(fit_tile(noisy, 16), 4, 0), 4, 1)
    assert sharpness(noisy) > 2 * sharpness(smooth)
