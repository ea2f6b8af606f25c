"""From vectors of channels and samples to one profile: fusion and aggregation, counts kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FUSIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "concat": lambda x: x.reshape(len(x), x.shape[1] * x.shape[2]),
    "mean": lambda x: x.mean(axis=1),
    "chans": lambda x: x.sum(axis=2),
}


def fuse_channels(vectors: NDArray[np.float32], *, how: str = "concat") -> NDArray[np.float32]:
    """Make one row of each sample's channel vectors.

    Parameters
    ----------
    vectors
        (N, C, D), channels in the order of the run.
    how
        ``concat`` -> (N, C·D), not normalised again (the paper's best of five); ``mean`` -> (N, D) over
        channels; ``chans`` -> (N, C), sum over features. Source: Microsnoop spec, section 7.
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
    raises, it never becomes a zero vector.
    """

    def __init__(self, n_groups: int, width: int) -> None:
        self._sums = np.zeros((n_groups, width), np.float64)
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
        np.add.at(self._sums, groups, vectors)
        np.add.at(self.counts, groups, 1)

    def means(self, groups: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.float32]:
        """Return the means of ``groups``, float32, not normalised again."""
        counts = self.counts[groups]
        if (counts == 0).any():
            raise ValueError("a group without rows has no mean")
        return (self._sums[groups] / counts[:, None]).astype(np.float32)
