"""Everything an evaluation leaves behind: report, tables and pictures in one folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from microsnoop.io.parts import write_atomic, write_csv, write_parquet
from microsnoop.pipelines.leakage import Hashes, Hit
from microsnoop_apps.evaluation import tables
from microsnoop_apps.evaluation.figures import bar_chart, confusion_picture
from microsnoop_apps.evaluation.scores import KNN, LEFT_OUT, SetScores

NO_BASELINES = (
    "NO BASELINES: these scores cannot be read without what simpler methods reach (--no-baselines)."
)
_SHOWN_HITS = 10
_HOW = """## How to read this

kNN: cosine, {folds} folds stratified by class, whole groups; k chosen on each training part. Accuracy is pooled over
the folds, ± its standard deviation over them. Probe: logistic regression on standardised vectors. Intervals are 95 %:
Wilson for accuracy without groups, else bootstrap over rows or whole groups. All encoders of a set are judged on the
same rows and folds; McNemar's test is exact and takes rows as independent, so where there are groups read the
bootstrap interval of the difference. Variants differ in how images become vectors: each is compared with the first one
of its encoder, and encoders are compared by their first ones. `metrics.parquet` has every number,
`predictions.parquet` every answer.
"""


@dataclass(frozen=True)
class Leakage:
    """What the pool was compared with, and the pairs that came close; ``planes`` None: no pixels to compare."""

    planes: Hashes | None
    hits: tuple[Hit, ...] = ()

    def sentence(self, pool: Hashes | None) -> str:
        """Return what was compared and found."""
        if pool is None:
            return "leakage: NOT CHECKED (no --pool)"
        if self.planes is None:
            return "leakage: NOT CHECKED (an AnnData file has no pixels)"
        same = sum(hit.same_picture for hit in self.hits)
        text = (
            f"leakage: {len(self.planes.names):,} planes compared with {len(pool.names):,} pool planes, "
            f"{len(self.hits)} hits (4 bits of 64 or fewer), {same} of them the same picture"
        )
        apart = [(self.planes.flat, "planes"), (pool.flat, "pool planes")]
        flat = [f"{n:,} {what} without contrast left out" for n, what in apart if n]
        unreadable = [f"{self.planes.unreadable:,} images unreadable"] if self.planes.unreadable else []
        return "; ".join([text, *flat, *unreadable])


def write_report(
    results: Sequence[SetScores],
    leaks: Mapping[str, Leakage],
    *,
    pool: Hashes | None,
    baselines: bool,
    out: Path,
) -> Path:
    """Write ``report.md`` and what it links to; return its path."""
    write_parquet(out / "metrics.parquet", tables.metrics_table(results))
    write_parquet(out / "predictions.parquet", tables.predictions_table(results))
    write_csv(out / "scores.csv", tables.CSV_HEADER, tables.csv_rows(results))
    write_csv(
        out / "leakage.csv",
        ("set", "plane", "pool_tile", "bits", "correlation", "same_picture"),
        [
            [name, hit.plane, hit.tile, hit.bits, f"{hit.correlation:.4f}", hit.same_picture]
            for name, leak in leaks.items()
            for hit in leak.hits
        ],
    )
    bar_chart(results, out / "scores.png")
    text = ["# Evaluation\n"]
    if not baselines:
        text.append(f"> **{NO_BASELINES}**\n")
    text.append(scores_markdown(results))
    text.append("![balanced accuracy of every encoder on every set](scores.png)\n")
    for result in results:
        text.append(_section(result, leaks[result.name], pool, out))
    text.append(_HOW.format(folds="/".join(sorted({str(r.recipe.folds) for r in results}))))
    path = out / "report.md"
    write_atomic(path, "\n".join(text).encode())
    return path


def scores_markdown(results: Sequence[SetScores]) -> str:
    """Return one table of all sets, with the mean over the sets last."""
    rows = [[r.name, *row] for r in results for row in tables.set_rows(r)]
    if len(results) > 1:  # only of encoders that every set has under the same name
        rows += [["**mean**", *row] for row in tables.mean_rows(results)]
    return tables.markdown(("set", *tables.HEADER), rows)


def _section(result: SetScores, leak: Leakage, pool: Hashes | None, out: Path) -> str:
    lines = [f"## {result.name}\n", f"{result.recipe.title}\n", f"{tables.balance(result)}.\n"]
    counts = {name: int((result.truth == c).sum()) for c, name in enumerate(result.classes)}
    lines.append("Classes: " + ", ".join(f"{name} {n:,}" for name, n in counts.items()) + ".\n")
    if result.rows.groups is not None:
        lines.append(
            f"Groups: {len(set(result.rows.groups)):,} ({result.recipe.group}), never on two sides.\n"
        )
    lines += [f"Note: {note}.\n" for note in result.notes]
    if result.recipe.variants:
        lines.append(_variants(result))
    lines.append(_left_out(result))
    if result.comparisons:
        lines.append(tables.markdown(tables.COMPARISON_HEADER, tables.comparison_rows(result)))
    for name in result.tested:
        file = f"confusion-{result.name}-{result.find(name, KNN).file_name}.png"
        confusion_picture(result, name, out / file)
        lines.append(f"![confusion matrix of {name} on {result.name}]({file})\n")
    lines.append(f"L{leak.sentence(pool)[1:]}.\n")
    lines += [
        f"- {hit.plane} and pool tile {hit.tile}: {hit.bits} bits, correlation {hit.correlation:.3f}"
        for hit in leak.hits[:_SHOWN_HITS]
    ]
    return "\n".join(lines) + "\n"


def _variants(result: SetScores) -> str:
    """Return the settings of each variant, as a table."""
    shared = json.dumps(result.recipe.embed.model_dump(mode="json", exclude_unset=True))
    rows = [[name, f"`{json.dumps(changes)}`"] for name, changes in result.recipe.variants.items()]
    return f"All variants: `{shared}`\n\n" + tables.markdown(("variant", "settings laid over it"), rows)


def _left_out(result: SetScores) -> str:
    """Return the leave-one-out accuracies with their permutation nulls, and remarks, as a table."""
    rows = []
    for name in result.names:
        judged = result.find(name, KNN, LEFT_OUT)
        null = judged.predictions.null
        notes = [
            *judged.predictions.notes,
            *(n for j in result.judged if j.name == name for n in j.predictions.notes),
        ]
        chosen = ", ".join(map(str, result.find(name, KNN).predictions.neighbours))
        rows.append(
            [
                judged.signature,
                chosen,
                tables.percent(judged.scores.accuracy),
                str(judged.predictions.neighbours[0]),
                "-" if null is None else f"{tables.percent(null.mean)} ({tables.percent(null.quantile_95)})",
                "-" if null is None else f"{null.p:.3f}",
                "; ".join(dict.fromkeys(notes)),
            ]
        )
    header = ("encoder", "k of the folds", "left-out accuracy", "k", "labels permuted (95 %)", "p", "remarks")
    return tables.markdown(header, rows)
