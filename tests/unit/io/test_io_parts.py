# ruff: noqa: PT017  (rows or an error of ours: either is right, and both are looked at)
from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.errors import RunError, StaleOutput, StorageFull
from microsnoop.core.schema import embedding_schema, reject_schema
from microsnoop.io import parts
from microsnoop.io.parts import (
    free_bytes,
    is_intact,
    list_parts,
    read_parts,
    remove_partials,
    write_atomic,
    write_part,
)


def _table(n: int = 3, *, first: int = 0) -> pa.Table:
    schema = embedding_schema(channels=["a", "b"], dim=4)
    rows = [
        {
            "obs_id": f"o{i}",
            "image_id": f"i{i}",
            "uris": [f"{i}.tif", None],
            "flags": [],
            "vectors": np.arange(8.0) + i,
        }
        for i in range(first, first + n)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        mounted = False
    if not mounted:
        pytest.skip("NOT TESTED: a full disk; mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=20)


def test_a_part_comes_back_as_it_was_written(tmp_path: Path) -> None:
    table = _table()
    path = write_part(tmp_path, table)
    ((found, back),) = read_parts([path], table.schema.names)
    assert found == path
    assert back.equals(table)
    assert back.schema.metadata == table.schema.metadata
    assert pq.read_table(path).equals(table)


def test_a_part_of_rejects_without_vectors(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"obs_id": "a", "code": "decode_error"}], schema=reject_schema())
    assert pq.read_table(write_part(tmp_path, table)).equals(table)


def test_the_name_holds_number_and_hash(tmp_path: Path) -> None:
    paths = [write_part(tmp_path, _table(first=i)) for i in range(3)]
    for number, path in enumerate(paths, start=1):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == f"part-{number:06d}-{digest[:16]}.parquet"
        assert is_intact(path)
    assert list_parts(tmp_path) == paths


def test_numbers_go_on_after_the_largest(tmp_path: Path) -> None:
    first = write_part(tmp_path, _table())
    first.rename(tmp_path / first.name.replace("000001", "000041"))
    assert write_part(tmp_path, _table(first=5)).name.startswith("part-000042-")


def test_the_same_rows_twice_are_two_parts(tmp_path: Path) -> None:
    assert write_part(tmp_path, _table()) != write_part(tmp_path, _table())
    assert len(list_parts(tmp_path)) == 2


def test_vectors_are_stored_plain_and_text_is_compressed(tmp_path: Path) -> None:
    metadata = pq.read_metadata(write_part(tmp_path, _table(100))).row_group(0)
    kinds = {metadata.column(i).path_in_schema: metadata.column(i) for i in range(metadata.num_columns)}
    assert kinds["vectors.list.element"].compression == "UNCOMPRESSED"
    assert kinds["obs_id"].compression == "ZSTD"
    assert kinds["uris.list.element"].compression == "ZSTD"


def test_what_is_not_a_part_is_not_listed(tmp_path: Path) -> None:
    part = write_part(tmp_path, _table())
    for name in (
        "x.parquet",
        "part-1-abc.parquet",
        f".{part.name}.partial",
        f"{part.name}.bak",
        f"copy-{part.name}",
    ):
        (tmp_path / name).write_bytes(b"")
    assert list_parts(tmp_path) == [part]
    assert list_parts(tmp_path / "gone") == []


def test_half_written_files_are_removed_and_nothing_else(tmp_path: Path) -> None:
    part = write_part(tmp_path, _table())
    (tmp_path / f".{part.name}.partial").write_bytes(b"half")
    (tmp_path / ".run.json.partial").write_bytes(b"half")
    for name in (".hidden", "x.partial", ".partial2"):
        (tmp_path / name).write_bytes(b"mine")
    remove_partials(tmp_path)
    remove_partials(tmp_path / "gone")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [part.name, ".hidden", "x.partial", ".partial2"]
    )


@pytest.mark.parametrize("at", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(5, "I/O error"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, error: BaseException
) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, b"old")

    def fail(*args: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "replace", fail) if at == "replace" else (os, "fsync", fail)))
        with pytest.raises(type(error)):
            write_atomic(path, b"new and longer")
        with pytest.raises(type(error)):
            write_part(tmp_path, _table())
    assert path.read_bytes() == b"old"
    assert list_parts(tmp_path) == []
    remove_partials(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    kept = write_part(small_disk, _table())
    write_atomic(small_disk / "run.json", b"old")
    large = _table(20_000)
    with pytest.raises(StorageFull, match="the disk is full") as error:
        write_part(small_disk, large)
    assert "free some space" in error.value.hint
    with pytest.raises(StorageFull):
        write_atomic(small_disk / "run.json", os.urandom(2**20))
    assert sorted(p.name for p in small_disk.iterdir()) == sorted([kept.name, "run.json"])
    assert is_intact(kept)
    assert (small_disk / "run.json").read_bytes() == b"old"
    assert pq.read_table(kept).num_rows == 3
    assert write_part(small_disk, _table(first=9)).name.startswith("part-000002")


def _fill_disk(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def test_a_full_disk_stops_a_run_which_goes_on_when_there_is_space(
    small_disk: Path,
    records_for_run: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., Any],
) -> None:
    from microsnoop.io.store import RunStore

    store = RunStore(small_disk / "run")
    with store.lock():
        store.write_info({"status": "running"})
        store.write_inputs(records_for_run, None)
        rows = result_rows(records_for_run)
        writer = writer_of(store, rows_per_part=2)
        writer.append(rows.slice(0, 2))
        blocker = small_disk / "blocker"
        _fill_disk(blocker)
        with pytest.raises(StorageFull):
            writer.append(rows.slice(2))
        assert writer.written == 2
        blocker.unlink()
    with store.lock():
        writer = writer_of(store)
        writer.append(rows.slice(2))
        writer.flush()
    ids = store.rows(("obs_id",))["obs_id"].to_pylist()
    assert sorted(ids) == sorted(records_for_run["image_id"].to_pylist())


@pytest.fixture
def records_for_run(tmp_path: Path) -> pa.Table:
    from microsnoop.core.config import InputConfig
    from microsnoop.io.manifest import read_records

    (tmp_path / "in").mkdir()
    for i in range(6):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"x")
    return read_records(InputConfig(folder=str(tmp_path / "in"))).records


@pytest.mark.parametrize("position", [0, 10, 500, -1, -20, -300])
def test_a_flipped_byte_shows(tmp_path: Path, position: int) -> None:
    path = write_part(tmp_path, _table(50))
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert not is_intact(path)


def test_a_renamed_or_shortened_part_shows(tmp_path: Path) -> None:
    path = write_part(tmp_path, _table())
    renamed = path.rename(tmp_path / (path.name[:12] + "0" * 16 + ".parquet"))
    assert not is_intact(renamed)
    renamed.write_bytes(b"")
    assert not is_intact(renamed)


@pytest.mark.parametrize("version", [3, None, "1"])
def test_parts_of_another_version_are_refused(tmp_path: Path, version: Any) -> None:
    table = _table()
    header = b"{}" if version is None else f'{{"schema_version": {version!r}}}'.replace("'", '"').encode()
    path = write_part(tmp_path, table.replace_schema_metadata({b"microsnoop": header}))
    with pytest.raises(StaleOutput, match="schema version") as error:
        list(read_parts([path], ["obs_id"]))
    assert path.name in error.value.message


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x" * 500], ids=["empty", "magic", "noise"])
def test_parts_that_cannot_be_read_are_named(tmp_path: Path, data: bytes) -> None:
    path = write_part(tmp_path, _table())
    path.write_bytes(data)
    with pytest.raises(RunError) as error:
        list(read_parts([path], ["obs_id"]))
    assert path.name in error.value.message


def test_a_part_damaged_anywhere_is_an_error_of_ours_or_still_readable(tmp_path: Path) -> None:
    path = write_part(tmp_path, _table(40))
    data = path.read_bytes()
    for position in range(0, len(data), 23):
        broken = bytearray(data)
        broken[position] ^= 0xFF
        path.write_bytes(broken)
        try:
            list(read_parts([path], ["obs_id", "vectors"]))
        except RunError as error:
            assert path.name in error.message


def test_free_space(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0


def test_another_errors_message_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(parts.os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as error:
        write_atomic(tmp_path / "x", b"1")
    assert not isinstance(error.value, RunError)
