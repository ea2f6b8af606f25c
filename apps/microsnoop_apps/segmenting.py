"""What ``microsnoop segment`` does: run the segmentation, keep the books, print a table."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from microsnoop.core.errors import ConfigError, RunError
from microsnoop.core.schema import META_PREFIX
from microsnoop.ops.match import Counts, pool
from microsnoop.pipelines.cluster import cluster, local_resources
from microsnoop.pipelines.segment import prepare_segmentation, segment_stream
from microsnoop_apps.commands import embed_config
from microsnoop_apps.terminal import ProgressLine, native_messages_held, say, show_rows, show_table

_ALL = "all fields"


def run(
    config: Path | None,
    overrides: dict[str, Any],
    settings: list[str],
    *,
    out: Path,
    previews: int,
    by: str,
    iou: float,
) -> None:
    """Segment, write ``fields.csv`` and print what was found.

    Raises
    ------
    ConfigError
        ``by`` is no metadata column.
    RunError
        Rows are missing at the end.
    """
    started = time.monotonic()
    cfg = embed_config(config, {"run_dir": str(out), **overrides, "mode": "crop"}, settings)
    inputs, job = prepare_segmentation(cfg, out, previews=previews, iou=iou)
    records = inputs.records
    groups = _groups(records, by)
    for note in inputs.notes:
        say(f"note: {note}")
    with ExitStack() as stack:
        stack.enter_context(native_messages_held())
        memory = local_resources(gpus=0).memory_bytes
        stack.enter_context(cluster(cfg.execution.address, memory_bytes=memory))
        progress = stack.enter_context(ProgressLine("segmenting"))
        found = pa.concat_tables(_shown(segment_stream(records, job), records.num_rows, progress))
    order = found["image_id"].to_pylist()
    if sorted(order) != sorted(records["image_id"].to_pylist()):
        raise RunError(f"{records.num_rows - found.num_rows} fields have no result", hint="run it again")
    fields = {row["image_id"]: row for row in found.to_pylist()}
    rows = [fields[image_id] for image_id in records["image_id"].to_pylist()]
    out.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=found.schema)
    pyarrow.csv.write_csv(table, out / "fields.csv")
    _conclude(rows, groups, out, seconds=time.monotonic() - started, iou=iou)


def summarise(rows: Sequence[dict[str, Any]], groups: Sequence[str]) -> list[list[str]]:
    """Return a line a group and one for all: fields, objects, area and, where masks were given, the agreement."""
    names = sorted(set(groups)) if len(set(groups)) > 1 else []
    lines = []
    for name in [*names, _ALL]:
        own = [row for row, group in zip(rows, groups, strict=True) if name in (group, _ALL)]
        good = [row for row in own if row["code"] is None]
        areas = [row["median_area_px"] for row in good if row["median_area_px"] is not None]
        scored = pool(Counts(row["tp"], row["fp"], row["fn"]) for row in good if row["tp"] is not None)
        lines.append(
            [
                name,
                f"{len(own):,}",
                f"{len(own) - len(good):,}",
                f"{sum(row['n_objects'] for row in good):,}",
                f"{np.median(areas):,.0f}" if areas else "-",
                f"{scored.tp + scored.fn:,}" if scored.tp + scored.fn else "-",
                *(_share(value) for value in (scored.precision, scored.recall, scored.f1)),
            ]
        )
    return lines


def _groups(records: pa.Table, by: str) -> list[str]:
    if not by:
        return [_ALL] * records.num_rows
    names = [name for name in records.column_names if name.startswith(META_PREFIX)]
    if f"{META_PREFIX}{by}" not in names:
        known = ", ".join(name.removeprefix(META_PREFIX) for name in names) or "none"
        raise ConfigError(f"there is no metadata column {by!r}", hint=f"the images have {known}")
    return [str(value) for value in records[f"{META_PREFIX}{by}"].to_pylist()]


def _shown(tables: Iterator[pa.Table], total: int, progress: ProgressLine) -> Iterator[pa.Table]:
    begin, done, objects = time.monotonic(), 0, 0
    for table in tables:
        done += table.num_rows
        objects += sum(n or 0 for n in table["n_objects"].to_pylist())
        counts = f"{done:,} of {total:,} fields, {objects:,} objects"
        progress.counting(done, total, counts, per_s=done / max(1e-9, time.monotonic() - begin))
        yield table


def _conclude(
    rows: Sequence[dict[str, Any]], groups: Sequence[str], out: Path, *, seconds: float, iou: float
) -> None:
    rejected = [row for row in rows if row["code"] is not None]
    say(f"{len(rows):,} fields in {seconds:.0f} s")
    header = [
        "",
        "fields",
        "rejected",
        "objects",
        "median area px",
        "true objects",
        "precision",
        "recall",
        "F1",
    ]
    show_table(header, summarise(rows, groups))
    if any(row["tp"] is not None for row in rows):
        say(f"  an object is found where its overlap with a true one (IoU) is above {iou:g}")
    for row in rejected[:10]:
        print(f"  rejected: {row['message']} ({row['code']})", file=sys.stderr)
    if len(rejected) > 10:
        print(f"  ... and {len(rejected) - 10:,} more, see {out / 'fields.csv'}", file=sys.stderr)
    paths = [("masks", str(out / "masks")), ("table", str(out / "fields.csv"))]
    if any(row["preview"] for row in rows):
        beside = ", the given mask beside it" if any(row["tp"] is not None for row in rows) else ""
        paths.insert(1, ("pictures", f"{out / 'previews'}{beside}"))
    show_rows(paths)


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
