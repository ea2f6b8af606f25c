"""seqFISH+ data as they were published, as MuData: counts, positions and annotations of one tissue.

What is not in the folder (counts of some cells, images, segmentations) is named in ``uns["seqfish"]["missing"]`` and
in the log, and never replaced by zeros. Multimodal spec, section 10; data of Eng et al. 2019 (Nature 568, 235).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.ordering import natural
from microsnoop.core.schema import Key
from microsnoop_integrations.joint.joining import reject_frame
from microsnoop_integrations.seqfish_counts import Counts, read_counts, read_locations
from microsnoop_integrations.seqfish_folder import (
    LICENCE,
    Folder,
    counts_file,
    lacking,
    missing_parts,
    sort_folder,
)
from microsnoop_integrations.seqfish_images import EmbeddingInputs as EmbeddingInputs
from microsnoop_integrations.seqfish_images import join_embeddings as join_embeddings
from microsnoop_integrations.seqfish_images import write_embedding_inputs as write_embedding_inputs
from microsnoop_integrations.seqfish_tables import (
    CellTable,
    add_columns,
    field_name,
    merge_cells,
    read_cells,
    require_rows,
)

if TYPE_CHECKING:
    from mudata import MuData

log = logging.getLogger(__name__)

UNS = "seqfish"
_TEXT_COLUMNS = ("field", "cell", "cell_in_field", "region", "cell_type", "louvain")


def read_seqfish(
    folder: str | Path,
    *,
    tissue: str = "cortex",
    field: int | str | None = None,
    pixel_size_um: float | None = None,
    counts: str | Path | None = None,
) -> MuData:
    """Read the cells of a seqFISH+ folder that have counts.

    Parameters
    ----------
    folder
        Searched with all its sub-folders and zip archives for the tables of either published layout.
    tissue
        ``cortex`` (the 913 cells of cortex and subventricular zone) or ``olfactory_bulb``.
    field
        Only the cells of this field of view. Where no table tells the fields, the field that all cells belong to.
    pixel_size_um
        Pixel size of the images. Never assumed: without it positions stay in pixels.
    counts
        The file of counts, where the folder has none or several.

    Returns
    -------
    MuData with the modality ``rna``: ``X`` and ``layers["counts"]`` (n, p) float32 CSR, counts; ``obs_names``
    ``seqfish:{tissue}:{field}:{index}``, where index is the 0-based row of the published tables; ``obs`` has field,
    cell_type, louvain (and region) where known and the centroid ``x_px, y_px``; ``obsm["spatial"]`` (n, 2) float64, x
    and y (downwards) from the corner of the cell's own field, in µm or px as ``uns["spatial_unit"]`` says.
    ``uns["seqfish"]`` of the MuData: licence, files, ``missing`` (what is not there), ``cells`` (the table of all
    cells, with and without counts) and ``rejects`` (cells without counts).

    Raises
    ------
    InputError
        No such tables, several files of counts, a value that is no count, tables that contradict each other, cells
        that are not in the tables, no such field.
    JointError
        ``row_count_mismatch``: tables without names of cells and of different length.
    ValueError
        An unknown tissue, or a pixel size that is not positive.
    """
    if pixel_size_um is not None and not 0 < pixel_size_um < np.inf:
        raise ValueError(f"pixel_size_um must be positive, got {pixel_size_um}")
    found = sort_folder(folder, tissue)
    matrix = read_counts(counts_file(found, counts))
    cells = _tables(found)
    index = _cell_index(matrix, cells, field, where=str(folder))
    if cells is None:
        cells = pd.DataFrame(index=pd.Index(index).sort_values())
    strange = pd.Index(index).difference(cells.index)
    if len(strange):
        raise InputError(
            f"{matrix.name} has counts of {len(strange):,} cells that the tables do not have, e.g. index {strange[0]}"
        )
    for file in found.locations:
        places = read_locations(file)
        require_rows(len(places.frame), file.name, expected=len(index), of=matrix.name)
        add_columns(cells, CellTable(file.name, places.frame.set_axis(pd.Index(index), axis=0)), {})
    counted = cells.index.isin(index)
    cells = _select(cells.assign(has_counts=counted), field, tissue)
    return _assemble(found, matrix, cells, index=index, pixel_size_um=pixel_size_um)


def read_seqfish_cells(
    folder: str | Path, *, tissue: str = "cortex", field: int | str | None = None
) -> pd.DataFrame:
    """Read the table of cells alone: positions and annotations, with or without counts.

    Returns
    -------
    One row a cell, index ``obs_id`` as in :func:`read_seqfish`; the columns ``cell_index, field, x_px, y_px,
    cell_type, louvain, region`` as far as they are known. :func:`write_embedding_inputs` takes it.

    Raises
    ------
    InputError, JointError, ValueError
        As :func:`read_seqfish`, for tables of cells.
    """
    found = sort_folder(folder, tissue)
    cells = _tables(found)
    if cells is None:
        raise lacking(found, "no table of cells")
    return _select(cells, field, tissue)


def _tables(found: Folder) -> pd.DataFrame | None:
    return merge_cells([read_cells(file) for file in found.cells]) if found.cells else None


def _cell_index(
    matrix: Counts, cells: pd.DataFrame | None, field: int | str | None, *, where: str
) -> NDArray[np.int64]:
    """Return the cell number of every row of the counts: the file's own names, else the row's place."""
    n = matrix.x.shape[0]
    if matrix.index is not None:
        return matrix.index
    if cells is None:
        return np.arange(n)
    if field is not None and n != len(cells) and "field" in cells:
        own = cells.index[cells["field"] == field_name(str(field))]
        if len(own) == n:
            return own.to_numpy(np.int64)
    require_rows(n, matrix.name, expected=len(cells), of=f"the tables of cells in {where}")
    return cells.index.to_numpy(np.int64)


def _select(cells: pd.DataFrame, field: int | str | None, tissue: str) -> pd.DataFrame:
    """Keep the cells of a field, give all their ids, and make categories of text."""
    wanted = None if field is None else field_name(str(field))
    if "field" not in cells:
        cells = cells.assign(field=wanted or "unknown")
    elif cells["field"].isna().any():
        raise InputError(f"the cell with index {cells.index[cells['field'].isna()][0]} has no field of view")
    elif wanted is not None:
        if wanted not in set(cells["field"]):
            names = sorted(set(cells["field"]), key=natural)
            raise InputError(f"there is no field {wanted} of {tissue}; its fields are {', '.join(names)}")
        cells = cells[cells["field"] == wanted]
    ids = [f"seqfish:{tissue}:{name}:{index}" for index, name in cells["field"].items()]
    cells = cells.assign(cell_index=cells.index.to_numpy(np.int64)).set_axis(
        pd.Index(ids, name="obs_id"), axis=0
    )
    for name in (n for n in _TEXT_COLUMNS if n in cells):
        values = sorted(cells[name].dropna().unique(), key=natural)
        cells[name] = pd.Categorical(cells[name], categories=values)
    return cells


def _assemble(
    found: Folder,
    matrix: Counts,
    cells: pd.DataFrame,
    *,
    index: NDArray[np.int64],
    pixel_size_um: float | None,
) -> MuData:
    from mudata import MuData, set_options

    kept = cells[cells["has_counts"]]
    if not len(kept):
        raise InputError(
            f"{matrix.name} holds no counts of the field(s) {', '.join(cells['field'].cat.categories)}"
        )
    rows = pd.Index(index).get_indexer(pd.Index(kept["cell_index"]))
    unit = "px" if pixel_size_um is None else "um"
    facts = {"tissue": found.tissue, "licence": LICENCE}
    rna = ad.AnnData(
        X=matrix.x[rows],
        obs=kept.drop(columns="has_counts").rename_axis(None),
        var=_var(matrix),
        uns={UNS: dict(facts), "spatial_unit": unit},
    )
    rna.layers["counts"] = rna.X.copy()
    if "x_px" in kept:
        rna.obsm[Key.SPATIAL] = kept[["x_px", "y_px"]].to_numpy(np.float64) * (pixel_size_um or 1.0)
    missing = missing_parts(found, matrix, cells, pixel_size_um=pixel_size_um)
    log.warning("seqFISH+ %s in %s lacks: %s", found.tissue, found.path, "; ".join(missing))
    without = cells[~cells["has_counts"]]
    with set_options(pull_on_update=False):
        data = MuData({"rna": rna})
    data.uns[UNS] = {
        **facts,
        **({} if pixel_size_um is None else {"pixel_size_um": pixel_size_um}),
        "spatial_unit": unit,
        "spatial_origin": "upper left corner of the cell's own field, y downwards",
        "files": np.array([matrix.name, *(f.name for f in (*found.cells, *found.locations))], object),
        "missing": np.array(missing, object),
        "cells": cells,
        "rejects": reject_frame(
            [(str(name), "rna", "no_counts", f"no counts of this cell in {matrix.name}") for name in without.index]
        ),
    }  # fmt: skip
    return data


def _var(matrix: Counts) -> pd.DataFrame:
    """Return ``var``; where a gene stands twice its published name is kept in a column."""
    var = pd.DataFrame(index=pd.Index(matrix.genes, dtype=object))
    if var.index.has_duplicates:
        var["gene"] = list(matrix.genes)
        var.index = ad.utils.make_index_unique(var.index)
        log.warning(
            "%s: %d genes stand more than once", matrix.name, int(pd.Index(matrix.genes).duplicated().sum())
        )
    return var
