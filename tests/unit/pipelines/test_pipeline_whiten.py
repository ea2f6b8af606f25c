"""A head fitted on a folder of images, end to end: crops as at inference, files, card, embedding."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError, EncoderError, InputError
from microsnoop.io.pool import open_pool
from microsnoop.models.card import HeadCard
from microsnoop.models.device import DevicePlan
from microsnoop.models.embedder import Embedder
from microsnoop.models.registry import load_encoder
from microsnoop.ops import Box, plane_scaling
from microsnoop.ops.modes import PixelSample
from microsnoop.pipelines.cluster import Resources
from microsnoop.pipelines.embed import embedder_options, prepare
from microsnoop.pipelines.whiten import WhitenOptions, sample_crops, whiten

SMALL = WhitenOptions(pooling="mean", layers=(0,), crops=48, input_px=16)


@pytest.fixture
def pool(tmp_path: Path, examples: Path) -> Path:
    """Corners of three real fields, in two subfolders, one with three channels."""
    folder = tmp_path / "my images"
    for k, path in enumerate(sorted((examples / "images").glob("*.tif"))[:3]):
        (folder / f"set{k % 2}").mkdir(parents=True, exist_ok=True)
        corner = tifffile.imread(path)[:96, :128]
        corner = np.stack([corner] * 3) if k == 1 else corner
        tifffile.imwrite(folder / f"set{k % 2}" / path.name, corner, photometric="minisblack")
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MICROSNOOP_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_crops_are_what_the_encoder_sees_at_inference(pool: Path) -> None:
    card = load_encoder("untrained").card.model_copy(update={"value_range": (-0.5, 0.9)})
    batches = list(sample_crops(open_pool(str(pool)), card, SMALL, side_px=32, batch=20))
    assert [batch.shape for batch in batches] == [(20, 1, 32, 32), (20, 1, 32, 32), (8, 1, 32, 32)]
    crops = np.concatenate(batches)
    assert crops.dtype == np.float32
    assert crops.min() >= -0.5 - 1e-6
    assert crops.max() <= 0.9 + 1e-6
    assert (crops.reshape(48, -1).std(axis=1) > 0).all()
    again = np.concatenate(list(sample_crops(open_pool(str(pool)), card, SMALL, side_px=32, batch=7)))
    assert np.array_equal(again, crops)  # whatever the batch
    other = dataclasses.replace(SMALL, seed=1)
    assert not np.array_equal(
        np.concatenate(list(sample_crops(open_pool(str(pool)), card, other, side_px=32, batch=48))), crops
    )


def test_a_crop_equals_the_embedders_own_preparation(pool: Path) -> None:
    """The same window through the embedder: percentiles on real pixels, clip, placement."""
    from microsnoop.ops.crops import draw_crop

    card = load_encoder("untrained").card
    options = dataclasses.replace(SMALL, crops=12)
    images = open_pool(str(pool))
    crops = np.concatenate(list(sample_crops(images, card, options, side_px=32, batch=12)))
    rng = np.random.default_rng(0)
    from microsnoop.ops import cut
    from microsnoop.ops.crops import source_weights

    drawn = np.sort(rng.choice(3, 12, p=source_weights(images.sources)))
    cfg = EmbedConfig.model_validate({"input": {"folder": "x"}, "run_dir": "r", "input_px": 32})
    embedder = Embedder(
        load_encoder("untrained"), DevicePlan("cpu", "fp32", 4, 1), embedder_options(cfg, card)
    )
    for crop, planes in zip(crops, images.planes(drawn.tolist()), strict=True):
        plane = planes[rng.integers(len(planes))][None]
        box = draw_crop(96, 128, rng)
        pixels = cut(plane, box)
        sample = PixelSample(pixels, plane_scaling(pixels), box, (96, 128), None)
        ready = embedder._prepare([sample], 1)[0].numpy()
        assert np.abs(ready - crop).max() < 1e-5


def test_whiten_writes_an_encoder_that_can_be_used(pool: Path, models: Path) -> None:
    seen: list[int] = []
    path, card = whiten("untrained", str(pool), name="mine", options=SMALL, on_crops=seen.append)
    assert path == models / "mine.safetensors"
    assert seen[-1] == 48
    assert card.head == HeadCard(pooling="mean", layers=(0,), whitened=True)
    assert (card.name, card.input_px, card.trained, card.licence) == ("mine", 16, False, "Apache-2.0")
    assert card.notes.endswith(
        "Head fitted without labels on 48 crops of 3 images in my images (2 sources) at 16 px, ridge 0.02, seed 0."
    )
    bundle = load_encoder("mine")
    assert bundle.card == card
    cfg = EmbedConfig.model_validate(
        {"input": {"folder": str(pool), "channels": [0]}, "run_dir": "r", "encoder": "mine"}
    )
    image = np.random.default_rng(0).integers(0, 999, (1, 40, 30)).astype(np.uint16)
    embedder = Embedder(bundle, DevicePlan("cpu", "fp32", 4, 1), embedder_options(cfg, card))
    got = embedder.embed([PixelSample(image, plane_scaling(image), Box(0, 0, 40, 30), (40, 30), None)])
    assert got.shape == (1, 1, card.dim)
    assert np.linalg.norm(got) == pytest.approx(1, abs=1e-5)


def test_the_width_of_a_run_follows_the_pooling(pool: Path, models: Path) -> None:
    _, card = whiten("untrained", str(pool), name="mine", options=SMALL)
    raw = {"input": {"folder": str(pool / "set0")}, "run_dir": "r", "encoder": "mine"}
    resources = Resources(2, 0, 8 * 2**30, local=True)
    own, paper = (
        prepare(EmbedConfig.model_validate(raw | {"pooling": pooling}), resources=resources)
        for pooling in ("encoder", "paper")
    )
    assert (own.identity.dim, paper.identity.dim) == (card.dim, 256)
    assert own.bundle.card.dim == card.dim
    assert paper.bundle.card.dim == 256
    assert own.identity.processing_key != paper.identity.processing_key
    lines = paper.identity.differences(own.identity.to_json())
    assert "processing.pooling: the run has None, now it is 'paper'" in lines
    assert f"dim: the run has {card.dim}, now it is 256" in lines


def test_the_same_seed_gives_the_same_file(pool: Path, models: Path, tmp_path: Path) -> None:
    one, same, other = (
        whiten(
            "untrained",
            str(pool),
            name="x",
            folder=tmp_path / str(k),
            options=dataclasses.replace(SMALL, seed=s),
        )[1]
        for k, s in enumerate((0, 0, 1))
    )
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crops": 32}, "32 crops are too few for vectors of 32 numbers"),
        ({"ridge": -1.0}, "ridge"),
        ({"dim": 0}, "dim"),
        ({"input_px": 20}, "multiple of 8"),
        ({"layers": (4,)}, "do not describe a head"),
    ],
)
def test_options_out_of_range(pool: Path, models: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        whiten("untrained", str(pool), name="x", options=dataclasses.replace(SMALL, **changes))
    assert not models.exists()


def test_refusals(pool: Path, models: Path) -> None:
    for encoder, name, message in (
        ("untrained", "untrained", "cannot be called 'untrained'"),
        ("untrained", "x.safetensors", "cannot be called"),
        ("untrained", "a/b", "cannot be an encoder's name"),
        ("pixels16", "x", "not microsnoop-cnn"),
        ("nothing", "x", "no encoder named"),
    ):
        with pytest.raises(EncoderError, match=message):
            whiten(encoder, str(pool), name=name, options=SMALL)
    np.save(pool / "bad.npy", np.full((20, 20), np.nan, np.float32))
    with pytest.raises(InputError, match="not finite"):
        whiten("untrained", str(pool), name="x", options=SMALL)
    assert not models.exists()
