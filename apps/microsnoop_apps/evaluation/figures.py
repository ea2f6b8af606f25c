"""Pictures of scores: bars with intervals, confusion matrices. Each says whose weights made it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from microsnoop_apps.evaluation.scores import CHANCE, KNN, PROBE, Judged, SetScores

# Okabe and Ito's palette, distinguishable with every common colour vision; hatched when it is used up
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_HATCHES = ("", "///", "...", "xxx")
_CHANCE = "chance: majority"


def bar_chart(results: Sequence[SetScores], path: Path) -> Path:
    """Draw balanced accuracy (kNN and probe) of every encoder on every set, with 95 % intervals."""
    names = list(dict.fromkeys(name for result in results for name in result.names))
    width = 0.8 / len(names)
    # the legend's two columns of names with digits of weights, some 0.1 inch a letter, must not be cut off
    legend = 2 * (0.1 * (max(map(len, names)) + 15) + 0.6)
    size = (max(6.4, 2.2 * len(results) + 2, legend), 6.4 + 0.11 * max(0, len(names) - 8))
    figure = Figure(figsize=size, layout="constrained")
    for axes, classifier in zip(figure.subplots(2, 1, sharex=True, sharey=True), (KNN, PROBE), strict=True):
        for i, name in enumerate(names):
            places = [s + (i - (len(names) - 1) / 2) * width for s in range(len(results))]
            shown = [
                (place, r.find(name, classifier))
                for place, r in zip(places, results, strict=True)
                if name in r.names
            ]
            turn, place = divmod(i, len(_PALETTE))
            _bars(axes, shown, width, _PALETTE[place], _HATCHES[turn % len(_HATCHES)])
        for s, result in enumerate(results):
            level = 100 * result.find(_CHANCE, CHANCE).scores.balanced_accuracy
            axes.plot([s - 0.45, s + 0.45], [level, level], color="black", linewidth=1, linestyle=":")
        axes.set(ylim=(0, 100), ylabel=f"balanced accuracy (%), {classifier}")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(range(len(results)), [f"{r.name}\nn = {len(r.truth):,}" for r in results])
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    return path


def confusion_picture(result: SetScores, name: str, path: Path) -> Path:
    """Draw what an encoder's nearest neighbours take for what: counts, shaded by the share of each class."""
    judged = result.find(name, KNN)
    counts = judged.confusion
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    side = max(4.0, 0.62 * len(result.classes) + 2.4)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(result.classes)), result.classes, rotation=60, ha="right")
    axes.set_yticks(range(len(result.classes)), result.classes)
    axes.set(xlabel="predicted (kNN, folds)", ylabel="truth")
    axes.set_title(
        f"{result.name}\n{judged.signature}\naccuracy {100 * judged.scores.accuracy:.1f} %, "
        f"balanced {100 * judged.scores.balanced_accuracy:.1f} %",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
    return path


def _bars(  # type: ignore[no-untyped-def]
    axes, shown: list[tuple[float, Judged]], width: float, color: str, hatch: str
) -> None:
    values = [100 * judged.scores.balanced_accuracy for _, judged in shown]
    intervals = [judged.intervals["balanced_accuracy"] for _, judged in shown]
    # a bootstrap interval need not hold the value itself: an error bar has no negative length
    below = [max(0.0, v - 100 * i.low) for v, i in zip(values, intervals, strict=True)]
    above = [max(0.0, 100 * i.high - v) for v, i in zip(values, intervals, strict=True)]
    axes.bar(
        [place for place, _ in shown], values, width * 0.92, color=color, yerr=[below, above],
        error_kw={"linewidth": 1}, label=shown[0][1].signature, hatch=hatch, edgecolor="white" if hatch else None,
    )  # fmt: skip
