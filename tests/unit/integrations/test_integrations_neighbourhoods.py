"""Neighbourhoods of joint representations against loops; the test of the pairing against what is known to be true."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from microsnoop.ops.jaccard import nearest_neighbours
from microsnoop_integrations.joint import neighbourhoods
from microsnoop_integrations.joint.measures import neighbourhood_agreement, pairing_test

Freeze = Callable[[NDArray], NDArray]


def overlap(first: NDArray, second: NDArray) -> list[int]:
    return [len(set(a) & set(b)) for a, b in zip(first.tolist(), second.tolist(), strict=True)]


def test_neighbourhoods_equal_loops(frozen: Freeze, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(90, 3)), rng.normal(size=(90, 5))
    z = frozen(np.c_[2 * x, y])
    found = neighbourhood_agreement(z, frozen(x), frozen(y), k=8)
    for part, value in ((x, found.rna), (y, found.image)):
        shared = overlap(nearest_neighbours(z, 8), nearest_neighbours(part, 8))
        assert value == pytest.approx(np.mean([s / (16 - s) for s in shared]))
    assert found.rna > found.image > found.chance
    assert (found.k, found.n) == (8, 90)
    assert neighbourhood_agreement(z, csr_matrix(x), csr_matrix(y), k=8) == found
    noise = neighbourhood_agreement(
        rng.normal(size=(2000, 4)), rng.normal(size=(2000, 4)), y=rng.normal(size=(2000, 4))
    )
    assert noise.rna == pytest.approx(noise.chance, rel=0.1)


def test_neighbourhoods_cap_k_and_sample(rng: np.random.Generator) -> None:
    x = rng.normal(size=(20, 3))
    found = neighbourhood_agreement(x, x, -x)
    assert (found.rna, found.image, found.chance, found.k) == (1, 1, 1, 19)
    x = rng.normal(size=(200, 3))
    few = neighbourhood_agreement(x, x[:, :2], x[:, 1:], sample=60, seed=1)
    assert (few.n, few.k) == (60, 30)
    assert few == neighbourhood_agreement(x, x[:, :2], x[:, 1:], sample=60, seed=1)
    assert few != neighbourhood_agreement(x, x[:, :2], x[:, 1:], sample=60, seed=2)
    for bad, said in (
        (lambda: neighbourhood_agreement(x, x[1:], x), r"\[200, 199, 200\]"),
        (lambda: neighbourhood_agreement(x, x, x, k=0), "k must be at least 1"),
        (lambda: neighbourhood_agreement(x[:1], x[:1], x[:1]), "at least two cells"),
        (lambda: neighbourhood_agreement(x, x, x, sample=1), "sample = 1"),
        (lambda: neighbourhood_agreement(x, x * np.nan, x), "not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            bad()


# ---------------------------------------------------------------- pairing


def test_pairing_permutes_the_cells_of_one_modality(
    frozen: Freeze, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = frozen(rng.normal(size=(70, 3)))
    y = frozen(x + rng.normal(size=(70, 3)))
    drawn: list[NDArray] = []

    def remember(n: int, *rest: Any) -> NDArray:
        drawn.append(permute(n, *rest))
        return drawn[-1]

    permute = neighbourhoods._permute
    monkeypatch.setattr(neighbourhoods, "_permute", remember)
    found = pairing_test(x, y, k=6, permutations=40, rng=np.random.default_rng(5))
    near = nearest_neighbours(x, 6)
    observed = sum(overlap(near, nearest_neighbours(y, 6)))
    known = np.array([sum(overlap(near, nearest_neighbours(y[partner], 6))) for partner in drawn])
    assert len(drawn) == found.permutations == 40
    assert found.observed == pytest.approx(observed / 420)
    assert found.expected == pytest.approx(known.mean() / 420)
    assert found.ratio == pytest.approx(observed / known.mean())
    assert found.z == pytest.approx((observed - known.mean()) / known.std(ddof=1))
    assert found.p == 1 / 41
    assert (found.k, found.n, found.within_groups) == (6, 70, False)


def test_pairing_tells_shared_information_from_none(rng: np.random.Generator) -> None:
    label = rng.integers(0, 5, 400)
    x, y = (rng.normal(size=(400, 6)) + 2 * rng.normal(size=(5, 6))[label] for _ in range(2))
    paired = pairing_test(x, y, permutations=99)
    assert paired.p == 0.01
    assert paired.z > 10
    assert paired.ratio > 2
    assert paired == pairing_test(x, csr_matrix(y), permutations=99)
    p = [pairing_test(x, rng.permutation(y), permutations=39, rng=rng).p for _ in range(20)]
    assert 0.2 < np.mean(p) < 0.8
    assert min(p) < 0.5 < max(p)


def test_what_groups_share_does_not_count(rng: np.random.Generator) -> None:
    group = np.repeat([3, 1, 8], [90, 60, 50])[rng.permutation(200)]
    x, y = (rng.normal(size=(200, 4)) + 5 * rng.normal(size=(9, 4))[group] for _ in range(2))
    assert pairing_test(x, y, k=10, permutations=99).p == 0.01
    within = pairing_test(x, y, k=10, permutations=99, groups=group)
    assert within.within_groups
    assert within.p > 0.05
    assert within.expected > 2 * pairing_test(x, y, k=10, permutations=99).expected
    assert pairing_test(x, x + 0.1 * y, k=10, permutations=99, groups=group).p == 0.01
    assert not pairing_test(x, y, k=10, permutations=9, groups=np.ones(200)).within_groups
    sampled = pairing_test(x, y, k=10, permutations=99, groups=group, sample=150)
    assert sampled.n == 150
    assert sampled.p > 0.03


def test_permutations_stay_in_their_groups(rng: np.random.Generator) -> None:
    unit = rng.integers(0, 4, 60)
    seen = np.array([neighbourhoods._permute(60, unit, rng) for _ in range(300)])
    assert (np.sort(seen, axis=1) == np.arange(60)).all()
    assert (unit[seen] == unit).all()
    where = np.flatnonzero(unit == unit[0])
    assert set(seen[:, 0]) == set(where)  # every place of its group


def test_pairing_at_the_edges(rng: np.random.Generator) -> None:
    x = rng.normal(size=(9, 2))
    full = pairing_test(x, -x[::-1], permutations=10)  # everyone is everyone's neighbour
    assert (full.k, full.observed, full.expected, full.ratio, full.p) == (8, 1, 1, 1, 1)
    assert np.isnan(full.z)
    assert np.isnan(pairing_test(x, x, k=2, permutations=1).z)
    for bad, said in (
        (lambda: pairing_test(x, x, permutations=0), "permutations"),
        (lambda: pairing_test(x, x[1:]), r"\[9, 8\]"),
        (lambda: pairing_test(x, x, groups=np.arange(4)), "groups"),
    ):
        with pytest.raises(ValueError, match=said):
            bad()


def test_memory_is_bounded_by_the_sample(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(6_000, 10)).astype(np.float32), rng.normal(size=(6_000, 5)).astype(np.float32)
    tracemalloc.start()
    try:
        pairing_test(x, y, permutations=3)
        neighbourhood_agreement(x, x, y)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 110 * 2**20  # all pairs: 137 MiB as float32
