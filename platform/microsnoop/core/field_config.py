"""Settings of full fields: how objects are found, and which region around each of them is cropped.

Source: Microsnoop spec, section 10; the paper segments the easiest channel (usually the nuclei) and crops the
same region from every channel.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from microsnoop.core.settings import Channel, Settings

# Part of the key of rows that were segmented on the fly: raise it with every change of the built-in segmenter's masks.
SEGMENTER_VERSION = 1
_MASK_OF_RATIO = {"nucleus": 2.0, "cell": 1.0}


class SegmentConfig(Settings):
    """How objects are found where no masks are given."""

    method: Literal["threshold", "cellpose", "stardist", "instanseg"] = Field(
        "threshold",
        description="threshold: built in (background, Otsu, distance watershed). The others need their package "
        "and a local `model`; nothing is fetched from the network.",
    )
    channel: Channel | None = Field(
        None,
        description="Channel to segment, the easiest one: a name or position in the file (default: the first of "
        "the run's); `hematoxylin` or `grey` make one of a colour image.",
    )
    polarity: Literal["auto", "bright", "dark"] = Field(
        "auto", description="Objects are brighter or darker than the background."
    )
    threshold: Literal["auto", "global", "local"] = Field(
        "auto", description="One threshold for the field, or one that follows its illumination."
    )
    diameter_px: float | None = Field(
        None, ge=4, description="Typical diameter of an object (default: estimated from the picture),"
    )
    diameter_um: float | None = Field(None, gt=0, description="or in µm; needs a known pixel size.")
    split: bool = Field(True, description="Separate touching objects by a distance watershed.")
    model: str | None = Field(None, description="File or folder with the weights of a foreign segmenter.")
    halo_px: int = Field(
        128,
        ge=0,
        description="What is segmented around each block of a large field; an object cut by it is rejected.",
    )

    @model_validator(mode="after")
    def _one_diameter(self) -> SegmentConfig:
        if self.diameter_px is not None and self.diameter_um is not None:
            raise ValueError("give diameter_px or diameter_um, not both")
        if self.method == "threshold" and self.model is not None:
            raise ValueError("model belongs to a foreign segmenter; method threshold has no weights")
        return self


class CropConfig(Settings):
    """Mode `crop`: the region around each object of a mask, from every channel."""

    kind: Literal["region", "fixed", "bbox", "mask"] = Field(
        "region",
        description="region: a square of `ratio` times the object around it, neighbours left in. fixed: always "
        "`window_px`. bbox: the object's box. mask: its box, pixels outside the object erased.",
    )
    mask_of: Literal["nucleus", "cell"] = Field(
        "nucleus", description="What the mask outlines; decides the default of `ratio`."
    )
    ratio: float | None = Field(
        None,
        gt=0,
        description="Half side of a region in units of the object's longer side: 1 spans twice the object "
        "(default: 2 for nuclei, 1 for cells).",
    )
    window_um: float | None = Field(
        None, gt=0, description="Side of every region in µm, instead of `ratio`; needs a known pixel size."
    )
    window_px: int | None = Field(
        None, ge=8, description="Largest window at full scale (default: the encoder's input)."
    )
    oversize: Literal["cap", "shrink", "reject"] | None = Field(
        None,
        description="A region above `window_px`: its central part, all of it shrunk, or a reject (default: cap for "
        "region and fixed, shrink for bbox and mask).",
    )
    align: Literal["object", "crop"] = Field(
        "object", description="At a border keep the object in the middle, or what is left of the region."
    )
    fill: bool = Field(
        False, description="Enlarge or shrink every region to fill the input, instead of keeping its scale."
    )
    exclude_border: bool = Field(True, description="Reject objects that touch a border of the field.")
    border_margin_px: int = Field(0, ge=0, description="Also reject those that come so close to it.")
    min_area_px: float = Field(16.0, ge=0, description="Smaller objects are rejected,")
    max_area_px: float | None = Field(None, gt=0, description="larger ones too.")
    every_nth: int = Field(1, ge=1, description="Keep only every so many-th object of a field.")
    max_cells: int | None = Field(
        None, ge=1, description="At most so many objects of a field, drawn with `seed`, keyed by image."
    )

    @model_validator(mode="after")
    def _consistent(self) -> CropConfig:
        if self.ratio is not None and self.window_um is not None:
            raise ValueError("give ratio or window_um, not both")
        if self.kind != "region" and (self.ratio is not None or self.window_um is not None):
            raise ValueError(f"ratio and window_um belong to kind region, not {self.kind}")
        if self.max_area_px is not None and self.max_area_px < self.min_area_px:
            raise ValueError(f"max_area_px ({self.max_area_px}) is below min_area_px ({self.min_area_px})")
        return self

    @property
    def used_ratio(self) -> float:
        """The ratio in force."""
        return _MASK_OF_RATIO[self.mask_of] if self.ratio is None else self.ratio

    @property
    def used_oversize(self) -> Literal["cap", "shrink", "reject"]:
        """The policy in force."""
        if self.oversize is not None:
            return self.oversize
        return "cap" if self.kind in ("region", "fixed") else "shrink"
