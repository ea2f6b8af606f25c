"""What `microsnoop profile` wrote in version 1 stays readable, and today's code comes to the same numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from microsnoop.core.config_file import load_settings
from microsnoop.core.errors import CorrectionError, InputError
from microsnoop.core.profile_config import ProfileConfig
from microsnoop.correction import files
from microsnoop.correction.chain import Chain
from microsnoop.pipelines.profile_levels import aggregate
from microsnoop.pipelines.profile_plates import correction_obs
from microsnoop_apps.profiling.loading import Loaded, load
from microsnoop_apps.profiling.run import profile
from microsnoop_integrations.profiles import UNS, to_table

GOLDEN = Path(__file__).parents[2] / "golden" / "profile_v1"
FEATURES = ["Cells_Area", "Cells_Shape", "Nuclei_Intensity", "Nuclei_Texture", "Cytoplasm_Texture"]
TREATMENTS = ["DMSO@0", "a1@1", "a1@10", "a2@1", "a2@10", "b1@1", "b1@10", "b2@1", "b2@10"]
OBS = [
    "obs_id", "compound", "concentration", "moa", "control_type", "is_control", "treatment", "n_rows", "n_wells",
    "n_plates", "plates", "n_batches", "batches",
]  # fmt: skip


@pytest.fixture(scope="module")
def config() -> ProfileConfig:
    return load_settings(GOLDEN / "profile.yaml", ProfileConfig)


@pytest.fixture(scope="module")
def loaded(config: ProfileConfig) -> Loaded:
    return load(config, root=str(GOLDEN))


def test_the_input_is_read_as_it_was(loaded: Loaded) -> None:
    rows = ad.read_h5ad(GOLDEN / "rows.h5ad")
    assert loaded.rows.obs.index.tolist() == rows.obs_names.tolist()
    assert list(loaded.rows.features) == rows.var_names.tolist() == FEATURES
    np.testing.assert_array_equal(loaded.rows.x, rows.X)
    for name in ("plate", "well", "batch", "treatment", "moa", "control_type"):
        then, today = rows.obs[name].astype(object), loaded.rows.obs[name]
        assert then.where(then.notna(), None).tolist() == today.where(today.notna(), None).tolist()
    assert (loaded.n_input, loaded.n_read, loaded.n_rejected) == (40, 39, 1)
    assert loaded.rows.rejects[["obs_id", "code"]].to_numpy().tolist() == [["plate1/C01/2", "not_finite"]]


def test_the_correction_is_read_and_gives_the_rows_it_gave(loaded: Loaded) -> None:
    correction = files.load(GOLDEN / "correction")
    assert isinstance(correction, Chain)
    assert [step.method for step in correction.steps] == ["log", "mad", "sphering"]
    assert correction.n_control_ == 24
    x = correction.transform(loaded.rows.x, correction_obs(loaded.rows), features=loaded.rows.features)
    stored = ad.read_h5ad(GOLDEN / "rows.h5ad").layers["corrected"]
    assert x.dtype == stored.dtype == np.float32
    np.testing.assert_allclose(x, stored, rtol=1e-5, atol=1e-5)
    treatments = aggregate(loaded.rows.with_x(x, correction.features_out_), "treatment")
    frame = pd.read_parquet(GOLDEN / "treatments.parquet")
    assert treatments.obs.index.tolist() == frame["obs_id"].tolist() == TREATMENTS
    np.testing.assert_allclose(treatments.x, frame[FEATURES], rtol=1e-5, atol=1e-5)
    assert np.abs(frame[FEATURES].to_numpy()[1:]).max() > 1  # there is something to compare


def test_todays_run_writes_the_same_numbers_under_the_same_names(
    config: ProfileConfig, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    profile(config.model_copy(update={"out": str(out)}), root=str(GOLDEN), pictures=False)
    then, today = (pq.read_table(folder / "treatments.parquet") for folder in (GOLDEN, out))
    assert then.schema.names == today.schema.names == OBS + FEATURES
    assert then.schema.equals(today.schema)
    assert json.loads(then.schema.metadata[b"microsnoop"]) == json.loads(today.schema.metadata[b"microsnoop"])
    assert then.drop_columns(FEATURES).equals(today.drop_columns(FEATURES))
    for name in FEATURES:
        np.testing.assert_allclose(then[name].to_numpy(), today[name].to_numpy(), rtol=1e-5, atol=1e-5)
    old, new = (json.loads((folder / "correction.json").read_text()) for folder in (GOLDEN, out))
    for key in ("format", "class", "parameters", "features_in", "features_out", "n_control", "control_hash"):
        assert old[key] == new[key]
    for file, key in (("treatments.h5ad", "X"), ("rows.h5ad", "corrected")):
        old, new = (ad.read_h5ad(folder / file) for folder in (GOLDEN, out))
        assert old.obs_names.tolist() == new.obs_names.tolist()
        assert old.obs.columns.tolist() == new.obs.columns.tolist()
        assert old.obs.dtypes.tolist() == new.obs.dtypes.tolist()
        assert list(old.layers) == list(new.layers) == ([] if key == "X" else [key])
        np.testing.assert_allclose(old.X, new.X, rtol=1e-5, atol=1e-5)
        assert set(old.uns) == set(new.uns) == {UNS}
        assert set(old.uns[UNS]) == set(new.uns[UNS]) == {"method", "config_json", "guards_json", key}
        assert set(old.uns[UNS][key]) <= set(new.uns[UNS][key])  # keys may come, none may go
        assert old.uns[UNS][key]["control_hash"] == new.uns[UNS][key]["control_hash"]


def test_treatments_say_the_same_in_both_files_and_can_be_profiles_again() -> None:
    data, frame = ad.read_h5ad(GOLDEN / "treatments.h5ad"), pd.read_parquet(GOLDEN / "treatments.parquet")
    assert data.obs_names.tolist() == frame["obs_id"].tolist()
    np.testing.assert_array_equal(data.X, frame[FEATURES].to_numpy())
    assert frame["n_rows"].sum() == 39
    table = to_table(data, level="treatment")
    np.testing.assert_array_equal(table.x, data.X)
    assert not len(table.rejects)


def test_the_settings_that_were_written_are_settings_today(config: ProfileConfig) -> None:
    written = json.loads(ad.read_h5ad(GOLDEN / "treatments.h5ad").uns[UNS]["config_json"])
    assert ProfileConfig.model_validate(written) == config


def test_a_damaged_correction_is_refused(tmp_path: Path, loaded: Loaded) -> None:
    for name in ("correction.safetensors", "correction.json"):
        shutil.copy(GOLDEN / name, tmp_path)
    data = bytearray((tmp_path / "correction.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "correction.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=r"is not what correction\.json was written with"):
        files.load(tmp_path / "correction")
    with pytest.raises(CorrectionError, match="features differ in name or order"):
        files.load(GOLDEN / "correction").transform(
            loaded.rows.x, correction_obs(loaded.rows), features=FEATURES[::-1]
        )
