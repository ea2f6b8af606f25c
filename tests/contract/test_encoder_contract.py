"""The contract every encoder keeps, ours or foreign (Microsnoop spec, section 13), on 32 fixed planes.

The planes are crops of the sample images, because noise says little about half precision. Point 5 of the
contract (several workers) is tested with Ray, in ``tests/ray``.

After new weights, write the golden vectors anew and look at the difference:
``MICROSNOOP_UPDATE_GOLDEN=1 pytest tests/contract -k golden``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from microsnoop.core.errors import ConfigError, EncoderError, MissingDependency
from microsnoop.models import registry
from microsnoop.models.card import sha256
from microsnoop.models.device import DevicePlan, DeviceRunner, resolve_precision
from microsnoop.models.embedder import Embedder, EmbedderOptions
from microsnoop.ops import Box, box_around, cut, normalise, place, plane_scaling
from microsnoop.ops.geometry import apply_placement
from microsnoop.ops.modes import PixelSample

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "encoder_vectors.json"
SIDE = 64
SAME = 1e-5
NAMES = list(registry._BUILT_IN)


def need(name: str) -> SimpleNamespace:
    """Card, weights and network of an encoder; the test is skipped, loudly, where its package is missing."""
    try:
        bundle = registry.load_encoder(name)
    except MissingDependency as error:
        pytest.skip(f"NOT TESTED: {name}: {error}")
    return SimpleNamespace(
        name=name, bundle=bundle, card=bundle.card, module=registry.build_encoder(bundle), side=SIDE
    )


@pytest.fixture(scope="module", params=NAMES)
def encoder(request) -> SimpleNamespace:
    return need(request.param)


@pytest.fixture(scope="module", autouse=True)
def _same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # steady beside other jobs; the networks here are small
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Put back what a plan with two threads sets: sums of other threads have other last bits."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def crops() -> list[np.ndarray]:
    """32 crops (1, 128, 128) uint16: two of each of the first 16 sample images."""
    paths = sorted((ROOT / "examples" / "nuclei" / "images").glob("*.tif"))[:16]
    images = [tifffile.imread(path)[None] for path in paths]
    return [np.array(cut(image, Box(y, x, 128, 128))) for image in images for y, x in ((60, 100), (250, 300))]


@pytest.fixture(scope="module")
def planes(encoder, crops) -> torch.Tensor:
    """The crops as this encoder wants them, (32, 1, S, S), by the plain operations."""
    whole = place(Box(0, 0, 128, 128), (128, 128), side_px=SIDE, factor=None)
    ready = [
        apply_placement(normalise(crop, plane_scaling(crop), clip=encoder.card.value_range), whole)
        for crop in crops
    ]
    return torch.from_numpy(np.stack(ready))


@torch.inference_mode()
def unit(module: nn.Module, planes: torch.Tensor) -> torch.Tensor:
    vectors = module(planes)
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)


@pytest.fixture(scope="module")
def together(encoder, planes) -> torch.Tensor:
    """Unit vectors of all 32 planes in one batch."""
    return unit(encoder.module, planes)


def embedder(encoder, *, precision: str = "fp32", side: int = SIDE, **options) -> Embedder:
    settings = {"input_px": side, "clip": encoder.card.value_range} | options
    return Embedder(encoder.bundle, DevicePlan("cpu", precision, 16, threads=1), EmbedderOptions(**settings))


def whole_image(pixels: np.ndarray) -> PixelSample:
    """A sample of all pixels (C, H, W), rescaled to the input."""
    size = pixels.shape[1:]
    return PixelSample(pixels, plane_scaling(pixels), Box(0, 0, *size), size, None)


# -- declared -------------------------------------------------------------------------------------------------


def test_the_card_declares_the_encoder(encoder):
    card = encoder.card
    assert card.name == encoder.name
    assert card.licence
    assert card.description
    assert card.planes_in in (1, 3)
    assert card.input_px % card.side_multiple == 0
    assert len(card.mean) == len(card.std) == (card.planes_in if card.mean else 0)
    assert card.value_range is not None
    assert card.value_range[0] < card.value_range[1]
    assert card.weights_sha256 == (sha256(encoder.bundle.weights) if encoder.bundle.weights else "")
    assert bool(encoder.bundle.weights) == any(True for _ in encoder.module.parameters())
    assert bool(card.warning()) != card.trained


# -- 1: eval mode ---------------------------------------------------------------------------------------------


def test_every_part_is_in_eval_mode(encoder):
    assert isinstance(encoder.module, nn.Module)
    assert [name for name, part in encoder.module.named_modules() if part.training] == []


@torch.inference_mode()
def test_embedding_changes_nothing_in_the_encoder(encoder, planes):
    """Batch statistics would creep in here if a part were in training mode."""
    before = {name: value.clone() for name, value in encoder.module.state_dict().items()}
    encoder.module(planes[:4])
    after = encoder.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# -- 2, 3: batches and order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8])
def test_the_batch_a_plane_is_in_does_not_matter(encoder, planes, together, size):
    starts = range(0, 32, size) if size > 1 else (0, 7, 31)
    for start in starts:
        got = unit(encoder.module, planes[start : start + size])
        assert float((got - together[start : start + size]).abs().max()) <= SAME


def test_order_of_the_batch_does_not_matter(encoder, planes, together):
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    assert float((unit(encoder.module, planes[order]) - together[order]).abs().max()) <= SAME


def test_same_batch_twice_is_equal_to_the_bit(encoder, planes, together):
    assert torch.equal(unit(encoder.module, planes), together)


def test_bright_neighbours_do_not_matter(encoder, planes, together):
    """A plane beside extreme ones: batch statistics would show at once."""
    batch = torch.cat([planes[:1], torch.full_like(planes[:7], encoder.card.value_range[1])])
    got = unit(encoder.module, batch)[:1]
    assert float((got - together[:1]).abs().max()) <= SAME


def test_two_copies_of_an_encoder_agree_to_the_bit(encoder, planes):
    again = registry.build_encoder(registry.load_encoder(encoder.name))
    assert torch.equal(unit(encoder.module, planes[:4]), unit(again, planes[:4]))


def test_the_runner_gives_what_the_module_gives(encoder, planes, together, two_threads):
    """Memory layout, batches and threads of a worker: 32 planes by 5, on two threads."""
    runner = DeviceRunner(registry.build_encoder(encoder.bundle), DevicePlan("cpu", "fp32", 5, threads=2))
    vectors = runner(planes)
    got = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    assert float((got - together).abs().max()) <= SAME


# -- 4: half precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_bf16_agrees_with_float32(name, crops):
    encoder = need(name)
    if not encoder.card.bf16:  # then it never runs in bf16
        assert resolve_precision("cpu", "auto", allowed=False) == "fp32"
        with pytest.raises(ConfigError, match="change in bf16"):
            resolve_precision("cuda", "bf16", allowed=False)
        return
    side = SIDE
    samples = [whole_image(crop) for crop in crops[::8]]
    exact, half = (
        embedder(encoder, precision=precision, side=side).embed(samples)[:, 0]
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == np.float32
    cosine = (exact.astype(np.float64) * half).sum(axis=1)
    assert cosine.min() >= 0.999, cosine
    assert cosine.mean() >= 0.9999, cosine


# -- 6: output and golden vectors -----------------------------------------------------------------------------


def test_vectors_have_the_promised_form(encoder, crops):
    samples = [whole_image(np.concatenate([a, b])) for a, b in zip(crops[:8:2], crops[1:8:2], strict=True)]
    got = embedder(encoder).embed(samples)
    assert got.shape == (4, 2, encoder.card.dim)
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert np.abs(np.linalg.norm(got.astype(np.float64), axis=2) - 1).max() <= 1e-5
    raw = embedder(encoder, l2=False).embed(samples)
    length = np.linalg.norm(raw, axis=2, keepdims=True)
    assert np.abs(length - 1).max() > 1e-3
    assert np.abs(raw / length - got).max() <= SAME


def test_vectors_tell_planes_apart(encoder, together):
    """An encoder that answers the same to everything would pass all other tests."""
    cosine = (together @ together.T).fill_diagonal_(-1)
    assert float(cosine.max()) < 1 - 1e-6


def test_golden_vectors(encoder, crops, together):
    chosen = [0, 9, 18, 31]
    pixels = hashlib.sha256(b"".join(crops[i].astype("<u2").tobytes() for i in chosen)).hexdigest()
    stored = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    if os.environ.get("MICROSNOOP_UPDATE_GOLDEN"):
        stored[encoder.name] = {
            "weights_sha256": encoder.card.weights_sha256,
            "crops_sha256": pixels,
            "input_px": SIDE,
            "vectors": [[round(float(v), 7) for v in together[i, :8]] for i in chosen],
        }
        text = json.dumps(dict(sorted(stored.items())), indent=2)
        one_line = re.sub(r"\[([^\[\]]*)\]", lambda row: f"[{' '.join(row[1].split())}]", text)
        GOLDEN.write_text(one_line + "\n")
        pytest.skip("golden vectors written")
    golden = stored[encoder.name]
    # the weights of `untrained` are drawn here, and their last bits are not the same on every CPU
    if encoder.name != "untrained":
        assert encoder.card.weights_sha256 == golden["weights_sha256"], (
            "other weights: see the top of this file"
        )
    got = together[chosen, :8].numpy()
    assert np.abs(got - np.array(golden["vectors"])).max() <= 1e-4, (
        "the sample images differ" if pixels != golden["crops_sha256"] else "the encoder differs"
    )


@torch.inference_mode()
def test_the_papers_pooling_of_the_same_weights(encoder, crops, planes):
    """256 means of the last map, for every encoder of the published architecture, whatever its own head."""
    if encoder.card.architecture != "microsnoop-cnn":
        with pytest.raises(EncoderError, match="pooling: paper is not defined"):
            registry.load_encoder(encoder.name, pooling="paper")
        return
    bundle = registry.load_encoder(encoder.name, pooling="paper")
    assert (bundle.card.dim, bundle.card.head) == (256, None)
    expected = registry.build_cnn(encoder.bundle)(planes[:4]).double().numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    paper = SimpleNamespace(bundle=bundle, card=bundle.card)
    got = embedder(paper).embed([whole_image(crop) for crop in crops[:4]])[:, 0]
    assert np.abs(got - expected).max() <= SAME
    own = embedder(encoder).embed([whole_image(crops[0])])
    same = own.shape[2] == 256 and np.abs(own[0] - got[:1]).max() <= SAME
    assert same == (encoder.card.head is None)


# -- 7: wrong input -------------------------------------------------------------------------------------------


def wrong(what: str, side: int) -> torch.Tensor:
    shapes = {
        "three planes": (2, 3, side, side),
        "two planes": (2, 2, side, side),
        "no plane axis": (2, side, side),
        "side not a multiple": (2, 1, side + 4, side + 4),
        "one side not a multiple": (2, 1, side, side + 4),
    }
    if what in shapes:
        return torch.rand(shapes[what])
    dtype = {"float64": torch.float64, "uint8": torch.uint8}[what]
    return torch.ones(2, 1, side, side, dtype=dtype)


WHAT = [
    "three planes",
    "two planes",
    "no plane axis",
    "side not a multiple",
    "one side not a multiple",
    "float64",
    "uint8",
]


@torch.inference_mode()
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_input_raises_and_is_never_resized(name, what):
    encoder = need(name)
    with pytest.raises((ValueError, TypeError, RuntimeError, EncoderError)):
        encoder.module(wrong(what, SIDE))


def test_the_embedder_refuses_other_sides(encoder):
    for side in (SIDE + 4, encoder.card.side_multiple + 1):
        with pytest.raises(EncoderError, match=f"multiple of {encoder.card.side_multiple}"):
            embedder(encoder, side=side)


def test_every_multiple_is_a_valid_side(encoder, crops):
    smallest = max(encoder.card.side_multiple, 16)
    got = embedder(encoder, side=smallest).embed([whole_image(crops[0])])
    assert got.shape == (1, 1, encoder.card.dim)
    assert np.isfinite(got).all()


# -- pixels that occur ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "offset"), [(3, 0), (1, 5000), (2, 117)])
def test_affine_intensity_does_not_matter(encoder, crops, gain, offset):
    """Brightness and contrast of the camera: N(a x + b) = N(x) for a > 0."""
    chosen = [crops[0], crops[13], crops[26]]
    assert all(gain * int(crop.max()) + offset < 2**16 for crop in chosen)
    changed = [(gain * crop.astype(np.int64) + offset).astype(np.uint16) for crop in chosen]
    run = embedder(encoder)
    same = run.embed([whole_image(crop) for crop in chosen])
    assert np.abs(run.embed([whole_image(crop) for crop in changed]) - same).max() <= SAME


def test_the_dtype_of_the_file_does_not_matter(encoder, crops):
    small = (crops[3] // 64).astype(np.uint8)
    run = embedder(encoder)
    first, *others = run.embed([whole_image(small.astype(dtype)) for dtype in ("u1", "u2", "i4", "f4", "f8")])
    assert all(np.abs(other - first).max() <= SAME for other in others)


def test_small_planes_embed(encoder, crops):
    image = crops[0]
    samples = [
        whole_image(image[:, :2, :3]),
        whole_image(image[:, :5, :1]),
        PixelSample(image[:, :9, :9], plane_scaling(image[:, :9, :9]), Box(0, 0, 9, 9), (9, 9), 1.0),
    ]
    got = embedder(encoder).embed(samples)
    assert np.isfinite(got).all()
    assert np.abs(np.linalg.norm(got, axis=2) - 1).max() <= 1e-5


def test_cells_at_the_border_embed(encoder, crops):
    image = crops[0]
    boxes = [box_around(y, x, size_px=SIDE) for y, x in ((0, 0), (127, 3), (64, 127))]
    samples = [PixelSample(cut(image, b), plane_scaling(cut(image, b)), b, (128, 128), 1.0) for b in boxes]
    assert np.isfinite(embedder(encoder).embed(samples)).all()


def test_a_constant_plane_embeds_or_is_marked(encoder, crops):
    """All zeros after scaling. Without weights or biases zeros have no length: then NaN, never a wrong vector."""
    constant, one_pixel = np.full((1, 20, 30), 777, np.uint16), np.full((1, 1, 1), 5, np.uint8)
    assert plane_scaling(constant).constant.all()
    got = embedder(encoder).embed([whole_image(constant), whole_image(crops[0]), whole_image(one_pixel)])
    assert np.isfinite(got[1]).all()
    if encoder.name in ("untrained", "pixels16"):
        assert np.isnan(got[[0, 2]]).all()
    else:
        assert np.isfinite(got[[0, 2]]).all()
        assert np.abs(got[0] - got[2]).max() <= SAME
