"""``microsnoop profile``: profiles of plates corrected in several ways, scored, and reported with pictures.

Here is what all its pictures share: the canvas they are drawn on, their letters and their colours.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from numpy.typing import NDArray

from microsnoop.core.ordering import natural
from microsnoop.io.parts import write_atomic

Floats = NDArray[np.float64]

# Okabe and Ito's palette, distinguishable with every common colour vision, then five muted colours of Tol
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#332288", "#999933", "#882255",
    "#117733", "#A57C52",
)  # fmt: skip
BLUE, ORANGE, RED, GREY, PALE = PALETTE[0], PALETTE[1], PALETTE[5], "#9A9A9A", "#DCDCDC"
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # the `$` in a compound's name is just a `$`
    "hatch.linewidth": 0.4,
}
_DPI = 150
_OPAQUE = 0.8
_MOST_NAMES = len(PALETTE)


@contextmanager
def canvas(
    path: Path, *, width: float, height: float, layout: Literal["constrained", "compressed"] = "constrained"
) -> Iterator[Figure]:
    """Give a figure (inches) to draw on and write it whole: the user's own matplotlib settings do not count."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout=layout)
        yield figure
        data = io.BytesIO()
        box = "tight" if layout == "compressed" else None  # how large it gets depends on what is drawn
        # without matplotlib's version in it, the same drawing is the same file
        figure.savefig(data, format="png", dpi=_DPI, metadata={"Software": None}, bbox_inches=box)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data.getvalue())


def plain(text: object, most: int = 40) -> str:
    """Return one line of at most ``most`` characters that the font has; others become the sign for unknown."""
    line = " ".join(str(text).split())
    line = "".join(letter if ord(letter) in _letters() else "\ufffd" for letter in line)
    return line if len(line) <= most else f"{line[: most - 1]}…"


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


@dataclass(frozen=True)
class Look:
    """Colours (n, 4) of all rows, which are drawn above which (n,), and the legend: colour and text of each entry."""

    rgba: Floats
    layer: NDArray[np.int64]
    entries: list[tuple[Any, str]]

    @classmethod
    def of(cls, labels: Sequence[Any] | NDArray[Any], grey: NDArray[np.bool_] | None) -> Self:
        """Give each name a colour, or many floats a scale; ``grey`` rows and those without a label lie below.

        Of more than 12 names, in natural order, colours run through a scale and the commonest 12 are explained.
        """
        n = len(labels)
        covered = np.zeros(n, bool) if grey is None else grey
        known = ~np.array([pd.isna(label) or label == "" for label in labels], bool)
        shown = known & ~covered
        rgba = np.tile(mpl.colors.to_rgba(GREY, 0.4), (n, 1))
        rgba[~known & ~covered] = mpl.colors.to_rgba(PALE, 0.8)
        values = np.asarray(labels)
        if values.dtype.kind == "f" and len(np.unique(values[shown])) > _MOST_NAMES:
            entries = _scale(values, shown, rgba)
        else:
            entries = _names([str(label) for label in labels], shown, rgba)
        under = ((GREY, "controls", covered), (PALE, "no label", ~known & ~covered))
        entries += [(colour, f"{text} ({rows.sum():,})") for colour, text, rows in under if rows.any()]
        return cls(rgba, shown.astype(np.int64), entries)


def _scale(values: NDArray[Any], shown: NDArray[np.bool_], rgba: Floats) -> list[tuple[Any, str]]:
    """Colour the shown rows by their number, and explain five of the numbers."""
    low, high = float(values[shown].min()), float(values[shown].max())
    scale = mpl.colormaps["viridis"]
    rgba[shown] = scale((values[shown] - low) / (high - low), alpha=_OPAQUE)
    return [(scale(share), f"{low + share * (high - low):.4g}") for share in (1.0, 0.75, 0.5, 0.25, 0.0)]


def _names(labels: Sequence[str], shown: NDArray[np.bool_], rgba: Floats) -> list[tuple[Any, str]]:
    """Colour the shown rows by their name, and explain the commonest names."""
    counts = Counter(label for label, is_shown in zip(labels, shown, strict=True) if is_shown)
    order = sorted(counts, key=natural)
    run = mpl.colormaps["turbo"](np.linspace(0.03, 0.97, len(order)))
    colours = dict(zip(order, PALETTE if len(order) <= _MOST_NAMES else run, strict=False))
    table = np.array([mpl.colors.to_rgba(colours[label], _OPAQUE) for label in order]).reshape(-1, 4)
    number = {label: i for i, label in enumerate(order)}
    rgba[shown] = table[[number[label] for label, is_shown in zip(labels, shown, strict=True) if is_shown]]
    common = {label for label, _ in counts.most_common(_MOST_NAMES)}
    entries: list[tuple[Any, str]] = [
        (colours[label], f"{plain(label, 36)} ({counts[label]:,})") for label in order if label in common
    ]
    more = len(order) - len(common)
    return [*entries, *([("none", f"and {more:,} more; colours run on by name")] if more else [])]
