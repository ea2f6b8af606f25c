"""An evaluation end to end on real nuclei and real Ray: features, leakage, resuming, one report."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from microsnoop.core.config import EmbedConfig
from microsnoop.io.images import read_image
from microsnoop.io.store import RunStore
from microsnoop.io.verify import verify
from microsnoop.ops.features import sample_features
from microsnoop.ops.intensity import plane_scaling
from microsnoop.pipelines.embed import embed
from microsnoop.pipelines.leakage import find_hits, hash_images, hash_pool
from microsnoop_apps import cli
from microsnoop_apps.evaluation import run as evaluation
from microsnoop_apps.evaluation import sources
from microsnoop_integrations.anndata_io import export, read

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
ROOT = Path(__file__).parents[2]


def jpeg(plane: np.ndarray) -> bytes:
    low, high = float(plane.min()), float(plane.max())
    data = io.BytesIO()
    Image.fromarray(np.round((plane - low) / (high - low) * 255).astype(np.uint8)).save(data, "JPEG")
    return data.getvalue()


@pytest.fixture
def cells(tmp_path: Path, examples: Path) -> Path:
    """A recipe for 17 real fields, six windows each, classified by cell line; one window lies outside its field."""
    with (tmp_path / "cells.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "x_px", "y_px"])
        for path in sorted((examples / "images").glob("*.tif")):
            writer.writerows([path.name, 60 + 60 * i, 60 + 50 * j] for i in range(3) for j in range(2))
        writer.writerow([path.name, 5000, 60])
    (tmp_path / "lines.yaml").write_text(
        "title: Which line is it?\n"
        f"input:\n  pattern: {examples}/images/{{line}}_{{session}}_s{{field}}.tif\n"
        "  cells: cells.csv\n  cell_size_px: 48\n"
        "label: line\ngroup: image_id\nfolds: 3\nembed: {input_px: 32}\n"
    )
    return tmp_path / "lines.yaml"


def test_features_are_rows_like_any_others(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    folder = folder_of(5)
    (folder / "broken.tif").write_bytes(b"no image")
    cfg = EmbedConfig.model_validate(
        {"input": {"folder": str(folder)}, "run_dir": str(tmp_path / "f"), "encoder": "features"}
    )
    summary = embed(cfg)
    assert (summary.written, summary.rejected, summary.rejected_by_code) == (5, 1, {"decode_error": 1})
    assert verify(tmp_path / "f").ok
    assert embed(cfg).computed == 0
    data = read(export(tmp_path / "f"))
    assert data.uns["microsnoop"]["encoder"] == "features"
    assert not data.uns["microsnoop"]["encoder_trained"]
    for name, row in zip(data.obs_names, np.asarray(data.X), strict=True):
        planes = read_image(str(folder / name)).planes
        scaling = plane_scaling(planes)
        np.testing.assert_array_equal(row, sample_features(planes, scaling.offset, scaling.span)[0])


def test_a_planted_leak_is_found_and_nothing_else(tmp_path: Path, examples: Path, cells: Path) -> None:
    fields = [read_image(str(path)).planes[0] for path in sorted((examples / "images").glob("*.tif"))]
    pool = {
        "planted-field": jpeg(fields[4]),
        "planted-cell": jpeg(fields[16][36:84, 36:84]),
        "turned": jpeg(np.rot90(fields[7])),
        "empty": jpeg(np.pad(np.zeros((63, 64)), ((0, 1), (0, 0)), constant_values=0) + np.eye(64) * 1e-9),
    }
    (tmp_path / "pool").mkdir()
    pq.write_table(
        pa.table({"tile_id": list(pool), "jpeg": list(pool.values())}), tmp_path / "pool" / "t.parquet"
    )
    cfg = EmbedConfig.model_validate(
        {
            "input": {
                "pattern": f"{examples}/images/{{line}}_{{session}}_s{{field}}.tif",
                "cells": str(tmp_path / "cells.csv"),
                "cell_size_px": 48,
            },
            "run_dir": "unused",
        }
    )
    hashed = hash_pool(tmp_path / "pool")
    planes = hash_images(cfg)
    assert len(planes.names) + planes.flat == 17 + 17 * 6
    assert planes.unreadable == 1  # the window outside
    same = [hit for hit in find_hits(planes, hashed) if hit.same_picture]
    assert {hit.tile for hit in same} == {"planted-field", "planted-cell"}
    assert {hit.plane.rsplit(" ", 1)[0] for hit in same} == {"MCC13/2023-05-31/43", "U2OS/2022-10-14/7#1"}


def test_evaluate_from_recipe_to_report(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cells: Path
) -> None:
    for module in (evaluation, sources):  # the large networks take minutes here and are other tests' matter
        monkeypatch.setattr(module, "BASELINES", ("features",))

    def evaluate(*more: str) -> str:
        arguments = ["evaluate", str(cells), "--encoder", "pixels16", "--data", str(tmp_path), *more]
        monkeypatch.setattr(sys, "argv", ["microsnoop", *arguments, "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = capfd.readouterr()
        assert not caught.value.code, shown.out + shown.err
        return shown.out

    printed = evaluate()
    assert printed.count("expected 103 = written 102 + rejected 1 (shape_mismatch 1)") == 2
    assert "103 rows = 102 scored + 1 not embedded by every encoder" in printed
    assert "rejected by pixels16: shape_mismatch 1; features: shape_mismatch 1" in printed
    scores = dict(
        re.findall(r"^ +(pixels16|features|chance: majority)[^%]*? +(\d+\.\d) ± ", printed, re.MULTILINE)
    )
    assert set(scores) == {"pixels16", "features", "chance: majority"}
    assert float(scores["features"]) > float(scores["chance: majority"])
    report = (tmp_path / "out" / "report.md").read_text()
    assert "Groups: 17 (image_id), never on two sides" in report
    assert "![confusion matrix of pixels16 on lines](confusion-lines-pixels16.png)" in report
    runs = sorted((tmp_path / "out" / "embeddings").glob("*/*/run.json"))
    assert len(runs) == 2
    assert all(verify(run.parent).ok for run in runs)

    again = evaluate()
    assert again.count("0 computed") == 2
    assert re.findall(r"\d+\.\d ± \d+\.\d", again) == re.findall(r"\d+\.\d ± \d+\.\d", printed)

    fewer = evaluate("--max-per-class", "8", "--no-baselines")
    assert "over max_per_class" in fewer
    assert len(list((tmp_path / "out" / "embeddings").glob("*/*/run.json"))) == 3
    # vectors that exist already, joined by id to the same images: the same score, and no row twice
    file = next(run.parent for run in runs if run.parent.name == "pixels16").with_suffix(".h5ad")
    shuffled = read(file)[::-1].copy()
    shuffled.write_h5ad(tmp_path / "theirs.h5ad")
    cells.write_text(cells.read_text() + "anndata: {theirs: theirs.h5ad}\n")
    both = evaluate("--no-baselines")
    found = dict(re.findall(r"^ +(theirs|pixels16) \(no weights\)(.*)$", both, re.MULTILINE))
    assert found["theirs"].split() == found["pixels16"].split() != []
    assert re.search(r"knn +theirs +pixels16 +0 +0 +1 +\+0.0", both)

    counts = [RunStore(run.parent).info["counts"]["expected"] for run in runs]
    assert counts == [103, 103]


def test_recipes_that_share_images_share_their_rows(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    folder_of: Callable[..., Path],
) -> None:
    folder = folder_of(30)
    names = sorted(path.name for path in folder.iterdir())
    (tmp_path / "m.csv").write_text(
        "uri,kind\n" + "".join(f"images/{name},{'abc'[i % 3]}\n" for i, name in enumerate(names))
    )
    settings = "title: t\ninput: {manifest: m.csv}\nlabel: kind\nembed: {input_px: 32}\n"
    (tmp_path / "three.yaml").write_text(f"{settings}max_per_class: 6\n")
    (tmp_path / "two.yaml").write_text(f"{settings}max_per_class: 9\nclasses: {{a or b: [a, b]}}\n")
    arguments = [str(tmp_path / "three.yaml"), str(tmp_path / "two.yaml"), "--data", str(tmp_path)]
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "microsnoop",
            "evaluate",
            *arguments,
            "--encoder",
            "pixels16",
            "--no-baselines",
            "--out",
            str(tmp_path / "o"),
        ],
    )
    with pytest.raises(SystemExit) as caught:
        cli.main()
    shown = capfd.readouterr().out
    assert not caught.value.code
    first, second = (int(n) for n in re.findall(r"^(\d+) computed", shown, re.MULTILINE))
    assert first == 18
    assert 0 < second < 18
    assert "expected 18 = written 18 + rejected 0" in shown
    assert all(verify(info.parent).ok for info in (tmp_path / "o" / "embeddings").glob("*/*/run.json"))
