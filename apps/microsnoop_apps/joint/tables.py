"""Scores of a joint analysis as tables: for people (rounded) and for programs (all digits)."""

from __future__ import annotations

import numpy as np

from microsnoop.ops.intervals import Interval
from microsnoop_apps.joint.experiment import NAMES, NEIGHBOURS, Experiment, Runs
from microsnoop_apps.joint.scoring import LabelScore, Scored

LABEL_HEADER = (
    "method", "ARI, k-means [95 %]", "silhouette [95 %]", "ARI, clusters [95 %]", "NMI, clusters",
    "ARI, best resolution", "at",
)  # fmt: skip
SPACE_HEADER = (
    "method", "clusters", "own silhouette", "neighbours kept: transcripts", "images", "by chance",
    "told from it: transcripts R²", "images R²", "weight of transcripts (5–95 %)", "seconds",
)  # fmt: skip
STABILITY_HEADER = ("method", "varied", "runs", "ARI between runs", "range")
MODALITY_HEADER = ("modality", "found again in other cells", "weight of its triplets")
SCORES_HEADER = (
    "method", "status", "label", "cells", "labels", "ari_kmeans", "ari_kmeans_low", "ari_kmeans_high", "nmi_kmeans",
    "silhouette_labels", "silhouette_labels_low", "silhouette_labels_high", "ari", "ari_low", "ari_high", "nmi",
    "nmi_low", "nmi_high", "best_resolution", "ari_best", "nmi_best", "clusters", "silhouette_own",
    "silhouette_own_low", "silhouette_own_high", "neighbours_rna", "neighbours_image", "neighbours_chance",
    "share_rna", "share_image", "weight_rna_median", "weight_rna_5", "weight_rna_95", "seconds",
)  # fmt: skip
RUNS_HEADER = (
    "method", "varied", "runs", "ari_mean", "ari_low", "ari_high", "measure", "run", "value",
)  # fmt: skip
_NONE = "–"


def label_rows(experiment: Experiment, label: str) -> list[list[str]]:
    """Return one line a method: how it agrees with a label; methods without numbers say why."""
    width = len(LABEL_HEADER)
    rows = []
    for method in experiment.config.methods:
        if method in experiment.failed:
            rows.append(_lacking(experiment, method, width))
        elif (found := experiment.methods[method].labels.get(label)) is not None:
            rows.append([NAMES[method], *_label_cells(found)])
    return rows


def space_rows(experiment: Experiment) -> list[list[str]]:
    """Return one line a method: its clusters, what it keeps of both modalities, and the time it took."""
    return [
        _lacking(experiment, method, len(SPACE_HEADER))
        if method in experiment.failed
        else [NAMES[method], *_space_cells(experiment.methods[method])]
        for method in experiment.config.methods
    ]


def stability_table(experiment: Experiment) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return header and one line a method that was run several times; k-means ARI with labels where these are known."""
    keys = [key for key in experiment.runs["muse"].values if key != NEIGHBOURS]
    rows = []
    for method, runs in experiment.runs.items():
        known = [spread(runs.values[key]) if key in runs.values else _NONE for key in keys]
        stable = runs.stability
        between = [fixed(stable.mean), f"{fixed(stable.low)} to {fixed(stable.high)}"]
        rows.append([NAMES[method], runs.varied, str(stable.n_runs), *between, *known])
    return (*STABILITY_HEADER, *(f"k-means ARI with {key}: mean (range)" for key in keys)), rows


def modality_rows(experiment: Experiment) -> list[list[str]]:
    """Return one line a modality: what its clusters are worth without any label, and the gate that follows."""
    model = experiment.model
    names = {"rna": "transcripts", "image": "images"}
    return [
        [names.get(name, name), fixed(value), fixed(model.gates_[name])]
        for name, value in model.replicability_.items()
    ]


def score_rows(experiment: Experiment) -> list[list[object]]:
    """Return one line a method and label, all digits (``SCORES_HEADER``); without labels one line a method."""
    rows: list[list[object]] = []
    for method in experiment.config.methods:
        if method in experiment.failed:
            gaps = [""] * (len(SCORES_HEADER) - 2)
            rows.append([NAMES[method], experiment.failed[method], *gaps])
            continue
        scored = experiment.methods[method]
        general = _space_numbers(scored)
        for label in scored.labels.values():
            rows.append([NAMES[method], "ok", *_label_numbers(label), *general])
        if not scored.labels:
            rows.append([NAMES[method], "ok", *[""] * (len(SCORES_HEADER) - 2 - len(general)), *general])
    return [[_number(cell) for cell in row] for row in rows]


def run_rows(experiment: Experiment) -> list[list[object]]:
    """Return one line a method, measure and run (``RUNS_HEADER``); those only clustered anew have one line."""
    return [row for method, runs in experiment.runs.items() for row in _run_lines(method, runs)]


def fixed(value: float, digits: int = 2) -> str:
    """Return a number with so many digits; a missing one as a dash."""
    return _NONE if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no "-0.00"


def spread(values: list[float]) -> str:
    """Return the mean and the range of some runs."""
    return f"{fixed(float(np.mean(values)))} ({fixed(min(values))} to {fixed(max(values))})"


def _run_lines(method: str, runs: Runs) -> list[list[object]]:
    stable = runs.stability
    head = [NAMES[method], runs.varied, stable.n_runs, *map(_number, (stable.mean, stable.low, stable.high))]
    lines = [
        [*head, measure, number, _number(value)]
        for measure, values in runs.values.items()
        for number, value in enumerate(values)
    ]
    return lines or [[*head, "", "", ""]]


def _lacking(experiment: Experiment, method: str, width: int) -> list[str]:
    return [NAMES[method], experiment.failed[method], *[""] * (width - 2)]


def _label_cells(found: LabelScore) -> list[str]:
    return [
        _with(found.kmeans.ari, found.kmeans.ari_interval),
        _with(found.silhouette.mean, found.silhouette.interval),
        _with(found.default.ari, found.default.ari_interval),
        fixed(found.default.nmi),
        fixed(found.best.ari),
        f"{found.best_resolution:g}",
    ]


def _space_cells(found: Scored) -> list[str]:
    weights, share = found.weights, found.share
    return [
        str(found.n_clusters),
        fixed(found.own.mean),
        fixed(found.neighbours.rna),
        fixed(found.neighbours.image),
        fixed(found.neighbours.chance),
        _NONE if share is None else fixed(share.rna),
        _NONE if share is None else fixed(share.image),
        _NONE if weights is None else f"{weights[0]:.2f} ({weights[1]:.2f}–{weights[2]:.2f})",
        f"{found.found.seconds:.1f}",
    ]


def _label_numbers(found: LabelScore) -> list[object]:
    kmeans, own, shape = found.kmeans, found.default, found.silhouette
    return [
        found.label, found.n, found.n_labels,
        kmeans.ari, kmeans.ari_interval.low, kmeans.ari_interval.high, kmeans.nmi,
        shape.mean, shape.interval.low, shape.interval.high,
        own.ari, own.ari_interval.low, own.ari_interval.high, own.nmi, own.nmi_interval.low, own.nmi_interval.high,
        found.best_resolution, found.best.ari, found.best.nmi,
    ]  # fmt: skip


def _space_numbers(found: Scored) -> list[object]:
    own, near, share, weights = found.own, found.neighbours, found.share, found.weights
    return [
        found.n_clusters, own.mean, own.interval.low, own.interval.high, near.rna, near.image, near.chance,
        *(("", "") if share is None else (share.rna, share.image)), *(weights or ("", "", "")), found.found.seconds,
    ]  # fmt: skip


def _with(value: float, interval: Interval) -> str:
    if np.isnan(value):
        return _NONE
    return f"{fixed(value)} [{fixed(interval.low)}, {fixed(interval.high)}]"


def _number(value: object) -> object:
    """Return a number with six significant digits, a missing one as an empty cell."""
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.6g}"
    return value
