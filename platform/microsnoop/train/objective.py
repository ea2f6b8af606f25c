"""What is learnt: named terms, each a number to make small; the loss is their weighted sum.

``masked`` is the paper's; the others compare two views of one tile, each masked (the paper names further pretext
tasks as future work). N tiles, D width of a projection.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_VICREG_INVARIANCE, _VICREG_VARIANCE, _VICREG_COVARIANCE = 25.0, 25.0, 1.0
_BARLOW_OFF_DIAGONAL = 0.005
_DINO_STUDENT_TEMPERATURE, _DINO_TEACHER_TEMPERATURE = 0.1, 0.04


class Projector(nn.Module):
    """Pooled features -> the space in which views are compared; thrown away after training."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths[:-1]:
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, widths[-1]))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    """Variance-invariance-covariance regularisation (Bardes et al. 2022) of projections (N, D), float32.

    Two views agree (mean squared distance, weight 25), every dimension keeps a standard deviation of 1 or more
    (weight 25), and dimensions do not repeat each other (squared covariances, weight 1).
    """
    first, second = first.float(), second.float()
    count, width = first.shape
    invariance = F.mse_loss(first, second)
    variance = covariance = first.new_zeros(())
    for view in (first, second):
        centred = view - view.mean(dim=0)
        variance = variance + F.relu(1 - (centred.var(dim=0) + 1e-4).sqrt()).mean() / 2
        products = centred.T @ centred / (count - 1)
        covariance = covariance + (products.square().sum() - products.diagonal().square().sum()) / width
    return _VICREG_INVARIANCE * invariance + _VICREG_VARIANCE * variance + _VICREG_COVARIANCE * covariance


def barlow(first: Tensor, second: Tensor) -> Tensor:
    """Barlow Twins (Zbontar et al. 2021): the cross-correlation of two views (N, D) is the identity."""
    first, second = (
        (view - view.mean(dim=0)) / (view.std(dim=0) + 1e-5) for view in (first.float(), second.float())
    )
    correlation = first.T @ second / len(first)
    on = (correlation.diagonal() - 1).square().sum()
    off = correlation.square().sum() - correlation.diagonal().square().sum()
    return (on + _BARLOW_OFF_DIAGONAL * off) / first.shape[1]


def dino(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
    """Self-distillation without labels (Caron et al. 2021): one view predicts the teacher's answer to the other.

    The teacher is the running mean of the weights. Its answers are centred by the batch (Sinkhorn-Knopp, three
    rounds, as in DINOv2), which keeps all from giving the same one. Logits (N, D) of both views.
    """
    loss = student[0].new_zeros((), dtype=torch.float32)
    for mine, other in ((student[0], teacher[1]), (student[1], teacher[0])):
        with torch.no_grad():
            wanted = balanced_assignment(other.float() / _DINO_TEACHER_TEMPERATURE)
        found = F.log_softmax(mine.float() / _DINO_STUDENT_TEMPERATURE, dim=1)
        loss = loss - (wanted * found).sum(dim=1).mean() / 2
    return loss


def balanced_assignment(logits: Tensor, *, rounds: int = 3) -> Tensor:
    """Return soft assignments (N, D), rows summing to 1, that use all D answers alike (Sinkhorn-Knopp)."""
    scores = (logits - logits.max()).exp()
    for _ in range(rounds):
        scores = scores / scores.sum(dim=0, keepdim=True).clamp_min(1e-12)
        scores = scores / scores.sum(dim=1, keepdim=True).clamp_min(1e-12)
    return scores


PAIR_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"vicreg": vicreg, "barlow": barlow}
