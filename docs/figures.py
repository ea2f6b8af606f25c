"""Make ``docs/images/demo.png`` from the results of ``make demo``: a field, its nuclei, and the map of all of them."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
from matplotlib.figure import Figure

from microsnoop.io.images import read_image
from microsnoop.ops.geometry import Box, cut
from microsnoop_integrations.scanpy_steps import neighbours_umap_leiden

LINES = {"HFF": "#0072B2", "MCC13": "#E69F00", "RPE1": "#009E73", "U2OS": "#CC79A7"}


def shown(planes: np.ndarray) -> np.ndarray:
    """Stretch a plane for the eye."""
    low, high = np.percentile(planes, (1, 99.7))
    return np.clip((planes[0] - low) / (high - low), 0, 1)


def main(run: Path, target: Path) -> None:
    """Draw the figure."""
    data = ad.read_h5ad(run)
    neighbours_umap_leiden(data)
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=[1, 0.95, 1.25])
    field = data.obs[data.obs["line"] == "U2OS"]["uri"].iloc[0]
    axes = left.subplots()
    axes.imshow(shown(read_image(str(field)).planes), cmap="gray")
    for _, row in data.obs[data.obs["uri"] == field].iterrows():
        size = row["height_px"]
        axes.plot(row["x0_px"] + size / 2, row["y0_px"] + size / 2, "+", color=LINES["U2OS"], markersize=5)
    axes.set(xlim=(0, 511), ylim=(511, 0), xticks=[], yticks=[], title="a field, its nuclei marked")
    grid = middle.subplots(4, 5)
    rng = np.random.default_rng(1)
    for line, cells in zip(LINES, grid, strict=True):
        chosen = data.obs[(data.obs["line"] == line) & (data.obs["flags"] == "")]
        for axes, (_, row) in zip(
            cells, chosen.iloc[rng.choice(len(chosen), 5, replace=False)].iterrows(), strict=True
        ):
            box = Box(*(int(row[name]) for name in ("y0_px", "x0_px", "height_px", "width_px")))
            axes.imshow(shown(cut(read_image(str(row["uri"])).planes, box)), cmap="gray")
            axes.set(xticks=[], yticks=[])
        cells[0].set_ylabel(line, color=LINES[line], fontweight="bold")
    middle.suptitle("one row each: 96 × 96 px, real scale", fontsize=12)
    axes = right.subplots()
    xy = data.obsm["X_umap"]
    for line, color in LINES.items():
        mine = (data.obs["line"] == line).to_numpy()
        axes.scatter(xy[mine, 0], xy[mine, 1], s=9, color=color, linewidths=0, label=f"{line} ({mine.sum()})")
    axes.set(
        xticks=[],
        yticks=[],
        xlabel="UMAP 1",
        ylabel="UMAP 2",
        title=f"{data.n_obs} nuclei, {data.n_vars} numbers each",
    )
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    main(Path("runs/demo/snoop-trial.h5ad"), Path("docs/images/demo.png"))
