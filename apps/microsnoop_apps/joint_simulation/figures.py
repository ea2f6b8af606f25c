"""The paper's Figure S10: joint quality against the quality of one modality, a line a method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from microsnoop_apps.joint_simulation.fits import NAMES, DataFacts
from microsnoop_apps.joint_simulation.tables import Scores
from microsnoop_apps.profiling import PALETTE, canvas

FIGURE_MEASURES = ("ari_kmeans", "ari_leiden", "silhouette")
_TITLES = {
    "ari_kmeans": "ARI, k-means with the true number",
    "ari_leiden": "ARI, Leiden at the default resolution",
    "ari_best": "ARI, Leiden at its best resolution",
    "nmi_kmeans": "NMI, k-means with the true number",
    "nmi_leiden": "NMI, Leiden at the default resolution",
    "nmi_best": "NMI, Leiden at its best resolution",
    "silhouette": "silhouette of the true clusters",
}
_BLACK = "#000000"
# colour, line and marker of each method: told apart without colour as well; the joint model is what stands out
_LOOKS: dict[str, tuple[str, str, str]] = {
    "transcripts": (PALETTE[0], "-", "o"),
    "transcripts_raw": (PALETTE[0], ":", "o"),
    "images": (PALETTE[1], "-", "s"),
    "images_raw": (PALETTE[1], ":", "s"),
    "concat": (PALETTE[2], "--", "^"),
    "wnn": (PALETTE[3], "--", "v"),
    "mofa": (PALETTE[4], "--", "D"),
    "muse": (_BLACK, "-", "o"),
    "muse_shuffled": ("#777777", ":", "x"),
    "muse_ungated": (PALETTE[5], "-.", "P"),
    "muse_published": (PALETTE[9], "-.", "X"),
}
_AXIS = {
    "decay_coef_2": "share of image entries lost (decay_coef_2): images get worse →",
    "sigma2": "noise of the images (sigma2): images get worse →",
    "decay_coef_1": "decay_coef_1: fewer transcripts are lost →",
    "sigma1": "noise of the transcripts (sigma1): transcripts get worse →",
    "merge": "probability that a modality merges two clusters (merge)",
}
_DODGE = 0.012  # of the axis: intervals of neighbouring methods stand side by side
_LABEL_GAP = 0.052  # of the axis: height of a label


def quality_figure(scores: Scores, path: Path, *, measures: Sequence[str] = FIGURE_MEASURES) -> Path:
    """Draw the mean of each method with its interval over data sets, against the swept parameter.

    What failed has no line. Dotted grey lines are the ARI that each modality reaches when it finds all it can see.
    """
    drawn = [name for name in scores.methods if any(scores.of(value, name) for value in scores.values)]
    with canvas(path, width=4.9 * len(measures), height=5.2) as figure:
        for axes, measure in zip(figure.subplots(1, len(measures), squeeze=False)[0], measures, strict=True):
            _panel(axes, scores, measure, drawn)
        figure.supxlabel(_AXIS.get(scores.parameter, scores.parameter), fontsize=9)
    return path


def _panel(axes: Axes, scores: Scores, measure: str, drawn: Sequence[str]) -> None:
    x = np.array(sorted(scores.values))
    span = float(np.ptp(x)) or 1.0
    ends: list[tuple[float, str]] = []
    bottom, top = 0.0, 0.0
    for at, name in enumerate(drawn):
        means = [scores.mean(value, name, measure) for value in x]
        y = np.array([mean.value for mean in means])
        if np.isnan(y).all():
            continue
        low, high = (np.array([getattr(mean.interval, side) for mean in means]) for side in ("low", "high"))
        place = x + span * _DODGE * (at - (len(drawn) - 1) / 2)
        _line(axes, name, place, y, np.stack([y - low, high - y]))
        bottom, top = min(bottom, float(np.nanmin(y))), max(top, float(np.nanmax(y)))
        ends.append((float(y[~np.isnan(y)][-1]), name))
    if measure.startswith("ari"):
        _ceilings(axes, scores.facts)
        top = 1.0
    room = top - bottom or 1.0
    axes.set(
        title=_TITLES[measure],
        xlim=(x[0] - 0.08 * span, x[-1] + 0.62 * span),
        ylim=(bottom - 0.04 * room, top + 0.04 * room),
    )
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.spines["bottom"].set_bounds(x[0], x[-1])
    _label(axes, ends, from_x=x[-1] + 0.075 * span, to_x=x[-1] + 0.11 * span)


def _line(
    axes: Axes, name: str, x: NDArray[np.float64], y: NDArray[np.float64], error: NDArray[np.float64]
) -> None:
    colour, style, marker = _LOOKS[name]
    strong = name == "muse"
    axes.errorbar(
        x, y, yerr=np.where(np.isfinite(error), error, 0), color=colour, linestyle=style, marker=marker,
        markersize=5.5 if strong else 4, linewidth=2.4 if strong else 1.2, elinewidth=0.9, capsize=0,
        zorder=5 if strong else 3, label=NAMES[name],
    )  # fmt: skip


def _ceilings(axes: Axes, facts: Sequence[DataFacts]) -> None:
    if not facts:
        return
    for name, value, align in (
        ("transcripts", np.mean([one.ceiling_transcripts for one in facts]), "bottom"),
        ("images", np.mean([one.ceiling_images for one in facts]), "top"),
    ):
        axes.axhline(float(value), color="#B0B0B0", linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(f"all that {name} can see", (0.01, float(value)), xycoords=("axes fraction", "data"),
                      fontsize=6.5, color="#808080", va=align)  # fmt: skip


def _label(axes: Axes, ends: list[tuple[float, str]], *, from_x: float, to_x: float) -> None:
    """Write each method's name beside the end of its line, pushed apart where lines end together."""
    if not ends:
        return
    ends = sorted(ends)
    low, high = axes.get_ylim()
    heights = spread([y for y, _ in ends], gap=_LABEL_GAP * (high - low), low=low, high=high)
    for (y, name), height in zip(ends, heights, strict=True):
        colour = _LOOKS[name][0]
        axes.plot([from_x, to_x], [y, height], color=colour, linewidth=0.6, clip_on=False)
        axes.text(to_x, height, f" {NAMES[name]}", color=colour, va="center", fontsize=7.5,
                  fontweight="bold" if name == "muse" else "normal")  # fmt: skip


def spread(heights: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move heights, rising, so that neighbours are ``gap`` apart, as little as that allows, within low and high."""
    gap = min(gap, (high - low) / max(1, len(heights) - 1))
    placed = list(heights)
    for i in range(len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap if i else low)
    ceiling = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
