"""Parts of profiles that do not fit in memory: where features stand, keys without vectors, blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.io.profile_columns import find_features
from microsnoop.pipelines.profile_groups import (
    CARRIED,
)

OBS_COLUMNS = ("obs_id", "is_control", "plate", "batch", "well", "treatment")  # what a correction may ask for
_LEAST_PER_PLATE = 16
_HEAD_ROWS = 1000
BLOCK_BYTES = 32 * 2**20  # of float32 vectors that a worker reads at a time
Unit = Mapping[str, Any]  # a row group: part, row_group, the number of its first row, its number of rows n


@dataclass(frozen=True)
class Layout:
    """Where the features (d ``names``) stand in a part: in columns of their own, or in one column of lists."""

    names: tuple[str, ...]
    vector: str | None
    others: tuple[str, ...]

    def vectors(self, block: pa.RecordBatch) -> NDArray[np.float32]:
        """Return (n, d), NaN where a value or a whole vector is missing."""
        if self.vector is None:
            values = [block[name].to_numpy(zero_copy_only=False) for name in self.names]
            return np.column_stack(values).astype(np.float32, copy=False)
        lists = block[self.vector]
        there = lists.is_valid().to_numpy(zero_copy_only=False)
        if set(lists.value_lengths().unique().to_pylist()) - {None, len(self.names)}:
            raise InputError(
                f"the lists in {self.vector!r} do not all hold {len(self.names)} values, as the first do"
            )
        flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        if there.all():
            return flat.reshape(-1, len(self.names))
        found = np.full((len(there), len(self.names)), np.nan, np.float32)
        found[there] = flat.reshape(-1, len(self.names))
        return found


def find_parts(source: Path, features: Sequence[str] | None = None) -> tuple[Layout, list[Unit]]:
    """Return where features stand, and all row groups of all parts in the order of their names.

    Raises
    ------
    InputError
        No parts, parts of different columns, or no features.
    """
    parts = sorted(path for path in Path(source).glob("*.parquet") if not path.name.startswith("."))
    if not parts:
        raise InputError(f"there is no Parquet file in {source}")
    schema = pq.read_schema(parts[0])
    kinds = {column.name: _kind(column.type) for column in schema}
    taken = [name for name in schema.names if name in ("obs_id", *CARRIED)]
    found = find_features(kinds, taken=taken, features=features, where=str(parts[0]))
    names, used = found.names, {*found.names, found.vector}
    if found.vector is not None:
        with pq.ParquetFile(parts[0]) as file:
            heads = next(file.iter_batches(_HEAD_ROWS, columns=[found.vector]))[found.vector]
        width = max(heads.value_lengths().drop_null().to_pylist(), default=0)
        if not width:
            raise InputError(f"{parts[0]}: the first {_HEAD_ROWS} rows have no {found.vector}")
        names = tuple(f"e{j:04d}" for j in range(width))
    units: list[Unit] = []
    first = 0
    for part in parts:
        with pq.ParquetFile(part) as file:
            if not file.schema_arrow.equals(schema):
                raise InputError(f"{part.name} has other columns or types than {parts[0].name}")
            for group in range(file.num_row_groups):
                n = file.metadata.row_group(group).num_rows
                units.append({"part": str(part), "row_group": group, "first": first, "n": n})
                first += n
    return Layout(names, found.vector, tuple(name for name in schema.names if name not in used)), units


def _kind(dtype: pa.DataType) -> str:
    listed = pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype)
    if listed:
        return "vector" if pa.types.is_floating(dtype.value_type) else "other"
    return "number" if pa.types.is_floating(dtype) or pa.types.is_integer(dtype) else "text"


def scan(
    units: Sequence[Unit], layout: Layout, *, well_key: Sequence[str], seed: int
) -> tuple[pd.DataFrame, NDArray[np.uint64]]:
    """Read the keys of all rows (N, ..) without their vectors, and make a hash (N,) of ``seed`` and ``obs_id``.

    Raises
    ------
    InputError
        ``obs_id`` or ``is_control`` is missing or empty somewhere, or an id is given twice.
    """
    wanted = [name for name in dict.fromkeys(("obs_id", *well_key, *CARRIED)) if name in layout.others]
    tables, hashes = [], []
    for part in dict.fromkeys(unit["part"] for unit in units):
        table = pq.read_table(part, columns=wanted)
        if "obs_id" not in wanted or table["obs_id"].null_count:
            raise InputError(f"{part}: every row needs an obs_id")
        ids = table["obs_id"].cast(pa.string()).to_numpy(zero_copy_only=False)
        hashes.append(pd.util.hash_array(ids, hash_key=f"{seed:016d}"[-16:], categorize=False))
        columns = {name: table[name] for name in wanted if name != "obs_id"}
        coded = [c.dictionary_encode() if pa.types.is_string(c.type) else c for c in columns.values()]
        tables.append(pa.table(coded, names=list(columns)))
    keys = pa.concat_tables(tables).unify_dictionaries().to_pandas()
    for name in keys.select_dtypes("category"):
        keys[name] = keys[name].cat.remove_categories([c for c in keys[name].cat.categories if c == ""])
    if "is_control" not in keys or keys["is_control"].dtype != bool:
        raise InputError(
            "every row needs is_control, true or false: a column of booleans without empty cells"
        )
    hashed = np.concatenate(hashes)
    if twice := len(hashed) - len(np.unique(hashed)):
        raise InputError(f"{twice} rows have the obs_id of another row", hint="is a part there twice?")
    return keys, hashed


def sample_rows(
    eligible: NDArray[np.bool_], plates: NDArray[Any], order: NDArray[np.uint64], *, limit: int
) -> NDArray[np.bool_]:
    """Choose about ``limit`` of the eligible rows (N,), the first by ``order`` of each plate.

    In proportion to the eligible rows of each plate, but at least 16 of each, or all it has.
    """
    rows = np.flatnonzero(eligible)
    if len(rows) <= limit:
        return eligible.copy()
    rows = rows[np.lexsort((order[rows], plates[rows]))]
    _, starts, counts = np.unique(plates[rows], return_index=True, return_counts=True)
    quota = np.maximum(counts * limit // len(rows), np.minimum(counts, _LEAST_PER_PLATE))
    chosen = np.zeros(len(eligible), bool)
    chosen[rows[np.arange(len(rows)) - np.repeat(starts, counts) < np.repeat(quota, counts)]] = True
    return chosen


def read_unit(unit: Unit, layout: Layout, others: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Read a row group in blocks of about 32 MB of features; yield the number of each block's first row with it."""
    columns = [*others, *([layout.vector] if layout.vector else layout.names)]
    rows, first = max(1, BLOCK_BYTES // (4 * len(layout.names))), unit["first"]
    with pq.ParquetFile(unit["part"]) as file:
        for block in file.iter_batches(
            rows, row_groups=[unit["row_group"]], columns=columns, use_threads=False
        ):
            yield first, block
            first += block.num_rows


def obs_of(block: pa.RecordBatch, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return what a correction may ask for of some rows of a block."""
    names = [name for name in OBS_COLUMNS if name in block.schema.names]
    return {name: block[name].take(pa.array(rows)).to_numpy(zero_copy_only=False) for name in names}
