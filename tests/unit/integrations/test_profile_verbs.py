"""Profiles as AnnData: what is corrected, aggregated and scored, and what of it a file keeps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from scipy import sparse

from microsnoop.core.errors import CorrectionError, InputError
from microsnoop.core.profile_config import PlateConfig
from microsnoop.correction.files import load, save
from microsnoop.correction.steps import build
from microsnoop.io.profile_table import ProfileTable, from_arrays
from microsnoop.pipelines.profile_levels import aggregate as aggregate_rows
from microsnoop.pipelines.profile_plates import correction_obs, prepare_plates
from microsnoop.pipelines.profile_scores import Question, judge
from microsnoop_integrations.anndata_io import read, write
from microsnoop_integrations.profiles import (
    UNS,
    aggregate,
    correct,
    provenance,
    read_profile_source,
    score,
    to_anndata,
    to_table,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "run_v2"
DMSO = {"compound": ["DMSO"]}
SPHERING = [{"method": "sphering", "reg": "shrinkage"}]
QUICK = Question(permutations=20, map_null=200)
# anndata's notice of a default that will change
zarr_notice = pytest.mark.filterwarnings("ignore:Writing zarr v2 data")


def screen(seed: int = 0, d: int = 5) -> ad.AnnData:
    """Two weeks of two plates of 24 wells, half of them controls; six compounds in two wells a plate."""
    rng = np.random.default_rng(seed)
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 7)]
    rows = [(f"p{p}", well, f"w{p // 2}", k) for p in range(4) for k, well in enumerate(wells)]
    plate, well, week, place = map(list, zip(*rows, strict=True))
    treated = np.array(place) >= 12
    number = np.where(treated, np.array(place) % 6, -1)
    obs = pd.DataFrame(
        {
            "plate": pd.Categorical(plate),
            "well": well,
            "week": week,
            "compound": [f"c{n}" if n >= 0 else "DMSO" for n in number],
            "concentration": np.where(treated, 0.3, np.nan),
            "moa": pd.Categorical([f"m{n // 2}" if n >= 0 else None for n in number]),
            "n_cells": rng.integers(5, 50, len(rows)),
        },
        index=[f"{p}-{w}" for p, w in zip(plate, well, strict=True)],
    )
    x = (
        rng.normal(size=(len(rows), d))
        + 3 * rng.normal(size=(7, d))[number]
        + rng.normal(size=(2, d))[treated * 1]
    )
    x = x.astype(np.float32)
    x.flags.writeable = False
    return ad.AnnData(X=x, obs=obs, var=pd.DataFrame(index=[f"DNA:{j}" for j in range(d)]))


@pytest.fixture
def data() -> ad.AnnData:
    return screen()


# --- tables and AnnData -------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was(data: ad.AnnData) -> None:
    table = to_table(data)
    assert table.obs["moa"].isna().sum() == 48
    again = to_table(to_anndata(table))
    np.testing.assert_array_equal(again.x, np.asarray(data.X))
    assert again.features == tuple(data.var_names)
    assert again.obs.index.tolist() == data.obs_names.tolist()
    pd.testing.assert_frame_equal(again.obs, table.obs)


@zarr_notice
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_empty_cells_and_types_survive_a_file(data: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    data.obs["dose/µM"] = [1.5] * 95 + [np.nan]
    data.obs["seen"] = [True] * 96
    data.obs["nothing"] = pd.Series([None] * 96, index=data.obs_names, dtype=object)
    data.obs["remark"] = pd.Series([None, "nan?", 7] + [None] * 93, index=data.obs_names, dtype=object)
    found = read(write(to_anndata(to_table(data)), tmp_path / f"rows.{suffix}"))
    assert found.X.dtype == np.float32
    kinds = {name: str(kind) for name, kind in found.obs.dtypes.items()}
    assert kinds == {
        "plate": "category", "well": "category", "week": "category", "compound": "category", "moa": "category",
        "concentration": "float64", "n_cells": "float64", "dose|µM": "float64", "seen": "bool",
        "nothing": "category", "remark": "category",
    }  # fmt: skip
    assert found.obs["moa"].isna().sum() == 48
    assert found.obs["moa"].cat.categories.tolist() == ["m0", "m1", "m2"]  # no "nan", no "None"
    assert found.obs["nothing"].isna().all()
    assert found.obs["remark"].cat.categories.tolist() == ["7", "nan?"]
    assert np.isnan(found.obs["dose|µM"].iloc[-1])
    assert "dose/µM" in data.obs  # what was given is not changed


def test_layers_obsm_and_features_can_be_chosen(data: ad.AnnData) -> None:
    data.layers["twice"] = 2 * np.asarray(data.X)
    data.obsm["X_pca"] = np.asarray(data.X)[:, :2].astype(np.float64)
    np.testing.assert_array_equal(to_table(data, layer="twice").x, 2 * np.asarray(data.X))
    for layer in ("pca", "X_pca"):
        found = to_table(data, layer=layer)
        np.testing.assert_array_equal(found.x, np.asarray(data.X)[:, :2])
        assert found.features == (f"{layer}0", f"{layer}1")
    with pytest.raises(InputError, match=r"no layer 'umap', and no obsm\['X_umap'\]"):
        to_table(data, layer="umap")
    chosen = to_table(data, features=["DNA:3", "DNA:1"])
    assert chosen.features == ("DNA:1", "DNA:3")
    np.testing.assert_array_equal(chosen.x, np.asarray(data.X)[:, [1, 3]])
    with pytest.raises(InputError, match=r"no feature begins with ER, RNA$"):
        to_table(data, features=["DNA", "ER", "RNA"])


def test_sparse_and_missing_matrices(data: ad.AnnData) -> None:
    values = np.where(np.asarray(data.X) > 0, np.asarray(data.X), 0)
    thin = ad.AnnData(X=sparse.csr_matrix(values), obs=data.obs, var=data.var)
    np.testing.assert_array_equal(to_table(thin).x, values)
    with pytest.raises(InputError, match="there is no X"):
        to_table(ad.AnnData(obs=data.obs))


def test_columns_can_have_other_names(data: ad.AnnData) -> None:
    data.obs = data.obs.rename(columns={"plate": "slab", "compound": "Metadata_pert_iname"})
    with pytest.raises(InputError, match="no column for plate"):
        to_table(data)
    found = to_table(data, columns={"plate": "slab"})
    assert found.obs["compound"].tolist()[:1] == ["DMSO"]
    correct(data, SPHERING, controls=DMSO, batch="week", columns={"plate": "slab"})
    assert data.layers["corrected"].shape == data.shape


# --- corrections --------------------------------------------------------------------------------


def test_corrected_numbers_stand_beside_those_they_came_from(data: ad.AnnData) -> None:
    before, obs = np.array(data.X), data.obs.copy()
    corrector = correct(data, SPHERING, controls=DMSO, batch="week")
    np.testing.assert_array_equal(data.X, before)
    pd.testing.assert_frame_equal(data.obs, obs)
    assert list(data.layers) == ["corrected"]
    assert list(data.obsm) == []
    table, _ = prepare_plates(to_table(data), PlateConfig(batch="week", controls=DMSO))
    expected = build(SPHERING).fit_transform(before, correction_obs(table), features=table.features)
    np.testing.assert_array_equal(data.layers["corrected"], expected)
    assert data.layers["corrected"].dtype == np.float32
    controls = data.layers["corrected"][(data.obs["compound"] == "DMSO").to_numpy()]
    np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-5)  # fitted on these and no others
    assert corrector.n_control_ == 48


def test_rows_in_another_order_are_corrected_alike(data: ad.AnnData) -> None:
    order = np.random.default_rng(1).permutation(data.n_obs)
    shuffled = data[order].copy()
    correct(data, SPHERING, controls=DMSO, batch="week")
    correct(shuffled, SPHERING, controls=DMSO, batch="week")
    np.testing.assert_allclose(shuffled.layers["corrected"], data.layers["corrected"][order], atol=2e-5)


def test_other_features_go_to_obsm(data: ad.AnnData) -> None:
    steps = [{"method": "mad", "scope": "plate"}, {"method": "pca", "n_components": 3}]
    corrector = correct(data, steps, controls=DMSO, batch="week", key_added="pcs")
    assert list(data.layers) == []
    assert data.obsm["X_pcs"].shape == (96, 3)
    assert data.uns[UNS]["pcs"]["features_out"].tolist() == list(corrector.features_out_)
    chain = correct(data, build(SPHERING), controls=DMSO, batch="week", key_added="again")
    assert chain.method == "chain"
    assert set(data.uns[UNS]) == {"pcs", "again"}  # both are known


def test_a_second_correction_of_a_name_replaces_the_first(data: ad.AnnData) -> None:
    correct(data, SPHERING, controls=DMSO, batch="week")
    correct(data, [{"method": "pca", "n_components": 3}], controls=DMSO, batch="week")
    assert list(data.layers) == []  # else score would still find the sphered rows under the new name
    assert data.obsm["X_corrected"].shape == (96, 3)
    correct(data, SPHERING, controls=DMSO, batch="week")
    assert (list(data.layers), list(data.obsm)) == (["corrected"], [])


def test_the_batch_is_what_was_named(data: ad.AnnData) -> None:
    """A fit a week needs the weeks: with plates as batches there would be four."""
    steps = [{"method": "standardize", "scope": "batch", "reference": "controls"}]
    by_week = correct(data, steps, controls=DMSO, batch="week", key_added="weeks").steps[0]  # type: ignore[attr-defined]
    assert sorted(by_week.fits_) == ["w0", "w1"]


@pytest.mark.parametrize("steps", [SPHERING, [{"method": "pca", "n_components": 2}]])
def test_what_is_corrected_is_not_corrected_again(data: ad.AnnData, steps: list[dict[str, Any]]) -> None:
    correct(data, steps, controls=DMSO, batch="week", key_added="clean")
    names = ["clean", "X_clean"] if "X_clean" in data.obsm else ["clean"]
    for layer in names:
        with pytest.raises(CorrectionError, match="was corrected already") as caught:
            correct(data, SPHERING, controls=DMSO, batch="week", layer=layer)
        assert caught.value.code == "already_corrected"
        assert steps[0]["method"] in str(caught.value)
    wells = aggregate(data, "well", layer="clean")
    with pytest.raises(CorrectionError, match="'X' was corrected already"):
        correct(wells, SPHERING, controls=DMSO, batch="week")
    correct(aggregate(data, "well"), SPHERING, controls=DMSO, batch="week")  # made of raw rows


def test_a_refused_correction_leaves_nothing_behind(data: ad.AnnData) -> None:
    with pytest.raises(CorrectionError):
        correct(
            data,
            [{"method": "standardize", "scope": "plate", "minimum_rows": 50}],
            controls=DMSO,
            batch="week",
        )
    assert (list(data.layers), list(data.obsm), dict(data.uns)) == ([], [], {})
    with pytest.raises(InputError, match="plate_without_controls"):
        correct(data, SPHERING, controls={"compound": ["H2O"]}, batch="week")
    with pytest.raises(InputError, match=r"plates\.batch"):
        correct(data, SPHERING, controls=DMSO, batch="month")


def test_rows_that_are_not_finite_are_named(data: ad.AnnData) -> None:
    x = np.array(data.X)
    x[[3, 50], [0, 2]] = np.nan, np.inf
    x[7] = np.nan
    with pytest.raises(InputError, match=r"3 of 96 rows .* not finite: p0-A04, p0-B02, p2-A03$"):
        correct(ad.AnnData(X=x, obs=data.obs, var=data.var), SPHERING, controls=DMSO, batch="week")
    x = np.array(data.X)
    x[:10, 1] = np.nan  # so many that a table would rather do without the feature
    with pytest.raises(InputError, match=r"10 of 96 rows .* and 5 more"):
        correct(ad.AnnData(X=x, obs=data.obs, var=data.var), SPHERING, controls=DMSO, batch="week")


def test_rows_without_a_place_are_named(data: ad.AnnData) -> None:
    data.obs["well"] = ["nowhere", *data.obs["well"][1:]]
    with pytest.raises(InputError, match=r"1 of 96 rows cannot be corrected: p0-A01: 'nowhere' is not"):
        correct(data, SPHERING, controls=DMSO, batch="week")


# --- what was done ------------------------------------------------------------------------------

STEPS = [{"method": "mad", "scope": "plate", "minimum_rows": 4}, {"method": "sphering", "reg": "ridge"}]


@zarr_notice
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_what_was_done_survives_a_file(data: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    data.uns["microsnoop"] = {"encoder_sha256": "ab12"}
    corrector = correct(data, STEPS, controls=DMSO, batch="week")
    found = read(write(data, tmp_path / f"x.{suffix}"))
    np.testing.assert_array_equal(found.layers["corrected"], data.layers["corrected"])
    told = found.uns[UNS]["corrected"]
    assert set(told) == {
        "schema_version", "steps_json", "facts_json", "features_out", "n_control", "control_hash", "encoder_sha256",
        "findings_json", "arrays",
    }  # fmt: skip
    steps = json.loads(told["steps_json"])
    assert [step["method"] for step in steps] == ["mad", "sphering"]
    assert steps[0].items() >= {"scope": "plate", "minimum_rows": 4}.items()
    assert steps[1]["reg"] == "ridge"
    assert build(steps).get_params(deep=False).keys() == {"steps"}  # they are settings again
    assert (int(told["schema_version"]), int(told["n_control"])) == (1, 48)
    assert (told["control_hash"], told["encoder_sha256"]) == (corrector.control_hash_, "ab12")
    assert list(told["features_out"]) == list(data.var_names)
    assert [finding["code"] for finding in json.loads(told["findings_json"])] == [
        finding.code for finding in corrector.findings_
    ]
    saved = safetensors.numpy.load(save(corrector, tmp_path / "c")[0].read_bytes())
    assert {name.replace("|", "/") for name in told["arrays"]} == set(saved)
    for name, values in told["arrays"].items():
        np.testing.assert_array_equal(values, saved[name.replace("|", "/")])
    facts, file = json.loads(told["facts_json"]), json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert facts == {key: file[key] for key in facts}
    with pytest.raises(CorrectionError, match="corrected already"):  # the file knows it too
        correct(found, SPHERING, controls=DMSO, batch="week", layer="corrected")


def test_a_correction_from_files_gives_the_same_numbers(data: ad.AnnData, tmp_path: Path) -> None:
    save(correct(data, STEPS, controls=DMSO, batch="week"), tmp_path / "c")
    table, _ = prepare_plates(to_table(data), PlateConfig(batch="week", controls=DMSO))
    again = load(tmp_path / "c").transform(table.x, correction_obs(table), features=table.features)
    np.testing.assert_array_equal(again, data.layers["corrected"])


def test_a_single_step_is_told_like_a_chain(data: ad.AnnData) -> None:
    step = build(SPHERING).steps[0]
    correct(data, step, controls=DMSO, batch="week")
    (told,) = json.loads(data.uns[UNS]["corrected"]["steps_json"])
    assert told.items() >= SPHERING[0].items()
    with pytest.raises(CorrectionError, match="must be fitted"):
        provenance(build(SPHERING), {})


# --- aggregation and scores ---------------------------------------------------------------------


def test_fields_without_cells_are_rejects_and_counted(data: ad.AnnData) -> None:
    x = np.array(data.X)
    x[[0, 40, 95]] = np.nan
    holes = ad.AnnData(X=x, obs=data.obs, var=data.var)
    table = to_table(holes)
    assert table.rejects["code"].tolist() == ["not_finite"] * 3
    assert table.rejects["obs_id"].tolist() == data.obs_names[[0, 40, 95]].tolist()
    assert len(table.features) == data.n_vars  # a row without any number says nothing of features
    wells = aggregate(holes, "well")
    assert wells.n_obs + len(wells.uns["rejects"]) == data.n_obs == table.n_in
    assert wells.uns["rejects"]["obs_id"].tolist() == table.rejects["obs_id"].tolist()
    assert score(holes, controls=DMSO, batch="week", question=QUICK).notes[:1] == (
        "3 rows are left out: not_finite",
    )


def test_treatments_count_what_they_are_made_of(data: ad.AnnData, tmp_path: Path) -> None:
    found = aggregate(data, "treatment", controls=DMSO, batch="week")
    assert found.obs_names.tolist() == ["DMSO@na", *(f"c{k}@0.3" for k in range(6))]
    counts = found.obs[["n_rows", "n_wells", "n_plates", "n_batches"]].to_numpy().tolist()
    assert counts == [[48, 48, 4, 2], *([[8, 8, 4, 2]] * 6)]
    assert found.obs["n_cells"].sum() == data.obs["n_cells"].sum()
    assert found.obs["is_control"].tolist() == [True] + [False] * 6
    assert found.obs["batches"].tolist() == ["w0;w1"] * 7
    rows = (data.obs["compound"] == "c2").to_numpy()
    np.testing.assert_allclose(found["c2@0.3"].X[0], np.asarray(data.X)[rows].mean(axis=0), rtol=1e-5)
    again = read(write(found, tmp_path / "t.h5ad"))
    assert len(again.uns["rejects"]) == 0
    assert again.obs["moa"].isna().tolist() == [True] + [False] * 6


def test_small_groups_and_lost_features_are_told(data: ad.AnnData) -> None:
    x = np.array(data.X)
    x[:40, 1] = np.nan
    data.obs["compound"] = ["rare", *data.obs["compound"][1:]]
    lacking = ad.AnnData(X=x, obs=data.obs, var=data.var)
    found = aggregate(lacking, "treatment", controls=DMSO, batch="week", min_rows=2, statistic="median")
    assert list(found.var_names) == ["DNA:0", "DNA:2", "DNA:3", "DNA:4"]
    assert any("DNA:1" in note for note in found.uns["notes"])
    assert found.uns["rejects"][["obs_id", "code"]].to_numpy().tolist() == [["rare@na", "too_few_members"]]
    rows = (data.obs["compound"] == "c2").to_numpy()
    expected = np.median(np.asarray(data.X)[rows][:, [0, 2, 3, 4]], axis=0)
    np.testing.assert_allclose(found["c2@0.3"].X[0], expected, rtol=1e-5)
    assert any("DNA:1" in note for note in score(lacking, controls=DMSO, batch="week", question=QUICK).notes)


def test_treatments_need_no_controls(data: ad.AnnData) -> None:
    assert aggregate(data, "treatment", batch="week").obs["is_control"].tolist() == [False] * 7
    with pytest.raises(InputError, match="no_control_column"):
        aggregate(data, "treatment", batch="week", controls={"role": ["negative"]})
    with pytest.raises(InputError, match="without site"):
        aggregate(data, "site")
    with pytest.raises(ValueError, match="plates"):
        aggregate(data, "plates")


def test_a_layer_is_aggregated_and_scored_as_such(data: ad.AnnData) -> None:
    correct(data, SPHERING, controls=DMSO, batch="week")
    found = aggregate(data, "treatment", layer="corrected", controls=DMSO, batch="week")
    rows = (data.obs["compound"] == "c4").to_numpy()
    np.testing.assert_allclose(found["c4@0.3"].X[0], data.layers["corrected"][rows].mean(axis=0), rtol=1e-4)
    assert "steps_json" in found.uns[UNS]["X"]
    assert UNS not in aggregate(data, "treatment", controls=DMSO, batch="week").uns


def test_scores_are_those_of_the_judge(data: ad.AnnData) -> None:
    correct(data, SPHERING, controls=DMSO, batch="week")
    for layer in (None, "corrected"):
        found = score(data, controls=DMSO, batch="week", layer=layer, question=QUICK)
        table, _ = prepare_plates(to_table(data, layer=layer), PlateConfig(batch="week", controls=DMSO))
        expected = judge(layer or "X", table, aggregate_rows(table, "treatment"), QUICK)
        assert found.name == expected.name == (layer or "X")
        assert [rule.right for rule in found.rules] == [rule.right for rule in expected.rules]
        assert [rule.score.null for rule in found.rules] == [rule.score.null for rule in expected.rules]
        assert [one.value for one in found.maps] == [one.value for one in expected.maps]
        assert (found.batch, found.notes, found.n_features) == (expected.batch, expected.notes, 5)
    raw, clean = (
        score(data, controls=DMSO, batch="week", layer=at, question=QUICK) for at in (None, "corrected")
    )
    assert [one.value for one in raw.maps] != [one.value for one in clean.maps]
    assert score(data, controls=DMSO, batch="week", question=replace(QUICK, label=None)).rules == ()


# --- where profiles come from -------------------------------------------------------------------


def test_profiles_are_read_from_a_table_or_a_file(data: ad.AnnData, tmp_path: Path) -> None:
    write(data, tmp_path / "p.h5ad")
    found = read_profile_source(str(tmp_path / "p.h5ad"))
    np.testing.assert_array_equal(found.x, np.asarray(data.X))
    assert found.source == str(tmp_path / "p.h5ad")
    one = read_profile_source(
        str(tmp_path / "p.h5ad"), features=["DNA:4"], columns={"compound": "moa", "plate": "week"}
    )
    assert one.features == ("DNA:4",)
    assert set(one.obs["plate"]) == {"w0", "w1"}
    data.obs.assign(f=1.5).to_csv(tmp_path / "p.csv")
    assert read_profile_source(str(tmp_path / "p.csv"), features=["f"]).x.shape == (96, 1)


def test_what_is_no_source_is_said(data: ad.AnnData, tmp_path: Path) -> None:
    for name in ("gone.h5ad", "gone.zarr"):
        with pytest.raises(InputError, match=f"there is no file .*{name}"):
            read_profile_source(str(tmp_path / name))
    with pytest.raises(InputError, match=r"gone\.csv"):
        read_profile_source(str(tmp_path / "gone.csv"))
    (tmp_path / "bad.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"bad\.h5ad is not an AnnData file"):
        read_profile_source(str(tmp_path / "bad.h5ad"))
    write(data, tmp_path / "p.h5ad")
    with pytest.raises(InputError, match="no feature begins with ER"):
        read_profile_source(str(tmp_path / "p.h5ad"), features=["ER"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two fields of two cells each; its list of images says the plate."""
    folder = tmp_path / "runs" / "run"
    shutil.copytree(GOLDEN, folder)
    records = pq.read_table(folder / "records.parquet")
    records = records.append_column("meta_plate", pa.array(["p1"] * len(records)))
    pq.write_table(records, folder / "records.parquet")
    return folder


def test_a_run_gives_a_row_a_field(run: Path) -> None:
    found = read_profile_source(str(run))
    assert found.obs[["plate", "well"]].to_numpy().tolist() == [["p1", "A01"], ["p1", "A02"]]
    assert found.obs["n_cells"].tolist() == [2, 2]
    assert found.x.shape == (2, 256)
    assert found.source == str(run)
    vectors = pq.read_table(next((run / "embeddings").iterdir()))
    first = np.array([v for v, i in zip(vectors["vectors"].to_pylist(), vectors["image_id"].to_pylist(), strict=True)
                      if i == "A02"], np.float32)[:, :256]  # fmt: skip
    np.testing.assert_allclose(found.x[1], first.mean(axis=0), rtol=1e-5)  # A02 has one channel
    assert [path.name for path in run.parent.iterdir()] == ["run"]  # reading writes nothing
    some = read_profile_source(str(run), features=["mean:00"], columns={"compound": "uri"})
    assert some.features == tuple(f"mean:{j:03d}" for j in range(10))
    assert "compound" in some.obs


def test_a_run_without_plates_says_so() -> None:
    with pytest.raises(InputError, match=r"run_v2 has no column for plate"):
        read_profile_source(str(GOLDEN))
    assert not GOLDEN.with_name("run_v2.fields.h5ad").exists()


def test_a_table_of_objects_becomes_text() -> None:
    obs = pd.DataFrame({"plate": ["1", "2"], "well": ["a1", "B2"]}, index=["x", "y"])
    table: ProfileTable = from_arrays(np.ones((2, 1)), obs, ["f"], source="t")
    found = to_anndata(table)
    assert found.obs["plate"].cat.categories.tolist() == ["1", "2"]
    assert found.obs["well"].tolist() == ["A01", "B02"]
    assert found.obs_names.tolist() == ["x", "y"]
    found.X[0, 0] = 5
    assert table.x[0, 0] == 1
