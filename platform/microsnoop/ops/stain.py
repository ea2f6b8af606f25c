"""One plane out of a colour picture: the nuclear stain of H&E sections, or plain brightness."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2gray, rgb2hed

ColourPlane = Literal["hematoxylin", "grey"]


def colour_plane(planes: NDArray[Any], how: ColourPlane) -> NDArray[np.float32]:
    """Reduce red, green and blue to the one plane that objects are looked for in.

    Parameters
    ----------
    planes
        (3, H, W) red, green, blue; unsigned integers in the range of their dtype, or float in [0, 1].
        Not changed.
    how
        ``hematoxylin``: amount of the nuclear stain, bright = stained (colour deconvolution of Ruifrok and
        Johnston 2001, ``skimage.color.rgb2hed``). ``grey``: luminance in [0, 1] (``rgb2gray``).

    Returns
    -------
    float32 (H, W).

    Raises
    ------
    ValueError
        Not three planes, signed integers, floats outside [0, 1] or not finite, or an unknown ``how``.
    """
    if how not in get_args(ColourPlane):
        raise ValueError(f"a colour plane is one of {get_args(ColourPlane)}, got {how!r}")
    if planes.ndim != 3 or len(planes) != 3:
        raise ValueError(f"a colour picture must be (3, H, W), got shape {planes.shape}")
    rgb = np.moveaxis(_unit_range(planes), 0, -1)
    plane = rgb2hed(rgb)[..., 0] if how == "hematoxylin" else rgb2gray(rgb)
    return np.ascontiguousarray(plane, np.float32)


def _unit_range(planes: NDArray[Any]) -> NDArray[np.float64]:
    values = planes.astype(np.float64)
    if planes.dtype.kind == "u":
        return values / np.iinfo(planes.dtype).max
    # the negation also catches nan
    if planes.dtype.kind != "f" or not (values.min(initial=0.0) >= 0 and values.max(initial=0.0) <= 1):
        raise ValueError(f"colours must be unsigned integers or floats in [0, 1], got {planes.dtype}")
    return values
