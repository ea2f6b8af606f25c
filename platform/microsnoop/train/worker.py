"""One Ray Train worker: brings pool, state and network together, runs the loop, keeps the books if it is the first."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from microsnoop.core.errors import MicrosnoopError
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.io.parts import write_atomic
from microsnoop.models.device import compiled
from microsnoop.train.dataset import PoolPlan, StreamSource
from microsnoop.train.finish import begin_with, finish
from microsnoop.train.loop import Decision, LogRow, MemorySource, Share, TileSource, Trainer
from microsnoop.train.pool import Pool, collect, hold_out, write_problems
from microsnoop.train.record import Recorder
from microsnoop.train.schedule import phase_at
from microsnoop.train.state import TrainState
from microsnoop.train.watch import Watch

STOP, FAILURE, ACCOUNT = ".stop", ".failure.json", "pool.json"
_ROWS_PER_READ = 256


@dataclass(frozen=True)
class WorkerJob:
    """What a worker must know."""

    cfg: PretrainConfig
    folder: str
    device: str
    precision: str
    compile: bool
    threads: int
    pool: PoolPlan


def work(config: dict[str, Any]) -> None:
    """Train; what is wrong with recipe or data is written down instead of being tried again."""
    job: WorkerJob = config["job"]
    try:
        _work(job)
    except MicrosnoopError as error:
        text = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
        write_atomic(Path(job.folder) / FAILURE, json.dumps(text).encode())
        if _share().world > 1:  # the others wait for this one: only an exception ends them
            raise


def _work(job: WorkerJob) -> None:
    cfg, folder, share = job.cfg, Path(job.folder), _share()
    torch.set_num_threads(job.threads)
    device = _device(job)
    state = _state(cfg, device)
    source, learn, watch_pool = _pool(job, share, device, state.step)
    trainer = Trainer(
        state, source, forward=_forward(job, state, share), share=share, precision=job.precision
    )
    if share.rank:
        trainer.run(Follower(state))
        _account_for_stream(source, folder, share)
        return
    with closing(Recorder(folder, step=state.step, total=cfg.total_steps)) as recorder:
        watch = Watch(cfg, watch_pool, device)
        reached_end = trainer.run(Leader(job, state, recorder, watch, share))
    _account_for_stream(source, folder, share)
    if reached_end:
        finish(state, learn, folder)


def _account_for_stream(source: TileSource, folder: Path, share: Share) -> None:
    """Write which tiles of this worker's part of a stream could not be used."""
    if isinstance(source, StreamSource) and source.problems:
        write_problems(sorted(source.problems.items()), folder / f"rejects-{share.rank}.csv")


class Leader:
    """What the first worker does between steps: log, watch, checkpoint, and decide for all."""

    def __init__(
        self, job: WorkerJob, state: TrainState, recorder: Recorder, watch: Watch, share: Share
    ) -> None:
        self._cfg, self._state, self._recorder, self._watch = job.cfg, state, recorder, watch
        self._stop_file, self._share = Path(job.folder) / STOP, share
        self._saved = time.monotonic()
        self._watched = state.step // job.cfg.report.watch_every

    def __call__(self, rows: list[LogRow], last: bool) -> Decision:
        """See :meth:`loop.Trainer.run`."""
        self._recorder.steps(rows)
        step, report = self._state.step, self._cfg.report
        if last or step // report.watch_every > self._watched:
            self._watched = step // report.watch_every
            side_px = phase_at(self._cfg, step - 1).input_px
            self._recorder.watched(self._watch.look(self._state.mean, step=step, side_px=side_px))
        stop = self._stop_file.exists()
        due = time.monotonic() - self._saved >= 60 * report.checkpoint_minutes
        decision = _agree(Decision(save=due or stop or last, stop=stop), self._share, self._state.device)
        if decision.save:
            _save(self._state, rows[-1]["loss"])
            self._saved = time.monotonic()
        return decision


class Follower:
    """What the other workers do between steps: what the first one decided."""

    def __init__(self, state: TrainState) -> None:
        self._state = state

    def __call__(self, rows: list[LogRow], last: bool) -> Decision:  # noqa: ARG002
        """See :meth:`loop.Trainer.run`."""
        import ray.train

        decision = _agree(Decision(), _share(), self._state.device)
        if decision.save:
            ray.train.report({"step": self._state.step})
        return decision


def _agree(mine: Decision, share: Share, device: torch.device) -> Decision:
    """Return the first worker's decision on all workers."""
    if share.world == 1:
        return mine
    flags = torch.tensor([mine.save, mine.stop], dtype=torch.uint8, device=device)
    distributed.broadcast(flags, src=0)
    save, stop = flags.bool().tolist()
    return Decision(save, stop)


def _save(state: TrainState, loss: float) -> None:
    import ray.train

    with tempfile.TemporaryDirectory() as temporary:
        state.save(Path(temporary))
        ray.train.report(
            {"step": state.step, "loss": loss}, checkpoint=ray.train.Checkpoint.from_directory(temporary)
        )


def _state(cfg: PretrainConfig, device: torch.device) -> TrainState:
    """Return the state of the last checkpoint, or a new one."""
    import ray.train

    state = TrainState(cfg, device)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state.load(Path(folder))
    elif cfg.init is not None:
        begin_with(state, cfg.init)
    return state


def _pool(
    job: WorkerJob, share: Share, device: torch.device, first_step: int
) -> tuple[TileSource, Pool, Pool]:
    """Return where the tiles come from, tiles to finish on, and held-out ones to watch."""
    import ray.train

    cfg = job.cfg
    shard = ray.train.get_dataset_shard("tiles")
    read = {"batch_size": _ROWS_PER_READ, "batch_format": "numpy"}
    if job.pool.placement == "memory":
        pool = collect(shard.iter_batches(**read), alpha=cfg.pool.alpha)
        learn, watch = hold_out(
            pool.to(device), share=cfg.pool.validation, alpha=cfg.pool.alpha, seed=cfg.seed
        )
        if share.rank == 0:
            write_problems(pool.problems, Path(job.folder) / "rejects.csv")
            held_out = 0 if watch is learn else len(watch)
            account = {"learnt_from": len(learn), "held_out": held_out, "rejected": len(pool.problems)}
            write_atomic(Path(job.folder) / ACCOUNT, json.dumps(account).encode())
        return MemorySource(learn, seed=cfg.seed, share=share), learn, watch
    needed = max(cfg.report.watch_crops, cfg.head.crops)
    source = StreamSource(
        lambda number: shard.iter_batches(
            **read, local_shuffle_buffer_size=16 * _ROWS_PER_READ, local_shuffle_seed=cfg.seed + number
        ),
        plan=job.pool,
        cfg=cfg.pool,
        seed=cfg.seed,
        first_step=first_step,
        share=share,
        device=device,
    )
    sample = source.sample(needed, shard.iter_batches(**read))
    learn, watch = hold_out(sample, share=cfg.pool.validation, alpha=cfg.pool.alpha, seed=cfg.seed)
    return source, learn.to(device), watch.to(device)


def _forward(job: WorkerJob, state: TrainState, share: Share) -> nn.Module:
    """Return the network as it is called: gradients averaged over workers, compiled where asked."""
    module: nn.Module = state.learner
    if share.world > 1:
        if job.cfg.execution.sync_batchnorm and job.device == "cuda":  # replaced in place
            nn.SyncBatchNorm.convert_sync_batchnorm(module)
        module = nn.parallel.DistributedDataParallel(module)
    return compiled(module) if job.compile else module


def _device(job: WorkerJob) -> torch.device:
    if job.device == "cpu":
        return torch.device("cpu")
    from ray.train.torch import get_device

    device = get_device()
    assert isinstance(device, torch.device)
    return device


def _share() -> Share:
    import ray.train

    context = ray.train.get_context()
    return Share(context.get_world_rank(), context.get_world_size())
