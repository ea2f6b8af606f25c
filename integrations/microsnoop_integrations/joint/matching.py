"""Cells of two modalities matched by their ids, and why others are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import JointError
from microsnoop.correction.rows import named

Reject = tuple[str, str, str, str]  # id, modality, code, message
Rows = tuple[NDArray[np.int64], NDArray[np.int64]]  # of the transcripts, of the images

NOT_FINITE = ("image", "not_finite", "its image features are NaN or infinite: an image without cells?")
EMPTY = ("rna", "empty_cell", "no count in any gene")


def match(rna: ad.AnnData, image: ad.AnnData, join: str) -> tuple[list[str], Rows, list[Reject]]:
    """Return the ids that both have, ascending, their rows in both, and a reject for every other id.

    Raises
    ------
    JointError
        ``duplicate_ids``, ``no_common_cells``; ``unpaired`` where ``join`` is ``error``.
    """
    in_rna = {name: row for row, name in enumerate(unique_ids(rna, "transcripts"))}
    in_image = {name: row for row, name in enumerate(unique_ids(image, "images"))}
    ids = sorted(in_rna.keys() & in_image.keys())
    if not ids:
        raise JointError(
            "no_common_cells",
            f"transcripts and images have no id in common: {named(list(in_rna))}; {named(list(in_image))}",
            hint="both need the same obs_names for the same cell",
        )
    alone: list[Reject] = [
        (name, modality, "unpaired", f"no cell of this id among the {other}")
        for modality, other, names in (
            ("rna", "images", in_rna.keys() - in_image.keys()),
            ("image", "transcripts", in_image.keys() - in_rna.keys()),
        )
        for name in sorted(names)
    ]
    if alone and join == "error":
        raise JointError(
            "unpaired",
            f"{len(alone)} cells are in one modality only: {named([name for name, *_ in alone])}",
            hint="join='inner' leaves them out and counts them",
        )
    rows = (np.array([in_rna[i] for i in ids], np.int64), np.array([in_image[i] for i in ids], np.int64))
    return ids, rows, alone


def unique_ids(data: ad.AnnData, what: str) -> list[str]:
    """Return ``obs_names``, refusing ids that stand more than once (``duplicate_ids``)."""
    names = data.obs_names.astype(str)
    if not names.is_unique:
        twice = list(dict.fromkeys(names[names.duplicated()]))
        raise JointError(
            "duplicate_ids",
            f"{len(twice)} ids of the {what} stand more than once: {named(twice)}",
            hint="cells are joined by id, so every cell needs one of its own",
        )
    return list(names)


def any_value(matrix: Any) -> NDArray[np.bool_]:
    """Return which rows of a dense or CSR matrix hold anything above zero."""
    if sparse.issparse(matrix):
        return np.asarray(matrix.max(axis=1).toarray()).ravel() > 0
    return np.asarray((matrix > 0).any(axis=1))


def tally(rejects: Sequence[Reject]) -> str:
    """Say how many rejects there are of each modality and code."""
    counts = pd.Series(
        [f"{modality} {code}" for _, modality, code, _ in rejects], dtype=object
    ).value_counts()
    return ", ".join(f"{n} {what}" for what, n in counts.items()) or "no rejects"
