"""A pool of unlabelled images for fitting: Parquet shards of JPEG tiles, or any folder of images.

A shard holds one tile a row, with its ``jpeg`` bytes and the ``source`` it comes from. In a folder, the
subfolder of an image is its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError, RowRejected
from microsnoop.io.images import ImageReader, ImageSource, decode_image
from microsnoop.io.manifest import read_records

_COLUMNS = ["jpeg", "source"]
_BATCH_ROWS = 256
_MAX_TILE_PX = 4096**2


@dataclass(frozen=True)
class Pool:
    """Images that can be read by their position; ``sources`` (n,) says where each comes from."""

    folder: str
    sources: NDArray[Any]
    shards: tuple[Path, ...]
    uris: tuple[str, ...]

    def planes(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield the planes (C, H, W) of the images at ``positions``, in that order; ascending is fast.

        Raises
        ------
        InputError
            An image cannot be read; the message names it.
        """
        return self._from_shards(positions) if self.shards else self._from_files(positions)

    def _from_files(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        with ImageReader() as reader:
            for position in positions:
                try:
                    yield reader.read(ImageSource((self.uris[position],))).planes
                except RowRejected as error:
                    raise _unusable(self.folder, error) from error

    def _from_shards(self, positions: Sequence[int]) -> Iterator[NDArray[Any]]:
        starts = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in self.shards)])
        held, jpegs = -1, pa.chunked_array([], pa.binary())
        for position in positions:
            shard = int(np.searchsorted(starts, position, side="right")) - 1
            if shard != held:
                held, jpegs = shard, pq.read_table(self.shards[shard], columns=["jpeg"])["jpeg"]
            row = int(position - starts[shard])
            name = f"{self.shards[shard]}, row {row}"
            try:
                yield decode_image(jpegs[row].as_py() or b"", name).planes
            except RowRejected as error:
                raise _unusable(self.folder, error, name) from error


def open_pool(folder: str) -> Pool:
    """Look at a pool without reading an image.

    Raises
    ------
    InputError
        Nothing usable in the folder, or Parquet files that are no shards of tiles.
    """
    shards = tuple(sorted(Path(folder).glob("*.parquet")))
    if not shards:
        records = read_records(InputConfig(folder=folder)).records
        names = records["meta_folder"] if "meta_folder" in records.column_names else [""] * records.num_rows
        uris = tuple(uris[0] for uris in records["uris"].to_pylist())
        return Pool(folder, np.asarray(names).astype(str), (), uris)
    for path in shards:
        missing = [name for name in _COLUMNS if name not in _schema(path).names]
        if missing:
            raise InputError(
                f"{path} is no shard of tiles: it has no column {' and no '.join(missing)}",
                hint="a pool holds Parquet files with the columns jpeg and source, or image files",
            )
    sources = pa.concat_arrays(
        [pq.read_table(path, columns=["source"])["source"].combine_chunks() for path in shards]
    )
    if not len(sources):
        raise InputError(f"the shards in {folder} have no rows")
    return Pool(folder, np.asarray(sources.to_pylist()).astype(str), shards, ())


def read_pool(folder: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield (tile id, plane (H, W)) of every tile of every shard; a colour tile gives one plane a colour.

    Raises
    ------
    InputError
        No shard, a shard that cannot be read, or a tile that cannot be decoded: a check of some tiles only
        would not be a check.
    """
    shards = sorted(folder.glob("*.parquet"))
    if not shards:
        raise InputError(
            f"{folder} holds no pool: no Parquet shard in it",
            hint="--pool is the folder of the training tiles",
        )
    for shard in shards:
        names = [name for name in ("tile_id", "jpeg") if name in _schema(shard).names]
        if "jpeg" not in names:
            raise InputError(
                f"{shard} has no column `jpeg`", hint=f"it has {', '.join(_schema(shard).names)}"
            )
        row = 0
        for batch in pq.ParquetFile(shard).iter_batches(_BATCH_ROWS, columns=names):
            for entry in batch.to_pylist():
                yield from _named_planes(entry.get("tile_id") or f"{shard.name}[{row}]", entry["jpeg"])
                row += 1


def _named_planes(tile: str, data: bytes | None) -> Iterator[tuple[str, NDArray[Any]]]:
    try:
        image = decode_image(data or b"", tile, limit_px=_MAX_TILE_PX)
    except RowRejected as error:
        raise InputError(f"the pool tile {tile} cannot be decoded: {error}") from error
    if len(image.planes) == 1:
        yield tile, image.planes[0]
    else:
        yield from ((f"{tile}:{c}", plane) for c, plane in zip(image.channels, image.planes, strict=True))


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({error})") from error


def _unusable(folder: str, error: Exception, name: str = "") -> InputError:
    where = f"{name}: " if name and name not in str(error) else ""
    return InputError(
        f"an image of the pool {folder} cannot be read: {where}{error}", hint="repair it or take it out"
    )
