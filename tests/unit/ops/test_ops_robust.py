"""Centres and scales against loops over plain numbers and pycytominer, the logarithm against its definition."""

from __future__ import annotations

import math
import statistics as stats
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pycytominer.operations.transform import RobustMAD

from microsnoop.ops import robust
from microsnoop.ops.robust import (
    MAD_EPSILON,
    MAD_TO_SD,
    center_by_moments,
    center_by_ranks,
    has_no_spread,
    log_keeping_sign,
)

Freeze = Callable[[NDArray], NDArray]


@pytest.mark.parametrize("n", [2, 3, 10, 41])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_equal_loops(n: int, dtype: type, frozen: Freeze, rng: np.random.Generator) -> None:
    rows = frozen(rng.normal(7, [0.01, 1, 50], size=(n, 3)).astype(dtype))
    mean, sd = center_by_moments(rows)
    assert mean.dtype == sd.dtype == np.float64
    columns = [[float(v) for v in column] for column in rows.T]
    np.testing.assert_allclose(mean, [stats.fmean(c) for c in columns], rtol=1e-13)
    np.testing.assert_allclose(sd, [stats.stdev(c) for c in columns], rtol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 41])
def test_ranks_equal_loops(n: int, frozen: Freeze, rng: np.random.Generator) -> None:
    rows = frozen(rng.normal(7, [0.01, 1, 50], size=(n, 3)).astype(np.float32))
    median, mad = center_by_ranks(rows)
    for j, column in enumerate(rows.T.astype(float).tolist()):
        middle = stats.median(column)
        assert median[j] == middle
        assert mad[j] == stats.median([abs(v - middle) for v in column])


def test_blocks_of_columns_change_nothing(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rng.normal(size=(20, 11))
    whole = [*center_by_moments(rows), *center_by_ranks(rows)]
    monkeypatch.setattr(robust, "_BLOCK_NUMBERS", 60)  # three columns at a time
    np.testing.assert_allclose([*center_by_moments(rows), *center_by_ranks(rows)], whole, atol=1e-14)
    monkeypatch.setattr(robust, "_BLOCK_NUMBERS", 1)
    np.testing.assert_allclose([*center_by_moments(rows), *center_by_ranks(rows)], whole, atol=1e-14)


def test_known_value() -> None:
    median, mad = center_by_ranks(np.array([[1.0], [2], [3], [4], [100]]))
    z = (np.array([1, 2, 3, 4, 100]) - median) / (MAD_TO_SD * mad + MAD_EPSILON)
    assert (median.tolist(), mad.tolist()) == ([3], [1])
    assert np.round(z, 3).tolist() == [-1.349, -0.674, 0, 0.674, 65.426]


def test_ranks_agree_with_pycytominer(rng: np.random.Generator) -> None:
    table = pd.DataFrame(rng.lognormal(size=(37, 6)))
    theirs = RobustMAD().fit(table).transform(table)
    median, mad = center_by_ranks(table.to_numpy())
    np.testing.assert_allclose((table - median) / (MAD_TO_SD * mad + MAD_EPSILON), theirs, rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e6 + 0.1, 1e-30, 0.0])
def test_a_constant_feature_has_a_scale_of_exactly_zero(value: float, rng: np.random.Generator) -> None:
    rows = np.column_stack([np.full(100_003, value), rng.normal(size=100_003)])
    for center, scale in (center_by_moments(rows), center_by_ranks(rows)):
        assert scale[0] == 0
        assert center[0] == value
        assert has_no_spread(center, scale).tolist() == [True, False]


def test_rounding_is_no_spread_but_a_small_spread_is() -> None:
    nearly = np.array([[0.3], [0.1 + 0.2], [0.3], [0.1 + 0.2]])
    assert has_no_spread(*center_by_moments(nearly)).tolist() == [True]
    assert has_no_spread(*center_by_ranks(nearly)).tolist() == [True]
    small = np.array([[1.0], [1 + 1e-12], [1 - 1e-12]])
    assert has_no_spread(*center_by_moments(small)).tolist() == [False]
    tiny = np.array([[1e-20], [2e-20], [4e-20]])
    assert has_no_spread(*center_by_ranks(tiny)).tolist() == [False]


def test_most_values_alike_have_no_mad_but_a_deviation() -> None:
    rows = np.array([[0.0]] * 6 + [[1.0]] * 5)
    assert center_by_ranks(rows)[1].tolist() == [0]
    assert center_by_moments(rows)[1][0] > 0.5


def test_a_large_mean_costs_no_digits() -> None:
    rows = 1e8 + np.arange(5.0)[:, None]
    assert center_by_moments(rows)[1][0] == pytest.approx(math.sqrt(2.5), rel=1e-14)


@pytest.mark.parametrize("shape", [(0, 3), (4,), (3, 0), (2, 2, 2)])
def test_what_are_no_rows_is_refused(shape: tuple[int, ...]) -> None:
    for measure in (center_by_moments, center_by_ranks):
        with pytest.raises(ValueError, match=r"rows must be \(n, d\)"):
            measure(np.zeros(shape))
    with pytest.raises(ValueError, match="n of at least 2"):
        center_by_moments(np.zeros((1, 3)))


def test_log_keeps_sign_and_order(frozen: Freeze, rng: np.random.Generator) -> None:
    z = frozen(np.sort(rng.normal(size=300) * 10.0 ** rng.uniform(-3, 9, size=300)))
    found = log_keeping_sign(z)
    np.testing.assert_allclose(found, [math.copysign(math.log1p(abs(v)), v) for v in z], rtol=1e-14)
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(log_keeping_sign(-z), -found)
    assert log_keeping_sign(np.array([0.0, math.e - 1, 1 - math.e])).tolist() == pytest.approx([0, 1, -1])
