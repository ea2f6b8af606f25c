"""The tables of a seqFISH+ folder: found by their columns, joined by cell number, checked against each other.

The data were published twice in different layouts (the authors' source archive and annotation zip; the Giotto
repository), with commas, tabs or blanks, packed or not, and one file with the line ends of an old Macintosh. A file
is taken for what its columns say, wherever it lies in the folder.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, cast

import numpy as np
import pandas as pd

from microsnoop.core.errors import InputError, JointError
from microsnoop.io.opener import list_files, open_binary

TABLE_ENDINGS = (".txt", ".csv", ".tsv", ".txt.gz", ".csv.gz", ".tsv.gz")
# our column: the names under which it was published, in lower case
_NAMES = {
    "cell": ("id", "uniq_id"),
    "index": ("index",),
    "field": ("fov", "field_of_view", "field of view"),
    "cell_in_field": ("cell id",),
    "x_px": ("x",),
    "y_px": ("y",),
    "region": ("region",),
    "cell_type": ("cell_types", "cell_type"),
    "louvain": ("louvain",),
}
# a table with one of these sets of columns says something of every cell, one row a cell
_CELL_TABLES = (
    {"cell", "x_px", "y_px"},
    {"field", "x_px", "y_px"},
    {"cell", "cell_type"},
    {"cell", "field"},
    {"index", "louvain"},
)
_SAME_PX = 0.5  # two tables that round a centroid differently still mean the same one
_CELL_NAME = re.compile(r"cell_?([1-9]\d*)", re.IGNORECASE)


@dataclass(frozen=True)
class TextFile:
    """A table on disk, plain or packed by gzip, or a member of a zip archive."""

    name: str
    uri: str
    member: str | None = None

    def read(self, size: int = -1) -> str:
        """Return the first ``size`` characters (default: all), every line end as one newline.

        Raises
        ------
        InputError
            Unreadable, damaged, or not UTF-8.
        """
        try:
            with ExitStack() as opened:
                stream: IO[bytes] = opened.enter_context(open_binary(self.uri))
                if self.member is not None:
                    archive = opened.enter_context(zipfile.ZipFile(stream))
                    stream = opened.enter_context(archive.open(self.member))
                if self.name.lower().endswith(".gz"):
                    stream = cast(IO[bytes], opened.enter_context(gzip.open(stream)))
                return opened.enter_context(io.TextIOWrapper(stream, "utf-8-sig")).read(size)
        except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read the table {self.name}: {error}") from error

    @property
    def lower_stem(self) -> str:
        """The file's own name in lower case, without folders and endings."""
        return PurePosixPath(self.name.lower()).name.split(".", 1)[0]

    @property
    def tissue(self) -> str:
        """``olfactory_bulb`` where the name says so, else ``cortex``."""
        bulb = "olfactory" in self.name.lower() or self.lower_stem.startswith("ob_")
        return "olfactory_bulb" if bulb else "cortex"


@dataclass(frozen=True)
class CellTable:
    """One row a cell: ``frame`` has our column names and the cell's 0-based number as its index."""

    name: str
    frame: pd.DataFrame


def list_tables(folder: str) -> list[TextFile]:
    """Return every file below a folder, and every member of its zip archives, that may be a table.

    Raises
    ------
    InputError
        No such folder, or a damaged archive.
    """
    tables = []
    for uri in list_files(folder):
        name = uri.removeprefix(folder.rstrip("/") + "/")
        if uri.lower().endswith(TABLE_ENDINGS):
            tables.append(TextFile(name, uri))
        elif uri.lower().endswith(".zip"):
            tables += [TextFile(f"{name}/{member}", uri, member) for member in _members(uri)]
    return tables


def _members(uri: str) -> list[str]:
    try:
        with open_binary(uri) as stream, zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the archive {uri}: {error}") from error
    # the archiver of macOS puts a file of resources beside each file
    return [n for n in names if n.lower().endswith(TABLE_ENDINGS) and not n.startswith("__MACOSX/")]


def delimiter_of(line: str) -> str:
    r"""Return what separates the cells of a line: comma, tab, or (``\s+``) blanks."""
    return next((mark for mark in (",", "\t") if mark in line), r"\s+")


def split_line(line: str, delimiter: str) -> list[str]:
    """Return the cells of one line, without quotes."""
    if delimiter == r"\s+":
        return [cell.strip('"') for cell in line.split()]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def known_columns(header: str) -> dict[str, str]:
    """Return the columns of a table of cells (theirs: ours), or nothing where the header is not that of one."""
    names = split_line(header, delimiter_of(header))
    ours = {alias: own for own, aliases in _NAMES.items() for alias in aliases}
    found = {name: ours[name.lower()] for name in names if name.lower() in ours}
    return found if any(needed <= set(found.values()) for needed in _CELL_TABLES) else {}


def read_cells(file: TextFile) -> CellTable:
    """Read a table of cells.

    The number of a cell is that in its name ``cell_<n>`` minus one, else its ``index``, else that of its row.

    Raises
    ------
    InputError
        A column twice, a name that is not ``cell_<n>``, a cell twice, a coordinate that is not a number.
    """
    text = file.read()
    header = text.split("\n", 1)[0]
    columns = known_columns(header)
    if len(set(columns.values())) < len(columns):
        raise InputError(f"{file.name} says the same thing in two columns: {', '.join(columns)}")
    try:
        raw = pd.read_csv(
            io.StringIO(text), sep=delimiter_of(header), dtype=str, keep_default_na=False, skipinitialspace=True
        )  # fmt: skip
    except ValueError as error:  # pandas' parser errors are among them
        raise InputError(f"{file.name} is not a readable table: {error}") from error
    raw = raw.rename(columns=lambda name: name.strip())[list(columns)].rename(columns=columns)
    frame = pd.DataFrame({name: _typed(raw[name], name, file.name) for name in raw.columns})
    if "cell" in frame:
        index = pd.Index(cell_numbers(frame["cell"].tolist(), file.name))
    elif "index" in frame:
        index = pd.Index(frame["index"].astype(np.int64))
    else:
        index = pd.RangeIndex(len(frame))
    if index.has_duplicates:
        raise InputError(f"{file.name}: cell index {index[index.duplicated()][0]} stands in several rows")
    return CellTable(file.name, frame.drop(columns="index", errors="ignore").set_axis(index, axis=0))


def cell_numbers(names: Sequence[str], where: str) -> list[int]:
    """Return the 0-based numbers of cells named ``cell_1``, ``cell_2``, ...

    Raises
    ------
    InputError
        A name of another form.
    """
    matches = [_CELL_NAME.fullmatch(name.strip()) for name in names]
    for row, match in enumerate(matches, start=1):
        if match is None:
            raise InputError(
                f"{where}: cell {row} is called {names[row - 1]!r}; published names are cell_1, cell_2, ..."
            )
    return [int(match[1]) - 1 for match in matches if match is not None]


def _typed(column: pd.Series, name: str, where: str) -> pd.Series:
    """Return coordinates as float64, indices as numbers, everything else as text (None where empty)."""
    text = column.str.strip()
    if name in ("x_px", "y_px", "index"):
        numbers = pd.to_numeric(text, errors="coerce")
        usable = np.isfinite(numbers) & ((name != "index") | ((numbers >= 0) & (numbers % 1 == 0)))
        if not usable.all():
            row = int(np.flatnonzero(~usable)[0])
            raise InputError(f"{where}: row {row + 1} has no usable {name}: {column.iloc[row]!r}")
        return numbers.astype(np.float64)
    if name == "field":
        text = text.map(field_name)
    return text.where(text != "", None).astype(object)


def field_name(text: str) -> str:
    """Return a field's name as we write it: a number without zeros in front or behind."""
    whole = re.fullmatch(r"0*(\d+)(?:\.0*)?", text)
    return whole[1] if whole else text


def merge_cells(tables: Sequence[CellTable]) -> pd.DataFrame:
    """Join tables of the same cells by cell number; what two of them say must agree.

    Returns
    -------
    One row a cell, in the order of the cell numbers (the index), with every column that any table has.

    Raises
    ------
    JointError
        ``row_count_mismatch``: tables of different length.
    InputError
        Other cells, or statements that contradict each other.
    """
    first = tables[0]
    for table in tables[1:]:
        require_rows(len(table.frame), table.name, expected=len(first.frame), of=first.name)
    merged = pd.DataFrame(index=first.frame.index.sort_values())
    sources: dict[str, str] = {}
    for table in tables:
        strange = table.frame.index.difference(merged.index)
        if len(strange):
            raise InputError(
                f"{table.name} has the cell index {strange[0]}, which {first.name} does not have"
            )
        add_columns(merged, table, sources)
    return merged


def require_rows(found: int, name: str, *, expected: int, of: str) -> None:
    """Raise ``JointError`` (``row_count_mismatch``) unless two tables have the same number of rows."""
    if found != expected:
        raise JointError(
            "row_count_mismatch",
            f"{name} has {found:,} cells and {of} has {expected:,}: they cannot be joined by row",
            hint="use files of one download; a table that was filtered must keep its column of cell names",
        )


def add_columns(cells: pd.DataFrame, table: CellTable, sources: dict[str, str]) -> None:
    """Add the columns of a table to ``cells`` (in place), after checking those that are there already.

    ``sources`` (column: the file it came from) is kept up to date.
    """
    part = table.frame.loc[cells.index.intersection(table.frame.index)]
    for name in part.columns:
        if name not in cells:
            cells[name] = part[name].reindex(cells.index)
            sources[name] = table.name
            continue
        known, new = cells.loc[part.index, name], part[name]
        both = known.notna() & new.notna()
        apart = (known - new).abs() > _SAME_PX if name in ("x_px", "y_px") else known != new
        if (both & apart).any():
            at = part.index[(both & apart).to_numpy()][0]
            raise InputError(
                f"{sources.get(name, 'the tables')} and {table.name} contradict each other on {name} of the cell with "
                f"index {at}: {known[at]} and {new[at]}",
                hint="one of them belongs to other data, or its rows were reordered",
            )


def describe_columns(found: Mapping[str, Iterable[str]]) -> str:
    """Return what was found in a folder, for messages: each file with its first columns."""
    shown = [f"{name} ({', '.join(list(columns)[:4])})" for name, columns in list(found.items())[:6]]
    return "; ".join(shown) + (f" and {len(found) - 6} more" if len(found) > 6 else "")
