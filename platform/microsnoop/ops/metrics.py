"""Scores of a classification, all of them from its confusion matrix. Source: evaluation spec, section 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADLINE = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")
PER_CLASS = ("recall", "precision", "f1")


@dataclass(frozen=True)
class Scores:
    """Headline scores, scores by class (float64 (K,)), and what could not be defined."""

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    mcc: float
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    f1: NDArray[np.float64]
    mcc_undefined: bool
    precision_undefined: tuple[int, ...]  # classes that were never predicted


def confusion_matrix(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], *, n_classes: int
) -> NDArray[np.int64]:
    """Count pairs: int64 (K, K), rows are the truth, columns the prediction.

    Raises
    ------
    ValueError
        Lengths that differ, or a class outside 0..n_classes-1.
    """
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise ValueError(f"truth and prediction must be (N,), got {truth.shape} and {predicted.shape}")
    for name, values in (("truth", truth), ("prediction", predicted)):
        if len(values) and not 0 <= values.min() <= values.max() < n_classes:
            raise ValueError(f"the {name} holds classes outside 0..{n_classes - 1}")
    return np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def scores(confusion: NDArray[np.int64]) -> Scores:
    """Score one confusion matrix (K, K); classes that occur nowhere do not enter any mean.

    Raises
    ------
    ValueError
        An empty matrix.
    """
    if confusion.sum() == 0:
        raise ValueError("no row to score")
    matrix = confusion.astype(np.float64)
    truth, predicted, hits = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    headline = headline_scores(confusion[None])
    return Scores(
        **{name: float(values[0]) for name, values in headline.items()},
        recall=_ratio(hits, truth),
        precision=_ratio(hits, predicted),
        f1=_ratio(2 * hits, truth + predicted),
        mcc_undefined=bool(_mcc_norm(matrix[None])[0] == 0),
        precision_undefined=tuple(int(c) for c in np.flatnonzero((predicted == 0) & (truth > 0))),
    )


def headline_scores(confusions: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Score many confusion matrices (B, K, K) at once: each name of ``HEADLINE`` -> float64 (B,).

    Balanced accuracy is the mean recall of the classes in the truth, macro F1 the mean F1 of the classes in
    truth or prediction (0 where precision is undefined), MCC 0 where its denominator is.
    """
    matrix = confusions.astype(np.float64)
    truth, predicted = matrix.sum(axis=2), matrix.sum(axis=1)
    hits, n = np.einsum("bkk->bk", matrix), matrix.sum(axis=(1, 2))
    present, either = truth > 0, truth + predicted > 0
    norm = _mcc_norm(matrix)
    covariance = hits.sum(axis=1) * n - (truth * predicted).sum(axis=1)
    return {
        "accuracy": hits.sum(axis=1) / n,
        "balanced_accuracy": _ratio(hits, truth).sum(axis=1) / present.sum(axis=1),
        "macro_f1": _ratio(2 * hits, truth + predicted).sum(axis=1) / either.sum(axis=1),
        "mcc": _ratio(covariance, norm),
    }


def _mcc_norm(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    truth, predicted, n = matrix.sum(axis=2), matrix.sum(axis=1), matrix.sum(axis=(1, 2))
    squares = [n**2 - (sums**2).sum(axis=1) for sums in (predicted, truth)]
    return np.asarray(np.sqrt(squares[0] * squares[1]))


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide, 0 where there is nothing to divide by."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
