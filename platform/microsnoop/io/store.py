"""The run directory: what was asked, what is written, what was rejected, and who may write.

::

    RUN/
      run.json                      settings, encoder, versions, counts, sessions
      records.parquet               the input list, with metadata
      cells.parquet                 metadata of cells, if a table of cells was given
      embeddings/part-*.parquet     one row a sample, with its vectors
      rejects/part-*.parquet        one row a sample that could not be embedded, with the reason
      retried/                      rejects that `microsnoop retry` took up again
      .lock                         held by the process that writes

One process writes: parts appear by renaming, so a run that is killed at any moment leaves only whole parts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from microsnoop.core.errors import RunError
from microsnoop.core.schema import READABLE_VERSIONS, SCHEMA_VERSION, reject_schema
from microsnoop.io.lock import hold
from microsnoop.io.parts import is_partial, list_parts, read_parts, remove_partials, write_atomic

COUNT_COLUMNS = ("obs_id", "image_id", "block", "n_samples")


class RunStore:
    """One run directory. Reading needs no lock; writing happens inside :meth:`lock`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.embeddings, self.rejects = path / "embeddings", path / "rejects"
        self._info: dict[str, Any] | None = None

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "run.json").is_file()

    @property
    def info(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises
        ------
        RunError
            Not a run directory, or made by a newer version.
        """
        if self._info is None:
            try:
                loaded = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
            except FileNotFoundError as error:
                raise RunError(
                    f"{self.path} is not a run directory: it has no run.json",
                    hint="`microsnoop embed` makes one",
                ) from error
            except OSError as error:
                raise RunError(f"{self.path / 'run.json'} cannot be read: {error.strerror}") from error
            except ValueError as error:
                raise RunError(f"{self.path / 'run.json'} is damaged: {error}") from error
            version = loaded.get("schema_version") if isinstance(loaded, dict) else None
            if version not in READABLE_VERSIONS:
                raise RunError(
                    f"{self.path} has schema version {version}, this version reads up to {SCHEMA_VERSION}"
                )
            self._info = loaded
        return self._info

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers of this run (see ``pipelines.resume.Identity``).

        Raises
        ------
        RunError
            ``run.json`` does not say.
        """
        try:
            found: dict[str, Any] = self.info["identity"]
        except KeyError as error:
            raise RunError(f"{self.path / 'run.json'} is damaged: it has no {error}") from error
        return found

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        self._info = {"schema_version": SCHEMA_VERSION, **info}
        text = json.dumps(self._info, indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomic(self.path / "run.json", text.encode("utf-8", "surrogateescape"))

    @property
    def records(self) -> pa.Table:
        """The input list this run works on."""
        return self._table("records.parquet")

    @property
    def cells(self) -> pa.Table | None:
        """Metadata of cells by ``parent_id``, if any."""
        return self._table("cells.parquet") if (self.path / "cells.parquet").is_file() else None

    def _table(self, name: str) -> pa.Table:
        try:
            return pq.read_table(self.path / name)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path / name} cannot be read: {error}",
                hint="restore it from a backup, or begin a new run that takes over what is valid: --fork NEW_DIR",
            ) from error

    def write_inputs(self, records: pa.Table, cells: pa.Table | None) -> None:
        """Replace the input list and the cells' metadata."""
        for name, table in (("records", records), ("cells", cells)):
            if table is not None:
                sink = pa.BufferOutputStream()
                pq.write_table(table, sink, compression="zstd")
                write_atomic(self.path / f"{name}.parquet", sink.getvalue())

    def create(self) -> None:
        """Make the folders.

        Raises
        ------
        RunError
            The path is a file, or a folder that holds something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"the run directory {self.path} is a file")
        foreign = [] if self.exists or not self.path.is_dir() else self._foreign_entries()
        if not self.exists and (self.embedding_parts() or self.reject_parts()):
            raise RunError(
                f"{self.path} holds the rows of a run, but no run.json that describes it",
                hint="restore run.json, or choose another run_dir",
            )
        if foreign:
            raise RunError(
                f"{self.path} is not empty and not a run directory (it holds {', '.join(foreign[:3])})",
                hint="choose another run_dir",
            )
        try:
            for folder in (self.embeddings, self.rejects):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot create {error.filename}: {error.strerror}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for writing; the system frees the lock when the process ends, however it ends.

        Raises
        ------
        RunLocked
            Another process holds it; the message says which.
        """
        self.create()
        with hold(self.path):
            for folder in (self.path, self.embeddings, self.rejects):
                remove_partials(folder)
            yield

    def embedding_parts(self) -> list[Path]:
        """Return the parts with vectors, in the order they were written."""
        return list_parts(self.embeddings)

    def reject_parts(self) -> list[Path]:
        """Return the parts with rejects, in the order they were written."""
        return list_parts(self.rejects)

    def rows(self, columns: tuple[str, ...], *, without: Sequence[Path] = ()) -> pa.Table:
        """Return some columns of all rows, embedded and rejected; ``rejected`` says which.

        Parts in ``without`` are left out.
        """
        tables = []
        for parts, rejected in ((self.embedding_parts(), False), (self.reject_parts(), True)):
            for _, table in read_parts([part for part in parts if part not in without], columns):
                tables.append(table.append_column("rejected", pa.array([rejected] * table.num_rows)))
        if tables:
            return pa.concat_tables(tables)
        fields = [field for field in reject_schema() if field.name in columns]
        return pa.schema([*fields, ("rejected", pa.bool_())]).empty_table()

    def reject_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rejects, or some columns of them."""
        names = reject_schema().names if columns is None else list(columns)
        tables = [table for _, table in read_parts(self.reject_parts(), names)]
        return pa.concat_tables(tables) if tables else reject_schema().empty_table().select(names)

    def counts(self) -> dict[str, Any]:
        """Return how many rows are written and rejected, by reason."""
        written = sum(pq.read_metadata(part).num_rows for part in self.embedding_parts())
        codes = pc.value_counts(self.reject_table(("code",))["code"]).to_pylist()
        by_code = {entry["values"]: entry["counts"] for entry in sorted(codes, key=lambda e: -e["counts"])}
        return {"written": written, "rejected": sum(by_code.values()), "rejected_by_code": by_code}

    def retire_rejects(self) -> int:
        """Move all rejects to ``retried/`` so that their rows count as missing; return how many rows."""
        count = int(self.reject_table(("obs_id",)).num_rows)
        target = self.path / "retried"
        target.mkdir(exist_ok=True)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        for part in self.reject_parts():
            part.rename(target / f"{stamp}-{part.name}")
        return count

    def discard_parts(self) -> None:
        """Delete all rows: only for a copy of another run that was cut off before it was complete."""
        for part in self.embedding_parts() + self.reject_parts():
            part.unlink()

    def _foreign_entries(self) -> list[str]:
        own = {".lock", "embeddings", "rejects", "retried", "records.parquet", "cells.parquet"}
        names = (entry.name for entry in self.path.iterdir())
        return sorted(name for name in names if name not in own and not is_partial(name))


def row_key(record_key: str, box: Sequence[int | None], processing_key: str) -> str:
    """Return what a row was made from: source, window (y0, x0, height, width), settings and weights."""
    text = f"{record_key}\0{tuple(box)}\0{processing_key}"
    return blake2b(text.encode(), digest_size=16).hexdigest()


def now() -> str:
    """Return the time in UTC, ISO format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
