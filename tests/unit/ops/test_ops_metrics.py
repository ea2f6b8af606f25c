"""Scores: known values, equality with scikit-learn, and what is not defined."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as oracle

from microsnoop.ops.metrics import confusion_matrix, headline_scores, scores


def test_known_values() -> None:
    found = scores(
        confusion_matrix(np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 0, 2]), n_classes=3)
    )
    assert found.accuracy == pytest.approx(5 / 7)
    assert found.balanced_accuracy == pytest.approx(0.75)
    assert found.macro_f1 == pytest.approx(0.75)
    assert found.mcc == pytest.approx(0.50)
    assert not found.mcc_undefined
    np.testing.assert_allclose(found.recall, [0.75, 0.5, 1])


def test_one_answer_for_all_has_no_correlation() -> None:
    found = scores(confusion_matrix(np.array([0, 1, 0, 1]), np.array([1, 1, 1, 1]), n_classes=2))
    assert found.mcc == 0
    assert found.mcc_undefined
    assert found.precision_undefined == (0,)
    assert found.precision[0] == 0


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 7)), int(rng.integers(5, 60))
    truth, predicted = rng.integers(0, k, n), rng.integers(0, k, n)
    matrix = confusion_matrix(truth, predicted, n_classes=k)
    np.testing.assert_array_equal(matrix, oracle.confusion_matrix(truth, predicted, labels=range(k)))
    found = scores(matrix)
    with warnings.catch_warnings():  # of classes that are only predicted
        warnings.simplefilter("ignore")
        assert found.accuracy == pytest.approx(oracle.accuracy_score(truth, predicted))
        assert found.balanced_accuracy == pytest.approx(oracle.balanced_accuracy_score(truth, predicted))
        assert found.macro_f1 == pytest.approx(oracle.f1_score(truth, predicted, average="macro"))
        assert found.mcc == pytest.approx(oracle.matthews_corrcoef(truth, predicted))
        each = oracle.precision_recall_fscore_support(truth, predicted, labels=range(k), zero_division=0)
    for mine, theirs in zip((found.precision, found.recall, found.f1), each, strict=False):
        np.testing.assert_allclose(mine, theirs)


def test_many_at_once_equal_one_by_one(rng: np.random.Generator) -> None:
    matrices = rng.integers(0, 9, (30, 4, 4))
    together = headline_scores(matrices)
    for i, matrix in enumerate(matrices):
        alone = scores(matrix)
        for name, values in together.items():
            assert values[i] == getattr(alone, name)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(N,\)"):
        confusion_matrix(np.array([0, 1]), np.array([0]), n_classes=2)
    with pytest.raises(ValueError, match=r"prediction holds classes outside 0\.\.1"):
        confusion_matrix(np.array([0, 1]), np.array([0, 2]), n_classes=2)
    with pytest.raises(ValueError, match="no row"):
        scores(np.zeros((2, 2), int))
