"""The built-in segmenter: foreground by threshold, touching objects apart by the watershed of distances.

No network and no weights, made for objects that stand out from their background: stained nuclei, blood
cells. Sources: Otsu 1979; Meyer 1994 (watershed from markers, ``skimage.segmentation.watershed``).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.segmentation import watershed

from microsnoop.ops.background import masked_mean
from microsnoop.ops.foreground import Found, Mask, Plane, ThresholdSettings, find_foreground

__all__ = ["ThresholdSettings", "foreground", "segment_threshold"]

Labels = NDArray[np.int32]

_MIN_AREA = 0.12  # of a disc of the typical diameter
_MIN_HEIGHT = 0.5  # of the typical object's
_PEAK_DISTANCE = 0.3  # diameters, as the next
_DEPTH_SMOOTH = 0.1  # a ragged outline must not make peaks
_NECK = 0.95  # parts joined by a neck this wide, compared with the thinner part, are one object


def segment_threshold(plane: NDArray[Any], settings: ThresholdSettings) -> Labels:
    """Label the objects of one plane.

    Parameters
    ----------
    plane
        (H, W), any real dtype, finite. Not changed. Only contrast counts: ``a * plane + b`` with a > 0 gives
        the same mask (integers: to the last pixel; floats: up to rounding).

    Returns
    -------
    int32 (H, W): 0 background, objects 1..n from top to bottom. All 0 where the plane is constant or where
    nothing rises above the noise.

    Raises
    ------
    ValueError
        Not (H, W), empty, complex, or not finite.
    """
    found = find_foreground(plane, settings)
    if found is None or not found.mask.any():
        return np.zeros(plane.shape, np.int32)
    labels = _split(found.mask, found.diameter_px) if settings.split else _pieces(found.mask)
    return _keep_real(labels, found, min_contrast=settings.min_contrast)


def foreground(plane: NDArray[Any], settings: ThresholdSettings) -> Mask:
    """Return which pixels of a plane (H, W) belong to objects, not telling them apart; bool (H, W).

    The same pixels as in the mask of :func:`segment_threshold` with ``split=False``; errors as there.
    """
    whole: Mask = segment_threshold(plane, replace(settings, split=False)) > 0
    return whole


def _pieces(mask: Mask) -> Labels:
    labels: Labels = ndimage.label(mask, output=np.int32)[0]
    return labels


def _split(mask: Mask, diameter_px: float) -> Labels:
    """Flood the foreground from the middles of its parts; every connected piece keeps at least one label."""
    depth = ndimage.distance_transform_edt(mask).astype(np.float32)
    depth = ndimage.gaussian_filter(depth, max(0.5, _DEPTH_SMOOTH * diameter_px), mode="nearest")
    reach = 2 * max(1, round(_PEAK_DISTANCE * diameter_px)) + 1
    peaks = mask & (ndimage.maximum_filter(depth, reach) == depth)
    pieces, count = ndimage.label(mask)
    has_peak = np.zeros(count + 1, bool)
    has_peak[pieces[peaks]] = True
    # a small piece beside a large one has no peak of its own within reach: it is its own marker
    markers = ndimage.label(peaks | (mask & ~has_peak[pieces]), np.ones((3, 3), int), output=np.int32)[0]
    parts: Labels = watershed(-depth, markers, mask=mask).astype(np.int32)
    return _join_wide_necks(parts, depth)


def _join_wide_necks(parts: Labels, depth: Plane) -> Labels:
    """Join neighbouring parts whose neck is nearly as wide as the thinner of them: one long object."""
    n = int(parts.max()) + 1
    pairs, necks = [], []
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        touch = (parts[a] != parts[b]) & (parts[a] > 0) & (parts[b] > 0)
        one, other = parts[a][touch].astype(np.int64), parts[b][touch].astype(np.int64)
        pairs.append(np.minimum(one, other) * n + np.maximum(one, other))
        necks.append(np.minimum(depth[a][touch], depth[b][touch]))
    pair, index = np.unique(np.concatenate(pairs), return_inverse=True)
    neck = np.zeros(len(pair), np.float32)
    np.maximum.at(neck, index, np.concatenate(necks))
    one, other = np.divmod(pair, n)
    middle = np.zeros(n, np.float32)
    np.maximum.at(middle, parts.reshape(-1), depth.reshape(-1))
    join = neck > _NECK * np.minimum(middle[one], middle[other])
    links = coo_array((np.ones(int(join.sum())), (one[join], other[join])), shape=(n, n))
    joined: Labels = connected_components(links, directed=False)[1].astype(np.int32)[parts]
    return joined


def _keep_real(labels: Labels, found: Found, *, min_contrast: float) -> Labels:
    """Drop specks and what hardly rises above its surroundings, and number the rest from the top.

    Pieces of noise rise above their surroundings by 3 times the spread of the background, whatever the noise,
    a rare one by 9; objects by 5 to 100. The typical piece tells what the picture holds: if it is noise,
    only what is unmistakable stays.
    """
    height = found.smooth - masked_mean(found.smooth, ~found.mask, 0.5 * found.diameter_px)
    area = np.bincount(labels.reshape(-1))
    rise = np.bincount(labels.reshape(-1), height.reshape(-1)) / np.maximum(area, 1)
    real = area >= max(5.0, _MIN_AREA * math.pi / 4 * found.diameter_px**2)
    real[0] = False
    if not real.any():
        return np.zeros(labels.shape, np.int32)
    certain = min_contrast * _spread(height[~found.mask])
    typical = float(np.median(rise[real]))
    lowest = 3 * certain
    if typical > certain:
        lowest = _MIN_HEIGHT * float(np.median(rise[real & (rise > certain)]))
    real &= rise > lowest
    return _number_from_top(np.where(real[labels], labels, 0))


def _spread(values: Plane) -> float:
    """Standard deviation without the tails, which hold dim objects; robust ones fail on counts, mostly 0."""
    if not values.size:
        return 0.0
    low, high = np.percentile(values, (1, 99))
    return float(np.std(values[(values >= low) & (values <= high)], dtype=np.float64))


def _number_from_top(labels: NDArray[np.int32]) -> Labels:
    old, first = np.unique(labels, return_index=True)
    old, first = old[old > 0], first[old > 0]
    new = np.zeros(int(labels.max()) + 1, np.int32)
    new[old[np.argsort(first)]] = np.arange(1, len(old) + 1)
    numbered: Labels = new[labels]
    return numbered
