"""The report of a simulation: what each method reached, and where the joint model helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from microsnoop_apps.joint_simulation.fits import NAMES, SINGLE
from microsnoop_apps.joint_simulation.tables import BEST_SINGLE, Difference, Scores, short, with_interval
from microsnoop_apps.profiling.html import Document

HEADLINE = {
    "ari_kmeans": "ARI k-means",
    "ari_leiden": "ARI Leiden",
    "ari_best": "ARI Leiden, best",
    "nmi_kmeans": "NMI k-means",
    "nmi_leiden": "NMI Leiden",
    "nmi_best": "NMI Leiden, best",
    "silhouette": "silhouette",
}
RIVALS = ("concat", "wnn", "mofa")
JUDGED = ("ari_kmeans", "ari_leiden", "ari_best")
# k-means ARI of the released tool on three other data sets of each of these settings (Bao et al. 2022)
REFERENCE = {
    0.1: {"transcripts_raw": 0.48, "images_raw": 0.57, "concat": 0.78, "muse_published": 0.89},
    0.3: {"transcripts_raw": 0.48, "images_raw": 0.38, "concat": 0.55, "muse_published": 0.44},
    0.5: {"transcripts_raw": 0.48, "images_raw": 0.04, "concat": 0.51, "muse_published": 0.30},
}
_HOW = (
    "Every number is a mean over data sets, of the mean of the fits to each; brackets are 95 % intervals by Student's "
    "t over data sets, those of differences over differences on the same data sets. A method that is not trained is "
    "fitted once a data set. All methods get the transcripts as they are and the image features reduced as MUSE "
    "reduces them; `raw matrix` clusters a matrix without any of it. Clusters are found in every method's space in "
    "the same way, whatever a method uses inside: k-means with the true number of clusters, and Leiden on a graph of "
    "neighbours at the default resolution, and at the one of 0.2, 0.5, 1 and 2 whose agreement is best, which nobody "
    "can choose without the truth. Silhouette: of the true clusters. Seconds: wall time of a fit on one thread beside "
    "the other processes; CPU seconds hardly depend on these. Best single modality: of the rows on one modality, raw "
    "or not, the one whose mean of that measure is best at that value: chosen with the truth, so nobody could choose "
    "better. Shuffled pairs: MUSE on images that belong to other cells, what it reaches without any pairing."
)
_GATES = (
    "Means over fits. Ceiling: ARI of a modality that finds exactly the clusters it can see. Replicability: how well "
    "the clusters of a modality are found again in other cells; gate: the weight that its triplets get for it. Weight "
    "of rna: share of the transcripts in a cell's coordinates. Shared neighbours: cells that are near in both "
    "modalities, over what permuted pairs share; p: the largest of the permutation tests of the data sets. Beats "
    "shuffled: data sets in which the mean k-means ARI is above that with shuffled pairs."
)


def table_of(scores: Scores, value: float) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return every method's scores at one value of the parameter, for people."""
    header = ("method", *HEADLINE.values(), "s", "CPU s")
    rows = []
    for name in scores.methods:
        fits = scores.of(value, name)
        if not fits:
            rows.append([f"{NAMES[name]}: {scores.failures(value, name)[0]}", *["–"] * (len(header) - 1)])
            continue
        means = [scores.mean(value, name, measure) for measure in HEADLINE]
        spent = [float(np.mean([getattr(fit, what) for fit in fits])) for what in ("seconds", "cpu_seconds")]
        rows.append(
            [
                NAMES[name],
                *(with_interval(m.value, m.interval) for m in means),
                *("–" if np.isnan(s) else f"{s:.1f}" for s in spent),
            ]
        )
    return header, rows


def overview(scores: Scores, measure: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return one measure of every method at all values."""
    header = ("method", *(f"{scores.parameter} {value:g}" for value in scores.values))
    rows = []
    for name in scores.methods:
        means = [scores.mean(value, name, measure) for value in scores.values]
        if any(m.n for m in means):
            rows.append([NAMES[name], *(with_interval(m.value, m.interval) for m in means)])
        else:
            short_reason = scores.failures(scores.values[0], name)[0].split(":")[0]
            rows.append([NAMES[name], *[short_reason] * len(means)])
    return header, rows


def difference_table(
    found: list[Difference], parameter: str, *, method: str = "muse", measures: tuple[str, ...] = JUDGED
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return what a method has more than the best single modality, for people."""
    rows = [
        [
            f"{one.value:g}",
            HEADLINE[one.measure],
            NAMES[one.which],
            with_interval(one.mean, one.interval, sign=True),
            f"{one.better_in} of {one.n}",
            "yes" if one.within else "NO",
        ]
        for one in found
        if one.method == method and one.other == BEST_SINGLE and one.measure in measures
    ]
    header = (parameter, "measure", f"{NAMES[method]} less", "difference [95 %]", "better in", "within 0.03")
    return header, rows


def gate_table(scores: Scores) -> tuple[tuple[str, ...], list[list[str]]]:
    """Return, by value, what MUSE made of the two modalities, and what could be known of the data."""
    header = (
        scores.parameter, "ceiling rna", "ceiling image", "replicability rna", "image", "gate rna", "gate image",
        "weight of rna", "shared neighbours / chance", "p of pairing, largest", "beats shuffled in",
    )  # fmt: skip
    rows = []
    for value in scores.values:
        facts = [one for one in scores.facts if one.value == value]
        model = [
            scores.fact(value, "muse", name) for name in ("replicability_rna", "replicability_image", "gate_rna",
                                                          "gate_image", "weight_rna")
        ]  # fmt: skip
        ps = [one.pairing_p for one in facts if not np.isnan(one.pairing_p)]
        ratios = [one.pairing_ratio for one in facts if not np.isnan(one.pairing_ratio)]
        null = scores.difference(value, "ari_kmeans", "muse", "muse_shuffled")
        rows.append([
            f"{value:g}", short(_mean([one.ceiling_transcripts for one in facts])),
            short(_mean([one.ceiling_images for one in facts])), *map(short, model), short(_mean(ratios)),
            f"{max(ps):.3g}" if ps else "–", f"{null.better_in} of {null.n}" if null else "–",
        ])  # fmt: skip
    return header, rows


def findings_of(scores: Scores) -> list[tuple[str, str, bool]]:
    """Return what MUSE warned of, what failed, and cells that were left out, counted, as (code, message, strong)."""
    found = []
    for name in scores.methods:
        for (value, code), count in sorted(scores.findings(name).items()):
            where = (
                f"{NAMES[name]}, {scores.parameter} {value:g}: {count} of {len(scores.of(value, name))} fits"
            )
            found.append((code, where, False))
        reasons = Counter(reason for value in scores.values for reason in scores.failures(value, name))
        found += [
            ("no result", f"{NAMES[name]}, {count} fits: {reason}", True) for reason, count in reasons.items()
        ]
    empty = [one.empty for one in scores.facts if one.empty]
    if empty:
        told = f"{sum(empty):,} cells of {len(empty)} data sets have no transcript: left out for every method"
        found.append(("empty_cell", told, False))
    return found


def notes_of(scores: Scores) -> list[str]:
    """Return what other methods than MUSE say of their fits, counted."""
    counts = Counter((fit.method, note) for fit in scores.fits for note in fit.notes)
    return [f"{NAMES[method]}, {count} fits: {note}" for (method, note), count in counts.items()]


def verdicts(scores: Scores, found: list[Difference]) -> list[str]:
    """Return one sentence a value: MUSE against the best single modality, the best other method, and the null."""
    texts = []
    for value in scores.values:
        ours = scores.mean(value, "muse", "ari_kmeans")
        against = {
            d.other: d for d in found if (d.value, d.measure, d.method) == (value, "ari_kmeans", "muse")
        }
        best = against.get(BEST_SINGLE)
        if not ours.n or best is None:
            continue
        text = (
            f"{scores.parameter} {value:g}: k-means ARI of MUSE {short(ours.value)}, "
            f"{with_interval(best.mean, best.interval, sign=True)} against the best single modality "
            f"({NAMES[best.which]}), {'within' if best.within else 'NOT within'} 0.03 of it"
        )
        rivals = [against[name] for name in RIVALS if name in against]
        if rivals:
            rival = min(rivals, key=lambda d: d.mean)
            text += (
                f"; {with_interval(rival.mean, rival.interval, sign=True)} against the best other joint method "
                f"({NAMES[rival.which]})"
            )
        null = against.get("muse_shuffled")
        if null is not None:
            text += f"; better than with shuffled pairs in {null.better_in} of {null.n} data sets"
        texts.append(f"{text}.")
    return texts


def write_report(
    scores: Scores,
    found: list[Difference],
    *,
    title: str,
    is_reference: bool,
    figure: Path | None,
    provenance: Mapping[str, Any],
    out: Path,
) -> Path:
    """Write ``report.html`` and ``report.md``; return the HTML's path."""
    page = Document(title)
    n_data = len({fit.data_seed for fit in scores.fits})
    seeds = len({fit.model_seed for fit in scores.fits if fit.method.startswith("muse")})
    page.paragraph(
        f"Simulated cells that two modalities see, neither of which can tell all clusters apart; {scores.parameter} "
        f"takes {len(scores.values)} values. {n_data} data sets of each, {seeds} fits of MUSE to each, "
        f"{len(scores.fits)} fits in all."
    )
    for text in verdicts(scores, found):
        page.paragraph(text)
    page.heading("What to be careful about")
    page.findings(findings_of(scores))
    if notes := notes_of(scores):
        page.details("Notes of single fits", notes)
    if figure is not None:
        page.heading("Joint quality against the quality of a modality")
        page.picture(
            figure,
            "Means over data sets with 95 % intervals (Student's t over data sets). Grey dotted lines: the ARI of a "
            "modality that finds exactly the clusters it can see, mean of the data sets.",
        )
    page.heading("All methods")
    for value in scores.values:
        page.heading(f"{scores.parameter} {value:g}", 3)
        header, rows = table_of(scores, value)
        bold = scores.methods.index("muse") if "muse" in scores.methods else None
        page.table(header, rows, numeric=range(1, len(header)), bold=bold)
    page.paragraph(_HOW)
    if is_reference:
        page.details("What the released tool reached", _reference_table(scores))
    page.heading("Against the best single modality")
    joint = [name for name in scores.methods if name not in SINGLE]
    for name in sorted(joint, key=lambda name: name != "muse"):
        header, rows = difference_table(found, scores.parameter, method=name)
        if rows and name == "muse":
            page.table(header, rows)
        elif rows:
            page.details(NAMES[name], (header, rows))
    if "muse" in scores.methods:
        page.heading("What MUSE makes of the modalities")
        page.table(*gate_table(scores))
        page.paragraph(_GATES)
    page.heading("Provenance")
    page.provenance(provenance)
    return page.write(out)


def _reference_table(scores: Scores) -> tuple[tuple[str, ...], list[list[str]]]:
    """Set the released tool's own figures beside ours."""
    rows = [
        [
            f"{value:g}",
            NAMES[name],
            short(reference),
            short(scores.mean(value, name, "ari_kmeans").value),
            short(scores.mean(value, "muse", "ari_kmeans").value) if name == "muse_published" else "",
        ]
        for value in scores.values
        for name, reference in REFERENCE.get(value, {}).items()
    ]
    header = (
        scores.parameter,
        "method",
        "released tool, k-means ARI of 3 other data sets",
        "here",
        "our MUSE here",
    )
    return header, rows


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else np.nan
