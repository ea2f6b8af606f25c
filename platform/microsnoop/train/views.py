"""From tiles to network inputs on the device: crop, rotate, mirror, scale intensities, vary them.

N views, T side of a tile, S side of the input. Every random choice comes from a CPU generator, drawn before any
pixel is touched: the same seed gives the same crops on every device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from microsnoop.core.pretrain_config import ViewConfig

_LOW, _HIGH = 0.01, 0.99
_RANKED_PIXELS = (
    4096  # percentiles of a crop are taken on this many pixels of a regular grid: a sort of all is slow
)
_OVERSAMPLE_ABOVE = 1.5


@dataclass(frozen=True)
class ViewDraw:
    """The random choices of N views; tensors (N,) or (N, 2), float32."""

    centre: Tensor  # of the crop, (y, x), -1 to 1 over the tile
    half: Tensor  # half the crop's side, in the same units
    angle: Tensor  # radians
    mirror: Tensor  # 1 or -1
    gamma: Tensor
    gain: Tensor
    noise: Tensor  # standard deviation

    def to(self, device: torch.device) -> ViewDraw:
        """Return the same choices on a device."""
        return ViewDraw(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def draw_views(count: int, cfg: ViewConfig, generator: torch.Generator) -> ViewDraw:
    """Draw the choices of ``count`` views."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    half = _log_between(uniform(), cfg.scale)
    room = (1 - half).clamp_min(0)[:, None]
    turns = {"any": 2 * math.pi * uniform(), "right_angles": (uniform() * 4).floor() * (math.pi / 2)}
    jitter = [uniform() < cfg.jitter_probability for _ in range(2)]
    return ViewDraw(
        centre=(2 * uniform(2) - 1) * room,
        half=half,
        angle=turns.get(cfg.rotate, torch.zeros(count)),
        mirror=torch.where(uniform() < (0.5 if cfg.flip else 0.0), -1.0, 1.0),
        gamma=torch.where(jitter[0], _log_between(uniform(), cfg.gamma), 1.0),
        gain=torch.where(jitter[1], _log_between(uniform(), cfg.gain), 1.0),
        noise=cfg.noise_sd * uniform(),
    )


def fixed_views(count: int, cfg: ViewConfig) -> ViewDraw:
    """Return the middle of each tile at the typical scale, upright and unvaried: to watch progress on."""
    one = torch.ones(count)
    half = math.sqrt(cfg.scale[0] * cfg.scale[1]) * one
    return ViewDraw(torch.zeros(count, 2), half, 0 * one, one, one, one, 0 * one)


def make_views(tiles: Tensor, draw: ViewDraw, cfg: ViewConfig, *, side_px: int) -> Tensor:
    """Cut, scale and vary.

    Parameters
    ----------
    tiles
        (N, T, T) uint8 on the device.
    draw
        The choices, on the same device.
    side_px
        Side of the input.

    Returns
    -------
    (N, 1, S, S) float32: 0 at the first percentile of the crop, 1 at the 99th, clipped to ``cfg.clip``.
    """
    crops = crop(tiles, draw, side_px=side_px, largest=cfg.scale[1])
    planes = scale_intensity(crops, min_span=cfg.min_span)
    planes = planes.sign() * planes.abs().pow(_column(draw.gamma)) * _column(draw.gain)
    if cfg.noise_sd:
        planes = planes + torch.randn_like(planes) * _column(draw.noise)
    return planes.clamp(*cfg.clip)


def crop(tiles: Tensor, draw: ViewDraw, *, side_px: int, largest: float) -> Tensor:
    """Cut turned squares out of tiles (N, T, T) uint8; what lies outside is mirrored. (N, 1, S, S) float32."""
    cos, sin = draw.half * draw.angle.cos(), draw.half * draw.angle.sin()
    across = torch.stack([cos * draw.mirror, -sin, draw.centre[:, 1]], dim=1)
    down = torch.stack([sin * draw.mirror, cos, draw.centre[:, 0]], dim=1)
    shrinks = largest * tiles.shape[-1] / side_px > _OVERSAMPLE_ABOVE
    fine_px = side_px * 2 if shrinks else side_px  # bilinear sampling alone would skip pixels
    grid = F.affine_grid(
        torch.stack([across, down], dim=1), [len(tiles), 1, fine_px, fine_px], align_corners=False
    )
    pixels = F.grid_sample(
        tiles[:, None].float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return F.avg_pool2d(pixels, 2) if shrinks else pixels


def scale_intensity(planes: Tensor, *, min_span: float) -> Tensor:
    """Make the 1st and 99th percentiles of each plane (N, 1, S, S) 0 and 1; a span below ``min_span`` counts as it."""
    flat = planes.flatten(1)
    ranked = flat[:, :: max(1, flat.shape[1] // _RANKED_PIXELS)].sort(dim=1).values
    low, high = (_quantile(ranked, q) for q in (_LOW, _HIGH))
    return (planes - _column(low)) / _column((high - low).clamp_min(min_span))


def _quantile(ranked: Tensor, q: float) -> Tensor:
    """Return the linear-interpolated quantile of sorted rows (N, n); torch.quantile refuses large inputs."""
    position = q * (ranked.shape[1] - 1)
    below = math.floor(position)
    above = min(below + 1, ranked.shape[1] - 1)
    return torch.lerp(ranked[:, below], ranked[:, above], position - below)


def _log_between(uniform: Tensor, bounds: tuple[float, float]) -> Tensor:
    low, high = (math.log(bound) for bound in bounds)
    return (low + (high - low) * uniform).exp()


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
