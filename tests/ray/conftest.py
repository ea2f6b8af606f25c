"""Real Ray on this machine, and folders of real images to run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microsnoop.core.config import EmbedConfig
from microsnoop.io.images import read_image


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster for all tests that do not need their own."""
    from microsnoop.pipelines.cluster import cluster

    with cluster(None, memory_bytes=2**30):
        yield


@pytest.fixture(scope="session")
def tiles(examples: Path) -> np.ndarray:
    """272 real nuclear image tiles (N, 64, 96) uint16, cut from the fields in examples/."""
    cut = [
        read_image(str(path)).planes[0, y : y + 64, x : x + 96]
        for path in sorted((examples / "images").glob("*.tif"))
        for y in range(0, 256, 64)
        for x in range(0, 384, 96)
    ]
    return np.stack(cut)


@pytest.fixture
def folder_of(tmp_path: Path, tiles: np.ndarray) -> Callable[..., Path]:
    """Write a folder of TIFF files of real tiles."""

    def make(count: int, name: str = "images", start: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for i in range(start, start + count):
            tifffile.imwrite(folder / f"field {i:03d} µ.tif", tiles[i], compression="zlib")
        return folder

    return make


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., EmbedConfig]:
    """Make a configuration of a quick run into tmp_path/run; keyword arguments override it."""

    def make(folder: Path | None = None, **changes: object) -> EmbedConfig:
        settings: dict[str, object] = {
            "input": {"folder": str(folder)},
            "run_dir": str(tmp_path / "run"),
            "encoder": "pixels16",
            "input_px": 64,
            "execution": {"memory_gb": 4, "rows_per_part": 16},
        }
        return EmbedConfig.model_validate(settings | changes)

    return make
