"""Transcripts made ready: what is taken for counts, what is refused, which genes are chosen."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from microsnoop.core.errors import JointError
from microsnoop_integrations.joint.feature_order import take_features
from microsnoop_integrations.joint.transcripts import (
    TranscriptSteps,
    log_normalise,
    read_matrix,
)
from microsnoop_integrations.joint.variable_genes import choose_genes


def table(values: Any, **more: Any) -> ad.AnnData:
    n, p = values.shape
    return ad.AnnData(
        values,
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=[f"g{j}" for j in range(p)]),
        **more,
    )


def poisson(n: int = 90, p: int = 40, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.poisson(rng.gamma(1, 1, p) * rng.gamma(3, 0.5, (n, 1))).astype(np.float32)
    values[:, 0] += 1
    values.flags.writeable = False
    return values


def frozen_csr(values: Any) -> Any:
    made = sparse.csr_matrix(values)
    for part in (made.data, made.indices, made.indptr):
        part.flags.writeable = False
    return made


# --- what is counts, what is refused ----------------------------------------------------------------


def test_whole_numbers_are_counts_and_others_are_logs() -> None:
    whole = poisson()
    assert read_matrix(table(whole))[1:] == ("counts", ())
    assert read_matrix(table(whole.astype(np.int32)))[1] == "counts"
    assert read_matrix(table(np.log1p(whole)))[1:] == ("log", ())
    # the layer comes first, and what stands in it are counts, whole or not
    both = table(np.log1p(whole), layers={"counts": whole})
    matrix, kind, _ = read_matrix(both)
    assert kind == "counts"
    np.testing.assert_array_equal(matrix, whole)
    both.layers["counts"] = whole * 0.9
    assert read_matrix(both)[1] == "counts"
    assert "not whole" in read_matrix(both)[2][0]
    matrix, kind, _ = read_matrix(both, input="log")
    assert kind == "log"
    np.testing.assert_array_equal(matrix, np.log1p(whole))
    assert read_matrix(table(whole), input="log")[1] == "log"
    assert read_matrix(table(whole + 0.5), input="counts")[1] == "counts"


def test_values_too_large_for_logs_are_said() -> None:
    assert read_matrix(table(np.array([[0.5, 20.0]])))[2] == ()
    assert "not logged" in read_matrix(table(np.array([[0.5, 20.1]])))[2][0]


@pytest.mark.parametrize("form", [np.array, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(
    ("value", "code"), [(-0.25, "negative_input"), (np.nan, "not_finite"), (np.inf, "not_finite")]
)
@pytest.mark.parametrize("way", ["auto", "counts", "log"])
def test_impossible_values_name_their_cell_and_gene(form: Any, value: float, code: str, way: str) -> None:
    values = np.array(poisson())
    values[:7, 5] = 0
    values[7, 5] = values[8, 2] = value
    with pytest.raises(JointError, match=r"2 values.*'c7', gene 'g5'") as error:
        read_matrix(table(form(values)), input=way)
    assert error.value.code == code
    if code == "negative_input":
        assert "scaled or PCA matrix given as transcripts?" in error.value.message
        assert "counts or log-counts" in error.value.hint


def test_other_impossible_tables() -> None:
    with pytest.raises(ValueError, match="choose one of auto, counts, log"):
        read_matrix(table(poisson()), input="raw")
    for odd in (ad.AnnData(obs=pd.DataFrame(index=["a"])), table(np.zeros((0, 3), np.float32))):
        with pytest.raises(JointError) as error:
            read_matrix(odd)
        assert error.value.code == "no_transcripts"
    with pytest.raises(JointError, match="complex64, not numbers"):
        read_matrix(table(poisson().astype(np.complex64)))
    twice = table(poisson())
    twice.var_names = ["a", "b", "a", *twice.var_names[3:]]
    with pytest.raises(JointError, match=r"^1 gene names .* a$") as error:
        read_matrix(twice)
    assert error.value.code == "duplicate_genes"


# --- normalisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16])
def test_every_cell_sums_to_ten_thousand_before_the_log(dtype: Any) -> None:
    counts = poisson().astype(dtype)
    counts[3] = 0
    by_hand = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True, dtype=float), 1) * 10_000)
    dense, csr = log_normalise(counts), log_normalise(frozen_csr(counts))
    assert dense.dtype == csr.dtype == np.float32
    assert sparse.isspmatrix_csr(csr)
    np.testing.assert_allclose(dense, by_hand, rtol=2e-6)
    np.testing.assert_array_equal(csr.toarray(), dense)
    np.testing.assert_allclose(np.expm1(dense.astype(float)).sum(axis=1)[[0, 3]], [10_000, 0], rtol=1e-5)
    np.testing.assert_allclose(
        log_normalise(counts, target_sum=7), np.log1p(np.expm1(by_hand) * 7e-4), rtol=1e-5
    )


def test_a_gene_stored_in_two_parts_is_added_up_before_the_log() -> None:
    parts = sparse.csr_matrix(
        (np.array([1.0, 2.0, 3.0, 0.0]), np.array([0, 0, 1, 2]), np.array([0, 4])), (1, 3)
    )
    matrix, _, _ = read_matrix(table(parts))
    made = log_normalise(matrix)
    np.testing.assert_allclose(made.toarray(), [[np.log1p(5_000), np.log1p(5_000), 0]], rtol=1e-6)
    assert made.nnz == 2  # no stored zeros
    assert parts.nnz == 4  # what was given is not changed


# --- genes -----------------------------------------------------------------------------------------


def test_genes_without_news_are_never_chosen() -> None:
    values = np.log1p(poisson(p=6) + np.eye(90, 6, dtype=np.float32))
    values[:, 2], values[:, 4] = 0, 1.5
    for form in (values, frozen_csr(values)):
        for n_genes in (None, 4, 100):
            chosen, unseen, n_constant = choose_genes(form, list("abcdef"), n_genes=n_genes)
            assert chosen.tolist() == [0, 1, 3, 5]
            assert (unseen, n_constant) == (("c",), 1)
    with pytest.raises(JointError) as error:
        choose_genes(np.ones((5, 3)), list("abc"))
    assert error.value.code == "no_variance"
    with pytest.raises(ValueError, match="at least 1"):
        choose_genes(values, list("abcdef"), n_genes=0)


def test_the_most_variable_genes_are_those_of_scanpy() -> None:
    import scanpy as sc

    values = log_normalise(poisson(120, 300))
    chosen, unseen, _ = choose_genes(values, [str(j) for j in range(300)], n_genes=60)
    names = [j for j in range(300) if str(j) not in unseen]
    found = sc.pp.highly_variable_genes(
        ad.AnnData(values[:, names]), flavor="seurat", n_top_genes=60, inplace=False
    )
    assert chosen.tolist() == np.array(names)[found["highly_variable"].to_numpy()].tolist()
    assert np.array_equal(choose_genes(frozen_csr(values), [""] * 300, n_genes=60)[0], chosen)
    # numbers that were never logged are logged for the choice, not for the analysis
    large = np.expm1(values)
    again, _, _ = choose_genes(large, [""] * 300, n_genes=60)
    assert len(np.intersect1d(again, chosen)) == 60


def test_equal_genes_go_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    import scanpy as sc

    dispersion = [np.nan, 1.0, 2.0, 1.0, np.nan, 1.0]
    monkeypatch.setattr(
        sc.pp, "highly_variable_genes", lambda *_, **__: pd.DataFrame({"dispersions_norm": dispersion})
    )
    values = np.log1p(poisson(p=6) + np.eye(90, 6, dtype=np.float32))
    for n_genes, wanted in ((1, [2]), (2, [1, 2]), (3, [1, 2, 3]), (5, [0, 1, 2, 3, 5])):
        assert choose_genes(values, list("abcdef"), n_genes=n_genes)[0].tolist() == wanted
    dispersion = [float(j % 2) for j in range(80)]
    values = np.log1p(poisson(p=80) + np.eye(90, 80, dtype=np.float32))
    assert choose_genes(values, [""] * 80, n_genes=10)[0].tolist() == list(range(1, 20, 2))


# --- new cells -------------------------------------------------------------------------------------


def steps(**other: Any) -> TranscriptSteps:
    known = {
        "input": "counts",
        "target_sum": 100.0,
        "panel": ("a", "b", "c"),
        "genes": ("c", "a"),
        "whole": True,
    }
    return TranscriptSteps(**{**known, **other})


def cells(values: Any, names: str) -> ad.AnnData:
    made = table(np.asarray(values, np.float32))
    made.var_names = list(names)
    return made


@pytest.mark.parametrize("form", [np.array, sparse.csr_matrix])
def test_totals_of_new_cells_are_taken_over_the_panel(form: Any) -> None:
    new = cells([[9, 1, 2, 7, 1]], "xabyc")
    new.X = form(new.X)
    made, missing, notes = steps().transform(new)
    made = made.toarray() if sparse.issparse(made) else made
    np.testing.assert_allclose(made, np.log1p([[25, 25]]), rtol=1e-6)
    assert made.dtype == np.float32
    assert (missing, notes) == ((), ())


@pytest.mark.parametrize("form", [np.array, sparse.csr_matrix])
def test_missing_genes_are_listed_or_filled_on_request(form: Any) -> None:
    new = cells([[3, 1], [0, 0]], "ac")
    new.X = form(new.X)
    with pytest.raises(JointError, match=r"^1 of 3 genes .* missing: b$") as error:
        steps().transform(new)
    assert error.value.code == "feature_mismatch"
    made, missing, _ = steps().transform(new, fill_zero=True)
    made = made.toarray() if sparse.issparse(made) else made
    np.testing.assert_allclose(made, np.log1p([[25, 75], [0, 0]]), rtol=1e-6)
    assert missing == ("b",)
    with pytest.raises(JointError, match="3 of 3 genes"):  # nothing at all cannot be filled
        steps().transform(cells([[1]], "x"), fill_zero=True)


def test_another_order_of_genes_is_refused() -> None:
    with pytest.raises(JointError, match=r"another order.*first of them 'b'") as error:
        steps().transform(cells([[1, 2, 3]], "bac"))
    assert error.value.code == "feature_mismatch"


def test_logs_are_used_as_they_are_and_need_the_chosen_genes_only() -> None:
    logs = steps(input="log", panel=(), genes=("a", "c"), whole=False)
    made, _, _ = logs.transform(cells([[0.5, 9.5, 1.5]], "azc"))
    np.testing.assert_array_equal(made, np.float32([[0.5, 1.5]]))


def test_counts_and_other_numbers_are_not_mixed() -> None:
    with pytest.raises(JointError, match="had counts") as error:
        steps().transform(cells([[1.5, 2, 3]], "abc"))
    assert error.value.code == "input_mismatch"
    logs = steps(input="log", panel=(), whole=False)
    with pytest.raises(JointError, match="have whole numbers"):
        logs.transform(cells([[1, 2, 3]], "cba"))
    assert not logs.transform(cells([[0, 0, 0]], "cba"))[0].any()  # an empty cell is no sign of counts
    assert steps(whole=False).transform(cells([[1, 2, 1]], "abc"))[0].shape == (1, 2)
    with pytest.raises(JointError, match="negative"):
        steps().transform(cells([[1, -2, 3]], "abc"))


def test_steps_survive_json() -> None:
    import json

    assert TranscriptSteps.from_facts(json.loads(json.dumps(steps().facts()))) == steps()


def test_columns_are_taken_without_changing_what_was_given() -> None:
    values = poisson(3, 4)
    for form in (values, frozen_csr(values)):
        made, missing = take_features(
            form, list("abcd"), needed=["b", "x", "d"], what="genes", fill_zero=True
        )
        made = made.toarray() if sparse.issparse(made) else made
        np.testing.assert_array_equal(made, np.c_[values[:, 1], np.zeros(3), values[:, 3]])
        assert missing == ["x"]
