"""Pictures of joint representations: arrays in, a PNG file out, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from microsnoop_apps.profiling import BLUE, GREY, ORANGE, PALE, Floats, Look, canvas, plain

_SIDE = 2.3  # inches of one map
_LEGEND = 1.9
_PHASES = {"reconstruct": "#E8EEF4", "triplets": "#FBF0DC", "main": "#E6F2EC"}


def spaces(
    places: Mapping[str, Floats],
    colours: Mapping[str, Sequence[Any] | NDArray[Any]],
    path: Path,
    *,
    notes: Mapping[tuple[str, str], str] | None = None,
) -> Path:
    """Draw the same cells in several spaces (across), in several colourings (down).

    Parameters
    ----------
    places
        Of each space, float (n, 2).
    colours
        Labels (n,) of each colouring: names, or floats for a scale. None, NaN and "" are no label.
    notes
        Text below a map, by (colouring, space).

    Raises
    ------
    ValueError
        No space, no colouring, or lengths that differ.
    """
    lengths = {len(values) for values in (*places.values(), *colours.values())}
    if not places or not colours or len(lengths) > 1:
        raise ValueError(f"maps need coordinates and colours of the same cells, got {sorted(lengths)} cells")
    n = lengths.pop()
    order = np.random.default_rng(0).permutation(n)  # at random: no name hides another
    looks = {name: Look.of(values, None) for name, values in colours.items()}
    size = float(np.clip(6_000 / max(1, n), 0.5, 22))
    heights = [max(_SIDE, 0.35 + 0.19 * len(look.entries)) for look in looks.values()]
    with canvas(path, width=_SIDE * len(places) + _LEGEND, height=sum(heights) + 0.5) as figure:
        every = figure.subplots(
            len(looks), len(places) + 1, squeeze=False, height_ratios=heights,
            width_ratios=[_SIDE] * len(places) + [_LEGEND],
        )  # fmt: skip
        for line, (colouring, look) in zip(every, looks.items(), strict=True):
            rows = order[np.argsort(look.layer[order], kind="stable")]
            for axes, (space, xy) in zip(line, places.items(), strict=False):
                _map(axes, xy[rows], look.rgba[rows], size=size)
                axes.set_xlabel((notes or {}).get((colouring, space), ""), fontsize=8)
            line[0].set_ylabel(plain(colouring, 30))
            _legend(line[-1], look)
        for axes, space in zip(every[0], places, strict=False):
            axes.set_title(plain(space, 26))
    return path


def tissue(xy: Floats, colours: Mapping[str, Sequence[Any] | NDArray[Any]], path: Path) -> Path:
    """Draw cells where they lie, y downwards, both axes in one scale; a panel a colouring, across.

    Parameters
    ----------
    xy
        Float (n, 2), in any unit.
    colours
        As for :func:`spaces`.

    Raises
    ------
    ValueError
        No colouring, or lengths that differ.
    """
    lengths = {len(xy), *(len(values) for values in colours.values())}
    if not colours or len(lengths) > 1:
        raise ValueError(f"positions and colours of the same cells are needed, got {sorted(lengths)} cells")
    looks = {name: Look.of(values, None) for name, values in colours.items()}
    foot = 0.3 + 0.18 * max(len(look.entries) for look in looks.values())
    size = float(np.clip(8_000 / max(1, len(xy)), 0.5, 26))
    with canvas(path, width=3.6 * len(looks), height=3.3 + foot) as figure:
        every = figure.subplots(2, len(looks), squeeze=False, height_ratios=[3.3, foot])
        for top, bottom, (name, look) in zip(every[0], every[1], looks.items(), strict=True):
            rows = np.argsort(look.layer, kind="stable")
            _map(top, xy[rows], look.rgba[rows], size=size)
            top.set_aspect("equal")
            top.invert_yaxis()
            top.set_title(plain(name, 30))
            _legend(bottom, look, place="upper left")
    return path


def _map(axes: Axes, xy: Floats, rgba: Floats, *, size: float) -> None:
    axes.scatter(xy[:, 0], xy[:, 1], s=size, c=rgba, linewidths=0, plotnonfinite=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(PALE)


def _legend(axes: Axes, look: Look, *, place: Literal["center left", "upper left"] = "center left") -> None:
    axes.set_axis_off()
    spots = [Line2D([], [], marker="o", linestyle="", color=colour) for colour, _ in look.entries]
    texts = [text for _, text in look.entries]
    axes.legend(spots, texts, loc=place, frameon=False, fontsize=8, borderpad=0)


def history(
    terms: Mapping[str, Sequence[float]], phases: Sequence[str], updates: Sequence[int], path: Path
) -> Path:
    """Draw each term of the loss by epoch, the phases as bands, and dotted where labels were renewed.

    Parameters
    ----------
    terms
        A number an epoch; NaN where a phase lacks the term.
    phases
        Name of the phase of each epoch.
    updates
        Epochs (of all phases together) after which labels were renewed.

    Raises
    ------
    ValueError
        No term, or lengths that differ.
    """
    if not terms or any(len(values) != len(phases) for values in terms.values()):
        lengths = {name: len(values) for name, values in terms.items()}
        raise ValueError(f"a number for each of {len(phases)} epochs is needed, got {lengths}")
    across = min(3, len(terms))
    down = -(-len(terms) // across)
    with canvas(path, width=3.4 * across, height=2.3 * down + 0.5) as figure:
        every = figure.subplots(down, across, sharex=True, squeeze=False)
        for axes, (name, values) in zip(every.flat, terms.items(), strict=False):
            for phase, start, stop in _bands(phases):
                axes.axvspan(start + 0.5, stop + 0.5, color=_PHASES.get(phase, PALE), linewidth=0)
            for epoch in updates:
                axes.axvline(epoch + 0.5, color=GREY, linewidth=0.8, linestyle=":")
            axes.plot(1 + np.arange(len(values)), values, color=BLUE, linewidth=1.2, marker=".", markersize=2)
            axes.set_title(plain(name.replace("_", " ")), fontsize=9)
            axes.yaxis.set_major_formatter("{x:,.4g}")
            axes.set_xlim(0.5, len(values) + 0.5)
        for axes in every.flat[len(terms) :]:
            axes.set_axis_off()
        for axes in every[-1]:
            axes.set_xlabel("epoch")
        bands = [Line2D([], [], color=_PHASES.get(name, PALE), linewidth=7) for name in dict.fromkeys(phases)]
        dotted = Line2D([], [], color=GREY, linewidth=0.8, linestyle=":")
        names = [*dict.fromkeys(phases), "labels renewed"]
        figure.legend([*bands, dotted], names, loc="outside upper center", ncols=len(names), frameon=False)
    return path


def _bands(phases: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return runs of the same phase: name, first epoch, and the one after the last."""
    starts = [i for i, phase in enumerate(phases) if i == 0 or phases[i - 1] != phase]
    return [
        (phases[start], start, stop) for start, stop in zip(starts, [*starts[1:], len(phases)], strict=True)
    ]


def agreement(
    panels: Mapping[str, Sequence[tuple[str, float, float, float]]], path: Path, *, joint: str = ""
) -> Path:
    """Draw agreement with labels, a panel a label: (method, value, low, high) from top to bottom, each as a bar.

    ``joint`` is the method in orange, whose value goes on as a dotted line. NaN: not computed.

    Raises
    ------
    ValueError
        No panel, or panels of different methods.
    """
    names = {tuple(name for name, *_ in rows) for rows in panels.values()}
    if len(names) != 1:
        raise ValueError(f"panels of the same methods are needed, got {len(names)} sets")
    methods = names.pop()
    with canvas(path, width=1.6 + 3.3 * len(panels), height=1.1 + 0.32 * len(methods)) as figure:
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, rows) in zip(every, panels.items(), strict=True):
            for y, (name, value, low, high) in enumerate(rows):
                if np.isnan(value):
                    axes.text(0.01, y, "not computed", va="center", color=GREY, style="italic", fontsize=8)
                    continue
                axes.barh(y, value, 0.66, color=ORANGE if name == joint else BLUE)
                axes.plot([low, high], [y, y], color="black", linewidth=1.2)
                if name == joint:
                    axes.axvline(value, color=ORANGE, linewidth=1, linestyle=":", zorder=0)
            axes.set_title(plain(label, 40), loc="left")
            axes.set_ylim(len(methods) - 0.4, -0.6)
            axes.set_xlabel("ARI of k-means, 95 % interval")
        every[0].set_yticks(range(len(methods)), [plain(name, 30) for name in methods])
    return path
