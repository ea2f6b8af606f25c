"""Codes that stand in the files of a run: why a row was rejected, what is notable about it, what it is.

Part of the file schema (``core.schema``), apart from it because errors need them and Arrow is slow to load.
"""

from __future__ import annotations

from enum import StrEnum


class RejectCode(StrEnum):
    """Why a row has no embedding. Every reject carries one, and a message that names the source."""

    DECODE_ERROR = "decode_error"
    SHAPE_MISMATCH = "shape_mismatch"
    CHANNEL_MISMATCH = "channel_mismatch"
    NON_FINITE_PIXELS = "non_finite_pixels"
    CONSTANT_PLANE = "constant_plane"
    TOO_SMALL = "too_small"
    TOO_LARGE_FOR_NATIVE = "too_large_for_native"
    EMPTY_MASK = "empty_mask"
    BORDER_CELL = "border_cell"
    AREA_OUT_OF_RANGE = "area_out_of_range"
    OVERSIZE = "oversize"
    NOT_DRAWN = "not_drawn"
    BACKGROUND = "background"
    BAD_EMBEDDING = "bad_embedding"


# What a selection leaves out on purpose: counted and named like every reject, but no sign of bad input.
SELECTED_OUT = frozenset(
    {
        RejectCode.BORDER_CELL,
        RejectCode.AREA_OUT_OF_RANGE,
        RejectCode.OVERSIZE,
        RejectCode.NOT_DRAWN,
        RejectCode.BACKGROUND,
    }
)


class Flag(StrEnum):
    """What is worth knowing about a row that was embedded all the same."""

    SPARSE_PLANE = "sparse_plane"
    CONSTANT_PLANE = "constant_plane"
    AUTO_TILED = "auto_tiled"
    CLIPPED_WINDOW = "clipped_window"
    FRAGMENTED = "fragmented"
    TRUNCATED = "truncated"
    SHRUNK = "shrunk"
    MISSING_CHANNEL = "missing_channel"
    ALPHA_DROPPED = "alpha_dropped"
    CMYK_CONVERTED = "cmyk_converted"
    FLOAT64_NARROWED = "float64_narrowed"


class Kind(StrEnum):
    """What one row of the output is."""

    IMAGE = "image"
    CELL = "cell"
    TILE = "tile"


class Stage(StrEnum):
    """Where a row was rejected."""

    READ = "read"
    EMBED = "embed"
