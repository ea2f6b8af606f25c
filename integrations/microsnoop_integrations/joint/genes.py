"""Genes and images read together: genes that mark clusters, and (``image_genes``) groups of cells in image space.

Source: multimodal spec, section 8 (gene report).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from microsnoop_integrations.joint.image_genes import GroupNeighbours as GroupNeighbours
from microsnoop_integrations.joint.image_genes import genes_in_image_space as genes_in_image_space
from microsnoop_integrations.joint.image_genes import image_neighbours_of_group as image_neighbours_of_group
from microsnoop_integrations.joint.transcripts import as_float32, log_normalise, read_matrix
from microsnoop_integrations.joint.variable_genes import extreme

log = logging.getLogger(__name__)

MIN_CLUSTER = 2
RANKED = (
    "cluster", "gene", "score", "log2_fold_change", "p_value", "q_value", "fraction_in", "fraction_out"
)  # fmt: skip


def rank_genes(data: Any, labels: str | Sequence[Any], *, top: int = 20, rna: str = "rna") -> pd.DataFrame:
    """Rank the genes of each cluster against all other cells: Wilcoxon's rank sum (scanpy), corrected for ties.

    Parameters
    ----------
    data
        AnnData of transcripts, or MuData; ``layers["counts"]`` comes before ``X``. Not changed.
    labels
        A column of ``obs`` (of MuData, else of its transcripts), or one label a cell.
    top
        Genes a cluster; 0 for all.
    rna
        Name of the modality in MuData.

    Returns
    -------
    One row a cluster and gene, best first: ``cluster``, ``gene``, ``score`` (z), ``log2_fold_change``, ``p_value``,
    ``q_value`` (Benjamini and Hochberg, over all genes of the cluster), ``fraction_in`` and ``fraction_out`` (of
    cells with the gene). ``attrs["notes"]`` counts what was left out: cells without a label, clusters of one cell,
    genes that are the same everywhere. Fewer than two clusters: no rows, and a note.

    Raises
    ------
    JointError
        What ``read_matrix`` refuses.
    ValueError
        No such column, or another number of labels than cells.
    """
    cells = data if isinstance(data, ad.AnnData) else data[rna]
    given = _labels(data, cells, labels)
    matrix, kind, _ = read_matrix(cells)
    sizes = given.value_counts()
    kept = given.isin(sizes.index[sizes >= MIN_CLUSTER]).to_numpy()
    values = log_normalise(matrix[kept]) if kind == "counts" else as_float32(matrix[kept])
    varying = (
        extreme(values, "max") > extreme(values, "min") if kept.any() else np.zeros(values.shape[1], bool)
    )
    said = {
        "cells have no label and were left out": int(given.isna().sum()),
        f"clusters have fewer than {MIN_CLUSTER} cells and were left out": int(
            sizes[sizes > 0].lt(MIN_CLUSTER).sum()
        ),
        "genes have the same value in all cells and were left out": int((~varying).sum()),
    }
    notes = [f"{n} {what}" for what, n in said.items() if n]
    names = sorted(set(given[kept]), key=lambda name: (len(name), name))
    if len(names) < 2 or not varying.any():
        notes.append(f"{len(names)} clusters to compare: no gene can differ between clusters")
        frame = pd.DataFrame({name: pd.Series(dtype=_dtype(name)) for name in RANKED})
    else:
        part = ad.AnnData(
            values[:, varying],
            obs=pd.DataFrame(
                {"cluster": pd.Categorical(given[kept], categories=names)}, index=cells.obs_names[kept]
            ),
            var=pd.DataFrame(index=cells.var_names[varying]),
        )
        frame = _ranked(part, names, top)
    for note in notes:
        log.warning("%s", note)
    frame.attrs["notes"] = notes
    return frame


def _labels(data: Any, cells: ad.AnnData, labels: str | Sequence[Any]) -> pd.Series[Any]:
    """Return the label of each cell as text, empty where it has none."""
    if isinstance(labels, str):
        table = next((part.obs for part in (data, cells) if labels in part.obs), None)
        if table is None:
            raise ValueError(f"there is no column {labels!r} in obs")
        found = table[labels].reindex(cells.obs_names)
    else:
        if len(labels) != cells.n_obs:
            raise ValueError(f"{len(labels)} labels for {cells.n_obs} cells")
        found = pd.Series(list(labels), index=cells.obs_names)
    return found.astype(object).where(found.notna(), None).map(str, na_action="ignore")


def _ranked(part: ad.AnnData, names: list[str], top: int) -> pd.DataFrame:
    import scanpy as sc

    sc.tl.rank_genes_groups(part, "cluster", method="wilcoxon", tie_correct=True, pts=True)
    found = part.uns["rank_genes_groups"]
    frames = []
    for name in names:
        genes = found["names"][name][: top or None]
        best = slice(len(genes))
        columns = (
            found["scores"][name][best],
            found["logfoldchanges"][name][best],
            found["pvals"][name][best],
            found["pvals_adj"][name][best],
            found["pts"].loc[genes, name].to_numpy(),
            found["pts_rest"].loc[genes, name].to_numpy(),
        )
        frame = pd.DataFrame(dict(zip(RANKED[2:], (np.asarray(c, np.float64) for c in columns), strict=True)))
        frame.insert(0, "cluster", name)
        frame.insert(1, "gene", [str(gene) for gene in genes])
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _dtype(name: str) -> str:
    return "object" if name in RANKED[:2] else "float64"
