"""Which reader a slide needs, by its content."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from microsnoop.core.errors import MissingDependency
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io.formats import sniff
from microsnoop.io.opener import is_remote, local_path, open_binary
from microsnoop.io.slide_levels import as_slide_error
from microsnoop.io.slide_openslide import detect_vendor

Kind = Literal["auto", "openslide", "tiff", "plain"]

_OPENSLIDE_ONLY = (".mrxs", ".vms", ".vmu", ".ndpi", ".scn", ".bif", ".svslide", ".dcm", ".czi")


def stem(path: str) -> str:
    """Return the file name without its extension (``.ome.tif`` is one)."""
    name = PurePosixPath(path.replace("\\", "/").rstrip("/")).name
    short = name.rsplit(".", 1)[0] or name
    return short[:-4] if short.lower().endswith(".ome") else short


def find_kind(path: str) -> Kind:
    """Decide which reader a file needs.

    Raises
    ------
    SlideError
        ``decode_error``: not there, empty, or of no known format.
    MissingDependency
        It needs OpenSlide, which is not installed.
    """
    vendor, missing = _vendor(path)
    if vendor is not None and vendor != "generic-tiff":  # plain TIFF: ours also sees pyramids in SubIFDs
        return "openslide"
    if missing is not None and path.lower().endswith(_OPENSLIDE_ONLY):
        raise missing  # .mrxs begins as JPEG and .ndpi as TIFF, but neither is the slide
    try:
        with open_binary(path) as stream:
            found = sniff(stream, path)
    except Exception as error:
        raise as_slide_error(path, error) from error
    if found not in ("tiff", "raster"):
        raise SlideError(
            SlideCode.DECODE_ERROR, f"{path}: a file of kind {found} is not a slide", "check the file"
        )
    return "tiff" if found == "tiff" else "plain"


def _vendor(path: str) -> tuple[str | None, MissingDependency | None]:
    """Return which scanner OpenSlide takes a file to be of, and the error where it is not installed."""
    if is_remote(path):
        return None, None
    try:
        return detect_vendor(str(local_path(path))), None
    except MissingDependency as error:
        return None, error
