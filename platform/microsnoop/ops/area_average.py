"""Shrinking by area averaging: a new pixel is the mean of what it covers, partly covered pixels by their share."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse


def area_average(
    image: NDArray[Any],
    shape: tuple[int, int],
    *,
    pixel_px: tuple[float, float] | None = None,
    offset_px: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.float32]:
    """Average an image over the pixels of a coarser grid.

    Parameters
    ----------
    image
        (h, w, channels), real. Not changed.
    shape
        (H, W) of the result.
    pixel_px
        (y, x) side of a new pixel in pixels of the image; the last row and column may reach over it and are
        means of what there is. Default: the grid covers the image exactly.
    offset_px
        (y, x) where the first new pixel begins in the image.

    Returns
    -------
    float32 (H, W, channels).

    Raises
    ------
    ValueError
        Not (h, w, channels), empty, or new pixels that lie outside the image.
    """
    if image.ndim != 3 or not image.size:
        raise ValueError(f"an image must be (h, w, channels) and not empty, got shape {image.shape}")
    height, width, channels = image.shape
    y_px, x_px = (height / shape[0], width / shape[1]) if pixel_px is None else pixel_px
    rows = _weights(height, shape[0], y_px, offset_px[0])
    columns = _weights(width, shape[1], x_px, offset_px[1])
    # the first product shrinks the rows of all columns and channels at once
    shrunk = rows @ image.reshape(height, width * channels).astype(np.float32, copy=False)
    turned = shrunk.reshape(shape[0], width, channels).swapaxes(0, 1).reshape(width, -1)
    result = (columns @ turned).reshape(shape[1], shape[0], channels)
    return np.ascontiguousarray(result.swapaxes(0, 1), np.float32)


@lru_cache(maxsize=64)
def _weights(source_px: int, target_px: int, pixel_px: float, offset_px: float) -> Any:
    """Return a sparse (target, source) matrix: which share of each new pixel every old one makes up."""
    edges = np.minimum(offset_px + np.arange(target_px + 1) * pixel_px, source_px)
    if not pixel_px > 0 or offset_px < 0 or (edges[:-1] >= source_px).any():
        raise ValueError(f"{target_px} new pixels of {pixel_px:g} px do not fit into {source_px} px")
    first = np.floor(edges[:-1]).astype(np.int64)
    stop = np.maximum(first + 1, np.ceil(edges[1:] - 1e-9).astype(np.int64))
    counts = stop - first
    target = np.repeat(np.arange(target_px), counts)
    source = (
        np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    )
    share = np.minimum(edges[target + 1], source + 1) - np.maximum(edges[target], source)
    share = np.maximum(share, 0) / np.repeat(np.diff(edges), counts)
    return sparse.csr_array((share.astype(np.float32), (target, source)), shape=(target_px, source_px))
