"""Rows on their way to disk: collected into parts, embeddings and rejects apart."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from microsnoop.core.schema import embedding_schema, reject_schema
from microsnoop.io.parts import write_part
from microsnoop.io.store import RunStore

_PART_BYTES = 64 * 2**20


class RunWriter:
    """Collects rows and writes them as parts: at most ``rows_per_part`` rows or ``flush_seconds`` are at risk."""

    def __init__(
        self, store: RunStore, *, channels: list[str], dim: int, rows_per_part: int, flush_seconds: float
    ) -> None:
        self._store = store
        self._rows_per_part, self._flush_seconds = rows_per_part, flush_seconds
        self._embedded, self._rejected = embedding_schema(channels=channels, dim=dim), reject_schema()
        self._buffer: list[pa.Table] = []
        self._n_rows = self._n_bytes = 0
        self._oldest = 0.0
        self.written = self.rejected = 0

    def append(self, rows: pa.Table) -> None:
        """Take rows of ``schema.result_schema``; writes when enough rows, bytes or time have come together."""
        while rows.num_rows:
            if not self._buffer:
                self._oldest = time.monotonic()
            taken = rows.slice(0, self._rows_per_part - self._n_rows)
            rows = rows.slice(taken.num_rows)
            self._buffer.append(taken)
            self._n_rows += taken.num_rows
            self._n_bytes += taken.nbytes
            if self._n_rows >= self._rows_per_part or self._n_bytes >= _PART_BYTES:
                self.flush()
        self.flush_if_due()

    @property
    def waiting(self) -> int:
        """How many rows are collected and not yet written."""
        return self._n_rows

    def flush_if_due(self) -> None:
        """Write the collected rows when the oldest has waited long enough."""
        if self._buffer and time.monotonic() - self._oldest >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the collected rows now."""
        if self._buffer:
            with _uninterrupted():
                self._write()

    def _write(self) -> None:
        rows = pa.concat_tables(self._buffer)
        good = pc.is_null(rows["code"])
        embedded, rejected = rows.filter(good), rows.filter(pc.invert(good))
        if embedded.num_rows:
            write_part(self._store.embeddings, _conform(embedded, self._embedded))
            self.written += embedded.num_rows
        self._hold([rejected])  # should the next line fail, what is written must not be written again
        if rejected.num_rows:
            write_part(self._store.rejects, _conform(rejected, self._rejected))
            self.rejected += rejected.num_rows
        self._hold([])

    def _hold(self, tables: list[pa.Table]) -> None:
        self._buffer = [table for table in tables if table.num_rows]
        self._n_rows = sum(table.num_rows for table in self._buffer)
        self._n_bytes = sum(table.nbytes for table in self._buffer)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the block is left, so that what is written is also remembered.

    Python lets only the main thread do that; elsewhere no signal handler runs anyway.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    handlers = {
        number: signal.signal(number, lambda got, _frame: held.append(got))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([table[name] for name in schema.names], schema=schema)
