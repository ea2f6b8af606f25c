"""How good are profiles: mechanisms of nearest treatments, agreement of replicates, what is left of batches.

Source: evaluation spec, sections 3 to 7. The same function judges every method, corrected or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.io.profile_columns import shorten
from microsnoop.io.profile_table import ProfileTable
from microsnoop.ops.average_precision import average_precision, mean_average_precision
from microsnoop.ops.batch_mixing import batch_accuracy, variance_explained
from microsnoop.ops.intervals import mcnemar
from microsnoop.ops.treatments import Rule, TreatmentScore, allowed_pairs, score_treatments
from microsnoop.pipelines.profile_plates import labelled

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
    """One score of nearest treatments; ``right`` says of those of ``ids`` that had a candidate whether it was.

    ``n_excluded`` treatments were left out by the name of their class.
    """

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
    """Judge corrected rows and the treatments made of them; both may hold controls, which are left out of scores.

    Raises
    ------
    InputError
        Treatments have no label or compound, a compound has several labels, or a profile is zero all over.
    """
    notes: list[str] = []
    _check_lengths(rows)
    treated = _treated(treatments, rows, notes)
    rules = _rules(treated, question, notes)
    activity, grades = _replicates(rows, question)
    # nearest of its own kind among other treatments: the grade that asks for nothing more
    distinct = [replace(grade, question=DISTINCTNESS) for grade in grades[:1]]
    maps = (*activity, *distinct, *_mechanisms(treated, question))
    left = _batches(rows, question, notes)
    return MethodScores(name, tuple(rules), maps, tuple(grades), left, rows.x.shape[1], tuple(notes))


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


def _treated(treatments: ProfileTable, rows: ProfileTable, notes: list[str]) -> ProfileTable:
    """Leave out every treatment that is a control in any row: of those that are both nobody could say what they are."""
    control = _controls(treatments.obs)
    if "treatment" in rows.obs:
        of = rows.obs["treatment"].astype(str)
        also = treatments.obs.index.isin(of[_controls(rows.obs)])
        both = treatments.obs.index[also & treatments.obs.index.isin(of[~_controls(rows.obs)])]
        if len(both):
            notes.append(f"{', '.join(both)}: controls in some rows alone, not scored as treatments")
        control = control | also
    return treatments.take(~control)


def _rules(treated: ProfileTable, question: Question, notes: list[str]) -> list[RuleScore]:
    label = question.label
    if label is None:
        return []
    scored, unknown = labelled(treated, label, question.compound)
    notes += unknown
    _check_lengths(scored)
    if scored.obs[label].nunique() < 2:
        notes.append(f"fewer than two values of {label}: no NSC")
        return []
    labels = scored.obs[label].astype(str)
    if strange := [name for name in question.exclude_classes if name not in set(labels)]:
        notes.append(f"to be excluded, but no treatment has it: {', '.join(strange)}")
    kept = scored.take(~labels.isin(question.exclude_classes).to_numpy())
    found = []
    for rule, units, kind in RULES:
        # mechanisms of one batch cannot be found outside it
        part = scored if units is None else kept
        names = {name for text in part.obs.get(units, ()) for name in text.split(";")}
        if units is not None and len(names) < 2:
            notes.append(f"{rule}: fewer than two {units}, not computed")
            continue
        found.append(_rule(part, question, (rule, units, kind), n_excluded=len(scored.obs) - len(part.obs)))
    return found


def _rule(
    part: ProfileTable, question: Question, rule: tuple[str, str | None, Rule], *, n_excluded: int
) -> RuleScore:
    name, units, kind = rule
    assert question.label is not None
    labels, compounds = codes(part.obs[question.label]), codes(part.obs[question.compound])
    sets = None if units is None else [frozenset(text.split(";")) for text in part.obs[units]]
    allowed = allowed_pairs(compounds, sets, rule=kind)
    score = score_treatments(
        part.x, labels=labels, compounds=compounds, allowed=allowed, permutations=question.permutations,
        seed=question.seed,
    )  # fmt: skip
    ids = tuple(part.obs.index)
    right = {ids[i]: bool(score.predicted[i] == labels[i]) for i in np.flatnonzero(score.predicted >= 0)}
    return RuleScore(name, score, n_excluded, ids, right)


def _replicates(rows: ProfileTable, question: Question) -> tuple[list[MapScore], list[MapScore]]:
    """Ask whether replicates find each other: among controls; and among other treatments, ever farther apart."""
    activity: list[MapScore] = []
    grades: list[MapScore] = []
    if "treatment" not in rows.obs:
        return activity, grades
    control, known = _controls(rows.obs), rows.obs["treatment"].notna().to_numpy()
    if control.any() and (~control & known).any():
        part = rows.take(control | known)
        treatment, role = codes(part.obs["treatment"]), _controls(part.obs).astype(np.int64)
        # a treated row has no positives among controls, even where both got the same
        precision = average_precision(
            part.x, pos_sameby=[treatment, role], neg_diffby=[role], queries=role == 0
        )
        activity.append(_map_score(ACTIVITY, precision, part.obs["treatment"], question))
    part = rows.take(~control & known)
    treatment = codes(part.obs["treatment"])
    if len(np.unique(treatment)) < 2:
        return activity, grades
    for grade in (None, *(name for name in _GRADES if name in part.obs)):
        apart = [] if grade is None else [codes(part.obs[grade])]
        precision = average_precision(
            part.x, pos_sameby=[treatment], pos_diffby=apart, neg_diffby=[treatment]
        )
        name = "any replicate" if grade is None else f"replicate on another {grade}"
        grades.append(_map_score(name, precision, part.obs["treatment"], question))
    return activity, grades


def _mechanisms(treated: ProfileTable, question: Question) -> list[MapScore]:
    if question.label is None or question.label not in treated.obs:
        return []
    part = treated.take(treated.obs[question.label].notna().to_numpy())
    label, compound = codes(part.obs[question.label]), codes(part.obs[question.compound])
    if len(np.unique(label)) < 2:
        return []
    precision = average_precision(part.x, pos_sameby=[label], pos_diffby=[compound], neg_diffby=[label])
    return [_map_score(CONSISTENCY, precision, part.obs[question.label], question)]


def _map_score(name: str, precision: Any, groups: pd.Series, question: Question) -> MapScore:
    labels = groups.astype(str).to_numpy()[precision.query]
    names, numbers = np.unique(labels, return_inverse=True)
    table = mean_average_precision(precision, numbers, null_size=question.map_null, seed=question.seed)
    frame = pd.DataFrame(
        {"group": names, "map": table.values, "p": table.p, "q": table.q, "expected": table.expected}
    )
    there = frame[frame["map"].notna()]
    found, expected = float(there["map"].mean()), float(there["expected"].mean())
    retrieved = float((there["q"] < 0.05).mean())
    return MapScore(name, found, expected, retrieved, len(there), len(frame) - len(there), frame)


def _batches(rows: ProfileTable, question: Question, notes: list[str]) -> BatchScore | None:
    if "batch" not in rows.obs or rows.obs["batch"].nunique() < 2:
        notes.append("fewer than two batches: nothing said of what is left of them")
        return None
    control = _controls(rows.obs)
    found, share = [], np.nan
    for what, part in (("all rows", rows), ("controls", rows.take(control))):
        wells, batches = part.obs["plate"].astype(str) + "/" + part.obs["well"].astype(str), part.obs["batch"]
        try:
            named = batch_accuracy(part.x, codes(batches), groups=codes(wells), seed=question.seed)
            found += [named.accuracy, named.chance]
        except ValueError as error:  # too few wells for folds
            notes.append(f"what is left of batches in {what} could not be judged: {error}")
            found += [np.nan, np.nan]
    try:
        share = variance_explained(rows.x[control], codes(rows.obs["batch"])[control])
    except ValueError as error:  # controls of one batch alone
        notes.append(f"the variance of controls between batches could not be computed: {error}")
    return BatchScore(found[0], found[1], found[2], found[3], share)


def codes(values: pd.Series) -> NDArray[np.int64]:
    """Return a number for every value, -1 for an empty one."""
    return np.asarray(pd.factorize(values.astype(object), sort=False)[0], np.int64)


def _controls(obs: pd.DataFrame) -> NDArray[np.bool_]:
    return obs["is_control"].to_numpy(bool) if "is_control" in obs else np.zeros(len(obs), bool)


def _check_lengths(table: ProfileTable) -> None:
    zero = table.obs.index[np.flatnonzero(~table.x.any(axis=1))].tolist()
    if zero:
        raise InputError(
            f"{table.source}: {len(zero)} profile(s) are zero all over and have no direction: {shorten(zero)}",
            hint="leave these rows out: an image without cells has no profile",
        )
