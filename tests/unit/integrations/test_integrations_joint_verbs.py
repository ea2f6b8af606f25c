"""Verbs on MuData and on two AnnData: results in the right rows, cells left out counted, new cells labelled."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

from microsnoop.core.errors import JointError
from microsnoop_integrations import joint
from microsnoop_integrations.joint import baselines, verbs
from microsnoop_integrations.joint.pairing import pair
from microsnoop_integrations.joint.representation import Representation

N, P, Q = 90, 20, 6


class Projection:
    """An unfitted model that is quick: coordinates are the first columns of both modalities."""

    def __init__(self) -> None:
        self.parameters = SimpleNamespace(k=10, seed=3)

    def fit(self, x: Any, y: Any, **told: Any) -> Projection:
        self.told = {"x": x, "y": y, **told}
        self.latent_ = self.transform(x, y)
        self.hidden_x_, self.hidden_y_ = np.asarray(x[:, :4]), np.asarray(y[:, :4])
        self.labels_ = np.argsort(np.argsort(self.latent_[:, 0])) * 3 // len(y)
        self.weight_x_ = np.linspace(0, 1, len(y), dtype=np.float32)
        self.history_, self.margin_, self.findings_, self.seconds_ = {"total": [2.0, 1.0]}, 0.5, [], 0.1
        if told["on_epoch"]:
            told["on_epoch"]("called")
        return self

    def transform(self, x: Any, y: Any, *, missing: str = "error") -> np.ndarray:
        if x is None or y is None:
            if missing != "mean":
                raise JointError("missing_modality", "one is missing")
            there = x if y is None else y
            zero = np.zeros((len(there), 3), np.float32)
            return np.c_[zero, y[:, :3]] if x is None else np.c_[x[:, :3], zero]
        return np.ascontiguousarray(np.c_[x[:, :3], y[:, :3]], np.float32)


def modalities(n: int = N, *, seed: int = 0) -> dict[str, ad.AnnData]:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    counts = rng.poisson(2 + 6 * (np.arange(P)[None] % 3 == group[:, None])).astype(np.float32)
    y = rng.normal(size=(n, Q)) + 4 * rng.normal(size=(3, Q))[group]
    ids = np.array([f"c{i}" for i in range(n)])
    order = rng.permutation(n)
    rna = ad.AnnData(
        counts,
        obs=pd.DataFrame({"group": pd.Categorical.from_codes(group, ["x", "y", "z"])}, index=ids),
        var=pd.DataFrame(index=[f"g{j}" for j in range(P)]),
    )
    image = ad.AnnData(
        y[order].astype(np.float32),
        obs=pd.DataFrame({"shape": group[order]}, index=ids[order]),
        var=pd.DataFrame(index=[f"f{j}" for j in range(Q)]),
    )
    return {"rna": rna, "image": image}


def together(parts: dict[str, ad.AnnData]) -> mudata.MuData:
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(parts)


@pytest.fixture
def data() -> mudata.MuData:
    return together(modalities())


def test_muse_writes_everything_in_place(data: mudata.MuData) -> None:
    seen: list[Any] = []
    model = joint.muse(data, model=Projection(), on_epoch=seen.append)
    paired = pair(data["rna"], data["image"], components=None)
    assert seen == ["called"]
    np.testing.assert_array_equal(model.told["x"], paired.x)
    np.testing.assert_array_equal(model.told["y"], paired.y)
    assert model.told["obs_ids"] == paired.obs_ids
    assert model.told["genes"] == paired.genes
    assert model.told["features"] == paired.image_features
    assert model.told["labels_x"] is None
    at = data.obs_names.get_indexer(list(paired.obs_ids))
    np.testing.assert_array_equal(data.obsm["X_muse"][at], model.latent_)
    np.testing.assert_array_equal(data.obs["muse_weight_rna"].to_numpy()[at], model.weight_x_)
    assert data.obs["muse_leiden"].to_numpy()[at].tolist() == [str(v) for v in model.labels_]
    for name, hidden in (("rna", model.hidden_x_), ("image", model.hidden_y_)):
        at = data[name].obs_names.get_indexer(list(paired.obs_ids))
        np.testing.assert_array_equal(data[name].obsm["X_muse_h"][at], hidden)
    assert json.loads(data.uns["muse"]["parameters_json"]) == {"k": 10, "seed": 3}
    np.testing.assert_array_equal(data.uns["muse"]["history"]["total"], [2.0, 1.0])


def test_the_real_model_is_fitted_and_places_its_own_cells(data: mudata.MuData) -> None:
    from microsnoop.core.muse_config import MuseParameters
    from microsnoop_integrations.muse.model import Muse

    parameters = MuseParameters(
        init_epochs=1, init_steps=2, n_epochs=1, n_steps=2, k=10, latent=5, seed=1, image_standardise="no"
    )
    model = joint.muse(data, parameters=parameters, seed=6, device="cpu")
    assert isinstance(model, Muse)
    told = json.loads(data.uns["muse"]["parameters_json"])
    assert (told["seed"], told["latent"], data.uns["muse"]["seed"]) == (6, 5, 6)
    assert data.obsm["X_muse"].shape == (N, 5)
    assert set(json.loads(data.uns["muse"]["gates_json"])["gates"]) == {"rna", "image"}
    new = together(modalities())
    found = joint.transfer(model, data, new, k=1)
    np.testing.assert_allclose(new.obsm["X_muse"], data.obsm["X_muse"], atol=1e-5)
    assert found["label"].tolist() == data.obs["muse_leiden"][found.index].tolist()
    again = together(modalities())
    for name in again.mod:  # another order of the cells gives the same
        again.mod[name] = again[name][::-1].copy()
    joint.muse(again, parameters=parameters, seed=6, device="cpu")
    at = again.obs_names.get_indexer(data.obs_names)
    np.testing.assert_array_equal(again.obsm["X_muse"][at], data.obsm["X_muse"])


def test_two_anndata_both_get_the_joint_results() -> None:
    parts = modalities()
    model = joint.muse(parts, model=Projection(), key_added="both")
    for side in parts.values():
        at = side.obs_names.get_indexer(list(model.told["obs_ids"]))
        np.testing.assert_array_equal(side.obsm["X_both"][at], model.latent_)
        assert {"both_leiden", "both_weight_rna"} <= set(side.obs)
        assert side.uns["both"]["margin"] == 0.5
        assert "X_both_h" in side.obsm
        assert "X_muse" not in side.obsm


def test_cells_of_one_modality_stay_without_results_and_are_counted(caplog: Any) -> None:
    parts = modalities()
    counts = np.array(parts["rna"].X)
    counts[5] = 0
    parts["rna"].X = counts
    parts["image"] = parts["image"][parts["image"].obs_names != "c7"].copy()
    data = together(parts)
    with caplog.at_level(logging.WARNING):
        joint.muse(data, model=Projection())
        joint.concat(data, k=10)
    assert caplog.messages[0] == (
        "2 cells are left out of the joint analysis (NaN, no cluster): 1 rna unpaired, 1 rna empty_cell"
    )
    for name, kind in (("muse", "unpaired"), ("concat", "empty_cell")):
        lacking = np.isnan(data.obsm[f"X_{name}"]).all(axis=1)
        assert set(data.obs_names[lacking]) == {"c5", "c7"}, kind
        assert data.obs[f"{name}_leiden"].isna().tolist() == lacking.tolist()
    assert np.isnan(data["rna"].obsm["X_muse_h"]).all(axis=1).sum() == 2
    assert np.isnan(data["image"].obsm["X_muse_h"]).all(axis=1).sum() == 1
    assert data.uns["muse"]["rejects"]["code"].tolist() == ["unpaired", "empty_cell"]


def test_initial_labels_go_to_their_cells(data: mudata.MuData) -> None:
    data.obs["region"] = np.arange(N) % 5
    model = joint.muse(data, model=Projection(), labels_rna="group", labels_image="region")
    ids = list(model.told["obs_ids"])
    assert model.told["labels_x"].tolist() == data["rna"].obs["group"].cat.codes[ids].tolist()
    assert model.told["labels_y"].tolist() == data.obs["region"][ids].tolist()
    with pytest.raises(ValueError, match="no column 'colour'"):
        joint.muse(data, model=Projection(), labels_rna="colour")
    data["rna"].obs.loc["c3", "group"] = np.nan
    with pytest.raises(ValueError, match="1 of 90 paired cells"):
        joint.muse(data, model=Projection(), labels_rna="group")


def test_modalities_are_found_by_name(data: mudata.MuData) -> None:
    with pytest.raises(ValueError, match="no modality 'he': found rna, image"):
        joint.muse(data, image="he", model=Projection())
    parts = modalities()
    joint.concat({"tx": parts["rna"], "he": parts["image"]}, rna="tx", image="he", k=10)
    assert "X_concat" in parts["image"].obsm
    with pytest.raises(ValueError, match="must be 'rna' or 'image'"):
        joint.single(data, "protein")


def test_what_was_paired_otherwise_is_used(data: mudata.MuData) -> None:
    paired = pair(data["rna"], data["image"], n_genes=5, components=2)
    model = joint.muse(data, model=Projection(), paired=paired)
    assert model.told["x"].shape == (N, 5)
    assert model.told["y"].shape == (N, 2)
    assert model.told["features"] == ("component_0", "component_1")
    facts = json.loads(data.uns["muse"]["preparation"]["facts_json"])
    assert facts["transcripts"]["genes"] == list(paired.genes)


def test_too_few_cells_for_the_models_neighbours_are_refused(data: mudata.MuData) -> None:
    model = Projection()
    model.parameters.k = 89
    with pytest.raises(JointError) as error:
        joint.muse(data, model=model)
    assert error.value.code == "too_few_cells"


@pytest.mark.parametrize("change", ["negative", "nan"])
def test_transcripts_that_are_none_are_refused_before_anything_is_written(change: str) -> None:
    parts = modalities()
    values = np.array(parts["rna"].X)
    values[4, 4] = -1 if change == "negative" else np.nan
    parts["rna"].X = values
    data = together(parts)
    for verb in (lambda: joint.muse(data, model=Projection()), lambda: joint.concat(data)):
        with pytest.raises(JointError, match="'c4'"):
            verb()
    assert "X_muse" not in data.obsm
    assert "muse" not in data.uns


# --- baselines -------------------------------------------------------------------------------------


def test_single_modalities_and_concatenation_are_those_of_the_baselines(data: mudata.MuData) -> None:
    paired = pair(data["rna"], data["image"])
    at = data.obs_names.get_indexer(list(paired.obs_ids))
    wanted = baselines.concat(paired.x, paired.y, components=4, k=10, resolution=0.5, seed=2)
    found = joint.concat(data, components=4, k=10, resolution=0.5, seed=2)
    np.testing.assert_array_equal(found.latent, wanted.latent)
    np.testing.assert_array_equal(data.obsm["X_concat"][at], wanted.latent)
    assert data.obs["concat_leiden"].to_numpy()[at].tolist() == [str(v) for v in wanted.labels]
    for name, values, method in (("rna", paired.x, "transcripts"), ("image", paired.y, "images")):
        found = joint.single(data, name, components=4, k=10)
        wanted = baselines.single(values, name=method, components=4, k=10)
        at = data[name].obs_names.get_indexer(list(paired.obs_ids))
        np.testing.assert_array_equal(data[name].obsm["X_pca"][at], wanted.latent)
        assert data[name].obs["leiden"].to_numpy()[at].tolist() == [str(v) for v in wanted.labels]
        assert found.name == method


@pytest.mark.parametrize("name", ["wnn", "mofa"])
def test_adapters_get_both_modalities_and_their_settings(
    data: mudata.MuData, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    told: dict[str, Any] = {}

    def fit(x: Any, y: Any, **settings: Any) -> Representation:
        told.update(x=x, y=y, **settings)
        return Representation(name, np.asarray(y[:, :2]), np.zeros(len(y), np.int64))

    monkeypatch.setattr(verbs, f"fit_{name}", fit)
    getattr(joint, name)(data, seed=4, resolution=2.0, k=11, key_added="k2")
    paired = pair(data["rna"], data["image"])
    np.testing.assert_array_equal(told["x"], paired.x)
    np.testing.assert_array_equal(told["y"], paired.y)
    assert (told["seed"], told["resolution"], told["k"]) == (4, 2.0, 11)
    assert data.obsm["X_k2"].shape == (N, 2)
    assert data.obs["k2_leiden"].cat.categories.tolist() == ["0"]  # one cluster is a legal result


# --- new cells -------------------------------------------------------------------------------------


def test_training_cells_get_the_labels_of_their_neighbourhood(data: mudata.MuData) -> None:
    model = joint.muse(data, model=Projection())
    new = together(modalities())
    found = joint.transfer(model, data, new, labels="muse_leiden", k=1)
    assert found["label"].tolist() == data.obs["muse_leiden"][found.index].tolist()
    assert (found["confidence"] == 1).all()
    assert (found["flags"] == "").all()
    np.testing.assert_allclose(new.obsm["X_muse"], data.obsm["X_muse"], rtol=1e-5, atol=1e-6)
    assert new.obs["muse_leiden_transferred"].tolist() == data.obs["muse_leiden"].tolist()


def test_labels_are_voted_for_by_labelled_neighbours(data: mudata.MuData) -> None:
    data.obs["kind"] = data["rna"].obs["group"].astype(object).where(np.arange(N) % 4 > 0)
    model = joint.muse(data, model=Projection())
    new = together(modalities(40, seed=9))
    found = joint.transfer(model, data, new, labels="kind", k=7)
    known = data.obs["kind"].notna().to_numpy()
    for name, row in zip(
        found.index, new.obsm["X_muse"][new.obs_names.get_indexer(found.index)], strict=True
    ):
        distance = np.linalg.norm(data.obsm["X_muse"][known] - row, axis=1)
        votes = data.obs["kind"].to_numpy()[known][np.argsort(distance)[:7]]
        share = pd.Series(votes).value_counts(normalize=True)
        assert found.loc[name, "confidence"] == pytest.approx(share.max())
        assert share[found.loc[name, "label"]] == share.max()
    # of two that disagree, the nearer one is right
    nearest = joint.transfer(model, data, new, labels="kind", k=1)["label"]
    two = joint.transfer(model, data, new, labels="kind", k=2)
    assert (two["confidence"] == 0.5).any()
    assert two["label"].tolist() == nearest.tolist()
    with pytest.raises(ValueError, match="k = 80 neighbours"):
        joint.transfer(model, data, new, labels="kind", k=80)
    with pytest.raises(ValueError, match=r"obs\['nothing'\]"):
        joint.transfer(model, data, new, labels="nothing")


def test_new_cells_may_lack_a_modality_or_genes_when_that_is_said(data: mudata.MuData) -> None:
    model = joint.muse(data, model=Projection())
    new = modalities(30, seed=4)
    with pytest.raises(JointError, match="one is missing"):
        joint.transfer(model, data, {"image": new["image"]})
    found = joint.transfer(model, data, {"image": new["image"]}, missing="mean")
    assert (found["flags"] == "imputed_modality").all()
    assert found.index.tolist() == new["image"].obs_names.tolist()
    with pytest.raises(JointError) as error:
        joint.transfer(model, data, {**new, "rna": new["rna"][:, 1:].copy()})
    assert error.value.code == "feature_mismatch"
    found = joint.transfer(model, data, {**new, "rna": new["rna"][:, 1:].copy()}, fill_zero=True)
    assert (found["flags"] == "filled_genes").all()
    values = np.array(new["image"].X)
    values[3] = np.nan
    new["image"].X = values
    found = joint.transfer(model, data, new)
    assert len(found) == 29
    assert [r["code"] for r in found.attrs["rejects"]] == ["not_finite"]
    lost = new["rna"].obs_names == new["image"].obs_names[3]
    assert np.isnan(new["rna"].obsm["X_muse"]).all(axis=1).tolist() == lost.tolist()
    assert new["rna"].obs["muse_leiden_transferred"].isna().tolist() == lost.tolist()


# --- the package -----------------------------------------------------------------------------------


def test_verbs_stay_callable_whatever_is_imported_first() -> None:
    script = (
        "import microsnoop_integrations.joint.mofa, microsnoop_integrations.joint.wnn, sys\n"
        "from microsnoop_integrations import joint\n"
        "assert all(callable(getattr(joint, n)) for n in 'muse single concat wnn mofa transfer pair build'.split())\n"
        "assert not {'torch', 'scanpy', 'umap', 'muon', 'mofapy2'} & set(sys.modules), 'slow to import'\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        _ = joint.nothing
