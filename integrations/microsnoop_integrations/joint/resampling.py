"""Bootstrap draws over cells, or over whole groups of cells: tables of labels and means of values.

Source: multimodal spec, section 8, "intervals". Memory holds some draws at a time, whatever their number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.intervals import Interval

_DRAWN_AT_ONCE = 2**22  # numbers


def group_codes(groups: NDArray[Any] | None, n: int) -> NDArray[np.int64] | None:
    """Return codes 0..G-1 of the groups of ``n`` cells; None where there are none, or one, which tells nothing.

    Raises
    ------
    ValueError
        Not one group a cell.
    """
    if groups is None:
        return None
    if groups.shape != (n,):
        raise ValueError(f"groups must be one for each of {n} cells, got shape {groups.shape}")
    names, codes = np.unique(groups, return_inverse=True)
    return np.asarray(codes, np.int64) if len(names) > 1 else None


def draw_tables(
    outcome: NDArray[np.int64], unit: NDArray[np.int64] | None, *, draws: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield how often each outcome occurs in bootstrap samples, int64 (some draws, outcomes).

    Parameters
    ----------
    outcome
        Codes 0..O-1 of the cells, int64 (n,).
    unit
        What ``group_codes`` gave: groups are drawn whole. None: cells are drawn.
    """
    _check_draws(draws)
    n_outcomes = int(outcome.max()) + 1
    if unit is None:  # cells of one outcome are interchangeable
        counts = np.bincount(outcome)
        step = max(1, _DRAWN_AT_ONCE // n_outcomes)
        for start in range(0, draws, step):
            yield rng.multinomial(len(outcome), counts / len(outcome), min(step, draws - start))
        return
    tables = np.zeros((int(unit.max()) + 1, n_outcomes), np.int64)
    np.add.at(tables, (unit, outcome), 1)
    step = max(1, _DRAWN_AT_ONCE // max(tables.shape))
    for start in range(0, draws, step):
        yield _draw_units(len(tables), min(step, draws - start), rng) @ tables


def draw_means(
    values: NDArray[np.float64], unit: NDArray[np.int64] | None, *, draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean over cells of ``values`` (n,) in bootstrap samples, float64 (draws,); ``unit`` as above."""
    _check_draws(draws)
    if unit is None:
        unit = np.arange(len(values))
    sums, sizes = np.bincount(unit, weights=values), np.bincount(unit)
    found = np.empty(draws)
    step = max(1, _DRAWN_AT_ONCE // len(sums))
    for start in range(0, draws, step):
        chosen = rng.integers(len(sums), size=(min(step, draws - start), len(sums)))
        found[start : start + step] = sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1)
    return found


def percentile_interval(drawn: NDArray[np.float64], unit: NDArray[np.int64] | None) -> Interval:
    """Return the middle 95 % of the draws; not a number where there are none."""
    method = "bootstrap-rows" if unit is None else "bootstrap-groups"
    if not len(drawn):
        return Interval(np.nan, np.nan, method)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(low), float(high), method)


def _draw_units(n: int, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.multinomial(n, np.full(n, 1 / n), draws)


def _check_draws(draws: int) -> None:
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
