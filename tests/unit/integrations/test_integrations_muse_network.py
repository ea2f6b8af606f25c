"""The network of MUSE against its published size, a twin in NumPy, and the distributions its weights are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from microsnoop_integrations.muse.network import MuseNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(features: list[int], *, hidden: int, latent: int, seed: int = 0) -> MuseNetwork:
    network = MuseNetwork(features, hidden=hidden, latent=latent)
    network.initialise(torch.Generator().manual_seed(seed))
    # biases that are not 0, so that a twin without them is found out
    with torch.no_grad():
        for at, (name, parameter) in enumerate(network.named_parameters()):
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5, generator=torch.Generator().manual_seed(at))
    return network


def elu(values: NDArray) -> NDArray:
    return np.where(values > 0, values, np.expm1(np.minimum(values, 0)))


def test_size_is_that_of_the_published_network() -> None:
    network = MuseNetwork([1_000, 500])
    assert sum(parameter.numel() for parameter in network.parameters()) == 523_360
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sizes == {
        "encoders": 128 * 1_500 + 2 * 16_640,
        "joint": 25_700,
        "decoders": 2 * (10_000 + 12_928 + 16_512) + 129 * 1_500,
    }


def test_shapes_of_two_and_of_three_modalities() -> None:
    for features in ([5, 3], [5, 3, 4]):
        network = MuseNetwork(features, hidden=7, latent=6)
        found = network([torch.rand(11, f) for f in features])
        assert found.latent.shape == (11, 6)
        assert [h.shape for h in found.hidden] == [(11, 7)] * len(features)
        assert [d.shape for d in found.decoded] == [(11, f) for f in features]
        assert [part.shape for part in network.joint_parts()] == [(6, 7)] * len(features)


def test_forward_is_that_of_a_twin_in_numpy(rng: np.random.Generator) -> None:
    features = [9, 4]
    network = drawn(features, hidden=6, latent=5)
    w = {name: p.detach().numpy().astype(np.float64) for name, p in network.named_parameters()}

    def dense(values: NDArray, name: str) -> NDArray:
        return values @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    values = [2 * rng.normal(size=(13, f)) for f in features]
    with torch.no_grad():
        found = network([torch.tensor(v, dtype=torch.float32) for v in values])
    hidden = [
        np.tanh(dense(elu(dense(v, f"encoders.{i}.first")), f"encoders.{i}.second"))
        for i, v in enumerate(values)
    ]
    latent = dense(np.concatenate(hidden, axis=1), "joint")
    np.testing.assert_allclose(found.latent, latent, atol=1e-5)
    for i in range(2):
        inner = elu(dense(dense(latent, f"decoders.{i}.selection"), f"decoders.{i}.first"))
        decoded = dense(np.tanh(dense(inner, f"decoders.{i}.second")), f"decoders.{i}.last")
        np.testing.assert_allclose(found.hidden[i], hidden[i], atol=1e-5)
        np.testing.assert_allclose(found.decoded[i], decoded, atol=1e-5)


def test_latent_is_the_sum_of_what_modalities_give(rng: np.random.Generator) -> None:
    network = drawn([4, 3, 5], hidden=6, latent=2)
    with torch.no_grad():
        latent, hidden = network.encode([torch.rand(8, f) for f in (4, 3, 5)])
        parts = [h @ part.T for h, part in zip(hidden, network.joint_parts(), strict=True)]
        np.testing.assert_allclose(sum(parts) + network.joint.bias, latent, atol=1e-6)
        # what one modality gives hangs on that modality alone
        assert not torch.allclose(parts[0], parts[1])


def test_weights_are_drawn_as_published() -> None:
    network = MuseNetwork([400, 50], hidden=128, latent=100)
    network.initialise(torch.Generator().manual_seed(3))
    for name, parameter in network.named_parameters():
        values = parameter.detach()
        if name.endswith("bias"):
            assert not values.any(), name
        elif name.endswith("selection.weight"):
            assert abs(float(values.std()) - 1) < 0.05, name
            assert float(values.abs().max()) > 3, name
        else:
            # the variance is 1 / fan-in after the cut at two standard deviations of what was cut
            wanted = values.shape[1] ** -0.5
            assert abs(float(values.std()) / wanted - 1) < 0.05, name
            assert float(values.abs().max()) <= 2 * wanted / 0.8796 + 1e-6, name
            assert float(values.abs().max()) > 2 * wanted, name


def test_weights_follow_the_generator_and_nothing_else() -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        network = MuseNetwork([6, 4], hidden=5, latent=3)
        network.initialise(torch.Generator().manual_seed(seed))
        return network.state_dict()

    first = state(1)
    torch.rand(3)
    again, other = state(1), state(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))
