"""Fusion of channels and means of groups, against loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.ops.profiles import FUSIONS, GroupMean, feature_names, fuse_channels

PROPERTY = settings(deadline=None, derandomize=True, max_examples=80)
Freeze = Callable[[NDArray], NDArray]
N, C, D = 7, 3, 5


@pytest.fixture
def vectors(frozen: Freeze, rng: np.random.Generator) -> NDArray[np.float32]:
    return frozen(rng.normal(size=(N, C, D)).astype(np.float32))


# ---------------------------------------------------------------- fusion


def naive_fusion(vectors: NDArray, how: str) -> list[list[float]]:
    rows = []
    for sample in vectors.astype(float):
        if how == "concat":
            rows.append([value for channel in sample for value in channel])
        elif how == "mean":
            rows.append([sum(channel[j] for channel in sample) / len(sample) for j in range(len(sample[0]))])
        else:
            rows.append([sum(channel) for channel in sample])
    return rows


@pytest.mark.parametrize("how", ["concat", "mean", "chans"])
def test_fusion_equals_a_loop(vectors: NDArray[np.float32], how: str) -> None:
    found = fuse_channels(vectors, how=how)
    np.testing.assert_allclose(found, naive_fusion(vectors, how), atol=1e-6)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.shape == (N, {"concat": C * D, "mean": D, "chans": C}[how])


def test_concat_is_the_default(vectors: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(fuse_channels(vectors), fuse_channels(vectors, how="concat"))


def test_every_fusion_is_known_to_these_tests() -> None:
    assert sorted(FUSIONS) == ["chans", "concat", "mean"]


def test_one_channel_concatenated_is_that_channel(vectors: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(fuse_channels(vectors[:, :1]), vectors[:, 0])


def test_swapping_channels_permutes_blocks(vectors: NDArray[np.float32]) -> None:
    order = [2, 0, 1]
    swapped = fuse_channels(vectors[:, order])
    blocks = fuse_channels(vectors).reshape(N, C, D)
    np.testing.assert_array_equal(swapped.reshape(N, C, D), blocks[:, order])


def test_shuffling_rows_shuffles_rows_and_nothing_else(
    vectors: NDArray[np.float32], rng: np.random.Generator
) -> None:
    order = rng.permutation(N)
    for how in FUSIONS:
        np.testing.assert_array_equal(
            fuse_channels(vectors[order], how=how), fuse_channels(vectors, how=how)[order]
        )


def test_concat_of_unit_vectors_has_length_root_c(vectors: NDArray[np.float32]) -> None:
    # spec 7: concat is not normalised again
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(fuse_channels(unit), axis=1), np.sqrt(C), rtol=1e-6)


@pytest.mark.parametrize("shape", [(N, D), (1, N, C, D)])
def test_fusion_needs_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(N, C, D\)"):
        fuse_channels(np.zeros(shape, np.float32))


@pytest.mark.parametrize("how", ["add", "", "Concat"])
def test_unknown_fusion_is_refused_with_the_choices(how: str, vectors: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="choose one of concat, mean, chans"):
        fuse_channels(vectors, how=how)
    with pytest.raises(ValueError, match="choose one of concat, mean, chans"):
        feature_names(["a"], 3, how=how)


@pytest.mark.parametrize(
    "how",
    [
        "concat",
        "mean",
        "chans",
    ],
)
def test_no_rows_fuse_to_no_rows(how: str) -> None:
    found = fuse_channels(np.zeros((0, C, D), np.float32), how=how)
    assert found.shape == (0, len(feature_names(["a", "b", "c"], D, how=how)))


# ---------------------------------------------------------------- names of features


def test_feature_names_known_values() -> None:
    assert feature_names(["DNA", "ER"], 2) == [
        ("DNA:000", "DNA", 0),
        ("DNA:001", "DNA", 1),
        ("ER:000", "ER", 0),
        ("ER:001", "ER", 1),
    ]
    assert feature_names(["DNA", "ER"], 2, how="mean") == [("mean:000", "mean", 0), ("mean:001", "mean", 1)]
    assert feature_names(["DNA", "ER"], 2, how="chans") == [("DNA:sum", "DNA", -1), ("ER:sum", "ER", -1)]
    assert feature_names(["DNA"], 256)[-1] == ("DNA:255", "DNA", 255)


@pytest.mark.parametrize("how", ["concat", "mean", "chans"])
def test_every_column_has_the_name_of_what_it_holds(how: str) -> None:
    # the value of channel c, dimension j is 10 c + j
    vectors = (10 * np.arange(C)[:, None] + np.arange(D)).astype(np.float32)[None]
    row = fuse_channels(vectors, how=how)[0]
    names = feature_names(["0", "1", "2"], D, how=how)
    assert len(names) == len(row)
    for value, (_, channel, j) in zip(row, names, strict=True):
        if how == "concat":
            assert value == 10 * int(channel) + j
        elif how == "mean":
            assert value == 10 + j
        else:
            assert value == vectors[0, int(channel)].sum()


# ---------------------------------------------------------------- means of groups


@PROPERTY
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=12), max_size=6),
    st.integers(1, 6),
    st.integers(0, 2**32 - 1),
)
def test_group_means_equal_a_loop_however_the_rows_arrive(
    blocks: list[list[int]], width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    means = GroupMean(5, width)
    rows: dict[int, list[NDArray]] = {group: [] for group in range(5)}
    for block in blocks:
        vectors = rng.normal(size=(len(block), width)).astype(np.float32)
        vectors.flags.writeable = False
        means.add(np.array(block, np.int64), vectors)
        for group, vector in zip(block, vectors, strict=True):
            rows[group].append(vector.astype(float))
    assert means.counts.tolist() == [len(rows[group]) for group in range(5)]
    for group, members in rows.items():
        if not members:
            with pytest.raises(ValueError, match="a group without rows has no mean"):
                means.means(np.array([group]))
            continue
        found = means.means(np.array([group]))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], sum(members) / len(members), rtol=1e-6, atol=1e-7)


def test_a_group_without_rows_is_never_a_zero_vector() -> None:
    means = GroupMean(3, 2)
    means.add(np.array([0, 2, 2]), np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="without rows"):
        means.means()
    with pytest.raises(ValueError, match="without rows"):
        means.means(slice(1, 3))
    np.testing.assert_array_equal(means.means(slice(2, 3)), [[1, 1]])
    np.testing.assert_array_equal(means.means(np.array([2, 0])), np.ones((2, 2)))


def test_means_of_chosen_groups_come_in_the_order_asked_for() -> None:
    means = GroupMean(3, 1)
    means.add(np.array([0, 1, 2, 2]), np.array([[1], [5], [10], [20]], np.float32))
    assert means.means(np.array([2, 0, 2]))[:, 0].tolist() == [15, 1, 15]
    assert means.means()[:, 0].tolist() == [1, 5, 15]
    assert means.means(slice(1, 3))[:, 0].tolist() == [5, 15]


def test_a_group_may_stand_often_in_one_block() -> None:
    means = GroupMean(1, 1)
    means.add(np.zeros(5, np.int64), np.arange(5, dtype=np.float32)[:, None])
    assert means.counts.tolist() == [5]
    assert means.means().tolist() == [[2]]


def test_sums_are_kept_in_double_precision() -> None:
    # 2**24 + 1 is not a float32: summing in float32 would lose every one
    means = GroupMean(1, 1)
    means.add(np.array([0]), np.array([[2**24]], np.float32))
    for _ in range(99):
        means.add(np.zeros(1, np.int64), np.ones((1, 1), np.float32))
    assert means.means()[0, 0] == np.float32((2**24 + 99) / 100)
    assert np.float32((2**24 + 99) / 100) != np.float32(2**24 / 100)


def test_means_are_not_normalised_again() -> None:
    means = GroupMean(1, 2)
    means.add(np.zeros(2, np.int64), np.eye(2, dtype=np.float32))
    np.testing.assert_array_equal(means.means(), [[0.5, 0.5]])


def test_asking_changes_nothing(vectors: NDArray[np.float32]) -> None:
    means = GroupMean(2, D)
    means.add(np.array([0, 1, 1]), vectors[:3, 0])
    first = means.means()
    first[:] = 7
    np.testing.assert_array_equal(means.means()[0], vectors[0, 0])


def test_a_group_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"groups must lie in 0\.\.1"):
        GroupMean(2, 1).add(np.array([2]), np.ones((1, 1), np.float32))


def test_a_negative_group_is_refused() -> None:
    with pytest.raises((IndexError, ValueError)):
        GroupMean(3, 1).add(np.array([-1]), np.ones((1, 1), np.float32))


@pytest.mark.parametrize("shape", [(2, 1), (4,)])
def test_vectors_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises((IndexError, ValueError)):
        GroupMean(3, 4).add(np.array([0, 1]), np.ones(shape, np.float32))
