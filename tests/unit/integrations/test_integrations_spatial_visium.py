"""Folders as Space Ranger writes them, old and new, built here: counts, positions, scale and picture."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import io, sparse

from microsnoop.core.errors import InputError
from microsnoop_integrations.spatial import read_spots

UM_PER_PX = 0.5
HIRES = 0.25
WIDTH, HEIGHT = 1600, 1200  # of the full-resolution image
GENES = ["ACTB", "ERBB2", "ERBB2", "MALAT1"]
COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def array() -> pd.DataFrame:
    """A hexagonal array: 4 rows of 6 spots, 100 µm apart; the last row lies beside the tissue."""
    rows = []
    for row in range(4):
        for col in range(row % 2, 12, 2):
            y, x = 100 + row * 100 * np.sqrt(3) / 2 / UM_PER_PX, 90 + col * 50 / UM_PER_PX
            rows.append((f"{'ACGT'[row]}{'ACGT'[col // 4]}{col:02d}-1", int(row < 3), row, col, y, x))
    return pd.DataFrame(rows, columns=COLUMNS)


def counts(barcodes: list[str]) -> np.ndarray:
    """(spots, genes); the last gene names the spot."""
    out = np.zeros((len(barcodes), len(GENES)), int)
    for n, barcode in enumerate(barcodes):
        out[n] = [n, 0, 1, int(barcode[2:4])]
    return out


def write_h5(path: Path, barcodes: list[str]) -> None:
    matrix = sparse.csc_matrix(counts(barcodes).T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, "S")
        for name, values in (("data", matrix.data), ("indices", matrix.indices), ("indptr", matrix.indptr)):
            group[name] = values.astype(np.int32)
        group["shape"] = np.array(matrix.shape, np.int32)
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{n}" for n in range(len(GENES))], "S")
        features["name"] = np.array(GENES, "S")
        features["feature_type"] = np.array(["Gene Expression"] * len(GENES), "S")
        features["genome"] = np.array(["GRCh38"] * len(GENES), "S")


def write_mtx(folder: Path, barcodes: list[str]) -> None:
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        io.mmwrite(file, sparse.csc_matrix(counts(barcodes).T), field="integer")
    features = "".join(f"ENSG{n}\t{name}\tGene Expression\n" for n, name in enumerate(GENES))
    (folder / "features.tsv.gz").write_bytes(gzip.compress(features.encode()))
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress("".join(f"{b}\n" for b in barcodes).encode()))


def write_factors(folder: Path, **changes: Any) -> None:
    factors = {
        "spot_diameter_fullres": 65 / UM_PER_PX, "tissue_hires_scalef": HIRES, "tissue_lowres_scalef": 0.05,
        "fiducial_diameter_fullres": 300.0, **changes,
    }  # fmt: skip
    known = {name: value for name, value in factors.items() if value is not None}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(known))


@pytest.fixture
def outs(tmp_path: Path) -> Path:
    folder = tmp_path / "outs"
    (folder / "spatial").mkdir(parents=True)
    table = array()
    table.to_csv(folder / "spatial/tissue_positions.csv", index=False)
    tissue = table.loc[table["in_tissue"] == 1, "barcode"].tolist()
    write_h5(folder / "filtered_feature_bc_matrix.h5", tissue[::-1])
    write_factors(folder)
    Image.new("RGB", (int(WIDTH * HIRES), int(HEIGHT * HIRES))).save(
        folder / "spatial/tissue_hires_image.png"
    )
    return folder


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / "full.png"
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    return path


def test_positions_belong_to_barcodes_and_columns_are_x(outs: Path, full: Path) -> None:
    spots = read_spots(outs, image=full, section="S1")
    table = array().set_index("barcode")
    assert spots.rna.n_obs == 18
    assert spots.rna.obs_names[0] == f"visium:S1:{spots.rna.obs['spot'].iloc[0]}"
    for row, barcode in enumerate(spots.rna.obs["spot"]):
        assert spots.rna.X[row, 3] == int(barcode[2:4])
        place = table.loc[barcode, ["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(float)
        assert spots.centres_px[row] == pytest.approx(place)
    assert spots.rna.obsm["spatial"] == pytest.approx(spots.centres_px * UM_PER_PX, rel=1e-6)


def test_spots_beside_the_tissue_are_counted(outs: Path) -> None:
    spots = read_spots(outs)
    assert spots.n_in == 24 == spots.rna.n_obs + len(spots.rejects)
    assert set(spots.rejects["code"]) == {"not_selected"}
    assert all(":TA" in name or ":TC" in name or ":TG" in name for name in spots.rejects["obs_id"])


@pytest.mark.parametrize("kind", ["mtx", "old"])
def test_the_layouts_give_the_same_spots(outs: Path, kind: str) -> None:
    new = read_spots(outs)
    if kind == "mtx":
        (outs / "filtered_feature_bc_matrix.h5").unlink()
        write_mtx(outs / "filtered_feature_bc_matrix", list(new.rna.obs["spot"]))
    else:
        (outs / "spatial/tissue_positions.csv").unlink()
        array().to_csv(outs / "spatial/tissue_positions_list.csv", index=False, header=False)
    other = read_spots(outs)
    assert list(other.rna.obs_names) == list(new.rna.obs_names)
    assert (other.rna.layers["counts"] != new.rna.layers["counts"]).nnz == 0
    assert other.centres_px.tolist() == new.centres_px.tolist()
    assert list(other.rna.var_names) == list(new.rna.var_names) == ["ACTB", "ERBB2", "ERBB2-1", "MALAT1"]
    assert list(other.rna.var["gene_ids"]) == ["ENSG0", "ENSG1", "ENSG2", "ENSG3"]


def test_the_shrunk_picture_scales_positions_and_pixels(outs: Path, full: Path) -> None:
    large, small = read_spots(outs, image=full), read_spots(outs)
    assert small.centres_px == pytest.approx(large.centres_px * HIRES)
    assert small.pixel_size_um == pytest.approx(UM_PER_PX / HIRES)
    assert small.rna.obsm["spatial"] == pytest.approx(large.rna.obsm["spatial"])
    assert small.spot_diameter_px == pytest.approx(55 / (UM_PER_PX / HIRES))
    assert any("4.0 times smaller" in note for note in small.notes)
    (outs / "spatial/tissue_hires_image.png").rename(outs / "spatial/tissue_lowres_image.png")
    assert read_spots(outs).pixel_size_um == pytest.approx(UM_PER_PX / 0.05)


@pytest.mark.parametrize(
    ("changes", "given", "size", "source"),
    [
        ({"microns_per_pixel": 0.51}, None, 0.51, "microns_per_pixel"),
        ({}, None, 0.5, "grid pitch"),
        ({"spot_diameter_fullres": 55 / UM_PER_PX}, None, 0.5, "grid pitch"),
        ({"microns_per_pixel": 0.51}, 0.49, 0.49, "given"),
    ],
)
def test_where_the_pixel_size_comes_from(
    outs: Path, full: Path, changes: dict[str, float], given: float | None, size: float, source: str
) -> None:
    write_factors(outs, **changes)
    spots = read_spots(outs, image=full, pixel_size_um=given)
    assert spots.pixel_size_um == pytest.approx(size)
    assert spots.scale.source == source == spots.rna.uns["spots"]["pixel_size_source"]
    assert any("is derived" in note for note in spots.notes) == (source == "grid pitch")


def test_without_an_array_the_spot_diameter_of_65_um_is_used(outs: Path, full: Path) -> None:
    table = array()
    table.loc[table["array_row"] == 1].to_csv(outs / "spatial/tissue_positions.csv", index=False)
    spots = read_spots(outs, image=full)
    assert spots.pixel_size_um == pytest.approx(UM_PER_PX)
    assert spots.scale.source == "spot_diameter_fullres"
    assert (spots.rejects["code"] == "no_position").sum() == 12
    write_factors(outs, spot_diameter_fullres=None)
    unknown = read_spots(outs, image=full)
    assert unknown.pixel_size_um is None
    assert unknown.rna.uns["spatial_unit"] == "px"
    assert unknown.rna.obsm["spatial"].tolist() == unknown.centres_px.tolist()


def remove(name: str) -> Callable[[Path], None]:
    return lambda outs: (outs / name).unlink()


def rename(old: str, new: str) -> Callable[[Path], None]:
    return lambda outs: (outs / old).rename(outs / new) and None


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (remove("filtered_feature_bc_matrix.h5"), "neither filtered_feature_bc_matrix.h5"),
        (
            remove("spatial/tissue_positions.csv"),
            "neither tissue_positions.csv nor tissue_positions_list.csv",
        ),
        (remove("spatial/scalefactors_json.json"), "cannot read the scale factors"),
        (lambda o: (o / "spatial/scalefactors_json.json").write_text("[1]"), "must hold names"),
        (lambda o: (o / "filtered_feature_bc_matrix.h5").write_text("no"), "cannot read the counts"),
        (
            rename("spatial/tissue_positions.csv", "spatial/tissue_positions_list.csv"),
            "it has a header",
        ),
        (
            lambda o: write_h5(o / "filtered_feature_bc_matrix.h5", ["XX00", "XX02"]),
            r"no spot has both .*18 no_counts.*2 no_position",
        ),
        (
            lambda o: pd.concat([array(), array().iloc[:1]]).to_csv(
                o / "spatial/tissue_positions.csv", index=False
            ),
            r"positions: 1 spot\(s\) stand more than once",
        ),
        (
            lambda o: (
                array().drop(columns="array_row").to_csv(o / "spatial/tissue_positions.csv", index=False)
            ),
            "array_row",
        ),
    ],
)
def test_what_cannot_be_read_is_named(outs: Path, spoil: Callable[[Path], None], text: str) -> None:
    spoil(outs)
    with pytest.raises(InputError, match=text):
        read_spots(outs)


def test_bins_of_visium_hd_are_refused_by_name(outs: Path) -> None:
    (outs / "spatial/tissue_positions.csv").rename(outs / "spatial/tissue_positions.parquet")
    with pytest.raises(InputError) as caught:
        read_spots(outs)
    assert "Visium HD" in caught.value.hint


def test_centres_beyond_the_picture_are_rejected(outs: Path, tmp_path: Path) -> None:
    narrow = tmp_path / "narrow.png"
    Image.new("RGB", (700, HEIGHT)).save(narrow)
    spots = read_spots(outs, image=narrow)
    outside = array().query("in_tissue == 1 and pxl_col_in_fullres >= 700")["barcode"]
    codes = spots.rejects.set_index("obs_id")["code"]
    assert {name.split(":")[-1] for name in codes.index[codes == "outside_image"]} == set(outside)
    assert len(outside) > 0
