# ruff: noqa: PT017  (pixels or a reject: either is right, and both are looked at)
from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.errors import InputError
from microsnoop.io.tables import meta_name, plain_column, read_table, rename_columns

Put = Callable[[str, bytes], str]


def _csv(put: Put, text: str, *, name: str = "t.csv", encoding: str = "utf-8") -> pa.Table:
    return read_table(put(name, text.encode(encoding)))


def _parquet(folder: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), folder / "t.parquet")
    return str(folder / "t.parquet")


def test_numbers_become_numbers_and_everything_else_stays_text(put: Put) -> None:
    table = _csv(
        put,
        "n,f,mixed,zeros,e,neg,date,flag\n"
        "1,0.5,1,007,1e3,-4,2024-01-02,true\n"
        "20,2,x,010,-2.5E-1,0,2024-01-03,false\n",
    )
    assert table.schema.types == [
        pa.int64(),
        pa.float64(),
        pa.string(),
        pa.string(),
        pa.float64(),
        pa.int64(),
        pa.string(),
        pa.string(),
    ]
    assert table.to_pylist()[0] == {
        "n": 1,
        "f": 0.5,
        "mixed": "1",
        "zeros": "007",
        "e": 1000.0,
        "neg": -4,
        "date": "2024-01-02",
        "flag": "true",
    }


@pytest.mark.parametrize(
    "name",
    [
        "plate",
        "well",
        "site",
        "image_id",
        "batch",
        "week",
        "label",
        "Plate",
        " well",
        "barcode",
        "meta_plate",
    ],
)
def test_columns_that_name_things_stay_text(put: Put, name: str) -> None:
    table = _csv(put, f"{name},n\n1,1\n2,2\n")
    assert table[0].to_pylist() == ["1", "2"]
    assert table[1].to_pylist() == [1, 2]


@pytest.mark.parametrize(
    "cells",
    [
        ["007", "8"],
        ["1_000"],
        ["0x10"],
        ["1,5"],
        ["NaN"],
        ["inf"],
        ["NA"],
        ["null"],
        ["1e"],
        ["+"],
        ["."],
        [" 1"],
        ["1 "],
        ["--1"],
        ["-007"],
        ["١٢"],
        ["True"],
    ],
    ids=str,
)
def test_what_is_not_a_plain_number_stays_as_it_is(put: Put, cells: list[str]) -> None:
    text = "n,m\n" + "".join(f'"{cell}",x\n' for cell in cells)
    assert _csv(put, text)["n"].to_pylist() == cells


def test_very_long_digits_are_never_rounded(put: Put) -> None:
    values = _csv(put, "n,m\n12345678901234567890123,x\n")["n"].to_pylist()
    assert str(values[0]) == "12345678901234567890123"


def test_largest_whole_numbers(put: Put) -> None:
    assert _csv(put, "n,m\n999999999999999999,x\n-999999999999999999,y\n")["n"].to_pylist() == [
        10**18 - 1,
        1 - 10**18,
    ]


def test_empty_cells_are_null_in_columns_of_every_kind(put: Put) -> None:
    table = _csv(put, 'n,f,t,plate,none\n1,0.5,a,P1,\n,,,,\n3,"",b,"",\n')
    assert table["n"].to_pylist() == [1, None, 3]
    assert table["f"].to_pylist() == [0.5, None, None]
    assert table["t"].to_pylist() == ["a", None, "b"]
    assert table["plate"].to_pylist() == ["P1", None, None]
    assert table["none"].to_pylist() == [None, None, None]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
@pytest.mark.parametrize("bom", ["", "\ufeff"], ids=["", "bom"])
@pytest.mark.parametrize("last", [True, False], ids=["end of line", "no end of line"])
def test_line_ends_and_byte_order_mark(put: Put, newline: str, bom: str, last: bool) -> None:
    text = bom + newline.join(["uri,well", "a.tif,A01", "b.tif,A02"]) + (newline if last else "")
    assert _csv(put, text).to_pylist() == [{"uri": "a.tif", "well": "A01"}, {"uri": "b.tif", "well": "A02"}]


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "t.csv"), (";", "t.csv"), ("\t", "t.tsv"), ("\t", "t.txt"), ("\t", "T.TSV")]
)
def test_delimiters(put: Put, delimiter: str, name: str) -> None:
    table = _csv(put, f"uri{delimiter}n\na b.tif{delimiter}1\n", name=name)
    assert table.to_pylist() == [{"uri": "a b.tif", "n": 1}]


def test_semicolons_inside_a_comma_table_and_commas_inside_a_semicolon_table(put: Put) -> None:
    assert _csv(put, "a,b\nx;y,1\n").to_pylist() == [{"a": "x;y", "b": 1}]
    assert _csv(put, "a;b\n0,65;1\n").to_pylist() == [{"a": "0,65", "b": 1}]


def test_quoted_cells(put: Put) -> None:
    assert _csv(put, 'a,b\n"x, ""y""",1\n').to_pylist() == [{"a": 'x, "y"', "b": 1}]


@pytest.mark.parametrize("padding", [4, 7])
def test_line_breaks_inside_cells_of_a_large_table(put: Put, padding: int) -> None:
    text = "a,b\n" + "q" * padding + ",1\n" + '"x\ny",2\n' * 200_000
    table = _csv(put, text)
    assert table.num_rows == 200_001
    assert set(table["a"].to_pylist()) == {"q" * padding, "x\ny"}


def test_unicode_text_and_names(put: Put) -> None:
    assert _csv(put, "Zellgröße µm,名前\n1.5,核\n").to_pylist() == [{"Zellgröße µm": 1.5, "名前": "核"}]


def test_names_are_stripped(put: Put) -> None:
    assert _csv(put, " uri , well \na,b\n").column_names == ["uri", "well"]


@pytest.mark.parametrize("text", ["größe,b\n1,2\n", "a,b\nµ,2\n"], ids=["header", "cell"])
def test_bytes_that_are_not_utf8_are_an_error(put: Put, text: str) -> None:
    with pytest.raises(InputError, match="not a readable table") as error:
        _csv(put, text, encoding="latin-1")
    assert "t.csv" in error.value.message
    assert "UTF-8" in error.value.hint


def test_utf16_is_an_error(put: Put) -> None:
    with pytest.raises(InputError, match="not a readable table"):
        _csv(put, "a,b\n1,2\n", encoding="utf-16")


@pytest.mark.parametrize(
    "text",
    ["", "\n", "\ufeff", "a,b\n", "a,b", "a,b\n1,2,3\n", "a,b\n1\n"],
    ids=["empty", "newline", "bom", "header", "header only", "too many", "too few"],
)
def test_tables_without_rows_or_with_ragged_rows(put: Put, text: str) -> None:
    with pytest.raises(InputError) as error:
        _csv(put, text)
    assert "t.csv" in error.value.message


@pytest.mark.parametrize("header", ["a,a", "a, a", "a,b,a"])
def test_repeated_columns(put: Put, header: str) -> None:
    with pytest.raises(InputError, match="same name: a"):
        _csv(put, f"{header}\n{','.join('123'[: header.count(',') + 1])}\n")


def test_repeated_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match="same name: a"):
        read_table(str(tmp_path / "t.parquet"))


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = read_table(
        _parquet(tmp_path, uri=["a"], n=pa.array([1], pa.int8()), plate=[7], f=[0.5], b=[True])
    )
    assert table.to_pylist() == [{"uri": "a", "n": 1, "plate": 7, "f": 0.5, "b": True}]


@pytest.mark.parametrize("name", ["t.parquet", "t.pq", "T.PARQUET"])
def test_parquet_by_extension(tmp_path: Path, name: str) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / name)
    assert read_table(str(tmp_path / name)).to_pylist() == [{"a": 1}]


def test_parquet_without_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        read_table(_parquet(tmp_path, a=pa.array([], pa.int64())))


@pytest.mark.parametrize("data", [b"", b"PAR1", b"uri,well\na,b\n", b"PAR1????PAR1"], ids=range(4))
def test_parquet_that_is_none(put: Put, data: bytes) -> None:
    with pytest.raises(InputError, match="not a readable table"):
        read_table(put("t.parquet", data))


def test_damaged_parquet_is_an_input_error_wherever_the_damage_is(tmp_path: Path, put: Put) -> None:
    path = Path(_parquet(tmp_path, uri=[f"{i}.tif" for i in range(50)], n=list(range(50))))
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        try:
            read_table(put("broken.parquet", bytes(broken)))
        except InputError as error:
            assert "broken.parquet" in error.message
    for size in range(0, len(data), 50):
        with pytest.raises(InputError):
            read_table(put("broken.parquet", data[:size]))


def test_a_csv_named_parquet_and_the_other_way_round(tmp_path: Path, put: Put) -> None:
    data = Path(_parquet(tmp_path, uri=["a"])).read_bytes()
    with pytest.raises(InputError):
        read_table(put("t.csv", data))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the table"):
        read_table(str(tmp_path / "gone.csv"))
    with pytest.raises(InputError, match="cannot read the table"):
        read_table(str(tmp_path))


def test_a_table_without_permission(public_folder: Path, as_nobody: Callable[[], Any]) -> None:
    path = public_folder / "t.csv"
    path.write_text("uri\na\n")
    path.chmod(0)
    with as_nobody(), pytest.raises(InputError, match="Permission denied"):
        read_table(str(path))


# columns


def test_renaming() -> None:
    table = pa.table({"file": ["a"], "cell": ["b"]})
    assert rename_columns(table, {"uri": "file"}, where="t").column_names == ["uri", "cell"]
    assert rename_columns(table, {}, where="t").column_names == ["file", "cell"]


def test_renaming_a_column_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no column 'gone'") as error:
        rename_columns(pa.table({"file": ["a"]}), {"uri": "gone"}, where="t.csv")
    assert "t.csv" in error.value.message
    assert "file" in error.value.hint


def test_renaming_onto_a_name_that_is_taken() -> None:
    with pytest.raises(InputError, match="same name: uri"):
        rename_columns(pa.table({"file": ["a"], "uri": ["b"]}), {"uri": "file"}, where="t")


def test_one_column_cannot_silently_lose_one_of_two_names() -> None:
    try:
        table = rename_columns(pa.table({"file": ["a"]}), {"uri": "file", "image_id": "file"}, where="t")
    except InputError:
        return
    assert {"uri", "image_id"} <= set(table.column_names)


def test_swapping_two_names() -> None:
    table = rename_columns(pa.table({"a": [1], "b": [2]}), {"a": "b", "b": "a"}, where="t")
    assert table.to_pylist() == [{"b": 1, "a": 2}]


def test_the_prefix_stands_once() -> None:
    assert meta_name("plate") == "meta_plate"
    assert meta_name("meta_plate") == "meta_plate"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pa.array([1, None], pa.uint8()), [1, None]),
        (pa.array([1.5], pa.float32()), [1.5]),
        (pa.array([1.5], pa.float16()), [1.5]),
        (pa.array([True, None]), [True, None]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), ["a", "b", None, "a"]),
        (pa.array([3, 4, 3]).dictionary_encode(), [3, 4, 3]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array([None, None], pa.null()), [None, None]),
        (pa.array([dt.date(2024, 1, 2)]), ["2024-01-02"]),
        (pa.array([1704164645], pa.timestamp("s")), ["2024-01-02 03:04:05"]),
        (pa.array([dt.time(3, 4, 5)], pa.time32("s")), ["03:04:05"]),
    ],
    ids=lambda v: str(getattr(v, "type", "")),
)
def test_metadata_columns_become_plain(values: pa.Array, wanted: list[Any]) -> None:
    column = plain_column(pa.table({"x": values}), "x")
    assert column.to_pylist() == wanted
    assert column.type in (pa.string(), pa.int64(), pa.float64(), pa.bool_())


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1, 2]]),
        pa.array([{"a": 1}]),
        pa.array([b"x"]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.array([[1, 2]], pa.list_(pa.int64(), 2)),
        pa.array([b"\xff\xfe"], pa.large_binary()),
        pa.array([b"abcd"], pa.binary(4)),
        pa.array([2**64 - 1], pa.uint64()),
    ],
    ids=lambda v: str(v.type),
)
def test_columns_that_hold_no_single_plain_value_are_refused_by_name(values: pa.Array) -> None:
    with pytest.raises(InputError, match="'x'"):
        plain_column(pa.table({"x": values}), "x")
