"""What an encoder declares about itself, and the weights that go with it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Pooling = Literal["mean", "mean_std", "gem"]
_POOLING_NAMES: dict[Pooling, str] = {
    "mean": "mean",
    "mean_std": "mean and standard deviation",
    "gem": "generalised mean (p = 3)",
}


class HeadCard(BaseModel):
    """How the maps of the published network become one vector; the defaults are what the paper does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pooling: Pooling = "mean"
    layers: tuple[int, ...] = Field((3,), description="Encoder stages that are pooled, 0 (finest) to 3.")
    whitened: bool = Field(False, description="The weights hold `head.mean` (D,) and `head.matrix` (D, K).")

    @field_validator("layers")
    @classmethod
    def _stages(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if not layers or sorted(set(layers)) != list(layers) or not set(layers) <= {0, 1, 2, 3}:
            raise ValueError(f"layers must be among 0, 1, 2, 3, ascending, each once; got {list(layers)}")
        return layers

    def describe(self) -> str:
        """Return a sentence for people."""
        maps = ("map " if len(self.layers) == 1 else "maps ") + " and ".join(map(str, self.layers))
        whitened = ", whitened without labels" if self.whitened else ""
        return f"{_POOLING_NAMES[self.pooling]} over space of encoder {maps}{whitened}"


class EncoderCard(BaseModel):
    """The contract of an encoder: what it takes, what it gives, where it comes from.

    An encoder maps planes (N, 1, S, S) float32, scaled to ``value_range``, to vectors (N, dim) float32.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][\w+.-]*$", description="Also a file name: no slashes.")
    architecture: str = Field(description="Which code builds it; a key of registry.ARCHITECTURES.")
    trained: bool = Field(description="False says in every output that its numbers mean little.")
    description: str
    licence: str
    sources: tuple[str, ...] = Field((), description="Data it was trained on, with credits.")
    planes_in: int = Field(1, description="1, or 3: then the plane is repeated inside the encoder.")
    input_px: int = Field(224, description="Input side it was trained at; the default of a run.")
    side_multiple: int = Field(8, description="Input sides must be multiples of this.")
    dim: int
    head: HeadCard | None = Field(None, description="None: the architecture's own pooling, a plain mean.")
    bf16: bool = Field(True, description="Whether bf16 keeps its vectors (cosine to float32 at least 0.999).")
    value_range: tuple[float, float] | None = Field(None, description="Clip after percentile scaling.")
    mean: tuple[float, ...] = Field((), description="Subtracted inside the encoder, if any.")
    std: tuple[float, ...] = Field((), description="Divided by inside the encoder, if any.")
    weights_sha256: str = Field("", description="Of the safetensors file; empty where there are no weights.")
    notes: str = ""

    @field_validator("name")
    @classmethod
    def _no_extension(cls, name: str) -> str:
        if name.endswith(".safetensors"):
            raise ValueError("a name that ends like a file would be taken for a path")
        return name

    def warning(self) -> str:
        """Return a sentence to print wherever an untrained encoder's numbers appear, else nothing."""
        if self.trained:
            return ""
        return f"The encoder {self.name!r} is NOT TRAINED: its numbers are a baseline, not a result."


@dataclass(frozen=True)
class EncoderBundle:
    """A card and its weights as safetensors bytes: all that a worker needs to build the encoder."""

    card: EncoderCard
    weights: bytes


def sha256(data: bytes) -> str:
    """Return the hex SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()
