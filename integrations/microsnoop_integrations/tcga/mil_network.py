"""The networks: tiles of a slide become one vector by attention (or mean, or maximum), and that a class.

Source: Lazard et al. 2022 as released; gated attention: Ilse et al. 2018; slides spec, section 7. Legend: B slides of a
batch, N tiles, F features, H heads, K classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from microsnoop.core.mil_config import MilSettings


class MilOutput(NamedTuple):
    """What the network says of B slides."""

    log_probabilities: Tensor  # [B, K]
    attention: Tensor  # [B, H, N]; sums to 1 over real tiles, 0 where a tile is padding


class Attention(nn.Module):
    """``w2_h · dropout(tanh(W1_h x + b1_h)) + b2_h``: scores (B, H, N) of tiles (B, N, F).

    ``gated`` multiplies by ``sigmoid(V_h x + c_h)`` before the dropout.
    """

    def __init__(self, features: int, width: int, *, heads: int, dropout: float, gated: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} units of attention cannot be split over {heads} heads")
        self.heads = heads
        self.hidden = nn.Linear(features, width)
        self.gate = nn.Linear(features, width) if gated else None
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(heads))
        bound = (width // heads) ** -0.5  # as a linear layer of that many inputs begins
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, tiles: Tensor) -> Tensor:
        units = torch.tanh(self.hidden(tiles))
        if self.gate is not None:
            units = units * torch.sigmoid(self.gate(tiles))
        units = self.dropout(units).unflatten(-1, (self.heads, -1))
        return torch.einsum("bnhu,hu->bhn", units, self.weight) + self.bias[:, None]


class MilNetwork(nn.Module):
    """Bags (B, N, F) and which of their tiles are real, bool (B, N), to classes.

    Parameters
    ----------
    features, classes
        F and K.
    settings
        Pooling, heads, widths, dropout; where all tiles are used (``tiles`` is None) LayerNorm stands for BatchNorm.
    """

    def __init__(self, features: int, classes: int, settings: MilSettings) -> None:
        super().__init__()
        s = settings
        self.features, self.classes, self.pooling = features, classes, s.pooling
        self.attention: Attention | None = None
        if s.pooling in ("attention", "gated"):
            gated = s.pooling == "gated"
            self.attention = Attention(
                features, s.attention_width, heads=s.heads, dropout=s.attention_dropout, gated=gated
            )
        self.heads = s.heads if self.attention is not None else 1
        norm = nn.LayerNorm if s.tiles is None else nn.BatchNorm1d
        widths = [self.heads * features, *[s.hidden] * (s.blocks + 1)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(s.dropout), norm(after)]
        self.classifier = nn.Sequential(*layers, nn.Linear(widths[-1], classes), nn.LogSoftmax(dim=-1))

    def forward(self, tiles: Tensor, real: Tensor) -> MilOutput:
        """Raise ValueError where a bag has no real tile."""
        if not bool(real.any(dim=1).all()):
            raise ValueError("a bag without tiles has no class")
        slides, attention = self._pool(tiles, real)
        return MilOutput(self.classifier(slides), attention)

    def tile_log_probabilities(self, tiles: Tensor) -> Tensor:
        """Judge each tile (N, F) as if it were the whole slide: (N, K)."""
        return self.classifier(tiles.repeat(1, self.heads))

    def _pool(self, tiles: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vector of each slide (B, H F) and the attention (B, H, N)."""
        if self.pooling == "max":
            values, best = tiles.masked_fill(~real[..., None], -torch.inf).max(dim=1)
            # the share of the slide's vector that comes from each tile
            ones = torch.full_like(values, 1 / self.features)
            share = tiles.new_zeros(tiles.shape[:2]).scatter_add_(1, best, ones)
            return values, share[:, None]
        equal = tiles.new_zeros(len(tiles), 1, tiles.shape[1])
        scores = equal if self.attention is None else self.attention(tiles)
        weights = torch.softmax(scores.masked_fill(~real[:, None], -torch.inf), dim=-1)
        # padding may hold anything, even what is not finite
        filled = tiles.masked_fill(~real[..., None], 0.0)
        return torch.einsum("bhn,bnf->bhf", weights, filled).flatten(1), weights


def count_parameters(network: nn.Module) -> int:
    """Return how many numbers are learned."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
