from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest

from microsnoop.core.errors import InputError, MissingDependency
from microsnoop.io import opener
from microsnoop.io.opener import fingerprints, is_remote, join, list_files, local_path, open_binary, parent


@pytest.mark.parametrize(
    ("uri", "remote"),
    [
        ("a.tif", False),
        ("/a/b.tif", False),
        ("file:///a/b.tif", False),
        ("s3://b/a.tif", True),
        ("gs://b/a.tif", True),
        ("memory://a", True),
        ("simplecache::s3://b/a", True),
        ("C:/x.tif", False),
    ],
)
def test_what_is_remote(uri: str, remote: bool) -> None:
    assert is_remote(uri) is remote


@pytest.mark.parametrize(
    ("base", "relative", "wanted"),
    [
        ("/data", "a.tif", "/data/a.tif"),
        ("/data/", "x/../a b.tif", "/data/a b.tif"),
        ("/data", "/abs.tif", "/abs.tif"),
        ("/data", "s3://b/a.tif", "s3://b/a.tif"),
        ("/data", "file:///a.tif", "file:///a.tif"),
        ("file:///da%20ta", "a.tif", "/da ta/a.tif"),
        ("s3://b/x", "a.tif", "s3://b/x/a.tif"),
        ("s3://b/x/", "y/a.tif", "s3://b/x/y/a.tif"),
        ("s3://b", "a.tif", "s3://b/a.tif"),
        (".", "a.tif", "a.tif"),
        ("rel", "a.tif", "rel/a.tif"),
    ],
)
def test_joining(base: str, relative: str, wanted: str) -> None:
    assert join(base, relative) == wanted


def test_parents_and_local_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parent("s3://b/x/m.csv") == "s3://b/x"
    assert parent("/x/m.csv") == "/x"
    assert parent("file:///x/m.csv") == "/x"
    assert parent("m.csv") == "."
    assert local_path("file:///a%20b/%C3%BC.tif") == Path("/a b/ü.tif")
    assert local_path("~/a.tif") == tmp_path / "a.tif"


def test_opening_local_files(tmp_path: Path) -> None:
    (tmp_path / "a b%20c.bin").write_bytes(b"0123")
    for uri in (str(tmp_path / "a b%20c.bin"), (tmp_path / "a b%20c.bin").as_uri()):
        with open_binary(uri) as stream:
            stream.seek(2)
            assert stream.read() == b"23"
    with pytest.raises(FileNotFoundError):
        open_binary(str(tmp_path / "gone"))
    with pytest.raises(IsADirectoryError):
        open_binary(str(tmp_path))


def test_listing_is_sorted_depth_first_and_leaves_hidden_out(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "c", "b/z/0", ".h", ".hd/x", "b/.h"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [os.path.relpath(path, tmp_path) for path in list_files(str(tmp_path))]
    assert found == ["a", "c", "b/1", "b/2", "b/z/0"]
    assert [*list_files(str(tmp_path))] == [*list_files(f"{tmp_path}/")] == [*list_files(tmp_path.as_uri())]


def test_listing_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert next(list_files(str(tmp_path))) == str(tmp_path / "a")


def test_fingerprints_of_local_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"123")
    os.utime(path, ns=(5, 12345678901234567))
    uris = [str(path), str(tmp_path / "gone"), path.as_uri(), str(path)]
    assert fingerprints(uris) == ["3:12345678901234567", None, "3:12345678901234567", "3:12345678901234567"]
    assert fingerprints([]) == []


def test_a_scheme_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(uri: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingDependency, match="s3://") as error:
        open_binary("s3://bucket/x.tif")
    assert "microsnoop-platform[cloud]" in error.value.hint


def test_an_unknown_scheme_is_an_input_error_for_lists() -> None:
    with pytest.raises(InputError, match="nosuch"):
        list(list_files("nosuch://bucket/x"))


def test_a_named_pipe_in_a_folder_does_not_hang_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    opened: list[Any] = []

    def attempt() -> None:
        try:
            opened.append(opener.open_binary(str(tmp_path / "x.png")))
        except OSError as error:
            opened.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(1)
    hung = thread.is_alive()
    if hung:  # let the thread go
        with (tmp_path / "x.png").open("wb"):
            thread.join(5)
    for stream in opened:
        if hasattr(stream, "close"):
            stream.close()
    assert not hung


def test_a_folder_of_many_files_is_listed_quickly(tmp_path: Path) -> None:
    done = subprocess.run(["bash", "-c", "touch f{1..20000}.png"], cwd=tmp_path, timeout=60)
    assert done.returncode == 0
    names = list(list_files(str(tmp_path)))
    assert len(names) == len(set(names)) == 20_000
    assert None not in fingerprints(names)


def test_lists_are_what_the_opener_opens(request: pytest.FixtureRequest) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/opener-test/a.bin": b"1", "/opener-test/sub/b.bin": b"22", "/opener-test/.h": b""})
    request.addfinalizer(lambda: filesystem.rm("/opener-test", recursive=True))
    found = list(list_files("memory://opener-test"))
    assert len(found) == 2
    contents = []
    for uri in found:
        with open_binary(uri) as stream:
            contents.append(stream.read())
    assert contents == [b"1", b"22"]
    marks = fingerprints([*found, "memory://opener-test/gone", "memory://no-such-folder/x"])
    assert [mark is None for mark in marks] == [False, False, True, True]
