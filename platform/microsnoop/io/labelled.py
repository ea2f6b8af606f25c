"""Labelled rows of a recipe: which images or cells are scored, what they are, and where the others went.

Nothing is dropped in silence: ``n_input`` = rows used + the sum of ``left_out``.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from microsnoop.core.config import InputConfig, digest
from microsnoop.core.errors import InputError
from microsnoop.core.evaluate_config import EvaluateConfig
from microsnoop.core.schema import META_PREFIX, WINDOW_COLUMNS, cell_id
from microsnoop.io.manifest import InputList, read_records
from microsnoop.io.opener import join
from microsnoop.io.parts import write_atomic


@dataclass(frozen=True)
class LabelledRows:
    """Rows to score, in the order of the input: id (``image_id`` or ``image_id#label``), class and group.

    ``groups`` is None where the recipe names none. ``left_out`` counts rows by reason.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None
    n_input: int
    left_out: Mapping[str, int]

    def keep(self, ids: set[str], *, reason: str) -> LabelledRows:
        """Return only the rows in ``ids``; the others are counted under ``reason``."""
        kept = [i for i, name in enumerate(self.ids) if name in ids]
        if len(kept) == len(self.ids):
            return self
        left_out = {**self.left_out, reason: self.left_out.get(reason, 0) + len(self.ids) - len(kept)}
        return replace(
            self,
            ids=tuple(self.ids[i] for i in kept),
            classes=tuple(self.classes[i] for i in kept),
            groups=None if self.groups is None else tuple(self.groups[i] for i in kept),
            left_out=left_out,
        )


def rooted(cfg: InputConfig, root: str) -> InputConfig:
    """Return ``cfg`` with its relative paths below ``root``."""
    names = ("manifest", "folder", "pattern", "root", "cells", "masks")
    given = {name: getattr(cfg, name) for name in names}
    return cfg.model_copy(
        update={name: None if path is None else join(root, path) for name, path in given.items()}
    )


def image_rows(inputs: InputList) -> dict[str, list[Any]]:
    """Return the columns of all rows: ``row_id``, ``image_id``, and metadata of images and cells by name."""
    records = inputs.records
    names = [name for name in records.column_names if name.startswith(META_PREFIX)]
    per_image = {name.removeprefix(META_PREFIX): records[name].to_pylist() for name in names}
    ids = records["image_id"].to_pylist()
    if "boxes" not in records.column_names:
        return {"row_id": ids, "image_id": ids, **per_image}
    boxes = records["boxes"].to_pylist()
    owner = [i for i, own in enumerate(boxes) for _ in own]
    cells = [cell_id(ids[i], box["label"]) for i, own in enumerate(boxes) for box in own]
    rows = {"row_id": cells, "image_id": [ids[i] for i in owner]}
    rows |= {name: [values[i] for i in owner] for name, values in per_image.items()}
    if inputs.cells is not None:
        place = {name: i for i, name in enumerate(inputs.cells["parent_id"].to_pylist())}
        for name in (n for n in inputs.cells.column_names if n.startswith(META_PREFIX)):
            values = inputs.cells[name].to_pylist()
            rows[name.removeprefix(META_PREFIX)] = [values[place[cell]] for cell in cells]
    return rows


def choose_rows(columns: Mapping[str, list[Any]], cfg: EvaluateConfig, *, where: str) -> LabelledRows:
    """Apply a recipe to rows: filter, name classes, cap them; count every row that is left out.

    Parameters
    ----------
    columns
        ``row_id`` and metadata, one list a column.
    where
        What the rows are, for messages.

    Raises
    ------
    InputError
        A column that is not there, a class value that never occurs, or fewer than two classes left.
    """
    needed = [cfg.label, *cfg.where, *([cfg.group] if cfg.group else [])]
    missing = [name for name in needed if name not in columns]
    if missing:
        raise InputError(
            f"{where} has no column {', '.join(map(repr, missing))}", hint=f"it has {', '.join(columns)}"
        )
    ids, labels = columns["row_id"], [_text(value) for value in columns[cfg.label]]
    groups = [_text(value) for value in columns[cfg.group]] if cfg.group else None
    reasons: list[str | None] = [None] * len(ids)
    for name, wanted in cfg.where.items():
        for i, value in enumerate(columns[name]):
            reasons[i] = reasons[i] or (None if _text(value) in wanted else f"other {name}")
    new_name = {old: new for new, values in cfg.classes.items() for old in values}
    unknown = sorted({*new_name, *cfg.exclude} - set(labels))
    if unknown:
        raise InputError(f"{where}: the column {cfg.label!r} never holds {', '.join(unknown)}")
    for i, label in enumerate(labels):
        if label is None:
            reasons[i] = reasons[i] or "no label"
        elif label in cfg.exclude:
            reasons[i] = reasons[i] or f"{cfg.label} excluded"
        elif groups is not None and groups[i] is None:
            reasons[i] = reasons[i] or "no group"
    classes = [new_name.get(label, label) if label is not None else "" for label in labels]
    _cap(ids, classes, reasons, cfg)
    used = [i for i, reason in enumerate(reasons) if reason is None]
    if len({classes[i] for i in used}) < 2:
        raise InputError(f"{where}: fewer than two classes are left in the column {cfg.label!r}")
    return LabelledRows(
        ids=tuple(ids[i] for i in used),
        classes=tuple(classes[i] for i in used),
        groups=None if groups is None else tuple(str(groups[i]) for i in used),
        n_input=len(ids),
        left_out=dict(Counter(reason for reason in reasons if reason is not None)),
    )


def read_labelled(cfg: EvaluateConfig, *, root: str) -> tuple[InputList, LabelledRows]:
    """Read the images of a recipe below ``root`` and choose its rows."""
    assert cfg.input is not None
    inputs = read_records(rooted(cfg.input, root))
    source = cfg.input.cells or cfg.input.manifest or cfg.input.folder or cfg.input.pattern
    return inputs, choose_rows(image_rows(inputs), cfg, where=str(source))


def write_input(
    inputs: InputList, rows: LabelledRows, cfg: InputConfig, *, folder: Path
) -> tuple[InputConfig, str]:
    """Write the chosen rows as a manifest (and a table of cells) that every encoder's run reads.

    Returns
    -------
    The input settings of such a run, and a digest of which rows these are (labels do not enter: recipes that
    differ only in their classes share their embeddings).
    """
    records, wanted = inputs.records, set(rows.ids)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("channels", "max_image_mpx", "min_side_px", "block_px", "mask_kind")
    plain = {name: getattr(cfg, name) for name in names}
    key = digest([sorted(rows.ids), sorted(records["record_key"].to_pylist())])
    manifest = folder / f"images-{key[:12]}.parquet"
    if "boxes" not in records.column_names:
        kept = [i for i, name in enumerate(records["image_id"].to_pylist()) if name in wanted]
        _write(manifest, _manifest(records.take(pa.array(kept, pa.int64()))))
        return InputConfig(manifest=str(manifest.resolve()), **plain), key
    cells: dict[str, list[Any]] = defaultdict(list)
    kept = []
    for i, (image_id, boxes) in enumerate(
        zip(records["image_id"].to_pylist(), records["boxes"].to_pylist(), strict=True)
    ):
        chosen = [box for box in boxes if cell_id(image_id, box["label"]) in wanted]
        kept += [i] if chosen else []
        for box in chosen:
            for name, value in (
                ("image", image_id),
                ("label", box["label"]),
                *((n, box[n]) for n in WINDOW_COLUMNS),
            ):
                cells[name].append(value)
    _write(manifest, _manifest(records.take(pa.array(kept, pa.int64()))))
    table = folder / f"cells-{key[:12]}.parquet"
    _write(table, pa.table(dict(cells)))
    return InputConfig(
        manifest=str(manifest.resolve()), cells=str(table.resolve()), cell_size_px=cfg.cell_size_px, **plain
    ), key


def _manifest(records: pa.Table) -> pa.Table:
    """Return records as a table that ``read_records`` reads back to the same records."""
    uris, names = records["uris"].to_pylist(), records["uri_channels"].to_pylist()
    channels = next((row for row in names if row), None)
    kept = [n for n in ("image_id", "index", "pixel_size_um", "mask_uri") if n in records.column_names]
    columns: dict[str, Any] = {name: records[name] for name in kept}
    if channels is None:
        columns["uri"] = pa.array([row[0] if row else None for row in uris], pa.string())
    else:
        for c, channel in enumerate(channels):
            columns[f"uri_{channel}"] = pa.array([row[c] if row else None for row in uris], pa.string())
    return pa.table({**columns, **{n: records[n] for n in records.column_names if n.startswith(META_PREFIX)}})


def _write(path: Path, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue())


def _cap(ids: list[str], classes: list[str], reasons: list[str | None], cfg: EvaluateConfig) -> None:
    """Keep at most ``max_per_class`` rows a class: those whose ids hash lowest, so larger draws hold smaller ones."""
    if cfg.max_per_class is None:
        return
    members: dict[str, list[int]] = defaultdict(list)
    for i, reason in enumerate(reasons):
        if reason is None:
            members[classes[i]].append(i)
    for rows in members.values():
        ranked = sorted(rows, key=lambda i: hashlib.blake2b(f"{cfg.seed}\0{ids[i]}".encode()).digest())
        for i in ranked[cfg.max_per_class :]:
            reasons[i] = "over max_per_class"


def _text(value: Any) -> str | None:
    return None if value is None or value != value else str(value)
