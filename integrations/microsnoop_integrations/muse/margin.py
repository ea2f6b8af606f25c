"""The margin of the triplets: how far apart cells of the untrained-for-clusters latent are.

Source: multimodal spec, section 4, step 2: median of the largest fifth of distances minus that of the smallest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist

_SHARE = 0.2


def margin(latent: NDArray[np.float32], *, sample: int | None, rng: np.random.Generator) -> float:
    """Return the margin from the distances of at most ``sample`` random cells (None: all pairs).

    ``latent`` is (n, Z). 0 where all distances are equal; memory grows with the square of ``sample``, not of n.
    """
    if sample is not None and len(latent) > sample:
        latent = latent[rng.choice(len(latent), sample, replace=False)]
    return spread(pdist(latent.astype(np.float64)))


def spread(distances: NDArray[np.float64]) -> float:
    """Return median(top 20 %) - median(bottom 20 %) of some distances, each at least one of them."""
    if distances.size == 0:
        return 0.0
    ordered = np.sort(distances)
    count = max(1, int(_SHARE * ordered.size))
    return max(0.0, float(np.median(ordered[-count:]) - np.median(ordered[:count])))
