"""Profiles of rows to profiles of sites, wells and treatments: by key, counts kept, nothing lost.

Source: batch spec, section 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.ordering import natural
from microsnoop.io.profile_table import ProfileTable
from microsnoop.ops.aggregate import REDUCERS, reduce_groups

KEYS = {
    "site": ("plate", "well", "site"),
    "well": ("plate", "well"),
    "treatment": ("treatment",),
}
# what a group says of the units it is made of: how many different ones, and which
_UNITS = {"well": "wells", "plate": "plates", "batch": "batches"}
_SUMMED = ("n_rows", "n_cells")
_LISTED = ("plates", "batches")
WEIGHTED = "cell_weighted"


def aggregate(table: ProfileTable, level: str, *, statistic: str = "mean", min_rows: int = 1) -> ProfileTable:
    """Make one row of every site, well or treatment.

    Parameters
    ----------
    table
        Rows with the columns of ``KEYS[level]`` in ``obs``.
    level
        ``site``, ``well`` or ``treatment``.
    statistic
        ``mean``, ``median``, ``trimmed``, ``modz``, or ``cell_weighted``: the mean over cells, each row weighted by its
        ``n_cells``.
    min_rows
        Groups of fewer rows become rejects ``too_few_members``.

    Returns
    -------
    Rows in the natural order of their keys, whatever the order of the input; ``obs`` has every column that is the same
    all over its group, ``n_rows`` (rows of the table that was first aggregated), ``n_cells`` (summed where it was
    there), at level ``treatment`` also ``n_wells``, ``n_plates``, ``n_batches``, ``plates`` and ``batches`` (names,
    joined by ``;``). Rows without a key are rejects ``no_group_key``; rejects of ``table`` are kept.

    Raises
    ------
    InputError
        A column of the key is not there at all, or cells are to be weighted that nobody counted.
    ValueError
        An unknown level or statistic.
    """
    if level not in KEYS or statistic not in (*REDUCERS, WEIGHTED) or statistic == "mean_std":
        raise ValueError(f"cannot aggregate to {level!r} by {statistic!r}")
    keys = list(KEYS[level])
    missing = [name for name in keys if name not in table.obs]
    if missing:
        raise InputError(
            f"{table.source}: profiles cannot be aggregated to the level {level!r} without {', '.join(missing)}",
            hint="name the column under input.columns, or give a plate map",
        )
    keyed = table.obs[keys].notna().all(axis=1).to_numpy()
    rejects = [_rejects(table.obs.index[~keyed], "no_group_key", f"{' or '.join(keys)} is empty")]
    names, codes = _codes(table.obs.loc[keyed, keys])
    counts = np.bincount(codes, minlength=len(names))
    enough = counts >= min_rows
    few = [f"{names[g]} has {counts[g]} row(s), needed are {min_rows}" for g in np.flatnonzero(~enough)]
    rejects.append(_rejects([names[g] for g in np.flatnonzero(~enough)], "too_few_members", few))
    if statistic == WEIGHTED:
        x = _weighted(table, keyed, codes, len(names))
    else:
        x = reduce_groups([(codes, table.x[keyed])], counts, width=table.x.shape[1], how=statistic)[:, 0]
    obs = _describe(table.obs[keyed], codes, names, level=level)
    return replace(
        table,
        x=np.ascontiguousarray(x[enough]),
        obs=obs[enough],
        rejects=pd.concat([table.rejects, *rejects], ignore_index=True),
    )


def _weighted(
    table: ProfileTable, keyed: NDArray[np.bool_], codes: NDArray[np.int64], n: int
) -> NDArray[np.float32]:
    """Return the mean of each group, rows weighted by their number of cells, (n, d)."""
    weights = table.obs["n_cells"].to_numpy(np.float64)[keyed] if "n_cells" in table.obs else np.zeros(0)
    if len(weights) != len(codes) or not (weights > 0).all():
        raise InputError(
            f"{table.source}: `{WEIGHTED}` needs n_cells above 0 in every row",
            hint="name the column under input.columns, or use `mean`",
        )
    sums = np.zeros((n, table.x.shape[1]))
    np.add.at(sums, codes, table.x[keyed] * weights[:, None])
    return np.asarray(sums / np.bincount(codes, weights, minlength=n)[:, None], np.float32)


def _codes(keys: pd.DataFrame) -> tuple[list[str], NDArray[np.int64]]:
    """Return the names of the groups in natural order, and the group of each row."""
    joined = keys.astype(str).agg("/".join, axis=1) if keys.shape[1] > 1 else keys.iloc[:, 0].astype(str)
    names = sorted(set(joined), key=natural)
    place = {name: g for g, name in enumerate(names)}
    return names, joined.map(place).to_numpy(np.int64)


def _describe(
    obs: pd.DataFrame, codes: NDArray[np.int64], names: Sequence[str], *, level: str
) -> pd.DataFrame:
    """Return what is known of each group: columns that are the same all over it, counts, and units."""
    of = obs.groupby(codes, sort=True)
    columns: dict[str, Any] = {}
    for name in obs.columns:
        if name in _SUMMED or name in _LISTED:
            continue
        if (of[name].nunique(dropna=False) <= 1).all():
            columns[name] = of[name].first().array
    columns["n_rows"] = (of["n_rows"].sum() if "n_rows" in obs else of.size()).to_numpy()
    if "n_cells" in obs:
        columns["n_cells"] = of["n_cells"].sum(min_count=1).to_numpy()
    if level == "treatment":
        columns |= _units(obs, codes)
    return pd.DataFrame(columns, index=pd.Index(names, name=obs.index.name))


def _units(obs: pd.DataFrame, codes: NDArray[np.int64]) -> dict[str, Any]:
    """Return how many wells, plates and batches each group comes from, and the names of plates and batches."""
    found: dict[str, Any] = {}
    for name, plural in _UNITS.items():
        if name not in obs or (name == "well" and "plate" not in obs):
            continue
        values = (
            obs["plate"].astype(str) + "/" + obs["well"].astype(str)
            if name == "well"
            else obs[name].astype(str)
        )
        sets = [sorted(set(group), key=natural) for _, group in values.groupby(codes, sort=True)]
        found[f"n_{plural}"] = np.array([len(one) for one in sets])
        if plural in _LISTED:
            found[plural] = [";".join(one) for one in sets]
    return found


def _rejects(ids: Iterable[Any], code: str, messages: str | Sequence[str]) -> pd.DataFrame:
    ids = [str(one) for one in ids]
    texts = [messages] * len(ids) if isinstance(messages, str) else list(messages)
    return pd.DataFrame({"obs_id": ids, "code": [code] * len(ids), "message": texts}, dtype=object)
