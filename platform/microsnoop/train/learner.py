"""The network as it is trained: autoencoder and projector in one forward pass, and the loss over its outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from microsnoop.core.pretrain_config import PretrainConfig, Term
from microsnoop.models.cnn import CnnDecoder, CnnEncoder, initialise
from microsnoop.models.masking import masked_loss
from microsnoop.train.objective import PAIR_TERMS, Projector, dino


class Learner(nn.Module):
    """Masked planes (V·N, 1, S, S) -> (reconstruction, features (V·N, 2·256), projections).

    Only the parts that the objective uses are built: a part without gradient would stall gradient averaging
    between workers.
    """

    def __init__(self, cfg: PretrainConfig) -> None:
        super().__init__()
        self.encoder = CnnEncoder()
        self.decoder = CnnDecoder() if "masked" in cfg.objective else None
        compares = cfg.views_per_tile > 1
        self.projector = Projector(2 * CnnEncoder.dim, cfg.projector) if compares else None

    def forward(self, planes: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        maps = self.encoder.maps(planes)
        features = mean_and_std(maps[-1])
        return (
            self.decoder(maps) if self.decoder is not None else None,
            features,
            self.projector(features) if self.projector is not None else None,
        )

    def features(self, planes: Tensor) -> Tensor:
        """Return the pooled features of unmasked planes, (N, 2·256) float32."""
        return mean_and_std(self.encoder.maps(planes)[-1])


def mean_and_std(maps: Tensor) -> Tensor:
    """Return the spatial mean and standard deviation of maps (N, D, H, W) as (N, 2·D) float32."""
    maps = maps.float()
    return torch.cat([maps.mean(dim=(2, 3)), (maps.var(dim=(2, 3), unbiased=False) + 1e-6).sqrt()], dim=1)


def new_learner(cfg: PretrainConfig) -> Learner:
    """Build a learner with fresh weights, deterministic in the seed."""
    learner = Learner(cfg)
    initialise(learner, seed=cfg.seed)
    if learner.projector is not None:  # style layers start near 0; a projector must not
        generator = torch.Generator().manual_seed(cfg.seed + 1)
        for layer in learner.projector.modules():
            if isinstance(layer, nn.Linear):
                drawn = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
                layer.weight.data.copy_(drawn * (2 / layer.in_features) ** 0.5)
            elif isinstance(layer, nn.BatchNorm1d):
                layer.reset_parameters()
    return learner


def losses(
    cfg: PretrainConfig,
    found: tuple[Tensor | None, Tensor, Tensor | None],
    *,
    wanted: Tensor,
    mask: Tensor,
    teacher: Tensor | None,
) -> dict[Term, Tensor]:
    """Return every term of the objective, unweighted, float32.

    Parameters
    ----------
    found
        The learner's answers; the first N rows are first views, the next N second views.
    wanted, mask
        Unmasked planes and masks, (V·N, 1, S, S).
    teacher
        The running-mean learner's projections of the unmasked planes, for ``dino``.
    """
    reconstruction, _, projections = found
    terms: dict[Term, Tensor] = {}
    for name in cfg.objective:
        if name == "masked":
            assert reconstruction is not None
            terms[name] = masked_loss(reconstruction, wanted, mask, w_vis=cfg.mask.w_vis)
            continue
        assert projections is not None
        first, second = projections.chunk(2)
        if name == "dino":
            assert teacher is not None
            t_first, t_second = teacher.chunk(2)
            terms[name] = dino((first, second), (t_first, t_second))
        else:
            terms[name] = PAIR_TERMS[name](first, second)
    return terms
