"""Pools of tiles: every tile of every shard, and a clear refusal of what cannot be checked whole."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from microsnoop.core.errors import InputError
from microsnoop.io.pool import read_pool


def jpeg(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=95)
    return data.getvalue()


def test_every_tile_of_every_shard(tmp_path: Path, rng: np.random.Generator) -> None:
    tiles = rng.integers(0, 255, (5, 24, 32)).astype(np.uint8)
    for shard, part in enumerate((tiles[:3], tiles[3:])):
        table = pa.table(
            {"tile_id": [f"{shard}-{i}" for i in range(len(part))], "jpeg": [jpeg(t) for t in part]}
        )
        pq.write_table(table, tmp_path / f"tiles-{shard}.parquet")
    found = dict(read_pool(tmp_path))
    assert list(found) == ["0-0", "0-1", "0-2", "1-0", "1-1"]
    assert all(plane.shape == (24, 32) and plane.dtype == np.uint8 for plane in found.values())
    assert np.abs(found["1-1"].astype(int) - tiles[4]).mean() < 12


def test_colour_tiles_give_three_planes_and_nameless_ones_a_number(tmp_path: Path) -> None:
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[..., 0] = 200
    pq.write_table(pa.table({"jpeg": [jpeg(pixels)]}), tmp_path / "x.parquet")
    found = dict(read_pool(tmp_path))
    assert list(found) == ["x.parquet[0]:red", "x.parquet[0]:green", "x.parquet[0]:blue"]
    assert found["x.parquet[0]:red"].mean() > 190


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no pool"),
        (b"not parquet", "cannot be read as Parquet"),
        ({"tile_id": ["a"]}, "has no column `jpeg`"),
        ({"tile_id": ["a"], "jpeg": [b"broken"]}, "tile a cannot be decoded"),
        ({"tile_id": ["a"], "jpeg": [None]}, "tile a cannot be decoded"),
    ],
)
def test_a_pool_that_cannot_be_checked_whole_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "t.parquet").write_bytes(content)
    elif isinstance(content, dict):
        pq.write_table(pa.table(content), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=message):
        list(read_pool(tmp_path))
