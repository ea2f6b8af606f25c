"""Counts and positions of spots brought together by name: every row is kept or rejected, and counted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import InputError
from microsnoop.core.schema import Key
from microsnoop_integrations.joint.joining import reject_frame
from microsnoop_integrations.spatial_spots import Scale, SpotImage, Spots, SpotTable

UNS = "spots"


def named_counts(matrix: Any, spots: list[str], genes: list[str]) -> ad.AnnData:
    """Return counts (n, p) as AnnData; spots and genes may still repeat."""
    with (
        warnings.catch_warnings()
    ):  # repeated spots are refused, repeated genes renamed, where spots are matched
        warnings.simplefilter("ignore", UserWarning)
        return ad.AnnData(
            matrix,
            obs=pd.DataFrame(index=pd.Index(spots, dtype=object)),
            var=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        )


def assemble(
    table: SpotTable,
    *,
    dataset: str,
    section: str,
    image: SpotImage,
    scale: Scale,
    spot_diameter_um: float | None,
    notes: tuple[str, ...] = (),
    uns: Mapping[str, Any] | None = None,
) -> Spots:
    """Match counts with positions, and reject what has only one of them; the order is that of the counts.

    Raises
    ------
    InputError
        A spot that stands twice, counts that are not whole numbers of at least 0, or no spot with both.
    """
    counts, positions = table.counts, table.positions
    _check_unique(counts.obs_names, f"{table.where}: the counts")
    _check_unique(positions.index, f"{table.where}: the positions")
    matrix = _whole_counts(counts, table.where)
    var, renamed = _unique_genes(counts.var)
    names = counts.obs_names.append(positions.index.difference(counts.obs_names, sort=False))
    placed = positions.reindex(names)
    codes = _codes(placed, names.isin(positions.index), names.isin(counts.obs_names), image.size_px)
    ids = [f"{dataset}:{section}:{name}" for name in names]
    lost = [
        (i, "rna", code, _message(code, image.size_px)) for i, code in zip(ids, codes, strict=True) if code
    ]
    rejects = reject_frame(lost)
    kept = np.array([not code for code in codes])
    if not kept.any():
        raise InputError(
            f"{table.where}: no spot has both counts and a position in the image "
            f"({', '.join(f'{n} {c}' for c, n in rejects['code'].value_counts().items())})",
            hint=f"counts name e.g. {list(counts.obs_names[:2])}, positions {list(positions.index[:2])}",
        )
    here = positions.loc[names[kept]]  # with its own dtypes: none of these is missing
    centres = here[["x_px", "y_px"]].to_numpy(np.float64)
    rna = _annotated(
        matrix[np.flatnonzero(kept)], var, here, [i for i, k in zip(ids, kept, strict=True) if k]
    )
    notes = tuple(note for note in (*notes, renamed, scale.note) if note)
    rna.obsm[Key.SPATIAL] = centres * (scale.um_per_px or 1.0)
    for name, frame in table.arrays.items():
        rna.obsm[name] = frame.reindex(here.index).to_numpy(np.float32)
    rna.uns["spatial_unit"] = "px" if scale.um_per_px is None else "um"
    rna.uns[UNS] = {
        "dataset": dataset,
        "section": section,
        "pixel_size_source": scale.source,
        **({} if scale.um_per_px is None else {"pixel_size_um": scale.um_per_px}),
        **({} if spot_diameter_um is None else {"spot_diameter_um": spot_diameter_um}),
        **({} if image.path is None else {"image": str(image.path)}),
        "rows_in": len(names),
        "rejected": {code: int(n) for code, n in rejects["code"].value_counts().items()},
        "notes": np.asarray(notes, object),
        **{name: np.asarray(frame.columns, object) for name, frame in table.arrays.items()},
        **(uns or {}),
    }
    return Spots(rna, centres, image, scale, spot_diameter_um, rejects, section, dataset, len(names), notes)


def _annotated(
    matrix: sparse.csr_matrix, var: pd.DataFrame, placed: pd.DataFrame, ids: list[str]
) -> ad.AnnData:
    obs = placed.drop(columns="selected").assign(spot=placed.index.astype(str))
    obs.index = pd.Index(ids, dtype=object)
    rna = ad.AnnData(matrix, obs=obs, var=var)
    rna.layers["counts"] = matrix.copy()
    return rna


def _unique_genes(var: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Give genes that share a name (several Ensembl ids of one symbol) names of their own; say how many."""
    shared = int(var.index.duplicated().sum())
    holder = named_counts(
        sparse.csr_matrix((0, len(var)), dtype=np.float32), [], [str(name) for name in var.index]
    )
    holder.var_names_make_unique()
    renamed = var.copy()
    renamed.index = pd.Index(holder.var_names, dtype=object)
    return (
        renamed,
        f"{shared} gene names stand more than once: a number was put behind them" if shared else "",
    )


def _codes(
    placed: pd.DataFrame,
    has_place: NDArray[np.bool_],
    has_counts: NDArray[np.bool_],
    size_px: tuple[int, int] | None,
) -> list[str]:
    """Return why a spot is rejected, the first reason that holds; empty where it is kept."""
    x, y = (placed[name].to_numpy(np.float64) for name in ("x_px", "y_px"))
    known = has_place & np.isfinite(x) & np.isfinite(y)
    chosen = placed["selected"].eq(True).to_numpy()
    inside = known.copy()
    if size_px is not None:
        inside &= (x >= 0) & (x < size_px[1]) & (y >= 0) & (y < size_px[0])
    reasons = (
        ("not_selected", has_place & ~chosen),
        ("no_counts", ~has_counts),
        ("no_position", ~known),
        ("outside_image", ~inside),
    )
    codes = [""] * len(placed)
    for code, holds in reversed(reasons):  # the first reason is written last
        for row in np.flatnonzero(holds):
            codes[row] = code
    return codes


def _message(code: str, size_px: tuple[int, int] | None) -> str:
    height, width = size_px or (0, 0)
    return {
        "not_selected": "the positions say that it lies beside the tissue",
        "no_counts": "it has a position and no row of counts",
        "no_position": "it has counts and no position",
        "outside_image": f"its centre lies outside the image of {height} × {width} px",
    }[code]


def _check_unique(names: pd.Index, where: str) -> None:
    if names.has_duplicates:
        twice = list(dict.fromkeys(names[names.duplicated()]))
        raise InputError(
            f"{where}: {len(twice)} spot(s) stand more than once, e.g. {twice[:3]}",
            hint="keep one row for each spot",
        )


def _whole_counts(counts: ad.AnnData, where: str) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix(counts.X, dtype=np.float32)
    matrix.sum_duplicates()
    values = matrix.data
    if not np.isfinite(values).all():
        raise InputError(f"{where}: the counts hold values that are no numbers")
    odd = values[(values < 0) | (values != np.rint(values))]
    if odd.size:
        raise InputError(
            f"{where}: counts must be whole numbers of at least 0, found e.g. {odd[0]:g}",
            hint="give the raw counts, not normalised or scaled values",
        )
    return matrix
