# ruff: noqa: PT017  (pixels or a reject: either is right, and both are looked at)
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from numpy.typing import NDArray

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError
from microsnoop.core.schema import META_PREFIX, RECORD_FIELDS
from microsnoop.io.images import ImageSource, read_image
from microsnoop.io.manifest import read_records
from microsnoop.io.sources import refreshed, source_key

Records = Callable[..., list[dict[str, Any]]]
Put = Callable[[str, bytes], str]


@pytest.fixture
def table(put: Put) -> Callable[..., str]:
    def write(text: str, name: str = "m.csv") -> str:
        return put(name, text.encode())

    return write


def _fails(match: str, **settings: Any) -> InputError:
    with pytest.raises(InputError, match=match) as error:
        read_records(InputConfig(**settings))
    return error.value


# manifests


def test_records_of_a_manifest(tmp_path: Path, table: Callable[..., str]) -> None:
    manifest = table("uri,image_id,plate,well,dose,index\nsub/a.tif,one,007,A01,0.5,\nb.tif,two,8,A02,1,3\n")
    found = read_records(InputConfig(manifest=manifest))
    assert found.cells is None
    assert found.notes == ()
    names = [name for name, _ in RECORD_FIELDS]
    assert found.records.column_names == [*names, "meta_plate", "meta_well", "meta_dose"]
    for name, dtype in RECORD_FIELDS:
        assert found.records.schema.field(name).type == dtype
    first, second = found.records.to_pylist()
    assert first["image_id"] == "one"
    assert first["uris"] == [str(tmp_path / "sub" / "a.tif")]
    assert first["uri_channels"] is None
    assert (first["index"], second["index"]) == (None, 3)
    assert (first["meta_plate"], second["meta_plate"]) == ("007", "8")
    assert (first["meta_dose"], second["meta_dose"]) == (0.5, 1.0)
    assert first["pixel_size_um"] is None


@pytest.mark.parametrize("name", ["uri", "path", "file", "image"])
def test_names_for_the_column_of_files(table: Callable[..., str], records_of: Records, name: str) -> None:
    (record,) = records_of(manifest=table(f"{name},x\na.tif,1\n"))
    assert record["image_id"] == "a.tif"
    assert {key for key in record if key.startswith(META_PREFIX)} == {"meta_x"}


def test_a_column_of_another_name_is_mapped(table: Callable[..., str], records_of: Records) -> None:
    (record,) = records_of(
        manifest=table("Location,ID\na.tif,007\n"), columns={"uri": "Location", "image_id": "ID"}
    )
    assert record["uris"][0].endswith("/a.tif")
    assert record["image_id"] in ("007", "7")


def test_an_id_column_that_is_mapped_keeps_its_leading_zeros(
    table: Callable[..., str], records_of: Records
) -> None:
    records = records_of(manifest=table("uri,ID\na.tif,007\nb.tif,012\n"), columns={"image_id": "ID"})
    assert [r["image_id"] for r in records] == ["007", "012"]


def test_mapped_key_columns_stay_text_like_named_ones(table: Callable[..., str], records_of: Records) -> None:
    records = records_of(manifest=table("uri,P\na.tif,1\nb.tif,2\n"), columns={"plate": "P"})
    assert [r["meta_plate"] for r in records] == ["1", "2"]


def test_no_column_of_files(table: Callable[..., str]) -> None:
    error = _fails("no column that says where the images are", manifest=table("x,y\n1,2\n"))
    assert "x, y" in error.hint


def test_one_column_per_channel(
    tmp_path: Path, planes: Callable[..., NDArray], table: Callable[..., str], records_of: Records
) -> None:
    truth = planes(2)
    for name, plane in zip("ab", truth, strict=True):
        np.save(tmp_path / f"{name}.npy", plane)
    full, partial = records_of(
        manifest=table("image_id,uri_ER,uri_DAPI,well\none,a.npy,b.npy,A1\ntwo,a.npy,,A2\n")
    )
    assert full["uri_channels"] == ["ER", "DAPI"]
    assert partial["uris"] == [str(tmp_path / "a.npy"), None]
    assert partial["fingerprints"][1] is None
    image = read_image(ImageSource(tuple(full["uris"]), tuple(full["uri_channels"])))
    np.testing.assert_array_equal(image.planes, truth)
    assert image.channels == ("ER", "DAPI")


def test_paths_start_from_the_manifest_or_from_the_root(
    tmp_path: Path, put: Put, records_of: Records
) -> None:
    text = f"uri\na.tif\nsub/../b.tif\n{tmp_path}/abs.tif\nfile://{tmp_path}/c%20d.tif\ns3://bucket/e.tif\n"
    manifest = put("tables/m.csv", text.encode())
    uris = [u for r in _without_network(records_of, manifest=manifest) for u in r["uris"]]
    assert uris == [
        str(tmp_path / "tables" / "a.tif"),
        str(tmp_path / "tables" / "b.tif"),
        f"{tmp_path}/abs.tif",
        f"file://{tmp_path}/c%20d.tif",
        "s3://bucket/e.tif",
    ]
    rooted = _without_network(records_of, manifest=manifest, root=str(tmp_path / "images"))
    assert rooted[0]["uris"] == [str(tmp_path / "images" / "a.tif")]
    remote = _without_network(records_of, manifest=manifest, root="gs://bucket/images/")
    assert remote[0]["uris"] == ["gs://bucket/images/a.tif"]


def _without_network(records_of: Records, **settings: Any) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("microsnoop.io.sources.fingerprints", lambda uris: [None] * len(uris))
        return records_of(**settings)


def test_relative_manifests_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put, records_of: Records
) -> None:
    put("m.csv", b"uri\nsub/a.tif\n")
    put("sub/a.tif", b"x")
    monkeypatch.chdir(tmp_path)
    (by_table,) = records_of(manifest="m.csv")
    (by_folder,) = records_of(folder="sub")
    (here,) = records_of(folder="sub/../sub/")
    assert by_table["fingerprints"] == by_folder["fingerprints"] == here["fingerprints"]
    assert by_table["fingerprints"][0] is not None
    assert (by_table["image_id"], by_folder["image_id"], here["image_id"]) == ("sub/a.tif", "a.tif", "a.tif")


def test_a_folder_with_a_tilde_in_a_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put, records_of: Records
) -> None:
    put("~a.png", b"x")
    put("b.png", b"x")
    monkeypatch.chdir(tmp_path)
    assert [r["image_id"] for r in records_of(folder=".")] == ["b.png", "~a.png"]


def test_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Put, records_of: Records
) -> None:
    put("images/a.png", b"x")
    monkeypatch.setenv("HOME", str(tmp_path))
    (record,) = records_of(folder="~/images")
    assert (record["image_id"], record["uris"]) == ("a.png", [str(tmp_path / "images" / "a.png")])
    (record,) = records_of(pattern="~/images/{name}.png")
    assert record["image_id"] == "a"


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("image_id,uri\nx,a.tif\nx,b.tif\n", "'x' (2 times)"),
        ("uri\na.tif\na.tif\na.tif\n", "'a.tif' (3 times)"),
        ("uri,index\na.tif,1\na.tif,1\n", r"'a.tif\[1\]' (2 times)"),
    ],
)
def test_repeated_ids(table: Callable[..., str], rows: str, named: str) -> None:
    error = _fails("stand more than once", manifest=table(rows))
    assert named.replace("\\", "") in error.message


def test_many_repeated_ids_are_counted(table: Callable[..., str]) -> None:
    names = "".join(f"{i}.tif\n" * 2 for i in range(9))
    assert _fails("9 image ids", manifest=table("uri\n" + names)).message.count("times") == 5


def test_a_row_without_an_id(table: Callable[..., str]) -> None:
    _fails("row 2 has no image_id", manifest=table("image_id,uri\na,a.tif\n,b.tif\n"))


def test_a_row_without_a_file_is_a_record_that_will_be_rejected(
    table: Callable[..., str], records_of: Records
) -> None:
    records = records_of(manifest=table("image_id,uri\na,a.tif\nb,\n"))
    assert records[1]["uris"] == [None]


@pytest.mark.parametrize("value", ["x", "1.5", "1e30"])
def test_an_index_that_is_no_whole_number(table: Callable[..., str], value: str) -> None:
    error = _fails("'index' must hold whole numbers", manifest=table(f"uri,index\na.tif,{value}\n"))
    assert "m.csv" in error.message


def test_an_index_of_a_type_that_is_no_number_at_all(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uri": ["a.tif"], "index": [[1, 2]]}), path)
    _fails("'index' must hold whole numbers", manifest=str(path))


def test_a_pixel_size_in_the_manifest(table: Callable[..., str], records_of: Records) -> None:
    text = "uri,pixel_size_um\na.tif,0.65\nb.tif,1\nc.tif,\n"
    assert [r["pixel_size_um"] for r in records_of(manifest=table(text))] == [0.65, 1.0, None]
    assert {r["pixel_size_um"] for r in records_of(manifest=table(text), pixel_size_um=0.3)} == {0.3}


@pytest.mark.parametrize("value", ["abc", "0,65 µm"])
def test_a_pixel_size_that_is_no_number(table: Callable[..., str], value: str) -> None:
    error = _fails("pixel_size_um", manifest=table(f'uri,pixel_size_um\na.tif,"{value}"\n'))
    assert "m.csv" in error.message


@pytest.mark.parametrize("value", ["0", "-0.65"])
def test_a_pixel_size_that_no_image_can_have(table: Callable[..., str], value: str) -> None:
    _fails("pixel_size_um", manifest=table(f"uri,pixel_size_um\na.tif,{value}\n"))


def test_a_null_byte_in_a_path_is_no_crash(table: Callable[..., str], records_of: Records) -> None:
    try:
        records = records_of(manifest=table("uri,x\na\0b.tif,1\n"))
    except InputError:
        return
    assert records[0]["fingerprints"] == [None]


def test_a_parquet_manifest_with_dictionaries_and_whole_number_ids(
    tmp_path: Path, records_of: Records
) -> None:
    columns = {
        "uri": pa.array(["a.tif", "b.tif"]).dictionary_encode(),
        "image_id": [1, 2],
        "well": pa.array(["A1", "A1"]).dictionary_encode(),
        "n": pa.array([1, None], pa.int16()),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    first, second = records_of(manifest=str(tmp_path / "m.parquet"))
    assert (first["image_id"], first["meta_well"], first["meta_n"]) == ("1", "A1", 1)
    assert (second["image_id"], second["meta_well"], second["meta_n"]) == ("2", "A1", None)


def test_a_nested_metadata_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["a.tif"], "boxes": [[1, 2]]}), tmp_path / "m.parquet")
    _fails("'boxes' holds list", manifest=str(tmp_path / "m.parquet"))


def test_metadata_that_would_stand_under_one_name_twice_is_refused_or_kept(table: Callable[..., str]) -> None:
    manifest = table("uri,plate,meta_plate\na.tif,P1,P2\n")
    try:
        found = read_records(InputConfig(manifest=manifest)).records
    except InputError as error:
        assert "plate" in error.message
    else:
        values = {v for name, v in found.to_pylist()[0].items() if name.startswith("meta_")}
        assert values == {"P1", "P2"}


def test_a_limit_is_said(table: Callable[..., str]) -> None:
    found = read_records(InputConfig(manifest=table("uri\na.tif\nb.tif\nc.tif\n"), limit=2))
    assert found.records["image_id"].to_pylist() == ["a.tif", "b.tif"]
    assert "first 2 of 3" in found.notes[0]
    assert read_records(InputConfig(manifest=table("uri\na.tif\n"), limit=2)).notes == ()


# folders


def test_records_of_a_folder(put: Put, tmp_path: Path) -> None:
    for name in ("b.png", "a.TIF", "sub/c.jpeg", "sub/deep/d.npy", "notes.txt", "sub/Thumbs.db"):
        put(f"in/{name}", b"x")
    for name in (".hidden.png", ".git/e.png", "sub/.f.png"):
        put(f"in/{name}", b"x")
    found = read_records(InputConfig(folder=str(tmp_path / "in")))
    assert found.records["image_id"].to_pylist() == ["a.TIF", "b.png", "sub/c.jpeg", "sub/deep/d.npy"]
    assert found.records["meta_folder"].to_pylist() == [".", ".", "sub", "sub/deep"]
    assert found.notes == (f"2 other files in {tmp_path / 'in'} are not images and were left out",)
    again = read_records(InputConfig(folder=f"file://{tmp_path}/in"))
    assert again.records["image_id"].to_pylist() == found.records["image_id"].to_pylist()


def test_a_flat_folder_needs_no_folder_column(put: Put, tmp_path: Path, records_of: Records) -> None:
    put("a.png", b"x")
    (record,) = records_of(folder=str(tmp_path))
    assert not [key for key in record if key.startswith(META_PREFIX)]


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    assert "it is empty" in _fails("no images in", folder=str(tmp_path)).message


def test_a_folder_without_images_says_what_it_holds(put: Put, tmp_path: Path) -> None:
    for name in ("a.czi", "b.czi", "README"):
        put(name, b"x")
    assert "2 × .czi, 1 × none" in _fails("no images in", folder=str(tmp_path)).message


def test_folders_that_are_none(put: Put, tmp_path: Path) -> None:
    _fails("does not exist", folder=str(tmp_path / "gone"))
    _fails("is a file", folder=put("x.png", b"x"))


def test_a_linked_folder_is_followed_or_said(put: Put, tmp_path: Path) -> None:
    put("real/a.png", b"x")
    put("in/b.png", b"x")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    found = read_records(InputConfig(folder=str(tmp_path / "in")))
    assert found.records.num_rows == 2 or any("link" in note for note in found.notes)


def test_a_circle_of_links_ends(put: Put, tmp_path: Path, records_of: Records) -> None:
    put("in/a.png", b"x")
    (tmp_path / "in" / "circle").symlink_to(tmp_path / "in")
    assert records_of(folder=str(tmp_path / "in"))[0]["image_id"] == "a.png"


# stacks


def test_every_image_of_every_stack_is_a_record(
    tmp_path: Path, planes: Callable[..., NDArray], records_of: Records
) -> None:
    truth = planes(3)
    tifffile.imwrite(tmp_path / "a.tif", truth, photometric="minisblack", metadata={"axes": "TYX"})
    np.save(tmp_path / "b.npy", truth[:2])
    (tmp_path / "c.tif").write_bytes(b"broken")
    records = records_of(folder=str(tmp_path), stack=True)
    ids = [r["image_id"] for r in records]
    assert ids == ["a.tif[0]", "a.tif[1]", "a.tif[2]", "b.npy[0]", "b.npy[1]", "c.tif"]
    assert [r["index"] for r in records] == [0, 1, 2, 0, 1, None]
    assert len({r["record_key"] for r in records}) == 6
    for record in records[:5]:
        image = read_image(ImageSource(tuple(record["uris"]), index=record["index"]))
        np.testing.assert_array_equal(image.planes[0], truth[record["index"]])


def test_metadata_of_a_stack_goes_to_all_its_images(
    tmp_path: Path, planes: Callable[..., NDArray], table: Callable[..., str], records_of: Records
) -> None:
    np.save(tmp_path / "a.npy", planes(2))
    np.save(tmp_path / "b.npy", planes(1))
    records = records_of(manifest=table("uri,plate\na.npy,P1\nb.npy,P2\n"), stack=True)
    assert [(r["image_id"], r["meta_plate"]) for r in records] == [
        ("a.npy[0]", "P1"),
        ("a.npy[1]", "P1"),
        ("b.npy[0]", "P2"),
    ]


def test_a_manifest_that_lists_indices_is_taken_at_its_word(
    table: Callable[..., str], records_of: Records
) -> None:
    records = records_of(manifest=table("uri,index\na.tif,0\na.tif,7\n"), stack=True)
    assert [(r["image_id"], r["index"]) for r in records] == [("a.tif[0]", 0), ("a.tif[7]", 7)]


def test_separate_stacks_where_the_first_channel_has_no_file(
    tmp_path: Path, planes: Callable[..., NDArray], table: Callable[..., str], records_of: Records
) -> None:
    np.save(tmp_path / "b.npy", planes(2))
    records = records_of(manifest=table("image_id,uri_a,uri_b\nx,,b.npy\n"), stack=True)
    assert {r["image_id"].split("[")[0] for r in records} == {"x"}


def test_more_pages_in_the_second_channel_are_not_lost_silently(
    tmp_path: Path, planes: Callable[..., NDArray], table: Callable[..., str]
) -> None:
    np.save(tmp_path / "a.npy", planes(2))
    np.save(tmp_path / "b.npy", planes(3))
    config = InputConfig(manifest=table("image_id,uri_a,uri_b\nx,a.npy,b.npy\n"), stack=True)
    try:
        found = read_records(config)
    except InputError:
        return
    assert found.records.num_rows == 3 or found.notes


# fingerprints and keys


def test_the_key_of_a_record_follows_its_file(put: Put, tmp_path: Path, records_of: Records) -> None:
    path = Path(put("a.png", b"first"))
    os.utime(path, ns=(10**18, 10**18))
    (before,) = records_of(folder=str(tmp_path))
    assert (before["fingerprints"], before["record_key"]) == (
        [f"5:{10**18}"],
        source_key([str(path)], [f"5:{10**18}"], None, None, None),
    )
    path.write_bytes(b"other")
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    (touched,) = records_of(folder=str(tmp_path))
    path.unlink()
    put("b.png", b"")
    assert touched["record_key"] != before["record_key"]
    assert [r["image_id"] for r in records_of(folder=str(tmp_path))] == ["b.png"]


def test_keys_tell_files_channels_and_indices_apart() -> None:
    sources: list[tuple[Any, ...]] = [
        (["a"], [None], None, None, None),
        (["b"], [None], None, None, None),
        (["a"], ["1:1"], None, None, None),
        (["a"], [None], ["c"], None, None),
        (["a"], [None], None, 0, None),
        (["a"], [None], None, 1, None),
        (["a"], [None], None, None, 0.5),
        (["a", "b"], [None, None], ["c", "d"], None, None),
        (["b", "a"], [None, None], ["c", "d"], None, None),
        ([None, "a"], [None, None], ["c", "d"], None, None),
        (["ü"], [None], None, None, None),
        ([], [], None, None, None),
    ]
    assert len({source_key(*source) for source in sources}) == len(sources)
    assert source_key(*sources[0]) == source_key(*sources[0])


def test_metadata_does_not_change_the_key(table: Callable[..., str], records_of: Records) -> None:
    (one,) = records_of(manifest=table("uri,well\na.tif,A1\n"))
    (two,) = records_of(manifest=table("uri,well\na.tif,B7\n"))
    assert one["record_key"] == two["record_key"]


def test_keys_can_be_taken_anew_for_some_images(put: Put, tmp_path: Path) -> None:
    for name in "abc":
        put(f"{name}.png", b"1")
    before = read_records(InputConfig(folder=str(tmp_path))).records
    for name in "abc":
        put(f"{name}.png", b"longer")
    after = refreshed(before, {"b.png", "no such image"})
    changed = [
        x != y for x, y in zip(before["record_key"].to_pylist(), after["record_key"].to_pylist(), strict=True)
    ]
    assert changed == [False, True, False]
    assert after.schema.equals(before.schema)
    assert refreshed(before, set()).equals(before)
    assert refreshed(before, {"a.png", "b.png", "c.png"}).equals(
        read_records(InputConfig(folder=str(tmp_path))).records
    )
