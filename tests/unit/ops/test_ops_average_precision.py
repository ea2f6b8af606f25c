"""Average precision against loops, known rankings and copairs; its null against exact means and against itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
import pytest
from copairs.map.average_precision import average_precision as copairs_average_precision
from numpy.typing import NDArray
from scipy import stats

from microsnoop.ops import average_precision as module
from microsnoop.ops import false_discovery
from microsnoop.ops.average_precision import (
    AveragePrecision,
    average_precision,
    mean_average_precision,
    unit_rows,
)
from microsnoop.ops.false_discovery import adjust, expected_average_precision, random_average_precision

Freeze = Callable[[NDArray], NDArray]
KEYS = ("pos_sameby", "pos_diffby", "neg_sameby", "neg_diffby")


def at_degrees(*degrees: float) -> NDArray:
    angle = np.radians(degrees)
    return np.c_[np.cos(angle), np.sin(angle)]


def naive_precision(ranking: list[bool]) -> float:
    """Positives True, best first."""
    found, parts = 0, []
    for rank, positive in enumerate(ranking, start=1):
        if positive:
            found += 1
            parts.append(found / rank)
    return sum(parts) / len(parts)


def naive(x: NDArray, query: int, labels: dict[str, list[NDArray]]) -> tuple[float, int, int]:
    def same(codes: NDArray, other: int) -> bool:
        return bool(codes[query] >= 0 and codes[query] == codes[other])

    def differ(codes: NDArray, other: int) -> bool:
        return bool(codes[query] >= 0 and codes[other] >= 0 and codes[query] != codes[other])

    pairs = []
    for other in range(len(x)):
        if other == query:
            continue
        positive = all(same(c, other) for c in labels["pos_sameby"]) and all(
            differ(c, other) for c in labels["pos_diffby"]
        )
        negative = all(same(c, other) for c in labels["neg_sameby"]) and all(
            differ(c, other) for c in labels["neg_diffby"]
        )
        cosine = float(x[query] @ x[other] / np.linalg.norm(x[query]) / np.linalg.norm(x[other]))
        if positive or negative:
            pairs.append((-round(cosine, 12), positive))
    ranking = [positive for _, positive in sorted(pairs)]  # of equals, False comes first
    n_pos = sum(ranking)
    if n_pos in (0, len(ranking)):
        return np.nan, n_pos, len(ranking) - n_pos
    return naive_precision(ranking), n_pos, len(ranking) - n_pos


def of_values(values: list[float], n_pos: list[int], n_neg: list[int]) -> AveragePrecision:
    return AveragePrecision(np.array(values), np.array(n_pos), np.array(n_neg), np.arange(len(values)))


# ---------------------------------------------------------------- known rankings


def test_known_rankings() -> None:
    label = np.array([0, 0, 1, 0])
    found = average_precision(at_degrees(0, 10, 20, 30), pos_sameby=[label], neg_diffby=[label])
    assert found.values[0] == pytest.approx((1 + 2 / 3) / 2)  # + - +
    assert round(found.values[0], 4) == 0.8333
    assert np.isnan(found.values[2])  # nothing of its own kind
    assert found.n_missing == 1
    assert found.n_pos.tolist() == [2, 2, 0, 2]
    assert found.n_neg.tolist() == [1, 1, 3, 1]
    assert found.query.tolist() == [0, 1, 2, 3]
    best = average_precision(at_degrees(0, 10, 90, 20), pos_sameby=[label], neg_diffby=[label])
    assert best.values[0] == 1


def test_of_equal_similarities_negatives_come_first() -> None:
    label = np.array([0, 0, 1, 1])
    x = np.array([[1.0, 0], [3, 3], [1, 1], [-1, 0.0]])
    found = average_precision(x, pos_sameby=[label], neg_diffby=[label], queries=np.arange(4) == 0)
    assert found.values.tolist() == [0.5]
    apart = x.copy()
    apart[1] = 1, 1 + 1e-14  # not equal in float64, equal to 12 digits
    found = average_precision(apart, pos_sameby=[label], neg_diffby=[label], queries=np.arange(4) == 0)
    assert found.values.tolist() == [0.5]
    apart[1] = 1, 1 - 1e-9  # nearer by more than that
    found = average_precision(apart, pos_sameby=[label], neg_diffby=[label], queries=np.arange(4) == 0)
    assert found.values.tolist() == [1.0]


def test_a_missing_label_decides_nothing() -> None:
    kind = np.array([0, 0, 0, 1, -1, -1])
    plate = np.array([0, 1, -1, 0, 0, 1])
    found = average_precision(
        at_degrees(0, 10, 20, 30, 40, 50), pos_sameby=[kind], pos_diffby=[plate], neg_diffby=[kind]
    )
    # rows 4 and 5 are of no kind: not alike, and not unlike anything; row 2 is on no plate: not on another one
    assert found.n_pos.tolist() == [1, 1, 0, 0, 0, 0]
    assert found.n_neg.tolist() == [1, 1, 1, 3, 0, 0]
    assert np.isnan(found.values).tolist() == [False, False, True, True, True, True]


def test_without_positives_or_negatives_there_is_no_value() -> None:
    kind, lab = np.array([0, 0, 1, 2, 0, 0]), np.array([0, 0, 0, 0, 1, 1])
    found = average_precision(
        at_degrees(0, 10, 20, 30, 40, 50), pos_sameby=[kind], neg_sameby=[lab], neg_diffby=[kind]
    )
    assert found.n_pos.tolist() == [3, 3, 0, 0, 3, 3]
    assert found.n_neg.tolist() == [2, 2, 3, 3, 0, 0]
    assert np.isnan(found.values).tolist() == [False, False, True, True, True, True]


# ---------------------------------------------------------------- naive twin


@pytest.mark.parametrize("block", [1, 100, 2**20])
@pytest.mark.parametrize("seed", range(4))
def test_equals_loops(block: int, seed: int, frozen: Freeze, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_PAIRS", block)
    rng = np.random.default_rng(seed)
    n = 45
    x = frozen(rng.integers(-2, 3, size=(n, 3)).astype(np.float32) + np.float32(0.5))  # many ties
    kind = frozen(rng.integers(-1, 5, n))
    plate = frozen(rng.integers(-1, 3, n))
    lab = frozen(rng.integers(0, 2, n))
    asked = frozen(rng.random(n) < 0.7)
    labels = {"pos_sameby": [kind, lab], "pos_diffby": [plate], "neg_sameby": [lab], "neg_diffby": [kind]}
    found = average_precision(x, **labels, queries=asked)
    assert found.query.tolist() == np.flatnonzero(asked).tolist()
    twin = [naive(x.astype(float), query, labels) for query in np.flatnonzero(asked)]
    assert found.n_pos.tolist() == [pos for _, pos, _ in twin]
    assert found.n_neg.tolist() == [neg for _, _, neg in twin]
    np.testing.assert_allclose(found.values, [value for value, _, _ in twin], rtol=1e-12)
    assert 0 < found.n_missing < len(twin)


def test_order_and_lengths_of_rows_do_not_matter(rng: np.random.Generator) -> None:
    x, kind = rng.normal(size=(60, 4)), rng.integers(0, 7, 60)
    found = average_precision(x, pos_sameby=[kind], neg_diffby=[kind]).values
    order = rng.permutation(60)
    longer = x[order] * rng.uniform(0.1, 9, size=(60, 1))
    again = average_precision(longer, pos_sameby=[kind[order]], neg_diffby=[kind[order]]).values
    np.testing.assert_allclose(again, found[order], rtol=1e-12)


def test_similarity_is_decided_in_double_precision() -> None:
    x = np.array([[1, 0], [1, 2e-5], [1, 3e-5]], np.float32)  # cosines 1 - 2e-10 and 1 - 4.5e-10
    label = np.array([0, 0, 1])
    found = average_precision(x, pos_sameby=[label], neg_diffby=[label])
    assert found.values[0] == 1


# ---------------------------------------------------------------- copairs


@pytest.mark.parametrize(
    "design",
    [
        (["kind"], [], [], ["kind"]),
        (["kind"], ["plate"], ["plate"], ["kind"]),
        (["kind", "lab"], [], ["plate"], ["kind", "lab"]),
    ],
)
def test_equals_copairs(design: tuple[list[str], ...]) -> None:
    rng = np.random.default_rng(5)
    n = 120
    sizes = np.repeat(np.arange(12), [2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 20, 28])  # unbalanced
    meta = pd.DataFrame(
        {"kind": rng.permutation(sizes), "plate": rng.integers(0, 4, n), "lab": rng.integers(0, 2, n)}
    )
    x = rng.normal(size=(n, 6)) + rng.normal(size=(12, 6))[meta["kind"]]
    theirs = copairs_average_precision(meta, x, *design, progress_bar=False)
    columns = [[meta[name].to_numpy() for name in names] for names in design]
    ours = average_precision(x, **dict(zip(KEYS, columns, strict=True)))
    asked = (ours.n_pos > 0) & (ours.n_neg > 0)
    assert asked.sum() > 90
    np.testing.assert_array_equal(theirs["n_pos_pairs"], ours.n_pos)
    np.testing.assert_array_equal(theirs["n_total_pairs"], ours.n_pos + ours.n_neg)
    np.testing.assert_allclose(ours.values[asked], theirs["average_precision"][asked], rtol=0, atol=1e-9)


# ---------------------------------------------------------------- random rankings


@pytest.mark.parametrize(("n_pos", "n_neg"), [(1, 4), (4, 1), (2, 4), (4, 2), (3, 3)])
def test_random_rankings_are_all_equally_likely(n_pos: int, n_neg: int) -> None:
    total = n_pos + n_neg
    every = [
        naive_precision([rank in chosen for rank in range(total)])
        for chosen in combinations(range(total), n_pos)
    ]
    assert expected_average_precision(n_pos, n_neg) == pytest.approx(np.mean(every), abs=1e-12)
    drawn = random_average_precision(n_pos, n_neg, size=20_000, seed=1)
    values, times = np.unique(np.round(drawn, 9), return_counts=True)
    expected, ways = np.unique(np.round(every, 9), return_counts=True)
    np.testing.assert_array_equal(values, expected)
    assert stats.chisquare(times, ways * 20_000 / comb(total, n_pos)).pvalue > 1e-3


@pytest.mark.parametrize(("n_pos", "n_neg"), [(1, 99), (2, 400), (7, 120), (120, 7), (400, 2), (30, 40)])
@pytest.mark.parametrize("dense", [1, 10**6])
def test_random_rankings_have_the_exact_mean(
    n_pos: int, n_neg: int, dense: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(false_discovery, "_DENSE", dense)  # drawn one by one; shuffled
    monkeypatch.setattr(false_discovery, "_BLOCK_RANKS", 5_000)
    drawn = random_average_precision(n_pos, n_neg, size=20_000, seed=0)
    assert len(drawn) == 20_000
    error = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - expected_average_precision(n_pos, n_neg)) < 4 * error
    assert len(np.unique(drawn)) > 50


@pytest.mark.parametrize("dense", [1, 10**6])
def test_sets_of_ranks_are_drawn_without_repeats(
    dense: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(false_discovery, "_DENSE", dense)
    ranks = false_discovery._draw_ranks(9, 20, size=5_000, rng=rng)
    assert (np.diff(ranks, axis=1) > 0).all()
    assert ranks.min() == 1
    assert ranks.max() == 20
    times = np.bincount(ranks.ravel(), minlength=21)[1:]
    assert stats.chisquare(times).pvalue > 1e-3


def test_one_positive_among_n_is_worth_a_harmonic_number() -> None:
    for n in (2, 5, 40):
        exact = sum(1 / rank for rank in range(1, n + 1)) / n
        assert expected_average_precision(1, n - 1) == pytest.approx(exact, rel=1e-12)


def test_null_depends_on_sizes_and_seed_alone() -> None:
    first = random_average_precision(3, 9, size=100, seed=0)
    random_average_precision(4, 9, size=100, seed=0)
    np.testing.assert_array_equal(random_average_precision(3, 9, size=100, seed=0), first)
    assert (random_average_precision(3, 9, size=100, seed=1) != first).any()
    more = random_average_precision(3, 99, size=2_000, seed=0)  # other sizes, other draws
    fewer = random_average_precision(3, 90, size=2_000, seed=0)
    assert abs(np.corrcoef(more, fewer)[0, 1]) < 0.1
    with pytest.raises(ValueError, match="needs positives and negatives"):
        random_average_precision(0, 3, size=10, seed=0)


# ---------------------------------------------------------------- means, p and q


def test_p_counts_draws_that_reach_the_score() -> None:
    ap = of_values([1.0, 0.5, 0.5, 0.25], [1, 1, 1, 1], [3, 3, 3, 3])
    found = mean_average_precision(ap, np.array([0, 1, 1, 2]), null_size=999, seed=3)
    null = random_average_precision(1, 3, size=999, seed=3)
    assert found.values.tolist() == [1, 0.5, 0.25]
    assert found.p.tolist() == [
        (1 + (null >= 1).sum()) / 1000,
        (1 + (null >= 0.5).sum()) / 1000,
        1.0,  # 0.25 is the least that one among four can reach
    ]
    assert found.p[0] < 0.35
    np.testing.assert_allclose(found.expected, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


def test_the_worst_score_is_no_surprise_whatever_its_last_digit() -> None:
    for n_pos in range(1, 6):
        worst = naive_precision([False] * 3 + [True] * n_pos)
        for members in range(1, 13):
            ap = of_values([worst] * members, [n_pos] * members, [3] * members)
            assert mean_average_precision(ap, np.zeros(members, np.int64), null_size=50).p.tolist() == [1.0]


def test_a_group_of_several_sizes_averages_their_draws() -> None:
    ap = of_values([0.6, 0.5, 0.7], [2, 2, 5], [9, 9, 30])
    found = mean_average_precision(ap, np.zeros(3, np.int64), null_size=500, seed=2)
    two, five = (random_average_precision(p, n, size=500, seed=2) for p, n in ((2, 9), (5, 30)))
    assert found.values[0] == pytest.approx(0.6)
    assert found.p[0] == (1 + ((2 * two + five) / 3 >= 0.6 - 1e-12).sum()) / 501
    expected = (2 * expected_average_precision(2, 9) + expected_average_precision(5, 30)) / 3
    assert found.expected[0] == pytest.approx(expected)


def test_what_has_no_value_is_counted_and_no_test() -> None:
    nan = np.nan
    ap = of_values([1.0, nan, nan, 0.9, 0.4], [3, 0, 0, 3, 3], [50, 50, 50, 50, 50])
    found = mean_average_precision(ap, np.array([7, 7, 2, -1, 4]), null_size=200)
    assert found.groups.tolist() == [2, 4, 7]
    assert found.n_queries.tolist() == [0, 1, 1]
    assert found.n_missing.tolist() == [1, 0, 1]
    assert found.n_ungrouped == 1
    assert np.isnan([found.values[0], found.p[0], found.q[0], found.expected[0]]).all()
    assert found.values[1:].tolist() == [0.4, 1]
    np.testing.assert_allclose(found.q[1:], stats.false_discovery_control(found.p[1:]))
    assert not found.significant[0]
    assert found.retrieved == found.significant[1:].mean()
    nothing = mean_average_precision(of_values([nan], [0], [4]), np.array([0]), null_size=50)
    assert nothing.n_missing.tolist() == [1]
    assert np.isnan(nothing.retrieved)
    empty = mean_average_precision(of_values([], [], []), np.empty(0, np.int64), null_size=50)
    assert len(empty.groups) == 0


@pytest.mark.parametrize("kept", [1, 512])
def test_groups_keep_their_numbers_in_any_order(
    kept: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(false_discovery, "_NULLS_KEPT", kept)
    n = 60
    x, plate = rng.normal(size=(n, 5)), rng.integers(0, 3, n)
    kind = rng.integers(0, 10, n)
    ap = average_precision(x, pos_sameby=[kind], pos_diffby=[plate], neg_diffby=[kind])
    found = mean_average_precision(ap, kind, null_size=300)
    assert len(np.unique(np.c_[ap.n_pos, ap.n_neg], axis=0)) > 5
    order = rng.permutation(n)
    moved = AveragePrecision(ap.values[order], ap.n_pos[order], ap.n_neg[order], ap.query[order])
    again = mean_average_precision(moved, 9 - kind[order], null_size=300)
    np.testing.assert_array_equal(again.p, found.p[::-1])
    np.testing.assert_allclose(again.values, found.values[::-1], rtol=1e-12)
    other = mean_average_precision(ap, kind, null_size=300, seed=1)
    assert (other.p != found.p).any()


def test_p_values_of_random_data_are_uniform() -> None:
    rng = np.random.default_rng(11)
    n = 900
    kind = np.arange(n) // 3
    x = rng.normal(size=(n, 20))
    first = np.arange(n) % 3 == 0  # one query a group: rankings of one group are not independent
    ap = average_precision(x, pos_sameby=[kind], neg_diffby=[kind], queries=first)
    found = mean_average_precision(ap, kind[ap.query], null_size=2_000)
    assert len(found.p) == 300
    assert stats.kstest(found.p, "uniform").pvalue > 0.01
    assert found.retrieved == 0
    assert found.values.mean() == pytest.approx(expected_average_precision(2, n - 3), rel=0.4)


def test_p_values_of_groups_are_never_too_small() -> None:
    rng = np.random.default_rng(12)
    n = 900
    kind = np.arange(n) // 3
    ap = average_precision(rng.normal(size=(n, 20)), pos_sameby=[kind], neg_diffby=[kind])
    found = mean_average_precision(ap, kind, null_size=2_000)
    for level in (0.01, 0.05, 0.1):
        assert stats.binomtest(int((found.p <= level).sum()), 300, level, alternative="greater").pvalue > 0.01


def test_groups_with_an_effect_are_retrieved(rng: np.random.Generator) -> None:
    kind = np.arange(100) // 5
    x = rng.normal(size=(100, 10))
    x[kind < 6] += 4 * rng.normal(size=(6, 10))[kind[kind < 6]]
    ap = average_precision(x, pos_sameby=[kind], neg_diffby=[kind])
    found = mean_average_precision(ap, kind, null_size=1_000)
    assert found.significant[:6].all()
    assert 0.3 <= found.retrieved <= 0.45
    strict = mean_average_precision(ap, kind, null_size=1_000, threshold=1e-9)
    assert strict.retrieved == 0
    at_q = mean_average_precision(ap, kind, null_size=1_000, threshold=float(found.q.min()))
    assert at_q.retrieved == 0  # below, not at


def test_adjusting_leaves_out_what_is_no_test() -> None:
    found = adjust(np.array([0.01, np.nan, 0.02, 0.5]))
    np.testing.assert_allclose(found, [0.03, np.nan, 0.03, 0.5])
    assert np.isnan(adjust(np.array([np.nan]))).all()


# ---------------------------------------------------------------- errors


def test_errors_name_what_was_wrong() -> None:
    x, label = at_degrees(0, 10, 20), np.array([0, 0, 1])
    with pytest.raises(ValueError, match="pos_sameby is empty"):
        average_precision(x, pos_sameby=[], neg_diffby=[label])
    with pytest.raises(ValueError, match=r"labels must be \(3,\).*\(2,\)"):
        average_precision(x, pos_sameby=[label], neg_diffby=[label[:2]])
    with pytest.raises(ValueError, match=r"queries must be \(3,\)"):
        average_precision(x, pos_sameby=[label], neg_diffby=[label], queries=np.ones(2, bool))
    with pytest.raises(ValueError, match="rows 0 and 1 are a positive and a negative pair at once"):
        average_precision(x, pos_sameby=[label])
    with pytest.raises(ValueError, match="at once: put a label of pos_sameby into neg_diffby"):
        average_precision(x, pos_sameby=[label], neg_diffby=[np.arange(3)])
    ap = average_precision(x, pos_sameby=[label], neg_diffby=[label])
    with pytest.raises(ValueError, match="one for each query"):
        mean_average_precision(ap, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="null_size must be >= 1"):
        mean_average_precision(ap, label, null_size=0)
    with pytest.raises(ValueError, match="threshold in"):
        mean_average_precision(ap, label, threshold=0)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_rows_without_a_direction_are_named(bad: float) -> None:
    x = np.ones((4, 3))
    x[2] = bad
    with pytest.raises(ValueError, match=r"1 of 4 vectors .* rows \[2\]"):
        unit_rows(x)
    with pytest.raises(ValueError, match=r"must be \(n, d\)"):
        unit_rows(np.ones(3))
