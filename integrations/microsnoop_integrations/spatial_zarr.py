"""SpatialData (Marconato et al. 2024, Nat Methods): a table, the circles it annotates, and the image under them.

The package is needed to open a store (extra ``spatialdata``); an object that is open already is used through its
``tables``, ``shapes`` and ``images`` alone, and through ``get_transformation`` for where elements lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.optional import require
from microsnoop_integrations.spatial_matching import assemble
from microsnoop_integrations.spatial_spots import Scale, SpotImage, Spots, SpotTable, find_image

_ATTRS = "spatialdata_attrs"


def is_spatialdata(source: Any) -> bool:
    """Whether this is a SpatialData object, or the path of a Zarr store."""
    if isinstance(source, (str, Path)):
        return Path(source).suffix == ".zarr"
    return all(hasattr(source, name) for name in ("tables", "shapes", "images"))


def read_spatialdata(
    source: Any,
    *,
    section: str | None = None,
    dataset: str | None = None,
    image: Path | str | None = None,
    pixel_size_um: float | None = None,
    table: str | None = None,
    image_key: str | None = None,
    coordinate_system: str = "global",
) -> Spots:
    """Read the spots of one region; ``spatial.read_spots`` has the other arguments.

    Parameters
    ----------
    source
        A SpatialData object, or a path to a ``.zarr``.
    section
        The region (element of ``shapes``), needed where the table annotates several.
    table, image_key
        Names of the elements, needed where there are several.
    image
        A file instead of an element of ``images``; circles must then be in its pixels.
    coordinate_system
        In which circles and image lie over each other.

    Raises
    ------
    InputError
        Elements that are missing, or several of which none was named.
    MissingDependency
        The package is not installed.
    """
    package = require("spatialdata", extra="spatialdata")
    data = package.read_zarr(source) if isinstance(source, (str, Path)) else source
    name, annotated = _one(data.tables, table, "table")
    region, counts = _region(annotated, section, name)
    if region not in data.shapes:
        raise InputError(
            f"the table {name!r} annotates {region!r}, which is not among the shapes {sorted(data.shapes)}"
        )
    shapes = data.shapes[region]
    place = _matrix(package, shapes, coordinate_system)
    if image is not None:
        picture, inverse = find_image(image), np.eye(3)
    else:
        picture, inverse = _picture(package, data.images, image_key, coordinate_system)
    to_px = inverse @ place if image is None else np.eye(3)
    return assemble(
        SpotTable(counts, _positions(shapes, to_px), f"SpatialData table {name!r}"),
        dataset=dataset or "spatialdata",
        section=region,
        image=picture,
        scale=Scale.given(pixel_size_um)
        if pixel_size_um is not None
        else Scale(note="the pixel size is not known: give pixel_size_um"),
        spot_diameter_um=_diameter_um(shapes, to_px, pixel_size_um),
    )


def _one(elements: Mapping[str, Any], name: str | None, kind: str) -> tuple[str, Any]:
    names = sorted(elements)
    if name is None and len(names) == 1:
        name = names[0]
    if name is None or name not in names:
        raise InputError(
            f"name one {kind}: there are {', '.join(names) or 'none'}" + (f", not {name!r}" if name else "")
        )
    return name, elements[name]


def _region(table: ad.AnnData, section: str | None, name: str) -> tuple[str, ad.AnnData]:
    """Return the region and its rows of the table, named by the instance they annotate."""
    attrs = table.uns.get(_ATTRS)
    if not attrs:
        raise InputError(f"the table {name!r} does not say what it annotates: uns[{_ATTRS!r}] is not there")
    regions = table.obs[attrs["region_key"]].astype(str)
    region, _ = _one(dict.fromkeys(regions), section, "section")
    counts = table[(regions == region).to_numpy()].copy()
    counts.obs_names = [str(value) for value in counts.obs[attrs["instance_key"]]]
    return region, counts


def _positions(shapes: Any, to_px: NDArray[np.float64]) -> pd.DataFrame:
    points = np.column_stack([shapes.geometry.x, shapes.geometry.y, np.ones(len(shapes))]) @ to_px.T
    index = pd.Index([str(value) for value in shapes.index], dtype=object)
    return pd.DataFrame({"x_px": points[:, 0], "y_px": points[:, 1], "selected": True}, index=index)


def _diameter_um(shapes: Any, to_px: NDArray[np.float64], pixel_size_um: float | None) -> float | None:
    if pixel_size_um is None or "radius" not in shapes:
        return None
    px = 2 * float(np.median(shapes["radius"])) * np.sqrt(abs(np.linalg.det(to_px[:2, :2])))
    return float(px * pixel_size_um)


def _matrix(package: Any, element: Any, system: str) -> NDArray[np.float64]:
    """Return the affine map (3, 3) from an element's own x, y into a coordinate system."""
    transformation = package.transformations.get_transformation(element, to_coordinate_system=system)
    matrix = transformation.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
    return np.asarray(matrix, np.float64)


def _picture(
    package: Any, images: Mapping[str, Any], name: str | None, system: str
) -> tuple[SpotImage, NDArray[np.float64]]:
    """Return the planes of an image at full resolution, and the map from the coordinate system into its pixels."""
    _, element = _one(images, name, "image")
    inverse = np.asarray(np.linalg.inv(_matrix(package, element, system)), np.float64)
    # an image at several resolutions is a tree; the finest one comes first
    planes = element["scale0"]["image"] if hasattr(element, "children") else element
    planes = planes.transpose("c", "y", "x")
    return SpotImage(size_px=(int(planes.shape[1]), int(planes.shape[2])), planes=planes), inverse
