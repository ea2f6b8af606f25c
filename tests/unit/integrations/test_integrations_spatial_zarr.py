"""SpatialData through a stand-in: the package itself is an extra, so only the members that are used are imitated."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from microsnoop.core.errors import InputError, MissingDependency
from microsnoop_integrations.spatial import read_spots, write_patch_inputs

HEIGHT, WIDTH = 90, 140


class Affine:
    """What ``get_transformation`` returns."""

    def __init__(self, scale: float, x: float = 0, y: float = 0) -> None:
        self.matrix = np.array([[scale, 0, x], [0, scale, y], [0, 0, 1.0]])

    def to_affine_matrix(self, input_axes: tuple[str, ...], output_axes: tuple[str, ...]) -> np.ndarray:
        assert input_axes == output_axes == ("x", "y")
        return self.matrix


class Planes:
    """What an image element is to us: axes that can be put in order, a shape, a dtype, and slices."""

    def __init__(self, array: np.ndarray, place: Affine) -> None:
        self.array, self.place = array, place
        self.shape, self.dtype = array.shape, array.dtype

    def transpose(self, *axes: str) -> Planes:
        assert axes == ("c", "y", "x")
        return self

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.array[key]


class Circles(pd.DataFrame):
    """A GeoDataFrame of points: ``geometry.x``, ``geometry.y`` and the column ``radius``."""

    _metadata = ["place"]  # noqa: RUF012  (pandas' own name)

    @property
    def geometry(self) -> SimpleNamespace:
        return SimpleNamespace(x=self["px"], y=self["py"])


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("spatialdata")
    module.transformations = SimpleNamespace(
        get_transformation=lambda element, to_coordinate_system: {"global": element.place}[
            to_coordinate_system
        ]
    )
    monkeypatch.setitem(sys.modules, "spatialdata", module)
    return module


def make(*, regions: tuple[str, ...] = ("slide1",)) -> SimpleNamespace:
    """Spots 7, 8, 9 of each region in µm; the image has 2 px a µm and starts at (10, 5) µm."""
    shapes = {}
    for region in regions:
        circles = Circles(
            {"px": [20.0, 30.0, 79.0], "py": [12.0, 24.0, 48.0], "radius": 5.0}, index=[7, 8, 9]
        )
        circles.place = Affine(1.0)
        shapes[region] = circles
    obs = pd.DataFrame(
        {"region": np.repeat(regions, 3), "instance_id": [9, 7, 4] * len(regions)},
        index=[f"row{n}" for n in range(3 * len(regions))],
    )
    table = ad.AnnData(np.arange(6 * len(regions), dtype=np.float32).reshape(-1, 2), obs=obs)
    attrs = {"region": list(regions), "region_key": "region", "instance_key": "instance_id"}
    table.uns["spatialdata_attrs"] = attrs
    planes = np.arange(3 * HEIGHT * WIDTH, dtype=np.uint16).reshape(3, HEIGHT, WIDTH)
    image = Planes(planes, Affine(0.5, 10.0, 5.0))
    return SimpleNamespace(tables={"table": table}, shapes=shapes, images={"he": image})


def test_circles_are_brought_into_pixels_of_the_image(package: ModuleType) -> None:
    spots = read_spots(make(), pixel_size_um=0.5)
    assert list(spots.rna.obs_names) == ["spatialdata:slide1:9", "spatialdata:slide1:7"]
    assert spots.centres_px.tolist() == [[138.0, 86.0], [20.0, 14.0]]
    assert spots.rna.X.toarray().tolist() == [[0, 1], [2, 3]]
    assert dict(zip(spots.rejects["obs_id"], spots.rejects["code"], strict=True)) == {
        "spatialdata:slide1:4": "no_position",
        "spatialdata:slide1:8": "no_counts",
    }
    assert spots.spot_diameter_um == pytest.approx(10.0)
    assert spots.image.size_px == (HEIGHT, WIDTH)


def test_of_several_resolutions_the_finest_is_taken(package: ModuleType) -> None:
    class Tree(dict):
        children, place = ("scale0", "scale1"), Affine(0.5, 10.0, 5.0)

    data = make()
    fine = data.images["he"]
    coarse = Planes(fine.array[:, ::2, ::2], Affine(1.0, 10.0, 5.0))
    data.images["he"] = Tree(scale0={"image": fine}, scale1={"image": coarse})
    spots = read_spots(data, pixel_size_um=0.5)
    assert spots.image.planes is fine
    assert spots.centres_px.tolist() == [[138.0, 86.0], [20.0, 14.0]]


def test_rows_of_other_regions_are_not_of_this_section(package: ModuleType) -> None:
    data = make(regions=("slide1", "slide2"))
    with pytest.raises(InputError, match="name one section: there are slide1, slide2"):
        read_spots(data)
    spots = read_spots(data, section="slide2")
    assert spots.rna.X.toarray().tolist() == [[6, 7], [8, 9]]
    assert spots.pixel_size_um is None
    assert spots.rna.uns["spatial_unit"] == "px"


def test_planes_are_written_for_the_pipeline(package: ModuleType, tmp_path: Path) -> None:
    data = make()
    spots = read_spots(data, pixel_size_um=0.5)
    write_patch_inputs(spots, tmp_path)
    assert (np.load(tmp_path / "slide1.npy") == data.images["he"].array).all()
    assert pd.read_csv(tmp_path / "manifest.csv")["uri"].tolist() == [str(tmp_path.resolve() / "slide1.npy")]


def test_a_store_is_opened_by_the_package(package: ModuleType, tmp_path: Path) -> None:
    opened: list[Path] = []

    def read_zarr(path: Path) -> SimpleNamespace:
        opened.append(path)
        return make()

    package.read_zarr = read_zarr
    assert read_spots(tmp_path / "x.zarr").rna.n_obs == 2
    assert opened == [tmp_path / "x.zarr"]


def test_several_elements_need_a_name(package: ModuleType) -> None:
    data = make()
    data.images["dapi"] = data.images["he"]
    with pytest.raises(InputError, match="name one image: there are dapi, he"):
        read_spots(data)
    assert read_spots(data, image_key="he").rna.n_obs == 2
    with pytest.raises(InputError, match="not 'other'"):
        read_spots(data, table="other", image_key="he")
    del data.shapes["slide1"]
    with pytest.raises(InputError, match="annotates 'slide1', which is not among the shapes"):
        read_spots(data, image_key="he")


def test_a_table_that_annotates_nothing_is_refused(package: ModuleType) -> None:
    data = make()
    del data.tables["table"].uns["spatialdata_attrs"]
    with pytest.raises(InputError, match="does not say what it annotates"):
        read_spots(data)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(MissingDependency) as caught:
        read_spots(make())
    assert "[spatialdata]" in caught.value.hint


def test_elements_are_for_spatialdata_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only for SpatialData"):
        read_spots(tmp_path, table="x")
