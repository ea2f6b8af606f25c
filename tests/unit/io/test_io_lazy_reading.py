from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage

from microsnoop.core.errors import RowRejected
from microsnoop.io import manifest
from microsnoop.io.images import ImageReader, ImageSource, open_image, read_image

PAGE = 96 * 128 * 2
N = 24


@pytest.fixture
def stack(planes: Callable[..., NDArray]) -> NDArray:
    return planes(N)


def _refuse(*args: Any, **options: Any) -> Any:
    raise AssertionError("an image was opened")


def test_a_manifest_is_read_without_opening_any_image(
    tmp_path: Path, records_of: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "open_image", _refuse)
    monkeypatch.setattr("microsnoop.io.images.open_binary", _refuse)
    (tmp_path / "m.csv").write_text("uri,plate\nnot/there.tif,P1\nneither.png,P1\n")
    records = records_of(manifest=str(tmp_path / "m.csv"))
    assert [r["image_id"] for r in records] == ["not/there.tif", "neither.png"]
    assert [r["fingerprints"] for r in records] == [[None], [None]]


def test_a_folder_and_a_pattern_are_read_without_opening_any_image(
    tmp_path: Path, records_of: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a_w1.tif", "a_w2.tif"):
        (tmp_path / name).write_bytes(b"not an image")
    monkeypatch.setattr(manifest, "open_image", _refuse)
    monkeypatch.setattr("microsnoop.io.images.open_binary", _refuse)
    assert len(records_of(folder=str(tmp_path))) == 2
    assert len(records_of(pattern=f"{tmp_path}/{{well}}_w{{channel}}.tif")) == 1


def test_records_need_none_of_the_decoders(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("uri\na.tif\n")
    code = (
        "import sys\n"
        "from microsnoop.core.config import InputConfig\n"
        "from microsnoop.io.manifest import read_records\n"
        "read_records(InputConfig(manifest=sys.argv[1]))\n"
        "print([m for m in ('PIL', 'tifffile', 'imagecodecs', 'torch', 'ray', 's3fs') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.csv")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("extension", ["tif", "png", "npy"])
def test_opening_reads_only_the_header(tmp_path: Path, counted: list[Any], extension: str) -> None:
    array = np.random.default_rng(0).integers(0, 2**16, (1024, 1024)).astype("u2")
    path = tmp_path / f"x.{extension}"
    if extension == "tif":
        tifffile.imwrite(path, array)
    elif extension == "png":
        PillowImage.fromarray(array).save(path)
    else:
        np.save(path, array)
    file = open_image(str(path), stack=False)
    file.close()
    assert counted[0].n_bytes < 100_000 < path.stat().st_size
    assert counted[0].closed


STACKS: dict[str, dict[str, Any]] = {
    "plain": {"metadata": {"axes": "TYX"}},
    "no-metadata": {"metadata": None},
    "strips": {"rowsperstrip": 8},
    "deflate": {"compression": "zlib"},
    "zstd-tiles": {"compression": "zstd", "tile": (32, 32)},
    "bigtiff": {"bigtiff": True},
    "big-endian": {"byteorder": ">"},
    "imagej": {"imagej": True, "metadata": {"axes": "TYX"}},
    "imagej-deflate": {"imagej": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
    "ome": {"ome": True, "metadata": {"axes": "TYX"}},
    "ome-deflate": {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"},
}


def _only_one_image_is_read(path: Path, wanted: NDArray, index: int, counted: list[Any]) -> None:
    with ImageReader() as reader:
        reader.info(ImageSource((str(path),), index=0))
        opened = counted[0].n_bytes
        image = reader.read(ImageSource((str(path),), index=index))
        read = counted[0].n_bytes - opened
    np.testing.assert_array_equal(image.planes, wanted)
    assert opened < path.stat().st_size / 3
    assert read < wanted.nbytes * 1.2 + 20_000
    assert len(counted) == 1


@pytest.mark.parametrize("index", [0, 11, N - 1])
@pytest.mark.parametrize("kind", STACKS)
def test_one_index_of_a_tiff_stack_reads_only_its_page(
    tmp_path: Path, stack: NDArray, counted: list[Any], kind: str, index: int
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", **STACKS[kind])
    _only_one_image_is_read(path, stack[index : index + 1], index, counted)


@pytest.mark.parametrize("axes", ["TCYX", "ZCYX"])
@pytest.mark.parametrize("kind", ["plain", "imagej", "ome"])
def test_one_index_of_a_stack_with_channels_reads_only_its_pages(
    tmp_path: Path, stack: NDArray, counted: list[Any], kind: str, axes: str
) -> None:
    path, array = tmp_path / "x.tif", stack.reshape(8, 3, 96, 128)
    options = {"plain": {}, "imagej": {"imagej": True}, "ome": {"ome": True}}[kind]
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": axes}, **options)
    _only_one_image_is_read(path, array[5], 5, counted)


def test_a_stack_with_channels_first_reads_only_its_pages(
    tmp_path: Path, stack: NDArray, counted: list[Any]
) -> None:
    path, array = tmp_path / "x.ome.tif", stack.reshape(3, 8, 96, 128)
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": "CTYX"})
    _only_one_image_is_read(path, array[:, 5], 5, counted)


def test_a_contiguous_stack_with_a_single_directory_reads_only_its_image(
    tmp_path: Path, stack: NDArray, counted: list[Any]
) -> None:
    # what ImageJ writes beyond 4 GB: one page describes them all
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, stack, truncate=True, photometric="minisblack")
    _only_one_image_is_read(path, stack[7:8], 7, counted)


@pytest.mark.parametrize("shape", [(N, 96, 128), (8, 3, 96, 128)])
def test_one_index_of_an_array_reads_only_its_bytes(
    tmp_path: Path, stack: NDArray, counted: list[Any], shape: tuple[int, ...]
) -> None:
    path, array = tmp_path / "x.npy", stack.reshape(shape)
    np.save(path, array)
    wanted = array[5] if array.ndim == 4 else array[5:6]
    _only_one_image_is_read(path, wanted, 5, counted)


@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_damage_in_other_pages_does_not_touch_an_image(
    tmp_path: Path, stack: NDArray, read_index: Callable[..., Any], compression: str
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, stack[:6], photometric="minisblack", compression=compression)
    with tifffile.TiffFile(path) as tif:
        extents = [(page.dataoffsets[0], page.databytecounts[0]) for page in tif.pages]
    data = bytearray(path.read_bytes())
    for i, (start, size) in enumerate(extents):
        if i != 4:
            data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    np.testing.assert_array_equal(read_index(path, 4).planes, stack[4:5])
    for i in (0, 3, 5):
        with pytest.raises(RowRejected) as error:
            read_index(path, i)
        assert str(path) in error.value.message


def test_the_images_of_a_stack_share_one_open_file(
    tmp_path: Path, stack: NDArray, counted: list[Any]
) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    with ImageReader() as reader:
        for i in (3, 1, 2):
            np.testing.assert_array_equal(
                reader.read(ImageSource((str(path),), index=i)).planes, stack[i : i + 1]
            )
    assert len(counted) == 1
    assert counted[0].closed


def test_only_the_last_few_files_stay_open(tmp_path: Path, stack: NDArray, counted: list[Any]) -> None:
    paths = [tmp_path / f"{i}.npy" for i in range(6)]
    for i, path in enumerate(paths):
        np.save(path, stack[i])
    with ImageReader(max_open=2) as reader:
        for path in paths:
            reader.read(ImageSource((str(path),)))
        assert [stream.closed for stream in counted] == [True] * 4 + [False] * 2
    assert all(stream.closed for stream in counted)


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.npy", "x.bmp"])
def test_a_rejected_file_is_closed(tmp_path: Path, counted: list[Any], name: str) -> None:
    path = tmp_path / name
    array = np.zeros((96, 128), "u1")
    if name == "x.npy":
        np.save(path, array)
    elif name == "x.tif":
        tifffile.imwrite(path, array, compression="zlib")
    else:
        PillowImage.fromarray(array).save(path)
    data = path.read_bytes()
    for length in (12, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(RowRejected):
            read_image(str(path))
    assert [stream.closed for stream in counted] == [True, True]


def test_channels_that_are_not_asked_for_are_not_opened(
    tmp_path: Path, stack: NDArray, counted: list[Any]
) -> None:
    paths = tuple(str(tmp_path / f"{i}.npy") for i in range(5))
    for i, path in enumerate(paths):
        np.save(path, stack[i])
    image = read_image(ImageSource(paths, tuple("abcde")), channels=["d", "b"])
    np.testing.assert_array_equal(image.planes, stack[[3, 1]])
    assert len(counted) == 2


def test_counting_the_images_of_a_stack_reads_only_headers(
    tmp_path: Path, stack: NDArray, counted: list[Any], records_of: Callable[..., list[dict[str, Any]]]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.save(tmp_path / "b.npy", stack)
    records = records_of(folder=str(tmp_path), stack=True)
    assert len(records) == 2 * N
    assert records[N + 1]["image_id"] == "b.npy[1]"
    assert [r["index"] for r in records] == [*range(N), *range(N)]
    assert sum(stream.n_bytes for stream in counted) < stack.nbytes / 3
    assert all(stream.closed for stream in counted)
