"""Wells of a plate: their names, their places, which plate formats there are, what a treatment is called.

A well is named by a letter (or two) for its row and a number for its column, ``C07``; rows are A to AF and columns
1 to 48, as on the largest plate of 1,536 wells. Places count from zero, names from one.

Source: batch spec, section 1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

# wells of a plate: (rows, columns)
FORMATS: dict[int, tuple[int, int]] = {
    6: (2, 3),
    12: (3, 4),
    24: (4, 6),
    48: (6, 8),
    96: (8, 12),
    384: (16, 24),
    1536: (32, 48),
}
# what others call a negative control, a positive control, an empty well and a treated one
CONTROL_TYPES: dict[str, str | None] = {
    **dict.fromkeys(("negative", "negcon", "negative_control", "neg", "vehicle"), "negative"),
    **dict.fromkeys(("positive", "poscon", "positive_control", "pos"), "positive"),
    **dict.fromkeys(("poscon_cp", "poscon_diverse", "poscon_orf"), "positive"),
    **dict.fromkeys(("empty", "blank"), "empty"),
    **dict.fromkeys(("trt", "treatment", "treated", "sample"), None),
}
_WORDS_FOR_NOTHING = frozenset({"", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "null", "NULL", "None", "none"})
_ROWS, _COLUMNS = FORMATS[1536]
_LETTERS = 26
_NAME = re.compile(r"([A-Za-z]{1,2})[\s_-]*0*([0-9]{1,2})")
_ROW_AND_COLUMN = re.compile(r"[Rr]0*([0-9]{1,2})[\s_-]*[Cc]0*([0-9]{1,2})")  # as Opera and Harmony write it


def normalise_well(well: str | tuple[int, int]) -> str:
    """Return the name of a well as one letter or two and two digits: ``a1``, ``A001`` and ``A - 1`` are ``A01``.

    Parameters
    ----------
    well
        Letters and digits, perhaps with spaces, ``-`` or ``_`` between them; ``r01c01``; or the numbers of row and
        column **from one**, as instruments write them.

    Raises
    ------
    ValueError
        Not a well, or beyond the largest plate (rows A to AF, columns 1 to 48).
    """
    if isinstance(well, tuple):
        return _name(well[0] - 1, well[1] - 1, shown=str(well))
    text = well.strip()
    if by_number := _ROW_AND_COLUMN.fullmatch(text):
        return _name(int(by_number[1]) - 1, int(by_number[2]) - 1, shown=text)
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"{well!r} is not a well: write letters and digits, for example A01")
    return _name(_row_number(match[1]), int(match[2]) - 1, shown=text)


def well_names(wells: Iterable[str]) -> dict[str, str | None]:
    """Return the normalised name of each of some wells, None for what is no well."""
    names: dict[str, str | None] = {}
    for well in set(wells):
        try:
            names[well] = normalise_well(well)
        except ValueError:
            names[well] = None
    return names


def well_name(row: int, column: int) -> str:
    """Return the name of the well at a place counted **from zero**: ``(2, 6)`` is ``C07``.

    Raises
    ------
    ValueError
        Beyond the largest plate.
    """
    return _name(row, column, shown=f"({row}, {column})")


def well_position(well: str, *, format: int | None = None) -> tuple[int, int]:  # noqa: A002
    """Return row and column of a well, counted from zero: ``C07`` is ``(2, 6)``.

    Parameters
    ----------
    format
        Number of wells of the plate, one of ``FORMATS``; the well must be on it.

    Raises
    ------
    ValueError
        Not a well, not a format, or a well outside the format.
    """
    match = _NAME.fullmatch(normalise_well(well))
    assert match is not None
    if format is not None and not on_plate(well, format):
        rows, columns = FORMATS[format]
        last = well_name(rows - 1, columns - 1)
        raise ValueError(f"the well {well!r} is not on a plate of {format} wells (A01 to {last})")
    return _row_number(match[1]), int(match[2]) - 1


def on_plate(well: str, format: int) -> bool:  # noqa: A002
    """Whether a plate of so many wells has this well.

    Raises
    ------
    ValueError
        Not a well, or not a format.
    """
    (row, column), (rows, columns) = well_position(well), format_shape(format)
    return row < rows and column < columns


def format_shape(format: int) -> tuple[int, int]:  # noqa: A002
    """Return the numbers of rows and columns of a plate with so many wells.

    Raises
    ------
    ValueError
        There is no such plate.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no plate of {format} wells; formats are {', '.join(map(str, FORMATS))}")
    return FORMATS[format]


def smallest_format(wells: Iterable[str]) -> int:
    """Return the number of wells of the smallest plate that holds all of these.

    Raises
    ------
    ValueError
        No wells, or one of them is not a well.
    """
    places = [well_position(well) for well in set(wells)]
    if not places:
        raise ValueError("a plate format needs at least one well")
    row, column = max(place[0] for place in places), max(place[1] for place in places)
    return next(size for size, (rows, columns) in FORMATS.items() if row < rows and column < columns)


def edge(well: str, format: int) -> bool:  # noqa: A002
    """Whether a well is in the outermost rows or columns of its plate, where wells dry out first.

    Raises
    ------
    ValueError
        Not a well, not a format, or a well outside the format.
    """
    row, column = well_position(well, format=format)
    rows, columns = FORMATS[format]
    return row in (0, rows - 1) or column in (0, columns - 1)


def plate_wells(format: int) -> list[str]:  # noqa: A002
    """Return the names of all wells of a plate, row by row: A01, A02, ...

    Raises
    ------
    ValueError
        Not a format.
    """
    rows, columns = format_shape(format)
    return [well_name(row, column) for row in range(rows) for column in range(columns)]


def control_type(name: str) -> str | None:
    """Return ``negative``, ``positive``, ``empty``, or None for a treated well: ``negcon`` is ``negative``.

    Raises
    ------
    ValueError
        A name nobody knows.
    """
    if name.strip().lower() not in CONTROL_TYPES:
        raise ValueError(f"{name!r} is no control type; known are {', '.join(CONTROL_TYPES)}")
    return CONTROL_TYPES[name.strip().lower()]


def row_ids(names: Sequence[str], nameless: Collection[int] = ()) -> list[str]:
    """Return an id a row, all different: its name, with ``/row12`` where others have the same, ``row12`` without one.

    Parameters
    ----------
    names
        ``plate/well`` or ``plate/well/site`` of each row; row 12 is the twelfth.
    nameless
        Positions (from zero) of rows whose name means nothing.
    """
    times = Counter(names)
    return [
        f"row{row + 1}" if row in nameless else f"{name}/row{row + 1}" if times[name] > 1 else name
        for row, name in enumerate(names)
    ]


def text_of(value: object) -> str | None:
    """Return a name as text, None where it says that there is none (``NA``); 7.0, a 7 in a column with gaps, is 7."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    text = str(value).strip()
    return None if text in _WORDS_FOR_NOTHING else text


def number_text(value: float) -> str:
    """Return a number with six significant digits: 0.3 that went through float32 is ``0.3`` again."""
    return f"{value + 0.0:.6g}"  # + 0.0: there is no concentration of minus zero


def treatment_name(compound: str, concentration: float | None, unit: str | None = None) -> str:
    """Return the name of a treatment, ``compound@concentration unit``.

    An unknown concentration (None, NaN) is never guessed: ``compound@na``.
    """
    if concentration is None or concentration != concentration:
        return f"{compound}@na"
    return f"{compound}@{number_text(concentration)}" + (f" {unit}" if unit else "")


def _row_number(letters: str) -> int:
    """Return the row, from zero, of A to Z, AA, AB, ..."""
    number = 0
    for letter in letters.upper():
        number = number * _LETTERS + ord(letter) - ord("A") + 1
    return number - 1


def _name(row: int, column: int, *, shown: str) -> str:
    if not (0 <= row < _ROWS and 0 <= column < _COLUMNS):
        raise ValueError(f"{shown!r} is on no plate: rows are A to AF and columns 1 to {_COLUMNS}")
    high, low = divmod(row, _LETTERS)
    letters = (chr(ord("A") + high - 1) if high else "") + chr(ord("A") + low)
    return f"{letters}{column + 1:02d}"
