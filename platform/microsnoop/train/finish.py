"""From the trained state to an encoder: normalisation statistics, head, weights and card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from microsnoop.core.errors import ConfigError
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.models.card import EncoderBundle, EncoderCard, HeadCard
from microsnoop.models.checkpoint import load_weights, write_encoder
from microsnoop.models.cnn import CnnEncoder
from microsnoop.models.fit_head import fit_head, with_head
from microsnoop.models.head import pooled_dim
from microsnoop.models.registry import load_encoder
from microsnoop.train.loop import step_generator
from microsnoop.train.pool import Pool
from microsnoop.train.state import TrainState
from microsnoop.train.views import draw_views, make_views

_BATCH = 32
_STATISTICS_CROPS = 2048


def begin_with(state: TrainState, name: str) -> None:
    """Begin with the weights of an encoder instead of random ones.

    Raises
    ------
    ConfigError
        The encoder has another architecture.
    EncoderError
        Unknown or damaged.
    """
    bundle = load_encoder(name)
    if bundle.card.architecture != "microsnoop-cnn":
        raise ConfigError(
            f"init: {name!r} is a {bundle.card.architecture}, only a microsnoop-cnn can be trained"
        )
    for learner in (state.learner, state.mean):
        load_weights(learner.encoder, bundle.weights, prefix="encoder.")


def finish(state: TrainState, pool: Pool, folder: Path) -> Path:
    """Write ``NAME.safetensors`` and its card: the running mean of the weights, with a head fitted on the pool.

    Parameters
    ----------
    pool
        Tiles to fit on; crops are drawn as in training, by source, and not masked.

    Returns
    -------
    The weights file.
    """
    cfg = state.cfg
    encoder = state.mean.encoder
    side_px = cfg.phases[-1].input_px
    refresh_statistics(encoder, crops(pool, cfg, count=_STATISTICS_CROPS, side_px=side_px, stream=0))
    tensors = {
        f"encoder.{name}": tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()
    }
    bundle = EncoderBundle(_card(cfg, pool), safetensors.torch.save(tensors))
    head = cfg.head
    if not head.whiten:
        plain_head = HeadCard(pooling=head.pooling)
        card = bundle.card.model_copy(update={"head": plain_head, "dim": pooled_dim(plain_head)})
        return write_encoder(tensors, card, folder=folder)[0]
    fitted = fit_head(
        encoder, crops(pool, cfg, count=head.crops, side_px=side_px, stream=1),
        pooling=head.pooling, layers=(3,), ridge=head.ridge,
    )  # fmt: skip
    state_dict, card = with_head(bundle, fitted, pooling=head.pooling, layers=(3,), name=cfg.name)
    return write_encoder(state_dict, card, folder=folder)[0]


@torch.no_grad()
def refresh_statistics(encoder: CnnEncoder, batches: Iterator[Tensor]) -> None:
    """Take the normalisation statistics anew, over planes without masks: those of training saw masked ones."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an average over all batches, each with the same weight
    encoder.train()
    for batch in batches:
        encoder(batch)
    encoder.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def crops(pool: Pool, cfg: PretrainConfig, *, count: int, side_px: int, stream: int) -> Iterator[Tensor]:
    """Yield batches (n, 1, S, S) float32 of crops without jitter; ``stream`` keeps two sets of crops apart."""
    plain = cfg.views.model_copy(update={"jitter_probability": 0.0, "noise_sd": 0.0})
    for start in range(0, count, _BATCH):
        step = -2 - stream * 2**20 - start
        chosen = torch.from_numpy(
            pool.draw(min(_BATCH, count - start), seed=cfg.seed + stream + 1, step=start)
        )
        tiles = pool.pixels[chosen.to(pool.pixels.device)]
        draw = draw_views(len(tiles), plain, step_generator(cfg.seed, step)).to(tiles.device)
        yield make_views(tiles, draw, plain, side_px=side_px)


def _card(cfg: PretrainConfig, pool: Pool) -> EncoderCard:
    planes = sum(phase.steps * phase.batch * cfg.views_per_tile for phase in cfg.phases)
    phases = ", ".join(f"{p.steps:,} steps of {p.batch} tiles at {p.input_px} px" for p in cfg.phases)
    terms = " + ".join(f"{weight:g} × {name}" for name, weight in cfg.objective.items())
    return EncoderCard(
        name=cfg.name,
        architecture="microsnoop-cnn",
        trained=True,
        description=f"The published one-channel network, pretrained on {len(pool):,} tiles of "
        f"{len(pool.counts())} source(s).",
        licence="Not stated: yours to choose for the weights; the training images keep their own terms (see sources).",
        sources=tuple(f"{name} ({count:,} tiles)" for name, count in pool.counts().items()),
        dim=CnnEncoder.dim,
        value_range=cfg.views.clip,
        notes=f"{planes:,} inputs: {phases}. Loss {terms}, {cfg.mask.ratio:.0%} of {cfg.mask.patch_px} px patches "
        f"masked. Running mean of the weights, normalisation statistics of unmasked crops. Seed {cfg.seed}.",
    )
