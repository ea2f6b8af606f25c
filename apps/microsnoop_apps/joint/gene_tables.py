"""Genes of a joint analysis: those of each cluster, those that follow the images, and where a gene's cells stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from microsnoop.core.errors import ConfigError
from microsnoop.io.profile_columns import shorten
from microsnoop_apps.joint.experiment import Experiment
from microsnoop_integrations.joint.genes import genes_in_image_space, image_neighbours_of_group, rank_genes

GROUP_HEADER = ("gene", "cells", "share", "expected", "ratio", "p_value")
# Moran's I is compared with permutations of few cells; of more, the normal law is as good and many times as fast
_FEW_CELLS, _PERMUTATIONS = 500, 1_000  # fewer permutations could not pass a correction for 2,000 genes
_STRONGEST = 0.9


@dataclass(frozen=True)
class GeneTables:
    """``by_cluster`` has a column ``space``: clusters of MUSE, or of the images alone."""

    by_cluster: pd.DataFrame
    in_image_space: pd.DataFrame
    groups: pd.DataFrame
    notes: tuple[str, ...]


def check_genes(experiment_genes: list[str], known: list[str]) -> None:
    """Refuse genes that are not there, before anything is computed.

    Raises
    ------
    ConfigError
        With the genes that are missing.
    """
    have = set(known)
    if missing := [gene for gene in experiment_genes if gene not in have]:
        raise ConfigError(
            f"genes.groups: the transcripts have no {shorten(missing)}",
            hint=f"they have {len(known):,} genes, such as {shorten(known)}",
        )


def gene_tables(experiment: Experiment) -> GeneTables:
    """Rank genes by clusters of MUSE and of the images, and find those whose expression follows the images."""
    paired, config = experiment.loaded.paired, experiment.config
    rna = paired.sources[0]
    seen = ~pd.Index(rna.var_names.astype(str)).isin(list(paired.dropped_genes))
    cells = rna[paired.rows[0], seen].copy()
    parts, notes = [], []
    for method, space in (("muse", "MUSE"), ("images", "images")):
        labels = [str(label) for label in experiment.methods[method].found.labels]
        frame = rank_genes(cells, labels, top=config.genes.top)
        notes += [f"genes by clusters of {space}: {note}" for note in frame.attrs["notes"]]
        parts.append(frame.assign(space=space))
    images = experiment.methods["images"].found.latent
    n = len(images)
    rng = np.random.default_rng(config.seed)
    follow = genes_in_image_space(
        paired.x, images, paired.genes, permutations=_PERMUTATIONS if n <= _FEW_CELLS else 0, rng=rng
    )
    by_cluster = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    columns = ["space", *(name for name in by_cluster if name != "space")]
    return GeneTables(by_cluster[columns], follow, _groups(experiment, images), tuple(notes))


def _groups(experiment: Experiment, images: np.ndarray) -> pd.DataFrame:
    """Look up in image space the tenth of the cells with the most of a gene."""
    paired, config = experiment.loaded.paired, experiment.config
    rows = []
    if config.genes.groups:
        expression = paired.expression
        names = pd.Index(paired.sources[0].var_names.astype(str))
        for gene in config.genes.groups:
            column = expression[:, int(names.get_loc(gene))]
            values = np.asarray(column.toarray() if sparse.issparse(column) else column).ravel()
            strongest = values > max(float(np.quantile(values, _STRONGEST)), 0.0)
            if strongest.sum() < 2:
                rows.append((gene, int(strongest.sum()), *[np.nan] * 4))
                continue
            found = image_neighbours_of_group(images, strongest, rng=np.random.default_rng(config.seed))
            rows.append((gene, int(strongest.sum()), found.share, found.expected, found.ratio, found.p_value))
    return pd.DataFrame(rows, columns=list(GROUP_HEADER))
