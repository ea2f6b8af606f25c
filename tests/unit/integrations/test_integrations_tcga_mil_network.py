"""The networks: sizes, attention over real tiles, order, padding, heads, and what pooling means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from microsnoop.core.mil_config import MilSettings
from microsnoop_integrations.tcga.mil_network import MilNetwork, count_parameters

pytestmark = pytest.mark.usefixtures("one_thread")

F, N = 16, 9
POOLINGS = ("attention", "gated", "mean", "max")


def network(classes: int = 2, **settings: Any) -> MilNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MilNetwork(F, classes, MilSettings(**settings)).eval()


def tiles(b: int = 3, n: int = N) -> tuple[Tensor, Tensor]:
    x = torch.randn(b, n, F, generator=torch.Generator().manual_seed(0))
    return x, torch.ones(b, n, dtype=torch.bool)


def test_parameter_counts() -> None:
    for features, total, attention in ((768, 259_459, 197_121), (512, 177_539, 131_585)):
        found = MilNetwork(features, 2, MilSettings())
        assert found.attention is not None
        assert count_parameters(found) == total
        assert count_parameters(found.attention) == attention
    assert count_parameters(MilNetwork(768, 2, MilSettings(tiles=None))) == 259_459
    assert count_parameters(MilNetwork(768, 2, MilSettings(pooling="mean"))) == 62_338
    gated = MilNetwork(768, 2, MilSettings(pooling="gated"))
    assert count_parameters(gated) == 259_459 + 768 * 256 + 256
    # two heads: each has 128 units and a bias of its own, the classifier takes both vectors
    assert count_parameters(MilNetwork(768, 2, MilSettings(heads=2))) == 259_459 + 1 + 768 * 64


@pytest.mark.parametrize("pooling", POOLINGS)
def test_attention_sums_to_one_over_real_tiles(pooling: str) -> None:
    x, real = tiles()
    real[1, 4:] = False
    real[2, 1:] = False
    found = network(pooling=pooling)(x, real)
    assert found.attention.shape == (3, 1, N)
    assert torch.allclose(found.attention.sum(dim=2), torch.ones(3, 1), atol=1e-6)
    assert (found.attention >= 0).all()
    assert (found.attention[:, 0][~real] == 0).all()
    assert found.attention[2, 0, 0].item() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(found.log_probabilities.exp().sum(dim=1), torch.ones(3), atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("fill", [0.0, 7.0, float("nan"), float("inf")])
def test_padding_changes_nothing(pooling: str, fill: float) -> None:
    x, real = tiles()
    net = network(pooling=pooling)
    with torch.no_grad():
        plain = net(x, real)
        padded = torch.cat([x, torch.full((3, 5, F), fill)], dim=1)
        wider = net(padded, torch.cat([real, torch.zeros(3, 5, dtype=torch.bool)], dim=1))
    assert torch.allclose(wider.log_probabilities, plain.log_probabilities, atol=1e-6)
    assert torch.allclose(wider.attention[..., :N], plain.attention, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_order_of_tiles_does_not_matter(pooling: str) -> None:
    x, real = tiles()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    net = network(pooling=pooling, heads=2)
    with torch.no_grad():
        plain, other = net(x, real), net(x[:, order], real)
    assert torch.allclose(other.log_probabilities, plain.log_probabilities, atol=1e-6)
    assert torch.allclose(other.attention, plain.attention[..., order], atol=1e-6)


def test_by_hand() -> None:
    """The published formula, tile by tile and head by head."""
    x, real = tiles(1)
    net = network(heads=2, attention_width=8)
    assert net.attention is not None
    w1, b1 = (p.detach().numpy() for p in (net.attention.hidden.weight, net.attention.hidden.bias))
    w2, b2 = (p.detach().numpy() for p in (net.attention.weight, net.attention.bias))
    parts, weights = [], []
    for h in range(2):
        units = slice(4 * h, 4 * h + 4)
        scores = [w2[h] @ np.tanh(w1[units] @ tile + b1[units]) + b2[h] for tile in x[0].numpy()]
        a = np.exp(scores) / np.exp(scores).sum()
        parts.append(sum(weight * tile for weight, tile in zip(a, x[0].numpy(), strict=True)))
        weights.append(a)
    with torch.no_grad():
        found = net(x, real)
        np.testing.assert_allclose(found.attention[0], weights, atol=1e-6)
        expected = net.classifier(torch.tensor(np.concatenate(parts))[None])
    assert found.attention.shape == (1, 2, N)
    assert torch.allclose(found.log_probabilities, expected, atol=1e-5)


def test_a_gate_of_one_half_halves_the_scores() -> None:
    x, _ = tiles()
    gated, plain = network(pooling="gated"), network()
    assert gated.attention is not None
    assert plain.attention is not None
    assert gated.attention.gate is not None
    state = {k: v for k, v in gated.attention.state_dict().items() if not k.startswith("gate")}
    plain.attention.load_state_dict(state)
    with torch.no_grad():
        gated.attention.gate.weight.zero_()
        gated.attention.gate.bias.zero_()
        halved = plain.attention(x) - plain.attention.bias[:, None]
        np.testing.assert_allclose(gated.attention(x) - gated.attention.bias[:, None], halved / 2, atol=1e-6)


def test_without_scores_attention_is_mean_pooling() -> None:
    x, real = tiles()
    real[0, 5:] = False
    net, mean = network(), network(pooling="mean")
    assert net.attention is not None
    with torch.no_grad():
        net.attention.weight.zero_()
        mean.load_state_dict({k: v for k, v in net.state_dict().items() if k.startswith("classifier")})
        assert torch.allclose(net(x, real).log_probabilities, mean(x, real).log_probabilities, atol=1e-6)
        assert torch.allclose(net(x, real).attention[0, 0, :5], torch.full((5,), 0.2), atol=1e-6)


def test_maximum_says_where_it_comes_from() -> None:
    x, real = torch.zeros(1, 3, F), torch.ones(1, 3, dtype=torch.bool)
    x[0, 1, :4] = 1.0
    x[0, 2, 4:] = 2.0
    found = network(pooling="max")(x, real)
    assert found.attention[0, 0].tolist() == pytest.approx([0, 0.25, 0.75])
    negative = network(pooling="max")._pool(x - 5, real)[0]
    assert negative[0].tolist() == [-4.0] * 4 + [-3.0] * 12


@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_tile_and_none(pooling: str) -> None:
    x, real = tiles(2, 1)
    net = network(pooling=pooling, classes=3)
    found = net(x, real)
    assert found.attention.flatten().tolist() == pytest.approx([1, 1], abs=1e-6)
    assert found.log_probabilities.shape == (2, 3)
    real[1] = False
    with pytest.raises(ValueError, match="without tiles"):
        net(x, real)
    with pytest.raises(ValueError, match="without tiles"):
        net(x[:, :0], real[:, :0])


def test_a_tile_alone_is_a_slide_of_one_tile() -> None:
    x, _ = tiles(4, 1)
    net = network(heads=2)
    with torch.no_grad():
        alone = net.tile_log_probabilities(x[:, 0])
        assert torch.allclose(alone, net(x, torch.ones(4, 1, dtype=torch.bool)).log_probabilities, atol=1e-6)


def test_dropout_and_normalisation_follow_the_settings() -> None:
    x, real = tiles()
    net = network()
    net.train()
    assert not torch.equal(net(x, real).attention, net(x, real).attention)
    still = network(attention_dropout=0.0, dropout=0.0, tiles=None)
    still.train()
    assert torch.equal(still(x, real).attention, still(x, real).attention)
    kinds = {type(layer).__name__ for layer in still.classifier}
    assert "LayerNorm" in kinds
    assert "BatchNorm1d" not in kinds
    assert [type(layer).__name__ for layer in net.classifier][:4] == [
        "Linear",
        "ReLU",
        "Dropout",
        "BatchNorm1d",
    ]
    assert len(net.classifier) == 4 * 4 + 2


def test_settings_that_contradict_each_other() -> None:
    for wrong, message in [
        ({"heads": 3}, "multiple of heads"),
        ({"n_best": 4}, "cannot exceed repeats"),
        ({"group_by": "site"}, "needs site"),
        ({"confounders": ["target"]}, "none of them the target"),
        ({"confounders": ["a", "a"]}, "different columns"),
        ({"continuous": ["age"]}, "age, not among confounders"),
        ({"group_by": "site", "site": "s", "compat": {"folds": "slide"}}, "choose one"),
        ({"no_such": 1}, "Extra inputs"),
    ]:
        with pytest.raises(ValueError, match=message):
            MilSettings.model_validate(wrong)
    with pytest.raises(ValueError, match="3 heads"):
        MilNetwork(F, 2, MilSettings().model_copy(update={"heads": 3}))
