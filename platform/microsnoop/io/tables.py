"""Tables from users: CSV, TSV or Parquet, read so that nothing changes its meaning on the way.

CSV cells are text. A column becomes numbers only where every cell is a plain number; ``007`` and ``A01`` stay
text, and so do the columns that name things (plate, well, site, ...), whatever they look like.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

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
_NUMBER = r"^[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"


def read_table(uri: str) -> pa.Table:
    """Read a table; empty cells are null, dictionary columns become plain ones.

    Raises
    ------
    InputError
        Missing, not readable as what its extension says, without rows, or with repeated column names.
    """
    try:
        with open_binary(uri) as stream:
            data = stream.read()
    except OSError as error:
        raise InputError(f"cannot read the table {uri}: {error.strerror or error}") from error
    try:
        if uri.lower().endswith((".parquet", ".pq")):
            table = pa.parquet.read_table(io.BytesIO(data))
        else:
            table = _read_csv(data, tabs=uri.lower().endswith((".tsv", ".txt")))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(
            f"{uri} is not a readable table: {error}",
            hint="tables are CSV (UTF-8), TSV or Parquet, by extension",
        ) from error
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise InputError(f"{uri} has columns of the same name: {', '.join(repeated)}")
    if table.num_rows == 0:
        raise InputError(f"{uri} has no rows")
    return table


def rename_columns(table: pa.Table, columns: Mapping[str, str], *, where: str) -> pa.Table:
    """Rename the user's columns to ours (``columns`` maps our name to theirs).

    Raises
    ------
    InputError
        A column that the table does not have, or a name that would be taken twice.
    """
    missing = [theirs for theirs in columns.values() if theirs not in table.column_names]
    if missing:
        raise InputError(
            f"{where} has no column {', '.join(map(repr, missing))}",
            hint=f"it has {', '.join(table.column_names)}",
        )
    ours = {theirs: name for name, theirs in columns.items()}
    names = [ours.get(name, name) for name in table.column_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"{where}: after renaming, {', '.join(twice)} would stand twice; rename the other column"
        )
    return table.rename_columns(names)


def meta_name(name: str) -> str:
    """Return the metadata column for a user's column: ``meta_`` in front, once."""
    return name if name.startswith(META_PREFIX) else f"{META_PREFIX}{name}"


def plain_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a metadata column as text, number or truth value; lists and structures are refused."""
    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise InputError(
            f"the column {name!r} holds {column.type}, which is not a single value", hint="remove it"
        )
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64())
    if pa.types.is_floating(column.type) or pa.types.is_decimal(column.type):
        return column.cast(pa.float64())
    return column if pa.types.is_boolean(column.type) else column.cast(pa.string())


def _read_csv(data: bytes, *, tabs: bool) -> pa.Table:
    header = data.split(b"\n", 1)[0].decode("utf-8-sig")
    delimiter = "\t" if tabs else ";" if ";" in header and "," not in header else ","
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=False)
    peek = pyarrow.csv.open_csv(io.BytesIO(data), parse_options=parse)
    convert = pyarrow.csv.ConvertOptions(
        column_types={name: pa.string() for name in peek.schema.names},
        strings_can_be_null=True,
        null_values=[""],
    )
    table = pyarrow.csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=convert)
    typed = [_typed(name, column) for name, column in zip(table.column_names, table.columns, strict=True)]
    return pa.table(typed, names=[name.strip() for name in table.column_names])


def _typed(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if name.strip().lower().removeprefix("meta_") in KEY_COLUMNS:
        return column
    known = column.drop_null()
    if len(known) == 0:
        return column
    for pattern, dtype in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64())):
        if pc.all(pc.match_substring_regex(known, pattern)).as_py():
            return column.cast(dtype)
    return column
