"""Whitening against its formula, planted axes, and what it must refuse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.ops.whitening import fit_whitening

Freeze = Callable[[NDArray], NDArray]
SPREAD = np.array([5.0, 3.0, 1.0, 0.3, 0.01])


@pytest.fixture
def turned(rng: np.random.Generator, frozen: Freeze) -> tuple[NDArray, NDArray]:
    """Vectors (400, 5) with known axes, far from the origin, and those axes (columns)."""
    axes, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    return frozen(rng.normal(size=(400, 5)) * SPREAD @ axes.T + 100), axes


def whitened(vectors: NDArray, mean: NDArray, matrix: NDArray) -> NDArray:
    return (vectors - mean) @ matrix


@pytest.mark.parametrize("ridge", [0.0, 0.02, 1.5])
def test_the_covariance_afterwards_is_what_the_formula_says(turned, ridge: float) -> None:
    vectors, _ = turned
    mean, matrix = fit_whitening(vectors, ridge)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(vectors.T)))[::-1]
    expected = np.diag(eigenvalues / (eigenvalues + ridge * eigenvalues.mean()))
    got = whitened(vectors, mean, matrix)
    assert np.abs(np.cov(got.T) - expected).max() < 1e-6
    assert np.abs(got.mean(axis=0)).max() < 1e-9
    assert mean.dtype == matrix.dtype == np.float64


def test_against_sklearn(turned) -> None:
    """Without a ridge it is the PCA whitening of everybody, up to signs."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    vectors, _ = turned
    expected = decomposition.PCA(whiten=True).fit_transform(vectors)
    got = whitened(vectors, *fit_whitening(vectors, 0.0))
    assert np.abs(np.abs(got) - np.abs(expected)).max() < 1e-6


def test_axes_come_by_falling_variance_with_a_fixed_sign(turned) -> None:
    vectors, axes = turned
    mean, matrix = fit_whitening(vectors, 0.02)
    assert np.abs(mean - vectors.mean(axis=0)).max() < 1e-12
    directions = matrix / np.linalg.norm(matrix, axis=0)
    assert np.abs(np.diag(axes.T @ directions)).min() > 0.99
    assert (np.diff(np.linalg.norm(matrix, axis=0)) > 0).all()  # the less it varies, the more it is stretched
    largest = np.abs(matrix).argmax(axis=0)
    assert (matrix[largest, np.arange(matrix.shape[1])] > 0).all()


def test_turning_the_input_turns_nothing_afterwards(turned, rng: np.random.Generator) -> None:
    vectors, _ = turned
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    moved = vectors @ rotation + rng.normal(size=5)
    before, after = (whitened(x, *fit_whitening(x, 0.02)) for x in (vectors, moved))
    assert np.abs(before @ before.T - after @ after.T).max() < 1e-7


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_do_not_matter(turned, scale: float) -> None:
    vectors, _ = turned
    centred = vectors - vectors.mean(axis=0)
    before, after = (whitened(x, *fit_whitening(x, 0.02)) for x in (centred, centred * scale))
    assert np.abs(before - after).max() < 1e-6


def test_order_of_rows_does_not_matter(turned, rng: np.random.Generator) -> None:
    vectors, _ = turned
    one, other = fit_whitening(vectors), fit_whitening(rng.permutation(vectors))
    assert np.abs(one[0] - other[0]).max() < 1e-9
    assert np.abs(one[1] - other[1]).max() < 1e-6


def test_a_ridge_keeps_small_directions_small(turned) -> None:
    vectors, _ = turned
    free, held = (fit_whitening(vectors, ridge)[1] for ridge in (0.0, 0.02))
    stretch = np.linalg.norm(free[:, -1]) / np.linalg.norm(held[:, -1])
    assert stretch == pytest.approx(np.sqrt(1 + 0.02 * (SPREAD**2).mean() / SPREAD[-1] ** 2), rel=0.1)
    assert np.linalg.norm(free[:, 0]) == pytest.approx(np.linalg.norm(held[:, 0]), rel=0.01)


def test_only_the_largest_axes_on_request(turned) -> None:
    vectors, _ = turned
    mean, matrix = fit_whitening(vectors, 0.02, dim=2)
    all_mean, everything = fit_whitening(vectors, 0.02)
    assert matrix.shape == (5, 2)
    assert np.array_equal(matrix, everything[:, :2])
    assert np.array_equal(mean, all_mean)
    assert fit_whitening(vectors, 0.02, dim=99)[1].shape == (5, 5)


@pytest.mark.parametrize("ridge", [0.0, 0.02])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_fewer_rows_than_numbers(rng: np.random.Generator, n: int, ridge: float) -> None:
    vectors = rng.normal(size=(n, 8))
    mean, matrix = fit_whitening(vectors, ridge)
    assert matrix.shape == (8, n - 1)
    assert np.isfinite(matrix).all()
    spread = whitened(vectors, mean, matrix).var(axis=0, ddof=1)
    assert (spread < 1 + 1e-9).all()
    if ridge == 0:
        assert np.abs(spread - 1).max() < 1e-9


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 3e-8])
def test_constant_features_get_no_axis(turned, value: float) -> None:
    vectors, _ = turned
    wider = np.insert(vectors, [2, 5], value, axis=1)
    mean, matrix = fit_whitening(wider, 0.0)
    assert matrix.shape == (7, 5)
    assert np.abs(matrix[[2, 6]]).max() < 1e-9
    assert mean[2] == pytest.approx(value)
    shifted = wider.copy()
    shifted[:, 2] += 7  # a feature that never varied says nothing when it does
    assert np.abs(whitened(shifted, mean, matrix) - whitened(wider, mean, matrix)).max() < 1e-6


@pytest.mark.parametrize("dtype", ["f2", "f4", "i4"])
def test_other_dtypes(turned, dtype: str) -> None:
    vectors, _ = turned
    small = (vectors * 10).astype(dtype)
    mean, matrix = fit_whitening(small)
    expected_mean, expected = fit_whitening(small.astype(np.float64))
    assert np.array_equal(mean, expected_mean)
    assert np.array_equal(matrix, expected)


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.ones((4, 3)), {}, "nothing to whiten"),
        (np.full((9, 3), 0.1), {}, "nothing to whiten"),
        (np.ones((1, 3)), {}, "at least two rows"),
        (np.ones((0, 3)), {}, "at least two rows"),
        (np.ones((5, 0)), {}, "got shape"),
        (np.ones(5), {}, "got shape"),
        (np.array([[1.0, np.nan], [0, 1], [np.inf, 0]]), {}, "2 of 3 vectors"),
        (np.eye(3), {"ridge": -0.1}, "ridge"),
        (np.eye(3), {"ridge": np.nan}, "ridge"),
        (np.eye(3), {"dim": 0}, "dim"),
    ],
)
def test_what_cannot_be_whitened(vectors: NDArray, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_whitening(vectors, **options)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(2, 12), st.integers(1, 9), st.floats(0, 1), st.integers(0, 2**31))
def test_any_shape(n: int, dim: int, ridge: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, dim))
    mean, matrix = fit_whitening(vectors, ridge)
    assert mean.shape == (dim,)
    assert matrix.shape == (dim, min(dim, n - 1))
    got = np.atleast_2d(np.cov(whitened(vectors, mean, matrix).T))
    assert np.abs(got - np.diag(np.diag(got))).max() < 1e-6
    assert np.diag(got).max() < 1 + 1e-6
