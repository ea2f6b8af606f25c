"""Masks and the masked loss against their definitions (Microsnoop spec, sections 2, 4 and 15)."""

from __future__ import annotations

import pytest
import torch

from microsnoop.models.masking import masked_loss, patch_count, random_mask


@pytest.mark.parametrize(("ratio", "masked"), [(0.0, 0), (0.1, 20), (0.25, 49), (0.5, 98), (0.75, 147)])
def test_exactly_the_share_of_whole_patches_is_masked(ratio: float, masked: int) -> None:
    noise = torch.rand(5, 196, generator=torch.Generator().manual_seed(0))
    mask = random_mask(noise, side_px=224, patch_px=16, ratio=ratio)
    assert mask.shape == (5, 1, 224, 224)
    patches = mask.unfold(2, 16, 16).unfold(3, 16, 16).flatten(4)
    assert ((patches == 0) | (patches == 1)).all()
    assert (patches.amin(dim=-1) == patches.amax(dim=-1)).all()  # aligned: no patch is half masked
    assert (patches[..., 0].sum(dim=(1, 2, 3)) == masked).all()


def test_the_patches_with_the_largest_noise_are_masked() -> None:
    noise = torch.tensor([[0.1, 0.9, 0.2, 0.8]])
    mask = random_mask(noise, side_px=4, patch_px=2, ratio=0.5)
    expected = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1.0]])
    assert torch.equal(mask[0, 0], expected)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
def test_shares_out_of_range_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        random_mask(torch.rand(1, 4), side_px=4, patch_px=2, ratio=ratio)


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be cut"):
        patch_count(100, 16)
    with pytest.raises(ValueError, match="need noise"):
        random_mask(torch.rand(2, 5), side_px=4, patch_px=2, ratio=0.5)


@pytest.mark.parametrize("w_vis", [0.0, 0.3, 1.0])
def test_loss_of_known_errors(w_vis: float) -> None:
    wanted = torch.rand(3, 1, 8, 8)
    mask = random_mask(torch.rand(3, 16), side_px=8, patch_px=2, ratio=0.25)
    assert masked_loss(wanted, wanted, mask, w_vis=w_vis) == 0
    assert masked_loss(wanted + 1, wanted, mask, w_vis=w_vis) == pytest.approx(1.0, rel=1e-5)


def test_visible_pixels_have_no_gradient() -> None:
    wanted, found = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8, requires_grad=True)
    mask = random_mask(torch.rand(2, 16), side_px=8, patch_px=2, ratio=0.5)
    masked_loss(found, wanted, mask).backward()
    assert found.grad is not None
    assert (found.grad[mask == 0] == 0).all()
    assert (found.grad[mask == 1] != 0).all()
