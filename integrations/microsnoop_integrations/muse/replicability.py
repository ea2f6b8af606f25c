"""How well the clusters of a modality are found again in other cells: what its labels are worth.

Half of the cells are clustered, and so is the other half; each half's labels are then carried over to the other by
a vote of nearest neighbours and compared with what was found there. Noise of 50 dimensions gives about 0, separate
clusters 1. A cloud of few dimensions is cut at similar places in both halves (0.3 in three dimensions), and rightly so:
a gradient has no clusters, yet cells at its ends differ. So this tells noise from anything that is reproducible, be it
wanted or not. No label from outside is looked at. After Tibshirani and Walther 2005 (prediction strength); ours, not
part of the published MUSE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from microsnoop_integrations.graph_clusters import Method, cluster

REPEATS = 2
SAMPLE = 4_000
_VOTERS = 15
NOTHING = 0.05  # what comes by chance: noise of 50 dimensions was measured to give 0.00 to 0.03


def replicability(
    scores: NDArray[np.float32],
    *,
    k: int = 30,
    resolution: float = 1.0,
    method: Method = "leiden",
    seed: int = 0,
    repeats: int = REPEATS,
) -> float:
    """Return the mean adjusted Rand index of clusters carried over between halves of the cells, both ways.

    Parameters
    ----------
    scores
        (n, d): coordinates whose Euclidean neighbourhoods are clustered. At most 4,000 random cells are looked at.
    k, resolution, method, seed
        Of the clusters; ``k`` is capped at a third of a half.
    repeats
        How often cells are halved anew.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        chosen = rng.permutation(len(scores))[:SAMPLE]
        halves = [scores[half] for half in (chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :])]
        near = max(2, min(k, len(halves[0]) // 3))
        labels = [cluster(half, k=near, resolution=resolution, method=method, seed=seed) for half in halves]
        for here, there in ((0, 1), (1, 0)):
            voters = KNeighborsClassifier(min(_VOTERS, len(halves[here]))).fit(halves[here], labels[here])
            found.append(adjusted_rand_score(labels[there], voters.predict(halves[there])))
    return float(np.mean(found))


def gates(found: Sequence[float]) -> list[float]:
    """Return the weight of each modality's labels in [0, 1]: its replicability as a share of the best one's.

    Where nothing is replicable (all below 0.05), nothing tells the modalities apart: all weights are 1.
    """
    best = max(found)
    if best < NOTHING:
        return [1.0] * len(found)
    return [max(0.0, value) / best for value in found]
