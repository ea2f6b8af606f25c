# ruff: noqa: PT017  (pixels or a reject: either is right, and both are looked at)
from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import RejectCode
from microsnoop.io.images import ImageSource, open_image, read_image


def _planes(count: int = 1, dtype: str = "u1") -> NDArray:
    random = np.random.default_rng(1)
    return random.integers(1, np.iinfo(dtype).max, (count, 96, 128), dtype=dtype)


def _tiff(array: NDArray, **options: Any) -> bytes:
    sink = io.BytesIO()
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(sink, array, **options)
    return sink.getvalue()


def _pillow(array: NDArray, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, kind, **options)
    return sink.getvalue()


def _npy(array: NDArray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def _pixels(data: bytes, folder: Path) -> NDArray:
    path = folder / "whole"
    path.write_bytes(data)
    return read_image(str(path)).planes


def _cuts(size: int) -> list[int]:
    every_five_percent = {size * i // 20 for i in range(20)}
    ends = {size - n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 40, 64, 100, 160, 250)}
    return sorted(n for n in every_five_percent | ends | {1, 4, 8, 9, 30} if 0 <= n < size)


def _check_cuts(data: bytes, truth: NDArray, folder: Path, *, index: int | None = None) -> int:
    """Each cut is rejected, naming the file, or takes no pixel away; return how many were rejected."""
    path = folder / "cut"
    rejected = 0
    for size in _cuts(len(data)):
        path.write_bytes(data[:size])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                image = read_image(ImageSource((str(path),), index=index))
            except RowRejected as error:
                assert error.code == RejectCode.DECODE_ERROR, f"cut at {size}: {error.message}"
                assert str(path) in error.message
                rejected += 1
            else:
                assert image.planes.shape == truth.shape, f"cut at {size} of {len(data)} lost planes"
                assert (image.planes == truth).all(), f"cut at {size} of {len(data)} invented pixels"
        assert not [w for w in caught if w.category is not ResourceWarning], f"a warning for {size}"
    return rejected


ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strips": {"rowsperstrip": 8},
    "tiles": {"tile": (32, 48)},
    "deflate": {"compression": "zlib"},
    "deflate-strips": {"compression": "zlib", "rowsperstrip": 8},
    "deflate-tiles": {"compression": "zlib", "tile": (32, 48)},
    "lzw-predictor": {"compression": "lzw", "predictor": True, "rowsperstrip": 8},
    "zstd": {"compression": "zstd", "rowsperstrip": 16},
    "packbits": {"compression": "packbits"},
    "jpeg": {"compression": "jpeg"},
    "bigtiff-deflate": {"bigtiff": True, "compression": "zlib", "rowsperstrip": 8},
    "big-endian": {"byteorder": ">", "rowsperstrip": 8},
    "no-metadata": {"metadata": None, "compression": "zlib"},
    "ome": {"ome": True},
    "ome-deflate": {"ome": True, "compression": "zlib"},
    "imagej": {"imagej": True},
    "imagej-deflate": {"imagej": True, "compression": "zlib"},
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tiff_of_one_plane(tmp_path: Path, encoding: str) -> None:
    data = _tiff(_planes()[0], **ENCODINGS[encoding])
    assert _check_cuts(data, _pixels(data, tmp_path), tmp_path) >= 20


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tiff_of_several_planes(tmp_path: Path, encoding: str) -> None:
    data = _tiff(_planes(5), **ENCODINGS[encoding])
    assert _check_cuts(data, _pixels(data, tmp_path), tmp_path) >= 20


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_of_colour_samples(tmp_path: Path, planar: str) -> None:
    array = _planes(3) if planar == "separate" else np.moveaxis(_planes(3), 0, -1)
    data = _tiff(array, photometric="rgb", planarconfig=planar, rowsperstrip=16, compression="zlib")
    assert _check_cuts(data, _planes(3), tmp_path) >= 20


@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"]
)
def test_tiff_of_another_writer(tmp_path: Path, compression: str | None) -> None:
    plane = _planes()[0] > 128 if compression == "group4" else _planes()[0]
    data = _pillow(plane, "TIFF", compression=compression)
    assert _check_cuts(data, _pixels(data, tmp_path), tmp_path) >= 20


def _ends_of_directories(data: bytes) -> list[int]:
    """Where a writer that is stopped between two pages leaves the file."""
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        return [page.offset for page in tif.pages[1:]]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 8}], ids=str)
def test_a_file_that_stops_between_two_pages(tmp_path: Path, options: dict[str, Any]) -> None:
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:
        for plane in _planes(5):
            writer.write(plane, metadata=None, photometric="minisblack", **options)
    path = tmp_path / "cut.tif"
    for size in _ends_of_directories(sink.getvalue()):
        path.write_bytes(sink.getvalue()[:size])
        with pytest.raises(RowRejected) as error:
            read_image(str(path))
        assert error.value.code == RejectCode.DECODE_ERROR
        assert str(path) in error.value.message


@pytest.mark.parametrize(
    ("encoding", "named"),
    [
        ("plain", True),
        ("plain", False),
        ("deflate", True),
        ("deflate", False),
        ("no-metadata", False),
        ("imagej", True),
        ("imagej-deflate", True),
        ("ome", True),
        ("ome-deflate", True),
    ],
)
def test_a_truncated_stack_does_not_become_a_shorter_one(tmp_path: Path, encoding: str, named: bool) -> None:
    axes = {"metadata": {"axes": "TYX"}} if named else {}
    data = _tiff(_planes(5), **{**axes, **ENCODINGS[encoding]})
    path = tmp_path / "cut.tif"
    for size in _cuts(len(data)):
        path.write_bytes(data[:size])
        try:
            file = open_image(str(path), stack=True)
        except RowRejected as error:
            assert str(path) in error.message
            continue
        file.close()
        assert file.info.n_images == 5, f"cut at {size} of {len(data)}"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("PNG", {"compress_level": 0}),
        ("BMP", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_rows": 1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_pictures(tmp_path: Path, kind: str, options: dict[str, Any], colour: bool) -> None:
    array = np.ascontiguousarray(np.moveaxis(_planes(3), 0, -1)) if colour else _planes()[0]
    data = _pillow(array, kind, **options)
    assert _check_cuts(data, _pixels(data, tmp_path), tmp_path) >= 20


@pytest.mark.parametrize("shape", [(96, 128), (96, 128, 3), (96, 128, 4)], ids=str)
def test_sixteen_bit_png(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(2).integers(0, 2**16, shape).astype("u2")
    data = imagecodecs.png_encode(array)
    assert _check_cuts(data, _pixels(data, tmp_path), tmp_path) >= 20


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("count", [1, 5])
def test_npy(tmp_path: Path, count: int, dtype: str) -> None:
    truth = _planes(count, dtype)
    assert _check_cuts(_npy(truth), truth, tmp_path) == len(_cuts(len(_npy(truth))))


def test_an_index_of_a_truncated_npy_stack_is_refused_even_where_its_bytes_are_there(tmp_path: Path) -> None:
    truth = _planes(5)
    assert _check_cuts(_npy(truth), truth[:1], tmp_path, index=0) >= 20


# a writer of its own: pixels, then the directory, then the arrays it points to, as some libraries write


def _handmade(
    data: bytes, *, offsets: list[int] | None, counts: list[int] | None, rows: int, compression: int = 1
) -> bytes:
    tags: list[tuple[int, list[int]]] = [
        (256, [128]),
        (257, [96]),
        (258, [8]),
        (259, [compression]),
        (262, [1]),
        (277, [1]),
        (278, [rows]),
        *([(273, offsets)] if offsets is not None else []),
        *([(279, counts)] if counts is not None else []),
    ]
    start = 8 + len(data)
    assert start % 2 == 0
    tail_start = start + 2 + 12 * len(tags) + 4
    body, tail = struct.pack("<H", len(tags)), b""
    for tag, values in sorted(tags):
        raw = struct.pack(f"<{len(values)}I", *values)
        field = raw if len(raw) == 4 else struct.pack("<I", tail_start + len(tail))
        tail += b"" if len(raw) == 4 else raw
        body += struct.pack("<HHI", tag, 4, len(values)) + field
    return struct.pack("<2sHI", b"II", 42, start) + data + body + struct.pack("<I", 0) + tail


def _strips(plane: NDArray, rows: int, pack: Callable[[bytes], bytes]) -> tuple[bytes, list[int], list[int]]:
    packed = [pack(plane[y : y + rows].tobytes()) for y in range(0, 96, rows)]
    starts = [8 + sum(map(len, packed[:i])) for i in range(len(packed))]
    data = b"".join(packed)
    return data + b"\0" * (len(data) % 2), starts, [len(p) for p in packed]


def _read_twice(path: Path) -> NDArray:
    """Read after memory was filled with something, so that memory left as it was shows."""
    del [np.full(96 * 128, 77, "u1") for _ in range(4)][:]
    return read_image(str(path)).planes


@pytest.mark.parametrize("compression", [1, 8])
def test_directory_at_the_end(tmp_path: Path, compression: int) -> None:
    truth = _planes()
    data, offsets, counts = _strips(truth[0], 8, bytes if compression == 1 else zlib.compress)
    whole = _handmade(data, offsets=offsets, counts=counts, rows=8, compression=compression)
    np.testing.assert_array_equal(_pixels(whole, tmp_path), truth)
    assert _check_cuts(whole, truth, tmp_path) >= 20


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("damage", ["fewer offsets and counts", "fewer counts", "no counts", "a zero count"])
def test_pixels_that_no_strip_holds_are_never_made_up(tmp_path: Path, damage: str, compression: int) -> None:
    truth = _planes()
    data, offsets, counts = _strips(truth[0], 8, bytes if compression == 1 else zlib.compress)
    damaged_offsets = offsets[:6] if damage == "fewer offsets and counts" else offsets
    damaged_counts = {
        "fewer offsets and counts": counts[:6],
        "fewer counts": counts[:6],
        "no counts": None,
        "a zero count": [*counts[:5], 0, *counts[6:]],
    }[damage]
    path = tmp_path / "x.tif"
    path.write_bytes(
        _handmade(data, offsets=damaged_offsets, counts=damaged_counts, rows=8, compression=compression)
    )
    try:
        found = _read_twice(path)
    except RowRejected as error:
        assert str(path) in error.message
    else:
        np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("what", ["offset", "count"])
@pytest.mark.parametrize("page", [0, 1, 150, 299])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"rowsperstrip": 2}], ids=str)
def test_a_page_in_the_middle_of_a_long_stack_that_points_beyond_the_end(
    tmp_path: Path, read_index: Callable[..., Any], options: dict[str, Any], page: int, what: str
) -> None:
    truth = np.arange(1, 1 + 300 * 8 * 10, dtype="u2").reshape(300, 8, 10)
    path = tmp_path / "x.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in truth:
            writer.write(plane, metadata=None, **options)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[page].tags["StripOffsets" if what == "offset" else "StripByteCounts"]
        width = {3: "H", 4: "I"}[tag.dtype]
        beyond = min(len(data) + 100, 2 ** (8 * struct.calcsize(width)) - 1)
        struct.pack_into("<" + width * tag.count, data, tag.valueoffset, *[beyond] * tag.count)
    path.write_bytes(data)
    try:
        found = read_index(path, page).planes
    except RowRejected as error:
        assert error.code == RejectCode.DECODE_ERROR
        assert str(path) in error.message
    else:  # where a page begins and what it unpacks to may be known without its length
        assert what == "count"
        np.testing.assert_array_equal(found[0], truth[page])
