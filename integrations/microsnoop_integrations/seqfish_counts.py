"""Counts of a seqFISH+ folder: genes × cells or cells × genes, with or without names, always whole numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from microsnoop.core.errors import InputError
from microsnoop_integrations.seqfish_tables import CellTable, TextFile, cell_numbers, delimiter_of, split_line

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # a gene may be called Nan
_LARGEST = 2**24  # whole numbers below it are exact in float32
_COUNT_NAMES = ("expr", "count")
_LOCATION_NAMES = ("locs", "locations")


@dataclass(frozen=True)
class Counts:
    """Counts of n cells and p genes.

    ``x`` is (n, p) float32, CSR. ``index`` (n,) int64 holds the 0-based number of each cell where the file names its
    cells, else None: then rows are told by their place alone.
    """

    name: str
    x: csr_matrix
    genes: tuple[str, ...]
    index: NDArray[np.int64] | None


@dataclass(frozen=True)
class _Layout:
    """How a file is written: names of the columns (None: no header), whether rows begin with a name."""

    delimiter: str
    columns: list[str] | None
    row_names: bool


def is_counts(file: TextFile) -> bool:
    """Whether the name of a file says that it holds counts."""
    return any(word in file.lower_stem for word in _COUNT_NAMES)


def is_locations(file: TextFile, first_line: str) -> bool:
    """Whether a file holds positions without a header, two numbers a row, in the order of the counts."""
    cells = split_line(first_line, delimiter_of(first_line))
    return (
        len(cells) == 2 and all(map(_numeric, cells)) and any(w in file.lower_stem for w in _LOCATION_NAMES)
    )


def read_locations(file: TextFile) -> CellTable:
    """Read positions in the order of the counts; the index counts rows.

    Giotto draws with y upwards and therefore publishes minus y: where no y is positive the sign is taken back, so
    that y points downwards as in the centroid tables and in images.

    Raises
    ------
    InputError
        Not two numbers a row, or y of both signs.
    """
    text = file.read()
    lines = [line for line in text.split("\n") if line.strip()]
    rows = [split_line(line, delimiter_of(line)) for line in lines]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not all(map(_numeric, row)):
            raise InputError(f"{file.name}: row {number} does not hold two numbers: {lines[number - 1]!r}")
    xy = np.array(rows, np.float64)
    if (xy[:, 1] < 0).any() and (xy[:, 1] > 0).any():
        raise InputError(f"{file.name}: y is negative in some rows and positive in others")
    return CellTable(file.name, pd.DataFrame({"x_px": xy[:, 0], "y_px": np.abs(xy[:, 1])}))


def read_counts(file: TextFile) -> Counts:
    """Read a matrix of counts.

    Cells × genes where the file has a header and no names of rows (the source archive), else as the names
    ``cell_<n>`` say, else genes × cells (a file without a header, each row beginning with its gene).

    Raises
    ------
    InputError
        No genes named, both or neither side named as cells, rows of different length, or a value that is not a
        whole number of at least 0 (its gene and cell are named).
    """
    text = file.read().lstrip("\n")
    layout = _layout(text, file.name)
    frame = _parse(text, layout, file.name)
    rows = [str(name).strip() for name in frame.pop(frame.columns[0])] if layout.row_names else None
    columns = layout.columns
    if columns is not None and len(columns) != frame.shape[1]:
        raise InputError(f"{file.name} names {len(columns):,} columns and has {frame.shape[1]:,}")
    cells_in_rows = _cells_in_rows(rows, columns, file.name)
    genes, cells = (columns, rows) if cells_in_rows else (rows, columns)
    assert genes is not None  # _layout and _cells_in_rows have seen to it
    for place, gene in enumerate(genes, start=1):
        if not gene or gene == "nan":
            raise InputError(f"{file.name}: gene {place} has no name")
    values = _numbers(frame)
    x = values if cells_in_rows else values.T
    _require_counts(x, frame if cells_in_rows else frame.T, (genes, cells), file.name)
    return Counts(file.name, csr_matrix(x.astype(np.float32)), tuple(genes), _index(cells, file.name))


def _layout(text: str, name: str) -> _Layout:
    lines = list(islice((line for line in io.StringIO(text) if line.strip()), 2))
    if not lines:
        raise InputError(f"{name} is empty")
    delimiter = delimiter_of(lines[0])
    first = split_line(lines[0].strip("\n"), delimiter)
    second = split_line(lines[1].strip("\n"), delimiter) if len(lines) > 1 else first
    if first[0] and all(map(_numeric, first[1:])):
        if _numeric(first[0]):
            raise InputError(f"{name} has neither a header nor names in its first column: genes are unknown")
        return _Layout(delimiter, None, row_names=True)
    row_names = not first[0] or len(second) == len(first) + 1 or not _numeric(second[0])
    return _Layout(delimiter, first[1:] if row_names and len(first) == len(second) else first, row_names)


def _parse(text: str, layout: _Layout, name: str) -> pd.DataFrame:
    try:
        return pd.read_csv(
            io.StringIO(text), sep=layout.delimiter, header=None, skiprows=0 if layout.columns is None else 1,
            dtype={0: str} if layout.row_names else None, keep_default_na=False, na_values=[""], low_memory=False,
        )  # fmt: skip
    except ValueError as error:
        raise InputError(f"{name} is not a readable table of counts: {error}") from error


def _cells_in_rows(rows: Sequence[str] | None, columns: Sequence[str] | None, name: str) -> bool:
    by_row, by_column = (names is not None and all(map(_is_cell, names)) for names in (rows, columns))
    if by_row and by_column:
        raise InputError(f"{name} names cells in rows and in columns: its genes are unknown")
    if rows is None and by_column:
        raise InputError(f"{name} names its cells and no gene")
    if rows is None or columns is None:
        return rows is None
    if not by_row and not by_column:
        raise InputError(
            f"{name}: neither rows ({rows[0]!r}, ...) nor columns ({columns[0]!r}, ...) are named as cells",
            hint="published names are cell_1, cell_2, ..., or 0, 1, 2, ...",
        )
    return by_row


def _index(cells: Sequence[str] | None, where: str) -> NDArray[np.int64] | None:
    if cells is None:
        return None
    counted = all(name.isdecimal() for name in cells)
    index = np.array([int(c) for c in cells] if counted else cell_numbers(cells, where), np.int64)
    values, n = np.unique(index, return_counts=True)
    if (n > 1).any():
        raise InputError(f"{where}: the cell with index {values[n > 1][0]} stands there several times")
    return index


def _numbers(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Return the values as float64, NaN where something else stands."""
    columns = (
        c if c.dtype.kind in "iuf" else pd.to_numeric(c.astype(str), errors="coerce")
        for _, c in frame.items()
    )
    return np.column_stack([column.to_numpy(np.float64) for column in columns])


def _require_counts(
    x: NDArray[np.float64], raw: pd.DataFrame, names: tuple[Sequence[str], Sequence[str] | None], where: str
) -> None:
    """Raise unless all of ``x`` (cells × genes) are counts; ``raw`` holds what the file says, ``names`` of both."""
    wrong = ~((x >= 0) & (x < _LARGEST) & (np.floor(x) == x))
    if not wrong.any():
        return
    cell, gene = (int(place) for place in np.argwhere(wrong)[0])
    genes, cells = names
    value: Any = raw.iat[cell, gene]
    what = "nothing" if pd.isna(value) else repr(value if isinstance(value, str) else value.item())
    raise InputError(
        f"{where}: {what} stands for gene {genes[gene]} of cell {cells[cell] if cells else cell + 1}; counts are whole "
        f"numbers of at least 0 ({int(wrong.sum()):,} of {x.size:,} values are not)",
        hint="give the counts as published, before any scaling or normalisation",
    )


def _is_cell(name: str) -> bool:
    return re.fullmatch(r"cell_?[1-9]\d*|\d+", name, re.IGNORECASE) is not None


def _numeric(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None
