"""Spots of a spatial experiment: what a reader finds, and what it makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError, RowRejected
from microsnoop.io.images import open_image

_ANY_SIZE_PX = 2**62  # headers only: the limit on what is decoded is the embedding run's


@dataclass(frozen=True)
class Scale:
    """How large a pixel of the spots' image is, and where that is known from; None where it is not known."""

    um_per_px: float | None = None
    source: str = "unknown"
    note: str = ""

    @classmethod
    def given(cls, um_per_px: float) -> Scale:
        """Return a pixel size that the caller knows.

        Raises
        ------
        ValueError
            Not a positive number.
        """
        if not (np.isfinite(um_per_px) and um_per_px > 0):
            raise ValueError(f"pixel_size_um must be above 0, got {um_per_px}")
        return cls(float(um_per_px), "given")


@dataclass(frozen=True)
class SpotImage:
    """The picture under the spots: a file, or planes (C, H, W) that stand in another container."""

    path: Path | None = None
    size_px: tuple[int, int] | None = None  # height, width
    planes: Any = None


@dataclass(frozen=True)
class SpotTable:
    """What a reader found, before anything is matched.

    ``counts`` has one row a spot, named as in ``positions.index``; ``positions`` has ``x_px``, ``y_px`` (pixels of
    the image, NaN where unknown), ``selected`` (bool) and further columns, which become columns of ``obs``.
    ``arrays`` are tables by spot name that become ``obsm``, their column names ``uns["spots"]``.
    """

    counts: ad.AnnData
    positions: pd.DataFrame
    where: str
    arrays: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Spots:
    """Spots with counts and a place in an image.

    Attributes
    ----------
    rna
        (n, p): ``X`` and ``layers["counts"]`` hold the counts (CSR float32; ``X`` is for the caller to normalise),
        ``obs_names`` are ``{dataset}:{section}:{spot}``, ``obsm["spatial"]`` (n, 2) x, y in the unit that
        ``uns["spatial_unit"]`` names: µm where the pixel size is known, else px.
    centres_px
        (n, 2) float64: x, y in pixels of the image, in the order of ``rna``.
    image
        The picture.
    scale
        The pixel size of that picture.
    spot_diameter_um
        What the platform prints; None where it is not known.
    rejects
        ``obs_id``, ``modality``, ``code``, ``message`` of every spot that is not in ``rna``; the codes are
        ``not_selected``, ``no_counts``, ``no_position``, ``outside_image``.
    section, dataset
        As in the ids.
    n_in
        Spots named by the counts or by the positions: ``n_in = rna.n_obs + len(rejects)``.
    notes
        Sentences that a reader of the result must know.
    """

    rna: ad.AnnData
    centres_px: NDArray[np.float64]
    image: SpotImage
    scale: Scale
    spot_diameter_um: float | None
    rejects: pd.DataFrame
    section: str
    dataset: str
    n_in: int
    notes: tuple[str, ...] = ()

    @property
    def pixel_size_um(self) -> float | None:
        """µm a pixel of the image."""
        return self.scale.um_per_px

    @property
    def spot_diameter_px(self) -> float | None:
        """Diameter of a spot in pixels of the image."""
        if self.spot_diameter_um is None or self.scale.um_per_px is None:
            return None
        return self.spot_diameter_um / self.scale.um_per_px


def find_image(path: Path | str) -> SpotImage:
    """Return an image file with its size, from the header alone.

    Raises
    ------
    InputError
        Missing, or not an image.
    """
    try:
        file = open_image(str(path), stack=False, limit_px=_ANY_SIZE_PX)
    except RowRejected as error:
        raise InputError(f"cannot use the image: {error.message}") from error
    try:
        return SpotImage(Path(path), (file.info.height_px, file.info.width_px))
    finally:
        file.close()
