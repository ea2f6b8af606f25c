from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage

from microsnoop.core.errors import ConfigError, RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.formats import default_names, unique_names
from microsnoop.io.images import ImageReader, ImageSource, read_image, select_channels

NAMES = ("DAPI", "ER", "RNA", "AGP", "Mito")


@pytest.fixture
def named(tmp_path: Path, planes: Callable[..., NDArray]) -> tuple[str, NDArray]:
    truth = planes(5)
    tifffile.imwrite(tmp_path / "x.tif", truth, photometric="minisblack", metadata={"channels": list(NAMES)})
    return str(tmp_path / "x.tif"), truth


@pytest.mark.parametrize(
    ("choice", "positions", "names"),
    [
        (None, [0, 1, 2, 3, 4], NAMES),
        (["AGP", "DAPI"], [3, 0], ("AGP", "DAPI")),
        ([4, 0], [4, 0], ("Mito", "DAPI")),
        (["ER", 3], [1, 3], ("ER", "AGP")),
        ({"nucleus": "DAPI", "golgi": 3}, [0, 3], ("nucleus", "golgi")),
        ({"a": "ER", "b": "ER"}, [1, 1], ("a", "b")),
        ({"ER": "DAPI", "DAPI": "ER"}, [0, 1], ("ER", "DAPI")),
    ],
)
def test_choosing_and_renaming(
    named: tuple[str, NDArray], choice: Any, positions: list[int], names: tuple[str, ...]
) -> None:
    path, truth = named
    image = read_image(path, channels=choice)
    np.testing.assert_array_equal(image.planes, truth[positions])
    assert image.channels == names


@pytest.mark.parametrize("choice", [["GFP"], [5], [-1], {"a": "GFP"}, {"a": 99}, ["DAPI", "dapi"]])
def test_a_channel_that_is_not_there(named: tuple[str, NDArray], choice: Any) -> None:
    path, _ = named
    with pytest.raises(RowRejected, match="it has DAPI, ER, RNA, AGP, Mito") as error:
        read_image(path, channels=choice)
    assert error.value.code == RejectCode.CHANNEL_MISMATCH
    assert path in error.value.message


def test_a_channel_asked_for_twice_is_not_dropped_silently() -> None:
    with pytest.raises(ConfigError, match="names a channel twice"):
        select_channels(NAMES, ["DAPI", "DAPI"], where="x")


def test_names_for_channels_without_names() -> None:
    assert default_names(3) == ("c0", "c1", "c2")
    assert unique_names(["DAPI", " ", "DAPI", "", "DAPI "]) == ("DAPI", "c1", "DAPI_2", "c3", "DAPI_3")


def test_numbered_names_stay_unique() -> None:
    names = unique_names(["A", "A", "A_2"])
    assert len(set(names)) == 3


# one file per channel


@pytest.fixture
def separate(tmp_path: Path, planes: Callable[..., NDArray]) -> tuple[ImageSource, NDArray]:
    truth = planes(5)
    uris = []
    for name, plane in zip(NAMES, truth, strict=True):
        uris.append(str(tmp_path / f"{name}.tif"))
        tifffile.imwrite(uris[-1], plane)
    return ImageSource(tuple(uris), NAMES), truth


@pytest.mark.parametrize("choice", [None, ["AGP", "DAPI"], {"a": 4, "b": "RNA"}])
def test_one_file_per_channel(separate: tuple[ImageSource, NDArray], choice: Any) -> None:
    source, truth = separate
    image = read_image(source, channels=choice)
    positions, names = select_channels(NAMES, choice, where="")
    np.testing.assert_array_equal(image.planes, truth[positions])
    assert image.channels == tuple(names)


def test_files_of_different_kinds_make_one_image(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    truth = planes(3, "u1")
    tifffile.imwrite(tmp_path / "a.tif", truth[0])
    PillowImage.fromarray(truth[1]).save(tmp_path / "b.png")
    np.save(tmp_path / "c.npy", truth[2])
    source = ImageSource(tuple(str(tmp_path / name) for name in ("a.tif", "b.png", "c.npy")), ("a", "b", "c"))
    np.testing.assert_array_equal(read_image(source).planes, truth)


def test_channels_of_different_depth_lose_nothing(tmp_path: Path) -> None:
    low, high = np.full((96, 128), 200, "u1"), np.full((96, 128), 60000, "u2")
    np.save(tmp_path / "a.npy", low)
    np.save(tmp_path / "b.npy", high)
    image = read_image(ImageSource((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), ("a", "b")))
    np.testing.assert_array_equal(image.planes, np.stack([low.astype("u2"), high]))


@pytest.mark.parametrize(
    "dtypes",
    [
        pytest.param(("i4", "f4")),
        ("u2", "f4"),
        ("u2", "i4"),
        ("u1", "i4"),
        ("f4", "f8"),
    ],
)
def test_stacking_channels_gives_one_of_the_four_dtypes(tmp_path: Path, dtypes: tuple[str, str]) -> None:
    for name, dtype in zip("ab", dtypes, strict=True):
        np.save(tmp_path / f"{name}.npy", np.full((96, 128), 100, dtype))
    image = read_image(ImageSource((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), ("a", "b")))
    assert str(image.planes.dtype) in ("uint8", "uint16", "int32", "float32")
    assert (image.planes == 100).all()


def test_channels_of_different_size(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    truth = planes(2)
    np.save(tmp_path / "a.npy", truth[0])
    np.save(tmp_path / "b.npy", truth[1, :90])
    source = ImageSource((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), ("a", "b"))
    with pytest.raises(RowRejected, match="a 96×128, b 90×128") as error:
        read_image(source)
    assert error.value.code == RejectCode.SHAPE_MISMATCH
    assert source.name in error.value.message


def test_a_channel_file_with_several_channels(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    np.save(tmp_path / "a.npy", planes(1)[0])
    np.save(tmp_path / "b.npy", planes(2))
    source = ImageSource((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), ("a", "b"))
    with pytest.raises(RowRejected, match="'b' holds 2 channels") as error:
        read_image(source)
    assert error.value.code == RejectCode.CHANNEL_MISMATCH


def test_a_channel_without_a_file(separate: tuple[ImageSource, NDArray]) -> None:
    source, _ = separate
    source = ImageSource((source.uris[0], None, *source.uris[2:]), NAMES)
    with pytest.raises(RowRejected, match="no file for the channel 'ER'") as error:
        read_image(source)
    assert error.value.code == RejectCode.CHANNEL_MISMATCH
    assert source.name in error.value.message


def test_the_first_channel_without_a_file_still_names_the_image(
    separate: tuple[ImageSource, NDArray],
) -> None:
    source, _ = separate
    source = ImageSource((None, *source.uris[1:]), NAMES)
    with pytest.raises(RowRejected, match="no file for the channel 'DAPI'") as error:
        read_image(source)
    assert str(source.uris[1]) in error.value.message
    assert "None" not in error.value.message


def test_a_missing_channel_that_nobody_asked_for_is_no_problem(separate: tuple[ImageSource, NDArray]) -> None:
    source, truth = separate
    source = ImageSource((source.uris[0], None, *source.uris[2:]), NAMES)
    np.testing.assert_array_equal(read_image(source, channels=["DAPI"]).planes, truth[:1])


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_message_names_the_file_that_is_broken(
    tmp_path: Path, planes: Callable[..., NDArray], which: int
) -> None:
    uris = tuple(str(tmp_path / f"{i}.png") for i in range(3))
    for uri, plane in zip(uris, planes(3, "u1"), strict=True):
        PillowImage.fromarray(plane).save(uri)
    data = Path(uris[which]).read_bytes()
    Path(uris[which]).write_bytes(data[: len(data) // 2])
    with pytest.raises(RowRejected) as error:
        read_image(ImageSource(uris, ("a", "b", "c")))
    assert uris[which] in error.value.message


def test_flags_of_all_files_are_kept_once(tmp_path: Path, planes: Callable[..., NDArray]) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", planes(1, "f8"))
    image = read_image(ImageSource((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), ("a", "b")))
    assert image.flags == (Flag.FLOAT64_NARROWED,)


def test_sixty_files_are_open_at_once_and_closed_after(
    tmp_path: Path, counted: list[Any], planes: Callable[..., NDArray]
) -> None:
    truth = planes(60, "u1")
    uris = tuple(str(tmp_path / f"{i}.npy") for i in range(60))
    for uri, plane in zip(uris, truth, strict=True):
        np.save(uri, plane)
    np.testing.assert_array_equal(
        read_image(ImageSource(uris, tuple(f"n{i}" for i in range(60)))).planes, truth
    )
    assert len(counted) == 60
    assert all(stream.closed for stream in counted)


def test_the_description_of_separate_files(
    separate: tuple[ImageSource, NDArray], reader: ImageReader
) -> None:
    info = reader.info(separate[0])
    assert (info.n_images, info.channels, info.height_px, info.width_px) == (1, NAMES, 96, 128)
