"""The two modalities in what a verb was given (MuData, or a mapping of AnnData), and where its results go."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    import anndata as ad

    from microsnoop_integrations.joint.paired import Paired

log = logging.getLogger(__name__)


def names_of(data: Any) -> list[str]:
    """Return the names of the modalities."""
    return list(data) if isinstance(data, Mapping) else list(data.mod)


def modality_of(data: Any, name: str) -> ad.AnnData:
    """Return one modality.

    Raises
    ------
    ValueError
        None of that name.
    """
    if name not in names_of(data):
        raise ValueError(f"there is no modality {name!r}: found {', '.join(names_of(data))}")
    return data[name]


def modalities_of(data: Any, rna: str, image: str) -> list[ad.AnnData]:
    """Return transcripts and images."""
    return [modality_of(data, rna), modality_of(data, image)]


def targets_of(data: Any, sides: list[ad.AnnData]) -> list[Any]:
    """Return where results that belong to both modalities stand."""
    return sides if isinstance(data, Mapping) else [data]


def paired_of(sides: list[ad.AnnData], paired: Paired | None, **settings: Any) -> Paired:
    """Pair the modalities unless that was done (``settings`` are for that), and warn of cells that are left out."""
    from microsnoop_integrations.joint.pairing import pair

    paired = pair(*sides, **settings) if paired is None else paired
    if len(paired.rejects):
        tally = (paired.rejects["modality"] + " " + paired.rejects["code"]).value_counts()
        log.warning(
            "%d cells are left out of the joint analysis (NaN, no cluster): %s",
            len(paired.rejects),
            ", ".join(f"{n} {what}" for what, n in tally.items()),
        )
    return paired


def initial_labels(
    data: Any, side: ad.AnnData, column: str | None, paired: Paired
) -> NDArray[np.int64] | None:
    """Return a column of ``obs`` as numbers, rows as in ``paired``; None where no column is named.

    Raises
    ------
    ValueError
        No such column, or a paired cell without a label.
    """
    if column is None:
        return None
    tables = [side.obs] if isinstance(data, Mapping) else [side.obs, data.obs]
    table = next((table for table in tables if column in table), None)
    if table is None:
        raise ValueError(f"there is no column {column!r} in obs for initial labels")
    codes, _ = pd.factorize(table[column].reindex(list(paired.obs_ids)), sort=True)
    if (codes < 0).any():
        raise ValueError(f"{int((codes < 0).sum())} of {len(codes)} paired cells have no label in {column!r}")
    return codes.astype(np.int64)
