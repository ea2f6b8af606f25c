"""What a microscope does to a clean field: optics, illumination, noise, amplifier, camera; and how much, by level.

A pixel is ``gain · illumination · blur(x) + noise + offset``, rounded and clipped to what the camera can count.
Each parameter deviates by the week (new bulb, new stain, new alignment), the plate, the well and the field; the
deviations of the four levels add up. ``strength`` scales all of them: 0 leaves the pixels as they are.

Source: the usual camera model (EMVA standard 1288: photon noise with a variance proportional to the signal, read
noise, saturation) and a vignette that falls off with the square of the distance from the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

PARAMETERS = ("log_gain", "offset", "tilt_y", "tilt_x", "vignette", "blur_px", "log_noise")

Floats = NDArray[np.float64]
Deviation = dict[str, Floats]


@dataclass(frozen=True)
class Effects:
    """What happens to each channel of one field; all arrays are float64 (C,).

    ``gain`` is a factor (1 = none); ``offset`` counts; ``tilt_y``, ``tilt_x`` the change of the log illumination from
    the middle to the lower and right border; ``vignette`` its fall from the middle to a corner; ``blur_px`` the
    standard deviation of the point spread in pixels; ``read_sd`` counts; ``shot`` variance a count of signal.
    """

    gain: Floats
    offset: Floats
    tilt_y: Floats
    tilt_x: Floats
    vignette: Floats
    blur_px: Floats
    read_sd: Floats
    shot: Floats


@dataclass(frozen=True)
class Acquired:
    """``planes`` uint16 (C, H, W), and how many pixels of each channel were cut at the top: int64 (C,)."""

    planes: NDArray[np.uint16]
    saturated: NDArray[np.int64]


def draw_deviation(spread: Mapping[str, float], rng: np.random.Generator, *, n_channels: int) -> Deviation:
    """Draw how far one week, plate, well or field is from the middle: normal, apart for each channel.

    Every parameter takes its numbers from the generator, wide or not: another spread of one parameter does not
    change what is drawn for the others.

    Parameters
    ----------
    spread
        Standard deviation by name of ``PARAMETERS``; names that are missing do not vary.

    Returns
    -------
    Parameter: float64 (C,), in the units of the parameter.

    Raises
    ------
    ValueError
        An unknown parameter or a negative spread.
    """
    unknown = sorted(set(spread) - set(PARAMETERS))
    if unknown:
        raise ValueError(f"unknown parameter(s) {', '.join(unknown)}; there are {', '.join(PARAMETERS)}")
    if any(sd < 0 for sd in spread.values()):
        raise ValueError(f"a spread cannot be negative, got {dict(spread)}")
    draws = rng.standard_normal((len(PARAMETERS), n_channels))
    return {name: draws[i] * spread.get(name, 0.0) for i, name in enumerate(PARAMETERS)}


def sum_deviations(levels: Sequence[Deviation]) -> Deviation:
    """Return the sum of the deviations of several levels, parameter by parameter; inputs are not changed."""
    if not levels:
        raise ValueError("there is no deviation to add up")
    return {name: np.sum([level[name] for level in levels], axis=0, dtype=np.float64) for name in PARAMETERS}


def find_effects(
    deviation: Deviation,
    *,
    strength: float = 1.0,
    vignette: float = 0.0,
    read_sd: float = 0.0,
    shot: float = 0.0,
) -> Effects:
    """Return what happens to a field whose parameters deviate so far, at this strength.

    Parameters
    ----------
    deviation
        Sum over the levels, float64 (C,) a parameter.
    strength
        0 = nothing happens, 1 = as drawn, 2 = twice as far.
    vignette, read_sd, shot
        Of a microscope that does not deviate, in the units of :class:`Effects`.

    Raises
    ------
    ValueError
        A negative strength, read noise or shot noise.
    """
    if min(strength, read_sd, shot) < 0:
        raise ValueError(
            f"strength, read_sd and shot cannot be negative, got {strength:g}, {read_sd:g}, {shot:g}"
        )
    scaled = {name: strength * deviation[name] for name in PARAMETERS}
    noise_sd = strength * np.exp(scaled["log_noise"])
    return Effects(
        gain=np.exp(scaled["log_gain"]),
        offset=scaled["offset"],
        tilt_y=scaled["tilt_y"],
        tilt_x=scaled["tilt_x"],
        vignette=scaled["vignette"] + strength * vignette,
        blur_px=np.abs(scaled["blur_px"]),  # a lens is out of focus on either side
        read_sd=noise_sd * read_sd,
        shot=noise_sd**2 * shot,
    )


def illumination(
    height_px: int, width_px: int, *, tilt_y: float = 0.0, tilt_x: float = 0.0, vignette: float = 0.0
) -> Floats:
    """Return the light on each pixel, float64 (H, W), mean 1: the exponential of a polynomial, so never negative.

    The exponent is ``tilt_y·v + tilt_x·u − vignette·(u² + v²)/2``, with u and v from -1 to 1 between the borders.
    """
    v = _axis(height_px)[:, None]
    u = _axis(width_px)[None, :]
    light = np.exp(tilt_y * v + tilt_x * u - vignette * (u**2 + v**2) / 2)
    shaded: Floats = light / light.mean()
    return shaded


def blur(planes: NDArray[Any], sigma_px: Floats) -> Floats:
    """Return planes (C, H, W) through a Gaussian point spread, one ``sigma_px`` (C,) a channel; the mean stays.

    Pixels beyond the border mirror those inside, the border pixel included: no light is lost there.
    """
    blurred = planes.astype(np.float64)
    for plane, sigma in zip(blurred, sigma_px, strict=True):
        if sigma > 0:
            ndimage.gaussian_filter(plane, sigma, output=plane, mode="reflect")
    return blurred


def add_noise(planes: Floats, rng: np.random.Generator, *, read_sd: Floats, shot: Floats) -> Floats:
    """Return planes (C, H, W) with noise of variance ``read_sd² + shot · signal``, mean 0, one draw a pixel."""
    sd = np.sqrt(read_sd[:, None, None] ** 2 + shot[:, None, None] * np.maximum(planes, 0))
    noisy: Floats = planes + sd * rng.standard_normal(planes.shape)
    return noisy


def quantise(planes: Floats, *, white_level: int = 65_535) -> Acquired:
    """Round to counts from 0 to ``white_level`` and count the pixels that are above it.

    Raises
    ------
    ValueError
        ``white_level`` does not fit into 16 bits, or pixels that are not finite.
    """
    if not 1 <= white_level <= 65_535:
        raise ValueError(f"white_level must be from 1 to 65535, got {white_level}")
    if not np.isfinite(planes).all():
        raise ValueError("pixels must be finite to become counts")
    counts = np.rint(planes)
    saturated = (counts > white_level).sum(axis=(1, 2), dtype=np.int64)
    return Acquired(np.clip(counts, 0, white_level).astype(np.uint16), saturated)


def acquire(
    field: NDArray[Any], effects: Effects, rng: np.random.Generator, *, white_level: int = 65_535
) -> Acquired:
    """Return what the camera counts of a clean field (C, H, W) in counts; the field is not changed.

    Raises
    ------
    ValueError
        Not (C, H, W), or effects of another number of channels.
    """
    if field.ndim != 3 or len(field) != len(effects.gain):
        raise ValueError(
            f"the field must be (C, H, W) with {len(effects.gain)} channels, got shape {field.shape}"
        )
    size = field.shape[1:]
    light = [
        illumination(*size, tilt_y=tilt_y, tilt_x=tilt_x, vignette=vignette)
        for tilt_y, tilt_x, vignette in zip(effects.tilt_y, effects.tilt_x, effects.vignette, strict=True)
    ]
    planes = blur(field, effects.blur_px) * effects.gain[:, None, None] * np.stack(light)
    noisy = add_noise(planes, rng, read_sd=effects.read_sd, shot=effects.shot)
    return quantise(noisy + effects.offset[:, None, None], white_level=white_level)


def _axis(side_px: int) -> Floats:
    """Return the places of pixels between -1 and 1; a single pixel lies in the middle."""
    return np.linspace(-1.0, 1.0, side_px) if side_px > 1 else np.zeros(1)
