"""Channel names and pixel size from what TIFF dialects say: OME-XML, ImageJ, and tifffile's own JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree  # expat bounds entity expansion itself

import tifffile

_UM_PER = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "um": 1.0, "μm": 1.0, "nm": 1e-3, "pm": 1e-6}
_IMAGEJ_MICRON = {"micron", "microns", "um", "µm", "\\u00b5m"}


def channel_names(tif: tifffile.TiffFile, count: int) -> list[str] | None:
    """Return the names of ``count`` channels, or None where the file names none or another number."""
    for names in (_ome_names(tif), _shaped_names(tif), _imagej_names(tif)):
        if len(names) == count and any(name.strip() for name in names):
            return names
    return None


def pixel_size_um(tif: tifffile.TiffFile) -> float | None:
    """Return the pixel width in µm from OME-XML or ImageJ metadata, None where it is not stated.

    Plain TIFF resolution tags are ignored: most writers fill them with a screen's 72 dpi.
    """
    for element in _ome_elements(tif, "Pixels"):
        size, unit = element.get("PhysicalSizeX"), element.get("PhysicalSizeXUnit", "µm")
        return _positive(size, _UM_PER.get(unit, 0.0))
    imagej = tif.imagej_metadata or {}
    if str(imagej.get("unit", "")).lower() in _IMAGEJ_MICRON:
        tag = tif.pages[0].tags.get("XResolution")
        if tag is not None and isinstance(tag.value, tuple) and tag.value[0]:
            return float(tag.value[1]) / float(tag.value[0])
    return None


def _ome_elements(tif: tifffile.TiffFile, tag: str) -> Iterator[ElementTree.Element]:
    if not tif.is_ome or not tif.ome_metadata:
        return
    try:
        root = ElementTree.fromstring(tif.ome_metadata)  # noqa: S314  (see the import)
    except ElementTree.ParseError:
        return  # without readable metadata the image still is an image
    for image in (node for node in root.iter() if node.tag.rsplit("}", 1)[-1] == "Image"):
        yield from (node for node in image.iter() if node.tag.rsplit("}", 1)[-1] == tag)
        return


def _ome_names(tif: tifffile.TiffFile) -> list[str]:
    return [element.get("Name") or element.get("Fluor") or "" for element in _ome_elements(tif, "Channel")]


def _shaped_names(tif: tifffile.TiffFile) -> list[str]:
    described: dict[str, Any] = (tif.shaped_metadata or ({},))[0]
    names = described.get("channels", described.get("channel_names", []))
    return [str(name) for name in names] if isinstance(names, list) else []


def _imagej_names(tif: tifffile.TiffFile) -> list[str]:
    labels = (tif.imagej_metadata or {}).get("Labels", [])
    return [str(label) for label in labels] if isinstance(labels, (list, tuple)) else []


def _positive(text: str | None, factor: float) -> float | None:
    try:
        size = float(text) * factor if text else 0.0
    except ValueError:
        return None
    return size if 0 < size < math.inf else None
