"""Every term against its formula, and against what it must punish."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from microsnoop.train.objective import balanced_assignment, barlow, dino, vicreg


@pytest.fixture
def views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(64, 12, generator=generator)
    return first, first + 0.1 * torch.randn(64, 12, generator=generator)


def test_vicreg_against_numpy(views: tuple[Tensor, Tensor]) -> None:
    a, b = (view.double().numpy() for view in views)
    invariance = ((a - b) ** 2).mean()
    variance = sum(np.maximum(0, 1 - np.sqrt(v.var(axis=0, ddof=1) + 1e-4)).mean() / 2 for v in (a, b))
    covariance = 0.0
    for v in (a, b):
        c = np.cov(v.T)
        covariance += ((c**2).sum() - (np.diag(c) ** 2).sum()) / c.shape[0]
    assert float(vicreg(*views)) == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-4)


def test_barlow_against_numpy(views: tuple[Tensor, Tensor]) -> None:
    a, b = (view.double().numpy() for view in views)
    c = np.corrcoef(a.T, b.T)[:12, 12:] * (63 / 64)  # the published code divides by N, not N - 1
    expected = (((np.diag(c) - 1) ** 2).sum() + 0.005 * ((c**2).sum() - (np.diag(c) ** 2).sum())) / 12
    assert float(barlow(*views)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("term", [vicreg, barlow])
def test_collapse_and_disagreement_cost_more(term: object, views: tuple[Tensor, Tensor]) -> None:
    assert callable(term)
    first, second = views
    alike = first[:1].repeat(64, 1) + 1e-3 * torch.randn(64, 12)
    one_direction = first[:, :1].repeat(1, 12)
    good = float(term(first, second))
    assert float(term(alike, alike + 1e-3 * torch.randn(64, 12))) > good
    assert float(term(one_direction, one_direction)) > good
    assert float(term(first, second[torch.randperm(64)])) > good


def test_balanced_assignment_uses_all_answers_alike() -> None:
    logits = torch.randn(256, 8) + torch.arange(8) * 2.0  # left alone, the last answer would take all
    found = balanced_assignment(logits, rounds=20)
    assert torch.allclose(found.sum(dim=1), torch.ones(256), atol=1e-5)
    assert torch.allclose(found.sum(dim=0), torch.full((8,), 32.0), rtol=0.05)


def test_dino_prefers_the_other_views_answer() -> None:
    answers = torch.eye(8).repeat(4, 1) * 5
    wrong = answers.roll(1, dims=0)
    assert float(dino((answers, answers), (answers, answers))) < float(
        dino((wrong, wrong), (answers, answers))
    )


def test_dino_does_not_teach_the_teacher() -> None:
    student = tuple(torch.randn(8, 4, requires_grad=True) for _ in range(2))
    teacher = tuple(torch.randn(8, 4, requires_grad=True) for _ in range(2))
    dino(student, teacher).backward()
    assert all(view.grad is not None and view.grad.abs().sum() > 0 for view in student)
    assert all(view.grad is None for view in teacher)
