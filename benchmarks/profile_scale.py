"""Correct and aggregate a screen that no process should hold: time, and the memory of all processes together.

    python benchmarks/profile_scale.py --rows 1500000 --width 1280

Profiles of a screen of the size of RxRx19a are generated as Parquet parts, one a plate of 1,380 wells with 4 sites:
batch and plate effects of low rank, effects of treatments, 5 % control wells, a few rows without a well or with NaN.
They are corrected by sphering and aggregated to wells and treatments; then a sample is checked against the same
correction in memory, and the rate is compared to a bare loop over the first parts (read and correct, without Ray,
without writing or aggregating).
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
import threading
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from peak_memory import PeakMemory, peak_memory_of_this_process

from microsnoop.correction.sphering import Sphering
from microsnoop.io.parts import list_parts
from microsnoop.pipelines.profile_blocks import BlockSummary, run_blocks

WELLS, SITES, PLATES_PER_BATCH, CONTROLS = 1380, 4, 24, 69
BASELINE_ROWS = 100_000
TREATMENTS = 9_000
_WELL_NAMES = [
    f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[i // 48 % 26]}{i // 1248 or ''}{i % 48 + 1:02d}" for i in range(WELLS)
]


class Curve:
    """The memory of all processes over time: the largest value of every few seconds."""

    def __init__(self, watch: PeakMemory) -> None:
        self.points: list[tuple[float, float]] = []
        self._watch, self._begin, self._stop = watch, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Stop, and return the peak in GB."""
        self._stop.set()
        self._thread.join()
        return max((gigabytes for _, gigabytes in self.points), default=0.0)

    def write(self, path: Path, summary: BlockSummary, title: str) -> None:
        """Write the curve as a table and, beside it, as a picture with the phases of the run."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["seconds", "gigabytes"])
            writer.writerows((f"{second:.1f}", f"{size:.3f}") for second, size in self.points)
        mpl.use("Agg")
        figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
        axes.plot(*zip(*self.points, strict=True), color="tab:blue")
        end = 0.0
        for number, (name, seconds) in enumerate(summary.seconds.items()):
            axes.axvspan(
                end,
                end + seconds,
                color=["0.95", "0.88"][number % 2],
                zorder=0,
                label=f"{name} {seconds:.0f} s",
            )
            end += seconds
        axes.set(xlabel="seconds", ylabel="memory of all processes, GB", title=title, ylim=(0, None))
        axes.legend(loc="lower right", fontsize="small")
        figure.savefig(path.with_suffix(".png"), dpi=120)

    def _follow(self) -> None:
        while not self._stop.wait(2.5):  # longer than the watch's own interval
            if self._watch.peak_bytes:  # on a busy machine the watch may not have looked meanwhile
                self.points.append((time.monotonic() - self._begin, self._watch.peak_bytes / 1e9))
            self._watch.peak_bytes = 0


class Screen:
    """Plates of a screen, each drawn by itself from one seed."""

    def __init__(self, width: int, seed: int = 0) -> None:
        rng = np.random.default_rng((seed, 0))
        self.width, self.seed = width, seed
        self._nuisance = rng.normal(size=(32, width)).astype(np.float32)
        self._effects = rng.normal(size=(64, width)).astype(np.float32) / 8

    def plate(self, number: int, rows: int) -> pa.Table:
        """Return the first rows of a plate, with what is known of them."""
        rng = np.random.default_rng((self.seed, 1, number))
        batch = number // PLATES_PER_BATCH
        shift = np.random.default_rng((self.seed, 2, batch)).normal(size=32) * 2 + rng.normal(size=32)
        well = np.arange(rows) // SITES
        treated = np.where(well < CONTROLS, -1, (number * (WELLS - CONTROLS) + well - CONTROLS) % TREATMENTS)
        x = rng.standard_normal((rows, self.width), dtype=np.float32)
        x += (rng.normal(size=(rows, 32)) * 0.5 + shift).astype(np.float32) @ self._nuisance
        strength = np.random.default_rng((self.seed, 3)).normal(size=(TREATMENTS + 1, 64)).astype(np.float32)
        strength[-1] = 0
        x += strength[treated] @ self._effects
        if number % 10 == 0:
            x[7, 3] = np.nan
        names = [_WELL_NAMES[w] for w in well]
        plate = f"plate{number + 1:04d}"
        columns = {
            "obs_id": [f"{plate}/{name}/{row % SITES}" for row, name in enumerate(names)],
            "plate": [plate] * rows,
            "well": [None if number % 10 == 0 and row == 11 else name for row, name in enumerate(names)],
            "batch": [f"batch{batch + 1:02d}"] * rows,
            "treatment": [
                "DMSO@na" if t < 0 else f"drug{t // 6 + 1}@{10 / 3 ** (t % 6):.3g} uM" for t in treated
            ],
            "is_control": (treated < 0).tolist(),
        }
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), self.width)
        return pa.table(columns).append_column("vectors", vectors)


def write_parts(folder: Path, *, rows: int, width: int) -> None:
    """Write plates until there are so many rows."""
    folder.mkdir(parents=True)
    screen = Screen(width)
    for plate, start in enumerate(range(0, rows, WELLS * SITES)):
        table = screen.plate(plate, min(WELLS * SITES, rows - start))
        known = table.column_names[:-1]
        pq.write_table(table, folder / f"{plate:05d}.parquet", compression="none", use_dictionary=known)


def vectors_of(table: pa.Table) -> NDArray[np.float32]:
    """Return the column ``vectors`` as (n, d)."""
    column = table["vectors"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def bare_loop(source: Path, corrector: Sphering, rows: int) -> float:
    """Read and correct the first rows in this process; return rows a second."""
    begin, done = time.monotonic(), 0
    for part in sorted(source.glob("*.parquet")):
        x = vectors_of(pq.read_table(part, columns=["vectors"]))
        corrector.transform(x[np.isfinite(x).all(axis=1)])
        done += len(x)
        if done >= rows:
            break
    return done / (time.monotonic() - begin)


def check_rows(source: Path, out: Path, corrector: Sphering, *, wanted: int = 1000) -> float:
    """Return the largest difference of so many random written rows to the same correction in memory."""
    rng, worst = np.random.default_rng(1), 0.0
    parts = list_parts(out / "rows")
    per_part = -(-wanted // min(len(parts), 20))
    for part in rng.choice(np.array(parts), min(len(parts), 20), replace=False):
        table = pq.read_table(part)
        table = table.take(rng.choice(table.num_rows, min(per_part, table.num_rows), replace=False))
        ids = table["obs_id"]
        plates = sorted(set(table["plate"].to_pylist()))
        paths = [source / f"{int(name.removeprefix('plate')) - 1:05d}.parquet" for name in plates]
        raw = pa.concat_tables([pq.read_table(path) for path in paths])
        place = {name: row for row, name in enumerate(raw["obs_id"].to_pylist())}
        x = vectors_of(raw.take([place[name] for name in ids.to_pylist()]))
        worst = max(worst, float(np.abs(corrector.transform(x) - vectors_of(table)).max()))
    return worst


def check_treatments(source: Path, out: Path, corrector: Sphering, *, wanted: int = 5) -> float:
    """Return the largest difference of some treatments to means of means that are computed anew from the source."""
    written, worst = pq.read_table(out / "treatments.parquet"), 0.0
    names = np.random.default_rng(2).choice(written["obs_id"].to_pylist()[1:], wanted, replace=False)
    found = ds.dataset(source).to_table(filter=ds.field("treatment").isin(names.tolist()))
    x = vectors_of(found)
    keep = np.isfinite(x).all(axis=1) & found["well"].is_valid().to_numpy()
    corrected = corrector.transform(x[keep]).astype(np.float64)
    keys = [f"{p}/{w}" for p, w in zip(found["plate"].to_pylist(), found["well"].to_pylist(), strict=True)]
    wells, treatments = np.array(keys)[keep], np.array(found["treatment"].to_pylist())[keep]
    for name in names:
        mine = treatments == name
        means = [corrected[mine & (wells == well)].mean(axis=0) for well in np.unique(wells[mine])]
        row = written["obs_id"].to_pylist().index(name)
        worst = max(worst, float(np.abs(np.mean(means, axis=0) - vectors_of(written.slice(row, 1))[0]).max()))
    return worst


def main() -> None:
    """Generate, run, check, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--reg", default="shrinkage", choices=["knee", "shrinkage", "ridge", "heldout"])
    parser.add_argument("--precision", default="float64", choices=["float64", "float32"])
    parser.add_argument(
        "--no-rows", action="store_true", help="write no corrected rows, only wells and treatments"
    )
    parser.add_argument(
        "--curve", type=Path, default=Path("profile_scale.csv"), help="table; a picture beside it"
    )
    parser.add_argument(
        "--folder", type=Path, help="where parts and results are kept; default: a temporary folder"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        source, out = folder / f"parts-{args.rows}-{args.width}", folder / f"out-{args.rows}-{args.width}"
        if not source.exists():
            begin = time.monotonic()
            write_parts(source, rows=args.rows, width=args.width)
            print(f"generated in {time.monotonic() - begin:.0f} s")
        shutil.rmtree(out, ignore_errors=True)
        size = sum(part.stat().st_size for part in source.glob("*.parquet")) / 1e9
        title = f"{args.rows:,} rows of {args.width} features, {size:.1f} GB, sphering ({args.reg}, {args.precision})"
        print(title)
        corrector = Sphering(reg=args.reg, precision=args.precision)
        with peak_memory_of_this_process() as watch:
            curve, begin = Curve(watch), time.monotonic()
            summary = run_blocks(source, out, corrector=corrector, write_rows=not args.no_rows)
            seconds, peak = time.monotonic() - begin, curve.stop()
        curve.write(args.curve, summary, title)
        for name, spent in summary.seconds.items():
            print(f"  {name:<12}{spent:8.1f} s")
        rate = summary.rows_in / summary.seconds["apply"]
        print(
            f"in all {seconds:.0f} s, {summary.rows_in / seconds:,.0f} rows/s; peak of all processes {peak:.2f} GB"
        )
        print(
            f"rows {summary.rows_in:,} = {summary.rows_out:,} + {summary.rejected} {summary.rejected_by_code}"
        )
        print(f"fitted on {summary.fitted_on:,}; {summary.wells:,} wells, {summary.treatments:,} treatments")
        print(
            f"open wells held {summary.peak_open_bytes / 1e6:.1f} MB at most; {[f['code'] for f in summary.findings]}"
        )
        baseline = bare_loop(source, corrector, BASELINE_ROWS)
        print(
            f"apply {rate:,.0f} rows/s, {rate / baseline:.2f} of a bare loop's (read, correct: {baseline:,.0f})"
        )
        if not args.no_rows:
            print(f"1,000 rows differ from memory by {check_rows(source, out, corrector):.1e} at most")
        print(
            f"5 treatments differ from means of means by {check_treatments(source, out, corrector):.1e} at most"
        )


if __name__ == "__main__":
    main()
