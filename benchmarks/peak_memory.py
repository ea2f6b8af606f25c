"""Run a command and say how long it took and how much memory all of its processes held together.

    python benchmarks/peak_memory.py microsnoop embed configs/embed/jurkat.yaml

Memory is the proportional set size: pages that several processes share count once.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil


class PeakMemory:
    """Samples the memory of a process and all it started, every two seconds, because looking costs time too."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes = 0
        self._root = psutil.Process(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """Stop and return the peak in bytes."""
        self._stop.set()
        self._thread.join()
        return self.peak_bytes

    def _watch(self) -> None:
        while not self._stop.wait(2.0):
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [self._root, *self._root.children(recursive=True)]
                self.peak_bytes = max(self.peak_bytes, sum(_pss(process) for process in family))


@contextlib.contextmanager
def peak_memory_of_this_process() -> Iterator[PeakMemory]:
    """Measure this process and its children while the block runs."""
    watch = PeakMemory(psutil.Process().pid)
    try:
        yield watch
    finally:
        watch.stop()


def _pss(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, OSError):
        rollup = Path(f"/proc/{process.pid}/smaps_rollup")
        if rollup.exists():  # one read for the whole process; psutil would add up thousands of mappings
            line = next(line for line in rollup.read_text().splitlines() if line.startswith("Pss:"))
            return int(line.split()[1]) * 1024
        return int(process.memory_info().rss)
    return 0


def measure(command: Sequence[str]) -> int:
    """Run a command, print what it took and return its exit code."""
    begin = time.monotonic()
    child = subprocess.Popen(command)
    watcher = PeakMemory(child.pid)
    code = child.wait()
    peak = watcher.stop()
    print(f"exit {code}, {time.monotonic() - begin:.0f} s, peak memory of all processes {peak / 1e9:.2f} GB")
    return code


if __name__ == "__main__":
    sys.exit(measure(sys.argv[1:]))
