from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import RunError, StaleOutput
from microsnoop.core.schema import embedding_schema
from microsnoop.io.manifest import read_records
from microsnoop.io.parts import write_part
from microsnoop.io.store import RunStore
from microsnoop.io.verify import Verification, samples_per_image, verify
from microsnoop.io.writer import RunWriter


@pytest.fixture
def run(
    records: pa.Table,
    begin_run: Callable[..., RunStore],
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> RunStore:
    """A complete run: parts of 3, 3 and 1 rows, two of them rejected."""
    store = begin_run(records)
    _fill(store, result_rows(records, rejected=("1.png", "5.png")), writer_of)
    return store


def _fill(store: RunStore, rows: pa.Table, writer_of: Callable[..., RunWriter]) -> None:
    writer = writer_of(store, rows_per_part=3)
    writer.append(rows)
    writer.flush()


def _problems(found: Verification) -> str:
    assert not found.ok
    return "\n".join(found.problems)


def _rewrite(part: Path, table: pa.Table) -> Path:
    """Replace a part by one with another content and a right checksum."""
    part.unlink()
    return write_part(part.parent, table)


def test_a_complete_run(run: RunStore) -> None:
    for argument in (run, run.path, str(run.path)):
        found = verify(argument)
        assert found.ok
        assert found.problems == []
        assert (found.expected, found.written, found.rejected) == (7, 5, 2)
        assert found.rejected_by_code == {"decode_error": 2}
        assert found.summary() == "expected 7 = written 5 + rejected 2 (decode_error 2)"


def test_a_run_that_has_just_begun(records: pa.Table, begin_run: Callable[..., RunStore]) -> None:
    found = verify(begin_run(records))
    assert "7 images are incomplete" in _problems(found)
    assert found.summary() == "expected 7 ≠ written 0 + rejected 0"


def test_every_image_missing_is_named_up_to_twenty(
    tmp_path: Path, begin_run: Callable[..., RunStore]
) -> None:
    (tmp_path / "m.csv").write_text("uri\n" + "".join(f"{i}.tif\n" for i in range(33)))
    found = verify(begin_run(read_records(InputConfig(manifest=str(tmp_path / "m.csv"))).records))
    assert found.problems[0] == "33 images are incomplete:"
    assert len(found.problems) == 22
    assert found.problems[-1] == "  ... and 13 more"


def test_a_deleted_part_shows_the_images_that_are_missing(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    lost = pq.read_table(part)["image_id"].to_pylist()
    part.unlink()
    found = verify(run)
    text = _problems(found)
    assert f"{len(lost)} images are incomplete" in text
    assert all(f"image {name!r}: 1 samples expected, 0 found" in text for name in lost)
    assert "≠" in found.summary()


def test_a_deleted_part_of_rejects_shows_too(run: RunStore) -> None:
    for part in run.reject_parts():
        part.unlink()
    text = _problems(verify(run))
    assert "'1.png'" in text
    assert "'5.png'" in text


def test_a_part_copied_under_another_number_shows_the_ids_twice(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    ids = pq.read_table(part)["obs_id"].to_pylist()
    (part.parent / part.name.replace("part-000001", "part-000099")).write_bytes(part.read_bytes())
    text = _problems(verify(run))
    assert f"{len(ids)} ids stand more than once" in text
    assert all(f"{name!r}: 2 rows" in text for name in ids)
    assert "checksum" not in text


def test_a_row_both_written_and_rejected_shows(
    run: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    _fill(run, result_rows(records, rejected=("0.png",)).slice(0, 1), writer_of)
    assert "'0.png': 2 rows" in _problems(verify(run))


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["embeddings", "rejects"])
def test_a_byte_changed_anywhere_in_a_part_is_listed(run: RunStore, kind: str) -> None:
    part = (run.embedding_parts() if kind == "embeddings" else run.reject_parts())[0]
    original = part.read_bytes()
    for position in [*range(0, len(original), max(1, len(original) // 40)), len(original) - 1]:
        _flip(part, position)
        text = _problems(verify(run))
        assert "checksum differs" in text
        assert part.name in text
        part.write_bytes(original)
    assert verify(run).ok


@pytest.mark.parametrize("size", [0, 4, 100, -1, -8, -100])
@pytest.mark.parametrize("kind", ["embeddings", "rejects"])
def test_a_shortened_part_is_listed(run: RunStore, kind: str, size: int) -> None:
    part = (run.embedding_parts() if kind == "embeddings" else run.reject_parts())[0]
    part.write_bytes(part.read_bytes()[:size])
    text = _problems(verify(run))
    assert part.name in text
    assert "checksum differs" in text


def test_vectors_changed_by_hand_are_listed(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    table = pq.read_table(part)
    pq.write_table(
        table.set_column(table.schema.get_field_index("kind"), "kind", pa.array(["cell"] * len(table))), part
    )
    assert part.name in _problems(verify(run))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_listed(run: RunStore, value: float) -> None:
    part = run.embedding_parts()[0]
    table = pq.read_table(part)
    vectors = np.array(table["vectors"].to_pylist(), "f4")
    vectors[1, 3] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8)
    index = table.schema.get_field_index("vectors")
    changed = table.set_column(index, table.schema.field("vectors"), column)
    _rewrite(part, changed)
    text = _problems(verify(run))
    assert "1 vectors are not finite" in text
    assert repr(table["obs_id"][1].as_py()) in text


def test_vectors_that_are_missing_are_listed(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    table = pq.read_table(part)
    index = table.schema.get_field_index("vectors")
    _rewrite(
        part,
        table.set_column(
            index, table.schema.field("vectors"), pa.nulls(len(table), table.schema.field("vectors").type)
        ),
    )
    assert not verify(run).ok


def test_one_missing_vector_among_others_is_listed(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    table = pq.read_table(part)
    values = [*table["vectors"].to_pylist()[:-1], None]
    index = table.schema.get_field_index("vectors")
    column = pa.array(values, table.schema.field("vectors").type)
    _rewrite(part, table.set_column(index, table.schema.field("vectors"), column))
    assert not verify(run).ok


def test_vectors_of_another_width_are_listed(
    records: pa.Table, run: RunStore, result_rows: Callable[..., pa.Table]
) -> None:
    schema = embedding_schema(channels=["c0"], dim=4)
    part = run.embedding_parts()[0]
    rows = [{**row, "vectors": [1.0] * 4} for row in pq.read_table(part).to_pylist()]
    _rewrite(part, pa.Table.from_pylist(rows, schema=schema))
    assert "vectors are fixed_size_list" in _problems(verify(run))


# what a row was made from


def test_rows_of_other_settings_are_stale(
    run: RunStore,
    records: pa.Table,
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    for part in run.embedding_parts() + run.reject_parts():
        part.unlink()
    old = result_rows(records, processing_key="other settings").slice(0, 2)
    _fill(run, pa.concat_tables([old, result_rows(records).slice(2)]), writer_of)
    found = verify(run)
    text = _problems(found)
    assert "2 rows are stale_output" in text
    assert "'0.png'" in text
    assert "'1.png'" in text
    assert "'2.png'" not in text


def test_rows_of_a_file_that_changed_are_stale(run: RunStore, tmp_path: Path) -> None:
    (tmp_path / "in" / "3.png").write_bytes(b"another content")
    run.write_inputs(read_records(InputConfig(folder=str(tmp_path / "in"))).records, None)
    assert verify(run).problems == [
        "1 rows are stale_output: their source, settings or weights have changed since:",
        "  '3.png'",
    ]


def test_rows_of_another_window_are_stale(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    table = pq.read_table(part)
    index = table.schema.get_field_index("width_px")
    _rewrite(part, table.set_column(index, "width_px", pc.add(table["width_px"], 1)))
    assert f"{len(table)} rows are stale_output" in _problems(verify(run))


def test_rows_of_images_that_are_not_in_the_list_are_listed(run: RunStore, records: pa.Table) -> None:
    run.write_inputs(records.slice(2), None)
    found = verify(run)
    text = _problems(found)
    assert "2 rows belong to no image or cell of the input list" in text
    assert "'0.png'" in text
    assert "'1.png'" in text


def test_rows_without_an_image_are_listed(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    table = pq.read_table(part)
    index = table.schema.get_field_index("image_id")
    _rewrite(part, table.set_column(index, "image_id", pa.nulls(len(table), pa.string())))
    assert not verify(run).ok


# boxes


@pytest.fixture
def cells(tmp_path: Path) -> pa.Table:
    (tmp_path / "m.csv").write_text("uri\na.tif\nb.tif\nc.tif\n")
    (tmp_path / "c.csv").write_text("image,x_px,y_px\na,5,6\na,7,8\nb,9,9\nzz,1,1\n")
    config = InputConfig(manifest=str(tmp_path / "m.csv"), cells=str(tmp_path / "c.csv"), cell_size_px=4)
    return read_records(config).records


def test_a_run_of_cells(
    cells: pa.Table,
    begin_run: Callable[..., RunStore],
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    store = begin_run(cells)
    assert verify(store).expected == 4
    rows = result_rows(cells, rejected=("zz#1",))
    _fill(store, rows, writer_of)
    found = verify(store)
    assert found.ok
    assert (found.expected, found.written, found.rejected) == (4, 3, 1)


def test_a_missing_cell_is_listed_with_its_image(
    cells: pa.Table,
    begin_run: Callable[..., RunStore],
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    store = begin_run(cells)
    rows = result_rows(cells)
    _fill(store, rows.filter(pc.not_equal(rows["obs_id"], "a.tif#2")), writer_of)
    text = _problems(verify(store))
    assert "image 'a.tif': 2 samples expected, 1 found" in text
    assert text.count("expected") == 1


def test_samples_of_tiles_are_known_from_their_rows(
    records: pa.Table,
    begin_run: Callable[..., RunStore],
    result_rows: Callable[..., pa.Table],
    writer_of: Callable[..., RunWriter],
) -> None:
    store = begin_run(records)
    rows = result_rows(records)
    tiles = pa.concat_tables([rows, rows.slice(0, 1)]).to_pylist()
    for i, row in enumerate(tiles):
        if row["image_id"] == "0.png":
            row["n_samples"], row["obs_id"] = 3, f"0.png@{i},0"
    _fill(store, pa.Table.from_pylist(tiles, schema=rows.schema), writer_of)
    expected, present = samples_per_image(records, store.rows(("obs_id", "image_id", "n_samples")))
    assert expected.to_pylist() == [3, 1, 1, 1, 1, 1, 1]
    assert present.to_pylist() == [2, 1, 1, 1, 1, 1, 1]
    assert "image '0.png': 3 samples expected, 2 found" in _problems(verify(store))


def test_counting_samples_of_a_run_without_rows(records: pa.Table, cells: pa.Table, run: RunStore) -> None:
    empty = run.rows(("obs_id", "image_id", "n_samples")).slice(0, 0)
    expected, present = samples_per_image(records, empty)
    assert (expected.to_pylist(), present.to_pylist()) == ([1] * 7, [0] * 7)
    expected, present = samples_per_image(cells, empty)
    assert (expected.to_pylist(), present.to_pylist()) == ([2, 1, 1], [0, 0, 0])


# what is no run


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        verify(tmp_path)
    with pytest.raises(RunError, match="not a run directory"):
        verify(tmp_path / "gone")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "records.parquet",
        ),
        "run.json",
    ],
)
@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_a_run_without_one_of_its_files_is_an_error_of_ours(run: RunStore, name: str, how: str) -> None:
    if how == "deleted":
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(b"")
    with pytest.raises(RunError):
        verify(run.path)


def test_a_run_json_without_an_identity_is_an_error_of_ours(run: RunStore) -> None:
    run.write_info({"status": "running"})
    with pytest.raises(RunError):
        verify(run.path)


def test_parts_of_another_version_are_refused(run: RunStore) -> None:
    part = run.embedding_parts()[0]
    table = pq.read_table(part)
    _rewrite(part, table.replace_schema_metadata({b"microsnoop": b'{"schema_version": 9}'}))
    with pytest.raises(StaleOutput, match="schema version 9"):
        verify(run)


def test_foreign_files_among_the_parts_are_not_read(run: RunStore) -> None:
    for name in ("notes.txt", "x.parquet", ".part-000009-0123456789abcdef.parquet.partial"):
        (run.embeddings / name).write_bytes(b"not ours")
    assert verify(run).ok


def test_verifying_changes_nothing(run: RunStore) -> None:
    def state() -> dict[str, tuple[int, Any]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in run.path.rglob("*")}

    before = state()
    verify(run)
    assert state() == before
