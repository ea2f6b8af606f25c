from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import RunError, RunLocked, StorageFull
from microsnoop.core.schema import embedding_schema, reject_schema
from microsnoop.io import writer as writer_module
from microsnoop.io.manifest import read_records
from microsnoop.io.store import RunStore, row_key
from microsnoop.io.writer import RunWriter

HOLD = """
import sys, time
from pathlib import Path
from microsnoop.io.store import RunStore
with RunStore(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def store(records: pa.Table, begin_run: Callable[..., RunStore]) -> RunStore:
    return begin_run(records)


def _hold(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "locked"
    return process


def _end(process: subprocess.Popen[str], *, kill: bool) -> None:
    if kill:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)


# the lock


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "ended"])
def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path, kill: bool) -> None:
    run = RunStore(tmp_path / "run")
    process = _hold(run.path)
    try:
        with pytest.raises(RunLocked, match=f"process {process.pid} on ") as error, run.lock():
            pass
        assert str(run.path) in error.value.message
        assert error.value.hint
    finally:
        _end(process, kill=kill)
    with run.lock():
        assert str(os.getpid()) in (run.path / ".lock").read_text()


def test_this_process_keeps_another_one_out(tmp_path: Path) -> None:
    run = RunStore(tmp_path / "run")
    with run.lock():
        done = subprocess.run(
            [sys.executable, "-c", HOLD, str(run.path)],
            capture_output=True,
            text=True,
            timeout=60,
            input="\n",
        )
        assert done.returncode != 0
        assert "RunLocked" in done.stderr
        assert str(os.getpid()) in done.stderr
        with pytest.raises(RunLocked), RunStore(run.path).lock():
            pass
    with run.lock():
        pass


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    run = RunStore(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), run.lock():
        raise ZeroDivisionError
    with run.lock():
        pass


def test_a_refused_process_changes_nothing(tmp_path: Path) -> None:
    run = RunStore(tmp_path / "run")
    with run.lock():
        (run.embeddings / ".part-000001-0123456789abcdef.parquet.partial").write_bytes(b"being written")
        with pytest.raises(RunLocked), RunStore(run.path).lock():
            pass
        assert len(list(run.embeddings.iterdir())) == 1
        assert f"process {os.getpid()}" in (run.path / ".lock").read_text()


def test_reading_needs_no_lock(store: RunStore) -> None:
    with store.lock():
        other = RunStore(store.path)
        assert other.records.num_rows == 7
        assert other.counts()["written"] == 0


def test_leftovers_of_a_crash_are_removed_when_the_lock_is_taken(store: RunStore) -> None:
    leftovers = [
        store.path / ".run.json.partial",
        store.embeddings / ".part-000001-0123456789abcdef.parquet.partial",
        store.rejects / ".part-000001-0123456789abcdef.parquet.partial",
    ]
    for path in leftovers:
        path.write_bytes(b"half")
    with store.lock():
        assert not any(path.exists() for path in leftovers)
    assert store.records.num_rows == 7


@pytest.mark.parametrize("name", [".run.json.partial", ".records.parquet.partial", ".cells.parquet.partial"])
def test_a_crash_before_the_first_run_json_does_not_block_the_folder(tmp_path: Path, name: str) -> None:
    run = RunStore(tmp_path / "run")
    with run.lock():
        (run.path / name).write_bytes(b"half")  # killed here
    with run.lock():
        assert not (run.path / name).exists()


# the folder


@pytest.mark.parametrize("foreign", ["notes.txt", "x.tif", ".git", "images"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, foreign: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / foreign).write_bytes(b"mine")
    run = RunStore(tmp_path / "run")
    with pytest.raises(RunError, match="not empty and not a run directory") as error:
        run.create()
    assert foreign in error.value.message
    with pytest.raises(RunError), run.lock():
        pass
    assert [p.name for p in (tmp_path / "run").iterdir()] == [foreign]


def test_what_users_put_beside_a_run_is_left_alone(store: RunStore) -> None:
    (store.path / "notes.txt").write_text("mine")
    with store.lock():
        pass
    assert (store.path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_and_a_missing_one_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/er/run"):
        run = RunStore(tmp_path / name)
        run.create()
        run.create()
        assert run.embeddings.is_dir()
        assert run.rejects.is_dir()
        assert not run.exists


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(RunError, match="is a file"):
        RunStore(tmp_path / "run").create()
    with pytest.raises(RunError, match="cannot create"):
        RunStore(tmp_path / "run" / "inner").create()


def test_a_folder_without_permission_to_write(public_folder: Path, as_nobody: Callable[[], Any]) -> None:
    (public_folder / "made").mkdir()
    with as_nobody():
        for name in ("new", "made"):
            with pytest.raises(RunError, match="ermission"), RunStore(public_folder / name).lock():
                pass


def test_a_run_of_somebody_else(public_folder: Path, as_nobody: Callable[[], Any]) -> None:
    run = RunStore(public_folder / "run")
    with run.lock():
        pass
    with as_nobody(), pytest.raises(RunError, match="ermission"), RunStore(run.path).lock():
        pass


# run.json


def test_run_json(tmp_path: Path) -> None:
    run = RunStore(tmp_path / "run")
    run.create()
    assert not run.exists
    with pytest.raises(RunError, match="not a run directory") as error:
        _ = run.info
    assert error.value.hint
    run.write_info({"status": "running", "name": "µ 图"})
    assert run.exists
    assert RunStore(run.path).info == {"schema_version": 2, "status": "running", "name": "µ 图"}
    run.write_info({**run.info, "status": "complete"})
    assert run.info["status"] == RunStore(run.path).info["status"] == "complete"


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b'{"schema_version": 1', b"\xff\xfe", b"{}"],
    ids=["empty", "brace", "cut", "bytes", "nothing"],
)
def test_a_damaged_run_json(store: RunStore, text: bytes) -> None:
    (store.path / "run.json").write_bytes(text)
    with pytest.raises(RunError) as error:
        _ = RunStore(store.path).info
    assert str(store.path) in error.value.message


@pytest.mark.parametrize("text", [b"[]", b"null", b"1", b'"x"'])
def test_a_run_json_that_is_no_object(store: RunStore, text: bytes) -> None:
    (store.path / "run.json").write_bytes(text)
    with pytest.raises(RunError) as error:
        _ = RunStore(store.path).info
    assert str(store.path) in error.value.message


def test_a_run_json_cut_anywhere(store: RunStore) -> None:
    data = (store.path / "run.json").read_bytes()
    for size in range(0, len(data) - 2, 9):
        (store.path / "run.json").write_bytes(data[:size])
        with pytest.raises(RunError, match="damaged"):
            _ = RunStore(store.path).info


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_a_run_json_of_another_version(store: RunStore, version: Any) -> None:
    (store.path / "run.json").write_text(json.dumps({"schema_version": version}))
    with pytest.raises(RunError, match="schema version"):
        _ = RunStore(store.path).info


def test_a_run_json_without_permission(public_folder: Path, as_nobody: Callable[[], Any]) -> None:
    run = RunStore(public_folder / "run")
    run.create()
    run.write_info({})
    (run.path / "run.json").chmod(0)
    with as_nobody(), pytest.raises(RunError, match="ermission"):
        _ = RunStore(run.path).info


# inputs


def test_records_with_boxes_and_cells_come_back(tmp_path: Path, begin_run: Callable[..., RunStore]) -> None:
    (tmp_path / "m.csv").write_text("uri,plate\na.tif,P1\nb.tif,P2\n")
    (tmp_path / "c.csv").write_text("image,x_px,y_px,type\na,5,6,t\na,7,8,\nzz,1,1,t\n")
    found = read_records(
        InputConfig(manifest=str(tmp_path / "m.csv"), cells=str(tmp_path / "c.csv"), cell_size_px=4)
    )
    run = begin_run(found.records)
    assert run.cells is None
    run.write_inputs(found.records, found.cells)
    assert run.records.equals(found.records)
    assert run.cells is not None
    assert run.cells.equals(found.cells)


def test_a_run_without_its_input_list_is_an_error_of_ours(store: RunStore) -> None:
    (store.path / "records.parquet").unlink()
    with pytest.raises(RunError, match=r"records\.parquet"):
        _ = store.records


@pytest.mark.parametrize("data", [b"", b"PAR1xxxxPAR1"], ids=["empty", "noise"])
def test_a_damaged_input_list_is_an_error_of_ours(store: RunStore, data: bytes) -> None:
    (store.path / "records.parquet").write_bytes(data)
    with pytest.raises(RunError, match=r"records\.parquet"):
        _ = store.records


# rows


def test_rows_go_where_they_belong(
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    writer = writer_of(store)
    writer.append(result_rows(records, rejected=("1.png", "4.png")))
    assert writer.waiting == 7
    assert store.embedding_parts() == []
    writer.flush()
    assert (writer.waiting, writer.written, writer.rejected) == (0, 5, 2)
    assert store.counts() == {"written": 5, "rejected": 2, "rejected_by_code": {"decode_error": 2}}
    (embedded,), (rejected,) = store.embedding_parts(), store.reject_parts()
    for part, schema in (
        (embedded, embedding_schema(channels=["c0", "c1"], dim=4)),
        (rejected, reject_schema()),
    ):
        assert pq.read_schema(part).equals(schema)
        assert pq.read_schema(part).metadata == schema.metadata
    assert pq.read_table(embedded)["vectors"].null_count == 0
    assert store.reject_table()["message"].to_pylist() == ["broken", "broken"]
    rows = store.rows(("obs_id", "image_id"))
    assert rows.column_names == ["obs_id", "image_id", "rejected"]
    assert [r["obs_id"] for r in rows.to_pylist() if r["rejected"]] == ["1.png", "4.png"]
    np.testing.assert_array_equal(pq.read_table(embedded)["vectors"][0].as_py(), np.arange(8))


def test_an_empty_run(store: RunStore, writer_of: Callable[..., RunWriter]) -> None:
    writer_of(store).flush()
    assert store.counts() == {"written": 0, "rejected": 0, "rejected_by_code": {}}
    assert store.rows(("obs_id", "n_samples")).num_rows == 0
    assert store.rows(("obs_id", "n_samples")).column_names == ["obs_id", "n_samples", "rejected"]
    assert store.reject_table().schema.equals(reject_schema())
    assert store.embedding_parts() == []


def test_rejects_are_counted_by_reason_most_frequent_first(
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    rows = result_rows(records, rejected=tuple(records["image_id"].to_pylist()))
    codes = [
        "too_small",
        "decode_error",
        "decode_error",
        "shape_mismatch",
        "decode_error",
        "too_small",
        "too_small",
    ]
    rows = rows.set_column(
        rows.schema.get_field_index("code"), "code", pa.array([*codes[:6], "decode_error"])
    )
    writer = writer_of(store, rows_per_part=3)
    writer.append(rows)
    writer.flush()
    by_code = store.counts()["rejected_by_code"]
    assert list(by_code.items()) == [("decode_error", 4), ("too_small", 2), ("shape_mismatch", 1)]


@pytest.mark.parametrize(
    ("per_part", "sizes"), [(1, [1] * 7), (3, [3, 3]), (7, [7]), (8, []), (2, [2, 2, 2])]
)
def test_a_part_is_closed_at_so_many_rows(
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
    per_part: int,
    sizes: list[int],
) -> None:
    rows = result_rows(records)
    writer = writer_of(store, rows_per_part=per_part)
    writer.append(rows)
    assert [pq.read_metadata(part).num_rows for part in store.embedding_parts()] == sizes
    assert writer.waiting == 7 - sum(sizes)
    writer.flush()
    ids = [i for part in store.embedding_parts() for i in pq.read_table(part)["obs_id"].to_pylist()]
    assert ids == records["image_id"].to_pylist()


def test_small_blocks_are_collected(
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    rows = result_rows(records)
    writer = writer_of(store, rows_per_part=5)
    for i in range(7):
        writer.append(rows.slice(i, 1))
        assert len(store.embedding_parts()) == (i >= 4)
    writer.append(rows.slice(0, 0))
    assert writer.waiting == 2


def test_a_part_is_closed_at_so_many_bytes(
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = result_rows(records)
    monkeypatch.setattr(writer_module, "_PART_BYTES", rows.slice(0, 1).nbytes * 2)
    writer = writer_of(store)
    for i in range(7):
        writer.append(rows.slice(i, 1))
    assert 2 <= len(store.embedding_parts()) <= 4
    assert writer.written + writer.waiting == 7


def test_a_part_is_closed_after_so_many_seconds(
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(writer_module.time, "monotonic", lambda: clock[0])
    rows = result_rows(records)
    writer = writer_of(store, flush_seconds=20)
    writer.append(rows.slice(0, 1))
    clock[0] += 19
    writer.append(rows.slice(1, 1))
    assert writer.waiting == 2
    clock[0] += 1  # the oldest has waited 20 seconds
    writer.flush_if_due()
    assert (writer.waiting, writer.written) == (0, 2)
    clock[0] += 100
    writer.flush_if_due()
    writer.append(rows.slice(2, 1))
    assert writer.waiting == 1
    clock[0] += 20
    writer.append(rows.slice(3, 1))
    assert (writer.waiting, writer.written) == (0, 4)


@pytest.mark.parametrize(
    "error",
    [StorageFull("the disk is full"), OSError(5, "I/O error"), KeyboardInterrupt()],
    ids=lambda e: type(e).__name__,
)
def test_rows_that_were_written_before_a_failure_are_not_written_again(
    error: BaseException,
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = writer_module.write_part

    def fail(folder: Path, table: pa.Table) -> Path:
        if folder == store.rejects:
            raise error
        return write(folder, table)

    writer = writer_of(store)
    writer.append(result_rows(records, rejected=("1.png",)))
    with monkeypatch.context() as patch:
        patch.setattr(writer_module, "write_part", fail)
        with pytest.raises(type(error)):
            writer.flush()
    writer.flush()  # what the end of a session does after an error or Ctrl-C
    ids = store.rows(("obs_id",))["obs_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_what_is_written_is_remembered(
    number: signal.Signals,
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C right after a part got its name must not make the next flush write its rows again."""
    write = writer_module.write_part

    def interrupted(folder: Path, table: pa.Table) -> Path:
        path = write(folder, table)
        signal.raise_signal(number)
        return path

    def stop(got: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, stop)
    try:
        writer = writer_of(store)
        writer.append(result_rows(records, rejected=("1.png",)))
        with monkeypatch.context() as patch:
            patch.setattr(writer_module, "write_part", interrupted)
            with pytest.raises(KeyboardInterrupt):
                writer.flush()
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert writer.waiting == 0
    writer.flush()
    ids = store.rows(("obs_id",))["obs_id"].to_pylist()
    assert len(ids) == len(set(ids)) == 7


def test_retired_rejects_are_kept_aside(
    store: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    for _ in range(2):
        writer = writer_of(store)
        writer.append(result_rows(records, rejected=("1.png", "4.png")).slice(0, 2))
        writer.flush()
        names = [part.name for part in store.reject_parts()]
        assert store.retire_rejects() == 1
        assert store.reject_parts() == []
        kept = [p.name for p in (store.path / "retried").iterdir()]
        assert all(any(k.endswith(name) for k in kept) for name in names)
    assert store.retire_rejects() == 0
    assert store.counts()["rejected"] == 0


def test_a_row_key_depends_on_everything_it_is_made_of() -> None:
    keys = {
        row_key("a", (0, 0, 9, 9), "p"),
        row_key("b", (0, 0, 9, 9), "p"),
        row_key("a", (0, 0, 9, 8), "p"),
        row_key("a", (0, 1, 9, 9), "p"),
        row_key("a", (None, None, None, None), "p"),
        row_key("a", (0, 0, 9, 9), "q"),
    }
    assert len(keys) == 6
    assert row_key("a", [0, 0, 9, 9], "p") == row_key("a", (0, 0, 9, 9), "p")
