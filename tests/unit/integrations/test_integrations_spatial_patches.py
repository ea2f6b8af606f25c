"""The inputs of the embedding: read by the pipeline's own readers, they show the tissue under each spot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from microsnoop.core.config_file import load_config
from microsnoop.core.errors import ConfigError, RunError
from microsnoop.io.cells import attach_cells
from microsnoop.io.images import ImageSource, read_image
from microsnoop.io.manifest import read_records
from microsnoop.ops.geometry import Box
from microsnoop_integrations.joint.joining import JOIN_COLUMN
from microsnoop_integrations.spatial import Spots, write_patch_inputs
from microsnoop_integrations.spatial_patches import patch_side_px
from microsnoop_integrations.spatial_spots import Scale, SpotImage, find_image

HEIGHT, WIDTH = 150, 260
CENTRES = np.array([[40.5, 30.5], [200.0, 40.25], [120.5, 110.5]])
COLOURS = [(10, 60, 110), (200, 20, 90), (30, 240, 5)]
NAMES = ["2x2", "10x2", "6x6"]


@pytest.fixture
def spots(tmp_path: Path) -> Spots:
    """Spots of 20 µm in an image of 0.8 µm a pixel, each painted as a square of its colour, 31 px wide."""
    pixels = np.full((HEIGHT, WIDTH, 3), 235, np.uint8)
    for (x, y), colour in zip(CENTRES.astype(int), COLOURS, strict=True):
        pixels[y - 15 : y + 16, x - 15 : x + 16] = colour
    Image.fromarray(pixels).save(tmp_path / "he.png")
    names = [f"her2st:Z1:{name}" for name in NAMES]
    rna = ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame({"spot": NAMES}, index=names))
    rejects = pd.DataFrame({"obs_id": ["her2st:Z1:1x1"]})
    image = find_image(tmp_path / "he.png")
    return Spots(rna, CENTRES, image, Scale(0.8, "given"), 20.0, rejects, "Z1", "her2st", 4)


def test_the_pipeline_cuts_each_spot_and_keeps_its_id(spots: Spots, tmp_path: Path) -> None:
    config = load_config(write_patch_inputs(spots, tmp_path / "in"))
    records, meta, notes = attach_cells(read_records(config.input).records, config.input)
    assert notes == []
    assert records["pixel_size_um"].to_pylist() == [0.8]
    [record] = records.to_pylist()
    boxes = {box["label"]: box for box in record["boxes"]}
    assert list(boxes) == NAMES
    source = ImageSource.of(record)
    for name, colour in zip(NAMES, COLOURS, strict=True):
        box = boxes[name]
        assert (box["height_px"], box["width_px"]) == (25, 25)
        where = Box(*(box[key] for key in ("y0_px", "x0_px", "height_px", "width_px")))
        planes = read_image(source, channels=config.input.channels, box=where)
        assert planes.channels == ("red", "green", "blue")
        assert (planes.planes == np.array(colour)[:, None, None]).all()
    ids = dict(zip(meta["parent_id"].to_pylist(), meta[f"meta_{JOIN_COLUMN}"].to_pylist(), strict=True))
    assert ids == {f"Z1#{name}": f"her2st:Z1:{name}" for name in NAMES}


def test_the_settings_suit_a_spot(spots: Spots, tmp_path: Path) -> None:
    path = write_patch_inputs(spots, tmp_path / "in")
    config = load_config(path)
    assert (config.mode, config.input.cell_size_px, config.encoder) == ("rescale", 25, "snoop-trial")
    assert config.normalise.pad == "edge_median"
    assert Path(config.run_dir) == (tmp_path / "in" / "run").resolve()
    assert Path(config.input.cells).is_absolute()
    assert "max_image_mpx" not in yaml.safe_load(path.read_text())["input"]
    head = path.read_text().splitlines()[:2]
    assert "25 px = 20.0 µm around 3 spots (1 rejected)" in head[0]
    assert "0.8000 µm (given)" in head[1]


def test_encoder_run_and_settings_can_be_chosen(spots: Spots, tmp_path: Path) -> None:
    path = write_patch_inputs(
        spots, tmp_path / "in", diameter_um=40, encoder="untrained", run_dir=tmp_path / "r",
        settings={"input_px": 96, "normalise.high": 99.5},
    )  # fmt: skip
    config = load_config(path)
    assert (config.encoder, config.input_px, config.input.cell_size_px) == ("untrained", 96, 50)
    assert (config.normalise.high, config.normalise.pad) == (99.5, "edge_median")
    assert config.run_dir == str((tmp_path / "r").resolve())
    with pytest.raises(ConfigError, match="inputpx"):
        write_patch_inputs(spots, tmp_path / "other", settings={"inputpx": 96})
    assert not (tmp_path / "other").exists()


def test_a_larger_image_than_the_bound_raises_it(spots: Spots, tmp_path: Path) -> None:
    large = replace(spots, image=replace(spots.image, size_px=(20_000, 15_001)))
    assert load_config(write_patch_inputs(large, tmp_path / "in")).input.max_image_mpx == 301.0


@pytest.mark.parametrize(
    ("changes", "diameter", "text"),
    [
        ({"scale": Scale()}, None, "the pixel size is not known"),
        ({"spot_diameter_um": None}, None, "the spot diameter is not known"),
        ({}, 12.0, "15 px of 0.8 µm, too few"),
        ({"image": SpotImage()}, None, "no image"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    spots: Spots, tmp_path: Path, changes: dict[str, object], diameter: float | None, text: str
) -> None:
    with pytest.raises(ConfigError, match=text):
        write_patch_inputs(replace(spots, **changes), tmp_path / "in", diameter_um=diameter)
    assert not (tmp_path / "in").exists()


def test_the_side_is_rounded(spots: Spots) -> None:
    assert patch_side_px(spots, 12.4) == 16  # 15.5
    assert patch_side_px(replace(spots, scale=Scale(0.6876, "grid pitch")), 100.0) == 145


def test_a_folder_that_cannot_be_written(spots: Spots, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_patch_inputs(spots, tmp_path / "file" / "in")


def test_planes_of_a_container_are_written_in_order(spots: Spots, tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 255, (4, 2100, 33), dtype=np.uint8)
    planes.flags.writeable = False
    held = replace(spots, image=SpotImage(size_px=(2100, 33), planes=planes))
    write_patch_inputs(held, tmp_path / "in")
    assert (np.load(tmp_path / "in" / "Z1.npy") == planes[:3]).all()
