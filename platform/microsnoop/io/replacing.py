"""A file or folder that other libraries write: put in its place whole, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microsnoop.core.errors import RunError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a path to write to, and put what was written in the place of ``target``: whole, or not at all.

    Raises
    ------
    RunError
        The disk cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    _remove(partial)
    try:
        yield partial
        _remove(target)
        partial.rename(target)
    except OSError as error:
        raise RunError(f"cannot write {target}: {error}") from error
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
