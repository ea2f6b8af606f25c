"""Labels from a user's table joined to slides at a stated level, never guessed. Source: slides spec, section 12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop.io.tables import read_table

Level = Literal["patient", "sample", "slide"]
_NAMED = 5  # how many names an error lists


@dataclass(frozen=True)
class JoinReport:
    """What became of a join.

    Attributes
    ----------
    n_slides, n_matched
        Slides that came, and those with a value in every column asked for.
    unmatched_slides
        Slides whose key the labels do not have.
    unlabelled_slides
        Slides whose key is there, with an empty cell in a column asked for.
    unmatched_labels
        Keys of the labels that no slide has.
    duplicate_keys
        Keys that stand more than once in the labels, without contradiction where slides have them.
    conflicts_elsewhere
        Keys without slides whose rows contradict each other: they do not matter here.
    mixed_patients
        Patients whose slides have several classes (level slide alone).
    """

    level: Level
    n_slides: int
    n_matched: int
    unmatched_slides: tuple[str, ...]
    unlabelled_slides: tuple[str, ...]
    unmatched_labels: tuple[str, ...]
    duplicate_keys: tuple[str, ...]
    conflicts_elsewhere: tuple[str, ...]
    mixed_patients: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return what a reader must know, a sentence each."""
        counts = {
            "slides without a row in the labels": self.unmatched_slides,
            "slides whose label is empty": self.unlabelled_slides,
            f"{self.level}s of the labels without a slide": self.unmatched_labels,
            f"{self.level}s that stand more than once in the labels": self.duplicate_keys,
            f"{self.level}s without slides whose rows contradict each other": self.conflicts_elsewhere,
            "patients whose slides differ in class": self.mixed_patients,
        }
        first = f"{self.n_matched} of {self.n_slides} slides have labels, joined by {self.level}"
        return [first, *(f"{len(keys)} {what}: {_some(keys)}" for what, keys in counts.items() if keys)]


def read_text_table(
    path: str | Path, *, needed: Sequence[str] = (), separator: str | None = None
) -> pd.DataFrame:
    """Read CSV, TSV (also gzipped) or Parquet as text: no cell changes, empty ones are None.

    The extension decides on the separator unless one is given.

    Raises
    ------
    InputError
        Unreadable, without rows, or without a column that is ``needed``.
    """
    name = str(path).lower().removesuffix(".gz")
    if name.endswith((".parquet", ".pq")):
        table = read_table(str(path)).to_pandas()
        table = table.astype(object).map(lambda cell: None if pd.isna(cell) else str(cell))
    else:
        separator = separator or ("\t" if name.endswith((".tsv", ".txt")) else ",")
        try:
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:  # pandas' own errors are among them
            raise InputError(f"{path} is not a readable table: {error}") from error
        table = table.astype(object).where(table.notna(), None)
    missing = [column for column in needed if column not in table]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}", hint=f"it has {', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise InputError(f"{path} has no rows")
    return table


def join_labels(
    slides: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    level: Level,
    columns: Sequence[str],
    key: str | None = None,
    target: str | None = None,
) -> tuple[pd.DataFrame, JoinReport]:
    """Give slides the columns of a label table.

    Parameters
    ----------
    slides
        ``slide_id``, ``patient_id``, and ``sample_id`` for level sample (as ``Selection.slides``). Not changed.
    labels
        One row a patient, sample or slide; further rows of a key must not contradict the first.
    level
        What the labels are of.
    columns
        Those that slides get; empty cells are no labels.
    key
        The column of ``labels`` with the names (default ``patient_id``, ``sample_id``, ``slide_id``, by level).
        TCGA names are compared in upper case, all others as they are.
    target
        The column with the classes, one of ``columns`` (default the first).

    Returns
    -------
    The slides with a value in every column, in their order, and the report, which names all others.

    Raises
    ------
    InputError
        A column is missing; ``label_conflict``: rows of one key contradict each other; ``patient_conflict``: a patient
        in two classes (unless ``level`` is slide); no slide has a label.
    """
    key, target = key or f"{level}_id", target or columns[0]
    _need(slides, ["slide_id", "patient_id", f"{level}_id"], "the slides")
    _need(labels, [key, *columns], "the labels")
    own = [_key(name) for name in slides[f"{level}_id"]]
    values, duplicates, conflicts = _by_key(labels, key, list(columns))
    if wrong := sorted(set(own) & conflicts.keys()):
        raise InputError(
            f"label_conflict: {len(wrong)} {level}s have rows that contradict each other: "
            + "; ".join(f"{name}: {conflicts[name]}" for name in wrong[:_NAMED]),
            hint="keep one row each, or join by another level",
        )
    found = [values.get(name) for name in own]
    there = [row is not None and all(cell is not None for cell in row) for row in found]
    if not any(there):
        raise InputError(
            f"no slide has a label: slides are named like {_some(own[:1])}, labels like {_some(list(values)[:1])}"
        )
    joined = slides[there].reset_index(drop=True)
    for place, column in enumerate(columns):
        joined[column] = [row[place] for row, ok in zip(found, there, strict=True) if row is not None and ok]
    ids = slides["slide_id"].astype(str)
    return joined, JoinReport(
        level=level,
        n_slides=len(slides),
        n_matched=len(joined),
        unmatched_slides=tuple(name for name, row in zip(ids, found, strict=True) if row is None),
        unlabelled_slides=tuple(
            name for name, row, ok in zip(ids, found, there, strict=True) if row is not None and not ok
        ),
        unmatched_labels=tuple(sorted(values.keys() - set(own))),
        duplicate_keys=tuple(sorted(duplicates)),
        conflicts_elsewhere=tuple(sorted(conflicts)),
        mixed_patients=check_patients(joined, target, allow_mixed=level == "slide"),
    )


def check_patients(table: pd.DataFrame, target: str, *, allow_mixed: bool) -> tuple[str, ...]:
    """Return the patients whose slides have several classes.

    Raises
    ------
    InputError
        ``patient_conflict``: there are some, and they are not allowed.
    """
    classes = table.groupby("patient_id")[target].agg(lambda values: sorted(set(map(str, values))))
    mixed = {str(patient): found for patient, found in classes.items() if len(found) > 1}
    if mixed and not allow_mixed:
        named = "; ".join(f"{patient}: {', '.join(mixed[patient])}" for patient in sorted(mixed)[:_NAMED])
        raise InputError(
            f"patient_conflict: {len(mixed)} patients are in two classes of {target!r}: {named}",
            hint="a patient has one class; `level: slide` judges slides by themselves",
        )
    return tuple(sorted(mixed))


def _by_key(
    labels: pd.DataFrame, key: str, columns: list[str]
) -> tuple[dict[str, list[str | None]], set[str], dict[str, str]]:
    """Return the cells of each key (an empty one never contradicts), keys with several rows, and contradictions."""
    values: dict[str, list[str | None]] = {}
    duplicates: set[str] = set()
    conflicts: dict[str, str] = {}
    cells = labels[[key, *columns]].itertuples(index=False, name=None)
    for number, (name, *row) in enumerate(cells):
        if pd.isna(name) or not str(name).strip():
            raise InputError(f"the labels have an empty {key!r} in data row {number + 1}")
        ours, own = _key(name), [None if pd.isna(cell) else str(cell) for cell in row]
        before = values.setdefault(ours, own)
        if before is own:
            continue
        duplicates.add(ours)
        for place, (old, new) in enumerate(zip(before, own, strict=True)):
            if old is None:
                before[place] = new
            elif new is not None and new != old:
                conflicts[ours] = f"{columns[place]} is {old!r} and {new!r}"
    return values, duplicates, conflicts


def _key(name: object) -> str:
    text = str(name).strip()
    return text.upper() if text.upper().startswith("TCGA-") else text


def _need(table: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(
            f"{what} have no column {', '.join(missing)}",
            hint=f"they have {', '.join(map(str, table.columns))}",
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
