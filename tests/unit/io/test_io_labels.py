from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import RejectCode
from microsnoop.io.images import ImageReader
from microsnoop.io.labels import labels_info, read_labels
from microsnoop.ops.geometry import Box

H, W = 96, 128
BOX = Box(10, 20, 40, 70)


@pytest.fixture
def labels(rng: np.random.Generator) -> NDArray:
    """Labels 0 to 200 in blocks, (96, 128), int64."""
    return np.kron(rng.integers(0, 201, (12, 16)), np.ones((8, 8), int))


def _tiff(dtype: str, **options: Any) -> Callable[[Path, NDArray], object]:
    return lambda path, array: tifffile.imwrite(path, array.astype(dtype), **options)


def _npy(path: Path, array: NDArray) -> None:
    with path.open("wb") as sink:
        np.lib.format.write_array(sink, array)


def _png(path: Path, array: NDArray) -> None:
    PillowImage.fromarray(array).save(path, "PNG")


KINDS: dict[str, tuple[str, Callable[[Path, NDArray], object]]] = {
    "tiff-8": ("uint8", _tiff("u1")),
    "tiff-16": ("uint16", _tiff("u2", compression="zlib", rowsperstrip=H)),
    "tiff-16-tiles": ("uint16", _tiff("u2", compression="zlib", tile=(32, 32))),
    "tiff-32": ("int32", _tiff("u4")),
    "tiff-32-signed": ("int32", _tiff("i4", compression="lzw", rowsperstrip=8)),
    "tiff-float": ("int32", _tiff("f4")),
    "tiff-double": ("int32", _tiff("f8")),
    "tiff-imagej-float": ("int32", _tiff("f4", imagej=True)),
    "tiff-one-page": ("uint16", lambda path, array: _tiff("u2", metadata={"axes": "ZYX"})(path, array[None])),
    "tiff-colour": (
        "uint8",
        lambda path, array: _tiff("u1", photometric="rgb")(path, np.stack([array] * 3, -1)),
    ),
    "png-8": ("uint8", lambda path, array: _png(path, array.astype("u1"))),
    "png-16": ("uint16", lambda path, array: _png(path, array.astype("u2"))),
    "png-colour": ("uint8", lambda path, array: _png(path, np.stack([array.astype("u1")] * 3, -1))),
    "npy": ("int32", _npy),
    "npy-16": ("uint16", lambda path, array: _npy(path, array.astype("u2"))),
    "npy-one-plane": ("int32", lambda path, array: _npy(path, array[None])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_label_image(tmp_path: Path, labels: NDArray, kind: str) -> None:
    dtype, write = KINDS[kind]
    write(tmp_path / "x", labels)
    path = str(tmp_path / "x")
    found = read_labels(path)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(read_labels(path, box=BOX), labels[10:50, 20:90])
    info = labels_info(path)
    assert (info.height_px, info.width_px, info.n_images) == (H, W, 1)
    assert info.by_region == (kind not in ("tiff-16", "png-8", "png-16", "png-colour"))


def test_large_labels(tmp_path: Path, labels: NDArray) -> None:
    for dtype, top in (("u2", 65535), ("u4", 2**31 - 1), ("f4", 2**24 - 1), ("f8", 2**24 - 1)):
        labels[5, 6] = top
        tifffile.imwrite(tmp_path / "x.tif", labels.astype(dtype))
        np.testing.assert_array_equal(read_labels(str(tmp_path / "x.tif")), labels)


def test_a_mask_without_any_object(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((H, W), "f4"))
    assert not read_labels(str(tmp_path / "x.tif")).any()


def _refused(path: Path, match: str, *, code: RejectCode = RejectCode.SHAPE_MISMATCH, **options: Any) -> None:
    with pytest.raises(RowRejected, match=match) as error:
        read_labels(str(path), **options)
    assert error.value.code == code
    assert str(path) in error.value.message


def test_colours_are_no_labels(tmp_path: Path, labels: NDArray) -> None:
    colours = np.stack([labels, labels, labels + 1], -1).astype("u1")
    _png(tmp_path / "x.png", colours)
    _refused(tmp_path / "x.png", "holds colours, not labels; save the label numbers as a TIFF or PNG")
    _refused(tmp_path / "x.png", "colours", box=BOX)
    tifffile.imwrite(tmp_path / "x.tif", colours, photometric="rgb")
    _refused(tmp_path / "x.tif", "colours")


def test_several_planes_are_no_label_image(tmp_path: Path, labels: NDArray) -> None:
    np.save(tmp_path / "x.npy", np.stack([labels, labels]))
    _refused(tmp_path / "x.npy", "has one plane, this one has 2")
    tifffile.imwrite(tmp_path / "x.tif", np.stack([labels] * 3).astype("u2"), photometric="minisblack")
    _refused(tmp_path / "x.tif", "has one plane, this one has 3")
    with pytest.raises(RowRejected, match="this one has 3"):
        labels_info(str(tmp_path / "x.tif"))
    stack = np.stack([labels] * 3).astype("u2")
    tifffile.imwrite(tmp_path / "t.tif", stack, photometric="minisblack", metadata={"axes": "TYX"})
    _refused(tmp_path / "t.tif", "more than one image plane")


@pytest.mark.parametrize(("dtype", "value"), [("i4", -1), ("f4", -1), ("i4", -(2**31))])
def test_negative_labels(tmp_path: Path, labels: NDArray, dtype: str, value: int) -> None:
    labels[20, 30] = value
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, labels.astype(dtype))
    _refused(path, f"cannot be negative, but {value}")
    _refused(path, "cannot be negative", box=BOX)
    np.testing.assert_array_equal(read_labels(str(path), box=Box(50, 0, 46, W)), labels[50:])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_fractions_are_no_labels(tmp_path: Path, labels: NDArray, dtype: str, value: float) -> None:
    array = labels.astype(dtype)
    array[20, 30] = value
    _npy(tmp_path / "x.npy", array)
    _refused(tmp_path / "x.npy", "whole numbers")


@pytest.mark.parametrize(
    ("dtype", "value"), [("f4", 2**24), ("f8", 2**24 + 1), ("f4", 2.0**40), ("f8", -1e200)]
)
def test_floats_that_were_rounded_are_no_labels(
    tmp_path: Path, labels: NDArray, dtype: str, value: float
) -> None:
    array = labels.astype(dtype)
    array[20, 30] = value
    _npy(tmp_path / "x.npy", array)
    _refused(tmp_path / "x.npy", "not exact as floats|whole numbers")


def test_labels_beyond_31_bits(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.full((H, W), 2**31, "u4"))
    _refused(tmp_path / "x.tif", "do not fit 32 bits", code=RejectCode.DECODE_ERROR)


def test_a_lossy_picture_is_refused_before_it_is_decoded(tmp_path: Path, labels: NDArray) -> None:
    array = labels.astype("u1")
    PillowImage.fromarray(array).save(tmp_path / "x.jpg")
    tifffile.imwrite(tmp_path / "x.tif", array, compression="jpeg", tile=(32, 32))
    for name in ("x.jpg", "x.tif"):
        _refused(tmp_path / name, "JPEG changes numbers")
        with pytest.raises(RowRejected, match="JPEG"):
            labels_info(str(tmp_path / name))


def test_a_pickle_of_cellpose_is_never_loaded_and_the_way_out_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x_seg.npy"
    np.save(path, {"masks": np.zeros((9, 9), "u2"), "outlines": [1]}, allow_pickle=True)
    _refused(path, r"never loaded.*_cp_masks\.tif", code=RejectCode.DECODE_ERROR)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    _refused(tmp_path / "gone.tif", "does not exist", code=RejectCode.DECODE_ERROR)
    (tmp_path / "x.tif").write_bytes(b"II*\0")
    _refused(tmp_path / "x.tif", "cannot be decoded", code=RejectCode.DECODE_ERROR)
    with pytest.raises(RowRejected, match="does not exist"):
        labels_info(str(tmp_path / "gone.tif"))


def test_a_box_over_the_border_is_a_mistake_of_the_caller(tmp_path: Path, labels: NDArray) -> None:
    _npy(tmp_path / "x.npy", labels)
    with pytest.raises(ValueError, match="not inside"):
        read_labels(str(tmp_path / "x.npy"), box=Box(90, 0, 7, 1))


def test_the_limit(tmp_path: Path, labels: NDArray) -> None:
    for kind in ("tiff-16", "tiff-16-tiles"):
        KINDS[kind][1](tmp_path / "x", labels)
        _refused(tmp_path / "x", "megapixels", code=RejectCode.DECODE_ERROR, limit_px=H * W - 1)
    np.testing.assert_array_equal(
        read_labels(str(tmp_path / "x"), box=BOX, limit_px=40 * 70), labels[10:50, 20:90]
    )


def test_a_huge_mask_can_be_described(tmp_path: Path) -> None:
    rows = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype="u4", shape=(30_000, 30_000))
    rows[29_999, 29_990:] = 77
    rows.flush()
    info = labels_info(str(tmp_path / "x.npy"))
    assert (info.height_px, info.by_region) == (30_000, True)
    assert read_labels(str(tmp_path / "x.npy"), box=Box(29_998, 29_995, 2, 5)).tolist() == [[0] * 5, [77] * 5]


def test_a_reader_keeps_the_file_open(tmp_path: Path, labels: NDArray, counted: list[Any]) -> None:
    KINDS["tiff-16-tiles"][1](tmp_path / "x", labels)
    with ImageReader(limit_px=100) as reader:
        for y in range(0, H, 10):
            part = read_labels(str(tmp_path / "x"), box=Box(y, 60, 6, 10), reader=reader)
            np.testing.assert_array_equal(part, labels[y : y + 6, 60:70])
        with pytest.raises(RowRejected, match="megapixels"):
            read_labels(str(tmp_path / "x"), reader=reader)
    assert len(counted) == 1
    assert counted[0].closed
