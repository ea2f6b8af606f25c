"""The genes that vary most: what a joint analysis sees of the transcripts. Spec, section 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import JointError

N_GENES = 2_000
LARGEST_LOG = 20.0  # log1p of 10,000 is 9.2, and few scale to more than a million


def choose_genes(
    values: Any, names: Sequence[str], *, n_genes: int | None = N_GENES
) -> tuple[NDArray[np.int64], tuple[str, ...], int]:
    """Choose the most variable genes: largest normalised dispersion (scanpy, flavor ``seurat``), ties by position.

    Parameters
    ----------
    values
        (n, P) non-negative, dense or CSR: what the analysis will see.
    names
        Of the genes.
    n_genes
        How many; None for all. Where no more vary, all that do. Values above 20 are no logs: then genes are chosen
        by the logs of them.

    Returns
    -------
    Columns in ascending order, int64 (p,); the names of the genes that no cell has; and how many other genes are
    the same in all cells. Neither of these can be chosen: they say nothing of any cell.

    Raises
    ------
    JointError
        ``no_variance``: no gene differs between cells.
    """
    if n_genes is not None and n_genes < 1:
        raise ValueError(f"n_genes must be at least 1, got {n_genes}")
    largest, smallest = (extreme(values, how) for how in ("max", "min"))
    unseen = tuple(str(names[j]) for j in np.flatnonzero(largest == 0).tolist())
    varying = np.flatnonzero(largest > smallest)
    n_constant = len(largest) - len(unseen) - len(varying)
    if len(varying) == 0:
        raise JointError(
            "no_variance", f"none of the {len(largest)} genes differs between the {values.shape[0]} cells"
        )
    if n_genes is None or len(varying) <= n_genes:
        return varying, unseen, n_constant
    import scanpy as sc

    part = values[:, varying]
    logged = float(largest.max()) <= LARGEST_LOG
    found = sc.pp.highly_variable_genes(
        ad.AnnData(part if logged else part.log1p() if sparse.issparse(part) else np.log1p(part)),
        flavor="seurat",
        n_top_genes=n_genes,
        inplace=False,
    )
    dispersion = found["dispersions_norm"].to_numpy(np.float64)
    order = np.argsort(-np.nan_to_num(dispersion, nan=-np.inf), kind="stable")
    return np.sort(varying[order[:n_genes]]), unseen, n_constant


def extreme(values: Any, how: str) -> NDArray[Any]:
    """Return the ``max`` or ``min`` of each column of a dense or sparse matrix, (P,)."""
    found = getattr(values, how)(axis=0)
    return np.asarray(found.toarray() if sparse.issparse(found) else found).ravel()
