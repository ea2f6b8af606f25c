"""From a configuration to checked rows at the level that is corrected; every row that leaves is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop.core.profile_config import ProfileConfig
from microsnoop.correction.base import Finding
from microsnoop.io.opener import is_remote
from microsnoop.io.plate_check import comparable
from microsnoop.io.profile_columns import shorten
from microsnoop.io.profile_table import ProfileTable
from microsnoop.pipelines.profile_levels import aggregate
from microsnoop.pipelines.profile_plates import prepare_plates
from microsnoop_apps.profiling.experiment import Experiment
from microsnoop_integrations.profiles import read_profile_source


@dataclass(frozen=True)
class Loaded:
    """Rows ready to be corrected, and where all others went."""

    rows: ProfileTable
    n_input: int  # rows of the source
    n_left_out: int  # by `where`
    n_read: int  # rows that can be used, before they are aggregated
    n_rejected: int  # rows that cannot
    findings: tuple[Finding, ...]  # of the plates
    notes: tuple[str, ...]

    def balance(self, experiment: Experiment) -> str:
        """Return where all rows went, in one sentence."""
        treatments = experiment.used.treatments
        codes = treatments.rejects["code"]  # rows come first, then what was lost on the way to treatments
        early, late = codes.iloc[: self.n_rejected], codes.iloc[self.n_rejected :]
        sign = "=" if self.n_input == self.n_left_out + self.n_read + self.n_rejected else "≠"
        rows, n_control = len(self.rows.obs), int(self.rows.obs["is_control"].sum())
        text = f"{self.n_input:,} rows {sign} {self.n_read:,} read + {self.n_rejected:,} rejected{_counted(early)}"
        if self.n_left_out:
            text += f" + {self.n_left_out:,} left out by `where`"
        text += f"; {rows:,} rows are corrected, {n_control:,} of them controls; {len(treatments.obs):,} treatments "
        text += "(controls among them)"
        if len(late):
            text += f"; {len(late):,} rejected on the way to treatments{_counted(late)}"
        return text + "."

    def rejects(self, experiment: Experiment) -> pd.DataFrame:
        """Return everything that was rejected on the way to the treatments in use."""
        return experiment.used.treatments.rejects


def load(config: ProfileConfig, *, root: str) -> Loaded:
    """Read, filter, check and aggregate the rows of a batch experiment.

    Raises
    ------
    InputError
        Nothing there, metadata that contradict each other (all problems at once), no control, a treatment that is
        one in some rows only, or, where wells are made, a well of several treatments.
    """
    given = config.input
    table = read_profile_source(place_of(given.table, root), columns=given.columns, features=given.features)
    n_input = len(table.obs) + len(table.rejects)
    kept = _chosen(table, given.where)
    n_left_out = int((~kept).sum())
    table = table.take(kept)
    table, findings = prepare_plates(
        table,
        config.plates,
        level=given.level,
        plate_map=place_of(given.plate_map, root) if given.plate_map else None,
        compound_map=place_of(given.compound_map, root) if given.compound_map else None,
    )
    n_read, n_rejected = len(table.obs), len(table.rejects)
    _check_groups(table, config)
    if config.levels.correct != "row":
        table = aggregate(
            table, config.levels.correct, statistic=config.levels.statistic, min_rows=config.levels.min_rows
        )
    if not table.obs["is_control"].any():
        query = "; ".join(f"{name} in {', '.join(values)}" for name, values in config.plates.controls.items())
        raise InputError(
            f"{table.source}: no row is a control ({query})",
            hint="set plates.controls to the column and values of the negative controls, e.g. {compound: [DMSO]}",
        )
    return Loaded(table, n_input, n_left_out, n_read, n_rejected, tuple(findings), table.notes)


def place_of(name: str, root: str) -> str:
    """Return a path below the data root where there is something, else as it stands."""
    if is_remote(name) or Path(name).is_absolute():
        return name
    below = Path(root) / name
    return str(below) if not is_remote(root) and below.exists() else name


def _chosen(table: ProfileTable, where: dict[str, list[str]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    kept = np.ones(len(table.obs), bool)
    for name, values in where.items():
        if name not in table.obs:
            raise InputError(
                f"input.where: {table.source} has no column {name!r}",
                hint=f"it has {', '.join(table.obs.columns)}",
            )
        kept &= _is_one_of(table.obs[name], values).to_numpy()
    if not kept.any():
        raise InputError(
            f"input.where keeps none of the {len(kept):,} rows of {table.source}",
            hint="; ".join(f"{name} holds {shorten(_values(table.obs[name]))}" for name in where),
        )
    return kept


def _is_one_of(column: pd.Series, values: Sequence[str]) -> pd.Series:
    """Whether a value is one of those written as text: in a column of numbers 10, 10.0 and 1e1 are the same."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        numbers = pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").dropna().astype(float)
        return column.map(comparable, na_action="ignore").isin([comparable(number) for number in numbers])
    return column.map(comparable, na_action="ignore").isin(values)


def _values(column: pd.Series) -> list[str]:
    return column.dropna().map(comparable).unique().tolist()


def _check_groups(table: ProfileTable, config: ProfileConfig) -> None:
    """Refuse groups of rows that would be told neither controls nor treated, or be of no one treatment."""
    obs = table.obs
    kinds = obs.groupby("treatment")["is_control"].nunique()
    if both := kinds.index[kinds > 1].astype(str).tolist():
        raise InputError(
            f"{table.source}: {len(both)} treatment(s) are controls in some rows and not in others: {shorten(both)}",
            hint="let plates.controls hold all of these rows, or add the column that tells them apart to "
            "plates.treatment",
        )
    if config.levels.correct == "row" and not config.levels.through_wells:
        return
    by_site = config.levels.correct == "site" and not config.levels.through_wells and "site" in obs
    keys = ["plate", "well", *(["site"] if by_site else [])]
    several = obs.groupby(keys)["treatment"].nunique(dropna=False)
    if mixed := ["/".join(map(str, key)) for key in several.index[several > 1]]:
        raise InputError(
            f"{table.source}: {len(mixed)} {keys[-1]}(s) hold rows of several treatments: {shorten(mixed)}",
            hint="correct the table or the plate map, or use levels.correct: row without through_wells",
        )


def _counted(codes: pd.Series) -> str:
    counts = ", ".join(f"{code} {n:,}" for code, n in codes.value_counts().items())
    return f" ({counts})" if counts else ""
