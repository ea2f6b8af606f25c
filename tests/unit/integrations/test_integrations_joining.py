"""Embeddings brought beside transcripts: by id whatever the order, every row joined or rejected."""

from __future__ import annotations

from collections import Counter

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from microsnoop.core.errors import InputError, JointError
from microsnoop_integrations.joint.joining import JOIN_COLUMN, join_embeddings, join_mudata


def transcripts(names: list[str]) -> ad.AnnData:
    x = np.arange(len(names) * 3, dtype=np.float32).reshape(-1, 3)
    return ad.AnnData(x, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=["A", "B", "C"]))


def embedded(ids: list[str], *, column: str = JOIN_COLUMN) -> ad.AnnData:
    """An exported run: its own row names, the ids in a column; the first number says whose row it is."""
    x = np.array([[ord(name[0]), ord(name[0]) ** 2] for name in ids], np.float32)
    obs = pd.DataFrame({column: ids}, index=[f"image#{n}" for n in range(len(ids))])
    return ad.AnnData(x, obs=obs, var=pd.DataFrame(index=["red:0", "red:1"]))


def test_rows_come_by_id_in_the_order_of_the_transcripts() -> None:
    rna, run = transcripts(list("dabc")), embedded(list("cxda"))
    image, rejects = join_embeddings(rna, run)
    assert list(image.obs_names) == ["d", "a", "c"]
    assert image.X[:, 0].tolist() == [ord("d"), ord("a"), ord("c")]
    assert image.obs["embedding_id"].tolist() == ["image#2", "image#3", "image#0"]
    assert rejects.to_dict("list") == {
        "obs_id": ["b", "x"], "modality": ["rna", "image"], "code": ["unpaired", "unpaired"],
        "message": ["no embedding of this id", "no transcripts of this id"],
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_no_row_is_lost_whatever_the_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = [chr(97 + n) for n in range(20)]
    ours, theirs = (list(rng.permutation(pool)[: rng.integers(12, 20)]) for _ in range(2))
    rna, run = transcripts(ours), embedded(theirs)
    run.X[rng.integers(len(theirs)), 1] = np.nan
    image, rejects = join_embeddings(rna, run)
    count = Counter(rejects["modality"])
    assert rna.n_obs == image.n_obs + count["rna"]
    assert run.n_obs == image.n_obs + count["image"]
    assert [chr(int(v)) for v in image.X[:, 0]] == list(image.obs_names)
    assert list(image.obs_names) == [name for name in ours if name in set(image.obs_names)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_rejects_the_pair(value: float) -> None:
    run = embedded(list("ab"))
    run.X[1, 1] = value
    image, rejects = join_embeddings(transcripts(list("ab")), run)
    assert list(image.obs_names) == ["a"]
    assert rejects[["obs_id", "modality", "code"]].to_numpy().tolist() == [
        ["b", "rna", "not_finite"],
        ["b", "image", "not_finite"],
    ]
    run.X[:] = value
    with pytest.raises(JointError, match="numbers alone"):
        join_embeddings(transcripts(list("ab")), run)


def test_inputs_stay_as_they_are() -> None:
    rna, run = transcripts(list("ab")), embedded(list("ba"))
    rna.X.flags.writeable = run.X.flags.writeable = False
    image, _ = join_embeddings(rna, run)
    image.X[:] = -1
    assert list(run.obs_names) == ["image#0", "image#1"]
    assert list(run.obs.columns) == [JOIN_COLUMN]
    assert run.X.min() > 0


def test_the_key_may_be_another_column_or_the_names() -> None:
    rna = transcripts(list("ab"))
    image, _ = join_embeddings(rna, embedded(list("ba"), column="spot"), key="spot")
    assert image.X[:, 0].tolist() == [97, 98]
    run = embedded(list("ba"))
    run.obs_names = list("ab")  # by names the rows are the other way round
    assert join_embeddings(rna, run, key="")[0].X[:, 0].tolist() == [98, 97]


def test_nothing_in_common_shows_an_id_of_each_side() -> None:
    with pytest.raises(JointError, match=r"'a'.*'image#0'") as caught:
        join_embeddings(transcripts(["a"]), embedded(["x"]), key="nowhere")
    assert caught.value.code == "no_common_cells"


def test_join_error_refuses_any_row_without_a_partner() -> None:
    with pytest.raises(JointError, match="1 unpaired") as caught:
        join_embeddings(transcripts(list("ab")), embedded(["a"]), join="error")
    assert caught.value.code == "unpaired"
    assert join_embeddings(transcripts(["a"]), embedded(["a"]), join="error")[1].empty
    with pytest.raises(ValueError, match="outer"):
        join_embeddings(transcripts(["a"]), embedded(["a"]), join="outer")


def test_repeated_and_missing_ids_are_refused() -> None:
    with pytest.raises(InputError, match=r"embeddings \(cell_id\): 1 ids .* \['a'\]"):
        join_embeddings(transcripts(list("ab")), embedded(list("aab")))
    run = embedded(list("ab"))
    run.obs[JOIN_COLUMN] = pd.Categorical(["a", None])
    with pytest.raises(InputError, match="empty in 1 of 2"):
        join_embeddings(transcripts(list("ab")), run)


def test_mudata_has_both_modalities_and_the_counts() -> None:
    data, rejects = join_mudata(transcripts(list("dab")), embedded(list("bxd")))
    assert list(data.mod["rna"].obs_names) == list(data.mod["image"].obs_names) == ["d", "b"]
    assert data.mod["rna"].X[:, 0].tolist() == [0, 6]
    assert data.mod["image"].X[:, 0].tolist() == [ord("d"), ord("b")]
    assert data.uns["joining"] == {"rows_rna": 3, "rows_image": 3, "joined": 2, "rejected_unpaired": 2}
    assert len(rejects) == 2
