"""Embed a field that no process could hold: time, and the memory of all processes together.

    python benchmarks/large_field.py --side-px 20000 --mode tile

A tiled TIFF of two 16-bit channels is generated (nuclei on a noisy, uneven background), then embedded by the command
line, verified, and measured. The bound that is printed is what the run was told to stay in (``execution.memory_gb``).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from peak_memory import measure

_TILE_PX = 512


def write_field(path: Path, side_px: int) -> None:
    """Write a field (2, side, side) tile by tile: cells every 50 px or so, none in a fifth of the field."""
    tiles = -(-side_px // _TILE_PX)
    tifffile.imwrite(
        path,
        (tile for channel in range(2) for tile in _tiles(tiles, channel)),
        shape=(2, side_px, side_px),
        dtype=np.uint16,
        tile=(_TILE_PX, _TILE_PX),
        compression="zlib",
        photometric="minisblack",
        bigtiff=True,
    )


def _tiles(tiles: int, channel: int) -> Iterator[NDArray[np.uint16]]:
    y, x = np.mgrid[:_TILE_PX, :_TILE_PX]
    for row in range(tiles):
        for col in range(tiles):
            rng = np.random.default_rng((row, col, channel))
            tile = rng.poisson(60 + 4 * (row + col) / tiles, (_TILE_PX, _TILE_PX)).astype(np.uint16)
            places = np.random.default_rng((row, col))  # cells lie at the same places in both channels
            empty = places.random() < 0.2
            for _ in range(0 if empty else 90):
                cy, cx = places.integers(0, _TILE_PX, 2)
                radius, height = places.uniform(7, 11), places.uniform(200, 900) / (1 + channel)
                near = np.s_[max(0, cy - 12) : cy + 12, max(0, cx - 12) : cx + 12]
                tile[near][(y[near] - cy) ** 2 + (x[near] - cx) ** 2 < radius**2] += np.uint16(height)
            yield tile


def main() -> None:
    """Generate, embed, verify, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side-px", type=int, default=20_000)
    parser.add_argument("--mode", choices=["tile", "crop"], default="tile")
    parser.add_argument("--memory-gb", type=float, default=1.5, help="what the run is told to stay in")
    parser.add_argument("--keep", type=float, default=0.01, help="share of the tiles; cells: so many a block")
    parser.add_argument("--encoder", default="snoop-trial")
    parser.add_argument(
        "--folder", type=Path, help="where field and run are kept; default: a temporary folder"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        field = folder / "images" / f"field_{args.side_px}.tif"
        if not field.exists():
            field.parent.mkdir(parents=True, exist_ok=True)
            begin = time.monotonic()
            write_field(field, args.side_px)
            print(f"generated in {time.monotonic() - begin:.0f} s")
        pixels = 2 * args.side_px**2
        print(
            f"{field.name}: {pixels * 2 / 1e9:.2f} GB of pixels, {field.stat().st_size / 1e9:.2f} GB on disk"
        )
        run = folder / f"run-{args.mode}"
        settings = {
            "tile": [f"tile.rate={args.keep}"],
            "crop": [f"crop.max_cells={max(1, round(1000 * args.keep))}"],
        }[args.mode]
        command = [
            "microsnoop", "embed", "--folder", str(field.parent), "--run-dir", str(run), "--mode", args.mode,
            "--encoder", args.encoder, "--memory-gb", str(args.memory_gb), "--input-px", "64",
        ]  # fmt: skip
        for setting in (*settings, "input.max_image_mpx=50"):
            command += ["--set", setting]
        code = measure(command)
        checked = subprocess.run(["microsnoop", "verify", str(run)], check=False).returncode
    sys.exit(code or checked)


if __name__ == "__main__":
    main()
