"""From a configuration to checked rows at the level that is corrected; every row that leaves is counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop.core.profile_config import ProfileConfig
from microsnoop.correction.base import Finding
from microsnoop.io.opener import is_remote
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
        codes = ", ".join(f"{code} {n:,}" for code, n in self.rows.rejects["code"].value_counts().items())
        sign = "=" if self.n_input == self.n_left_out + self.n_read + self.n_rejected else "≠"
        treatments = experiment.used.treatments
        rows, n_control = len(self.rows.obs), int(self.rows.obs["is_control"].sum())
        text = f"{self.n_input:,} rows {sign} {self.n_read:,} read + {self.n_rejected:,} rejected"
        if self.n_left_out:
            text += f" + {self.n_left_out:,} left out by `where`"
        if codes:
            text += f" (rejects: {codes})"
        few = len(treatments.rejects) - len(self.rows.rejects)
        return (
            f"{text}; {rows:,} rows are corrected, {n_control:,} of them controls; "
            f"{len(treatments.obs):,} treatments (controls among them)"
            + (f", {few:,} rejected" if few else "")
            + "."
        )

    def rejects(self, experiment: Experiment) -> pd.DataFrame:
        """Return everything that was rejected on the way to the treatments in use."""
        return experiment.used.treatments.rejects


def load(config: ProfileConfig, *, root: str) -> Loaded:
    """Read, filter, check and aggregate the rows of a batch experiment.

    Raises
    ------
    InputError
        Nothing there, metadata that contradict each other (all problems at once), or no control.
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
        kept &= table.obs[name].astype(str).isin(values).to_numpy()
    if not kept.any():
        raise InputError(f"input.where keeps none of the {len(kept):,} rows of {table.source}")
    return kept
