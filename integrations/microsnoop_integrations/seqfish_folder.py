"""What a seqFISH+ folder holds of one tissue, and what it lacks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop.core.ordering import natural
from microsnoop.io.formats import EXTENSIONS
from microsnoop.io.opener import list_files
from microsnoop_integrations.seqfish_counts import Counts, is_counts, is_locations
from microsnoop_integrations.seqfish_tables import (
    TextFile,
    describe_columns,
    known_columns,
    list_tables,
    split_line,
)

TISSUES = ("cortex", "olfactory_bulb")
LICENCE = (
    "Free for non-commercial and academic research only (data and annotations of Eng et al. 2019, "
    "CaiGroup/seqFISH-PLUS); files of drieslab/spatial-datasets: MIT. "
    "Cite Eng et al. 2019, Nature 568:235, doi:10.1038/s41586-019-1049-y."
)
ASSAY_GENES = 10_000
_WHAT = {
    "field": "fields of view",
    "x_px": "positions of cells",
    "cell_type": "cell types",
    "louvain": "Louvain clusters",
}
_OUTLINES = re.compile(r"mask|segment|(?<![a-z])rois?(?![a-z])")  # not the roi in "centroids"
_LOOKED_FOR = (
    "counts (a file named ...expr... or ...counts...), centroids (columns ID, X, Y, or Field of View, X, Y), "
    "annotations (ID, FOV, cell_types, or index, louvain)"
)


@dataclass
class Folder:
    """What a folder holds of one tissue, sorted by what it is."""

    path: str
    tissue: str
    cells: list[TextFile] = field(default_factory=list)
    counts: list[TextFile] = field(default_factory=list)
    locations: list[TextFile] = field(default_factory=list)
    others: dict[str, list[str]] = field(default_factory=dict)


def sort_folder(folder: str | Path, tissue: str) -> Folder:
    """Look at every table below a folder and tell what it is.

    Raises
    ------
    ValueError
        An unknown tissue.
    InputError
        No such folder, or a file that cannot be read.
    """
    if tissue not in TISSUES:
        raise ValueError(f"unknown tissue {tissue!r}: choose one of {', '.join(TISSUES)}")
    found = Folder(str(folder), tissue)
    for file in list_tables(str(folder)):
        if file.tissue != tissue:
            continue
        first = file.read(65_536).lstrip("\n").split("\n", 1)[0]
        if known_columns(first):
            found.cells.append(file)
        elif is_locations(file, first):
            found.locations.append(file)
        elif is_counts(file):
            found.counts.append(file)
        else:
            found.others[file.name] = split_line(first[:80], "\t" if "\t" in first else ",")
    return found


def lacking(found: Folder, what: str) -> InputError:
    """Return an error that says what was looked for and what is there."""
    named = {f.name: ["..."] for f in (*found.cells, *found.counts, *found.locations)} | found.others
    there = describe_columns(named) or "no table at all"
    return InputError(
        f"{found.path} has {what} of the tissue {found.tissue!r}; looked for {_LOOKED_FOR}; found {there}",
        hint="read_seqfish_cells reads positions and annotations without counts; counts= names the file of counts",
    )


def counts_file(found: Folder, given: str | Path | None) -> TextFile:
    """Return the one file of counts: the user's, or that of the folder; ``InputError`` unless there is one."""
    if given is not None:
        return TextFile(Path(given).name, str(given))
    if not found.counts:
        raise lacking(found, "no counts")
    if len(found.counts) > 1:
        raise InputError(
            f"{found.path} has several files of counts: {', '.join(f.name for f in found.counts)}",
            hint="name the one that is meant with counts=",
        )
    return found.counts[0]


def missing_parts(
    found: Folder, matrix: Counts, cells: pd.DataFrame, *, pixel_size_um: float | None
) -> list[str]:
    """Return what a complete data set would have and this folder has not."""
    missing = []
    without = cells[~cells["has_counts"]]
    if len(without):
        fields = ", ".join(sorted(set(without["field"]), key=natural))
        missing.append(f"counts of {len(without):,} of {len(cells):,} cells (field {fields})")
    if len(matrix.genes) < ASSAY_GENES:
        absent = ASSAY_GENES - len(matrix.genes)
        missing.append(f"counts of {absent:,} of the {ASSAY_GENES:,} genes of the assay")
    for name, what in _WHAT.items():
        known = int(cells[name].notna().sum()) if name in cells and name != "field" else 0
        if name == "field":
            known = int((cells["field"] != "unknown").sum())
        if known < len(cells):
            missing.append(what if not known else f"{what} of {len(cells) - known:,} of {len(cells):,} cells")
    files = [uri.lower().removeprefix(found.path.lower()) for uri in list_files(found.path)]
    outlines = [uri for uri in files if _OUTLINES.search(uri)]
    if not any(uri.endswith(EXTENSIONS) and uri not in outlines for uri in files):
        missing.append("images of the fields")
    if not outlines:
        missing.append("segmentation of the cells")
    if pixel_size_um is None:
        missing.append("pixel size (positions are in px)")
    return missing
