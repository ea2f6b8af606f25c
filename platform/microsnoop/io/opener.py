"""One opener for every path: local files directly, anything with a scheme (``s3://``, ``gs://``) through fsspec.

Errors leave here as sentences that name the path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

import fsspec

from microsnoop.core.errors import InputError, MicrosnoopError, MissingDependency

_REMOTE_BLOCK = 2**20  # bytes a request: one image of a stack must not cost the whole stack


def is_remote(uri: str) -> bool:
    """Whether ``uri`` has a scheme other than ``file``."""
    return "://" in uri and not uri.startswith("file://")


def local_path(uri: str) -> Path:
    """Return the path behind a plain path or a ``file://`` URI; ``~/`` is the home folder."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path, errors="surrogateescape"))
    return Path(uri).expanduser() if uri == "~" or uri.startswith("~/") else Path(uri)


def join(base: str, relative: str) -> str:
    """Return ``relative`` below ``base`` unless it stands by itself (absolute, or with a scheme)."""
    if is_remote(relative) or relative.startswith("file://") or PurePosixPath(relative).is_absolute():
        return relative
    if is_remote(base):
        return f"{base.rstrip('/')}/{relative}"
    return os.path.normpath(local_path(base) / relative)


def parent(uri: str) -> str:
    """Return the folder a file lies in."""
    if is_remote(uri):
        return uri.rsplit("/", 1)[0]
    return str(local_path(uri).parent)


def open_binary(uri: str) -> BinaryIO:
    """Open for reading; remote files are read in ranges, never downloaded whole.

    Raises
    ------
    OSError
        Not there, not readable, not a regular file, no credentials, no connection.
    InputError, MissingDependency
        The scheme is unknown, or needs a package that is not installed.
    """
    if is_remote(uri):
        with _remote_errors(uri):
            filesystem, path = _filesystem(uri)
            return cast(BinaryIO, filesystem.open(path, "rb", block_size=_REMOTE_BLOCK))
    try:
        local = local_path(uri)
        mode = local.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(number, "is a folder" if stat.S_ISDIR(mode) else "not a regular file", uri)
        return local.open("rb")
    except ValueError as error:  # a null byte in the name
        raise FileNotFoundError(errno.ENOENT, str(error), uri) from error


def list_files(folder: str) -> Iterator[str]:
    """Yield every regular file below ``folder``, depth first, sorted; hidden files and folders are left out.

    Linked folders are followed, each real folder once. A name that is not valid text comes as a ``file://`` URI.

    Raises
    ------
    InputError
        The folder does not exist or cannot be listed.
    """
    if is_remote(folder):
        try:
            with _remote_errors(folder):
                filesystem, path = _filesystem(folder)
                filesystem.invalidate_cache()
                found = sorted(str(name) for name in filesystem.find(path))
        except OSError as error:
            raise InputError(f"cannot list {folder}: {error}") from error
        for name in found:
            inside = name[len(path.rstrip("/")) :]
            if not any(part.startswith(".") for part in inside.split("/")):
                yield folder.rstrip("/") + inside
        return
    root = local_path(folder)
    try:
        if not root.is_dir():
            what = "is a file, not a folder" if root.exists() else "does not exist"
            raise InputError(f"the folder {folder} {what}")
        yield from _walk(str(root), set())
    except OSError as error:
        raise InputError(f"cannot list {error.filename}: {error.strerror}") from error


def _walk(folder: str, seen: set[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        listed = sorted(
            (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    for entry in listed:
        if entry.is_file() or (entry.is_symlink() and not entry.is_dir()):  # a dead link becomes a reject
            yield _as_text(entry.path)
    for entry in listed:
        if entry.is_dir():
            yield from _walk(entry.path, seen)


def _as_text(path: str) -> str:
    """Return a path that every table can hold: as it is, or with its odd bytes quoted in a ``file://`` URI."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return f"file://{quote(os.fsencode(os.path.abspath(path)))}"  # noqa: PTH100
    return path


def fingerprints(uris: Sequence[str]) -> list[str | None]:
    """Return size and modification time (or an object store's tag) of each file, None where it is missing.

    This is how a resumed run notices that an input changed, without reading it. Remote files are asked for
    folder by folder: one request for thousands of files.
    """
    result: dict[str, str | None] = {}
    remote_folders: dict[str, list[str]] = defaultdict(list)
    for uri in dict.fromkeys(uris):
        if is_remote(uri):
            remote_folders[parent(uri)].append(uri)
            continue
        try:
            status = local_path(uri).stat()
        except (OSError, ValueError):
            result[uri] = None
        else:
            result[uri] = f"{status.st_size}:{status.st_mtime_ns}"
    for folder, members in remote_folders.items():
        result.update(_remote_fingerprints(folder, members))
    return [result[uri] for uri in uris]


def _remote_fingerprints(folder: str, uris: list[str]) -> dict[str, str | None]:
    """Ask once for a whole folder, then singly for what the listing does not show (some servers list nothing)."""
    filesystem, path = _filesystem(folder)
    try:
        with _remote_errors(folder):
            filesystem.invalidate_cache()
            entries = filesystem.ls(path, detail=True)
    except OSError:
        entries = []
    by_name = {str(entry["name"]).rsplit("/", 1)[-1]: entry for entry in entries}
    return {uri: _tag(by_name.get(uri.rsplit("/", 1)[-1]) or _remote_info(uri)) for uri in uris}


def _remote_info(uri: str) -> dict[str, Any] | None:
    filesystem, path = _filesystem(uri)
    try:
        with _remote_errors(uri):
            info: dict[str, Any] = filesystem.info(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"cannot look at {uri}: {error.strerror}", hint="check connection and credentials"
        ) from error
    return info


def _tag(entry: dict[str, Any] | None) -> str | None:
    if entry is None:
        return None
    version = next(
        (
            entry[key]
            for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "created")
            if entry.get(key)
        ),
        "",
    )
    return f"{entry.get('size')}:{version}"


def _filesystem(uri: str) -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise MissingDependency(
            f"{uri.split('://', 1)[0]}:// paths need a package that is not installed ({error})",
            hint="pip install 'microsnoop-platform[cloud]'",
        ) from error
    except ValueError as error:
        raise InputError(f"cannot open {uri}: {error}") from error
    return filesystem, str(path)


@contextmanager
def _remote_errors(uri: str) -> Iterator[None]:
    """Turn what cloud libraries raise (no credentials, no connection, ...) into ``OSError``."""
    try:
        yield
    except (OSError, MicrosnoopError):
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", uri) from error
