"""Cells of a joint analysis from every kind of source; rows in = rows out + rows rejected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest

from microsnoop.core.errors import ConfigError, InputError, JointError
from microsnoop.core.joint_config import JointConfig
from microsnoop_apps.joint import sources
from microsnoop_apps.joint.loading import Loaded, load
from microsnoop_integrations import seqfish, spatial
from microsnoop_integrations.joint.joining import reject_frame

Planted = Callable[..., tuple[ad.AnnData, ad.AnnData]]


@pytest.fixture
def files(tmp_path: Path, planted: Planted) -> Callable[..., dict[str, str]]:
    """Write both modalities; return the section ``input``."""

    def write(rna: ad.AnnData | None = None, image: ad.AnnData | None = None) -> dict[str, str]:
        made = planted()
        (made[0] if rna is None else rna).write_h5ad(tmp_path / "rna.h5ad")
        (made[1] if image is None else image).write_h5ad(tmp_path / "image.h5ad")
        return {"rna": str(tmp_path / "rna.h5ad"), "image": str(tmp_path / "image.h5ad")}

    return write


def loaded(given: dict[str, Any], **settings: Any) -> Loaded:
    config: dict[str, Any] = {"input": given, "muse": {"k": 10}, "image": {"standardise": "no"}}
    return load(JointConfig.model_validate(config | settings), root="nowhere")


def test_rows_are_joined_by_id_whatever_their_order(
    files: Callable[..., dict[str, str]], planted: Planted
) -> None:
    rna, image = planted()
    found = loaded(files(), labels=["kind"], image={"standardise": "no", "components": None})
    assert found.paired.obs_ids == tuple(sorted(rna.obs_names))
    by_id = pd.DataFrame(image.X, index=image.obs["cell_id"]).loc[list(found.paired.obs_ids)]
    np.testing.assert_array_equal(found.paired.y, by_id.to_numpy())
    assert (
        found.labels[0].values.tolist()
        == rna.obs["kind"].astype(str).loc[list(found.paired.obs_ids)].tolist()
    )
    assert found.balance().startswith(
        "96 cells = 96 paired + 0 rejected; read: 96 rows of transcripts, 96 of images"
    )


def test_every_cell_that_is_lost_is_counted_once(
    files: Callable[..., dict[str, str]], planted: Planted
) -> None:
    rna, image = planted()
    rna.X[0] = 0  # an empty cell
    image.X[image.obs["cell_id"] == rna.obs_names[1]] = np.nan
    image = image[image.obs["cell_id"] != rna.obs_names[2]].copy()
    rna = rna[rna.obs_names != "cell003"].copy()
    found = loaded(files(rna, image))
    lost = found.rejects.drop_duplicates("obs_id").set_index("obs_id")["code"].to_dict()
    assert lost == {
        "cell000": "empty_cell", "cell001": "not_finite", "cell002": "unpaired", "cell003": "unpaired"
    }  # fmt: skip
    assert len(found.paired.obs_ids) == 92
    balance = "96 cells = 92 paired + 4 rejected (unpaired 2, not_finite 1, empty_cell 1)"
    assert found.balance().replace("not_finite 1, unpaired 2", "unpaired 2, not_finite 1").startswith(balance)
    assert "95 rows of transcripts, 95 of images" in found.balance()


def test_join_error_refuses_cells_of_one_side(files: Callable[..., dict[str, str]], planted: Planted) -> None:
    rna, _ = planted()
    given = files(rna[:90].copy())
    assert "6 rejected (unpaired 6)" in loaded(given).balance()
    with pytest.raises(JointError, match="6 unpaired"):
        loaded(given | {"join": "error"})


def test_a_balance_that_does_not_hold_is_shown(files: Callable[..., dict[str, str]]) -> None:
    found = loaded(files())
    ids = found.sources.ids | {"lost on the way"}
    broken = SimpleNamespace(**{**vars(found.sources), "ids": ids})
    wrong = Loaded(found.paired, broken, (), None, False, ())  # type: ignore[arg-type]
    assert "97 cells ≠ 96 paired + 0 rejected" in wrong.balance()


def test_labels_that_are_missing_are_an_error_and_gaps_are_said(
    files: Callable[..., dict[str, str]], planted: Planted
) -> None:
    rna, _ = planted()
    rna.obs["part"] = rna.obs["kind"].astype(object).where(np.arange(96) % 4 > 0, None)
    rna.obs["same"] = "one"
    rna.obs["number"] = np.arange(96.0)
    given = files(rna)
    with pytest.raises(ConfigError, match="labels: the cells have no column 'typo'") as caught:
        loaded(given, labels=["kind", "typo"])
    assert "kind" in caught.value.hint
    with pytest.raises(ConfigError, match="96 values in 96 cells"):
        loaded(given, labels=["number"])
    found = loaded(given, labels=["part", "same"])
    assert [annotation.known.sum() for annotation in found.labels] == [72, 96]
    assert "24 of 96 cells have no part: not in its scores" in found.notes
    assert "same has 1 label(s) in these cells: nothing to score" in found.notes


def test_groups_are_checked(files: Callable[..., dict[str, str]], planted: Planted) -> None:
    rna, _ = planted()
    rna.obs["gap"] = rna.obs["field"].where(np.arange(96) > 0, None)
    rna.obs["same"] = "one"
    given = files(rna)
    assert loaded(given, groups="field").n_groups == 4
    assert "all cells have the same same: intervals are over cells" in loaded(given, groups="same").notes
    with pytest.raises(ConfigError, match="groups: 1 of 96 cells have no gap"):
        loaded(given, groups="gap")
    with pytest.raises(ConfigError, match="groups: the cells have no column 'plate'"):
        loaded(given, groups="plate")


def test_a_join_key_that_was_asked_for_must_be_there(
    files: Callable[..., dict[str, str]], planted: Planted
) -> None:
    rna, image = planted()
    with pytest.raises(ConfigError, match="no column 'barcode'") as caught:
        loaded(files() | {"join_key": "barcode"})
    assert "cell_id" in caught.value.hint
    image.obs_names = image.obs["cell_id"].astype(str).to_numpy()
    image.obs = image.obs.drop(columns="cell_id")
    assert "96 paired" in loaded(files(rna, image)).balance()  # without the column, row names are ids
    assert "96 paired" in loaded(files(rna, image) | {"join_key": ""}).balance()


def test_mudata_is_read_with_what_is_known_of_the_whole(tmp_path: Path, planted: Planted) -> None:
    rna, image = planted()
    image.obs_names = image.obs["cell_id"].astype(str).to_numpy()
    rna.obs = rna.obs.drop(columns="kind")
    with mudata.set_options(pull_on_update=False):
        data = mudata.MuData({"rna": rna, "pictures": image[:90].copy()})
        known = planted()[0].obs["kind"]
        data.obs["kind"] = known.reindex(data.obs_names).astype(str).to_numpy()
        data.write_h5mu(tmp_path / "both.h5mu")
    given = {"mudata": str(tmp_path / "both.h5mu")}
    with pytest.raises(ConfigError, match="no modality 'image', it has rna, pictures"):
        loaded(given)
    found = loaded(given | {"image_name": "pictures"}, labels=["kind"])
    assert found.balance().startswith("96 cells = 90 paired + 6 rejected (unpaired 6)")
    assert found.labels[0].values.tolist() == known.loc[list(found.paired.obs_ids)].tolist()


@pytest.mark.parametrize("name", ["rna", "image"])
def test_what_is_not_there_is_named(files: Callable[..., dict[str, str]], tmp_path: Path, name: str) -> None:
    given = files()
    with pytest.raises(InputError, match=r"missing\.h5ad") as caught:
        loaded(given | {name: str(tmp_path / "missing.h5ad")})
    if name == "image":
        assert "microsnoop embed" in caught.value.hint
    (tmp_path / "broken.h5ad").write_text("no")
    with pytest.raises(InputError, match=r"broken\.h5ad is not an AnnData file"):
        loaded(given | {name: str(tmp_path / "broken.h5ad")})
    with pytest.raises(InputError, match=r"cells.csv (is neither|is not there)"):
        loaded(given | {name: str(tmp_path / "cells.csv")})


def test_a_run_directory_may_be_named_by_its_folder(tmp_path: Path) -> None:
    run = tmp_path / "b4" / "run"
    run.mkdir(parents=True)
    assert sources.run_directory(tmp_path / "b4") is None
    (run / "run.json").write_text("{}")
    assert sources.run_directory(tmp_path / "b4") == run
    assert sources.run_directory(run) == run


def test_spots_say_what_to_run_first_and_keep_their_rejects(
    tmp_path: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    rna, image = planted()
    asked: dict[str, Any] = {}

    def read_spots(source: str, **keywords: Any) -> Any:
        asked.update(keywords, source=source)
        rejects = reject_frame([("cell900", "rna", "no_counts", "no counts")])
        return SimpleNamespace(rna=rna, rejects=rejects, notes=("derived",), section="B4")

    monkeypatch.setattr(spatial, "read_spots", read_spots)
    given = {
        "spots": {"source": "her2st", "section": "B4", "pixel_size_um": 0.7}, "image": str(tmp_path / "runs/b4"),
    }  # fmt: skip
    with pytest.raises(InputError, match="no embeddings to join") as caught:
        loaded(given)
    assert (
        f"write_patch_inputs(read_spots('her2st', section='B4'), '{tmp_path}/runs/b4')" in caught.value.hint
    )
    assert f"microsnoop embed {tmp_path}/runs/b4/embed.yaml" in caught.value.hint
    image.write_h5ad(tmp_path / "run.h5ad")
    found = loaded(given | {"image": str(tmp_path / "run.h5ad")})
    assert asked == {"source": "her2st", "section": "B4", "image": None, "pixel_size_um": 0.7}
    assert found.balance().startswith("97 cells = 96 paired + 1 rejected (no_counts 1)")
    assert found.notes[0] == "derived"
    assert found.sources.names["transcripts"] == "her2st, section B4"


def test_standardise_auto_takes_what_is_found_again(
    files: Callable[..., dict[str, str]], planted: Planted
) -> None:
    rna, image = planted(n=160)
    noisy = image.X.copy()
    noisy[:, :6] = 1_000 * np.random.default_rng(1).normal(size=(len(noisy), 6))  # loud features of noise
    loud = ad.AnnData(noisy, obs=image.obs, var=image.var)
    found = loaded(files(rna, loud), image={"standardise": "auto"})
    assert found.standardised
    assert (found.paired.preparation.image.sd[:6] > 500).all()  # and so it was done
    assert not loaded(files(rna, image), image={"standardise": "auto"}).standardised
    assert loaded(files(rna, image), image={"standardise": "yes"}).standardised
    assert not loaded(files(rna, loud), image={"standardise": "no"}).standardised


def test_seqfish_cells_are_joined_through_the_table_beside_the_run(
    tmp_path: Path, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    rna, image = planted()
    order = list(image.obs.pop("cell_id"))
    image.obs_names = [f"field#{i}" for i in range(96)]
    with mudata.set_options(pull_on_update=False):
        data = mudata.MuData({"rna": rna})
    rejects = reject_frame([("cell900", "rna", "no_counts", "no counts of this cell")])
    data.uns["seqfish"] = {
        "licence": "academic only",
        "missing": np.array(["images"], object),
        "rejects": rejects,
    }
    monkeypatch.setattr(seqfish, "read_seqfish", lambda *_, **__: data)
    given: dict[str, Any] = {"seqfish": {"folder": "plus", "field": 0}, "image": str(tmp_path / "run.h5ad")}
    with pytest.raises(InputError, match="no embeddings to join") as caught:
        loaded(given)
    assert "write_embedding_inputs" in caught.value.hint
    image[:95].copy().write_h5ad(tmp_path / "run.h5ad")
    with pytest.raises(InputError, match=r"there is no .*cells\.csv"):
        loaded(given)
    lines = ["image,x_px,y_px,label,cell_id", *(f"field,1,1,{i},{name}" for i, name in enumerate(order))]
    (tmp_path / "cells.csv").write_text("\n".join(lines))
    found = loaded(given, labels=["kind"])
    assert found.balance().startswith("97 cells = 95 paired + 2 rejected (no_counts 1, unpaired 1)")
    assert found.notes[:2] == ("licence of the transcripts: academic only", "not in the folder: images")
    by_id = dict(zip(order, image.X.tolist(), strict=True))
    np.testing.assert_array_equal(found.paired.y_raw, [by_id[name] for name in found.paired.obs_ids])
    elsewhere = given | {"seqfish": {"folder": "plus", "cells": str(tmp_path / "other.csv")}}
    with pytest.raises(InputError, match=r"other\.csv"):
        loaded(elsewhere)
