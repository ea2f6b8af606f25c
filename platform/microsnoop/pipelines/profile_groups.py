"""Which row belongs to which well and treatment; wells reduced while their rows stream by, treatments after them.

Only keys are held for all rows. Vectors are held for wells that have begun and not ended: rows that lie together by
well need next to nothing. Sums are float64, rounded to float32 once a level, and treatments are made of wells as they
are written: however rows are cut into blocks, results differ by the rounding of float64 at most.

Source: batch spec, section 8 (streaming).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microsnoop.core.errors import InputError, RunError
from microsnoop.core.ordering import natural
from microsnoop.correction.rows import named
from microsnoop.ops.aggregate import chunk_groups, reduce_groups, reduce_rows

CARRIED = (
    "batch", "plate", "well", "week", "compound", "concentration", "concentration_unit", "treatment", "moa",
    "control_type", "is_control", "cell_line",
)  # fmt: skip
Whole = tuple[int, int, NDArray[np.float32]]  # well, rows, profile (d,)
Piece = tuple[int, int, int, NDArray[Any]]  # well, rows, rejected rows, data of `reduce_block`


@dataclass(frozen=True)
class GroupIndex:
    """The wells (W) and treatments (T) of N rows, each in the natural order of their names.

    The frames have these names as index, and the columns that are the same all over every group. ``well_of`` (N,) is
    -1 where a row lacks a part of its key; ``treatment_of`` and ``n_rows`` (W,).
    """

    wells: pd.DataFrame
    treatments: pd.DataFrame
    well_of: NDArray[np.int32]
    treatment_of: NDArray[np.int32]
    n_rows: NDArray[np.int64]


def index_groups(keys: pd.DataFrame, *, well: Sequence[str]) -> GroupIndex:
    """Find wells (by the columns ``well`` together) and treatments of all rows.

    Parameters
    ----------
    keys
        (N, ..) ``well``, ``treatment`` and others of ``CARRIED``; empty is None or NaN.

    Raises
    ------
    InputError
        A column is not there, no row has a key, or rows of one well are of several treatments or batches.
    """
    needed = [*well, "treatment"]
    if absent := [name for name in needed if name not in keys]:
        raise InputError(
            f"rows cannot be grouped without {', '.join(absent)}; there are {', '.join(keys.columns) or 'none'}",
            hint="add these columns to the parts, or name wells by other columns with well_key",
        )
    keyed = keys[needed].notna().all(axis=1).to_numpy()
    if not keyed.any():
        raise InputError(f"no row has all of {', '.join(needed)}", hint="check the plate map")
    rows = keys[keyed]
    number = rows.groupby(list(well), observed=True, sort=False).ngroup().to_numpy()
    wells, of_row = _named(rows, number, well, strict=("batch", "treatment"))
    treatments, treatment_of = _named(wells, pd.factorize(wells["treatment"])[0], ["treatment"], strict=())
    well_of = np.full(len(keys), -1, np.int32)
    well_of[keyed] = of_row
    return GroupIndex(wells, treatments, well_of, treatment_of, np.bincount(of_row, minlength=len(wells)))


def _named(
    rows: pd.DataFrame, groups: NDArray[Any], key: Sequence[str], *, strict: Sequence[str]
) -> tuple[pd.DataFrame, NDArray[np.int32]]:
    """Return groups by natural order of their names, with what is constant in them, and the group of each row."""
    heads = rows.iloc[np.unique(groups, return_index=True)[1]]
    parts = [heads[name].astype(str) for name in key]
    names: list[str] = functools.reduce(lambda a, b: a.str.cat(b, sep="/"), parts).tolist()
    order = sorted(range(len(names)), key=lambda g: natural(names[g]))
    columns: dict[str, Any] = {}
    for name in dict.fromkeys((*key, *(name for name in CARRIED if name in rows))):
        codes = pd.factorize(rows[name])[0]
        low, high = np.full(len(names), len(rows)), np.full(len(names), -1)
        np.minimum.at(low, groups, codes)
        np.maximum.at(high, groups, codes)
        if (low == high).all():
            columns[name] = heads[name].astype(object).infer_objects().iloc[order].array
        elif name in strict:
            several = [names[g] for g in order if low[g] < high[g]]
            raise InputError(
                f"{len(several)} wells have rows of more than one {name}: {named(several)}",
                hint="correct the plate map, or name wells by more: well_key=('batch', 'plate', 'well')",
            )
    rank = np.empty(len(names), np.int32)
    rank[order] = np.arange(len(names), dtype=np.int32)
    return pd.DataFrame(columns, index=pd.Index([names[g] for g in order], name="obs_id")), rank[groups]


def reduce_block(
    wells: NDArray[np.int32],
    vectors: NDArray[np.float32],
    *,
    rejected: NDArray[np.int32],
    expected: NDArray[np.int64],
    how: str,
) -> tuple[list[Whole], list[Piece]]:
    """Reduce the wells of one block as far as it holds them.

    Parameters
    ----------
    wells, vectors
        Well (n,) and profile (n, d) of each row, in any order.
    rejected
        Wells (m,) of the rows that were rejected.
    expected
        (W,) how many rows each well has in all, rejected ones included.
    how
        ``mean``: a piece has the float64 sum (d,) of its rows; another statistic needs all of them, (n, d).

    Returns
    -------
    Wells that lie in the block whole, and the pieces of others.
    """
    whole: list[Whole] = []
    pieces: list[Piece] = []
    order = np.argsort(wells, kind="stable")
    present, starts, counts = np.unique(wells[order], return_index=True, return_counts=True)
    losses = dict(zip(*(found.tolist() for found in np.unique(rejected, return_counts=True)), strict=True))
    for well, start, n in zip(present.tolist(), starts.tolist(), counts.tolist(), strict=True):
        rows, lost = vectors[order[start : start + n]], losses.pop(well, 0)
        data = rows.sum(axis=0, dtype=np.float64) if how == "mean" else rows
        if n + lost == expected[well]:
            whole.append((well, n, _profile(data, n, how)))
        else:
            pieces.append((well, n, lost, data))
    nothing = np.zeros(vectors.shape[1]) if how == "mean" else vectors[:0]
    pieces += [(well, 0, lost, nothing) for well, lost in losses.items()]
    return whole, pieces


def _profile(data: NDArray[Any], n: int, how: str) -> NDArray[np.float32]:
    """Return one row (d,): the mean from the sum of n rows, another statistic from the rows themselves."""
    if how == "mean":
        return (data / n).astype(np.float32)
    return reduce_rows(data, how=how)[0].astype(np.float32)


class OpenGroups:
    """Wells of which some rows have come and some have not.

    Parameters
    ----------
    expected, how
        As in :func:`reduce_block`.
    max_bytes
        What open wells may hold; ``peak_bytes`` is the most that they did.
    """

    def __init__(self, expected: NDArray[np.int64], *, how: str, max_bytes: int = 2**30) -> None:
        self._expected, self._how, self._max = expected, how, max_bytes
        self._held: dict[int, list[NDArray[Any]]] = {}
        self._bytes = self.peak_bytes = 0
        self.n_rows, self.n_rejected = np.zeros((2, len(expected)), np.int64)

    def add(self, well: int, n: int, rejected: int, data: NDArray[Any]) -> NDArray[np.float32] | None:
        """Add a piece of a well; return its profile (d,) if that was the last one, and the well has any row.

        Raises
        ------
        RunError
            Open wells hold more than ``max_bytes``, or more rows of a well come than it has.
        """
        left = self._count(well, n, rejected)
        held = self._held.setdefault(well, [])
        if self._how == "mean" and held:
            held[0] += data
        else:
            held.append(np.array(data))
            self._bytes += data.nbytes
        self.peak_bytes = max(self.peak_bytes, self._bytes)
        if left:
            self._check_size()
            return None
        del self._held[well]
        self._bytes -= sum(piece.nbytes for piece in held)
        rows = int(self.n_rows[well])
        return (
            _profile(held[0] if self._how == "mean" else np.concatenate(held), rows, self._how)
            if rows
            else None
        )

    def close(self, well: int, n: int) -> None:
        """Note a well that one block held whole, with n rows that were not rejected."""
        self._count(well, n, int(self._expected[well]) - n)

    @property
    def unfinished(self) -> int:
        """How many wells still lack rows."""
        return int((self.n_rows + self.n_rejected < self._expected).sum())

    def _count(self, well: int, n: int, rejected: int) -> int:
        """Count rows of a well and return how many are still to come."""
        self.n_rows[well] += n
        self.n_rejected[well] += rejected
        left = int(self._expected[well] - self.n_rows[well] - self.n_rejected[well])
        if left < 0:
            raise RunError(
                f"well number {well} has {self._expected[well]} rows by its keys, {-left} more came"
            )
        return left

    def _check_size(self) -> None:
        if self._bytes > self._max:
            raise RunError(
                f"{len(self._held):,} wells are open at once and hold {self._bytes / 1e9:.2f} GB, more than "
                f"{self._max / 1e9:.2f} GB: the rows of the parts are not ordered by plate and well",
                hint="write the parts anew, sorted by plate and well, or raise max_open_bytes",
            )


def with_vectors(table: pa.Table, vectors: NDArray[np.float32], names: Sequence[str]) -> pa.Table:
    """Append the column ``vectors`` (n, d), and the names of its features to the metadata."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), len(names))
    table = table.append_column("vectors", column)
    return table.replace_schema_metadata({b"features": json.dumps(list(names)).encode()})


def describe_treatments(
    index: GroupIndex, order: NDArray[np.int64], n_rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Return (T, ..) what is known of treatments: n_rows, n_wells, and n_plates, plates, n_batches, batches.

    ``order`` are the wells that have a profile, ``n_rows`` (W,) the rows each is made of. Names are joined by ``;``.
    """
    wells = index.wells.iloc[order].assign(treatment_number=index.treatment_of[order])
    of, n = wells["treatment_number"].to_numpy(), len(index.treatments)
    frame = index.treatments.assign(
        n_rows=np.bincount(of, n_rows[order], minlength=n).astype(np.int64),
        n_wells=np.bincount(of, minlength=n),
    )
    for name, plural in (("plate", "plates"), ("batch", "batches")):
        if name in wells:
            # two batches may have plates of the same name
            units = wells[
                list(dict.fromkeys(("treatment_number", name, *({"batch"} & {*wells}))))
            ].drop_duplicates()
            names = units.groupby("treatment_number")[name].agg(
                lambda some: ";".join(sorted(map(str, {*some}), key=natural))
            )
            frame[f"n_{plural}"] = np.bincount(units["treatment_number"], minlength=n)
            frame[plural] = names.reindex(range(n)).array
    return frame


def reduce_treatments(
    parts: Sequence[Path], index: GroupIndex, order: NDArray[np.int64], *, how: str, max_bytes: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Reduce wells to treatments: as many at once as fit into ``max_bytes``, each time reading all parts.

    ``parts`` have wells with ``vectors`` (.., d); ``order`` says which well each of their rows is. Yields numbers of
    treatments (t,) in ascending order and their profiles (t, d); those without a well are left out.
    """
    of = index.treatment_of[order]
    counts = np.bincount(of, minlength=len(index.treatments))
    width = pq.read_schema(parts[0]).field("vectors").type.list_size
    max_rows = max(1, max_bytes // (8 * width))
    for some in chunk_groups(counts, max_groups=max_rows, max_rows=len(of) if how == "mean" else max_rows):
        numbers = np.arange(len(counts))[some]
        found = reduce_groups(_members(parts, of, some), counts[some], width=width, how=how)[:, 0]
        yield numbers[counts[some] > 0], found[counts[some] > 0]


def _members(
    parts: Sequence[Path], of: NDArray[np.int32], some: slice
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the wells of some treatments, part by part: the treatment of each, from 0, and its profile."""
    start = 0
    for part in parts:
        column = pq.read_table(part, columns=["vectors"])["vectors"].combine_chunks()
        groups = of[start : start + len(column)].astype(np.int64) - some.start
        start += len(column)
        vectors = column.flatten().to_numpy().reshape(len(column), -1)
        inside = (groups >= 0) & (groups < some.stop - some.start)
        yield groups[inside], vectors[inside]
