"""Tables from users: CSV, TSV or Parquet, read so that nothing changes its meaning on the way.

CSV cells are text. A column becomes numbers only where every cell is a plain number; ``007`` and ``A01`` stay
text, and so do the columns that name things (plate, well, site, ...), whatever they look like.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from microsnoop.core.errors import InputError
from microsnoop.core.schema import META_PREFIX
from microsnoop.io.opener import open_binary

KEY_COLUMNS = {
    "image_id",
    "uri",
    "image",
    "label",
    "batch",
    "week",
    "plate",
    "well",
    "site",
    "cell_id",
    "barcode",
}
_INTEGER = r"^-?(0|[1-9][0-9]{0,17})$"
# a point or an exponent somewhere: a row of digits too long for an integer is a name, not a number
_WHOLE, _EXPONENT = r"(0|[1-9][0-9]*)", r"[eE][+-]?[0-9]+"
_NUMBER = rf"^[+-]?((0|[1-9][0-9]{{0,14}})|{_WHOLE}\.[0-9]*({_EXPONENT})?|\.[0-9]+({_EXPONENT})?|{_WHOLE}{_EXPONENT})$"


def read_table(uri: str, *, columns: Mapping[str, str] | None = None) -> pa.Table:
    """Read a table with our column names; empty cells are null.

    Parameters
    ----------
    uri
        CSV, TSV or Parquet, by extension.
    columns
        Our name: the user's name of the same column.

    Raises
    ------
    InputError
        Missing, not readable as what its extension says, without rows, a column that is not there, or two of the
        same name.
    """
    text = not uri.lower().endswith((".parquet", ".pq"))
    table = rename_columns(_read(uri, text=text), columns or {}, where=uri)
    if table.num_rows == 0:
        raise InputError(f"{uri} has no rows")
    if not text:
        return table
    typed = [_typed(name, column) for name, column in zip(table.column_names, table.columns, strict=True)]
    return pa.table(typed, names=table.column_names)


def numbers(table: pa.Table, name: str, *, where: str, integer: bool = False) -> list[Any]:
    """Return a column as numbers, None where it is empty.

    Raises
    ------
    InputError
        The column holds something else.
    """
    try:
        values: list[Any] = table[name].cast(pa.int64() if integer else pa.float64()).to_pylist()
    except (ValueError, NotImplementedError) as error:
        kind = "whole numbers" if integer else "numbers"
        raise InputError(f"{where}: the column {name!r} must hold {kind} ({error})") from error
    return values


def _read(uri: str, *, text: bool) -> pa.Table:
    try:
        with open_binary(uri) as stream:
            data = stream.read()
    except OSError as error:
        raise InputError(f"cannot read the table {uri}: {error.strerror or error}") from error
    try:
        if text:
            return _read_csv(data, tabs=uri.lower().endswith((".tsv", ".txt")))
        table = pa.parquet.ParquetFile(io.BytesIO(data)).read()
        table.validate(full=True)
        return table.rename_columns([str(name) for name in table.column_names])
    except (OSError, ValueError, NotImplementedError) as error:  # Arrow's errors are among them
        raise InputError(
            f"{uri} is not a readable table: {error}",
            hint="tables are CSV (UTF-8), TSV or Parquet, by extension",
        ) from error


def rename_columns(table: pa.Table, columns: Mapping[str, str], *, where: str) -> pa.Table:
    """Give the user's columns our names; every name must then stand once."""
    theirs = list(columns.values())
    shared = sorted({name for name in theirs if theirs.count(name) > 1})
    if shared:
        raise InputError(f"{where}: the column(s) {', '.join(shared)} are given two names")
    missing = [name for name in theirs if name not in table.column_names]
    if missing:
        raise InputError(
            f"{where} has no column {', '.join(map(repr, missing))}",
            hint=f"it has {', '.join(table.column_names)}",
        )
    ours = {name: own for own, name in columns.items()}
    names = [ours.get(name, name.strip()) for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{where} has columns of the same name: {', '.join(twice)}", hint="rename the others"
        )
    return table.rename_columns(names)


def meta_name(name: str) -> str:
    """Return the metadata column for a user's column: ``meta_`` in front, once."""
    return name if name.startswith(META_PREFIX) else f"{META_PREFIX}{name}"


def meta_columns(table: pa.Table, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Return columns as metadata under their ``meta_`` names.

    Raises
    ------
    InputError
        Two columns of one name (``plate`` and ``meta_plate``), or one that is no metadata.
    """
    found: dict[str, pa.ChunkedArray] = {}
    for name in names:
        if meta_name(name) in found:
            raise InputError(
                f"the columns {name!r} and {meta_name(name)!r} would be one", hint="remove one of them"
            )
        found[meta_name(name)] = plain_column(table, name)
    return found


def plain_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a metadata column as text, number or truth value; lists and structures are refused."""
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    if pa.types.is_nested(column.type) or any(is_kind(column.type) for is_kind in binary):
        raise InputError(
            f"the column {name!r} holds {column.type}, which is not a single value", hint="remove it"
        )
    try:
        if pa.types.is_integer(column.type):
            return column.cast(pa.int64())
        if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
            return column.cast(pa.float64())
        return column if pa.types.is_boolean(column.type) else column.cast(pa.string())
    except (ValueError, NotImplementedError) as error:
        raise InputError(
            f"the column {name!r} cannot be used as metadata: {error}", hint="remove it"
        ) from error


def _read_csv(data: bytes, *, tabs: bool) -> pa.Table:
    header = data.split(b"\n", 1)[0].decode("utf-8-sig")
    delimiter = "\t" if tabs else ";" if ";" in header and "," not in header else ","
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    peek = pyarrow.csv.open_csv(io.BytesIO(data), parse_options=parse)
    convert = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in peek.schema.names},
        strings_can_be_null=True,
        null_values=[""],
    )
    return pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=convert)


def _typed(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if name.lower().removeprefix("meta_") in KEY_COLUMNS:
        return column
    known = column.drop_null()
    if len(known) == 0:
        return column
    for pattern, dtype in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64())):
        if pc.all(pc.match_substring_regex(known, pattern)).as_py():
            return column.cast(dtype)
    return column
