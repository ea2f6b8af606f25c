"""``microsnoop joint`` from files to report in this process, and its exit codes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import anndata as ad
import numpy as np
import pytest
import yaml

from microsnoop_apps.joint import pictures
from microsnoop_apps.joint import run as module
from microsnoop_apps.joint.tables import SCORES_HEADER
from microsnoop_integrations.anndata_io import read
from microsnoop_integrations.joint.mudata_io import read_mudata
from microsnoop_integrations.muse.model import Muse

Run = Callable[..., tuple[int, str, str]]
Planted = Callable[..., tuple[ad.AnnData, ad.AnnData]]
QUICK: dict[str, Any] = {
    "title": "Planted", "seeds": 2, "shuffles": 1, "bootstrap": 20, "permutations": 20,
    "muse": {"init_epochs": 1, "init_steps": 4, "n_epochs": 1, "n_steps": 4, "k": 10},
    "methods": ["transcripts", "images", "concat", "muse", "shuffled"],
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, planted: Planted) -> Callable[..., Path]:
    """Write cells and a configuration; return the configuration's path."""

    def write(**settings: Any) -> Path:
        rna, image = planted()
        rna[np.r_[40:96, :40]].copy().write_h5ad(tmp_path / "rna.h5ad")  # not in the order of the ids
        image[:94].copy().write_h5ad(tmp_path / "image.h5ad")
        given = {"rna": str(tmp_path / "rna.h5ad"), "image": str(tmp_path / "image.h5ad")}
        path = tmp_path / "joint.yaml"
        path.write_text(yaml.safe_dump(QUICK | {"input": given, "out": str(tmp_path / "out")} | settings))
        return path

    return write


def test_everything_is_written_and_rows_are_accounted_for(
    run: Run, place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "umap", lambda latent, *, seed: latent[:, :2].astype(float))
    out = tmp_path / "out"
    out.mkdir()
    (out / "places.png").write_text("of an earlier run")
    code, said, problems = run("joint", place(), "--labels", "kind", "--seed", 3, "--set", "groups=field")
    assert (code, [line for line in problems.splitlines() if "error" in line]) == (0, [])
    assert "96 cells = 94 paired + 2 rejected (unpaired 2)" in said
    assert "Agreement with kind" in said
    assert "kind: 4 labels in 94 cells" in said
    names = {path.name for path in out.iterdir()}
    assert names == {
        "joint.h5mu", "joint.h5ad", "muse.safetensors", "muse.json", "scores.csv", "stability.csv",
        "genes_by_cluster.csv", "genes_in_image_space.csv", "rejects.csv", "maps.png", "agreement.png", "history.png",
        "report.html", "report.md",
    }  # fmt: skip
    with (out / "scores.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == SCORES_HEADER
    assert [row[0] for row in rows] == ["transcripts", "images", "concat", "MUSE", "MUSE, shuffled pairs"]
    data = read_mudata(out / "joint.h5mu")
    assert data.obs_names[0] == "cell040"
    np.testing.assert_array_equal(data.obsm["X_umap_muse"], data.obsm["X_muse"][:, :2])
    with (out / "rejects.csv").open(newline="") as file:
        assert [row[2] for row in csv.reader(file)] == ["code", "unpaired", "unpaired"]


def test_files_hold_the_same_result_and_the_model_gives_it_again(
    run: Run, place: Callable[..., Path], tmp_path: Path
) -> None:
    assert run("joint", place(), "--no-pictures")[0] == 0
    out = tmp_path / "out"
    assert not list(out.glob("*.png"))
    data, twin, model = read_mudata(out / "joint.h5mu"), read(out / "joint.h5ad"), Muse.load(out)
    assert list(data.mod) == ["rna", "image"]
    for key in ("X_muse", "X_concat"):
        np.testing.assert_array_equal(data.obsm[key], twin.obsm[key])
    for key in ("muse_leiden", "muse_weight_rna", "kind"):
        assert data.obs[key].astype(str).tolist() == twin.obs[key].astype(str).tolist()
    rows = [model.obs_ids_.index(name) for name in data.obs_names]
    np.testing.assert_array_equal(data.obsm["X_muse"], model.latent_[rows])
    assert "X_pca" in data["rna"].obsm
    assert json.loads(model.about_["configuration"])["title"] == "Planted"
    assert model.preparation_ is not None
    joint = data.uns["joint"]
    assert joint["balance"].startswith("96 cells = 94 paired")
    assert isinstance(json.loads(joint["findings_json"]), list)
    assert not any("shuffled" in key for key in (*data.obsm, *data.obs))


def test_the_same_seed_gives_the_same_scores(run: Run, place: Callable[..., Path], tmp_path: Path) -> None:
    few = ("--set", "methods=[transcripts, images, muse]", "--set", "bootstrap=20")

    def scores(name: str, seed: int) -> list[list[str]]:
        out = tmp_path / name
        assert (
            run("joint", place(), "--no-pictures", "--out", out, "--seed", seed, "--set", "seeds=1", *few)[0]
            == 0
        )
        with (out / "scores.csv").open(newline="") as file:
            return [row[:-1] for row in csv.reader(file)]  # the last column is seconds

    first = scores("a", 0)
    assert scores("b", 0) == first
    assert scores("c", 1) != first


def test_options_alone_are_enough(
    run: Run, place: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place()
    seen: list[Any] = []
    monkeypatch.setattr(module, "analyse", lambda config, **keywords: seen.append((config, keywords)))
    code, *_ = run(
        "joint", "--rna", tmp_path / "rna.h5ad", "--image", tmp_path / "image.h5ad", "--labels", "a", "--labels", "b",
        "--data", tmp_path, "--no-pictures",
    )  # fmt: skip
    assert code == 0
    ((config, keywords),) = seen
    assert (config.labels, config.out, config.seed) == (["a", "b"], "runs/joint", 0)
    assert keywords == {"root": str(tmp_path), "pictures": False}


def test_a_simulation_goes_its_own_way(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fake = ModuleType("microsnoop_apps.joint_simulation.run")
    fake.run_simulation = lambda config, **keywords: seen.append((config, keywords))  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "microsnoop_apps.joint_simulation.run", fake)
    path = tmp_path / "simulation.yaml"
    path.write_text(yaml.safe_dump({"title": "S", "simulation": {}, "muse": {"k": 12}, "out": "there"}))
    assert run("joint", path)[0] == 0
    ((config, keywords),) = seen
    assert type(config).__name__ == "JointSimulationConfig"
    assert (keywords["out"], keywords["title"], keywords["muse"].k) == (Path("there"), "S", 12)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "seeds=0"], 2, "seeds"),
        (["--set", "nonsense=1"], 2, "nonsense"),
        (["--set", "nonsense"], 2, "--set needs key=value"),
        (["--labels", "typo"], 2, "the cells have no column 'typo'"),
        (["--set", "genes.groups=[ERBB2]"], 2, "the transcripts have no ERBB2"),
        (["--rna", "nowhere.h5ad"], 1, "there is no file nowhere.h5ad"),
        (["--image", "nowhere"], 1, "no embeddings to join"),
        (["--mudata", "nowhere.h5mu"], 1, "nowhere.h5mu"),
        (["--set", "input.join=error"], 1, "2 unpaired"),
        (["--set", "muse.k=93"], 1, "at least 95 are needed"),
    ],
)
def test_errors_are_one_line_with_the_exit_code_of_their_kind(
    run: Run, place: Callable[..., Path], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    found, _, problems = run("joint", place(), *arguments)
    assert found == code
    assert said in problems
    assert "Traceback" not in problems
    assert not (tmp_path / "out").exists()


def test_nothing_to_work_on_and_help(run: Run) -> None:
    code, _, problems = run("joint")
    assert code == 2
    assert "--rna" in problems
    code, text, _ = run("joint", "--help")
    assert code == 0
    for word in ("her2st-b4.yaml", "--mudata", "--labels", "--no-pictures", "configs/joint/simulation.yaml"):
        assert word in text


def test_negative_transcripts_are_refused(run: Run, place: Callable[..., Path], tmp_path: Path) -> None:
    path = place()
    rna = read(tmp_path / "rna.h5ad")
    rna.X = rna.X - 5
    rna.write_h5ad(tmp_path / "rna.h5ad")
    code, _, problems = run("joint", path)
    assert code == 1
    assert "negative" in problems
    assert "counts or log-counts" in problems
