"""What batches leave in vectors: accuracy of neighbours against loops and chance, variance against its definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.ops import batch_mixing as module
from microsnoop.ops.batch_mixing import batch_accuracy, variance_explained
from microsnoop.ops.classify import make_folds
from microsnoop.ops.intervals import wilson

Freeze = Callable[[NDArray], NDArray]


def wells(n_batches: int = 3, per_batch: int = 12, rows: int = 5) -> tuple[NDArray, NDArray]:
    """Batch and well of each row; numbers with gaps."""
    well = np.repeat(np.arange(n_batches * per_batch), rows)
    return well // per_batch * 4 + 2, well * 3


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize(("k", "folds", "seed"), [(1, 5, 0), (5, 3, 1), (15, 4, 2)])
def test_accuracy_equals_loops(
    k: int, folds: int, seed: int, frozen: Freeze, rng: np.random.Generator
) -> None:
    batch, well = wells()
    x = frozen(rng.normal(size=(len(batch), 6)) + 0.8 * rng.normal(size=(15, 6))[batch])
    found = batch_accuracy(x, frozen(batch), groups=frozen(well), k=k, folds=folds, seed=seed)
    fold = make_folds(batch, well, folds=folds, seed=seed)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    hits = 0
    for i in range(len(x)):
        others = [(-float(unit[i] @ unit[j]), j) for j in range(len(x)) if fold[j] != fold[i]]
        near = sorted(others)[:k]
        votes: dict[int, tuple[int, float]] = {}
        for distance, j in near:
            count, total = votes.get(int(batch[j]), (0, 0.0))
            votes[int(batch[j])] = (count + 1, total + 1 + distance)
        best = min(votes, key=lambda name: (-votes[name][0], votes[name][1]))
        hits += best == batch[i]
    assert found.accuracy == hits / len(x)
    assert (found.k, found.folds, found.n, found.n_batches) == (k, folds, len(x), 3)


def test_unlike_batches_are_named_and_like_ones_are_not(rng: np.random.Generator) -> None:
    batch, well = wells()
    x = rng.normal(size=(len(batch), 8))
    shifted = x + 6 * np.eye(8)[batch // 4]
    assert batch_accuracy(shifted, batch, groups=well).accuracy == 1
    mixed = batch_accuracy(x, batch, groups=well)
    assert mixed.chance == pytest.approx(1 / 3)
    assert mixed.interval.low < mixed.chance < mixed.interval.high
    assert mixed.interval.low < mixed.accuracy < mixed.interval.high
    assert mixed.interval.method == "bootstrap-groups"
    assert mixed.interval.n_degenerate == 0
    assert (mixed.k, mixed.folds) == (15, 5)


def test_wells_stay_together(rng: np.random.Generator) -> None:
    batch, well = wells()
    # rows of a well are alike, wells of a batch are not: whoever is left with the own well always knows
    x = rng.normal(size=(len(batch) * 3, 8))[well] + 0.01 * rng.normal(size=(len(batch), 8))
    assert batch_accuracy(x, batch, groups=well, k=3).accuracy < 0.6
    assert batch_accuracy(x, batch, groups=None, k=3).accuracy > 0.95


def test_chance_is_the_largest_batch(rng: np.random.Generator) -> None:
    batch = np.repeat([3, 9], [70, 30])
    x = rng.normal(size=(100, 4))
    found = batch_accuracy(x, batch, groups=None)
    assert found.chance == 0.7
    assert found.n_batches == 2
    assert found.interval == wilson(round(found.accuracy * 100), 100)
    assert len(found.unnameable) == 0


def test_same_seed_same_answer(rng: np.random.Generator) -> None:
    batch, well = wells()
    x = rng.normal(size=(len(batch), 4))
    first = batch_accuracy(x, batch, groups=well)
    again = batch_accuracy(x, batch, groups=well)
    assert (again.accuracy, again.interval) == (first.accuracy, first.interval)
    assert len({batch_accuracy(x, batch, groups=well, seed=seed).accuracy for seed in range(5)}) > 1


def test_a_batch_of_one_well_is_listed(rng: np.random.Generator) -> None:
    batch, well = wells()
    batch = np.where(well == well[0], 50, batch)
    x = rng.normal(size=(len(batch), 4)) + 9 * np.eye(4)[batch % 4]
    found = batch_accuracy(x, batch, groups=well, k=3)
    assert found.unnameable.tolist() == [50]
    assert found.n_batches == 4


def test_errors_name_what_was_wrong(rng: np.random.Generator) -> None:
    batch, well = wells()
    x = rng.normal(size=(len(batch), 4))
    with pytest.raises(ValueError, match="at least two batches, got 1"):
        batch_accuracy(x, np.zeros(len(x), np.int64), groups=well)
    with pytest.raises(ValueError, match="each of 3 batches is a single group"):
        batch_accuracy(x, batch, groups=batch)
    with pytest.raises(ValueError, match=r"1 of 180 rows have no batch, rows \[4\]"):
        batch_accuracy(x, np.where(np.arange(180) == 4, -1, batch), groups=well)
    with pytest.raises(ValueError, match=r"batch must be \(180,\)"):
        batch_accuracy(x, batch[:3], groups=well)
    with pytest.raises(ValueError, match=r"groups must be \(180,\)"):
        batch_accuracy(x, batch, groups=well[:3])
    with pytest.raises(ValueError, match="too_few_neighbours"):
        batch_accuracy(x, batch, groups=well, k=170)
    with pytest.raises(ValueError, match="40 folds need at least 40 groups, got 36"):
        batch_accuracy(x, batch, groups=well, folds=40)


# ---------------------------------------------------------------- variance


@pytest.mark.parametrize("block", [1, 50, 2**21])
def test_variance_equals_its_definition(
    block: int, frozen: Freeze, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", block)
    batch = frozen(rng.integers(0, 4, 60) * 5)
    x = frozen((rng.normal(size=(60, 7)) + 100 + rng.normal(size=(16, 7))[batch]).astype(np.float32))
    between = total = 0.0
    for column in x.astype(float).T:
        mean = column.sum() / 60
        for name in set(batch.tolist()):
            members = [value for value, own in zip(column, batch, strict=True) if own == name]
            between += len(members) * (sum(members) / len(members) - mean) ** 2
        total += sum((value - mean) ** 2 for value in column)
    assert variance_explained(x, batch) == pytest.approx(between / total, rel=1e-9)


def test_known_shares(rng: np.random.Generator) -> None:
    batch = np.array([0, 0, 1, 1])
    assert variance_explained(np.array([[1.0], [3], [1], [3]]), batch) == 0
    assert variance_explained(np.array([[1.0], [1], [3], [3]]), batch) == 1
    assert variance_explained(np.array([[0.0], [2], [2], [4]]), batch) == pytest.approx(0.5)  # 4 of 8
    n = 200
    x = rng.normal(size=(n, 500))
    found = variance_explained(x, np.arange(n) % 11)
    assert found == pytest.approx(10 / (n - 1), rel=0.1)  # chance


def test_a_planted_shift_explains_its_share(rng: np.random.Generator) -> None:
    batch = np.repeat([0, 1], 200)
    x = rng.normal(size=(400, 20))
    x[batch == 1, 0] += 8  # between batches 16 of 16 + 20
    assert variance_explained(x, batch) == pytest.approx(16 / 36, abs=0.03)


def test_variance_errors_name_what_was_wrong() -> None:
    batch = np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="all 4 vectors are the same"):
        variance_explained(np.full((4, 3), 0.1), batch)
    with pytest.raises(ValueError, match=r"1 of 4 vectors hold values that are not finite, rows \[2\]"):
        variance_explained(np.array([[1.0], [2], [np.nan], [np.inf]])[[0, 1, 2, 0]], batch)
    with pytest.raises(ValueError, match="at least two batches"):
        variance_explained(np.ones((4, 3)), np.zeros(4, np.int64))
    with pytest.raises(ValueError, match=r"must be \(n, d\)"):
        variance_explained(np.ones(4), batch)
