"""How fast are cells cut out of a field, against one pass over the whole mask for each cell?

    python benchmarks/crop.py [--cells 2000] [--side-px 2048] [--repeats 3]

One run, one machine, one generated field (three channels, 16 bit, round cells of many sizes, labels not consecutive):

* **naive**: for each label ``mask == label`` over the full field, ``np.where``, its box, the crop, as published.
* **ours**: one table of all objects, one plan, then the cuts.

Every crop is copied once in both, as the pipeline does. Both must give the same crops and intensity scales, which is
checked on every cell; the table shows medians, without and with the percentiles of every crop.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.cell_windows import CellWindow, CropRules, plan_cells
from microsnoop.ops.geometry import cut
from microsnoop.ops.intensity import plane_scaling
from microsnoop.ops.objects import object_table

RULES = CropRules(kind="region", ratio=2.0, window_px=224, oversize="cap")
Crop = tuple[int, NDArray[Any]]


def generated_field(side_px: int, cells: int) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """Return planes (3, S, S) and a label mask (S, S): one round cell in each square of a grid, some left out."""
    rng = np.random.default_rng(0)
    per_side = int(np.ceil(np.sqrt(cells)))
    pitch = side_px / per_side
    mask = np.zeros((side_px, side_px), np.int32)
    for label, place in enumerate(np.sort(rng.choice(per_side**2, cells, replace=False))):
        centre = (np.array(divmod(int(place), per_side)) + rng.uniform(0.4, 0.6, 2)) * pitch
        radii = rng.uniform(0.15, 0.4, 2) * pitch
        low, high = np.floor(centre - radii).astype(int), np.ceil(centre + radii).astype(int)
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        inside = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1
        mask[low[0] : high[0], low[1] : high[1]][inside] = 3 * label + 5
    planes = rng.poisson(300, (3, side_px, side_px)) + (mask > 0) * rng.integers(500, 9000, (3, 1, 1))
    return planes.astype(np.uint16), mask


def naive_crops(planes: NDArray[Any], mask: NDArray[Any]) -> Iterator[Crop]:
    """Make one pass over the whole mask for each cell; same rules as ``RULES``."""
    height, width = mask.shape
    for label in np.unique(mask)[1:].tolist():
        ys, xs = np.where(mask == label)
        r0, c0, r1, c1 = int(ys.min()), int(xs.min()), int(ys.max()) + 1, int(xs.max()) + 1
        if len(ys) < RULES.min_area_px or r0 <= 0 or c0 <= 0 or r1 >= height or c1 >= width:
            continue
        half = min(round(RULES.ratio * max(r1 - r0, c1 - c0)), RULES.window_px // 2)
        y, x = (r0 + r1) // 2, (c0 + c1) // 2
        crop = planes[:, max(0, y - half) : min(height, y + half), max(0, x - half) : min(width, x + half)]
        yield label, np.array(crop)


def our_crops(planes: NDArray[Any], mask: NDArray[Any]) -> Iterator[Crop]:
    """Tabulate once, plan once, cut; as the pipeline does."""
    table = object_table(mask)
    rng = np.random.default_rng(0)
    entries = plan_cells(table, RULES, image_px=planes.shape[1:], generator_for_draw=rng)
    for label, entry in zip(table.label.tolist(), entries, strict=True):
        if isinstance(entry, CellWindow):
            yield label, np.array(cut(planes, entry.box))


def naive_scale(crop: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Percentiles by sorting, one plane at a time."""
    low, high = np.percentile(crop, (1, 99), axis=(1, 2))
    return low, high - low


def our_scale(crop: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Percentiles as the pipeline takes them."""
    scaling = plane_scaling(crop)
    return scaling.offset, scaling.span


def seconds(crops: Iterator[Crop], scale: Any) -> tuple[int, float, float]:
    """Run through all crops; return their number, the seconds for them, and those for their scales."""
    count, cutting, scaling = 0, 0.0, 0.0
    begin = time.perf_counter()
    for _, crop in crops:
        middle = time.perf_counter()
        scale(crop)
        end = time.perf_counter()
        cutting, scaling, count, begin = cutting + middle - begin, scaling + end - middle, count + 1, end
    return count, cutting + time.perf_counter() - begin, scaling


def check_equal(planes: NDArray[Any], mask: NDArray[Any]) -> None:
    """Stop unless both ways give the same crops and scales, cell by cell."""
    for ours, naive in zip(our_crops(planes, mask), naive_crops(planes, mask), strict=True):
        assert ours[0] == naive[0]
        np.testing.assert_array_equal(ours[1], naive[1])
        np.testing.assert_allclose(our_scale(ours[1]), naive_scale(naive[1]), rtol=1e-12)


def main() -> None:
    """Run everything and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--side-px", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    planes, mask = generated_field(args.side_px, args.cells)
    check_equal(planes, mask)
    runs: dict[str, list[tuple[int, float, float]]] = {"naive": [], "ours": []}
    for _ in range(args.repeats):  # in turns, because machines drift
        runs["naive"].append(seconds(naive_crops(planes, mask), naive_scale))
        runs["ours"].append(seconds(our_crops(planes, mask), our_scale))
    count = runs["ours"][0][0]
    rates = {
        name: (
            count / statistics.median(cutting for _, cutting, _ in timed),
            count / statistics.median(cutting + scaling for _, cutting, scaling in timed),
        )
        for name, timed in runs.items()
    }
    print(f"\n{args.cells:,} cells in 3 × {args.side_px} × {args.side_px} px (uint16), {count:,} cropped")
    print(f"{platform.machine()}, numpy {np.__version__}, median of {args.repeats}")
    print("all crops and scales equal\n\n| cells/s | cropping alone | with percentiles |\n|---|---|---|")
    for name, label in (("naive", "one pass for each cell"), ("ours", "one table for all")):
        print(f"| {label} | {rates[name][0]:,.0f} | {rates[name][1]:,.0f} |")
    ratios = [ours / naive for ours, naive in zip(rates["ours"], rates["naive"], strict=True)]
    print(f"| ratio | {ratios[0]:.1f} | {ratios[1]:.1f} |")


if __name__ == "__main__":
    main()
