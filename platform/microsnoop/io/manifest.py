"""What a run works on: a manifest, a folder or a file-name pattern, as one checked table of records.

No image is opened here, except the headers of stacks (how many images do they hold?). Every problem that
concerns the list as a whole is an error now; a single file that is missing or broken becomes a reject later.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError, RowRejected
from microsnoop.core.schema import MASK_FIELDS, META_PREFIX, RECORD_FIELDS
from microsnoop.io.cells import attach_cells
from microsnoop.io.formats import EXTENSIONS
from microsnoop.io.images import open_image
from microsnoop.io.masks import attach_masks
from microsnoop.io.opener import is_remote, join, list_files, local_path, parent
from microsnoop.io.patterns import compile_pattern, match_files
from microsnoop.io.sources import with_fingerprints, with_keys
from microsnoop.io.tables import meta_columns, numbers, read_table

_URI_ALIASES = ("uri", "path", "file", "image")
_URI_PREFIX = "uri_"
_MASK = "mask_uri"


@dataclass(frozen=True)
class InputList:
    """Checked records and what there is to say about them.

    ``records`` has the columns of ``schema.RECORD_FIELDS``, ``boxes`` where a table of cells was given,
    ``schema.MASK_FIELDS`` where masks were, and metadata columns ``meta_*``. ``cells`` holds the cells' own
    metadata under ``parent_id`` (``image_id#label``). ``notes`` are sentences for the plan: files ignored,
    images without cells.
    """

    records: pa.Table
    cells: pa.Table | None
    notes: tuple[str, ...]


def read_records(cfg: InputConfig) -> InputList:
    """Turn the input settings into records, one an image, in a stable order.

    Raises
    ------
    InputError
        Nothing found, an unreadable table, columns that are missing, ids that repeat.
    """
    if cfg.manifest is not None:
        table, notes = _from_manifest(cfg)
    elif cfg.folder is not None:
        table, notes = _from_folder(cfg.folder)
    else:
        table, notes = _from_pattern(str(cfg.pattern))
    if cfg.stack:
        table = _expand_stacks(table, cfg)
    _check_unique(table)
    cells = None
    if cfg.cells is not None:
        table, cells, cell_notes = attach_cells(table, cfg)
        notes += cell_notes
    elif cfg.masks is not None:
        table, mask_notes = attach_masks(table, cfg)
        notes += mask_notes
    if cfg.limit is not None and cfg.limit < table.num_rows:
        notes.append(f"only the first {cfg.limit:,} of {table.num_rows:,} images (input.limit)")
        table = table.slice(0, cfg.limit)
    return InputList(_finish(table, cfg), cells, tuple(notes))


def _from_manifest(cfg: InputConfig) -> tuple[pa.Table, list[str]]:
    assert cfg.manifest is not None
    table = read_table(cfg.manifest, columns=cfg.columns)
    root = cfg.root if cfg.root is not None else parent(cfg.manifest)
    separate = [name for name in table.column_names if name.startswith(_URI_PREFIX)]
    if separate:
        columns = {name.removeprefix(_URI_PREFIX): table[name].to_pylist() for name in separate}
        relative = [list(row) for row in zip(*columns.values(), strict=True)]
        channels: list[str] | None = list(columns)
    else:
        name = next((alias for alias in _URI_ALIASES if alias in table.column_names), None)
        if name is None:
            raise InputError(
                f"{cfg.manifest} has no column that says where the images are",
                hint="name it `uri`, or one column per channel `uri_<channel>`, or map it with "
                f"input.columns; the table has {', '.join(table.column_names)}",
            )
        separate, channels = [name], None
        relative = [[value] for value in table[name].to_pylist()]
    uris = [[None if uri is None else join(root, str(uri)) for uri in row] for row in relative]
    index = _optional(table, "index", cfg.manifest, integer=True)
    ids = (
        [None if value is None else str(value) for value in table["image_id"].to_pylist()]
        if "image_id" in table.column_names
        else [_default_id(row, i) for row, i in zip(relative, index, strict=True)]
    )
    nameless = next((row for row, name in enumerate(ids, start=1) if name is None), None)
    if nameless is not None:
        raise InputError(f"{cfg.manifest}: row {nameless} has no image_id")
    sizes = _optional(table, "pixel_size_um", cfg.manifest)
    bad = [row for row, size in enumerate(sizes, start=1) if size is not None and not 0 < size < math.inf]
    if bad:
        raise InputError(f"{cfg.manifest}: pixel_size_um must be positive, see row(s) {bad[:10]}")
    masks = _masks(table, root, cfg)
    taken = {*separate, "image_id", "index", "pixel_size_um", _MASK}
    meta = meta_columns(table, [name for name in table.column_names if name not in taken])
    return _records(ids, uris, channels=channels, index=index, sizes=sizes, meta=masks | meta), []


def _masks(table: pa.Table, root: str, cfg: InputConfig) -> dict[str, Any]:
    """Return the column of label images, if the manifest has one."""
    if _MASK not in table.column_names:
        return {}
    if cfg.masks is not None or cfg.cells is not None:
        other = "input.masks" if cfg.masks is not None else "input.cells"
        raise InputError(
            f"{cfg.manifest} has a column {_MASK}, and {other} is given too: both say where the cells are"
        )
    uris = [None if uri is None else join(root, str(uri)) for uri in table[_MASK].to_pylist()]
    return {_MASK: pa.array(uris, pa.string())}


def _from_folder(folder: str) -> tuple[pa.Table, list[str]]:
    files = list(list_files(folder))
    images = [uri for uri in files if uri.lower().endswith(EXTENSIONS)]
    if not images:
        found = Counter(PurePosixPath(uri).suffix or "none" for uri in files)
        seen = ", ".join(f"{n} × {suffix}" for suffix, n in found.most_common(5)) or "it is empty"
        raise InputError(
            f"no images in {folder} ({seen})", hint=f"image files end in {', '.join(EXTENSIONS)}"
        )
    ids = [_relative(uri, folder) for uri in images]
    folders = [str(PurePosixPath(i).parent) for i in ids]
    meta = {} if set(folders) == {"."} else {"meta_folder": pa.array(folders)}
    ignored = len(files) - len(images)
    notes = [f"{ignored:,} other files in {folder} are not images and were left out"] if ignored else []
    return _records(ids, [[uri] for uri in images], meta=meta), notes


def _from_pattern(pattern: str) -> tuple[pa.Table, list[str]]:
    compiled = compile_pattern(pattern)
    files = list(list_files(compiled.base))
    found = match_files(compiled, files)
    meta = {f"{META_PREFIX}{name}": pa.array(values) for name, values in found.fields.items()}
    ignored = len(files) - found.n_files
    notes = (
        [f"{ignored:,} files below {compiled.base} do not match the pattern and were left out"]
        if ignored
        else []
    )
    return _records(found.ids, found.uris, channels=found.channels, meta=meta), notes


def _records(
    ids: Sequence[str | None],
    uris: Sequence[Sequence[str | None]],
    *,
    channels: Sequence[str] | None = None,
    index: Sequence[int | None] | None = None,
    sizes: Sequence[float | None] | None = None,
    meta: dict[str, Any],
) -> pa.Table:
    n = len(ids)
    columns = {
        "image_id": pa.array(ids, pa.string()),
        "uris": pa.array(uris, pa.list_(pa.string())),
        "uri_channels": pa.array([list(channels) if channels else None] * n, pa.list_(pa.string())),
        "index": pa.array(index if index is not None else [None] * n, pa.int64()),
        "pixel_size_um": pa.array(sizes if sizes is not None else [None] * n, pa.float64()),
    }
    return pa.table({**columns, **meta})


def _expand_stacks(table: pa.Table, cfg: InputConfig) -> pa.Table:
    """Make one record of every image of every file; a file that cannot be opened stays one record.

    Rows that name an index already stay as they are. Where channels are separate stacks, the longest one counts:
    images that another one lacks become rejects.
    """
    limit_px = int(cfg.max_image_mpx * 1e6)

    def count(uri: str | None) -> int:
        try:
            file = open_image(str(uri), stack=True, limit_px=limit_px)
        except RowRejected:
            return 0
        file.close()
        return file.info.n_images

    source: list[int] = []
    index: list[int | None] = []
    for row, (uris, given) in enumerate(
        zip(table["uris"].to_pylist(), table["index"].to_pylist(), strict=True)
    ):
        n_images = max((count(uri) for uri in uris), default=0) if given is None else 0
        source += [row] * max(n_images, 1)
        index += list(range(n_images)) or [given]
    ids = [
        name if k is None or given is not None else f"{name}[{k}]"
        for name, given, k in zip(
            table["image_id"].take(source).to_pylist(),
            table["index"].take(source).to_pylist(),
            index,
            strict=True,
        )
    ]
    table = table.take(source)
    for name, values in (("image_id", pa.array(ids)), ("index", pa.array(index, pa.int64()))):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table


def _finish(table: pa.Table, cfg: InputConfig) -> pa.Table:
    """Add fingerprints and the key of each record's source; apply the overriding pixel size."""
    if cfg.pixel_size_um is not None:
        sizes = pa.array([cfg.pixel_size_um] * table.num_rows, pa.float64())
        table = table.set_column(table.schema.get_field_index("pixel_size_um"), "pixel_size_um", sizes)
    table = with_keys(with_fingerprints(table))
    columns = {name: table[name] for name in table.column_names}
    meta = [name for name in table.column_names if name.startswith(META_PREFIX)]
    further = [name for name in ("boxes", *(n for n, _ in MASK_FIELDS)) if name in columns]
    return pa.table({name: columns[name] for name in [*(n for n, _ in RECORD_FIELDS), *further, *meta]})


def _check_unique(table: pa.Table) -> None:
    counts = Counter(table["image_id"].to_pylist())
    repeated = [f"{name!r} ({n} times)" for name, n in counts.items() if n > 1]
    if repeated:
        raise InputError(
            f"{len(repeated)} image ids stand more than once: {', '.join(repeated[:5])}",
            hint="every image needs an id of its own: give a column image_id, or remove the repeated rows",
        )


def _default_id(uris: Sequence[str | None], index: int | None) -> str:
    name = next((str(uri) for uri in uris if uri is not None), "")
    return name if index is None else f"{name}[{index}]"


def _relative(uri: str, folder: str) -> str:
    """Return an image's id: its path below the folder, odd bytes written as escapes."""
    if is_remote(folder):
        return uri.removeprefix(folder.rstrip("/") + "/")
    base = local_path(folder).absolute() if uri.startswith("file://") else local_path(folder)
    return os.fsencode(local_path(uri).relative_to(base).as_posix()).decode("utf-8", "backslashreplace")


def _optional(table: pa.Table, name: str, where: str, *, integer: bool = False) -> list[Any]:
    present = name in table.column_names
    return numbers(table, name, where=where, integer=integer) if present else [None] * table.num_rows
