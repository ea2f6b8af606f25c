"""Agreement of two label masks, object by object: who was found, who was missed, what is not there.

One pass over the pixels counts the overlap of every pair of objects; the rest works on that short list.
Source: Caicedo et al. 2019, Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl
(Nature Methods 16:1247), which counts an object as found when its intersection over union passes 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Counts:
    """Objects found (``tp``), found where there is none (``fp``) and missed (``fn``), of one or more fields.

    The three ratios are nan where they have no denominator: without any object in either mask there is
    nothing to score, and neither 0 nor 1 would be true.
    """

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float:
        """Share of the predicted objects that are true; nan without predictions."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the true objects that were found; nan without true objects."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, ``2 tp / (2 tp + fp + fn)``; nan where both are empty."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


@dataclass(frozen=True)
class Matching(Counts):
    """The counts of one field, and its matched pairs ordered by true label.

    ``pairs`` is int64 (tp, 2), true label and predicted label; ``ious`` is float64 (tp,), in (0, 1].
    """

    ious: NDArray[np.float64]
    pairs: NDArray[np.int64]


def match_objects(truth: NDArray[Any], predicted: NDArray[Any], iou: float = 0.5) -> Matching:
    """Match the objects of two masks one to one where their intersection over union is above ``iou``.

    Above 0.5 an object can have one partner only. Below, the assignment with the most pairs is taken, and
    of those the one with the largest sum of overlaps.

    Parameters
    ----------
    truth, predicted
        (H, W), integer, 0 = background; labels need not be consecutive. Not changed.
    iou
        In [0, 1); a pair must lie strictly above it.

    Raises
    ------
    ValueError
        Shapes differ, not integer, negative labels, or ``iou`` out of range.
    """
    if not 0 <= iou < 1:
        raise ValueError(f"iou must lie in [0, 1), got {iou}")
    if truth.shape != predicted.shape or truth.ndim != 2:
        raise ValueError(f"both masks must be (H, W) and equal, got {truth.shape} and {predicted.shape}")
    true_labels, true_index, true_area = _number(truth)
    found_labels, found_index, found_area = _number(predicted)
    rows, cols, shared = _overlaps(true_index, found_index, len(found_labels))
    overlap = shared / (true_area[rows] + found_area[cols] - shared)
    hit = overlap > iou
    rows, cols, overlap = rows[hit], cols[hit], overlap[hit]
    if iou < 0.5:
        keep = _assign(rows, cols, overlap)
        rows, cols, overlap = rows[keep], cols[keep], overlap[keep]
    pairs = np.stack([true_labels[rows], found_labels[cols]], axis=1).astype(np.int64)
    tp = len(rows)
    # label 0 holds the first place of both lists
    return Matching(tp, len(found_labels) - 1 - tp, len(true_labels) - 1 - tp, overlap, pairs)


def pool(fields: Iterable[Counts]) -> Counts:
    """Add up the counts of several fields, so that every object weighs the same, not every field."""
    counts = [(field.tp, field.fp, field.fn) for field in fields]
    tp, fp, fn = (int(total) for total in np.sum(counts, axis=0, dtype=int)) if counts else (0, 0, 0)
    return Counts(tp, fp, fn)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _number(mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """Return labels (background first, present or not), the place of each pixel's label, and areas."""
    if mask.dtype.kind not in "ui":
        raise ValueError(f"a label mask must be integer, got {mask.dtype}")
    if mask.dtype.kind == "i" and mask.size and mask.min() < 0:
        raise ValueError(f"a label mask must not hold negative labels, got {mask.min()}")
    labels, index = np.unique(mask.reshape(-1), return_inverse=True)
    if not len(labels) or labels[0] != 0:
        labels, index = np.concatenate([np.zeros(1, labels.dtype), labels]), index + 1
    return labels, index, np.bincount(index, minlength=len(labels))


def _overlaps(
    true_index: NDArray[np.intp], found_index: NDArray[np.intp], n_found: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of objects that share pixels, by true label, and how many."""
    both = (true_index > 0) & (found_index > 0)
    pair, shared = np.unique(true_index[both] * n_found + found_index[both], return_counts=True)
    rows, cols = np.divmod(pair, n_found)
    return rows, cols, shared


def _assign(rows: NDArray[np.intp], cols: NDArray[np.intp], overlap: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return which pairs to keep so that no object is used twice, group by group of overlapping objects."""
    if not len(rows):
        return np.zeros(0, np.intp)
    n_rows = int(rows.max()) + 1
    n_nodes = n_rows + int(cols.max()) + 1
    links = coo_array((np.ones(len(rows)), (rows, cols + n_rows)), shape=(n_nodes, n_nodes))
    group = connected_components(links, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order])) + 1
    kept = [_assign_group(members, rows, cols, overlap) for members in np.split(order, edges)]
    return np.sort(np.concatenate(kept))


def _assign_group(
    members: NDArray[np.intp], rows: NDArray[np.intp], cols: NDArray[np.intp], overlap: NDArray[np.float64]
) -> NDArray[np.intp]:
    if len(members) == 1:
        return members
    _, row = np.unique(rows[members], return_inverse=True)
    _, col = np.unique(cols[members], return_inverse=True)
    shape = (int(row.max()) + 1, int(col.max()) + 1)
    gain, edge = np.zeros(shape), np.full(shape, -1, np.intp)
    # a pair is worth more than all overlaps together could be
    gain[row, col] = 1 + overlap[members] / (2 * min(shape))
    edge[row, col] = members
    chosen: NDArray[np.intp] = edge[linear_sum_assignment(gain, maximize=True)]
    return chosen[chosen >= 0]
