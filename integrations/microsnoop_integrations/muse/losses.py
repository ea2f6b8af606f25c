"""The terms of MUSE's loss, each on one batch.

Source: Bao et al. 2022 as released; multimodal spec, section 3. Legend: B cells of a batch, f features, Z latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-16


def masked_reconstruction(values: Tensor, decoded: Tensor) -> Tensor:
    """Return ``||m (decoded - values)|| / sum m`` with ``m = sign(values)``: zeros of counts say nothing.

    Parameters
    ----------
    values, decoded
        (B, f); ``values`` not negative. A batch without a positive entry has the loss 0.
    """
    mask = (values > 0).to(values.dtype)
    return norm(mask * (decoded - values)) / mask.sum().clamp(min=1.0)


def norm(values: Tensor) -> Tensor:
    """Return the Frobenius norm, whose gradient at 0 is 0; NaN stays NaN, so that it is noticed."""
    squares = values.square().sum()
    return torch.where(squares == 0, 0.0, squares.clamp(min=torch.finfo(values.dtype).tiny).sqrt())


def pairwise_distances(latent: Tensor) -> Tensor:
    """Return the Euclidean distances (B, B) of the rows, with gradient 0 where two rows are the same."""
    squares = latent.square().sum(dim=1)
    d2 = squares[:, None] - 2 * latent @ latent.T + squares[None, :]
    same = d2 <= 0  # NaN is not among them: it must be noticed
    return torch.where(same, 0.0, (torch.where(same, 1.0, d2) + _TINY).sqrt())


def batch_hard_triplet(
    distances: Tensor, labels: Tensor, *, margin: float, row_max_without_negative: bool = False
) -> Tensor:
    """Return the mean over anchors of ``max(0, d+ - d- + margin)`` (Hermans et al. 2017).

    Parameters
    ----------
    distances
        (B, B), see :func:`pairwise_distances`.
    labels
        (B,) integers.
    margin
        How much farther the nearest cell of another label should be than the farthest of the same.
    row_max_without_negative
        Where all of a batch has one label: take the largest distance for ``d-``, as published. Otherwise such
        anchors have nothing to be separated from, and contribute 0.
    """
    same = labels[:, None] == labels[None, :]
    # the anchor itself has distance 0, so that one without a like has d+ = 0
    farthest = torch.where(same, distances, 0.0).amax(dim=1)
    ceiling = distances.amax(dim=1, keepdim=True)
    nearest = torch.where(same, ceiling, distances).amin(dim=1)
    terms = torch.relu(farthest - nearest + margin)
    if not row_max_without_negative:
        terms = terms * ~same.all(dim=1)
    return terms.mean()
