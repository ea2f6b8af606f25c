"""The network against the table of the specification (section 3), a NumPy twin, and its folded form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from microsnoop.models.blocks import (
    DecoderStage,
    EncoderStage,
    NormConv,
    NormReluConv,
    StyledConv,
    unit_length,
)
from microsnoop.models.cnn import CnnAutoencoder, CnnDecoder, CnnEncoder, initialise
from microsnoop.models.fold import FoldedEncoder


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter and statistic a value that shows when it is left out."""
    generator = torch.Generator().manual_seed(seed)
    initialise(module, seed=seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(-1.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.5, generator=generator)
                part.running_mean.normal_(0, 1.0, generator=generator)
                part.running_var.uniform_(0.2, 3.0, generator=generator)
            elif isinstance(part, nn.Conv2d | nn.Linear):
                part.bias.normal_(0, 0.3, generator=generator)
    return module.eval()


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.shape == expected.shape
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max())


ENCODER_TABLE = [  # a, b, BC1, BRC a->b, BRC b->b, all
    (1, 32, 66, 322, 9_312, 28_324),
    (32, 64, 2_176, 18_560, 37_056, 131_904),
    (64, 128, 8_448, 73_984, 147_840, 525_952),
    (128, 256, 33_280, 295_424, 590_592, 2_100_480),
]
DECODER_TABLE = [  # a, b, BC1, BRC a->b, BRC b->b, Lin, all; D0 to D3
    (64, 32, 2_208, 18_592, 9_312, 8_224, 73_408),
    (128, 64, 8_512, 74_048, 37_056, 16_448, 243_072),
    (256, 128, 33_408, 295_552, 147_840, 32_896, 871_168),
    (256, 256, 66_304, 590_592, 590_592, 65_792, 2_626_048),
]


@pytest.mark.parametrize("i", range(4))
def test_parameters_of_an_encoder_stage(i):
    a, b, shortcut, first, other, total = ENCODER_TABLE[i]
    stage = CnnEncoder().stages[i]
    assert count(stage.project) == shortcut == count(NormConv(a, b))
    assert [count(conv) for conv in stage.convs] == [first, other, other, other]
    assert count(NormReluConv(a, b)) == first
    assert count(stage) == total == count(EncoderStage(a, b))


@pytest.mark.parametrize("i", range(4))
def test_parameters_of_a_decoder_stage(i):
    a, b, shortcut, first, other, linear, total = DECODER_TABLE[i]
    stage = CnnDecoder().stages[i]
    assert count(stage.project) == shortcut
    assert count(stage.merge) == first
    assert [count(conv.style) for conv in stage.styled] == [linear] * 3
    assert [count(conv) for conv in stage.styled] == [other + linear] * 3
    assert count(StyledConv(b, 256)) == other + linear
    assert count(stage) == total == count(DecoderStage(a, b, 256))


def test_parameters_of_the_network():
    network = CnnAutoencoder()
    assert count(network.encoder) == 2_786_660
    assert count(network.decoder) == 3_813_793
    assert count(network.decoder.norm) + count(network.decoder.conv) == 97
    assert count(network) == 6_600_453


def test_constants_of_the_building_units():
    for module in CnnAutoencoder().modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum, module.affine) == (1e-5, 0.1, True)
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            assert module.stride == (1, 1)
            assert (module.kernel_size, module.padding) in [((3, 3), (1, 1)), ((1, 1), (0, 0))]


@torch.inference_mode()
def test_shapes_at_224():
    network = initialise(CnnAutoencoder(), seed=0).eval()
    plane = torch.randn(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    maps = network.encoder.maps(plane)
    assert [tuple(m.shape) for m in maps] == [
        (1, 32, 224, 224),
        (1, 64, 112, 112),
        (1, 128, 56, 56),
        (1, 256, 28, 28),
    ]
    reconstruction = network.decoder(maps)
    assert reconstruction.shape == plane.shape
    assert bool(torch.isfinite(reconstruction).all())
    assert torch.equal(network.encoder(plane), maps[-1].mean(dim=(2, 3)))


@torch.inference_mode()
def test_sides_that_are_not_square():
    network = initialise(CnnAutoencoder(), seed=0).eval()
    planes = torch.randn(2, 1, 24, 40, generator=torch.Generator().manual_seed(0))
    assert tuple(network.encoder.maps(planes)[-1].shape) == (2, 256, 3, 5)
    assert tuple(network.encoder(planes).shape) == (2, 256)
    assert torch.equal(network(planes), network.decoder(network.encoder.maps(planes)))
    assert network(planes).shape == planes.shape


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 60, 64), (1, 1, 64, 60), (1, 3, 64, 64), (1, 0, 64, 64), (1, 64, 64), (64, 64), (1, 1, 7, 8)],
)
def test_other_shapes_raise(shape):
    for network in (CnnEncoder().eval(), CnnAutoencoder().eval()):
        with pytest.raises(ValueError, match="divisible by 8"):
            network(torch.zeros(shape))


# -- a twin in NumPy, with loops ------------------------------------------------------------------------------


def np_norm(x, norm: nn.BatchNorm2d):
    weight, bias, mean, var = (
        t.detach().double().numpy()[:, None, None]
        for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def np_conv(x, conv: nn.Conv2d):
    weight, bias = conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()
    reach = weight.shape[-1] // 2
    height, width = x.shape[1:]
    out = np.zeros((len(weight), height, width))
    for y in range(height):
        for z in range(width):
            for dy in range(-reach, reach + 1):
                for dz in range(-reach, reach + 1):
                    if 0 <= y + dy < height and 0 <= z + dz < width:
                        out[:, y, z] += weight[:, :, dy + reach, dz + reach] @ x[:, y + dy, z + dz]
    return out + bias[:, None, None]


def np_unit(x, unit: NormReluConv):
    return np_conv(np.maximum(np_norm(x, unit.norm), 0), unit.conv)


def np_stage(x, stage: EncoderStage):
    c0, c1, c2, c3 = stage.convs
    h = np_conv(np_norm(x, stage.project.norm), stage.project.conv) + np_unit(np_unit(x, c0), c1)
    return h + np_unit(np_unit(h, c2), c3)


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3)])
def test_stage_e0_equals_its_numpy_twin(height, width, rng):
    stage = randomise(EncoderStage(1, 32), seed=3)
    planes = rng.standard_normal((2, 1, height, width))
    expected = np.stack([np_stage(plane, stage) for plane in planes])
    got = stage(torch.from_numpy(planes.astype(np.float32)))
    assert tuple(got.shape) == (2, 32, height, width)
    assert relative(got, torch.from_numpy(expected)) < 1e-5


@torch.inference_mode()
def test_first_two_stages_equal_their_numpy_twin(rng):
    encoder = randomise(CnnEncoder(), seed=4)
    plane = rng.standard_normal((1, 8, 16))
    fine = np_stage(plane, encoder.stages[0])
    pooled = fine.reshape(32, 4, 2, 8, 2).max(axis=(2, 4))
    coarse = np_stage(pooled, encoder.stages[1])
    maps = encoder.maps(torch.from_numpy(plane[None].astype(np.float32)))
    assert relative(maps[0][0], torch.from_numpy(fine)) < 1e-5
    assert relative(maps[1][0], torch.from_numpy(coarse)) < 1e-5


@torch.inference_mode()
def test_style_is_added_at_every_pixel_before_the_normalisation(rng):
    unit = randomise(StyledConv(6, 4), seed=5)
    x, style = rng.standard_normal((6, 4, 5)), rng.standard_normal(4)
    shift = unit.style.weight.double().numpy() @ style + unit.style.bias.double().numpy()
    expected = np_unit(x + shift[:, None, None], unit)
    got = unit(torch.from_numpy(x[None]).float(), torch.from_numpy(style[None]).float())
    assert relative(got[0], torch.from_numpy(expected)) < 1e-5


def test_unit_length_of_zeros_is_zeros():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-20, 0.0]])
    got = unit_length(rows)
    assert torch.allclose(got[0], torch.tensor([0.6, 0.8]))
    assert torch.equal(got[1], torch.zeros(2))
    assert bool(torch.isfinite(got).all())


# -- folding --------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folded_encoder_equals_the_encoder(seed):
    encoder = randomise(CnnEncoder(), seed=seed)
    planes = torch.randn(2, 1, 32, 48, generator=torch.Generator().manual_seed(seed))
    before = encoder(planes)
    folded = FoldedEncoder(encoder)
    assert relative(folded(planes), before) < 1e-5
    assert torch.equal(encoder(planes), before)  # the original is not changed
    assert not any(part.training for part in folded.modules())
    # 2 of 5 normalisations a stage are left
    assert sum(isinstance(part, nn.BatchNorm2d) for part in folded.modules()) == 8


@torch.inference_mode()
def test_folding_survives_extreme_statistics():
    """Dead channels (weight 0) and variances near zero, as real training leaves them."""
    encoder = randomise(CnnEncoder(), seed=7)
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight[::5] = 0.0
            part.running_var[1::5] = 1e-6
            part.weight[1::5] *= 1e-3
    planes = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert relative(FoldedEncoder(encoder)(planes), encoder(planes)) < 1e-5


def test_only_an_encoder_in_eval_mode_is_folded():
    with pytest.raises(ValueError, match="eval mode"):
        FoldedEncoder(CnnEncoder())


# -- fresh weights --------------------------------------------------------------------------------------------


def test_initialise_is_deterministic_and_leaves_the_global_generator_alone():
    torch.manual_seed(123)
    models = [CnnAutoencoder() for _ in range(3)]
    state = torch.get_rng_state()
    first, again, other = (initialise(m, seed=s).state_dict() for m, s in zip(models, (0, 0, 1), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["encoder.stages.0.convs.0.conv.weight"], other["encoder.stages.0.convs.0.conv.weight"]
    )


def test_initialise_follows_the_specification():
    model = initialise(randomise(CnnAutoencoder(), seed=9), seed=0)
    for name, part in model.named_modules():
        if isinstance(part, nn.Conv2d):
            expected = math.sqrt(2.0 / part.weight[0].numel())
        elif isinstance(part, nn.Linear):
            expected = 0.01
        elif isinstance(part, nn.BatchNorm2d):
            assert torch.equal(part.weight, torch.ones_like(part.weight))
            assert torch.equal(part.running_mean, torch.zeros_like(part.weight))
            assert torch.equal(part.running_var, torch.ones_like(part.weight))
            expected = None
        else:
            continue
        assert not part.bias.any()
        if expected is not None and part.weight.numel() > 1:
            n = part.weight.numel()
            got = float(part.weight.detach().square().mean().sqrt())
            # the standard error of a standard deviation is 1 / sqrt(2 n)
            assert abs(got / expected - 1) < 5 / math.sqrt(2 * n), name
            assert abs(float(part.weight.detach().mean())) < 5 * expected / math.sqrt(n), name
