"""Kneedle: the known knee, curves without one, and a twin that walks the curve point by point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microsnoop.ops.knee import difference_curve, find_knee

KNOWN = np.array((10, 5, 2.5, 1.2, 0.6, 0.3, 0.2, 0.1, 0.06, 0.04))
PROPERTY = settings(deadline=None, derandomize=True, max_examples=200)


def twin(values: list[float], sensitivity: float) -> int | None:
    d, low, high = len(values), min(values), max(values)
    if d < 3 or high == low:
        return None
    curve = [1 - (v - low) / (high - low) - j / (d - 1) for j, v in enumerate(values)]
    maxima = [
        j for j in range(1, d - 1) if curve[j] > curve[j - 1] + 1e-12 and curve[j] > curve[j + 1] + 1e-12
    ]
    for m in maxima:
        threshold = curve[m] - sensitivity / (d - 1)
        for j in range(m + 1, d):
            if j in maxima:
                break
            if curve[j] < threshold - 1e-12:
                return m
    return None


def test_known_value() -> None:
    values = KNOWN.copy()
    values.flags.writeable = False
    assert find_knee(values) == 3
    assert difference_curve(values)[3] == pytest.approx(0.550, abs=5e-4)
    assert values[3] / 10 == pytest.approx(0.12)


@pytest.mark.parametrize(
    "values",
    [
        np.ones(9),
        1 + 1e-16 * np.arange(9)[::-1],
        np.linspace(5, 1, 40),
        np.linspace(1e-3, 0, 7),
        [2.0, 1.0],
        [3.0],
        [],
    ],
    ids=["constant", "rounding", "line", "line to 0", "d = 2", "d = 1", "d = 0"],
)
def test_no_knee(values) -> None:
    assert find_knee(np.asarray(values, float)) is None


def test_a_concave_curve_has_none() -> None:
    assert find_knee(np.sqrt(np.linspace(1, 0, 30))) is None


def test_the_ends_are_no_candidates() -> None:
    """The first points fall slower than the line: the knee is where the curve bends, not at 0."""
    assert find_knee(np.array([10, 9.9, 9.8, 1, 0.9, 0.8, 0.7, 0.6, 0.5])) == 3


def test_a_maximum_that_is_not_followed_by_a_fall_is_passed_over() -> None:
    # D rises to j = 2, dips by less than one step at 3, rises higher at 4: the first is not confirmed
    values = np.array([10, 7, 4.0, 3.3, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    curve = difference_curve(values)
    assert curve[2] > curve[3]
    assert curve[4] > curve[2] > curve[4] - 0.4
    assert find_knee(values) == 4
    assert find_knee(values, sensitivity=0.1) == 2


def test_of_a_flat_top_the_first_counts() -> None:
    # the steps from 1 to 3 are as steep as the line from first to last
    line = np.array([12.0, 4, 3, 2, 1.5, 0])
    line[1:4] = 12 - np.array([1, 2, 3]) * 12 / 5 - 3
    curve = difference_curve(line)
    np.testing.assert_allclose(curve[1:4], curve[1], atol=1e-12)
    assert find_knee(line) == 1


def test_sensitivity_asks_for_a_longer_fall() -> None:
    assert find_knee(KNOWN, sensitivity=4.9) == 3
    assert find_knee(KNOWN, sensitivity=5.1) is None  # D falls by 0.55, a step is 1/9


@PROPERTY
@given(
    values=st.lists(st.floats(0, 1e3).map(lambda v: round(v, 3)), min_size=3, max_size=30),
    sensitivity=st.sampled_from([0.2, 1.0, 3.0]),
)
def test_twin(values: list[float], sensitivity: float) -> None:
    falling = sorted(values, reverse=True)
    steps = np.diff(difference_curve(np.array(falling))) if falling[0] > falling[-1] else np.ones(1)
    if (np.abs(steps) < 1e-9).any():
        return  # flat tops have a test of their own
    assert find_knee(np.array(falling), sensitivity=sensitivity) == twin(falling, sensitivity)


@PROPERTY
@given(scale=st.floats(1e-6, 1e6), shift=st.floats(0, 100))
def test_scale_and_shift_change_nothing(scale: float, shift: float) -> None:
    assert find_knee(KNOWN * scale + shift * scale) == 3


@pytest.mark.parametrize("values", [[1.0, 2, 3], [2.0, np.nan, 1], [[3.0, 2, 1]], [np.inf, 1, 0]])
def test_what_is_refused(values) -> None:
    with pytest.raises(ValueError, match="never rise"):
        find_knee(np.asarray(values, float))
    for sensitivity in (0, -1, np.nan):
        with pytest.raises(ValueError, match="sensitivity"):
            find_knee(KNOWN, sensitivity=sensitivity)
