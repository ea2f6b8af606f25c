"""The pixel size of an image from the array of spots printed under the tissue, whose pitch is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from microsnoop.core.errors import InputError

_SKEW = 0.05  # pitches along both axes may differ by that share, and the axes by that cosine


@dataclass(frozen=True)
class GridFit:
    """``centres = grid @ axes_px + origin``, by least squares.

    ``axes_px`` (2, 2): the step in x, y px that one step along either axis of the grid makes; ``residual_px`` the
    root mean square distance of the spots from their fitted places.
    """

    axes_px: NDArray[np.float64]
    residual_px: float

    @property
    def pitches_px(self) -> tuple[float, float]:
        """Length of one step along either axis."""
        first, second = np.linalg.norm(self.axes_px, axis=1)
        return float(first), float(second)


def fit_grid(centres_px: ArrayLike, grid: ArrayLike) -> GridFit:
    """Fit the array of spots to their places in the image; turned and mirrored arrays are fitted too.

    Parameters
    ----------
    centres_px
        (n, 2) x, y in pixels; rows that are not finite are left out.
    grid
        (n, 2) array coordinates of the same spots.

    Raises
    ------
    InputError
        Fewer than three spots that are not on one line.
    ValueError
        Other shapes.
    """
    centres, steps = np.asarray(centres_px, np.float64), np.asarray(grid, np.float64)
    if centres.ndim != 2 or centres.shape[1:] != (2,) or centres.shape != steps.shape:
        raise ValueError(f"centres and grid must both be (n, 2), got {centres.shape} and {steps.shape}")
    finite = np.isfinite(centres).all(axis=1) & np.isfinite(steps).all(axis=1)
    centres, steps = centres[finite], steps[finite]
    design = np.column_stack([steps, np.ones(len(steps))])
    if np.linalg.matrix_rank(design) < 3:
        raise InputError(
            f"{len(steps)} spots on one line do not show the pitch of their array", hint="give pixel_size_um"
        )
    solution = np.linalg.lstsq(design, centres, rcond=None)[0]
    residual = np.sqrt(np.mean(np.sum((design @ solution - centres) ** 2, axis=1)))
    return GridFit(np.asarray(solution[:2], np.float64), float(residual))


def pixel_size_from_grid(centres_px: ArrayLike, grid: ArrayLike, *, pitch_um: float = 200.0) -> float:
    """Return µm a pixel, from spots that were printed at a known pitch.

    The pitch in pixels is the square root of the area of one cell of the fitted grid, so that a rotation plays no
    part and a small difference between the axes is shared.

    Parameters
    ----------
    centres_px
        (n, 2) x, y in pixels.
    grid
        (n, 2) array coordinates; one step along either axis is ``pitch_um``.
    pitch_um
        Distance between neighbours, centre to centre: 200 µm on the arrays of Ståhl et al. 2016 (Science 353:78).

    Raises
    ------
    InputError
        Too few spots, or a grid that is not square (axes of different pitch, or not at a right angle).
    ValueError
        Wrong shapes or pitch.
    """
    if not (np.isfinite(pitch_um) and pitch_um > 0):
        raise ValueError(f"pitch_um must be above 0, got {pitch_um}")
    fit = fit_grid(centres_px, grid)
    first, second = fit.pitches_px
    if min(first, second) <= 0:
        raise InputError("the spots of a grid lie all on one line of the image", hint="give pixel_size_um")
    cosine = abs(float(fit.axes_px[0] @ fit.axes_px[1])) / (first * second)
    if abs(first - second) > _SKEW * max(first, second) or cosine > _SKEW:
        raise InputError(
            f"the spots do not stand on a square grid: pitches {first:.1f} and {second:.1f} px, cosine of the axes "
            f"{cosine:.3f}",
            hint="check that positions and array coordinates are of the same section, or give pixel_size_um",
        )
    return pitch_um / float(np.sqrt(abs(np.linalg.det(fit.axes_px))))
