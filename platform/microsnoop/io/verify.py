"""Prove that a run is complete: expected = written + rejected, nothing twice, nothing changed, nothing stale."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from microsnoop.core.schema import WINDOW_COLUMNS, cell_id, embedding_schema, unit_ids
from microsnoop.io.parts import is_intact, read_parts
from microsnoop.io.store import RunStore, row_key

_LISTED = 20
_KEY_COLUMNS = ("obs_id", "image_id", "block", *WINDOW_COLUMNS, "row_key")


@dataclass
class Verification:
    """Counts, and every problem found; a run is good when ``problems`` is empty."""

    expected: int
    written: int
    rejected: int
    rejected_by_code: dict[str, int]
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def summary(self) -> str:
        """Return the balance in one line."""
        sign = "=" if self.expected == self.written + self.rejected else "≠"
        codes = ", ".join(f"{code} {n:,}" for code, n in self.rejected_by_code.items())
        return f"expected {self.expected:,} {sign} written {self.written:,} + rejected {self.rejected:,}" + (
            f" ({codes})" if codes else ""
        )


def verify(run: RunStore | Path | str) -> Verification:
    """Check a run directory against its input list.

    Every part is read again and its SHA-256 compared with its name (a changed part counts as if it were not there);
    every image must have all of its samples,
    embedded or rejected, once; every row must come from the sources, settings and weights the run states.

    Raises
    ------
    RunError
        The path is not a run directory.
    """
    store = run if isinstance(run, RunStore) else RunStore(Path(run))
    identity, records = store.identity, store.records
    changed = [part for part in store.embedding_parts() + store.reject_parts() if not is_intact(part)]
    rows = store.rows((*_KEY_COLUMNS, "parent_id", "n_samples"), without=changed)
    codes = _codes(store, changed)
    expected, missing = _balance(records, rows)
    return Verification(
        expected=expected,
        written=rows.num_rows - sum(codes.values()),
        rejected=sum(codes.values()),
        rejected_by_code=codes,
        problems=[
            *_listing(
                "parts were changed after they were written (checksum differs)",
                len(changed),
                [part.name for part in changed],
            ),
            *_bad_vectors(store, identity, changed),
            *_duplicates(rows),
            *missing,
            *_strangers(records, rows),
            *_stale(records, rows, identity["processing_key"]),
        ],
    )


def samples_per_image(records: pa.Table, rows: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Return (expected, present) numbers of samples of every record, in the order of ``records``.

    A record with boxes has a sample for each; of any other the number is known from its rows, and is 1 while there
    is none. In mode tile a box has several samples: then, too, the rows know the number. Of a large field every
    block is a record of its own.
    """
    units = pa.array(unit_ids(rows), pa.string())
    by_unit = pa.table({"unit": units, "n_samples": rows["n_samples"], "obs_id": rows["obs_id"]})
    grouped = by_unit.group_by("unit").aggregate([("n_samples", "max"), ("obs_id", "count_distinct")])
    position = pc.index_in(pa.array(unit_ids(records), pa.string()), grouped["unit"].combine_chunks())
    stated = pc.take(grouped["n_samples_max"].combine_chunks(), position)
    present = pc.fill_null(pc.take(grouped["obs_id_count_distinct"].combine_chunks(), position), 0)
    listed = (
        pc.list_value_length(records["boxes"].combine_chunks()) if "boxes" in records.schema.names else None
    )
    default = pa.array([1] * records.num_rows, pa.int64()) if listed is None else listed.cast(pa.int64())
    return pc.coalesce(stated, default), present


def _balance(records: pa.Table, rows: pa.Table) -> tuple[int, list[str]]:
    expected, present = samples_per_image(records, rows)
    short = np.flatnonzero(np.asarray(expected) != np.asarray(present))
    ids = unit_ids(records)
    details = [
        f"image {ids[int(i)]!r}: {expected[int(i)].as_py()} samples expected, {present[int(i)].as_py()} found"
        for i in short[:_LISTED]
    ]
    return int(pc.sum(expected).as_py() or 0), _listing("images are incomplete", len(short), details)


def _codes(store: RunStore, changed: list[Path]) -> dict[str, int]:
    """Return how many rows were rejected for which reason, most frequent first."""
    parts = [part for part in store.reject_parts() if part not in changed]
    counts = Counter(code for _, table in read_parts(parts, ("code",)) for code in table["code"].to_pylist())
    return dict(counts.most_common())


def _duplicates(rows: pa.Table) -> list[str]:
    counts = rows.group_by("obs_id").aggregate([("obs_id", "count")])
    repeated = counts.filter(pc.greater(counts["obs_id_count"], 1))
    details = [
        f"{row['obs_id']!r}: {row['obs_id_count']} rows" for row in repeated.slice(0, _LISTED).to_pylist()
    ]
    return _listing("ids stand more than once", repeated.num_rows, details)


def _strangers(records: pa.Table, rows: pa.Table) -> list[str]:
    cells = _listed_cells(records)
    columns = (rows[name].to_pylist() for name in ("obs_id", "image_id", "parent_id"))
    strange = [
        obs_id
        for obs_id, image_id, parent_id in zip(*columns, strict=True)
        if not _belongs(parent_id, image_id, cells)
    ]
    details = [repr(obs_id) for obs_id in strange[:_LISTED]]
    return _listing("rows belong to no image or cell of the input list", len(strange), details)


def _listed_cells(records: pa.Table) -> dict[str, set[str] | None]:
    """Return the cells of every image that has a table of them, None for the other images."""
    ids = records["image_id"].to_pylist()
    if "boxes" not in records.schema.names:
        return dict.fromkeys(ids)
    cells: dict[str, set[str] | None] = {}
    for name, boxes in zip(ids, records["boxes"].to_pylist(), strict=True):
        if boxes is None:
            cells[name] = None
        else:  # the blocks of a large field share its cells
            cells[name] = (cells.get(name) or set()) | {cell_id(name, box["label"]) for box in boxes}
    return cells


def _belongs(parent_id: str, image_id: str, cells: dict[str, set[str] | None]) -> bool:
    if image_id not in cells:
        return False
    listed = cells[image_id]
    if listed is not None:
        return parent_id in listed
    return parent_id == image_id or parent_id.startswith(cell_id(image_id, ""))  # cells found in a mask


def _stale(records: pa.Table, rows: pa.Table, processing_key: str) -> list[str]:
    """List rows made from another state of their source or with other settings (code ``stale_output``)."""
    source = dict(zip(unit_ids(records), records["record_key"].to_pylist(), strict=True))
    columns = [rows[name].to_pylist() for name in ("obs_id", *WINDOW_COLUMNS, "row_key")]
    stale = [
        obs_id
        for unit, obs_id, *window, key in zip(unit_ids(rows), *columns, strict=True)
        if unit in source and key != row_key(source[unit], window, processing_key)
    ]
    details = [repr(obs_id) for obs_id in stale[:_LISTED]]
    return _listing(
        "rows are stale_output: their source, settings or weights have changed since", len(stale), details
    )


def _bad_vectors(store: RunStore, identity: dict[str, Any], changed: list[Path]) -> list[str]:
    wanted = embedding_schema(channels=identity["channels"], dim=identity["dim"])
    problems: list[str] = []
    bad: list[str] = []
    parts = [part for part in store.embedding_parts() if part not in changed]
    for part, table in read_parts(parts, ("obs_id", "missing_channels", "vectors")):
        if table.schema.field("vectors").type != wanted.field("vectors").type:
            problems.append(f"{part.name}: vectors are {table.schema.field('vectors').type}")
            continue
        empty = np.asarray(pc.is_null(table["vectors"]))
        bad += table.filter(pa.array(empty))["obs_id"].to_pylist()
        there = table.filter(pa.array(~empty))
        values = there["vectors"].combine_chunks().flatten().to_numpy()
        shape = (there.num_rows, len(identity["channels"]), identity["dim"])
        finite = np.isfinite(values.reshape(shape)).all(axis=2)
        expected = ~missing_mask(there["missing_channels"], identity["channels"])
        bad += there.filter(pa.array((finite != expected).any(axis=1)))["obs_id"].to_pylist()
    return problems + _listing("vectors are not finite", len(bad), [repr(obs_id) for obs_id in bad[:_LISTED]])


def missing_mask(missing: pa.ChunkedArray, channels: list[str]) -> NDArray[np.bool_]:
    """Return (N, C), True where a row states that it has no file of a channel (its vector there is NaN)."""
    mask = np.zeros((len(missing), len(channels)), bool)
    for row, names in enumerate(missing.to_pylist()):
        for name in names or ():
            mask[row, channels.index(name)] = True
    return mask


def _listing(what: str, count: int, details: list[str]) -> list[str]:
    if count == 0:
        return []
    more = [f"... and {count - len(details):,} more"] if count > len(details) else []
    return [f"{count:,} {what}:", *(f"  {line}" for line in details + more)]
