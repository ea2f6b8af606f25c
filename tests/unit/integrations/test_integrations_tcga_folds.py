"""Folds: patients (and sites) never on two sides, classes in each, the same for any order; and what is refused."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.folds import (
    check_apart,
    check_given_folds,
    make_patient_folds,
    make_slide_folds,
    split_validation,
)


def cohort(seed: int, *, n: int = 40, mixed: bool = False) -> dict[str, NDArray[Any]]:
    """Patients with 1 to 4 slides, two or three classes, sites of a confounder."""
    rng = np.random.default_rng(seed)
    classes = np.array(["yes", "no", "maybe"][: 2 + seed % 2])
    target = classes[np.arange(n) % len(classes)]
    confounder = np.array(["x", "y", "z"])[rng.integers(0, 3, n)]
    rows = rng.permutation(np.repeat(np.arange(n), rng.integers(1, 5, n)))
    found = {
        "slides": np.array([f"s{i:03d}" for i in rng.permutation(len(rows))]),
        "patients": np.array([f"p{p:02d}" for p in rows]),
        "targets": target[rows],
        "confounders": confounder[rows],
    }
    if mixed:
        found["targets"] = classes[rng.integers(0, len(classes), len(rows))]
    return found


def named(data: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {key: values for key, values in data.items() if key != "slides"}


def test_no_patient_in_two_parts_of_200_cohorts() -> None:
    for seed in range(200):
        data = cohort(seed, mixed=seed % 5 == 0)
        folds = make_patient_folds(**named(data), folds=2 + seed % 4, seed=seed)
        sides = {(p, int(f)) for p, f in zip(data["patients"], folds.fold, strict=True)}
        assert len(sides) == len(set(data["patients"]))
        assert set(folds.fold.tolist()) == set(range(2 + seed % 4))
        for fold in range(2 + seed % 4):
            rest = folds.fold != fold
            names = {key: values[rest] for key, values in data.items() if key != "slides"}
            if seed % 5 == 0:
                continue
            assert set(data["targets"][~rest]) == set(data["targets"])
            validates = split_validation(**names, seed=seed)
            assert not set(names["patients"][validates]) & set(names["patients"][~validates])
            assert (
                set(names["targets"][validates]) == set(names["targets"][~validates]) == set(data["targets"])
            )


def test_folds_know_no_order_and_follow_the_seed() -> None:
    data = cohort(3, n=60)
    rng = np.random.default_rng(0)
    first = make_patient_folds(**named(data), seed=1)
    validates = split_validation(data["patients"], data["targets"], confounders=data["confounders"], seed=1)
    for _ in range(5):
        order = rng.permutation(len(data["slides"]))
        other = {key: values[order] for key, values in data.items()}
        np.testing.assert_array_equal(make_patient_folds(**named(other), seed=1).fold, first.fold[order])
        again = split_validation(
            other["patients"], other["targets"], confounders=other["confounders"], seed=1
        )
        np.testing.assert_array_equal(again, validates[order])
        sited = {**data, "sites": np.array([f"{p[-1]}" for p in data["patients"]])}
        theirs = {key: values[order] for key, values in sited.items()}
        np.testing.assert_array_equal(
            make_patient_folds(**named(theirs), folds=2, seed=1).fold,
            make_patient_folds(**named(sited), folds=2, seed=1).fold[order],
        )
    assert not np.array_equal(make_patient_folds(**named(data), seed=2).fold, first.fold)
    assert not np.array_equal(
        split_validation(data["patients"], data["targets"], confounders=data["confounders"], seed=2),
        validates,
    )


def test_target_and_confounder_are_spread() -> None:
    n = 100
    patients = np.array([f"p{i}" for i in range(n)])
    targets = np.where(np.arange(n) < 40, "yes", "no")
    confounders = np.where(np.arange(n) % 4 == 0, "a", "b")
    folds = make_patient_folds(patients, targets, confounders=confounders)
    assert folds.merged == ()
    for fold in range(5):
        inside = folds.fold == fold
        counts = Counter(zip(targets[inside], confounders[inside], strict=True))
        assert counts == {("yes", "a"): 2, ("yes", "b"): 6, ("no", "a"): 3, ("no", "b"): 9}
    validates = split_validation(patients, targets, confounders=confounders)
    counts = Counter(zip(targets[validates], confounders[validates], strict=True))
    assert counts == {("yes", "a"): 2, ("yes", "b"): 6, ("no", "a"): 3, ("no", "b"): 9}


def test_rare_strata_are_merged_and_listed() -> None:
    patients = np.array([f"p{i}" for i in range(40)])
    targets = np.array(["yes", "no"])[np.arange(40) % 2]
    confounders = np.array(["a"] * 20 + ["b"] * 16 + ["c"] * 4)  # c: 2 of each class
    folds = make_patient_folds(patients, targets, confounders=confounders, folds=5)
    assert folds.merged == (
        "no × c: 2 patients, counted with a",
        "yes × c: 2 patients, counted with a",
    )
    for fold in range(5):
        assert Counter(targets[folds.fold == fold]) == {"yes": 4, "no": 4}


def test_too_few_patients() -> None:
    patients = np.array([f"p{i}" for i in range(10)])
    targets = np.array(["yes"] * 3 + ["no"] * 7)
    with pytest.raises(InputError, match="class yes has 3 patients, 5 folds need 5"):
        make_patient_folds(patients, targets)
    assert len(make_patient_folds(patients, targets, folds=3).fold) == 10
    # slides of one patient count once
    with pytest.raises(InputError, match="class yes has 2 patients"):
        make_patient_folds(np.array(["p0", "p0", *patients[2:]]), targets, folds=3)
    with pytest.raises(InputError, match="two classes are needed, found no"):
        make_patient_folds(patients, np.full(10, "no"))
    with pytest.raises(InputError, match="class yes has one patient"):
        split_validation(patients, np.array(["yes"] + ["no"] * 9))
    validates = split_validation(patients[:4], np.array(["yes"] * 2 + ["no"] * 2), share=0.9)
    assert validates.sum() == 2


def test_a_fifth_of_the_patients_validates() -> None:
    data = cohort(0, n=50)
    validates = split_validation(data["patients"], data["targets"], share=0.2)
    assert len(set(data["patients"][validates])) == 10


# ---------------------------------------------------------------- sites


def sites(n_sites: int = 6, n: int = 60) -> dict[str, NDArray[Any]]:
    patients = np.arange(n) // 2
    site = np.array([f"site{k}" for k in range(n_sites)])[patients % n_sites]
    target = np.array(["yes", "no"])[patients // n_sites % 2]
    names = np.array([f"p{p}" for p in patients])
    return {
        "slides": np.array([f"s{i}" for i in range(n)]),
        "patients": names,
        "targets": target,
        "sites": site,
    }


def test_sites_stay_apart() -> None:
    data = sites()
    folds = make_patient_folds(**named(data), folds=3)
    assert len(set(zip(data["sites"], folds.fold.tolist(), strict=True))) == 6
    for fold in range(3):
        assert set(data["targets"][folds.fold == fold]) == {"yes", "no"}


def test_a_patient_of_two_sites_ties_them() -> None:
    data = sites()
    data["sites"] = data["sites"].copy()
    data["sites"][1] = "site3"  # the second slide of p0, which is of site0
    data["sites"][7] = "site0"  # and of p3, so that sites stay of one size
    for seed in range(10):
        folds = make_patient_folds(**named(data), folds=3, seed=seed)
        assert len({int(f) for f in folds.fold[np.isin(data["sites"], ["site0", "site3"])]}) == 1


def test_a_site_of_one_class_is_named() -> None:
    data = sites(4)
    data["targets"] = np.where(data["sites"] == "site2", "yes", data["targets"])
    with pytest.raises(InputError, match=r"fold \d lacks class no; it holds site2"):
        make_patient_folds(**named(data), folds=4)
    with pytest.raises(InputError, match="5 folds need at least 5 sites, there are 4"):
        make_patient_folds(**named(sites(4)), folds=5)


# ---------------------------------------------------------------- leaks


def test_leaks_are_refused() -> None:
    with pytest.raises(InputError, match="leak: 1 patients are on two sides of a split: p1"):
        check_apart(np.array([0, 1, 0]), ["p1", "p1", "p2"], what="patient")
    check_apart(np.array([0, 0, 1]), ["p1", "p1", "p2"], what="patient")
    data = sites()
    good = make_patient_folds(**named(data), folds=3).fold
    given = check_given_folds(good, data["patients"], data["targets"], sites=data["sites"])
    np.testing.assert_array_equal(given.fold, good)
    leaked = good.copy()
    leaked[0] = (good[0] + 1) % 3
    with pytest.raises(InputError, match=r"leak: 1 patients.*p0"):
        check_given_folds(leaked, data["patients"], data["targets"])
    moved = np.where(data["patients"] == "p0", (good[0] + 1) % 3, good)
    check_given_folds(moved, data["patients"], data["targets"])
    with pytest.raises(InputError, match=r"leak: 1 sites.*site0"):
        check_given_folds(moved, data["patients"], data["targets"], sites=data["sites"])


def test_given_folds_that_cannot_be() -> None:
    names, targets = np.array(["a", "b", "c", "d"]), np.array(["y", "n", "y", "n"])
    for fold, message in [
        ([0, 1, 2], "4 whole numbers"),
        ([0.0, 1, 0, 1], "4 whole numbers"),
        ([0, 0, 0, 0], "two at least"),
        ([1, 2, 1, 2], "numbered 0..K-1"),
        ([0, 1, 0, 1], "all slides of class y are in fold 0"),
    ]:
        with pytest.raises(InputError, match=message):
            check_given_folds(np.array(fold), names, targets)
    assert check_given_folds(np.array([0, 0, 1, 1]), names, targets).fold.tolist() == [0, 0, 1, 1]


def test_folds_of_slides_leak_and_say_so() -> None:
    data = cohort(2, n=30)
    folds = make_slide_folds(data["slides"], data["targets"])
    assert folds.leaky
    with pytest.raises(InputError, match="leak"):
        check_apart(folds.fold, data["patients"], what="patient")
    order = np.random.default_rng(1).permutation(len(data["slides"]))
    other = make_slide_folds(data["slides"][order], data["targets"][order])
    np.testing.assert_array_equal(other.fold, folds.fold[order])
