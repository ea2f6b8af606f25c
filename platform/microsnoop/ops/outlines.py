"""Pictures of label masks: object boundaries drawn over the plane they were found in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.intensity import percentiles

Colour = tuple[int, int, int]

# Okabe and Ito 2008 without black and with a clearer red: told apart by most eyes, and from grey
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 200, 130),
    (240, 228, 66),
    (60, 120, 255),
    (255, 80, 40),
    (230, 120, 200),
)


def outline(mask: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels of objects that have a 4-neighbour of another object or of the background.

    The picture's own border is no boundary. Parameters: ``mask`` (H, W), integer, 0 = background.

    Raises
    ------
    ValueError
        Not two-dimensional.
    """
    if mask.ndim != 2:
        raise ValueError(f"a label mask must be (H, W), got shape {mask.shape}")
    edge = np.zeros(mask.shape, bool)
    down = mask[1:] != mask[:-1]
    right = mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    edge &= mask != 0
    return edge


def draw_outlines(
    plane: NDArray[Any],
    mask: NDArray[Any],
    colours: Mapping[int, Colour] | Sequence[Colour] = PALETTE,
    *,
    low: float = 0.5,
    high: float = 99.8,
) -> NDArray[np.uint8]:
    """Draw the outlines of ``mask`` over the picture, stretched between two percentiles.

    Parameters
    ----------
    plane
        (H, W), or (3, H, W) red, green, blue (stretched together, so that hues stay). Not changed.
    mask
        (H, W), integer, 0 = background. Not changed.
    colours
        A list is cycled by label; a mapping colours the labels it names, others get no outline.
    low, high
        Percentiles in percent that become black and white.

    Returns
    -------
    uint8 (H, W, 3): as picture files and plotting libraries take it.

    Raises
    ------
    ValueError
        Shapes do not belong together, or no colours.
    """
    if plane.shape not in (mask.shape, (3, *mask.shape)) or mask.ndim != 2:
        raise ValueError(f"a picture (H, W) or (3, H, W) and its mask, got {plane.shape} and {mask.shape}")
    if not len(colours):
        raise ValueError("at least one colour is needed")
    picture = np.broadcast_to(_stretch(plane, low=low, high=high), (3, *mask.shape))
    drawn = np.array(np.moveaxis(picture, 0, -1), order="C")  # broadcast views cannot be written to
    edge = outline(mask)
    labels, which = np.unique(mask[edge], return_inverse=True)
    if isinstance(colours, Mapping):
        edge[edge] = np.isin(labels, list(colours))[which]
        labels, which = np.unique(mask[edge], return_inverse=True)
        table = [colours[int(label)] for label in labels]
    else:
        table = [colours[(int(label) - 1) % len(colours)] for label in labels]
    drawn[edge] = np.array(table, np.uint8).reshape(-1, 3)[which]
    return drawn


def _stretch(plane: NDArray[Any], *, low: float, high: float) -> NDArray[np.uint8]:
    if plane.size == 0:
        return np.zeros(plane.shape, np.uint8)
    bottom, top = percentiles(plane, (low, high))
    if top <= bottom:  # a few bright pixels on a flat ground
        bottom, top = float(plane.min()), float(plane.max())
    scaled = (plane.astype(np.float64) - bottom) / ((top - bottom) or 1.0)
    stretched: NDArray[np.uint8] = np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return stretched
