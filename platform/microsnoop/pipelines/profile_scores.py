"""How good are profiles: mechanisms of nearest treatments, agreement of replicates, what is left of batches.

Source: evaluation spec, sections 3 to 7. The same function judges every method, corrected or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.io.profile_table import ProfileTable
from microsnoop.ops.average_precision import average_precision, mean_average_precision
from microsnoop.ops.batch_mixing import batch_accuracy, variance_explained
from microsnoop.ops.intervals import mcnemar
from microsnoop.ops.treatments import Rule, TreatmentScore, allowed_pairs, score_treatments

NSC = "NSC"
STRICT = "NSCB disjoint × batch"
# name, the units whose sets are compared, the rule; the strict one is the headline
RULES: tuple[tuple[str, str | None, Rule], ...] = (
    (NSC, None, "nsc"),
    ("NSCB string × plate", "plates", "string"),
    ("NSCB string × batch", "batches", "string"),
    ("NSCB any_different × batch", "batches", "any_different"),
    (STRICT, "batches", "disjoint"),
)
ACTIVITY = "replicates against controls"
DISTINCTNESS = "replicates against other treatments"
CONSISTENCY = "same mechanism, other compound"
_GRADES = ("well", "plate", "batch")


@dataclass(frozen=True)
class RuleScore:
    """One score of nearest treatments; ``right`` says of each treatment of ``ids`` whether it was, None unscored."""

    name: str
    score: TreatmentScore
    n_excluded: int
    ids: tuple[str, ...]
    right: dict[str, bool]


@dataclass(frozen=True)
class MapScore:
    """Mean average precision of one question; ``groups`` has mAP, p and q of every treatment or mechanism."""

    question: str
    value: float
    expected: float
    retrieved: float
    n_groups: int
    n_missing: int
    groups: pd.DataFrame


@dataclass(frozen=True)
class BatchScore:
    """What is left of batches: 15-NN accuracy for the batch of a row, of all rows and of controls; shares of variance.

    Where every treatment stands in one batch, what tells treatments apart tells batches apart as well: then only the
    controls say what is technical.
    """

    accuracy: float
    chance: float
    control_accuracy: float
    control_chance: float
    control_variance: float


@dataclass(frozen=True)
class MethodScores:
    """Everything that is said of one method; what could not be computed is missing, with its reason in ``notes``."""

    name: str
    rules: tuple[RuleScore, ...]
    maps: tuple[MapScore, ...]
    grades: tuple[MapScore, ...]
    batch: BatchScore | None
    n_features: int
    notes: tuple[str, ...]

    def rule(self, name: str) -> RuleScore | None:
        """Return one of the scores of nearest treatments, None where it was not computed."""
        return next((rule for rule in self.rules if rule.name == name), None)

    def map(self, question: str) -> MapScore | None:
        """Return one of the questions of replicates, None where it was not computed."""
        return next((one for one in self.maps if one.question == question), None)


@dataclass(frozen=True)
class Question:
    """What is asked of every method alike."""

    label: str | None = "moa"
    compound: str = "compound"
    exclude_classes: tuple[str, ...] = ()
    permutations: int = 200
    map_null: int = 10_000
    seed: int = 0


def judge(name: str, rows: ProfileTable, treatments: ProfileTable, question: Question) -> MethodScores:
    """Judge corrected rows and the treatments made of them; both may hold controls, which are left out of scores."""
    notes: list[str] = []
    treated = treatments.take(~_controls(treatments.obs))
    rules = _rules(treated, question, notes)
    maps = _replicates(rows, question) + _mechanisms(treated, question)
    return MethodScores(
        name,
        tuple(rules),
        tuple(maps),
        tuple(_grades(rows, question)),
        _batches(rows, question, notes),
        rows.x.shape[1],
        tuple(notes),
    )


def judge_treatments(name: str, treatments: ProfileTable, question: Question) -> MethodScores:
    """Judge treatments alone, where their rows are too many to be judged: NSC, NSCB, and mAP of mechanisms."""
    notes: list[str] = []
    treated = treatments.take(~_controls(treatments.obs))
    rules, maps = _rules(treated, question, notes), _mechanisms(treated, question)
    return MethodScores(name, tuple(rules), tuple(maps), (), None, treatments.x.shape[1], tuple(notes))


def compare_rules(ours: RuleScore, other: RuleScore) -> tuple[int, int, float]:
    """Return McNemar's counts (only ours right, only the other) and exact p, on the treatments both scored."""
    both = ours.right.keys() & other.right.keys()
    only_ours = sum(ours.right[i] and not other.right[i] for i in both)
    only_other = sum(other.right[i] and not ours.right[i] for i in both)
    return only_ours, only_other, mcnemar(only_ours, only_other)


def _rules(treated: ProfileTable, question: Question, notes: list[str]) -> list[RuleScore]:
    if question.label is None:
        return []
    _require(treated, [question.label, question.compound])
    labelled = treated.obs[question.label].notna().to_numpy()
    if not labelled.all():
        notes.append(f"{int((~labelled).sum())} treatments without {question.label} are not scored")
    scored = treated.take(labelled)
    if scored.obs[question.label].nunique() < 2:
        notes.append(f"fewer than two values of {question.label}: no NSC")
        return []
    found = []
    for rule, units, kind in RULES:
        if units is not None and (units not in scored.obs or len(_all_units(scored.obs[units])) < 2):
            notes.append(f"{rule}: fewer than two {units}, not computed")
            continue
        found.append(_rule(scored, question, (rule, units, kind)))
    return found


def _rule(scored: ProfileTable, question: Question, rule: tuple[str, str | None, Rule]) -> RuleScore:
    name, units, kind = rule
    assert question.label is not None
    kept = np.ones(len(scored.obs), bool)
    if units is not None:  # mechanisms of one batch cannot be found outside it
        kept = ~scored.obs[question.label].isin(question.exclude_classes).to_numpy()
    part = scored.take(kept)
    labels, compounds = codes(part.obs[question.label]), codes(part.obs[question.compound])
    sets = None if units is None else [frozenset(text.split(";")) for text in part.obs[units]]
    allowed = allowed_pairs(compounds, sets, rule=kind)
    score = score_treatments(
        part.x, labels=labels, compounds=compounds, allowed=allowed, permutations=question.permutations,
        seed=question.seed,
    )  # fmt: skip
    ids = tuple(map(str, part.obs.index))
    right = {
        ids[i]: bool(score.predicted[i] == labels[i]) for i in range(len(ids)) if score.predicted[i] >= 0
    }
    return RuleScore(name, score, int((~kept).sum()), ids, right)


def _replicates(rows: ProfileTable, question: Question) -> list[MapScore]:
    """Ask whether replicates find each other, among controls and among other treatments."""
    if "treatment" not in rows.obs:
        return []
    control = _controls(rows.obs)
    known = rows.obs["treatment"].notna().to_numpy()
    found = []
    for name, kept in ((ACTIVITY, control | known), (DISTINCTNESS, ~control & known)):
        part = rows.take(kept)
        treatment, is_control = codes(part.obs["treatment"]), _controls(part.obs)
        negative = is_control.astype(np.int64) if name == ACTIVITY else treatment
        if not (~is_control).any() or len(np.unique(negative)) < 2:
            continue
        precision = average_precision(
            part.x, pos_sameby=[treatment], neg_diffby=[negative], queries=~is_control
        )
        found.append(_map_score(name, precision, part.obs["treatment"], question))
    return found


def _mechanisms(treated: ProfileTable, question: Question) -> list[MapScore]:
    if question.label is None or question.label not in treated.obs:
        return []
    part = treated.take(treated.obs[question.label].notna().to_numpy())
    label, compound = codes(part.obs[question.label]), codes(part.obs[question.compound])
    if len(np.unique(label)) < 2:
        return []
    precision = average_precision(part.x, pos_sameby=[label], pos_diffby=[compound], neg_diffby=[label])
    return [_map_score(CONSISTENCY, precision, part.obs[question.label], question)]


def _grades(rows: ProfileTable, question: Question) -> list[MapScore]:
    """Ask the same of replicates ever farther apart: any, on another well position, plate, batch."""
    if "treatment" not in rows.obs:
        return []
    part = rows.take(~_controls(rows.obs) & rows.obs["treatment"].notna().to_numpy())
    if not len(part.obs):
        return []
    treatment = codes(part.obs["treatment"])
    if len(np.unique(treatment)) < 2:
        return []
    found = []
    for grade in (None, *(name for name in _GRADES if name in part.obs)):
        apart = [] if grade is None else [codes(part.obs[grade])]
        precision = average_precision(
            part.x, pos_sameby=[treatment], pos_diffby=apart, neg_diffby=[treatment]
        )
        name = "any replicate" if grade is None else f"replicate on another {grade}"
        found.append(_map_score(name, precision, part.obs["treatment"], question))
    return found


def _map_score(name: str, precision: Any, groups: pd.Series, question: Question) -> MapScore:
    labels = groups.astype(str).to_numpy()[precision.query]
    names, numbers = np.unique(labels, return_inverse=True)
    table = mean_average_precision(precision, numbers, null_size=question.map_null, seed=question.seed)
    frame = pd.DataFrame(
        {"group": names, "map": table.values, "p": table.p, "q": table.q, "expected": table.expected}
    )
    there = frame["map"].notna()
    mean = [
        float(frame.loc[there, column].mean()) if there.any() else np.nan for column in ("map", "expected")
    ]
    retrieved = float((frame.loc[there, "q"] < 0.05).mean()) if there.any() else np.nan
    return MapScore(name, mean[0], mean[1], retrieved, int(there.sum()), int((~there).sum()), frame)


def _batches(rows: ProfileTable, question: Question, notes: list[str]) -> BatchScore | None:
    if "batch" not in rows.obs or rows.obs["batch"].nunique() < 2:
        notes.append("fewer than two batches: nothing said of what is left of them")
        return None
    control = _controls(rows.obs)
    found = []
    for part in (rows, rows.take(control)):
        wells = part.obs["plate"].astype(str) + "/" + part.obs["well"].astype(str)
        try:
            named = batch_accuracy(part.x, codes(part.obs["batch"]), groups=codes(wells), seed=question.seed)
            found += [named.accuracy, named.chance]
        except ValueError as error:  # too few wells for folds
            notes.append(f"what is left of batches could not be judged: {error}")
            found += [np.nan, np.nan]
    share = (
        variance_explained(rows.x[control], codes(rows.obs["batch"])[control])
        if control.sum() > 1
        else np.nan
    )
    return BatchScore(found[0], found[1], found[2], found[3], share)


def codes(values: pd.Series) -> NDArray[np.int64]:
    """Return a number for every value, -1 for an empty one."""
    return np.asarray(pd.factorize(values.astype(object), sort=False)[0], np.int64)


def _controls(obs: pd.DataFrame) -> NDArray[np.bool_]:
    return obs["is_control"].to_numpy(bool) if "is_control" in obs else np.zeros(len(obs), bool)


def _all_units(texts: Iterable[str]) -> set[str]:
    return {unit for text in texts for unit in text.split(";")}


def _require(table: ProfileTable, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.obs]
    if missing:
        raise InputError(
            f"{table.source}: treatments have no {' and no '.join(missing)} (or several of it in one treatment)",
            hint="name the columns under input.columns, or set score.label to null",
        )
