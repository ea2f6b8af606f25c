"""Was an encoder trained on what it is tested with? Hashes of pool tiles against all evaluation planes.

Source: Microsnoop spec, section 1 (leakage gate). A perceptual hash finds the same picture, also rescaled or
compressed; it cannot find a tile that was cut from a larger evaluation image.
"""

from __future__ import annotations

import functools
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig
from microsnoop.core.schema import require_columns
from microsnoop.io.manifest import read_records
from microsnoop.io.pool import read_pool
from microsnoop.ops.phash import THUMB_PX, close_pairs, dct_hash, similarity, thumbnail
from microsnoop.pipelines.cluster import as_dataset
from microsnoop.pipelines.fields import ReadJob
from microsnoop.pipelines.plan import probe
from microsnoop.pipelines.stages import pixel_sample, read_samples

SAME_PICTURE = 0.95  # correlation of thumbnails from which a hit is called the same picture
_RECORDS_PER_BLOCK = 64
_SCHEMA = pa.schema(
    [("name", pa.string()), ("channel", pa.string()), ("hash", pa.uint64()), ("thumb", pa.binary())]
)


@dataclass(frozen=True)
class Hashes:
    """Hashed planes: names (N,), hashes uint64 (N,), thumbnails (N, 32, 32); ``flat`` planes have no hash."""

    names: list[str]
    hashes: NDArray[np.uint64]
    thumbs: NDArray[np.uint8]
    flat: int
    unreadable: int = 0


@dataclass(frozen=True)
class Hit:
    """An evaluation plane and a pool tile whose hashes differ in at most 4 of 64 bits."""

    plane: str
    tile: str
    bits: int
    correlation: float

    @property
    def same_picture(self) -> bool:
        """Whether the thumbnails agree too: a chance hit of two roundish things does not get that far."""
        return self.correlation >= SAME_PICTURE


def hash_pool(folder: Path) -> Hashes:
    """Hash every tile of a pool folder (``io.pool.read_pool``)."""
    names, hashes, thumbs, flat = [], [], [], 0
    for name, plane in read_pool(folder):
        thumb = thumbnail(plane)
        value = dct_hash(thumb)
        if value is None:
            flat += 1
            continue
        names.append(name)
        hashes.append(value)
        thumbs.append(thumb)
    return _hashes(names, hashes, thumbs, flat)


def hash_images(cfg: EmbedConfig) -> Hashes:
    """Hash every plane of every image of ``cfg.input``, and of every window where cells are cut out.

    Runs on the connected Ray cluster. ::

        records              image_id, uris, index, boxes         one row an image
        -> read_samples      + pixels                             one row an image or cell
        -> _hash_samples     name, channel, hash, thumb           one row a plane
    """
    records = read_records(cfg.input).records
    channels = probe(records, cfg).channels
    cfg = cfg.model_copy(update={"mode": "rescale"})  # whole regions, whatever windows the encoders see
    job = ReadJob(cfg, channels, 0, "", session=uuid.uuid4().hex)
    tables = [records.drop_columns(["boxes"]), records] if "boxes" in records.column_names else [records]
    names: list[str] = []
    hashes: list[int] = []
    thumbs: list[NDArray[np.uint8]] = []
    flat = unreadable = 0
    for table in tables:
        planes = (
            as_dataset(table, rows_per_block=_RECORDS_PER_BLOCK)
            .map_batches(functools.partial(read_samples, job=job), batch_format="pyarrow", batch_size=None)
            .map_batches(
                functools.partial(_hash_samples, channels=channels), batch_format="pyarrow", batch_size=None
            )
        )
        for block in planes.iter_batches(batch_size=None, batch_format="pyarrow"):
            assert isinstance(block, pa.Table)
            for row in block.to_pylist():
                if row["channel"] is None:
                    unreadable += 1
                elif row["hash"] is None:
                    flat += 1
                else:
                    names.append(f"{row['name']} {row['channel']}")
                    hashes.append(row["hash"])
                    thumbs.append(np.frombuffer(row["thumb"], np.uint8).reshape(THUMB_PX, THUMB_PX))
    return _hashes(names, hashes, thumbs, flat, unreadable)


def find_hits(planes: Hashes, pool: Hashes) -> list[Hit]:
    """Return every pair of a plane and a tile whose hashes are close, closest pictures first."""
    rows, tiles, bits = close_pairs(planes.hashes, pool.hashes)
    hits = [
        Hit(planes.names[i], pool.names[j], int(b), similarity(planes.thumbs[i], pool.thumbs[j]))
        for i, j, b in zip(rows, tiles, bits, strict=True)
    ]
    return sorted(hits, key=lambda hit: (-hit.correlation, hit.plane, hit.tile))


def _hash_samples(samples: pa.Table, *, channels: tuple[str, ...]) -> pa.Table:
    """Hash each plane of each sample; a reject becomes one row without a channel."""
    require_columns(samples.column_names, stage="_hash_samples", needed=["obs_id", "pixels", "code"])
    rows = []
    for row in samples.to_pylist():
        if row["code"] is not None:
            rows.append({"name": row["obs_id"], "channel": None, "hash": None, "thumb": None})
            continue
        for channel, plane in zip(channels, pixel_sample(row, len(channels)).planes, strict=True):
            thumb = thumbnail(plane)
            rows.append(
                {"name": row["obs_id"], "channel": channel, "hash": dct_hash(thumb), "thumb": thumb.tobytes()}
            )
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _hashes(
    names: list[str], hashes: list[int], thumbs: list[NDArray[np.uint8]], flat: int, unreadable: int = 0
) -> Hashes:
    stacked = np.stack(thumbs) if thumbs else np.empty((0, THUMB_PX, THUMB_PX), np.uint8)
    return Hashes(names, np.array(hashes, np.uint64), stacked, flat, unreadable)
