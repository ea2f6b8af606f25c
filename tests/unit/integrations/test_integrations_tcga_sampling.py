"""How often slides are drawn: the known value, frequencies, strata, and what cannot be balanced."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.sampling import Stratifier, count_missing, draw, sampling_weights

COUNTS = {("0", "0"): 30, ("0", "1"): 10, ("1", "0"): 5, ("1", "1"): 15}
PAIRS = [pair for pair, n in COUNTS.items() for _ in range(n)]
STRATA, TARGETS = [b for b, _ in PAIRS], [t for _, t in PAIRS]


def test_the_known_value() -> None:
    weights = sampling_weights(STRATA, TARGETS)
    by_pair = dict(zip(PAIRS, weights.values.tolist(), strict=True))
    assert by_pair == pytest.approx({("0", "0"): 4 / 3, ("0", "1"): 4, ("1", "0"): 4, ("1", "1"): 4 / 3})
    share = Counter[tuple[str, str]]()
    for pair, p in zip(PAIRS, weights.probabilities, strict=True):
        share[pair] += p
    assert list(share.values()) == pytest.approx([1 / 3, 1 / 3, 1 / 6, 1 / 6])
    assert weights.unbalanced_strata == ()


def test_frequencies_over_many_draws() -> None:
    drawn = draw(sampling_weights(STRATA, TARGETS), 100_000, rng=np.random.default_rng(0))
    found = Counter(PAIRS[i] for i in drawn)
    for pair, wanted in zip(COUNTS, (1 / 3, 1 / 3, 1 / 6, 1 / 6), strict=True):
        assert found[pair] / 100_000 == pytest.approx(wanted, abs=0.01)
    assert drawn.dtype == np.int64
    again = draw(sampling_weights(STRATA, TARGETS), 100_000, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(drawn, again)


def test_inverse_and_none() -> None:
    inverse = sampling_weights(STRATA, TARGETS, method="inverse")
    total = Counter[tuple[str, str]]()
    for pair, w in zip(PAIRS, inverse.values, strict=True):
        total[pair] += w
    assert list(total.values()) == pytest.approx([1, 1, 1, 1])
    assert set(sampling_weights(STRATA, TARGETS, method="none").values) == {1}


def test_without_confounders_classes_are_balanced() -> None:
    weights = sampling_weights([""] * 10, ["a"] * 8 + ["b"] * 2)
    assert weights.values.tolist() == [10 / 8] * 8 + [5] * 2
    three = sampling_weights([""] * 9, ["a"] * 6 + ["b"] * 2 + ["c"]).probabilities
    assert [three[:6].sum(), three[6:8].sum(), three[8:].sum()] == pytest.approx([1 / 3] * 3)


def test_strata_of_one_target_keep_their_weight_and_are_listed() -> None:
    weights = sampling_weights(["a"] * 4 + ["b"] * 3, ["y", "y", "y", "n", "y", "y", "y"])
    assert weights.values.tolist() == [4 / 3] * 3 + [4] + [1] * 3
    assert weights.unbalanced_strata == ("b",)
    # half of the slides is allowed, more is not
    assert sampling_weights(list("aabb"), list("ynyy")).unbalanced_strata == ("b",)
    for method in ("none", "inverse"):
        assert len(sampling_weights(list("aabbb"), list("ynyyy"), method=method).values) == 5
    with pytest.raises(InputError, match=r"unbalanced_stratum: 3 of 5 slides .*\(b\)"):
        sampling_weights(list("aabbb"), list("ynyyy"))


def test_weights_are_carried_to_slides_of_the_same_kind() -> None:
    weights = sampling_weights(STRATA, TARGETS)
    found = weights.of(["0", "0", "1", "2"], ["0", "1", "1", "0"])
    assert found.tolist() == pytest.approx([4 / 3, 4, 4 / 3, 1])
    assert sampling_weights(STRATA, TARGETS, method="none").of(["0"], ["1"]).tolist() == [1]
    assert sampling_weights(STRATA, TARGETS, method="inverse").of(["0"], ["1"]).tolist() == [0.1]
    assert sampling_weights(list("aabb"), list("ynyy")).of(["b"], ["y"]).tolist() == [1]


def test_two_targets_of_one_count_are_not_taken_for_one() -> None:
    assert sampling_weights(list("aabbbb"), list("ynyynn")).unbalanced_strata == ()


def test_strata_join_levels_and_keep_the_unknown() -> None:
    columns = {"scanner": ["A", None, "B", ""], "site": ["x", "y", float("nan"), "x"]}
    found = Stratifier.fit(columns).strata(columns, 4)
    assert found.tolist() == ["A | x", "na | y", "B | na", "na | x"]
    assert count_missing(columns) == {"scanner": 2, "site": 1}
    assert Stratifier.fit({}).strata({}, 3).tolist() == ["", "", ""]
    assert count_missing({"a": ["x"]}) == {}


def test_continuous_confounders_are_cut_at_quartiles_of_the_training_part() -> None:
    train = {"age": [str(a) for a in range(1, 102)]}
    fitted = Stratifier.fit(train, continuous=["age"])
    edges = fitted.edges["age"]
    assert edges is not None
    assert edges.tolist() == [26, 51, 76]
    levels = fitted.strata({"age": ["-5", "26", "26.5", "51", "76", "77", "1e9", None]}, 8)
    assert levels.tolist() == ["q1", "q1", "q2", "q2", "q3", "q4", "q4", "na"]
    assert Stratifier.fit(train).strata({"age": ["7"]}, 1).tolist() == ["7"]
    same = Stratifier.fit({"age": ["1", "1", "1", "9"]}, continuous=["age"])
    assert set(same.strata({"age": ["1", "9"]}, 2)) <= {"q1", "q2", "q3"}
    with pytest.raises(InputError, match="'age' must hold numbers"):
        Stratifier.fit({"age": ["1", "old"]}, continuous=["age"])
    with pytest.raises(InputError, match="holds no numbers"):
        Stratifier.fit({"age": [None, ""]}, continuous=["age"])
