"""What stood in the wells: maps joined by name, batches, controls and treatments named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from microsnoop.core.errors import InputError
from microsnoop.core.profile_config import PlateConfig
from microsnoop.io.profile_table import ProfileTable, from_arrays
from microsnoop.pipelines.profile_levels import aggregate
from microsnoop.pipelines.profile_plates import correction_obs, labelled, prepare_plates

WELLS = ("A01", "A02", "A03", "B01", "B02", "B03")
COMPOUNDS = ("DMSO", "taxol", "taxol", "DMSO", "nocodazole", "aspirin")
AMOUNTS = (None, 0.3, 3.0, None, 1.0, 10.0)


def plates(**columns: Any) -> ProfileTable:
    """Two plates of six wells; what is not given is not there."""
    obs = pd.DataFrame(
        {"plate": ["p1"] * 6 + ["p2"] * 6, "well": [*WELLS, *WELLS]} | columns,
        index=[f"r{i}" for i in range(12)],
    )
    x = np.arange(24, dtype=np.float32).reshape(12, 2)
    x.flags.writeable = False
    return from_arrays(x, obs, ["f0", "f1"], source="a table")


def full(**columns: Any) -> ProfileTable:
    known = {
        "compound": [*COMPOUNDS, *COMPOUNDS],
        "concentration": [*AMOUNTS, *AMOUNTS],
        "batch": ["w1"] * 6 + ["w2"] * 6,
    }
    return plates(**(known | columns))


DMSO = {"compound": ["DMSO"]}


def write_map(path: Path, *, shuffled: bool = True, **columns: Any) -> str:
    frame = pd.DataFrame(
        {"well_position": WELLS, "compound": COMPOUNDS, "concentration_um": AMOUNTS} | columns
    )
    if shuffled:
        frame = frame.sample(frac=1, random_state=2)
    frame.to_csv(path, index=False)
    return str(path)


def test_a_plate_map_is_joined_by_name(tmp_path: Path) -> None:
    raw = plates()
    found, _ = prepare_plates(
        raw, PlateConfig(controls=DMSO), plate_map=write_map(tmp_path / "map.csv", shuffled=True)
    )
    assert found.obs["compound"].tolist() == [*COMPOUNDS, *COMPOUNDS]
    assert found.obs["treatment"].tolist()[:6] == [
        "DMSO@na", "taxol@0.3 uM", "taxol@3 uM", "DMSO@na", "nocodazole@1 uM", "aspirin@10 uM",
    ]  # fmt: skip
    assert found.obs["is_control"].tolist() == [c == "DMSO" for c in [*COMPOUNDS, *COMPOUNDS]]
    assert found.obs["control_type"].isna().tolist() == [c != "DMSO" for c in [*COMPOUNDS, *COMPOUNDS]]
    assert found.obs.index.equals(raw.obs.index)
    np.testing.assert_array_equal(found.x, raw.x)
    assert "compound" not in raw.obs  # nothing given is changed


def test_rows_in_another_order_get_the_same(tmp_path: Path) -> None:
    uri = write_map(tmp_path / "map.csv")
    order = np.random.default_rng(0).permutation(12)
    here, _ = prepare_plates(plates(), PlateConfig(controls=DMSO), plate_map=uri)
    there, _ = prepare_plates(plates().take(order), PlateConfig(controls=DMSO), plate_map=uri)
    pd.testing.assert_frame_equal(here.obs.iloc[order], there.obs)


def test_a_compound_map_says_what_compounds_do(tmp_path: Path) -> None:
    path = tmp_path / "moa.csv"
    path.write_text(
        "compound,moa,target\nnocodazole,destabiliser,tubulin\ntaxol,stabiliser,tubulin\naspirin,cox,\n"
    )
    found, _ = prepare_plates(full(), PlateConfig(controls=DMSO), compound_map=str(path))
    moa = {"DMSO": None, "taxol": "stabiliser", "nocodazole": "destabiliser", "aspirin": "cox"}
    assert found.obs["moa"].tolist() == [moa[c] for c in [*COMPOUNDS, *COMPOUNDS]]
    assert found.obs["target"].tolist()[4:6] == ["tubulin", None]
    assert any("4 row(s) have no entry" in note for note in found.notes)  # the controls


def test_a_compound_map_with_concentrations_is_joined_by_both(tmp_path: Path) -> None:
    path = tmp_path / "moa.csv"
    path.write_text("concentration,drug,potency\n3,taxol,high\n0.30,taxol,low\n1,nocodazole,mid\n")
    found, _ = prepare_plates(full(), PlateConfig(controls=DMSO), compound_map=str(path))
    assert found.obs["potency"].tolist()[:6] == [None, "low", "high", None, "mid", None]
    with pytest.raises(InputError, match="no column concentration"):
        prepare_plates(plates(compound=[*COMPOUNDS] * 2), PlateConfig(controls=DMSO), compound_map=str(path))


def test_both_maps_one_after_the_other(tmp_path: Path) -> None:
    """The compound map is joined by compounds that only the plate map knows."""
    path = tmp_path / "moa.csv"
    path.write_text("compound,moa\ntaxol,stabiliser\n")
    found, _ = prepare_plates(
        plates(),
        PlateConfig(controls=DMSO),
        plate_map=write_map(tmp_path / "map.csv"),
        compound_map=str(path),
    )
    assert found.obs["moa"].tolist()[:3] == [None, "stabiliser", "stabiliser"]


@pytest.mark.parametrize("alias", ["week", "run_day"])
def test_another_column_can_be_the_batch(alias: str) -> None:
    table = full(**{alias: ["d1"] * 6 + ["d2"] * 6}, batch=["all"] * 12)
    found, findings = prepare_plates(table, PlateConfig(batch=alias, controls=DMSO))
    assert found.obs["batch"].tolist() == ["d1"] * 6 + ["d2"] * 6
    assert "no_batch" not in {finding.code for finding in findings}
    untouched, _ = prepare_plates(table, PlateConfig(controls=DMSO))
    assert set(untouched.obs["batch"]) == {"all"}


def test_without_a_batch_each_plate_is_one_and_it_is_said() -> None:
    table = full()
    found, findings = prepare_plates(
        plates(compound=table.obs["compound"].tolist()), PlateConfig(controls=DMSO)
    )
    assert found.obs["batch"].tolist() == ["p1"] * 6 + ["p2"] * 6
    assert "no_batch" in {finding.code for finding in findings}


def test_a_batch_column_must_be_there_and_filled() -> None:
    with pytest.raises(InputError, match=r"plates\.batch: a table has no column 'week'") as caught:
        prepare_plates(full(), PlateConfig(batch="week", controls=DMSO))
    assert "compound" in str(caught.value.hint)
    with pytest.raises(InputError, match=r"plates\.batch: the column 'day' of a table is empty"):
        prepare_plates(full(day=[None] * 12), PlateConfig(batch="day", controls=DMSO))
    with pytest.raises(InputError, match="null_batch"):
        prepare_plates(full(day=["d1"] * 11 + [None]), PlateConfig(batch="day", controls=DMSO))


def test_treatments_can_be_made_of_other_columns() -> None:
    genes = ["none", "TP53", "MYC", "none", "TP53", "MYC"] * 2
    found, _ = prepare_plates(
        full(gene=genes, hours=[24.0, 24.0, 24.0, 24.0, 48.0, 48.0] * 2, compound=["DMSO"] * 12),
        PlateConfig(treatment=["gene", "hours"], controls={"gene": ["none"]}),
    )
    assert found.obs["treatment"].tolist()[:6] == [
        "none@24", "TP53@24", "MYC@24", "none@24", "TP53@48", "MYC@48",
    ]  # fmt: skip
    assert found.obs["is_control"].tolist()[:6] == [True, False, False, True, False, False]


def test_numbers_in_treatments_are_those_that_were_meant() -> None:
    noisy = np.float32([0, 0.3, 3, 0, 1, 10]).astype(float)  # 0.30000001192092896
    found, _ = prepare_plates(
        full(concentration=[*noisy, *noisy], line=["HeLa"] * 12),
        PlateConfig(treatment=["compound", "concentration", "line"], controls=DMSO),
    )
    assert found.obs["treatment"].tolist()[:3] == ["DMSO@0@HeLa", "taxol@0.3@HeLa", "taxol@3@HeLa"]


def test_an_unknown_concentration_is_not_guessed() -> None:
    found, _ = prepare_plates(
        full(line=["HeLa"] * 12), PlateConfig(treatment=["concentration", "compound", "line"], controls=DMSO)
    )
    assert found.obs["treatment"].tolist()[:2] == ["na@DMSO@HeLa", "0.3@taxol@HeLa"]


def test_a_treatment_of_empty_columns_is_empty_but_for_controls() -> None:
    genes = [None, "TP53", None, None, "TP53", "MYC"] * 2
    found, _ = prepare_plates(full(gene=genes), PlateConfig(treatment=["gene", "compound"], controls=DMSO))
    assert found.obs["treatment"].tolist()[:6] == [
        "DMSO@na", "TP53@taxol", None, "DMSO@na", "TP53@nocodazole", "MYC@aspirin",
    ]  # fmt: skip
    rejects = aggregate(found, "treatment").rejects
    assert rejects["code"].tolist() == ["no_group_key"] * 2
    assert rejects["obs_id"].tolist() == ["r2", "r8"]
    with pytest.raises(InputError, match=r"plates\.treatment: a table has no column 'gene'"):
        prepare_plates(full(), PlateConfig(treatment=["gene"], controls=DMSO))


def test_controls_are_a_query_of_columns() -> None:
    role = ["fit", None, None, "spare", None, None] * 2
    both = {"compound": ["DMSO"], "role": ["fit"]}
    found, _ = prepare_plates(full(role=role), PlateConfig(controls=both))
    assert np.flatnonzero(found.obs["is_control"]).tolist() == [0, 6]
    several = {"compound": ["DMSO", "aspirin"]}
    found, _ = prepare_plates(full(), PlateConfig(controls=several))
    assert np.flatnonzero(found.obs["is_control"]).tolist() == [0, 3, 5, 6, 9, 11]
    types = ["negcon", "trt", "poscon", "negcon", None, None] * 2
    found, _ = prepare_plates(full(control_type=types), PlateConfig())
    assert np.flatnonzero(found.obs["is_control"]).tolist() == [0, 3, 6, 9]
    assert found.obs["control_type"].tolist()[2] == "positive"


def test_everything_that_is_wrong_is_said_at_once() -> None:
    table = full(
        compound=["DMSO", "taxol", "taxol", "DMSO", "x", "x", "c", "taxol", "x", "c", "x", "x"],
        moa=[None, "m1", "m2", None, "m3", "m3", None, "m1", "m3", None, "m3", "m3"],
        batch=["w1"] * 5 + [None] + ["w2"] * 6,
    )
    with pytest.raises(InputError) as caught:
        prepare_plates(table, PlateConfig(controls=DMSO), level="well")
    text = str(caught.value)
    assert "metadata_invalid: 3 problem(s)" in text
    for code in ("null_batch", "compound_with_moas: 1 compound(s) have more than one moa: taxol (m1, m2)",
                 "plate_without_controls: 1 of 2 plates have no negative controls: p2"):  # fmt: skip
        assert code in text


def test_an_error_can_be_a_finding() -> None:
    table = full(compound=["taxol"] * 6 + [*COMPOUNDS])
    with pytest.raises(InputError, match="plate_without_controls"):
        prepare_plates(table, PlateConfig(controls=DMSO))
    found, findings = prepare_plates(table, PlateConfig(controls=DMSO), allow=["plate_without_controls"])
    assert "plate_without_controls" in {finding.code for finding in findings}
    assert found.obs["is_control"].sum() == 2


def test_the_format_and_the_level_are_looked_at() -> None:
    with pytest.raises(InputError, match="well_outside_format"):
        prepare_plates(full(well=[*WELLS[:5], "H12", *WELLS]), PlateConfig(format=6, controls=DMSO))
    twice = full(well=["A02", *WELLS[1:], *WELLS])
    prepare_plates(twice, PlateConfig(controls=DMSO), level="image")  # two images of one well
    with pytest.raises(InputError, match="duplicate_key"):
        prepare_plates(twice, PlateConfig(controls=DMSO), level="well")


def test_a_correction_is_told_what_it_needs() -> None:
    found, _ = prepare_plates(full(), PlateConfig(controls=DMSO))
    columns = correction_obs(found)
    assert list(columns) == ["obs_id", "plate", "batch", "treatment", "is_control"]
    assert columns["obs_id"].tolist() == [f"r{i}" for i in range(12)]
    assert columns["batch"].tolist() == ["w1"] * 6 + ["w2"] * 6
    assert columns["is_control"].dtype == bool
    assert columns["is_control"].tolist() == [c == "DMSO" for c in [*COMPOUNDS, *COMPOUNDS]]


def test_labelled_treatments_are_those_with_both_columns() -> None:
    found, _ = prepare_plates(full(moa=[None, "m1", "m1", None, "m2", None] * 2), PlateConfig(controls=DMSO))
    treatments = aggregate(found, "treatment")
    scored, notes = labelled(treatments, "moa", "compound")
    assert scored.obs.index.tolist() == ["nocodazole@1", "taxol@0.3", "taxol@3"]
    np.testing.assert_array_equal(scored.x, treatments.x[treatments.obs["moa"].notna().to_numpy()])
    assert notes == ["2 treatments without moa are not scored"]
    nameless = treatments.obs["compound"].where(treatments.obs.index != "taxol@3", None)
    scored, notes = labelled(
        replace(treatments, obs=treatments.obs.assign(compound=nameless)), "moa", "compound"
    )
    assert scored.obs.index.tolist() == ["nocodazole@1", "taxol@0.3"]
    assert notes[1] == "1 treatments without compound are not scored"
    with pytest.raises(InputError, match="treatments have no drug"):
        labelled(treatments, "n_rows", "drug")
    with pytest.raises(InputError, match=r"1 compound\(s\) have more than one concentration: taxol"):
        labelled(treatments, "concentration", "compound")
