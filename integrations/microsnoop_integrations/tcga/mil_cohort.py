"""Slides with bags, patients, classes, confounders and sites: what folds and training are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop.correction.base import Finding
from microsnoop_integrations.tcga.bags import BagSet
from microsnoop_integrations.tcga.folds import Folds, check_given_folds, make_patient_folds, make_slide_folds
from microsnoop_integrations.tcga.labels import check_patients
from microsnoop_integrations.tcga.sampling import Stratifier, count_missing

_NAMED = 5


@dataclass(frozen=True)
class Cohort:
    """N slides, sorted by name.

    ``targets`` are numbers int64 (N,) of ``classes``, of which ``positive`` is scored as 1 where there are two;
    ``mixed_patients`` have slides of several classes.
    """

    slides: NDArray[Any]
    patients: NDArray[Any]
    targets: NDArray[np.int64]
    classes: tuple[str, ...]
    positive: int
    confounders: Mapping[str, Sequence[Any]]
    sites: NDArray[Any] | None
    mixed_patients: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.slides)

    @property
    def names(self) -> NDArray[Any]:
        """Class of each slide by name, (N,)."""
        return np.asarray(self.classes)[self.targets]

    def columns(self, rows: NDArray[Any]) -> dict[str, list[Any]]:
        """Return the confounders of some slides."""
        return {name: [values[r] for r in rows] for name, values in self.confounders.items()}


def make_cohort(bags: BagSet, table: pd.DataFrame, settings: MilSettings) -> Cohort:
    """Bring bags and labels together; what has only one of the two is counted and named in ``findings``.

    Parameters
    ----------
    table
        ``slide_id``, ``patient_id`` and the columns that the settings name, one row a slide. Not changed.

    Raises
    ------
    InputError
        A column is missing; a slide stands twice; an empty patient, class or site; nothing in common; one class;
        ``patient_conflict``.
    """
    needed = ["slide_id", "patient_id", settings.target, *settings.confounders]
    needed += [settings.site] if settings.site is not None else []
    if missing := [name for name in needed if name not in table]:
        raise InputError(
            f"the table has no column {', '.join(missing)}",
            hint=f"it has {', '.join(map(str, table.columns))}",
        )
    ids = table["slide_id"].astype(str)
    if ids.duplicated().any():
        raise InputError(f"the table has slides twice, e.g. {ids[ids.duplicated()].iloc[0]!r}")
    for name in ("patient_id", settings.target, settings.site):
        if name is not None and (empty := table[name].isna()).any():
            raise InputError(
                f"{int(empty.sum())} slides have no {name}, e.g. {ids[empty].iloc[0]!r}",
                hint="leave them out of the table",
            )
    kept = table[ids.isin(list(bags)).to_numpy()].astype({"slide_id": str}).sort_values("slide_id")
    if kept.empty:
        raise InputError(f"no slide of the table has a bag: {ids.iloc[:1].tolist()} and {list(bags)[:1]}")
    mixed = check_patients(kept, settings.target, allow_mixed=settings.level == "slide")
    classes, targets = np.unique(kept[settings.target].astype(str).to_numpy(str), return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"two classes of {settings.target!r} are needed, there is only {str(classes[0])!r}")
    confounders = {name: kept[name].tolist() for name in settings.confounders}
    return Cohort(
        slides=kept["slide_id"].to_numpy(str),
        patients=kept["patient_id"].astype(str).to_numpy(str),
        targets=targets.astype(np.int64),
        classes=tuple(map(str, classes)),
        positive=_positive(classes.tolist(), settings.positive),
        confounders=confounders,
        sites=None if settings.site is None else kept[settings.site].astype(str).to_numpy(str),
        mixed_patients=mixed,
        findings=tuple(_findings(ids.tolist(), bags, confounders)),
    )


def plan_folds(cohort: Cohort, settings: MilSettings, given: Mapping[str, int] | None = None) -> Folds:
    """Make the outer folds, or take those of the caller (slide: fold) if no patient is in two.

    Raises
    ------
    InputError
        As :func:`make_patient_folds` and :func:`check_given_folds`; a slide without a fold.
    """
    sites = cohort.sites if settings.group_by == "site" else None
    if given is not None:
        if missing := [slide for slide in cohort.slides.tolist() if slide not in given]:
            raise InputError(f"{len(missing)} slides have no fold, e.g. {missing[0]!r}")
        fold = np.array([given[slide] for slide in cohort.slides.tolist()])
        return check_given_folds(fold, cohort.patients, cohort.names, sites=sites)
    if settings.compat.folds == "slide":
        return make_slide_folds(cohort.slides, cohort.names, folds=settings.folds, seed=settings.seed)
    stratifier = Stratifier.fit(cohort.confounders, continuous=settings.continuous)
    return make_patient_folds(
        cohort.patients,
        cohort.names,
        confounders=stratifier.strata(cohort.confounders, len(cohort)),
        sites=sites,
        folds=settings.folds,
        seed=settings.seed,
    )


def _positive(classes: list[str], wanted: str | None) -> int:
    if wanted is None:
        return len(classes) - 1
    if wanted not in classes:
        raise InputError(f"there is no class {wanted!r}, only {', '.join(classes)}")
    return classes.index(wanted)


def _findings(ids: list[str], bags: BagSet, confounders: Mapping[str, Sequence[Any]]) -> list[Finding]:
    groups = {
        "no_bag": ("slides of the table have no bag", [name for name in ids if name not in bags]),
        "no_label": ("bags have no row in the table", [name for name in bags if name not in set(ids)]),
    }
    found = [
        Finding(code, f"{len(names)} {what}: {', '.join(names[:_NAMED])}")
        for code, (what, names) in groups.items()
        if names
    ]
    unknown = count_missing(confounders)
    return found + [
        Finding("confounder_missing", f"{name} of {n} slides is unknown: its own level `na`")
        for name, n in unknown.items()
    ]
