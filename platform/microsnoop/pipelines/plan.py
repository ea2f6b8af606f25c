"""The execution plan: how many actors, what batch, what blocks, from the memory and the devices there are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError, InputError, RowRejected
from microsnoop.io.formats import ImageInfo
from microsnoop.io.images import ImageReader, ImageSource, select_channels
from microsnoop.models.card import EncoderCard
from microsnoop.models.device import PLANE_224_BYTES, DevicePlan, default_batch_planes, resolve_precision
from microsnoop.ops.geometry import Box
from microsnoop.ops.modes import windows
from microsnoop.pipelines.cluster import Resources

_PROBED = 16
_WORKER_BYTES = 700 * 2**20  # a process with torch and Ray before it holds a single plane
_BLOCK_BYTES = 32 * 2**20
_PX_PER_CELL = 4096  # a guess that only shapes blocks: objects are counted when they are found
_BLOCK_PLANES_224 = {"cpu": 64, "mps": 512, "cuda": 4096}


@dataclass(frozen=True)
class Probe:
    """What the headers of a few records say about all of them."""

    channels: tuple[str, ...]
    height_px: int
    width_px: int
    dtype: str
    pixel_size_um: float | None
    disagreeing: int
    unreadable: int
    looked_at: int


@dataclass(frozen=True)
class ExecutionPlan:
    """Everything the pipeline needs to know about where and how much at once."""

    device: DevicePlan
    actors: int
    num_gpus_per_actor: float
    records_per_block: int
    memory_bytes: int

    def describe(self) -> list[tuple[str, str]]:
        """Return (name, value) lines for people."""
        d = self.device
        threads = f" × {d.threads} threads" if d.device == "cpu" else ""
        return [
            ("device", f"{d.device}, {d.precision}{', compiled' if d.compile else ''}"),
            ("actors", f"{self.actors}{threads}"),
            ("encoder batch", f"{d.batch_planes:,} planes"),
            ("block", f"{self.records_per_block:,} images"),
            ("memory", f"{self.memory_bytes / 2**30:.1f} GiB"),
        ]


def probe(records: pa.Table, cfg: EmbedConfig) -> Probe:
    """Read the headers of up to 16 records spread over the list and take the channels of the majority.

    Raises
    ------
    InputError
        None of them can be read, or the channels asked for are in none.
    """
    positions = np.unique(np.linspace(0, records.num_rows - 1, min(_PROBED, records.num_rows)).astype(int))
    infos: list[tuple[tuple[str, ...], ImageInfo]] = []
    problems: list[RowRejected] = []
    with ImageReader(limit_px=int(cfg.input.max_image_mpx * 1e6)) as reader:
        for row in records.take(pa.array(positions)).to_pylist():
            source = ImageSource.of(row)
            try:
                info = reader.info(source)
                _, kept = select_channels(info.channels, cfg.input.channels, where=source.name)
            except (RowRejected, IndexError) as error:
                problems += [error] if isinstance(error, RowRejected) else []
                continue
            infos.append((tuple(kept), info))
    if not infos:
        reason = problems[0].message if problems else "no files"
        raise InputError(
            f"none of {len(positions)} images looked at can be used; the first: {reason}",
            hint="`microsnoop embed --dry-run` shows the plan and the first records",
        )
    kinds = [channels for channels, _ in infos]
    usual = max(set(kinds), key=lambda kind: (kinds.count(kind), -kinds.index(kind)))
    typical = next(info for channels, info in infos if channels == usual)
    return Probe(
        channels=usual,
        height_px=typical.height_px,
        width_px=typical.width_px,
        dtype=typical.dtype,
        pixel_size_um=typical.pixel_size_um,
        disagreeing=len(kinds) - kinds.count(usual),
        unreadable=len(positions) - len(kinds),
        looked_at=len(positions),
    )


def make_plan(
    cfg: EmbedConfig,
    card: EncoderCard,
    *,
    device: str,
    resources: Resources,
    records: pa.Table,
    probed: Probe,
    precision: str | None = None,
) -> ExecutionPlan:
    """Decide actors, batch and blocks.

    Parameters
    ----------
    device
        Resolved: ``cpu``, ``cuda`` or ``mps``.
    precision
        The one a resumed run began with, if any; it wins over ``auto``.

    Raises
    ------
    ConfigError
        ``memory_gb`` is too small for a single actor.
    """
    run = cfg.execution
    input_px = input_side(cfg, card)
    wanted = precision if precision is not None and run.precision == "auto" else run.precision
    batch = run.batch_planes or default_batch_planes(device, input_px)
    memory = int(run.memory_gb * 2**30) if run.memory_gb else resources.memory_bytes
    actors, threads = _actors(cfg, device, resources)
    actor_bytes = _WORKER_BYTES + (batch * _plane_bytes(input_px) if device == "cpu" else 0)
    if resources.local:
        actors = min(actors, max(1, math.floor((memory * 3 // 4) / actor_bytes)))
        if memory * 3 // 4 < actor_bytes:
            raise ConfigError(
                f"memory_gb = {memory / 2**30:.1f} is too little: one actor with a batch of {batch} planes needs "
                f"{actor_bytes * 4 / 3 / 2**30:.1f} GiB with Ray's share",
                hint="raise execution.memory_gb or lower execution.batch_planes",
            )
    plan = DevicePlan(
        device, resolve_precision(device, wanted, allowed=card.bf16), batch, threads, compile=run.compile
    )
    records_per_block = _records_per_block(cfg, records, probed, device, input_px, actors)
    return ExecutionPlan(
        plan, actors, run.num_gpus_per_actor if device == "cuda" else 0.0, records_per_block, memory
    )


def input_side(cfg: EmbedConfig, card: EncoderCard) -> int:
    """Return the side of the encoder's input square: the user's, or the encoder's own."""
    return cfg.input_px or card.input_px


def _actors(cfg: EmbedConfig, device: str, resources: Resources) -> tuple[int, int]:
    """Return (actors, threads of each)."""
    if device == "cpu":
        # beyond four threads a small network gains little from another one; processes scale instead
        actors = cfg.execution.actors or max(1, math.ceil(resources.cpus / 4))
        return actors, max(1, resources.cpus // actors)
    if device == "mps":
        return cfg.execution.actors or 1, 1
    return cfg.execution.actors or max(1, int(resources.gpus / cfg.execution.num_gpus_per_actor)), 1


def _records_per_block(
    cfg: EmbedConfig, records: pa.Table, probed: Probe, device: str, input_px: int, actors: int
) -> int:
    """Return how many records go into one block: bounded in bytes and in seconds of encoder work."""
    samples = 1.0
    height_px, width_px = _read_at_once(cfg, records, probed)
    image_bytes = height_px * width_px * np.dtype(probed.dtype).itemsize * len(probed.channels)
    if "boxes" in records.schema.names:
        samples = float(pc.mean(pc.list_value_length(records["boxes"])).as_py() or 1)
    elif cfg.mode == "tile":
        whole = Box(0, 0, height_px, width_px)
        found, _ = windows(whole, cfg, side_px=input_px, pixel_size_um=probed.pixel_size_um, draw_key="")
        samples = float(len(found))
    elif cfg.mode == "crop":
        samples = max(1.0, min(height_px * width_px / _PX_PER_CELL, cfg.crop.max_cells or math.inf))
    by_planes = _BLOCK_PLANES_224[device] * (224 / input_px) ** 2 / (samples * len(probed.channels))
    by_share = records.num_rows / (8 * actors)
    return max(1, math.floor(min(by_planes, _BLOCK_BYTES / image_bytes, by_share)))


def _read_at_once(cfg: EmbedConfig, records: pa.Table, probed: Probe) -> tuple[int, int]:
    """Return how much of a typical field is read at once: all of it, or a block."""
    if "block" not in records.schema.names:
        return probed.height_px, probed.width_px
    return min(probed.height_px, cfg.input.block_px), min(probed.width_px, cfg.input.block_px)


def _plane_bytes(input_px: int) -> int:
    return int(PLANE_224_BYTES * (input_px / 224) ** 2)
