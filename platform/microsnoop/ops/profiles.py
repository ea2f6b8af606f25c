"""From vectors of channels and samples to one profile: fusion and aggregation, counts kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _mean_of_present(vectors: NDArray[Any]) -> NDArray[Any]:
    missing = np.isnan(vectors)
    if not missing.any():
        return np.asarray(vectors.mean(axis=1))
    sums = np.where(missing, 0, vectors).sum(axis=1)
    counts = (~missing).sum(axis=1)
    return np.asarray(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))


FUSIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "concat": lambda x: x.reshape(len(x), x.shape[1] * x.shape[2]),
    "mean": _mean_of_present,
    "chans": lambda x: x.sum(axis=2),
}


def fuse_channels(vectors: NDArray[np.float32], *, how: str = "concat") -> NDArray[np.float32]:
    """Make one row of each sample's channel vectors.

    Parameters
    ----------
    vectors
        (N, C, D), channels in the order of the run; a channel that a sample does not have is NaN.
    how
        ``concat`` -> (N, C·D), not normalised again (the paper's best of five); ``mean`` -> (N, D) over
        channels; ``chans`` -> (N, C), sum over features. Source: Microsnoop spec, section 7. A missing channel
        stays NaN in ``concat`` and ``chans``; ``mean`` is over the channels there are, NaN where there are none.
    """
    if vectors.ndim != 3:
        raise ValueError(f"vectors must be (N, C, D), got shape {vectors.shape}")
    if how not in FUSIONS:
        raise ValueError(f"unknown fusion {how!r}; choose one of {', '.join(FUSIONS)}")
    return np.ascontiguousarray(FUSIONS[how](vectors), np.float32)


def feature_names(channels: Sequence[str], dim: int, *, how: str = "concat") -> list[tuple[str, str, int]]:
    """Return (name, channel, dimension) of every column that :func:`fuse_channels` makes."""
    if how == "concat":
        return [(f"{channel}:{j:03d}", channel, j) for channel in channels for j in range(dim)]
    if how == "mean":
        return [(f"mean:{j:03d}", "mean", j) for j in range(dim)]
    if how == "chans":
        return [(f"{channel}:sum", channel, -1) for channel in channels]
    raise ValueError(f"unknown fusion {how!r}; choose one of {', '.join(FUSIONS)}")


class GroupMean:
    """Mean of vectors per group, fed block by block: sums in float64, a count for each group.

    Groups are integers 0..n_groups-1. A group that never got a row has count 0 and no mean: asking for it
    raises, it never becomes a zero vector. An entry that is NaN is missing (a channel that a row does not have):
    each entry counts only the rows that have it, and is NaN where none has.
    """

    def __init__(self, n_groups: int, width: int) -> None:
        self._sums = np.zeros((n_groups, width), np.float64)
        self._missing: NDArray[np.int32] | None = None  # how many rows lack an entry; made when one does
        self.counts = np.zeros(n_groups, np.int64)

    def add(self, groups: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add rows (n, width), each to its group (n,).

        Raises
        ------
        ValueError
            Shapes that do not fit, or a group that does not exist.
        """
        if vectors.shape != (len(groups), self._sums.shape[1]):
            raise ValueError(f"vectors must be {(len(groups), self._sums.shape[1])}, got {vectors.shape}")
        if len(groups) and not 0 <= groups.min() <= groups.max() < len(self.counts):
            raise ValueError(
                f"groups must lie in 0..{len(self.counts) - 1}, got {groups.min()}..{groups.max()}"
            )
        missing = np.isnan(vectors)
        if missing.any():
            if self._missing is None:
                self._missing = np.zeros(self._sums.shape, np.int32)
            np.add.at(self._missing, groups, missing)
            vectors = np.where(missing, np.float32(0), vectors)
        np.add.at(self._sums, groups, vectors)
        np.add.at(self.counts, groups, 1)

    def means(self, groups: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.float32]:
        """Return the means of ``groups``, float32, not normalised again."""
        counts, sums = self.counts[groups][:, None], self._sums[groups]
        if (counts == 0).any():
            raise ValueError("a group without rows has no mean")
        if self._missing is not None:
            counts = counts - self._missing[groups]
        return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0).astype(np.float32)
