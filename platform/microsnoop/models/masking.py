"""Random masking of square patches (Microsnoop spec, section 2). N planes, S side, L patches a plane."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def patch_count(side_px: int, patch_px: int) -> int:
    """Return how many patches a plane has.

    Raises
    ------
    ValueError
        The side is not a multiple of the patch.
    """
    if side_px % patch_px:
        raise ValueError(f"a side of {side_px} px cannot be cut into patches of {patch_px} px")
    return (side_px // patch_px) ** 2


def random_mask(noise: Tensor, *, side_px: int, patch_px: int, ratio: float) -> Tensor:
    """Mask the patches with the largest noise: exactly L - floor(L (1 - ratio)) of each plane.

    Parameters
    ----------
    noise
        Uniform numbers (N, L); they come in as an argument so that the caller owns the randomness.
    side_px, patch_px
        Side of the planes and of the patches.
    ratio
        Share of the patches to mask, in [0, 1).

    Returns
    -------
    (N, 1, S, S) float32, 1 = masked.

    Raises
    ------
    ValueError
        The ratio is out of range, or the sides do not fit.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"the share of masked patches must lie in [0, 1), got {ratio}")
    count = patch_count(side_px, patch_px)
    if noise.shape[1:] != (count,):
        raise ValueError(f"{count} patches need noise (N, {count}), got {tuple(noise.shape)}")
    kept = int(count * (1 - ratio) + 1e-9)  # 100 · (1 - 0.1) must be 90, not 89
    masked = noise.argsort(dim=1).argsort(dim=1) >= kept
    grid = masked.float().reshape(-1, 1, side_px // patch_px, side_px // patch_px)
    return F.interpolate(grid, scale_factor=patch_px, mode="nearest")


def masked_loss(found: Tensor, wanted: Tensor, mask: Tensor, *, w_vis: float = 0.0) -> Tensor:
    """Return the mean over planes of the weighted mean squared error (spec, section 4), in float32.

    Parameters
    ----------
    found, wanted, mask
        (N, 1, S, S); the mask is 1 where the input was hidden.
    w_vis
        Weight of visible pixels; 0 = masked pixels only.
    """
    weight = mask + w_vis * (1 - mask)
    error = weight * (found.float() - wanted.float()).square()
    return (error.sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))).mean()


def fresh_noise(count: int, patches: int, generator: torch.Generator) -> Tensor:
    """Return uniform numbers (N, L) from a CPU generator: the same masks on every device."""
    return torch.rand(count, patches, generator=generator)
