"""What stood in the wells: maps joined, batches and controls named, plates checked.

Source: batch spec, section 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop.core.profile_config import PlateConfig
from microsnoop.correction.base import Finding
from microsnoop.io.plate_check import check_plates
from microsnoop.io.plate_map import join_plate_map, read_plate_map, read_source
from microsnoop.io.profile_columns import own_name
from microsnoop.io.profile_table import ProfileTable

_TREATMENT = ["compound", "concentration"]


def prepare_plates(
    table: ProfileTable,
    plates: PlateConfig,
    *,
    level: str = "image",
    plate_map: str | None = None,
    compound_map: str | None = None,
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

    Returns
    -------
    The rows with ``is_control``, ``control_type``, ``batch`` and ``treatment`` in ``obs``, and findings.

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
    if plates.treatment != _TREATMENT:
        parts = [_column(obs, name, "plates.treatment", table.source) for name in plates.treatment]
        known = pd.concat([part.notna() for part in parts], axis=1).all(axis=1)
        joined = pd.concat([part.astype(str) for part in parts], axis=1).agg("@".join, axis=1)
        obs = obs.assign(treatment=joined.astype(object).where(known, None))
    obs, problems = check_plates(obs, format=plates.format, negative=plates.controls, level=level)
    findings = [Finding(problem.code, problem.message) for problem in problems]
    return replace(table, obs=obs), findings


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


def _column(obs: pd.DataFrame, name: str, key: str, source: str) -> pd.Series:
    if name not in obs:
        raise InputError(
            f"{key}: {source} has no column {name!r}", hint=f"it has {', '.join(map(str, obs.columns))}"
        )
    return obs[name].astype(object).where(obs[name].notna(), None)
