"""Covariances, principal axes and symmetric powers against numpy, scipy, scikit-learn and their definitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import fractional_matrix_power
from sklearn.decomposition import PCA

from microsnoop.ops import coral
from microsnoop.ops.coral import align_covariance, covariance, principal_axes, symmetric_power

Freeze = Callable[[NDArray], NDArray]


def draw(rng: np.random.Generator, n: int, d: int) -> NDArray[np.float64]:
    """Correlated rows with a mean of 7 and scales from 0.01 to 10."""
    return 7 + rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(0.01, 10, d)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_covariance_is_that_of_numpy(
    ddof: int, dtype: type, frozen: Freeze, rng: np.random.Generator
) -> None:
    rows = frozen(draw(rng, 50, 6).astype(dtype))
    mean, found = covariance(rows, ddof=ddof)
    assert mean.dtype == found.dtype == np.float64
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(found, np.cov(rows.astype(float).T, ddof=ddof), rtol=1e-9, atol=1e-14)


def test_blocks_of_rows_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw(rng, 50, 6)
    whole = covariance(rows, ddof=1)
    monkeypatch.setattr(coral, "_BLOCK_ROWS", 7)
    for found, expected in zip(covariance(rows, ddof=1), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-14)


def test_a_constant_feature_has_a_covariance_of_exactly_zero(rng: np.random.Generator) -> None:
    rows = np.column_stack([np.full(70_001, 0.1), rng.normal(size=70_001), np.full(70_001, 1e9 + 0.3)])
    found = covariance(rows, ddof=1)[1]
    assert np.count_nonzero(found) == 1
    assert found[1, 1] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (6, 5), (5, 5), (4, 9), (2, 3)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_axes_are_those_of_a_principal_component_analysis(
    n: int, d: int, ddof: int, frozen: Freeze, rng: np.random.Generator
) -> None:
    rows = frozen(draw(rng, n, d))
    mean, variances, axes = principal_axes(rows, ddof=ddof)
    theirs = PCA(svd_solver="full").fit(rows)
    rank = min(n - 1, d)
    assert variances.shape == (min(n, d),)
    assert axes.shape == (d, min(n, d))
    assert (variances[:rank] > 0).all()
    assert (variances[rank:] == 0).all()
    np.testing.assert_allclose(mean, theirs.mean_, rtol=1e-12)
    scaled = theirs.explained_variance_[:rank] * (n - 1) / (n - ddof)
    np.testing.assert_allclose(variances[:rank], scaled, rtol=1e-6)
    overlap = np.abs(np.sum(axes[:, :rank] * theirs.components_[:rank].T, axis=0))
    np.testing.assert_allclose(overlap, 1, rtol=1e-6)


@pytest.mark.parametrize("shape", [(200, 6), (5, 8)])
def test_the_largest_entry_of_an_axis_is_positive_whatever_the_order(
    shape: tuple[int, int], rng: np.random.Generator
) -> None:
    rows = draw(rng, *shape)
    axes = principal_axes(rows)[2]
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] > 0).all()
    rank = min(shape[0] - 1, shape[1])
    shuffled = principal_axes(rng.permutation(rows))[2]
    np.testing.assert_allclose(shuffled[:, :rank], axes[:, :rank], atol=1e-7)
    np.testing.assert_allclose(axes[:, :rank].T @ axes[:, :rank], np.eye(rank), atol=1e-12)


@pytest.mark.parametrize("n", [40, 5])
def test_directions_without_variance_are_exactly_zero(n: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(n, 2))
    rows = 1e3 + np.column_stack([x, x.sum(axis=1), x[:, 0] - x[:, 1], np.full((n, 3), 0.7)])
    variances = principal_axes(rows)[1]
    assert (variances[:2] > 0).all()
    assert (variances[2:] == 0).all()
    assert (principal_axes(np.full((n, 6), 0.1))[1] == 0).all()


@pytest.mark.parametrize("exponent", [-1, -0.5, 0.5, 2])
def test_powers_are_those_of_scipy(exponent: float, frozen: Freeze, rng: np.random.Generator) -> None:
    matrix = frozen(np.cov(rng.normal(size=(4, 30))))
    np.testing.assert_allclose(
        symmetric_power(matrix, exponent, ridge=0.3),
        fractional_matrix_power(matrix + 0.3 * np.eye(4), exponent),
        rtol=1e-10,
        atol=1e-12,
    )


def test_two_features_of_correlation_06() -> None:
    found = symmetric_power(np.array([[1, 0.6], [0.6, 1]]), -0.5)
    np.testing.assert_allclose(found, [[1.18585, -0.39528], [-0.39528, 1.18585]], atol=5e-6)


def test_rounding_below_zero_is_lifted() -> None:
    matrix = np.diag([1.0, -1e-16])
    np.testing.assert_allclose(symmetric_power(matrix, 0.5), np.diag([1.0, 0.0]))
    np.testing.assert_allclose(symmetric_power(matrix, -0.5, ridge=0.25), np.diag([1.25**-0.5, 2.0]))
    with pytest.raises(ValueError, match="no inverse"):
        symmetric_power(matrix, -0.5)


def test_aligned_rows_have_the_covariance_of_the_target(rng: np.random.Generator) -> None:
    rows = draw(rng, 300, 5)
    source, target = np.cov(rows.T), np.cov(draw(rng, 300, 5).T)
    moved = rows @ align_covariance(source, symmetric_power(target, 0.5), ridge=1e-12)
    np.testing.assert_allclose(np.cov(moved.T), target, rtol=1e-4, atol=1e-6 * target.max())
    whitened = rows @ align_covariance(source, None, ridge=1e-12)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(5), atol=1e-4)


@pytest.mark.parametrize("ridge", [1e-6, 0.5, 1.0, 100])
def test_equal_covariances_need_no_alignment(ridge: float, rng: np.random.Generator) -> None:
    cov = np.cov(rng.normal(size=(6, 40)))
    np.testing.assert_allclose(
        align_covariance(cov, symmetric_power(cov, 0.5, ridge=ridge), ridge=ridge), np.eye(6), atol=1e-12
    )


def test_the_ridge_is_added_to_both() -> None:
    root = symmetric_power(np.diag([8.0, 24.0]), 0.5, ridge=1.0)
    found = align_covariance(np.diag([3.0, 0.0]), root, ridge=1.0)
    np.testing.assert_allclose(found, np.diag([1.5, 5.0]))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rows must be"):
        covariance(np.zeros(3), ddof=0)
    with pytest.raises(ValueError, match="n of at least 2"):
        covariance(np.zeros((1, 3)), ddof=1)
    with pytest.raises(ValueError, match="n of at least 2"):
        principal_axes(np.zeros((1, 3)), ddof=0)
    with pytest.raises(ValueError, match=r"\(d, d\) is needed"):
        symmetric_power(np.zeros((2, 3)), 0.5)
