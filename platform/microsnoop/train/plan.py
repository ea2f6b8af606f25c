"""What a training run is going to use: decided once, shown, and handed to the workers."""

from __future__ import annotations

from dataclasses import dataclass

from microsnoop.core.errors import ConfigError
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.models.device import count_gpus, resolve_device, resolve_precision
from microsnoop.pipelines.cluster import usable_cpus
from microsnoop.train.dataset import PoolPlan, plan_pool


@dataclass(frozen=True)
class TrainPlan:
    """Resolved choices: nothing is ``auto`` any more."""

    device: str
    precision: str
    compile: bool
    threads: int
    pool: PoolPlan


def plan_training(cfg: PretrainConfig) -> TrainPlan:
    """Look at pool and machine, and decide. Starts nothing and writes nothing.

    Raises
    ------
    ConfigError, InputError
    """
    device = resolve_device(cfg.execution.device)
    device = "cpu" if device == "mps" else device  # not tried there
    if device == "cuda" and cfg.execution.workers > count_gpus() and cfg.execution.address is None:
        raise ConfigError(
            f"{cfg.execution.workers} workers need as many GPUs, this machine has {count_gpus()}"
        )
    return TrainPlan(
        device,
        resolve_precision(device, cfg.execution.precision),
        cfg.execution.compile and device == "cuda",
        cfg.execution.threads or max(1, usable_cpus() // cfg.execution.workers),
        plan_pool(cfg.pool),
    )
