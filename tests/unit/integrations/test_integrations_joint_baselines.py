"""Components against a full decomposition written out, balance of the blocks, CSR as dense, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from microsnoop.core.errors import JointError
from microsnoop_integrations.graph_clusters import cluster
from microsnoop_integrations.joint import baselines
from microsnoop_integrations.joint.baselines import concat, principal_components, single

Freeze = Callable[[NDArray], NDArray]


def twin(*blocks: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Scores (n, count) with the sign of the largest loading, and shares of the variance, by plain SVD."""
    parts = []
    for block in blocks:
        centred = block.astype(np.float64) - block.astype(np.float64).mean(axis=0)
        parts.append(centred / np.sqrt(centred.var(axis=0).sum()))
    whole = np.hstack(parts)
    u, s, vt = np.linalg.svd(whole, full_matrices=False)
    sign = np.array([np.sign(row[np.abs(row).argmax()]) for row in vt])
    return (u * s * sign)[:, :count], (s**2 / (s**2).sum())[:count]


def counts(rng: np.random.Generator, n: int, p: int) -> NDArray[np.float32]:
    return np.log1p(rng.poisson(rng.gamma(0.5, 2, size=p), size=(n, p))).astype(np.float32)


@pytest.mark.parametrize("shape", [(60, 9), (40, 70), (25, 200)])
def test_concat_equals_its_definition(
    shape: tuple[int, int], frozen: Freeze, rng: np.random.Generator
) -> None:
    n, p = shape
    x, y = frozen(counts(rng, n, p)), frozen(1_000 + 300 * rng.normal(size=(n, 6)))
    found = principal_components(x, y, components=7)
    scores, explained = twin(x, y, count=7)
    np.testing.assert_allclose(found.scores, scores, atol=2e-5)
    np.testing.assert_allclose(found.explained, explained, atol=1e-9)
    assert found.scores.dtype == np.float32


def test_one_matrix_keeps_its_unit(frozen: Freeze, rng: np.random.Generator) -> None:
    x = frozen(50 + 3 * rng.normal(size=(80, 5)))
    scores, explained = twin(x, count=5)
    total = x.var(axis=0).sum()
    found = principal_components(x, components=5)
    np.testing.assert_allclose(found.scores, scores * np.sqrt(total), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.explained, explained, atol=1e-9)


def test_unit_of_a_block_changes_nothing(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(70, 12)), rng.normal(size=(70, 30))
    base = principal_components(x, y, components=8).scores
    np.testing.assert_allclose(
        principal_components(1e4 * x - 7, y * 1e-3, components=8).scores, base, atol=2e-5
    )
    # each block alone has a total variance of 1, so all components of both have 2
    whole = principal_components(x, y, components=42).scores
    assert float(whole.astype(float).var(axis=0).sum()) == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix])
def test_sparse_equals_dense(form: Any, rng: np.random.Generator) -> None:
    x, y = counts(rng, 60, 40), rng.normal(size=(60, 10)).astype(np.float32)
    given = form(x)
    before = given.copy()
    for dense, found in (
        (principal_components(x, components=9), principal_components(given, components=9)),
        (principal_components(x, y, components=9), principal_components(given, y, components=9)),
    ):
        np.testing.assert_allclose(found.scores, dense.scores, atol=1e-5)
    assert (given != before).nnz == 0


def test_blocks_of_rows_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = counts(rng, 53, 20), rng.normal(size=(53, 8))
    whole = principal_components(x, y, components=6)
    monkeypatch.setattr(baselines, "_ROWS", 10)
    for x_form in (x, sparse.csr_matrix(x)):
        found = principal_components(x_form, y, components=6)
        np.testing.assert_allclose(found.scores, whole.scores, atol=1e-5)


@pytest.mark.parametrize("shape", [(90, 150), (200, 60)])
def test_search_finds_the_leading_components(
    shape: tuple[int, int], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, d = shape
    spread = np.linspace(5, 0.5, d)  # falls slowly: one look at the rows is not enough
    spread[:5] = (15, 13, 11, 9, 8)
    x = 20 + (rng.normal(size=(n, d)) * spread) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    exact = principal_components(x, components=5)
    monkeypatch.setattr(baselines, "_EXACT_FEATURES", 10)
    found = principal_components(x, components=5, seed=1)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-3)
    np.testing.assert_allclose(found.explained, exact.explained, rtol=1e-6)
    again = principal_components(x, components=5, seed=1)
    np.testing.assert_array_equal(found.scores, again.scores)


@pytest.mark.parametrize(("shape", "expected"), [((100, 80), 50), ((40, 80), 39), ((100, 7), 7)])
def test_components_are_capped(shape: tuple[int, int], expected: int, rng: np.random.Generator) -> None:
    assert principal_components(rng.normal(size=shape)).scores.shape == (shape[0], expected)


def test_large_mean_does_not_swallow_the_variance(rng: np.random.Generator) -> None:
    x = rng.normal(size=(60, 4))
    np.testing.assert_allclose(
        principal_components(x + 1e6, components=3).scores,
        principal_components(x, components=3).scores,
        atol=1e-4,
    )


def two_views(rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """Four groups; each matrix tells two pairs of them apart and no more."""
    label = np.repeat(np.arange(4), 30)
    x, y = rng.normal(size=(120, 20)), 100 * rng.normal(size=(120, 60))
    x[label // 2 == 1, :5] += 8
    y[label % 2 == 1, :9] += 800
    return x, y, label


def test_concat_sees_more_than_either(frozen: Freeze, rng: np.random.Generator) -> None:
    x, y, label = two_views(rng)
    x, y = frozen(x), frozen(y)
    options = {"k": 15, "resolution": 0.5, "seed": 3}
    one, other, both = single(x, name="t", **options), single(y, name="i", **options), concat(x, y, **options)
    assert adjusted_rand_score(label, both.labels) == 1
    assert adjusted_rand_score(label // 2, one.labels) == 1
    assert adjusted_rand_score(label % 2, other.labels) == 1
    assert [found.name for found in (one, other, both)] == ["t", "i", "concat"]
    for found in (one, other, both):
        assert found.seconds > 0
        assert found.weight_rna is None
        np.testing.assert_array_equal(found.labels, cluster(found.latent, **options))
    info = json.loads(json.dumps(dict(both.info)))
    assert info["components"] == 50
    assert info["resolution"] == 0.5
    assert 0 < info["explained"] <= 1
    np.testing.assert_array_equal(concat(x, y, **options).latent, both.latent)


def test_settings_reach_the_clustering(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []

    def watched(x: NDArray, **options: Any) -> NDArray:
        seen.append(options)
        return np.zeros(len(x), np.int64)

    monkeypatch.setattr(baselines, "cluster", watched)
    given = {"k": 5, "resolution": 2.0, "method": "louvain", "seed": 4}
    x = rng.normal(size=(20, 3))
    single(x, name="t", **given)
    concat(x, x, **given)
    assert seen == [given, given]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_no_numbers_are_refused(bad: float, form: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(20, 4))
    x[3, 1] = bad
    with pytest.raises(JointError, match="1 of 4 features of matrix 2") as caught:
        principal_components(rng.normal(size=(20, 4)), form(x))
    assert caught.value.code == "not_finite"


@pytest.mark.parametrize("value", [0.0, 0.1, -3e7])
def test_constant_matrix_is_refused(value: float, rng: np.random.Generator) -> None:
    with pytest.raises(JointError, match="matrix 1") as caught:
        concat(np.full((20, 4), value), rng.normal(size=(20, 4)))
    assert caught.value.code == "no_variance"


def test_constant_feature_is_harmless(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))
    more = np.hstack([np.full((30, 1), 0.1), x])
    base, found = (
        principal_components(x, y, components=7).scores,
        principal_components(more, y, components=7).scores,
    )
    np.testing.assert_allclose(found, base, atol=1e-5)


def test_bad_arguments_are_refused(rng: np.random.Generator) -> None:
    x = rng.normal(size=(20, 4))
    with pytest.raises(ValueError, match="same two or more cells"):
        concat(x, x[:-1])
    with pytest.raises(ValueError, match="same two or more cells"):
        principal_components(x[:1])
    with pytest.raises(ValueError, match="at least 1"):
        principal_components(x, components=0)
    for shape in ((20,), (20, 0)):
        with pytest.raises(ValueError, match="matrices"):
            principal_components(np.zeros(shape))
    with pytest.raises(JointError, match="neighbours") as caught:
        single(x, name="t", k=20)
    assert caught.value.code == "too_few_cells"
