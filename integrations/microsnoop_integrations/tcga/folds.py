"""Folds that keep patients (or sites) apart, and the proof that they do. Source: slides spec, section 9."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from microsnoop.core.errors import InputError
from microsnoop.ops.classify import make_folds

Names = Sequence[str] | NDArray[Any]
_NAMED = 5


@dataclass(frozen=True)
class Folds:
    """The fold of each slide, int64 (N,), and the strata that were too small to be spread by themselves."""

    fold: NDArray[np.int64]
    merged: tuple[str, ...] = ()
    leaky: bool = False  # patients may be on two sides: asked for, to show what it does


def make_patient_folds(
    patients: Names,
    targets: Names,
    *,
    confounders: Names | None = None,
    sites: Names | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Folds:
    """Deal patients to folds, stratified by target and confounder; the order of slides plays no part.

    Parameters
    ----------
    patients, targets
        (N,) names, one a slide; a patient may have slides of several targets.
    confounders
        (N,) stratum of each slide; patients take that of most of their slides.
    sites
        (N,) sites that are kept together as well; patients with slides of two sites tie these.

    Raises
    ------
    InputError
        One class only; fewer patients of a class than folds; fewer sites than folds; by site, a fold without all
        classes.
    """
    patients, targets = np.asarray(patients, str), np.asarray(targets, str)
    _check_classes(patients, targets, folds=folds)
    none = np.zeros(len(patients), str)
    strata, merged = _merge_rare(
        patients, targets, none if confounders is None else np.asarray(confounders, str), folds=folds
    )
    names, place = np.unique(patients, return_inverse=True)
    if sites is None and len(set(zip(patients, targets, strict=True))) == len(names):
        # one row a patient: every stratum is spread as evenly as can be
        of_patient = np.array([_most(strata[patients == name]) for name in names])
        # in the order of strata, classes are runs, and are spread as evenly as strata are
        runs, dealt = np.argsort(of_patient, kind="stable"), np.empty(len(names), np.int64)
        dealt[runs] = make_folds(_codes(of_patient[runs]), None, folds=folds, seed=seed)
        found = dealt[place]
    else:
        groups = place if sites is None else _tie(place, np.asarray(sites, str))
        if len(set(groups)) < folds:
            raise InputError(f"{folds} folds need at least {folds} sites, there are {len(set(groups))}")
        found = make_folds(_codes(strata), groups, folds=folds, seed=seed)
        _check_each_fold(found, targets, patients if sites is None else np.asarray(sites, str), folds=folds)
    result = Folds(found, merged)
    check_apart(found, patients, what="patient")
    if sites is not None:
        check_apart(found, np.asarray(sites, str), what="site")
    return result


def make_slide_folds(slides: Names, targets: Names, *, folds: int = 5, seed: int = 0) -> Folds:
    """Deal slides to folds by target alone: as published, patients leak. Only to show by how much.

    Raises
    ------
    InputError
        One class only, or fewer slides of a class than folds.
    """
    slides, targets = np.asarray(slides, str), np.asarray(targets, str)
    _check_classes(slides, targets, folds=folds)
    order = np.argsort(slides)
    found = np.empty(len(slides), np.int64)
    found[order] = make_folds(_codes(targets[order]), None, folds=folds, seed=seed)
    return Folds(found, leaky=True)


def check_given_folds(
    fold: NDArray[np.int64], patients: Names, targets: Names, *, sites: Names | None = None
) -> Folds:
    """Take folds that the caller made, or refuse them.

    Raises
    ------
    InputError
        Not numbered 0..K-1 with K of 2 or more, ``leak``: a patient (or site) in two folds, or a fold without all
        classes in its training part.
    """
    fold, targets = np.asarray(fold), np.asarray(targets, str)
    if fold.shape != targets.shape or fold.dtype.kind not in "iu":
        raise InputError(f"folds must be {len(targets)} whole numbers, got {fold.dtype} {fold.shape}")
    if (used := sorted(set(fold.tolist()))) != list(range(len(used))) or len(used) < 2:
        raise InputError(f"folds must be numbered 0..K-1, two at least; got {used[:_NAMED]}")
    check_apart(fold, patients, what="patient")
    if sites is not None:
        check_apart(fold, sites, what="site")
    for number in used:
        if lacking := sorted(set(targets) - set(targets[fold != number])):
            raise InputError(
                f"all slides of class {', '.join(lacking)} are in fold {number}: nothing to train on"
            )
    return Folds(fold.astype(np.int64))


def check_apart(part: NDArray[np.int64], groups: Names, *, what: str) -> None:
    """Make sure that every patient (or site) is on one side only.

    Raises
    ------
    InputError
        ``leak``, naming who is on two.
    """
    sides: dict[str, set[int]] = {}
    for name, side in zip(map(str, groups), part.tolist(), strict=True):
        sides.setdefault(name, set()).add(side)
    if split := sorted(name for name, own in sides.items() if len(own) > 1):
        raise InputError(
            f"leak: {len(split)} {what}s are on two sides of a split: {', '.join(split[:_NAMED])}",
            hint=f"all slides of a {what} belong into one fold",
        )


def split_validation(
    patients: Names,
    targets: Names,
    *,
    confounders: Names | None = None,
    share: float = 0.2,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Return which slides validate, bool (N,): ``share`` of the patients of each class, spread over confounders.

    At least one patient a class validates and one trains. The order of slides plays no part. A patient of several
    classes counts for the one of most slides.

    Raises
    ------
    InputError
        A class of one patient.
    """
    patients, targets = np.asarray(patients, str), np.asarray(targets, str)
    strata = np.zeros(len(patients), str) if confounders is None else np.asarray(confounders, str)
    rng = np.random.default_rng(seed)
    names = np.unique(patients)
    classes = np.array([_most(targets[patients == name]) for name in names])
    stratum = np.array([_most(strata[patients == name]) for name in names])
    chosen: list[str] = []
    for target in np.unique(classes):
        members = np.flatnonzero(classes == target)
        if len(members) < 2:
            raise InputError(f"class {target} has one patient in a training part: too few to validate on")
        shuffled = rng.permutation(members)
        ordered = shuffled[np.argsort(stratum[shuffled], kind="stable")]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        # every so many in the order of strata: each gives its share
        start = rng.random()
        chosen += [str(names[ordered[int((i + start) * len(members) / count)]]) for i in range(count)]
    validates = np.isin(patients, chosen)
    check_apart(validates.astype(np.int64), patients, what="patient")
    return validates


def _check_classes(units: NDArray[Any], targets: NDArray[Any], *, folds: int) -> None:
    counts = Counter(target for _, target in sorted(set(zip(units.tolist(), targets.tolist(), strict=True))))
    if len(counts) < 2:
        raise InputError(f"two classes are needed, found {', '.join(counts) or 'none'}")
    for target, n in sorted(counts.items()):
        if n < folds:
            raise InputError(
                f"class {target} has {n} patients, {folds} folds need {folds}", hint="use fewer folds"
            )


def _merge_rare(
    patients: NDArray[Any], targets: NDArray[Any], confounders: NDArray[Any], *, folds: int
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Give strata of fewer than ``folds`` patients to the largest of their target; return strata and their names."""
    pairs = list(zip(targets.tolist(), confounders.tolist(), strict=True))
    members: dict[tuple[str, str], set[str]] = {}
    for pair, patient in zip(pairs, patients.tolist(), strict=True):
        members.setdefault(pair, set()).add(patient)
    largest: dict[str, tuple[str, str]] = {}
    for pair in sorted(members, key=lambda p: (-len(members[p]), p)):
        largest.setdefault(pair[0], pair)
    rare = sorted(p for p, own in members.items() if len(own) < folds and largest[p[0]] != p)
    renamed = [largest[pair[0]] if pair in rare else pair for pair in pairs]
    names = tuple(f"{t} × {c}: {len(members[t, c])} patients, counted with {largest[t][1]}" for t, c in rare)
    return np.array([f"{t}\x1f{c}" for t, c in renamed]), names


def _tie(place: NDArray[np.int64], sites: NDArray[Any]) -> NDArray[np.int64]:
    """Return groups of patients that share a site, directly or through others."""
    site = np.unique(sites, return_inverse=True)[1] + int(place.max()) + 1
    n = int(site.max()) + 1
    graph = coo_array((np.ones(len(place)), (place, site)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1][place], np.int64)


def _check_each_fold(
    fold: NDArray[np.int64], targets: NDArray[Any], groups: NDArray[Any], *, folds: int
) -> None:
    for number in range(folds):
        inside = fold == number
        if lacking := sorted(set(targets) - set(targets[inside])):
            held = sorted(set(groups[inside]))
            raise InputError(
                f"fold {number} lacks class {', '.join(lacking)}; it holds {', '.join(held[:_NAMED]) or 'nothing'}",
                hint="these cannot be judged by themselves: use fewer folds, or group by patient",
            )


def _codes(names: Names) -> NDArray[np.int64]:
    return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)


def _most(names: NDArray[Any]) -> str:
    """Return the most frequent name, the first of several."""
    found, counts = np.unique(names, return_counts=True)
    return str(found[counts.argmax()])
