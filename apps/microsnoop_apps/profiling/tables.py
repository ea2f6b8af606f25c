"""Scores of a batch experiment as tables: for people (per cent) and for programs (long form)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

from microsnoop.core.profile_config import UNCORRECTED
from microsnoop.pipelines.profile_scores import RULES, MapScore, MethodScores, RuleScore, compare_rules
from microsnoop_apps.evaluation.tables import percent
from microsnoop_apps.profiling.experiment import Corrected, Experiment

RULE_HEADER = (
    "method", "score", "right", "%", "95 %", "labels permuted (95 %)", "p", "no candidate", "cannot win",
    "candidates", "against none",
)  # fmt: skip
HEADLINE_HEADER = ("method", *(name for name, _, _ in RULES))
MAP_HEADER = ("method", "question", "mAP", "by chance", "retrieved %", "groups", "missing")
BATCH_HEADER = (
    "method", "features", "15-NN accuracy for batch: all rows %", "chance %", "controls %", "chance %",
    "control variance between batches %",
)  # fmt: skip
METRICS_SCHEMA = pa.schema(
    [
        ("method", pa.string()),
        ("metric", pa.string()),
        ("group", pa.string()),
        ("value", pa.float64()),
        ("k", pa.int64()),
        ("n", pa.int64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("ci_method", pa.string()),
        ("null_mean", pa.float64()),
        ("null_95", pa.float64()),
        ("p", pa.float64()),
        ("q", pa.float64()),
        ("n_no_candidate", pa.int64()),
        ("n_unwinnable", pa.int64()),
        ("n_excluded", pa.int64()),
        ("n_missing", pa.int64()),
        ("seed", pa.int64()),
    ]
)


def has_rules(experiment: Experiment) -> bool:
    """Whether mechanisms of nearest treatments were scored at all: there may be none, or a single one."""
    return any(method.scores.rules for method in experiment.methods.values())


def headline_rows(experiment: Experiment) -> list[list[str]]:
    """Return one line a method: right / n, per cent and interval under every rule."""
    return [headline_row(method.scores) for method in experiment.methods.values()]


def headline_row(scores: MethodScores) -> list[str]:
    """Return the line of one method."""
    return [scores.name, *(_headline(scores.rule(rule)) for rule, _, _ in RULES)]


def rule_rows(experiment: Experiment) -> list[list[str]]:
    """Return one line a method and rule, with everything that belongs to the number."""
    raw = experiment.methods[UNCORRECTED].scores
    return [
        [name, *_rule(rule, raw.rule(rule.name) if name != UNCORRECTED else None)]
        for name, method in experiment.methods.items()
        for rule in method.scores.rules
    ]


def map_rows(experiment: Experiment, *, grades: bool = False) -> list[list[str]]:
    """Return one line a method and question; ``grades``: of replicates ever farther apart."""
    return [
        [
            name, one.question, _fixed(one.value), _fixed(one.expected), percent(one.retrieved),
            str(one.n_groups), str(one.n_missing),
        ]
        for name, method in experiment.methods.items()
        for one in (method.scores.grades if grades else method.scores.maps)
    ]  # fmt: skip


def batch_rows(experiment: Experiment) -> list[list[str]]:
    """Return one line a method: what is left of batches."""
    return [
        [
            name, str(method.scores.n_features), percent(method.scores.batch.accuracy),
            percent(method.scores.batch.chance), percent(method.scores.batch.control_accuracy),
            percent(method.scores.batch.control_chance), percent(method.scores.batch.control_variance),
        ]
        for name, method in experiment.methods.items()
        if method.scores.batch is not None
    ]  # fmt: skip


def metrics_table(experiment: Experiment) -> pa.Table:
    """Return every number in long form (``METRICS_SCHEMA``)."""
    rows = [row for name, method in experiment.methods.items() for row in _metrics(name, method)]
    seed = experiment.config.score.seed
    return pa.Table.from_pylist([row | {"seed": seed} for row in rows], schema=METRICS_SCHEMA)


def prediction_rows(experiment: Experiment) -> list[list[str]]:
    """Return one line a method, rule and treatment: its label, its nearest other treatment, and that one's label."""
    label = experiment.config.score.label
    found: list[list[str]] = []
    if label is None:
        return found
    for name, method in experiment.methods.items():
        labels = method.treatments.obs[label].astype(str) if method.scores.rules else pd.Series(dtype=object)
        for rule in method.scores.rules:
            for i, one in enumerate(rule.ids):
                nearest = rule.ids[rule.score.nearest[i]] if rule.score.predicted[i] >= 0 else ""
                truth = labels[one]
                guess = labels[nearest] if nearest else ""
                found.append([name, rule.name, one, truth, nearest, guess, str(rule.right.get(one, ""))])
    return found


PREDICTION_HEADER = ("method", "score", "treatment", "truth", "nearest", "predicted", "right")


def _fixed(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _headline(rule: RuleScore | None) -> str:
    if rule is None:
        return "-"
    score = rule.score
    return f"{score.correct}/{score.n} = {percent(_share(rule))} [{_interval(rule)}]"


def _rule(rule: RuleScore, raw: RuleScore | None) -> list[str]:
    score = rule.score
    null = "-" if score.null is None else f"{percent(score.null.mean)} ({percent(score.null.quantile_95)})"
    against = "-"
    if raw is not None:
        ours, other, p = compare_rules(rule, raw)
        against = f"+{ours} −{other}, p {p:.2g}"
    return [
        rule.name, f"{score.correct}/{score.n}", percent(_share(rule)), _interval(rule), null,
        "-" if score.null is None else f"{score.null.p:.3f}", str(score.n_no_candidate), str(score.n_unwinnable),
        f"{score.median_candidates:g}", against,
    ]  # fmt: skip


def _share(rule: RuleScore) -> float:
    return rule.score.correct / rule.score.n if rule.score.n else np.nan


def _interval(rule: RuleScore) -> str:
    return f"{percent(rule.score.interval.low)}–{percent(rule.score.interval.high)}"


def _metrics(name: str, method: Corrected) -> Iterator[dict[str, object]]:
    for rule in method.scores.rules:
        score, null = rule.score, rule.score.null
        yield {
            "method": name, "metric": rule.name, "value": _share(rule), "k": score.correct, "n": score.n,
            "ci_low": score.interval.low, "ci_high": score.interval.high, "ci_method": score.interval.method,
            "null_mean": null.mean if null else None, "null_95": null.quantile_95 if null else None,
            "p": null.p if null else None, "n_no_candidate": score.n_no_candidate,
            "n_unwinnable": score.n_unwinnable, "n_excluded": rule.n_excluded,
        }  # fmt: skip
    for one in (*method.scores.maps, *method.scores.grades):
        yield from _map_metrics(name, one)
    batch = method.scores.batch
    if batch is not None:
        yield {
            "method": name,
            "metric": "batch 15-NN accuracy",
            "value": batch.accuracy,
            "null_mean": batch.chance,
        }
        yield {
            "method": name, "metric": "batch 15-NN accuracy, controls", "value": batch.control_accuracy,
            "null_mean": batch.control_chance,
        }  # fmt: skip
        yield {"method": name, "metric": "control variance between batches", "value": batch.control_variance}


def _map_metrics(name: str, one: MapScore) -> Iterator[dict[str, object]]:
    metric = f"mAP {one.question}"
    yield {
        "method": name, "metric": metric, "value": one.value, "n": one.n_groups, "null_mean": one.expected,
        "n_missing": one.n_missing,
    }  # fmt: skip
    yield {"method": name, "metric": f"{metric}: retrieved", "value": one.retrieved, "n": one.n_groups}
    for group in one.groups.to_dict("records"):
        yield {
            "method": name, "metric": metric, "group": group["group"], "value": group["map"], "p": group["p"],
            "q": group["q"], "null_mean": group["expected"],
        }  # fmt: skip
