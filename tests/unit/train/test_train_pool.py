"""Tiles and pools: every row in comes out or says why not; sources are drawn as they should be."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from PIL import Image

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError
from microsnoop.core.pretrain_config import PoolConfig
from microsnoop.io.manifest import read_records
from microsnoop.ops.crops import source_weights
from microsnoop.train.dataset import StreamSource, plan_pool
from microsnoop.train.loop import Share
from microsnoop.train.pool import Pool, collect, hold_out, is_held
from microsnoop.train.tiles import TileBatch, as_batch, cut_tiles, decode_tiles


def _encode(array: np.ndarray, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def _stored(**encoded: bytes) -> pa.Table:
    names = list(encoded)
    return pa.table(
        {
            "tile_id": names,
            "source": ["s"] * len(names),
            "jpeg": pa.array(list(encoded.values()), pa.binary()),
        }
    )


def test_stored_tiles_are_decoded_and_bad_ones_say_why(rng: np.random.Generator) -> None:
    grey = (np.linspace(0, 255, 64)[None] + np.zeros((48, 1))).astype(np.uint8)
    batch = decode_tiles(
        _stored(
            good=_encode(grey, "PNG"),
            colour=_encode(np.stack([grey] * 3, axis=-1)),
            cut=_encode(grey)[:200],
            large=_encode(np.zeros((65, 65), np.uint8)),
            none=b"",
        ),
        tile_px=64,
    )
    assert batch["tile_id"].tolist() == ["good", "colour", "cut", "large", "none"]
    assert batch["problem"][0] == ""
    for i, why in enumerate(["one 8-bit plane", "cut", "larger than pool.tile_px", "none"], start=1):
        assert why in batch["problem"][i]
    assert batch["pixels"].shape == (5, 64, 64)
    assert np.array_equal(batch["pixels"][0][8:56], grey)  # mirrored above and below
    assert np.array_equal(batch["pixels"][0][:8], grey[:8][::-1])
    pool = collect([batch], alpha=1.0)
    assert pool.tile_ids.tolist() == ["good"]
    assert len(pool) + len(pool.problems) == 5


def test_images_of_any_kind_become_tiles(tmp_path: Path, rng: np.random.Generator) -> None:
    planes = rng.normal(1000, 200, (2, 96, 128)).astype(np.float32)
    planes[1] *= -3
    tifffile.imwrite(tmp_path / "two.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    tifffile.imwrite(tmp_path / "flat.tif", np.full((96, 96), 7, np.uint16))
    tifffile.imwrite(tmp_path / "small.tif", rng.integers(0, 255, (40, 200)).astype(np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    cfg = InputConfig(folder=str(tmp_path))
    batch = cut_tiles(read_records(cfg).records, cfg=cfg, tile_px=64)
    problems = dict(zip(batch["tile_id"].tolist(), batch["problem"].tolist(), strict=True))
    good = [name for name, problem in problems.items() if not problem]
    assert len(good) == 2 * 2 * 3  # 96 and 128 px with a small overlap
    assert {name.split("/")[0] for name in good} == {"two.tif"}
    reasons = {name: problem.split(":")[0] for name, problem in problems.items() if problem}
    assert reasons["broken.png"] == "decode_error"
    assert sorted(reasons.values()) == ["constant_plane", "decode_error", "too_small"]
    pixels = batch["pixels"][batch["problem"] == ""]
    assert pixels.dtype == np.uint8
    assert pixels.min() == 0
    assert pixels.max() == 255


def _pool(sources: str) -> Pool:
    rows = [
        {"tile_id": f"{i:04d}", "source": s, "image": f"image{i // 4}", "kind": "", "problem": "",
         "pixels": np.full((8, 8), i % 256, np.uint8)}
        for i, s in enumerate(sources)
    ]  # fmt: skip
    return collect([as_batch(rows, 8)], alpha=0.5)


def test_weights_follow_the_size_of_the_source() -> None:
    sources = np.array(["a"] * 900 + ["b"] * 100)
    for alpha, share in [(1.0, 0.9), (0.5, 0.75), (0.0, 0.5)]:
        assert source_weights(sources, alpha=alpha)[:900].sum() == pytest.approx(share)


def test_draws_are_weighted_and_repeat() -> None:
    pool = _pool("a" * 900 + "b" * 100)
    drawn = np.concatenate([pool.draw(500, seed=0, step=step) for step in range(20)])
    assert (pool.sources[drawn] == "a").mean() == pytest.approx(0.75, abs=0.02)
    assert len(np.unique(drawn)) > 900
    assert np.array_equal(pool.draw(50, seed=0, step=7), pool.draw(50, seed=0, step=7))
    assert not np.array_equal(pool.draw(50, seed=0, step=7), pool.draw(50, seed=0, step=8))
    assert not np.array_equal(pool.draw(50, seed=0, step=7), pool.draw(50, seed=1, step=7))


def test_the_order_of_blocks_does_not_matter() -> None:
    rows = [
        {"tile_id": f"t{i}", "source": "s", "image": "", "kind": "", "problem": "",
         "pixels": np.full((4, 4), i, np.uint8)}
        for i in range(10)
    ]  # fmt: skip
    one = collect([as_batch(rows[:5], 4), as_batch(rows[5:], 4)], alpha=1.0)
    other = collect([as_batch(rows[5:][::-1], 4), as_batch(rows[:5], 4)], alpha=1.0)
    assert one.tile_ids.tolist() == other.tile_ids.tolist()
    assert torch.equal(one.pixels, other.pixels)


def test_held_out_images_are_on_one_side_only() -> None:
    pool = _pool("a" * 2000)
    learn, watch = hold_out(pool, share=0.2, alpha=0.5, seed=0)
    assert len(learn) + len(watch) == 2000
    assert not set(learn.images) & set(watch.images)
    assert len(watch) / 2000 == pytest.approx(0.2, abs=0.05)
    assert all(is_held(name, share=0.2, seed=0) for name in set(watch.images.tolist()))
    assert learn.weights.sum() == pytest.approx(1)
    assert (learn.pixels[:, 0, 0].numpy() == [int(i) % 256 for i in learn.tile_ids]).all()
    assert hold_out(pool, share=0.0, alpha=0.5, seed=0) == (pool, pool)


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "no usable tile"), (["x", "x"], "stand more than once, the first: x")],
)
def test_useless_pools_are_refused(rows: list[str], message: str) -> None:
    batch = as_batch(
        [
            {
                "tile_id": i,
                "source": "s",
                "image": "",
                "kind": "",
                "problem": "",
                "pixels": np.zeros((4, 4), np.uint8),
            }
            for i in rows
        ],
        4,
    )
    with pytest.raises(InputError, match=message):
        collect([batch], alpha=1.0)


def test_plans_say_what_fits(tmp_path: Path, examples: Path) -> None:
    table = _stored(a=b"x", b=b"y")
    pq.write_table(table, tmp_path / "tiles.parquet")
    plan = plan_pool(PoolConfig(shards=str(tmp_path)))
    assert (plan.rows, plan.bytes, plan.placement, dict(plan.source_counts)) == (
        2,
        2 * 256**2,
        "memory",
        {"s": 2},
    )
    assert plan_pool(PoolConfig(shards=str(tmp_path), memory_gb=1e-6)).placement == "stream"
    images = plan_pool(PoolConfig(images=InputConfig(folder=str(examples / "images"))))
    assert images.rows == 17
    assert images.bytes == 17 * 512 * 512
    pq.write_table(table.drop(["jpeg"]), tmp_path / "tiles.parquet")
    with pytest.raises(InputError, match="jpeg are missing"):
        plan_pool(PoolConfig(shards=str(tmp_path)))
    (tmp_path / "tiles.parquet").unlink()
    with pytest.raises(InputError, match=r"no \.parquet file"):
        plan_pool(PoolConfig(shards=str(tmp_path)))


def _stream(blocks: list[TileBatch], counts: dict[str, int], **changes: Any) -> StreamSource:
    from microsnoop.train.dataset import PoolPlan

    settings: dict[str, Any] = {"shards": "x", "alpha": 0.5, "validation": 0.0} | changes
    return StreamSource(
        lambda _: iter(blocks),
        plan=PoolPlan("stream", sum(counts.values()), 0, counts),
        cfg=PoolConfig(**settings),
        seed=0,
        first_step=0,
        share=Share(),
        device=torch.device("cpu"),
    )


@pytest.fixture
def blocks() -> Callable[[], list[TileBatch]]:
    def make() -> list[TileBatch]:
        rows = [
            {"tile_id": f"{i:04d}", "source": "a" if i < 900 else "b", "image": f"image{i}", "kind": "",
             "problem": "bad" if i == 3 else "", "pixels": np.full((4, 4), i % 256, np.uint8)}
            for i in range(1000)
        ]  # fmt: skip
        return [as_batch(rows[i : i + 100], 4) for i in range(0, 1000, 100)]

    return make


def test_a_stream_goes_on_for_ever_weighted_and_without_bad_tiles(
    blocks: Callable[[], list[TileBatch]],
) -> None:
    source = _stream(blocks(), {"a": 900, "b": 100})
    ids = [i for step in range(40) for i in source.take(step, 50)[1]]
    assert len(ids) == 2000
    assert np.mean([int(i) < 900 for i in ids]) == pytest.approx(0.75, abs=0.05)
    assert "0003" not in ids
    assert source.problems == {"0003": "bad"}
    tiles, ids = source.take(40, 20)
    assert tiles[:, 0, 0].tolist() == [int(i) % 256 for i in ids]


def test_a_stream_leaves_held_out_images_alone(blocks: Callable[[], list[TileBatch]]) -> None:
    source = _stream(blocks(), {"a": 900, "b": 100}, validation=0.3)
    ids = {i for step in range(40) for i in source.take(step, 50)[1]}
    assert not any(is_held(f"image{int(i)}", share=0.3, seed=0) for i in ids)


def test_a_stream_of_nothing_ends_with_an_error(blocks: Callable[[], list[TileBatch]]) -> None:
    only_bad = [{name: column[3:4] for name, column in blocks()[0].items()}]
    with pytest.raises(InputError, match="no usable tile"):
        _stream(only_bad, {"a": 1}).take(0, 4)
