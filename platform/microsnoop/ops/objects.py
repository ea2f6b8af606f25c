"""Objects of a label mask, found in one pass over its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from microsnoop.ops.geometry import Box


def boxes_from_mask(mask: NDArray[Any]) -> dict[int, Box]:
    """Return the bounding box of every object of a label mask.

    Parameters
    ----------
    mask
        (H, W), integer, 0 = background, one positive number per object; numbers need not be consecutive.

    Returns
    -------
    Label to box (all pixels of the object; the published code loses the last row and column), by label.

    Raises
    ------
    ValueError
        Not two-dimensional, not integer, or negative labels.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "ui":
        raise ValueError(f"a label mask must be (H, W) and integer, got {mask.shape} {mask.dtype}")
    if mask.dtype.kind == "i" and mask.size and mask.min() < 0:
        raise ValueError(f"a label mask must not hold negative labels, got {mask.min()}")
    if mask.size == 0:
        return {}
    # numbered anew from 1: scipy keeps a list as long as the largest label
    labels, inverse = np.unique(mask, return_inverse=True)
    first = int(labels[0] != 0)
    found = ndimage.find_objects(inverse.reshape(mask.shape) + first)
    return {
        int(label): Box(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)
        for label, (rows, cols) in zip(labels[1 - first :], found, strict=True)
    }
