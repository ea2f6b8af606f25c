"""Profiles that do not fit in memory: corrected block by block, aggregated while they stream by.

::

    parts (Parquet)  -> scan        keys of all rows, no vectors           driver
                     -> fit         the control rows                       driver
                     -> apply       blocks: correct, write, reduce wells   Ray tasks
                     -> treatments  the wells that were written            driver

    OUT/rows/part-<first row>-<hash>.parquet      corrected rows, with the columns they came with
    OUT/wells/part-*.parquet                      one row a well
    OUT/treatments.parquet                        one row a treatment, in natural order
    OUT/rejects/part-<first row>-<hash>.parquet   obs_id, code and message of each row that is in no well
    OUT/missing.parquet                           wells and treatments without a profile
    OUT/summary.json                              counts, seconds, findings; written last

Only profiles of wells pass through Ray's object store. Source: batch spec, sections 2, 8 and 12.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError, MicrosnoopError, RunError, StaleOutput
from microsnoop.correction.base import Corrector
from microsnoop.io.parts import write_atomic, write_part
from microsnoop.ops.aggregate import statistics
from microsnoop.pipelines.cluster import as_dataset, cluster, usable_cpus
from microsnoop.pipelines.profile_groups import (
    GroupIndex,
    OpenGroups,
    describe_treatments,
    index_groups,
    with_vectors,
)
from microsnoop.pipelines.profile_parts import (
    BLOCK_BYTES,
    Unit,
    find_parts,
    sample_rows,
    scan,
)
from microsnoop.pipelines.profile_steps import (
    BlockJob,
    account,
    correct_unit,
    fit_chosen,
    looks_at_all_rows,
    write_treatments,
)


@dataclass(frozen=True)
class BlockSummary:
    """What :func:`run_blocks` did; that ``rows_in = rows_out + rejected`` was checked on the files."""

    rows_in: int
    rows_out: int
    rejected: int
    rejected_by_code: dict[str, int]
    controls: int
    fitted_on: int
    features_in: int
    features_out: int
    wells: int
    treatments: int
    missing: int
    peak_open_bytes: int
    seconds: dict[str, float]
    findings: list[dict[str, Any]]


def run_blocks(
    source: Path,
    out: Path,
    *,
    corrector: Corrector,
    features: Sequence[str] | None = None,
    well_key: Sequence[str] = ("plate", "well"),
    well_statistic: str = "mean",
    treatment_statistic: str = "mean",
    max_control_rows: int = 200_000,
    seed: int = 0,
    write_rows: bool = True,
    max_open_bytes: int = 2**30,
    memory_bytes: int = 2**31,
    address: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> BlockSummary:
    """Correct a folder of Parquet parts; aggregate rows to wells, and wells to treatments.

    Parameters
    ----------
    source
        Parts with ``obs_id``, ``is_control`` (bool), ``treatment``, the columns of ``well_key``, and features: a
        column of lists of floats, or columns of numbers. Parts in order of wells need least memory.
    out
        A folder that is empty or not there yet.
    corrector
        Fitted here, in place, on control rows (on all rows, where it learns from all): of more than
        ``max_control_rows`` on a sample, drawn from each plate in proportion by ``seed`` and ``obs_id``, whatever the
        order of rows.
    features
        Names of feature columns, or how they begin; if not given, found as in ``io.profile_columns``.
    well_statistic, treatment_statistic
        ``mean``, ``median``, ``trimmed`` or ``modz``.
    max_open_bytes
        What wells may hold of which rows are still to come, and treatments that are reduced at once.
    memory_bytes
        Ray's object store gets a quarter of it, on this machine.
    address
        A Ray cluster that sees the same files.
    on_progress
        Called with rows done and rows in all.

    Raises
    ------
    ValueError, StaleOutput, InputError, CorrectionError
        A statistic, ``out``, the parts or the correction cannot be used: said before anything is written.
    RunError
        Too many open wells, a failed worker, or counts that do not add up.
    """
    if any(statistics(name) != (name,) for name in (well_statistic, treatment_statistic)):
        raise ValueError("a level has one statistic: mean, median, trimmed or modz")
    if corrector.transductive:
        raise CorrectionError(
            "transductive", f"{corrector.method} cannot correct rows that it was not fitted on"
        )
    if out.exists() and any(out.iterdir()):
        raise StaleOutput(
            f"{out} is not empty", hint="choose another folder, or delete what an earlier run left"
        )
    times = [time.monotonic()]
    layout, units = find_parts(source, features)
    keys, hashes = scan(units, layout, well_key=well_key, seed=seed)
    index = index_groups(keys, well=well_key)
    times.append(time.monotonic())
    keyed = index.well_of >= 0
    control = keys["is_control"].to_numpy(bool) & keyed
    eligible = keyed if looks_at_all_rows(corrector) else control
    plates = pd.factorize(keys["plate"])[0] if "plate" in keys else np.zeros(len(keys), np.int64)
    chosen = sample_rows(eligible, plates, hashes, limit=max_control_rows)
    job = BlockJob(corrector, layout, index.n_rows, well_statistic, out.absolute(), write_rows)
    fitted = fit_chosen(job, units, chosen)
    if fitted < eligible.sum():
        told = f"fitted on {fitted} of {eligible.sum()} rows: {chosen.sum()} were drawn"
        corrector.note("fitted_on_sample", f"{told}, {chosen.sum() - fitted} of them are not finite")
    times.append(time.monotonic())
    for name in ("rows", "wells", "rejects"):
        (out / name).mkdir(parents=True, exist_ok=True)
    opened = OpenGroups(index.n_rows, how=well_statistic, max_bytes=max_open_bytes)
    with cluster(address, memory_bytes=memory_bytes):
        stream = _stream(units, job, index.well_of, workers=usable_cpus() if address is None else None)
        order = _collect(stream, job, index, opened, on_progress=on_progress)
    times.append(time.monotonic())
    frame = describe_treatments(index, order, opened.n_rows)
    write_treatments(job, index, frame, order, how=treatment_statistic, max_bytes=max_open_bytes)
    times.append(time.monotonic())
    rejected, missing = account(job, index, opened, frame)
    summary = BlockSummary(
        rows_in=len(control),
        rows_out=int(opened.n_rows.sum()),
        rejected=sum(rejected.values()),
        rejected_by_code=dict(rejected),
        controls=int(control.sum()),
        fitted_on=fitted,
        features_in=len(layout.names),
        features_out=len(corrector.features_out_),
        wells=len(order),
        treatments=int((frame["n_wells"] > 0).sum()),
        missing=missing,
        peak_open_bytes=opened.peak_bytes,
        seconds=dict(
            zip(("scan", "fit", "apply", "treatments"), np.diff(times).round(2).tolist(), strict=True)
        ),
        findings=[asdict(finding) for finding in corrector.findings_],
    )
    write_atomic(out / "summary.json", json.dumps(asdict(summary), indent=1).encode())
    return summary


def _stream(
    units: Sequence[Unit], job: BlockJob, well_of: NDArray[np.int32], *, workers: int | None
) -> Iterator[pa.Table]:
    """Run :func:`correct_unit` on the connected cluster; results come in the order of rows."""
    import ray.data

    wells = pa.array(
        [well_of[unit["first"] : unit["first"] + unit["n"]] for unit in units], pa.list_(pa.int32())
    )
    table = pa.Table.from_pylist(list(units)).append_column("wells", wells)
    blocks = as_dataset(table, rows_per_block=1).map_batches(
        functools.partial(_correct, held=ray.put(job)),
        batch_format="pyarrow",
        batch_size=None,
        compute=ray.data.TaskPoolStrategy(size=workers),
    )
    blocks.context.execution_options.preserve_order = True
    try:
        yield from blocks.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except Exception as error:
        cause: Any = error
        while cause is not None and not isinstance(cause, MicrosnoopError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise cause or RunError(
            f"a worker failed: {error}", hint="delete the output and run again"
        ) from error


def _correct(units: pa.Table, *, held: Any) -> Iterator[pa.Table]:
    import ray

    for unit in units.to_pylist():
        yield from correct_unit(unit, ray.get(held))


def _collect(
    stream: Iterator[pa.Table],
    job: BlockJob,
    index: GroupIndex,
    opened: OpenGroups,
    *,
    on_progress: Callable[[int, int], None] | None,
) -> NDArray[np.int64]:
    """Put wells together and write them; return which wells were written, in the order of the parts."""
    width = len(job.corrector.features_out_)
    order: list[int] = []
    held: list[NDArray[np.float32]] = []
    unkeyed = int((index.well_of < 0).sum())

    def flush() -> None:
        wells = order[len(order) - len(held) :]
        frame = index.wells.iloc[wells].assign(n_rows=opened.n_rows[wells])
        table = pa.Table.from_pandas(frame.reset_index(), preserve_index=False)
        write_part(job.out / "wells", with_vectors(table, np.stack(held), job.corrector.features_out_))
        held.clear()

    for block in stream:
        for well, n, rejected, data in zip(*(column.to_pylist() for column in block.columns), strict=True):
            profile = None
            if n and n + rejected == job.expected[well]:
                opened.close(well, n)
                profile = np.frombuffer(data, np.float32)
            elif job.statistic == "mean":
                profile = opened.add(well, n, rejected, np.frombuffer(data, np.float64))
            else:
                profile = opened.add(well, n, rejected, np.frombuffer(data, np.float32).reshape(n, width))
            if profile is not None:
                order.append(well)
                held.append(profile)
        if len(held) * 4 * width > BLOCK_BYTES:
            flush()
        if on_progress is not None:
            on_progress(int(opened.n_rows.sum() + opened.n_rejected.sum()) + unkeyed, len(index.well_of))
    if held:
        flush()
    return np.array(order, np.int64)
