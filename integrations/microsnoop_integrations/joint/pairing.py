"""Transcripts and image features of the same cells, joined by id and made ready for a joint analysis.

Source: multimodal spec, section 1. Rows are sorted by id before anything is learned from them, so that the order
of the input cannot change a result; ``Paired.order`` gives the rows back in the order of the transcripts. Every
cell of either modality is in the pair, or in the rejects, once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import JointError
from microsnoop_integrations.joint.image_features import COMPONENTS, ImageReduction, read_features
from microsnoop_integrations.joint.joining import reject_frame
from microsnoop_integrations.joint.matching import (
    EMPTY,
    NOT_FINITE,
    Reject,
    Rows,
    any_value,
    match,
    tally,
    unique_ids,
)
from microsnoop_integrations.joint.paired import Paired as Paired
from microsnoop_integrations.joint.paired import Preparation as Preparation
from microsnoop_integrations.joint.paired import total
from microsnoop_integrations.joint.transcripts import (
    TARGET_SUM,
    TranscriptSteps,
    as_float32,
    is_whole,
    log_normalise,
    read_matrix,
)
from microsnoop_integrations.joint.variable_genes import N_GENES, choose_genes

log = logging.getLogger(__name__)

K = 30
MIN_CELLS = 64


def pair(
    rna: ad.AnnData,
    image: ad.AnnData,
    *,
    join: str = "inner",
    input: str = "auto",  # noqa: A002 - the word of the spec
    n_genes: int | None = N_GENES,
    target_sum: float = TARGET_SUM,
    components: int | None = COMPONENTS,
    standardise: bool = False,
    image_layer: str | None = None,
    k: int = K,
    seed: int = 0,
) -> Paired:
    """Join transcripts and image features by the ids of their cells, and make them ready.

    Parameters
    ----------
    rna
        (n, P) transcripts; ids are ``obs_names``. Not changed.
    image
        (m, q) image features, finite; a row that is not finite (a field without cells) is rejected.
    join
        ``inner``: cells of one modality only are rejected. ``error``: they raise.
    input, n_genes, target_sum
        See :func:`~microsnoop_integrations.joint.transcripts.read_matrix`, ``choose_genes`` and ``log_normalise``.
    components, standardise, seed
        See :meth:`~microsnoop_integrations.joint.image_features.ImageReduction.fit`.
    image_layer
        A layer or key of ``obsm`` of ``image``; default ``X``.
    k
        Neighbours that clustering will need.

    Raises
    ------
    JointError
        ``duplicate_ids``, ``unpaired`` (with ``join="error"``), ``no_common_cells``, ``too_few_cells`` (fewer than 64,
        or at most k + 1), ``no_variance``; and what ``read_matrix`` and ``read_features`` refuse.
    """
    if join not in ("inner", "error"):
        raise ValueError(f"join must be inner or error, got {join!r}")
    ids, rows, rejects = match(rna, image, join)
    matrix, kind, notes = read_matrix(rna, input=input)
    features, names = read_features(image, image_layer)
    usable = _usable(matrix, features, ids, rows, rejects=rejects)
    _check_count(usable, k, rejects)
    values = matrix[rows[0][usable]]
    values = log_normalise(values, target_sum=target_sum) if kind == "counts" else as_float32(values)
    chosen, unseen, n_constant = choose_genes(values, list(rna.var_names), n_genes=n_genes)
    x = as_float32(values[:, chosen])
    x, usable = _drop_empty(x, ids, usable, rejects=rejects)
    _check_count(usable, k, rejects)
    rows = (rows[0][usable], rows[1][usable])
    y, varying = _varying(features[rows[1]])
    reduction = ImageReduction.fit(
        y, tuple(names[j] for j in varying), components=components, standardise=standardise, seed=seed
    )
    absent = set(unseen)
    steps = TranscriptSteps(
        input=kind,
        target_sum=target_sum,
        panel=tuple(g for g in map(str, rna.var_names) if g not in absent) if kind == "counts" else (),
        genes=tuple(str(rna.var_names[j]) for j in chosen),
        whole=is_whole(matrix),
    )
    notes += _counted(rejects, len(unseen), n_constant, len(names) - len(varying))
    for note in notes:
        log.info("%s", note)
    return Paired(
        x=x,
        y=reduction.transform(y),
        obs_ids=tuple(ids[i] for i in usable),
        order=np.argsort(rows[0]),
        rejects=reject_frame(rejects),
        notes=notes,
        preparation=Preparation(steps, reduction),
        dropped_genes=unseen,
        sources=(rna, image),
        rows=rows,
        totals=(total(matrix[rows[0]]), total(y)),
        image_layer=image_layer,
    )


@dataclass(frozen=True)
class NewCells:
    """New cells made ready, in the order of the transcripts (of the images where there are none).

    ``x`` (m, p) float32 or None, ``y`` (m, c) float32 or None, their ids, the rejects, notes, and flags of what is not
    as it was in training: ``imputed_modality`` (one is missing), ``filled_genes`` (some are taken for zero).
    """

    x: Any
    y: NDArray[np.float32] | None
    obs_ids: tuple[str, ...]
    rejects: pd.DataFrame
    notes: tuple[str, ...]
    flags: tuple[str, ...]


def pair_new(
    rna: ad.AnnData | None,
    image: ad.AnnData | None,
    preparation: Preparation,
    *,
    join: str = "inner",
    image_layer: str | None = None,
    fill_zero: bool = False,
) -> NewCells:
    """Make new cells ready as the training cells were. One modality may be missing altogether (None).

    Parameters
    ----------
    rna, image
        As for :func:`pair`; genes and image features must be those of training, in that order.
    preparation
        Of the training cells.
    fill_zero
        Take genes that were not measured for zero; flagged.

    Raises
    ------
    JointError
        ``feature_mismatch``, ``input_mismatch``, ``duplicate_ids``, ``no_common_cells``, ``too_few_cells`` (none is
        left), and what ``read_matrix`` and ``read_features`` refuse.
    ValueError
        Neither modality is given.
    """
    x: Any = None
    y: Any = None
    filled: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if rna is not None:
        x, filled, notes = preparation.transcripts.transform(rna, fill_zero=fill_zero)
    if image is not None:
        y = preparation.image.apply(image, layer=image_layer)
    if rna is not None and image is not None:
        ids, rows, rejects = match(rna, image, join)
        order = np.argsort(rows[0])
        ids, rows = [ids[i] for i in order], (rows[0][order], rows[1][order])
        x, y = x[rows[0]], y[rows[1]]
    elif rna is not None or image is not None:
        ids, rejects = (
            unique_ids(rna if rna is not None else image, "rna" if image is None else "images"),
            [],
        )
    else:
        raise ValueError("give transcripts, images, or both")
    kept = np.ones(len(ids), bool)
    for wrong, reject in (
        (None if y is None else ~np.isfinite(y).all(axis=1), NOT_FINITE),
        (None if x is None else ~any_value(x), EMPTY),
    ):
        if wrong is not None:
            rejects += [(ids[i], *reject) for i in np.flatnonzero(kept & wrong)]
            kept &= ~wrong
    if not kept.any():
        raise JointError("too_few_cells", f"none of the new cells can be placed: {tally(rejects)}")
    flags = {"imputed_modality": x is None or y is None, "filled_genes": bool(filled)}
    return NewCells(
        None if x is None else x[kept],
        None if y is None else y[kept],
        tuple(ids[i] for i in np.flatnonzero(kept)),
        reject_frame(rejects),
        notes,
        tuple(flag for flag, raised in flags.items() if raised),
    )


def _usable(
    matrix: Any, features: NDArray[Any], ids: list[str], rows: Rows, *, rejects: list[Reject]
) -> NDArray[np.int64]:
    """Return which common cells have counts and finite image features; the others are added to the rejects."""
    finite = np.isfinite(features).all(axis=1)[rows[1]]
    filled = any_value(matrix)[rows[0]]
    rejects += [(ids[i], *NOT_FINITE) for i in np.flatnonzero(~finite)]
    rejects += [(ids[i], *EMPTY) for i in np.flatnonzero(finite & ~filled)]
    return np.flatnonzero(finite & filled)


def _drop_empty(
    x: Any, ids: list[str], usable: NDArray[np.int64], *, rejects: list[Reject]
) -> tuple[Any, NDArray[np.int64]]:
    """Leave out cells without any count in the chosen genes: to the model they are empty."""
    filled = any_value(x)
    if filled.all():
        return x, usable
    message = f"no count in any of the {x.shape[1]} genes that are used"
    rejects += [(ids[i], "rna", "empty_cell", message) for i in usable[~filled]]
    return x[filled], usable[filled]


def _varying(features: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    varying = np.flatnonzero(features.max(axis=0) > features.min(axis=0))
    if len(varying) == 0:
        raise JointError(
            "no_variance",
            f"all {len(features)} cells have the same image features",
            hint="look at the images and how they were embedded",
        )
    return features[:, varying], varying


def _check_count(usable: NDArray[np.int64], k: int, rejects: list[Reject]) -> None:
    needed = max(MIN_CELLS, k + 2)
    if len(usable) < needed:
        raise JointError(
            "too_few_cells",
            f"{len(usable)} cells can be used in both modalities, at least {needed} are needed ({tally(rejects)})",
            hint="fewer cells than that say nothing of clusters with k neighbours",
        )


def _counted(rejects: list[Reject], n_unseen: int, n_constant: int, n_flat: int) -> tuple[str, ...]:
    """Say what was left out, with its number."""
    said = {
        f"cells were rejected: {tally(rejects)}": len(rejects),
        "genes have no count in any cell and were dropped": n_unseen,
        "genes have the same value in all cells and were dropped": n_constant,
        "image features have the same value in all cells and were dropped": n_flat,
    }
    return tuple(f"{n} {what}" for what, n in said.items() if n)
