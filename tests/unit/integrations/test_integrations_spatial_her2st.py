"""her2st folders: written here in small, and the published sections where the data stand beside the checkout."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microsnoop.core.errors import InputError
from microsnoop_integrations import anndata_io
from microsnoop_integrations.spatial import read_spots

WIDTH, HEIGHT = 260, 150
GENES = ["ACTB", "ERBB2", "MALAT1"]
# name: (x px, y px, selected); counts of 7x3 are missing, 9x9 has no position, 13x2 is outside, 3x2 not selected
SPOTS = {
    "2x2": (40.5, 30.0, 1), "3x2": (60.5, 30.0, 0), "5x2": (100.5, 31.0, 1), "13x2": (260.0, 30.0, 1),
    "2x5": (40.5, 90.0, 1), "5x5": (100.0, 90.0, 1), "7x3": (140.5, 50.0, 1),
}  # fmt: skip
ROWS = ["5x5", "2x2", "9x9", "5x2", "13x2", "3x2", "2x5"]


def counts_of(name: str) -> list[int]:
    x, y = name.split("x")
    return [int(x), 10 * int(y), 0]


def write_tsv(path: Path, lines: list[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join("\t".join(str(cell) for cell in line) for line in lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_counts(folder: Path, names: list[str]) -> None:
    table: list[list[object]] = [["", *GENES], *([name, *counts_of(name)] for name in names)]
    write_tsv(folder / "data/ST-cnts/Z1.tsv.gz", table)


def write_positions(folder: Path, names: list[str]) -> None:
    head: list[object] = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]
    rows = [[*name.split("x"), 0, 0, *SPOTS[name]] for name in names]
    write_tsv(folder / "data/ST-spotfiles/Z1_selection.tsv", [head, *rows])


def write_image(folder: Path, name: str = "Z/Z1/he.png") -> Path:
    path = folder / "data/ST-imgs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (230, 220, 235)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_counts(tmp_path, ROWS)
    write_positions(tmp_path, list(SPOTS))
    write_image(tmp_path)
    labels = [
        ["", "patient_id", "ids", "label", "x", "y"],
        ["a", "Z", "Z1", 3, 5, 5],
        ["b", "Z", "Z1", 0, 2, 2],
    ]
    write_tsv(tmp_path / "res/ST-cluster/lbl/Z1-cluster-annotation.tsv.gz", labels)
    shares = [["", "CAFs", "NK/T cells "], ["5x2", 0.25, 0.75], ["2x2", 0.9, 0.1], ["5x5", 0.5, 0.5]]
    write_tsv(tmp_path / "res/ST-deconv/props/major/Z1-proportion.tsv", shares)
    return tmp_path


def test_every_spot_is_kept_or_rejected_with_a_reason(folder: Path) -> None:
    spots = read_spots(folder)
    assert [name.removeprefix("her2st:Z1:") for name in spots.rna.obs_names] == ["5x5", "2x2", "5x2", "2x5"]
    assert dict(zip(spots.rejects["obs_id"], spots.rejects["code"], strict=True)) == {
        "her2st:Z1:9x9": "no_position",
        "her2st:Z1:13x2": "outside_image",
        "her2st:Z1:3x2": "not_selected",
        "her2st:Z1:7x3": "no_counts",
    }
    assert spots.n_in == 8 == spots.rna.n_obs + len(spots.rejects)
    assert spots.rna.uns["spots"]["rows_in"] == 8
    assert spots.rna.uns["spots"]["rejected"]["no_counts"] == 1


def test_counts_and_places_belong_to_the_same_spot(folder: Path) -> None:
    spots = read_spots(folder, pixel_size_um=2.0)
    for row, name in enumerate(spots.rna.obs["spot"]):
        assert spots.rna.X[row].toarray().ravel().tolist() == counts_of(name)
        assert spots.centres_px[row].tolist() == list(SPOTS[name][:2])
        assert spots.rna.obsm["spatial"][row].tolist() == [2 * v for v in SPOTS[name][:2]]
        x, y = spots.rna.obs[["array_x", "array_y"]].iloc[row]
        assert f"{x}x{y}" == name
    assert spots.rna.layers["counts"].format == "csr"
    assert spots.rna.layers["counts"].dtype == np.float32
    assert spots.rna.layers["counts"] is not spots.rna.X
    assert list(spots.rna.var_names) == GENES
    assert spots.image.size_px == (HEIGHT, WIDTH)


def test_the_order_of_the_tables_plays_no_part(folder: Path) -> None:
    first = read_spots(folder)
    write_positions(folder, list(SPOTS)[::-1])
    again = read_spots(folder)
    assert (first.centres_px == again.centres_px).all()
    assert first.rna.obs.equals(again.rna.obs)


def test_the_pixel_size_is_derived_and_said_so(folder: Path) -> None:
    spots = read_spots(folder)
    assert spots.pixel_size_um == pytest.approx(10.0, rel=0.01)  # 20 px a step of 200 µm
    assert spots.spot_diameter_px == pytest.approx(10.0, rel=0.01)
    assert spots.rna.uns["spots"]["pixel_size_source"] == "grid pitch"
    assert any("is derived" in note for note in spots.notes)
    assert spots.rna.obsm["spatial"] == pytest.approx(spots.centres_px * spots.pixel_size_um)
    assert spots.rna.uns["spatial_unit"] == "um"
    given = read_spots(folder, pixel_size_um=9.5)
    assert given.scale.source == "given"
    assert not any("is derived" in note for note in given.notes)


def test_annotations_are_joined_by_x_and_y_and_may_be_missing(folder: Path) -> None:
    spots = read_spots(folder)
    obs = spots.rna.obs.set_index("spot")
    assert obs["cluster"].dropna().to_dict() == {"5x5": "3", "2x2": "0"}
    assert obs["cluster"].isna().sum() == 2
    assert obs["cell_type_major"].astype(object).where(obs["cell_type_major"].notna(), None).to_dict() == {
        "5x5": "CAFs", "2x2": "CAFs", "5x2": "NK/T cells", "2x5": None,
    }  # fmt: skip
    assert spots.rna.obsm["cell_types_major"][2].tolist() == [0.25, 0.75]
    assert np.isnan(spots.rna.obsm["cell_types_major"][3]).all()
    assert any("minor" in note and "not there" in note for note in spots.notes)


def test_spots_survive_the_file(folder: Path, tmp_path: Path) -> None:
    spots = read_spots(folder)
    back = anndata_io.read(anndata_io.write(spots.rna, tmp_path / "rna.h5ad"))
    assert list(back.obs_names) == list(spots.rna.obs_names)
    assert (back.layers["counts"] != spots.rna.layers["counts"]).nnz == 0
    assert list(back.uns["spots"]["notes"]) == list(spots.notes)
    assert list(back.uns["spots"]["cell_types_major"]) == ["CAFs", "NK/T cells"]


def test_an_image_of_another_place_is_used_and_its_border_counts(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (WIDTH, 60)).save(small)
    spots = read_spots(folder, image=small)
    assert set(spots.rna.obs["spot"]) == {"2x2", "5x2"}
    assert (spots.rejects["code"] == "outside_image").sum() == 3
    assert "60 × 260 px" in spots.rejects.set_index("obs_id").loc["her2st:Z1:5x5", "message"]
    (folder / "data/ST-imgs/Z/Z1/he.png").unlink()
    without = read_spots(folder)
    assert without.image.path is None
    assert without.rna.n_obs == 5  # nothing is known to lie outside
    assert any("no image" in note for note in without.notes)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def transpose(folder: Path) -> None:
    rows: list[list[object]] = [["", *ROWS], *([gene, *range(len(ROWS))] for gene in GENES)]
    write_tsv(folder / "data/ST-cnts/Z1.tsv.gz", rows)


def spoil_count(value: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        write_tsv(
            folder / "data/ST-cnts/Z1.tsv.gz",
            [["", *GENES], ["2x2", 1, value, 0], ["5x5", 1, 1, 1], ["2x5", 1, 1, 1]],
        )

    return spoil


def spoil_positions(table: list[list[object]]) -> Callable[[Path], None]:
    return lambda folder: write_tsv(folder / "data/ST-spotfiles/Z1_selection.tsv", table)


def spoil_clusters(table: list[list[object]]) -> Callable[[Path], None]:
    return lambda folder: write_tsv(folder / "res/ST-cluster/lbl/Z1-cluster-annotation.tsv.gz", table)


def cut(folder: Path) -> None:
    path = folder / "data/ST-cnts/Z1.tsv.gz"
    path.write_bytes(path.read_bytes()[:-12])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (remove("data/ST-spotfiles/Z1_selection.tsv"), "Z1_selection.tsv not there"),
        (transpose, "transposed: its columns are spots"),
        (
            lambda f: write_counts(f, [*ROWS, "2x2"]),
            r"counts: 1 spot\(s\) stand more than once, e.g. \['2x2'\]",
        ),
        (lambda f: write_positions(f, [*SPOTS, "5x5"]), r"Z1_selection.tsv: spot\(s\) \['5x5'\] stand more"),
        (spoil_count(0.5), "whole numbers of at least 0, found e.g. 0.5"),
        (spoil_count(-3), "found e.g. -3"),
        (spoil_count("nan"), "no numbers"),
        (spoil_count("many"), "Z1.tsv.gz, line 2: could not convert"),
        (spoil_count("1\t2"), "line 2: 4 counts, the header names 3 genes"),
        (cut, "cannot read the counts"),
        (lambda f: write_counts(f, ["90x1", "91x1"]), "no spot has both .*2 no_position"),
        (lambda f: write_image(f, "Z/Z1/second.jpg"), "2 images"),
        (lambda f: (f / "data/ST-imgs/Z/Z1/he.png").write_text("no image"), "cannot use the image"),
        (spoil_positions([["x", "y"], [1, 2]]), "no column pixel_x, pixel_y"),
        (spoil_positions([["x", "y", "pixel_x", "pixel_y"], [1.5, 2, 3, 4]]), "array coordinates"),
        (
            spoil_clusters([["", "label", "x", "y"], ["a", 1, 2, 2], ["b", 2, 2, 2]]),
            "annotation.*more than once",
        ),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, spoil: Callable[[Path], None], text: str) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=text):
        read_spots(folder)


def test_the_section_must_be_clear(folder: Path) -> None:
    write_tsv(folder / "data/ST-cnts/Y2.tsv.gz", [["", "G"], ["1x1", 1]])
    with pytest.raises(InputError, match="name one section; it has Y2, Z1"):
        read_spots(folder)
    with pytest.raises(InputError, match="no section 'B9'"):
        read_spots(folder, section="B9")
    assert read_spots(folder, section="Z1", dataset="mine").rna.obs_names[0] == "mine:Z1:5x5"


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no known layout"):
        read_spots(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        read_spots(tmp_path / "nowhere")


def test_genes_of_one_name_get_names_of_their_own(folder: Path) -> None:
    table: list[list[object]] = [["", "A", "A", "B"], *([n, *counts_of(n)] for n in ROWS)]
    write_tsv(folder / "data/ST-cnts/Z1.tsv.gz", table)
    spots = read_spots(folder)
    assert list(spots.rna.var_names) == ["A", "A-1", "B"]
    assert any("1 gene names" in note for note in spots.notes)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("section", "n_in", "kept", "genes", "rejected", "clustered", "total"),
    [("B4", 284, 283, 15289, ["her2st:B4:18x20"], 222, 935146), ("C2", 187, 187, 15706, [], 185, 1926633)],
)
def test_the_published_sections(
    shared_data: Path,
    section: str,
    n_in: int,
    kept: int,
    genes: int,
    rejected: list[str],
    clustered: int,
    total: int,
) -> None:
    spots = read_spots(shared_data / "her2st", section=section)
    assert (spots.n_in, spots.rna.shape) == (n_in, (kept, genes))
    assert list(spots.rejects["obs_id"]) == rejected
    assert set(spots.rejects["code"]) <= {"no_counts"}
    assert int(spots.rna.X.sum(dtype=np.float64)) == total
    assert spots.rna.obs["cluster"].notna().sum() == clustered
    assert spots.pixel_size_um == pytest.approx(0.688, abs=0.002)
    assert spots.rna.obsm["cell_types_major"].shape == (kept, 8)
    assert spots.rna.obsm["cell_types_minor"].sum(axis=1) == pytest.approx(np.ones(kept), abs=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize("section", ["B4", "C2"])
def test_published_spots_lie_on_tissue(shared_data: Path, section: str) -> None:
    """Dark under the spots; with x and y swapped or mirrored many lie on the bright background."""
    spots = read_spots(shared_data / "her2st", section=section)
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(spots.image.path) as image:
            image.draft("L", (image.width // 8, image.height // 8))  # a decoder's own shrinking: an eighth
            grey = np.asarray(image.convert("L")).astype(float)
    finally:
        Image.MAX_IMAGE_PIXELS = before
    height, width = spots.image.size_px
    side = grey.shape[0] / height

    def brightness(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        near = [
            np.clip((v * side).astype(int), 9, size - 10) for v, size in zip((y, x), grey.shape, strict=True)
        ]
        return np.array([grey[r - 9 : r + 10, c - 9 : c + 10].mean() for r, c in zip(*near, strict=True)])

    x, y = spots.centres_px.T
    here, background = brightness(x, y), np.percentile(grey, 90)
    assert (here > background - 12).mean() == 0
    for elsewhere in (brightness(y, x), brightness(width - x, y), brightness(x, height - y)):
        assert (elsewhere > background - 12).mean() > 0.1
        assert elsewhere.mean() > here.mean() + 10
