"""Image modes: which windows of an image (or of a cell's box) are embedded, and at what scale.

rescale: the whole region fills the input. native: it keeps its scale. tile: overlapping windows cover it.
Source: Microsnoop spec, section 9.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.ops.geometry import Box, scaled_px, tile_boxes
from microsnoop.ops.intensity import Scaling


@dataclass(frozen=True)
class Window:
    """One box to embed; ``factor`` None fills the input square, a number scales and pads."""

    box: Box
    factor: float | None
    is_tile: bool = False


@dataclass(frozen=True)
class PixelSample:
    """What the embedder needs of one sample: real pixels (C, h, w) in the file's dtype, and two maps.

    ``box`` is the window in an image of ``image_px`` (height, width); where it reaches over the border,
    ``planes`` is smaller than the box.
    """

    planes: NDArray[Any]
    scaling: Scaling
    box: Box
    image_px: tuple[int, int]
    factor: float | None


def scale_factor(cfg: EmbedConfig, pixel_size_um: float | None) -> float:
    """Return the scale of mode native for an image of this pixel size.

    Raises
    ------
    RowRejected
        ``target_um_per_px`` is set and the pixel size is unknown.
    """
    target = cfg.native.target_um_per_px
    if target is None:
        return cfg.native.rescale_factor
    if pixel_size_um is None:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH,
            "native.target_um_per_px needs the pixel size, which neither the file nor the manifest gives",
        )
    return pixel_size_um / target


def windows(
    region: Box, cfg: EmbedConfig, *, side_px: int, pixel_size_um: float | None, draw_key: str
) -> tuple[list[Window], list[Flag]]:
    """Return the windows of ``region`` in mode ``cfg.mode``, and flags for all of them.

    Parameters
    ----------
    region
        The whole image, or the box of a cell (which may reach over the border).
    side_px
        Side of the encoder's input.
    draw_key
        Identity of the region; with ``cfg.seed`` it decides which tiles are kept, whoever computes it.

    Raises
    ------
    RowRejected
        Too large for native mode, or no pixel size where one is needed.
    """
    if cfg.mode == "rescale":
        return [Window(region, None)], []
    if cfg.mode == "tile":
        return _tiles(region, cfg, 1.0, side_px, draw_key), []
    factor = scale_factor(cfg, pixel_size_um)
    largest = max(region.height_px, region.width_px)
    if scaled_px(largest, factor) <= side_px:
        return [Window(region, factor)], []
    if cfg.native.on_oversize == "tile":
        return _tiles(region, cfg, factor, side_px, draw_key), [Flag.AUTO_TILED]
    raise RowRejected(
        RejectCode.TOO_LARGE_FOR_NATIVE,
        f"{region.height_px} × {region.width_px} px at scale {factor:g} does not fit an input of {side_px} px; "
        "use mode tile or rescale, a larger input_px, or native.on_oversize: tile",
    )


def _tiles(region: Box, cfg: EmbedConfig, factor: float, side_px: int, draw_key: str) -> list[Window]:
    window_px = math.floor(side_px / factor + 1e-9)
    if window_px < 1:
        raise RowRejected(
            RejectCode.TOO_LARGE_FOR_NATIVE,
            f"at scale {factor:g} a single pixel exceeds an input of {side_px} px",
        )
    inner = tile_boxes(region.height_px, region.width_px, window_px=window_px, overlap=cfg.tile.overlap)
    if cfg.tile.rate < 1:
        keep = math.ceil(cfg.tile.rate * len(inner) - 1e-9)  # 0.28 × 25 is 7, also in floating point
        chosen = keyed_generator(cfg.seed, "tile", draw_key).choice(len(inner), keep, replace=False)
        inner = [inner[i] for i in np.sort(chosen)]
    return [
        Window(Box(region.y0_px + b.y0_px, region.x0_px + b.x0_px, b.height_px, b.width_px), factor, True)
        for b in inner
    ]


def keyed_generator(seed: int, purpose: str, obs_id: str) -> np.random.Generator:
    """Return the generator of one random choice: the same wherever and whenever that choice is made."""
    text = f"{seed}\0{purpose}\0{obs_id}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))
