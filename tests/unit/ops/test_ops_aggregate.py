"""Reducers against loops over plain numbers, MODZ against its known values, groups against single ones."""

from __future__ import annotations

import statistics as stats
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr, trim_mean

from microsnoop.ops import aggregate
from microsnoop.ops.aggregate import (
    REDUCERS,
    chunk_groups,
    modz,
    modz_weights,
    reduce_groups,
    reduce_rows,
    statistics,
)
from microsnoop.ops.profiles import GroupMean, fuse_channels

PROPERTY = settings(deadline=None, derandomize=True, max_examples=60)
Freeze = Callable[[NDArray], NDArray]
KNOWN = np.array([(1, 2, 3, 4, 5), (1, 2, 3, 5, 4), (5, 4, 3, 2, 1)], float)
KNOWN_WEIGHTS = np.array([0.45, 0.45, 0.01]) / 0.91


# ---------------------------------------------------------------- naive twins


def naive_weights(rows: NDArray) -> list[float]:
    raw = []
    for r, x in enumerate(rows):
        agreement = [
            0.0 if np.ptp(x) == 0 or np.ptp(y) == 0 else max(0.0, float(spearmanr(x, y).statistic))
            for s, y in enumerate(rows)
            if s != r
        ]
        raw.append(max(sum(agreement) / len(agreement), 0.01) if agreement else 1.0)
    return [weight / sum(raw) for weight in raw]


def naive(rows: NDArray, how: str) -> list[float]:
    columns = [[float(value) for value in column] for column in rows.T]
    if how == "mean":
        return [stats.fmean(column) for column in columns]
    if how == "median":
        return [stats.median(column) for column in columns]
    if how == "mean_std":
        return [stats.fmean(column) for column in columns] + [stats.pstdev(column) for column in columns]
    if how == "trimmed":
        cut = int(len(rows) / 10)
        return [stats.fmean(sorted(column)[cut : len(column) - cut]) for column in columns]
    weights = naive_weights(rows)
    return [sum(w * value for w, value in zip(weights, column, strict=True)) for column in columns]


@pytest.mark.parametrize("how", sorted(REDUCERS))
@pytest.mark.parametrize("k", [1, 2, 3, 9, 10, 11, 25, 40])
def test_reducers_equal_loops(how: str, k: int, frozen: Freeze, rng: np.random.Generator) -> None:
    rows = frozen(rng.normal(3, 2, size=(k, 7)).astype(np.float32))
    found = REDUCERS[how](rows)
    assert found.dtype == np.float64
    assert found.shape == (7 * len(statistics(how)),)
    np.testing.assert_allclose(found, naive(rows, how), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("how", sorted(REDUCERS))
def test_blocks_change_nothing(how: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rng.normal(size=(23, 11))
    whole = REDUCERS[how](rows)
    monkeypatch.setattr(aggregate, "_BLOCK_NUMBERS", 50)  # 2 columns, 4 and 2 rows at a time
    np.testing.assert_allclose(REDUCERS[how](rows), whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("how", sorted(REDUCERS))
@PROPERTY
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 30))
def test_the_order_of_rows_does_not_matter(how: str, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 5, size=(k, 6)).astype(float)  # many ties
    np.testing.assert_allclose(REDUCERS[how](rng.permutation(rows)), REDUCERS[how](rows), atol=1e-12)


def test_every_reducer_is_known_to_these_tests() -> None:
    assert list(REDUCERS) == ["mean", "median", "mean_std", "trimmed", "modz"]
    assert {how: statistics(how) for how in ("mean", "mean_std", "modz")} == {
        "mean": ("mean",),
        "mean_std": ("mean", "std"),
        "modz": ("modz",),
    }


def test_known_values() -> None:
    rows = np.array([[1.0, 10], [2, 20], [6, 60]])
    assert REDUCERS["mean"](rows).tolist() == [3, 30]
    assert REDUCERS["median"](rows).tolist() == [2, 20]
    np.testing.assert_allclose(REDUCERS["mean_std"](rows), [3, 30, (14 / 3) ** 0.5, 10 * (14 / 3) ** 0.5])
    assert REDUCERS["mean_std"](rows[:1]).tolist() == [1, 10, 0, 0]


def test_trimmed_forgets_the_extremes_and_agrees_with_scipy(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(20, 3))
    wild = rows.copy()
    wild[wild.argmax(axis=0), np.arange(3)] = 1e9
    np.testing.assert_allclose(REDUCERS["trimmed"](wild), REDUCERS["trimmed"](rows))
    np.testing.assert_allclose(REDUCERS["trimmed"](rows), trim_mean(rows, 0.1, axis=0))


def test_numbers_are_summed_in_double_precision() -> None:
    rows = np.array([[2**24], [1], [1], [1]], np.float32)  # 2**24 + 1 is not a float32
    assert REDUCERS["mean"](rows)[0] == (2**24 + 3) / 4


@pytest.mark.parametrize("how", sorted(REDUCERS))
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (4,), (1, 2, 3)])
def test_what_is_no_group_is_refused(how: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"rows must be \(k, d\) with at least one row"):
        REDUCERS[how](np.zeros(shape))


def test_an_unknown_statistic_is_refused_with_the_choices() -> None:
    for call in (lambda: statistics("max"), lambda: reduce_rows(KNOWN, how="max")):
        with pytest.raises(ValueError, match="choose one of mean, median, mean_std, trimmed, modz"):
            call()


# ---------------------------------------------------------------- MODZ


def test_modz_known_values() -> None:
    np.testing.assert_allclose(modz_weights(KNOWN), KNOWN_WEIGHTS, rtol=1e-12)
    assert np.round(modz_weights(KNOWN), 4).tolist() == [0.4945, 0.4945, 0.0110]
    np.testing.assert_allclose(modz(KNOWN), KNOWN_WEIGHTS @ KNOWN, rtol=1e-12)


def test_modz_of_one_row_is_that_row_and_of_two_their_mean() -> None:
    assert modz_weights(KNOWN[:1]).tolist() == [1]
    assert modz(KNOWN[:1]).tolist() == KNOWN[0].tolist()
    assert modz_weights(KNOWN[[0, 2]]).tolist() == [0.5, 0.5]  # opposite, and yet equal
    assert modz(KNOWN[[0, 2]]).tolist() == [3] * 5


def test_a_constant_replicate_agrees_with_nobody() -> None:
    rows = np.vstack([KNOWN[0], KNOWN[1], np.full(5, 7.0)])
    np.testing.assert_allclose(modz_weights(rows), KNOWN_WEIGHTS, rtol=1e-12)
    np.testing.assert_allclose(modz_weights(np.full((4, 5), 7.0)), [0.25] * 4)


def test_modz_sees_ranks_only(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(6, 30))
    np.testing.assert_allclose(modz_weights(np.exp(rows)), modz_weights(rows), rtol=1e-12)


def test_modz_ties_share_their_rank(rng: np.random.Generator) -> None:
    rows = rng.integers(0, 3, size=(5, 12)).astype(float)
    np.testing.assert_allclose(modz_weights(rows), naive_weights(rows), rtol=1e-10)


# ---------------------------------------------------------------- missing features


@pytest.mark.parametrize("how", sorted(REDUCERS))
def test_a_feature_counts_only_the_rows_that_have_it(
    how: str, frozen: Freeze, rng: np.random.Generator
) -> None:
    rows = rng.normal(size=(13, 9))
    rows[[1, 4, 5], 0:3] = np.nan  # a channel of three features
    rows[2, 3:6] = np.nan
    found = reduce_rows(frozen(rows), how=how)
    for columns in (slice(0, 3), slice(3, 6), slice(6, 9)):
        block = rows[:, columns]
        alone = naive(block[~np.isnan(block[:, 0])], how)
        np.testing.assert_allclose(found[:, columns].ravel(), alone, rtol=1e-9, atol=1e-12)


def test_a_feature_that_no_row_has_is_nan() -> None:
    rows = KNOWN.copy()
    rows[:, 1:3] = np.nan
    for how in REDUCERS:
        assert np.isnan(reduce_rows(rows, how=how)).tolist() == [[False, True, True, False, False]] * len(
            statistics(how)
        )


def test_weights_come_from_all_features_where_none_is_missing(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(8, 20))
    np.testing.assert_array_equal(reduce_rows(rows, how="modz")[0], modz(rows))


@pytest.mark.parametrize("missing", [False, True])
def test_group_mean_counts_each_entry(missing: bool, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    groups = rng.integers(0, 3, size=40)
    if missing:
        vectors[rng.random(40) < 0.4, 2:4] = np.nan
        vectors[groups == 1, 4:] = np.nan  # nobody of group 1 has it
    vectors.flags.writeable = False
    means = GroupMean(3, 6)
    for part in np.array_split(np.arange(40), 5):
        means.add(groups[part], vectors[part])
    found = means.means()
    for g in range(3):
        for j in range(6):
            there = [float(v) for v in vectors[groups == g, j] if v == v]
            assert (
                found[g, j] == pytest.approx(stats.fmean(there), rel=1e-6) if there else np.isnan(found[g, j])
            )


def test_fusing_a_missing_channel() -> None:
    vectors = np.array([[[1, 2], [3, 6]], [[1, 2], [np.nan, np.nan]], [[np.nan] * 2] * 2], np.float32)
    np.testing.assert_array_equal(fuse_channels(vectors, how="mean"), [[2, 4], [1, 2], [np.nan, np.nan]])
    np.testing.assert_array_equal(
        fuse_channels(vectors, how="chans"), [[3, 9], [3, np.nan], [np.nan, np.nan]]
    )
    np.testing.assert_array_equal(fuse_channels(vectors)[1], [1, 2, np.nan, np.nan])
    assert fuse_channels(vectors, how="mean").dtype == np.float32


# ---------------------------------------------------------------- groups


def blocks_of(groups: NDArray, rows: NDArray, step: int) -> Iterator[tuple[NDArray, NDArray]]:
    for start in range(0, len(rows), step):
        yield groups[start : start + step], rows[start : start + step]


@pytest.mark.parametrize("how", sorted(REDUCERS))
def test_groups_equal_their_rows_reduced_alone(how: str, rng: np.random.Generator) -> None:
    counts = np.array([3, 0, 12, 1, 0])
    groups = rng.permutation(np.repeat(np.arange(5), counts))
    rows = rng.normal(size=(16, 4)).astype(np.float32)
    found = reduce_groups(blocks_of(groups, rows, 5), counts, width=4, how=how)
    assert found.dtype == np.float32
    assert found.shape == (5, len(statistics(how)), 4)
    for g, count in enumerate(counts):
        if count:
            alone = REDUCERS[how](rows[groups == g])
            np.testing.assert_allclose(found[g].ravel(), alone, rtol=1e-6, atol=1e-6)
        else:
            assert np.isnan(found[g]).all()


@pytest.mark.parametrize("how", sorted(REDUCERS))
@pytest.mark.parametrize(("counts", "wrong"), [([1, 1], 0), ([1, 3], 0), ([2, 0], 1), ([2, 2], 1)])
def test_rows_that_do_not_match_the_announced_counts_are_refused(
    how: str, counts: list[int], wrong: int
) -> None:
    blocks = [(np.array([g]), np.ones((1, 2), np.float32)) for g in (0, 1, 0)]
    with pytest.raises(ValueError, match=f"group {wrong}: {counts[wrong]} rows were announced"):
        reduce_groups(blocks, np.array(counts), width=2, how=how)


@PROPERTY
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30),
    st.integers(1, 8),
    st.integers(1, 15),
)
def test_chunks_cover_all_groups_once_and_keep_the_limits(
    counts: list[int], max_groups: int, max_rows: int
) -> None:
    chunks = chunk_groups(np.array(counts), max_groups=max_groups, max_rows=max_rows)
    assert [g for rows in chunks for g in range(rows.start, rows.stop)] == list(range(len(counts)))
    for rows in chunks:
        n = rows.stop - rows.start
        assert n <= max_groups
        assert sum(counts[rows]) <= max_rows or n == 1
    for rows in chunks[:-1]:  # no chunk ends early
        assert rows.stop - rows.start == max_groups or sum(counts[rows.start : rows.stop + 1]) > max_rows


def test_a_thousand_cells_are_weighted_in_no_time(rng: np.random.Generator) -> None:
    """A loop over pairs would make half a million rank correlations of 256 features: minutes."""
    rows = rng.normal(size=(1000, 256)) + rng.normal(size=256)
    weights = modz_weights(rows)
    few = [0, 499, 999]
    expected = []
    ranks = np.argsort(np.argsort(rows, axis=1), axis=1)
    for r in few:
        s = np.array([np.corrcoef(ranks[r], ranks[j])[0, 1] for j in range(1000) if j != r])
        expected.append(s.clip(min=0).mean())
    np.testing.assert_allclose(weights[few] / weights[0], np.array(expected) / expected[0], rtol=1e-9)
