from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.images import ImageSource, open_image, read_image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _colour(planes: NDArray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(planes, 0, -1)))


@pytest.fixture
def grey(planes: Callable[..., NDArray]) -> NDArray:
    return planes(1, "u1")


@pytest.fixture
def colour(planes: Callable[..., NDArray]) -> NDArray:
    return planes(3, "u1")


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_grey(put: Callable[..., str], grey: NDArray, kind: str) -> None:
    image = read_image(put("x", _encode(Image.fromarray(grey[0]), kind)))
    assert image.planes.dtype == np.uint8
    np.testing.assert_array_equal(image.planes, grey)
    assert (image.channels, image.flags, image.pixel_size_um) == (("c0",), (), None)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_colour(put: Callable[..., str], colour: NDArray, kind: str) -> None:
    image = read_image(put("x", _encode(_colour(colour), kind)))
    np.testing.assert_array_equal(image.planes, colour)
    assert (image.channels, image.flags) == (("red", "green", "blue"), ())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}], ids=str)
def test_jpeg_grey_and_colour(put: Callable[..., str], options: dict[str, Any]) -> None:
    ramp = np.add.outer(np.arange(96), np.arange(128)).astype("u1")
    image = read_image(put("x", _encode(Image.fromarray(ramp), "JPEG", **options)))
    assert image.channels == ("c0",)
    assert np.abs(image.planes[0].astype(int) - ramp).max() <= 6
    stack = np.stack([ramp, 255 - ramp, np.full_like(ramp, 90)])
    image = read_image(put("x", _encode(_colour(stack), "JPEG", **options)))
    assert image.channels == ("red", "green", "blue")
    assert np.abs(image.planes.astype(int) - stack).max() <= 16


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_one_bit(put: Callable[..., str], grey: NDArray, kind: str) -> None:
    truth = grey > 128
    image = read_image(put("x", _encode(Image.fromarray(truth[0]), kind)))
    assert image.planes.dtype == np.uint8
    np.testing.assert_array_equal(image.planes, truth)


def test_sixteen_bit_grey(put: Callable[..., str], planes: Callable[..., NDArray]) -> None:
    truth = planes(1)
    image = read_image(put("x.png", _encode(Image.fromarray(truth[0]), "PNG")))
    assert image.planes.dtype == np.uint16
    np.testing.assert_array_equal(image.planes, truth)


def test_sixteen_bit_colour_keeps_its_depth(put: Callable[..., str], planes: Callable[..., NDArray]) -> None:
    truth = planes(3)
    path = put("x.png", imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(truth, 0, -1))))
    image = read_image(path)
    assert image.planes.dtype == np.uint16
    np.testing.assert_array_equal(image.planes, truth)
    assert (image.channels, image.flags) == (("red", "green", "blue"), ())
    file = open_image(path, stack=False)
    file.close()
    assert file.info.dtype == "uint16"


@pytest.mark.parametrize("opaque", [True, False])
def test_sixteen_bit_colour_with_transparency(
    put: Callable[..., str], planes: Callable[..., NDArray], opaque: bool
) -> None:
    truth = planes(4)
    if opaque:
        truth[3] = 65535
    image = read_image(put("x.png", imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(truth, 0, -1)))))
    np.testing.assert_array_equal(image.planes, truth[:3])
    assert image.flags == (() if opaque else (Flag.ALPHA_DROPPED,))


def test_sixteen_bit_grey_with_transparency_keeps_its_depth(
    put: Callable[..., str], planes: Callable[..., NDArray]
) -> None:
    truth = planes(2)
    image = read_image(put("x.png", imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(truth, 0, -1)))))
    np.testing.assert_array_equal(image.planes, truth[:1])
    assert (image.channels, image.flags) == (("c0",), (Flag.ALPHA_DROPPED,))


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize(("count", "names"), [(2, ("c0",)), (4, ("red", "green", "blue"))])
def test_transparency_is_dropped_and_said_unless_it_says_nothing(
    put: Callable[..., str],
    planes: Callable[..., NDArray],
    opaque: bool,
    count: int,
    names: tuple[str, ...],
) -> None:
    truth = planes(count, "u1")
    if opaque:
        truth[-1] = 255
    image = read_image(put("x.png", _encode(_colour(truth), "PNG")))
    np.testing.assert_array_equal(image.planes, truth[:-1])
    assert image.channels == names
    assert image.flags == (() if opaque else (Flag.ALPHA_DROPPED,))


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("n_colours", [2, 4, 16, 200])
def test_a_palette_becomes_its_colours(
    put: Callable[..., str], colour: NDArray, kind: str, n_colours: int
) -> None:
    palette = _colour(colour).quantize(n_colours)
    image = read_image(put("x", _encode(palette, kind)))
    np.testing.assert_array_equal(image.planes, np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0))
    assert (image.channels, image.flags) == (("red", "green", "blue"), ())


@pytest.mark.parametrize("transparency", [3, bytes(range(64)), b"\xff" * 10 + b"\x00"], ids=str)
def test_a_palette_with_transparency(put: Callable[..., str], colour: NDArray, transparency: Any) -> None:
    palette = _colour(colour).quantize(64)
    image = read_image(put("x.png", _encode(palette, "PNG", transparency=transparency)))
    np.testing.assert_array_equal(image.planes, np.moveaxis(np.asarray(palette.convert("RGB")), -1, 0))
    assert image.flags == (Flag.ALPHA_DROPPED,)


def test_cmyk_jpeg_is_converted_and_said(put: Callable[..., str]) -> None:
    ramp = np.add.outer(np.arange(96), np.arange(128)).astype("u1")
    wanted = np.stack([ramp, 255 - ramp, np.full_like(ramp, 90)])
    data = _encode(_colour(wanted).convert("CMYK"), "JPEG", quality=95)
    image = read_image(put("x.jpg", data))
    assert (image.channels, image.flags) == (("red", "green", "blue"), (Flag.CMYK_CONVERTED,))
    assert np.abs(image.planes.astype(int) - wanted).max() <= 12


def test_the_bytes_decide_what_a_file_is_not_its_name(put: Callable[..., str], grey: NDArray) -> None:
    image = read_image(put("x.tif", _encode(Image.fromarray(grey[0]), "PNG")))
    np.testing.assert_array_equal(image.planes, grey)


@pytest.mark.parametrize("kind", ["PNG", "MPO"])
def test_several_frames_are_not_one_image(put: Callable[..., str], colour: NDArray, kind: str) -> None:
    first, second = _colour(colour), _colour(255 - colour)
    path = put("x", _encode(first, kind, save_all=True, append_images=[second]))
    with pytest.raises(RowRejected, match="2 frames") as error:
        read_image(path)
    assert error.value.code == RejectCode.SHAPE_MISMATCH
    assert path in error.value.message


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_picture_holds_one_image_only(
    put: Callable[..., str], grey: NDArray, read_index: Callable[..., Any], kind: str
) -> None:
    path = put("x", _encode(Image.fromarray(grey[0]), kind))
    assert read_index(path, 0).planes.shape == (1, 96, 128)
    with pytest.raises(RowRejected, match="index 1") as error:
        read_index(path, 1)
    assert error.value.code == RejectCode.SHAPE_MISMATCH
    with pytest.raises(RowRejected, match="index -1"):
        read_index(path, -1)


def test_one_pixel(put: Callable[..., str]) -> None:
    for kind in ("PNG", "BMP"):
        image = read_image(put("x", _encode(Image.fromarray(np.array([[7]], "u1")), kind)))
        np.testing.assert_array_equal(image.planes, [[[7]]])


@pytest.mark.parametrize("depth", [8, 16])
def test_interlaced_png(put: Callable[..., str], planes: Callable[..., NDArray], depth: int) -> None:
    # Adam7 with a single pixel is a single pass, made by hand
    header = struct.pack(">IIBBBBB", 1, 1, depth, 0, 0, 0, 1)
    row = b"\0" + (b"\x21" if depth == 8 else b"\x21\x43")
    data = PNG_MAGIC + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(row)) + _chunk(b"IEND", b"")
    assert read_image(put("x.png", data)).planes.item() == (0x21 if depth == 8 else 0x2143)


# limits


def _png_header(width: int, height: int, depth: int, kind: int) -> bytes:
    return (
        PNG_MAGIC
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(bytes(1000)))
        + _chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("depth", "kind"), [(8, 0), (8, 2), (16, 0), (16, 2), (16, 6), (1, 3)])
def test_a_decompression_bomb_is_refused_by_its_header(
    put: Callable[..., str], counted: list[Any], depth: int, kind: int
) -> None:
    path = put("bomb.png", _png_header(20_000, 20_000, depth, kind))
    with pytest.raises(RowRejected, match="20,000 × 20,000") as error:
        read_image(path)
    assert error.value.code == RejectCode.DECODE_ERROR
    assert path in error.value.message
    assert counted[0].closed


def test_bombs_of_other_kinds(put: Callable[..., str], grey: NDArray) -> None:
    bitmap = bytearray(_encode(Image.fromarray(grey[0]), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 20_000, 20_000)
    jpeg = bytearray(_encode(Image.fromarray(grey[0]), "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = struct.pack(">HH", 20_000, 20_000)
    for data in (bytes(bitmap), bytes(jpeg)):
        with pytest.raises(RowRejected, match="20,000 × 20,000"):
            read_image(put("x", data))


def test_pillows_own_limit_is_neither_used_nor_changed(
    put: Callable[..., str], monkeypatch: pytest.MonkeyPatch, grey: NDArray
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = put("x.png", _encode(Image.fromarray(grey[0]), "PNG"))
    np.testing.assert_array_equal(read_image(path).planes, grey)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(RowRejected):
        read_image(put("bad.png", PNG_MAGIC + b"nothing"))
    assert Image.MAX_IMAGE_PIXELS == 100


def test_pillows_own_limit_survives_files_opened_at_the_same_time(
    put: Callable[..., str], monkeypatch: pytest.MonkeyPatch, grey: NDArray
) -> None:
    # the headers of a folder are read by eight threads at once
    path = put("x.png", _encode(Image.fromarray(grey[0]), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**9)
    original, first_is_in, second_is_in = Image.open, threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> Any:
        if threading.current_thread().name == "first":
            first_is_in.set()
            second_is_in.wait(2)
        else:
            second_is_in.set()
            first.join(5)
        return original(*args, **options)

    monkeypatch.setattr(Image, "open", slow)
    first = threading.Thread(target=read_image, args=(path,), name="first")
    second = threading.Thread(target=lambda: first_is_in.wait(5) and read_image(path), name="second")
    first.start()
    second.start()
    first.join(10)
    second.join(10)
    assert Image.MAX_IMAGE_PIXELS == 10**9


# warnings and damage


def test_odd_animation_data_leaks_no_warning(
    put: Callable[..., str], grey: NDArray, read_quietly: Callable[..., Any]
) -> None:
    data = _encode(Image.fromarray(grey[0]), "PNG")
    odd = data[:33] + _chunk(b"acTL", struct.pack(">II", 0, 0)) + data[33:]
    np.testing.assert_array_equal(read_quietly(put("x.png", odd)).planes, grey)


def test_broken_exif_leaks_no_warning(
    put: Callable[..., str], grey: NDArray, read_quietly: Callable[..., Any]
) -> None:
    data = _encode(Image.fromarray(grey[0]), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x00garbage")
    assert read_quietly(put("x.jpg", data)).planes.shape == (1, 96, 128)


def test_a_flipped_bit_in_compressed_pixels_is_noticed(put: Callable[..., str], grey: NDArray) -> None:
    data = bytearray(_encode(Image.fromarray(grey[0]), "PNG"))
    for offset in range(data.index(b"IDAT") + 40, len(data) - 40, 997):
        broken = data.copy()
        broken[offset] ^= 0x10
        path = put("x.png", bytes(broken))
        with pytest.raises(RowRejected) as error:
            read_image(path)
        assert error.value.code == RejectCode.DECODE_ERROR
        assert path in error.value.message


def test_separate_grey_files_saved_as_colour_are_one_channel_each(
    put: Callable[..., str], planes: Callable[..., NDArray]
) -> None:
    truth = planes(2, "u1")
    uris = tuple(
        put(f"{i}.png", _encode(_colour(np.stack([plane] * 3)), "PNG")) for i, plane in enumerate(truth)
    )
    np.testing.assert_array_equal(read_image(ImageSource(uris, ("a", "b"))).planes, truth)
