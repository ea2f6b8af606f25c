"""Rows of an embedding run brought beside the cells or spots they were cut for: by id, never by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError, JointError

if TYPE_CHECKING:
    from mudata import MuData

JOIN_COLUMN = "cell_id"  # read as text whatever it looks like, so that an id "007" stays one
REJECT_COLUMNS = ("obs_id", "modality", "code", "message")
_CHUNK_ROWS = 4096


def join_embeddings(
    rna: ad.AnnData, embeddings: ad.AnnData, *, key: str = JOIN_COLUMN, join: str = "inner"
) -> tuple[ad.AnnData, pd.DataFrame]:
    """Return the embeddings of the cells of ``rna``, in the order and under the names of ``rna``.

    Parameters
    ----------
    rna
        (n, p) transcripts; ``obs_names`` are the ids.
    embeddings
        (m, q) an exported run, one row a cell.
    key
        Column of ``embeddings.obs`` that holds the ids of ``rna``: the column of this name in the table of cells
        that was embedded. Empty, or a column that is not there: ``obs_names`` are the ids.
    join
        ``inner``: ids of one side only are rejected. ``error``: they raise.

    Returns
    -------
    A new AnnData (k, q), ``obs_names`` a subsequence of those of ``rna`` (the run's own names are kept in
    ``obs["embedding_id"]``), and the rejects: a row for every row of either side that is not joined, with
    ``obs_id``, ``modality`` (rna or image), ``code`` (``unpaired``, ``not_finite``) and
    ``message``. n = k + rejects of rna, m = k + rejects of image; a pair without finite numbers rejects both.

    Raises
    ------
    InputError
        Ids that repeat or are missing.
    JointError
        ``no_common_cells``; ``unpaired`` with ``join="error"``: rows of one side only; ``not_finite``: no finite pair.
    ValueError
        An unknown ``join``.
    """
    if join not in ("inner", "error"):
        raise ValueError(f"join must be inner or error, got {join!r}")
    ours = _unique(list(rna.obs_names.astype(str)), "the transcripts (obs_names)")
    column = key if key and key in embeddings.obs else ""
    theirs = _unique(_ids(embeddings, column), f"the embeddings ({column or 'obs_names'})")
    place = pd.Index(theirs).get_indexer(pd.Index(ours))
    if not (place >= 0).any():
        raise JointError(
            "no_common_cells",
            f"transcripts and embeddings have no id in common: e.g. {ours[:1]} and {theirs[:1]}",
            hint=f"the embeddings' column {key!r} must hold the obs_names of the transcripts",
        )
    finite = _finite_rows(embeddings)
    kept = np.array([p >= 0 and bool(finite[p]) for p in place])
    if not kept.any():
        raise JointError("not_finite", "no embedding of these cells is made of numbers alone")
    rejects = _rejects(ours, theirs, place, finite)
    if join == "error" and len(rejects):
        counts = ", ".join(f"{n} {code}" for code, n in rejects["code"].value_counts().items())
        raise JointError("unpaired", f"rows of one side only: {counts}", hint="join='inner' rejects them")
    image = embeddings[place[kept]].copy()
    image.obs["embedding_id"] = image.obs_names.to_numpy(object)
    image.obs_names = rna.obs_names[kept].astype(str)
    return image, rejects


def join_mudata(
    rna: ad.AnnData, embeddings: ad.AnnData, *, key: str = JOIN_COLUMN, join: str = "inner"
) -> tuple[MuData, pd.DataFrame]:
    """Return a MuData with the modalities ``rna`` and ``image`` of the same cells, and the rejects.

    Arguments, rejects and errors as in :func:`join_embeddings`. ``uns["joining"]`` counts the rows of both sides,
    the joined and the rejected ones by code.
    """
    from mudata import MuData, set_options

    image, rejects = join_embeddings(rna, embeddings, key=key, join=join)
    counts = {f"rejected_{code}": int(n) for code, n in rejects["code"].value_counts().items()}
    with set_options(pull_on_update=False):
        data = MuData({"rna": rna[image.obs_names].copy(), "image": image})
    data.uns["joining"] = {
        "rows_rna": rna.n_obs, "rows_image": embeddings.n_obs, "joined": image.n_obs, **counts
    }  # fmt: skip
    return data, rejects


def reject_frame(rows: Sequence[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Return rejects as a table of text: ``obs_id``, ``modality``, ``code``, ``message``."""
    return pd.DataFrame(list(rows), columns=list(REJECT_COLUMNS), dtype=object)


def _ids(embeddings: ad.AnnData, column: str) -> list[str]:
    if not column:
        return list(embeddings.obs_names.astype(str))
    values = embeddings.obs[column]
    if values.isna().any():
        raise InputError(
            f"the embeddings' column {column!r} is empty in {int(values.isna().sum())} of {len(values)} rows",
            hint="every row needs the id of the cell it was cut for",
        )
    return [str(value) for value in values]


def _unique(ids: list[str], where: str) -> list[str]:
    index = pd.Index(ids)
    if index.has_duplicates:
        twice = list(dict.fromkeys(index[index.duplicated()]))
        raise InputError(
            f"{where}: {len(twice)} ids stand more than once, e.g. {twice[:3]}",
            hint="one row a cell is needed; tiles become one with `microsnoop export RUN --level image`",
        )
    return ids


def _finite_rows(data: ad.AnnData) -> NDArray[np.bool_]:
    """Return which rows of ``X`` hold nothing but numbers, block by block."""
    finite = np.empty(data.n_obs, bool)
    for chunk, start, stop in data.chunked_X(_CHUNK_ROWS):
        finite[start:stop] = np.isfinite(np.asarray(chunk, np.float32)).all(axis=1)
    return finite


def _rejects(
    ours: list[str], theirs: list[str], place: NDArray[np.intp], finite: NDArray[np.bool_]
) -> pd.DataFrame:
    rows = []
    for name, p in zip(ours, place, strict=True):
        if p < 0:
            rows.append((name, "rna", "unpaired", "no embedding of this id"))
        elif not finite[p]:
            rows.append((name, "rna", "not_finite", "its embedding holds a value that is no number"))
    found = np.zeros(len(theirs), bool)
    found[place[place >= 0]] = True
    for name, there, fine in zip(theirs, found, finite, strict=True):
        if not there:
            rows.append((name, "image", "unpaired", "no transcripts of this id"))
        elif not fine:
            rows.append((name, "image", "not_finite", "the embedding holds a value that is no number"))
    return reject_frame(rows)
