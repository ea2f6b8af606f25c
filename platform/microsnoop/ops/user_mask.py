"""Tissue masks that a user brings: a picture of any scale, or polygons in level-0 pixels (GeoJSON).

Source: slides spec, section 3. Polygons follow the even-odd rule, under which a boundary that crosses itself is
well defined and holes are simply further rings; what encloses no area at all is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.ops.area_average import area_average
from microsnoop.ops.tissue import Mask, TissueMask

Ring = NDArray[np.float64]
MAX_ASPECT_DIFFERENCE = 0.01
_TYPES = {"Polygon": 0, "MultiPolygon": 1}


def picture_mask(
    picture: NDArray[Any],
    *,
    shape: tuple[int, int],
    mask_px: tuple[float, float],
    size_px: tuple[int, int],
    pixel_um2: float,
    name: str = "the mask",
) -> TissueMask:
    """Bring a user's picture of the slide, in which tissue is not 0, to the grid of the thumbnail.

    Parameters
    ----------
    picture
        (h, w) or (h, w, channels), any scale. Not changed.
    shape
        (H, W) of the mask.
    mask_px
        (x, y) side of a mask pixel in level-0 pixels; the last row and column may reach over the slide.
    size_px
        (width, height) of the slide at level 0.
    pixel_um2
        Area of a mask pixel.

    Raises
    ------
    ValueError
        Not a picture.
    SlideError
        ``decode_error``: the aspect differs by more than 1 %. ``no_tissue``: nothing is marked.
    """
    if picture.ndim not in (2, 3) or not picture.size:
        raise ValueError(f"a mask must be (h, w) or (h, w, channels), got shape {picture.shape}")
    marked = (picture != 0) if picture.ndim == 2 else (picture != 0).any(axis=2)
    height, width = marked.shape
    aspect = (width / height) / (size_px[0] / size_px[1])
    if max(aspect, 1 / aspect) > 1 + MAX_ASPECT_DIFFERENCE:
        raise SlideError(
            SlideCode.DECODE_ERROR,
            f"{name}: {width} × {height} px is not a picture of a slide of {size_px[0]} × {size_px[1]} px: their "
            "aspects differ by more than 1 %",
            "export the mask for the whole slide",
        )
    pixel_px = (mask_px[1] * height / size_px[1], mask_px[0] * width / size_px[0])
    share = area_average(marked.astype(np.float32)[..., None], shape, pixel_px=pixel_px)[..., 0]
    return _user_mask(share >= 0.5, pixel_um2, name)


def polygon_mask(
    document: Mapping[str, Any],
    *,
    shape: tuple[int, int],
    mask_px: tuple[float, float],
    size_px: tuple[int, int],
    pixel_um2: float,
    name: str = "the mask",
) -> TissueMask:
    """Rasterise the polygons of a GeoJSON document in level-0 pixels: pixels whose centre is inside one.

    Parameters as of :func:`picture_mask`.

    Raises
    ------
    SlideError
        ``decode_error``: not GeoJSON polygons, or one without area or outside the slide, by name.
        ``no_tissue``: no pixel is inside one.
    """
    mask = np.zeros(shape, bool)
    for label, rings in _polygons(document, name):
        _check_polygon(rings, size_px, f"{name}: {label}")
        mask |= even_odd([ring / mask_px for ring in rings], shape)
    return _user_mask(mask, pixel_um2, name)


def even_odd(rings: Sequence[Ring], shape: tuple[int, int]) -> Mask:
    """Return which pixels (H, W) have their centre inside rings (n, 2) of (x, y), by the even-odd rule.

    Row by row: the crossings of a row's middle with the edges, sorted, are switched on and off in turn.
    """
    height, width = shape
    crossed_y: list[NDArray[np.int64]] = []
    crossed_x: list[NDArray[np.float64]] = []
    for ring in rings:
        for (ax, ay), (bx, by) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            low, high = min(ay, by), max(ay, by)
            # rows whose middle lies in [low, high): an end that two edges share counts once
            first, stop = max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5)))
            if stop > first:
                rows = np.arange(first, stop)
                crossed_y.append(rows)
                crossed_x.append(ax + (rows + 0.5 - ay) * ((bx - ax) / (by - ay)))
    toggles = np.zeros((height, width + 1), np.int64)
    if crossed_y:
        columns = np.clip(np.ceil(np.concatenate(crossed_x) - 0.5), 0, width).astype(np.int64)
        np.add.at(toggles, (np.concatenate(crossed_y), columns), 1)
    inside: Mask = np.cumsum(toggles[:, :width], axis=1) % 2 == 1
    return inside


def _user_mask(mask: Mask, pixel_um2: float, name: str) -> TissueMask:
    if not mask.any():
        raise SlideError(
            SlideCode.NO_TISSUE, f"{name}: marks no tissue", "mark some, or leave the slide out of the table"
        )
    return TissueMask(mask, float(mask.sum() * pixel_um2), None, None, {})


def _polygons(document: Mapping[str, Any], name: str) -> list[tuple[str, list[Ring]]]:
    """Return all polygons of a document with a name for messages."""
    features = document.get("features", [document]) if isinstance(document, Mapping) else None
    if not isinstance(features, list):
        raise _refused(f"{name}: not a GeoJSON document")
    found: list[tuple[str, list[Ring]]] = []
    for number, feature in enumerate(features):
        geometry = feature.get("geometry", feature) if isinstance(feature, Mapping) else None
        kind = geometry.get("type") if isinstance(geometry, Mapping) else None
        if not isinstance(geometry, Mapping) or kind not in _TYPES:
            raise _refused(
                f"{name}: feature {number} is {kind or 'no geometry'}, not Polygon or MultiPolygon"
            )
        parts = geometry.get("coordinates")
        for part in parts if kind == "MultiPolygon" and isinstance(parts, list) else [parts]:
            label = f"polygon {feature.get('id', number)}"
            try:
                rings = [np.asarray(ring, np.float64)[:, :2] for ring in part or []]
            except (TypeError, ValueError, IndexError) as error:
                raise _refused(f"{name}: {label} has coordinates that are no list of points") from error
            found.append((label, rings))
    return found


def _check_polygon(rings: Sequence[Ring], size_px: tuple[int, int], where: str) -> None:
    if not rings:
        raise _refused(f"{where} has no points")
    for ring in rings:
        if not np.isfinite(ring).all():
            raise _refused(f"{where} has coordinates that are not finite")
        if len(np.unique(ring, axis=0)) < 3:
            raise _refused(f"{where} has fewer than 3 different points")
        steps = ring - ring[0]
        if np.linalg.matrix_rank(steps) < 2:
            raise _refused(f"{where} has no area: its points lie on a line")
    low, high = rings[0].min(axis=0), rings[0].max(axis=0)
    if (high <= 0).any() or (low >= size_px).any():
        raise _refused(f"{where} lies outside the slide of {size_px[0]} × {size_px[1]} px")


def _refused(message: str) -> SlideError:
    return SlideError(SlideCode.DECODE_ERROR, message, "repair it and export it in pixels of the full image")
