"""Hand-crafted features: what every learned embedding is read against. Evaluation spec, section 8.3.

68 numbers a plane (16 of intensity, 52 of texture) and the correlation of each pair of channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from skimage.filters import threshold_otsu

from microsnoop.ops.texture import (
    COOCCURRENCE,
    DISTANCES_PX,
    RADII_PX,
    RINGS,
    binary_patterns,
    cooccurrence,
    gradients,
    granularity,
    power_spectrum,
)

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_BINS = 64
INTENSITY_NAMES = (
    "mean", "sd", "min", "max", *(f"p{q:02d}" for q in _PERCENTILES), "mad", "skewness", "kurtosis", "entropy",
    "above_otsu",
)  # fmt: skip
PLANE_NAMES = (
    *INTENSITY_NAMES,
    *(f"glcm_{name}_{d}px" for name in COOCCURRENCE for d in DISTANCES_PX),
    *(f"lbp_{code}" for code in range(10)),
    *(f"granularity_{radius}px" for radius in RADII_PX),
    *(f"spectrum_{ring}" for ring in range(RINGS)),
    "gradient_mean", "gradient_sd",
)  # fmt: skip
VERSION = 1  # raise it when a number changes its meaning: rows of two versions are never mixed


def sample_features(
    planes: NDArray[Any], offset: NDArray[np.float64], span: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Measure all planes of one sample.

    Intensities are those of the file; texture is measured on the plane scaled by its percentiles and clipped
    to [0, 1]. What is not defined (a constant plane) is 0; such planes carry the flag ``constant_plane``.

    Parameters
    ----------
    planes
        Real pixels (C, H, W), any real dtype, finite. Not changed.
    offset, span
        The intensity map of each plane (``ops.intensity.plane_scaling``), float64 (C,).

    Returns
    -------
    float32 (C, 68 + C - 1): the numbers of each plane, then its correlations with the other channels in order.
    """
    own = np.stack([plane_features(p, o, s) for p, o, s in zip(planes, offset, span, strict=True)])
    n = len(planes)
    others = channel_correlations(planes)[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    return np.concatenate([own, others], axis=1).astype(np.float32)


def plane_features(plane: NDArray[Any], offset: float, span: float) -> NDArray[np.float64]:
    """Return the 68 numbers of one plane (H, W), in the order of ``PLANE_NAMES``."""
    raw = plane.astype(np.float64)
    scaled = np.clip((raw - offset) / span, 0.0, 1.0)
    grey = np.floor(scaled * 255 + 0.5 + 1e-6).astype(np.uint8)
    return np.concatenate(
        [
            intensity_features(raw),
            cooccurrence(scaled),
            binary_patterns(grey),
            granularity(grey),
            power_spectrum(scaled),
            gradients(scaled),
        ]
    )


def intensity_features(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 16 numbers of raw intensities, in the order of ``INTENSITY_NAMES``."""
    values = raw.reshape(-1)
    quantiles = np.percentile(values, _PERCENTILES)
    low, high, sd = values.min(), values.max(), values.std()
    flat = high == low
    shape = (0.0, 0.0) if flat else (float(stats.skew(values)), float(stats.kurtosis(values)))
    shares = np.histogram(values, _BINS, (low, high) if not flat else (low - 0.5, low + 0.5))[0] / len(values)
    entropy = -float((shares[shares > 0] * np.log2(shares[shares > 0])).sum())
    above = 0.0 if flat else float((values > threshold_otsu(values)).mean())
    mad = float(np.median(np.abs(values - quantiles[3])))
    return np.array([values.mean(), sd, low, high, *quantiles, mad, *shape, entropy, above])


def channel_correlations(planes: NDArray[Any]) -> NDArray[np.float64]:
    """Return Pearson's correlation of every pair of planes (C, C); 0 where one of them is constant."""
    flat = planes.reshape(len(planes), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.sqrt((flat**2).sum(axis=1))
    unit = np.divide(flat, norm[:, None], out=np.zeros_like(flat), where=norm[:, None] > 1e-9)
    return np.asarray(unit @ unit.T)


def unique_columns(n_channels: int) -> NDArray[np.int64]:
    """Return the columns of a fused row (C · (68 + C - 1)) that hold each number once.

    Each plane's row repeats the correlation of a pair that an earlier plane has already.
    """
    dim = len(PLANE_NAMES) + n_channels - 1
    kept = []
    for channel in range(n_channels):
        own = range(len(PLANE_NAMES) + channel, dim)  # its correlations with later channels
        kept += [channel * dim + j for j in (*range(len(PLANE_NAMES)), *own)]
    return np.array(kept, np.int64)
