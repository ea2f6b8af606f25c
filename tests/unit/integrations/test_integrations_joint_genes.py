"""Genes of clusters, groups of cells in image space, and genes that follow the images."""

from __future__ import annotations

from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import false_discovery_control, mannwhitneyu

from microsnoop.core.errors import JointError
from microsnoop_integrations.joint import image_genes
from microsnoop_integrations.joint.genes import (
    RANKED,
    genes_in_image_space,
    image_neighbours_of_group,
    rank_genes,
)

N, P = 60, 15


def table(*, form: Any = np.array) -> ad.AnnData:
    rng = np.random.default_rng(0)
    group = np.arange(N) % 3
    counts = rng.poisson(2 + 4.0 * (np.arange(P)[None] == group[:, None])).astype(np.float32)
    counts[:, 7] = 0
    return ad.AnnData(
        form(counts),
        obs=pd.DataFrame(
            {"group": pd.Categorical.from_codes(group, list("abc"))}, index=[f"c{i}" for i in range(N)]
        ),
        var=pd.DataFrame(index=[f"g{j}" for j in range(P)]),
    )


def logs(data: ad.AnnData) -> np.ndarray:
    counts = data.X.toarray() if sparse.issparse(data.X) else np.asarray(data.X)
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


# --- genes of clusters -------------------------------------------------------------------------------


def test_ranks_are_those_of_mann_and_whitney() -> None:
    data = table()
    found = rank_genes(data, "group", top=0)
    assert tuple(found.columns) == RANKED
    assert found.groupby("cluster")["gene"].nunique().tolist() == [P - 1] * 3
    assert found.groupby("cluster").first()["gene"].to_dict() == {"a": "g0", "b": "g1", "c": "g2"}
    values = logs(data)
    for name in "abc":
        part = found[found["cluster"] == name].set_index("gene")
        inside = (data.obs["group"] == name).to_numpy()
        p = {}
        for j in (0, 3, 9):
            test = mannwhitneyu(
                values[inside, j], values[~inside, j], method="asymptotic", use_continuity=False
            )
            p[j] = test.pvalue
            assert part.loc[f"g{j}", "p_value"] == pytest.approx(test.pvalue, rel=1e-3)
            counts = np.asarray(data.X)[:, j] > 0
            assert part.loc[f"g{j}", "fraction_in"] == pytest.approx(counts[inside].mean())
            assert part.loc[f"g{j}", "fraction_out"] == pytest.approx(counts[~inside].mean())
            ratio = np.expm1(values[inside, j].mean()) / np.expm1(values[~inside, j].mean())
            assert part.loc[f"g{j}", "log2_fold_change"] == pytest.approx(np.log2(ratio), abs=1e-3)
        np.testing.assert_allclose(part["q_value"], false_discovery_control(part["p_value"]), rtol=1e-6)
        assert (np.diff(part["score"]) <= 0).all()
    assert found.attrs["notes"] == ["1 genes have the same value in all cells and were left out"]


@pytest.mark.parametrize("form", [np.array, sparse.csr_matrix])
def test_form_labels_and_place_make_no_difference(form: Any) -> None:
    data = table(form=form)
    wanted = rank_genes(table(), "group", top=4)
    assert len(wanted) == 12
    pd.testing.assert_frame_equal(rank_genes(data, "group", top=4), wanted)
    pd.testing.assert_frame_equal(rank_genes(data, data.obs["group"].tolist(), top=4), wanted)
    scaled = data.copy()
    scaled.layers["counts"] = scaled.X.copy()
    scaled.X = scaled.X * 0.5 + 0 * scaled.X
    pd.testing.assert_frame_equal(rank_genes(scaled, "group", top=4), wanted)
    with mudata.set_options(pull_on_update=False):
        both = mudata.MuData({"rna": data[::-1].copy(), "image": ad.AnnData(np.ones((N, 2), np.float32), obs=pd.DataFrame(index=data.obs_names), var=pd.DataFrame(index=["x", "y"]))})  # fmt: skip  # noqa: E501
    both.obs["muse_leiden"] = data.obs["group"].reindex(both.obs_names).to_numpy()
    found = rank_genes(both, "muse_leiden", top=4)
    assert found["gene"].tolist() == wanted["gene"].tolist()
    np.testing.assert_allclose(found["p_value"], wanted["p_value"], rtol=1e-5)


def test_what_cannot_be_compared_is_left_out_and_counted() -> None:
    data = table()
    labels = np.array(data.obs["group"], object)
    labels[0], labels[1:4] = "lonely", None
    found = rank_genes(data, labels.tolist())
    assert found["cluster"].unique().tolist() == ["a", "b", "c"]
    assert found.attrs["notes"][:2] == [
        "3 cells have no label and were left out",
        "1 clusters have fewer than 2 cells and were left out",
    ]
    wanted = rank_genes(data[4:], "group")
    pd.testing.assert_frame_equal(found, wanted)


@pytest.mark.parametrize(
    "labels", [["0"] * N, [None] * N, [str(i) for i in range(N)], ["0"] * (N - 1) + ["1"]]
)
def test_one_cluster_gives_no_rows_and_a_note(labels: list[str | None]) -> None:
    found = rank_genes(table(), labels)
    assert tuple(found.columns) == RANKED
    assert len(found) == 0
    assert "no gene can differ between clusters" in found.attrs["notes"][-1]
    assert found["p_value"].dtype == np.float64


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no column 'x'"):
        rank_genes(table(), "x")
    with pytest.raises(ValueError, match="2 labels for 60 cells"):
        rank_genes(table(), ["a", "b"])
    data = table()
    data.X = np.asarray(data.X) - 1
    with pytest.raises(JointError, match="scaled or PCA"):
        rank_genes(data, "group")


def test_clusters_come_in_the_order_of_their_numbers() -> None:
    found = rank_genes(table(), [("10", "9", "0")[i % 3] for i in range(N)], top=1)
    assert found["cluster"].tolist() == ["0", "9", "10"]


# --- groups in image space ---------------------------------------------------------------------------


def naive_neighbours(latent: np.ndarray, k: int) -> np.ndarray:
    distance = np.linalg.norm(latent[:, None] - latent[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :k]


def test_a_group_that_keeps_to_itself_is_found(frozen: Any) -> None:
    rng = np.random.default_rng(0)
    group = frozen(np.arange(50) < 10)
    latent = frozen(rng.normal(size=(50, 3)) + 9 * group[:, None])
    found = image_neighbours_of_group(latent, group, k=5, permutations=99)
    np.testing.assert_array_equal(found.index, naive_neighbours(latent, 5)[group])
    assert (found.share, found.expected) == (1, pytest.approx(9 / 49))
    assert found.ratio == pytest.approx(49 / 9)
    assert found.p_value == 0.01  # none of 99 is as large


def test_a_random_group_is_as_by_chance() -> None:
    rng = np.random.default_rng(1)
    latent = rng.normal(size=(400, 3))
    found = [
        image_neighbours_of_group(latent, rng.permutation(400) < 80, k=10, permutations=49, rng=rng)
        for _ in range(20)
    ]
    assert np.mean([f.ratio for f in found]) == pytest.approx(1, abs=0.06)
    assert 0.2 < np.mean([f.p_value for f in found]) < 0.8
    again = [image_neighbours_of_group(latent, np.arange(400) < 80, permutations=20) for _ in range(2)]
    assert again[0].p_value == again[1].p_value


def test_groups_of_nobody_or_everybody_are_refused() -> None:
    latent = np.random.default_rng(0).normal(size=(20, 2))
    for size in (0, 1, 20):
        with pytest.raises(ValueError, match="at least two"):
            image_neighbours_of_group(latent, np.arange(20) < size, k=3)
    with pytest.raises(ValueError, match="at least two"):
        image_neighbours_of_group(latent, np.arange(21) < 4, k=3)
    with pytest.raises(JointError):
        image_neighbours_of_group(latent, np.arange(20) < 4, k=20)


# --- genes in image space ------------------------------------------------------------------------------


def follow(n: int = 80, p: int = 7) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(n, 2))
    values = rng.random((n, p)) * (rng.random((n, p)) > 0.4)
    values[:, 2] = np.maximum(latent[:, 0] + 0.3 * rng.normal(size=n), 0)
    values[:, 4] = 0.5
    return values.astype(np.float32), latent, [f"g{j}" for j in range(p)]


@pytest.mark.parametrize("form", [np.array, sparse.csr_matrix])
def test_morans_i_is_that_of_the_double_sum(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values, latent, genes = follow()
    values.flags.writeable = False
    monkeypatch.setattr(image_genes, "_BLOCK", 3 * len(values))  # several blocks
    found = genes_in_image_space(form(values), latent, genes, k=6, permutations=99)
    n = len(values)
    w = np.zeros((n, n))
    np.put_along_axis(w, naive_neighbours(latent, 6), 1 / 6, axis=1)
    by_gene = found.set_index("gene")
    for j, gene in enumerate(genes):
        z = values[:, j].astype(float) - values[:, j].mean(dtype=float)
        if j == 4:
            assert by_gene.loc[gene].isna().all()
            continue
        wanted = n / w.sum() * sum(w[a, b] * z[a] * z[b] for a in range(n) for b in range(n)) / (z @ z)
        assert by_gene.loc[gene, "morans_i"] == pytest.approx(wanted, abs=1e-9)
    assert found["gene"].iloc[0] == "g2"
    assert found["gene"].iloc[-1] == "g4"
    assert by_gene.loc["g2", "p_value"] == 0.01
    assert (np.diff(found["morans_i"].iloc[:-1]) <= 0).all()
    tested = found["p_value"].notna()
    np.testing.assert_allclose(
        found["q_value"][tested], false_discovery_control(found["p_value"][tested]), rtol=1e-12
    )


def test_blocks_and_form_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    values, latent, genes = follow()
    whole = genes_in_image_space(values, latent, genes, permutations=50, rng=np.random.default_rng(3))
    monkeypatch.setattr(image_genes, "_BLOCK", 1)
    parts = genes_in_image_space(
        sparse.csr_matrix(values), latent, genes, permutations=50, rng=np.random.default_rng(3)
    )
    pd.testing.assert_frame_equal(whole, parts)


def test_the_normal_approximation_agrees_with_permutations() -> None:
    rng = np.random.default_rng(4)
    latent = rng.normal(size=(150, 2))
    values = rng.gamma(0.5, 1, (150, 12))
    values[:, 0] += 0.35 * latent[:, 0]
    genes = [str(j) for j in range(12)]
    drawn = genes_in_image_space(values, latent, genes, permutations=2_000).set_index("gene")
    near = genes_in_image_space(values, latent, genes, permutations=0).set_index("gene")
    np.testing.assert_allclose(near["p_value"], drawn.loc[near.index, "p_value"], atol=0.08)  # skewed values
    # the variance is exact: that of all permutations of a small table
    z = np.array([3.0, 1, 1, 0, 0, 0])
    w = sparse.csr_matrix(np.roll(np.eye(6), 1, axis=1) * 0.5 + np.roll(np.eye(6), 2, axis=1) * 0.5)
    from itertools import permutations

    every = np.array(sorted(set(permutations(z - z.mean()))))
    all_i = image_genes._morans_i(w, every.T)
    assert all_i.mean() == pytest.approx(-1 / 5)
    centred = (z - z.mean())[:, None]
    for observed in (0.1, 0.4):
        p = image_genes._normal(w, centred, np.array([observed]))
        from scipy.stats import norm

        assert p[0] == pytest.approx(norm.sf((observed + 1 / 5) / all_i.std()), rel=1e-6)


def test_shapes_and_few_cells_are_refused() -> None:
    values, latent, genes = follow()
    with pytest.raises(ValueError, match="80 images and 6 genes"):
        genes_in_image_space(values, latent, genes[1:])
    with pytest.raises(ValueError, match="79 images"):
        genes_in_image_space(values, latent[1:], genes)
    with pytest.raises(JointError) as error:
        genes_in_image_space(values[:1], latent[:1], genes)
    assert error.value.code == "too_few_cells"
    with pytest.raises(JointError):
        genes_in_image_space(values[:10], latent[:10], genes, k=10)
