"""Genes looked up in image space: where a group's cells stand, and which genes follow the images.

Moran's I (Moran 1950), with the variance under randomisation of Cliff and Ord (1981), on the graph of image
neighbours instead of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import norm

from microsnoop.core.errors import JointError
from microsnoop.ops.false_discovery import adjust
from microsnoop_integrations.graph_clusters import neighbour_graph

K = 15
PERMUTATIONS = 200
_BLOCK = 2**22  # numbers of one block of genes: 32 MB
_DIGITS = 12  # statistics that agree to so many digits are equal


@dataclass(frozen=True)
class GroupNeighbours:
    """Image neighbours of a group of g cells.

    ``index`` (g, k) int64: the neighbours of each cell of the group, nearest first. ``share``: how many of them are
    of the group themselves; ``expected``: how many would be by chance; ``ratio`` of the two; ``p_value`` of groups
    drawn at random having a share as large.
    """

    index: NDArray[np.int64]
    share: float
    expected: float
    ratio: float
    p_value: float


def image_neighbours_of_group(
    latent: NDArray[Any],
    group: NDArray[np.bool_],
    *,
    k: int = K,
    permutations: int = PERMUTATIONS,
    rng: np.random.Generator | None = None,
) -> GroupNeighbours:
    """Look up who is near the cells of a group in image space, and whether they keep to themselves there.

    Parameters
    ----------
    latent
        (n, d) coordinates of the images.
    group
        (n,) bool: for example the cells with a gene's expression in the top decile.
    k
        Neighbours a cell (Euclidean, without itself).
    permutations
        Random groups of the same size to compare with.
    rng
        Draws them; default seeded with 0.

    Raises
    ------
    JointError
        ``too_few_cells``: k is not below n.
    ValueError
        A group of fewer than two cells, or of all.
    """
    group = np.asarray(group, bool)
    n, size = len(latent), int(group.sum())
    if group.shape != (n,) or not 2 <= size < n:
        raise ValueError(
            f"a group needs at least two of the {n} cells, and not all: got {size} of {group.shape}"
        )
    rng = rng or np.random.default_rng(0)
    found = neighbour_graph(latent, k=k).neighbours

    def share(members: NDArray[np.bool_]) -> float:
        return float(members[found[members]].mean())

    observed = share(group)
    drawn = np.array([share(rng.permutation(group)) for _ in range(permutations)])
    expected = (size - 1) / (n - 1)
    return GroupNeighbours(
        found[group], observed, expected, observed / expected, _p_value(drawn, observed, permutations)
    )


def genes_in_image_space(
    expression: Any,
    latent: NDArray[Any],
    genes: Sequence[str],
    *,
    k: int = K,
    permutations: int = PERMUTATIONS,
    rng: np.random.Generator | None = None,
) -> pd.DataFrame:
    """Find genes whose expression follows image neighbourhoods: Moran's I on the graph of image neighbours.

    Parameters
    ----------
    expression
        (n, p) log-normalised, dense or CSR. Not changed; made dense some genes at a time.
    latent
        (n, d) coordinates of the images.
    genes
        Names of the p columns.
    k
        Neighbours a cell (Euclidean, without itself), each with the weight 1 / k.
    permutations
        Of cells, the same for all genes, to compare with; time is theirs times n k p. 0: p from the normal
        approximation under randomisation, for many cells.
    rng
        Draws them; default seeded with 0.

    Returns
    -------
    One row a gene, largest ``morans_i`` first: ``gene``, ``morans_i`` (0 is chance, 1 the most), ``p_value`` (one
    sided: neighbours are alike), ``q_value`` (Benjamini and Hochberg). A gene that is the same in all cells is NaN.

    Raises
    ------
    JointError
        ``too_few_cells``: k is not below n, or n is below 4.
    ValueError
        Shapes that do not agree.
    """
    n, p = expression.shape
    if len(latent) != n or len(genes) != p:
        raise ValueError(
            f"expression is {expression.shape}, but there are {len(latent)} images and {len(genes)} genes"
        )
    if n < 4:
        raise JointError("too_few_cells", f"{n} cells have no neighbourhoods to compare")
    found = neighbour_graph(latent, k=k).neighbours
    weights = sparse.csr_matrix(
        (np.full(found.size, 1 / k), found.ravel(), np.arange(0, found.size + 1, k)), shape=(n, n)
    )
    seeds = (rng or np.random.default_rng(0)).integers(2**63, size=permutations)
    columns = expression.tocsc() if sparse.issparse(expression) else expression
    statistic, p_values = np.full(p, np.nan), np.full(p, np.nan)
    step = max(1, _BLOCK // n)
    for start in range(0, p, step):
        block = slice(start, min(start + step, p))
        dense = columns[:, block]
        z = _dense(dense)
        varying = z.max(axis=0) > z.min(axis=0)
        z = z[:, varying] - z[:, varying].mean(axis=0)
        at = np.arange(start, block.stop)[varying]
        statistic[at] = _morans_i(weights, z)
        p_values[at] = (
            _permuted(weights, z, statistic[at], seeds)
            if permutations
            else _normal(weights, z, statistic[at])
        )
    frame = pd.DataFrame(
        {"gene": list(genes), "morans_i": statistic, "p_value": p_values, "q_value": adjust(p_values)}
    )
    return frame.iloc[np.argsort(-statistic, kind="stable")].reset_index(drop=True)


def _morans_i(weights: Any, z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Moran's I of centred columns z (n, b), none constant; every row of the weights sums to 1."""
    return np.asarray(np.einsum("nb,nb->b", z, weights @ z) / np.einsum("nb,nb->b", z, z))


def _dense(values: Any) -> NDArray[np.float64]:
    return np.asarray(values.toarray() if sparse.issparse(values) else values, np.float64)


def _permuted(
    weights: Any, z: NDArray[np.float64], observed: NDArray[np.float64], seeds: NDArray[np.int64]
) -> NDArray[np.float64]:
    as_large = np.zeros(z.shape[1], np.int64)
    for seed in seeds:
        drawn = _morans_i(weights, z[np.random.default_rng(seed).permutation(len(z))])
        as_large += drawn >= observed - 10.0**-_DIGITS
    return (1 + as_large) / (1 + len(seeds))


def _normal(weights: Any, z: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p under randomisation (Cliff and Ord 1981); S0 is n because every row sums to 1."""
    n = len(z)
    s1 = float((weights + weights.T).power(2).sum()) / 2
    s2 = float(np.square(1 + np.asarray(weights.sum(axis=0)).ravel()).sum())
    kurtosis = n * (z**4).sum(axis=0) / np.square((z**2).sum(axis=0))
    whole = n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * n**2)
    tailed = (n**2 - n) * s1 - 2 * n * s2 + 6 * n**2
    second = (whole - kurtosis * tailed) / ((n - 1) * (n - 2) * (n - 3) * n**2)
    expected = -1 / (n - 1)
    return np.asarray(norm.sf((observed - expected) / np.sqrt(second - expected**2)))


def _p_value(drawn: NDArray[np.float64], observed: float, permutations: int) -> float:
    return (1 + int((drawn >= observed - 10.0**-_DIGITS).sum())) / (1 + permutations)
