"""Tables of profiles: one row a well (or image, cell, treatment), features in a matrix, the rest beside it.

Every row that comes in is a row of the result or of its rejects. Nothing is filled in: a feature that is missing in
many rows is left out of all and named, a row with a number that is not finite is rejected.

Source: batch spec, sections 1 and 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.plate import row_ids, treatment_name, well_names
from microsnoop.io.plate_map import clean_metadata, read_source, to_frame
from microsnoop.io.profile_columns import assign_columns, find_features, is_metadata, shorten

# what a row of each level must have
LEVELS = {**dict.fromkeys(("cell", "image", "well"), ("plate", "well")), "treatment": ("compound",)}
MAX_MISSING = 0.05  # a feature missing in a larger share of the rows is left out
REJECT_COLUMNS = ("obs_id", "code", "message")
_NO_NUMBER = frozenset({"na", "n/a", "null", "none", "#n/a", "#div/0!"})  # nan and inf are numbers to Arrow
# leading zeros, or more digits than a float64 holds: names, not numbers
_DIGITS_OF_A_NAME = r"^[+-]?(0[0-9]+|[0-9]{16,})$"


@dataclass(frozen=True)
class ProfileTable:
    """Profiles and what is known of each.

    Attributes
    ----------
    x
        float32 (n, d), finite.
    obs
        n rows, index ``obs_id`` (unique text); our column names where known (``profile_columns.ALIASES``).
    features
        d different names.
    rejects
        ``obs_id``, ``code`` (``not_finite``, ``no_key``), ``message``: rows that came in and are not in ``x``.
    source, notes
        Where the table came from; what a reader should know: features left out, cells taken as empty, ...
    """

    x: NDArray[np.float32]
    obs: pd.DataFrame
    features: tuple[str, ...]
    rejects: pd.DataFrame
    source: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        got, needed = f"{self.x.dtype} {self.x.shape}", f"float32 {(len(self.obs), len(self.features))}"
        if got != needed:
            raise ValueError(f"x must be {needed} (rows of obs, features), got {got}")
        if len(set(self.features)) < len(self.features):
            raise ValueError("every feature needs a name of its own")
        if not self.obs.index.is_unique or not all(isinstance(name, str) for name in self.obs.index):
            raise ValueError("the index of obs must be unique text")
        if tuple(self.rejects.columns) != REJECT_COLUMNS:
            raise ValueError(f"rejects need the columns {', '.join(REJECT_COLUMNS)}")
        if not np.isfinite(self.x).all():
            raise ValueError("profiles must be finite: reject rows with other numbers first")

    @property
    def n_in(self) -> int:
        """Rows that came in: those here and the rejected ones."""
        return len(self.obs) + len(self.rejects)

    def obs_columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of ``obs`` and ``obs_id`` as arrays, as corrections take them."""
        columns = {name: self.obs[name].to_numpy() for name in self.obs.columns}
        return {**columns, "obs_id": self.obs.index.to_numpy()}

    def take(self, rows: ArrayLike) -> ProfileTable:
        """Return some rows, by a mask (n,) or by positions; the rejects stay as they are."""
        index = np.asarray(rows)
        if index.dtype == bool and index.shape != (len(self.obs),):
            raise ValueError(f"a mask of {len(self.obs)} rows is needed, got shape {index.shape}")
        positions = index if index.dtype == bool else index.astype(np.int64)  # [] comes as floats
        return replace(self, x=self.x[positions], obs=self.obs.iloc[positions])

    def with_x(self, x: NDArray[Any], features: Sequence[str]) -> ProfileTable:
        """Return the same rows with other profiles, (n, len(features))."""
        return replace(self, x=np.asarray(x, np.float32), features=tuple(features))


def read_profiles(
    uri: str,
    *,
    columns: Mapping[str, str] | None = None,
    features: Sequence[str] | None = None,
    level: str = "image",
) -> ProfileTable:
    """Read a table of profiles; key columns stay text, wells become ``A01``.

    Parameters
    ----------
    uri
        CSV, TSV (also ``.gz``), Parquet, or a folder of Parquet parts.
    columns
        Our name: the name of the column there; wins over what is found by name (``profile_columns``).
    features
        Names of the feature columns, or how they begin; found by ``profile_columns.find_features`` if not given.
    level
        What a row is: ``cell``, ``image``, ``well`` or ``treatment``.

    Raises
    ------
    InputError
        Not readable, no features, a column that is missing or could be one of several, ids given twice, or no
        row left.
    """
    needed, raw = _needed(level), read_source(uri)
    keys, notes = assign_columns(raw.column_names, columns, where=uri, needed=needed, table=raw)
    data = {name: raw[name] for name in raw.column_names}
    kinds = {}
    for name, column in data.items():
        data[name], kinds[name] = _typed(column, is_key=name in keys.values(), is_meta=is_metadata(name))
    found = find_features(kinds, taken=list(keys.values()), features=features, where=uri)
    if found.vector is not None:
        x = _vectors(data[found.vector], f"{uri}: {found.vector}")
        names = [f"e{j:04d}" for j in range(x.shape[1])]
    else:
        columns_of_x = [data[name].cast(pa.float64(), safe=False) for name in found.names]
        x = np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns_of_x])
        names = list(found.names)
    rest = [name for name in data if name not in {*found.names, found.vector, *found.unused}]
    nested = [name for name in rest if kinds[name] in ("vector", "other")]
    if nested:
        notes += (f"{len(nested)} column(s) of lists are not kept: {shorten(nested)}",)
    frame = to_frame(pa.table(data), [name for name in rest if name not in nested])
    return _build(x, names, frame, keys, uri=uri, level=level, notes=(*notes, *found.notes))


def from_arrays(
    x: NDArray[Any],
    obs: pd.DataFrame,
    features: Sequence[str],
    *,
    source: str,
    columns: Mapping[str, str] | None = None,
    level: str = "image",
) -> ProfileTable:
    """Make a table of a matrix (n, d) and a DataFrame of n rows with any column names; cleaned as when read.

    An index of text in ``obs`` gives the ids, unless it has an ``obs_id``. Nothing given is changed.

    Raises
    ------
    ValueError
        Shapes that do not fit.
    InputError
        See :func:`read_profiles`.
    """
    values, needed = np.asarray(x), (len(obs), len(features))
    if values.shape != needed:
        raise ValueError(f"x must be {needed} (rows of obs, features), got {values.shape}")
    obs = obs.rename(columns=str)
    if twice := obs.columns[obs.columns.duplicated()].tolist():
        raise InputError(f"{source} has columns of the same name: {shorten(twice)}")
    names = obs.columns.tolist()
    keys, notes = assign_columns(names, columns, where=source, needed=_needed(level), table=obs)
    if "obs_id" not in keys and all(isinstance(name, str) for name in obs.index):
        obs, keys = obs.assign(obs_id=obs.index), {**keys, "obs_id": "obs_id"}
    frame = obs.reset_index(drop=True)
    return _build(values, features, frame, keys, uri=source, level=level, notes=notes)


def _build(
    x: NDArray[Any], features: Sequence[str], frame: pd.DataFrame, keys: Mapping[str, str],
    *, uri: str, level: str, notes: tuple[str, ...],
) -> ProfileTable:  # fmt: skip
    """Clean: features that many rows lack go first, then rows without a key or with numbers that are not finite."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and rejected as that
        x, names = np.array(x, np.float32), np.array(features, object)
    obs, more = clean_metadata(frame, keys, where=uri)
    reasons = _unkeyed(obs, LEVELS[level])
    ids = _ids(obs, reasons, uri)
    some = ~np.isnan(x).all(axis=1)  # a row without any number says nothing about a feature
    gone = np.isnan(x[some]).sum(axis=0) > MAX_MISSING * some.sum()
    if gone.all():
        raise InputError(f"{uri}: every feature is missing in more than {MAX_MISSING:.0%} of the rows")
    if gone.any():
        what = f"feature(s) missing in more than {MAX_MISSING:.0%} of the rows are left out"
        more += (f"{gone.sum()} {what}: {', '.join(names[gone])}",)
        x, names = x[:, ~gone], names[~gone]
    bad = ~np.isfinite(x)
    for row in np.flatnonzero(bad.any(axis=1)).tolist():
        odd = names[bad[row]].tolist()
        what = f"{len(odd)} of {len(names)} features are not finite: {shorten(odd, 3)}"
        reasons.setdefault(row, ("not_finite", what))
    keep = np.ones(len(obs), bool)
    keep[list(reasons)] = False
    if not keep.any():
        raise InputError(f"{uri}: no row can be used; the first: {reasons[0][1]}")
    rejects = [(ids[row], *reasons[row]) for row in sorted(reasons)]
    obs = obs.drop(columns="obs_id", errors="ignore").set_axis(pd.Index(ids, dtype=object, name="obs_id"))
    return ProfileTable(
        x=x[keep],
        obs=obs[keep],
        features=tuple(names.tolist()),
        rejects=pd.DataFrame(rejects, columns=list(REJECT_COLUMNS), dtype=object),
        source=uri,
        notes=(*notes, *more),
    )


def _unkeyed(obs: pd.DataFrame, needed: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Give wells their normal names; return which rows cannot be placed, and why."""
    reasons: dict[int, tuple[str, str]] = {}
    for name in needed:
        for row in np.flatnonzero(obs[name].isna()).tolist():
            reasons.setdefault(row, ("no_key", f"the row has no {name}"))
    if "well" in obs:
        names = well_names(obs["well"].dropna())
        for row, well in enumerate(obs["well"]):
            if well is not None and names[well] is None:
                reasons[row] = ("no_key", f"{well!r} is not the name of a well")
        obs["well"] = obs["well"].map(names, na_action="ignore")
    return reasons


def _ids(obs: pd.DataFrame, reasons: dict[int, tuple[str, str]], source: str) -> list[str]:
    """Return an id a row: as given, else of its key, with the number of the row (from 1) where that is not one."""
    if "obs_id" in obs:
        given = obs["obs_id"]
        if twice := given[given.duplicated() & given.notna()].unique().tolist():
            raise InputError(f"{source}: {len(twice)} obs_id stand in several rows: {shorten(twice)}")
        for row in np.flatnonzero(given.isna()).tolist():
            reasons.setdefault(row, ("no_key", "the row has no obs_id"))
        return [f"row{row + 1}" if name is None else str(name) for row, name in enumerate(given)]
    if "plate" in obs and "well" in obs:
        parts = [obs[name] for name in ("plate", "well", "site") if name in obs]
        ids = ["/".join(str(p) for p in row if p is not None) for row in zip(*parts, strict=True)]
    else:
        treated = ("compound", "concentration", "concentration_unit")
        columns = [obs.get(name, [None] * len(obs)) for name in treated]
        ids = [treatment_name(str(a), b, c) for a, b, c in zip(*columns, strict=True)]
    return row_ids(ids, reasons)


def _needed(level: str) -> tuple[str, ...]:
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
    return LEVELS[level]


def _typed(column: pa.ChunkedArray, *, is_key: bool, is_meta: bool) -> tuple[pa.ChunkedArray, str]:
    """Return a column and what it holds: ``number``, ``vector``, ``text`` (any single value) or ``other``."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, types = column.type, pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return column, "vector" if types.is_floating(kind.value_type) else "other"
    if types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return column, "other"
    if is_key or not (types.is_string(kind) or types.is_large_string(kind)):
        number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
        return column, "number" if number or (types.is_null(kind) and not is_meta) else "text"
    numbers = _parse(column)
    empty = numbers is not None and numbers.null_count == len(numbers)
    return (column, "text") if numbers is None or (empty and is_meta) else (numbers, "number")


def _parse(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return text as numbers if every cell is one, or empty, or a word for nothing."""
    no_number = pc.is_in(pc.utf8_lower(column), pa.array(sorted(_NO_NUMBER), pa.string()))
    column = pc.if_else(no_number, None, column)
    if pc.any(pc.match_substring_regex(column, _DIGITS_OF_A_NAME)).as_py():
        return None
    for dtype in (pa.int64(), pa.float64()):
        try:
            return column.cast(dtype)
        except pa.ArrowInvalid:
            continue
    return None


def _vectors(column: pa.ChunkedArray, where: str) -> NDArray[np.float32]:
    """Return a column of lists of one length as (n, d) float32; a row without a list is all NaN."""
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(lengths) != 1 or lengths[0] == 0:
        raise InputError(f"{where}: all vectors must be of one length, found {shorten(lengths) or 'none'}")
    x = np.full((len(column), lengths[0]), np.nan, np.float32)
    start = 0
    for chunk in column.chunks:
        flat = pc.list_flatten(chunk).cast(pa.float32()).to_numpy(zero_copy_only=False)
        there = np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))
        x[start + there] = flat.reshape(-1, lengths[0])
        start += len(chunk)
    return x
