"""Moments against numpy on the whole matrix, for any split, any tree of merges, and means far from zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.ops import moments
from microsnoop.ops.moments import Moments

Freeze = Callable[[NDArray], NDArray]
PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)


def check(found: Moments, rows: NDArray, rtol: float = 1e-10) -> None:
    whole = rows.astype(np.float64)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, whole.mean(axis=0), rtol=1e-12, atol=1e-12)
    expected = np.cov(whole.T).reshape(found.width, found.width)
    np.testing.assert_allclose(found.covariance(), expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@PROPERTY
@given(cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 99))
def test_any_split_gives_the_same(cuts: list[int], seed: int) -> None:
    rows = np.random.default_rng(seed).normal(5, 3, size=(40, 3))
    rows.flags.writeable = False
    streamed, merged = Moments(3), Moments(3)
    for part in np.split(rows, sorted(cuts)):
        streamed.add(part)
        merged.merge(Moments(3).add(part))
    check(streamed, rows)
    check(merged, rows)


@PROPERTY
@given(seed=st.integers(0, 99))
def test_any_tree_of_merges_gives_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(30, 4)) * [0.01, 1, 5, 100] + [1, -1, 0, 50]
    leaves = [Moments(4).add(part) for part in np.array_split(rows, 7)]
    while len(leaves) > 1:
        i, j = rng.choice(len(leaves), 2, replace=False)
        leaves[i].merge(leaves[j])
        leaves.pop(j)
    check(leaves[0], rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_inside_change_nothing(dtype: type, frozen: Freeze, rng, monkeypatch) -> None:
    rows = frozen(rng.normal(3, 2, size=(101, 5)).astype(dtype))
    monkeypatch.setattr(moments, "_BLOCK_NUMBERS", 5 * 7)
    found = Moments(5).add(rows)
    check(found, rows)
    assert found.comoments.dtype == found.mean.dtype == np.float64
    assert np.array_equal(found.comoments, found.comoments.T)


def test_a_large_mean_costs_no_digits(rng) -> None:
    """A sum of squares of values near 1e8 has no digit left for a variance of 1."""
    centred = rng.normal(size=(2000, 3))
    rows = centred + 1e8
    found = Moments(3)
    for part in np.array_split(rows, 13):
        found.add(part)
    exact = np.cov((rows - 1e8).T)
    np.testing.assert_allclose(found.covariance(), exact, rtol=1e-9, atol=1e-9)


def test_what_is_merged_or_read_before_stays(rng) -> None:
    first, other = Moments(2).add(rng.normal(size=(5, 2))), Moments(2).add(rng.normal(size=(4, 2)))
    seen = [(a, a.copy()) for a in (first.mean, first.comoments, other.mean, other.comoments)]
    assert first.merge(other) is first
    first.add(rng.normal(size=(3, 2)))
    Moments(2).merge(other).add(rng.normal(size=(3, 2)))
    for array, before in seen:
        assert np.array_equal(array, before)
    assert other.count == 4
    assert first.count == 12


def test_nothing_adds_nothing(rng) -> None:
    rows = rng.normal(size=(6, 2))
    found = Moments(2).add(rows[:0]).merge(Moments(2)).add(rows).merge(Moments(2)).add(rows[:0])
    check(found, rows)


def test_about_any_centre(rng) -> None:
    rows, centre = rng.normal(2, 1, size=(17, 3)), np.array([1.0, -4, 9])
    expected = sum(np.outer(x - centre, x - centre) for x in rows)
    np.testing.assert_allclose(Moments(3).add(rows).about(centre), expected, rtol=1e-12)


def test_divisor(rng) -> None:
    rows = rng.normal(size=(9, 2))
    found = Moments(2).add(rows)
    np.testing.assert_allclose(found.covariance(ddof=0), np.cov(rows.T, ddof=0), rtol=1e-12)
    with pytest.raises(ValueError, match="more rows than 1"):
        Moments(2).add(rows[:1]).covariance()


@pytest.mark.parametrize(
    "rows", [np.zeros((3, 4)), np.zeros(3), np.full((2, 3), np.nan), np.full((2, 3), np.inf)]
)
def test_what_is_refused(rows: NDArray) -> None:
    with pytest.raises(ValueError, match="rows"):
        Moments(3).add(rows)
    with pytest.raises(ValueError, match="3 features"):
        Moments(3).merge(Moments(4))
    with pytest.raises(ValueError, match="width"):
        Moments(0)
