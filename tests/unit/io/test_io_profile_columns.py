"""Which column is what: the names of each tool, rivals, and what is a feature."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from microsnoop.core.errors import InputError
from microsnoop.io.profile_columns import (
    ALIASES,
    COMPARTMENTS,
    UNITS_IN_NAMES,
    assign_columns,
    find_features,
    is_metadata,
    own_name,
)


@pytest.mark.parametrize(
    ("column", "own"),
    [
        ("plate", "plate"), ("Plate", "plate"), (" well ", "well"), ("meta_plate", "plate"), ("META_WELL", "well"),
        ("Metadata_Plate", "plate"), ("Image_Metadata_Plate", "plate"), ("Image_Metadata_Plate_DAPI", "plate"),
        ("Image_Metadata_Well_Tubulin", "well"), ("Metadata_Source", "laboratory"), ("source", None),
        ("Metadata_Batch", "batch"), ("Metadata_JCP2022", "compound"), ("Metadata_pert_iname", "compound"),
        ("Metadata_broad_sample", "compound"), ("Metadata_moa", "moa"), ("Metadata_MoA", "moa"),
        ("Metadata_control_type", "control_type"), ("Metadata_mmoles_per_liter", "concentration"),
        ("Metadata_Compound", "compound"), ("Metadata_Concentration", "concentration"), ("Metadata_Week", "week"),
        ("Metadata_Site", "site"), ("Metadata_Assay_Plate_Barcode", "plate"), ("well_position", "well"),
        ("Metadata_Object_Count", "n_cells"), ("Image_Count_Cells", "n_cells"), ("experiment", "batch"),
        ("Cell Line", "cell_line"), ("obs_id", "obs_id"), ("Metadata_Plate_Map_Name", None),
        ("Image_Metadata_Plate_Map", None), ("Cells_AreaShape_Area", None), ("plate_DAPI", None), ("site_id", None),
        ("well_id", None), ("ImageNumber", None), ("f1", None), ("", None),
    ],
)  # fmt: skip
def test_names_of_others(column: str, own: str | None) -> None:
    assert own_name(column) == own


def test_no_alias_stands_for_two_names() -> None:
    every = [alias for own, aliases in ALIASES.items() for alias in (own, *aliases)]
    assert len(every) == len(set(every))
    assert set(UNITS_IN_NAMES) <= set(ALIASES["concentration"])


def test_channels_of_the_table_end_metadata_columns() -> None:
    assert own_name("Image_Metadata_Well_CorrX") is None
    assert own_name("Image_Metadata_Well_CorrX", channels=["CorrX"]) == "well"
    names = ["Image_FileName_CorrX", "Image_Metadata_Well_CorrX", "Image_Metadata_Plate_Type"]
    assert assign_columns(names, where="t")[0] == {"well": "Image_Metadata_Well_CorrX"}


def test_an_explicit_name_wins_over_all_others() -> None:
    names = ["Metadata_Plate", "Barcode", "Metadata_Well", "f1"]
    chosen, notes = assign_columns(names, {"plate": "Barcode", "compound": "f1"}, where="t")
    assert chosen == {"plate": "Barcode", "compound": "f1", "well": "Metadata_Well"}
    assert notes == ()


def test_rivals_are_all_listed_and_none_is_chosen() -> None:
    names = ["Metadata_JCP2022", "Metadata_pert_iname", "plate", "Metadata_Plate", "well"]
    with pytest.raises(InputError) as caught:
        assign_columns(names, where="t.csv")
    for part in ("t.csv", "compound: Metadata_JCP2022, Metadata_pert_iname", "plate: plate, Metadata_Plate"):
        assert part in caught.value.message
    assert "compound: Metadata_JCP2022" in caught.value.hint
    assert assign_columns(names, {"compound": "Metadata_pert_iname", "plate": "plate"}, where="t")[0] == {
        "compound": "Metadata_pert_iname", "plate": "plate", "well": "well",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [pa.table, pd.DataFrame])
def test_columns_that_say_the_same_are_no_rivals(kind: type) -> None:
    columns = {"Image_Metadata_Well_DNA": ["A01", None], "Image_Metadata_Well_ER": ["A01", None]}
    table = kind(columns)
    chosen, notes = assign_columns(list(columns), where="t", table=table)
    assert chosen == {"well": "Image_Metadata_Well_DNA"}
    assert notes == ("well is 'Image_Metadata_Well_DNA'; the same values stand in Image_Metadata_Well_ER",)
    other = kind({**columns, "Image_Metadata_Well_ER": ["A01", "A02"]})
    with pytest.raises(InputError, match="Image_Metadata_Well_DNA, Image_Metadata_Well_ER"):
        assign_columns(list(columns), where="t", table=other)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"plat": "a"}, "'plat' is none of our columns"),
        ({"plate": "c"}, "has no column 'c'"),
        ({"plate": "a", "well": "a"}, "a are given two names"),
    ],
)
def test_wrong_explicit_names(columns: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assign_columns(["a", "b"], columns, where="t")


def test_a_name_that_is_needed_and_not_there() -> None:
    with pytest.raises(InputError, match=r"t has no column for plate and well") as caught:
        assign_columns(["site", "f1"], where="t", needed=("plate", "well"))
    assert "{plate: ...}" in caught.value.hint
    assert "site, f1" in caught.value.hint


def numbers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "number")


def test_features_of_plain_tables_are_the_numbers_that_are_left() -> None:
    kinds = numbers(
        "plate", "Metadata_Row", "meta_n", "Image_Metadata_x", "ImageNumber", "ObjectNumber", "TableNumber", "row",
        "Column", "sirna_id", "Unnamed: 0", "", "area_px", "n_samples", "dose", "f1", "f2", "Area",
    )  # fmt: skip
    found = find_features({**kinds, "name": "text", "path": "text"}, taken=["plate"], where="t")
    assert found.names == ("f1", "f2", "Area")
    assert found.vector is None
    assert found.unused == frozenset()
    assert "an id or a place" in found.notes[0]
    assert "10 numeric" in found.notes[0]


def test_features_of_cellprofiler_are_measurements_of_compartments() -> None:
    out = (
        "Cells_Location_Center_X", "Nuclei_AreaShape_Center_Y", "Cells_Number_Object_Number", "Cells_Parent_Nuclei",
        "Nuclei_Children_Cells_Count", "Nuclei_Neighbors_FirstClosestObjectNumber_10", "Cells_ObjectNumber",
        "Cytoplasm_Location_MaxIntensity_X_DNA", "Cells_AreaShape_BoundingBoxMinimum_X",
    )  # fmt: skip
    kept = (
        "Cells_AreaShape_Area", "Nuclei_AreaShape_EulerNumber", "Cells_Neighbors_NumberOfNeighbors_10",
        "Cytoplasm_Intensity_MeanIntensity_DNA", "Cells_AreaShape_BoundingBoxArea", "Cells_AreaShape_CenterMass",
    )  # fmt: skip
    outside = ("Image_Quality_Focus", "f1")
    kinds = {**numbers(*out, *kept, *outside, "ImageNumber"), "Cells_Broken": "text", "Metadata_Well": "text"}
    found = find_features(kinds, where="t")
    assert found.names == kept
    assert found.unused == {*out, *outside}
    assert [note.split(" ")[0] for note in found.notes] == ["9", "3", "1"]
    assert "Cells_Location_Center_X" in found.notes[0]
    assert "Image_Quality_Focus" in found.notes[1]
    assert "Cells_Broken" in found.notes[2]


def test_vectors() -> None:
    kinds = {**numbers("area", "plate"), "outline": "vector", "vectors": "vector"}
    found = find_features(kinds, taken=["plate"], where="t")
    assert (found.names, found.vector, found.unused) == ((), "vectors", frozenset())
    assert "area" in found.notes[0]
    assert find_features({"any": "vector"}, where="t").vector == "any"
    assert find_features(kinds, features=["outline"], where="t").vector == "outline"
    with pytest.raises(InputError, match="several columns of vectors: a, b"):
        find_features({"a": "vector", "b": "vector"}, where="t")


def test_stated_features() -> None:
    kinds = {**numbers("Cells_a", "Cells_b", "Cells", "f1", "Metadata_n", "row", "plate"), "Cells_t": "text"}
    found = find_features(kinds, features=["f1", "Cells_"], taken=["plate"], where="t")
    assert found.names == ("f1", "Cells_a", "Cells_b")
    assert found.unused == {"Cells"}
    assert find_features(kinds, features=["Cells"], where="t").names == ("Cells",)  # a name before a prefix
    assert find_features(kinds, features=["Cells_", "Cells_a"], where="t").names == ("Cells_a", "Cells_b")


@pytest.mark.parametrize("features", [["x_"], ["f1", "x_"], ["plate"], ["text"], [], ["f1", "vector"]])
def test_stated_features_that_are_not_there(features: list[str]) -> None:
    kinds = {**numbers("f1", "plate"), "text": "text", "vector": "vector"}
    with pytest.raises(InputError, match=r"no numeric column|no features were named"):
        find_features(kinds, features=features, taken=["plate"], where="t")


def test_no_features_at_all() -> None:
    with pytest.raises(InputError, match="t has no feature columns"):
        find_features(numbers("plate", "ImageNumber", "Metadata_n"), taken=["plate"], where="t")
    with pytest.raises(InputError, match="t has no feature columns"):
        find_features(numbers("Cells_Location_Center_X"), where="t")


def test_metadata_by_name() -> None:
    assert [is_metadata(name) for name in ("Metadata_x", "meta_x", "Image_Metadata_x")] == [True] * 3
    assert [is_metadata(name) for name in ("Image_x", "metal", "x_Metadata_")] == [False] * 3
    assert all(not is_metadata(name) for name in COMPARTMENTS)
