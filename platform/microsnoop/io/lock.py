"""One writer a folder: an advisory lock that the system frees when the process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from microsnoop.core.errors import RunError, RunLocked


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder for writing, made if it is not there.

    Raises
    ------
    RunLocked
        Another process holds it; the message says which.
    RunError
        The folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write in {folder}: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            raise RunLocked(
                f"{folder} is being written by another run ({stream.read().strip() or 'unknown'})",
                hint="wait for it, stop it, or choose another run_dir",
            ) from error
        stream.truncate(0)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        stream.write(f"process {os.getpid()} on {socket.gethostname()} since {since}")
        stream.flush()
        yield
