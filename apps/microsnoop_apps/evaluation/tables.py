"""Scores as tables: for people (per cent, one decimal) and for programs (long form, full precision)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from microsnoop.ops.metrics import HEADLINE, PER_CLASS
from microsnoop_apps.evaluation.scores import CHANCE, FOLDS, KNN, PROBE, Judged, SetScores

HEADER = (
    "encoder", "kNN accuracy", "95 %", "balanced", "MCC", "macro F1", "probe accuracy", "95 %", "balanced",
)  # fmt: skip
METRICS_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("encoder", pa.string()),
        ("embedding", pa.string()),
        ("encoder_sha256", pa.string()),
        ("trained", pa.bool_()),
        ("metric", pa.string()),
        ("level", pa.string()),
        ("variant", pa.string()),
        ("class", pa.string()),
        ("value", pa.float64()),
        ("k", pa.int64()),
        ("n", pa.int64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("ci_method", pa.string()),
        ("n_degenerate", pa.int64()),
        ("neighbours", pa.list_(pa.int64())),
        ("seed", pa.int64()),
    ]
)
PREDICTIONS_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("encoder", pa.string()),
        ("embedding", pa.string()),
        ("encoder_sha256", pa.string()),
        ("variant", pa.string()),
        ("level", pa.string()),
        ("obs_id", pa.string()),
        ("group", pa.string()),
        ("fold", pa.int64()),
        ("truth", pa.string()),
        ("predicted", pa.string()),
    ]
)


def percent(value: float) -> str:
    """Return a share as per cent with one decimal; a dash where it is not a number."""
    return "-" if np.isnan(value) else f"{100 * value:.1f}"


def set_rows(result: SetScores) -> list[list[str]]:
    """Return one line an encoder (``HEADER``), chance last."""
    rows = [
        [
            result.find(name, KNN).signature,
            *_accuracy(result.find(name, KNN)),
            *(
                percent(getattr(result.find(name, KNN).scores, m))
                for m in ("balanced_accuracy", "mcc", "macro_f1")
            ),
            *_accuracy(result.find(name, PROBE)),
            percent(result.find(name, PROBE).scores.balanced_accuracy),
        ]
        for name in result.names
    ]
    for judged in (j for j in result.judged if j.classifier == CHANCE):
        headline = (percent(getattr(judged.scores, m)) for m in ("balanced_accuracy", "mcc", "macro_f1"))
        rows.append([judged.name, *_accuracy(judged), *headline, "", "", ""])
    return rows


def mean_rows(results: Sequence[SetScores]) -> list[list[str]]:
    """Return one line an encoder: means over the sets, every set counting the same.

    Only encoders that were judged on every set have a mean.
    """
    rows = []
    for name in results[0].names:
        if any(name not in result.names for result in results):
            continue
        knn, probe = ([result.find(name, c).scores for result in results] for c in (KNN, PROBE))
        values = [
            np.mean([getattr(s, m) for s in knn])
            for m in ("accuracy", "balanced_accuracy", "mcc", "macro_f1")
        ]
        values += [np.mean([getattr(s, m) for s in probe]) for m in ("accuracy", "balanced_accuracy")]
        accuracy, balanced, mcc, f1, probe_accuracy, probe_balanced = (percent(float(v)) for v in values)
        signature = results[0].find(name, KNN).signature
        rows.append([signature, accuracy, "", balanced, mcc, f1, probe_accuracy, "", probe_balanced])
    return rows


CSV_HEADER = (
    "set", "encoder", "embedding", "encoder_sha256", "n", "classes", "knn_accuracy", "knn_accuracy_sd",
    "knn_accuracy_low", "knn_accuracy_high", "knn_balanced_accuracy", "knn_mcc", "knn_macro_f1", "probe_accuracy",
    "probe_accuracy_sd", "probe_accuracy_low", "probe_accuracy_high", "probe_balanced_accuracy", "probe_mcc",
    "probe_macro_f1",
)  # fmt: skip


def csv_rows(results: Sequence[SetScores]) -> list[list[object]]:
    """Return one line an encoder and set in numbers (``CSV_HEADER``), shares from 0 to 1; chance has no probe."""
    rows: list[list[object]] = []
    for result in results:
        chance = [j for j in result.judged if j.classifier == CHANCE]
        pairs = [(result.find(name, KNN), result.find(name, PROBE)) for name in result.names]
        for knn, probe in [*pairs, *((j, None) for j in chance)]:
            row: list[object] = [result.name, knn.name, knn.embedding, knn.sha256]
            row += [len(result.truth), len(result.classes)]
            for judged in (knn, probe):
                row += [""] * 7 if judged is None else [f"{value:.6f}" for value in _numbers(judged)]
            rows.append(row)
    return rows


def _numbers(judged: Judged) -> list[float]:
    interval, found = judged.intervals["accuracy"], judged.scores
    spread = [found.accuracy, judged.accuracy_sd, interval.low, interval.high]
    return [*spread, found.balanced_accuracy, found.mcc, found.macro_f1]


COMPARISON_HEADER = (
    "classifier", "encoder", "against", "only it right", "only the other right", "McNemar p", "difference", "95 %",
)  # fmt: skip


def comparison_rows(result: SetScores) -> list[list[str]]:
    """Return one line a comparison: discordant rows, McNemar's p, the difference of accuracies in points."""
    return [
        [
            classifier, a, b, f"{c.only_a:,}", f"{c.only_b:,}", f"{c.p:.2g}", f"{100 * c.difference:+.1f}",
            f"{100 * c.interval.low:+.1f} to {100 * c.interval.high:+.1f}",
        ]
        for classifier, a, b, c in result.comparisons
    ]  # fmt: skip


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def balance(result: SetScores) -> str:
    """Return where all rows of the input went, in one sentence."""
    rows = result.rows
    reasons = [f"{n:,} {reason}" for reason, n in rows.left_out.items()]
    sign = "=" if rows.n_input == len(rows.ids) + sum(rows.left_out.values()) else "≠"
    text = f"{rows.n_input:,} rows {sign} {len(rows.ids):,} scored" + "".join(f" + {r}" for r in reasons)
    rejected = [
        f"{name}: {', '.join(f'{code} {n:,}' for code, n in codes.items())}"
        for name, codes in result.rejected.items()
    ]
    return text + (f"; rejected by {'; '.join(rejected)}" if rejected else "")


def metrics_table(results: Sequence[SetScores]) -> pa.Table:
    """Return every score in long form (``METRICS_SCHEMA``)."""
    rows = [row for result in results for judged in result.judged for row in _metrics(result, judged)]
    for result in results:
        rows += list(_comparison_metrics(result))
    return pa.Table.from_pylist(rows, schema=METRICS_SCHEMA)


def predictions_table(results: Sequence[SetScores]) -> pa.Table:
    """Return every prediction, one row a row of the set, a source and a classifier."""
    tables = []
    for result in results:
        names, n = np.array(result.classes, object), len(result.truth)
        shared: dict[str, Any] = {
            "set": [result.name] * n,
            "obs_id": list(result.rows.ids),
            "group": list(result.rows.groups or [None] * n),
            "fold": result.fold,
            "truth": names[result.truth],
        }
        for judged in result.judged:
            own = {
                "encoder": [judged.name] * n,
                "embedding": [judged.embedding] * n,
                "encoder_sha256": [judged.sha256] * n,
                "variant": [judged.classifier] * n,
                "level": [judged.level] * n,
                "predicted": names[judged.predictions.classes],
            }
            if judged.level != FOLDS:
                own["fold"] = pa.nulls(n, pa.int64())
            columns = shared | own
            tables.append(
                pa.table(
                    [pa.array(columns[f.name], f.type) for f in PREDICTIONS_SCHEMA], schema=PREDICTIONS_SCHEMA
                )
            )
    return pa.concat_tables(tables)


def _accuracy(judged: Judged) -> tuple[str, str]:
    interval = judged.intervals["accuracy"]
    value = f"{percent(judged.scores.accuracy)} ± {percent(judged.accuracy_sd)}"
    return value, f"{percent(interval.low)} to {percent(interval.high)}"


def _metrics(result: SetScores, judged: Judged) -> Iterator[dict[str, Any]]:
    n = len(result.truth)
    shared = {
        "set": result.name,
        "encoder": judged.name,
        "embedding": judged.embedding,
        "encoder_sha256": judged.sha256,
        "trained": judged.trained,
        "level": judged.level,
        "variant": judged.classifier,
        "neighbours": list(judged.predictions.neighbours),
        "seed": result.recipe.seed,
    }
    hits = int(np.trace(judged.confusion))
    for name in HEADLINE:
        interval = judged.intervals[name]
        yield shared | {
            "metric": name,
            "value": getattr(judged.scores, name),
            "k": hits if name == "accuracy" else None,
            "n": n,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "ci_method": interval.method,
            "n_degenerate": interval.n_degenerate,
        }
    if not np.isnan(judged.accuracy_sd):
        yield shared | {"metric": "accuracy_sd", "value": judged.accuracy_sd, "n": n}
    null = judged.predictions.null
    if null is not None:
        for name, value in (("null_mean", null.mean), ("null_q95", null.quantile_95), ("null_p", null.p)):
            yield shared | {"metric": name, "value": value, "n": n}
    for c, label in enumerate(result.classes):
        for name in PER_CLASS:
            value = float(getattr(judged.scores, name)[c])
            count = int(judged.confusion[c].sum())
            yield shared | {"metric": name, "class": label, "value": value, "n": count}


def _comparison_metrics(result: SetScores) -> Iterator[dict[str, Any]]:
    for classifier, a, b, c in result.comparisons:
        judged = result.find(a, classifier)
        shared = {
            "set": result.name, "encoder": a, "embedding": judged.embedding, "encoder_sha256": judged.sha256,
            "trained": judged.trained, "level": FOLDS, "variant": f"{classifier} against {b}", "n": len(result.truth),
            "seed": result.recipe.seed,
        }  # fmt: skip
        yield shared | {
            "metric": "accuracy_difference",
            "value": c.difference,
            "ci_low": c.interval.low,
            "ci_high": c.interval.high,
            "ci_method": c.interval.method,
        }
        yield shared | {"metric": "mcnemar_p", "value": c.p}
        yield shared | {"metric": "only_it_right", "value": c.only_a}
        yield shared | {"metric": "only_the_other_right", "value": c.only_b}
