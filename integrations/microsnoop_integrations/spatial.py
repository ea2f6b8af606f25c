"""Spot-based spatial transcriptomics: counts, positions and picture of one section, whatever layout they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microsnoop.core.errors import InputError
from microsnoop_integrations.spatial_grid import pixel_size_from_grid as pixel_size_from_grid
from microsnoop_integrations.spatial_her2st import is_her2st, read_her2st
from microsnoop_integrations.spatial_patches import write_patch_inputs as write_patch_inputs
from microsnoop_integrations.spatial_spots import Spots as Spots
from microsnoop_integrations.spatial_visium import is_visium, read_visium
from microsnoop_integrations.spatial_zarr import is_spatialdata, read_spatialdata


def read_spots(
    source: Any,
    *,
    section: str | None = None,
    dataset: str | None = None,
    image: Path | str | None = None,
    pixel_size_um: float | None = None,
    **elements: Any,
) -> Spots:
    """Read the spots of one section, by the layout that is found.

    Parameters
    ----------
    source
        A folder laid out as her2st, the folder ``outs`` of Space Ranger, a SpatialData object or its ``.zarr``.
    section
        Which section; needed where there are several. Of Visium a name for it (default: that of the folder).
    dataset
        First part of the ids; default ``her2st``, ``visium`` or ``spatialdata``.
    image
        The full-resolution image; default the one that is found in the layout.
    pixel_size_um
        Of the full-resolution image; default what the files say, else derived from the known pitch of the
        array, with a note. Where neither can be had, positions stay in px.
    elements
        Of SpatialData alone: ``table``, ``image_key``, ``coordinate_system``.

    Returns
    -------
    Spots; nothing is dropped, what has no counts or no position stands in ``rejects``.

    Raises
    ------
    InputError
        An unknown layout; a file that is missing, unreadable or contradicts another one.
    MissingDependency
        SpatialData without the package.
    """
    common: dict[str, Any] = {
        "section": section,
        "dataset": dataset,
        "image": image,
        "pixel_size_um": pixel_size_um,
    }
    if is_spatialdata(source):
        return read_spatialdata(source, **common, **elements)
    if elements:
        raise ValueError(f"{', '.join(elements)}: only for SpatialData")
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    if is_her2st(folder):
        return read_her2st(folder, **common)
    if is_visium(folder):
        return read_visium(folder, **common)
    raise InputError(
        f"{folder} has no known layout: neither data/ST-cnts (her2st) nor spatial/ with a matrix (Visium)",
        hint="docs/multimodal-inputs.md shows the layouts",
    )
