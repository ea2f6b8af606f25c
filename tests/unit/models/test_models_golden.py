"""The importer and the network against golden values of the published code (seed 1, float32, CPU)."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch

from microsnoop.core.errors import EncoderError
from microsnoop.models.checkpoint import adapt_published, import_checkpoint, load_weights, read_encoder
from microsnoop.models.cnn import CnnAutoencoder
from microsnoop.models.fold import FoldedEncoder
from microsnoop.models.registry import build_encoder

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def imported(_published_tensors, tmp_path_factory):
    """The checkpoint as the authors wrote it ({'model': ...}, names with a leading 'module.'), imported."""
    folder = tmp_path_factory.mktemp("published")
    source = folder / "published.pth"
    torch.save({"model": {f"module.{name}": value for name, value in _published_tensors.items()}}, source)
    path, card = import_checkpoint(source, name="published", folder=folder / "models")
    source.unlink()
    return path, card


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@torch.inference_mode()
def test_network_equals_published_network(imported, golden, relative):
    path, _ = imported
    network = CnnAutoencoder()
    load_weights(network, path.read_bytes())
    network.eval()
    planes = torch.from_numpy(golden["planes"])

    maps = network.encoder.maps(planes)

    assert relative(maps[-1], golden["deep_map"]) < TOLERANCE
    assert relative([float(m.mean()) for m in maps], golden["maps_mean"]) < TOLERANCE
    assert relative([float(m.std(unbiased=False)) for m in maps], golden["maps_std"]) < TOLERANCE
    assert relative(network.decoder(maps), golden["reconstruction"]) < TOLERANCE
    assert relative(unit(network.encoder(planes).numpy()), golden["embedding"]) < TOLERANCE


@torch.inference_mode()
def test_built_encoder_gives_the_published_embedding(imported, golden, relative):
    path, _ = imported
    encoder = build_encoder(read_encoder(path))
    assert isinstance(encoder, FoldedEncoder)
    vectors = encoder(torch.from_numpy(golden["planes"])).numpy()
    assert vectors.dtype == np.float32
    assert relative(unit(vectors), golden["embedding"]) < TOLERANCE


def test_golden_values_notice_a_swapped_pair_of_tensors(published_state, golden, relative):
    """The test above can fail: two layers of one shape exchanged are seen."""
    a = "encoder.downsample.down.res_down_3.conv.conv_1.2.weight"
    b = "encoder.downsample.down.res_down_3.conv.conv_2.2.weight"
    published_state[a], published_state[b] = published_state[b], published_state[a]
    network = CnnAutoencoder()
    network.load_state_dict(adapt_published(published_state))
    with torch.inference_mode():
        vectors = network.eval().encoder(torch.from_numpy(golden["planes"])).numpy()
    assert relative(unit(vectors), golden["embedding"]) > 100 * TOLERANCE


def test_card_of_an_imported_encoder(imported):
    path, card = imported
    assert path.name == "published.safetensors"
    assert (card.name, card.architecture, card.dim, card.planes_in) == ("published", "microsnoop-cnn", 256, 1)
    assert card.value_range == (-1.0, 10.0)
    assert card.trained
    assert card.warning() == ""
    assert "published.pth" in card.description
    for word in ("BSD-3", "authorisation", "202310155113.8"):  # the authors' terms travel with the weights
        assert word in card.licence
    assert read_encoder(path).card == card


def test_every_published_name_is_mapped_to_a_tensor_of_its_own(published_names, published_state):
    assert len(published_names) == len(published_state) == 311
    adapted = adapt_published(published_state)
    expected = CnnAutoencoder().state_dict()
    assert adapted.keys() == expected.keys()
    assert {n: v.shape for n, v in adapted.items()} == {n: v.shape for n, v in expected.items()}
    parameters = dict(CnnAutoencoder().named_parameters())
    assert sum(adapted[name].numel() for name in parameters) == 6_600_453
    assert sum(adapted[name].numel() for name in parameters if name.startswith("encoder.")) == 2_786_660


def test_names_with_and_without_the_prefix_mean_the_same(published_state):
    plain = adapt_published(published_state)
    prefixed = adapt_published({f"module.{name}": value for name, value in published_state.items()})
    assert all(torch.equal(plain[name], prefixed[name]) for name in plain)


@torch.inference_mode()
def test_safetensors_with_the_published_names(published_state, golden, relative, tmp_path):
    source = tmp_path / "copy.safetensors"
    safetensors.torch.save_file(published_state, source)
    path, card = import_checkpoint(source, name="copy", folder=tmp_path / "models")
    vectors = build_encoder(read_encoder(path))(torch.from_numpy(golden["planes"])).numpy()
    assert relative(unit(vectors), golden["embedding"]) < TOLERANCE
    assert card.weights_sha256 == read_encoder(path).card.weights_sha256


@torch.inference_mode()
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_encoder_alone_is_enough(published_state, golden, relative, tmp_path, suffix):
    encoder_only = {name: v for name, v in published_state.items() if name.startswith("encoder.")}
    source = tmp_path / f"encoder{suffix}"
    if suffix == ".pth":
        torch.save(encoder_only, source)
    else:
        safetensors.torch.save_file(encoder_only, source)
    path, _ = import_checkpoint(source, name="encoder", folder=tmp_path / "models")
    vectors = build_encoder(read_encoder(path))(torch.from_numpy(golden["planes"])).numpy()
    assert relative(unit(vectors), golden["embedding"]) < TOLERANCE


def test_decoder_alone_is_refused(published_state):
    decoder_only = {name: v for name, v in published_state.items() if name.startswith("decoder.")}
    with pytest.raises(EncoderError, match="140 problem"):
        adapt_published(decoder_only)
