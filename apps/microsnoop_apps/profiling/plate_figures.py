"""Heat maps of plates: a value on its wells, before and after correction.

Arrays in, a PNG file out, the same bytes every time. What they show is of the batch spec, section 9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from microsnoop.core.ordering import natural
from microsnoop.core.plate import format_shape, well_name, well_position
from microsnoop_apps.profiling import Floats, canvas, plain

_MOST_PLATES = 24


def plate_maps(
    values: Floats,
    wells: Sequence[str],
    plates: Sequence[str],
    path: Path,
    *,
    format: int,  # noqa: A002
    title: str = "",
    label: str = "",
    centre: bool = False,
    controls: NDArray[np.bool_] | None = None,
) -> Path:
    """Draw a value on its wells, plate by plate, on one colour scale; of more than 24 plates evenly spaced ones.

    Parameters
    ----------
    values
        Float (n,). Rows of one well are averaged; wells without a finite value are hatched.
    wells, plates
        Names of each row (n,). Plates are drawn in natural order.
    format
        Wells of a plate, a key of ``FORMATS``.
    title, label
        What the picture is; what the colours mean.
    centre
        A diverging scale around the median of all values, else one from low to high. Both leave out the extreme
        hundredths, so that one odd well does not pale all others.
    controls
        Rows whose wells are outlined, bool (n,).

    Raises
    ------
    ValueError
        No rows, lengths that differ, an unknown format, or a well that is none of it.
    """
    layout = _Layout.of(wells, plates, format, [controls, values])
    shown, note = _evenly(layout.names, _MOST_PLATES)
    scale = _Scale.of(values, centre, plain(label))
    panels = [_Panel(plain(layout.names[plate], 26), plate, values, scale) for plate in shown]
    return _draw(layout, panels, path, across=_across(len(panels), 6), notes=[title, *note])


def plate_maps_before_after(
    before: Floats,
    after: Floats,
    path: Path,
    *,
    wells: Sequence[str],
    plates: Sequence[str],
    format: int,  # noqa: A002
    title: str = "",
    label: str = "",
    centre: bool = False,
    controls: NDArray[np.bool_] | None = None,
    one_scale: bool = True,
) -> Path:
    """Draw a value on its wells before and after correction, side by side, of up to 12 plates.

    As :func:`plate_maps`; ``one_scale`` False gives each side its own colour scale, for values in other units.
    """
    layout = _Layout.of(wells, plates, format, [controls, before, after])
    shown, note = _evenly(layout.names, _MOST_PLATES // 2)
    sides = {"before": before, "after": after}
    scales = dict.fromkeys(sides, _Scale.of(np.concatenate([before, after]), centre, plain(label)))
    if not one_scale:
        scales = {side: _Scale.of(v, centre, f"{plain(label)}, {side}") for side, v in sides.items()}
    panels = [
        _Panel(f"{plain(layout.names[plate], 20)}, {side}", plate, values, scales[side])
        for plate in shown
        for side, values in sides.items()
    ]
    across = 2 * _across(len(shown), 3)
    return _draw(layout, panels, path, across=across, notes=[title, *note])


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    colours: str
    label: str

    @classmethod
    def of(cls, values: Floats, centre: bool, label: str) -> Self:
        found = values[np.isfinite(values)]
        if len(found) == 0:
            return cls(0.0, 1.0, "viridis", label)
        low, middle, high = np.percentile(found, [1, 50, 99]).tolist()
        if centre:
            half = float(np.percentile(np.abs(found - middle), 98))
            low, high = middle - half, middle + half
        if not low < high:  # one value everywhere: any scale around it will do
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        return cls(low, high, "RdBu_r" if centre else "viridis", label)


@dataclass(frozen=True)
class _Panel:
    title: str
    plate: int
    values: Floats
    scale: _Scale


@dataclass(frozen=True)
class _Layout:
    """Where each row lies: the number of its plate in ``names``, its row and column (n, 2) on a plate of ``shape``."""

    names: list[str]
    plate: NDArray[np.int64]
    place: NDArray[np.int64]
    shape: tuple[int, int]
    controls: NDArray[np.bool_]

    @classmethod
    def of(
        cls, wells: Sequence[str], plates: Sequence[str], size: int, masks: Sequence[NDArray[Any] | None]
    ) -> Self:
        """Place all rows; ``masks`` are the controls, if known, then whatever must be as long."""
        lengths = {len(wells), len(plates), *(len(mask) for mask in masks if mask is not None)}
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"values, wells, plates and controls must be of the same rows, got {sorted(lengths)}"
            )
        place = {well: well_position(well, format=size) for well in dict.fromkeys(wells)}
        names = sorted({str(plate) for plate in plates}, key=natural)
        number = {name: i for i, name in enumerate(names)}
        return cls(
            names,
            np.array([number[str(plate)] for plate in plates]),
            np.array([place[well] for well in wells]),
            format_shape(size),
            np.zeros(len(wells), bool) if masks[0] is None else masks[0],
        )

    def grid(self, plate: int, values: Floats) -> Floats:
        """Return the mean of the finite values of each well, not a number where there is none."""
        some = (self.plate == plate) & np.isfinite(values)
        total, count = np.zeros(self.shape), np.zeros(self.shape)
        np.add.at(total, tuple(self.place[some].T), values[some])
        np.add.at(count, tuple(self.place[some].T), 1)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw(
    layout: _Layout, panels: Sequence[_Panel], path: Path, *, across: int, notes: Sequence[str]
) -> Path:
    down = -(-len(panels) // across)
    width = min(6.5, 13.5 / across)
    height = width * layout.shape[0] / layout.shape[1] + 0.3
    controls = ["outlined: controls"] if layout.controls.any() else []
    notes = [plain(note, 90) for note in (*notes, "hatched: no value", *controls) if note]
    with canvas(path, width=width * across + 0.9, height=height * down + 0.6, layout="compressed") as figure:
        every = figure.subplots(down, across, squeeze=False).ravel()
        images = {}
        for axes, panel in zip(every, panels, strict=False):
            images[panel.scale] = _draw_plate(axes, layout, panel)
            _mark_wells(axes, layout.shape, width / layout.shape[1])
        for axes in every[len(panels) :]:
            axes.set_axis_off()
        figure.suptitle("; ".join(notes), fontsize=10)
        for scale, image in reversed(images.items()):  # the last bar drawn stands first
            shrink = 0.8 if down == 1 else 0.5
            figure.colorbar(
                image, ax=every.tolist(), label=scale.label, extend="both", shrink=shrink, pad=0.015
            )
    return path


def _draw_plate(axes: Axes, layout: _Layout, panel: _Panel) -> AxesImage:
    axes.patch.set(facecolor="#E4E4E4", edgecolor="#ABABAB", hatch="//////")
    axes.spines[:].set_visible(True)
    axes.set_title(panel.title, fontsize=8, pad=3)
    here = np.unique(layout.place[layout.controls & (layout.plate == panel.plate)], axis=0)
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1], [-1, -1]]) * 0.44
    thin = 1.2 if layout.shape[1] <= 12 else 0.7 if layout.shape[1] <= 24 else 0.4
    axes.add_collection(LineCollection(list(here[:, None, ::-1] + corners), colors="black", linewidths=thin))
    return axes.imshow(
        np.ma.masked_invalid(layout.grid(panel.plate, panel.values)), vmin=panel.scale.low, vmax=panel.scale.high,
        cmap=panel.scale.colours, interpolation="nearest",
    )  # fmt: skip


def _mark_wells(axes: Axes, shape: tuple[int, int], inches: float) -> None:
    """Name as many rows and columns as there is room for."""
    rows, columns = (
        np.arange(0, n, math.ceil(room / inches)) for n, room in zip(shape, (0.13, 0.2), strict=True)
    )
    axes.set_yticks(rows, [well_name(r, 0)[:-2] for r in rows.tolist()], fontsize=6)
    axes.set_xticks(columns, [str(c + 1) for c in columns.tolist()], fontsize=6)
    axes.tick_params(length=0, pad=2)


def _across(n: int, widest: int) -> int:
    """Return how many of ``n`` pictures stand side by side: few gaps, rather wide than high."""
    choices = range(min(widest, math.ceil(math.sqrt(n))), widest + 1)
    return min(choices, key=lambda across: (-n % across, across))


def _evenly(names: Sequence[str], most: int) -> tuple[list[int], list[str]]:
    """Return the plates to draw, and what to say of the others."""
    if len(names) <= most:
        return list(range(len(names))), []
    shown = np.linspace(0, len(names) - 1, most).round().astype(int).tolist()
    return shown, [f"{most} of {len(names):,} plates, evenly spaced by name"]
