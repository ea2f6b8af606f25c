"""One opener for every path: local files directly, anything with a scheme (``s3://``, ``gs://``) through fsspec.

Errors leave here as sentences that name the path.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import fsspec

from microsnoop.core.errors import InputError, MissingDependency


def is_remote(uri: str) -> bool:
    """Whether ``uri`` has a scheme other than ``file``."""
    return "://" in uri and not uri.startswith("file://")


def local_path(uri: str) -> Path:
    """Return the path behind a plain path or a ``file://`` URI."""
    return Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri).expanduser()


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
        Not there, not readable, a folder.
    MissingDependency
        The scheme needs a package that is not installed.
    """
    if not is_remote(uri):
        return local_path(uri).open("rb")
    filesystem, path = _filesystem(uri)
    return cast(BinaryIO, filesystem.open(path, "rb"))


def list_files(folder: str) -> Iterator[str]:
    """Yield every file below ``folder``, depth first, sorted; hidden files and folders are left out.

    Raises
    ------
    InputError
        The folder does not exist or cannot be listed.
    """
    if is_remote(folder):
        filesystem, path = _filesystem(folder)
        scheme = folder.split("://", 1)[0]
        for found in sorted(filesystem.find(path)):
            if not any(part.startswith(".") for part in PurePosixPath(found[len(path) :]).parts):
                yield f"{scheme}://{str(found).removeprefix(f'{scheme}://')}"
        return
    root = local_path(folder)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise InputError(f"the folder {folder} {what}")

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot list {error.filename}: {error.strerror}") from error

    for where, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(where, name)  # noqa: PTH118  (a Path for each of a million files is slow)


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
        except OSError:
            result[uri] = None
        else:
            result[uri] = f"{status.st_size}:{status.st_mtime_ns}"
    for folder, members in remote_folders.items():
        result.update(_remote_fingerprints(folder, members))
    return [result[uri] for uri in uris]


def _remote_fingerprints(folder: str, uris: list[str]) -> dict[str, str | None]:
    filesystem, path = _filesystem(folder)
    try:
        entries = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        entries = []
    by_name = {str(entry["name"]).rsplit("/", 1)[-1]: entry for entry in entries}
    return {uri: _tag(by_name.get(uri.rsplit("/", 1)[-1])) for uri in uris}


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
