"""Which column of a table of profiles is what: keys and metadata by their many names, and the features.

Tables come from CellProfiler, JUMP, DeepProfiler, CytoTable, BBBC021 or from us. Their names for the same thing
(``Metadata_Well``, ``Image_Metadata_Well_DAPI``, ``well_position``) are read as ours; two columns that could be the
same thing are never chosen between: the reader of the error says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from microsnoop.core.errors import InputError
from microsnoop.core.schema import ROW_FIELDS

# names of a concentration that say its unit
UNITS_IN_NAMES = {
    "concentration_um": "uM", "conc_um": "uM", "dose_um": "uM", "umoles_per_liter": "uM",
    "concentration_nm": "nM", "conc_nm": "nM", "concentration_mm": "mM", "mmoles_per_liter": "mM",
}  # fmt: skip
# Our names, and what others call the same thing: lower case, without the prefixes below.
ALIASES: dict[str, tuple[str, ...]] = {
    "obs_id": (),
    "plate": ("plateid", "plate_id", "plate_name", "plate_barcode", "assay_plate_barcode", "barcode"),
    "well": ("wellid", "well_name", "well_position", "assay_plate_well"),
    "site": ("field", "field_id", "field_of_view", "fov"),
    "batch": ("batch_id", "batch_name", "experiment"),
    "week": (),
    "laboratory": ("lab",),
    "compound": ("compound_name", "compound_id", "drug", "jcp2022", "pert_iname", "broad_sample"),
    "concentration": ("conc", "dose", *UNITS_IN_NAMES),
    "concentration_unit": ("concentration_units", "conc_unit", "dose_unit"),
    "treatment": (),
    "moa": ("mechanism_of_action", "mechanism"),
    "control_type": ("well_type",),
    "replicate": ("rep",),
    "cell_line": ("cellline", "cell_type"),
    "n_cells": ("cell_count", "count_cells", "number_of_cells", "object_count", "image_count_cells"),
    "n_images": ("image_count", "n_sites"),
}
TEXT_KEYS = tuple(name for name in ALIASES if name not in ("concentration", "n_cells", "n_images"))
_PREFIX = re.compile(r"^(image_metadata_|metadata_|meta_)", re.IGNORECASE)
_STAINS = (
    "dapi",
    "hoechst",
    "dna",
    "er",
    "rna",
    "agp",
    "mito",
    "actin",
    "tubulin",
    "gfp",
    "rfp",
    "brightfield",
)
_FILE_OF_CHANNEL = re.compile(r"^(?:image_)?(?:filename|pathname|url)_(.+)$", re.IGNORECASE)

COMPARTMENTS = ("Cells_", "Nuclei_", "Cytoplasm_")
# CellProfiler columns that say where an object is or which number it has, not what it looks like
_NO_MEASUREMENT = re.compile(
    r"_(Location|Parent|Children)_|_AreaShape_(Center|BoundingBox(Minimum|Maximum))_|Object_?Number(_|$)"
)
# numbers that count or place things in tables of others
_ID_COLUMN = re.compile(
    r"^(|(image|object|table)_?number|(image_)?(file|path)name.*|unnamed: \d+|__index_level_\d+__|index"
    r"|(row|col|column|x|y|z|t)|(well_)?(row|col|column)(_number)?|id|.*_id)$",
    re.IGNORECASE,
)
_VECTOR_NAMES = ("vectors", "vector", "embedding", "embeddings", "features", "x")
_OURS = frozenset(name for name, _ in ROW_FIELDS)
_SHOWN = 8


@dataclass(frozen=True)
class FeatureColumns:
    """Names of feature columns, or of one column of vectors; measurements that are no features, said in notes."""

    names: tuple[str, ...]
    vector: str | None = None
    unused: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def own_name(column: str, *, channels: Sequence[str] = ()) -> str | None:
    """Return our name for somebody's column, or None where it is none we know.

    Parameters
    ----------
    column
        ``Metadata_Well``, ``meta_plate``, ``Image_Metadata_Plate_DAPI``, ...; capitals do not matter.
    channels
        Names of channels: CellProfiler repeats metadata for each (``Image_Metadata_Well_CorrDAPI``).
    """
    lower = column.strip().lower()
    bare = _PREFIX.sub("", lower)
    if found := _BY_ALIAS.get(bare) or _BY_ALIAS.get(bare.replace(" ", "_")):
        return found
    if bare == "source" and bare != lower:  # JUMP: the laboratory; without the prefix it may be anything
        return "laboratory"
    head, _, tail = bare.rpartition("_")
    known = {*_STAINS, *(name.lower() for name in channels)}
    return _BY_ALIAS.get(head) if lower.startswith("image_metadata_") and tail in known else None


def is_metadata(column: str) -> bool:
    """Whether the name of a column begins as metadata does (``Metadata_``, ``Image_Metadata_``, ``meta_``)."""
    return _PREFIX.match(column.strip()) is not None


def assign_columns(
    names: Sequence[str],
    columns: Mapping[str, str] | None = None,
    *,
    where: str,
    needed: Sequence[str] = (),
    table: Any = None,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Find which column stands for which of our names.

    Parameters
    ----------
    names
        All columns of the table.
    columns
        Our name: their column; this wins over everything found by name.
    where
        The table, for messages.
    needed
        Our names that must be there.
    table
        The Arrow table or DataFrame itself: of columns that hold the same values the first one is used.

    Returns
    -------
    ``{our name: their column}``, and notes on repeated columns.

    Raises
    ------
    InputError
        A name that is not ours, a column that is not there or is given two names, a name without a column, or
        several columns with different values for one.
    """
    chosen = _explicit(names, columns or {}, where)
    channels = [match[1] for match in map(_FILE_OF_CHANNEL.match, names) if match]
    candidates: dict[str, list[str]] = {}
    for column in names:
        own = own_name(column, channels=channels)
        if own is not None and own not in chosen and column not in chosen.values():
            candidates.setdefault(own, []).append(column)
    notes = []
    rivals = []
    for own, found in candidates.items():
        if all(table is not None and table[found[0]].equals(table[other]) for other in found[1:]):
            chosen[own] = found[0]
            if len(found) > 1:
                notes.append(f"{own} is {found[0]!r}; the same values stand in {', '.join(found[1:])}")
        else:
            rivals.append(f"{own}: {', '.join(found)}")
    if rivals:
        raise InputError(
            f"{where}: several columns could be the same thing ({'; '.join(rivals)})",
            hint="say which one under columns, for example {" + rivals[0].split(",")[0] + "}",
        )
    if missing := [name for name in needed if name not in chosen]:
        raise InputError(
            f"{where} has no column for {' and '.join(missing)}",
            hint=f"name it under columns, for example {{{missing[0]}: ...}}; there are {shorten(names)}",
        )
    return chosen, tuple(notes)


def find_features(
    kinds: Mapping[str, str],
    *,
    taken: Sequence[str] = (),
    features: Sequence[str] | None = None,
    where: str,
) -> FeatureColumns:
    """Find the columns that make up the profile.

    Parameters
    ----------
    kinds
        Column: ``number``, ``vector`` (a list of floats a row) or anything else.
    taken
        Columns that stand for one of our names: never features.
    features
        Names of columns, or how they begin; without it, see the module: CellProfiler compartments if there are
        any, else one column of vectors, else every number that is no metadata, alias or id.

    Raises
    ------
    InputError
        No features, a name or prefix without a numeric column, or several columns of vectors.
    """
    numbers = [name for name, kind in kinds.items() if kind == "number" and name not in taken]
    numbers = [name for name in numbers if not is_metadata(name) and own_name(name) is None]
    ids = {name for name in numbers if name in _OURS or _ID_COLUMN.match(name.strip())}
    if features is not None:
        chosen, vector = _stated(kinds, features, taken, where)
        rest = [name for name in numbers if name not in {*chosen, *ids}] if vector is None else []
        return FeatureColumns(tuple(chosen), vector, frozenset(rest), _left_out(rest, "not named"))
    vectors = [name for name, kind in kinds.items() if kind == "vector" and name not in taken]
    if named := [name for name in vectors if name.lower() in _VECTOR_NAMES]:
        vectors = named
    if len(vectors) > 1:
        raise InputError(
            f"{where} has several columns of vectors: {', '.join(vectors)}",
            hint="name one of them under features",
        )
    if vectors:
        notes = _left_out(numbers, f"not part of the vectors {vectors[0]!r}")
        return FeatureColumns((), vectors[0], notes=notes)
    if any(name.startswith(COMPARTMENTS) for name in numbers):
        kept, notes = _of_compartments(kinds, numbers)
    else:
        kept = [name for name in numbers if name not in ids]
        notes = _left_out([name for name in numbers if name in ids], "an id or a place")
    if not kept:
        raise InputError(
            f"{where} has no feature columns: no numbers besides metadata and ids",
            hint="name the columns, or how they begin, under features",
        )
    return FeatureColumns(tuple(kept), None, frozenset(numbers) - {*kept, *ids}, notes)


def _explicit(names: Sequence[str], columns: Mapping[str, str], where: str) -> dict[str, str]:
    unknown = [own for own in columns if own not in ALIASES]
    if unknown:
        raise InputError(
            f"{where}: {', '.join(map(repr, unknown))} is none of our columns",
            hint=f"columns are named our name: their column; ours are {', '.join(ALIASES)}",
        )
    missing = [column for column in columns.values() if column not in names]
    if missing:
        raise InputError(
            f"{where} has no column {', '.join(map(repr, missing))}", hint=f"it has {shorten(names)}"
        )
    shared = sorted({column for column in columns.values() if list(columns.values()).count(column) > 1})
    if shared:
        raise InputError(f"{where}: the column(s) {', '.join(shared)} are given two names")
    return dict(columns)


def _stated(
    kinds: Mapping[str, str], features: Sequence[str], taken: Sequence[str], where: str
) -> tuple[list[str], str | None]:
    """Return the columns that were named, or begin as was said, or the one column of vectors."""
    if len(features) == 1 and kinds.get(features[0]) == "vector":
        return [], features[0]
    kept: dict[str, None] = {}
    for entry in features:
        found = [entry] if entry in kinds else [name for name in kinds if name.startswith(entry)]
        found = [name for name in found if kinds[name] == "number" and name not in taken]
        if not found:
            raise InputError(
                f"{where}: the feature {entry!r} is no numeric column, and none begins like that",
                hint=f"it has {shorten(list(kinds))}; a column of vectors must be the only feature",
            )
        kept.update(dict.fromkeys(found))
    if not kept:
        raise InputError(f"{where}: no features were named", hint="leave features out to have them found")
    return list(kept), None


def _of_compartments(kinds: Mapping[str, str], numbers: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Split CellProfiler columns into features and what measures nothing of the cell."""
    inside = [name for name in numbers if name.startswith(COMPARTMENTS)]
    placed = [name for name in inside if _NO_MEASUREMENT.search(name)]
    outside = [name for name in numbers if not name.startswith(COMPARTMENTS)]
    text = [name for name, kind in kinds.items() if kind != "number" and name.startswith(COMPARTMENTS)]
    notes = _left_out(placed, "the place or the number of an object")
    notes += _left_out(outside, f"not of {', '.join(COMPARTMENTS)}")
    if text:
        notes += (
            f"{len(text)} column(s) of measurements do not hold numbers and are not used: {shorten(text)}",
        )
    return [name for name in inside if name not in set(placed)], notes


def _left_out(names: Sequence[str], why: str) -> tuple[str, ...]:
    if not names:
        return ()
    return (f"{len(names)} numeric column(s) are not used as features ({why}): {shorten(names)}",)


def shorten(names: Sequence[str], shown: int = _SHOWN) -> str:
    """Return the first few of some names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more


_BY_ALIAS = {alias: own for own, aliases in ALIASES.items() for alias in (own, *aliases)}
