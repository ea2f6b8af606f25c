"""Parquet parts: written whole or not at all, named by their content.

A part is ``part-<number>-<first 16 hex digits of its SHA-256>.parquet``: written under another name, synced,
then renamed. What has a part's name is complete, and can prove that nobody changed it.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from microsnoop.core.errors import RunError, StaleOutput, StorageFull
from microsnoop.core.schema import READABLE_VERSIONS, ROW_FIELDS, SCHEMA_VERSION, read_header

_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.parquet")
_ROW_TYPES = dict(ROW_FIELDS)
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_part(folder: Path, table: pa.Table) -> Path:
    """Write one part and return its path; after return it survives a crash.

    Raises
    ------
    StorageFull
        No space left. Nothing half-written remains.
    """
    sink = pa.BufferOutputStream()
    # vectors are noise to a compressor; everything else is repetitive text
    names = [name for name in table.schema.names if name != "vectors"]
    compression = dict.fromkeys(_leaves(table.schema), "zstd") | _vector_column(table.schema)
    pq.write_table(table, sink, compression=compression, use_dictionary=names, store_schema=True)
    data = sink.getvalue()
    number = max((int(match[1]) for match in map(_NAME.fullmatch, _names(folder)) if match), default=0) + 1
    path = folder / f"part-{number:06d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    write_atomic(path, data)
    return path


def write_atomic(path: Path, data: bytes | pa.Buffer) -> None:
    """Write a file so that a crash leaves either the old one or the new one.

    Raises
    ------
    StorageFull
        No space left; the old file, if any, is untouched.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in _NO_SPACE:
            raise StorageFull(
                f"the disk is full: {path.name} could not be written to {path.parent} "
                f"({free_bytes(path.parent) / 1e6:.0f} MB free)",
                hint="all rows written before are safe: free some space and run the same command again",
            ) from error
        raise


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a whole table as one Parquet file, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write rows as CSV, atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_atomic(path, text.getvalue().encode())


def list_parts(folder: Path) -> list[Path]:
    """Return the complete parts of a folder, in the order they were written."""
    return sorted(folder / name for name in _names(folder) if _NAME.fullmatch(name))


def is_intact(part: Path) -> bool:
    """Whether the content of a part still has the SHA-256 in its name."""
    match = _NAME.fullmatch(part.name)
    with part.open("rb") as stream:
        return match is not None and hashlib.file_digest(stream, "sha256").hexdigest()[:16] == match[2]


def read_parts(parts: Sequence[Path], columns: Sequence[str]) -> Iterator[tuple[Path, pa.Table]]:
    """Yield each part with some of its columns; columns that came with a later version are null in older parts.

    Raises
    ------
    StaleOutput
        A part of a schema version this code does not know.
    RunError
        A part that is damaged.
    """
    for part in parts:
        try:
            with pq.ParquetFile(part) as file:
                version = read_header(file.schema_arrow).get("schema_version")
                table = _columns(file, columns) if version in READABLE_VERSIONS else None
        except (OSError, ValueError) as error:  # Arrow's own errors are both
            raise RunError(
                f"{part} cannot be read: {error}",
                hint="restore the file, or delete it and run the same command again: its rows are computed anew",
            ) from error
        if table is None:
            raise StaleOutput(
                f"{part} has schema version {version}; this version of microsnoop reads up to {SCHEMA_VERSION}",
                hint="read it with the version that wrote it (see run.json), or run again into a new folder",
            )
        yield part, table


def _columns(file: pq.ParquetFile, columns: Sequence[str]) -> pa.Table:
    """Read columns; what a part of an older version does not have yet is null."""
    table = file.read(columns=[name for name in columns if name in file.schema_arrow.names])
    for position, name in enumerate(columns):
        if name not in table.schema.names and name in _ROW_TYPES:
            nulls = pa.nulls(table.num_rows, _ROW_TYPES[name])
            table = table.add_column(position, pa.field(name, _ROW_TYPES[name]), nulls)
    return table


def remove_partials(folder: Path) -> None:
    """Delete what a crash left half-written (only files this module names)."""
    for name in filter(is_partial, _names(folder)):
        (folder / name).unlink(missing_ok=True)


def is_partial(name: str) -> bool:
    """Whether a file name is that of a file being written."""
    return name.startswith(".") and name.endswith(".partial")


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk a folder lies on."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []


def _leaves(schema: pa.Schema) -> list[str]:
    return [
        f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name
        for f in schema
        if f.name != "vectors"
    ]


def _vector_column(schema: pa.Schema) -> dict[str, str]:
    return {"vectors.list.element": "none"} if "vectors" in schema.names else {}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
