from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError, MicrosnoopError, RowRejected
from microsnoop.io.images import ImageReader, ImageSource, read_image
from microsnoop.io.manifest import read_records
from microsnoop.io.opener import fingerprints, list_files, open_binary
from microsnoop.io.tables import read_table

boto3 = pytest.importorskip("boto3")
pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")


def _tiff(array: NDArray, **options: Any) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, array, photometric="minisblack", **options)
    return sink.getvalue()


def _png(array: NDArray) -> bytes:
    sink = io.BytesIO()
    PillowImage.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


def _npy(array: NDArray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture
def environment(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    for name in (
        "AWS_PROFILE",
        "AWS_SESSION_TOKEN",
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _forget()
    yield
    _forget()


def _forget() -> None:
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def bucket(environment: None, endpoint: str) -> Iterator[Callable[[str, bytes], None]]:
    """An empty bucket ``plates``; call it to store an object behind fsspec's back."""
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="plates")
    yield lambda key, data: client.put_object(Bucket="plates", Key=key, Body=data)
    for entry in client.list_objects_v2(Bucket="plates").get("Contents", []):
        client.delete_object(Bucket="plates", Key=entry["Key"])
    client.delete_bucket(Bucket="plates")
    client.close()


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], None]]:
    filesystem = fsspec.filesystem("memory")
    yield lambda key, data: filesystem.pipe(f"/plates/{key}", data)
    if filesystem.exists("/plates"):
        filesystem.rm("/plates", recursive=True)


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> tuple[str, Callable[[str, bytes], None]]:
    """(URL of a folder, a function that puts a file there)."""
    if request.param == "s3":
        return "s3://plates", request.getfixturevalue("bucket")
    return "memory:///plates", request.getfixturevalue("memory")


Store = tuple[str, Callable[[str, bytes], None]]


def test_listing_opening_and_fingerprints(store: Store) -> None:
    url, put = store
    for name in ("P1/b.tif", "P1/a b ü.tif", "P2/c.png", ".hidden/d.png", "P2/.e.png"):
        put(name, name.encode())
    assert list(list_files(url)) == [f"{url}/P1/a b ü.tif", f"{url}/P1/b.tif", f"{url}/P2/c.png"]
    assert list(list_files(f"{url}/P2/")) == [f"{url}/P2/c.png"]
    with open_binary(f"{url}/P1/b.tif") as stream:
        stream.seek(3)
        assert stream.read() == b"b.tif"
    marks = fingerprints(
        [f"{url}/P2/c.png", f"{url}/gone.tif", f"{url}/P1/b.tif", f"{url}/no/such/folder.tif"]
    )
    assert [mark is None for mark in marks] == [False, True, False, True]
    assert marks[2] is not None
    assert marks[2].startswith("8:")


def test_a_folder(store: Store, planes: Callable[..., NDArray]) -> None:
    url, put = store
    truth = planes(3)
    put("in/P1/a.tif", _tiff(truth, compression="zlib"))
    put("in/P2/b.png", _png(truth[0]))
    put("in/notes.txt", b"x")
    found = read_records(InputConfig(folder=f"{url}/in"))
    assert found.records["image_id"].to_pylist() == ["P1/a.tif", "P2/b.png"]
    assert found.records["meta_folder"].to_pylist() == ["P1", "P2"]
    assert found.notes[0].startswith("1 other files")
    first, second = found.records.to_pylist()
    assert None not in first["fingerprints"]
    np.testing.assert_array_equal(read_image(first["uris"][0]).planes, truth)
    np.testing.assert_array_equal(read_image(second["uris"][0]).planes, truth[:1])


def test_a_pattern(store: Store, planes: Callable[..., NDArray]) -> None:
    url, put = store
    truth = planes(4)
    for i, name in enumerate(["A1_w1", "A1_w2", "A2_w1", "A2_w2"]):
        put(f"in/P 1/{name}.npy", _npy(truth[i]))
    records = read_records(
        InputConfig(pattern=f"{url}/in/{{plate}}/{{well}}_w{{channel}}.npy")
    ).records.to_pylist()
    assert [(r["image_id"], r["meta_plate"]) for r in records] == [("P 1/A1", "P 1"), ("P 1/A2", "P 1")]
    image = read_image(ImageSource(tuple(records[1]["uris"]), tuple(records[1]["uri_channels"])))
    np.testing.assert_array_equal(image.planes, truth[2:])


def test_a_manifest_beside_its_images(store: Store, planes: Callable[..., NDArray]) -> None:
    url, put = store
    truth = planes(5)
    put("in/stack.tif", _tiff(truth, metadata={"axes": "TYX"}))
    put("in/m.csv", b"uri,index,plate\nstack.tif,3,007\ngone.tif,,P2\n")
    first, second = read_records(InputConfig(manifest=f"{url}/in/m.csv")).records.to_pylist()
    assert (first["uris"], first["meta_plate"]) == ([f"{url}/in/stack.tif"], "007")
    assert second["fingerprints"] == [None]
    image = read_image(ImageSource(tuple(first["uris"]), index=first["index"]))
    np.testing.assert_array_equal(image.planes, truth[3:4])


def test_a_table_in_parquet(store: Store) -> None:
    url, put = store
    sink = io.BytesIO()
    pq.write_table(pa.table({"uri": ["a"]}), sink)
    put("t.parquet", sink.getvalue())
    assert read_table(f"{url}/t.parquet").to_pylist() == [{"uri": "a"}]
    with pytest.raises(InputError, match="cannot read the table"):
        read_table(f"{url}/gone.parquet")


def test_stacks_are_counted(store: Store, planes: Callable[..., NDArray]) -> None:
    url, put = store
    put("in/a.npy", _npy(planes(2)))
    put("in/b.tif", _tiff(planes(3), metadata={"axes": "TYX"}))
    records = read_records(InputConfig(folder=f"{url}/in", stack=True)).records
    assert records["image_id"].to_pylist() == ["a.npy[0]", "a.npy[1]", "b.tif[0]", "b.tif[1]", "b.tif[2]"]


def test_bad_files_are_rejected_by_name(store: Store, planes: Callable[..., NDArray]) -> None:
    url, put = store
    put("empty.tif", b"")
    put("text.tif", b"hello world")
    put("cut.tif", _tiff(planes(1)[0])[:-500])
    put("cut.png", _png(planes(1, "u1")[0])[:-500])
    for name in ("empty.tif", "text.tif", "cut.tif", "cut.png", "gone.tif", "no/such/folder.tif"):
        with pytest.raises(RowRejected) as error:
            read_image(f"{url}/{name}")
        assert f"{url}/{name}" in error.value.message


@pytest.mark.parametrize("where", ["", "/in"])
def test_an_empty_or_missing_folder(store: Store, where: str) -> None:
    url, put = store
    put("other/x.txt", b"")
    with pytest.raises(InputError, match=r"no images in|does not exist"):
        read_records(InputConfig(folder=url + where))
    with pytest.raises(InputError, match=r"no file below|does not exist"):
        read_records(InputConfig(pattern=url + where + "/{x}.tif"))


def test_files_that_change_behind_our_back_are_noticed(store: Store) -> None:
    url, put = store
    put("in/a.tif", b"first")
    config = InputConfig(folder=f"{url}/in")
    before = read_records(config).records.to_pylist()
    put("in/a.tif", b"second, longer")
    put("in/b.tif", b"new")
    after = read_records(config).records.to_pylist()
    assert [r["image_id"] for r in after] == ["a.tif", "b.tif"]
    assert after[0]["record_key"] != before[0]["record_key"]


def test_a_host_without_two_slashes_is_the_same_folder(memory: Callable[[str, bytes], None]) -> None:
    memory("in/a_1.tif", b"x")
    folder = read_records(InputConfig(folder="memory://plates/in")).records.to_pylist()
    assert [r["image_id"] for r in folder] == ["a_1.tif"]
    pattern = read_records(InputConfig(pattern="memory://plates/in/{well}_1.tif")).records.to_pylist()
    assert [r["image_id"] for r in pattern] == ["a"]


def test_a_stack_is_read_in_ranges(
    bucket: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = np.random.default_rng(0).integers(0, 2**16, (40, 512, 512)).astype("u2")  # 20 MB
    bucket("big.npy", _npy(truth))
    filesystem, _ = fsspec.core.url_to_fs("s3://plates/big.npy")
    read = 0
    original = type(filesystem)._cat_file

    async def counting(self: Any, path: str, *args: Any, **options: Any) -> bytes:
        nonlocal read
        data: bytes = await original(self, path, *args, **options)
        read += len(data)
        return data

    monkeypatch.setattr(type(filesystem), "_cat_file", counting)
    import s3fs.core

    fetch = s3fs.core._fetch_range

    def counting_fetch(*args: Any, **options: Any) -> bytes:
        nonlocal read
        data: bytes = fetch(*args, **options)
        read += len(data)
        return data

    monkeypatch.setattr(s3fs.core, "_fetch_range", counting_fetch)
    with ImageReader() as reader:
        image = reader.read(ImageSource(("s3://plates/big.npy",), index=3))
    np.testing.assert_array_equal(image.planes[0], truth[3])
    assert 0 < read < truth.nbytes / 2


def test_access_without_credentials_rejects_and_says_so(
    environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    _forget()
    with pytest.raises(RowRejected, match=r"s3://plates/x\.tif"):
        read_image("s3://plates/x.tif")


@pytest.mark.parametrize(
    "ask", [lambda: list(list_files("s3://plates/in")), lambda: fingerprints(["s3://plates/x"])]
)
def test_lists_without_credentials_are_an_error_of_ours(
    environment: None, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Any]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    _forget()
    with pytest.raises(MicrosnoopError):
        ask()


def test_a_server_that_is_not_there_rejects_and_says_so(
    environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    config = tmp_path / "aws.ini"
    config.write_text("[default]\nmax_attempts = 1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    _forget()
    with pytest.raises(RowRejected, match=r"s3://plates/x\.tif"):
        read_image("s3://plates/x.tif")


def test_nothing_of_this_goes_to_the_internet(environment: None, endpoint: str) -> None:
    filesystem, _ = fsspec.core.url_to_fs("s3://plates/x")
    filesystem.connect()
    assert endpoint in json.dumps(filesystem.s3.meta.endpoint_url)
