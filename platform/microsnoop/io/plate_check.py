"""Whether the metadata of plates can be trusted: everything that is wrong is listed at once.

Fills in what follows from the rest (``control_type``, ``is_control``, ``batch``, ``treatment``), never a number.

Source: batch spec, sections 1 and 9 (layout confounding).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop.core.plate import (
    CONTROL_TYPES,
    FORMATS,
    edge,
    format_shape,
    number_text,
    on_plate,
    smallest_format,
    treatment_name,
    well_names,
)
from microsnoop.io.profile_columns import shorten

_SHOWN = 5
_MICRO = str.maketrans({"µ": "u", "μ": "u"})


@dataclass(frozen=True)
class Problem:
    """Something a reader must know about the metadata; with ``error`` it cannot be used like that."""

    code: str
    message: str
    error: bool


def check_plates(
    obs: pd.DataFrame,
    *,
    format: int | None = None,  # noqa: A002
    negative: Mapping[str, Sequence[str]] | None = None,
    level: str = "well",
    allow: Collection[str] = (),
) -> tuple[pd.DataFrame, list[Problem]]:
    """Check the metadata of wells or images and add what follows from it.

    Parameters
    ----------
    obs
        One row a well or image, our column names (see ``profile_columns``); ``plate`` and ``well`` at least.
        Not changed.
    format
        Wells a plate; without it the smallest format that holds all wells.
    negative
        Which rows are negative controls where ``control_type`` is missing or empty: column: its values, for
        example ``{"compound": ["DMSO"]}``; of several columns all must match. Names of compounds here may be
        several vehicles.
    level
        What a row is: ``well``, ``image`` or ``cell``; wells (with their site, if there are sites) come once.
    allow
        Codes of errors that are only warnings here.

    Returns
    -------
    ``obs`` with ``control_type`` (``negative``, ``positive``, ``empty`` or None), ``is_control`` (bool: negative),
    ``batch`` and ``treatment`` (``compound@concentration unit``), and the warnings.

    Raises
    ------
    InputError
        ``metadata_invalid``: everything that is wrong, with the code of each.
    ValueError
        No such plate format.
    """
    if missing := [name for name in ("plate", "well") if name not in obs]:
        raise InputError(
            f"metadata_invalid: no column {' and '.join(missing)}", hint="see the setting columns"
        )
    if format is not None:
        format_shape(format)
    found = _Found(allow)
    obs = _with_controls(obs.copy(), negative or {}, found)
    obs = _with_treatments(_with_batches(obs, found), found)
    _check_keys(obs, level, found)
    _check_compounds(obs, found)
    _check_controls(obs, negative or {}, found)
    _check_layout(obs, format, found)
    if errors := [problem for problem in found.problems if problem.error]:
        listed = "".join(f"\n- {problem.code}: {problem.message}" for problem in errors)
        raise InputError(
            f"metadata_invalid: {len(errors)} problem(s) with the metadata of the plates{listed}",
            hint="correct the table or the plate map; a code under allow makes its problem a warning",
        )
    return obs, found.problems


class _Found:
    """Problems found so far."""

    def __init__(self, allow: Collection[str]) -> None:
        self.problems: list[Problem] = []
        self._allow = allow

    def add(
        self, code: str, culprits: Iterable[Any], what: str, *, remedy: str = "", error: bool = True
    ) -> None:
        """Keep a problem, if anybody is to blame for it: how many, what, and the first few of them."""
        if everyone := list(map(str, culprits)):
            names = list(dict.fromkeys(everyone))
            text = f"{len(everyone)} {what}: {shorten(names, _SHOWN)}" + (f"; {remedy}" if remedy else "")
            self.problems.append(Problem(code, text, error and code not in self._allow))


def _with_controls(obs: pd.DataFrame, negative: Mapping[str, Sequence[str]], found: _Found) -> pd.DataFrame:
    given = _column(obs, "control_type").map(lambda name: str(name).strip().lower(), na_action="ignore")
    strange = sorted(set(given.dropna()) - set(CONTROL_TYPES))
    found.add(
        "unknown_control_type", strange, "name(s) are no control type", remedy="use negative, positive, empty"
    )
    given = pd.Series([CONTROL_TYPES.get(name) for name in given], obs.index, dtype=object)
    match = np.full(len(obs), bool(negative))
    for column, values in negative.items():
        texts = (
            given if column == "control_type" else _column(obs, column).map(comparable, na_action="ignore")
        )
        match &= texts.isin({comparable(value) for value in values}).to_numpy()
    absent = [column for column in negative if column not in obs]
    found.add("no_control_column", absent, "column(s) that tell negative controls are not there")
    unlike = obs.index[match & given.notna() & (given != "negative")]
    found.add("control_conflict", unlike, f"row(s) are negative by {dict(negative)} and not by control_type")
    obs["control_type"] = given.where(given.notna() | ~match, "negative")
    obs["is_control"] = (obs["control_type"] == "negative").to_numpy(bool)
    return obs


def _with_batches(obs: pd.DataFrame, found: _Found) -> pd.DataFrame:
    source = next((name for name in ("batch", "week") if _column(obs, name).notna().any()), "plate")
    obs["batch"] = obs[source].astype(object)
    plates = obs["plate"].dropna().unique()
    if source == "plate":
        found.add(
            "no_batch", plates, "plate(s) are batches of their own, there is no batch or week", error=False
        )
        return obs
    found.add("null_batch", obs.index[obs["batch"].isna()], f"row(s) have no {source}")
    batches = obs.groupby("plate")["batch"].nunique()
    several, remedy = batches.index[batches > 1], "give every plate a name of its own"
    found.add("plate_in_batches", several, f"plate(s) are in more than one {source}", remedy=remedy)
    return obs


def _with_treatments(obs: pd.DataFrame, found: _Found) -> pd.DataFrame:
    stated = _column(obs, "concentration")
    amounts = pd.to_numeric(stated, errors="coerce").astype(float)
    bad = stated[stated.notna() & ~(np.isfinite(amounts) & (amounts >= 0))]
    found.add("bad_concentration", bad.tolist(), "concentration(s) are no amounts")
    units = _column(obs, "concentration_unit").map(
        lambda unit: str(unit).translate(_MICRO), na_action="ignore"
    )
    units = units.astype(object).where(units.notna(), None)
    dosed = (amounts > 0) & ~obs["is_control"]  # a vehicle has no amount, and often no unit
    several = sorted({unit or "none" for unit in units[dosed]})
    found.add("mixed_units", several if len(several) > 1 else [], "units of concentrations", remedy="use one")
    columns = (_column(obs, "treatment"), _column(obs, "compound"), amounts, units)
    names = [
        given if not pd.isna(given) else None if pd.isna(name) else treatment_name(str(name), amount, unit)
        for given, name, amount, unit in zip(*columns, strict=True)
    ]
    obs["treatment"] = pd.Series(names, obs.index, dtype=object)
    return obs


def _check_keys(obs: pd.DataFrame, level: str, found: _Found) -> None:
    homeless = obs["plate"].isna() | obs["well"].isna()
    found.add("image_without_well", obs.index[homeless], "row(s) have no plate or no well")
    bare = ~(obs["n_images"] > 0) if "n_images" in obs else np.zeros(len(obs), bool)
    found.add("well_without_images", obs.index[bare], "row(s) have no image")
    dead = _column(obs, "n_cells") == 0
    found.add("well_without_cells", obs.index[dead], "row(s) have no cells", error=False)
    sites = _column(obs, "site").notna().any()
    if level == "cell" or (level == "image" and not sites):
        return  # nothing tells such rows of one well apart
    keys = ["plate", "well", *(["site"] if sites else [])]
    twice = obs.loc[~homeless & obs.duplicated(keys, keep=False), keys]
    names = ["/".join(map(str, row)) for row in twice.itertuples(index=False)]
    found.add("duplicate_key", names, f"rows share their {' + '.join(keys)}")


def _check_compounds(obs: pd.DataFrame, found: _Found) -> None:
    for code, key, value in (
        ("compound_with_moas", "compound", "moa"),
        ("treatment_with_compounds", "treatment", "compound"),
    ):
        if key in obs and value in obs:
            pairs = obs[[key, value]].dropna().astype(str).drop_duplicates().sort_values([key, value])
            several = pairs[pairs.duplicated(key, keep=False)].groupby(key)[value].agg(", ".join)
            listed = [f"{name} ({values})" for name, values in several.items()]
            found.add(code, listed, f"{key}(s) have more than one {value}")


def _check_controls(obs: pd.DataFrame, negative: Mapping[str, Sequence[str]], found: _Found) -> None:
    vehicles = sorted(set(_column(obs, "compound")[obs["is_control"]].dropna().astype(str)))
    listed = {str(name) for name in negative.get("compound", ())}
    unexpected = vehicles if len(vehicles) > 1 and not set(vehicles) <= listed else []
    remedy = "list all of them as compounds of negative controls if that is meant"
    found.add("several_vehicles", unexpected, "compounds are negative controls", remedy=remedy)
    controlled = obs.groupby("plate")["is_control"].any()
    without = controlled.index[~controlled.to_numpy(bool)]
    found.add("plate_without_controls", without, f"of {len(controlled)} plates have no negative controls")


def _check_layout(obs: pd.DataFrame, stated: int | None, found: _Found) -> None:
    names = well_names(map(str, obs["well"].dropna().unique()))
    found.add("bad_well", sorted(well for well, name in names.items() if name is None), "name(s) are no well")
    known = {name for name in names.values() if name is not None}
    if not known:
        return
    size = stated or smallest_format(known)
    outside = sorted(name for name in known if not on_plate(name, size))
    found.add("well_outside_format", outside, f"well(s) are not on a plate of {size}")
    wells = obs["well"].map(lambda well: names[str(well)], na_action="ignore")
    held = wells.groupby(obs["plate"]).nunique()
    lacking = [f"{plate} ({size - n})" for plate, n in held.items() if n < size]
    found.add(
        "missing_wells",
        lacking,
        f"of {len(held)} plates of {size} wells have wells without a row",
        error=False,
    )
    treated = obs[~obs["is_control"] & obs["treatment"].notna()]
    plates = treated.groupby("treatment")["plate"].nunique()
    single = plates.index[plates == 1]
    found.add("layout_confounded", single, f"of {len(plates)} treatments are on one plate only", error=False)
    if "moa" in obs and min(FORMATS[size]) > 2 and not outside:
        outer = {name: edge(name, size) for name in known}
        at_edge = wells[treated.index].map(outer).eq(True).groupby(treated["moa"]).all()
        what = f"of {len(at_edge)} MoA classes are in outer rows and columns only"
        found.add("layout_confounded", at_edge.index[at_edge.to_numpy(bool)], what, error=False)


def _column(obs: pd.DataFrame, name: str) -> pd.Series[Any]:
    return obs[name] if name in obs else pd.Series(None, obs.index, dtype=object)


def comparable(value: Any) -> str:
    """Return a value as text that is equal where values mean the same: numbers with six digits."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return number_text(float(value)) if number else str(value)


def amounts(values: pd.Series[Any], name: str, *, where: str) -> pd.Series[Any]:
    """Return a column of concentrations or counts as float64, gaps as NaN.

    Raises
    ------
    InputError
        Something else stands there: ``10 uM``, ``inf``.
    """
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    bad = values[values.notna() & ~np.isfinite(numbers)].unique().tolist()
    if bad:
        raise InputError(
            f"{where}: {name} must hold numbers, found {shorten([repr(value) for value in bad], _SHOWN)}",
            hint="write the number alone, and its unit in the column concentration_unit",
        )
    return numbers
