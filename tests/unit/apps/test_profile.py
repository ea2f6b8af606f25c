"""``microsnoop profile`` from table to report, on plates whose batches and mechanisms were planted."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.files import load
from microsnoop_apps import cli
from microsnoop_apps.profiling.tables import METRICS_SCHEMA, PREDICTION_HEADER, RULE_HEADER
from microsnoop_integrations.anndata_io import read
from microsnoop_integrations.profiles import correct

Run = Callable[..., tuple[int, str, str]]

FEATURES = [f"f{j:02d}" for j in range(12)]
RULES = [
    "NSC",
    "NSCB string × plate",
    "NSCB string × batch",
    "NSCB any_different × batch",
    "NSCB disjoint × batch",
]
SPHERING = {"sphering": [{"method": "sphering", "reg": "shrinkage"}]}
QUICK = {
    "title": "Planted",
    "plates": {"batch": "week", "controls": {"compound": ["DMSO"]}},
    "methods": SPHERING,
    "score": {"permutations": 20, "map_null": 100},
}
HOSTILE = "<script>alert('title')</script>"


def planted(seed: int = 0) -> pd.DataFrame:
    """Return 108 wells: 2 weeks of 3 plates, each 6 x DMSO and 6 compounds of 3 mechanisms at 2 concentrations.

    Every compound is of one week; what varies among controls (three directions of large noise, plates, weeks) is larger
    than what mechanisms do; and features have scales from 10 to 1,000.
    """
    rng = np.random.default_rng(seed)
    d = len(FEATURES)
    scale, base = np.array([1000, 100, 10] * 4, float), np.linspace(1, 3, d)
    noise, week = rng.normal(size=(3, d)), rng.normal(size=d) * 2.5
    effects = rng.normal(size=(3, d))
    effects *= 1.6 / np.linalg.norm(effects, axis=1, keepdims=True)
    names = [f"{row}{column:02d}" for row in "ABC" for column in range(1, 7)]
    rows: list[dict[str, Any]] = []
    for batch in range(2):
        compounds = [(m, f"{'abc'[m]}{2 * batch + k + 1}") for m in range(3) for k in range(2)]
        layout: list[tuple[str, float, int | None]] = [("DMSO", 0.0, None)] * 6
        layout += [(name, dose, m) for m, name in compounds for dose in (3.0, 10.0)]
        for number in range(1, 4):
            plate = rng.normal() * noise[0] * 0.5
            for well, (compound, dose, m) in zip(names, layout, strict=True):
                x = base + batch * week + plate + rng.normal(size=3) * 1.2 @ noise + 0.15 * rng.normal(size=d)
                if m is not None:
                    x += effects[m] * (0.8 if dose == 3 else 1.2)
                known = {"Metadata_Plate": f"P{batch + 1}{number}", "Metadata_Well": well, "week": f"w{batch + 1}",
                         "compound": compound, "concentration": dose,
                         "moa": None if m is None else f"mode {'ABC'[m]}"}  # fmt: skip
                rows.append(known | dict(zip(FEATURES, x * scale, strict=True)))
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def wells() -> pd.DataFrame:
    return planted()


@pytest.fixture
def place(tmp_path: Path, wells: pd.DataFrame) -> Callable[..., Path]:
    """Write a table and a configuration; return the configuration's path."""

    def write(frame: pd.DataFrame | None = None, **settings: Any) -> Path:
        (wells if frame is None else frame).to_parquet(tmp_path / "wells.parquet")
        config: dict[str, Any] = json.loads(json.dumps(QUICK))
        config |= {"input": {"table": str(tmp_path / "wells.parquet")}, "out": str(tmp_path / "out")}
        for key, value in settings.items():
            *parents, leaf = key.split("__")
            section = config
            for parent in parents:
                section = section.setdefault(parent, {})
            section[leaf] = value
        path = tmp_path / "profile.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def balance_of(text: str) -> str:
    (line,) = [line for line in text.splitlines() if " rows = " in line or " rows ≠ " in line]
    return line


def scores_of(out: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Return right and n by method and rule."""
    with (out / "scores.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == RULE_HEADER
    counts = [tuple(map(int, row[2].split("/"))) for row in rows]
    return {(row[0], row[1]): (n[0], n[1]) for row, n in zip(rows, counts, strict=True)}


def matrix_of(frame: pd.DataFrame) -> NDArray[np.float64]:
    return frame[FEATURES].to_numpy(np.float64)


# one run with everything but pictures; the tests below look at what it left


def everything(folder: Path, wells: pd.DataFrame) -> Path:
    """Write a table with hostile names and rows that are not finite, and a configuration; return that one's path."""
    table = wells.copy()
    table["Metadata_Plate"] = table["Metadata_Plate"].replace("P12", "<img src=x onerror=alert(1)>")
    table.loc[[2, 30], "f03"] = [
        np.nan,
        np.inf,
    ]  # a control, and a treated well of the plate with the strange name
    table["n_cells"] = np.arange(len(table)) + 50
    table.to_parquet(folder / "wells.parquet")
    config = QUICK | {
        "title": HOSTILE,
        "input": {"table": "wells.parquet", "level": "well"},
        "methods": SPHERING | {
            "MAD": [{"method": "mad", "scope": "plate", "minimum_rows": 5}],
            "MAD of 8": [{"method": "mad", "scope": "plate", "minimum_rows": 8}],
        },
        "out": str(folder / "out"),
    }  # fmt: skip
    (folder / "profile.yaml").write_text(yaml.safe_dump(config))
    return folder / "profile.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, wells: pd.DataFrame) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("profile")
    config = everything(folder, wells)
    result = CliRunner().invoke(cli.app, ["profile", str(config), "--data", str(folder), "--no-pictures"])
    assert result.exit_code == 0, result.output
    return folder / "out", result.output


TABLES = {
    "report.html", "report.md", "treatments.h5ad", "treatments.parquet", "rows.h5ad", "rejects.parquet", "scores.csv",
    "metrics.parquet", "predictions.csv",
}  # fmt: skip
CORRECTION = {"correction.safetensors", "correction.json"}


def test_every_file_is_there_and_no_other(finished: tuple[Path, str]) -> None:
    out, text = finished
    assert {path.name for path in out.iterdir()} == TABLES | CORRECTION
    assert all(name in text for name in ("report.html", "treatments.h5ad", "rows.h5ad", "scores.csv"))


def test_pictures_stand_in_the_report(run: Run, tmp_path: Path, wells: pd.DataFrame) -> None:
    config, out = everything(tmp_path, wells), tmp_path / "out"
    heights: list[int] = []
    some = {"scores.png", "replicates.png", "plates.png", "maps.png"}
    for options, pictures, correction in (
        ([], some | {"controls.png", "spectrum.png"}, CORRECTION),
        (["--use", "none"], some, set()),  # those of the correction before are gone
    ):
        code, _, err = run("profile", config, "--data", tmp_path, *options)
        assert (code, err) == (0, "")
        assert {path.name for path in out.iterdir()} == TABLES | pictures | correction
        assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)
        report, page = (out / "report.md").read_text(), (out / "report.html").read_text()
        assert all(f"]({name})" in report for name in pictures)
        assert page.count("<img ") == page.count("data:image/png;base64,") == len(pictures)
        assert "<script" not in page
        heights.append(int.from_bytes((out / "maps.png").read_bytes()[20:24], "big"))
    assert heights[0] > 1.4 * heights[1]  # a map before and a map after, then one alone


def test_rows_balance_and_rejects_are_named(finished: tuple[Path, str]) -> None:
    out, text = finished
    line = balance_of(text)
    assert line.startswith(
        "108 rows = 106 read + 2 rejected (not_finite 2); 106 rows are corrected, 35 of them cont"
    )
    assert "25 treatments (controls among them)." in line
    rejects = pd.read_parquet(out / "rejects.parquet")
    assert list(rejects.columns) == ["obs_id", "code", "message"]
    assert rejects["obs_id"].tolist() == ["P11/A03", "<img src=x onerror=alert(1)>/C01"]
    assert rejects["code"].tolist() == ["not_finite"] * 2
    assert rejects["message"].str.contains("f03").all()
    rows = ad.read_h5ad(out / "rows.h5ad")
    assert not set(rejects["obs_id"]) & set(rows.obs_names)
    assert int(rows.obs["is_control"].sum()) == 35
    line_of_report = next(one for one in (out / "report.md").read_text().splitlines() if " rows = " in one)
    assert line_of_report.replace("\\", "") == line


def test_rows_keep_what_came_and_the_correction_gives_the_rest(
    finished: tuple[Path, str], wells: pd.DataFrame
) -> None:
    out, _ = finished
    rows = ad.read_h5ad(out / "rows.h5ad")
    kept = wells.drop(index=[2, 30])
    np.testing.assert_array_equal(rows.X, matrix_of(kept).astype(np.float32))
    assert list(rows.var_names) == FEATURES
    again = load(out / "correction").transform(rows.X, features=list(rows.var_names))
    assert again.dtype == rows.layers["corrected"].dtype == np.float32
    assert again.tobytes() == rows.layers["corrected"].tobytes()
    control = rows.obs["is_control"].to_numpy(bool)
    np.testing.assert_allclose(rows.layers["corrected"][control].mean(axis=0), 0, atol=1e-5)


def test_treatments_agree_and_are_means_of_corrected_rows(finished: tuple[Path, str]) -> None:
    out, _ = finished
    treatments, rows = read(out / "treatments.h5ad"), ad.read_h5ad(out / "rows.h5ad")
    table = pq.read_table(out / "treatments.parquet")
    frame = table.to_pandas()
    assert json.loads(table.schema.metadata[b"microsnoop"])["kind"] == "profiles"
    assert frame["obs_id"].tolist() == list(treatments.obs_names)
    np.testing.assert_array_equal(frame[FEATURES].to_numpy(), treatments.X)
    assert frame[FEATURES].dtypes.eq(np.float32).all()
    for name in ("n_rows", "n_wells", "n_plates", "n_batches", "n_cells"):
        assert frame[name].tolist() == treatments.obs[name].tolist()
    assert frame["obs_id"].tolist()[:4] == ["DMSO@0", "a1@3", "a1@10", "a2@3"]  # natural order
    member = rows.obs["treatment"].astype(str).to_numpy()
    for i, name in enumerate(frame["obs_id"]):
        np.testing.assert_allclose(
            treatments.X[i], rows.layers["corrected"][member == name].mean(axis=0), rtol=1e-4, atol=1e-5
        )
    assert frame["n_rows"].tolist() == [(member == name).sum() for name in frame["obs_id"]]
    assert frame["n_cells"].sum() == rows.obs["n_cells"].sum()
    known, of_rows = treatments.uns["batch_correction"], rows.uns["batch_correction"]
    assert known["method"] == of_rows["method"] == "sphering"
    assert json.loads(known["config_json"])["plates"]["batch"] == "week"
    assert set(known) - set(of_rows) == {"X"}  # what is corrected: of treatments X, of rows a layer
    assert set(of_rows) - set(known) == {"corrected"}
    assert known["X"]["n_control"] == of_rows["corrected"]["n_control"] == 35
    with pytest.raises(CorrectionError, match="corrected already"):
        correct(treatments, SPHERING["sphering"], controls={"compound": ["DMSO"]})


def test_the_strict_score_rises_where_batches_were_planted(finished: tuple[Path, str]) -> None:
    scores = scores_of(finished[0])
    assert {rule for _, rule in scores} == set(RULES)
    assert {name for name, _ in scores} == {"none", "PCA", "cell count", "sphering", "MAD"}
    assert {n for _, n in scores.values()} == {24}
    strict = {name: right for (name, rule), (right, _) in scores.items() if rule == RULES[-1]}
    assert strict["none"] <= 10
    assert strict["cell count"] <= 14
    assert strict["none"] < strict["MAD"]
    assert strict["sphering"] >= 23


def test_scores_follow_from_predictions_and_metrics_say_the_same(finished: tuple[Path, str]) -> None:
    out, _ = finished
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == PREDICTION_HEADER
    scores = scores_of(out)
    assert len(rows) == 24 * len(scores)
    table = pq.read_table(out / "metrics.parquet")
    assert table.schema.equals(METRICS_SCHEMA)
    metrics = table.to_pandas().set_index(["method", "metric"]).sort_index()
    for key, (right, n) in scores.items():
        of_rule = [row for row in rows if (row["method"], row["score"]) == key]
        assert all((row["truth"] == row["predicted"]) == (row["right"] == "True") for row in of_rule)
        assert all(row["nearest"].partition("@")[0] != row["treatment"].partition("@")[0] for row in of_rule)
        assert sum(row["right"] == "True" for row in of_rule) == right
        assert len(of_rule) == n
        one = metrics.loc[key].iloc[0]
        assert (one["k"], one["n"], one["value"]) == (right, n, right / n)
        assert one["ci_low"] < one["value"] < one["ci_high"] or right == n
    groups = metrics.loc[("sphering", "mAP replicates against controls")]
    assert groups["group"].notna().sum() == 24
    assert groups[groups["group"].isna()]["value"].iloc[0] == pytest.approx(
        groups["value"].iloc[1:].mean(), abs=0.05
    )


def test_a_method_that_cannot_be_computed_is_listed_and_the_others_go_on(finished: tuple[Path, str]) -> None:
    out, text = finished
    reason = "mad: <img src=x onerror=alert(1)> has 6 control row(s), needed are 8"
    assert f"not computed: MAD of 8: {reason}" in text
    assert "Not computed: MAD of 8. mad: " in (out / "report.md").read_text()


def test_findings_are_printed_and_reported(finished: tuple[Path, str]) -> None:
    out, text = finished
    report = (out / "report.md").read_text()
    for code in ("missing_wells", "batch_remains", "not_white"):
        assert f"careful ({code}): " in text
        assert f"**{code}**" in report


def test_what_the_metadata_say_is_never_markup(finished: tuple[Path, str]) -> None:
    out, _ = finished
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert" in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<img " not in page
    assert all(name in page for name in ("sphering", "MAD", "cell count", "NSCB disjoint × batch"))


# without pictures


def test_profiles_and_predictions_of_a_naive_twin(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    config = place(methods={"whitening": [{"method": "sphering", "reg": "none"}]}, use="whitening")
    code, _, err = run("profile", config, "--no-pictures")
    assert (code, err) == (0, "")
    out = config.parent / "out"
    x, control = (
        matrix_of(wells).astype(np.float32).astype(np.float64),
        (wells["compound"] == "DMSO").to_numpy(),
    )
    z = (x - x[control].mean(axis=0)) / x[control].std(axis=0, ddof=1)
    values, vectors = np.linalg.eigh(np.corrcoef(z[control], rowvar=False))
    white = z @ (vectors / np.sqrt(values)) @ vectors.T
    label = wells["compound"] + "@" + wells["concentration"].map("{:g}".format)
    frame = pd.read_parquet(out / "treatments.parquet").set_index("obs_id")
    assert set(frame.index) == set(label)
    mean = {name: white[label == name].mean(axis=0) for name in frame.index}
    for name, profile in mean.items():
        np.testing.assert_allclose(
            frame.loc[name, FEATURES].to_numpy(np.float64), profile, rtol=1e-3, atol=1e-4
        )
    week = dict(zip(label, wells["week"], strict=True))
    with (out / "predictions.csv").open(newline="") as file:
        given = [
            row for row in csv.DictReader(file) if row["method"] == "whitening" and row["score"] == RULES[-1]
        ]
    assert len(given) == 24
    for row in given:
        own = mean[row["treatment"]]
        rivals = [name for name in mean if name != "DMSO@0" and week[name] != week[row["treatment"]]]
        similar = [mean[name] @ own / np.linalg.norm(mean[name]) / np.linalg.norm(own) for name in rivals]
        assert row["nearest"] == rivals[int(np.argmax(similar))]


def test_two_runs_give_the_same_bytes_and_the_order_of_rows_does_not_count(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    config = place()
    out = config.parent / "out"
    files = (
        "treatments.parquet",
        "scores.csv",
        "predictions.csv",
        "metrics.parquet",
        "correction.safetensors",
    )
    assert run("profile", config, "--no-pictures")[0] == 0
    first = {name: (out / name).read_bytes() for name in files}
    assert run("profile", config, "--no-pictures", "--out", config.parent / "again")[0] == 0
    assert {name: (config.parent / "again" / name).read_bytes() for name in files} == first
    place(wells.sample(frac=1, random_state=3))
    assert run("profile", config, "--no-pictures", "--out", config.parent / "mixed")[0] == 0
    tables = [pd.read_parquet(folder / "treatments.parquet") for folder in (out, config.parent / "mixed")]
    assert tables[0]["obs_id"].tolist() == tables[1]["obs_id"].tolist()
    np.testing.assert_allclose(tables[0][FEATURES], tables[1][FEATURES], rtol=1e-4, atol=1e-4)
    assert scores_of(out) == scores_of(config.parent / "mixed")


def test_options_say_the_same_as_a_file(run: Run, place: Callable[..., Path], wells: pd.DataFrame) -> None:
    config = place(methods={"MAD": [{"method": "mad", "minimum_rows": 4}]}, use="MAD")
    assert run("profile", config, "--no-pictures")[0] == 0
    folder = config.parent
    what = ["compound", "concentration", "moa"]
    wells.drop(columns=[*what, "week"]).to_csv(folder / "wells.csv", index=False)
    plate_map = wells[["Metadata_Plate", "Metadata_Well", "week", *what]].sample(frac=1, random_state=1)
    plate_map.to_csv(folder / "map.csv", index=False)
    code, text, err = run(
        "profile", "--table", "wells.csv", "--data", folder, "--plate-map", "map.csv", "--control", "compound=DMSO",
        "--control", "compound=water", "--batch", "week", "--use", "sphering", "--out", folder / "options",
        "--no-pictures", "--set", "use=MAD", "--set", "methods={MAD: [{method: mad, minimum_rows: 4}]}",
        "--set", "score.permutations=20", "--set", "score.map_null=100",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "108 rows = 108 read + 0 rejected" in text
    tables = [
        pd.read_parquet(folder / name / "treatments.parquet").set_index("obs_id")
        for name in ("out", "options")
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_like=True)
    assert scores_of(folder / "out") == scores_of(folder / "options")


def test_without_methods_the_default_ones_are_compared(run: Run, place: Callable[..., Path]) -> None:
    config = place()
    settings = yaml.safe_load(config.read_text())
    del settings["methods"]
    config.write_text(yaml.safe_dump(settings))
    assert run("profile", config, "--no-pictures")[0] == 0
    assert {name for name, _ in scores_of(config.parent / "out")} == {"none", "PCA", "MAD", "sphering"}


def test_without_a_label_only_replicates_are_judged(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    config = place(wells.drop(columns="moa"), score__label=None)
    code, text, _ = run("profile", config, "--no-pictures")
    assert code == 0
    assert "Mechanism of the nearest" not in text
    assert "replicates against controls" in text
    out = config.parent / "out"
    assert scores_of(out) == {}
    assert (out / "predictions.csv").read_text().splitlines() == [",".join(PREDICTION_HEADER)]
    assert "No mechanisms to score" in (out / "report.md").read_text()
    metrics = set(pd.read_parquet(out / "metrics.parquet")["metric"])
    assert "mAP replicates against controls" in metrics
    assert not metrics & set(RULES)


def test_rows_can_be_left_out_and_are_counted(run: Run, place: Callable[..., Path]) -> None:
    config = place(input__where={"concentration": ["0", "10.0"], "week": ["w1", "w2"]})
    code, text, _ = run("profile", config, "--no-pictures")
    assert code == 0
    assert balance_of(text).startswith(
        "108 rows = 72 read + 0 rejected + 36 left out by `where`; 72 rows are"
    )
    frame = pd.read_parquet(config.parent / "out" / "treatments.parquet")
    assert sorted(frame["concentration"].unique()) == [0, 10]
    assert len(frame) == 13


def fields(wells: pd.DataFrame) -> pd.DataFrame:
    """Return two images of every well, which differ; of the last plate a third one, which equals the second."""
    shift = np.random.default_rng(5).normal(size=(len(wells), len(FEATURES))) * np.tile([1000, 100, 10], 4)
    images = [wells.assign(Metadata_Site=1), wells.assign(Metadata_Site=2)]
    images[1][FEATURES] += shift * 0.01
    more = images[1][images[1]["Metadata_Plate"] == "P23"].assign(Metadata_Site=3)
    return pd.concat([*images, more], ignore_index=True)


def test_images_become_wells_before_they_are_corrected(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    images = fields(wells)
    config = place(images, levels__correct="well")
    code, text, _ = run("profile", config, "--no-pictures")
    assert code == 0
    assert balance_of(text).startswith(
        "234 rows = 234 read + 0 rejected; 108 rows are corrected, 36 of them controls"
    )
    rows = ad.read_h5ad(config.parent / "out" / "rows.h5ad")
    expected = images.groupby(["Metadata_Plate", "Metadata_Well"])[FEATURES].mean()
    np.testing.assert_allclose(rows.X, expected.to_numpy(), rtol=1e-5)
    assert rows.obs["n_rows"].tolist() == [3 if name.startswith("P23") else 2 for name in rows.obs_names]
    frame = pd.read_parquet(config.parent / "out" / "treatments.parquet")
    assert frame["n_rows"].sum() == 234


def test_groups_of_too_few_rows_are_rejects_and_rows_still_balance(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    images = fields(wells).drop(index=range(6, 18))  # one image of each treated well of the first plate
    config = place(images, levels__correct="well", levels__min_rows=2)
    code, text, _ = run("profile", config, "--no-pictures")
    assert code == 0
    line = balance_of(text)
    assert line.startswith(
        "222 rows = 222 read + 0 rejected; 96 rows are corrected, 36 of them controls; 25 tr"
    )
    assert line.endswith("; 12 rejected on the way to treatments (too_few_members 12).")
    rejects = pd.read_parquet(config.parent / "out" / "rejects.parquet")
    assert rejects["obs_id"].tolist() == [f"P11/{row}{n:02d}" for row in "BC" for n in range(1, 7)]


def test_every_well_counts_the_same_where_that_is_asked_for(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    images = fields(wells)
    for name, through in (("rows", False), ("wells", True)):
        config = place(images, levels__through_wells=through, out=str(Path(place().parent) / name))
        assert run("profile", config, "--no-pictures")[0] == 0
        out = config.parent / name
        rows, frame = ad.read_h5ad(out / "rows.h5ad"), pd.read_parquet(out / "treatments.parquet")
        corrected = pd.DataFrame(rows.layers["corrected"], columns=FEATURES).astype(np.float64)
        keys = [rows.obs[key].astype(str).to_numpy() for key in ("treatment", "plate", "well")]
        if through:
            per_well = corrected.groupby(keys).mean()
            expected = per_well.groupby(level=0).mean()
        else:
            expected = corrected.groupby(keys[0]).mean()
        np.testing.assert_allclose(
            frame.set_index("obs_id")[FEATURES], expected.loc[frame["obs_id"]], rtol=1e-3, atol=1e-4
        )
        assert frame["n_rows"].sum() == 234


def test_uncorrected_profiles_can_be_asked_for_and_leave_no_correction_of_before(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    config = place()
    out = config.parent / "out"
    assert run("profile", config, "--no-pictures")[0] == 0
    assert (out / "correction.json").is_file()
    (out / "maps.png").touch()
    code, text, _ = run("profile", config, "--no-pictures", "--use", "none")
    assert code == 0
    assert not list(out.glob("correction.*")) + list(out.glob("*.png"))
    assert "corrected beside it" not in text
    rows = ad.read_h5ad(out / "rows.h5ad")
    assert not list(rows.layers) + list(rows.obsm)
    frame = pd.read_parquet(out / "treatments.parquet").set_index("obs_id")
    label = wells["compound"] + "@" + wells["concentration"].map("{:g}".format)
    expected = wells.groupby(label)[FEATURES].mean()
    np.testing.assert_allclose(frame[FEATURES], expected.loc[frame.index], rtol=1e-5)


def test_fewer_features_stand_beside_the_rows(run: Run, place: Callable[..., Path]) -> None:
    steps = [{"method": "standardize", "scope": "global"}, {"method": "pca", "n_components": 5}]
    config = place(methods={"five": steps}, use="five")
    assert run("profile", config, "--no-pictures")[0] == 0
    rows = ad.read_h5ad(config.parent / "out" / "rows.h5ad")
    assert rows.X.shape == (108, 12)
    assert not list(rows.layers)
    again = load(config.parent / "out" / "correction").transform(rows.X, features=list(rows.var_names))
    assert again.shape == (108, 5)
    assert again.tobytes() == rows.obsm["X_corrected"].tobytes()


def test_too_few_rows_of_a_batch_stop_harmony_alone(run: Run, place: Callable[..., Path]) -> None:
    config = place(methods=SPHERING | {"Harmony": [{"method": "harmony"}]}, plates__batch="plate")
    code, text, _ = run("profile", config, "--no-pictures")
    assert code == 0
    (line,) = [line for line in text.splitlines() if "not computed: Harmony" in line]
    assert "18" in line
    assert "30" in line
    assert ("sphering", "NSC") in scores_of(config.parent / "out")


def test_the_method_in_use_must_be_computed(run: Run, place: Callable[..., Path]) -> None:
    config = place(methods={"MAD": [{"method": "mad"}]}, use="MAD")
    code, _, err = run("profile", config, "--no-pictures")
    assert code == 1
    assert "error: mad: P11 has 6 control row(s), needed are 8" in err
    assert "fix: " in err
    assert not (config.parent / "out").exists()


def test_a_count_of_cells_with_gaps_is_no_baseline(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    table = wells.assign(n_cells=100.0)
    table.loc[7, "n_cells"] = np.nan
    code, text, _ = run("profile", place(table), "--no-pictures")
    assert code == 0
    assert "not computed: cell count: n_cells counts no cells in 1 of 108 rows: P11/B02" in text
    code, text, _ = run("profile", place(score__cell_count="moa"), "--no-pictures")
    assert code == 0
    assert "not computed: cell count: moa counts no cells in 108 of 108 rows" in text


def test_a_method_may_be_named_like_a_baseline(run: Run, place: Callable[..., Path]) -> None:
    named = {"cell count": SPHERING["sphering"], "PCA": SPHERING["sphering"]}
    config = place(methods=SPHERING | named)
    assert run("profile", config, "--no-pictures")[0] == 0
    scores = scores_of(config.parent / "out")
    assert scores["cell count", "NSC"] == scores["PCA", "NSC"] == scores["sphering", "NSC"]


def test_one_batch_has_no_strict_score_and_says_so(run: Run, place: Callable[..., Path]) -> None:
    config = place(input__where={"week": ["w1"]})
    code, text, _ = run("profile", config, "--no-pictures")
    assert code == 0
    assert {rule for _, rule in scores_of(config.parent / "out")} <= set(RULES[:2])
    assert "batch_remains" not in text
    report = (config.parent / "out" / "report.md").read_text()
    assert "fewer than two batches" in report
    assert " nan " not in report + text


def test_a_guard_rail_that_cannot_be_computed_is_a_finding(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    few = wells[wells["week"] == "w1"].drop(
        index=[0, 18, 36]
    )  # 15 controls of 12 features: four folds of five are 12
    config = place(few, methods={"exact": [{"method": "sphering", "reg": "none"}]}, use="exact")
    code, text, err = run("profile", config, "--no-pictures")
    assert (code, err) == (0, "")
    assert "careful (not_checked): held-out controls could not be judged: all rows: 12 control rows" in text


def test_what_is_left_of_batches_is_not_guessed_from_few_controls(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    spare = (wells["compound"] == "DMSO") & (wells["Metadata_Well"] != "A01")
    code, text, _ = run("profile", place(wells[~spare]), "--no-pictures")
    assert code == 0
    assert "78 rows are corrected, 6 of them controls" in text
    assert "batch_remains" not in text
    assert " nan " not in text


def test_help_teaches(run: Run) -> None:
    code, text, _ = run("profile", "--help")
    assert code == 0
    words = " ".join(text.split())
    for word in ("configs/profile/bbbc021.yaml", "--table", "--plate-map", "--control", "compound=DMSO", "--batch",
                 "--use", "--set", "--no-pictures", "negative controls", "NSCB"):  # fmt: skip
        assert word in words


WRONG: dict[str, tuple[list[str], int, list[str]]] = {
    "unknown method": (
        ["--set", "methods={x: [{method: wizard}]}", "--use", "x"], 2,
        ["step 1: unknown method 'wizard'", "choose one of sphering"]),
    "unknown parameter": (
        ["--set", "methods={x: [{method: mad, stength: 3}]}", "--use", "x"], 2,
        ["step 1 (mad): unknown parameter 'stength'", "minimum_rows"]),
    "unknown key": (["--set", "score.strength=3"], 2, ["score.strength", "docs/configuration.md"]),
    "use of nothing": (["--use", "magic"], 2, ["use: 'magic' is not among the methods", "sphering"]),
    "no controls": (["--control", "compound=water"], 1, ["plate_without_controls", "of 6 plates have no negative"]),
    "no such column of controls": (["--control", "role=neg"], 1, ["no_control_column", "role"]),
    "half a control": (["--control", "DMSO"], 2, ["--control needs column=value, got 'DMSO'", "compound=DMSO"]),
    "half a setting": (["--set", "score.seed"], 2, ["--set needs key=value"]),
    "missing table": (["--table", "nowhere.parquet"], 1, ["nowhere.parquet"]),
    "missing map": (["--plate-map", "nowhere.csv"], 1, ["nowhere.csv"]),
    "no such batch": (["--batch", "month"], 1, ["plates.batch", "no column 'month'", "it has plate"]),
    "no such treatment": (["--set", "plates.treatment=[dose]"], 1, ["plates.treatment", "no column 'dose'"]),
    "no such count": (["--set", "score.cell_count=nuclei"], 2, ["score.cell_count", "no column 'nuclei'"]),
    "nothing left": (["--set", "input.where={week: [w9]}"], 1, ["keeps none of the 108 rows", "week holds w1, w2"]),
    "nowhere to look": (["--set", "input.where={month: [m1]}"], 1, ["input.where", "no column 'month'", "it has"]),
    "no such label": (["--set", "score.label=target"], 1, ["no target", "score.label"]),
    "no such feature": (["--set", "input.features=[zz]"], 1, ["'zz'"]),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_one_clear_line_and_nothing_is_written(
    wrong: str, run: Run, place: Callable[..., Path]
) -> None:
    options, expected, texts = WRONG[wrong]
    config = place()
    code, _, err = run("profile", config, "--no-pictures", *options)
    assert code == expected, err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert "--debug" not in err  # that would be an error nobody expected
    for text in texts:
        assert text in err
    assert not (config.parent / "out").exists()


def test_nothing_to_work_on(run: Run, tmp_path: Path) -> None:
    code, _, err = run("profile")
    assert (code, err.count("error: ")) == (2, 1)
    assert "give a YAML file of configs/profile, or --table FILE" in err
    code, _, err = run("profile", tmp_path / "none.yaml")
    assert code == 2
    assert "cannot read the configuration" in err


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ({"compound": "b1", "moa": "mode B"}, ["1 well(s) hold rows of several treatments: P11/B03", "plate map"]),
        ({"compound": "DMSO", "concentration": 0.0, "moa": None}, ["1 well(s) hold rows of several", "P11/B03"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("level", ["levels__correct", "levels__through_wells"])
def test_a_well_of_two_treatments_cannot_be_aggregated(
    level: str,
    change: dict[str, Any],
    texts: list[str],
    run: Run,
    place: Callable[..., Path],
    wells: pd.DataFrame,
) -> None:
    images = fields(wells)
    for name, value in change.items():
        images.loc[8, name] = value
    config = place(images, **{level: "well" if level == "levels__correct" else True})
    code, _, err = run("profile", config, "--no-pictures")
    assert code == 1
    assert all(text in err for text in texts)


def test_a_treatment_is_a_control_or_not(run: Run, place: Callable[..., Path], wells: pd.DataFrame) -> None:
    role = pd.Series("sample", wells.index).where(wells["compound"] != "DMSO", "vehicle")
    role[[0, 20]] = "spare"
    config = place(wells.assign(role=role), plates__controls={"role": ["vehicle"]})
    code, _, err = run("profile", config, "--no-pictures")
    assert code == 1
    assert "1 treatment(s) are controls in some rows and not in others: DMSO@0" in err
    assert "plates.treatment" in err
    config = place(
        wells.assign(role=role),
        plates__controls={"role": ["vehicle"]},
        plates__treatment=["compound", "concentration", "role"],
    )
    code, text, err = run("profile", config, "--no-pictures")
    assert (code, err) == (0, "")
    assert "108 rows are corrected, 34 of them controls; 26 treatments" in text


def test_controls_that_do_not_survive_aggregation_are_missed(
    run: Run, place: Callable[..., Path], wells: pd.DataFrame
) -> None:
    images = fields(wells)
    alone = (images["compound"] == "DMSO") & (images["Metadata_Site"] > 1)
    config = place(images[~alone], levels__correct="well", levels__min_rows=2)
    code, _, err = run("profile", config, "--no-pictures")
    assert code == 1
    assert "no row is a control (compound in DMSO)" in err
