"""Cells and images become the inputs of an embedding run, and its rows come back to the right cells."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import tifffile
from mudata import MuData
from scipy.sparse import csr_matrix

from microsnoop.core.config import digest
from microsnoop.core.config_file import load_config
from microsnoop.core.errors import InputError, JointError
from microsnoop.core.schema import cell_id
from microsnoop.io.images import ImageReader, ImageSource
from microsnoop.io.manifest import InputList, read_records
from microsnoop.pipelines.fields import ReadJob
from microsnoop.pipelines.samples import samples_of
from microsnoop_integrations.seqfish import EmbeddingInputs, join_embeddings, write_embedding_inputs

HEIGHT, WIDTH = 40, 64  # of a field


def table(rows: list[tuple[str, int, float, float]]) -> pd.DataFrame:
    """Cells as (field, index, x, y)."""
    ids = [f"seqfish:cortex:{field}:{index}" for field, index, _, _ in rows]
    return pd.DataFrame(
        {
            "field": pd.Categorical([r[0] for r in rows]),
            "x_px": [float(r[2]) for r in rows],
            "y_px": [float(r[3]) for r in rows],
        },
        index=pd.Index(ids, name="obs_id"),
    )


CELLS = table([("10", 7, 5.5, 30.25), ("2", 3, 60, 8), ("2", 4, 20, 20), ("10", 8, 33, 39.9), ("0", 0, 9, 9)])


def write_field(path: Path, n_channels: int = 2, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(n_channels * HEIGHT * WIDTH, dtype=np.uint16).reshape(n_channels, HEIGHT, WIDTH)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "CYX"}, **how)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for field in ("Pos0", "Pos2", "Pos10"):
        write_field(tmp_path / "images" / f"{field}.tif")
    return tmp_path / "images"


def written(inputs: EmbeddingInputs, name: str) -> list[dict[str, str]]:
    with inputs.manifest.with_name(name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def listed(inputs: EmbeddingInputs) -> InputList:
    """What the embedding run makes of the inputs."""
    return read_records(load_config(inputs.config).input)


def boxes(inputs: EmbeddingInputs) -> dict[str, tuple[int, int, int, int]]:
    """The windows that the run will cut: id of the run -> y0, x0, height, width."""
    return {
        cell_id(record["image_id"], box["label"]): (
            box["y0_px"], box["x0_px"], box["height_px"], box["width_px"]
        )
        for record in listed(inputs).records.to_pylist()
        for box in record["boxes"]
    }  # fmt: skip


def test_the_run_cuts_each_cell_where_it_is(images: Path, tmp_path: Path) -> None:
    inputs = write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=0.5, window_um=5.0)
    assert boxes(inputs) == {
        "seqfish:cortex:0#0": (4, 4, 10, 10),
        "seqfish:cortex:2#3": (3, 55, 10, 10),
        "seqfish:cortex:2#4": (15, 15, 10, 10),
        "seqfish:cortex:10#7": (25, 0, 10, 10),
        "seqfish:cortex:10#8": (34, 28, 10, 10),
    }
    assert inputs.n_cells == 5
    assert len(inputs.rejects) == 0
    config = load_config(inputs.config)
    assert (config.mode, config.input.cell_size_px, config.input_px) == ("native", 10, 16)
    assert config.run_dir == str(tmp_path / "out" / "run")
    records = listed(inputs).records.to_pylist()
    assert [Path(r["uris"][0]).name for r in records] == ["Pos0.tif", "Pos2.tif", "Pos10.tif"]
    assert {r["pixel_size_um"] for r in records} == {0.5}
    assert [str(r["meta_field"]) for r in records] == ["0", "2", "10"]
    cells = listed(inputs).cells
    assert cells is not None
    ids = dict(zip(cells["parent_id"].to_pylist(), cells["meta_cell_id"].to_pylist(), strict=True))
    assert ids["seqfish:cortex:10#8"] == "seqfish:cortex:10:8"


def samples(inputs: EmbeddingInputs) -> dict[str, dict[str, Any]]:
    """What the reading stage of the run hands to the encoder, by id."""
    cfg = load_config(inputs.config)
    with ImageReader() as reader:
        names = reader.info(ImageSource.of(listed(inputs).records.to_pylist()[0])).channels
    job = ReadJob(cfg, names, cfg.input_px or 0, digest(cfg.processing()), session="1")
    with ImageReader() as reader:
        rows = [
            row for record in listed(inputs).records.to_pylist() for row in samples_of(record, reader, job)
        ]
    return {row["obs_id"]: row for row in rows}


def test_the_reading_stage_finds_the_pixel_of_the_centroid(images: Path, tmp_path: Path) -> None:
    cells = table([("2", 4, 20.9, 11.2), ("10", 8, 33, 30)])
    inputs = write_embedding_inputs(cells, images, tmp_path / "out", pixel_size_um=1, window_um=9)
    found = samples(inputs)
    assert list(found) == ["seqfish:cortex:2#4", "seqfish:cortex:10#8"]
    row = found["seqfish:cortex:2#4"]
    assert row.get("code") is None
    pixels = np.frombuffer(row["pixels"], row["dtype"]).reshape(2, row["rows_px"], row["cols_px"])
    assert pixels[:, 4, 4].tolist() == [11 * WIDTH + 20, (HEIGHT + 11) * WIDTH + 20]


def test_the_window_is_in_um(images: Path, tmp_path: Path) -> None:
    inputs = write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=0.103)
    config = load_config(inputs.config)
    assert config.input.cell_size_px == 243  # 25 um of 0.103 um
    assert config.input_px == 248


def test_the_table_given_is_not_changed(images: Path, tmp_path: Path) -> None:
    before = CELLS.copy(deep=True)
    write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=1)
    pd.testing.assert_frame_equal(before, CELLS)


def test_the_border_of_a_field(images: Path, tmp_path: Path) -> None:
    rows = [
        (0, 0),
        (WIDTH - 0.01, HEIGHT - 0.01),
        (WIDTH, 5),
        (5, HEIGHT),
        (-0.01, 5),
        (5, -0.01),
        (np.nan, 5),
    ]
    cells = table([("2", i, x, y) for i, (x, y) in enumerate(rows)])
    inputs = write_embedding_inputs(cells, images, tmp_path / "out", pixel_size_um=1)
    assert [row["label"] for row in written(inputs, "cells.csv")] == ["0", "1"]
    rejects = inputs.rejects.set_index("obs_id")["code"].to_dict()
    assert rejects == {
        "seqfish:cortex:2:6": "no_position",
        **{f"seqfish:cortex:2:{i}": "outside_field" for i in (2, 3, 4, 5)},
    }
    messages = inputs.rejects.set_index("obs_id")["message"]
    assert "(64, 5) is not in the image of 64 × 40 px" in messages["seqfish:cortex:2:2"]
    assert [row["code"] for row in written(inputs, "rejects.csv")] == list(inputs.rejects["code"])


def test_a_missing_image_is_named_and_its_cells_rejected(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "Pos10.tif").unlink()
    inputs = write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=1)
    assert inputs.n_cells == 3
    assert inputs.rejects["obs_id"].tolist() == ["seqfish:cortex:10:7", "seqfish:cortex:10:8"]
    assert set(inputs.rejects["code"]) == {"missing_image"}
    assert (
        "field 10: 2 of 2 cells rejected: missing_image (field 10 has no image; fields with one: 0, 2)"
        in caplog.text
    )
    assert not any("10" in record["image_id"] for record in listed(inputs).records.to_pylist())


def test_a_broken_image_is_named_and_its_cells_rejected(images: Path, tmp_path: Path) -> None:
    (images / "Pos2.tif").write_bytes(b"no image at all")
    inputs = write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=1)
    assert inputs.rejects["code"].tolist() == ["decode_error"] * 2
    assert "Pos2.tif" in inputs.rejects["message"][0]
    assert inputs.n_cells == 3


def test_no_cell_at_all_is_an_error(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 1 cells can be embedded: 1 missing_image") as caught:
        write_embedding_inputs(table([("5", 0, 1, 1)]), images, tmp_path / "out", pixel_size_um=1)
    assert "field 5 has no image" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_channels_are_chosen_and_checked(images: Path, tmp_path: Path) -> None:
    write_field(images / "Pos2.tif", n_channels=3)
    inputs = write_embedding_inputs(
        CELLS, images, tmp_path / "out", pixel_size_um=1, channels={"DAPI": 2}, encoder="other"
    )
    assert inputs.n_cells == 2
    assert inputs.rejects["code"].tolist() == ["channel_mismatch"] * 3
    config = load_config(inputs.config)
    assert config.input.channels == {"DAPI": 2}
    assert config.encoder == "other"


def test_one_file_a_channel(tmp_path: Path) -> None:
    for field in ("00", "02", "10"):
        for channel in ("dapi", "nissl"):
            write_field(tmp_path / "fields" / field / f"{channel}.tif", n_channels=1)
    (tmp_path / "fields" / "10" / "nissl.tif").unlink()
    pattern = str(tmp_path / "fields" / "{field}" / "{channel}.tif")
    inputs = write_embedding_inputs(CELLS, pattern, tmp_path / "out", pixel_size_um=1)
    records = listed(inputs).records.to_pylist()
    assert [record["uri_channels"] for record in records] == [["dapi", "nissl"]] * 3
    assert records[1]["uris"] == [str(tmp_path / "fields" / "02" / f"{c}.tif") for c in ("dapi", "nissl")]
    assert records[2]["uris"][1] is None  # the run rejects it as any other image that lacks a channel


def test_files_named_one_by_one(images: Path, tmp_path: Path) -> None:
    given = {"0": str(images / "Pos10.tif"), "2": str(images / "Pos0.tif")}
    inputs = write_embedding_inputs(CELLS, given, tmp_path / "out", pixel_size_um=1)
    uris = {row["image_id"]: Path(row["uri"]).name for row in written(inputs, "manifest.csv")}
    assert uris == {"seqfish:cortex:0": "Pos10.tif", "seqfish:cortex:2": "Pos0.tif"}


@pytest.mark.parametrize(("names", "message"), [
    (["Pos2_ch1.tif"], "must hold one number, this one holds 2"),
    (["overview.tif"], "must hold one number, this one holds 0"),
    (["Pos2.tif", "MMPos02.tif"], "two images of the field 2"),
    (["notes.txt"], "no images in"),
])  # fmt: skip
def test_a_folder_that_does_not_tell_fields_apart(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        write_field(tmp_path / "images" / name)
    with pytest.raises(InputError, match=message):
        write_embedding_inputs(CELLS, tmp_path / "images", tmp_path / "out", pixel_size_um=1)


@pytest.mark.parametrize("pattern", ["{site}.tif", "{field}_{z}.tif"])
def test_a_pattern_tells_fields_and_channels_only(images: Path, tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"must have \{field\}"):
        write_embedding_inputs(CELLS, str(images / pattern), tmp_path / "out", pixel_size_um=1)


def test_another_pixel_size_in_the_file_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "images" / "2.ome.tif"
    path.parent.mkdir()
    meta = {
        "axes": "CYX",
        "PhysicalSizeX": 0.2,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.2,
        "PhysicalSizeYUnit": "µm",
    }
    tifffile.imwrite(path, np.ones((2, HEIGHT, WIDTH), np.uint16), photometric="minisblack", metadata=meta)
    cells = table([("2", 0, 1, 1)])
    write_embedding_inputs(cells, tmp_path / "images", tmp_path / "out", pixel_size_um=0.2)
    assert "µm a pixel" not in caplog.text
    write_embedding_inputs(cells, tmp_path / "images", tmp_path / "out", pixel_size_um=0.1)
    assert "says 0.2 µm a pixel, used are the 0.1 that were given" in caplog.text


@pytest.mark.parametrize(("pixel", "window"), [(0, 25), (-1, 25), (np.nan, 25), (0.1, 0), (0.1, np.inf)])
def test_sizes_are_positive(images: Path, tmp_path: Path, pixel: float, window: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=pixel, window_um=window)


def test_fields_may_be_written_with_zeros(images: Path, tmp_path: Path) -> None:
    cells = CELLS.assign(field=[f"{int(name):03}" for name in CELLS["field"]])
    assert write_embedding_inputs(cells, images, tmp_path / "out", pixel_size_um=1).n_cells == 5


def test_tables_that_cannot_be_used(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no column x_px; it has field, y_px"):
        write_embedding_inputs(CELLS.drop(columns="x_px"), images, tmp_path / "out", pixel_size_um=1)
    with pytest.raises(InputError, match=r"the id '0' does not end in :<index>"):
        write_embedding_inputs(CELLS.reset_index(drop=True), images, tmp_path / "out", pixel_size_um=1)
    with pytest.raises(InputError, match="stands in several rows"):
        write_embedding_inputs(pd.concat([CELLS, CELLS]), images, tmp_path / "out", pixel_size_um=1)
    mixed = CELLS.assign(field="2")
    with pytest.raises(InputError, match="cells of the field 2 have ids of several"):
        write_embedding_inputs(mixed, images, tmp_path / "out", pixel_size_um=1)


# ---------------------------------------------------------------- masks


def write_mask(
    path: Path, objects: dict[int, tuple[slice, slice]], shape: tuple[int, int] = (HEIGHT, WIDTH)
) -> None:
    path.parent.mkdir(exist_ok=True)
    mask = np.zeros(shape, np.uint16)
    for number, where in objects.items():
        mask[where] = number
    tifffile.imwrite(path, mask)


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    square = {41: (slice(25, 36), slice(1, 12)), 7: (slice(34, 40), slice(30, 40))}
    write_mask(tmp_path / "masks" / "10.tif", square)
    write_mask(
        tmp_path / "masks" / "2.tif", {300: (slice(0, 30), slice(10, 64)), 5: (slice(35, 40), slice(0, 5))}
    )
    return tmp_path / "masks"


def test_a_cell_is_the_object_that_holds_its_centroid(images: Path, masks: Path, tmp_path: Path) -> None:
    extra = pd.concat([CELLS, table([("10", 9, 20, 2)])])
    inputs = write_embedding_inputs(extra, images, tmp_path / "out", pixel_size_um=0.5, masks=masks)
    rows = {row["cell_id"]: (row["image"], row["label"]) for row in written(inputs, "cells.csv")}
    assert rows == {
        "seqfish:cortex:10:7": ("seqfish:cortex:10", "41"),
        "seqfish:cortex:10:8": ("seqfish:cortex:10", "7"),
    }
    assert inputs.rejects.set_index("obs_id")["code"].to_dict() == {
        "seqfish:cortex:0:0": "missing_mask",
        "seqfish:cortex:2:3": "shared_object",
        "seqfish:cortex:2:4": "shared_object",
        "seqfish:cortex:10:9": "no_object",
    }
    config = load_config(inputs.config)
    assert (config.mode, config.input.cells, config.input_px) == ("crop", None, 56)
    records = listed(inputs).records.to_pylist()
    assert [Path(record["mask_uri"]).name for record in records] == ["10.tif"]


def test_the_reading_stage_gives_objects_the_labels_of_the_table(
    images: Path, masks: Path, tmp_path: Path
) -> None:
    inputs = write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=0.5, masks=masks)
    found = samples(inputs)
    assert set(found) == {cell_id(row["image"], row["label"]) for row in written(inputs, "cells.csv")}
    row = found["seqfish:cortex:10#41"]
    assert (row.get("code"), row["object_y0_px"], row["object_x0_px"]) == (None, 25, 1)


def test_a_mask_of_another_size(images: Path, masks: Path, tmp_path: Path) -> None:
    write_mask(masks / "2.tif", {1: (slice(0, 30), slice(0, 30))}, (WIDTH, HEIGHT))
    inputs = write_embedding_inputs(CELLS, images, tmp_path / "out", pixel_size_um=0.5, masks=masks)
    codes = inputs.rejects.set_index("obs_id")["code"]
    assert codes["seqfish:cortex:2:3"] == "shape_mismatch"
    assert inputs.n_cells == 2


# ---------------------------------------------------------------- back to the cells


def with_counts(cells: pd.DataFrame) -> MuData:
    counts = csr_matrix(np.arange(3 * len(cells), dtype=np.float32).reshape(-1, 3))
    rna = ad.AnnData(counts, obs=cells.rename_axis(None), var=pd.DataFrame(index=["a", "b", "c"]))
    with mudata.set_options(pull_on_update=False):
        data = MuData({"rna": rna})
    data.uns["seqfish"] = {"licence": "l", "rejects": pd.DataFrame(
        [["seqfish:cortex:6:99", "rna", "no_counts", "none"]], columns=["obs_id", "modality", "code", "message"],
    )}  # fmt: skip
    return data


def run_of(names: list[str]) -> ad.AnnData:
    """An exported run: row i holds i in all its numbers."""
    x = np.repeat(np.arange(len(names), dtype=np.float32)[:, None], 4, axis=1)
    return ad.AnnData(x, obs=pd.DataFrame({"label": [n.split("#")[1] for n in names]}, index=names))


def test_vectors_come_back_to_their_cells(images: Path, tmp_path: Path) -> None:
    data = with_counts(CELLS)
    data.uns["notes"] = "kept"
    inputs = write_embedding_inputs(data, images, tmp_path / "out", pixel_size_um=1)
    names = ["seqfish:cortex:2#4", "seqfish:cortex:10#7", "seqfish:cortex:0#0", "seqfish:cortex:99#1"]
    run = run_of(names)
    run.layers["corrected"] = run.X + 100
    before = run.copy()
    joined = join_embeddings(data, run, cells=inputs.cells)
    assert list(joined.mod) == ["rna", "image"]
    expected = ["seqfish:cortex:10:7", "seqfish:cortex:2:4", "seqfish:cortex:0:0"]
    assert (
        list(joined["rna"].obs_names) == list(joined["image"].obs_names) == list(joined.obs_names) == expected
    )
    assert joined["image"].X[:, 0].tolist() == [1, 0, 2]
    assert joined["image"].layers["corrected"][:, 3].tolist() == [101, 100, 102]
    np.testing.assert_array_equal(joined["rna"].X.toarray(), data["rna"][expected].X.toarray())
    assert joined["image"].obs["label"].tolist() == ["7", "4", "0"]
    rejects = joined.uns["seqfish"]["rejects"]
    assert dict(zip(rejects["obs_id"], rejects["code"], strict=True)) == {
        "seqfish:cortex:6:99": "no_counts",
        "seqfish:cortex:2:3": "unpaired",
        "seqfish:cortex:10:8": "unpaired",
        "seqfish:cortex:99#1": "unpaired",
    }
    assert joined.uns["seqfish"]["n_rejected"] == {"unpaired": 3, "no_counts": 1}
    assert joined.uns["seqfish"]["licence"] == "l"
    assert joined.uns["notes"] == "kept"
    # nothing given was changed
    assert list(data.mod) == ["rna"]
    assert len(data.uns["seqfish"]["rejects"]) == 1
    assert run.obs_names.tolist() == names
    pd.testing.assert_frame_equal(run.obs, before.obs)
    with mudata.set_options(pull_on_update=False):
        joined.write(tmp_path / "a.h5mu")
        again = mudata.read(tmp_path / "a.h5mu")
    np.testing.assert_array_equal(again["image"].X, joined["image"].X)
    assert again.uns["seqfish"]["n_rejected"]["unpaired"] == 3


def test_objects_of_masks_come_back_to_their_cells(images: Path, masks: Path, tmp_path: Path) -> None:
    data = with_counts(CELLS)
    inputs = write_embedding_inputs(data, images, tmp_path / "out", pixel_size_um=0.5, masks=masks)
    # the run embeds every object, one of them nobody's cell; the numbers of objects are not those of cells
    run = run_of(["seqfish:cortex:10#8", "seqfish:cortex:10#7", "seqfish:cortex:10#41"])
    joined = join_embeddings(data, run, cells=inputs.cells)
    assert list(joined.obs_names) == ["seqfish:cortex:10:7", "seqfish:cortex:10:8"]
    assert joined["image"].X[:, 0].tolist() == [2, 1]


def test_joins_that_cannot_be(images: Path, tmp_path: Path) -> None:
    data = with_counts(CELLS)
    cells = write_embedding_inputs(data, images, tmp_path / "out", pixel_size_um=1).cells
    for name in ("elsewhere#1", "seqfish:cortex:2#4@0,0"):  # another run; a tile
        with pytest.raises(JointError, match="no id in common"):
            join_embeddings(data, run_of([name]), cells=cells)
    with pytest.raises(JointError):
        join_embeddings(data, run_of(["seqfish:cortex:2#4"]), cells=cells, join="error")
    joined = join_embeddings(data, run_of(["seqfish:cortex:2#4"]), cells=cells)
    with pytest.raises(InputError, match="modality `image` already"):
        join_embeddings(joined, run_of(["seqfish:cortex:2#4"]), cells=cells)
    with pytest.raises(InputError, match=r"manifest.csv has no column image, label, cell_id"):
        join_embeddings(data, run_of(["seqfish:cortex:2#4"]), cells=cells.with_name("manifest.csv"))
