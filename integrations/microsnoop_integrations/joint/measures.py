"""How good a joint representation is: agreement of labels, separation, stability; each figure with its interval.

Source: multimodal spec, section 8. Neighbourhoods are judged in ``neighbourhoods``, modalities in ``modality_share``;
both are found here as well. Intervals are percentile bootstraps over cells, or over whole groups (fields of view)
where there are at least two, because cells of one field are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from microsnoop.ops.intervals import Interval
from microsnoop.ops.silhouette import SAMPLE, silhouette
from microsnoop_integrations.joint.modality_share import ModalityShare, modality_share, modality_weight
from microsnoop_integrations.joint.neighbourhoods import (
    NeighbourhoodAgreement,
    PairingTest,
    neighbourhood_agreement,
    pairing_test,
)
from microsnoop_integrations.joint.resampling import (
    draw_means,
    draw_tables,
    group_codes,
    percentile_interval,
)

__all__ = [
    "LabelAgreement",
    "ModalityShare",
    "NeighbourhoodAgreement",
    "PairingTest",
    "Separation",
    "Stability",
    "label_agreement",
    "modality_share",
    "modality_weight",
    "neighbourhood_agreement",
    "pairing_test",
    "separation",
    "stability",
]

DRAWS = 1_000


@dataclass(frozen=True)
class LabelAgreement:
    """How far two labellings of the same ``n`` cells agree: adjusted Rand index and normalised mutual information."""

    ari: float
    nmi: float
    ari_interval: Interval
    nmi_interval: Interval
    n: int


@dataclass(frozen=True)
class Separation:
    """Mean silhouette with its interval; NaN (missing, not 0) where fewer than two clusters were compared.

    ``n`` cells of the sample hold ``n_clusters`` labels, of which ``n_single`` have one cell, which contributes 0.
    """

    mean: float
    interval: Interval
    n: int
    n_clusters: int
    n_single: int


@dataclass(frozen=True)
class Stability:
    """Adjusted Rand index between all pairs of ``n_runs`` runs: mean and range; NaN for fewer than two runs."""

    mean: float
    low: float
    high: float
    n_runs: int


def label_agreement(
    truth: NDArray[Any],
    labels: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> LabelAgreement:
    """Compare clusters with known labels, or any two labellings.

    Parameters
    ----------
    truth, labels
        (n,) each, numbers or strings. Cells without a label are left out before.
    groups
        (n,) names of groups, whole groups being resampled. Default: cells are resampled.

    Raises
    ------
    ValueError
        Shapes that do not fit, no cells, ``draws`` below 1.
    """
    n = len(truth)
    if truth.shape != (n,) or labels.shape != (n,) or n == 0:
        raise ValueError(f"both labellings must be (n,), n above 0, got {truth.shape} and {labels.shape}")
    unit = group_codes(groups, n)
    first = np.unique(truth, return_inverse=True)[1]
    second = np.unique(labels, return_inverse=True)[1]
    # only pairs of labels that occur: at most n, however many labels there are
    pairs, outcome = np.unique(first * (second.max() + 1) + second, return_inverse=True)
    of_first, of_second = np.divmod(pairs, second.max() + 1)
    tables = draw_tables(outcome, unit, draws=draws, rng=np.random.default_rng(seed))
    ari, nmi = np.concatenate([_scores(table, of_first, of_second) for table in tables], axis=1)
    return LabelAgreement(
        float(adjusted_rand_score(first, second)),
        float(normalized_mutual_info_score(first, second)),
        percentile_interval(ari, unit),
        percentile_interval(nmi, unit),
        n,
    )


def separation(
    latent: NDArray[Any],
    labels: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    sample: int | None = SAMPLE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Separation:
    """Return the mean silhouette of ``labels`` (given ones, or a method's own clusters) in ``latent``, Euclidean.

    The interval resamples the silhouettes of cells, which are not computed again for each draw.

    Parameters
    ----------
    latent
        (n, d), finite.
    labels
        (n,), numbers or strings. Cells without a label are left out before.
    groups
        As for ``label_agreement``.
    sample
        At most so many cells, drawn at random, are compared with each other; None for all.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, ``draws`` below 1.
    """
    unit = group_codes(groups, len(latent))
    rng = np.random.default_rng(seed)
    found = silhouette(latent, labels, sample=sample, rng=rng)
    if unit is not None:
        unit = group_codes(unit[found.rows], found.n)
    drawn = np.empty(0)
    if not np.isnan(found.mean):
        drawn = draw_means(found.values, unit, draws=draws, rng=rng)
    interval = percentile_interval(drawn, unit)
    return Separation(found.mean, interval, found.n, found.n_clusters, found.n_single)


def stability(runs: Sequence[NDArray[Any]]) -> Stability:
    """Compare the labels (n,) that runs with other seeds gave to the same cells, each run with each other.

    Raises
    ------
    ValueError
        Runs of different length.
    """
    if len({run.shape for run in runs}) > 1:
        raise ValueError(f"runs must label the same cells, got shapes {[run.shape for run in runs]}")
    if len(runs) < 2:
        return Stability(np.nan, np.nan, np.nan, len(runs))
    pairs = [float(adjusted_rand_score(a, b)) for a, b in combinations(runs, 2)]
    return Stability(float(np.mean(pairs)), min(pairs), max(pairs), len(runs))


def _scores(
    tables: NDArray[np.int64], of_first: NDArray[np.int64], of_second: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return ARI and NMI (arithmetic mean of entropies) of many contingency tables at once, (2, tables).

    ``tables`` (B, cells) counts cells of a table; ``of_first`` and ``of_second`` (cells,) say in which row and column
    of the table each lies.
    """
    joint = tables.astype(np.float64)
    rows = joint @ np.eye(int(of_first.max()) + 1)[of_first]
    columns = joint @ np.eye(int(of_second.max()) + 1)[of_second]
    n = joint.sum(axis=1)
    same, in_rows, in_columns = ((part * (part - 1)).sum(axis=1) / 2 for part in (joint, rows, columns))
    expected = in_rows * in_columns / np.maximum(n * (n - 1) / 2, 1)
    most = (in_rows + in_columns) / 2
    ari = _ratio(same - expected, most - expected)
    h_joint, h_rows, h_columns = (
        -xlogy(part / n[:, None], part / n[:, None]).sum(axis=1) for part in (joint, rows, columns)
    )
    nmi = _ratio(h_rows + h_columns - h_joint, (h_rows + h_columns) / 2)
    return np.stack([ari, nmi.clip(min=0)])


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide; 1 where there is nothing to divide by: both labellings are trivial, and the same."""
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)
