"""Perceptual hashes: do two planes show the same picture? The leakage gate, Microsnoop spec, section 1.

A hash survives rescaling, compression and a change of contrast; it does not survive cropping or rotation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from skimage.transform import resize

THUMB_PX = 32
HASH_PX = 8
HIT_BITS = 4
_MIN_SD = 2.0  # grey values of 255: a flatter thumbnail has no picture, only noise
_BLOCK_BYTES = 32 * 2**20


def thumbnail(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """Shrink a plane (H, W) to (32, 32) uint8 with a low-pass, its range stretched to 0..255.

    A constant plane becomes zeros.
    """
    small = resize(
        plane.astype(np.float64), (THUMB_PX, THUMB_PX), order=1, mode="reflect", anti_aliasing=True,
        preserve_range=True,
    )  # fmt: skip
    low, high = small.min(), small.max()
    spread = max(float(plane.max()) - float(plane.min()), 0.0)
    if spread == 0 or high - low < 1e-3 * spread:  # texture without any large structure
        return np.zeros((THUMB_PX, THUMB_PX), np.uint8)
    return np.asarray(np.round((small - low) / (high - low) * 255), np.uint8)


def dct_hash(thumb: NDArray[np.uint8]) -> int | None:
    """Return 64 bits: which of the lowest 8 × 8 cosine terms exceed their median; None where nothing is to see.

    Parameters
    ----------
    thumb
        (32, 32), from :func:`thumbnail`.

    Returns
    -------
    The hash, or None for a constant or nearly constant thumbnail, whose bits would be noise.
    """
    values = thumb.astype(np.float64)
    if values.std() < _MIN_SD:
        return None
    low = dctn(values, norm="ortho")[:HASH_PX, :HASH_PX].reshape(-1)
    bits = low > np.median(low[1:])  # the first term is the mean brightness: it must not shift the median
    return int(np.packbits(bits).view(">u8")[0])


def close_pairs(
    a: NDArray[np.uint64], b: NDArray[np.uint64], *, max_bits: int = HIT_BITS
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs whose hashes differ in at most ``max_bits`` bits: rows of a, rows of b, bits.

    Exact, in blocks: every hash of a (Q,) against every one of b (N,).
    """
    step = max(1, _BLOCK_BYTES // max(1, 8 * len(b)))
    found: list[tuple[NDArray[Any], ...]] = []
    for start in range(0, len(a), step):
        bits = np.bitwise_count(a[start : start + step, None] ^ b[None, :])
        rows, columns = np.nonzero(bits <= max_bits)
        found.append((rows + start, columns, bits[rows, columns].astype(np.int64)))
    empty = np.empty(0, np.int64)
    if not found:
        return empty, empty, empty
    rows_a, rows_b, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows_a, rows_b, distance


def similarity(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the correlation of two thumbnails: near 1 for the same picture, lower for a chance hit."""
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])
