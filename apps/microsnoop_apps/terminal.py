"""What a person sees: plan, progress, summary and errors, in a terminal or in a log file."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from microsnoop.core.errors import MicrosnoopError

if TYPE_CHECKING:
    from microsnoop.pipelines.embed import PreparedRun
    from microsnoop.pipelines.progress import Progress, Summary
    from microsnoop.train.run import TrainProgress

_LOG_EVERY_S = 10.0
_HELD_LINES = 10
_MANY_CONSTANT = 0.01
# Ray warns of its own way to start actors: https://github.com/ray-project/ray/issues/57733
_KNOWN_NOISE = "has constructor arguments in the object store"


def say(text: str = "") -> None:
    """Print one line of result."""
    print(text, flush=True)


def show_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, aligned."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"  {name.ljust(width)}  {value}")


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: first column to the left, the others to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        say("  " + "  ".join(cells).rstrip())


def show_error(error: BaseException) -> None:
    """Print an error as one readable sentence, with the fix where there is one."""
    message = error.message if isinstance(error, MicrosnoopError) else f"{type(error).__name__}: {error}"
    print(f"error: {message}", file=sys.stderr)
    hint = (
        error.hint
        if isinstance(error, MicrosnoopError)
        else "run the command again with --debug to see where"
    )
    if hint:
        print(f"  fix: {hint}", file=sys.stderr)


def show_plan(run: PreparedRun) -> None:
    """Print what a run is going to do."""
    probed, card, records = run.probed, run.bundle.card, run.inputs.records
    cells = (
        sum(len(boxes) for boxes in records["boxes"].to_pylist()) if "boxes" in records.column_names else 0
    )
    n_images = len(set(records["image_id"].to_pylist()))  # a large field is several records
    what = f"{n_images:,}" + (f" with {cells:,} cells" if cells else "")
    size = f"{probed.height_px} × {probed.width_px} px {probed.dtype}"
    say("Plan")
    show_rows(
        [
            ("images", f"{what} (typical: {size})"),
            ("channels", ", ".join(probed.channels)),
            (
                "encoder",
                f"{card.name}, {len(probed.channels)} × {card.dim} numbers a row, input {run.options.input_px} px",
            ),
            *run.plan.describe(),
        ]
    )
    if probed.unreadable or probed.disagreeing:
        say(
            f"  note: of {probed.looked_at} images looked at, {probed.unreadable} cannot be read and "
            f"{probed.disagreeing} have other channels; such images go to the rejects"
        )
    for note in run.inputs.notes:
        say(f"  note: {note}")
    if card.warning():
        say(f"  {card.warning()}")


def show_records(run: PreparedRun, count: int = 5) -> None:
    """Print the first records of a run, for a look before it starts."""
    say(f"First {min(count, run.inputs.records.num_rows)} of {run.inputs.records.num_rows:,} images")
    for row in run.inputs.records.slice(0, count).to_pylist():
        uris = row["uris"]
        where = str(uris[0] if uris else None) + (f" (+{len(uris) - 1} channels)" if len(uris) > 1 else "")
        where += "" if row["index"] is None else f" [{row['index']}]"
        meta = ", ".join(
            f"{name.removeprefix('meta_')}={value}" for name, value in row.items() if name.startswith("meta_")
        )
        cells = f"; {len(row['boxes'])} cells" if row.get("boxes") is not None else ""
        say(f"  {row['image_id']}: {where}{cells}" + (f"; {meta}" if meta else ""))


def show_summary(summary: Summary) -> None:
    """Print what a run did and the balance of its rows."""
    rate = f", {summary.rows_per_s:.1f} rows/s = {summary.planes_per_s:.1f} planes/s after start-up"
    say(
        f"{summary.computed:,} computed in {summary.seconds:.0f} s" + (rate if summary.rows_per_s else "")
        + ("" if summary.computed else ": everything was there already")
    )  # fmt: skip
    codes = ", ".join(f"{code} {n:,}" for code, n in summary.rejected_by_code.items())
    sign = "=" if summary.expected == summary.written + summary.rejected else "≠"
    say(
        f"expected {summary.expected:,} {sign} written {summary.written:,} + rejected {summary.rejected:,}"
        + (f" ({codes})" if codes else "")
    )
    if summary.constant_plane_fraction > _MANY_CONSTANT:
        say(
            f"warning: {summary.constant_plane_fraction:.1%} of the planes have no contrast (flag constant_plane); is "
            "a channel empty, or are empty wells among the images?"
        )
    if summary.status == "interrupted":
        say("interrupted: everything computed is written; the same command goes on from here")


class ProgressLine:
    """A bar in a terminal; elsewhere a line every ten seconds, because logs have no cursor."""

    def __init__(self, what: str = "embedding") -> None:
        self._what = what
        self._last = 0.0
        self._bar: Any = None

    def __enter__(self) -> ProgressLine:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self._what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task("", total=None, rate="starting")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def embedding(self, progress: Progress) -> None:
        """Show the state of an embedding run."""
        self._show(
            progress.images_done,
            progress.images_total,
            f"{progress.images_done:,.0f} of {progress.images_total:,} images, {progress.computed:,} rows computed, "
            f"{progress.written:,} written, {progress.rejected:,} rejected",
            f"{progress.rows_per_s:.1f} rows/s" if progress.rows_per_s else "measuring the rate",
            progress.seconds_left,
        )

    def counting(self, done: int, total: int, counts: str, *, per_s: float) -> None:
        """Show how many of how many things are done."""
        left = (total - done) / per_s if per_s else None
        self._show(done, total, counts, f"{per_s:.1f} a second", left)

    def training(self, progress: TrainProgress) -> None:
        """Show the state of a training run."""
        self._show(
            progress.step,
            progress.total,
            f"{progress.step:,} of {progress.total:,} steps",
            f"loss {progress.loss:.4g}, {progress.planes_per_s:,.0f} planes/s",
            progress.seconds_left,
        )

    def _show(self, done: float, total: int, counts: str, rate: str, seconds_left: float | None) -> None:
        if self._bar is not None:
            self._bar.update(self._task, total=total, completed=int(done), rate=rate)
            return
        if time.monotonic() - self._last < _LOG_EVERY_S and done < total - 0.5:
            return
        self._last = time.monotonic()
        left = "" if seconds_left is None else f", {_duration(seconds_left)} left"
        print(f"{self._what}: {counts}, {rate}{left}", file=sys.stderr, flush=True)


class CropCounter:
    """Says every ten seconds how many crops went through the encoder."""

    def __init__(self, total: int) -> None:
        self._total, self._last = total, time.monotonic()

    def __call__(self, done: int) -> None:
        """Take the number of crops done."""
        if time.monotonic() - self._last >= _LOG_EVERY_S:
            self._last = time.monotonic()
            print(f"{done:,} of {self._total:,} crops", file=sys.stderr, flush=True)


@contextmanager
def native_messages_held() -> Iterator[None]:
    """Keep what C++ libraries print to the error stream off the screen unless the block fails.

    Ray's core writes warnings there that no setting of Ray's own logging reaches. Python's own messages stay on
    the screen.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    python_stderr = sys.stderr
    with tempfile.TemporaryFile() as held, os.fdopen(screen, "w", buffering=1) as stream:
        os.dup2(held.fileno(), 2)
        sys.stderr = stream
        try:
            yield
        except Exception:
            held.seek(0)
            lines = [
                line for line in held.read().decode(errors="replace").splitlines() if _KNOWN_NOISE not in line
            ]
            for line in lines[-_HELD_LINES:]:
                print(line, file=stream)
            raise
        finally:
            stream.flush()
            os.dup2(screen, 2)
            sys.stderr = python_stderr


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
