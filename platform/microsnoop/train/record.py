"""What a training run leaves in its folder while it goes: a log line a step, TensorBoard events, pictures, progress."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from microsnoop.core.errors import RunError
from microsnoop.io.parts import write_atomic
from microsnoop.train.loop import LogRow
from microsnoop.train.watch import Watched

LOG, WATCH, PROGRESS = "log.csv", "watch.csv", "progress.json"
_WATCH_COLUMNS = ("step", "masked_loss", "spread", "effective_rank")


class Recorder:
    """Writes the files of one run; only one worker holds one.

    Parameters
    ----------
    folder
        The run directory.
    step
        Steps done so far: what the files say of later ones (of a run that crashed) is taken back.
    """

    def __init__(self, folder: Path, *, step: int, total: int) -> None:
        self._folder, self._total = folder, total
        self._warnings: list[str] = []
        for name in (LOG, WATCH):
            _cut_back(folder / name, step)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def steps(self, rows: Sequence[LogRow]) -> None:
        """Append the log of some steps and say how far the run is."""
        _append(self._folder / LOG, rows)
        for row in rows:
            for name, value in row.items():
                if name not in ("step", "steps_per_s"):
                    self._events.add_scalar(f"train/{name}", value, int(row["step"]))
        last = rows[-1]
        progress = {
            "step": int(last["step"]) + 1,
            "total": self._total,
            "loss": last["loss"],
            "planes_per_s": last["planes_per_s"],
            "seconds_left": (self._total - last["step"] - 1) / last["steps_per_s"],
            "warnings": self._warnings,
        }
        write_atomic(self._folder / PROGRESS, json.dumps(progress).encode())

    def watched(self, seen: Watched) -> None:
        """Append what was seen, and draw the loss curve and the reconstruction panel anew."""
        row: dict[str, Any] = {name: getattr(seen, name) for name in _WATCH_COLUMNS}
        _append(self._folder / WATCH, [row])
        for name in _WATCH_COLUMNS[1:]:
            if row[name] is not None:
                self._events.add_scalar(f"watch/{name}", row[name], seen.step)
        if seen.warning():
            self._warnings.append(seen.warning())
        _save(draw_curves(self._folder), self._folder / "loss.png")
        if seen.panel:
            panel = draw_panel(seen)
            _save(panel, self._folder / "panel.png")
            _save(panel, self._folder / "panels" / f"step-{seen.step:07d}.png")

    def close(self) -> None:
        """Flush the events."""
        self._events.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the lines of a log; [] where there is none yet.

    Raises
    ------
    RunError
        The file is damaged.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    if any(None in line or None in line.values() for line in lines[:-1]):
        raise RunError(f"{path} is damaged", hint="delete it: the run goes on and writes a new one")
    return lines


def draw_curves(folder: Path) -> Figure:
    """Draw every column of the log over the steps, and what was watched."""
    log, watched = read_log(folder / LOG), read_log(folder / WATCH)
    names = [name for name in (log[0] if log else {}) if name not in ("step", "planes_per_s", "steps_per_s")]
    extra = [name for name in _WATCH_COLUMNS[1:] if any(line[name] for line in watched)]
    figure = Figure(figsize=(4 * 3, 2.6 * -(-(len(names) + len(extra)) // 3)), layout="constrained")
    for i, name in enumerate(names + extra):
        axes = figure.add_subplot(-(-(len(names) + len(extra)) // 3), 3, i + 1)
        lines = log if name in names else watched
        points = [(int(float(line["step"])), float(line[name])) for line in lines if line[name]]
        axes.plot(
            *zip(*points, strict=True), linewidth=0.8, marker=None if name in names else "o", markersize=3
        )
        axes.set_title(name if name in names else f"watched: {name.replace('_', ' ')}", fontsize=9)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(visible=True, alpha=0.3)
    return figure


def draw_panel(seen: Watched) -> Figure:
    """Draw original, masked, reconstructed and error for one crop of each image kind (the paper's Figure 2)."""
    names, kinds = list(seen.panel), seen.kinds
    figure = Figure(figsize=(2 * len(names), 2.1 * len(kinds)), layout="constrained")
    for row, kind in enumerate(kinds):
        for column, name in enumerate(names):
            axes = figure.add_subplot(len(kinds), len(names), row * len(names) + column + 1)
            image = seen.panel[name][row]
            axes.set_facecolor("#7a3fa0")  # hidden patches are not a number and show the background
            low, high = (0.0, 0.5) if name == "error" else (0.0, 1.2)
            axes.imshow(image, cmap="magma" if name == "error" else "gray", vmin=low, vmax=high)
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(name, fontsize=9)
            if column == 0:
                axes.set_ylabel(kind or "unnamed", fontsize=9)
    figure.suptitle(f"step {seen.step:,}", fontsize=9)
    return figure


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    write_atomic(path, data.getvalue())


def _append(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    is_new = not path.is_file()
    with path.open("a", encoding="utf-8", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        if is_new:
            table.writeheader()
        for row in rows:
            table.writerow({name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()})


def _cut_back(path: Path, step: int) -> None:
    """Drop the lines of steps that will be done again, and a last line that was cut off."""
    lines = [line for line in read_log(path) if None not in line.values() and float(line["step"]) < step]
    if not path.is_file():
        return
    if not lines:
        path.unlink()
        return
    text = io.StringIO()
    table = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    write_atomic(path, text.getvalue().encode())
