"""A first judgement of embeddings: do nearest neighbours share a label?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier


@dataclass(frozen=True)
class KnnScore:
    """kNN classification over folds; ``chance`` is what always answering the most frequent label gets."""

    accuracy: float
    accuracy_sd: float
    balanced_accuracy: float
    chance: float
    chance_balanced: float
    n: int
    k: int
    folds: int


def knn_score(
    vectors: NDArray[np.float32],
    labels: NDArray[Any],
    groups: NDArray[Any],
    *,
    k: int = 5,
    folds: int = 5,
    seed: int = 0,
) -> KnnScore:
    """Score vectors (N, D) by cosine kNN, stratified folds in which no group stands on two sides.

    Accuracy is the mean over folds with its standard deviation (n - 1); balanced accuracy is computed on
    the pooled predictions, so that a class missing from a fold does not distort it.

    Raises
    ------
    ValueError
        One label only, fewer groups than folds, or fewer than ``k`` rows to choose neighbours from.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise ValueError(f"a kNN score needs at least two labels, got only {classes.tolist()}")
    if len(np.unique(groups)) < folds:
        raise ValueError(f"{folds} folds need at least {folds} groups, got {len(np.unique(groups))}")
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    predicted = np.empty_like(labels)
    accuracies = []
    for train, test in splitter.split(vectors, labels, groups):
        if len(train) < k:
            raise ValueError(f"k = {k} neighbours asked of {len(train)} training rows")
        model = KNeighborsClassifier(n_neighbors=k, metric="cosine").fit(vectors[train], labels[train])
        predicted[test] = model.predict(vectors[test])
        accuracies.append(float(np.mean(predicted[test] == labels[test])))
    return KnnScore(
        accuracy=float(np.mean(accuracies)),
        accuracy_sd=float(np.std(accuracies, ddof=1)),
        balanced_accuracy=float(balanced_accuracy_score(labels, predicted)),
        chance=float(counts.max() / counts.sum()),
        chance_balanced=1 / len(classes),
        n=len(labels),
        k=k,
        folds=folds,
    )
