"""How a network is trained on bags: draws of slides and tiles, early stopping. Source: slides spec, section 8."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop.models.device import resolve_device
from microsnoop_integrations.tcga.bags import BagSet
from microsnoop_integrations.tcga.mil_network import MilNetwork
from microsnoop_integrations.tcga.mil_scaling import FeatureScaling
from microsnoop_integrations.tcga.sampling import Weights, draw

OnEpoch = Callable[[int, float, float], None]  # epoch, training loss, validation loss


@dataclass(frozen=True)
class Part:
    """Slides, the class 0..K-1 of each, int64 (S,), and how often each is drawn or how much it counts."""

    slides: tuple[str, ...]
    targets: NDArray[np.int64]
    weights: Weights

    def __len__(self) -> int:
        return len(self.slides)


@dataclass
class TrainedMil:
    """A network as it was when it was best, and what it needs to judge a slide."""

    network: MilNetwork
    scaling: FeatureScaling
    classes: tuple[str, ...]
    settings: MilSettings
    seed: int
    best_epoch: int = -1
    validation_loss: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)
    about: dict[str, Any] = field(
        default_factory=dict
    )  # encoder, tiling and mask of the bags it learned from


def train(
    bags: BagSet,
    training: Part,
    validation: Part,
    *,
    scaling: FeatureScaling,
    classes: tuple[str, ...],
    settings: MilSettings,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> TrainedMil:
    """Train one network and keep it as it was at its lowest validation loss.

    Random numbers of the process stay as they are. On one machine and number of threads, the same seed gives the same
    network to the bit.

    Parameters
    ----------
    training, validation
        With the weights of :func:`sampling_weights`; the loss that stops the training is weighted as well.

    Raises
    ------
    InputError
        Fewer than two training slides, no validation slide, or ``non_finite_loss``.
    """
    if len(training) < 2 or not len(validation):
        raise InputError(
            f"training needs two slides and one to validate, got {len(training)} and {len(validation)}"
        )
    device = resolve_device(settings.device)
    rng = np.random.default_rng([seed, 1])
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device == "cuda" else []):
        torch.manual_seed(seed)
        network = MilNetwork(scaling.width, len(classes), settings).to(device)
        model = TrainedMil(network, scaling, classes, settings, seed, about=dict(bags.shared))
        optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr)
        steps = len(list(_batches(np.arange(len(training)), settings.batch_slides)))
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, T_0=steps, T_mult=2)
        best = copy.deepcopy(network.state_dict())
        for epoch in range(settings.epochs):
            order = _order(training.weights, settings, rng)
            losses = []
            network.train()
            for rows in _batches(order, settings.batch_slides):
                tiles, real = _batch(
                    bags, [training.slides[r] for r in rows], scaling=scaling, settings=settings, rng=rng
                )
                found = network(tiles.to(device), real.to(device)).log_probabilities
                loss = nn.functional.nll_loss(found, torch.from_numpy(training.targets[rows]).to(device))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                schedule.step()
                losses.append(float(loss.detach()))
            validated = _loss(model, bags, validation, device=device)
            if not (math.isfinite(validated) and np.isfinite(losses).all()):
                raise InputError(
                    f"non_finite_loss: epoch {epoch}", hint="lower lr, or look for extreme features"
                )
            model.history.append({"training": float(np.mean(losses)), "validation": validated})
            if on_epoch is not None:
                on_epoch(epoch, model.history[-1]["training"], validated)
            if validated < model.validation_loss:
                model.validation_loss, model.best_epoch = validated, epoch
                best = copy.deepcopy(network.state_dict())
            elif epoch - model.best_epoch >= settings.patience:
                break
    network.load_state_dict(best)
    network.to("cpu").eval()
    return model


@torch.no_grad()
def judge(
    model: TrainedMil, features: NDArray[np.float32], *, device: str = "cpu"
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Judge one slide by all its tiles.

    Parameters
    ----------
    features
        (N, F) as in the bag.

    Returns
    -------
    Probabilities (K,), attention (N,), the mean over heads, which sums to 1, and probabilities of each tile alone
    (N, K).
    """
    network = model.network.to(device).eval()
    tiles = torch.from_numpy(model.scaling.apply(features)).to(device)
    found = network(tiles[None], torch.ones(1, len(tiles), dtype=torch.bool, device=device))
    alone = network.tile_log_probabilities(tiles)
    return (
        found.log_probabilities[0].double().exp().cpu().numpy(),
        found.attention[0].double().mean(dim=0).cpu().numpy(),
        alone.double().exp().cpu().numpy(),
    )


def draw_tiles(n: int, wanted: int | None, *, replace: bool, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return which of n tiles are drawn: ``wanted`` different ones where there are enough, else all, in order.

    ``replace`` draws with replacement, always ``wanted`` (or n where that is None).
    """
    if replace:
        return np.sort(rng.integers(0, n, wanted or n))
    if wanted is None or n <= wanted:
        return np.arange(n)
    return np.sort(rng.choice(n, wanted, replace=False))


def _order(weights: Weights, settings: MilSettings, rng: np.random.Generator) -> NDArray[np.int64]:
    n = len(weights.values)
    return rng.permutation(n) if settings.sampling == "none" else draw(weights, n, rng=rng)


def _batches(order: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Deal slides into batches; a last one of a single slide is left out, as it has no batch statistics."""
    for start in range(0, len(order), size):
        if len(rows := order[start : start + size]) > 1:
            yield rows


def _batch(
    bags: BagSet,
    slides: Sequence[str],
    *,
    scaling: FeatureScaling,
    settings: MilSettings,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Return tiles (B, N, F) float32 padded with zeros, and which are real, bool (B, N)."""
    parts = []
    for slide in slides:
        features = bags.features(slide)
        rows = draw_tiles(len(features), settings.tiles, replace=settings.compat.draw, rng=rng)
        parts.append(scaling.apply(features[rows]))
    longest = max(map(len, parts))
    tiles = np.zeros((len(parts), longest, scaling.width), np.float32)
    real = np.zeros((len(parts), longest), bool)
    for b, own in enumerate(parts):
        tiles[b, : len(own)], real[b, : len(own)] = own, True
    return torch.from_numpy(tiles), torch.from_numpy(real)


def _loss(model: TrainedMil, bags: BagSet, part: Part, *, device: str) -> float:
    """Return the weighted mean negative log-likelihood of slides, all tiles, one slide at a time."""
    network = model.network.eval()
    losses = []
    with torch.no_grad():
        for slide, target in zip(part.slides, part.targets, strict=True):
            tiles = torch.from_numpy(model.scaling.apply(bags.features(slide))).to(device)
            real = torch.ones(1, len(tiles), dtype=torch.bool, device=device)
            losses.append(-float(network(tiles[None], real).log_probabilities[0, int(target)]))
    return float(np.average(losses, weights=part.weights.values))
