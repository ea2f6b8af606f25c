"""What every joint method gives: coordinates of the cells, their clusters, and how it came to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class Representation:
    """Cells as one method sees them.

    Attributes
    ----------
    name
        Of the method, as tables show it.
    latent
        (n, d) float32: coordinates.
    labels
        (n,) int64: clusters at the default resolution, numbered by falling size.
    weight_rna
        (n,) float32 in [0, 1]: share of the transcripts in a cell's coordinates; None where the method has none.
    seconds
        Time that fitting took.
    notes
        Sentences that a reader of the result must know.
    info
        Parameters and figures of the method, ready for JSON.
    graph
        (n, n) sparse weights between neighbours, where the method is a graph rather than coordinates (WNN).
    """

    name: str
    latent: NDArray[np.float32]
    labels: NDArray[np.int64]
    weight_rna: NDArray[np.float32] | None = None
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    graph: csr_matrix | None = None
