"""Building blocks of the published network (Microsnoop spec, section 3). Kernel 3, padding 1, biases everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NormReluConv(nn.Module):
    """BatchNorm(a), ReLU, Conv3×3(a -> b)."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(a)
        self.conv = nn.Conv2d(a, b, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x)))


class NormConv(nn.Module):
    """BatchNorm(a), Conv1×1(a -> b): the shortcut of a stage."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(a)
        self.conv = nn.Conv2d(a, b, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class EncoderStage(nn.Module):
    """Two residual pairs: ``h = shortcut(x) + c1(c0(x))``, ``out = h + c3(c2(h))``."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.project = NormConv(a, b)
        self.convs = nn.ModuleList([NormReluConv(a, b), *(NormReluConv(b, b) for _ in range(3))])

    def forward(self, x: Tensor) -> Tensor:
        h = self.project(x) + self.convs[1](self.convs[0](x))
        return h + self.convs[3](self.convs[2](h))


class StyledConv(nn.Module):
    """BatchNorm, ReLU, Conv3×3 of a map to which the image's style is added at every pixel."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.style = nn.Linear(style_dim, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x + self.style(style)[:, :, None, None])))


class DecoderStage(nn.Module):
    """Merge the skip connection (added), then two residual pairs steered by the style."""

    def __init__(self, a: int, b: int, style_dim: int) -> None:
        super().__init__()
        self.project = NormConv(a, b)
        self.merge = NormReluConv(a, b)
        self.styled = nn.ModuleList(StyledConv(b, style_dim) for _ in range(3))

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        h = self.project(x) + self.styled[0](self.merge(x) + skip, style)
        return h + self.styled[2](self.styled[1](h, style), style)


def check_planes(planes: Tensor, *, side_multiple: int) -> None:
    """Refuse what an encoder must not guess about: it never resizes, converts or picks a channel.

    Raises
    ------
    ValueError
        Not float32 (N, 1, H, W) with both sides divisible by ``side_multiple``.
    """
    height, width = planes.shape[-2:] if planes.ndim == 4 else (0, 0)
    if (
        planes.ndim != 4
        or planes.shape[1] != 1
        or height % side_multiple
        or width % side_multiple
        or not height
    ):
        raise ValueError(
            f"planes must be (N, 1, H, W) with sides divisible by {side_multiple}, got {tuple(planes.shape)}"
        )
    if planes.dtype != torch.float32:
        raise ValueError(f"planes must be float32, got {planes.dtype}")


def unit_length(x: Tensor, *, floor: float = 1e-12) -> Tensor:
    """Divide the rows of (N, D) by their L2 norm, at least ``floor``."""
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(floor)
