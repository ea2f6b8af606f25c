"""Sphering against its definition: identity covariance, known matrices, a twin by SVD, pycytominer, scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.ops import shrinkage, sphering
from microsnoop.ops.moments import Moments
from microsnoop.ops.shrinkage import ledoit_wolf
from microsnoop.ops.sphering import VARIANTS, Spectrum, decompose, sphere, whitening_matrix

Freeze = Callable[[NDArray], NDArray]
PROPERTY = settings(deadline=None, derandomize=True, max_examples=25)
SCALES = np.logspace(-2, 1, 8)


def spectrum_of(rows: NDArray, variant: str = "ZCA-cor", floor: float | None = None) -> Spectrum:
    return decompose(Moments(rows.shape[1]).add(rows), correlation=VARIANTS[variant][0], floor=floor)


def sphered(rows: NDArray, variant: str = "ZCA-cor", lift=lambda t: t, floor: float | None = None) -> NDArray:
    spectrum = spectrum_of(rows, variant, floor)
    matrix = whitening_matrix(spectrum, lift(spectrum.eigenvalues), back=VARIANTS[variant][1])
    return sphere(rows, spectrum.mean, matrix)


def correlated(rng: np.random.Generator, n: int, d: int) -> NDArray:
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d))


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("mean", "scales"), [(7.0, SCALES), (1e4, np.ones(8)), (0.0, SCALES)])
def test_covariance_of_controls_becomes_the_identity(
    variant: str, mean: float, scales: NDArray, frozen: Freeze, rng: np.random.Generator
) -> None:
    mixing = np.eye(8) + 0.2 * rng.normal(size=(8, 8))
    rows = frozen((rng.normal(size=(400, 8)) @ mixing + mean) * scales)
    z = sphered(rows, variant, floor=0.0)
    assert np.abs(np.cov(z.T) - np.eye(8)).max() < 1e-9
    assert np.abs(z.mean(axis=0)).max() < 1e-9


def test_two_features_with_correlation_0_6() -> None:
    rows = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1.0]]).repeat([4, 4, 1, 1], axis=0)
    assert np.corrcoef(rows.T)[0, 1] == pytest.approx(0.6)
    spectrum = spectrum_of(rows)
    np.testing.assert_allclose(spectrum.eigenvalues, [1.6, 0.4], atol=1e-12)
    matrix = whitening_matrix(spectrum, spectrum.eigenvalues, back=True) * spectrum.scale
    np.testing.assert_allclose(matrix, [[1.18585, -0.39528], [-0.39528, 1.18585]], atol=5e-6)


@PROPERTY
@given(seed=st.integers(0, 99))
def test_zca_cor_knows_no_scales(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = correlated(rng, 60, 5)
    other = rows * 10 ** rng.uniform(-1, 1, 5) + rng.normal(size=5) * 10
    np.testing.assert_allclose(sphered(other), sphered(rows), atol=1e-9)
    np.testing.assert_allclose(np.abs(sphered(other, "PCA-cor")), np.abs(sphered(rows, "PCA-cor")), atol=1e-8)


def test_the_published_floor_knows_scales(rng: np.random.Generator) -> None:
    rows = correlated(rng, 60, 5)
    assert np.abs(sphered(rows * 0.005, floor=1e-3) - sphered(rows, floor=1e-3)).max() > 0.1


def test_zca_cor_stays_nearest_to_the_features(rng: np.random.Generator) -> None:
    rows = correlated(rng, 500, 6)

    def agreement(z: NDArray) -> float:
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(z.T, rows.T, strict=True)]))

    scores = {variant: agreement(sphered(rows, variant)) for variant in VARIANTS}
    assert scores["ZCA-cor"] == max(scores.values())
    assert scores["ZCA-cor"] > scores["PCA"] + 0.1
    # ZCA is nearest in another sense: the covariance, not the correlation, with the features
    moved = {v: float(np.mean((sphered(rows, v) - rows + rows.mean(axis=0)) ** 2)) for v in VARIANTS}
    assert moved["ZCA"] == min(moved.values())


# ---------------------------------------------------------------- twins


def svd_twin(rows: NDArray, variant: str, lift) -> NDArray:
    """Sphere by SVD of the centred, scaled matrix, feature by feature."""
    n, d = rows.shape
    x = np.array([[float(rows[i, j]) for j in range(d)] for i in range(n)])
    for j in range(d):
        x[:, j] -= sum(x[:, j]) / n
        if variant.endswith("cor"):
            x[:, j] /= np.sqrt(sum(x[:, j] ** 2) / (n - 1))
    _, singular, vt = np.linalg.svd(x, full_matrices=False)
    scores = x @ vt.T / np.sqrt(lift(singular**2 / (n - 1)))
    return scores @ vt if variant.startswith("ZCA") else scores


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lam", [0.0, 0.05, 2.0])
def test_twin_by_svd(variant: str, lam: float, frozen: Freeze, rng: np.random.Generator) -> None:
    rows = frozen(correlated(rng, 80, 7) * np.logspace(-1, 1, 7) + 4)
    for lift in (lambda t: t + lam, lambda t: np.maximum(t, lam)):
        found, expected = sphered(rows, variant, lift), svd_twin(rows, variant, lift)
        if not VARIANTS[variant][1]:  # axes have no sign of their own
            found, expected = np.abs(found), np.abs(expected)
        np.testing.assert_allclose(found, expected, atol=1e-8)


def test_compat_twin(rng: np.random.Generator) -> None:
    """The published way by hand on 30 x 6: floor 1e-3 on variances, eigenvalues lifted to a tenth of the knee's."""
    rows = correlated(rng, 30, 6) * [1, 0.5, 0.02, 0.01, 0.1, 0.005]
    n, d = rows.shape
    mean = rows.sum(axis=0) / n
    cov = sum(np.outer(x - mean, x - mean) for x in rows) / (n - 1)
    cor = np.array([[cov[j, k] / (cov[j, j] * cov[k, k]) ** 0.5 for k in range(d)] for j in range(d)])
    values, axes = np.linalg.eig(cor)
    lifted = np.maximum(values, 0.12)
    root = sum(np.outer(axes[:, k], axes[:, k]) / lifted[k] ** 0.5 for k in range(d))
    matrix = np.array([[root[j, k] / max(cov[k, k], 1e-3) ** 0.5 for k in range(d)] for j in range(d)])
    expected = np.array([matrix @ (x - mean) for x in rows])
    assert (np.diag(cov) < 1e-3).sum() in (2, 3, 4)
    found = sphered(rows, floor=1e-3, lift=lambda t: np.maximum(t, 0.12))
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pycytominer(variant: str, rng: np.random.Generator) -> None:
    """Population and sample variances cancel: only its epsilon, added to singular values, differs from no `reg`."""
    transform = pytest.importorskip("pycytominer.operations.transform")
    pandas = pytest.importorskip("pandas")
    rows = correlated(rng, 300, 6) * [1, 0.3, 2, 1, 0.5, 1] + 7
    back, population = VARIANTS[variant][1], len(rows) / (len(rows) - 1) if VARIANTS[variant][0] else 1.0

    def theirs(epsilon: float) -> NDArray:
        fitted = transform.Spherize(method=variant, epsilon=epsilon, return_numpy=True).fit(
            pandas.DataFrame(rows)
        )
        z = fitted.transform(pandas.DataFrame(rows))
        return z if back else np.abs(z)  # axes have no sign of their own

    def ours(epsilon: float) -> NDArray:
        root = np.sqrt((len(rows) - 1) * population)  # of eigenvalues to singular values
        z = sphered(rows, variant, lambda t: ((np.sqrt(t) * root + epsilon) / root) ** 2)
        return z if back else np.abs(z)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(ours(0), theirs(1e-9), atol=1e-6)
        np.testing.assert_allclose(ours(1e-6), theirs(1e-6), atol=1e-9)
        np.testing.assert_allclose(ours(0.5), theirs(0.5), atol=1e-9)


def test_the_published_floor_on_unit_vectors(rng: np.random.Generator) -> None:
    """300 x 768 means of 8 cells: nearly all features fall under 1e-3 and are scaled by a constant only."""
    cells = rng.normal(size=(300, 8, 768)) * np.linspace(0.2, 2, 768) + rng.normal(size=(300, 1, 768)) * 0.5
    rows = (cells / np.linalg.norm(cells, axis=2, keepdims=True)).mean(axis=1)
    spectrum = spectrum_of(rows, floor=1e-3)
    assert (spectrum.spread**2 < 1e-3).mean() > 0.99
    assert sphered(rows, floor=1e-3, lift=lambda t: t + 1).var(axis=0).mean() < 0.4
    assert sphered(rows, lift=lambda t: t * 0 + 1).var(axis=0, ddof=1).mean() == pytest.approx(1)


# ---------------------------------------------------------------- spectrum


def test_axes_fall_and_have_a_fixed_sign(frozen: Freeze, rng: np.random.Generator) -> None:
    rows = frozen(correlated(rng, 100, 9).astype(np.float32))
    spectrum = spectrum_of(rows)
    assert (np.diff(spectrum.eigenvalues) <= 0).all()
    assert spectrum.eigenvalues.sum() == pytest.approx(9)
    assert spectrum.level == pytest.approx(1)
    top = np.abs(spectrum.axes).argmax(axis=0)
    assert (spectrum.axes[top, np.arange(9)] > 0).all()
    np.testing.assert_allclose(spectrum.axes.T @ spectrum.axes, np.eye(9), atol=1e-12)
    rebuilt = spectrum.axes * spectrum.eigenvalues @ spectrum.axes.T
    np.testing.assert_allclose(rebuilt, np.corrcoef(rows.astype(float).T), atol=1e-10)
    np.testing.assert_allclose(
        spectrum_of(rows, "ZCA").eigenvalues.sum(), np.trace(np.cov(rows.T)), rtol=1e-6
    )


def test_fewer_rows_than_features_leave_zeros_not_negatives(rng: np.random.Generator) -> None:
    spectrum = spectrum_of(rng.normal(size=(5, 20)))
    assert (spectrum.eigenvalues >= 0).all()
    assert (spectrum.eigenvalues[4:] < 1e-12).all()
    assert (spectrum.eigenvalues[:4] > 0.1).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_constant_features_become_zero_and_touch_nothing_else(variant: str, rng: np.random.Generator) -> None:
    rows = correlated(rng, 100, 6)
    with_constant = np.insert(np.insert(rows, 2, 0.1 + 1e4, axis=1), 5, -3.0, axis=1)
    spectrum = spectrum_of(with_constant, variant)
    assert np.flatnonzero(spectrum.constant).tolist() == [2, 5]
    assert spectrum.empty.sum() == 2
    plain = spectrum_of(rows, variant)
    np.testing.assert_allclose(spectrum.eigenvalues[~spectrum.empty], plain.eigenvalues, atol=1e-12)
    np.testing.assert_allclose(spectrum.eigenvalues[spectrum.empty], plain.eigenvalues.mean(), rtol=1e-12)
    assert spectrum.level == pytest.approx(plain.level)
    back = VARIANTS[variant][1]
    matrix = whitening_matrix(spectrum, spectrum.eigenvalues, back=back)
    treated = with_constant.copy()
    treated[:, [2, 5]] += rng.normal(size=(100, 2))  # what was constant in controls varies here
    z, expected = sphere(treated, spectrum.mean, matrix), sphered(rows, variant, floor=0.0)
    kept = ~(spectrum.constant if back else spectrum.empty)
    assert (z[:, ~kept] == 0).all()
    np.testing.assert_allclose(z[:, kept], expected, atol=1e-9)


def test_what_counts_as_constant() -> None:
    wave = np.array([1.0, -1, 1, -1])[:, None]
    spectrum = spectrum_of(wave * [1, 1.1e-6, 0.9e-6, 1, 1, 1, 1, 1, 1])
    assert spectrum.constant.tolist() == [False, False, True, *[False] * 6]
    with pytest.raises(CorrectionError, match="plate 3: all 2 features") as caught:
        decompose(Moments(2).add(np.full((50, 2), [0.1, 1e5 + 0.3])), where="plate 3")
    assert caught.value.code == "no_variance"
    with pytest.raises(CorrectionError, match="1 control row") as caught:
        decompose(Moments(2).add(np.zeros((1, 2))))
    assert caught.value.code == "too_few_controls"


def test_the_default_floor_is_a_share_of_the_median(rng: np.random.Generator) -> None:
    rows = correlated(rng, 50, 5) / correlated(rng, 50, 5).std() * [1, 1, 1, 1, 1e-5]
    spectrum, variance = spectrum_of(rows), rows.var(axis=0, ddof=1)
    np.testing.assert_allclose(spectrum.scale[:4] ** 2, variance[:4], rtol=1e-9)
    assert spectrum.scale[4] ** 2 == pytest.approx(1e-6 * np.median(variance))
    assert spectrum_of(rows, floor=0.0).scale[4] ** 2 == pytest.approx(variance[4])
    assert not spectrum.constant.any()


def test_lifted_eigenvalues_must_be_above_zero(rng: np.random.Generator) -> None:
    spectrum = spectrum_of(rng.normal(size=(9, 3)))
    for wrong in (np.zeros(3), np.ones(2), np.array([1, np.nan, 1])):
        with pytest.raises(ValueError, match="above 0"):
            whitening_matrix(spectrum, wrong, back=True)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_in_blocks(precision: str, dtype: type, frozen: Freeze, rng, monkeypatch) -> None:
    rows = frozen((rng.normal(size=(53, 6)) + 1000).astype(dtype))
    mean, matrix = rows.mean(axis=0, dtype=np.float64), rng.normal(size=(4, 6))
    monkeypatch.setattr(sphering, "_BLOCK_NUMBERS", 6 * 10)
    found = sphere(rows, mean, matrix, precision=precision)
    expected = [
        [sum(float(w) * (float(x) - m) for w, x, m in zip(v, r, mean, strict=True)) for v in matrix]
        for r in rows
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12 if precision == "float64" else 2e-5)
    assert found.dtype == np.float64
    assert sphere(rows, mean, matrix, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="precision"):
        sphere(rows, mean, matrix, precision="float16")


def test_float32_products_whiten_to_1e_6_far_from_the_origin(rng: np.random.Generator) -> None:
    rows = correlated(rng, 2000, 30) + 1e4
    spectrum = spectrum_of(rows)
    matrix = whitening_matrix(spectrum, np.maximum(spectrum.eigenvalues, 0.01), back=True)
    exact = sphere(rows, spectrum.mean, matrix)
    fast = sphere(rows, spectrum.mean, matrix, precision="float32")
    assert 0 < np.abs(fast - exact).max() < 1e-5
    assert np.abs(np.cov(fast.T) - np.cov(exact.T)).max() < 1e-6


# ---------------------------------------------------------------- shrinkage


@pytest.mark.parametrize(("n", "d"), [(3, 10), (12, 10), (40, 10), (400, 10), (50, 2), (4000, 10)])
def test_shrinkage_is_scikit_learns(n: int, d: int, frozen: Freeze, rng, monkeypatch) -> None:
    from sklearn.covariance import ledoit_wolf_shrinkage

    monkeypatch.setattr(shrinkage, "_BLOCK_NUMBERS", d * 7)
    rows = frozen(correlated(rng, n, d) * np.logspace(-2, 1, d) + 7)
    centred = rows - rows.mean(axis=0)
    for variant, x in (("ZCA-cor", centred / rows.std(axis=0)), ("ZCA", centred)):
        a = ledoit_wolf(rows, spectrum_of(rows, variant), correlation=VARIANTS[variant][0])
        assert a == pytest.approx(ledoit_wolf_shrinkage(x, assume_centered=True), abs=1e-9)
        assert 0 <= a <= 1


def test_shrinkage_leaves_constant_features_out(rng: np.random.Generator) -> None:
    rows = correlated(rng, 30, 6)
    a = ledoit_wolf(rows, spectrum_of(rows))
    more = np.hstack([rows, np.full((30, 4), 2.0)])
    assert 0.01 < a < 1
    assert ledoit_wolf(more, spectrum_of(more)) == pytest.approx(a, rel=1e-9)


def test_shrinkage_of_what_is_round_already() -> None:
    rows = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert ledoit_wolf(rows, spectrum_of(rows)) == 0
    with pytest.raises(ValueError, match="4 x 2"):
        ledoit_wolf(rows[:3], spectrum_of(rows))


def test_features_of_many_units_are_each_taken_on_their_own_scale() -> None:
    rng = np.random.default_rng(5)
    scales = 10.0 ** np.linspace(-9, 6, 20)  # areas, intensities, angles: 30 decades of variance
    x = rng.normal(size=(400, 20)) * scales + 3 * scales
    found = decompose(Moments(20).add(x))
    assert not found.constant.any()
    np.testing.assert_allclose(found.scale, x.std(axis=0, ddof=1), rtol=1e-9)
    z = sphere(x, found.mean, whitening_matrix(found, found.eigenvalues, back=True))
    unit = decompose(Moments(20).add(x / scales))
    np.testing.assert_allclose(
        z, sphere(x / scales, unit.mean, whitening_matrix(unit, unit.eigenvalues, back=True)), atol=1e-8
    )


def test_features_of_one_unit_are_compared() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 12))
    x[:, 3] *= 1e-5  # nearly dead: must not be blown up
    x[:, 4] *= 1e-8  # dead
    found = decompose(Moments(12).add(x))
    assert found.constant.tolist() == [j == 4 for j in range(12)]
    assert found.scale[3] == pytest.approx(np.sqrt(1e-6 * np.median(x.var(axis=0, ddof=1))), rel=1e-9)
