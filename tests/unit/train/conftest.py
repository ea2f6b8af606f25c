"""A small pool of real tiles and a recipe that runs in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from microsnoop.core.config import InputConfig
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.io.manifest import read_records
from microsnoop.train.pool import Pool, collect
from microsnoop.train.tiles import cut_tiles


@pytest.fixture(scope="session")
def pool(examples: Path) -> Pool:
    """Tiles of 64 px of four real fields."""
    cfg = InputConfig(folder=str(examples / "images"), limit=4)
    return collect([cut_tiles(read_records(cfg).records, cfg=cfg, tile_px=64)], alpha=0.5)


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., PretrainConfig]:
    def make(**changes: Any) -> PretrainConfig:
        settings: dict[str, Any] = {
            "run_dir": str(tmp_path / "run"),
            "pool": {"shards": "unused", "tile_px": 64},
            "mask": {"patch_px": 8},
            "projector": [32, 32],
            "phases": [{"input_px": 32, "steps": 20, "batch": 4}],
            "report": {"log_every": 5, "watch_crops": 8},
        }
        return PretrainConfig.model_validate(settings | changes)

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Sums in one order, on every machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiles(pool: Pool) -> torch.Tensor:
    return pool.pixels[:: max(1, len(pool) // 8)][:8]


def as_array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
