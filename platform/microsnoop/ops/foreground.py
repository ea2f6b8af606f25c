"""Where the objects of a plane are: smoothing, background, threshold. Telling them apart is :mod:`.segment`.

Lengths are measured in typical object diameters and intensities only relative to each other, so neither the
magnification nor the units of the camera need to be known. Sources: Otsu 1979 (``skimage.filters``); Bradley
and Roth 2007 (means of the surroundings as a threshold).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from microsnoop.ops.background import background, bin_means, local_mean, pixel_noise

Polarity = Literal["auto", "bright", "dark"]
Threshold = Literal["auto", "global", "local"]
Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

SMALLEST_DIAMETER_PX = 4.0
# Chosen on fields of nuclei (DSB 2018) of 10 to 100 px and looked at on blood cells and counted ions.
_SMOOTH = 1 / 30  # diameters
_SURROUNDINGS = 0.6  # diameters
_FLOOR = 0.5  # of the step from background to the global threshold
_ABOVE_SURROUNDINGS = 0.15  # of the same step


@dataclass(frozen=True)
class ThresholdSettings:
    """How the built-in segmenter works; the defaults estimate what they can from the picture.

    ``polarity``: objects are brighter or darker than the background; ``auto`` takes the rarer of the two.
    ``threshold``: ``global`` is one Otsu threshold over the flattened background, ``local`` the mean of the
    surroundings, ``auto`` wants a pixel above that mean and above a share of the global threshold.
    ``diameter_px``: typical object diameter, at least 4; None estimates it. ``split``: cut touching objects
    apart. ``min_contrast``: how many times the spread of the background the typical object must rise above
    its surroundings; in a picture that does not reach it, only objects three times as high are kept, which
    leaves a field of noise empty. ``fill_holes``: fill holes that are smaller than an object.
    """

    polarity: Polarity = "auto"
    threshold: Threshold = "auto"
    diameter_px: float | None = None
    split: bool = True
    min_contrast: float = 4.0
    fill_holes: bool = True

    def __post_init__(self) -> None:
        if self.polarity not in get_args(Polarity):
            raise ValueError(f"polarity is one of {get_args(Polarity)}, got {self.polarity!r}")
        if self.threshold not in get_args(Threshold):
            raise ValueError(f"threshold is one of {get_args(Threshold)}, got {self.threshold!r}")
        if self.diameter_px is not None and not SMALLEST_DIAMETER_PX <= self.diameter_px < math.inf:
            raise ValueError(f"diameter_px must be at least {SMALLEST_DIAMETER_PX}, got {self.diameter_px}")
        if not 0 <= self.min_contrast < math.inf:
            raise ValueError(f"min_contrast must be finite and not negative, got {self.min_contrast}")


class Found(NamedTuple):
    """What stands out: the foreground, the smooth flattened plane (objects bright), the object diameter."""

    mask: Mask
    smooth: Plane
    diameter_px: float


def find_foreground(plane: NDArray[Any], settings: ThresholdSettings) -> Found | None:
    """Threshold a plane (H, W); None where it is constant. Without the check for noise.

    Raises
    ------
    ValueError
        Not (H, W), empty, complex, or not finite.
    """
    scaled = _unit(plane)
    if scaled is None:
        return None
    if settings.polarity == "dark" or (settings.polarity == "auto" and _objects_are_dark(scaled)):
        scaled = 1 - scaled
    noise_px = _smoothing_against_noise(scaled)
    diameter_px = settings.diameter_px or estimate_diameter(scaled, smooth_px=max(1.0, noise_px))
    smooth_px = max(0.5, _SMOOTH * diameter_px, min(noise_px, diameter_px / 6))
    smooth = ndimage.gaussian_filter(scaled, smooth_px, mode="nearest")
    smooth -= background(smooth, diameter_px)
    mask = _threshold(smooth, diameter_px, settings.threshold)
    if diameter_px > 8:  # single pixels and threads; small objects would not survive it
        mask = ndimage.binary_opening(mask)
    if settings.fill_holes:
        mask = _fill_holes(mask, max_px=diameter_px**2 / 2)
    return Found(mask, smooth, diameter_px)


def estimate_diameter(scaled: Plane, *, smooth_px: float) -> float:
    """Estimate the typical diameter in pixels of bright objects, weighted by their area.

    The widest circles inside the foreground have the radius of its objects, touching or not. The local
    threshold needs a diameter itself: begin with a large one and repeat, on bins that keep it at some 24 px.
    """
    largest_px = max(SMALLEST_DIAMETER_PX, min(scaled.shape) / 3)
    diameter_px: float = max(SMALLEST_DIAMETER_PX, min(scaled.shape) / 8)
    for _ in range(5):
        bin_px = max(1, int(diameter_px / 24))
        smooth = ndimage.gaussian_filter(bin_means(scaled, bin_px), smooth_px / bin_px, mode="nearest")
        mask = _threshold(smooth, diameter_px / bin_px, "auto")
        mask = _fill_holes(mask, max_px=(diameter_px / bin_px) ** 2 / 4)
        before_px, diameter_px = diameter_px, _inscribed_diameter(mask) * bin_px
        diameter_px = min(max(diameter_px, SMALLEST_DIAMETER_PX), largest_px)
        if abs(diameter_px - before_px) < 0.05 * before_px:
            break
    return diameter_px


def _unit(plane: NDArray[Any]) -> Plane | None:
    """Map the plane to [0, 1]; for integers this is the same to the last bit after any affine map."""
    if plane.ndim != 2 or not plane.size or plane.dtype.kind not in "uifb":
        raise ValueError(f"a plane must be (H, W), real and not empty, got {plane.shape} {plane.dtype}")
    values = plane.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise ValueError("the plane has pixels that are not finite")
    return ((values - low) / (high - low)).astype(np.float32) if high > low else None


def _objects_are_dark(scaled: Plane) -> bool:
    smooth = ndimage.gaussian_filter(scaled, 1, mode="nearest")
    return bool(np.mean(smooth > threshold_otsu(smooth)) > 0.5)


def _smoothing_against_noise(scaled: Plane) -> float:
    """Return the sigma in pixels that brings white noise down to 8 % of the objects' height."""
    smooth = ndimage.gaussian_filter(scaled, 1, mode="nearest")
    above = smooth > threshold_otsu(smooth)
    if above.all() or not above.any():
        return 0.0
    height = float(smooth[above].mean() - np.median(smooth[~above]))
    # a Gaussian of sigma leaves 1 / (2 sqrt(pi) sigma) of white noise
    return pixel_noise(scaled, above) / (2 * math.sqrt(math.pi) * 0.08 * height)


def _threshold(smooth: Plane, diameter_px: float, how: Threshold) -> Mask:
    otsu = float(threshold_otsu(smooth)) if smooth.min() < smooth.max() else math.inf
    if how == "global" or math.isinf(otsu):
        return smooth > otsu
    ground = float(np.median(smooth[smooth <= otsu]))
    step = otsu - ground
    mask: Mask = smooth > local_mean(smooth, _SURROUNDINGS * diameter_px) + _ABOVE_SURROUNDINGS * step
    if how == "auto":
        mask &= smooth > ground + _FLOOR * step
    return mask


def _fill_holes(mask: Mask, *, max_px: float) -> Mask:
    """Fill background pieces of at most ``max_px`` pixels that do not touch the picture's border."""
    pieces, count = ndimage.label(~mask)
    fill = np.bincount(pieces.reshape(-1), minlength=count + 1) <= max_px
    fill[0] = False
    for border in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        fill[border] = False
    filled: Mask = mask | fill[pieces]
    return filled


def _inscribed_diameter(mask: Mask) -> float:
    """Return the area-weighted median diameter of the objects that the mask's widest circles stand for."""
    distance = ndimage.distance_transform_edt(mask)
    smooth = ndimage.gaussian_filter(distance, 1)
    radii = distance[(ndimage.maximum_filter(smooth, 5) == smooth) & (distance > 2)]
    if not radii.size:
        return SMALLEST_DIAMETER_PX
    radii = np.sort(radii)
    weight = np.cumsum(radii**2)
    # an ellipse of 3 : 2 has the area of a circle 1.2 times as wide as its widest inner one
    return 2.3 * float(radii[np.searchsorted(weight, weight[-1] / 2)])
