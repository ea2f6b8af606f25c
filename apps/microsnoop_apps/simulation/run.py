"""Simulate a plate set: compose every field, acquire it, write it with its manifest, provenance and overview."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import tifffile

from microsnoop import __version__
from microsnoop.core.errors import InputError, StaleOutput
from microsnoop.core.simulate_config import AcquisitionConfig, SimulateConfig
from microsnoop.io.parts import write_atomic
from microsnoop.ops import acquisition as acq
from microsnoop_apps.simulation import fields as made
from microsnoop_apps.simulation import layout as plan
from microsnoop_apps.terminal import ProgressLine
from microsnoop_apps.views.page import Page
from microsnoop_apps.views.thumbnails import coloured, look_of, sheet_contrast, thumbnail

RECORD = "layout.json"
_EDGE_FACTOR = 2.0  # places in the outermost wells vary more: drying, the meniscus, the plate's rim
_DIGITS = 6
_THUMB_PX, _GAP_PX, _LABEL_PX, _HEADER_PX = 160, 6, 90, 44


@dataclass(frozen=True)
class Simulated:
    """What stands in ``folder``; ``already`` if it stood there before."""

    folder: Path
    n_images: int
    n_cells: int
    n_saturated: int
    already: bool


@dataclass(frozen=True)
class _Made:
    """One field: its line of the manifest, its cells, its pixels."""

    line: dict[str, str]
    placements: list[made.Placement]
    acquired: acq.Acquired


def simulate(cfg: SimulateConfig, *, root: str, out: Path) -> Simulated:
    """Write the plates of ``cfg`` into the folder ``out``; a run that was cut off is begun again.

    Parameters
    ----------
    root
        Where the paths of ``cfg.input`` start.

    Raises
    ------
    ConfigError
        Too few cells or wells for the compounds, or fields too small for the cells.
    InputError
        Source cells that cannot be used, or a folder that holds something else.
    StaleOutput
        The folder holds plates of another configuration or of other cells.
    """
    cells = made.read_cells(cfg, root)
    made.check_field(cfg.field, cells.planes.shape[-1])
    compounds = plan.list_compounds(cfg)
    plates = plan.lay_out(cfg, compounds)
    pools = plan.deal_cells(cfg, compounds, cells.phases)
    stamp = {"config": cfg.recipe(), "source_sha256": cells.sha256}
    found = _find(out, stamp)
    if found is not None:
        return found
    (out / "images").mkdir(parents=True, exist_ok=True)
    record = {"complete": False, **stamp}
    _write_json(out / RECORD, record)
    microscope = _Microscope(cfg, cells.channels)
    lines: list[dict[str, str]] = []
    placed: list[dict[str, str]] = []
    shown: dict[tuple[str, str], Any] = {}
    saturated: Counter[tuple[str, str]] = Counter()
    for field in _fields(cfg, plates, pools=pools, cells=cells, microscope=microscope):
        _write_image(out / field.line["uri"], field.acquired.planes, cells.channels)
        lines.append(field.line)
        placed += [_cell_line(field.line, put, cells) for put in field.placements]
        shown.setdefault((field.line["week"], field.line["moa"]), field.acquired.planes)
        counts = zip(cells.channels, field.acquired.saturated.tolist(), strict=True)
        saturated.update({(field.line["plate"], channel): n for channel, n in counts})
    _write_csv(out / "manifest.csv", lines)
    _write_csv(out / "cells.csv", placed)
    order = [(f"week{w + 1}", moa) for w in range(cfg.plates.weeks) for moa in (cfg.control, *cfg.moas)]
    chosen = {key: shown[key] for key in order if key in shown}
    overview = draw_overview(chosen, cells.channels, title=f"One field a week and mechanism, seed {cfg.seed}")
    overview.save(out / "overview.png")
    record |= _describe(pools, cells)
    record["compounds"] = plan.describe_compounds(compounds, plates, pools, phases=cells.phases)
    record["weeks"] = {f"week{w + 1}": microscope.of_week(w) for w in range(cfg.plates.weeks)}
    record["plates"] = {
        plate.name: {
            "week": f"week{plate.week + 1}",
            **microscope.of_plate(plate),
            "saturated_px": {channel: saturated[plate.name, channel] for channel in cells.channels},
        }
        for plate in plates
    }
    record["counts"] = {"images": len(lines), "cells": len(placed), "saturated_px": saturated.total()}
    _write_json(out / RECORD, record | {"complete": True})
    return Simulated(out, len(lines), len(placed), saturated.total(), already=False)


class _Microscope:
    """The deviations of weeks, plates, wells and fields, each drawn by its own name."""

    def __init__(self, cfg: SimulateConfig, channels: Sequence[str]) -> None:
        self._cfg, self._channels = cfg, channels

    def effects(self, plate: plan.Plate, well: str, site: int) -> acq.Effects:
        """Return what happens to one field."""
        own = self._cfg.acquisition
        edge = plan.is_edge(well)
        place = self._draw("well", well, factor=_EDGE_FACTOR if edge else 1.0)
        place["log_gain"] = place["log_gain"] + own.edge_gain * edge
        levels = [
            self._draw("week", plate.week), self._draw("plate", plate.name), place,
            self._draw("field", plate.name, well, site),
        ]  # fmt: skip
        total = acq.sum_deviations(levels)
        return acq.find_effects(
            total, strength=own.strength, vignette=own.mean_vignette, read_sd=own.read_sd, shot=own.shot
        )

    def of_week(self, week: int) -> dict[str, dict[str, float]]:
        """Return how far a week is from the middle, with the strength: parameter, channel."""
        return self._listed(self._draw("week", week))

    def of_plate(self, plate: plan.Plate) -> dict[str, dict[str, float]]:
        """Return how far a plate is from its week, with the strength: parameter, channel."""
        return self._listed(self._draw("plate", plate.name))

    def _draw(self, level: str, *names: str | int, factor: float = 1.0) -> acq.Deviation:
        rng = plan.stream(self._cfg.seed, "acquisition", level, *names)
        spread = {name: factor * sd for name, sd in spreads(self._cfg.acquisition, level).items()}
        return acq.draw_deviation(spread, rng, n_channels=len(self._channels))

    def _listed(self, deviation: acq.Deviation) -> dict[str, dict[str, float]]:
        strength = self._cfg.acquisition.strength
        return {
            name: {
                c: round(strength * float(v), _DIGITS) for c, v in zip(self._channels, values, strict=True)
            }
            for name, values in deviation.items()
        }


def spreads(cfg: AcquisitionConfig, level: str) -> dict[str, float]:
    """Return the standard deviation of every parameter at a level: week, plate, well or field."""
    sources = {
        "log_gain": cfg.gain, "offset": cfg.offset, "tilt_y": cfg.tilt, "tilt_x": cfg.tilt,
        "vignette": cfg.vignette, "blur_px": cfg.blur_px, "log_noise": cfg.noise,
    }  # fmt: skip
    return {name: float(getattr(spread, level)) for name, spread in sources.items()}


def draw_overview(shown: dict[tuple[str, str], Any], channels: Sequence[str], *, title: str) -> Page:
    """Lay out fields uint16 (C, H, W), by week and mechanism: a block a channel, one contrast for the whole block."""
    weeks, moas = (list(dict.fromkeys(names)) for names in zip(*shown, strict=True))
    step, side = _THUMB_PX + _GAP_PX, max(next(iter(shown.values())).shape[1:])
    block = _HEADER_PX + len(weeks) * step
    page = Page(_HEADER_PX + len(channels) * block, _LABEL_PX + len(moas) * step + _GAP_PX)
    page.write(title, y=_HEADER_PX // 2, x=_GAP_PX, size_px=18, bold=True)
    for c, channel in enumerate(channels):
        top = _HEADER_PX + c * block
        page.write(channel, y=top + 12, x=_GAP_PX, size_px=14, bold=True)
        scaling = sheet_contrast(
            [planes[c : c + 1] for planes in shown.values()], low=0.5, high=99.8, together=False
        )
        for j, moa in enumerate(moas):
            x = _LABEL_PX + j * step
            page.write(moa, y=top + 32, x=x + _THUMB_PX // 2, anchor="mm", room_px=_THUMB_PX)
        for i, week in enumerate(weeks):
            y = top + _HEADER_PX + i * step
            page.write(week, y=y + _THUMB_PX // 2, x=_GAP_PX)
            for j, moa in enumerate(moas):
                if (week, moa) in shown:
                    picture = coloured(shown[week, moa][c : c + 1], scaling, look_of([channel]))
                    inside = np.ones(picture.shape[:2], bool)
                    small = thumbnail(picture, inside, zoom=_THUMB_PX / side, side_px=_THUMB_PX)
                    page.paste(small, y=y, x=_LABEL_PX + j * step)
    return page


def _fields(
    cfg: SimulateConfig,
    plates: Sequence[plan.Plate],
    *,
    pools: plan.Pools,
    cells: made.SourceCells,
    microscope: _Microscope,
) -> Iterator[_Made]:
    """Make every field, plate by plate, and show how far it is."""
    noise, patch_px = cells.background_noise(), cells.planes.shape[-1]
    total, done, begin = sum(len(plate.wells) for plate in plates) * cfg.plates.sites, 0, time.monotonic()
    with ProgressLine("simulating") as progress:
        for plate in plates:
            for well, compound in plate.wells.items():
                for site in range(1, cfg.plates.sites + 1):
                    rng = plan.stream(cfg.seed, "field", plate.name, well, site)
                    chosen = made.choose_cells(compound, pools, cfg.field.grid**2, rng)
                    placements = made.place_cells(chosen, cfg.field, patch_px=patch_px, rng=rng)
                    clean = made.compose_field(placements, cells, noise, field=cfg.field, rng=rng)
                    effects = microscope.effects(plate, well, site)
                    acquired = acq.acquire(clean, effects, rng, white_level=cfg.acquisition.white_level)
                    yield _Made(plan.manifest_line(cfg, plate, well, site=site), placements, acquired)
                    done += 1
                    rate = done / max(1e-9, time.monotonic() - begin)
                    progress.counting(done, total, f"{done:,} of {total:,} fields", per_s=rate)


def _cell_line(line: dict[str, str], put: made.Placement, cells: made.SourceCells) -> dict[str, str]:
    where = {name: line[name] for name in ("image_id", "plate", "well", "site")}
    own = {name: str(int(v) if isinstance(v, bool) else v) for name, v in asdict(put).items()}
    del own["cell"]
    return where | {"cell_id": cells.ids[put.cell], "phase": cells.phases[put.cell]} | own


def _describe(pools: plan.Pools, cells: made.SourceCells) -> dict[str, Any]:
    """Return what the record says of versions and source cells."""
    libraries = {"microsnoop": __version__, "numpy": np.__version__, "scipy": scipy.__version__}
    source = {
        "listed": cells.n_input, "left_out": dict(cells.left_out), "phases": dict(Counter(cells.phases)),
        "control_pool": len(pools.controls),
    }  # fmt: skip
    return {"versions": libraries | {"tifffile": tifffile.__version__}, "source": source}


def _find(out: Path, stamp: dict[str, Any]) -> Simulated | None:
    """Return what stands in the folder if it is complete and the same; None if it is to be made."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{out} is not empty and has no {RECORD}: it is no folder of simulated plates",
            hint="give another folder with --out",
        ) from error
    different = [
        name
        for name in ("config", "source_sha256")
        if record.get(name) != json.loads(json.dumps(stamp[name]))
    ]
    if different:
        keys = [key for key in stamp["config"] if record.get("config", {}).get(key) != stamp["config"][key]]
        what = f"other settings of {', '.join(keys)}" if keys else "other source cells"
        raise StaleOutput(
            f"{out} holds plates made with {what}", hint="give another folder with --out, or remove this one"
        )
    images = sum(1 for _ in (out / "images").rglob("*.tif"))
    if not record["complete"] or images != record["counts"]["images"]:
        return None
    return Simulated(out, images, record["counts"]["cells"], record["counts"]["saturated_px"], already=True)


def _write_image(path: Path, planes: Any, channels: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    tifffile.imwrite(
        data, planes, photometric="minisblack", compression="zlib",
        metadata={"axes": "CYX", "channels": list(channels)},
    )  # fmt: skip
    write_atomic(path, data.getvalue())


def _write_csv(path: Path, lines: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    write_atomic(path, text.getvalue().encode())


def _write_json(path: Path, record: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
