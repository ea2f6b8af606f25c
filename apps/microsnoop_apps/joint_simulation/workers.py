"""Tasks performed in this process or in several, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from microsnoop.core.errors import RunError
from microsnoop_apps.joint_simulation.fits import Outcome
from microsnoop_apps.joint_simulation.tasks import Task, perform

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def perform_all(tasks: Sequence[Task], *, workers: int) -> Iterator[Outcome]:
    """Yield outcomes as they come: of this process with one worker, of spawned ones with more.

    Raises
    ------
    RunError
        A process died.
    """
    if workers == 1:
        with one_thread():
            yield from map(perform, tasks)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_stay_single)
    try:
        for future in as_completed([pool.submit(perform, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise RunError(
            f"one of {workers} processes died before it was done",
            hint="the machine may be short of memory: fewer workers, or fewer cells",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let numerical libraries use one thread, so that times can be compared whatever runs beside.

    It is also what is fastest here: threads that wait for one another on a busy machine can take a hundred times as
    long for the small matrices of a simulation.
    """
    _load_libraries()
    import torch
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _stay_single() -> None:
    """Make a worker use one thread for as long as it lives."""
    # what is not loaded yet reads these when it is
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    _load_libraries()
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


def _load_libraries() -> None:
    """Load what has threads of its own: only of a library that is loaded can they be limited."""
    import scipy.linalg  # noqa: F401 - another copy of BLAS than that of NumPy
    import sklearn.cluster  # noqa: F401


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
