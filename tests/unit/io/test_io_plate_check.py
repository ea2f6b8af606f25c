"""Metadata of plates: what is derived, and that everything wrong is said at once. Broken tables, one for each code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microsnoop.core.errors import InputError
from microsnoop.core.plate import plate_wells
from microsnoop.io.plate_check import Problem, amounts, check_plates, comparable
from microsnoop.io.profile_table import read_profiles

DMSO = {"compound": ["DMSO"]}


def good() -> pd.DataFrame:
    """Two plates of 24 wells in two batches: four DMSO wells, ten compounds twice; every compound on both plates."""
    rows = []
    for plate, batch in (("P1", "W1"), ("P2", "W2")):
        for i, well in enumerate(plate_wells(24)):
            control = i % 6 == 3
            compound = "DMSO" if control else f"c{i % 10}"
            rows.append(
                {
                    "plate": plate, "well": well, "batch": batch, "compound": compound,
                    "concentration": np.nan if control else 0.3, "concentration_unit": None if control else "uM",
                    "moa": None if control else f"M{i % 5}",
                }
            )  # fmt: skip
    table = pd.DataFrame(rows).astype({"moa": object, "concentration_unit": object})
    table.index = pd.Index(table["plate"] + "/" + table["well"], name="obs_id")
    return table


def codes(problems: list[Problem]) -> list[str]:
    return [problem.code for problem in problems]


def test_a_good_table_has_no_problems_and_gets_its_columns() -> None:
    table = good()
    before = table.copy(deep=True)
    obs, problems = check_plates(table, negative=DMSO)
    pd.testing.assert_frame_equal(table, before)
    assert problems == []
    assert obs.index.equals(table.index)
    pd.testing.assert_frame_equal(obs[table.columns], table)
    assert obs["is_control"].dtype == bool
    assert obs["is_control"].tolist() == (table["compound"] == "DMSO").tolist()
    assert set(obs["control_type"]) == {"negative", None}
    assert obs.loc["P1/A01", "treatment"] == "c0@0.3 uM"
    assert obs.loc["P1/A04", "treatment"] == "DMSO@na"
    assert obs["batch"].tolist() == table["batch"].tolist()


# ---------------------------------------------------------------- what follows from the rest


@pytest.mark.parametrize(
    ("negative", "n"),
    [
        (DMSO, 8),
        ({"compound": ["DMSO"], "plate": ["P1", "P2"]}, 8),
        ({"compound": ["DMSO", "c0"]}, 8 + 6),
        ({"compound": ["c1"], "concentration": ["0.3"]}, 4),
        ({"compound": ["c1"], "concentration": [0.30000001192]}, 4),
    ],
)
def test_negative_controls_by_query(negative: dict[str, list[Any]], n: int) -> None:
    obs, _ = check_plates(good(), negative=negative, allow=("several_vehicles", "plate_without_controls"))
    assert (obs["control_type"] == "negative").sum() == obs["is_control"].sum() == n


def test_all_columns_of_a_query_must_match() -> None:
    obs, _ = check_plates(
        good(), negative={"compound": ["DMSO"], "plate": ["P2"]}, allow=["plate_without_controls"]
    )
    assert obs.index[obs["is_control"]].str.startswith("P2/").all()
    assert obs["is_control"].sum() == 4


def test_a_given_control_type_is_kept_and_gaps_are_filled() -> None:
    table = good()
    table["control_type"] = pd.Series(None, table.index, dtype=object)
    table.loc["P1/A01", "control_type"] = "poscon"
    table.loc["P1/A02", "control_type"] = "negcon"
    table.loc["P1/A03", "control_type"] = "empty"
    table.loc["P1/A05", "control_type"] = "trt"
    table.loc["P1/A02", "compound"] = "DMSO"
    table.loc["P1/A02", "moa"] = None
    obs, _ = check_plates(table, negative=DMSO)
    assert obs["control_type"].iloc[:5].tolist() == ["positive", "negative", "empty", "negative", None]
    assert obs["is_control"].iloc[:5].tolist() == [False, True, False, True, False]
    only, _ = check_plates(obs, negative={"control_type": ["negative"]})
    assert only["is_control"].tolist() == obs["is_control"].tolist()
    again, _ = check_plates(obs)
    assert again["is_control"].tolist() == obs["is_control"].tolist()


@pytest.mark.parametrize("name", ["batch", "week"])
def test_the_week_is_the_batch(name: str) -> None:
    obs, problems = check_plates(good().rename(columns={"batch": name}), negative=DMSO)
    assert obs["batch"].tolist() == good()["batch"].tolist()
    assert problems == []


@pytest.mark.parametrize("empty", [True, False])
def test_without_batches_every_plate_is_one(empty: bool) -> None:
    table = good().assign(batch=None) if empty else good().drop(columns="batch")
    obs, problems = check_plates(table, negative=DMSO)
    assert obs["batch"].tolist() == obs["plate"].tolist()
    assert problems == [
        Problem("no_batch", "2 plate(s) are batches of their own, there is no batch or week: P1, P2", False)
    ]


def test_a_batch_is_more_than_a_week() -> None:
    obs, _ = check_plates(good().assign(week="w"), negative=DMSO)
    assert obs["batch"].tolist() == good()["batch"].tolist()


def test_a_control_type_against_the_query_is_kept_where_that_is_allowed() -> None:
    table = good()
    BROKEN["control_conflict"][0](table)
    obs, _ = check_plates(table, negative=DMSO, allow=["control_conflict"])
    assert obs.loc["P1/A04", "control_type"] == "positive"
    assert obs["is_control"].sum() == 7


def test_treatments_are_told_apart_by_six_digits() -> None:
    table = good()
    table["concentration"] = table["concentration"].astype(np.float32)
    assert set(check_plates(table, negative=DMSO)[0]["treatment"]) == {
        *(f"c{i}@0.3 uM" for i in range(10)),
        "DMSO@na",
    }
    table["treatment"] = None
    table.loc["P1/A01", "treatment"] = "mine"
    obs, _ = check_plates(table, negative=DMSO)
    assert obs["treatment"].iloc[:2].tolist() == ["mine", "c1@0.3 uM"]
    assert (
        check_plates(good().drop(columns=["compound", "moa"]), allow=["plate_without_controls"])[0][
            "treatment"
        ].tolist()
        == [None] * 48
    )


# ---------------------------------------------------------------- what is wrong

Break = Callable[[pd.DataFrame], None]


def put(row: str, **values: object) -> Break:
    def change(table: pd.DataFrame) -> None:
        for name, value in values.items():
            if name not in table:
                table[name] = pd.Series(None, table.index, dtype=object)
            table.loc[row, name] = value

    return change


def put_all(name: str, values: Callable[[pd.DataFrame], Any]) -> Break:
    def change(table: pd.DataFrame) -> None:
        table[name] = values(table)

    return change


BROKEN: dict[str, tuple[Break, str]] = {
    "duplicate_key": (put("P1/A02", well="A01"), "2 rows share their plate + well: P1/A01"),
    "image_without_well": (put("P2/B01", well=None), "1 row(s) have no plate or no well: P2/B01"),
    "well_without_images": (put_all("n_images", lambda t: [0] + [4] * 47), "1 row(s) have no image: P1/A01"),
    "compound_with_moas": (put("P1/A01", moa="M9"), "1 compound(s) have more than one moa: c0 (M0, M9)"),
    "treatment_with_compounds": (
        put_all("treatment", lambda t: ["T"] * 2 + [None] * 46),
        "1 treatment(s) have more than one compound: T (c0, c1)",
    ),
    "mixed_units": (put("P1/A01", concentration_unit="nM"), "2 units of concentrations: nM, uM; use one"),
    "plate_without_controls": (
        put_all("compound", lambda t: t["compound"].where((t["plate"] == "P1") | (t["compound"] != "DMSO"), "x")),
        "1 of 2 plates have no negative controls: P2",
    ),
    "well_outside_format": (put("P1/A01", well="A07"), "1 well(s) are not on a plate of 24: A07"),
    "bad_well": (put("P1/A01", well="ZZ9"), "1 name(s) are no well: ZZ9"),
    "several_vehicles": (
        put("P1/A01", control_type="negative", compound="water", moa=None),
        "2 compounds are negative controls: DMSO, water; list all of them",
    ),
    "unknown_control_type": (put("P1/A01", control_type="kontrol"), "1 name(s) are no control type: kontrol"),
    "control_conflict": (put("P1/A04", control_type="poscon"), "1 row(s) are negative by {'compound': ['DMSO']}"),
    "null_batch": (put("P1/A01", batch=None), "1 row(s) have no batch: P1/A01"),
    "plate_in_batches": (put("P1/A01", batch="W2"), "1 plate(s) are in more than one batch: P1; give every plate"),
    "bad_concentration": (put("P1/A01", concentration=-1.0), "1 concentration(s) are no amounts: -1.0"),
}  # fmt: skip


@pytest.mark.parametrize("code", BROKEN)
def test_every_broken_table_is_refused_with_its_reason_alone(code: str) -> None:
    change, message = BROKEN[code]
    table = good()
    change(table)
    with pytest.raises(InputError) as caught:
        check_plates(table, negative=DMSO, format=24)
    text = caught.value.message
    assert text.startswith("metadata_invalid: 1 problem(s)"), text
    assert f"\n- {code}: {message}" in text
    obs, problems = check_plates(table, negative=DMSO, format=24, allow=[code])
    assert len(obs) == 48
    mine = [problem for problem in problems if problem.code == code]
    assert len(mine) == 1
    assert not mine[0].error


def test_everything_that_is_wrong_is_said_at_once() -> None:
    table = good()
    chosen = (
        "image_without_well",
        "mixed_units",
        "plate_without_controls",
        "null_batch",
        "bad_concentration",
    )
    table = table.assign(n_images=[0] + [4] * 47)
    for code in set(chosen) - {"mixed_units"}:
        BROKEN[code][0](table)
    table.loc["P1/A02", "concentration_unit"] = "nM"
    with pytest.raises(InputError) as caught:
        check_plates(table, negative=DMSO, format=24)
    text = caught.value.message
    for code in (*chosen, "well_without_images"):
        assert f"\n- {code}: " in text
    assert "6 problem(s)" in text


def test_rows_without_a_well_are_no_duplicates() -> None:
    table = good()
    table.loc[["P1/A01", "P1/A02"], "well"] = None
    with pytest.raises(InputError, match="1 problem") as caught:
        check_plates(table, negative=DMSO)
    assert "image_without_well: 2 row(s)" in caught.value.message


def test_no_plate_or_well_at_all_and_no_such_format() -> None:
    with pytest.raises(InputError, match="metadata_invalid: no column plate and well"):
        check_plates(good().drop(columns=["plate", "well"]))
    with pytest.raises(ValueError, match="no plate of 97 wells"):
        check_plates(good(), negative=DMSO, format=97)


def test_a_query_by_a_column_that_is_not_there() -> None:
    with pytest.raises(InputError) as caught:
        check_plates(good(), negative={"drug": ["DMSO"]})
    assert (
        "- no_control_column: 1 column(s) that tell negative controls are not there: drug"
        in caught.value.message
    )
    assert "- plate_without_controls: 2 of 2 plates" in caught.value.message


def test_listed_vehicles_are_fine() -> None:
    table = good()
    table.loc["P1/A01", ["compound", "moa"]] = ["water", None]
    obs, problems = check_plates(table, negative={"compound": ["DMSO", "water"]})
    assert obs.loc["P1/A01", "is_control"]
    assert problems == []


def test_units_of_nothing_do_not_count() -> None:
    table = good()
    table.loc["P1/A01", "concentration_unit"] = "µM"  # the same unit
    table.loc["P1/A02", ["concentration", "concentration_unit"]] = [0, None]
    table.loc["P1/A03", ["concentration", "concentration_unit"]] = [np.nan, "mg"]
    table.loc["P1/A04", ["concentration", "concentration_unit"]] = [0.1, "%"]  # of the vehicle
    assert "mixed_units" not in codes(check_plates(table, negative=DMSO)[1])
    table.loc["P1/A01", "concentration_unit"] = None
    with pytest.raises(InputError, match="2 units of concentrations: none, uM"):
        check_plates(table, negative=DMSO)


def test_images_are_told_apart_by_site() -> None:
    images = pd.concat([good().assign(site="1"), good().assign(site="2")])
    images.index = pd.Index(images.index + "/" + images["site"])
    assert check_plates(images, negative=DMSO, level="image")[1] == []
    assert check_plates(images, negative=DMSO)[1] == []
    images.iloc[48, images.columns.get_loc("site")] = "1"
    with pytest.raises(
        InputError, match=r"duplicate_key: 2 rows share their plate \+ well \+ site: P1/A01/1"
    ):
        check_plates(images, negative=DMSO, level="image")
    without = images.drop(columns="site")
    assert check_plates(without, negative=DMSO, level="image")[1] == []
    with pytest.raises(InputError, match="duplicate_key: 96 rows"):
        check_plates(without, negative=DMSO)
    assert check_plates(images, negative=DMSO, level="cell")[1] == []


# ---------------------------------------------------------------- what is only worth knowing


def test_empty_wells_are_told() -> None:
    table = good().assign(n_cells=[0.0] + [10.0] * 46 + [np.nan])
    assert check_plates(table, negative=DMSO)[1] == [
        Problem("well_without_cells", "1 row(s) have no cells: P1/A01", False)
    ]


def test_missing_wells_are_counted_a_plate() -> None:
    table = good().drop(index=["P1/A01", "P1/A02", "P2/D05"])
    problems = check_plates(table, negative=DMSO)[1]
    assert [p.message for p in problems if p.code == "missing_wells"] == [
        "2 of 2 plates of 24 wells have wells without a row: P1 (2), P2 (1)"
    ]
    problems = check_plates(table, negative=DMSO, format=96)[1]
    assert "P1 (74), P2 (73)" in next(p.message for p in problems if p.code == "missing_wells")


def test_a_treatment_on_one_plate_is_confounded() -> None:
    table = good()
    table.loc["P1/A01", "compound"] = "alone"
    problems = check_plates(table, negative=DMSO)[1]
    assert problems == [
        Problem("layout_confounded", "1 of 11 treatments are on one plate only: alone@0.3 uM", False)
    ]


def test_a_class_in_outer_wells_is_confounded() -> None:
    table = good()
    outer = table["well"].str[0].isin(["A", "D"]) | table["well"].str[1:].isin(["01", "06"])
    control = table["compound"] == "DMSO"
    table["compound"] = np.where(control, "DMSO", np.where(outer, "edge", "inner"))
    table["moa"] = table["compound"].where(~control, None)
    problems = check_plates(table, negative=DMSO)[1]
    assert problems == [
        Problem("layout_confounded", "1 of 2 MoA classes are in outer rows and columns only: edge", False)
    ]
    table.loc["P1/B02", ["moa", "compound"]] = ["edge", "edge"]
    assert check_plates(table, negative=DMSO)[1] == []
    edge_only = table[outer]
    assert "layout_confounded" in codes(
        check_plates(edge_only[edge_only["compound"] != "inner"], negative=DMSO)[1]
    )


def test_a_plate_without_inner_wells_confounds_nothing() -> None:
    rows = [{"plate": p, "well": w, "batch": "b", "compound": "DMSO" if w == "A01" else "x", "moa": "M"}
            for p in ("P1", "P2") for w in plate_wells(6)]  # fmt: skip
    assert check_plates(pd.DataFrame(rows), negative=DMSO)[1] == []


def test_more_than_five_culprits_are_counted() -> None:
    table = good()
    table["concentration"] = -np.arange(1.0, 49)
    with pytest.raises(InputError, match=r"48 concentration\(s\) are no amounts: -1.0, -2.0, .* and 43 more"):
        check_plates(table, negative=DMSO)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(st.permutations(range(48)))
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    table = good()
    table.loc["P1/A01", "compound"] = "alone"
    obs, problems = check_plates(table, negative=DMSO)
    shuffled, again = check_plates(table.iloc[order], negative=DMSO)
    assert shuffled.index.tolist() == table.index[list(order)].tolist()
    pd.testing.assert_frame_equal(shuffled.loc[obs.index], obs)
    assert again == problems


def test_amounts_and_their_text() -> None:
    found = amounts(pd.Series(["1", 2, None, 0.5], dtype=object), "n_cells", where="t")
    assert found.dtype == float
    assert found.tolist()[:2] == [1, 2]
    with pytest.raises(InputError, match="t: n_cells must hold numbers, found 'x'"):
        amounts(pd.Series(["x"], dtype=object), "n_cells", where="t")
    values = (0.3, np.float32(0.3), 3, 3.0, "3", True, np.int64(2), "a")
    assert [comparable(value) for value in values] == ["0.3", "0.3", "3", "3", "3", "True", "2", "a"]


# ---------------------------------------------------------------- real plates


@pytest.mark.shared
def test_bbbc021(shared_data: Path) -> None:
    table = read_profiles(str(shared_data / "bbbc021" / "profiles.parquet"), level="well")
    obs, problems = check_plates(table.obs, negative=DMSO, format=96)
    assert codes(problems) == ["missing_wells"]
    assert problems[0].message.startswith("55 of 55 plates of 96 wells")
    assert obs["is_control"].sum() == 330
    assert obs["batch"].nunique() == 10
    treated = obs[~obs["is_control"]]
    assert (treated["treatment"].nunique(), treated["compound"].nunique(), treated["moa"].nunique()) == (
        103,
        38,
        12,
    )
    assert treated.groupby("treatment")["moa"].nunique().eq(1).all()
    broken = table.obs.copy()
    broken.loc[broken["plate"] == "Week1_22123", "compound"] = "AZ138"
    broken.iloc[1, 1] = broken.iloc[0, 1]
    with pytest.raises(InputError) as caught:
        check_plates(broken, negative=DMSO, format=24)
    for code in ("duplicate_key", "compound_with_moas", "plate_without_controls", "well_outside_format"):
        assert f"- {code}: " in caught.value.message
