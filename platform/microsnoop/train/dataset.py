"""The pool as a Ray Dataset: read and decoded in parallel, then kept on the device or streamed past it."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.core.errors import InputError, RowRejected
from microsnoop.core.pretrain_config import PoolConfig
from microsnoop.io.images import ImageReader, ImageSource
from microsnoop.io.manifest import read_records
from microsnoop.io.opener import list_files, open_binary
from microsnoop.pipelines.cluster import as_dataset
from microsnoop.train.loop import Share
from microsnoop.train.pool import Pool, collect, is_held
from microsnoop.train.tiles import TileBatch, cut_tiles, decode_tiles, stored_columns

if TYPE_CHECKING:
    from ray.data import Dataset

_ROWS_PER_BLOCK = 256
_IMAGES_PER_BLOCK = 8


@dataclass(frozen=True)
class PoolPlan:
    """What is known of a pool before a tile is decoded."""

    placement: str  # memory or stream
    rows: int  # tiles of stored pools, images otherwise
    bytes: int
    source_counts: Mapping[str, int]
    files: tuple[str, ...] = ()
    records: pa.Table | None = None  # of images; workers get none

    def describe(self) -> str:
        """Say it in a line."""
        what = "tiles" if self.files else "images"
        size = f"about {self.bytes / 2**30:.2f} GiB, in {self.placement}"
        return f"{self.rows:,} {what} of {len(self.source_counts)} source(s), {size}"


def plan_pool(cfg: PoolConfig) -> PoolPlan:
    """Look at the pool without decoding it.

    Raises
    ------
    InputError
        No Parquet file, columns missing, no image.
    """
    if cfg.shards is not None:
        files = tuple(sorted(uri for uri in list_files(cfg.shards) if uri.endswith(".parquet")))
        if not files:
            raise InputError(f"there is no .parquet file in {cfg.shards}")
        records = None
        sources = [str(source) for uri in files for source in _column(uri, "source")]
        size = len(sources) * cfg.tile_px**2
    else:
        assert cfg.images is not None
        files, records = (), read_records(cfg.images).records
        named = records["meta_source"].to_pylist() if "meta_source" in records.column_names else [None]
        sources = [str(name or "images") for name in named * (records.num_rows // len(named))]
        size = records.num_rows * _first_image_bytes(records.slice(0, 20).to_pylist(), cfg)
    names, counts = np.unique(sources, return_counts=True)
    fits = size <= cfg.memory_gb * 2**30
    placement = cfg.placement if cfg.placement != "auto" else ("memory" if fits else "stream")
    counted = dict(zip(names.tolist(), counts.tolist(), strict=True))
    return PoolPlan(placement, len(sources), size, counted, files, records)


def tile_dataset(cfg: PoolConfig, plan: PoolPlan) -> Dataset:
    """Return the lazy dataset of tile rows (``train.tiles``); bad tiles are rows too, with their reason."""
    import ray.data

    if plan.files:
        columns = stored_columns(pq.read_schema(open_binary(plan.files[0])).names, plan.files[0])
        return ray.data.read_parquet(list(plan.files), columns=columns).map_batches(
            functools.partial(decode_tiles, tile_px=cfg.tile_px),
            batch_format="pyarrow",
            batch_size=_ROWS_PER_BLOCK,
            zero_copy_batch=True,
        )
    assert cfg.images is not None
    assert plan.records is not None
    return as_dataset(plan.records, rows_per_block=_IMAGES_PER_BLOCK).map_batches(
        functools.partial(cut_tiles, cfg=cfg.images, tile_px=cfg.tile_px),
        batch_format="pyarrow",
        batch_size=None,
        zero_copy_batch=True,
    )


class StreamSource:
    """Tiles that pass by, again and again; a tile is taken with a probability that follows its source's weight.

    Held-out images are never taken. A restarted run begins a new pass, drawn anew: only a pool in memory repeats the
    very same batches.
    """

    def __init__(
        self,
        passes: Callable[[int], Iterator[TileBatch]],
        *,
        plan: PoolPlan,
        cfg: PoolConfig,
        seed: int,
        first_step: int,
        share: Share,
        device: torch.device,
    ) -> None:
        self._passes, self._cfg, self._seed, self._share, self._device = passes, cfg, seed, share, device
        weights = {source: count ** (cfg.alpha - 1.0) for source, count in plan.source_counts.items()}
        most = max(weights.values())
        self._accept = {source: weight / most for source, weight in weights.items()}
        self._first_step = first_step
        self._stream = self._tiles()
        self.problems: dict[str, str] = {}

    def take(self, step: int, batch: int) -> tuple[Tensor, Sequence[str]]:  # noqa: ARG002 (the stream knows no steps)
        """See :class:`loop.TileSource`."""
        chosen = [next(self._stream) for _ in range(batch // self._share.world)]
        pixels = torch.from_numpy(np.stack([tile for _, tile in chosen]))
        return pixels.to(self._device), [tile_id for tile_id, _ in chosen]

    def sample(self, count: int, blocks: Iterable[TileBatch]) -> Pool:
        """Return the first ``count`` good tiles of a pass, in memory on the CPU: to watch and to finish on."""
        kept: list[TileBatch] = []
        found = 0
        for block in blocks:
            kept.append(block)
            found += int((block["problem"].astype(str) == "").sum())
            if found >= count:
                break
        return collect(kept, alpha=self._cfg.alpha)

    def _tiles(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        number = 0
        while True:
            rng = np.random.default_rng([self._seed, self._first_step, number, self._share.rank])
            found = 0
            for block in self._passes(number):
                ready: deque[tuple[str, NDArray[np.uint8]]] = deque()
                for i in rng.permutation(len(block["tile_id"])):
                    tile_id, problem = str(block["tile_id"][i]), str(block["problem"][i])
                    if problem:
                        self.problems[tile_id] = problem
                    elif not is_held(str(block["image"][i]), share=self._cfg.validation, seed=self._seed):
                        found += 1
                        if rng.random() < self._accept.get(str(block["source"][i]), 1.0):
                            ready.append((tile_id, block["pixels"][i]))
                yield from ready
            if not found:
                raise InputError("a whole pass over the pool gave no usable tile")
            number += 1


def _column(uri: str, name: str) -> list[Any]:
    with open_binary(uri) as stream:
        file = pq.ParquetFile(stream)
        stored_columns(file.schema_arrow.names, uri)
        return list(file.read([name])[name].to_pylist())


def _first_image_bytes(records: Sequence[dict[str, Any]], cfg: PoolConfig) -> int:
    """Return the bytes of the first image that can be read, as uint8 planes."""
    with ImageReader() as reader:
        for record in records:
            try:
                info = reader.info(ImageSource.of(record))
            except RowRejected:
                continue
            return len(info.channels) * max(info.height_px * info.width_px, cfg.tile_px**2)
    return cfg.tile_px**2
