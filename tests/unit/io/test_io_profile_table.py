"""Tables of profiles: what comes in stands in the rows or in the rejects, and means the same as before."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.io.profile_table import MAX_MISSING, ProfileTable, from_arrays, read_profiles

Put = Callable[[str, bytes], str]
Freeze = Callable[[NDArray], NDArray]


def wells(n: int) -> pd.DataFrame:
    names = [f"{chr(65 + i // 12)}{i % 12 + 1}" for i in range(n)]
    return pd.DataFrame({"Metadata_Plate": ["P1"] * n, "Metadata_Well": names})


def csv(put: Put, text: str, name: str = "t.csv") -> str:
    data = text.encode()
    return put(name, gzip.compress(data) if name.endswith(".gz") else data)


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz"])
def test_text_tables(put: Put, name: str) -> None:
    text = (
        "Metadata_Plate,Metadata_Well,Metadata_Compound,Metadata_n,f1,f2,note\n"
        "007,a1,1e3,5,0.5,1,x\n008,A - 2,,6,-2e-3,30,y\n"
    )
    table = read_profiles(csv(put, text.replace(",", "\t") if "tsv" in name else text, name), level="well")
    np.testing.assert_array_equal(table.x, np.array([[0.5, 1], [-2e-3, 30]], np.float32))
    assert table.x.dtype == np.float32
    assert table.features == ("f1", "f2")
    assert table.obs.to_dict("list") == {
        "plate": ["007", "008"], "well": ["A01", "A02"], "compound": ["1e3", None], "Metadata_n": [5, 6],
        "note": ["x", "y"],
    }  # fmt: skip
    assert table.obs.index.tolist() == ["007/A01", "008/A02"]
    assert table.obs.index.name == "obs_id"
    assert (table.n_in, len(table.rejects), table.notes) == (2, 0, ())
    assert table.source.endswith(name)


@pytest.mark.parametrize("word", ["", "nan", "NaN", "NA", "null", "#N/A"])
def test_words_for_nothing_leave_a_column_of_numbers(put: Put, word: str) -> None:
    rows = "".join(f"P,A{i + 1:02d},{word if i == 3 else i},{i}\n" for i in range(48))
    table = read_profiles(csv(put, "plate,well,f1,f2\n" + rows), level="well")
    assert table.features == ("f1", "f2")
    assert table.rejects.to_dict("records") == [
        {"obs_id": "P/A04", "code": "not_finite", "message": "1 of 2 features are not finite: f1"}
    ]
    assert table.n_in == 48


@pytest.mark.parametrize("cell", ["x", "007", "12345678901234567890", "1,5"])
def test_what_is_not_plainly_a_number_is_no_feature(put: Put, cell: str) -> None:
    table = read_profiles(csv(put, f'plate,well,f1,f2\nP,A1,1,1\nP,A2,"{cell}",2\n'), level="well")
    assert table.features == ("f2",)
    assert table.obs["f1"].tolist() == ["1", cell]


def test_types_of_parquet_are_taken_as_they_are(tmp_path: Path) -> None:
    columns = {
        "meta_plate": pa.array([1, 2]),
        "meta_well": pa.array(["A1", "A2"]).dictionary_encode(),
        "Metadata_Replicate": pa.array([1.0, None]),
        "f_int": pa.array([1, 2], pa.int8()),
        "f_half": np.array([0.5, 1.5], np.float16),
        "f_big": pa.array([2**60, 0]),
        "flag": pa.array([True, False]),
        "date": pa.array([0, 1], pa.date32()),
        "tags": pa.array([["a"], []]),
        "blob": pa.array([b"1", b"2"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_profiles(str(tmp_path / "t.parquet"), level="well")
    assert table.features == ("f_int", "f_half", "f_big")
    assert table.x.tolist() == [[1, 0.5, 2.0**60], [2, 1.5, 0]]
    assert table.obs["plate"].tolist() == ["1", "2"]
    assert table.obs["replicate"].tolist() == ["1", None]
    assert table.obs["flag"].tolist() == [True, False]
    assert table.obs.columns.tolist() == ["plate", "well", "replicate", "flag", "date"]
    assert table.notes == ("2 column(s) of lists are not kept: tags, blob",)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 3), pa.large_list(pa.float32())]
)
def test_vectors_of_parts(tmp_path: Path, kind: pa.DataType) -> None:
    plain: list[list[float | None] | None] = [[0, 0, 0], [1, 1, 1]] * 10
    for part, vectors in enumerate(
        [[[0, 1, 2], None, [3, None, 4]], [[1, 1, 2], None, [5, None, 7.5]], plain]
    ):
        columns = {
            "obs_id": [f"{part}{i}" for i in range(len(vectors))],
            "meta_plate": ["P"] * len(vectors),
            "meta_well": ["A1"] * len(vectors),
            "area_px": list(range(len(vectors))),
            "vectors": pa.array(vectors, kind),
        }
        pq.write_table(pa.table(columns), tmp_path / f"part-{part}.parquet")
    with pytest.raises(InputError, match="nowhere"):
        read_profiles(str(tmp_path), features=["nowhere"], level="cell")
    table = read_profiles(str(tmp_path), level="cell")
    assert table.features == ("e0000", "e0002")  # two of the 24 rows with a vector lack the second
    assert "1 feature(s) missing in more than 5% of the rows are left out: e0001" in table.notes
    assert table.n_in == 26
    assert table.rejects["obs_id"].tolist() == ["01", "11"]
    assert table.rejects["message"].tolist() == ["2 of 2 features are not finite: e0000, e0002"] * 2
    rows = table.obs.index.get_indexer(["00", "02", "10", "12", "20", "219"])
    assert table.x[rows].tolist() == [[0, 2], [3, 4], [1, 2], [5, 7.5], [0, 0], [1, 1]]
    assert table.obs["area_px"].dtype == np.int64


@pytest.mark.parametrize("vectors", [[[1.0, 2.0], [1.0]], [[], []], [None, None]])
def test_vectors_of_different_lengths_are_refused(tmp_path: Path, vectors: list[list[float] | None]) -> None:
    columns = {"plate": ["P", "P"], "well": ["A1", "A2"], "x": pa.array(vectors, pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.parquet: x: all vectors must be of one length"):
        read_profiles(str(tmp_path / "t.parquet"), level="well")


def test_explicit_columns_and_features(put: Put) -> None:
    text = "barcode,pos,plate,a_1,a_2,b_1,Cells_1\nP1,A1,ignored,1,2,3,4\n"
    table = read_profiles(
        csv(put, text), columns={"plate": "barcode", "well": "pos"}, features=["b_1", "a_"], level="well"
    )
    assert table.features == ("b_1", "a_1", "a_2")
    assert table.x.tolist() == [[3, 1, 2]]
    assert table.obs.to_dict("list") == {"plate": ["P1"], "well": ["A01"], "other_plate": ["ignored"]}
    assert "Cells_1" in table.notes[0]


def test_missing_keys_are_named(put: Put) -> None:
    with pytest.raises(InputError, match="has no column for plate") as caught:
        read_profiles(csv(put, "well,f1\nA1,1\n"), level="well")
    assert "columns" in caught.value.hint
    with pytest.raises(ValueError, match="level must be one of cell, image, well, treatment, not 'wells'"):
        read_profiles(csv(put, "well,f1\nA1,1\n"), level="wells")


def test_treatments_need_a_compound_and_no_well(put: Put) -> None:
    text = "compound,concentration_um,f1\nx,0.3,1\nx,,2\n,1,3\n"
    table = read_profiles(csv(put, text), level="treatment")
    assert table.obs.index.tolist() == ["x@0.3 uM", "x@na"]
    assert table.rejects.to_dict("list") == {
        "obs_id": ["row3"], "code": ["no_key"], "message": ["the row has no compound"],
    }  # fmt: skip
    with pytest.raises(InputError, match="has no column for plate and well"):
        read_profiles(csv(put, text), level="well")


# ---------------------------------------------------------------- rows and features that go


def test_a_feature_missing_in_more_than_one_row_in_twenty_goes_alone(frozen: Freeze) -> None:
    x = np.arange(80 * 4, dtype=float).reshape(80, 4)
    x[:4, 0] = np.nan  # exactly 5 %
    x[:5, 1] = np.nan  # more
    x[:, 2] = np.nan
    x[10:20] = np.nan  # rows without any number say nothing about a feature
    x[40:60, 3] = np.inf  # not missing: wrong
    table = from_arrays(frozen(x), wells(80), ["a", "b", "c", "d"], source="s")
    assert MAX_MISSING == 0.05
    assert table.features == ("d",)
    assert table.notes == ("3 feature(s) missing in more than 5% of the rows are left out: a, b, c",)
    assert len(table.rejects) == 10 + 20
    keep = np.r_[0:10, 20:80]
    table = from_arrays(x[keep], wells(70), ["a", "b", "c", "d"], source="s")
    assert table.features == ("d",)  # 4 of 70 rows are more than 5 %
    x[3, 0] = 0
    table = from_arrays(x, wells(80), ["a", "b", "c", "d"], source="s")
    assert table.features == ("a", "d")  # 3 of the 70 rows with any number
    assert set(table.rejects["message"]) == {
        "1 of 2 features are not finite: a",
        "2 of 2 features are not finite: a, d",
        "1 of 2 features are not finite: d",
    }
    assert len(table.rejects) == 3 + 10 + 20
    np.testing.assert_array_equal(table.x, x[np.r_[3:10, 20:40, 60:80]][:, [0, 3]].astype(np.float32))


def test_exactly_one_in_twenty_is_not_too_many() -> None:
    x = np.ones((20, 2))
    x[0, 0] = np.nan
    assert from_arrays(x, wells(20), ["a", "b"], source="s").features == ("a", "b")
    assert from_arrays(x[:19], wells(19), ["a", "b"], source="s").features == ("b",)


def test_what_does_not_fit_float32_is_not_finite() -> None:
    table = from_arrays(np.array([[1e39], [1.0]]), wells(2), ["a"], source="s")
    assert table.rejects["code"].tolist() == ["not_finite"]
    assert table.x.tolist() == [[1]]


def test_rows_without_a_key_are_rejected_with_their_number() -> None:
    obs = pd.DataFrame({"plate": ["P", None, "P", " ", "NA"], "well": ["A1", "A2", "ZZ9", None, "A3"]})
    table = from_arrays(np.ones((5, 1)), obs, ["a"], source="s")
    assert table.obs.index.tolist() == ["P/A01"]
    assert table.rejects.to_dict("list") == {
        "obs_id": ["row2", "row3", "row4", "row5"],
        "code": ["no_key"] * 4,
        "message": [
            "the row has no plate", "'ZZ9' is not the name of a well", "the row has no plate", "the row has no plate",
        ],
    }  # fmt: skip
    assert table.notes == ("plate: 1 cell(s) that say NA are taken as empty",)


def test_a_table_without_a_usable_row_is_refused() -> None:
    with pytest.raises(InputError, match="s: no row can be used; the first: "):
        from_arrays(np.full((2, 1), np.inf), wells(2), ["a"], source="s")
    with pytest.raises(InputError, match="every feature is missing in more than 5% of the rows"):
        from_arrays(np.array([[np.nan, 1], [1, np.nan]]), wells(2), ["a", "b"], source="s")
    with pytest.raises(InputError, match="no row can be used"):
        from_arrays(np.full((2, 2), np.nan), wells(2), ["a", "b"], source="s")


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.data())
def test_every_row_is_kept_or_rejected_once(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    cell = st.sampled_from([0.0, 1.5, -3.0, 7.0, np.nan, np.inf])
    x = np.array(data.draw(st.lists(st.lists(cell, min_size=d, max_size=d), min_size=n, max_size=n)))
    some = st.sampled_from(["P1", "P2", None])
    well = st.sampled_from(["A1", "a01", "B2", None, "??"])
    obs = pd.DataFrame(
        {
            "plate": data.draw(st.lists(some, min_size=n, max_size=n)),
            "well": data.draw(st.lists(well, min_size=n, max_size=n)),
            "row_of": np.arange(n),
        }
    )
    names = [f"f{j}" for j in range(d)]
    try:
        table = from_arrays(x, obs, names, source="s")
    except InputError:
        return
    assert table.n_in == n
    kept = table.obs["row_of"].to_numpy()
    columns = [names.index(name) for name in table.features]
    np.testing.assert_array_equal(table.x, x[kept][:, columns])
    good = (
        np.isfinite(x[:, columns]).all(axis=1) & obs["plate"].notna() & obs["well"].isin(["A1", "a01", "B2"])
    )
    assert kept.tolist() == np.flatnonzero(good).tolist()
    ids = [*table.obs.index, *table.rejects["obs_id"]]
    assert len(set(ids)) == n


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("extra", "ids"),
    [
        ({}, ["P1/A01/row1", "P1/A01/row2", "P1/A02"]),
        ({"site": [1, 2, None]}, ["P1/A01/1", "P1/A01/2", "P1/A02"]),
        ({"Metadata_Site": ["1", "1", "3"]}, ["P1/A01/1/row1", "P1/A01/1/row2", "P1/A02/3"]),
        ({"obs_id": [7, "b", 1.0]}, ["7", "b", "1"]),
    ],
)
def test_ids(extra: dict[str, list[object]], ids: list[str]) -> None:
    obs = pd.DataFrame({"plate": ["P1"] * 3, "well": ["A1", "A01", "A2"], **extra})
    table = from_arrays(np.ones((3, 1)), obs, ["a"], source="s")
    assert table.obs.index.tolist() == ids
    assert "obs_id" not in table.obs


def test_an_index_of_names_gives_the_ids() -> None:
    obs = wells(2).set_axis(["x", "y"])
    assert from_arrays(np.ones((2, 1)), obs, ["a"], source="s").obs.index.tolist() == ["x", "y"]
    obs["obs_id"] = ["p", "q"]
    assert from_arrays(np.ones((2, 1)), obs, ["a"], source="s").obs.index.tolist() == ["p", "q"]


def test_given_ids_must_be_there_and_differ() -> None:
    obs = wells(3).assign(obs_id=["a", "a", "b"])
    with pytest.raises(InputError, match="s: 1 obs_id stand in several rows: a"):
        from_arrays(np.ones((3, 1)), obs, ["a"], source="s")
    table = from_arrays(np.ones((3, 1)), obs.assign(obs_id=["a", None, "b"]), ["a"], source="s")
    assert table.rejects.to_dict("records") == [
        {"obs_id": "row2", "code": "no_key", "message": "the row has no obs_id"}
    ]


# ---------------------------------------------------------------- arrays


def test_arrays_and_files_are_cleaned_alike(put: Put, rng: np.random.Generator, frozen: Freeze) -> None:
    x = rng.normal(size=(30, 3)).astype(np.float32)
    x[4, 1] = np.nan
    obs = wells(30).assign(Metadata_control_type=["negcon", "trt", None] * 10, Metadata_Concentration=0.3)
    before = obs.copy(deep=True)
    made = from_arrays(frozen(x), obs, ["a", "b", "c"], source="s", level="well")
    pd.testing.assert_frame_equal(obs, before)
    text = obs.assign(**{name: x[:, j].astype(str) for j, name in enumerate("abc")}).to_csv(index=False)
    read = read_profiles(csv(put, text), level="well")
    np.testing.assert_array_equal(read.x, made.x)
    assert read.features == made.features
    pd.testing.assert_frame_equal(read.obs, made.obs)
    pd.testing.assert_frame_equal(read.rejects, made.rejects)
    assert read.obs["control_type"].tolist()[:3] == ["negative", None, None]


def test_shapes_and_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"x must be \(2, 1\) .* got \(2, 2\)"):
        from_arrays(np.ones((2, 2)), wells(2), ["a"], source="s")
    with pytest.raises(ValueError, match="every feature needs a name"):
        from_arrays(np.ones((2, 2)), wells(2), ["a", "a"], source="s")
    twice = wells(2).set_axis(["plate", "plate"], axis=1)
    with pytest.raises(InputError, match="s has columns of the same name: plate"):
        from_arrays(np.ones((2, 1)), twice, ["a"], source="s")


def test_categories_of_anndata_are_text() -> None:
    obs = wells(2).astype("category").assign(moa=pd.Categorical(["M", None]))
    table = from_arrays(np.ones((2, 1)), obs, ["a"], source="s")
    assert table.obs["plate"].tolist() == ["P1", "P1"]
    assert table.obs["moa"].tolist() == ["M", None]
    assert {str(table.obs[name].dtype) for name in ("plate", "well", "moa")} == {"object"}


# ---------------------------------------------------------------- the table itself


@pytest.fixture
def table() -> ProfileTable:
    x = np.arange(8.0).reshape(4, 2)
    x[3] = np.inf
    return from_arrays(x, wells(4), ["a", "b"], source="s")


def test_take(table: ProfileTable) -> None:
    for rows in ([True, False, True], [0, 2], np.array([0, 2]), np.array([-3, 2])):
        taken = table.take(rows)
        assert taken.x.tolist() == [[0, 1], [4, 5]]
        assert taken.obs.index.tolist() == ["P1/A01", "P1/A03"]
        assert len(taken.rejects) == 1
    assert table.take([]).x.shape == (0, 2)
    with pytest.raises(ValueError, match="a mask of 3 rows"):
        table.take([True, False])
    assert table.n_in == 4


def test_with_x(table: ProfileTable) -> None:
    other = table.with_x(np.ones((3, 1)), ["z"])
    assert (other.x.dtype, other.features, other.n_in) == (np.float32, ("z",), 4)
    assert other.obs is table.obs
    with pytest.raises(ValueError, match=r"must be float32 \(3, 1\) .* got float32 \(2, 1\)"):
        table.with_x(np.ones((2, 1)), ["z"])
    with pytest.raises(ValueError, match="must be finite"):
        table.with_x(np.full((3, 1), np.nan), ["z"])


def test_columns_for_corrections(table: ProfileTable) -> None:
    columns = table.obs_columns()
    assert columns["obs_id"].tolist() == table.obs.index.tolist()
    assert columns["well"].tolist() == ["A01", "A02", "A03"]


def test_invariants(table: ProfileTable) -> None:
    def make(**other: object) -> ProfileTable:
        parts = {
            "x": table.x,
            "obs": table.obs,
            "features": table.features,
            "rejects": table.rejects,
            "source": "s",
        }
        return ProfileTable(**{**parts, **other})  # type: ignore[arg-type]

    assert make().n_in == 4
    for other, message in (
        ({"x": table.x.astype(float)}, "must be float32"),
        ({"obs": table.obs.set_axis(["a", "b", "a"])}, "unique text"),
        ({"obs": table.obs.set_axis([1, 2, 3])}, "unique text"),
        ({"features": ("a", "a")}, "a name of its own"),
        ({"features": ("a",)}, "must be float32"),
        ({"rejects": table.rejects[["obs_id"]]}, "obs_id, code, message"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**other)


@pytest.mark.shared
def test_bbbc021(shared_data: Path) -> None:
    uri = str(shared_data / "bbbc021" / "profiles.parquet")
    table = read_profiles(uri, features=["Nuclei_", "Cells_", "Cytoplasm_"], level="well")
    assert table.x.shape == (632, 516)
    assert (table.n_in, len(table.rejects), table.notes) == (632, 0, ())
    assert table.features[:1] == ("Nuclei_AreaShape_Area",)
    assert table.obs.nunique().to_dict() == {
        "plate": 55, "well": 46, "week": 10, "compound": 39, "concentration": 19, "moa": 13, "replicate": 3,
    }  # fmt: skip
    found = read_profiles(uri, level="well")
    assert found.x.shape == (632, 459)
    assert not [name for name in found.features if "Location" in name or "ObjectNumber" in name]
    assert found.obs.columns.tolist() == table.obs.columns.tolist()
    assert found.notes[0].startswith("57 numeric column(s)")
