"""Thumbnails: area averages of the whole slide, whatever level they come from; and the road to tiles."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from microsnoop.core.slide_config import TilingConfig
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io import slides
from microsnoop.io.slides import open_slide, read_thumbnail
from microsnoop.ops.slide_tiles import fit_tile, tile_geometry, tile_grid
from microsnoop.ops.tissue import tissue_mask


def _halved(array: NDArray) -> NDArray:
    height, width = array.shape[0] // 2, array.shape[1] // 2
    return np.rint(array.reshape(height, 2, width, 2, 3).mean((1, 3))).astype(np.uint8)


def _write(path: Path, levels: list[NDArray], mpp: float = 0.5, **options: Any) -> str:
    with tifffile.TiffWriter(path) as tif:
        for k, level in enumerate(levels):
            tif.write(
                level,
                photometric="rgb",
                tile=(64, 64),
                subfiletype=1 if k else 0,
                resolution=(1e4 / mpp / 2**k,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                **options,
            )
    return str(path)


def _tissue(height: int, width: int) -> NDArray[np.uint8]:
    """Glass with two rectangles of textured tissue: rows H/8 to 5H/8, columns W/8 to W/2 and 5W/8 to 7W/8."""
    rng = np.random.default_rng(0)
    picture = rng.normal((232, 228, 230), 2, (height, width, 3))
    inside = np.zeros((height, width), bool)
    inside[height // 8 : height * 5 // 8, width // 8 : width // 2] = True
    inside[height // 8 : height * 5 // 8, width * 5 // 8 : width * 7 // 8] = True
    picture[inside] = rng.normal((160, 90, 150), 15, (inside.sum(), 3))
    return np.clip(picture, 0, 255).astype(np.uint8)


def naive_thumbnail(picture: NDArray, pixel_px: float) -> NDArray:
    shape = [math.ceil(n / pixel_px - 1e-6) for n in picture.shape[:2]]
    sums = np.zeros((picture.shape[0] + 1, picture.shape[1] + 1, 3))
    sums[1:, 1:] = picture.astype(float).cumsum(0).cumsum(1)

    def upto(y: float, x: float) -> NDArray:
        rows, columns = min(int(y), picture.shape[0] - 1), min(int(x), picture.shape[1] - 1)
        v, u = y - rows, x - columns
        corner = sums[rows : rows + 2, columns : columns + 2]
        return (1 - v) * ((1 - u) * corner[0, 0] + u * corner[0, 1]) + v * (
            (1 - u) * corner[1, 0] + u * corner[1, 1]
        )

    result = np.zeros((*shape, 3))
    for y, x in np.ndindex(*shape):
        top, left = y * pixel_px, x * pixel_px
        bottom, right = min(top + pixel_px, picture.shape[0]), min(left + pixel_px, picture.shape[1])
        total = upto(bottom, right) - upto(top, right) - upto(bottom, left) + upto(top, left)
        result[y, x] = total / ((bottom - top) * (right - left))
    return result


@pytest.mark.parametrize(("mask_mpp", "level"), [(0.5, 0), (0.8, 0), (0.99, 0), (1.0, 1), (2.0, 1), (3.7, 1)])
@pytest.mark.parametrize("block_px", [1024, 40])
def test_a_thumbnail_is_the_area_average(
    mask_mpp: float, level: int, block_px: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slides, "_BLOCK_PX", block_px)
    picture = np.random.default_rng(0).integers(0, 256, (100, 138, 3), dtype=np.uint8)
    path = _write(tmp_path / "a.tif", [picture, _halved(picture)])
    with open_slide(path) as reader:
        found = read_thumbnail(reader, mask_mpp)
    assert found.level == level
    assert found.mpp == pytest.approx((mask_mpp, mask_mpp))
    assert found.pixel0_px == pytest.approx((mask_mpp / 0.5,) * 2)
    assert found.bad_fraction == 0
    wanted = naive_thumbnail([picture, _halved(picture)][level], mask_mpp / 0.5 / 2**level)
    assert found.pixels.shape == wanted.shape
    assert np.abs(found.pixels - wanted).max() <= 0.51
    if mask_mpp in (1.0, 2.0):  # a level is rounded to whole grey values before it is averaged again
        assert np.abs(found.pixels - naive_thumbnail(picture, mask_mpp / 0.5)).max() <= 1


def test_a_slide_coarser_than_its_mask_stays_as_it_is(tmp_path: Path) -> None:
    picture = _tissue(96, 128)
    with open_slide(_write(tmp_path / "a.tif", [picture], mpp=4.0)) as reader:
        found = read_thumbnail(reader, 2.0)
    np.testing.assert_array_equal(found.pixels, picture)
    assert found.mpp == pytest.approx((4.0, 4.0))
    assert found.pixel0_px == (1.0, 1.0)


def test_compat_takes_the_last_level(tmp_path: Path) -> None:
    picture = _tissue(96, 128)
    with open_slide(_write(tmp_path / "a.tif", [picture, _halved(picture)])) as reader:
        found = read_thumbnail(reader, 8.0, compat=True)
    np.testing.assert_array_equal(found.pixels, _halved(picture))
    assert found.mpp == pytest.approx((1.0, 1.0))


def test_a_slide_without_a_scale_has_no_thumbnail(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, _tissue(96, 128), photometric="rgb", tile=(32, 32))
    with open_slide(str(path)) as reader, pytest.raises(SlideError) as caught:
        read_thumbnail(reader, 8.0)
    assert caught.value.code == SlideCode.MPP_MISSING
    with open_slide(str(path), mpp=0.5) as reader, pytest.raises(ValueError, match="positive"):
        read_thumbnail(reader, 0.0)


def test_a_few_bad_tiles_are_white_and_counted(tmp_path: Path) -> None:
    picture = np.full((640, 768, 3), 120, np.uint8)
    path = _write(tmp_path / "a.tif", [picture], compression="deflate")
    with tifffile.TiffFile(path) as tif:
        start, count = tif.pages[0].dataoffsets[13], tif.pages[0].databytecounts[13]
    data = bytearray(Path(path).read_bytes())
    data[start : start + count] = b"\xff" * count
    Path(path).write_bytes(data)
    with open_slide(path) as reader:
        with pytest.raises(SlideError, match=r"of level 0 cannot be read, at most 1\.0%") as caught:
            read_thumbnail(reader, 2.0)
        assert caught.value.code == SlideCode.DECODE_ERROR
        found = read_thumbnail(reader, 2.0, max_bad=0.07)
    # tile 13 is in row 1, column 1 of 10 × 12; four squares of 80 × 96 px touch it
    assert found.bad_fraction == pytest.approx(4 * 80 * 96 / (640 * 768))
    assert (found.pixels[17:31, 17:31] == 255).all()
    assert (found.pixels[40:, 48:] == 120).all()


def test_memory_is_that_of_a_block(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def tiles() -> Any:
        tile = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
        for _ in range(16 * 16):
            yield tile

    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(
            tiles(),
            shape=(4096, 4096, 3),
            dtype=np.uint8,
            tile=(256, 256),
            photometric="rgb",
            resolution=(20000, 20000),
            resolutionunit="CENTIMETER",
        )
    with open_slide(str(path), cache_bytes=2_000_000) as reader:
        read_thumbnail(reader, 64.0)
        tracemalloc.start()
        found = read_thumbnail(reader, 8.0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert found.pixels.shape == (256, 256, 3)
    assert peak < 35e6  # the slide has 50 MB; a block 3 MB, 12 MB as float32


# ---------------------------------------------------------------- from file to tiles


def test_known_rectangles_of_tissue(tmp_path: Path) -> None:
    picture = _tissue(1536, 2048)
    levels = [picture, _halved(picture), _halved(_halved(picture))]
    with open_slide(_write(tmp_path / "a.tif", levels)) as reader:
        thumbnail = read_thumbnail(reader, 8.0)
        found = tissue_mask(thumbnail.pixels, mpp=thumbnail.mpp)
        area_um2 = 768 * (768 + 512) * 0.25
        assert found.tissue_um2 == pytest.approx(area_um2, rel=0.03)
        tiling = TilingConfig(tile_px=64, target_mpp=1.0)
        geometry = tile_geometry([one.downsample for one in reader.levels], mpp=0.5, tiling=tiling)
        assert (geometry.level, geometry.region_px, geometry.side0_px) == (1, 64, 128)
        grid = tile_grid(
            found.mask,
            geometry,
            mask_px=thumbnail.pixel0_px,
            size_px=reader.size_px,
            tiling=tiling,
            slide_id=reader.slide_id,
        )
        # rows 192 to 960, columns 256 to 1024 and 1280 to 1792: rows start on half a tile, columns on whole ones
        assert len(grid) == 5 * (6 + 4)
        assert set(grid.y0.tolist()) == {256, 384, 512, 640, 768}
        for x0, y0 in zip(grid.x0.tolist(), grid.y0.tolist(), strict=True):
            tile = reader.read_region(x0, y0, level=1, width_px=64, height_px=64)
            np.testing.assert_array_equal(tile, levels[1][y0 // 2 : y0 // 2 + 64, x0 // 2 : x0 // 2 + 64])


def test_a_tile_at_twice_the_scale_is_the_same_after_resizing(tmp_path: Path) -> None:
    fine = _tissue(896, 896)
    with (
        open_slide(_write(tmp_path / "fine.tif", [fine], mpp=0.25)) as at_40,
        open_slide(_write(tmp_path / "coarse.tif", [_halved(fine)], mpp=0.5)) as at_20,
    ):
        for index in range(4):
            tiles = []
            for reader in (at_40, at_20):
                assert reader.mpp is not None
                geometry = tile_geometry([1.0], mpp=reader.mpp[0], tiling=TilingConfig())
                x0, y0 = index % 2 * geometry.side0_px, index // 2 * geometry.side0_px
                side = geometry.region_px
                region = reader.read_region(x0, y0, level=geometry.level, width_px=side, height_px=side)
                tiles.append(fit_tile(region, 224).astype(int))
            assert np.abs(tiles[0] - tiles[1]).max() <= 2
            assert tiles[0].std() > 5
