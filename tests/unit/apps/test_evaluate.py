"""Evaluation without images: recipes, the AnnData route, tables that balance, and errors with their fix."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import matthews_corrcoef

from microsnoop.core.config_file import load_settings
from microsnoop.core.evaluate_config import EvaluateConfig
from microsnoop.io.labelled import read_labelled
from microsnoop_apps.evaluation.recipes import load_recipes
from microsnoop_apps.evaluation.report import NO_BASELINES
from microsnoop_apps.evaluation.sources import anndata_source
from microsnoop_apps.evaluation.tables import markdown, percent

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "configs" / "evaluate").glob("*.yaml"))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """90 rows of three kinds on six plates; one row without a kind."""
    rng = np.random.default_rng(0)
    kind = np.arange(90) % 3
    obs = pd.DataFrame(
        {
            "kind": pd.Categorical.from_codes(kind, ["a", "b", "c"]),
            "plate": [f"p{i // 15}" for i in range(90)],
        },
        index=[f"row{i}" for i in range(90)],
    )
    obs.loc["row7", "kind"] = None
    x = (rng.normal(size=(90, 8)) + 1.5 * np.eye(8)[kind]).astype(np.float32)
    data = ad.AnnData(x, obs=obs, uns={"microsnoop": {"encoder": "mine", "encoder_sha256": "ab" * 32}})
    data.write_h5ad(tmp_path / "mine.h5ad")
    return tmp_path / "mine.h5ad"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads(path: Path) -> None:
    recipe = load_settings(path, EvaluateConfig)
    assert recipe.title
    assert recipe.input is not None


def test_there_are_recipes() -> None:
    names = {"jurkat-7", "jurkat-5", "rbc12-cells", "rbc-disease", "rbc-disease-modes"}
    assert names <= {path.stem for path in RECIPES}


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "n_input", "n", "classes"),
    [
        ("jurkat-7", 7916, 3416, 7),
        ("jurkat-5", 7916, 3416, 5),
        ("rbc12-cells", 7216, 7196, 12),
        ("rbc-disease", 121, 121, 5),
        ("rbc-disease-modes", 121, 121, 5),
    ],
)
def test_rows_of_the_shipped_recipes(
    shared_data: Path, name: str, n_input: int, n: int, classes: int
) -> None:
    recipe = load_settings(ROOT / "configs" / "evaluate" / f"{name}.yaml", EvaluateConfig)
    _, rows = read_labelled(recipe, root=str(shared_data))
    assert (rows.n_input, len(rows.ids), len(set(rows.classes))) == (n_input, n, classes)
    assert n_input == n + sum(rows.left_out.values())
    if name == "jurkat-5":
        assert rows.classes.count("Interphase") == 2700
        assert rows.left_out == {"other experiment": 4500}
    if name == "rbc12-cells":
        assert rows.left_out == {"type excluded": 20}
        assert len(set(rows.groups or ())) > 190


def test_an_anndata_file_is_scored_and_every_row_accounted_for(
    run: Run, embedded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    code, text, err = run(
        "evaluate", embedded, "--label", "kind", "--group", "plate", "--no-baselines", "--out", out
    )
    assert code == 0, err
    assert text.count(NO_BASELINES) == 2
    assert "90 rows = 89 scored + 1 no label" in text
    assert "mine (abababababab)" in text
    assert "leakage: NOT CHECKED" in text
    assert "chance: majority" in text
    report = (out / "report.md").read_text()
    assert NO_BASELINES in report
    assert "Leakage: NOT CHECKED (no --pool)." in report
    for link in re.findall(r"\]\(([^)]+)\)", report):
        assert (out / link).stat().st_size > 5000, link
    assert (out / "confusion-mine-mine.png").is_file()

    predictions = pq.read_table(out / "predictions.parquet").to_pandas()
    assert set(predictions["variant"]) == {"knn", "logistic", "chance"}
    knn = predictions.query("encoder == 'mine' and variant == 'knn' and level == 'folds'")
    assert len(knn) == knn["obs_id"].nunique() == 89
    assert knn.groupby("group")["fold"].nunique().max() == 1
    truth = dict(zip((d := ad.read_h5ad(embedded).obs).index, d["kind"], strict=True))
    assert all(truth[r.obs_id] == r.truth for r in knn.itertuples())
    metrics = pq.read_table(out / "metrics.parquet").to_pandas()
    mine = metrics.query("encoder == 'mine' and variant == 'knn' and level == 'folds'").set_index("metric")
    assert mine.loc["accuracy", "value"] == pytest.approx((knn["truth"] == knn["predicted"]).mean())
    assert mine.loc["accuracy", "k"] == (knn["truth"] == knn["predicted"]).sum()
    assert mine.loc["mcc", "value"] == pytest.approx(matthews_corrcoef(knn["truth"], knn["predicted"]))
    assert mine.loc["accuracy", "ci_method"] == "bootstrap-groups"
    assert mine.loc["accuracy", "ci_low"] < mine.loc["accuracy", "value"] < mine.loc["accuracy", "ci_high"]
    assert set(mine.loc["recall", "class"]) == {"a", "b", "c"}
    assert mine.loc["recall", "n"].sum() == 89
    with (out / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["encoder"] for row in rows] == ["mine", "chance: majority", "chance: stratified"]
    assert float(rows[0]["knn_accuracy"]) == pytest.approx(mine.loc["accuracy", "value"], abs=1e-6)
    assert float(rows[0]["knn_mcc"]) == pytest.approx(mine.loc["mcc", "value"], abs=1e-6)
    assert rows[1]["probe_accuracy"] == ""
    assert (rows[0]["n"], rows[0]["classes"]) == ("89", "3")


def test_two_files_are_compared_on_the_rows_they_share(run: Run, embedded: Path, tmp_path: Path) -> None:
    other = ad.read_h5ad(embedded)[10:].copy()
    other.X = np.random.default_rng(1).normal(size=other.shape).astype(np.float32)
    other.write_h5ad(tmp_path / "noise.h5ad")
    (tmp_path / "both.yaml").write_text(
        f"title: t\nlabel: kind\nanndata: {{mine: {embedded}, noise: {tmp_path / 'noise.h5ad'}}}\n"
    )
    code, text, err = run("evaluate", tmp_path / "both.yaml", "--no-baselines", "--out", tmp_path / "r")
    assert code == 0, err
    assert "90 rows = 80 scored + 1 no label + 9 not embedded by every encoder" in text
    found = re.search(r"knn +mine +noise +(\d+) +(\d+) +(\S+) +\+", text)
    assert found, text
    assert int(found[1]) > int(found[2])
    assert float(found[3]) < 0.05


def test_vectors_follow_the_ids_that_are_asked_for(embedded: Path) -> None:
    source, columns = anndata_source("mine", embedded.name, root=str(embedded.parent))
    x = np.asarray(ad.read_h5ad(embedded).X)
    assert columns["row_id"] == [f"row{i}" for i in range(90)]
    np.testing.assert_array_equal(source.rows(("row5", "row80", "row0")), x[[5, 80, 0]])
    assert source.signature == "mine (abababababab)"


def test_rows_without_a_direction_are_named(run: Run, embedded: Path, tmp_path: Path) -> None:
    data = ad.read_h5ad(embedded)
    data.X[[3, 11]] = 0
    data.X[12, 0] = np.nan
    data.write_h5ad(embedded)
    code, _, err = run("evaluate", embedded, "--label", "kind", "--no-baselines", "--out", tmp_path / "r")
    assert code == 1
    assert (
        "mine: 3 rows have NaN, infinite numbers or nothing but zeros, e.g. 'row3', 'row11', 'row12'" in err
    )


def test_baselines_are_not_left_out_in_silence(run: Run, embedded: Path, tmp_path: Path) -> None:
    code, _, err = run("evaluate", embedded, "--label", "kind", "--out", tmp_path / "r")
    assert code == 2
    assert "no baseline can be computed for mine" in err
    assert "--no-baselines" in err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["nothing"], "there is no recipe 'nothing'", 2),
        (["missing.yaml"], "cannot read the configuration", 2),
        (["mine.h5ad"], "needs --label", 2),
        (["mine.h5ad", "--label", "colour", "--no-baselines"], "no column 'colour'", 1),
        (["mine.h5ad", "--label", "plate", "--group", "plate", "--no-baselines"], "must be different", 2),
        (["gone.h5ad", "--label", "kind", "--no-baselines"], "cannot read the AnnData file", 1),
        (["jurkat-7", "--data", "nowhere"], "nowhere/jurkat/labels.csv", 1),
        (["jurkat-7", "--encoder", "no"], "there is no encoder named 'no'", 1),
        (["jurkat-7", "--set", "surplus=1"], "surplus: Extra inputs", 2),
        (["jurkat-7", "--max-per-class", "1"], "max_per_class", 2),
    ],
)
def test_errors_are_one_line_with_the_fix(
    run: Run, embedded: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str, code: int
) -> None:
    monkeypatch.chdir(embedded.parent)
    monkeypatch.setenv("MICROSNOOP_DATA", str(embedded.parent))
    (embedded.parent / "configs").symlink_to(ROOT / "configs")
    got, _, err = run("evaluate", *arguments)
    assert message in err
    if "nowhere" in arguments:
        assert "MICROSNOOP_DATA" in err
    assert got == code
    assert "Traceback" not in err


def test_help_teaches(run: Run) -> None:
    code, out, _ = run("evaluate", "--help")
    assert code == 0
    for word in ("--max-per-class", "--no-baselines", "--pool", "--label", "microsnoop evaluate"):
        assert word in out


def test_all_recipes_without_variants_by_default_and_overrides_reach_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    recipes = load_recipes([], overrides={"max_per_class": 7, "embed.input_px": 96})
    plain = [path.stem for path in RECIPES if not load_settings(path, EvaluateConfig).variants]
    assert list(recipes) == plain
    assert set(plain) >= {"jurkat-7", "jurkat-5", "rbc12-cells", "rbc-disease"}
    assert all(r.max_per_class == 7 and r.embed.input_px == 96 for r in recipes.values())


def test_tables_for_people() -> None:
    assert (percent(0.12345), percent(float("nan")), percent(1)) == ("12.3", "-", "100.0")
    assert markdown(("a", "b"), [["x|y", "1"]]) == "| a | b |\n|---|---:|\n| x\\|y | 1 |\n"


def test_the_data_root_does_not_depend_on_where_manifests_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from microsnoop_apps.evaluation.recipes import data_root

    monkeypatch.chdir(tmp_path)
    assert data_root("../data") == str(tmp_path / ".." / "data")
    monkeypatch.setenv("MICROSNOOP_DATA", "here")
    assert data_root("") == str(tmp_path / "here")
    monkeypatch.delenv("MICROSNOOP_DATA")
    assert Path(data_root("")).is_absolute()
    assert data_root("s3://bucket/data") == "s3://bucket/data"
