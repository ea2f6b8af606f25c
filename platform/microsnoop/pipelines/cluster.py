"""Ray, local or an existing cluster: started quietly, with settings that neither hang nor starve two cores."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa

from microsnoop.core.errors import RunError

if TYPE_CHECKING:
    from ray.data import Dataset

_ENVIRONMENT = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # a worker a core, started before anybody asks, holds 110 MB each and is hardly ever used
    "RAY_prestart_worker_first_driver": "0",
}
_MIN_STORE, _MAX_STORE = 200 * 2**20, 4 * 2**30


@dataclass(frozen=True)
class Resources:
    """What there is to plan with. ``memory_bytes`` is what this machine can spare, for a local run."""

    cpus: int
    gpus: float
    memory_bytes: int
    local: bool


def local_resources(gpus: int) -> Resources:
    """Return what this machine has: cores this process may use, and half of the free memory."""
    return Resources(usable_cpus(), gpus, psutil.virtual_memory().available // 2, local=True)


def usable_cpus() -> int:
    """Return the number of cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def object_store_bytes(memory_bytes: int) -> int:
    """Return how much of a local run's memory Ray's object store gets: a quarter, 0.2 to 4 GiB."""
    return max(_MIN_STORE, min(_MAX_STORE, memory_bytes // 4))


def logical_cpus(cpus: int) -> int:
    """Return the CPUs to tell Ray of on this machine.

    Actors hold their CPU for the whole run; with 2 of them on 2 cores no read task would ever be scheduled.
    Reading mostly waits for the encoder, so the spare two slots cost nothing.
    """
    return max(4, cpus + 2)


@contextmanager
def cluster(address: str | None, *, memory_bytes: int = 0, verbose: bool = False) -> Iterator[None]:
    """Connect to ``address``, or start Ray on this machine for as long as the block lasts.

    A cluster that this process is connected to already is used and left running.

    Raises
    ------
    RunError
        No cluster at ``address``.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    level = logging.INFO if verbose else logging.ERROR
    if ray.is_initialized():
        _configure(level)
        yield
        return
    try:
        with _signal_handlers_kept():
            if address is not None:
                _check_reachable(address)
                ray.init(address=address, logging_level=level, log_to_driver=verbose)
            else:
                # Ray listens on all interfaces, but by its own default serves only who has this user's token
                ray.init(
                    address="local",
                    num_cpus=logical_cpus(usable_cpus()),
                    object_store_memory=object_store_bytes(memory_bytes),
                    include_dashboard=False,
                    logging_level=level,
                    log_to_driver=verbose,
                )
    except (OSError, ValueError) as error:
        raise RunError(
            f"cannot reach a Ray cluster at {address!r}: {error}",
            hint="start one with `ray start --head`, or leave --address away to run on this machine",
        ) from error
    try:
        _configure(level)
        yield
    finally:
        ray.shutdown()


def as_dataset(table: pa.Table, *, rows_per_block: int) -> Dataset:
    """Hand a table to Ray Data in blocks of so many rows.

    ``ray.data.from_arrow`` would ask a worker for the size of every block, and start one a core to do so: 110 MB each.
    """
    import ray.data

    starts = range(0, table.num_rows, rows_per_block)
    return ray.data.from_blocks([table.slice(start, rows_per_block) for start in starts])


def cluster_resources() -> Resources:
    """Return what the cluster has that this process is connected to."""
    import ray

    found = ray.cluster_resources()
    return Resources(
        cpus=max(1, int(found.get("CPU", 1))),
        gpus=float(found.get("GPU", 0)),
        memory_bytes=int(found.get("memory", 0)),
        local=False,
    )


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Put the handlers of SIGINT and SIGTERM back: Ray installs its own, which end the process on the spot."""
    names = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.getsignal(name) for name in names]
    try:
        yield
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def _check_reachable(address: str) -> None:
    """Raise ``OSError`` at once where nobody listens at ``host:port``; Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def _configure(level: int) -> None:
    import ray.data

    for name in ("ray", "ray.data", "ray.serve", "ray.train"):
        logging.getLogger(name).setLevel(level)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # many small blocks: the encoder starts early, and little is lost with a worker
    context.target_max_block_size = 32 * 2**20
