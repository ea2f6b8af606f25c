# ruff: noqa: PT017  (pixels or a reject: either is right, and both are looked at)
from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.errors import InputError, MicrosnoopError, RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.images import ImageReader, ImageSource, open_image, read_image
from microsnoop.io.opener import list_files


def _rejects(source: Any, code: RejectCode = RejectCode.DECODE_ERROR, **options: Any) -> str:
    with pytest.raises(RowRejected) as error:
        read_image(source, **options)
    assert error.value.code == code
    name = source if isinstance(source, str) else source.name
    assert name in error.value.message
    return error.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    assert "does not exist" in _rejects(str(tmp_path / "gone.tif"))


def test_a_missing_folder(tmp_path: Path) -> None:
    _rejects(str(tmp_path / "no" / "such" / "x.tif"))


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.jpg", "x.bmp", "x.npy"])
def test_zero_bytes(put: Callable[..., str], name: str) -> None:
    assert "0 bytes" in _rejects(put(name, b""))


@pytest.mark.parametrize("length", [1, 2, 4, 7, 8, 9, 16])
@pytest.mark.parametrize(
    "magic",
    [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"BM",
        b"II*\0",
        b"MM\0*",
        b"II+\0",
        b"MM\0+",
        b"\x93NUMPY\x01\0",
    ],
    ids=["png", "jpeg", "bmp", "tiff", "tiff-be", "bigtiff", "bigtiff-be", "npy"],
)
@pytest.mark.parametrize("fill", [b"\0", b"\xff", b"a"], ids=["0", "255", "a"])
def test_nothing_but_a_signature(put: Callable[..., str], magic: bytes, length: int, fill: bytes) -> None:
    _rejects(put("x", (magic + fill * 64)[: max(length, 1)]))
    _rejects(put("x", magic + fill * length))


@pytest.mark.parametrize(
    "text", ["hello\n", "BMs are great\n" * 9, "II*\tno\n", "<html></html>", "II*\0text" * 20]
)
def test_text_renamed(put: Callable[..., str], text: str) -> None:
    _rejects(put("x.tif", text.encode()))


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a" + bytes(99),
        b"%PDF-1.7" + bytes(99),
        b"PK\x03\x04" + bytes(99),
        b"\x89HDF\r\n\x1a\n",
        b"RIFF" * 9,
    ],
    ids=["gif", "pdf", "zip", "hdf5", "webp"],
)
def test_formats_that_are_not_read(put: Callable[..., str], data: bytes) -> None:
    assert "known format" in _rejects(put("x.tif", data))


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    _rejects(str(tmp_path))


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to(tmp_path / "gone.png")
    _rejects(str(tmp_path / "x.png"))
    assert list(list_files(str(tmp_path))) == [str(tmp_path / "x.png")]


def test_a_link_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "x.png").symlink_to(tmp_path / "x.png")
    _rejects(str(tmp_path / "x.png"))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/tmp/" + "a" * 5000 + ".tif", id="too long"),
        pytest.param(
            "/tmp/a\0b.tif",
            id="null byte",
        ),
    ],
)
def test_paths_that_no_file_can_have(path: str) -> None:
    _rejects(path)


def test_a_name_with_a_tilde_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planes: Callable[..., NDArray]
) -> None:
    np.save(tmp_path / "~scan.npy", planes(1))
    monkeypatch.chdir(tmp_path)
    assert read_image("~scan.npy").planes.shape == (1, 96, 128)


def test_a_scheme_that_nobody_knows_rejects_the_row_not_the_run() -> None:
    _rejects("nosuchscheme://bucket/x.tif")


def test_an_image_without_a_file() -> None:
    for uris in ((), (None,)):
        with pytest.raises(RowRejected):
            read_image(ImageSource(uris))


def test_no_permission_to_read(
    public_folder: Path, as_nobody: Callable[[], Any], planes: Callable[..., NDArray]
) -> None:
    path = public_folder / "secret.npy"
    np.save(path, planes(1))
    path.chmod(0)
    with as_nobody():
        assert "no permission" in _rejects(str(path))


def test_no_permission_to_enter_the_folder(
    public_folder: Path, as_nobody: Callable[[], Any], planes: Callable[..., NDArray]
) -> None:
    (public_folder / "closed").mkdir()
    np.save(public_folder / "closed" / "x.npy", planes(1))
    (public_folder / "closed").chmod(0)
    with as_nobody():
        assert "no permission" in _rejects(str(public_folder / "closed" / "x.npy"))


def test_a_folder_that_cannot_be_listed(public_folder: Path, as_nobody: Callable[[], Any]) -> None:
    closed = public_folder / "open" / "closed"
    closed.mkdir(parents=True)
    closed.chmod(0)
    with as_nobody(), pytest.raises(InputError, match="closed"):
        list(list_files(str(public_folder)))
    with as_nobody(), pytest.raises(InputError, match="closed"):
        list(list_files(str(closed)))


def test_a_folder_inside_one_that_may_not_be_entered(
    public_folder: Path, as_nobody: Callable[[], Any]
) -> None:
    (public_folder / "closed" / "inner").mkdir(parents=True)
    (public_folder / "closed").chmod(0)
    with as_nobody(), pytest.raises(InputError, match="inner"):
        list(list_files(str(public_folder / "closed" / "inner")))


NAMES = [
    "with space.npy",
    "naïve-µm-β.npy",
    "图像.npy",
    "😀.npy",
    "a#b?c&d.npy",
    "100%25.npy",
    "[x]{y}.npy",
    "'\".npy",
]


@pytest.mark.parametrize("name", NAMES)
def test_unicode_and_spaces_in_paths(
    tmp_path: Path,
    planes: Callable[..., NDArray],
    records_of: Callable[..., list[dict[str, Any]]],
    name: str,
) -> None:
    folder = tmp_path / f"plate {name}"
    folder.mkdir()
    truth = planes(2)
    np.save(folder / name, truth)
    (record,) = records_of(folder=str(folder))
    assert record["image_id"] == name
    assert record["fingerprints"][0] is not None
    np.testing.assert_array_equal(read_image(record["uris"][0]).planes, truth)
    np.testing.assert_array_equal(read_image((folder / name).as_uri()).planes, truth)


def test_a_name_that_is_not_unicode_is_an_error_that_names_it_or_a_record(
    tmp_path: Path, records_of: Callable[..., list[dict[str, Any]]]
) -> None:
    try:
        (tmp_path / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("NOT TESTED: this file system wants Unicode")
    try:
        assert len(records_of(folder=str(tmp_path))) == 1
    except InputError as error:
        assert "xff" in error.message or "\udcff" in error.message


# pixels


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("kind", ["tif", "npy"])
def test_not_a_number_and_infinity_arrive_as_they_are(
    tmp_path: Path, planes: Callable[..., NDArray], kind: str, dtype: str
) -> None:
    truth = planes(3, dtype)
    truth[0, 5, 7], truth[1, 0, 0], truth[2, 95, 127] = np.nan, np.inf, -np.inf
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, truth)
    else:
        tifffile.imwrite(path, truth, photometric="minisblack")
    image = read_image(str(path))
    np.testing.assert_array_equal(image.planes, truth.astype("f4"))
    assert not np.isfinite(image.planes).all(axis=(1, 2)).any()


def test_constant_planes_arrive_as_they_are(tmp_path: Path) -> None:
    for value in (0, 7, 65535):
        tifffile.imwrite(tmp_path / "x.tif", np.full((96, 128), value, "u2"))
        assert (read_image(str(tmp_path / "x.tif")).planes == value).all()


def test_double_precision_with_negative_values(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).normal(0, 1e6, (3, 96, 128))
    tifffile.imwrite(tmp_path / "x.tif", truth, photometric="minisblack")
    image = read_image(str(tmp_path / "x.tif"))
    np.testing.assert_array_equal(image.planes, truth.astype("f4"))
    assert image.planes.min() < 0
    assert image.flags == (Flag.FLOAT64_NARROWED,)


# headers that promise too much


def _tiff_header(width: int, height: int, *, extra: tuple[tuple[int, int], ...] = ()) -> bytes:
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 100),
    ]
    tags = sorted({**dict(tags), **dict(extra)}.items())
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 108) + bytes(100) + struct.pack("<H", len(tags)) + body + bytes(4)


@pytest.mark.parametrize("side", [20_000, 2**31, 2**32 - 1])
@pytest.mark.parametrize(
    ("compression", "reason"),
    [(1, "truncated"), (8, "megapixels")],  # pixels that lie as they are can be read by region
)
def test_a_tiff_that_promises_too_much(
    put: Callable[..., str], counted: list[Any], compression: int, reason: str, side: int
) -> None:
    assert reason in _rejects(put("x.tif", _tiff_header(side, side, extra=((259, compression),))))
    assert counted[0].n_bytes < 4096
    assert counted[0].closed


@pytest.mark.parametrize(("width", "height"), [(0, 96), (128, 0), (0, 0)])
def test_a_tiff_without_pixels(put: Callable[..., str], width: int, height: int) -> None:
    with pytest.raises(RowRejected):
        read_image(put("x.tif", _tiff_header(width, height)))


@pytest.mark.parametrize(
    "extra",
    [
        ((277, 65535),),
        ((258, 64),),
        ((258, 0),),
        ((259, 9999),),
        ((278, 0),),
        ((322, 2**31), (323, 2**31), (324, 8), (325, 100)),
        ((322, 0), (323, 0), (324, 8), (325, 100)),
        ((273, 2**32 - 1),),
        ((279, 2**32 - 1),),
        ((262, 65000),),
        ((284, 7),),
        ((339, 99),),
        ((330, 8),),
    ],
    ids=str,
)
def test_a_tiff_with_a_nonsense_tag(put: Callable[..., str], extra: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(RowRejected):
        read_image(put("x.tif", _tiff_header(128, 96, extra=extra)))


def test_a_directory_that_points_to_itself_ends(put: Callable[..., str]) -> None:
    data = bytearray(_tiff_header(10, 10))
    data[-4:] = struct.pack("<I", 108)
    path = put("x.tif", bytes(data))
    try:
        assert read_image(path).planes.shape == (1, 10, 10)
    except RowRejected as error:
        assert path in error.message


def test_a_small_strip_that_unpacks_to_a_gigabyte_is_refused(put: Callable[..., str]) -> None:
    packer = zlib.compressobj(1)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    bomb += b"\0" * (len(bomb) % 2)
    tags = [
        (256, 128),
        (257, 96),
        (258, 8),
        (259, 8),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 96),
        (279, len(bomb)),
    ]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(bomb))
    _rejects(put("x.tif", head + bomb + struct.pack("<H", len(tags)) + body + bytes(4)))


# channels


def test_channels_differ_between_images_of_a_run(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    np.save(tmp_path / "two.npy", planes(2))
    np.save(tmp_path / "three.npy", planes(3))
    with ImageReader() as reader:
        read = lambda name: reader.read(ImageSource((str(tmp_path / name),)), channels=["c2"])  # noqa: E731
        assert read("three.npy").channels == ("c2",)
        with pytest.raises(RowRejected, match="no channel 'c2'; it has c0, c1") as error:
            read("two.npy")
    assert error.value.code == RejectCode.CHANNEL_MISMATCH
    assert "two.npy" in error.value.message


def test_every_reject_survives_a_process_border(tmp_path: Path) -> None:
    with pytest.raises(RowRejected) as error:
        open_image(str(tmp_path / "gone.tif"), stack=False)
    rebuild, arguments = error.value.__reduce__()
    copy = rebuild(*arguments)
    assert isinstance(copy, MicrosnoopError)
    assert (copy.code, copy.message) == (error.value.code, error.value.message)


def test_a_picture_whose_pixels_stop_early_inside_an_intact_frame(put: Callable[..., str]) -> None:
    sink = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128)).astype("u1")).save(sink, "PNG")
    data = sink.getvalue()
    start = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[start - 4 : start])
    body = b"IDAT" + data[start + 4 : start + 4 + size // 2]
    short = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    _rejects(put("x.png", data[: start - 4] + short + data[start + 8 + size :]))
