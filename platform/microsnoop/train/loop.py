"""The training loop: plain torch, one worker's view. It knows nothing of Ray, files or pictures.

V views a tile, n tiles of this worker a step, S side of the input.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor, nn

from microsnoop.core.errors import RunError
from microsnoop.core.pretrain_config import PhaseConfig, PretrainConfig
from microsnoop.models.device import autocast
from microsnoop.models.masking import fresh_noise, patch_count, random_mask
from microsnoop.ops.modes import keyed_generator
from microsnoop.train.learner import losses
from microsnoop.train.pool import Pool
from microsnoop.train.schedule import learning_rate, phase_at
from microsnoop.train.state import TrainState
from microsnoop.train.views import ViewDraw, draw_views, make_views

LogRow = dict[str, float]


class TrainingDiverged(RunError):
    """The loss or its gradient is not finite."""


@dataclass(frozen=True)
class Share:
    """Which part of every batch is this worker's: tiles rank, rank + world, ..."""

    rank: int = 0
    world: int = 1


class TileSource(Protocol):
    """Gives this worker's tiles of a step."""

    def take(self, step: int, batch: int) -> tuple[Tensor, Sequence[str]]:
        """Return tiles (n, T, T) uint8 on the device and their ids; ``batch`` counts all workers' tiles."""


class MemorySource:
    """Tiles of a pool in memory."""

    def __init__(self, pool: Pool, *, seed: int, share: Share) -> None:
        self._pool, self._seed, self._share = pool, seed, share

    def take(self, step: int, batch: int) -> tuple[Tensor, Sequence[str]]:
        """See :class:`TileSource`."""
        chosen = self._pool.draw(batch, seed=self._seed, step=step)[self._share.rank :: self._share.world]
        on_device = torch.from_numpy(chosen).to(self._pool.pixels.device)
        return self._pool.pixels[on_device], self._pool.tile_ids[chosen].tolist()


@dataclass(frozen=True)
class Decision:
    """What to do between two steps."""

    save: bool = False
    stop: bool = False


class Trainer:
    """One worker: its state, its source of tiles, and the network as it is called (compiled, averaged, or plain)."""

    def __init__(
        self,
        state: TrainState,
        source: TileSource,
        *,
        forward: nn.Module | None = None,
        share: Share | None = None,
        precision: str = "fp32",
    ) -> None:
        self.state, self._source = state, source
        self._forward = forward if forward is not None else state.learner
        self._share, self._precision = share or Share(), precision
        self._recent: deque[tuple[int, Sequence[str]]] = deque(maxlen=state.cfg.report.log_every)
        self._rows: list[dict[str, Tensor | float]] = []
        self._clock, self._planes = time.monotonic(), 0

    def run(self, between: Callable[[list[LogRow], bool], Decision]) -> bool:
        """Train to the end, or until told to stop; return whether the end was reached.

        ``between(rows, last)`` is called every ``log_every`` steps and at the end, with the log of the steps since.

        Raises
        ------
        TrainingDiverged
            Names the step and the tiles of its batch.
        """
        cfg = self.state.cfg
        while self.state.step < cfg.total_steps:
            self.step()
            last = self.state.step == cfg.total_steps
            if (last or self.state.step % cfg.report.log_every == 0) and between(self._take_log(), last).stop:
                return last
        return True

    def step(self) -> None:
        """Do one optimiser step."""
        state, cfg, step = self.state, self.state.cfg, self.state.step
        phase = phase_at(cfg, step)
        tiles, ids = self._source.take(step, phase.batch)
        self._recent.append((step, ids))
        wanted, mask = make_inputs(cfg, phase, tiles, step=step, share=self._share)
        rate = learning_rate(cfg, step)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.learner.train()
        with autocast(state.device.type, self._precision):
            found = self._forward((wanted * (1 - mask)).contiguous(memory_format=torch.channels_last))
            teacher = self._teach(wanted) if "dino" in cfg.objective else None
        terms = losses(cfg, found, wanted=wanted, mask=mask, teacher=teacher)
        loss = torch.stack([cfg.objective[name] * term for name, term in terms.items()]).sum()
        state.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(state.learner.parameters(), cfg.optimiser.clip_norm)
        state.optimiser.step()
        state.update_mean()
        state.step += 1
        self._planes += len(wanted)
        row = {"loss": loss, **{str(name): term for name, term in terms.items()}, "grad_norm": norm}
        self._rows.append({"step": step, "lr": rate, **{name: value.detach() for name, value in row.items()}})

    @torch.no_grad()
    def _teach(self, wanted: Tensor) -> Tensor:
        return self.state.mean(wanted.contiguous(memory_format=torch.channels_last))[2]

    def _take_log(self) -> list[LogRow]:
        """Return the log since the last call, read from the device at once; refuse to go on where it is not finite."""
        names = list(self._rows[0])
        columns = [_read([row[name] for row in self._rows]) for name in names]
        table = list(zip(*columns, strict=True))
        seconds = max(1e-9, time.monotonic() - self._clock)
        speed = {
            "planes_per_s": self._planes * self._share.world / seconds,
            "steps_per_s": len(table) / seconds,
        }
        rows: list[LogRow] = [dict(zip(names, values, strict=True)) | speed for values in table]
        self._rows, self._clock, self._planes = [], time.monotonic(), 0
        for row in rows:
            if not all(abs(row[name]) < float("inf") for name in ("loss", "grad_norm")):
                ids = dict(self._recent)[int(row["step"])]
                raise TrainingDiverged(
                    f"at step {int(row['step'])} the loss is {row['loss']:g} and its gradient {row['grad_norm']:g}; "
                    f"this worker's batch: {', '.join(ids)}",
                    hint="look at these tiles; or lower optimiser.peak_lr and begin anew (a new run_dir)",
                )
        return rows


def make_inputs(
    cfg: PretrainConfig, phase: PhaseConfig, tiles: Tensor, *, step: int, share: Share
) -> tuple[Tensor, Tensor]:
    """Return unmasked views and masks, each (V·n, 1, S, S) float32: first views of all tiles, then second ones.

    Choices are drawn for the whole batch and each worker takes its part, so that they do not depend on how many
    workers there are.
    """
    views, side_px = cfg.views_per_tile, phase.input_px
    generator = step_generator(cfg.seed, step)
    draw = draw_views(views * phase.batch, cfg.views, generator)
    patches = patch_count(side_px, cfg.mask.patch_px)
    noise = fresh_noise(views * phase.batch, patches, generator)
    mine = torch.arange(views * phase.batch).reshape(views, -1)[:, share.rank :: share.world].flatten()
    my_draw = ViewDraw(**{f.name: getattr(draw, f.name)[mine] for f in fields(draw)}).to(tiles.device)
    planes = make_views(tiles.repeat(views, 1, 1), my_draw, cfg.views, side_px=side_px)
    mask = random_mask(
        noise[mine].to(tiles.device), side_px=side_px, patch_px=cfg.mask.patch_px, ratio=cfg.mask.ratio
    )
    return planes, mask


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return the generator of a step's random choices: keyed, so that a resumed run draws what an unbroken one does."""
    return torch.Generator().manual_seed(int(keyed_generator(seed, "pretraining", str(step)).integers(2**62)))


def _read(values: list[Tensor | float]) -> list[float]:
    """Bring numbers of several steps from the device in one go."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len(tensors) == len(values):
        return [float(value) for value in torch.stack(tensors).double().tolist()]
    return [float(value) for value in values]
