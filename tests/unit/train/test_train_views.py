"""Crops, rotations and intensities against numpy and against what they must leave unchanged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from microsnoop.core.pretrain_config import ViewConfig
from microsnoop.train.views import ViewDraw, crop, draw_views, fixed_views, make_views, scale_intensity

PLAIN = ViewConfig(jitter_probability=0.0)


def _draw(count: int, **changes: float) -> ViewDraw:
    upright = dataclasses.asdict(fixed_views(count, ViewConfig(scale=(1.0, 1.0))))
    return ViewDraw(**upright | {name: torch.full((count,), value) for name, value in changes.items()})


def test_the_whole_tile_comes_back_as_it_is(tiles: torch.Tensor) -> None:
    found = crop(tiles, _draw(len(tiles)), side_px=64, largest=1.0)
    assert torch.allclose(found[:, 0], tiles.float(), atol=1e-3)


def test_the_middle_quarter_is_cut(tiles: torch.Tensor) -> None:
    found = crop(tiles, _draw(len(tiles), half=0.5), side_px=32, largest=0.5)
    assert torch.allclose(found[:, 0], tiles[:, 16:48, 16:48].float(), atol=1e-3)


def test_centre_is_y_then_x() -> None:
    tile = torch.arange(64 * 64).reshape(1, 64, 64).remainder(251).to(torch.uint8)
    draw = dataclasses.replace(_draw(1, half=0.25), centre=torch.tensor([[0.5, -0.25]]))
    found = crop(tile, draw, side_px=16, largest=0.25)
    assert torch.allclose(found[0, 0], tile[0, 40:56, 16:32].float(), atol=1e-2)


def test_mirror_and_quarter_turn(tiles: torch.Tensor) -> None:
    mirrored = crop(tiles, _draw(len(tiles), mirror=-1.0), side_px=64, largest=1.0)
    assert torch.allclose(mirrored[:, 0], tiles.flip(2).float(), atol=1e-3)
    turned = crop(tiles, _draw(len(tiles), angle=np.pi / 2), side_px=64, largest=1.0)
    either = [torch.rot90(tiles.float(), k, dims=(1, 2)) for k in (1, -1)]
    assert any(torch.allclose(turned[:, 0], expected, atol=1e-2) for expected in either)


def test_shrinking_averages_instead_of_skipping() -> None:
    noise = torch.randint(0, 256, (2, 128, 128), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    fine = crop(noise, _draw(2), side_px=96, largest=1.0)  # 128 / 96 is not enough to average
    found = crop(noise, _draw(2), side_px=48, largest=1.0)
    assert torch.allclose(found, torch.nn.functional.avg_pool2d(fine, 2), atol=1e-3)
    assert found.std() < 0.8 * fine.std()


def test_percentiles_become_0_and_1(tiles: torch.Tensor) -> None:
    planes = scale_intensity(tiles[:, None].float(), min_span=1.0)
    for plane, tile in zip(planes, tiles, strict=True):
        low, high = np.percentile(tile.numpy(), [1, 99])
        assert np.allclose(plane[0].numpy(), (tile.numpy() - low) / (high - low), atol=1e-4)


def test_brighter_and_stretched_tiles_look_the_same(tiles: torch.Tensor) -> None:
    dim = (tiles // 4).float()[:, None]
    assert torch.allclose(
        scale_intensity(dim, min_span=1.0), scale_intensity(dim * 3 + 40, min_span=1.0), atol=1e-4
    )


def test_an_empty_crop_stays_dark() -> None:
    noise = torch.randint(0, 3, (1, 1, 32, 32)).float()
    assert scale_intensity(noise, min_span=8.0).abs().max() <= 2 / 8 + 1e-6
    assert torch.equal(scale_intensity(torch.full((1, 1, 8, 8), 77.0), min_span=8.0), torch.zeros(1, 1, 8, 8))


def test_views_keep_their_range_and_repeat_with_their_seed(tiles: torch.Tensor) -> None:
    cfg = ViewConfig(jitter_probability=1.0, gamma=(0.5, 2.0), gain=(0.5, 5.0))
    made = [
        make_views(tiles, draw_views(len(tiles), cfg, torch.Generator().manual_seed(seed)), cfg, side_px=32)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.allclose(made[0], made[2], atol=0.1)
    assert made[0].shape == (len(tiles), 1, 32, 32)
    assert made[0].min() >= cfg.clip[0]
    assert made[0].max() <= cfg.clip[1]
    assert torch.isfinite(made[0]).all()


def test_drawn_choices_follow_the_settings() -> None:
    cfg = ViewConfig(scale=(0.25, 0.5), rotate="right_angles", jitter_probability=0.5)
    draw = draw_views(4000, cfg, torch.Generator().manual_seed(0))
    assert 0.25 <= draw.half.min() < 0.27 < 0.48 < draw.half.max() <= 0.5
    assert (draw.half < (0.25 * 0.5) ** 0.5).float().mean() == pytest.approx(0.5, abs=0.03)  # log-uniform
    assert (draw.centre.abs() <= 1 - draw.half[:, None] + 1e-6).all()  # never outside the tile
    quarter = torch.tensor([0, 1, 2, 3]) * (np.pi / 2)
    assert all(any(abs(a - q) < 1e-5 for q in quarter.tolist()) for a in draw.angle[:50].tolist())
    assert (draw.mirror == -1).float().mean() == pytest.approx(0.5, abs=0.03)
    assert (draw.gamma == 1).float().mean() == pytest.approx(0.5, abs=0.03)
    still = draw_views(10, ViewConfig(rotate="none", flip=False, jitter_probability=0), torch.Generator())
    assert (still.angle == 0).all()
    assert (still.mirror == 1).all()
    assert (still.gain == 1).all()
