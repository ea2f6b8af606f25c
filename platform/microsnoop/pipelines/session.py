"""One session of a run: take results as they come, write them, and close the books whatever happens."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from microsnoop.core.codes import SELECTED_OUT
from microsnoop.core.config import ExecutionConfig
from microsnoop.core.errors import MicrosnoopError, RunError, StorageFull
from microsnoop.io.store import COUNT_COLUMNS, RunStore, now
from microsnoop.io.verify import samples_per_image
from microsnoop.io.writer import RunWriter
from microsnoop.pipelines.plan import ExecutionPlan
from microsnoop.pipelines.progress import Progress, RateClock, Reporter, Summary
from microsnoop.pipelines.resume import Identity

_COUNTED = ("images", "expected", "written", "rejected", "rejected_by_code", "images_rejected")
Stream = Callable[[pa.Table], Iterator[pa.Table]]


class Session:
    """Computes what is missing in a run directory, from the first missing row to the last or to an interrupt."""

    def __init__(
        self,
        store: RunStore,
        identity: Identity,
        plan: ExecutionPlan,
        *,
        execution: ExecutionConfig,
        on_progress: Reporter | None,
    ) -> None:
        self._store, self._plan, self._report = store, plan, on_progress
        self._n_channels = len(identity.channels)
        self._writer = RunWriter(
            store,
            channels=identity.channels,
            dim=identity.dim,
            rows_per_part=execution.rows_per_part,
            flush_seconds=execution.flush_seconds,
        )
        self._clock = RateClock()
        self._constant_planes = 0
        self._started, self._begin = now(), time.monotonic()

    def compute(self, pending: pa.Table, *, n_units: int, stream: Stream) -> Summary:
        """Write everything ``stream`` makes of the pending records, and the account of it to ``run.json``.

        Raises
        ------
        MicrosnoopError
            The job failed; what had come is written, except where the disk is full.
        """
        status = "complete"
        try:
            if pending.num_rows:
                self._consume(pending, n_units, stream)
        except KeyboardInterrupt:
            status = "interrupted"
        except StorageFull:
            raise  # nothing more can be written, run.json included
        except Exception as error:
            self._finish("failed")
            raise _explain(error) from error
        return self._finish(status)

    def _consume(self, pending: pa.Table, n_units: int, stream: Stream) -> None:
        done_before = n_units - pending.num_rows
        computed = 0.0
        for rows in stream(pending):
            self._writer.append(rows)
            self._clock.add(rows.num_rows)
            self._constant_planes += int(pc.sum(rows["n_constant_planes"]).as_py() or 0)
            computed += _image_shares(rows)
            if self._report is not None:
                self._report(self._progress(done_before, computed, n_units))

    def _progress(self, done_before: int, computed: float, n_units: int) -> Progress:
        rate = self._clock.rows_per_s
        images_per_s = rate * computed / max(1, self._clock.rows)
        done = done_before + computed
        return Progress(
            images_done=done,
            images_total=n_units,
            computed=self._clock.rows,
            rejected=self._writer.rejected,
            written=self._writer.written,
            rows_per_s=rate,
            seconds_left=(n_units - done) / images_per_s if images_per_s else None,
        )

    def _finish(self, status: str) -> Summary:
        self._writer.flush()
        counts, rows = self._store.counts(), self._store.rows(COUNT_COLUMNS)
        expected, _ = samples_per_image(self._store.records, rows)
        n_expected = int(pc.sum(expected).as_py() or 0)
        if status == "complete" and n_expected != counts["written"] + counts["rejected"]:
            status = "incomplete"
        summary = Summary(
            run_dir=str(self._store.path),
            status=status,
            images=len(pc.unique(self._store.records["image_id"])),
            expected=n_expected,
            images_rejected=_images_lost(rows, self._store.reject_table(("image_id", "code"))),
            computed=self._clock.rows,
            seconds=time.monotonic() - self._begin,
            rows_per_s=self._clock.rows_per_s,
            planes_per_s=self._clock.rows_per_s * self._n_channels,
            constant_plane_fraction=self._constant_planes / max(1, self._clock.rows * self._n_channels),
            **counts,
        )
        self._account(summary)
        return summary

    def _account(self, summary: Summary) -> None:
        """Add this session to ``run.json``."""
        session = {
            "started": self._started,
            "ended": now(),
            "status": summary.status,
            "host": socket.gethostname(),
            "device": asdict(self._plan.device),
            "actors": self._plan.actors,
            **{
                name: getattr(summary, name) for name in ("computed", "seconds", "rows_per_s", "planes_per_s")
            },
        }
        info = self._store.info
        counted = {name: getattr(summary, name) for name in _COUNTED}
        self._store.write_info(
            {
                **info,
                "status": summary.status,
                "counts": counted,
                # a look at a finished run is no session
                "sessions": [*info.get("sessions", []), *([session] if summary.computed else [])],
            }
        )


def _image_shares(rows: pa.Table) -> float:
    """Return how many images these rows are: each row is one of its image's ``n_samples``."""
    return float(pc.sum(pc.divide(1.0, pc.cast(rows["n_samples"], pa.float64()))).as_py() or 0.0)


def _images_lost(rows: pa.Table, rejects: pa.Table) -> int:
    """Return how many images have no vector at all though something of them was to be embedded."""
    embedded = rows.filter(pc.invert(rows["rejected"]))["image_id"]
    selected_out = pc.is_in(rejects["code"], value_set=pa.array([str(code) for code in SELECTED_OUT]))
    failed = rejects.filter(pc.invert(selected_out))["image_id"]
    return len(set(failed.to_pylist()) - set(embedded.to_pylist()))


def _explain(error: Exception) -> MicrosnoopError:
    """Find our own error inside what Ray raised; anything else failed in a worker and can be resumed."""
    cause: BaseException | None = error
    while cause is not None:
        for candidate in (cause, getattr(cause, "cause", None)):
            if isinstance(candidate, MicrosnoopError):
                return candidate
        cause = cause.__cause__ or getattr(cause, "cause", None)
    first = str(error).strip().splitlines() or [""]
    return RunError(
        f"the job failed: {type(error).__name__}: {first[-1]}",
        hint="what was computed is written; the same command goes on from there (--debug shows the traceback)",
    )
