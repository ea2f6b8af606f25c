"""Fold batch normalisation into convolutions where that is exact, for inference only.

In eval mode a BatchNorm is an affine map per channel. Behind a convolution, or before a 1×1 one, it merges
into the weights; what is left are the two normalisations a stage needs in front of its padded 3×3
convolutions. Outputs agree to float rounding and a CPU gains a third.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from microsnoop.models.blocks import EncoderStage, NormReluConv, check_planes
from microsnoop.models.card import HeadCard
from microsnoop.models.cnn import STRIDE, CnnEncoder
from microsnoop.models.head import Head


class _FoldedStage(nn.Module):
    def __init__(self, stage: EncoderStage) -> None:
        super().__init__()
        self.project = _fold_before(stage.project.norm, stage.project.conv)
        c0, c1, c2, c3 = (cast(NormReluConv, conv) for conv in stage.convs)
        self.norm0, self.norm2 = c0.norm, c2.norm
        self.conv0, self.conv1 = _fold_behind(c0.conv, c1.norm), c1.conv
        self.conv2, self.conv3 = _fold_behind(c2.conv, c3.norm), c3.conv

    def forward(self, x: Tensor) -> Tensor:
        h = self.project(x) + self.conv1(F.relu(self.conv0(F.relu(self.norm0(x)))))
        return h + self.conv3(F.relu(self.conv2(F.relu(self.norm2(h)))))


class FoldedEncoder(nn.Module):
    """A trained :class:`CnnEncoder` with its normalisations folded, and a head; eval only.

    With the default head, the paper's, it gives what the encoder gives.
    """

    def __init__(self, encoder: CnnEncoder, head: Head | None = None) -> None:
        super().__init__()
        if encoder.training:
            raise ValueError("only an encoder in eval mode can be folded")
        self.stages = nn.ModuleList(_FoldedStage(cast(EncoderStage, stage)) for stage in encoder.stages)
        self.head = head or Head(HeadCard())
        self.eval()

    def forward(self, planes: Tensor) -> Tensor:
        check_planes(planes, side_multiple=STRIDE)
        x, pooled = planes, []
        for i, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 2) if i else x)
            if i in self.head.layers:
                pooled.append(self.head.pool(x))
        return self.head(pooled)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


@torch.no_grad()
def _fold_behind(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution equal to ``norm(conv(x))``."""
    scale, shift = _affine(norm)
    assert conv.bias is not None
    return _like(conv, conv.weight.double() * scale[:, None, None, None], conv.bias.double() * scale + shift)


@torch.no_grad()
def _fold_before(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """Return one 1×1 convolution equal to ``conv(norm(x))``; exact because nothing is padded."""
    scale, shift = _affine(norm)
    assert conv.bias is not None
    weight = conv.weight.double()
    return _like(conv, weight * scale[None, :, None, None], conv.bias.double() + weight[:, :, 0, 0] @ shift)


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    padding = (int(conv.padding[0]), int(conv.padding[1]))
    kernel = (conv.kernel_size[0], conv.kernel_size[1])
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, kernel, padding=padding)
    folded.weight.copy_(weight)
    folded.bias.copy_(bias)  # type: ignore[union-attr]
    return folded
