"""Metadata of plates from tables: read as text, given our names, joined to profiles by key and never by order.

A plate map says what was in each well (of one plate, or of all plates alike); a compound map says what each
compound (at each concentration) does. Both only fill what is empty: a value that contradicts one already there is
an error.

Source: batch spec, section 1.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from microsnoop.core.errors import InputError
from microsnoop.core.plate import control_type, text_of, well_names
from microsnoop.io.opener import is_remote, list_files, local_path, open_binary
from microsnoop.io.plate_check import amounts, comparable
from microsnoop.io.profile_columns import ALIASES, TEXT_KEYS, UNITS_IN_NAMES, assign_columns, shorten
from microsnoop.io.tables import read_table, rename_columns

if TYPE_CHECKING:
    from microsnoop.io.profile_table import ProfileTable

_PARQUET = (".parquet", ".pq")
_SHOWN = 5


def read_plate_map(
    uri: str, columns: Mapping[str, str] | None = None, *, on: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a plate map, or with ``on`` another map: one row a key.

    Parameters
    ----------
    uri
        CSV, TSV (also ``.gz``), Parquet, or a folder of Parquet parts.
    columns
        Our name: the name of the column there.
    on
        Our names that are the key; without it plate and well, or well alone where the map has no plate.

    Returns
    -------
    Our names for what is known, their own for the rest; wells as ``A01``. Of rows that say the same of a key one is
    kept, without columns in which they differ (names of files).

    Raises
    ------
    InputError
        Not readable, a key column that is missing or empty, a well that is none, or rows that contradict each
        other.
    """
    raw = read_source(uri)
    keys, _ = assign_columns(raw.column_names, columns, where=uri, table=raw)
    single = [field.name for field in raw.schema if not pa.types.is_nested(field.type)]
    frame, _ = clean_metadata(to_frame(raw, single), keys, where=uri)
    on = _map_key(frame, on, where=uri)
    needed = [name for name in on if name != "concentration"]  # a control has none
    if bad := (frame.index[frame[needed].isna().any(axis=1)] + 1).tolist():
        raise InputError(
            f"{uri}: {len(bad)} row(s) have no {' or '.join(needed)}: row {shorten(bad, _SHOWN)}"
        )
    if "well" in frame:
        names = well_names(frame["well"].dropna())
        if unreadable := sorted(well for well, name in names.items() if name is None):
            raise InputError(f"{uri}: not the name of a well: {shorten(unreadable, _SHOWN)}")
        frame["well"] = frame["well"].map(names)
    key, ours = _key(frame, on), [name for name in frame.columns if name in ALIASES]
    if twice := key[key.duplicated() & ~frame.duplicated(ours)].unique().tolist():
        raise InputError(
            f"{uri} says different things of one {' + '.join(on)}: {shorten(twice, _SHOWN)}",
            hint="keep one row a key, or add the column that tells them apart to `on`",
        )
    same = (
        frame.groupby(key).nunique(dropna=False).le(1).all()
    )  # a list of images repeats what it says of a well
    return frame.loc[~key.duplicated(), [name for name in frame.columns if same[name]]].reset_index(drop=True)


@overload
def join_plate_map(
    table: ProfileTable, plate_map: pd.DataFrame, *, on: Sequence[str] | None = None
) -> ProfileTable: ...
@overload
def join_plate_map(
    table: pd.DataFrame, plate_map: pd.DataFrame, *, on: Sequence[str] | None = None
) -> tuple[pd.DataFrame, tuple[str, ...]]: ...
def join_plate_map(
    table: ProfileTable | pd.DataFrame, plate_map: pd.DataFrame, *, on: Sequence[str] | None = None
) -> ProfileTable | tuple[pd.DataFrame, tuple[str, ...]]:
    """Add to rows what a map says about their key; nothing given is changed.

    Parameters
    ----------
    table
        Profiles, or their ``obs`` alone. Rows without an entry stay, their new columns are empty.
    on
        Our names that are the key; see :func:`read_plate_map`.

    Returns
    -------
    The table with further columns and notes, or ``obs`` and the notes.

    Raises
    ------
    InputError
        No row has an entry, a key column is missing, or the map contradicts what is there.
    """
    if not isinstance(table, pd.DataFrame):
        obs, notes = join_plate_map(table.obs, plate_map, on=on)
        return replace(table, obs=obs, notes=(*table.notes, *notes))
    on = _map_key(plate_map, on, where="the map")
    if missing := [name for name in on if name not in table]:
        raise InputError(f"the table has no column {', '.join(missing)} to join the map by")
    key, entries = _key(table, on), _key(plate_map, on)
    if twice := entries[entries.duplicated()].tolist():
        raise InputError(f"the map has several rows for {shorten(twice, _SHOWN)}")
    position = pd.Index(entries).get_indexer(pd.Index(key))
    if (position < 0).all():
        raise InputError(
            f"the map has no entry for any row; its {' + '.join(on)} are {shorten(entries.tolist(), _SHOWN)}, those "
            f"of the table {shorten(key.unique().tolist(), _SHOWN)}",
            hint="check how both write their names",
        )
    obs, conflicts = table.copy(), []
    for name in [column for column in plate_map.columns if column not in on]:
        values = plate_map[name].to_numpy(object)[position]
        values[position < 0] = None
        joined = pd.Series(values, index=obs.index, dtype=object)
        if name in obs:
            here, there = _comparable(obs[name]), _comparable(joined)
            differ = np.flatnonzero(here.notna() & there.notna() & (here != there)).tolist()
            conflicts += [
                f"{name} of {key.iloc[row]} is {here.iloc[row]!r}, in the map {there.iloc[row]!r}"
                for row in differ
            ]
            joined = obs[name].astype(object).where(obs[name].notna(), joined)
        obs[name] = joined if name in TEXT_KEYS else _typed(joined)
    if conflicts:
        raise InputError(
            f"the map contradicts the table in {len(conflicts)} place(s): {shorten(conflicts, _SHOWN)}",
            hint="correct one of them; nothing is overwritten",
        )
    return obs, _join_notes(key, entries, position, on)


def read_source(uri: str) -> pa.Table:
    """Read a table as it is: CSV cells as text (empty ones null), Parquet with its types.

    A folder stands for all its Parquet files; a column that only some of them have is null in the others.

    Raises
    ------
    InputError
        Not there, not readable as what its extension says, without rows, or with two columns of one name.
    """
    if uri.endswith("/") or (not is_remote(uri) and local_path(uri).is_dir()):
        return _read_folder(uri)
    if uri.lower().endswith(_PARQUET):
        return read_table(uri)
    try:
        with open_binary(uri) as stream:
            data = stream.read()
        plain = gzip.decompress(data) if uri.lower().endswith(".gz") else data
        table = _read_text(plain, tabs=uri.lower().removesuffix(".gz").endswith((".tsv", ".txt")))
    except (OSError, EOFError, zlib.error, ValueError) as error:  # Arrow's errors are among them
        raise InputError(
            f"{uri} is not a readable table: {error}",
            hint="tables are CSV (UTF-8), TSV, either as .gz, or Parquet, by extension",
        ) from error
    if table.num_rows == 0:
        raise InputError(f"{uri} has no rows")
    return rename_columns(table, {}, where=uri)


def to_frame(table: pa.Table, names: Sequence[str]) -> pd.DataFrame:
    """Return columns as Python values: whole numbers with gaps stay whole, empty cells are None."""
    return pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=object) for name in names})


def clean_metadata(
    frame: pd.DataFrame, keys: Mapping[str, str], *, where: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Give columns our names and types: text, or float64 for amounts; cells that say ``NA`` are empty.

    ``keys`` is our name: the column of ``frame``. Other columns keep their names and values, and come last. Returned
    are a new frame with the same rows, and notes on what was read into it.

    Raises
    ------
    InputError
        An amount that is no number, or a control type nobody knows.
    """
    notes: list[str] = []
    clean: dict[str, pd.Series[Any]] = {}
    for own in [name for name in ALIASES if name in keys]:
        values = _as_text(frame[keys[own]], own, notes)
        if own == "control_type":
            try:
                values = values.map(control_type, na_action="ignore")
            except ValueError as error:
                raise InputError(f"{where}: {error}") from error
        clean[own] = values if own in TEXT_KEYS else amounts(values, own, where=where)
    if (column := keys.get("concentration")) and "concentration_unit" not in keys:
        unit = next((unit for name, unit in UNITS_IN_NAMES.items() if column.lower().endswith(name)), None)
        if unit:
            known = clean["concentration"].notna()
            clean["concentration_unit"] = known.map({True: unit, False: None})
            notes.append(f"concentrations are in {unit}, by the name of the column {column!r}")
    for name in [name for name in frame.columns if name not in keys.values()]:
        clean[f"other_{name}" if name in ALIASES else name] = _typed(frame[name])
    return pd.DataFrame(clean, index=frame.index), tuple(notes)


def _read_folder(uri: str) -> pa.Table:
    """Read all parts below a folder; one by one, so that a damaged one is named."""
    files = [name for name in list_files(uri) if name.lower().endswith(_PARQUET)]
    if not files:
        raise InputError(f"the folder {uri} holds no Parquet files")
    try:
        return pa.concat_tables([read_table(name) for name in files], promote_options="permissive")
    except (ValueError, TypeError) as error:  # Arrow's errors are both
        raise InputError(f"the parts in {uri} do not have the same columns: {error}") from error


def _read_text(data: bytes, *, tabs: bool) -> pa.Table:
    # the conventions of io.tables, but with every cell left as it is: what is a number is decided by the column's role
    header = data.split(b"\n", 1)[0].decode("utf-8-sig")
    delimiter = "\t" if tabs else ";" if ";" in header and "," not in header else ","
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with pyarrow.csv.open_csv(io.BytesIO(data), parse_options=parse) as peek:
        names = peek.schema.names
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    return pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=convert)


def _as_text(values: pd.Series[Any], own: str, notes: list[str]) -> pd.Series[Any]:
    codes, unique = pd.factorize(values)
    names = [text_of(value) for value in unique.tolist()]
    words = {code: str(unique[code]).strip() for code, name in enumerate(names) if name is None}
    if said := {code: word for code, word in words.items() if word}:
        n, which = int(np.isin(codes, list(said)).sum()), ", ".join(sorted(set(said.values())))
        notes.append(f"{own}: {n} cell(s) that say {which} are taken as empty")
    table = np.array([*names, None], object)  # code -1, a gap, is the last entry
    return pd.Series(table[codes], values.index)


def _typed(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return Python values as numbers where all of them are."""
    kind = pd.api.types.infer_dtype(values, skipna=True)
    return pd.to_numeric(values) if kind in ("integer", "floating", "mixed-integer-float") else values


def _map_key(frame: pd.DataFrame, on: Sequence[str] | None, *, where: str) -> list[str]:
    key = list(on) if on is not None else ["plate", "well"] if "plate" in frame else ["well"]
    missing = [name for name in key if name not in frame]
    if missing or not key:
        raise InputError(
            f"{where} has no column {', '.join(missing) or 'to join by'}",
            hint=f"it has {shorten(frame.columns.tolist())}; name it under columns",
        )
    return key


def _key(frame: pd.DataFrame, on: Sequence[str]) -> pd.Series[Any]:
    """Return one text a row; numbers are equal where six digits are."""
    parts = [_comparable(frame[name]).fillna("(none)") for name in on]
    return pd.Series([" ".join(row) for row in zip(*parts, strict=True)], index=frame.index, dtype=object)


def _comparable(values: pd.Series[Any]) -> pd.Series[Any]:
    return values.map(comparable, na_action="ignore")


def _join_notes(
    key: pd.Series[Any], entries: pd.Series[Any], position: Any, on: Sequence[str]
) -> tuple[str, ...]:
    what, notes = f"({' + '.join(on)})", []
    if len(lacking := key[position < 0]):
        names = shorten(lacking.unique().tolist(), _SHOWN)
        notes.append(f"{len(lacking)} row(s) have no entry in the map and keep what they had {what}: {names}")
    if len(unused := entries[~np.isin(np.arange(len(entries)), position)]):
        names = shorten(unused.tolist(), _SHOWN)
        notes.append(f"{len(unused)} entries of the map have no row {what}: {names}")
    return tuple(notes)
