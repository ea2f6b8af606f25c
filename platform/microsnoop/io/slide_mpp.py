"""µm per pixel of a slide: what the file says in several places, which of them counts, and when none does.

Source: slides spec, section 2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree  # expat bounds entity expansion itself

from microsnoop.core.slide_config import MPP_RANGE_UM
from microsnoop.core.slide_errors import SlideCode, SlideError, SlideFlag

MppSource = Literal["override", "slide", "ome", "tiff_tags", "objective"]
Pair = tuple[float, float]

MAX_ANISOTROPY = 0.01
_OF_OBJECTIVE = {40.0: 0.25, 20.0: 0.5, 10.0: 1.0}
_UM_A_UNIT = {2: 25_400.0, 3: 10_000.0}  # resolution units of TIFF: inch, cm
_UM_PER = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "um": 1.0, "μm": 1.0, "nm": 1e-3}
_HINT = "give it in the table of reading.mpp_table (columns slide_id, mpp)"


@dataclass(frozen=True)
class MppHints:
    """What a file says: µm per pixel (x, y) by place, and the power of the objective."""

    slide: Pair | None = None
    ome: Pair | None = None
    tiff_tags: Pair | None = None
    objective: float | None = None


@dataclass(frozen=True)
class Mpp:
    """µm per pixel at level 0, the source they are from, and what is notable about it."""

    x_um: float
    y_um: float
    source: MppSource
    flags: tuple[SlideFlag, ...] = ()

    @property
    def mean_um(self) -> float:
        """Mean of both directions."""
        return (self.x_um + self.y_um) / 2


def resolve_mpp(
    hints: MppHints,
    *,
    name: str,
    override: float | Pair | None = None,
    allow_objective_guess: bool = False,
) -> Mpp:
    """Decide µm per pixel: override, the slide's own statement (vendor property, OME-XML), TIFF tags, objective.

    A statement outside 0.05 to 5 µm is passed over: tags of resolution are mostly those of a screen.
    ``mpp_conflict``: a later source differs by more than 1 %.

    Raises
    ------
    SlideError
        ``mpp_missing``: nothing usable; the message says what was found. ``anisotropic``: x and y differ by
        more than 1 % in the first usable statement.
    """
    if override is not None:
        pair = override if isinstance(override, tuple) else (override, override)
        if not _valid(pair):
            raise _missing(name, [f"the override says {_text(pair)}"])
        return Mpp(*_isotropic(pair, "the override", name), source="override")
    found: list[tuple[MppSource, Pair]] = []
    refused: list[str] = []
    stated: tuple[tuple[MppSource, Pair | None], ...] = (
        ("slide", hints.slide),
        ("ome", hints.ome),
        ("tiff_tags", hints.tiff_tags),
    )
    for source, stated_pair in stated:
        if stated_pair is not None and _valid(stated_pair):
            found.append((source, stated_pair))
        elif stated_pair is not None:
            refused.append(f"{source} says {_text(stated_pair)}")
    if found:
        source, pair = found[0]
        x_um, y_um = _isotropic(pair, source, name)
        conflict = any(_differ(x_um, other[0]) or _differ(y_um, other[1]) for _, other in found[1:])
        return Mpp(x_um, y_um, source, (SlideFlag.MPP_CONFLICT,) if conflict else ())
    guess = _OF_OBJECTIVE.get(hints.objective) if hints.objective is not None else None
    if guess is not None and allow_objective_guess:
        return Mpp(guess, guess, "objective", (SlideFlag.MPP_GUESSED,))
    if guess is not None:
        refused.append(
            f"an objective of {hints.objective:g} would mean {guess:g}: allow_objective_guess is off"
        )
    elif hints.objective is not None:
        refused.append(f"an objective of {hints.objective:g} has no usual value")
    raise _missing(name, refused)


def mpp_of_tags(x_resolution: Any, y_resolution: Any, unit: Any) -> Pair | None:
    """Return µm per pixel from resolution tags (fractions or numbers), None without a unit of length."""
    um = _UM_A_UNIT.get(int(unit)) if unit is not None else None
    x, y = _number(x_resolution), _number(y_resolution)
    if um is None or x is None or y is None or x <= 0 or y <= 0:
        return None
    return um / x, um / y


def mpp_of_ome(xml: str | None) -> Pair | None:
    """Return µm per pixel of the first image of an OME-XML text, None where it is not stated."""
    try:
        root = ElementTree.fromstring(xml or "")  # noqa: S314  (see the import)
    except ElementTree.ParseError:
        return None
    for node in root.iter():
        if node.tag.rsplit("}", 1)[-1] != "Pixels":
            continue
        x, y = (
            (_number(node.get(f"PhysicalSize{axis}")), _UM_PER.get(node.get(f"PhysicalSize{axis}Unit", "µm")))
            for axis in "XY"
        )
        if x[0] is None or y[0] is None or x[1] is None or y[1] is None:
            return None
        return x[0] * x[1], y[0] * y[1]
    return None


def hints_of_openslide(properties: Mapping[str, str]) -> MppHints:
    """Return what OpenSlide's properties say."""
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    unit = {"inch": 2, "centimeter": 3}.get(properties.get("tiff.ResolutionUnit", ""))
    tags = mpp_of_tags(properties.get("tiff.XResolution"), properties.get("tiff.YResolution"), unit)
    return MppHints(
        slide=(x, y) if x is not None and y is not None else None,
        tiff_tags=tags,
        objective=_number(properties.get("openslide.objective-power")),
    )


def hints_of_aperio(description: str) -> MppHints:
    """Return what the description of an Aperio slide says (``... |AppMag = 20|MPP = 0.4990| ...``)."""
    values = {
        key: _number(found.group(1))
        for key in ("MPP", "AppMag")
        if (found := re.search(rf"\|\s*{key}\s*=\s*([^|]+)", description))
    }
    mpp = values.get("MPP")
    return MppHints(slide=(mpp, mpp) if mpp is not None else None, objective=values.get("AppMag"))


def _number(value: Any) -> float | None:
    """Return a finite number from a number, a text or a fraction (numerator, denominator)."""
    try:
        if isinstance(value, tuple):
            number = float(value[0]) / float(value[1])
        else:
            number = float(str(value).strip().replace(",", "."))
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return number if math.isfinite(number) else None


def _valid(pair: Pair) -> bool:
    return all(MPP_RANGE_UM[0] <= value <= MPP_RANGE_UM[1] for value in pair)


def _differ(one: float, other: float) -> bool:
    return max(one, other) > min(one, other) * (1 + MAX_ANISOTROPY + 1e-9)


def _isotropic(pair: Pair, source: str, name: str) -> Pair:
    if _differ(*pair):
        raise SlideError(
            SlideCode.ANISOTROPIC,
            f"{name}: pixels are not square ({source} says {_text(pair)}); x and y may differ by 1 %",
            _HINT,
        )
    return pair


def _missing(name: str, refused: list[str]) -> SlideError:
    low, high = MPP_RANGE_UM
    found = "; ".join(refused) if refused else "the file says nothing"
    return SlideError(
        SlideCode.MPP_MISSING, f"{name}: no µm per pixel between {low:g} and {high:g} ({found})", _HINT
    )


def _text(pair: Pair) -> str:
    return f"{pair[0]:.4g} × {pair[1]:.4g} µm"
