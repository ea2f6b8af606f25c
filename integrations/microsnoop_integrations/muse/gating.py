"""What the labels of each modality are worth, and what is said of those that are worth little."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.muse_config import MuseParameters
from microsnoop.correction.base import Finding
from microsnoop_integrations.muse.replicability import NOTHING, gates, replicability

_WEAK = 0.2


def weigh(
    names: Sequence[str], scores: Sequence[NDArray[np.float32]], p: MuseParameters
) -> tuple[dict[str, float], dict[str, float], list[Finding]]:
    """Return how replicable the clusters of each modality (n, d) are, the weight of its labels, and findings."""
    found = [
        replicability(s, k=p.k, resolution=p.resolution, method=p.clustering, seed=p.seed) for s in scores
    ]
    done = "they hardly count" if p.gate != "none" else "gate: replicability would keep them from counting"
    findings = [
        Finding(
            "weak_modality",
            f"clusters of {name} are hardly found again in other cells ({value:.2f} of 1, where noise gives "
            f"0.0): {done if max(found) >= NOTHING else 'and so it is with every modality'}",
            strong=True,
        )
        for name, value in zip(names, found, strict=True)
        if value < _WEAK * max(found) or value < NOTHING
    ]
    weights = gates(found) if p.gate == "replicability" else [1.0] * len(found)
    return dict(zip(names, found, strict=True)), dict(zip(names, weights, strict=True)), findings
