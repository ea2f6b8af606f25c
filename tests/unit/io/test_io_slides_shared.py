"""Real slides: an Aperio section through both readers, broken files, and sections at three resolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from microsnoop.core.slide_config import TilingConfig
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io.slides import open_slide, read_thumbnail
from microsnoop.ops.slide_tiles import tile_geometry, tile_grid
from microsnoop.ops.tissue import tissue_mask

pytestmark = pytest.mark.shared
HER2ST_MPP = 0.688


@pytest.fixture
def slides(shared_data: Path) -> Path:
    return shared_data / "slides"


def test_an_aperio_slide_through_both_readers(slides: Path) -> None:
    pytest.importorskip("openslide")
    path = str(slides / "cmu_small_region.svs")
    with open_slide(path) as theirs, open_slide(path, reader="tiff") as ours:
        assert theirs.properties["reader"] == "openslide"
        assert theirs.levels == ours.levels == ((2220, 2967, 1.0),)
        for reader in (theirs, ours):
            assert reader.mpp == (0.499, 0.499)
            assert reader.resolved_mpp().source == "slide"
            said = " ".join([*reader.properties, *reader.properties.values()]).lower()
            assert not any(word in said for word in ("label", "macro", "user", "date", "cmu"))
        for x0, y0 in ((0, 0), (1000, 1500), (2000, 2800), (-50, -60)):
            region = {"level": 0, "width_px": 300, "height_px": 250}
            np.testing.assert_array_equal(
                theirs.read_region(x0, y0, **region), ours.read_region(x0, y0, **region)
            )


def test_a_slide_to_tiles_against_a_count_from_the_mask(slides: Path) -> None:
    with open_slide(str(slides / "cmu_small_region.svs"), reader="tiff") as reader:
        thumbnail = read_thumbnail(reader, 8.0)
        mask = tissue_mask(thumbnail.pixels, mpp=thumbnail.mpp).mask
        tiling = TilingConfig()
        geometry = tile_geometry([1.0], mpp=0.499, tiling=tiling)
        grid = tile_grid(
            mask, geometry, mask_px=thumbnail.pixel0_px, size_px=(2220, 2967), tiling=tiling, slide_id="a"
        )
    full = np.kron(mask, np.ones((16, 16), bool))  # a mask pixel is 16.03 px
    count = 0
    for i in range(13):
        for j in range(9):
            y, x = (int(round(k * 224 * 0.5 / 0.499) * 16 / (8 / 0.499)) for k in (i, j))
            count += bool(full[y : y + 224, x : x + 224].mean() >= 0.75)
    assert grid.n_grid == 13 * 9
    assert abs(len(grid) - count) <= 1
    assert len(grid) > 30


def test_a_pyramid_through_both_readers(slides: Path) -> None:
    pytest.importorskip("openslide")
    path = str(slides / "openslide" / "boxes.tiff")
    with open_slide(path, reader="openslide") as theirs, open_slide(path) as ours:
        assert ours.properties["reader"] == "tiff"
        assert theirs.levels == ours.levels
        assert len(ours.levels) == 4
        for number, level in enumerate(ours.levels):
            region = {"level": number, "width_px": level.width_px, "height_px": level.height_px}
            np.testing.assert_array_equal(
                theirs.read_region(0, 0, **region), ours.read_region(0, 0, **region)
            )
        assert ours.mpp is None  # 72 dpi
    with open_slide(str(slides / "openslide" / "boxes.png")) as picture, open_slide(path) as ours:
        region = {"level": 0, "width_px": 300, "height_px": 250}
        assert (
            np.abs(picture.read_region(0, 0, **region).astype(int) - ours.read_region(0, 0, **region)).max()
            <= 1
        )


@pytest.mark.parametrize("name", ["broken.svs", "unopenable.tiff", "unreadable.svs"])
@pytest.mark.parametrize("kind", ["auto", "tiff"])
def test_broken_slides_are_named(name: str, kind: Any, slides: Path) -> None:
    path = slides / "broken" / name
    if name == "unreadable.svs":  # its header is sound
        with open_slide(str(path), reader=kind) as reader, pytest.raises(SlideError) as caught:
            reader.read_region(0, 0, level=0, width_px=8, height_px=8)
    else:
        with pytest.raises(SlideError) as caught:
            open_slide(str(path), reader=kind)
    assert caught.value.code == SlideCode.DECODE_ERROR
    assert str(path) in caught.value.message


def test_sections_have_the_same_tissue_at_three_resolutions(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "her2st/data/ST-imgs/C/C2/5714_HE_BT_C2.jpg"
    with pytest.warns(Image.DecompressionBombWarning):
        section = Image.open(source)
    areas, tiled = [], []
    for mpp in (HER2ST_MPP, 1.0, 2.0):
        size = [round(side * HER2ST_MPP / mpp) for side in section.size]
        array = np.asarray(section if mpp == HER2ST_MPP else section.resize(size, Image.Resampling.BOX))
        path = tmp_path / f"{mpp}.tif"
        with tifffile.TiffWriter(path) as tif:  # a pyramid, so that the mask does not need level 0
            for k in (1, 4):
                level = array[: array.shape[0] // k * k : k, : array.shape[1] // k * k : k]
                if k > 1:
                    level = np.asarray(Image.fromarray(array).reduce(k))
                tif.write(
                    level,
                    photometric="rgb",
                    tile=(512, 512),
                    subfiletype=int(k > 1),
                    resolution=(1e4 / mpp / k,) * 2,
                    resolutionunit="CENTIMETER",
                    metadata=None,
                )
        del array
        with open_slide(str(path)) as reader:
            assert len(reader.levels) == 2
            resolved = reader.resolved_mpp()
            assert resolved.mean_um == pytest.approx(mpp, rel=1e-4)
            thumbnail = read_thumbnail(reader, 8.0)
            found = tissue_mask(thumbnail.pixels, mpp=thumbnail.mpp)
            areas.append(found.tissue_um2)
            downsamples = [one.downsample for one in reader.levels]
            with pytest.raises(SlideError, match="would be enlarged"):
                tile_geometry(downsamples, mpp=resolved.mean_um, tiling=TilingConfig())
            for target in (0.5, 1.0, 2.0):
                tiling = TilingConfig(target_mpp=target, min_tissue=0, allow_upsample=True)
                grid = tile_grid(
                    found.mask,
                    tile_geometry(downsamples, mpp=resolved.mean_um, tiling=tiling),
                    mask_px=thumbnail.pixel0_px,
                    size_px=reader.size_px,
                    tiling=tiling,
                    slide_id="C2",
                )
                tiled.append((grid.tissue_fraction.sum() * (224 * target) ** 2) / found.tissue_um2)
        path.unlink()
    assert max(areas) / min(areas) < 1.02
    assert min(areas) > 5e6
    assert max(abs(share - 1) for share in tiled) < 0.02
