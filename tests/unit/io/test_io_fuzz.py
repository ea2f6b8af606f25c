# ruff: noqa: PT017  (pixels or a reject: either is right, and both are looked at)
from __future__ import annotations

import io
import resource
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.errors import InputError, RowRejected
from microsnoop.io.images import ImageReader, ImageSource, read_image
from microsnoop.io.tables import read_table
from microsnoop.ops.geometry import Box

LIMIT_PX = 10**6
MAX_SECONDS = 10.0
SOME = settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
MAGICS = [
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"\x93NUMPY\x01\0",
    b"",
]


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """A damaged header may ask for much memory; it gets an error, and the machine is not brought down."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 6 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "fuzz.img"


def _tiff(array: NDArray, **options: Any) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, array, **{"photometric": "minisblack", **options})
    return sink.getvalue()


def _pillow(array: NDArray, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(array).save(sink, kind, **options)
    return sink.getvalue()


def _npy(array: NDArray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def _samples() -> dict[str, bytes]:
    random = np.random.default_rng(3)
    grey = random.integers(0, 255, (24, 32)).astype("u1")
    colour = random.integers(0, 255, (24, 32, 3)).astype("u1")
    deep = random.integers(0, 65535, (3, 24, 32)).astype("u2")
    return {
        "tiff": _tiff(deep),
        "tiff-deflate": _tiff(deep, compression="zlib", rowsperstrip=4, predictor=True),
        "tiff-lzw-tiles": _tiff(deep, compression="lzw", tile=(16, 16)),
        "tiff-jpeg": _tiff(grey, compression="jpeg"),
        "tiff-bigtiff": _tiff(deep, bigtiff=True, byteorder=">", compression="zstd"),
        "tiff-imagej": _tiff(deep, imagej=True, metadata={"axes": "CYX", "Labels": ["a", "b", "c"]}),
        "tiff-ome": _tiff(deep, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}),
        "tiff-float": _tiff(deep[0].astype("f8"), compression="zlib", predictor=True),
        "png": _pillow(grey, "PNG"),
        "png-colour": _pillow(colour, "PNG"),
        "png-deep": imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(deep, 0, -1))),
        "jpeg": _pillow(colour, "JPEG"),
        "jpeg-progressive": _pillow(grey, "JPEG", progressive=True),
        "bmp": _pillow(colour, "BMP"),
        "npy": _npy(deep),
        "npy-float": _npy(deep.astype("f8")),
    }


SAMPLES = _samples()


def _must_end_well(path: Path, data: bytes, index: int | None) -> None:
    """Pixels of an allowed kind, or a reject that names the file; soon, and without a warning."""
    path.write_bytes(data)
    begin = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = read_image(ImageSource((str(path),), index=index), limit_px=LIMIT_PX)
        except RowRejected as error:
            assert str(path) in error.message
        else:
            assert image.planes.ndim == 3
            assert image.planes.size
            assert str(image.planes.dtype) in ("uint8", "uint16", "int32", "float32")
            assert len(image.channels) == len(set(image.channels)) == len(image.planes) <= 60
        _a_part_ends_well(path, index)
    assert time.monotonic() - begin < MAX_SECONDS
    leaked = [w for w in caught if w.category is not ResourceWarning]
    assert not leaked, str(leaked[0].message)


def _a_part_ends_well(path: Path, index: int | None) -> None:
    source = ImageSource((str(path),), index=index)
    with ImageReader(limit_px=LIMIT_PX) as reader:
        try:
            info = reader.info(source)
            box = Box(
                info.height_px // 2, info.width_px // 2, 1 + info.height_px // 3, 1 + info.width_px // 3
            )
            if not box.inside(info.height_px, info.width_px):
                box = Box(0, 0, 1, 1)
            image = reader.read(source, box=box)
        except RowRejected as error:
            assert str(path) in error.message
        else:
            assert image.planes.shape == (len(image.channels), box.height_px, box.width_px)


@SOME
@given(st.sampled_from(MAGICS), st.binary(max_size=300), st.sampled_from([None, 0, 1]))
def test_random_bytes(scratch: Path, magic: bytes, rest: bytes, index: int | None) -> None:
    _must_end_well(scratch, magic + rest, index)


@st.composite
def _damaged(draw: st.DrawFn, kind: str) -> bytes:
    data = bytearray(SAMPLES[kind])
    for _ in range(draw(st.integers(1, 6))):
        # headers are where a byte matters most
        near_an_end = draw(st.booleans())
        top = min(len(data), 400) - 1 if near_an_end else len(data) - 1
        position = draw(st.integers(0, top))
        if near_an_end and draw(st.booleans()):
            position = len(data) - 1 - position
        how = draw(st.sampled_from(["set", "flip", "extreme", "drop", "repeat"]))
        if how == "set":
            data[position] = draw(st.integers(0, 255))
        elif how == "flip":
            data[position] ^= 1 << draw(st.integers(0, 7))
        elif how == "extreme":
            data[position : position + 4] = draw(
                st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x01\0\0\0", b"\0\0\0\x01"])
            )
        elif how == "drop":
            del data[position : position + draw(st.integers(1, 40))]
        else:
            data[position:position] = data[position : position + draw(st.integers(1, 40))]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("kind", SAMPLES)
def test_damaged_files(scratch: Path, kind: str) -> None:
    @settings(SOME, max_examples=120)
    @given(_damaged(kind), st.sampled_from([None, 0, 1]))
    def check(data: bytes, index: int | None) -> None:
        _must_end_well(scratch, data, index)

    check()


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_byte_of_the_header_broken_in_turn(scratch: Path, kind: str) -> None:
    data = SAMPLES[kind]
    for position in range(8, min(len(data), 260), 3):
        for value in (0, 255):
            broken = bytearray(data)
            broken[position] = value
            _must_end_well(scratch, bytes(broken), None)


@SOME
@given(st.binary(max_size=200), st.sampled_from([".csv", ".tsv", ".parquet"]))
def test_random_tables(scratch: Path, data: bytes, extension: str) -> None:
    path = scratch.with_suffix(extension)
    path.write_bytes(data)
    try:
        table = read_table(str(path))
    except InputError as error:
        assert str(path) in error.message
    else:
        assert table.num_rows > 0
        assert len(set(table.column_names)) == table.num_columns


@SOME
@given(
    st.lists(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters='",\r\n\0\ufeff'), max_size=8),
            min_size=2,
            max_size=2,
        ),
        min_size=1,
        max_size=6,
    )
)
def test_text_cells_come_back_as_they_were(scratch: Path, rows: list[list[str]]) -> None:
    path = scratch.with_suffix(".csv")
    lines = ["well,plate", *(f'"{a}","{b}"' for a, b in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = read_table(str(path))
    assert table["well"].to_pylist() == [a or None for a, _ in rows]
    assert table["plate"].to_pylist() == [b or None for _, b in rows]
