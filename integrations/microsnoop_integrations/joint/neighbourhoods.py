"""Do cells keep their neighbours: those of each modality in the joint space, and of one modality in the other?

Source: multimodal spec, section 8, "neighbourhood agreement"; the permutation test of the pairing is ours. Both are
computed on a sample of cells, so that time and memory are bounded whatever the number of cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from microsnoop.ops.jaccard import count_shared, nearest_neighbours
from microsnoop_integrations.joint.resampling import group_codes

_SAMPLE = 5_000


@dataclass(frozen=True)
class NeighbourhoodAgreement:
    """Mean Jaccard index of the ``k`` nearest cells in the joint space and in each modality, over ``n`` cells.

    ``chance`` is about what neighbours drawn at random would reach.
    """

    rna: float
    image: float
    chance: float
    k: int
    n: int


@dataclass(frozen=True)
class PairingTest:
    """Do the pairs of the two modalities carry shared information? Shared neighbours against permuted pairs.

    Attributes
    ----------
    observed
        Mean share of a cell's ``k`` neighbours in one modality that are its neighbours in the other as well.
    expected
        The same with the cells of one modality permuted, mean of all permutations.
    ratio
        ``observed / expected``; NaN where expected is 0.
    z
        ``observed`` less ``expected`` in standard deviations of the permutations; NaN where these do not vary.
    p
        One-sided: (1 + permutations that reach ``observed``) / (1 + ``permutations``).
    k, n, permutations
        Neighbours, cells compared, and permutations.
    within_groups
        Cells were permuted within their groups only: what the groups share does not count.
    """

    observed: float
    expected: float
    ratio: float
    z: float
    p: float
    k: int
    n: int
    permutations: int
    within_groups: bool


def neighbourhood_agreement(
    latent: NDArray[Any],
    x: Any,
    y: Any,
    *,
    k: int = 30,
    sample: int | None = _SAMPLE,
    seed: int = 0,
) -> NeighbourhoodAgreement:
    """Compare neighbours in the joint space with those in the transcripts and in the image features (Euclidean).

    Parameters
    ----------
    latent, x, y
        (n, d), (n, p) and (n, q), finite; ``x`` and ``y`` may be sparse.
    k
        Capped at the number of cells compared less one.
    sample
        At most so many cells, drawn at random, are compared; None for all.

    Raises
    ------
    ValueError
        Different numbers of cells, fewer than two, values that are not finite, ``k`` or ``sample`` out of range.
    """
    rows = _sample_rows([latent, x, y], sample, np.random.default_rng(seed))
    n, k = len(rows), _cap(k, len(rows))
    joint = nearest_neighbours(_dense(latent, rows), k)
    found = []
    for part in (x, y):
        shared = count_shared(joint, nearest_neighbours(_dense(part, rows), k))
        found.append(float((shared / (2 * k - shared)).mean()))
    shared_by_chance = k * k / (n - 1)
    chance = shared_by_chance / (2 * k - shared_by_chance)
    return NeighbourhoodAgreement(rna=found[0], image=found[1], chance=chance, k=k, n=n)


def pairing_test(
    x: Any,
    y: Any,
    *,
    k: int = 30,
    permutations: int = 200,
    sample: int | None = _SAMPLE,
    groups: NDArray[Any] | None = None,
    rng: np.random.Generator | None = None,
) -> PairingTest:
    """Test whether cells that are near in one modality are near in the other more often than in permuted pairs.

    Parameters
    ----------
    x, y
        (n, p) and (n, q), finite, row i of both being one cell; sparse is allowed. Not changed.
    k
        Capped at the number of cells compared less one.
    permutations
        Of the cells of ``y``, at least 1.
    sample
        At most so many cells, drawn at random, are compared; None for all.
    groups
        (n,): permute within these only (fields of view, batches). Default: among all cells.
    rng
        Of sample and permutations; default: seed 0.

    Raises
    ------
    ValueError
        Different numbers of cells, fewer than two, values that are not finite, a parameter out of range.
    """
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    rng = np.random.default_rng(0) if rng is None else rng
    rows = _sample_rows([x, y], sample, rng)
    n, k = len(rows), _cap(k, len(rows))
    unit = group_codes(groups, x.shape[0])
    near_x, near_y = (nearest_neighbours(_dense(part, rows), k) for part in (x, y))
    observed = int(count_shared(near_x, near_y).sum())
    counts = np.empty(permutations, np.int64)
    for number in range(permutations):
        partner = _permute(n, None if unit is None else unit[rows], rng)
        # cell i gets the image of cell partner[i]: compare both lists in the numbers of the images
        counts[number] = count_shared(partner[near_x], near_y[partner]).sum()
    mean, spread = float(counts.mean()), float(counts.std(ddof=1)) if permutations > 1 else 0.0
    return PairingTest(
        observed=observed / (n * k),
        expected=mean / (n * k),
        ratio=observed / mean if mean > 0 else np.nan,
        z=(observed - mean) / spread if spread > 0 else np.nan,
        p=(1 + int((counts >= observed).sum())) / (1 + permutations),
        k=k,
        n=n,
        permutations=permutations,
        within_groups=unit is not None,
    )


def _sample_rows(parts: list[Any], sample: int | None, rng: np.random.Generator) -> NDArray[np.int64]:
    sizes = [part.shape[0] for part in parts]
    if len(set(sizes)) > 1:
        raise ValueError(f"all parts must hold the same cells, got {sizes}")
    if sizes[0] < 2 or (sample is not None and sample < 2):
        raise ValueError(f"at least two cells must be compared, got {sizes[0]} cells and sample = {sample}")
    if sample is None or sample >= sizes[0]:
        return np.arange(sizes[0])
    return np.sort(rng.choice(sizes[0], size=sample, replace=False))


def _cap(k: int, n: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return min(k, n - 1)


def _dense(part: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    chosen = part[rows]
    return np.asarray(chosen.toarray() if issparse(chosen) else chosen)


def _permute(n: int, unit: NDArray[np.int64] | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a permutation of 0..n-1, within the groups ``unit`` where they are given."""
    if unit is None:
        return rng.permutation(n)
    partner = np.empty(n, np.int64)
    # sorted by group alone, and by group in random order: row by row of one group
    partner[np.argsort(unit, kind="stable")] = np.lexsort((rng.random(n), unit))
    return partner
