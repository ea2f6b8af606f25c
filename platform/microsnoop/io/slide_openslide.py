"""Slides of scanners through OpenSlide (svs, ndpi, mrxs, scn, vms, bif and others); extra ``slides``.

Associated pictures (label, macro) are never touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.optional import require
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io.opener import is_remote, local_path
from microsnoop.io.slide_levels import LevelReader, SlideSource, as_slide_error, on_white
from microsnoop.io.slide_mpp import hints_of_openslide
from microsnoop.ops.geometry import Box


def detect_vendor(path: str) -> str | None:
    """Return what OpenSlide takes a file to be, None for what it cannot read.

    Raises
    ------
    MissingDependency
        OpenSlide is not installed.
    """
    openslide = require("openslide", extra="slides")
    vendor = openslide.OpenSlide.detect_format(path) if Path(path).is_file() else None
    return str(vendor) if vendor is not None else None


class OpenSlideReader(LevelReader):
    """A slide that OpenSlide reads."""

    _slide: Any = None

    def __init__(self, source: SlideSource) -> None:
        super().__init__(source)
        self._module = require("openslide", extra="slides")
        if is_remote(source.path):
            raise SlideError(
                SlideCode.DECODE_ERROR,
                f"{source.path}: OpenSlide reads local files only",
                "copy the slide to a local disk first",
            )
        self._open_anew()
        try:
            properties = dict(self._slide.properties)
            sizes = [(int(w), int(h)) for w, h in self._slide.level_dimensions]
            self._describe(sizes, hints_of_openslide(properties), _harmless(properties))
        except Exception as error:
            self.close()
            raise as_slide_error(self.path, error) from error

    def _open(self) -> None:
        self._slide = self._module.OpenSlide(str(local_path(self.path)))
        self._slide.set_cache(self._module.OpenSlideCache(self._source.cache_bytes))

    def _close(self) -> None:
        if self._slide is not None:
            self._slide.close()
        self._slide = None

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        factor = self._slide.level_downsamples[level]
        corner = (round(box.x0_px * factor), round(box.y0_px * factor))
        return on_white(np.asarray(self._slide.read_region(corner, level, (box.width_px, box.height_px))))


def _harmless(properties: dict[str, str]) -> dict[str, str]:
    """Return what says nothing about the patient, the user or the day."""
    kept = {"reader": "openslide", "format": properties.get("openslide.vendor", "unknown")}
    if power := properties.get("openslide.objective-power"):
        kept["objective_power"] = power
    return kept
