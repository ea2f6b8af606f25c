"""Is it learning, or collapsing? Judged on fixed crops and masks, unvaried, by the running mean of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.models.blocks import unit_length
from microsnoop.models.masking import fresh_noise, masked_loss, patch_count, random_mask
from microsnoop.train.learner import Learner
from microsnoop.train.loop import step_generator
from microsnoop.train.pool import Pool
from microsnoop.train.views import fixed_views, make_views

_BATCH = 16
# Unit vectors that hardly spread, or only in a few directions, mean that all inputs look alike.
MIN_SPREAD = 0.05
MIN_RANK = 4.0


@dataclass(frozen=True)
class Watched:
    """What was seen at one step.

    ``spread``: root mean squared distance of unit feature vectors from their mean, 0 (all alike) to 1.
    ``effective_rank``: exponential of the entropy of their normalised singular values (Roy & Vetterli 2007).
    ``panel``: for one crop a kind: original, masked, hidden patches reconstructed, their error, each (k, S, S); none
    without ``masked``.
    """

    step: int
    masked_loss: float | None
    spread: float
    effective_rank: float
    panel: dict[str, NDArray[np.float32]]
    kinds: tuple[str, ...]

    def warning(self) -> str:
        """Say what is wrong, or nothing."""
        if self.spread >= MIN_SPREAD and self.effective_rank >= MIN_RANK:
            return ""
        return (
            f"step {self.step}: the features are collapsing (spread {self.spread:.3f} of 1, effective rank "
            f"{self.effective_rank:.1f}): all images begin to look alike; raise the weight of an invariance term's "
            "variance part, or lower the learning rate"
        )


class Watch:
    """Fixed crops of the held-out tiles, and the look at them."""

    def __init__(self, cfg: PretrainConfig, pool: Pool, device: torch.device) -> None:
        self._cfg = cfg
        count = min(cfg.report.watch_crops, len(pool))
        chosen = _spread_over_kinds(pool.kinds, pool.tile_ids, count)
        self._kinds = pool.kinds[chosen]
        self._tiles = pool.pixels[torch.from_numpy(chosen).to(pool.pixels.device)].to(device)
        self._draw = fixed_views(count, cfg.views).to(device)

    @torch.no_grad()
    def look(self, learner: Learner, *, step: int, side_px: int) -> Watched:
        """Judge a learner (in eval mode) at one input side."""
        wanted = make_views(self._tiles, self._draw, self._cfg.views, side_px=side_px)
        mask = self._masks(len(wanted), side_px).to(wanted.device)
        learner.eval()
        answers = [learner(part) for part in (wanted * (1 - mask)).split(_BATCH)]
        features = torch.cat([learner.features(part) for part in wanted.split(_BATCH)])
        spread, rank = spread_and_rank(features)
        if learner.decoder is None:
            return Watched(step, None, spread, rank, {}, ())
        found = torch.cat([answer[0] for answer in answers])
        loss = float(masked_loss(found, wanted, mask))
        return Watched(step, loss, spread, rank, *self._panel(wanted, mask, found))

    def _masks(self, count: int, side_px: int) -> Tensor:
        mask = self._cfg.mask
        generator = step_generator(self._cfg.seed, -1)
        noise = fresh_noise(count, patch_count(side_px, mask.patch_px), generator)
        return random_mask(noise, side_px=side_px, patch_px=mask.patch_px, ratio=mask.ratio)

    def _panel(
        self, wanted: Tensor, mask: Tensor, found: Tensor
    ) -> tuple[dict[str, NDArray[np.float32]], tuple[str, ...]]:
        kinds, first = np.unique(self._kinds, return_index=True)
        rows = torch.from_numpy(first).to(wanted.device)
        wanted, mask, found = (t[rows, 0].float() for t in (wanted, mask, found))
        shown = {
            "original": wanted,
            "masked": torch.where(mask > 0, torch.nan, wanted),
            "reconstructed": torch.where(mask > 0, found, wanted),
            "error": torch.where(mask > 0, (found - wanted).abs(), 0.0),
        }
        return {name: t.cpu().numpy() for name, t in shown.items()}, tuple(kinds.tolist())


@torch.no_grad()
def spread_and_rank(features: Tensor) -> tuple[float, float]:
    """Return spread and effective rank of features (N, D); see :class:`Watched`."""
    unit = unit_length(features.double())
    centred = unit - unit.mean(dim=0)
    spread = float(centred.square().sum(dim=1).mean().sqrt())
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return spread, float(entropy.exp())


def _spread_over_kinds(kinds: NDArray[np.str_], ids: NDArray[np.str_], count: int) -> NDArray[np.intp]:
    """Choose ``count`` tiles, all kinds alike as far as they go, in a fixed pseudo-random order of ids."""
    order = np.random.default_rng(0).permutation(len(ids))
    turn = np.empty(len(ids), np.intp)
    for kind in np.unique(kinds):
        members = order[kinds[order] == kind]
        turn[members] = np.arange(len(members))
    return np.sort(np.lexsort((kinds, turn))[:count])
