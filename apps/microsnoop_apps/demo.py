"""``microsnoop demo``: the main job on real images, end to end, with a score against simple baselines."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import anndata as ad
import numpy as np

from microsnoop.core.config import EmbedConfig
from microsnoop.core.config_file import load_config
from microsnoop.core.errors import InputError
from microsnoop.io.images import read_image
from microsnoop.io.verify import verify
from microsnoop.models.registry import list_encoders
from microsnoop.ops.objects import boxes_from_mask
from microsnoop.ops.scoring import KnnScore, knn_score
from microsnoop.pipelines.measure import FEATURES
from microsnoop_apps.runs import embed_with_progress
from microsnoop_apps.terminal import say, show_rows, show_table
from microsnoop_integrations.anndata_io import export, read
from microsnoop_integrations.scanpy_steps import neighbours_umap_leiden, plot_umap

CONFIG = Path("configs/embed/demo.yaml")
_MASKS = Path("examples/nuclei/masks")
_DEBRIS_PX = 8
_LABEL, _GROUP = "line", "image_id"
# what an untrained network, hand-made features and ImageNet make of the same nuclei
_BASELINES = ("untrained", FEATURES, "efficientnet-lite0")


def run_demo(folder: Path) -> int:
    """Crop, embed, verify, export, score and draw; return the exit code.

    Raises
    ------
    InputError
        Not started from a checkout of the repository (the sample images are not in the package).
    """
    if not CONFIG.is_file() or not _MASKS.is_dir():
        raise InputError(
            f"the demo needs {CONFIG} and {_MASKS}",
            hint="run it from the top of a checkout of the repository",
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_cells(folder / "cells.csv")
    default = load_config(CONFIG).encoder
    scores: dict[str, KnnScore] = {}
    computed, complete = 0, True
    for encoder in (default, *_installed(_BASELINES)):
        cfg = load_config(
            CONFIG,
            overrides={
                "run_dir": str(folder / encoder),
                "encoder": encoder,
                "input.cells": str(folder / "cells.csv"),
            },
        )
        rows, good = _embed_and_check(cfg)
        computed, complete = computed + rows, complete and good
        scores[encoder] = _score(read(export(cfg.run_dir)), scaled=encoder == FEATURES)
    picture = _draw(folder / f"{default}.h5ad", folder / "umap.png", default)
    _report(scores, default)
    say(f"\n{computed:,} computed in all.")
    show_rows(
        [
            ("embeddings", f"{folder / default}/embeddings/*.parquet"),
            ("AnnData", f"{folder / default}.h5ad"),
            ("UMAP", str(picture)),
            ("next", f"python -c \"import anndata; print(anndata.read_h5ad('{folder / default}.h5ad'))\""),
        ]
    )
    return 0 if complete else 1


def _write_cells(path: Path) -> None:
    """Write the table of cells: the centre of each nucleus' box in the masks."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "label", "x_px", "y_px"])
    debris = cells = 0
    for mask_path in sorted(_MASKS.glob("*.png")):
        mask = read_image(str(mask_path)).planes[0]
        for label, box in boxes_from_mask(mask).items():
            if min(box.height_px, box.width_px) < _DEBRIS_PX:
                debris += 1
                continue
            cells += 1
            centre = (box.x0_px + box.width_px / 2, box.y0_px + box.height_px / 2)
            table.writerow([f"{mask_path.stem}.tif", label, *centre])
    if not path.is_file() or path.read_text(encoding="utf-8") != text.getvalue():
        path.write_text(text.getvalue(), encoding="utf-8")
    say(
        f"{cells} nuclei in {len(list(_MASKS.glob('*.png')))} fields; {debris} objects below {_DEBRIS_PX} px a side "
        "are debris and were left out"
    )


def _embed_and_check(cfg: EmbedConfig) -> tuple[int, bool]:
    summary = embed_with_progress(cfg)
    checked = verify(cfg.run_dir)
    say(f"verify {cfg.run_dir}: {checked.summary()}, {'nothing wrong' if checked.ok else 'PROBLEMS'}\n")
    for problem in checked.problems:
        say(f"  {problem}")
    return summary.computed, checked.ok


def _score(data: ad.AnnData, *, scaled: bool) -> KnnScore:
    """Score one encoder; features have units of their own, so each is standardised on the training part."""
    labels, groups = (data.obs[name].to_numpy(str) for name in (_LABEL, _GROUP))
    return knn_score(np.asarray(data.X), labels, groups, scaled=scaled)


def _installed(names: tuple[str, ...]) -> list[str]:
    """Return the baselines that can be used here; say what the others need."""
    listed = {entry.name: entry for entry in list_encoders()}
    missing = {name: listed[name].problem for name in names if name in listed and listed[name].problem}
    for name, problem in missing.items():
        say(f"the baseline {name} is left out: {problem}")
    return [name for name in names if name not in missing]


def _report(scores: dict[str, KnnScore], default: str) -> None:
    first = scores[default]
    say(
        f"\nWhich cell line is a nucleus from? k = {first.k} nearest neighbours by cosine, {first.folds} folds "
        f"grouped by field, {first.n} nuclei"
    )
    rows = [
        [name, f"{s.accuracy:.3f} ± {s.accuracy_sd:.3f}", f"{s.balanced_accuracy:.3f}"]
        for name, s in scores.items()
    ]
    rows.append(["chance (most frequent line)", f"{first.chance:.3f}", f"{first.chance_balanced:.3f}"])
    show_table(["encoder", "accuracy", "balanced accuracy"], rows)
    say("  Lines and imaging sessions go together in these fields: this shows the pipeline, not biology.")
    say("  `features` see raw brightness, which tells sessions apart; encoders see scaled planes.")


def _draw(source: Path, picture: Path, encoder: str) -> Path:
    data = read(source)
    neighbours_umap_leiden(data)
    return plot_umap(data, picture, color=_LABEL, title=f"Nuclei of four cell lines, encoder {encoder!r}")
