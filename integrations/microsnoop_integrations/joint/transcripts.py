"""Transcripts made ready for a joint analysis: normalised, logged, and the most variable genes of them.

Source: multimodal spec, section 1. Counts are scaled to 10,000 a cell, log1p, and the 2,000 most variable genes are
kept; the paper names neither, so both are our choice. What is learned from the training cells (which genes, in
which order, what a cell's total is taken over) is kept in :class:`TranscriptSteps`, so that new cells come out alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import JointError
from microsnoop.correction.rows import named
from microsnoop_integrations.joint.feature_order import take_features
from microsnoop_integrations.joint.variable_genes import LARGEST_LOG

TARGET_SUM = 10_000.0
COUNTS = "counts"  # the layer of AnnData that holds them
_INPUTS = ("auto", "counts", "log")


@dataclass(frozen=True)
class TranscriptSteps:
    """How transcripts are made ready, learned from the training cells.

    Attributes
    ----------
    input
        ``counts`` are normalised and logged; ``log`` values are used as they are.
    target_sum
        Sum of a cell's values after scaling; only for counts.
    panel
        Genes over which a cell's total is taken: all that were seen in any training cell. Empty for ``log``.
    genes
        Columns of the result, in this order.
    whole
        Whether all values of the training cells were whole numbers.
    """

    input: str
    target_sum: float
    panel: tuple[str, ...]
    genes: tuple[str, ...]
    whole: bool

    def facts(self) -> dict[str, Any]:
        """Return the steps as JSON can hold them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> TranscriptSteps:
        """Return what :meth:`facts` described."""
        panel, genes = (tuple(map(str, facts[name])) for name in ("panel", "genes"))
        return cls(str(facts["input"]), float(facts["target_sum"]), panel, genes, bool(facts["whole"]))

    def transform(
        self, data: ad.AnnData, *, fill_zero: bool = False
    ) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
        """Make new cells ready as the training cells were.

        Parameters
        ----------
        data
            (m, any) AnnData; must hold the panel's genes (for ``log``: the chosen genes), in the order of training.
            Others are ignored. Not changed.
        fill_zero
            Take genes that are not there for zero.

        Returns
        -------
        x, (m, p) float32, CSR where ``data`` is sparse; the genes taken for zero; and notes. A cell without any count
        is a row of zeros.

        Raises
        ------
        JointError
            ``feature_mismatch``: genes that are missing or in another order. ``input_mismatch``: counts where there
            were logs, or the other way round. Else as :func:`read_matrix`.
        """
        needed = self.panel if self.input == "counts" else self.genes
        matrix, _, notes = read_matrix(data, input=self.input)
        self._check_kind(matrix)
        matrix, missing = take_features(
            matrix, data.var_names, needed=needed, fill_zero=fill_zero, what="genes"
        )
        if missing:
            notes += (f"{len(missing)} of {len(needed)} genes are not there and taken for zero",)
        if self.input == "counts":
            matrix = log_normalise(matrix, target_sum=self.target_sum)
        chosen = pd.Index(needed).get_indexer(pd.Index(self.genes))
        return as_float32(matrix[:, chosen]), tuple(missing), notes

    def _check_kind(self, matrix: Any) -> None:
        """Refuse logs where counts are needed, and counts where logs are needed."""
        whole = is_whole(matrix)
        # zeros alone are whole numbers too
        mixed = self.whole > whole if self.input == "counts" else whole > self.whole and matrix.max() > 0
        if mixed:
            had, has = ("counts", "numbers that are not whole") if self.whole else ("logs", "whole numbers")
            raise JointError(
                "input_mismatch",
                f"the training cells had {had}, the new cells have {has}",
                hint="give new cells in the same form: counts in layers['counts'], or logs in X",
            )


def read_matrix(data: ad.AnnData, *, input: str = "auto") -> tuple[Any, str, tuple[str, ...]]:  # noqa: A002
    """Find the transcripts of ``data``, and whether they are counts.

    Parameters
    ----------
    data
        (n, P). ``layers["counts"]`` comes before ``X``, except for ``input="log"``. Not changed.
    input
        ``counts``: non-negative numbers; need not be whole (after removal of ambient RNA they are not). ``log``:
        non-negative, normalised and logged before. ``auto``: whole numbers are counts, others were normalised.

    Returns
    -------
    The matrix as it is (n, P), dense or CSR; ``counts`` or ``log``; and notes.

    Raises
    ------
    JointError
        ``negative_input``, ``not_finite`` (first cell and gene are named), ``duplicate_genes``, ``no_transcripts``.
    ValueError
        An unknown ``input``.
    """
    if input not in _INPUTS:
        raise ValueError(f"unknown input {input!r}: choose one of {', '.join(_INPUTS)}")
    if data.isbacked:
        data = data.to_memory()
    where = f"layers[{COUNTS!r}]" if COUNTS in data.layers and input != "log" else "X"
    matrix = data.layers[COUNTS] if where != "X" else data.X
    if matrix is None or 0 in data.shape:
        raise JointError(
            "no_transcripts", f"the transcripts hold no values: {data.n_obs} cells, {data.n_vars} genes"
        )
    matrix = _canonical(matrix) if sparse.issparse(matrix) else np.asarray(matrix)
    _check(matrix, data, where)
    if not data.var_names.is_unique:
        twice = list(dict.fromkeys(data.var_names[data.var_names.duplicated()].astype(str)))
        raise JointError(
            "duplicate_genes",
            f"{len(twice)} gene names stand more than once, such as {named(twice)}",
            hint="genes are told apart by name: data.var_names_make_unique()",
        )
    whole = is_whole(matrix)
    notes: tuple[str, ...] = ()
    kind = input if input != "auto" else ("counts" if whole or where != "X" else "log")
    if kind == "counts" and not whole:
        notes += (f"{where} holds numbers that are not whole; they are used as counts",)
    if kind == "log" and (largest := float(matrix.max())) > LARGEST_LOG:
        notes += (f"{where} holds values up to {largest:.4g}: normalised, but not logged?",)
    return matrix, kind, notes


def log_normalise(counts: Any, *, target_sum: float = TARGET_SUM) -> Any:
    """Scale every cell to the same sum and take log1p of it.

    Parameters
    ----------
    counts
        (n, P) non-negative, dense or CSR. Not changed.
    target_sum
        Of a cell after scaling.

    Returns
    -------
    (n, P) float32, CSR if ``counts`` is. A cell without counts stays zero.
    """
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    factor = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals > 0)
    if not sparse.issparse(counts):
        scaled = np.multiply(
            counts, factor[:, None], out=np.empty(counts.shape, np.float32), casting="unsafe"
        )
        return np.log1p(scaled, out=scaled)
    each = np.repeat(factor, np.diff(counts.indptr))
    values = np.multiply(counts.data, each, out=np.empty(counts.nnz, np.float32), casting="unsafe")
    made = sparse.csr_matrix(
        (np.log1p(values, out=values), counts.indices.copy(), counts.indptr.copy()), shape=counts.shape
    )
    made.eliminate_zeros()
    return made


def is_whole(matrix: Any) -> bool:
    """Whether all values of a dense or sparse matrix are whole numbers."""
    values = matrix.data if sparse.issparse(matrix) else matrix
    return values.dtype.kind in "bui" or bool((values == np.rint(values)).all())


def _check(matrix: Any, data: ad.AnnData, where: str) -> None:
    """Refuse what cannot be transcripts, naming the first cell and gene."""
    values = matrix.data if sparse.issparse(matrix) else matrix
    if values.dtype.kind not in "buif":
        raise JointError("no_transcripts", f"{where} of the transcripts holds {values.dtype}, not numbers")
    if (bad := ~np.isfinite(values)).any():
        raise JointError(
            "not_finite",
            f"{int(bad.sum())} values of {where} of the transcripts are NaN or infinite, "
            f"the first: {_place(matrix, bad, data)}",
            hint="leave those cells or genes out, or fill them knowingly",
        )
    if (bad := values < 0).any():
        raise JointError(
            "negative_input",
            f"{int(bad.sum())} values of {where} of the transcripts are negative, "
            f"the first: {_place(matrix, bad, data)}: scaled or PCA matrix given as transcripts?",
            hint="pass counts or log-counts",
        )


def _place(matrix: Any, bad: NDArray[np.bool_], data: ad.AnnData) -> str:
    """Say in which cell and gene the first ``bad`` value stands."""
    if sparse.issparse(matrix):
        at = int(np.flatnonzero(bad)[0])
        row, column = int(np.searchsorted(matrix.indptr, at, side="right")) - 1, int(matrix.indices[at])
    else:
        row, column = (int(axis[0]) for axis in np.nonzero(bad))
    return f"cell {data.obs_names[row]!r}, gene {data.var_names[column]!r}"


def _canonical(matrix: Any) -> Any:
    """Return CSR in which no place stands twice: several values of one gene must be added before they are logged."""
    rows = matrix.tocsr()
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    return rows


def as_float32(matrix: Any) -> Any:
    """Return a dense or sparse matrix as a new one of float32, CSR where it is sparse."""
    return (
        sparse.csr_matrix(matrix, dtype=np.float32, copy=True)
        if sparse.issparse(matrix)
        else np.array(matrix, np.float32, order="C")
    )
