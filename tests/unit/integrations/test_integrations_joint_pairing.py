"""Transcripts and images of the same cells: joined by id, nobody lost, the order of the input without effect."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from microsnoop.core.errors import JointError
from microsnoop_integrations.joint import pairing
from microsnoop_integrations.joint.image_features import ImageReduction, read_features
from microsnoop_integrations.joint.pairing import Paired, Preparation, pair, pair_new

N, P, Q = 80, 30, 7


def transcripts(n: int = N, *, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(2, 1, P) * rng.gamma(3, 0.5, (n, 1))).astype(np.float32)
    counts[:, 0] += 1
    counts[:, 4] = 0
    counts.flags.writeable = False
    ids = [f"c{i}" for i in rng.permutation(n)]
    obs = pd.DataFrame({"field": rng.integers(0, 3, n), "depth": counts.sum(axis=1)}, index=ids)
    made = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(P)]))
    made.obsm["spatial"] = rng.normal(size=(n, 2))
    return made


def images(n: int = N, *, seed: int = 1) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    y = (rng.normal(size=(n, 3)) @ rng.normal(size=(3, Q)) + 0.1 * rng.normal(size=(n, Q)) + 4).astype(
        np.float32
    )
    y[:, 2] = 1.25
    y.flags.writeable = False
    ids = [f"c{i}" for i in rng.permutation(n)]
    obs = pd.DataFrame({"field": rng.integers(0, 3, n), "area_px": rng.integers(9, 99, n)}, index=ids)
    return ad.AnnData(y, obs=obs, var=pd.DataFrame(index=[f"DNA:{j}" for j in range(Q)]))


def dense(x: Any) -> np.ndarray:
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def code_of(call: Any) -> JointError:
    with pytest.raises(JointError) as error:
        call()
    return error.value


# --- joining ---------------------------------------------------------------------------------------


def test_rows_of_both_are_those_of_the_same_cell() -> None:
    rna, image = transcripts(), images()
    paired = pair(rna, image)
    assert list(paired.obs_ids) == sorted(rna.obs_names)
    assert len(paired.rejects) == 0
    of_rna, of_image = rna[list(paired.obs_ids)], image[list(paired.obs_ids)]
    genes = list(paired.genes)
    assert genes == [f"g{j}" for j in range(P) if j != 4]
    totals = np.asarray(of_rna.X).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(paired.x, np.log1p(np.asarray(of_rna[:, genes].X) / totals * 1e4), rtol=1e-5)
    np.testing.assert_array_equal(paired.counts, of_rna.X)
    np.testing.assert_array_equal(paired.spatial, of_rna.obsm["spatial"])
    np.testing.assert_array_equal(paired.y_raw, np.delete(np.asarray(of_image.X), 2, axis=1))
    assert [paired.obs_ids[i] for i in paired.order] == rna.obs_names.tolist()
    assert paired.x.dtype == paired.y.dtype == np.float32
    assert dense(paired.expression)[:, [int(g[1:]) for g in genes]].tolist() == paired.x.tolist()
    assert not dense(paired.expression)[:, 4].any()


def test_the_order_of_the_input_has_no_effect() -> None:
    rna, image = transcripts(), images()
    rna.X = sparse.csr_matrix(rna.X)
    first = pair(rna, image, n_genes=12)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        again = pair(rna[rng.permutation(N)].copy(), image[rng.permutation(N)].copy(), n_genes=12)
        assert first.genes == again.genes
        assert first.obs_ids == again.obs_ids
        np.testing.assert_array_equal(first.x.toarray(), again.x.toarray())
        np.testing.assert_array_equal(first.y, again.y)
        np.testing.assert_array_equal(first.preparation.image.axes, again.preparation.image.axes)


def test_sparse_stays_sparse_and_says_the_same() -> None:
    rna, image = transcripts(), images()
    wanted = pair(rna, image, n_genes=12)
    for form in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array):
        rna.X = form(transcripts().X)
        found = pair(rna, image, n_genes=12)
        assert found.x.format == "csr"
        assert found.x.dtype == np.float32
        assert found.genes == wanted.genes
        np.testing.assert_array_equal(found.x.toarray(), wanted.x)
        np.testing.assert_array_equal(found.counts.toarray(), transcripts()[list(wanted.obs_ids)].X)


def test_every_cell_is_in_the_pair_or_in_the_rejects_once() -> None:
    rna, image = transcripts(100), images(97)
    counts = np.array(rna.X)
    # empty: one cell as a whole, one in all but the genes that are dropped or not chosen
    counts[rna.obs_names.get_indexer(["c3", "c7"])] = 0
    rna.X = counts
    y = np.array(image.X)
    y[image.obs_names.get_loc("c5")] = np.nan
    y[image.obs_names.get_loc("c7")] = np.nan
    y[image.obs_names.get_loc("c9"), 3] = np.inf
    image.X = y
    image.obs_names = image.obs_names.where(image.obs_names != "c11", "x1")
    paired = pair(rna, image)
    union = set(rna.obs_names) | set(image.obs_names)
    assert len(paired.obs_ids) + len(paired.rejects) == len(union)
    assert set(paired.obs_ids) | set(paired.rejects["obs_id"]) == union
    found = paired.rejects.set_index("obs_id")
    assert found["code"].value_counts().to_dict() == {"unpaired": 5, "not_finite": 3, "empty_cell": 1}
    assert found.loc["c3", ["modality", "code"]].tolist() == ["rna", "empty_cell"]
    assert found.loc["c5", ["modality", "code"]].tolist() == ["image", "not_finite"]
    assert found.loc["x1", ["modality", "code"]].tolist() == ["image", "unpaired"]
    assert found.loc["c11", "message"] == "no cell of this id among the images"
    assert "9 cells were rejected" in paired.notes[0]
    error = code_of(lambda: pair(rna, image, join="error"))
    assert error.code == "unpaired"
    assert "5 cells" in error.message


def test_a_cell_without_counts_in_the_chosen_genes_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = np.array([1, 2, 6, 9, 11])
    monkeypatch.setattr(pairing, "choose_genes", lambda *_, **__: (chosen, (), 0))
    rna, image = transcripts(), images()
    counts = np.array(rna.X)
    counts[[7, 8]] = 0
    counts[7, 20] = 3
    rna.X = counts
    paired = pair(rna, image)
    in_chosen = counts[:, chosen].any(axis=1)
    assert 2 <= (~in_chosen).sum() < 10
    found = paired.rejects.set_index("obs_id")
    assert set(found.index) == set(rna.obs_names[~in_chosen])
    assert set(found["code"]) == {"empty_cell"}
    assert found.loc[rna.obs_names[7], "message"] == "no count in any of the 5 genes that are used"
    assert found.loc[rna.obs_names[8], "message"] == "no count in any gene"
    assert list(paired.obs_ids) == sorted(rna.obs_names[in_chosen])
    np.testing.assert_array_equal(paired.counts, rna[list(paired.obs_ids)].X)
    assert len(paired.x) == len(paired.y) == len(paired.obs_ids)


def test_ids_must_tell_cells_apart_and_agree() -> None:
    rna, image = transcripts(), images()
    strangers = image.copy()
    strangers.obs_names = [f"image_{name}" for name in image.obs_names]
    error = code_of(lambda: pair(rna, strangers))
    assert error.code == "no_common_cells"
    assert rna.obs_names[0] in error.message
    assert strangers.obs_names[0] in error.message
    image.obs_names = ["c1", *image.obs_names[1:]]
    error = code_of(lambda: pair(rna, image))
    assert (error.code, "images" in error.message, "c1" in error.message) == ("duplicate_ids", True, True)
    with pytest.raises(ValueError, match="inner or error"):
        pair(rna, images(), join="outer")


@pytest.mark.parametrize(
    ("n", "k", "enough"), [(1, 30, False), (63, 30, False), (64, 30, True), (71, 70, False), (72, 70, True)]
)
def test_too_few_cells_are_refused(n: int, k: int, enough: bool) -> None:
    rna, image = transcripts(n), images(n)
    if enough:
        assert len(pair(rna, image, k=k).obs_ids) == n
    else:
        error = code_of(lambda: pair(rna, image, k=k))
        assert (error.code, f"{n} cells" in error.message) == ("too_few_cells", True)


def test_negative_and_missing_transcripts_and_flat_images_are_refused() -> None:
    for value, code in ((-1, "negative_input"), (np.nan, "not_finite")):
        rna = transcripts()
        values = np.array(rna.X)
        values[2, 3] = value
        rna.X = values
        assert code_of(lambda rna=rna: pair(rna, images())).code == code
    image = images()
    image.X = np.ones((N, Q), np.float32)
    assert code_of(lambda: pair(transcripts(), image)).code == "no_variance"
    image.X = np.full((N, Q), np.nan, np.float32)
    error = code_of(lambda: pair(transcripts(), image))
    assert (error.code, "80 image not_finite" in error.message) == ("too_few_cells", True)


def test_what_says_nothing_is_dropped_and_counted() -> None:
    paired = pair(transcripts(), images())
    assert paired.dropped_genes == ("g4",)
    assert paired.image_features == tuple(f"DNA:{j}" for j in range(Q) if j != 2)
    assert paired.notes == (
        "1 genes have no count in any cell and were dropped",
        "1 image features have the same value in all cells and were dropped",
    )
    logs = transcripts()
    values = np.log1p(np.asarray(logs.X))
    values[:, 9] = 0.75
    logs.X = values
    paired = pair(logs, images())
    assert "1 genes have the same value in all cells and were dropped" in paired.notes
    assert "g9" not in paired.genes
    assert paired.counts is None
    np.testing.assert_array_equal(paired.expression, np.asarray(logs[list(paired.obs_ids)].X))


def test_metadata_of_both_stand_side_by_side() -> None:
    rna, image = transcripts(), images()
    image.obs["depth"] = rna.obs["depth"].reindex(image.obs_names)
    obs = pair(rna, image).obs
    assert obs.columns.tolist() == ["rna:field", "depth", "image:field", "area_px"]
    assert obs["rna:field"].equals(rna.obs["field"].reindex(obs.index))
    assert obs["image:field"].equals(image.obs["field"].reindex(obs.index))
    assert obs["area_px"].equals(image.obs["area_px"].reindex(obs.index))


def test_sources_that_change_behind_its_back_are_noticed() -> None:
    rna, image = transcripts(), images()
    paired = pair(rna, image)
    rna.X = np.log1p(rna.X)
    for name in ("counts", "expression"):
        assert code_of(lambda name=name: getattr(paired, name)).code == "source_changed"
    image.X = np.asarray(image.X) + 1
    assert code_of(lambda: paired.y_raw).code == "source_changed"


def test_nothing_that_was_given_changes() -> None:
    rna, image = transcripts(), images()
    before = rna.copy(), image.copy()
    pair(rna, image, standardise=True)
    for now, then in zip((rna, image), before, strict=True):
        np.testing.assert_array_equal(now.X, then.X)
        pd.testing.assert_frame_equal(now.obs, then.obs)
        pd.testing.assert_frame_equal(now.var, then.var)
    with pytest.raises(AttributeError):
        pair(rna, image).y = None  # type: ignore[misc]
    assert {"x", "y", "order", "rejects", "notes"} <= {field.name for field in fields(Paired)}


# --- image features ----------------------------------------------------------------------------------


def test_scores_are_principal_components_over_one_number() -> None:
    y = np.random.default_rng(0).normal(size=(70, 9)) @ np.diag(np.arange(1, 10)) + 5
    y.flags.writeable = False
    names = tuple("abcdefghi")
    fitted = ImageReduction.fit(y, names, components=4)
    scores = fitted.transform(y)
    assert scores.var(axis=0).mean() == pytest.approx(1, abs=1e-5)
    u, s, _ = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
    wanted = (u * s)[:, :4]
    wanted /= np.sqrt(wanted.var(axis=0).mean())
    np.testing.assert_allclose(np.abs(scores), np.abs(wanted), rtol=1e-4, atol=1e-4)
    assert (np.take_along_axis(fitted.axes, np.abs(fitted.axes).argmax(axis=0)[None], 0) > 0).all()
    assert fitted.mean == pytest.approx(y.mean(axis=0))
    np.testing.assert_allclose(fitted.transform(y[3:4]), scores[3:4], rtol=1e-5, atol=1e-6)


def test_standardised_features_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(90, 5))
    scaled = y * np.array([1, 10, 100, 0.1, 5])
    one = ImageReduction.fit(y, tuple("abcde"), standardise=True).transform(y)
    other = ImageReduction.fit(scaled, tuple("abcde"), standardise=True).transform(scaled)
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    assert np.ptp(one.std(axis=0)) < np.ptp(
        ImageReduction.fit(scaled, tuple("abcde")).transform(scaled).std(axis=0)
    )


def test_components_are_capped_by_rows_features_and_rank() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(20, 60))
    assert ImageReduction.fit(wide, tuple(map(str, range(60)))).transform(wide).shape == (20, 19)
    low = rng.normal(size=(80, 3)) @ rng.normal(size=(3, 10))
    assert ImageReduction.fit(low, tuple("abcdefghij")).axes.shape == (10, 3)
    with pytest.raises(ValueError, match="at least 1"):
        ImageReduction.fit(low, tuple("abcdefghij"), components=0)
    with pytest.raises(ValueError, match=r"\(m, 10\)"):
        ImageReduction.fit(low, tuple("abcdefghij")).transform(low[:, :9])


def test_features_can_be_passed_on_as_they_are() -> None:
    image = images()
    paired = pair(transcripts(), image, components=None)
    np.testing.assert_array_equal(paired.y, paired.y_raw)
    arrays = paired.preparation.arrays()
    again = Preparation.from_parts(paired.preparation.facts(), arrays)
    np.testing.assert_array_equal(again.image.transform(paired.y_raw), paired.y)


def test_very_many_features_are_reduced_nearly_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(100, 8)) * np.arange(8, 0, -1)) @ rng.normal(size=(8, 50)) + 3
    y += 0.01 * rng.normal(size=y.shape)
    names = tuple(map(str, range(50)))
    exact = ImageReduction.fit(y, names, components=5).transform(y)
    monkeypatch.setattr("microsnoop_integrations.joint.image_features._EXACT_FEATURES", 10)
    near = ImageReduction.fit(y, names, components=5)
    np.testing.assert_allclose(near.transform(y), exact, atol=2e-3)
    assert np.array_equal(near.axes, ImageReduction.fit(y, names, components=5).axes)


def test_corrected_embeddings_are_taken_from_where_they_stand() -> None:
    image = images()
    image.layers["corrected"] = np.asarray(image.X) * 2
    image.obsm["X_harmony"] = np.random.default_rng(3).normal(size=(N, 4)).astype(np.float32)
    paired = pair(transcripts(), image, image_layer="X_harmony")
    assert paired.image_features == tuple(f"X_harmony{j}" for j in range(4))
    np.testing.assert_array_equal(paired.y_raw, image[list(paired.obs_ids)].obsm["X_harmony"])
    np.testing.assert_array_equal(read_features(image, "corrected")[0], np.asarray(image.X) * 2)
    assert code_of(lambda: pair(transcripts(), image, image_layer="X_nothing")).code == "no_image_features"
    image.var_names = ["a"] * 2 + list(image.var_names[2:])
    assert code_of(lambda: read_features(image)).code == "duplicate_features"
    assert code_of(lambda: read_features(ad.AnnData(obs=image.obs))).code == "no_image_features"


# --- new cells -------------------------------------------------------------------------------------


def test_training_cells_come_out_as_in_training() -> None:
    rna, image = transcripts(), images()
    paired = pair(rna, image, n_genes=12, standardise=True)
    again = Preparation.from_parts(paired.preparation.facts(), paired.preparation.arrays())
    new = pair_new(rna, image, again)
    assert list(new.obs_ids) == rna.obs_names.tolist()
    np.testing.assert_array_equal(new.x, paired.x[paired.order])
    np.testing.assert_allclose(new.y, paired.y[paired.order], rtol=1e-5, atol=1e-6)
    assert (new.flags, len(new.rejects)) == ((), 0)


def test_one_new_cell_is_enough_and_a_missing_modality_is_flagged() -> None:
    rna, image = transcripts(), images()
    paired = pair(rna, image)
    one = pair_new(rna[3:4], image[image.obs_names == rna.obs_names[3]], paired.preparation)
    assert one.obs_ids == (rna.obs_names[3],)
    only = pair_new(None, image[:5], paired.preparation)
    assert (only.x, only.flags, only.obs_ids) == (None, ("imputed_modality",), tuple(image.obs_names[:5]))
    only = pair_new(rna[:5], None, paired.preparation)
    assert (only.y, only.flags) == (None, ("imputed_modality",))
    with pytest.raises(ValueError, match="or both"):
        pair_new(None, None, paired.preparation)


def test_new_cells_that_cannot_be_placed_are_rejected_once() -> None:
    rna, image = transcripts(), images()
    preparation = pair(rna, image).preparation
    counts, y = np.array(rna.X), np.array(image.X)
    names = list(rna.obs_names[:3])
    counts[[0, 1]] = 0
    y[image.obs_names.get_indexer([names[1], names[2]])] = np.nan
    rna.X, image.X = counts, y
    new = pair_new(rna, image, preparation)
    assert new.rejects.set_index("obs_id")["code"].to_dict() == {
        names[0]: "empty_cell", names[1]: "not_finite", names[2]: "not_finite",
    }  # fmt: skip
    assert list(new.obs_ids) == rna.obs_names[3:].tolist()
    assert len(new.x) == len(new.y) == N - 3
    assert code_of(lambda: pair_new(rna[:2], None, preparation)).code == "too_few_cells"


def test_new_cells_need_the_features_of_training() -> None:
    rna, image = transcripts(), images()
    preparation = pair(rna, image).preparation
    error = code_of(lambda: pair_new(rna[:, 1:], image, preparation))
    assert (error.code, "g0" in error.message) == ("feature_mismatch", True)
    filled = pair_new(rna[:, 1:], image, preparation, fill_zero=True)
    assert filled.flags == ("filled_genes",)
    assert code_of(lambda: pair_new(rna[:, ::-1], image, preparation)).code == "feature_mismatch"
    assert code_of(lambda: pair_new(rna, image[:, ::-1], preparation)).code == "feature_mismatch"
    assert (
        code_of(lambda: pair_new(rna, image[:, 1:], preparation, fill_zero=True)).code == "feature_mismatch"
    )
    pair_new(rna[:, [j for j in range(P) if j != 4]], image, preparation)  # no cell had it: nobody needs it
