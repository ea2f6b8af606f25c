"""A bag: the tiles of one slide with features, coordinates and all that made them. Source: slides spec, section 6.

A bag file is Parquet, one row a tile, with a JSON header in its schema. Coordinates never live apart from features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.io.parts import write_atomic

BAG_SCHEMA_VERSION = 1
HEADER_KEYS = ("encoder", "mpp", "mpp_source", "tiling", "mask", "counts")
COORDINATES: tuple[tuple[str, Any], ...] = (
    ("tile_index", np.int64),
    ("x0", np.int64),  # upper left corner, level-0 pixels
    ("y0", np.int64),
    ("side0_px", np.float64),
    ("x_um", np.float64),  # centre
    ("y_um", np.float64),
    ("tissue_fraction", np.float32),
)
_SCHEMA_KEY = b"microsnoop_bag"
BAG_SUFFIX = ".bag.parquet"


@dataclass(frozen=True)
class Bag:
    """The n tiles of one slide.

    Attributes
    ----------
    features
        (n, F) float32, finite.
    x0, y0, side0_px
        (n,) upper left corner and side in level-0 pixels.
    x_um, y_um
        (n,) centre of the tile in µm.
    tissue_fraction
        (n,) float32.
    header
        JSON: ``encoder`` (``name``, ``sha256``), ``mpp``, ``mpp_source``, ``tiling`` and ``mask`` (parameters),
        ``counts`` (``grid``, ``kept``, ``rejected``).
    tile_index
        (n,) number in the grid; default 0..n-1.
    flags
        What is notable of each tile; default nothing.
    """

    slide_id: str
    features: NDArray[np.float32]
    x0: NDArray[np.int64]
    y0: NDArray[np.int64]
    side0_px: NDArray[np.float64]
    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    tissue_fraction: NDArray[np.float32]
    header: Mapping[str, Any]
    tile_index: NDArray[np.int64] | None = None
    flags: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or not len(self.features):
            raise InputError(
                f"{self.slide_id}: features must be (n, F) with a tile, got {self.features.shape}"
            )
        n = len(self.features)
        if self.tile_index is None:
            object.__setattr__(self, "tile_index", np.arange(n))
        if self.flags is None:
            object.__setattr__(self, "flags", ((),) * n)
        for name in (*(name for name, _ in COORDINATES), "flags"):
            if len(getattr(self, name)) != n:
                raise InputError(f"{self.slide_id}: {len(getattr(self, name))} {name} for {n} tiles")
        if missing := [key for key in HEADER_KEYS if key not in self.header]:
            raise InputError(f"{self.slide_id}: the header of the bag lacks {', '.join(missing)}")

    def __len__(self) -> int:
        return len(self.features)


def write_bag(bag: Bag, folder: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> Path:
    """Write ``<slide>.bag.parquet``, whole or not at all; float16 notes its largest error in the header.

    Raises
    ------
    InputError
        Features that are not finite, or too large for float16.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below
        stored = bag.features.astype(dtype)
    if not np.isfinite(stored).all():
        raise InputError(
            f"{bag.slide_id}: {int((~np.isfinite(stored)).sum())} features are not finite as {dtype}"
        )
    error = float(np.abs(stored.astype(np.float32) - bag.features).max())
    header = {
        **bag.header,
        "schema_version": BAG_SCHEMA_VERSION,
        "slide_id": bag.slide_id,
        "features_dtype": dtype,
        "features_max_error": error,
    }
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), stored.shape[1])
    columns: dict[str, Any] = {
        "slide_id": pa.array([bag.slide_id] * len(bag)).dictionary_encode(),
        **{name: pa.array(np.asarray(getattr(bag, name), kind)) for name, kind in COORDINATES},
        "flags": pa.array([list(own) for own in bag.flags or ()], pa.list_(pa.string())),
        "features": vectors,
    }
    text = json.dumps(header, allow_nan=False, ensure_ascii=False)
    table = pa.table(columns).replace_schema_metadata({_SCHEMA_KEY: text.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    path = Path(folder) / f"{quote(bag.slide_id, safe='')}{BAG_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sink.getvalue())
    return path


def read_bag(path: str | Path) -> Bag:
    """Read a bag that :func:`write_bag` wrote.

    Raises
    ------
    InputError
        Missing, damaged, not a bag, or of a schema version this code does not know.
    """
    header = read_header(path)
    try:
        table = pq.ParquetFile(path).read()
        arrays = {name: table[name].to_numpy().astype(kind) for name, kind in COORDINATES}
        vectors = table["features"].combine_chunks()
        features = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
        flags = tuple(tuple(own) for own in table["flags"].to_pylist())
    except (OSError, LookupError, ValueError) as error:  # Arrow's errors are among them
        raise InputError(f"{path} is damaged: {error}") from error
    return Bag(header["slide_id"], features.astype(np.float32), **arrays, header=header, flags=flags)


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the header of a bag file, which also names ``slide_id``, ``schema_version`` and the stored dtype."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        header = json.loads(metadata[_SCHEMA_KEY])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not a bag of tiles: {error}") from error
    if header.get("schema_version") != BAG_SCHEMA_VERSION:
        raise InputError(
            f"{path} has bag schema version {header.get('schema_version')}, known is {BAG_SCHEMA_VERSION}"
        )
    return dict(header)
