"""The terms of MUSE's loss and the margin: values by hand, twins in loops, gradients where distances vanish."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist
from torch import Tensor

from microsnoop_integrations.muse import margin as margins
from microsnoop_integrations.muse.losses import (
    batch_hard_triplet,
    masked_reconstruction,
    norm,
    pairwise_distances,
)

pytestmark = pytest.mark.usefixtures("one_thread")

LINE = torch.tensor([[0.0], [1.0], [3.0], [5.0]])


def triplet(latent: Tensor, labels: list[int], margin: float, *, row_max: bool = False) -> float:
    term = batch_hard_triplet(
        pairwise_distances(latent), torch.tensor(labels), margin=margin, row_max_without_negative=row_max
    )
    return float(term)


# --- reconstruction --------------------------------------------------------------------------------


def test_what_is_decoded_where_nothing_was_seen_does_not_count() -> None:
    values = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert float(masked_reconstruction(values, torch.tensor([[2.0, 5.0], [2.0, 5.0]]))) == 0.5
    # divided by how many entries were seen, not by their sum nor by the size of the matrix
    values = torch.tensor([[3.0, 0.0, 7.0], [0.0, 0.0, 2.0]])
    decoded = values + torch.tensor([[2.0, 9.0, 1.0], [9.0, 9.0, -2.0]])
    assert float(masked_reconstruction(values, decoded)) == pytest.approx(1.0)


def test_a_batch_without_any_count_has_no_loss_and_no_gradient() -> None:
    decoded = torch.ones(3, 2, requires_grad=True)
    term = masked_reconstruction(torch.zeros(3, 2), decoded)
    term.backward()
    assert float(term.detach()) == 0
    assert decoded.grad is not None
    assert torch.equal(decoded.grad, torch.zeros(3, 2))


def test_norm_is_frobenius_and_flat_at_zero() -> None:
    assert float(norm(torch.ones(2, 2))) == 2
    for start, slope in (([3.0, 4.0], [0.6, 0.8]), ([0.0, 0.0], [0.0, 0.0])):
        values = torch.tensor(start, requires_grad=True)
        norm(values).backward()
        assert values.grad is not None
        np.testing.assert_allclose(values.grad, slope, rtol=1e-6)


def test_nan_is_not_taken_for_zero() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
    assert torch.isnan(norm(values))
    assert torch.isnan(masked_reconstruction(torch.ones(2, 2), values))
    distances = pairwise_distances(values)
    assert torch.isnan(distances[1]).all()
    assert torch.isnan(batch_hard_triplet(distances, torch.tensor([0, 1]), margin=1.0))


# --- triplets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("margin", "wanted"), [(0.0, 0.0), (1.0, 0.25), (2.0, 0.75)])
def test_cells_on_a_line(margin: float, wanted: float) -> None:
    assert triplet(LINE, [0, 0, 1, 1], margin) == pytest.approx(wanted)


def test_a_label_of_one_cell_has_no_distance_to_its_like() -> None:
    # 0 - 1 + 2, 3 - 1 + 2, 3 - 4 + 2
    assert triplet(torch.tensor([[0.0], [1.0], [4.0]]), [0, 1, 1], 2.0) == pytest.approx((1 + 4 + 1) / 3)


def test_cells_of_one_label_have_nothing_to_be_separated_from() -> None:
    assert triplet(LINE, [4, 4, 4, 4], 2.0) == 0
    assert triplet(LINE, [4, 4, 4, 4], 2.0, row_max=True) == pytest.approx(2.0)


@pytest.mark.parametrize("row_max", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_triplets_are_those_of_a_loop(seed: int, row_max: bool) -> None:
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(31, 5)).astype(np.float32)
    labels = rng.integers(0, 3 if seed else 1, 31)
    labels[0] = 9 if seed > 1 else labels[0]
    distances, wanted = cdist(latent, latent), []
    for i in range(31):
        same = [distances[i, j] for j in range(31) if labels[j] == labels[i] and j != i]
        other = [distances[i, j] for j in range(31) if labels[j] != labels[i]]
        nearest = min(other) if other else (max(distances[i]) if row_max else np.inf)
        wanted.append(max(0.0, max(same, default=0.0) - nearest + 0.7))
    assert triplet(torch.tensor(latent), labels.tolist(), 0.7, row_max=row_max) == pytest.approx(
        np.mean(wanted), rel=1e-5, abs=1e-7
    )


def test_names_of_labels_do_not_matter(rng: np.random.Generator) -> None:
    latent = torch.tensor(rng.normal(size=(20, 3)))
    labels = rng.integers(0, 4, 20)
    other = np.array([70, -3, 2, 11])[labels]
    assert triplet(latent, labels.tolist(), 1.0) == triplet(latent, other.tolist(), 1.0)


def test_distances_and_their_gradient_where_cells_are_the_same(rng: np.random.Generator) -> None:
    values = rng.normal(size=(12, 4))
    values[5] = values[2]
    latent = torch.tensor(values, requires_grad=True)
    found = pairwise_distances(latent)
    np.testing.assert_allclose(found.detach(), cdist(values, values), atol=1e-6)
    assert float(found.detach()[2, 5]) < 1e-6
    batch_hard_triplet(found, torch.tensor([0, 1] * 6), margin=3.0).backward()
    assert latent.grad is not None
    assert torch.isfinite(latent.grad).all()
    assert latent.grad.abs().sum() > 0
    same = torch.ones(6, 3, requires_grad=True)
    batch_hard_triplet(pairwise_distances(same), torch.tensor([0, 1] * 3), margin=3.0).backward()
    assert same.grad is not None
    assert torch.equal(same.grad, torch.zeros(6, 3))


def test_gradient_is_that_of_small_steps(rng: np.random.Generator) -> None:
    latent = torch.tensor(rng.normal(size=(9, 3)), requires_grad=True)
    labels = torch.tensor([0, 1, 2] * 3)
    assert torch.autograd.gradcheck(
        lambda z: batch_hard_triplet(pairwise_distances(z), labels, margin=1.5), [latent], eps=1e-7, atol=1e-4
    )


# --- margin ----------------------------------------------------------------------------------------


def test_margin_is_between_the_medians_of_the_ends(rng: np.random.Generator) -> None:
    assert margins.spread(rng.permutation(np.arange(1.0, 11.0))) == 8
    # medians of 289, 324, 361, 400 and of 1, 4, 9, 16
    assert margins.spread(rng.permutation(np.arange(1.0, 21.0) ** 2)) == 342.5 - 6.5
    assert margins.spread(np.array([5.0, 2.0, 3.0])) == 3
    assert margins.spread(np.array([])) == 0
    assert margins.spread(np.full(40, 2.5)) == 0


def test_margin_of_few_cells_takes_all_pairs(
    rng: np.random.Generator, frozen: Callable[[NDArray], NDArray]
) -> None:
    latent = frozen(rng.normal(size=(40, 3)).astype(np.float32))
    wanted = margins.spread(pdist(latent.astype(np.float64)))
    for sample in (None, 40, 5_000):
        assert margins.margin(latent, sample=sample, rng=np.random.default_rng(0)) == wanted
    assert margins.margin(np.ones((30, 4), np.float32), sample=None, rng=rng) == 0


def test_margin_of_a_sample_is_near_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    centres = 4 * rng.normal(size=(5, 6))
    latent = (centres[rng.integers(0, 5, 6_000)] + rng.normal(size=(6_000, 6))).astype(np.float32)
    whole = margins.margin(latent, sample=None, rng=rng)
    seen: list[int] = []

    def counted(values: NDArray) -> NDArray:
        seen.append(len(values))
        return pdist(values)

    monkeypatch.setattr(margins, "pdist", counted)
    sampled = [margins.margin(latent, sample=1_500, rng=np.random.default_rng(s)) for s in (0, 0, 1)]
    assert seen == [1_500] * 3
    assert sampled[0] == sampled[1] != sampled[2]
    np.testing.assert_allclose(sampled, whole, rtol=0.05)
