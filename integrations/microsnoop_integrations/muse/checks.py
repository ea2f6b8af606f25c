"""What cells must be, to be learned from together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from microsnoop.core.errors import JointError
from microsnoop_integrations.muse.modality import Modality

MIN_CELLS = 64


def check_cells(x: Modality, n_images: int) -> None:
    """Refuse transcripts of other cells than the images, and cells without any (``empty_cell``)."""
    n = x.shape[0]
    if n != n_images:
        raise JointError(
            "row_count_mismatch",
            f"{n} cells have transcripts, {n_images} have images",
            hint="join them by id: microsnoop_integrations.joint.pair",
        )
    empty = np.flatnonzero(np.asarray(x.values.sum(axis=1)).ravel() == 0)
    if len(empty):
        raise JointError(
            "empty_cell",
            f"{len(empty)} cells have no transcript at all, the first is row {empty[0]}",
            hint="leave them out; microsnoop_integrations.joint.pair does, and lists them",
        )


def check_count(n: int, k: int) -> None:
    """Refuse fewer cells than a batch, or than a graph of k neighbours needs (``too_few_cells``)."""
    needed = max(MIN_CELLS, k + 2)
    if n < needed:
        raise JointError(
            "too_few_cells", f"{n} cells; at least {needed} are needed (64, and more than k + 1)"
        )


def names_of(given: Sequence[str] | None, count: int, kind: str) -> tuple[str, ...]:
    """Return the names of ``count`` cells, genes or features, numbered where there are none."""
    if given is None:
        return tuple(f"{kind}_{i}" for i in range(count))
    if len(given) != count:
        raise JointError("feature_mismatch", f"{count} {kind}s, but {len(given)} names")
    return tuple(map(str, given))
