"""Mode crop without Ray: every object of a mask is a row, in a window or with the reason why it has none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import MicrosnoopError
from microsnoop.pipelines.embed import prepare
from microsnoop.pipelines.stages import pixel_sample, read_samples

SIZE = (96, 128)
# label: (y0, x0, height, width)
OBJECTS = {
    3: (10, 12, 20, 16),
    7: (40, 60, 8, 10),
    9: (0, 30, 12, 12),
    20: (70, 100, 3, 4),
    41: (60, 20, 24, 30),
}


def _mask() -> NDArray[np.uint16]:
    mask = np.zeros(SIZE, np.uint16)
    for label, (y, x, height, width) in OBJECTS.items():
        mask[y : y + height, x : x + width] = label
    return mask


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """Two channels and a mask; the first channel is bright on the objects."""
    noise = np.random.default_rng(1).integers(100, 400, (2, *SIZE))
    noise[0] += (_mask() > 0) * 1500
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "images/f.tif", noise.astype(np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "masks/f.tif", _mask())
    return tmp_path


def _rows(folder: Path, *, masks: bool = True, **settings: Any) -> list[dict[str, Any]]:
    inputs: dict[str, Any] = {"folder": str(folder / "images"), **settings.pop("input", {})}
    if masks:
        inputs["masks"] = str(folder / "masks")
    base = {"input": inputs, "run_dir": "r", "encoder": "pixels16", "mode": "crop", "input_px": 64}
    run = prepare(EmbedConfig.model_validate(base | settings))
    rows: list[dict[str, Any]] = pa.concat_tables(
        read_samples(run.inputs.records, job=run.job)  # type: ignore[arg-type]
    ).to_pylist()
    return rows


def _by_label(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in rows}


def test_every_object_is_a_row_with_what_is_known_of_it(field: Path) -> None:
    rows = _rows(field)
    assert [row["obs_id"] for row in rows] == [f"f.tif#{label}" for label in OBJECTS]
    assert [row["code"] for row in rows] == [None, None, "border_cell", "area_out_of_range", None]
    assert {row["n_samples"] for row in rows} == {5}
    row = _by_label(rows)["7"]
    assert (row["area_px"], row["centroid_y_px"], row["centroid_x_px"]) == (80, 43.5, 64.5)
    assert [row[f"object_{n}"] for n in ("y0_px", "x0_px", "height_px", "width_px")] == [40, 60, 8, 10]
    assert (row["n_border_px"], row["kind"], row["parent_id"]) == (0, "cell", "f.tif#7")
    assert _by_label(rows)["9"]["n_border_px"] == 12
    assert "f.tif" in _by_label(rows)["9"]["message"]


def test_a_region_is_ratio_times_the_object_around_its_centre(field: Path) -> None:
    row = _by_label(_rows(field, crop={"ratio": 1.5}))["7"]
    # box 8 × 10 px: half side 15 around (44, 65)
    assert [row[n] for n in ("y0_px", "x0_px", "height_px", "width_px")] == [29, 50, 30, 30]
    assert row["scale"] == 1.0
    planes = pixel_sample(row, 2).planes
    image = tifffile.imread(field / "images/f.tif")
    np.testing.assert_array_equal(planes, image[:, 29:59, 50:80])


def test_at_a_border_only_real_pixels_travel_and_the_object_stays_in_the_middle(field: Path) -> None:
    row = _by_label(_rows(field, crop={"exclude_border": False, "ratio": 2.0}))["9"]
    assert [row[n] for n in ("y0_px", "x0_px", "height_px", "width_px")] == [-18, 12, 48, 48]
    assert (row["rows_px"], row["cols_px"]) == (30, 48)
    assert "clipped_window" in row["flags"]


def test_a_window_in_um_needs_a_pixel_size_and_is_the_same_for_all(field: Path) -> None:
    refused = _rows(field, crop={"window_um": 20.0})
    assert [row["code"] for row in refused] == ["shape_mismatch"]
    assert "crop.window_um needs the pixel size" in refused[0]["message"]
    rows = _rows(field, crop={"window_um": 20.0}, input={"pixel_size_um": 0.5})
    assert {row["height_px"] for row in rows if row["code"] is None} == {40}


def test_kind_mask_erases_the_neighbours_and_scales_on_the_object_alone(field: Path) -> None:
    row = _by_label(_rows(field, crop={"kind": "mask"}))["41"]
    sample = pixel_sample(row, 2)
    image = tifffile.imread(field / "images/f.tif").astype(float)
    own = image[:, _mask() == 41]
    np.testing.assert_allclose(sample.scaling.offset, np.percentile(own, 1, axis=1))
    np.testing.assert_allclose(sample.scaling.offset + sample.scaling.span, np.percentile(own, 99, axis=1))
    assert sample.planes.dtype == np.float32
    np.testing.assert_array_equal(sample.planes, image[:, 60:84, 20:50].astype(np.float32))


def test_kind_mask_sets_what_is_not_the_object_to_zero_after_scaling(field: Path) -> None:
    mask = _mask()
    mask[62:70, 22:30] = 3  # another object inside the box
    tifffile.imwrite(field / "masks/f.tif", mask)
    row = _by_label(_rows(field, crop={"kind": "mask"}))["41"]
    sample = pixel_sample(row, 2)
    outside = sample.planes[:, 2:10, 2:10]
    np.testing.assert_allclose(
        outside, np.broadcast_to(sample.scaling.offset[:, None, None], outside.shape), rtol=1e-6
    )


def test_too_large_a_region_is_capped_shrunk_or_rejected(field: Path) -> None:
    settings = {"crop": {"ratio": 2.0, "exclude_border": False}, "input_px": 32}
    capped = _by_label(_rows(field, **settings))["41"]
    assert (capped["height_px"], capped["scale"], capped["flags"]) == (32, 1.0, [])
    shrunk = _by_label(_rows(field, **settings | {"crop": {**settings["crop"], "oversize": "shrink"}}))["41"]
    assert shrunk["height_px"] == 120
    assert shrunk["scale"] == pytest.approx(32 / 120)
    assert "shrunk" in shrunk["flags"]
    refused = _by_label(_rows(field, **settings | {"crop": {**settings["crop"], "oversize": "reject"}}))["41"]
    assert refused["code"] == "oversize"


def test_fill_enlarges_every_region_to_the_input(field: Path) -> None:
    row = _by_label(_rows(field, crop={"fill": True, "ratio": 1.0}))["7"]
    assert row["factor"] is None
    assert row["scale"] == pytest.approx(64 / 20)


def test_a_draw_names_what_it_leaves_out(field: Path) -> None:
    rows = _rows(field, crop={"max_cells": 2})
    codes = Counter(row["code"] for row in rows)
    assert codes == {None: 2, "border_cell": 1, "area_out_of_range": 1, "not_drawn": 1}
    assert [row["code"] for row in _rows(field, crop={"max_cells": 2})] == [row["code"] for row in rows]


@pytest.mark.parametrize(
    ("mask", "code", "complaint"),
    [
        (np.zeros(SIZE, np.uint8), "empty_mask", "no object in the mask"),
        (np.ones((95, 128), np.uint8), "shape_mismatch", "the mask has 95 × 128 px, its image 96 × 128 px"),
        ((_mask() > 0).astype(np.uint8) * 255, "shape_mismatch", "input.mask_kind: binary"),
    ],
)
def test_a_mask_that_cannot_be_used_is_one_reject(
    field: Path, mask: NDArray[Any], code: str, complaint: str
) -> None:
    tifffile.imwrite(field / "masks/f.tif", mask)
    (row,) = _rows(field)
    assert (row["code"], row["obs_id"]) == (code, "f.tif")
    assert complaint in row["message"]


def test_a_binary_mask_is_numbered_when_asked(field: Path) -> None:
    tifffile.imwrite(field / "masks/f.tif", (_mask() > 0).astype(np.uint8) * 255)
    rows = _rows(field, input={"mask_kind": "binary"})
    assert len(rows) == 5
    assert Counter(row["code"] for row in rows)[None] == 3


def test_a_missing_and_a_damaged_mask_are_rejects_that_name_it(field: Path) -> None:
    (field / "masks/f.tif").write_bytes(b"nothing like an image")
    (row,) = _rows(field)
    assert row["code"] == "decode_error"
    assert "masks/f.tif" in row["message"]
    (field / "list.csv").write_text("uri,mask_uri\nimages/f.tif,\n")
    base = {"input": {"manifest": str(field / "list.csv")}, "run_dir": "r", "encoder": "pixels16"}
    run = prepare(EmbedConfig.model_validate({**base, "mode": "crop", "input_px": 64}))
    (row,) = pa.concat_tables(read_samples(run.inputs.records, job=run.job)).to_pylist()
    assert row["code"] == "decode_error"
    assert "there is no mask for this image" in row["message"]


def test_without_masks_the_objects_are_segmented(field: Path) -> None:
    rows = _rows(field, masks=False, segment={"channel": "c0"}, crop={"exclude_border": False})
    found = [(row["centroid_y_px"], row["centroid_x_px"]) for row in rows if row["code"] is None]
    for label in (3, 41):
        y, x, height, width = OBJECTS[label]
        centre = (y + (height - 1) / 2, x + (width - 1) / 2)
        assert min(np.hypot(centre[0] - a, centre[1] - b) for a, b in found) < 2


def test_a_channel_to_segment_that_is_not_there_is_a_reject(field: Path) -> None:
    (row,) = _rows(field, masks=False, segment={"channel": "DAPI"})
    assert row["code"] == "channel_mismatch"
    assert "'DAPI'" in row["message"]


def test_the_channel_to_segment_need_not_be_embedded(field: Path) -> None:
    rows = _rows(field, masks=False, segment={"channel": "c0"}, input={"channels": ["c1"]})
    assert any(row["code"] is None for row in rows)
    assert all(len(row["offset"]) == 1 for row in rows if row["code"] is None)


def test_a_foreign_segmenter_without_package_or_weights_is_refused_before_any_work(field: Path) -> None:
    with pytest.raises(MicrosnoopError, match=r"cellpose"):
        _rows(field, masks=False, segment={"method": "cellpose", "model": str(field / "no such model")})
    assert _rows(field, masks=True, segment={"method": "cellpose"})  # with masks nothing is segmented


def test_a_diameter_in_um_needs_a_pixel_size_that_can_show_it(field: Path) -> None:
    for input_, complaint in (
        ({}, "segment.diameter_um needs the pixel size"),
        ({"pixel_size_um": 5.0}, "are 2.0 px wide here"),
    ):
        (row,) = _rows(field, masks=False, segment={"diameter_um": 10.0}, input=input_)
        assert row["code"] == "shape_mismatch"
        assert complaint in row["message"]
    rows = _rows(field, masks=False, segment={"diameter_um": 10.0}, input={"pixel_size_um": 0.5})
    assert any(row["code"] is None for row in rows)
