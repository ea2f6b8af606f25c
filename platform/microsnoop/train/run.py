"""Pretraining as a job: Ray Train workers around the plain loop; checkpoints, restarts and a clean stop.

Run directory::

    pretrain.json        recipe, pool, versions, status
    pool.json rejects.csv  tiles learnt from, held out, and rejected with their reasons
    checkpoints/         Ray Train's: the last two, safetensors and JSON inside
    log.csv watch.csv    one line a step; one a look at the fixed crops
    tensorboard/ loss.png panel.png panels/
    NAME.safetensors + NAME.json   the encoder, at the end
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from microsnoop.core.config import digest
from microsnoop.core.errors import RunError, StaleOutput
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.io.lock import hold
from microsnoop.io.parts import write_atomic
from microsnoop.io.store import now
from microsnoop.pipelines.cluster import cluster
from microsnoop.train.dataset import tile_dataset
from microsnoop.train.plan import TrainPlan, plan_training
from microsnoop.train.record import PROGRESS
from microsnoop.train.worker import ACCOUNT, FAILURE, STOP, WorkerJob, work

INFO = "pretrain.json"
_POLL_S = 1.0
_OBJECT_STORE = 2**30


@dataclass(frozen=True)
class TrainProgress:
    """How far a run is."""

    step: int
    total: int
    loss: float
    planes_per_s: float
    seconds_left: float
    warnings: tuple[str, ...] = ()


@dataclass
class TrainSummary:
    """What a session did: ``status`` is ``complete`` or ``interrupted``."""

    run_dir: str
    status: str
    step: int
    total: int
    encoder: str | None = None
    warnings: tuple[str, ...] = ()
    pool: dict[str, int] = field(default_factory=dict)  # learnt_from, held_out, rejected


def pretrain(
    cfg: PretrainConfig,
    *,
    on_plan: Callable[[TrainPlan], None] | None = None,
    on_progress: Callable[[TrainProgress], None] | None = None,
    stop: threading.Event | None = None,
    verbose: bool = False,
) -> TrainSummary:
    """Train an encoder into ``cfg.run_dir``; call it again to go on after a crash or a stop.

    Parameters
    ----------
    on_plan, on_progress
        Called once with the plan, and about every second with the state of the run.
    stop
        Set it to end the run cleanly: a checkpoint is written, the same call goes on from there.
    verbose
        Let Ray's own messages through.

    Raises
    ------
    StaleOutput
        The run directory was begun with another recipe; the message names the difference.
    TrainingDiverged
        The loss is not finite; the message names the tiles.
    RunLocked, RunError, InputError, ConfigError
    """
    folder = Path(cfg.run_dir).absolute()
    plan = plan_training(cfg)
    if on_plan is not None:
        on_plan(plan)
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        info = _begin(folder, cfg, plan)
        if info["status"] == "complete":
            return _summary(cfg, folder, info)
        for name in (STOP, FAILURE):
            (folder / name).unlink(missing_ok=True)
        stack.enter_context(cluster(cfg.execution.address, memory_bytes=_OBJECT_STORE * 4, verbose=verbose))
        _followed(lambda: _fit(cfg, plan, folder), folder, on_progress, stop)
        info = _end(folder, info)
    return _summary(cfg, folder, info)


def read_progress(folder: Path) -> TrainProgress | None:
    """Return how far the run in a folder is; None before its first steps."""
    try:
        found = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return TrainProgress(**{**found, "warnings": tuple(found["warnings"])})


def _fit(cfg: PretrainConfig, plan: TrainPlan, folder: Path) -> None:
    """Run the workers to their end; failures come back as our own errors where they are."""
    import ray.train
    from ray.train.torch import TorchTrainer

    splits = [] if plan.pool.placement == "memory" else ["tiles"]
    pool = replace(plan.pool, records=None)
    job = WorkerJob(cfg, str(folder), plan.device, plan.precision, plan.compile, plan.threads, pool)
    trainer = TorchTrainer(
        work,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(
            num_workers=cfg.execution.workers,
            use_gpu=plan.device == "cuda",
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if plan.device == "cuda" else {}),
        ),
        run_config=ray.train.RunConfig(
            name="checkpoints",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=cfg.execution.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        datasets={"tiles": tile_dataset(cfg.pool, plan.pool)},
        dataset_config=ray.train.DataConfig(datasets_to_split=splits),
    )
    try:
        trainer.fit()
    except Exception as error:
        _raise_failure(folder, error)
        raise RunError(
            f"training failed: {error}",
            hint="the same command goes on from the last checkpoint; --debug shows the workers' messages",
        ) from error
    _raise_failure(folder, None)


def _raise_failure(folder: Path, cause: Exception | None) -> None:
    """Raise what a worker wrote down, as what it was."""
    path = folder / FAILURE
    if not path.is_file():
        return
    from microsnoop.core import errors
    from microsnoop.train.loop import TrainingDiverged

    found = json.loads(path.read_text(encoding="utf-8"))
    known = {**vars(errors), "TrainingDiverged": TrainingDiverged}
    raise known.get(found["type"], RunError)(found["message"], hint=found["hint"]) from cause


def _followed(
    work: Callable[[], None],
    folder: Path,
    on_progress: Callable[[TrainProgress], None] | None,
    stop: threading.Event | None,
) -> None:
    """Do the work in a thread of its own; report progress and hand on the wish to stop meanwhile.

    Ray Train takes over Ctrl-C, and aborts the workers without a checkpoint, where it runs in the main thread.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ray-train") as pool:
        future = pool.submit(work)
        shown = -1
        while not future.done():
            if stop is not None and stop.is_set():
                (folder / STOP).touch()
            wait([future], timeout=_POLL_S)
            progress = read_progress(folder)
            if progress is not None and progress.step != shown and on_progress is not None:
                shown = progress.step
                on_progress(progress)
        future.result()


def _begin(folder: Path, cfg: PretrainConfig, plan: TrainPlan) -> dict[str, Any]:
    """Found the run, or check that it is the same one."""
    from microsnoop.pipelines.embed import versions

    path = folder / INFO
    if path.is_file():
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _check_same(folder, info["recipe"], cfg)
        return info
    info = {
        "schema_version": 1,
        "status": "running",
        "created": now(),
        "name": cfg.name,
        "recipe": cfg.recipe(),
        "recipe_digest": digest(cfg.recipe()),
        "pool": {"rows": plan.pool.rows, "sources": dict(plan.pool.source_counts)},
        "versions": versions(),
    }
    _write(path, info)
    return info


def _check_same(folder: Path, before: dict[str, Any], cfg: PretrainConfig) -> None:
    old, new = _flat(before), _flat(cfg.recipe())
    differ = [f"{k}: {old.get(k)} -> {new.get(k)}" for k in sorted(old | new) if old.get(k) != new.get(k)]
    if differ:
        raise StaleOutput(
            f"{folder} was begun with another recipe: {'; '.join(differ)}",
            hint="choose another run_dir, or bring the recipe back",
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, part in value.items() for k, v in _flat(part, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


def _end(folder: Path, info: dict[str, Any]) -> dict[str, Any]:
    complete = (folder / f"{info['name']}.json").is_file()
    info = {**info, "status": "complete" if complete else "interrupted", "ended": now()}
    _write(folder / INFO, info)
    return info


def _summary(cfg: PretrainConfig, folder: Path, info: dict[str, Any]) -> TrainSummary:
    progress, account = read_progress(folder), folder / ACCOUNT
    return TrainSummary(
        run_dir=cfg.run_dir,
        status=info["status"],
        step=progress.step if progress else 0,
        total=cfg.total_steps,
        encoder=str(Path(cfg.run_dir) / f"{info['name']}.safetensors")
        if info["status"] == "complete"
        else None,
        warnings=progress.warnings if progress else (),
        pool=json.loads(account.read_text(encoding="utf-8")) if account.is_file() else {},
    )


def _write(path: Path, info: dict[str, Any]) -> None:
    write_atomic(path, (json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode())
