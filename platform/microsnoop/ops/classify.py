"""Predict labels across folds: nearest neighbours, a logistic probe, and chance. Evaluation spec, 1, 7 and 8.

Folds depend on labels and groups alone, never on vectors: every encoder is judged on the same splits, which
is what makes predictions comparable row by row.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from microsnoop.ops.intervals import Null, permutation_null
from microsnoop.ops.knn import choose_k, count_duplicates, nearest, vote

_PUBLISHED_K, _PUBLISHED_FROM = 11, 1_000  # evaluation spec, section 1: 11 for n >= 1,000, else 1


@dataclass(frozen=True)
class Predictions:
    """One prediction a row: classes int64 (N,), and remarks that belong beside the score.

    ``neighbours`` is the k of each fold, empty where there are none.
    """

    classes: NDArray[np.int64]
    neighbours: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    null: Null | None = None  # of the accuracy, where it was asked for


def make_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64] | None, *, folds: int, seed: int
) -> NDArray[np.int64]:
    """Deal rows to ``folds`` folds, stratified by label; rows of one group stay together. int64 (N,).

    Raises
    ------
    ValueError
        One label only, or fewer groups (or rows) than folds.
    """
    if len(np.unique(labels)) < 2:
        raise ValueError("a score needs at least two classes")
    units = len(labels) if groups is None else len(np.unique(groups))
    if units < folds:
        raise ValueError(f"{folds} folds need at least {folds} groups, got {units}")
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=seed)
    fold = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():  # classes with fewer members than folds are reported by rare_classes
        warnings.simplefilter("ignore", UserWarning)
        for number, (_, test) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            fold[test] = number
    return fold


def rare_classes(labels: NDArray[np.int64], fold: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return classes with fewer rows than folds, and classes that some training part lacks altogether."""
    classes, counts = np.unique(labels, return_counts=True)
    few = [int(c) for c in classes[counts < fold.max() + 1]]
    absent = [
        int(c) for c in classes if len(np.unique(fold[labels == c])) == 1
    ]  # all of it in one fold: unknown whenever it is asked for
    return few, absent


def standardise(train: NDArray[Any], *others: NDArray[Any]) -> tuple[NDArray[np.float64], ...]:
    """Bring features to mean 0 and standard deviation 1 on ``train``; features constant there are dropped.

    Returns
    -------
    ``train`` and each of ``others``, float64 (N, kept).
    """
    mean, sd = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    kept = sd > 1e-12 * np.maximum(1.0, np.abs(mean))
    return tuple((part[:, kept] - mean[kept]) / sd[kept] for part in (train, *others))


def knn_folds(
    vectors: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    fold: NDArray[np.int64],
    n_classes: int,
    groups: NDArray[np.int64] | None = None,
    k: int | None = None,
    scaled: bool = False,
) -> Predictions:
    """Predict each fold from its nearest neighbours in the others, by cosine.

    Parameters
    ----------
    k
        Neighbours; None chooses among 1, 3, 5, 11 and 21 by leave-one-out on each training part.
    scaled
        Standardise on the training part first (hand-crafted features, which have units).
    """
    unit = np.arange(len(labels)) if groups is None else groups
    predicted, used = np.empty(len(labels), np.int64), []
    for train, test in _splits(fold):
        a, b = standardise(vectors[train], vectors[test]) if scaled else (vectors[train], vectors[test])
        fold_k = k or choose_k(a, labels[train], unit[train], n_classes=n_classes)
        used.append(fold_k)
        predicted[test] = vote(nearest(b, a, k=fold_k), labels[train], n_classes=n_classes)
    return Predictions(predicted, tuple(used))


def knn_left_out(
    vectors: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    n_classes: int,
    groups: NDArray[np.int64] | None = None,
    k: int | None = None,
    scaled: bool = False,
    permutations: int = 0,
    seed: int = 0,
) -> Predictions:
    """Predict each row from all others (of other groups): leave-one-out by identity, as the published script.

    Parameters
    ----------
    k
        Neighbours; None is the published choice: 11 from 1,000 rows on, else 1.
    scaled
        Standardise on all rows first.
    permutations
        How often the accuracy is computed again with permuted labels, for ``null``.
    """
    unit = np.arange(len(labels)) if groups is None else groups
    k = k or (_PUBLISHED_K if len(labels) >= _PUBLISHED_FROM else 1)
    kept = standardise(vectors)[0] if scaled else vectors
    n_dropped, vectors = vectors.shape[1] - kept.shape[1], kept
    found = nearest(vectors, vectors, k=k, query_groups=unit, candidate_groups=unit)
    predicted = vote(found, labels, n_classes=n_classes)
    lonely = [int(c) for c in np.unique(labels) if len(np.unique(unit[labels == c])) == 1]
    winnable = ~np.isin(labels, lonely)
    notes = [f"{n_dropped} constant features left out"] if n_dropped else []
    notes += [f"{n} exact duplicates" for n in [count_duplicates(found)] if n]
    if lonely:
        share = float((predicted == labels)[winnable].mean()) if winnable.any() else float("nan")
        notes.append(
            f"{int((~winnable).sum())} rows can never be right (their class has no other group); "
            f"accuracy of the others {100 * share:.1f} %"
        )

    def accuracy(truth: NDArray[np.int64]) -> float:
        return float((vote(found, truth, n_classes=n_classes) == truth).mean())

    null = (
        permutation_null(accuracy, labels, groups=groups, permutations=permutations, seed=seed)
        if permutations
        else None
    )
    return Predictions(predicted, (k,), tuple(notes), null)


def probe_folds(vectors: NDArray[Any], labels: NDArray[np.int64], *, fold: NDArray[np.int64]) -> Predictions:
    """Predict each fold by logistic regression (C = 1, at most 1,000 iterations), standardised in the fold."""
    predicted, failed = np.empty(len(labels), np.int64), 0
    for train, test in _splits(fold):
        a, b = standardise(vectors[train], vectors[test])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model = LogisticRegression(C=1.0, max_iter=1_000).fit(a, labels[train])
        failed += any(issubclass(entry.category, ConvergenceWarning) for entry in caught)
        predicted[test] = model.predict(b)
    notes = (f"the probe did not converge in {failed} fold(s)",) if failed else ()
    return Predictions(predicted, notes=notes)


def chance_folds(
    labels: NDArray[np.int64],
    *,
    fold: NDArray[np.int64],
    strategy: Literal["most_frequent", "stratified"],
    seed: int,
) -> Predictions:
    """Predict without looking: always the most frequent class of all rows, or at random by frequency.

    The most frequent class is that of the whole set: that of the training part is, in a balanced set, the rarest of
    the test part, and would reach less than one in K. Random answers follow the training part.
    """
    predicted = np.full(len(labels), np.bincount(labels).argmax(), np.int64)
    if strategy == "most_frequent":
        return Predictions(predicted)
    blank = np.zeros((len(labels), 1))
    for number, (train, test) in enumerate(_splits(fold)):
        model = DummyClassifier(strategy="stratified", random_state=seed + number)
        predicted[test] = model.fit(blank[train], labels[train]).predict(blank[test])
    return Predictions(predicted)


def _splits(fold: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for number in range(int(fold.max()) + 1):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)
