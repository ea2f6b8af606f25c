"""Visium: the folder that 10x Space Ranger writes (``outs``), with its counts, positions, scale and images.

::

    filtered_feature_bc_matrix.h5, or the folder filtered_feature_bc_matrix/   counts
    spatial/tissue_positions.csv          with a header (Space Ranger 2 and later), or
    spatial/tissue_positions_list.csv     without one: barcode, in_tissue, array_row, array_col, pixel row, pixel column
    spatial/scalefactors_json.json        tissue_hires_scalef, tissue_lowres_scalef, spot_diameter_fullres, ...
    spatial/tissue_hires_image.png, tissue_lowres_image.png
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop_integrations.spatial_grid import pixel_size_from_grid
from microsnoop_integrations.spatial_matching import assemble
from microsnoop_integrations.spatial_spots import Scale, SpotImage, Spots, SpotTable, find_image

PITCH_UM = 100.0
DIAMETER_UM = 55.0
# what the files call a spot diameter is that of a theoretical spot of 65 µm, says their documentation
_FILE_DIAMETER_UM = 65.0
_COLUMNS = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
_MATRIX = "filtered_feature_bc_matrix"
_SCALEFACTORS = "scalefactors_json.json"


def is_visium(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / "spatial" / _SCALEFACTORS).is_file() or _matrix(folder) is not None


def read_visium(
    folder: Path,
    *,
    section: str | None = None,
    dataset: str | None = None,
    image: Path | str | None = None,
    pixel_size_um: float | None = None,
) -> Spots:
    """Read one capture area; ``spatial.read_spots`` has the arguments.

    Without ``image`` (the full-resolution file given to Space Ranger) the shrunk picture of the folder is taken,
    and positions are scaled to it. ``pixel_size_um`` is that of the full-resolution image.

    Raises
    ------
    InputError
        A file that is missing, unreadable or contradicts another one.
    """
    counts = _counts(folder)
    positions = _positions(folder / "spatial")
    factors = _factors(folder / "spatial" / _SCALEFACTORS)
    scale = Scale.given(pixel_size_um) if pixel_size_um is not None else _scale(positions, factors)
    picture, factor, note = _picture(folder / "spatial", factors, image)
    positions[["x_px", "y_px"]] *= factor
    if scale.um_per_px is not None:
        scale = Scale(scale.um_per_px / factor, scale.source, scale.note)
    return assemble(
        SpotTable(counts, positions, str(folder)),
        dataset=dataset or "visium",
        section=section or folder.resolve().name,
        image=picture,
        scale=scale,
        spot_diameter_um=DIAMETER_UM,
        notes=(note,),
    )


def _matrix(folder: Path) -> Path | None:
    """Return the counts: the file where both are there."""
    for path in (folder / f"{_MATRIX}.h5", folder / _MATRIX):
        if path.exists():
            return path
    return None


def _counts(folder: Path) -> ad.AnnData:
    import scanpy as sc

    path = _matrix(folder)
    if path is None:
        raise InputError(
            f"{folder} has neither {_MATRIX}.h5 nor the folder {_MATRIX}", hint="give the folder `outs`"
        )
    try:
        with warnings.catch_warnings():  # genes that share a symbol are renamed, with a note, later
            warnings.simplefilter("ignore", UserWarning)
            data: ad.AnnData = (
                sc.read_10x_mtx(path, make_unique=False) if path.is_dir() else sc.read_10x_h5(path)
            )
    except (OSError, EOFError, KeyError, ValueError, IndexError) as error:
        raise InputError(
            f"cannot read the counts {path}: {error}", hint="is it a file of Space Ranger?"
        ) from error
    return data


def _positions(folder: Path) -> pd.DataFrame:
    new, old = folder / "tissue_positions.csv", folder / "tissue_positions_list.csv"
    path = new if new.is_file() else old
    if not path.is_file():
        bins = (folder / "tissue_positions.parquet").is_file()
        raise InputError(
            f"{folder} has neither {new.name} nor {old.name}",
            hint="the Parquet file is of Visium HD, whose square bins are not read here" if bins else "",
        )
    try:
        frame = pd.read_csv(path, header=0 if path == new else None, names=None if path == new else _COLUMNS)
        frame = frame[_COLUMNS].astype({"barcode": str})
        if path == old and frame["barcode"].iloc[:1].eq("barcode").any():
            raise ValueError("it has a header: name it tissue_positions.csv")
        numbers = frame[_COLUMNS[1:]].apply(pd.to_numeric)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}", hint=f"its columns must be {', '.join(_COLUMNS)}") from error
    own = numbers[["array_row", "array_col"]].assign(
        # a row of the image is y, a column x
        x_px=numbers["pxl_col_in_fullres"].astype(np.float64),
        y_px=numbers["pxl_row_in_fullres"].astype(np.float64),
        selected=numbers["in_tissue"].eq(1),
    )
    return own.set_index(pd.Index(frame["barcode"], dtype=object, name=None))


def _factors(path: Path) -> dict[str, Any]:
    try:
        factors = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the scale factors {path}: {error}") from error
    if not isinstance(factors, dict):
        raise InputError(f"{path} must hold names and numbers")
    return factors


def _scale(positions: pd.DataFrame, factors: dict[str, Any]) -> Scale:
    """Return the pixel size of the full-resolution image: as written, from the array, or from the spot diameter."""
    written = factors.get("microns_per_pixel")
    if written:
        return Scale(float(written), "microns_per_pixel")
    by_diameter = (
        _FILE_DIAMETER_UM / float(factors["spot_diameter_fullres"])
        if factors.get("spot_diameter_fullres")
        else None
    )
    # neighbours in a row are two columns apart, rows stand closer by sin 60°: a hexagonal array
    um = positions[["array_col", "array_row"]].to_numpy(np.float64) * [
        PITCH_UM / 2,
        PITCH_UM * np.sqrt(3) / 2,
    ]
    try:
        size = pixel_size_from_grid(positions[["x_px", "y_px"]].to_numpy(), um, pitch_um=1.0)
    except InputError:
        if by_diameter is None:
            return Scale(note="the pixel size is not known: positions are in px")
        return Scale(
            by_diameter,
            "spot_diameter_fullres",
            f"the pixel size {by_diameter:.4f} µm is derived: spot_diameter_fullres is taken for 65 µm",
        )
    other = f"; spot_diameter_fullres, taken for 65 µm, says {by_diameter:.4f} µm" if by_diameter else ""
    return Scale(
        size, "grid pitch", f"the pixel size {size:.4f} µm is derived: spots stand 100 µm apart{other}"
    )


def _picture(folder: Path, factors: dict[str, Any], image: Path | str | None) -> tuple[SpotImage, float, str]:
    """Return the image, its pixels a pixel of the full-resolution one, and a note."""
    if image is not None:
        return find_image(image), 1.0, ""
    for name in ("hires", "lowres"):
        path, key = folder / f"tissue_{name}_image.png", f"tissue_{name}_scalef"
        if path.is_file() and factors.get(key):
            shrunk = 1 / float(factors[key])
            note = f"{path.name} is {shrunk:.1f} times smaller than the image that Space Ranger was given"
            return (
                find_image(path),
                float(factors[key]),
                f"{note}: give that one for patches with cells in them",
            )
    return (
        SpotImage(),
        1.0,
        f"no image with a scale factor under {folder}: there is nothing to cut patches from",
    )
