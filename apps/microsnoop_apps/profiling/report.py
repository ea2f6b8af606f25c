"""The report of a batch experiment: what was done, how good it is, and what to be careful about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from microsnoop.pipelines.profile_scores import NSC, STRICT
from microsnoop_apps.profiling import tables
from microsnoop_apps.profiling.experiment import Experiment, describe_steps
from microsnoop_apps.profiling.html import Document
from microsnoop_apps.profiling.loading import Loaded
from microsnoop_apps.profiling.pictures import Picture

_SHOWN = 200
_HOW = (
    "NSC (not same compound): each treatment takes the mechanism of its nearest neighbour (cosine) among treatments of "
    "other compounds. NSCB also forbids neighbours of the same batch, under three rules: string (the joined names of "
    "batches differ), any_different (the neighbour has a batch that the treatment has not), disjoint (they share none: "
    "the strict reading, and the one to quote). Treatments without a candidate are left out of n and counted. "
    "Intervals are Wilson's, 95 %. Labels permuted: the same score when mechanisms are dealt out to compounds at "
    "random. Against none: treatments that only this method, or only the uncorrected profiles, got right, with "
    "McNemar's exact p. "
    "mAP: mean average precision of the ranking by cosine; retrieved: the share of groups above chance at a false "
    "discovery rate of 5 %. One treatment of a hundred is about one point: small differences decide nothing."
)
_SHRINKS = (
    "Sphering shrinks what varies among controls; it does not make plates indistinguishable, and effects along "
    "directions in which controls vary are shrunk with it."
)


def write_report(
    experiment: Experiment, loaded: Loaded, pictures: list[Picture], *, provenance: dict[str, Any], out: Path
) -> Path:
    """Write ``report.html`` and ``report.md``; return the HTML's path."""
    config = experiment.config
    page = Document(config.title)
    page.paragraph(loaded.balance(experiment))
    page.paragraph(_verdict(experiment))
    page.heading("What to be careful about", 2)
    page.findings([(f.code, f.message, f.strong) for f in (*loaded.findings, *experiment.findings)])
    if experiment.whiteness is not None:
        white = experiment.whiteness
        page.paragraph(
            f"Controls of plates that were held out: mean variance {white.variance:.2f} (1 would be ideal), mean "
            f"|correlation| {white.correlation:.2f} (as few rows of pure noise: {white.floor:.2f}). {_SHRINKS}"
        )
    for name, reason in experiment.failed.items():
        page.paragraph(f"Not computed: {name}. {reason}")
    page.heading("Scores", 2)
    if tables.has_rules(experiment):
        page.table(tables.HEADLINE_HEADER, tables.headline_rows(experiment), bold=_row_of(experiment))
        page.paragraph(_HOW)
        if config.score.exclude_classes:
            left = ", ".join(config.score.exclude_classes)
            page.paragraph(f"Left out of NSCB, by configuration: {left}.")
        page.details("All numbers of NSC and NSCB", (tables.RULE_HEADER, tables.rule_rows(experiment)))
    else:
        page.paragraph("No mechanisms to score: only replicates and batches are judged.")
    page.details("Methods", tables_of_methods(experiment))
    page.heading("Replicates", 2)
    page.table(tables.MAP_HEADER, tables.map_rows(experiment))
    page.details(
        "Replicates ever farther apart", (tables.MAP_HEADER, tables.map_rows(experiment, grades=True))
    )
    page.heading("Batches", 2)
    page.table(tables.BATCH_HEADER, tables.batch_rows(experiment))
    for picture in pictures:
        page.heading(picture.title, 2)
        page.picture(picture.path, picture.caption)
    page.heading("Rows that were left out", 2)
    page.paragraph(_rejects(loaded.rejects(experiment)))
    page.details("Rejects", (("id", "code", "why"), _reject_rows(loaded.rejects(experiment))))
    for note in (*loaded.notes, *experiment.used.scores.notes):
        page.paragraph(f"Note: {note}.")
    page.heading("Provenance", 2)
    page.provenance(provenance)
    return page.write(out)


def tables_of_methods(experiment: Experiment) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return the steps of each method, and what was found while fitting it."""
    steps = {"PCA": "50 principal components of all rows", "cell count": "the number of cells, nothing else"}
    rows = [
        [
            name,
            steps.get(name) or describe_steps(experiment.config.methods.get(name, [])),
            "; ".join(f"{finding.code}: {finding.message}" for finding in method.findings),
        ]
        for name, method in experiment.methods.items()
    ]
    return ("method", "steps", "found while fitting"), rows


def _verdict(experiment: Experiment) -> str:
    used, raw = experiment.used.scores, experiment.raw.scores
    texts = [f"The profiles written are those of {experiment.config.use}."]
    for rule in (NSC, STRICT):
        ours, before = used.rule(rule), raw.rule(rule)
        if ours is not None and before is not None:
            texts.append(
                f"{rule}: {before.score.correct}/{before.score.n} uncorrected, {ours.score.correct}/{ours.score.n} "
                "corrected."
            )
    return " ".join(texts)


def _row_of(experiment: Experiment) -> int:
    return list(experiment.methods).index(experiment.config.use)


def _rejects(rejects: pd.DataFrame) -> str:
    if not len(rejects):
        return "None."
    counts = rejects["code"].value_counts()
    return "; ".join(f"{code}: {n:,}" for code, n in counts.items()) + "."


def _reject_rows(rejects: pd.DataFrame) -> list[list[str]]:
    rows = rejects[["obs_id", "code", "message"]].astype(str).to_numpy().tolist()
    more = len(rows) - _SHOWN
    return rows[:_SHOWN] + ([["...", "", f"{more:,} more in rejects.parquet"]] if more > 0 else [])
