"""What is done with profiles in blocks: fit, correct a row group, make treatments, account for rows. No Ray here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError, RunError
from microsnoop.correction.base import Corrector
from microsnoop.io.parts import list_parts, write_atomic
from microsnoop.pipelines.profile_groups import (
    GroupIndex,
    OpenGroups,
    reduce_block,
    reduce_treatments,
    with_vectors,
)
from microsnoop.pipelines.profile_parts import (
    OBS_COLUMNS,
    Layout,
    Unit,
    obs_of,
    read_unit,
)

RESULT = pa.schema([("well", pa.int32()), ("n", pa.int32()), ("rejected", pa.int32()), ("data", pa.binary())])
_TEXTS = {"no_group_key": "a column of the key of its well, or its treatment, is empty",
          "not_finite": "its profile is missing or holds values that are not finite"}  # fmt: skip


@dataclass(frozen=True)
class BlockJob:
    """What a worker needs to know of the run; ``expected`` (W,) are the rows of each well."""

    corrector: Corrector
    layout: Layout
    expected: NDArray[np.int64]
    statistic: str
    out: Path
    write_rows: bool


def fit_chosen(job: BlockJob, units: Sequence[Unit], chosen: NDArray[np.bool_]) -> int:
    """Fit the correction on those of the chosen rows (N,) that are finite; return how many they are."""
    x, n = np.empty((int(chosen.sum()), len(job.layout.names)), np.float32), 0
    known: list[dict[str, NDArray[Any]]] = []
    for unit in units:
        if not chosen[unit["first"] : unit["first"] + unit["n"]].any():
            continue
        for first, block in read_unit(
            unit, job.layout, [name for name in OBS_COLUMNS if name in job.layout.others]
        ):
            rows = np.flatnonzero(chosen[first : first + block.num_rows])
            vectors = job.layout.vectors(block)[rows]
            good = np.isfinite(vectors).all(axis=1)
            x[n : n + good.sum()] = vectors[good]
            n += int(good.sum())
            known.append(obs_of(block, rows[good]))
    if n == 0:
        raise CorrectionError("too_few_controls", "no control row has a well, a treatment and finite values")
    obs = {name: np.concatenate([some[name] for some in known]) for name in known[0]}
    job.corrector.fit(x[:n], obs, features=list(job.layout.names))
    return n


def looks_at_all_rows(corrector: Corrector) -> bool:
    """Whether a correction learns from rows that are no controls too: it is given a sample of all rows."""
    steps: Sequence[Corrector] = getattr(corrector, "steps", [corrector])
    return any(
        step.method == "pca" or getattr(step, "reference", "") == "all" or getattr(step, "reg", "") == "grid"
        for step in steps
    )


def correct_unit(unit: Unit, job: BlockJob) -> Iterator[pa.Table]:
    """Correct a row group block by block, write rows and rejects, and yield what its wells are made of.

    ::

        in    part, row_group, first, n, wells (n)   which well each row is of, -1: none
        out   well, n, rejected, data                float32 (d,) where these are all rows of the well, else a piece
    """
    done = 0
    for first, block in read_unit(unit, job.layout, job.layout.others):
        wells = np.asarray(unit["wells"][done : done + block.num_rows], np.int32)
        done += block.num_rows
        vectors = job.layout.vectors(block)
        finite = np.isfinite(vectors).all(axis=1)
        good = np.flatnonzero(finite & (wells >= 0))
        known = pa.table([block[name] for name in job.layout.others], names=list(job.layout.others))
        corrected = np.empty((0, len(job.corrector.features_out_)), np.float32)
        if len(good):
            rows = vectors if len(good) == len(vectors) else vectors[good]
            corrected = job.corrector.transform(rows, obs_of(block, good), features=list(job.layout.names))
        if not np.isfinite(corrected).all():
            raise CorrectionError(
                "not_finite", f"{job.corrector.method}: corrected rows of {unit['part']} overflow"
            )
        if job.write_rows and len(good):
            table = with_vectors(known.take(good), corrected, job.corrector.features_out_)
            write_whole(job.out / "rows", table, number=first)
        bad = np.flatnonzero(~finite | (wells < 0))
        if len(bad):
            codes = np.where(wells[bad] < 0, "no_group_key", "not_finite").tolist()
            columns = [known["obs_id"].take(bad), codes, [_TEXTS[code] for code in codes]]
            table = pa.table(columns, names=["obs_id", "code", "message"])
            write_whole(job.out / "rejects", table, number=first)
        lost = wells[bad][wells[bad] >= 0]
        whole, pieces = reduce_block(
            wells[good], corrected, rejected=lost, expected=job.expected, how=job.statistic
        )
        found: list[tuple[Any, ...]] = [
            (well, n, int(job.expected[well]) - n, profile.tobytes()) for well, n, profile in whole
        ]
        found += [(*head, data.tobytes()) for *head, data in pieces]
        yield pa.table([list(column) for column in zip(*found, strict=True)] or [[]] * 4, schema=RESULT)
    if done != unit["n"]:
        raise RunError(
            f"{unit['part']} has changed: {unit['n']} rows were in row group {unit['row_group']}, now {done}"
        )


def write_treatments(
    job: BlockJob,
    index: GroupIndex,
    frame: pd.DataFrame,
    order: NDArray[np.int64],
    *,
    how: str,
    max_bytes: int,
) -> None:
    """Write the treatments described in ``frame`` (T, ..) that have a well."""
    partial = job.out / ".treatments.parquet.partial"
    wells = list_parts(job.out / "wells")
    with ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for numbers, vectors in reduce_treatments(wells, index, order, how=how, max_bytes=max_bytes):
            table = pa.Table.from_pandas(frame.iloc[numbers].reset_index(), preserve_index=False)
            table = with_vectors(table, vectors, job.corrector.features_out_)
            writer = writer or stack.enter_context(pq.ParquetWriter(partial, table.schema))
            writer.write_table(table)
    partial.replace(job.out / "treatments.parquet")


def account(
    job: BlockJob, index: GroupIndex, opened: OpenGroups, frame: pd.DataFrame
) -> tuple[dict[str, int], int]:
    """Compare counts with the files, and list groups without a profile; return rejects by code, and how many those are.

    Raises
    ------
    RunError
        Rows are missing, or there are too many.
    """
    rejected = {"no_group_key": int((index.well_of < 0).sum()), "not_finite": int(opened.n_rejected.sum())}
    rejected = {code: n for code, n in rejected.items() if n}
    expected = {"rejects": sum(rejected.values()), "wells": int((opened.n_rows > 0).sum())}
    if job.write_rows:
        expected["rows"] = len(index.well_of) - expected["rejects"]
    for name, n in expected.items():
        found = sum(pq.read_metadata(part).num_rows for part in list_parts(job.out / name))
        if found != n or opened.unfinished:
            raise RunError(
                f"{job.out / name} has {found} rows, {n} were expected; {opened.unfinished} wells lack rows",
                hint="did the source change meanwhile? delete the output and run again",
            )
    names = {"well": index.wells.index[opened.n_rows == 0], "treatment": frame.index[frame["n_wells"] == 0]}
    missing = [(level, name) for level, groups in names.items() for name in groups]
    columns = [[level for level, _ in missing], [name for _, name in missing]]
    schema = pa.schema([("level", pa.string()), ("obs_id", pa.string()), ("code", pa.string())])
    table = pa.table([*columns, ["too_few_members"] * len(missing)], schema=schema)
    write_whole(job.out / "missing.parquet", table)
    return rejected, len(missing)


def write_whole(path: Path, table: pa.Table, *, number: int | None = None) -> None:
    """Write a table so that it is there whole or not at all; in the folder ``path`` if it is numbered.

    The number is that of the first row: a task that Ray runs again replaces what its first run left.
    """
    sink = pa.BufferOutputStream()
    texts = [name for name in table.column_names if name != "vectors"]
    kinds = {name if name != "vectors" else "vectors.list.element": "zstd" for name in texts}
    pq.write_table(table, sink, compression=kinds or "none", use_dictionary=texts)
    data = sink.getvalue()
    if number is not None:
        digest = hashlib.sha256(data).hexdigest()[:16]
        stale = [old for old in path.glob(f"part-{number:012d}-*.parquet") if digest not in old.name]
        path /= f"part-{number:012d}-{digest}.parquet"
        for old in stale:
            old.unlink()
    write_atomic(path, data)
