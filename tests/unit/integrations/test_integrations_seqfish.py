"""seqFISH+ folders as they were published, and folders broken in every way: nothing is guessed, nothing lost."""

from __future__ import annotations

import gzip
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import InputError, JointError
from microsnoop_integrations.seqfish import read_seqfish, read_seqfish_cells

GENES = ["Aanat", "Nan", "Zfp36", "Gad1"]
FIELDS = [0, 0, 0, 1, 1]
X = [10.5, 200.25, 30.0, 44.0, 5.0]
Y = [1.5, 20.0, 300.75, 4.0, 50.0]
TYPES = ["Excitatory neuron", "Interneuron", "Excitatory neuron", "", "Microglia"]
LOUVAIN = [3, 7, 3, 12, 9]
COUNTS = np.array([[0, 1, 2, 3], [4, 0, 0, 1], [7, 7, 0, 0], [0, 0, 0, 5], [1, 1, 1, 1]])  # cells × genes


def lines(rows: list[list[Any]], mark: str = "\t", end: str = "\n") -> str:
    return end.join(mark.join(map(str, row)) for row in rows) + end


def cell(i: int) -> str:
    return f"cell_{i + 1}"


def write_cells(folder: Path, *, order: tuple[int, ...] = (0, 1, 2, 3, 4)) -> None:
    """The tables of the Giotto repository."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [[cell(i), X[i], Y[i]] for i in order]
    (folder / "svz_centroids_coord.txt").write_text(lines([["ID", "X", "Y"], *rows]))
    rows = [[cell(i), FIELDS[i], TYPES[i]] for i in range(5)]
    (folder / "svz_centroids_annot.txt").write_text(lines([["ID", "FOV", "cell_types"], *rows]))
    rows = [[cell(i), FIELDS[i]] for i in range(5)]
    text = lines([["uniq_ID", "Field_of_View"], *rows], end="\r")
    (folder / "cortex_fields_info.txt").write_bytes(text.encode())
    with zipfile.ZipFile(folder / "annotations.zip", "w") as archive:
        rows = [[i, LOUVAIN[i]] for i in range(5)]
        archive.writestr("cortex_svz_types.csv", lines([["index", "louvain"], *rows], ",", "\r\n"))
        archive.writestr("OB_types.csv", lines([["index", "louvain"], [0, 99], [1, 98]], ","))
        archive.writestr("__MACOSX/._cortex_svz_types.csv", b"\x00\x05")


def write_expression(
    path: Path, cells: tuple[int, ...] = (0, 1, 2), *, header: bool = True, values: NDArray[Any] = COUNTS
) -> Path:
    """Genes × cells, packed, blanks between."""
    rows = [[gene, *values[list(cells), g]] for g, gene in enumerate(GENES)]
    text = lines(([[cell(i) for i in cells]] if header else []) + rows, " ")
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture
def giotto(tmp_path: Path) -> Path:
    write_cells(tmp_path / "tables")
    write_expression(tmp_path / "field_expr.txt.gz")
    rows = [[X[i], -Y[i]] for i in range(3)]
    (tmp_path / "field_locs.txt").write_text(lines(rows, " "))
    (tmp_path / "ligands.txt").write_text(lines([["mouseLigand", "mouseReceptor"], ["A2m", "Lrp1"]]))
    return tmp_path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The layout of the authors' source archive, both tissues."""
    folder = tmp_path / "sourcedata"
    folder.mkdir()
    (folder / "cortex_svz_counts.csv").write_text(lines([GENES, *COUNTS.tolist()], ","))
    names = ["Field of View", "Cell ID", "X", "Y", "Region"]
    rows = [[FIELDS[i], i + 1, X[i], Y[i], "Cortex" if i < 3 else "SVZ"] for i in range(5)]
    (folder / "cortex_svz_cellcentroids.csv").write_text(lines([names, *rows], ","))
    rows = [[i, LOUVAIN[i]] for i in range(5)]
    (tmp_path / "cortex_svz_cell_type_annotations.csv").write_text(lines([["index", "louvain"], *rows], ","))
    (folder / "ob_counts.csv").write_text(lines([GENES, *COUNTS[:2].tolist()], ","))
    (folder / "ob_cellcentroids.csv").write_text(lines([names[:4], [2, 1, 5, 6], [2, 2, 7, 8]], ","))
    (tmp_path / "OB_cell_type_annotations.csv").write_text("index,louvain\n0,4\n1,5\n")
    return tmp_path


def plain(value: Any) -> bool:
    """Whether a file can hold it: text, numbers, arrays of them, tables, and mappings of those."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and plain(v) for key, v in value.items())
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "iufb" or all(isinstance(v, str) for v in value)
    return isinstance(value, str | int | float | pd.DataFrame)


def test_the_published_layout_is_read_and_joined(giotto: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = read_seqfish(giotto, pixel_size_um=0.5)
    rna = data["rna"]
    assert list(data.mod) == ["rna"]
    assert list(rna.obs_names) == [f"seqfish:cortex:0:{i}" for i in range(3)]
    assert list(rna.var_names) == GENES
    assert rna.X.format == "csr"
    assert rna.X.dtype == np.float32
    assert rna.X.toarray().tolist() == COUNTS[:3].tolist()
    assert rna.layers["counts"] is not rna.X
    assert (rna.layers["counts"] != rna.X).nnz == 0
    np.testing.assert_array_equal(rna.obsm["spatial"], np.c_[X[:3], Y[:3]] * 0.5)
    assert rna.uns["spatial_unit"] == "um"
    assert rna.obs["x_px"].tolist() == X[:3]
    assert rna.obs["cell_type"].tolist() == TYPES[:3]
    assert rna.obs["louvain"].tolist() == ["3", "7", "3"]
    assert rna.obs["field"].tolist() == ["0"] * 3
    facts = data.uns["seqfish"]
    assert "non-commercial" in facts["licence"]
    assert "non-commercial" in rna.uns["seqfish"]["licence"]
    assert facts["missing"].tolist() == [
        "counts of 2 of 5 cells (field 1)",
        "counts of 9,996 of the 10,000 genes of the assay",
        "cell types of 1 of 5 cells",
        "images of the fields",
        "segmentation of the cells",
    ]
    assert "counts of 2 of 5 cells" in caplog.text
    assert not any("ligands" in name for name in facts["files"])


def test_cells_without_counts_are_rejects_and_never_zeros(giotto: Path) -> None:
    data = read_seqfish(giotto)
    facts = data.uns["seqfish"]
    assert facts["rejects"]["obs_id"].tolist() == ["seqfish:cortex:1:3", "seqfish:cortex:1:4"]
    assert set(facts["rejects"]["code"]) == {"no_counts"}
    assert data.n_obs + len(facts["rejects"]) == len(facts["cells"]) == 5
    assert facts["cells"]["has_counts"].tolist() == [True] * 3 + [False] * 2
    assert "seqfish:cortex:1:3" not in data["rna"].obs_names


def test_without_a_pixel_size_positions_stay_pixels(giotto: Path) -> None:
    data = read_seqfish(giotto)
    np.testing.assert_array_equal(data["rna"].obsm["spatial"], np.c_[X[:3], Y[:3]])
    assert data["rna"].uns["spatial_unit"] == data.uns["seqfish"]["spatial_unit"] == "px"
    assert "pixel size (positions are in px)" in data.uns["seqfish"]["missing"]
    assert "pixel_size_um" not in data.uns["seqfish"]


def test_what_is_there_is_not_called_missing(giotto: Path) -> None:
    (giotto / "images").mkdir()
    (giotto / "images" / "0.tif").write_bytes(b"")
    (giotto / "rois.zip").write_bytes(Path(giotto / "tables" / "annotations.zip").read_bytes())
    missing = read_seqfish(giotto, pixel_size_um=1, field=0).uns["seqfish"]["missing"].tolist()
    assert missing == ["counts of 9,996 of the 10,000 genes of the assay"]


def test_files_keep_everything(giotto: Path, tmp_path: Path) -> None:
    data = read_seqfish(giotto, pixel_size_um=0.103)
    assert plain(dict(data.uns))
    assert plain(dict(data["rna"].uns))
    with mudata.set_options(pull_on_update=False):
        data.write(tmp_path / "a.h5mu")
        again = mudata.read(tmp_path / "a.h5mu")
    assert list(again.obs_names) == list(data.obs_names)
    assert again["rna"].X.dtype == np.float32
    pd.testing.assert_frame_equal(again["rna"].obs, data["rna"].obs)
    for name in ("cells", "rejects"):
        pd.testing.assert_frame_equal(
            again.uns["seqfish"][name], data.uns["seqfish"][name], check_dtype=False
        )
    assert again.uns["seqfish"]["missing"].tolist() == data.uns["seqfish"]["missing"].tolist()
    assert again.uns["seqfish"]["pixel_size_um"] == 0.103


def test_reading_leaves_mudata_as_it_was(giotto: Path) -> None:
    from mudata._core.config import OPTIONS

    before = dict(OPTIONS)
    read_seqfish(giotto)
    assert before == OPTIONS


def test_the_source_archive_is_read_by_row(archive: Path) -> None:
    data = read_seqfish(archive, pixel_size_um=2)
    rna = data["rna"]
    assert list(rna.obs_names) == [f"seqfish:cortex:{f}:{i}" for i, f in enumerate(FIELDS)]
    assert rna.X.toarray().tolist() == COUNTS.tolist()
    assert list(rna.var_names) == GENES
    assert rna.obs["louvain"].tolist() == [str(n) for n in LOUVAIN]
    assert rna.obs["region"].tolist() == ["Cortex"] * 3 + ["SVZ"] * 2
    np.testing.assert_array_equal(rna.obsm["spatial"], np.c_[X, Y] * 2)
    assert len(data.uns["seqfish"]["rejects"]) == 0
    assert "cell types" in data.uns["seqfish"]["missing"]


def test_tissues_do_not_mix(archive: Path) -> None:
    rna = read_seqfish(archive, tissue="olfactory_bulb")["rna"]
    assert list(rna.obs_names) == ["seqfish:olfactory_bulb:2:0", "seqfish:olfactory_bulb:2:1"]
    assert rna.obs["louvain"].tolist() == ["4", "5"]
    with pytest.raises(ValueError, match="unknown tissue 'liver'"):
        read_seqfish(archive, tissue="liver")


def test_one_field(archive: Path) -> None:
    data = read_seqfish(archive, field=1)
    assert list(data["rna"].obs_names) == ["seqfish:cortex:1:3", "seqfish:cortex:1:4"]
    assert data["rna"].X.toarray().tolist() == COUNTS[3:].tolist()
    assert len(data.uns["seqfish"]["rejects"]) == 0
    with pytest.raises(InputError, match=r"no field 5 of cortex; its fields are 0, 1"):
        read_seqfish(archive, field=5)


def test_a_field_without_counts_is_an_error_not_an_empty_result(giotto: Path) -> None:
    with pytest.raises(InputError, match=r"holds no counts of the field\(s\) 1"):
        read_seqfish(giotto, field=1)


def test_cells_alone(giotto: Path) -> None:
    (giotto / "field_expr.txt.gz").unlink()
    with pytest.raises(InputError, match=r"has no counts .*looked for counts") as caught:
        read_seqfish(giotto)
    assert "read_seqfish_cells" in caught.value.hint
    cells = read_seqfish_cells(giotto)
    assert list(cells.index) == [f"seqfish:cortex:{f}:{i}" for i, f in enumerate(FIELDS)]
    assert cells["x_px"].tolist() == X
    assert cells["cell_index"].tolist() == [0, 1, 2, 3, 4]
    assert list(read_seqfish_cells(giotto, field="01").index) == ["seqfish:cortex:1:3", "seqfish:cortex:1:4"]


@pytest.mark.parametrize("missing", ["table", "everything"])
def test_an_unknown_layout_names_what_is_there(tmp_path: Path, missing: str) -> None:
    if missing == "table":
        (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    found = r"notes\.csv \(a, b\)" if missing == "table" else "no table at all"
    with pytest.raises(InputError, match=f"looked for counts.*found {found}"):
        read_seqfish(tmp_path)
    with pytest.raises(InputError, match="no table of cells"):
        read_seqfish_cells(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_seqfish(tmp_path / "nowhere")


def test_tables_are_joined_by_name_where_they_have_names(giotto: Path) -> None:
    write_cells(giotto / "tables", order=(3, 0, 4, 2, 1))
    write_expression(giotto / "field_expr.txt.gz", (2, 0, 1))
    (giotto / "field_locs.txt").write_text(lines([[X[i], -Y[i]] for i in (2, 0, 1)], " "))
    rna = read_seqfish(giotto)["rna"]
    assert list(rna.obs_names) == [f"seqfish:cortex:0:{i}" for i in range(3)]
    assert rna.X.toarray().tolist() == COUNTS[:3].tolist()
    np.testing.assert_array_equal(rna.obsm["spatial"], np.c_[X[:3], Y[:3]])


def test_tables_of_different_length_are_never_joined(giotto: Path) -> None:
    path = giotto / "tables" / "cortex_fields_info.txt"
    path.write_bytes(path.read_bytes().rsplit(b"\r", 2)[0] + b"\r")
    with pytest.raises(JointError, match=r"(4 cells.*5)|(5 cells.*4)") as caught:
        read_seqfish(giotto)
    assert caught.value.code == "row_count_mismatch"


def test_counts_of_another_length_are_never_joined(archive: Path) -> None:
    path = archive / "sourcedata" / "cortex_svz_counts.csv"
    path.write_text(lines([GENES, *COUNTS[:4].tolist()], ","))
    with pytest.raises(JointError, match=r"cortex_svz_counts.csv has 4 cells .* has 5") as caught:
        read_seqfish(archive)
    assert caught.value.code == "row_count_mismatch"
    path.write_text(lines([GENES, *COUNTS[:3].tolist()], ","))
    with pytest.raises(JointError):
        read_seqfish(archive)  # as many as field 0 has, but nobody said that they are of field 0
    assert list(read_seqfish(archive, field=0)["rna"].obs["cell_index"]) == [0, 1, 2]
    with pytest.raises(JointError):
        read_seqfish(archive, field=1)
    path.write_text(lines([GENES, *COUNTS[:2].tolist()], ","))
    with pytest.raises(JointError, match="has 2 cells"):
        read_seqfish(archive, field=0)


def test_locations_of_another_length_are_never_joined(giotto: Path) -> None:
    (giotto / "field_locs.txt").write_text("1 -1\n2 -2\n")
    with pytest.raises(JointError, match=r"field_locs.txt has 2 cells .* has 3"):
        read_seqfish(giotto)


def test_counts_of_unknown_cells(giotto: Path) -> None:
    text = " ".join([*(cell(i) for i in range(2)), "cell_9"]) + "\nAanat 1 2 3\n"
    (giotto / "field_expr.txt.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match=r"counts of 1 cells that the tables do not have, e.g. index 8"):
        read_seqfish(giotto)


@pytest.mark.parametrize("value", ["-1", "1.5", "", "NA", "many", "True", "inf", "1e12"])
@pytest.mark.parametrize("rows", ["cells", "genes"])
def test_what_is_no_count_is_named(archive: Path, value: str, rows: str) -> None:
    values = COUNTS.astype(object)
    values[3, 2] = value
    path = archive / "sourcedata" / "cortex_svz_counts.csv"
    if rows == "cells":
        path.write_text(lines([GENES, *values.tolist()], ","))
        expected = "gene Zfp36 of cell 4"
    else:
        table = [["", *(cell(i) for i in range(5))], *([g, *values[:, j]] for j, g in enumerate(GENES))]
        path.write_text(lines(table, "\t"))
        expected = "gene Zfp36 of cell cell_4"
    with pytest.raises(InputError, match=f"{expected}.*1 of 20 values are not"):
        read_seqfish(archive)


@pytest.mark.parametrize("written", ["2.0", "2", "2e0"])
def test_whole_numbers_may_be_written_as_they_like(archive: Path, written: str) -> None:
    values = COUNTS.astype(object)
    values[0, 2] = written
    (archive / "sourcedata" / "cortex_svz_counts.csv").write_text(lines([GENES, *values.tolist()], ","))
    assert read_seqfish(archive)["rna"].X.toarray().tolist() == COUNTS.tolist()


def matrix_text(form: str) -> str:
    cells, names = COUNTS.tolist(), [cell(i) for i in range(5)]
    rows = [[gene, *COUNTS[:, g]] for g, gene in enumerate(GENES)]
    return {
        "genes, header of cells": lambda: lines([names, *rows], " "),
        "genes, corner": lambda: lines([["gene", *names], *rows], "\t"),
        "genes, quoted": lambda: lines([[f'"{n}"' for n in names], *([f'"{r[0]}"', *r[1:]] for r in rows)], " "),
        "genes, no header": lambda: lines(rows, " "),
        "genes, no header, commas": lambda: lines(rows, ","),
        "genes, counted cells": lambda: lines([["", 0, 1, 2, 3, 4], *rows], ","),
        "cells": lambda: lines([GENES, *cells], ","),
        "cells, counted": lambda: lines([["", *GENES], *([i, *row] for i, row in enumerate(cells))], ","),
        "cells, named": lambda: lines([["ID", *GENES], *([cell(i), *r] for i, r in enumerate(cells))], "\t"),
        "cells, other order": lambda: lines(
            [["ID", *GENES], *([cell(i), *cells[i]] for i in (4, 2, 0, 1, 3))], "\t"
        ),
        "Windows": lambda: lines([GENES, *cells], ",", "\r\n"),
        "Macintosh": lambda: lines([GENES, *cells], ",", "\r"),
    }[form]()  # fmt: skip


@pytest.mark.parametrize("form", [
    "genes, header of cells", "genes, corner", "genes, quoted", "genes, no header", "genes, no header, commas",
    "genes, counted cells", "cells", "cells, counted", "cells, named", "cells, other order", "Windows", "Macintosh",
])  # fmt: skip
def test_every_form_of_counts(archive: Path, form: str) -> None:
    (archive / "sourcedata" / "cortex_svz_counts.csv").write_bytes(matrix_text(form).encode())
    rna = read_seqfish(archive)["rna"]
    assert list(rna.var_names) == GENES
    assert rna.X.toarray().tolist() == COUNTS.tolist()


@pytest.mark.parametrize(("text", "message"), [
    ("1,2\n3,4\n", "genes are unknown"),
    ("cell_1,cell_2\n3,4\n", "names its cells and no gene"),
    ("id\tcell_1\tcell_2\ncell_3\t1\t2\n", "in rows and in columns"),
    ("g\tA\tB\nC\t1\t2\n", "neither rows .* nor columns"),
    ("cell_1 cell_1\nAanat 1 2\n", "index 0 stands there several times"),
    ("\tcell_1\tcell_2\n\t1\t2\n", "gene 1 has no name"),
    ("A,B\n1,2\n1,2,3\n", "not a readable table"),
    ("cell_1 cell_2 cell_3\nAanat 1\nGad1 2\n", "names 3 columns and has 1"),
    ("", "is empty"),
])  # fmt: skip
def test_counts_that_cannot_be_read(giotto: Path, text: str, message: str) -> None:
    (giotto / "field_expr.txt.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match=message):
        read_seqfish(giotto)


def test_genes_that_stand_twice_keep_their_counts(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["Gad1", "Sept1", "Sept1", "Aatf"]
    (archive / "sourcedata" / "cortex_svz_counts.csv").write_text(lines([names, *COUNTS.tolist()], ","))
    rna = read_seqfish(archive)["rna"]
    assert list(rna.var_names) == ["Gad1", "Sept1", "Sept1-1", "Aatf"]
    assert list(rna.var["gene"]) == names
    assert rna.X.toarray().tolist() == COUNTS.tolist()
    assert "1 genes stand more than once" in caplog.text


def test_the_file_of_counts_can_be_named(giotto: Path, tmp_path: Path) -> None:
    other = write_expression(tmp_path / "other_expr.txt.gz", (0, 1, 2), values=COUNTS * 2)
    with pytest.raises(InputError, match=r"several files of counts: field_expr.txt.gz, other_expr.txt.gz"):
        read_seqfish(giotto)
    assert read_seqfish(giotto, counts=other)["rna"].X.sum() == 2 * COUNTS[:3].sum()


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("cortex_fields_info.txt", "cell_2\t0", "cell_2\t1", "contradict each other on field of the cell with index 1"),
    ("svz_centroids_coord.txt", "cell_2\t200.25", "cell_2\t210.25", "contradict each other on x_px .* index 1"),
    ("svz_centroids_coord.txt", "cell_2\t200.25", "cell_2\t", "row 2 has no usable x_px"),
    ("svz_centroids_coord.txt", "cell_2\t200.25", "cell_2\tinf", "row 2 has no usable x_px"),
    ("svz_centroids_coord.txt", "cell_2", "cell_1", "index 0 stands in several rows"),
    ("svz_centroids_coord.txt", "cell_2", "cell_7", "cell index"),
    ("svz_centroids_coord.txt", "cell_2", "nucleus 2", "published names are cell_1"),
    ("svz_centroids_annot.txt", "FOV", "uniq_ID", "says the same thing in two columns"),
])  # fmt: skip
def test_tables_that_contradict_themselves(giotto: Path, name: str, old: str, new: str, message: str) -> None:
    path = giotto / "tables" / name
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(InputError, match=message):
        read_seqfish(giotto)


def test_rounding_is_no_contradiction(giotto: Path) -> None:
    (giotto / "field_locs.txt").write_text("10 -2\n200 -20\n30 -301\n")
    assert read_seqfish(giotto)["rna"].obs["x_px"].tolist() == X[:3]


@pytest.mark.parametrize("sign", [1, -1])
def test_counts_and_locations_alone(tmp_path: Path, sign: int) -> None:
    write_expression(tmp_path / "field_expr.txt.gz", (1, 0, 2))
    (tmp_path / "field_locs.txt").write_text(lines([[X[i], sign * Y[i]] for i in (1, 0, 2)], " "))
    data = read_seqfish(tmp_path, field=4, pixel_size_um=1)
    assert list(data["rna"].obs_names) == [f"seqfish:cortex:4:{i}" for i in range(3)]
    np.testing.assert_array_equal(data["rna"].obsm["spatial"], np.c_[X[:3], Y[:3]])
    unknown = read_seqfish(tmp_path)
    assert list(unknown["rna"].obs_names) == [f"seqfish:cortex:unknown:{i}" for i in range(3)]
    assert "fields of view" in unknown.uns["seqfish"]["missing"]
    assert "fields of view" not in data.uns["seqfish"]["missing"]
    (tmp_path / "field_locs.txt").write_text("1 -1\n1 2\n1 -3\n")
    with pytest.raises(InputError, match="y is negative in some rows and positive in others"):
        read_seqfish(tmp_path)
    (tmp_path / "field_locs.txt").write_text("1 -1\n1 x\n1 -3\n")
    with pytest.raises(InputError, match="row 2 does not hold two numbers"):
        read_seqfish(tmp_path)


def test_counts_alone_have_no_positions(tmp_path: Path) -> None:
    write_expression(tmp_path / "field_expr.txt.gz", header=False)
    data = read_seqfish(tmp_path)
    assert "spatial" not in data["rna"].obsm
    assert "positions of cells" in data.uns["seqfish"]["missing"]


@pytest.mark.parametrize("name", ["field_expr.txt.gz", "tables/annotations.zip"])
def test_damaged_files_are_named(giotto: Path, name: str) -> None:
    path = giotto / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=Path(name).name):
        read_seqfish(giotto)


@pytest.mark.parametrize("size", [0, -1, np.nan, np.inf])
def test_pixel_sizes_are_positive(giotto: Path, size: float) -> None:
    with pytest.raises(ValueError, match="pixel_size_um must be positive"):
        read_seqfish(giotto, pixel_size_um=size)


# ---------------------------------------------------------------- the published files


@pytest.mark.shared
def test_field_0_as_published(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "seqfish_plus"
    data = read_seqfish(folder, pixel_size_um=0.103)
    rna, facts = data["rna"], data.uns["seqfish"]
    assert rna.shape == (118, 1774)
    text = gzip.decompress((folder / "2022_miniseqFISH/seqfish_field_expr.txt.gz").read_bytes()).decode()
    rows = [line.split() for line in text.splitlines()[1:]]
    assert list(rna.var_names) == [row[0] for row in rows]
    assert rna.X.T.toarray().tolist() == [[int(v) for v in row[1:]] for row in rows]
    assert rna.obs_names[0] == "seqfish:cortex:0:0"
    assert rna.obs_names[-1] == "seqfish:cortex:0:117"
    np.testing.assert_allclose(rna.obsm["spatial"][0], [1632.02 * 0.103, 1305.7 * 0.103])
    assert rna.obs["cell_type"].value_counts().to_dict()["Astrocyte"] == 10
    assert rna.obs["louvain"].tolist()[:5] == ["13", "3", "3", "7", "6"]
    cells = facts["cells"]
    assert len(cells) == 913
    assert cells["field"].nunique() == 7
    assert cells["cell_type"].nunique() == 10
    assert len(facts["rejects"]) == 795
    assert facts["missing"].tolist() == [
        "counts of 795 of 913 cells (field 1, 2, 3, 4, 5, 6)",
        "counts of 8,226 of the 10,000 genes of the assay",
        "images of the fields",
        "segmentation of the cells",
    ]
    with mudata.set_options(pull_on_update=False):
        data.write(tmp_path / "a.h5mu")
        again = mudata.read(tmp_path / "a.h5mu")
    assert (again["rna"].X != rna.X).nnz == 0
    pd.testing.assert_frame_equal(again["rna"].obs, rna.obs)


@pytest.mark.shared
def test_the_olfactory_bulb_has_clusters_only(shared_data: Path) -> None:
    with pytest.raises(InputError, match="no counts of the tissue 'olfactory_bulb'"):
        read_seqfish(shared_data / "seqfish_plus", tissue="olfactory_bulb")
    cells = read_seqfish_cells(shared_data / "seqfish_plus", tissue="olfactory_bulb")
    assert len(cells) == 2050
    assert list(cells["field"].cat.categories) == ["unknown"]
    assert cells.index[-1] == "seqfish:olfactory_bulb:unknown:2049"
