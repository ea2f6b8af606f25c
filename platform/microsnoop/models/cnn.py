"""The published network: a residual U-Net for one-channel planes, skips added (Microsnoop spec, section 3).

N planes, S side in px (any multiple of 8), widths 32, 64, 128, 256, three 2×2 max-poolings.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from microsnoop.models.blocks import DecoderStage, EncoderStage, check_planes, unit_length

WIDTHS = (32, 64, 128, 256)
STRIDE = 2 ** (len(WIDTHS) - 1)


class CnnEncoder(nn.Module):
    """Planes (N, 1, H, W) float32 -> the four maps, the deepest being (N, 256, H/8, W/8). 2,786,660 parameters."""

    dim = WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        inputs = (1, *WIDTHS[:-1])
        self.stages = nn.ModuleList(EncoderStage(a, b) for a, b in zip(inputs, WIDTHS, strict=True))

    def maps(self, planes: Tensor) -> list[Tensor]:
        """Return the map of every stage, finest first."""
        check_planes(planes, side_multiple=STRIDE)
        maps: list[Tensor] = []
        x = planes
        for stage in self.stages:
            x = stage(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps

    def forward(self, planes: Tensor) -> Tensor:
        """Return the spatial mean of the deepest map, (N, 256) float32, not yet of unit length."""
        return self.maps(planes)[-1].float().mean(dim=(2, 3))


class CnnDecoder(nn.Module):
    """The four maps of the encoder -> reconstruction (N, 1, H, W). 3,813,793 parameters."""

    def __init__(self) -> None:
        super().__init__()
        inputs, outputs = (*WIDTHS[1:], WIDTHS[-1]), WIDTHS
        self.stages = nn.ModuleList(
            DecoderStage(a, b, WIDTHS[-1]) for a, b in zip(inputs, outputs, strict=True)
        )
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        self.conv = nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        style = unit_length(maps[-1].mean(dim=(2, 3)))
        x = maps[-1]
        for i in reversed(range(len(self.stages))):
            if i < len(self.stages) - 1:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.stages[i](x, maps[i], style)
        return self.conv(F.relu(self.norm(x)))


class CnnAutoencoder(nn.Module):
    """Encoder and decoder together, as trained with masked planes. 6,600,453 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = CnnEncoder()
        self.decoder = CnnDecoder()

    def forward(self, planes: Tensor) -> Tensor:
        return self.decoder(self.encoder.maps(planes))


def initialise(model: nn.Module, *, seed: int) -> nn.Module:
    """Set fresh weights: Kaiming-normal fan-in convolutions, zero biases, style layers N(0, 0.01²).

    The published initialisation is unknown; this is the choice of the specification. Deterministic in ``seed``.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                _draw_normal(module.weight, math.sqrt(2.0 / module.weight[0].numel()), generator)
            elif isinstance(module, nn.Linear):
                _draw_normal(module.weight, 0.01, generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
                continue
            else:
                continue
            if module.bias is not None:
                module.bias.zero_()
    return model


def _draw_normal(weight: Tensor, sd: float, generator: torch.Generator) -> None:
    """Fill ``weight`` from N(0, sd²); in float64, because torch draws float32 differently on different CPUs."""
    weight.copy_(torch.empty(weight.shape, dtype=torch.float64).normal_(0.0, sd, generator=generator))
