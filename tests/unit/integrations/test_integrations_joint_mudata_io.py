"""Joint analyses in files: every key, every type, every id comes back; scanpy goes on from there."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from microsnoop.core.errors import ConfigError, InputError, RunError
from microsnoop_integrations import anndata_io
from microsnoop_integrations.joint import keys
from microsnoop_integrations.joint.mudata_io import build, read_mudata, to_anndata, write_mudata
from microsnoop_integrations.joint.pairing import Paired, pair
from microsnoop_integrations.joint.representation import Representation

N, P, Q = 70, 12, 6
# anndata's notice of a default that will change
zarr_notice = pytest.mark.filterwarnings("ignore:Writing zarr v2 data")


def transcripts() -> ad.AnnData:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(2, (N, P)).astype(np.float32) + np.eye(N, P, dtype=np.float32))
    ids = [f"c{i}" for i in rng.permutation(N)]
    obs = pd.DataFrame(
        {"cell/type": pd.Categorical(rng.choice(["b", "a"], N)), "field": pd.Categorical(["f0"] * N)},
        index=ids,
    )
    rna = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(P)]))
    rna.obsm["spatial"] = rng.normal(size=(N, 2))
    rna.uns["species"] = "mouse"
    return rna


def images(n: int = N) -> ad.AnnData:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame({"area_px": rng.integers(9, 99, n)}, index=[f"c{i}" for i in rng.permutation(n)])
    image = ad.AnnData(
        rng.normal(size=(n, Q)).astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=[f"DNA:{j}" for j in range(Q)]),
    )
    image.uns["microsnoop"] = {"encoder": "tiny", "encoder_sha256": "ab12", "dim": 6}
    return image


def representation(name: str, *, d: int = 3, seed: int = 0, **more: Any) -> Representation:
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(N, d)).astype(np.float32)
    return Representation(name, latent, np.arange(N) % 4, notes=("a note",), info={"k": np.int64(30)}, **more)


def fitted() -> Any:
    rng = np.random.default_rng(5)
    return SimpleNamespace(
        parameters=SimpleNamespace(seed=7, lr=1e-4, compat={"louvain": False}),
        latent_=rng.normal(size=(N, 100)).astype(np.float32),
        hidden_x_=rng.normal(size=(N, 128)).astype(np.float32),
        hidden_y_=rng.normal(size=(N, 128)).astype(np.float32),
        labels_=np.arange(N) % 12,
        weight_x_=rng.random(N).astype(np.float32),
        history_={"total": [3.0, 2.0, 1.5], "x": [1.0, 0.5, 0.25]},
        margin_=0.125,
        findings_=[SimpleNamespace(code="flat_latent", message="x", strong=True)],
        seconds_=1.5,
    )


@pytest.fixture
def paired() -> Paired:
    return pair(transcripts(), images())


def whole(paired: Paired) -> mudata.MuData:
    graph = sparse.random(N, N, 0.1, format="csr", random_state=0, dtype=np.float32)
    return build(
        paired,
        [
            representation("concat", seed=1),
            representation("wnn", seed=2, graph=graph, weight_rna=np.ones(N, np.float32)),
            representation("MOFA+ (10)", seed=3),
        ],
        model=fitted(),
        single=[("rna", representation("transcripts", seed=4)), ("image", representation("images", seed=5))],
    )


def rows(paired: Paired, values: Any) -> Any:
    """Rows of the pair in the order of the transcripts."""
    return np.asarray(values)[paired.order]


# --- keys ------------------------------------------------------------------------------------------


def test_everything_stands_under_its_key_in_the_row_of_its_cell(paired: Paired) -> None:
    data, model = whole(paired), fitted()
    ids = transcripts().obs_names.tolist()
    assert (
        data.obs_names.tolist() == data["rna"].obs_names.tolist() == data["image"].obs_names.tolist() == ids
    )
    np.testing.assert_array_equal(data.obsm["X_muse"], rows(paired, model.latent_))
    np.testing.assert_array_equal(data.obs["muse_weight_rna"], rows(paired, model.weight_x_))
    assert data.obs["muse_leiden"].tolist() == [str(v) for v in rows(paired, model.labels_)]
    assert data.obs["muse_leiden"].cat.categories.tolist() == [str(i) for i in range(12)]  # 2 before 10
    np.testing.assert_array_equal(data["rna"].obsm["X_muse_h"], rows(paired, model.hidden_x_))
    np.testing.assert_array_equal(data["image"].obsm["X_muse_h"], rows(paired, model.hidden_y_))
    np.testing.assert_array_equal(data.obsm["X_wnn"], rows(paired, representation("", seed=2).latent))
    np.testing.assert_array_equal(
        data["image"].obsm["X_pca"], rows(paired, representation("", seed=5).latent)
    )
    np.testing.assert_array_equal(data["rna"].obsm["X_pca"], rows(paired, representation("", seed=4).latent))
    assert data["rna"].obs["leiden"].tolist() == [str(v) for v in rows(paired, np.arange(N) % 4)]
    assert {"X_concat", "X_mofa_10", "X_wnn", "X_muse", "spatial"} <= set(data.obsm)
    graph = sparse.random(N, N, 0.1, format="csr", random_state=0, dtype=np.float32)
    np.testing.assert_array_equal(
        data.obsp["wnn_connectivities"].toarray(), graph.toarray()[np.ix_(paired.order, paired.order)]
    )


def test_modalities_keep_what_they_were(paired: Paired) -> None:
    data, rna, image = whole(paired), transcripts(), images()
    np.testing.assert_array_equal(data["rna"].layers["counts"].toarray(), rna.X.toarray())
    wanted = np.log1p(rna.X.toarray() / rna.X.toarray().sum(axis=1, keepdims=True) * 1e4)
    np.testing.assert_allclose(data["rna"].X.toarray(), wanted, rtol=1e-5)
    assert data["rna"].X.dtype == np.float32
    assert data["rna"].var["highly_variable"].all()
    np.testing.assert_array_equal(data["image"].X, image[rna.obs_names].X)
    assert data["image"].obs["area_px"].tolist() == image[rna.obs_names].obs["area_px"].tolist()
    assert data["image"].uns["microsnoop"] == image.uns["microsnoop"]
    assert data["rna"].uns["species"] == "mouse"
    assert data.obs["cell|type"].tolist() == rna.obs["cell/type"].tolist()  # HDF5 takes / for a group
    assert "cell/type" in paired.sources[0].obs
    np.testing.assert_array_equal(data.obsm["spatial"], rna.obsm["spatial"])
    np.testing.assert_array_equal(data["image"].obsm["X_reduced"], rows(paired, paired.y))


def test_the_model_and_its_making_are_told(paired: Paired) -> None:
    found = whole(paired).uns["muse"]
    assert json.loads(found["parameters_json"]) == {"seed": 7, "lr": 1e-4, "compat": {"louvain": False}}
    assert (found["schema_version"], found["seed"], found["margin"], found["seconds"]) == (1, 7, 0.125, 1.5)
    np.testing.assert_array_equal(found["history"]["x"], [1.0, 0.5, 0.25])
    assert json.loads(found["findings_json"]) == [{"code": "flat_latent", "message": "x", "strong": True}]
    assert json.loads(whole(paired).uns["wnn"]["parameters_json"]) == {"k": 30}
    assert whole(paired).uns["wnn"]["notes"].tolist() == ["a note"]


def test_rejects_are_counted_and_listed() -> None:
    paired = pair(transcripts(), images(N - 3))
    data = build(paired)
    assert data.n_obs == N - 3
    assert data.uns["joint"]["n_rejects"] == 3
    assert data.uns["joint"]["rejects"]["code"].tolist() == ["unpaired"] * 3


def test_genes_and_features_of_the_same_name_are_told_apart() -> None:
    image = images()
    image.var_names = ["g3", *image.var_names[1:]]
    data = build(pair(transcripts(), image))
    assert data["image"].var_names[:2].tolist() == ["image:g3", "DNA:1"]
    assert data.var_names.is_unique


def test_a_graph_and_clusters_leave_out_cells_that_were_not_seen() -> None:
    target = ad.AnnData(obs=pd.DataFrame(index=list("abcde")))
    graph = sparse.csr_matrix(np.array([[0, 1, 2], [3, 0, 4], [5, 6, 0]], np.float32))
    found = Representation(
        "x",
        np.float32([[1], [2], [3]]),
        np.array([1, 0, 1]),
        weight_rna=np.float32([0.1, 0.2, 0.3]),
        graph=graph,
    )
    keys.put_representation(target, found, ["d", "a", "c"])
    np.testing.assert_array_equal(target.obsm["X_x"].ravel(), np.float32([2, np.nan, 3, 1, np.nan]))
    assert target.obs["x_leiden"].astype(object).where(target.obs["x_leiden"].notna(), "-").tolist() == list(
        "0-11-"
    )
    dense = target.obsp["x_connectivities"].toarray()
    assert (dense[3, 0], dense[3, 2], dense[0, 3], dense[2, 0]) == (1, 2, 3, 6)
    assert not dense[[1, 4]].any()
    assert not dense[:, [1, 4]].any()
    np.testing.assert_array_equal(target.obs["x_weight_rna"], np.float32([0.2, np.nan, 0.3, 0.1, np.nan]))
    with pytest.raises(ValueError, match="1 of 3 cells"):
        keys.put_representation(target, found, ["d", "a", "z"])


# --- files -----------------------------------------------------------------------------------------


@zarr_notice
@pytest.mark.parametrize("suffix", ["h5mu", "zarr"])
def test_a_file_gives_back_every_key_type_and_id(paired: Paired, tmp_path: Path, suffix: str) -> None:
    data = whole(paired)
    data.obs["half"] = np.where(np.arange(N) % 2, np.nan, 1).astype(np.float32)
    target = write_mudata(data, tmp_path / f"joint.{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    again = read_mudata(target)
    assert again.obs_names.tolist() == data.obs_names.tolist()
    assert list(again.mod) == ["rna", "image"]
    # a weight of exactly 1 everywhere stays a float
    assert again.obs["wnn_weight_rna"].dtype == again.obs["half"].dtype == np.float32
    pd.testing.assert_frame_equal(again.obs, data.obs, check_index_type=False)
    for name in ("X_muse", "X_wnn", "X_concat", "X_mofa_10", "spatial"):
        assert again.obsm[name].dtype == data.obsm[name].dtype
        np.testing.assert_array_equal(again.obsm[name], data.obsm[name])
    assert (again.obsp["wnn_connectivities"] != data.obsp["wnn_connectivities"]).nnz == 0
    assert again.obsp["wnn_connectivities"].dtype == np.float32
    for name in ("rna", "image"):
        assert again[name].X.dtype == np.float32
        np.testing.assert_array_equal(again[name].obsm["X_muse_h"], data[name].obsm["X_muse_h"])
        pd.testing.assert_frame_equal(again[name].obs, data[name].obs, check_index_type=False)
        pd.testing.assert_frame_equal(again[name].var, data[name].var, check_index_type=False)
    assert sparse.issparse(again["rna"].X)
    assert (again["rna"].layers["counts"] != data["rna"].layers["counts"]).nnz == 0
    assert again["image"].uns["microsnoop"] == data["image"].uns["microsnoop"]
    assert again.uns["muse"]["parameters_json"] == data.uns["muse"]["parameters_json"]
    np.testing.assert_array_equal(again.uns["muse"]["history"]["total"], [3.0, 2.0, 1.5])
    # new cells can be made ready from the file alone
    kept, made = keys.preparation_of(again), paired.preparation
    assert kept.facts() == made.facts()
    for name, values in made.arrays().items():
        np.testing.assert_array_equal(kept.arrays()[name], values)


@zarr_notice
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_the_twin_is_one_anndata(paired: Paired, tmp_path: Path, suffix: str) -> None:
    data = whole(paired)
    twin = anndata_io.read(anndata_io.write(to_anndata(data), tmp_path / f"joint.{suffix}"))
    assert twin.obs_names.tolist() == data.obs_names.tolist()
    np.testing.assert_array_equal(twin.obsm["X_image"], data["image"].X)
    np.testing.assert_array_equal(twin.obsm["X_muse"], data.obsm["X_muse"])
    np.testing.assert_array_equal(twin.obsm["X_muse_h_image"], data["image"].obsm["X_muse_h"])
    np.testing.assert_array_equal(twin.obsm["X_muse_h_rna"], data["rna"].obsm["X_muse_h"])
    np.testing.assert_array_equal(twin.obsm["spatial"], data.obsm["spatial"])
    assert twin.uns["image"]["features"].tolist() == [f"DNA:{j}" for j in range(Q)]
    assert twin.uns["microsnoop"]["encoder_sha256"] == "ab12"
    assert twin.uns["muse"]["margin"] == 0.125
    assert twin.obs["muse_leiden"].tolist() == data.obs["muse_leiden"].tolist()
    assert twin.obs["wnn_weight_rna"].dtype == np.float32
    assert (twin.obsp["wnn_connectivities"] != data.obsp["wnn_connectivities"]).nnz == 0
    assert not {"rna", "image"} & set(twin.obsm)  # mudata's own


def test_the_twin_of_other_cells_has_those_of_the_transcripts() -> None:
    rna, image = transcripts()[:9].copy(), images()[::-1].copy()
    with mudata.set_options(pull_on_update=False):
        data = mudata.MuData({"image": image[image.obs_names != rna.obs_names[4]].copy(), "rna": rna})
    data.obs["place"] = np.arange(data.n_obs)
    twin = to_anndata(data)
    assert twin.obs_names.tolist() == rna.obs_names.tolist()
    assert data.obs_names[:9].tolist() != rna.obs_names.tolist()
    assert twin.obs["place"].tolist() == [data.obs_names.get_loc(name) for name in rna.obs_names]
    assert np.isnan(twin.obsm["X_image"]).all(axis=1).tolist() == [i == 4 for i in range(9)]
    others = [name for name in rna.obs_names if name != rna.obs_names[4]]
    np.testing.assert_array_equal(np.delete(twin.obsm["X_image"], 4, 0), image[others].X)


def test_scanpy_goes_on_from_a_file(paired: Paired, tmp_path: Path) -> None:
    import scanpy as sc

    write_mudata(whole(paired), tmp_path / "joint.h5mu")
    again = read_mudata(tmp_path / "joint.h5mu")
    for data in (again, to_anndata(again)):
        sc.pp.neighbors(data, use_rep="X_muse", random_state=0)
        sc.tl.leiden(data, flavor="igraph", n_iterations=2, directed=False)
        assert data.obs["leiden"].notna().all()
    sc.tl.umap(again, maxiter=5)
    assert again.obsm["X_umap"].shape == (N, 2)


def test_a_write_that_fails_leaves_the_old_file(paired: Paired, tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "joint.h5mu"
    write_mudata(build(paired), target)
    before = target.read_bytes()

    def fail(self: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mudata.MuData, "write_h5mu", fail)
    with pytest.raises(RunError, match="No space left"):
        write_mudata(build(paired), target)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    with pytest.raises(ConfigError, match=r"must end in \.h5mu or \.zarr"):
        write_mudata(build(paired), tmp_path / "joint.h5ad")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_mudata(tmp_path / "none.h5mu")
    (tmp_path / "text.h5mu").write_text("no")
    with pytest.raises(InputError, match=r"text\.h5mu is not a MuData file"):
        read_mudata(tmp_path / "text.h5mu")
    anndata_io.write(images(), tmp_path / "other.h5mu")
    with pytest.raises(InputError, match=r"other\.h5mu is not a MuData file"):
        read_mudata(tmp_path / "other.h5mu")
