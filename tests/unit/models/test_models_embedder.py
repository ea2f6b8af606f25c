"""The embedder against its plain twin: ``ops.normalise`` then ``ops.geometry.apply_placement``, in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from microsnoop.core.errors import EncoderError
from microsnoop.models import embedder as embedder_module
from microsnoop.models.card import EncoderBundle, EncoderCard
from microsnoop.models.device import DevicePlan
from microsnoop.models.embedder import Embedder, EmbedderOptions
from microsnoop.ops import Box, cut, normalise, place, plane_scaling, tile_boxes
from microsnoop.ops.geometry import apply_placement
from microsnoop.ops.intensity import Scaling
from microsnoop.ops.modes import PixelSample

SIDE = 32


class Flatten(nn.Module):
    """The encoder that returns its input, and a 1 so that a plane of zeros has a length too."""

    def forward(self, planes):
        return F.pad(planes.flatten(1), (0, 1), value=1.0)


@pytest.fixture
def make(monkeypatch):
    """Build an Embedder around any module; by default the one that returns the planes."""

    def build(
        module: nn.Module | None = None, *, dim: int = SIDE * SIDE + 1, batch: int = 5, **options
    ) -> Embedder:
        module = module or Flatten()
        monkeypatch.setattr(embedder_module, "build_encoder", lambda _: module)
        card = EncoderCard(
            name="stub",
            architecture="stub",
            trained=False,
            description="",
            licence="",
            dim=dim,
            side_multiple=8,
        )
        settings = {"input_px": SIDE, "clip": (-1.0, 10.0), "l2": False} | options
        return Embedder(
            EncoderBundle(card, b""), DevicePlan("cpu", "fp32", batch, 1), EmbedderOptions(**settings)
        )

    return build


def image(rng, dtype, height: int, width: int, channels: int = 2) -> np.ndarray:
    """Pixels as files hold them: low contrast on an offset, a few bright ones."""
    low, contrast = {"u1": (20, 60), "u2": (900, 4000), "i4": (100_000, 50_000), "f4": (-3.0, 7.5)}[dtype]
    values = low + contrast * rng.random((channels, height, width)) ** 3
    values[:, 0, -1] = low + 3 * contrast
    return values.astype(dtype)


def sample_of(pixels, box: Box, factor, *, pad: str = "zero") -> PixelSample:
    part = cut(pixels, box)
    part = np.array(part)
    part.flags.writeable = False
    return PixelSample(part, plane_scaling(part, pad=pad), box, pixels.shape[1:], factor)


def oracle(sample: PixelSample, options: EmbedderOptions) -> np.ndarray:
    placement = place(
        sample.box,
        sample.image_px,
        side_px=options.input_px,
        factor=sample.factor,
        antialias=options.antialias,
        reflect=options.reflect,
    )
    mapped = normalise(sample.planes, sample.scaling, clip=options.clip)
    level = (
        sample.scaling.pad_level if options.clip is None else np.clip(sample.scaling.pad_level, *options.clip)
    )
    return apply_placement(mapped, placement, pad_level=level)


def planes_of(embedder: Embedder, samples) -> np.ndarray:
    got = embedder.embed(samples)
    assert np.all(got[..., -1] == 1.0)
    return got[..., :-1].reshape(*got.shape[:2], SIDE, SIDE)


WINDOWS = {  # name -> (height, width) of the image, box, factor
    "whole, rescaled": ((96, 128), Box(0, 0, 96, 128), None),
    "whole, enlarged": ((11, 7), Box(0, 0, 11, 7), None),
    "whole, one row": ((1, 20), Box(0, 0, 1, 20), None),
    "one pixel": ((1, 1), Box(0, 0, 1, 1), None),
    "square of the input's side": ((SIDE, SIDE), Box(0, 0, SIDE, SIDE), None),
    "cell inside": ((96, 128), Box(30, 40, 25, 31), None),
    "cell over the top left": ((96, 128), Box(-6, -9, 40, 40), None),
    "cell over the bottom right": ((96, 128), Box(70, 100, 40, 40), None),
    "cell over the left, own side": ((96, 128), Box(10, -5, SIDE, SIDE), None),
    "cell larger than its image": ((20, 24), Box(-10, -10, 48, 48), None),
    "native": ((20, 30), Box(0, 0, 20, 30), 1.0),
    "native, odd": ((21, 27), Box(0, 0, 21, 27), 1.0),
    "native, shrunk": ((50, 40), Box(0, 0, 50, 40), 0.6),
    "native, grown": ((9, 14), Box(0, 0, 9, 14), 2.1),
    "native, over the border": ((96, 128), Box(-3, 110, 28, 28), 1.0),
    "native, over the border, shrunk": ((96, 128), Box(80, -7, 40, 40), 0.75),
    "tile": ((96, 128), Box(13, 64, SIDE, SIDE), 1.0),
    "tile, last": ((96, 128), Box(96 - SIDE, 128 - SIDE, SIDE, SIDE), 1.0),
    "tile, scaled": ((96, 128), Box(2, 3, 64, 64), 0.5),
}
SETTINGS = [
    {},
    {"antialias": False},
    {"reflect": True},
    {"reflect": True, "antialias": False},
    {"clip": None},
    {"clip": (0.0, 1.0)},
]


@pytest.mark.parametrize("pad", ["zero", "edge_median"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_mixed_batch_equals_the_oracle(make, rng, settings, pad):
    """All windows, four dtypes, in one call and in any order."""
    embedder = make(**settings)
    samples = [
        sample_of(image(rng, dtype, *size), box, factor, pad=pad)
        for dtype in ("u1", "u2", "i4", "f4")
        for size, box, factor in WINDOWS.values()
    ]
    samples = [samples[i] for i in rng.permutation(len(samples))]
    got = planes_of(embedder, samples)
    assert got.dtype == np.float32
    for sample, planes in zip(samples, got, strict=True):
        expected = oracle(sample, embedder.options)
        assert planes.shape == expected.shape == (2, SIDE, SIDE)
        scale = max(1.0, float(np.abs(expected).max()))
        assert np.abs(planes - expected).max() < 1e-5 * scale, (
            sample.box,
            sample.factor,
            sample.planes.dtype,
        )


def test_levels_of_padding_are_where_the_image_is_not(make, rng):
    """Corner by corner, without the placement matrices: native copies pixels and nothing else."""
    pixels = image(rng, "u2", 96, 128)
    sample = sample_of(pixels, Box(-4, 118, 20, 20), 1.0, pad="edge_median")
    assert sample.planes.shape == (2, 16, 10)
    (planes,) = planes_of(make(), [sample])
    scaled = np.clip(normalise(sample.planes, sample.scaling), -1, 10)
    expected = (
        np.broadcast_to(sample.scaling.pad_level[:, None, None], (2, SIDE, SIDE)).astype(np.float32).copy()
    )
    # the window of 20 px is centred in 32 px (6 before); its first 4 rows and last 10 columns are no image
    expected[:, 10:26, 6:16] = scaled
    assert np.abs(planes - expected).max() < 1e-6
    assert np.abs(sample.scaling.pad_level).min() > 1e-3


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("side", [20, 32, 50, 96])
def test_rescaling_a_square_equals_torch_interpolate(make, rng, side, antialias):
    sample = sample_of(image(rng, "f4", side, side), Box(0, 0, side, side), None)
    scaled = torch.from_numpy(normalise(sample.planes, sample.scaling, clip=(-1, 10)))[None]
    expected = F.interpolate(scaled, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=antialias)
    got = planes_of(make(antialias=antialias), [sample])
    assert np.abs(got - expected.numpy()).max() < 2e-5


def test_rescaling_an_oblong_pads_the_far_side(make, rng):
    sample = sample_of(image(rng, "u1", 12, 31), Box(0, 0, 12, 31), None)
    scaled = torch.from_numpy(normalise(sample.planes, sample.scaling, clip=(-1, 10)))
    square = F.pad(scaled, (0, 0, 9, 10))[None]
    expected = F.interpolate(square, (SIDE, SIDE), mode="bilinear", align_corners=False)
    assert np.abs(planes_of(make(), [sample]) - expected.numpy()).max() < 2e-5


@pytest.mark.parametrize("size", [(20, 30), (9, 12), (1, 5), (32, 32)])
def test_reflect_mirrors_the_image(make, rng, size):
    sample = sample_of(image(rng, "u2", *size), Box(0, 0, *size), 1.0)
    scaled = normalise(sample.planes, sample.scaling, clip=(-1, 10))
    for axis, have in ((1, size[0]), (2, size[1])):
        before = (SIDE - have) // 2
        widths = [(0, 0)] * 3
        widths[axis] = (before, SIDE - have - before)
        scaled = np.pad(scaled, widths, mode="reflect" if have > 1 else "edge")
    (got,) = planes_of(make(reflect=True), [sample])
    assert np.abs(got - scaled).max() < 1e-5


def test_tiles_of_an_image_are_its_pixels(make, rng):
    pixels = image(rng, "u2", 50, 70)
    scaling = plane_scaling(pixels)
    tiles = [
        PixelSample(cut(pixels, box), scaling, box, (50, 70), 1.0)
        for box in tile_boxes(50, 70, window_px=SIDE)
    ]
    got = planes_of(make(clip=None), tiles)
    whole = normalise(pixels, scaling)
    for sample, planes in zip(tiles, got, strict=True):
        y, x = sample.box.y0_px, sample.box.x0_px
        assert np.abs(planes - whole[:, y : y + SIDE, x : x + SIDE]).max() < 1e-6 * np.abs(whole).max()


# -- precision ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "offset", "contrast"),
    [
        ("u2", 65_000, 1),
        ("u2", 60_000, 3),
        ("i4", 2_000_000_000, 40),
        ("i4", -2_000_000_000, 40),
        ("f4", 1e6, 4.0),
        ("u1", 250, 2),
    ],
)
def test_low_contrast_on_a_large_offset_keeps_its_digits(make, rng, dtype, offset, contrast):
    pixels = (offset + np.rint(contrast * rng.random((2, SIDE, SIDE)))).astype(dtype)
    sample = sample_of(pixels, Box(0, 0, SIDE, SIDE), 1.0)
    exact = (pixels.astype(np.float64) - sample.scaling.offset[:, None, None]) / sample.scaling.span[
        :, None, None
    ]
    (got,) = planes_of(make(clip=None), [sample])
    assert np.abs(got - exact).max() < 1e-6


@pytest.mark.parametrize("fraction", [0.0, 1e-3, 0.37, 0.999999])
def test_fractional_offsets_of_uint16_planes_are_exact(make, fraction):
    pixels = np.arange(64_000, 64_000 + SIDE * SIDE, dtype=np.uint16).reshape(1, SIDE, SIDE)
    offset, span = np.array([64_100 + fraction]), np.array([0.731])
    scaling = Scaling(offset, span, np.zeros(1), np.zeros(1, bool), ())
    sample = PixelSample(pixels, scaling, Box(0, 0, SIDE, SIDE), (SIDE, SIDE), 1.0)
    exact = (pixels.astype(np.float64) - offset) / span
    (got,) = planes_of(make(clip=None), [sample])
    assert np.all(np.abs(got - exact) <= 1e-5 + 4e-7 * np.abs(exact))


def test_other_byte_order_is_read_right(make, rng):
    pixels = image(rng, "u2", SIDE, SIDE)
    little, big = (sample_of(pixels.astype(d), Box(0, 0, SIDE, SIDE), 1.0) for d in ("<u2", ">u2"))
    got = planes_of(make(), [big, little])
    assert np.abs(got[0] - got[1]).max() < 1e-6


@pytest.mark.parametrize("clip", [(0.0, 1.0), (-1.0, 3.0)])
def test_padding_keeps_to_the_clip_range(make, clip):
    """A black frame of one pixel, as stitched images have, lies below the first percentile of a large plane."""
    pixels = np.random.default_rng(0).integers(1000, 1200, (1, 900, 600)).astype(np.uint16)
    pixels[:, [0, -1], :] = 0
    pixels[:, :, [0, -1]] = 0
    sample = sample_of(pixels, Box(0, 0, 900, 600), None, pad="edge_median")
    (planes,) = planes_of(make(clip=clip), [sample])
    assert clip[0] - 1e-6 <= planes.min() <= planes.max() <= clip[1] + 1e-6


# -- rows and channels ----------------------------------------------------------------------------------------


class PerPlane(nn.Module):
    """Planes -> (mean, maximum) of each."""

    def forward(self, planes):
        return torch.stack([planes.mean(dim=(1, 2, 3)), planes.amax(dim=(1, 2, 3))], dim=1)


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_rows_and_channels_keep_their_places(make, batch):
    """Each plane carries a number of its own; shapes are mixed so that samples are grouped inside."""
    samples = []
    for n in range(9):
        side = (8, 16, 24)[n % 3]
        pixels = np.stack([np.full((side, side), 1 + 10 * n + c, np.float32) for c in range(3)])
        scaling = Scaling(np.zeros(3), np.ones(3), np.zeros(3), np.zeros(3, bool), ())
        samples.append(PixelSample(pixels, scaling, Box(0, 0, side, side), (side, side), None))
    got = make(PerPlane(), dim=2, batch=batch, clip=None).embed(samples)
    assert got.shape == (9, 3, 2)
    assert np.allclose(got[:, :, 1], 1 + 10 * np.arange(9)[:, None] + np.arange(3)[None, :], atol=1e-4)


def test_pixels_and_scaling_are_not_changed(make, rng):
    samples = [sample_of(image(rng, d, 40, 50), Box(-5, 0, 30, 30), None) for d in ("u1", "u2", "i4", "f4")]
    before = [(s.planes.copy(), s.scaling.offset.copy(), s.scaling.pad_level.copy()) for s in samples]
    embedder = make()
    first = embedder.embed(samples)
    assert np.array_equal(first, embedder.embed(samples))
    for sample, (planes, offset, level) in zip(samples, before, strict=True):
        assert np.array_equal(sample.planes, planes)
        assert np.array_equal(sample.scaling.offset, offset)
        assert np.array_equal(sample.scaling.pad_level, level)


def test_samples_of_different_channel_counts_are_refused(make, rng):
    one, two = (sample_of(image(rng, "u1", 20, 20, c), Box(0, 0, 20, 20), None) for c in (1, 2))
    with pytest.raises(ValueError, match=r"same channels, got counts \[1, 2\]"):
        make().embed([two, one])


def test_no_samples_are_refused(make):
    with pytest.raises(ValueError, match="counts"):
        make().embed([])


def test_a_window_too_large_for_native_is_refused(make, rng):
    sample = sample_of(image(rng, "u1", 40, 20), Box(0, 0, 40, 20), 1.0)
    with pytest.raises(ValueError, match="does not fit"):
        make().embed([sample])


def test_input_side_must_be_a_multiple(make):
    with pytest.raises(EncoderError, match="multiple of 8, got 36"):
        make(input_px=36)


def test_another_dimension_than_promised_is_refused(make, rng):
    sample = sample_of(image(rng, "u1", 20, 20), Box(0, 0, 20, 20), None)
    with pytest.raises(EncoderError, match=r"returned \(2, 2\).*dim = 5"):
        make(PerPlane(), dim=5).embed([sample])


# -- lengths --------------------------------------------------------------------------------------------------


class Scripted(nn.Module):
    """Plane filled with k -> the k-th row of a table."""

    table = torch.tensor(
        [[3.0, 4.0], [0.0, 0.0], [torch.nan, 1.0], [torch.inf, 1.0], [-torch.inf, torch.nan], [0.0, -2.0]]
    )

    def forward(self, planes):
        return self.table[planes[:, 0, 4, 4].long()]


def scripted_samples():
    scaling = Scaling(np.zeros(1), np.ones(1), np.zeros(1), np.zeros(1, bool), ())
    return [
        PixelSample(np.full((1, SIDE, SIDE), k, np.uint8), scaling, Box(0, 0, SIDE, SIDE), (SIDE, SIDE), 1.0)
        for k in range(6)
    ]


def test_vectors_without_length_come_back_as_nan(make):
    got = make(Scripted(), dim=2, l2=True, clip=None).embed(scripted_samples())[:, 0]
    assert np.allclose(got[[0, 5]], [[0.6, 0.8], [0.0, -1.0]])
    assert np.isnan(got[1:5]).all()


def test_without_l2_vectors_keep_their_length_and_bad_ones_are_nan(make):
    got = make(Scripted(), dim=2, l2=False, clip=None).embed(scripted_samples())[:, 0]
    assert np.array_equal(got[[0, 5]], [[3.0, 4.0], [0.0, -2.0]])
    assert np.isnan(got[1:5]).all()


def test_one_bad_channel_leaves_the_others(make):
    scaling = Scaling(np.zeros(3), np.ones(3), np.zeros(3), np.zeros(3, bool), ())
    planes = np.stack([np.full((SIDE, SIDE), k, np.uint8) for k in (0, 2, 5)])
    sample = PixelSample(planes, scaling, Box(0, 0, SIDE, SIDE), (SIDE, SIDE), 1.0)
    (got,) = make(Scripted(), dim=2, l2=True, clip=None).embed([sample])
    assert np.isnan(got).any(axis=1).tolist() == [False, True, False]
