"""A first judgement of embeddings: do nearest neighbours share a label?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.classify import knn_folds, make_folds
from microsnoop.ops.metrics import confusion_matrix, scores


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
    scaled: bool = False,
) -> KnnScore:
    """Score vectors (N, D) by cosine kNN, stratified folds in which no group stands on two sides.

    Accuracy is the mean over folds with its standard deviation (n - 1); balanced accuracy is computed on
    the pooled predictions, so that a class missing from a fold does not distort it. ``scaled`` standardises every
    number on the training part first, for vectors of mixed units.

    Raises
    ------
    ValueError
        One label only, fewer groups than folds, fewer than ``k`` rows to choose neighbours from, or vectors
        without a direction.
    """
    classes, truth = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a kNN score needs at least two labels, got only {classes.tolist()}")
    unit = np.unique(groups, return_inverse=True)[1]
    fold = make_folds(truth, unit, folds=folds, seed=seed)
    predicted = knn_folds(
        vectors, truth, fold=fold, n_classes=len(classes), groups=unit, k=k, scaled=scaled
    ).classes
    accuracies = [float(np.mean(predicted[fold == f] == truth[fold == f])) for f in range(folds)]
    return KnnScore(
        accuracy=float(np.mean(accuracies)),
        accuracy_sd=float(np.std(accuracies, ddof=1)),
        balanced_accuracy=scores(
            confusion_matrix(truth, predicted, n_classes=len(classes))
        ).balanced_accuracy,
        chance=float(np.bincount(truth).max() / len(truth)),
        chance_balanced=1 / len(classes),
        n=len(labels),
        k=k,
        folds=folds,
    )
