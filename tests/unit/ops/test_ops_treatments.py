"""Scores of treatments: the rules against loops and the toy that tells them apart, neighbours against loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.ops import treatments as module
from microsnoop.ops.intervals import wilson
from microsnoop.ops.treatments import (
    TreatmentScore,
    allowed_pairs,
    allowed_wells,
    classes_without_candidate,
    nearest_allowed,
    score_treatments,
)

Freeze = Callable[[NDArray], NDArray]
RULES = ("nsc", "string", "any_different", "disjoint")
# Q, T1, T2, T3, T4 of the specification
DEGREES = (0, 5, 10, 16, 24)
COMPOUNDS = np.arange(5)
MOA = np.array([1, 2, 3, 4, 1])
WEEKS = [frozenset(s.split()) for s in ("w1 w2", "w1 w2", "w1", "w1 w3", "w3")]


def at_degrees(*degrees: float) -> NDArray:
    angle = np.radians(degrees)
    return np.c_[np.cos(angle), np.sin(angle)]


def toy(rule: str) -> TreatmentScore:
    allowed = allowed_pairs(COMPOUNDS, WEEKS, rule=rule)
    return score_treatments(at_degrees(*DEGREES), labels=MOA, compounds=COMPOUNDS, allowed=allowed)


def naive_allowed(rule: str, own: frozenset[str], other: frozenset[str]) -> bool:
    if rule == "string":
        return "|".join(sorted(own)) != "|".join(sorted(other))
    if rule == "any_different":
        return any(batch not in own for batch in other)
    return rule == "nsc" or not own & other


def naive_nearest(x: NDArray, allowed: NDArray) -> list[int]:
    unit = x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    found = []
    for i in range(len(x)):
        options = [(-round(float(unit[i] @ unit[j]), 12), j) for j in range(len(x)) if allowed[i, j]]
        found.append(min(options)[1] if options else -1)
    return found


def random_sets(rng: np.random.Generator, t: int) -> list[frozenset[str]]:
    return [frozenset(f"w{b}" for b in rng.choice(6, rng.integers(1, 4), replace=False)) for _ in range(t)]


# ---------------------------------------------------------------- the toy


@pytest.mark.parametrize(
    ("rule", "nearest"), [("nsc", 1), ("string", 2), ("any_different", 3), ("disjoint", 4)]
)
def test_each_rule_gives_another_answer(rule: str, nearest: int) -> None:
    found = toy(rule)
    assert found.nearest[0] == nearest
    assert found.predicted[0] == MOA[nearest]


@pytest.mark.parametrize("rule", ["nsc", "string", "any_different"])
def test_weaker_rules_get_nothing_right(rule: str) -> None:
    found = toy(rule)
    assert (found.correct, found.n, found.n_no_candidate) == (0, 5, 0)
    assert found.score == 0
    assert found.unwinnable.tolist() == [1, 2, 3]
    assert found.interval == wilson(0, 5)
    assert found.null is None  # five compounds


def test_the_strict_rule_is_right_once() -> None:
    found = toy("disjoint")
    assert found.nearest.tolist() == [4, 4, 4, -1, 2]
    assert found.predicted.tolist() == [1, 1, 1, -1, 3]
    assert (found.correct, found.n, found.score) == (1, 4, 0.25)
    assert found.no_candidate.tolist() == [3]
    assert found.unwinnable.tolist() == [1, 2]  # the one without a candidate is not among them
    assert found.n_unwinnable == 2
    assert found.median_candidates == 1
    assert found.interval == wilson(1, 4)
    assert toy("nsc").median_candidates == 4


def test_classes_that_can_only_lose_are_listed() -> None:
    for rule, lost in (("nsc", [2, 3, 4]), ("disjoint", [2, 3, 4])):
        allowed = allowed_pairs(COMPOUNDS, WEEKS, rule=rule)
        assert classes_without_candidate(MOA, allowed).tolist() == lost
    same_week = [*WEEKS[:4], frozenset({"w1"})]
    allowed = allowed_pairs(COMPOUNDS, [*same_week[:3], frozenset({"w3"}), same_week[4]], rule="disjoint")
    assert classes_without_candidate(MOA, allowed).tolist() == [1, 2, 3, 4]
    # one of two directions is enough: M1 may be won by Q alone
    one_way = np.zeros((5, 5), bool)
    one_way[0, 4] = True
    assert classes_without_candidate(MOA, one_way).tolist() == [2, 3, 4]


# ---------------------------------------------------------------- rules


def test_each_rule_allows_a_part_of_the_one_before() -> None:
    strictly = np.zeros(3, bool)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        compounds, sets = rng.integers(0, 5, 12), random_sets(rng, 12)
        nsc, string, different, disjoint = (allowed_pairs(compounds, sets, rule=rule) for rule in RULES)
        for at, (inner, outer) in enumerate([(string, nsc), (different, string), (disjoint, different)]):
            assert not (inner & ~outer).any()
            strictly[at] |= bool((outer & ~inner).any())
    assert strictly.all()


@pytest.mark.parametrize("rule", RULES)
def test_rules_equal_loops(rule: str, rng: np.random.Generator, frozen: Freeze) -> None:
    compounds, sets = frozen(rng.integers(0, 9, 40)), random_sets(rng, 40)
    found = allowed_pairs(compounds, sets, rule=rule)
    assert found.dtype == np.bool_
    for i in range(40):
        for j in range(40):
            expected = compounds[i] != compounds[j] and naive_allowed(rule, sets[i], sets[j])
            assert found[i, j] == expected, (i, j)


def test_having_another_batch_is_not_symmetric() -> None:
    found = allowed_pairs(np.arange(2), [frozenset("ab"), frozenset("a")], rule="any_different")
    assert found.tolist() == [[False, False], [True, False]]


def test_rules_about_batches_need_batches() -> None:
    compounds, sets = np.arange(3), [frozenset("a"), frozenset(), frozenset("b")]
    for rule in RULES[1:]:
        with pytest.raises(ValueError, match=r"1 of 3 treatments have no batch, rows \[1\]"):
            allowed_pairs(compounds, sets, rule=rule)
        with pytest.raises(ValueError, match="at least two batches"):
            allowed_pairs(compounds, [frozenset("a")] * 3, rule=rule)
        with pytest.raises(ValueError, match="needs the batches of 3 treatments, got none"):
            allowed_pairs(compounds, None, rule=rule)
        with pytest.raises(ValueError, match="needs the batches of 3 treatments, got 2"):
            allowed_pairs(compounds, sets[:2], rule=rule)
    assert allowed_pairs(compounds, None, rule="nsc").sum() == 6
    with pytest.raises(ValueError, match="unknown rule 'nscb'; choose one of nsc, string"):
        allowed_pairs(compounds, sets, rule="nscb")
    with pytest.raises(ValueError, match=r"1 of 3 treatments have no compound, rows \[2\]"):
        allowed_pairs(np.array([0, 1, -1]), None, rule="nsc")


def test_wells_equal_loops(rng: np.random.Generator, frozen: Freeze) -> None:
    compounds = frozen(rng.integers(0, 12, 50))
    batches, labels = frozen(rng.integers(0, 3, 50)), frozen(compounds % 4)
    found = allowed_wells(compounds, batches, labels)
    for i in range(50):
        for j in range(50):
            same_batch_and_label = batches[i] == batches[j] and labels[i] == labels[j]
            assert found[i, j] == (compounds[i] != compounds[j] and not same_batch_and_label)
    with pytest.raises(ValueError, match=r"have no batch, rows \[0\]"):
        allowed_wells(compounds, np.where(np.arange(50) == 0, -1, batches), labels)
    with pytest.raises(ValueError, match="needs a label"):
        allowed_wells(compounds, batches, labels[:4])


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize("block", [1, 200, 2**21])
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_equal_loops(
    block: int, seed: int, frozen: Freeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_PAIRS", block)
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", block)
    rng = np.random.default_rng(seed)
    x = frozen(rng.integers(-2, 3, size=(70, 3)).astype(np.float32) + np.float32(0.5))  # many ties
    allowed = rng.random((70, 70)) < 0.1
    allowed[5] = allowed[41] = False
    found = nearest_allowed(x, frozen(allowed))
    assert found.tolist() == naive_nearest(x, allowed)
    assert found[5] == found[41] == -1


def test_neighbours_are_decided_in_double_precision() -> None:
    x = np.array([[1, 0], [1, 3e-5], [1, 2e-5], [0, 1]])  # 1 and 2 are one number for float32 cosines
    allowed = ~np.eye(4, dtype=bool)
    assert nearest_allowed(x, allowed)[0] == 2
    x[1:3, 1] = 0.3, 0.3 - 1e-13  # nearer again, but not within twelve digits
    assert nearest_allowed(x, allowed)[0] == 1


def test_what_float32_cannot_tell_apart_is_compared_again(rng: np.random.Generator) -> None:
    x = np.ones((120, 64)) + 1e-4 * rng.normal(size=(120, 64))  # cosines of 1 - 1e-8
    allowed = ~np.eye(120, dtype=bool)
    assert nearest_allowed(x, allowed).tolist() == naive_nearest(x, allowed)


def test_same_compound_at_distance_zero_is_never_chosen(rng: np.random.Generator) -> None:
    compounds = np.repeat(np.arange(8), 3)
    x = rng.normal(size=(8, 5))[compounds]  # three copies each
    found = score_treatments(
        x, labels=compounds % 4, compounds=compounds, allowed=allowed_pairs(compounds, None, rule="nsc")
    )
    assert (compounds[found.nearest] != compounds).all()
    assert (found.nearest % 3 == 0).all()  # of equals the first


def test_order_and_lengths_of_rows_do_not_matter(rng: np.random.Generator) -> None:
    compounds = np.repeat(np.arange(20), 2)
    x, sets = rng.normal(size=(40, 6)), random_sets(rng, 40)
    order = rng.permutation(40)
    allowed = allowed_pairs(compounds, sets, rule="disjoint")
    found = score_treatments(x, labels=compounds % 5, compounds=compounds, allowed=allowed)
    again = score_treatments(
        x[order] * rng.uniform(0.1, 9, size=(40, 1)),
        labels=compounds[order] % 5,
        compounds=compounds[order],
        allowed=allowed_pairs(compounds[order], [sets[i] for i in order], rule="disjoint"),
    )
    assert again.predicted.tolist() == found.predicted[order].tolist()
    assert again.correct == found.correct


# ---------------------------------------------------------------- score


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_score_equals_loops(rule: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    compounds, sets = rng.integers(0, 15, 50), random_sets(rng, 50)
    labels = (compounds * 7) % 6 + 3
    x = rng.normal(size=(50, 4)) + rng.normal(size=(9, 4))[labels]
    allowed = allowed_pairs(compounds, sets, rule=rule)
    found = score_treatments(x, labels=labels, compounds=compounds, allowed=allowed, permutations=3)
    nearest = naive_nearest(x, allowed)
    right = [i for i, j in enumerate(nearest) if j >= 0 and labels[i] == labels[j]]
    assert found.nearest.tolist() == nearest
    assert found.correct == len(right)
    assert found.n == sum(j >= 0 for j in nearest)
    unwinnable = [
        i
        for i in range(50)
        if allowed[i].any() and not any(allowed[i, j] and labels[j] == labels[i] for j in range(50))
    ]
    assert found.unwinnable.tolist() == unwinnable
    assert found.median_candidates == np.median([sum(row) for row in allowed.tolist()])


def test_null_moves_labels_between_compounds(rng: np.random.Generator) -> None:
    # 12 compounds of 4 doses, labels by pairs of compounds that lie together: all right, by chance about 1 in 11
    compounds = np.repeat(np.arange(12), 4) * 10 + 5
    labels = compounds // 20
    x = rng.normal(size=(6, 20))[labels] + 0.05 * rng.normal(size=(48, 20))
    allowed = allowed_pairs(compounds, None, rule="nsc")
    found = score_treatments(x, labels=labels, compounds=compounds, allowed=allowed, permutations=400)
    assert found.score == 1
    assert found.null is not None
    assert found.null.p == 1 / 401
    assert found.null.mean == pytest.approx(1 / 11, abs=0.03)
    again = score_treatments(x, labels=labels, compounds=compounds, allowed=allowed, permutations=400)
    assert again.null == found.null
    other = score_treatments(x, labels=labels, compounds=compounds, allowed=allowed, permutations=400, seed=1)
    assert other.null != found.null
    unit = {int(code): at for at, code in enumerate(np.unique(compounds))}
    draw = np.random.default_rng(0)
    values = []
    for _ in range(400):
        shuffled = draw.permutation(labels[::4])
        truth = np.array([shuffled[unit[int(code)]] for code in compounds])
        values.append((truth[found.nearest] == truth).mean())
    assert found.null.mean == pytest.approx(np.mean(values), rel=1e-12)


def test_shuffled_labels_score_within_the_range_of_the_null(rng: np.random.Generator) -> None:
    compounds = np.repeat(np.arange(60), 2)
    of_compound = np.arange(60) // 6
    x = rng.normal(size=(10, 15))[of_compound[compounds]] + 0.3 * rng.normal(size=(120, 15))
    allowed = allowed_pairs(compounds, None, rule="nsc")
    real = score_treatments(x, labels=of_compound[compounds], compounds=compounds, allowed=allowed)
    assert real.score > 0.9
    assert real.null is not None
    assert real.null.p == 1 / 201
    p = []
    for _ in range(10):
        shuffled = rng.permutation(of_compound)[compounds]
        found = score_treatments(x, labels=shuffled, compounds=compounds, allowed=allowed)
        assert found.null is not None
        assert found.score < 0.3
        p.append(found.null.p)
    assert np.mean(p) > 0.2
    assert min(p) > 1 / 201


def test_too_few_compounds_or_none_asked_have_no_null(rng: np.random.Generator) -> None:
    for n_compounds, some in ((5, False), (6, True)):
        compounds = np.repeat(np.arange(n_compounds), 4)
        found = score_treatments(
            rng.normal(size=(len(compounds), 3)),
            labels=compounds % 2,
            compounds=compounds,
            allowed=allowed_pairs(compounds, None, rule="nsc"),
        )
        assert (found.null is not None) == some
    compounds = np.arange(8)
    nobody = score_treatments(
        rng.normal(size=(8, 3)), labels=compounds, compounds=compounds, allowed=np.zeros((8, 8), bool)
    )
    assert (nobody.correct, nobody.n, nobody.n_no_candidate, nobody.n_unwinnable) == (0, 0, 8, 0)
    assert np.isnan([nobody.score, nobody.interval.low]).all()
    assert nobody.null is None
    quick = score_treatments(
        rng.normal(size=(8, 3)),
        labels=compounds,
        compounds=compounds,
        allowed=~np.eye(8, dtype=bool),
        permutations=0,
    )
    assert quick.null is None


# ---------------------------------------------------------------- errors


def test_errors_name_what_was_wrong() -> None:
    x, allowed = at_degrees(0, 10, 20), ~np.eye(3, dtype=bool)
    good = np.array([0, 1, 2])
    with pytest.raises(
        ValueError, match=r"1 of 2 compounds have more than one label, compounds \[4\] .*rows 0 and 2"
    ):
        score_treatments(x, labels=good, compounds=np.array([4, 7, 4]), allowed=allowed)
    with pytest.raises(ValueError, match=r"1 of 3 treatments have no label, rows \[1\]"):
        score_treatments(x, labels=np.array([0, -1, 2]), compounds=good, allowed=allowed)
    with pytest.raises(ValueError, match=r"2 of 3 treatments have no compound, rows \[0, 2\]"):
        score_treatments(x, labels=good, compounds=np.array([-1, 0, -1]), allowed=allowed)
    with pytest.raises(ValueError, match="each of 3 treatments needs a label"):
        score_treatments(x, labels=good[:2], compounds=good, allowed=allowed)
    with pytest.raises(ValueError, match=r"allowed must be bool \(3, 3\), got bool \(2, 3\)"):
        score_treatments(x, labels=good, compounds=good, allowed=allowed[:2])
    with pytest.raises(ValueError, match=r"got int64 \(3, 3\)"):
        classes_without_candidate(good, allowed.astype(np.int64))
    bad = x.copy()
    bad[1] = 0
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        score_treatments(bad, labels=good, compounds=good, allowed=allowed)
