"""Prove that a run is complete: expected = written + rejected, nothing twice, nothing changed, nothing stale."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from microsnoop.core.schema import cell_id, embedding_schema
from microsnoop.io.parts import is_intact, read_parts
from microsnoop.io.store import RunStore, row_key

_LISTED = 20
_KEY_COLUMNS = ("obs_id", "image_id", "y0_px", "x0_px", "height_px", "width_px", "row_key")


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

    A record with boxes has a sample for each; of any other image the number is known from its rows, and is 1
    while there is none. In mode tile a box has several samples: then, too, the rows know the number.
    """
    grouped = rows.group_by("image_id").aggregate([("n_samples", "max"), ("obs_id", "count_distinct")])
    position = pc.index_in(records["image_id"].combine_chunks(), grouped["image_id"].combine_chunks())
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
    ids = records["image_id"]
    details = [
        f"image {ids[int(i)].as_py()!r}: {expected[int(i)].as_py()} samples expected, {present[int(i)].as_py()} found"
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
    known = pc.is_in(rows["parent_id"], value_set=_parent_ids(records))
    strange = rows.filter(pc.invert(known))
    details = [repr(value) for value in strange["obs_id"].slice(0, _LISTED).to_pylist()]
    return _listing("rows belong to no image or cell of the input list", strange.num_rows, details)


def _parent_ids(records: pa.Table) -> pa.Array:
    """Return what rows may belong to: the cells of images that have a table of cells, else the images."""
    ids = records["image_id"].to_pylist()
    if "boxes" not in records.schema.names:
        return pa.array(ids, pa.string())
    boxes = records["boxes"].to_pylist()
    parents = [
        parent
        for name, cells in zip(ids, boxes, strict=True)
        for parent in ([name] if cells is None else [cell_id(name, cell["label"]) for cell in cells])
    ]
    return pa.array(parents, pa.string())


def _stale(records: pa.Table, rows: pa.Table, processing_key: str) -> list[str]:
    """List rows made from another state of their source or with other settings (code ``stale_output``)."""
    source = dict(zip(records["image_id"].to_pylist(), records["record_key"].to_pylist(), strict=True))
    columns = [rows[name].to_pylist() for name in _KEY_COLUMNS]
    stale = [
        obs_id
        for obs_id, image_id, y0, x0, height, width, key in zip(*columns, strict=True)
        if image_id in source and key != row_key(source[image_id], (y0, x0, height, width), processing_key)
    ]
    details = [repr(obs_id) for obs_id in stale[:_LISTED]]
    return _listing(
        "rows are stale_output: their source, settings or weights have changed since", len(stale), details
    )


def _bad_vectors(store: RunStore, identity: dict[str, Any], changed: list[Path]) -> list[str]:
    wanted = embedding_schema(channels=identity["channels"], dim=identity["dim"])
    width = len(identity["channels"]) * identity["dim"]
    problems: list[str] = []
    bad: list[str] = []
    parts = [part for part in store.embedding_parts() if part not in changed]
    for part, table in read_parts(parts, ("obs_id", "vectors")):
        if table.schema.field("vectors").type != wanted.field("vectors").type:
            problems.append(f"{part.name}: vectors are {table.schema.field('vectors').type}")
            continue
        empty = np.asarray(pc.is_null(table["vectors"]))
        bad += table.filter(pa.array(empty))["obs_id"].to_pylist()
        there = table.filter(pa.array(~empty))
        values = there["vectors"].combine_chunks().flatten().to_numpy()
        finite = np.isfinite(values.reshape(there.num_rows, width)).all(axis=1)
        bad += there.filter(pa.array(~finite))["obs_id"].to_pylist()
    return problems + _listing("vectors are not finite", len(bad), [repr(obs_id) for obs_id in bad[:_LISTED]])


def _listing(what: str, count: int, details: list[str]) -> list[str]:
    if count == 0:
        return []
    more = [f"... and {count - len(details):,} more"] if count > len(details) else []
    return [f"{count:,} {what}:", *(f"  {line}" for line in details + more)]
