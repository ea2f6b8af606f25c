"""Scores of treatments and replicates: worked out by hand, and said where they cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.io.profile_table import REJECT_COLUMNS, ProfileTable
from microsnoop.ops.average_precision import average_precision, mean_average_precision
from microsnoop.ops.intervals import mcnemar
from microsnoop.pipelines.profile_levels import aggregate
from microsnoop.pipelines.profile_scores import (
    ACTIVITY,
    CONSISTENCY,
    DISTINCTNESS,
    NSC,
    RULES,
    STRICT,
    MapScore,
    MethodScores,
    Question,
    RuleScore,
    codes,
    compare_rules,
    judge,
    judge_treatments,
)

QUICK = Question(permutations=20, map_null=200)


def table(x: NDArray[Any], obs: dict[str, Any], *, index: Sequence[str] | None = None) -> ProfileTable:
    x32 = np.asarray(x, np.float32)
    x32.flags.writeable = False
    names = [f"r{i}" for i in range(len(x32))] if index is None else list(index)
    frame = pd.DataFrame(obs, index=pd.Index(names, name="obs_id", dtype=object))
    rejects = pd.DataFrame([], columns=list(REJECT_COLUMNS), dtype=object)
    return ProfileTable(x32, frame, tuple(f"f{j}" for j in range(x32.shape[1])), rejects, "a table")


def at(*degrees: float) -> NDArray[np.float64]:
    """Return unit vectors at some angles."""
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


# treatment: angle, compound, mechanism, weeks
TOY: dict[str, tuple[float, str, str, tuple[str, ...]]] = {
    "Q": (0, "A", "M1", ("w1", "w2")),
    "T1": (5, "B", "M2", ("w1", "w2")),
    "T2": (10, "C", "M3", ("w1",)),
    "T3": (16, "D", "M4", ("w1", "w3")),
    "T4": (24, "E", "M1", ("w3",)),
}


def toy_rows(toy: dict[str, tuple[float, str, str, tuple[str, ...]]] = TOY) -> ProfileTable:
    """One row a treatment and week, and two controls a week that are nearer to everything than anything else."""
    rows = [
        (angle, name, compound, moa, week, False)
        for name, (angle, compound, moa, weeks) in toy.items()
        for week in weeks
    ]
    rows += [(12 + k, "DMSO@na", "DMSO", "M1", week, True) for week in ("w1", "w2", "w3") for k in range(2)]
    angle, name, compound, moa, week, control = map(list, zip(*rows, strict=True))
    wells = [f"A{i + 1:02d}" for i in range(len(rows))]
    return table(
        at(*angle),
        {"plate": [f"p-{w}" for w in week], "well": wells, "batch": week, "treatment": name, "compound": compound,
         "moa": moa, "is_control": control},
    )  # fmt: skip


def judged(rows: ProfileTable, question: Question = QUICK) -> MethodScores:
    return judge("X", rows, aggregate(rows, "treatment"), question)


def of(scores: MethodScores, name: str) -> RuleScore:
    found = scores.rule(name)
    assert found is not None, scores.notes
    return found


def the(scores: MethodScores, name: str) -> MapScore:
    found = scores.map(name) or next((one for one in scores.grades if one.question == name), None)
    assert found is not None, scores.notes
    return found


def nearest(rule: RuleScore) -> dict[str, str | None]:
    return {rule.ids[i]: rule.ids[j] if j >= 0 else None for i, j in enumerate(rule.score.nearest.tolist())}


# --- nearest treatments -------------------------------------------------------------------------


def test_three_rules_give_three_answers() -> None:
    scores = judged(toy_rows())
    assert [rule.name for rule in scores.rules] == [name for name, _, _ in RULES]
    chosen = {rule.name: nearest(rule)["Q"] for rule in scores.rules}
    assert chosen == {
        NSC: "T1",
        "NSCB string × plate": "T2",
        "NSCB string × batch": "T2",
        "NSCB any_different × batch": "T3",
        STRICT: "T4",
    }
    strict = of(scores, STRICT)
    assert nearest(strict) == {"Q": "T4", "T1": "T4", "T2": "T4", "T3": None, "T4": "T2"}
    assert (strict.score.correct, strict.score.n, strict.score.n_no_candidate) == (1, 4, 1)
    assert strict.right == {"Q": True, "T1": False, "T2": False, "T4": False}  # T3 was not asked
    for rule in scores.rules[:-1]:
        assert (rule.score.correct, rule.score.n) == (0, 5)
        assert set(rule.right) == set(TOY)


def test_controls_are_never_scored_nor_chosen() -> None:
    # a control at 12 degrees is the nearest of T2 and T3, and its mechanism is right for Q
    scores = judged(toy_rows())
    assert all("DMSO@na" not in rule.ids for rule in scores.rules)
    for question in (ACTIVITY, DISTINCTNESS):
        assert sorted(the(scores, question).groups["group"]) == sorted(TOY)
    assert sorted(the(scores, CONSISTENCY).groups["group"]) == ["M1", "M2", "M3", "M4"]


def test_a_treatment_that_is_a_control_in_some_rows_is_none_to_score() -> None:
    rows = toy_rows()
    control = rows.obs["is_control"].to_numpy().copy()
    control[-1] = False  # a vehicle nobody marked
    rows = replace(rows, obs=rows.obs.assign(is_control=control))
    treatments = aggregate(rows, "treatment")
    assert "is_control" not in treatments.obs  # differs inside the vehicle: nothing there tells it apart
    scores = judge("X", rows, treatments, QUICK)
    assert of(scores, NSC).ids == tuple(TOY)
    assert "DMSO@na: controls in some rows alone, not scored as treatments" in scores.notes
    activity = the(scores, ACTIVITY).groups.set_index("group")
    assert np.isnan(activity.loc["DMSO@na", "map"])  # it has no replicate but controls


def test_plates_and_batches_are_different_units() -> None:
    """Two plates in each of two weeks: another plate is allowed where another week is not."""
    obs = {
        "plate": ["p1", "p2", "p3"], "well": ["A01"] * 3, "batch": ["w1", "w1", "w2"], "treatment": ["a", "b", "c"],
        "compound": ["a", "b", "c"], "moa": ["m", "m", "n"],
    }  # fmt: skip
    scores = judged(table(at(0, 10, 30), obs))
    assert nearest(of(scores, "NSCB string × plate")) == {"a": "b", "b": "a", "c": "b"}
    assert nearest(of(scores, "NSCB string × batch")) == {"a": "c", "b": "c", "c": "b"}
    assert of(scores, "NSCB string × plate").score.correct == 2
    assert of(scores, "NSCB string × batch").score.correct == 0


def test_the_same_compound_is_never_chosen() -> None:
    obs = {
        "plate": ["p1", "p2", "p1", "p2"], "well": ["A01", "A01", "A02", "A02"], "batch": ["p1", "p2", "p1", "p2"],
        "treatment": ["a@1", "a@2", "b@1", "c@1"], "drug": ["a", "a", "b", "c"], "class": ["m", "m", "m", "n"],
    }  # fmt: skip
    rows = table(at(0, 0, 40, 19), obs)
    scores = judged(rows, replace(QUICK, label="class", compound="drug"))
    assert nearest(of(scores, NSC)) == {"a@1": "c@1", "a@2": "c@1", "b@1": "c@1", "c@1": "a@1"}
    assert of(scores, NSC).score.correct == 0


def test_excluded_classes_stay_in_nsc_alone() -> None:
    scores = judged(toy_rows(), replace(QUICK, exclude_classes=("M3", "M4")))
    nsc, strict = of(scores, NSC), of(scores, STRICT)
    assert (nsc.score.n, nsc.n_excluded) == (5, 0)
    assert (strict.ids, strict.n_excluded) == (("Q", "T1", "T4"), 2)
    assert nearest(strict) == {"Q": "T4", "T1": "T4", "T4": "T1"}
    assert {rule.n_excluded for rule in scores.rules} == {0, 2}
    assert not scores.notes[0].startswith("to be excluded")


def test_classes_are_excluded_by_what_they_look_like_and_strange_names_are_said() -> None:
    toy = {name: (angle, c, moa[1:], weeks) for name, (angle, c, moa, weeks) in TOY.items()}
    rows = toy_rows(toy)
    numbers = [1 if moa == "M1" else int(moa) for moa in rows.obs["moa"]]
    rows = replace(rows, obs=rows.obs.assign(moa=numbers))
    scores = judged(rows, replace(QUICK, exclude_classes=("3", "Kinase")))
    assert of(scores, STRICT).ids == ("Q", "T1", "T3", "T4")
    assert "to be excluded, but no treatment has it: Kinase" in scores.notes


def test_where_exclusion_leaves_no_two_batches_it_is_said() -> None:
    scores = judged(toy_rows(), replace(QUICK, exclude_classes=("M1", "M2", "M3", "M4")))
    assert [rule.name for rule in scores.rules] == [NSC]
    assert f"{STRICT}: fewer than two batches, not computed" in scores.notes


def test_fewer_than_two_batches_are_not_computed_and_said() -> None:
    rows = toy_rows()
    one_week = replace(rows, obs=rows.obs.assign(batch="w1", plate="p1"))
    scores = judged(one_week)
    assert [rule.name for rule in scores.rules] == [NSC]
    assert scores.rule(STRICT) is None
    assert scores.batch is None
    assert scores.notes == (
        "NSCB string × plate: fewer than two plates, not computed",
        "NSCB string × batch: fewer than two batches, not computed",
        "NSCB any_different × batch: fewer than two batches, not computed",
        f"{STRICT}: fewer than two batches, not computed",
        "fewer than two batches: nothing said of what is left of them",
    )
    unknown = replace(rows, obs=rows.obs.drop(columns="batch"))
    assert [rule.name for rule in judged(unknown).rules] == [NSC, "NSCB string × plate"]


def test_treatments_without_label_or_compound_are_left_out_and_counted() -> None:
    rows = toy_rows()
    treatment = rows.obs["treatment"]
    rows = replace(
        rows,
        obs=rows.obs.assign(
            moa=rows.obs["moa"].astype(object).where(~treatment.isin(["T1", "Q"]), None),
            compound=rows.obs["compound"].astype(object).where(treatment != "T3", None),
        ),
    )
    scores = judged(rows)
    assert of(scores, NSC).ids == ("T2", "T4")
    assert scores.notes[:2] == (
        "2 treatments without moa are not scored",
        "1 treatments without compound are not scored",
    )
    assert scores.map(DISTINCTNESS) is not None  # replicates need neither
    assert len(the(scores, DISTINCTNESS).groups) == 5


def test_without_a_label_replicates_alone_are_judged() -> None:
    scores = judged(toy_rows(), replace(QUICK, label=None))
    assert scores.rules == ()
    assert [one.question for one in scores.maps] == [ACTIVITY, DISTINCTNESS]
    assert len(scores.grades) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "mechanism"}, "treatments have no mechanism"),
        ({"compound": "drug"}, "treatments have no drug"),
        ({"label": "a", "compound": "b"}, "treatments have no a and no b"),
    ],
)
def test_missing_columns_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        judged(toy_rows(), replace(QUICK, **change))
    assert "score.label" in str(caught.value.hint)


def test_a_compound_with_two_mechanisms_is_named() -> None:
    rows = toy_rows({**TOY, "T5": (40, "B", "M9", ("w1",))})
    with pytest.raises(InputError, match=r"1 compound\(s\) have more than one moa: B$"):
        judged(rows)


def test_one_mechanism_is_no_question() -> None:
    rows = toy_rows()
    scores = judged(replace(rows, obs=rows.obs.assign(moa="M1")))
    assert scores.rules == ()
    assert scores.notes[0] == "fewer than two values of moa: no NSC"
    assert scores.map(CONSISTENCY) is None


def test_a_profile_of_zeros_is_named() -> None:
    rows = toy_rows()
    x = rows.x.copy()
    x[2] = 0
    with pytest.raises(InputError, match=r"1 profile\(s\) are zero all over and have no direction: r2$"):
        judged(replace(rows, x=x))
    treatments = aggregate(rows, "treatment")
    x = treatments.x.copy()
    x[treatments.obs.index == "T1"] = 0  # opposite replicates
    with pytest.raises(InputError, match=r"zero all over.*: T1$"):
        judge("X", rows, replace(treatments, x=x), QUICK)


def test_treatments_alone_give_the_same_rules_and_mechanisms() -> None:
    rows = toy_rows()
    treatments = aggregate(rows, "treatment")
    alone, both = judge_treatments("X", treatments, QUICK), judge("X", rows, treatments, QUICK)
    assert [rule.right for rule in alone.rules] == [rule.right for rule in both.rules]
    assert [one.question for one in alone.maps] == [CONSISTENCY]
    assert alone.maps[0].value == the(both, CONSISTENCY).value
    assert (alone.grades, alone.batch, alone.n_features) == ((), None, 2)


def test_the_order_of_rows_changes_nothing() -> None:
    rows = toy_rows()
    order = np.random.default_rng(3).permutation(len(rows.obs))
    here, there = judged(rows), judged(rows.take(order))
    assert [rule.right for rule in here.rules] == [rule.right for rule in there.rules]
    assert [one.value for one in (*here.maps, *here.grades)] == pytest.approx(
        [one.value for one in (*there.maps, *there.grades)], nan_ok=True
    )


# --- two methods --------------------------------------------------------------------------------


def test_rules_are_compared_on_treatments_both_scored() -> None:
    first = of(judged(toy_rows()), NSC)
    ours = replace(first, right={**{f"o{i}": True for i in range(8)}, "x": False, "same": True, "mine": True})
    other = replace(
        first, right={**{f"o{i}": False for i in range(8)}, "x": True, "same": True, "theirs": True}
    )
    only_ours, only_other, p = compare_rules(ours, other)
    assert (only_ours, only_other) == (8, 1)
    assert p == pytest.approx(0.0391, abs=5e-5) == mcnemar(1, 8)
    assert compare_rules(other, ours)[:2] == (1, 8)
    assert compare_rules(ours, ours) == (0, 0, 1.0)
    assert compare_rules(ours, replace(ours, right={})) == (0, 0, 1.0)


# --- replicates ---------------------------------------------------------------------------------


@pytest.fixture
def replicates() -> ProfileTable:
    """Three treatments in pairs and two controls, on a circle; c has a single row, one row has no treatment."""
    obs = {
        "plate": ["p1", "p2", "p1", "p2", "p1", "p1", "p2", "p1"],
        "well": ["A01", "A01", "A02", "A03", "A04", "B01", "B01", "B02"],
        "batch": ["w1", "w1", "w1", "w2", "w1", "w1", "w2", "w1"],
        "treatment": ["a", "a", "b", "b", "c", "DMSO", "DMSO", None],
        "is_control": [False, False, False, False, False, True, True, False],
    }
    #                a0  a1  b0  b1  c    D0  D1  nobody
    return table(at(0, 30, 40, 100, 45, 20, 120, 1), obs)


def test_activity_by_hand(replicates: ProfileTable) -> None:
    found = the(judged(replicates, replace(QUICK, label=None)), ACTIVITY)
    # a0 (0): D0 20, a1 30 -> 1/2. a1 (30): D0 10, a0 30 -> 1/2. b0 (40): D0 20, b1 60, D1 80 -> 1/2.
    # b1 (100): D1 20, b0 60, D0 80 -> 1/2. c has no replicate. The row without treatment is nobody's.
    assert found.groups["group"].tolist() == ["a", "b", "c"]
    assert found.groups["map"].tolist() == pytest.approx([1 / 2, 1 / 2, np.nan], nan_ok=True)
    assert (found.value, found.n_groups, found.n_missing) == (pytest.approx(1 / 2), 2, 1)
    # one positive among three: (1 + 1/2 + 1/3) / 3
    assert found.expected == pytest.approx(11 / 18)


def test_distinctness_by_hand(replicates: ProfileTable) -> None:
    scores = judged(replicates, replace(QUICK, label=None))
    found = the(scores, DISTINCTNESS)
    # a0 (0): a1 30, b0 40, c 45 -> 1. a1 (30): b0 10, c 15, a0 30 -> 1/3.
    # b0 (40): c 5, a1 10, a0 40, b1 60 -> 1/4. b1 (100): c 55, b0 60 -> 1/2. c: none.
    assert found.groups["map"].tolist() == pytest.approx([2 / 3, 3 / 8, np.nan], nan_ok=True)
    assert found.value == pytest.approx((2 / 3 + 3 / 8) / 2)
    assert (found.n_groups, found.n_missing) == (2, 1)
    pd.testing.assert_frame_equal(found.groups, scores.grades[0].groups)


def test_replicates_are_asked_ever_farther_apart(replicates: ProfileTable) -> None:
    grades = judged(replicates, replace(QUICK, label=None)).grades
    assert [grade.question for grade in grades] == [
        "any replicate",
        "replicate on another well",
        "replicate on another plate",
        "replicate on another batch",
    ]
    per_group = [grade.groups.set_index("group")["map"] for grade in grades]
    # a stands in A01 of both plates, in one week; b in other wells, plates and weeks
    assert [values["a"] for values in per_group] == pytest.approx([2 / 3, np.nan, 2 / 3, np.nan], nan_ok=True)
    assert [values["b"] for values in per_group] == pytest.approx([3 / 8] * 4)
    assert [(grade.n_groups, grade.n_missing) for grade in grades] == [(2, 1), (1, 2), (2, 1), (1, 2)]
    assert [grade.value for grade in grades] == pytest.approx([25 / 48, 3 / 8, 25 / 48, 3 / 8])


def test_a_grade_without_its_column_is_not_asked(replicates: ProfileTable) -> None:
    obs = replicates.obs.drop(columns="batch")
    grades = judged(replace(replicates, obs=obs), replace(QUICK, label=None)).grades
    assert [grade.question for grade in grades][1:] == [
        "replicate on another well",
        "replicate on another plate",
    ]
    untreated = replace(replicates, obs=replicates.obs.drop(columns="treatment"))
    treatments = aggregate(replicates, "treatment")
    scores = judge("X", untreated, treatments, replace(QUICK, label=None))
    assert (scores.maps, scores.grades) == ((), ())


def test_without_controls_there_is_no_activity(replicates: ProfileTable) -> None:
    rows = replicates.take(~replicates.obs["is_control"].to_numpy())
    scores = judged(rows, replace(QUICK, label=None))
    assert scores.map(ACTIVITY) is None
    assert scores.map(DISTINCTNESS) is not None
    controls = judged(replicates.take(replicates.obs["is_control"].to_numpy()), replace(QUICK, label=None))
    assert (controls.maps, controls.grades) == ((), ())


def test_mechanisms_by_hand() -> None:
    obs = {
        "compound": ["a", "a", "b", "c", "d"], "moa": ["m", "m", "m", "n", None], "n_rows": [1] * 5,
    }  # fmt: skip
    treatments = table(at(0, 1, 20, 10, 2), obs, index=["a@1", "a@2", "b@1", "c@1", "d@1"])
    found = the(judge_treatments("X", treatments, QUICK), CONSISTENCY)
    # a@1 (0): c 10, b 20 -> 1/2 (a@2 is the same compound, d has no mechanism). a@2 (1): c 9, b 19 -> 1/2.
    # b (20): c 10, a@2 19, a@1 20 -> (1/2 + 2/3) / 2 = 7/12. n has one compound.
    assert found.groups["group"].tolist() == ["m", "n"]
    assert found.groups["map"][0] == pytest.approx((1 / 2 + 1 / 2 + 7 / 12) / 3)
    assert np.isnan(found.groups["map"][1])
    assert (found.n_groups, found.n_missing) == (1, 1)


def test_p_and_q_come_from_random_rankings_of_the_same_sizes() -> None:
    """Two treatments that stand together, three that do not, one without a replicate; a twin calls the operation."""
    names = np.array([*np.repeat(["u", "v", "w", "x", "y"], 4), "z"])
    x = np.random.default_rng(5).normal(size=(21, 8))
    x[:4] += 8 * np.eye(8)[0]
    x[4:8] += 8 * np.eye(8)[1]
    rows = table(x, {"plate": ["p"] * 21, "well": [f"A{i:02d}" for i in range(1, 22)], "treatment": names})
    question = Question(label=None, map_null=500, seed=7)
    found = the(judge("X", rows, aggregate(rows, "treatment"), question), DISTINCTNESS)
    treatment = codes(rows.obs["treatment"])
    twin = mean_average_precision(
        average_precision(rows.x, pos_sameby=[treatment], neg_diffby=[treatment]),
        treatment,
        null_size=500,
        seed=7,
    )
    np.testing.assert_array_equal(found.groups[["map", "p", "q"]], np.c_[twin.values, twin.p, twin.q])
    assert found.retrieved == 2 / 5 == twin.retrieved  # of those that have a value
    assert found.expected == pytest.approx(np.nanmean(twin.expected))


# --- what is left of batches --------------------------------------------------------------------


def screen(*, shift: float, control_shift: float | None = None, seed: int = 0) -> ProfileTable:
    """Two weeks with two plates of 24 wells, half of them controls; the second week is moved along an axis."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"p{p}", f"{'ABCD'[r]}{c + 1:02d}", f"w{p // 2}")
        for p in range(4)
        for r in range(4)
        for c in range(6)
    ]
    plate, well, batch = (list(column) for column in zip(*rows, strict=True))
    control = np.array([name[0] in "AB" for name in well])
    late = np.array([week == "w1" for week in batch])
    x = rng.normal(size=(len(rows), 5))
    x[:, 0] += 4
    moved = np.where(control, shift if control_shift is None else control_shift, shift)
    x[late, 1] += moved[late]
    treatment = np.where(control, "DMSO", [f"t{w[1:]}" for w in well])
    return table(
        x, {"plate": plate, "well": well, "batch": batch, "treatment": treatment, "is_control": control}
    )


def test_what_is_left_of_batches() -> None:
    question = replace(QUICK, label=None)
    moved, mixed = judged(screen(shift=30.0), question).batch, judged(screen(shift=0.0), question).batch
    assert moved is not None
    assert mixed is not None
    assert (moved.accuracy, moved.control_accuracy) == (1.0, 1.0)
    assert moved.chance == moved.control_chance == 0.5
    assert moved.control_variance > 0.9
    assert mixed.accuracy < 0.65
    assert mixed.control_accuracy < 0.75
    assert mixed.control_variance < 0.1


def test_controls_are_judged_by_themselves() -> None:
    """Only the treated rows are moved: what is technical has gone, and only controls can say so."""
    left = judged(screen(shift=30.0, control_shift=0.0), replace(QUICK, label=None)).batch
    assert left is not None
    assert left.accuracy > 0.7
    assert left.control_accuracy < 0.7
    assert left.control_variance < 0.1


def test_images_of_one_well_do_not_name_its_batch_to_each_other() -> None:
    """Six images a well that are all but the same: neighbours of another well know nothing of the week."""
    wells = screen(shift=0.0).obs
    x = np.random.default_rng(1).normal(size=(len(wells), 5))
    sixfold = np.repeat(np.arange(len(wells)), 6)
    images = x[sixfold] + np.random.default_rng(2).normal(scale=1e-4, size=(len(sixfold), 5))
    obs = {name: wells[name].to_numpy()[sixfold] for name in wells.columns}
    rows = table(images, obs)
    left = judged(rows, replace(QUICK, label=None)).batch
    assert left is not None
    assert left.accuracy < 0.65


def test_the_same_well_of_another_plate_may_name_the_batch() -> None:
    """Each position drifts its own way: only its neighbours on other plates know what a week looks like there."""
    place, plate = np.tile(np.arange(6), 32), np.repeat(np.arange(32), 6)
    late = plate % 2
    x = 10 * np.eye(6)[place]
    x = np.c_[x, late[:, None] * np.eye(6)[place]]
    x += np.random.default_rng(0).normal(scale=0.05, size=x.shape)
    obs = {
        "plate": [f"p{p}" for p in plate], "well": [f"A0{k + 1}" for k in place], "batch": [f"w{k}" for k in late],
        "treatment": [f"t{k}" for k in place],
    }  # fmt: skip
    left = judged(table(x, obs), replace(QUICK, label=None)).batch
    assert left is not None
    assert left.accuracy > 0.95


def test_what_cannot_be_said_of_batches_is_said() -> None:
    scores = judged(toy_rows())
    assert scores.batch is not None
    assert np.isnan([scores.batch.accuracy, scores.batch.control_accuracy]).all()
    assert scores.batch.control_variance == pytest.approx(0.0, abs=1e-12)  # the same two controls every week
    assert [note.partition(":")[0] for note in scores.notes] == [
        "what is left of batches in all rows could not be judged",
        "what is left of batches in controls could not be judged",
    ]
    rows = toy_rows()
    early = replace(
        rows, obs=rows.obs.assign(is_control=rows.obs["is_control"] & (rows.obs["batch"] == "w1"))
    )
    scores = judged(early, replace(QUICK, label=None))
    assert scores.batch is not None
    assert np.isnan(scores.batch.control_variance)
    assert scores.notes[-1].startswith("the variance of controls between batches could not be computed: ")


def test_codes_number_values_and_mark_gaps() -> None:
    assert codes(pd.Series(["b", None, "a", "b", np.nan], dtype=object)).tolist() == [0, -1, 1, 0, -1]
    assert codes(pd.Series(pd.Categorical(["b", None, "a"]))).tolist() == [0, -1, 1]
