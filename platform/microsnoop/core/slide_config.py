"""Settings of whole slides: how they are read, where their tissue is, how it is cut into tiles.

Source: slides spec, sections 1 to 4. ``compat`` holds what Lazard et al. 2022 did otherwise.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from microsnoop.core.settings import Settings

MPP_RANGE_UM = (0.05, 5.0)


class ReadingConfig(Settings):
    """How slides are opened."""

    reader: Literal["auto", "openslide", "tiff", "plain"] = Field(
        "auto",
        description="auto: by content. openslide: vendor formats (extra `slides`). tiff: tiled TIFF and OME-TIFF. "
        "plain: PNG or JPEG of at most 200 megapixels.",
    )
    mpp_table: str | None = Field(
        None, description="A CSV file with columns slide_id and mpp, which go before what the slides say."
    )
    allow_objective_guess: bool = Field(
        False,
        description="Without any µm per pixel take them from the objective (40 -> 0.25, 20 -> 0.5, 10 -> 1.0); "
        "flagged `mpp_guessed`.",
    )
    cache_mb: int = Field(64, ge=1, le=512, description="Decoded pieces of a slide kept in memory, in MB.")
    max_bad_tiles: float = Field(
        0.01,
        ge=0,
        le=1,
        description="A slide with a larger share of unreadable tiles is rejected as a whole.",
    )


class TissueConfig(Settings):
    """How the tissue mask is made."""

    mask_mpp: float = Field(8.0, gt=0, description="µm a pixel of the mask.")
    method: Literal["otsu", "saturation", "user"] = Field(
        "otsu",
        description="otsu: grey value. saturation: 1 - S of HSV. user: a mask of your own from `user_masks`.",
    )
    user_masks: str | None = Field(
        None,
        description="Folder with `<slide_id>.png` (tissue is not 0) or `<slide_id>.geojson` (level-0 pixels).",
    )
    border: float = Field(
        1 / 30, ge=0, lt=0.5, description="Frame that is background, as a share of each side."
    )
    range: tuple[float, float] = Field(
        (0.1, 0.98), description="Grey values in [0, 1] between which the threshold is looked for."
    )
    t_max: float = Field(
        0.92, gt=0, le=1, description="The threshold is never higher, so that grainy glass is no tissue."
    )
    morph_um: float = Field(16.0, ge=0, description="Side of the square of closing and opening, in µm.")
    min_area_um2: float = Field(50_000.0, ge=0, description="Smaller pieces of tissue are removed.")
    fill_holes_um2: float = Field(20_000.0, ge=0, description="Smaller holes are filled.")
    pen_filter: bool = Field(False, description="Take green, blue and black ink for background.")
    whole_slide: bool = Field(False, description="No mask: everything is tissue.")

    @model_validator(mode="after")
    def _consistent(self) -> TissueConfig:
        low, high = self.range
        if not 0 <= low < high <= 1:
            raise ValueError(f"range must be low < high within 0 to 1, got {low} and {high}")
        if self.t_max <= low:
            raise ValueError(f"t_max ({self.t_max}) must be above the lower end of range ({low})")
        if (self.method == "user") != (self.user_masks is not None):
            raise ValueError("method user needs user_masks, and user_masks needs method user")
        return self


class TilingConfig(Settings):
    """How tissue is cut into tiles."""

    tile_px: int = Field(224, ge=8, description="Side of a tile in pixels.")
    target_mpp: float = Field(
        0.5, ge=MPP_RANGE_UM[0], le=50, description="µm a pixel of a tile; the paper does not tell its own."
    )
    overlap_px: int = Field(0, ge=0, description="Overlap of neighbouring tiles, in pixels of a tile.")
    min_tissue: float = Field(
        0.75, ge=0, le=1, description="Tiles with a smaller share of tissue are left out."
    )
    max_tiles: int | None = Field(
        None, ge=1, description="At most so many tiles of a slide, drawn with `seed`, keyed by slide_id."
    )
    min_tiles: int = Field(10, ge=1, description="A slide with fewer tiles is rejected (`too_few_tiles`).")
    allow_upsample: bool = Field(
        False, description="Also tile slides scanned more coarsely than `target_mpp`."
    )
    seed: int = Field(0, ge=0, description="Of the draw for `max_tiles`.")
    min_sharpness: float | None = Field(
        None, ge=0, description="Leave out tiles whose variance of the Laplacian (grey 0 to 255) is lower."
    )
    max_saturated: float | None = Field(
        None, ge=0, le=1, description="Leave out tiles with a larger share of pixels at 0 or 255 in a colour."
    )

    @model_validator(mode="after")
    def _consistent(self) -> TilingConfig:
        if self.overlap_px >= self.tile_px:
            raise ValueError(f"overlap_px ({self.overlap_px}) must be below tile_px ({self.tile_px})")
        return self


class SlideCompat(Settings):
    """What Lazard et al. 2022 did otherwise; off unless a comparison with them is wanted."""

    mask: bool = Field(
        False, description="Mask on the lowest-resolution level, squares of 2 × 2, no area filter."
    )
    level: int | None = Field(
        None, ge=0, description="Tiles from this level of the pyramid, whatever its µm per pixel are."
    )


class SlideConfig(Settings):
    """Everything that decides which tiles a slide gives and what their pixels are."""

    reading: ReadingConfig = Field(default_factory=ReadingConfig, description="How slides are opened.")
    tissue: TissueConfig = Field(default_factory=TissueConfig, description="How tissue is found.")
    tiling: TilingConfig = Field(default_factory=TilingConfig, description="How tiles are laid.")
    compat: SlideCompat = Field(default_factory=SlideCompat, description="Choices of Lazard et al.")

    @model_validator(mode="after")
    def _consistent(self) -> SlideConfig:
        if self.compat.mask and self.tissue.method == "user":
            raise ValueError("compat.mask makes a mask of its own; tissue.method user brings one")
        return self
