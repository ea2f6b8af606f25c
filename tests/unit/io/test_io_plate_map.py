"""Tables of metadata: read without changing what they say, joined by key, never against what is there."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.errors import InputError
from microsnoop.io.plate_map import clean_metadata, join_plate_map, read_plate_map, read_source
from microsnoop.io.profile_table import from_arrays, read_profiles

Put = Callable[[str, bytes], str]


def frame(**columns: list[object]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


# ---------------------------------------------------------------- reading


def test_cells_are_read_as_they_stand(put: Put) -> None:
    text = "plate,well,compound,note\n007,a1,1e3,\n1E5,A02,10.50,NA\n"
    table = read_plate_map(put("map.csv", text.encode()))
    assert table.to_dict("list") == {
        "plate": ["007", "1E5"], "well": ["A01", "A02"], "compound": ["1e3", "10.50"], "note": [None, "NA"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.csv", b"Well,Dose\nA1,0.5\n"),
        ("m.csv", "\ufeffWell,Dose\nA1,0.5\n".encode()),
        ("m.csv", b"Well;Dose\r\nA1;0.5\r\n"),
        ("m.tsv", b"Well\tDose\nA1\t0.5\n"),
        ("m.CSV.GZ", gzip.compress(b"Well,Dose\nA1,0.5\n")),
        ("m.tsv.gz", gzip.compress(b"Well\tDose\nA1\t0.5\n")),
    ],
)
def test_formats_of_text(put: Put, name: str, data: bytes) -> None:
    table = read_plate_map(put(name, data))
    assert table.to_dict("list") == {"well": ["A01"], "concentration": [0.5]}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.csv.gz", b"well\nA1\n", "not a readable table"),
        ("m.csv.gz", gzip.compress(b"well,x\n" + b"A1,1\n" * 99)[:-12], "not a readable table"),
        ("m.csv", b"well,x\nA1\n", "not a readable table"),
        ("m.csv", b"well,x\nA\xff1,2\n", "not a readable table"),
        ("m.csv", b"well,x\n", "has no rows"),
        ("m.csv", b"", "not a readable table"),
        ("m.csv", b"well,well\nA1,A2\n", "columns of the same name: well"),
        ("m.parquet", b"nonsense", "not a readable table"),
    ],
)
def test_what_is_no_table(put: Put, name: str, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_plate_map(put(name, data))


def test_what_is_not_there(tmp_path: Path) -> None:
    for name in ("none.csv", "none.parquet", "none/"):
        with pytest.raises(InputError, match="none"):
            read_source(f"{tmp_path}/{name}")
    with pytest.raises(InputError, match="holds no Parquet files"):
        read_source(str(tmp_path))


def test_a_folder_is_all_its_parts(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    pq.write_table(pa.table({"well": ["A1"], "n": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": [2.5], "extra": ["x"], "well": ["A2"]}), tmp_path / "b" / "a.pq")
    (tmp_path / ".part.parquet.partial").write_bytes(b"half")
    (tmp_path / "readme.txt").write_text("no part")
    table = read_source(str(tmp_path))
    assert table.to_pydict() == {"well": ["A1", "A2"], "n": [1, 2.5], "extra": [None, "x"]}
    pq.write_table(pa.table({"well": [3], "n": [1]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match="do not have the same columns"):
        read_source(str(tmp_path))
    (tmp_path / "c.parquet").write_bytes(b"half")
    with pytest.raises(InputError, match=r"c\.parquet is not a readable table"):
        read_source(str(tmp_path))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("P1,\n", r"1 row\(s\) have no plate or well: row 1"),
        ("P1,A1\n,A2\n,A3\n", r"2 row\(s\) have no plate or well: row 2, 3"),
        ("P1,A1\nP1,ZZ9\nP1,7\n", "not the name of a well: 7, ZZ9"),
    ],
)
def test_rows_that_cannot_be_joined(put: Put, rows: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_plate_map(put("map.csv", b"plate,well\n" + rows.encode()))


def test_rows_that_repeat_a_key_must_say_the_same(put: Put) -> None:
    text = b"plate,well,compound,file\nP1,A1,x,1.tif\nP1,A01,x,2.tif\nP1,A2,y,3.tif\n"
    table = read_plate_map(put("map.csv", text))
    assert table.to_dict("list") == {"plate": ["P1", "P1"], "well": ["A01", "A02"], "compound": ["x", "y"]}
    with pytest.raises(InputError, match=r"different things of one plate \+ well: P1 A01"):
        read_plate_map(put("map.csv", text.replace(b"x,2", b"z,2")))
    with pytest.raises(InputError, match=r"P1 A01"):
        read_plate_map(put("map.csv", text.replace(b"x,2", b",2")))


def test_the_key_of_a_map_must_be_there(put: Put) -> None:
    uri = put("map.csv", b"compound,moa\nx,M1\n")
    with pytest.raises(InputError, match="has no column well") as caught:
        read_plate_map(uri)
    assert "it has compound, moa" in caught.value.hint
    assert read_plate_map(uri, on=["compound"])["moa"].tolist() == ["M1"]
    with pytest.raises(InputError, match="no column to join by"):
        read_plate_map(uri, on=[])


# ---------------------------------------------------------------- cleaning


def test_metadata_gets_our_names_and_types() -> None:
    given = frame(
        Plate=[1, 2.0, " b "],
        dose=["0.5", 3, None],
        type=["negcon", "trt", None],
        rank=[1, 2, 3],
        moa=["NA", "x", "nan"],
        other=["1", 2, None],
        well=["A1", "A2", "A3"],
    )
    keys = {"plate": "Plate", "concentration": "dose", "control_type": "type", "moa": "moa"}
    before = given.copy(deep=True)
    clean, notes = clean_metadata(given, keys, where="t")
    pd.testing.assert_frame_equal(given, before)
    assert clean.columns.tolist() == [
        "plate",
        "concentration",
        "moa",
        "control_type",
        "rank",
        "other",
        "other_well",
    ]
    assert clean["plate"].tolist() == ["1", "2", "b"]
    assert clean["concentration"].tolist()[:2] == [0.5, 3]
    assert np.isnan(clean["concentration"][2])
    assert clean["control_type"].tolist() == ["negative", None, None]
    assert clean["moa"].tolist() == [None, "x", None]
    assert clean["rank"].dtype == np.int64
    assert clean["other"].tolist() == ["1", 2, None]
    assert notes == ("moa: 2 cell(s) that say NA, nan are taken as empty",)


def test_whole_numbers_with_gaps_stay_whole() -> None:
    clean, _ = clean_metadata(frame(plate=[27481, None, 27482.0, 2**60 + 1]), {"plate": "plate"}, where="t")
    assert clean["plate"].tolist() == ["27481", None, "27482", str(2**60 + 1)]


def test_a_unit_in_the_name_of_a_column_is_kept() -> None:
    given = frame(Metadata_mmoles_per_liter=[5, None])
    keys = {"concentration": "Metadata_mmoles_per_liter"}
    clean, notes = clean_metadata(given, keys, where="t")
    assert clean["concentration_unit"].tolist() == ["mM", None]
    assert notes == ("concentrations are in mM, by the name of the column 'Metadata_mmoles_per_liter'",)
    given["unit"] = ["uM", "uM"]
    clean, notes = clean_metadata(given, keys | {"concentration_unit": "unit"}, where="t")
    assert clean["concentration_unit"].tolist() == ["uM", "uM"]
    assert notes == ()


def test_amounts_and_control_types_that_are_none() -> None:
    with pytest.raises(InputError, match=r"t: concentration must hold numbers, found '10 uM', 'inf'"):
        clean_metadata(frame(c=["10 uM", 3, "inf", "10 uM"]), {"concentration": "c"}, where="t")
    with pytest.raises(InputError, match=r"t: 'ctrl' is no control type; known are negative"):
        clean_metadata(frame(c=["ctrl", None]), {"control_type": "c"}, where="t")


# ---------------------------------------------------------------- joining


def test_maps_are_joined_by_key_whatever_the_order(rng: np.random.Generator) -> None:
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 7)]
    obs = frame(plate=["P1"] * 24 + ["P2"] * 24, well=wells * 2)
    obs.index = pd.Index([f"{p}/{w}" for p, w in zip(obs["plate"], obs["well"], strict=True)])
    plan = obs.reset_index(drop=True).assign(compound=[f"c{i}" for i in range(48)], rank=np.arange(48))
    expected, notes = join_plate_map(obs, plan)
    assert notes == ()
    assert expected["compound"].tolist() == [f"c{i}" for i in range(48)]
    assert expected["rank"].tolist() == list(range(48))
    before = obs.copy(deep=True)
    for _ in range(5):
        rows, entries = rng.permutation(48), rng.permutation(48)
        found, _ = join_plate_map(obs.iloc[rows], plan.iloc[entries])
        pd.testing.assert_frame_equal(found.loc[obs.index], expected)
    pd.testing.assert_frame_equal(obs, before)


def test_a_map_without_plates_holds_for_all() -> None:
    obs = frame(plate=["P1", "P2", "P2"], well=["A01", "A01", "A02"])
    found, notes = join_plate_map(obs, frame(well=["A01", "A02"], compound=["x", "y"]))
    assert found["compound"].tolist() == ["x", "x", "y"]
    assert notes == ()


def test_what_has_no_partner_is_listed_and_kept() -> None:
    obs = frame(plate=["P1"] * 3, well=["A01", "B07", None])
    plan = frame(plate=["P1"] * 3, well=["A01", "C01", "C02"], compound=["x", "y", "z"], amount=[1, 2, 3])
    found, notes = join_plate_map(obs, plan)
    assert found["compound"].tolist() == ["x", None, None]
    assert found["amount"].isna().tolist() == [False, True, True]
    assert notes == (
        "2 row(s) have no entry in the map and keep what they had (plate + well): P1 B07, P1 (none)",
        "2 entries of the map have no row (plate + well): P1 C01, P1 C02",
    )
    with pytest.raises(InputError, match="no entry for any row"):
        join_plate_map(obs[1:], plan)


def test_a_map_fills_gaps_and_never_overwrites() -> None:
    obs = frame(
        plate=["P1"] * 3, well=["A01", "A02", "A03"], compound=["x", None, "z"], concentration=[0.3, 1, None]
    )
    obs["concentration"] = obs["concentration"].astype(float)
    plan = frame(
        well=["A01", "A02", "A03"], compound=["x", "y", None], concentration=[np.float32(0.3), None, 7]
    )
    found, _ = join_plate_map(obs, plan)
    assert found["compound"].tolist() == ["x", "y", "z"]
    assert found["concentration"].tolist() == [0.3, 1, 7]
    assert found["concentration"].dtype == float
    plan["compound"] = ["x", "y", "q"]
    plan["concentration"] = [3, 2, None]
    with pytest.raises(InputError) as caught:
        join_plate_map(obs, plan)
    assert "contradicts the table in 3 place(s)" in caught.value.message
    for part in (
        "compound of A03 is 'z', in the map 'q'",
        "concentration of A01 is '0.3', in the map '3'",
        "concentration of A02 is '1', in the map '2'",
    ):
        assert part in caught.value.message


def test_at_most_five_contradictions_are_listed() -> None:
    wells = [f"A{i:02d}" for i in range(1, 9)]
    obs, plan = frame(well=wells, compound=["x"] * 8), frame(well=wells, compound=["y"] * 8)
    with pytest.raises(InputError, match=r"in 8 place\(s\).* and 3 more") as caught:
        join_plate_map(obs, plan)
    assert caught.value.message.count("compound of") == 5


def test_a_compound_map_is_joined_by_amount_to_six_digits() -> None:
    obs = frame(compound=["x", "x", "y", "DMSO"], concentration=[float(np.float32(0.3)), 3.0, 1.0, None])
    plan = frame(compound=["x", "x", "DMSO"], concentration=[0.3, 3, None], moa=["M1", "M2", "none"])
    found, notes = join_plate_map(obs, plan, on=["compound", "concentration"])
    assert found["moa"].tolist() == ["M1", "M2", None, "none"]
    assert notes[0].endswith("(compound + concentration): y 1")
    with pytest.raises(InputError, match="the table has no column compound"):
        join_plate_map(obs.drop(columns="compound"), plan, on=["compound", "concentration"])
    with pytest.raises(InputError, match="the map has no column concentration"):
        join_plate_map(obs, plan.drop(columns="concentration"), on=["compound", "concentration"])
    with pytest.raises(InputError, match=r"several rows for x 0\.3"):
        join_plate_map(obs, pd.concat([plan, plan[:1]]), on=["compound", "concentration"])


def test_rows_are_told_apart_by_place_not_by_index() -> None:
    obs = pd.concat([frame(well=["A01"], compound=["x"]), frame(well=["A02"], compound=["y"])])  # index 0, 0
    found, _ = join_plate_map(obs, frame(well=["A01", "A02"], moa=["M1", "M2"]))
    assert found["moa"].tolist() == ["M1", "M2"]
    with pytest.raises(InputError, match="compound of A02 is 'y', in the map 'z'"):
        join_plate_map(obs, frame(well=["A01", "A02"], compound=["x", "z"]))


def test_a_table_keeps_its_profiles_and_gets_notes() -> None:
    obs = frame(plate=["P1", "P1"], well=["A01", "A02"])
    table = from_arrays(np.eye(2), obs, ["f1", "f2"], source="s")
    joined = join_plate_map(table, frame(well=["A01"], compound=["x"]))
    assert joined.obs["compound"].tolist() == ["x", None]
    assert joined.obs.index.tolist() == ["P1/A01", "P1/A02"]
    assert joined.x is table.x
    assert len(joined.notes) == 1
    assert "compound" not in table.obs


@pytest.mark.shared
def test_published_tables_of_bbbc021_join_to_the_prepared_one(shared_data: Path) -> None:
    folder = shared_data / "bbbc021"
    features = ["Cells_", "Nuclei_", "Cytoplasm_"]
    expected = read_profiles(str(folder / "profiles.parquet"), features=features, level="well")
    published = str(folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz")
    table = read_profiles(published, features=features, level="well")
    wells = read_plate_map(str(folder / "BBBC021_v1_image.csv.gz"))  # four fields a well
    assert len(wells) == 3300
    assert "Image_FileName_DAPI" not in wells
    key = ["compound", "concentration"]
    moa = read_plate_map(str(folder / "BBBC021_v1_moa.csv"), on=key)
    joined = join_plate_map(join_plate_map(table, wells), moa, on=key)
    assert joined.notes == (
        joined.notes[0],
    )  # 2,668 wells of the image table were not profiled, and nothing else
    assert joined.notes[0].startswith("2668 entries")
    assert joined.features == expected.features
    rows = expected.obs.index.get_indexer(joined.obs.index)
    np.testing.assert_allclose(joined.x, expected.x[rows], rtol=1e-6)
    for name in ("plate", "well", "compound", "concentration", "moa", "replicate"):
        assert joined.obs[name].tolist() == expected.obs[name].iloc[rows].tolist(), name
