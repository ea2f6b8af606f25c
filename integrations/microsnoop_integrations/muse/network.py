"""The network of MUSE: an encoder for each modality, one joint layer, a decoder for each modality.

Source: Bao et al. 2022 as released; multimodal spec, section 2. Legend: B cells of a batch, f features of a modality,
H hidden width, Z width of the joint latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

# a normal distribution cut off at two standard deviations has this standard deviation
_TRUNCATED_STD = 0.87962566103423978


class MuseOutput(NamedTuple):
    """What the network says of B cells; the lists have one entry a modality."""

    latent: Tensor  # [B, Z]
    hidden: list[Tensor]  # [B, H]
    decoded: list[Tensor]  # [B, f]


class Encoder(nn.Module):
    """``tanh(W1 elu(W0 x + b0) + b1)``: (B, f) to (B, H)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(features, hidden)
        self.second = nn.Linear(hidden, hidden)

    def forward(self, values: Tensor) -> Tensor:
        return torch.tanh(self.second(nn.functional.elu(self.first(values))))


class Decoder(nn.Module):
    """A square selection without bias, then ELU, tanh and a linear layer: (B, Z) to (B, f)."""

    def __init__(self, latent: int, hidden: int, features: int) -> None:
        super().__init__()
        self.selection = nn.Linear(latent, latent, bias=False)
        self.first = nn.Linear(latent, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, features)

    def forward(self, latent: Tensor) -> Tensor:
        inner = nn.functional.elu(self.first(self.selection(latent)))
        return self.last(torch.tanh(self.second(inner)))


class MuseNetwork(nn.Module):
    """Two or more modalities of the same cells, and one latent that all of them are decoded from."""

    def __init__(self, features: Sequence[int], *, hidden: int = 128, latent: int = 100) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder(f, hidden) for f in features)
        self.joint = nn.Linear(hidden * len(features), latent)
        self.decoders = nn.ModuleList(Decoder(latent, hidden, f) for f in features)

    def encode(self, values: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the latent (B, Z) and the hidden layer of each modality (B, H)."""
        hidden = [encoder(v) for encoder, v in zip(self.encoders, values, strict=True)]
        return self.joint(torch.cat(hidden, dim=1)), hidden

    def forward(self, values: Sequence[Tensor]) -> MuseOutput:
        latent, hidden = self.encode(values)
        return MuseOutput(latent, hidden, [decoder(latent) for decoder in self.decoders])

    def widths(self) -> list[int]:
        """Return the number of features of each modality."""
        return [encoder.get_parameter("first.weight").shape[1] for encoder in self.encoders]

    def selections(self) -> list[Tensor]:
        """Return the square matrix of each decoder: (Z, Z)."""
        return [decoder.get_parameter("selection.weight") for decoder in self.decoders]

    def joint_parts(self) -> list[Tensor]:
        """Return the columns of the joint layer that belong to each modality: (Z, H)."""
        return list(self.joint.weight.chunk(len(self.encoders), dim=1))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Draw new weights: variance scaling by fan-in, N(0, 1) for the selections, biases 0."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif name.endswith("selection.weight"):
                parameter.normal_(generator=generator)
            else:
                std = parameter.shape[1] ** -0.5 / _TRUNCATED_STD
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)
