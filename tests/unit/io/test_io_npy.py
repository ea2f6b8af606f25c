from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.images import open_image, read_image


def _encode(array: NDArray, *, version: tuple[int, int] | None = None) -> bytes:
    sink = io.BytesIO()
    np.lib.format.write_array(sink, array, version=version)
    return sink.getvalue()


def _with_header(text: str, data: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    body = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(body))
    return b"\x93NUMPY" + bytes(version) + size + body + data


def _described(shape: str, dtype: str = "<u2") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f4", ">f4"])
@pytest.mark.parametrize("count", [0, 1, 3, 60])
def test_planes_and_channels(
    put: Callable[..., str], planes: Callable[..., NDArray], dtype: str, count: int
) -> None:
    truth = planes(max(1, count), dtype)
    image = read_image(put("x.npy", _encode(truth if count else truth[0])))
    assert image.planes.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(image.planes, truth)
    assert image.channels == tuple(f"c{i}" for i in range(len(truth)))


@pytest.mark.parametrize("count", [0, 3])
def test_fortran_order(put: Callable[..., str], planes: Callable[..., NDArray], count: int) -> None:
    truth = planes(max(1, count))
    stored = np.asfortranarray(truth if count else truth[0])
    image = read_image(put("x.npy", _encode(stored)))
    np.testing.assert_array_equal(image.planes, truth)
    assert image.planes.flags.c_contiguous


def test_a_stack_in_fortran_order_is_refused(
    put: Callable[..., str], planes: Callable[..., NDArray], read_index: Callable[..., Any]
) -> None:
    path = put("x.npy", _encode(np.asfortranarray(planes(4))))
    with pytest.raises(RowRejected, match="Fortran") as error:
        read_index(path, 1)
    assert path in error.value.message


@pytest.mark.parametrize("shape", [(4, 96, 128), (4, 3, 96, 128), (1, 3, 96, 128), (1, 96, 128)], ids=str)
def test_stacks(put: Callable[..., str], read_index: Callable[..., Any], shape: tuple[int, ...]) -> None:
    truth = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    path = put("x.npy", _encode(truth))
    for index in reversed(range(shape[0])):
        wanted = truth[index] if truth.ndim == 4 else truth[index : index + 1]
        np.testing.assert_array_equal(read_index(path, index).planes, wanted)
    for index in (-1, shape[0]):
        with pytest.raises(RowRejected, match=f"index {index}"):
            read_index(path, index)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 96, 128), (1, 2, 3, 4, 5), ()], ids=str)
def test_shapes_that_are_no_image(put: Callable[..., str], shape: tuple[int, ...]) -> None:
    path = put("x.npy", _encode(np.zeros(shape)))
    with pytest.raises(RowRejected, match="is not") as error:
        read_image(path)
    assert error.value.code == RejectCode.SHAPE_MISMATCH
    assert path in error.value.message


def test_one_plane_is_no_stack(
    put: Callable[..., str], planes: Callable[..., NDArray], read_index: Callable[..., Any]
) -> None:
    with pytest.raises(RowRejected, match=r"\(N, H, W\)"):
        read_index(put("x.npy", _encode(planes(1)[0])), 0)


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i8", "u4", "u8", "f2", "f8", "g"])
def test_other_dtypes(put: Callable[..., str], dtype: str) -> None:
    truth = (np.arange(96 * 128).reshape(96, 128) % 100).astype(dtype)
    image = read_image(put("x.npy", _encode(truth)))
    kind = truth.dtype.kind
    wanted = {"b": "u1", "i": "i4", "u": "i4", "f": "f4"}[kind]
    assert image.planes.dtype == np.dtype(wanted)
    np.testing.assert_array_equal(image.planes[0], truth.astype(wanted))
    assert image.flags == ((Flag.FLOAT64_NARROWED,) if dtype in ("f8", "g") else ())


@pytest.mark.parametrize(
    "array", [np.full((9, 9), 2**40), np.full((9, 9), -(2**31) - 1)], ids=["big", "small"]
)
def test_integers_beyond_32_bits(put: Callable[..., str], array: NDArray) -> None:
    with pytest.raises(RowRejected, match="32 bits"):
        read_image(put("x.npy", _encode(array)))


@pytest.mark.parametrize("dtype", ["c8", "U3", "S2", "M8[s]", [("a", "u1")]], ids=str)
def test_pixels_that_are_no_numbers(put: Callable[..., str], dtype: Any) -> None:
    path = put("x.npy", _encode(np.zeros((9, 9), dtype)))
    with pytest.raises(RowRejected, match="not numbers") as error:
        read_image(path)
    assert path in error.value.message


def test_python_objects_are_never_loaded(put: Callable[..., str]) -> None:
    sink = io.BytesIO()
    np.save(sink, np.array([[None, {}], [1, 2]], object), allow_pickle=True)
    with pytest.raises(RowRejected, match="Python objects"):
        read_image(put("x.npy", sink.getvalue()))


def test_values_beyond_float32_become_infinite_not_a_warning(
    put: Callable[..., str], read_quietly: Callable[..., Any]
) -> None:
    image = read_quietly(put("x.npy", _encode(np.array([[1e300, -1e300], [np.nan, 1e-300]]))))
    np.testing.assert_array_equal(image.planes[0], np.array([[np.inf, -np.inf], [np.nan, 0]], "f4"))


def test_signalling_nan_leaks_no_warning(put: Callable[..., str], read_quietly: Callable[..., Any]) -> None:
    array = np.full((4, 4), 0x7FF0000000000001, "u8").view("f8")
    assert np.isnan(read_quietly(put("x.npy", _encode(array))).planes).all()


@pytest.mark.parametrize(
    "version",
    [
        (1, 0),
        (2, 0),
        pytest.param((3, 0)),
    ],
)
def test_every_version_of_the_header(
    put: Callable[..., str], planes: Callable[..., NDArray], version: tuple[int, int]
) -> None:
    truth = planes(2)
    path = put("x.npy", _with_header(_described("(2, 96, 128)"), truth.tobytes(), version=version))
    np.testing.assert_array_equal(read_image(path).planes, truth)


def test_a_header_of_python_2_leaks_no_warning(
    put: Callable[..., str], planes: Callable[..., NDArray], read_quietly: Callable[..., Any]
) -> None:
    truth = planes(1)
    data = _with_header(_described("(1L, 96L, 128L)"), truth.tobytes())
    np.testing.assert_array_equal(read_quietly(put("x.npy", data)).planes, truth)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "[]",
        "{'descr': '<u2'}",
        "__import__('os').system('true')",
        _described("(2, 96, 128)").replace("'shape'", "'form'"),
        _described("(-2, 96, 128)"),
        _described("(0, 96, 128)"),
        _described("(2, 96.5, 128)"),
        _described("('a', 96, 128)"),
        _described("(True, True)"),
        _described("(2, 96, 128)", "<x9"),
        _described("(2, 96, 128)", r"\d"),
        "(" * 3000,
    ],
    ids=range(14),
)
def test_damaged_headers(put: Callable[..., str], header: str) -> None:
    path = put("x.npy", _with_header(header, bytes(2 * 96 * 128 * 2)))
    with pytest.raises(RowRejected) as error:
        read_image(path)
    assert error.value.code in (RejectCode.DECODE_ERROR, RejectCode.SHAPE_MISMATCH)
    assert path in error.value.message


@pytest.mark.parametrize("shape", ["(20000, 20000)", "(2, 20000, 20000)", "(10**30,)", f"({10**30}, 9)"])
def test_headers_that_promise_too_much(put: Callable[..., str], shape: str) -> None:
    path = put("x.npy", _with_header(_described(shape), bytes(100)))
    with pytest.raises(RowRejected) as error:
        read_image(path)
    assert path in error.value.message


def test_a_stack_longer_than_its_file_is_refused_at_once(put: Callable[..., str]) -> None:
    path = put("x.npy", _with_header(_described(f"({10**12}, 9, 9)"), bytes(1000)))
    with pytest.raises(RowRejected, match="truncated"):
        open_image(path, stack=True)


def test_a_stack_of_empty_items_does_not_count_as_images(put: Callable[..., str]) -> None:
    # zero bytes a pixel: any number of images fits into the file, and listing them would never end
    path = put("x.npy", _with_header(_described(f"({10**12}, 9, 9)", "|V0")))
    with pytest.raises(RowRejected):
        open_image(path, stack=True).close()


def test_more_than_sixty_channels_say_how_to_read_a_stack(put: Callable[..., str]) -> None:
    with pytest.raises(RowRejected, match=r"input\.stack") as error:
        read_image(put("x.npy", _encode(np.zeros((61, 9, 9), "u1"))))
    assert error.value.code == RejectCode.CHANNEL_MISMATCH
