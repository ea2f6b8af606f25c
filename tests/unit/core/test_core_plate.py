"""Names and places of wells: known ones, round trips over every plate, and what is no well."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microsnoop.core.plate import (
    CONTROL_TYPES,
    FORMATS,
    control_type,
    edge,
    format_shape,
    normalise_well,
    number_text,
    on_plate,
    plate_wells,
    row_ids,
    smallest_format,
    text_of,
    treatment_name,
    well_name,
    well_names,
    well_position,
)

PROPERTY = settings(deadline=None, derandomize=True, max_examples=200)
ROWS, COLUMNS = st.integers(0, 31), st.integers(0, 47)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a1", "A01"), ("A1", "A01"), ("A01", "A01"), ("A001", "A01"), (" c07 ", "C07"), ("h12", "H12"),
        ("A - 1", "A01"), ("A-01", "A01"), ("P_24", "P24"), ("b 3", "B03"), ("Z48", "Z48"), ("aa1", "AA01"),
        ("AB12", "AB12"), ("AF48", "AF48"), ("r02c07", "B07"), ("R1C1", "A01"), ("R12", "R12"), ("r1-c12", "A12"),
        ((1, 1), "A01"), ((3, 7), "C07"), ((32, 48), "AF48"),
    ],
)  # fmt: skip
def test_a_well_has_one_name(written: str | tuple[int, int], name: str) -> None:
    assert normalise_well(written) == name


@pytest.mark.parametrize(
    "written",
    [
        "", "A", "12", "1A", "AAA1", "A0", "A00", "A49", "AG1", "ZZ1", "A1.0", "A1B", "A01_s1", "A٣", "Ä1", "A:1",
        "nan", "A-", "r0c1", "r33c1", (0, 1), (1, 49), (33, 1),
    ],
)  # fmt: skip
def test_what_is_no_well_is_refused_by_name(written: str | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"no plate|not a well") as caught:
        normalise_well(written)
    assert repr(written) in str(caught.value) or str(written) in str(caught.value)


@PROPERTY
@given(ROWS, COLUMNS, st.sampled_from(["", " ", "-", "_", " - ", "0", "00"]), st.booleans())
def test_every_well_comes_back_however_it_is_written(row: int, column: int, between: str, low: bool) -> None:
    letters = (string.ascii_uppercase + "".join(f"A{c}" for c in "ABCDEF"))[:26]
    letter = letters[row] if row < 26 else "A" + letters[row - 26]
    written = f"{letter}{between}{column + 1}"
    name = normalise_well(written.lower() if low else written)
    assert name == f"{letter}{column + 1:02d}" == well_name(row, column)
    assert normalise_well(name) == name
    assert well_position(written) == (row, column)
    assert normalise_well((row + 1, column + 1)) == normalise_well(f"r{row + 1:02d}c{column + 1}") == name


def test_places_count_from_zero() -> None:
    assert well_position("C07") == (2, 6)
    assert well_position("A01") == (0, 0)
    assert well_position("AA10") == (26, 9)


@pytest.mark.parametrize("size", FORMATS)
def test_formats(size: int) -> None:
    wells = plate_wells(size)
    rows, columns = format_shape(size)
    assert len(set(wells)) == size == rows * columns
    assert wells[0] == "A01"
    assert wells[columns] == "B01"
    assert smallest_format(wells) == smallest_format([wells[-1]]) == size
    assert all(well_position(well, format=size) == divmod(i, columns) for i, well in enumerate(wells))
    inside = max(rows - 2, 0) * max(columns - 2, 0)
    assert sum(edge(well, size) for well in wells) == size - inside
    assert edge(wells[-1], size)


def test_the_published_formats() -> None:
    assert FORMATS == {
        6: (2, 3), 12: (3, 4), 24: (4, 6), 48: (6, 8), 96: (8, 12), 384: (16, 24), 1536: (32, 48),
    }  # fmt: skip


@PROPERTY
@given(st.lists(st.tuples(ROWS, COLUMNS), min_size=1, max_size=6))
def test_the_smallest_format_holds_all_and_the_next_smaller_does_not(places: list[tuple[int, int]]) -> None:
    wells = [well_name(*place) for place in places]
    size = smallest_format(iter(wells))
    assert all(on_plate(well, size) for well in wells)
    for smaller in [other for other in FORMATS if other < size]:
        assert not all(on_plate(well, smaller) for well in wells)


def test_a_well_outside_the_stated_format_is_refused() -> None:
    assert not on_plate("I01", 96)
    assert not on_plate("A13", 96)
    for call in (lambda: well_position("A13", format=96), lambda: edge("I01", 96)):
        with pytest.raises(ValueError, match=r"not on a plate of 96 wells \(A01 to H12\)"):
            call()
    with pytest.raises(ValueError, match="no plate of 100 wells; formats are 6, 12, 24"):
        format_shape(100)
    with pytest.raises(ValueError, match="no plate of 100"):
        edge("A01", 100)
    with pytest.raises(ValueError, match="at least one well"):
        smallest_format([])
    with pytest.raises(ValueError, match="no plate"):
        well_name(-1, 0)


def test_edges() -> None:
    assert [edge(well, 96) for well in ("A06", "H06", "D01", "D12", "B02", "G11")] == [True] * 4 + [False] * 2
    assert not edge("H12", 384)
    assert edge("B02", 6)


def test_many_names_at_once() -> None:
    assert well_names(["a1", "A01", "X", ""]) == {"a1": "A01", "A01": "A01", "X": None, "": None}


def test_names_of_treatments() -> None:
    assert treatment_name("AZ138", 3.0, "uM") == "AZ138@3 uM"
    assert treatment_name("AZ138", 0.1) == "AZ138@0.1"
    assert treatment_name("AZ138", None, "uM") == treatment_name("AZ138", float("nan")) == "AZ138@na"
    assert treatment_name("a@b", 0, "") == "a@b@0"
    assert treatment_name("x", -0.0) == "x@0"


@PROPERTY
@given(st.sampled_from([1.0, 1.5, 2.0, 3.0, 5.0, 6.0]), st.integers(-4, 4))
def test_float32_noise_is_no_other_treatment(digit: float, power: int) -> None:
    value = digit * 10.0**power
    assert number_text(float(np.float32(value))) == number_text(value)
    assert float(number_text(value)) == pytest.approx(value)


def test_control_types() -> None:
    assert {control_type(name) for name in CONTROL_TYPES} == {"negative", "positive", "empty", None}
    assert [control_type(name) for name in ("negcon", " Negative ", "POSCON", "empty", "trt")] == [
        "negative", "negative", "positive", "empty", None,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'contrl' is no control type; known are negative, negcon"):
        control_type("contrl")


def test_ids_are_unique_and_say_the_row() -> None:
    names = ["P/A01", "P/A02", "P/A01", "/A03", "P/A01"]
    assert row_ids(names, {3}) == ["P/A01/row1", "P/A02", "P/A01/row3", "row4", "P/A01/row5"]


def test_two_of_one_name_are_enough() -> None:
    assert row_ids(["a", "a", "b"]) == ["a/row1", "a/row2", "b"]


def test_text_of_cells() -> None:
    assert [text_of(value) for value in (7, 7.0, 7.5, " a ", "007", True)] == [
        "7",
        "7",
        "7.5",
        "a",
        "007",
        "True",
    ]
    assert [text_of(value) for value in ("", " ", "NA", "nan", "null", None, float("nan"))] == [None] * 7
    assert [text_of(value) for value in ("Na", "none of these", "Nan'ao")] == [
        "Na",
        "none of these",
        "Nan'ao",
    ]
