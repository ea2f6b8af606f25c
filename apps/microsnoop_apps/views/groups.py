"""Groups of rows, and the rows nearest to and farthest from the centre of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError
from microsnoop.core.schema import ROW_FIELDS, Key

_MANY = 60  # a column with more values hardly names groups
_OURS = {name for name, _ in ROW_FIELDS} - {"image_id"} | {"uri"}
_CHUNK_ROWS = 8192
_DIGITS = 12  # distances that agree to so many digits are equal: the row that comes first is nearer


@dataclass(frozen=True)
class Groups:
    """Which group each row is in: ``code`` (N,) is a position in ``names``, -1 where a row has none."""

    column: str
    names: list[str]
    code: NDArray[np.int64]

    def sizes(self, kept: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return how many of the ``kept`` rows are in each group."""
        return np.bincount(self.code[kept & (self.code >= 0)], minlength=len(self.names))


@dataclass(frozen=True)
class Pick:
    """One row that was chosen for its group; ``rank`` 1 is the nearest, or the farthest, of all."""

    group: str
    side: str
    rank: int
    distance: float
    row: int


def groups_of(obs: pd.DataFrame, by: str = "") -> Groups:
    """Return the groups that a column of ``obs`` names, in the column's own order; default: Leiden clusters.

    Raises
    ------
    ConfigError
        There is no such column, or it holds measurements; the columns that name groups are listed.
    """
    if not by and Key.LEIDEN not in obs:
        raise ConfigError(
            f"obs has no column {Key.LEIDEN!r}, so --by must say which groups to show",
            hint=f"{_candidates(obs)}; `microsnoop umap DATA --save NEW.h5ad` adds {Key.LEIDEN}",
        )
    by = by or Key.LEIDEN
    if by not in obs:
        raise ConfigError(f"obs has no column {by!r}", hint=_candidates(obs))
    values = obs[by]
    if not _names_groups(values):
        raise ConfigError(
            f"{by!r} holds measurements, not groups ({values.nunique():,} different numbers)",
            hint=f"{_candidates(obs)}; `microsnoop overlay` colours by numbers",
        )
    return group_rows(values)


def group_rows(values: pd.Series[Any]) -> Groups:
    """Return the groups of any column, missing values apart."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        present = values.cat.remove_unused_categories()  # scanpy puts "10" behind "9"
        codes, names = present.cat.codes.to_numpy(), list(present.cat.categories)
        return Groups(str(values.name), [str(name) for name in names], np.asarray(codes, np.int64))
    if values.dtype.kind == "f":  # whole numbers with a gap are floats to pandas
        values = values.astype("Int64")
    codes, found = pd.factorize(values, sort=True, use_na_sentinel=True)
    return Groups(str(values.name), [str(name) for name in found], np.asarray(codes, np.int64))


def has_vector(x: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows of ``x`` (N, D) have a direction: all finite, not all zero."""
    squared = np.einsum("nd,nd->n", x, x, dtype=np.float64)
    there: NDArray[np.bool_] = np.isfinite(squared) & (squared > 0)
    return there


def order_groups(groups: Groups, kept: NDArray[np.bool_], *, asked: Sequence[str], limit: int) -> list[int]:
    """Return the groups to show: those asked for, in this order, else the largest, at most ``limit``.

    Raises
    ------
    ConfigError
        A group that does not exist, or has no row with a vector.
    """
    sizes = groups.sizes(kept)
    strangers = [name for name in asked if name not in groups.names or not sizes[groups.names.index(name)]]
    if strangers:
        there = ", ".join(name for name, n in zip(groups.names, sizes, strict=True) if n)
        raise ConfigError(
            f"{groups.column!r} has no group {', '.join(strangers)}", hint=f"groups with rows: {there}"
        )
    if asked:
        return [groups.names.index(name) for name in dict.fromkeys(asked)]
    largest = np.argsort(-sizes, kind="stable")[:limit]
    return [int(group) for group in largest if sizes[group]]


def pick_rows(
    x: NDArray[Any], rows: NDArray[np.int64], *, nearest: int, farthest: int
) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Return (row, distance) of the rows nearest to and farthest from the centre of ``rows``, most extreme first.

    The centre is the mean of their unit vectors, the distance is cosine: 1 - cos, 0 to 2. No row is chosen twice; in
    a small group the nearest go first.

    Raises
    ------
    ValueError
        The unit vectors add up to nothing, so there is no centre.
    """
    chunks = np.array_split(rows, math.ceil(len(rows) / _CHUNK_ROWS))
    centre = np.sum([_unit(x[chunk]).sum(axis=0) for chunk in chunks], axis=0) / len(rows)
    length = float(np.linalg.norm(centre))
    if length < 10.0**-_DIGITS:
        raise ValueError("the unit vectors add up to nothing")
    near = np.concatenate([_unit(x[chunk]) @ (centre / length) for chunk in chunks])
    distance = np.round(1 - near, _DIGITS) + 0.0  # no -0.0
    order = np.argsort(distance, kind="stable")
    first = order[:nearest]
    last = order[max(len(first), len(order) - farthest) :][::-1]
    return tuple([(int(rows[i]), float(distance[i])) for i in part] for part in (first, last))  # type: ignore[return-value]


def _unit(x: NDArray[Any]) -> NDArray[np.float64]:
    x = x.astype(np.float64)
    unit: NDArray[np.float64] = x / np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    return unit


def _names_groups(values: pd.Series[Any]) -> bool:
    if not pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_bool_dtype(values.dtype):
        return True
    known = values.dropna().to_numpy(float)
    return bool((known == np.round(known)).all()) and len(np.unique(known)) <= _MANY


def _candidates(obs: pd.DataFrame) -> str:
    names = [
        str(name)
        for name in obs.columns
        if name not in _OURS and _names_groups(obs[name]) and 2 <= obs[name].nunique() <= _MANY
    ]
    return f"columns that name groups: {', '.join(names)}" if names else "no column of obs names groups"
