"""Pools of unlabelled images: shards of tiles, folders, and what is wrong with them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from microsnoop.core.errors import InputError
from microsnoop.io.pool import open_pool


def jpeg(value: int, size: tuple[int, int] = (24, 32)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(size, value, np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Seven tiles in two shards; tile k is grey value 10 k."""
    folder = tmp_path / "pool"
    folder.mkdir()
    for name, rows in (("tiles-00", range(4)), ("tiles-01", range(4, 7))):
        table = {
            "tile_id": [f"t{k}" for k in rows],
            "source": ["a" if k < 5 else "b" for k in rows],
            "jpeg": [jpeg(10 * k) for k in rows],
        }
        pq.write_table(pa.table(table), folder / f"{name}.parquet", row_group_size=2)
    (folder / "CARD.md").write_text("what it is")
    return folder


def test_tiles_come_in_the_order_asked_for(shards: Path) -> None:
    pool = open_pool(str(shards))
    assert pool.sources.tolist() == ["a"] * 5 + ["b"] * 2
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 0, 3, 3, 4]):
        found = list(pool.planes(order))
        assert [planes.shape for planes in found] == [(1, 24, 32)] * len(order)
        assert [round(float(planes.mean()) / 10) for planes in found] == order


def test_a_folder_of_images_is_a_pool(tmp_path: Path) -> None:
    for source in ("cells", "tissue/deep"):
        (tmp_path / "x" / source).mkdir(parents=True)
    tifffile.imwrite(tmp_path / "x/cells/1.tif", np.full((3, 20, 30), 7, np.uint16), photometric="minisblack")
    Image.fromarray(np.full((9, 8), 5, np.uint8)).save(tmp_path / "x/cells/2.png")
    np.save(tmp_path / "x/tissue/deep/3.npy", np.full((11, 12), 0.5, np.float32))
    pool = open_pool(str(tmp_path / "x"))
    assert pool.sources.tolist() == ["cells", "cells", "tissue/deep"]
    assert [planes.shape for planes in pool.planes([0, 2, 1])] == [(3, 20, 30), (1, 11, 12), (1, 9, 8)]


def test_images_all_in_one_folder_are_one_source(tmp_path: Path) -> None:
    for k in range(3):
        Image.fromarray(np.full((9, 8), k, np.uint8)).save(tmp_path / f"{k}.png")
    assert open_pool(str(tmp_path)).sources.tolist() in (["."] * 3, [""] * 3)


def test_what_is_no_pool(tmp_path: Path, shards: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        open_pool(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="does not exist"):
        open_pool(str(tmp_path / "absent"))
    pq.write_table(pa.table({"x": [1]}), shards / "other.parquet")
    with pytest.raises(
        InputError, match=r"other\.parquet is no shard of tiles: it has no column jpeg and no source"
    ):
        open_pool(str(shards))
    (shards / "other.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"other\.parquet cannot be read as Parquet"):
        open_pool(str(shards))


def test_shards_without_rows(tmp_path: Path) -> None:
    empty = pa.table({"source": pa.array([], pa.string()), "jpeg": pa.array([], pa.binary())})
    pq.write_table(empty, tmp_path / "tiles.parquet")
    with pytest.raises(InputError, match="have no rows"):
        open_pool(str(tmp_path))


@pytest.mark.parametrize("data", [b"", b"no jpeg", None, jpeg(3)[:40]])
def test_a_broken_tile_is_named(tmp_path: Path, data: bytes | None) -> None:
    pq.write_table(
        pa.table({"source": ["a", "a"], "jpeg": pa.array([jpeg(1), data], pa.binary())}),
        tmp_path / "t.parquet",
    )
    pool = open_pool(str(tmp_path))
    assert len(list(pool.planes([0]))) == 1
    with pytest.raises(InputError, match=r"t\.parquet, row 1") as caught:
        list(pool.planes([0, 1]))
    assert caught.value.hint == "repair it or take it out"


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"a\.png"):
        list(open_pool(str(tmp_path)).planes([0]))
