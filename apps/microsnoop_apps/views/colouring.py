"""A colour for every row: one a group, or a scale of numbers, the same in every field of the data."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError
from microsnoop.core.schema import Key
from microsnoop.ops.outlines import PALETTE, Colour
from microsnoop_apps.views.groups import group_rows

WHITE: Colour = (255, 255, 255)
_FURTHER: tuple[Colour, ...] = (
    (0, 235, 235), (180, 230, 40), (170, 110, 255), (255, 0, 140), (200, 140, 80), (255, 185, 175), (140, 200, 150),
    (205, 205, 255),
)  # fmt: skip
_COLOURS = (*PALETTE, *_FURTHER)
_GOLDEN = 0.61803398875
_SCALE, _DARKEST = "viridis", 0.3  # what is darker is hardly seen on a dark field


@dataclass(frozen=True)
class Colouring:
    """Colours (N, 3) uint8 of all rows. Groups: ``names`` and the code of each row; numbers: their ``span``."""

    column: str
    rgb: NDArray[np.uint8]
    known: NDArray[np.bool_]
    names: Sequence[str] = ()
    code: NDArray[np.int64] | None = None
    span: tuple[float, float] | None = None
    unknown: Colour = WHITE  # rows without a value are outlined all the same

    def colour(self, row: int) -> Colour:
        """Return the colour of one row."""
        if not self.known[row]:
            return self.unknown
        red, green, blue = self.rgb[row].tolist()
        return red, green, blue

    def counts(self, rows: NDArray[np.int64]) -> list[tuple[Colour, str, int]]:
        """Return (colour, group, how many of ``rows``) of the groups that are there."""
        if self.code is None:
            return []
        sizes = np.bincount(self.code[rows][self.known[rows]], minlength=len(self.names))
        return [(group_colour(i), name, int(sizes[i])) for i, name in enumerate(self.names) if sizes[i]]


def colour_rows(obs: pd.DataFrame, by: str = "") -> Colouring:
    """Return the colours of all rows by a column of ``obs``; default: Leiden clusters.

    Raises
    ------
    ConfigError
        There is no such column.
    """
    name = by or Key.LEIDEN
    if name not in obs:
        raise ConfigError(
            f"obs has no column {name!r}" + ("" if by else ", so --by must say what to colour by"),
            hint=f"it has {', '.join(map(str, obs.columns))}",
        )
    values = obs[name]
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        return _by_number(name, np.asarray(values.astype("float64"), np.float64))
    groups = group_rows(values)
    table = np.array(
        [*(group_colour(i) for i in range(len(groups.names))), WHITE], np.uint8
    )  # code -1 is the last
    return Colouring(name, table[groups.code], groups.code >= 0, groups.names, groups.code)


def group_colour(position: int) -> Colour:
    """Return the colour of a group: seven that most eyes tell apart, eight more, then hues that never repeat."""
    if position < len(_COLOURS):
        return _COLOURS[position]
    hue = (0.05 + position * _GOLDEN) % 1.0
    bright, pale = (1.0, 0.55) if position % 2 else (0.8, 0.9)
    red, green, blue = colorsys.hsv_to_rgb(hue, pale, bright)
    return round(255 * red), round(255 * green), round(255 * blue)


def scale_colours(steps: int) -> NDArray[np.uint8]:
    """Return the colours (steps, 3) of the scale of numbers, from low to high."""
    import matplotlib as mpl

    colours = mpl.colormaps[_SCALE](np.linspace(_DARKEST, 1, steps))[:, :3]
    whole: NDArray[np.uint8] = np.rint(255 * colours).astype(np.uint8)
    return whole


def _by_number(name: str, values: NDArray[np.float64]) -> Colouring:
    known = np.isfinite(values)
    low, high = (float(values[known].min()), float(values[known].max())) if known.any() else (0.0, 0.0)
    place = np.rint(255 * (np.where(known, values, low) - low) / ((high - low) or 1.0)).astype(int)
    return Colouring(name, scale_colours(256)[place], known, span=(low, high))
