"""What stood in the wells: maps joined, batches and controls named, plates checked.

Source: batch spec, section 1.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop.core.profile_config import PlateConfig
from microsnoop.correction.base import Finding
from microsnoop.io.plate_check import check_plates, comparable
from microsnoop.io.plate_map import join_plate_map, read_plate_map, read_source
from microsnoop.io.profile_columns import own_name, shorten
from microsnoop.io.profile_table import ProfileTable

_TREATMENT = ["compound", "concentration"]


def prepare_plates(
    table: ProfileTable,
    plates: PlateConfig,
    *,
    level: str = "image",
    plate_map: str | None = None,
    compound_map: str | None = None,
    allow: Collection[str] = (),
) -> tuple[ProfileTable, list[Finding]]:
    """Join maps, name batches, controls and treatments, and check what stands on the plates.

    Parameters
    ----------
    table
        Rows with plate and well.
    level
        What a row is: ``cell``, ``image`` or ``well``.
    plate_map, compound_map
        Tables of wells and of compounds, joined by name.
    allow
        Codes of errors that are findings here (``io.plate_check``).

    Returns
    -------
    The rows with ``is_control``, ``control_type``, ``batch`` and ``treatment`` in ``obs``, and findings. A treatment
    made of other columns than compound and concentration is empty where one of them is, but for controls, which keep
    the name of their compound, and for concentrations, which are then ``na``.

    Raises
    ------
    InputError
        A column that is not there, or everything that is wrong with the metadata at once.
    """
    if plate_map is not None:
        table = join_plate_map(table, read_plate_map(plate_map))
    if compound_map is not None:
        table = _with_compounds(table, compound_map)
    obs = table.obs
    if plates.batch != "batch":
        obs = obs.assign(batch=_column(obs, plates.batch, "plates.batch", table.source))
    known = None
    if plates.treatment != _TREATMENT:
        obs = obs.assign(treatment=_treatments(obs, plates.treatment, table.source))
        known = obs["treatment"].notna()
    obs, problems = check_plates(
        obs, format=plates.format, negative=plates.controls, level=level, allow=allow
    )
    if known is not None:  # gaps were filled with another kind of name, which only controls may have
        obs["treatment"] = obs["treatment"].where(known | obs["is_control"], None)
    findings = [Finding(problem.code, problem.message) for problem in problems]
    return replace(table, obs=obs), findings


def _treatments(obs: pd.DataFrame, names: Sequence[str], source: str) -> pd.Series[Any]:
    """Join columns to names of treatments, None where one of them is empty."""
    joined = pd.Series("", obs.index, dtype=object)
    for place, name in enumerate(names):
        values = _column(obs, name, "plates.treatment", source)
        texts = values.map(comparable, na_action="ignore").astype(object)
        if name == "concentration":  # never guessed, but a treatment all the same
            texts = texts.where(texts.notna(), "na")
        joined = joined + ("@" if place else "") + texts
    return joined.where(joined.notna(), None)


def _with_compounds(table: ProfileTable, uri: str) -> ProfileTable:
    """Join a map of compounds, by concentration as well where the map has one."""
    names = read_source(uri).column_names
    on = _TREATMENT if "concentration" in {own_name(name) for name in names} else _TREATMENT[:1]
    return join_plate_map(table, read_plate_map(uri, on=on), on=on)


def correction_obs(table: ProfileTable) -> dict[str, Any]:
    """Return what a correction wants to know of each row (``correction.base``)."""
    columns: dict[str, Any] = {"obs_id": table.obs.index.to_numpy().astype(str)}
    for name in ("plate", "batch", "treatment"):
        if name in table.obs:
            columns[name] = table.obs[name].to_numpy(object)
    columns["is_control"] = table.obs["is_control"].to_numpy(bool)
    return columns


def labelled(treatments: ProfileTable, label: str, compound: str) -> tuple[ProfileTable, list[str]]:
    """Return the treatments whose label and compound are known, and notes on the others.

    Raises
    ------
    InputError
        A column that is not there, or a compound with several labels.
    """
    obs = treatments.obs
    missing = [name for name in (label, compound) if name not in obs]
    if missing:
        raise InputError(
            f"{treatments.source}: treatments have no {' and no '.join(missing)} (or several of it in one treatment)",
            hint="name the columns under input.columns, or set score.label to null",
        )
    known = obs[label].notna() & obs[compound].notna()
    counts = {name: int(obs[name].isna().sum()) for name in (label, compound)}
    notes = [f"{n} treatments without {name} are not scored" for name, n in counts.items() if n]
    several = obs[known].groupby(compound, observed=True)[label].nunique()
    several = several[several > 1]
    if len(several):
        raise InputError(
            f"{treatments.source}: {len(several)} compound(s) have more than one {label}: "
            f"{shorten(several.index.tolist())}",
            hint=f"give each compound one {label}",
        )
    return treatments.take(known.to_numpy()), notes


def _column(obs: pd.DataFrame, name: str, key: str, source: str) -> pd.Series[Any]:
    """Return a column that was named in the settings, gaps as None."""
    if name not in obs:
        raise InputError(
            f"{key}: {source} has no column {name!r}", hint=f"it has {', '.join(map(str, obs.columns))}"
        )
    if obs[name].isna().all():
        raise InputError(f"{key}: the column {name!r} of {source} is empty")
    return obs[name].astype(object).where(obs[name].notna(), None)
