"""The report of a joint analysis: what was done, what the joint model adds, and what to be careful about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microsnoop_apps.joint import tables
from microsnoop_apps.joint.experiment import NAMES, Experiment
from microsnoop_apps.joint.gene_tables import GROUP_HEADER, GeneTables
from microsnoop_apps.joint.verdicts import MEASURES, ranking
from microsnoop_apps.profiling.html import Document
from microsnoop_apps.profiling.pictures import Picture

_SHOWN = 200
_TOP_GENES = 8
_FOLLOWING = 20
_Q = 0.05
_HOW_LABELS = (
    "Labels are looked at only to score. ARI, k-means: adjusted Rand index of k-means with as many clusters as "
    "there are labels; the fairest comparison, because no method chooses its number of clusters. ARI, clusters: "
    "of the clusters at the configured resolution. Best resolution: the one of the grid that agrees best, so it "
    "is chosen by the answer and too good for every method. Silhouette: of the labels in the coordinates, -1 to "
    "1; it also depends on how many dimensions a method has. Intervals: 95 %, bootstrap over {unit}; they hold "
    "what another draw of cells would change, not what another seed would (see Stability). Labels that were made "
    "from the transcripts favour the transcripts."
)
_HOW_SPACES = (
    "Neighbours kept: mean Jaccard index of the 30 nearest cells in the representation and in the transcripts, "
    "or in the images. Told from it: how much of MUSE's own hidden values of a modality a linear model predicts "
    "from the joint coordinates, held-out R². Weight of transcripts: the share of the transcripts in a cell's "
    "joint coordinates; median, and the range of the middle 90 % of cells (WNN: its own weights). Shuffled "
    "pairs: MUSE on cells whose images were dealt out at random; its agreement with the images is with the "
    "images that it saw."
)
_HOW_GATE = (
    "Found again in other cells: half of the cells are clustered, the clusters carried over to the other half by "
    "nearest neighbours and compared with what is found there (adjusted Rand index; noise gives about 0). No "
    "label is looked at. It tells reproducible structure from noise; it cannot tell structure that matters from "
    "structure that does not, such as staining, focus or a plate."
)


def write_report(
    experiment: Experiment,
    genes: GeneTables,
    pictures: list[Picture],
    *,
    provenance: dict[str, Any],
    out: Path,
) -> Path:
    """Write ``report.html`` and ``report.md``; return the HTML's path."""
    loaded, config = experiment.loaded, experiment.config
    page = Document(config.title)
    page.paragraph(loaded.balance() + ".")
    for text in (*verdict(experiment), *config.notes):
        page.paragraph(text)
    page.heading("What to be careful about")
    page.findings([(f.code, f.message, f.strong) for f in experiment.findings])
    by_title = {picture.title: picture for picture in pictures}
    for label in experiment.muse.labels:
        page.heading(f"Agreement with {label}")
        score = experiment.muse.labels[label]
        lone = score.silhouette.n_single
        lonely = f"; {lone} of them with one cell, whose silhouette is 0" if lone else ""
        page.paragraph(f"{score.n:,} cells with a label, {score.n_labels} labels{lonely}.")
        rows = tables.label_rows(experiment, label)
        page.table(tables.LABEL_HEADER, rows, bold=_row_of(rows))
    if experiment.muse.labels:
        _picture(page, by_title.pop("Agreement with known labels", None))
        unit = "whole groups" if loaded.n_groups > 1 else "cells"
        page.paragraph(_HOW_LABELS.format(unit=unit))
    else:
        page.paragraph("No labels are known: methods are compared by their own clusters and neighbours only.")
    _spaces(page, experiment)
    _modalities(page, experiment)
    page.heading("Stability")
    header, rows = tables.stability_table(experiment)
    page.table(header, rows, bold=_row_of(rows))
    page.paragraph(
        "ARI between the clusters of all pairs of runs. MUSE is fitted anew with each seed; of the other methods "
        "only the clustering is repeated, so their figure says what clustering alone changes."
    )
    for picture in by_title.values():
        page.heading(picture.title)
        _picture(page, picture)
    _genes(page, experiment, genes)
    _left_out(page, experiment)
    page.heading("Provenance")
    page.provenance(provenance)
    return page.write(out)


def verdict(experiment: Experiment) -> list[str]:
    """Say in plain sentences how MUSE stands among the methods."""
    texts = []
    for label in experiment.muse.labels:
        parts, best = [], []
        for measure, said in MEASURES.items():
            order = ranking(experiment, label, measure)
            best.append(order[0][0])
            values = ", ".join(f"{NAMES[name]} {tables.fixed(value)}" for name, value in order)
            parts.append(f"by {said}: {values}")
        text = f"ARI with {label}, {'; '.join(parts)}."
        if set(best) == {"muse"}:
            text += " MUSE agrees best."
        elif "muse" in best:
            text += " MUSE agrees best by one of the two only."
        else:
            better = " and ".join(NAMES[name] for name in dict.fromkeys(best))
            text += f" MUSE does not agree best here: {better} did better."
        if "shuffled" in experiment.runs:
            ours, null = (experiment.runs[key].values[label] for key in ("muse", "shuffled"))
            text += (
                f" MUSE by k-means, mean and range: right pairs {tables.spread(ours)} over seeds, wrong pairs "
                f"{tables.spread(null)}."
            )
        texts.append(text)
    test = experiment.pairing
    texts.append(
        f"Do the modalities share anything? Of the {test.k} nearest cells in the transcripts, {test.observed:.1%} "
        f"are among the {test.k} nearest in the images too; in wrong pairs {test.expected:.1%} (ratio "
        f"{test.ratio:.2f}, p {test.p:.2g}, {test.permutations:,} "
        f"permutations{' within groups' if test.within_groups else ''})."
    )
    return texts


def _row_of(rows: list[list[str]]) -> int | None:
    name = NAMES["muse"]
    return next((i for i, row in enumerate(rows) if row[0] == name), None)


def _picture(page: Document, picture: Picture | None) -> None:
    if picture is not None:
        page.picture(picture.path, picture.caption, alt=picture.title)


def _spaces(page: Document, experiment: Experiment) -> None:
    page.heading("What each representation keeps")
    rows = tables.space_rows(experiment)
    page.table(tables.SPACE_HEADER, rows, bold=_row_of(rows))
    page.paragraph(_HOW_SPACES)
    for method, reason in experiment.failed.items():
        page.paragraph(f"{NAMES[method]}: {reason}.")
    notes = [
        f"{NAMES[method]}: {note}"
        for method, scored in experiment.methods.items()
        for note in scored.found.notes
    ]
    if notes:
        page.details("Notes of the methods", notes)


def _modalities(page: Document, experiment: Experiment) -> None:
    page.heading("What each modality is worth")
    page.table(tables.MODALITY_HEADER, tables.modality_rows(experiment))
    gated = experiment.config.muse.gate != "none"
    page.paragraph(
        _HOW_GATE + ("" if gated else " The gate is off: both modalities count the same, as published.")
    )
    standardised = experiment.loaded.standardised
    page.paragraph(
        f"Image features were {'' if standardised else 'not '}standardised before their components were taken."
    )


def _genes(page: Document, experiment: Experiment, genes: GeneTables) -> None:
    page.heading("Genes of clusters")
    for space, frame in genes.by_cluster.groupby("space", sort=False):
        page.heading(f"Clusters of {space}", 3)
        page.table(
            ("cluster", "cells", "genes that mark it (Wilcoxon, q)"), _marked(experiment, str(space), frame)
        )
    page.heading("Genes that follow the images")
    shown = genes.in_image_space.head(_FOLLOWING)
    found = int((genes.in_image_space["q_value"] < _Q).sum())
    page.paragraph(
        f"Moran's I on the graph of image neighbours: are cells that look alike also alike in a gene? {found:,} "
        f"of {len(genes.in_image_space):,} genes have q < {_Q} (Benjamini and Hochberg). Cells that are "
        "neighbours in a tissue may look alike and express alike for that reason alone; and a gene that follows "
        "the images need not be what is seen."
    )
    columns = (shown[name] for name in ("gene", "morans_i", "p_value", "q_value"))
    rows = [
        [str(gene), tables.fixed(float(i), 3), f"{p:.2g}", f"{q:.2g}"]
        for gene, i, p, q in zip(*columns, strict=True)
    ]
    page.table(("gene", "Moran's I", "p", "q"), rows)
    if len(genes.groups):
        page.heading("Where a gene's cells stand among the images", 3)
        page.paragraph(
            "The tenth of the cells with the most of a gene: how many of their image neighbours are of them?"
        )
        page.table(GROUP_HEADER, [_group_row(row) for row in genes.groups.itertuples(index=False)])
    for note in genes.notes:
        page.paragraph(f"Note: {note}.")


def _marked(experiment: Experiment, space: str, frame: pd.DataFrame) -> list[list[str]]:
    labels = experiment.methods["muse" if space == "MUSE" else "images"].found.labels
    return [
        [
            str(cluster),
            f"{int((labels.astype(str) == str(cluster)).sum()):,}",
            ", ".join(f"{row.gene} ({row.q_value:.1g})" for row in _marks(part).itertuples())
            or f"none with q < {_Q}",
        ]
        for cluster, part in frame.groupby("cluster", sort=False)
    ]


def _marks(part: pd.DataFrame) -> pd.DataFrame:
    return part[(part["q_value"] < _Q) & (part["score"] > 0)].head(_TOP_GENES)


def _group_row(row: Any) -> list[str]:
    numbers = [tables.fixed(value) for value in (row.share, row.expected, row.ratio)]
    return [row.gene, f"{row.cells:,}", *numbers, "–" if np.isnan(row.p_value) else f"{row.p_value:.2g}"]


def _left_out(page: Document, experiment: Experiment) -> None:
    rejects = experiment.loaded.rejects
    page.heading("Cells that were left out")
    if not len(rejects):
        page.paragraph("None.")
    else:
        counts = rejects["code"].value_counts()
        page.paragraph("; ".join(f"{code}: {n:,}" for code, n in counts.items()) + ".")
        rows = rejects[["obs_id", "modality", "code", "message"]].astype(str).to_numpy().tolist()
        more = len(rows) - _SHOWN
        rows = rows[:_SHOWN] + ([["...", "", "", f"{more:,} more in rejects.csv"]] if more > 0 else [])
        page.details("Rejects", (("id", "modality", "code", "why"), rows))
    for note in experiment.loaded.notes:
        page.paragraph(f"Note: {note}.")
