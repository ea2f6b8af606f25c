"""A rectangle of an image: the same pixels as of the whole, at a cost that grows with the rectangle."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage

from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.images import ImageReader, ImageSource, open_image, read_image
from microsnoop.ops.geometry import Box

H, W = 96, 128
SOME = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _random(count: int, dtype: str = "u2", *, seed: int = 0) -> NDArray:
    random = np.random.default_rng(seed)
    return random.integers(1, np.iinfo(dtype).max, (count, H, W), dtype=dtype, endpoint=True)


def _grey(path: Path, *, shape: tuple[int, ...] = (3,), dtype: str = "u2", **options: Any) -> None:
    array = _random(int(np.prod(shape)), dtype).reshape(*shape, H, W)
    tifffile.imwrite(path, array, **{"photometric": "minisblack", **options})


def _colour(path: Path, *, planar: str = "contig", count: int = 3, **options: Any) -> None:
    array = _random(count, "u1")
    stored = array if planar == "separate" else np.moveaxis(array, 0, -1)
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, **options)


def _floats(path: Path, **options: Any) -> None:
    array = np.random.default_rng(0).normal(-3, 1000, (2, H, W)).astype("f4")
    tifffile.imwrite(path, array, photometric="minisblack", **options)


def _bits(path: Path) -> None:
    tifffile.imwrite(path, _random(1, "u1")[0] > 128, photometric="minisblack", rowsperstrip=8)


def _pyramid(path: Path) -> None:
    array = _random(3, "u1")
    options: dict[str, Any] = {"tile": (32, 48), "photometric": "minisblack", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(array, subifds=1, metadata={"axes": "CYX"}, **options)
        writer.write(array[:, ::2, ::2], subfiletype=1, **options)


def _page_after_page(path: Path, *kinds: dict[str, Any]) -> None:
    """As some microscopes write: each page an image of its own, perhaps each packed in another way."""
    with tifffile.TiffWriter(path) as writer:
        for plane, options in zip(_random(len(kinds)), kinds, strict=True):
            writer.write(plane, metadata=None, photometric="minisblack", **options)


def _reversed_bits(path: Path) -> None:
    """Bytes whose bits run the other way, not compressed: only a tag tells them from pixels."""
    tifffile.imwrite(path, _random(1, "u1")[0], photometric="minisblack", rowsperstrip=8)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tag = tif.pages[0].tags["ResolutionUnit"]  # a number that is not needed becomes FillOrder
        for where, value in ((tag.offset, 266), (tag.valueoffset, 2)):
            tif.filehandle.seek(where)
            tif.filehandle.write(value.to_bytes(2, "little"))


def _rows_as_pages(path: Path, **options: Any) -> None:
    array = _random(3).transpose(1, 2, 0)
    tifffile.imwrite(path, array, photometric="minisblack", metadata={"axes": "YXC"}, **options)


def _array(path: Path, array: NDArray) -> None:
    with path.open("wb") as sink:
        np.lib.format.write_array(sink, array)


def _picture(path: Path, kind: str, *, colour: bool) -> None:
    array = np.moveaxis(_random(3, "u1"), 0, -1) if colour else _random(1, "u1")[0]
    PillowImage.fromarray(np.ascontiguousarray(array)).save(path, kind)


def _by_libtiff(path: Path) -> None:
    """Strips in JPEG whose tables stand once in the header, not in each strip."""
    array = np.ascontiguousarray(np.moveaxis(_random(3, "u1"), 0, -1))
    PillowImage.fromarray(array).save(path, "TIFF", compression="jpeg", strip_size=W * 3 * 16)


Writer = Callable[[Path], None]
STRIPS: dict[str, Any] = {"compression": "zlib", "rowsperstrip": 8}
TILES: dict[str, Any] = {"compression": "zlib", "tile": (32, 48)}
CHANNELS: dict[str, Any] = {"metadata": {"axes": "CYX"}}
IN_PIECES: dict[str, Writer] = {
    "plain": _grey,
    "plain-strips": partial(_grey, rowsperstrip=8),
    "plain-no-metadata": partial(_grey, metadata=None),
    "plain-big-endian": partial(_grey, byteorder=">"),
    "plain-bigtiff": partial(_grey, bigtiff=True),
    "plain-one-page-for-all": partial(_grey, truncate=True),
    "plain-imagej": partial(_grey, imagej=True, **CHANNELS),
    "plain-ome": partial(_grey, ome=True, **CHANNELS),
    "plain-tiles": partial(_grey, tile=(32, 48)),
    "plain-rows-as-pages": _rows_as_pages,
    "tiles-deflate": partial(_grey, **TILES),
    "tiles-lzw-predictor": partial(_grey, compression="lzw", predictor=True, tile=(16, 32)),
    "tiles-zstd": partial(_grey, compression="zstd", tile=(48, 32)),
    "tiles-jpeg": partial(_grey, dtype="u1", compression="jpeg", tile=(32, 48)),
    "tiles-big-endian": partial(_grey, byteorder=">", predictor=True, **TILES),
    "tiles-bigtiff": partial(_grey, bigtiff=True, **TILES),
    "tiles-ome": partial(_grey, ome=True, **CHANNELS, **TILES),
    "tiles-larger-than-the-image": partial(_grey, compression="zlib", tile=(256, 256)),
    "strips-deflate": partial(_grey, **STRIPS),
    "strips-lzw-predictor": partial(_grey, compression="lzw", predictor=True, rowsperstrip=7),
    "strips-zstd": partial(_grey, compression="zstd", rowsperstrip=95),
    "strips-jpeg": partial(_grey, dtype="u1", compression="jpeg", rowsperstrip=16),
    "strips-jpeg-shared-tables": _by_libtiff,
    "strips-imagej": partial(_grey, imagej=True, **CHANNELS, **STRIPS),
    "strips-big-endian": partial(_grey, byteorder=">", **STRIPS),
    "strips-one-bit": _bits,
    "float-predictor": partial(_floats, predictor=True, **TILES),
    "float-big-endian": partial(_floats, byteorder=">"),
    "colour-plain": _colour,
    "colour-strips": partial(_colour, **STRIPS),
    "colour-tiles": partial(_colour, predictor=True, **TILES),
    "colour-planes": partial(_colour, planar="separate"),
    "colour-planes-strips": partial(_colour, planar="separate", **STRIPS),
    "colour-planes-tiles": partial(_colour, planar="separate", **TILES),
    "colour-alpha": partial(_colour, count=4, extrasamples=["unassalpha"], **TILES),
    "colour-alpha-planes": partial(_colour, count=4, planar="separate", extrasamples=["unassalpha"], **TILES),
    "colour-jpeg": partial(_colour, compression="jpeg", tile=(32, 48)),
    "colour-jpeg-subsampled": partial(_colour, compression="jpeg", subsampling=(2, 2), tile=(32, 64)),
    "pyramid": _pyramid,
    "page-after-page": lambda path: _page_after_page(path, TILES, TILES, TILES),
    "page-after-page-mixed": lambda path: _page_after_page(path, TILES, STRIPS, {}),
    "npy": lambda path: _array(path, _random(3)),
    "npy-one-plane": lambda path: _array(path, _random(1)[0]),
    "npy-big-endian": lambda path: _array(path, _random(3).astype(">u2")),
    "npy-double": lambda path: _array(path, _random(3) / 7),
    "npy-fortran": lambda path: _array(path, np.asfortranarray(_random(3))),
    "npy-fortran-one-plane": lambda path: _array(path, np.asfortranarray(_random(1)[0])),
}
IN_ONE_PIECE: dict[str, Writer] = {
    "one-strip": partial(_grey, compression="zlib", rowsperstrip=H),
    "one-strip-colour": partial(_colour, compression="zlib", rowsperstrip=H),
    "one-strip-one-bit": lambda path: tifffile.imwrite(path, _random(1)[0] > 9, rowsperstrip=H),
    "one-page-of-many-in-one-strip": lambda path: _page_after_page(
        path, TILES, {"compression": "zlib", "rowsperstrip": H}
    ),
    "plain-reversed-bits": _reversed_bits,
    "rows-are-pages": partial(_rows_as_pages, compression="zlib"),
    "png": partial(_picture, kind="PNG", colour=False),
    "png-colour": partial(_picture, kind="PNG", colour=True),
    "jpeg": partial(_picture, kind="JPEG", colour=False),
    "jpeg-colour": partial(_picture, kind="JPEG", colour=True),
    "bmp": partial(_picture, kind="BMP", colour=True),
}
OPAQUE_OR_NOT = {Flag.ALPHA_DROPPED}  # depends on what was read

EDGES = [Box(0, 0, 1, 1), Box(H - 1, W - 1, 1, 1), Box(0, W - 1, H, 1), Box(H - 1, 0, 1, W), Box(0, 0, H, W)]


@st.composite
def _boxes(draw: st.DrawFn) -> Box:
    y0, x0 = draw(st.integers(0, H - 1)), draw(st.integers(0, W - 1))
    return Box(y0, x0, draw(st.integers(1, H - y0)), draw(st.integers(1, W - x0)))


def _cut(planes: NDArray, box: Box) -> NDArray:
    rows, columns = slice(box.y0_px, box.y0_px + box.height_px), slice(box.x0_px, box.x0_px + box.width_px)
    return planes[:, rows, columns]


def _same(reader: ImageReader, source: ImageSource, box: Box, *, channels: Any = None) -> None:
    whole = reader.read(source, channels=channels)
    part = reader.read(source, channels=channels, box=box)
    np.testing.assert_array_equal(part.planes, _cut(whole.planes, box), strict=True)
    assert part.planes.flags.c_contiguous
    assert part.channels == whole.channels
    assert set(part.flags) | OPAQUE_OR_NOT == set(whole.flags) | OPAQUE_OR_NOT
    assert (part.origin_px, part.size_px) == ((box.y0_px, box.x0_px), (H, W))
    assert (whole.origin_px, whole.size_px) == ((0, 0), (H, W))


@pytest.fixture
def opened() -> Iterator[ImageReader]:
    with ImageReader() as reader:
        yield reader


# the same pixels


@pytest.mark.parametrize("layout", [*IN_PIECES, *IN_ONE_PIECE])
def test_a_part_is_the_whole_cut(tmp_path: Path, opened: ImageReader, layout: str) -> None:
    {**IN_PIECES, **IN_ONE_PIECE}[layout](tmp_path / "x")
    source = ImageSource((str(tmp_path / "x"),))
    count = len(opened.info(source).channels)
    assert opened.info(source).by_region == (layout in IN_PIECES)
    for edge in EDGES:
        _same(opened, source, edge)

    @SOME
    @given(_boxes(), st.lists(st.integers(0, count - 1), max_size=4))
    def check(box: Box, positions: list[int]) -> None:
        channels = {f"n{i}": position for i, position in enumerate(positions)}
        _same(opened, source, box, channels=channels or None)

    check()


def _volume(path: Path) -> None:
    array = _random(4)
    tifffile.imwrite(
        path, array, photometric="minisblack", tile=(2, 32, 48), volumetric=True, metadata={"axes": "ZYX"}
    )


STACKS: dict[str, Writer] = {
    "plain": partial(_grey, shape=(4,), metadata={"axes": "TYX"}),
    "tiles": partial(_grey, shape=(4,), metadata={"axes": "ZYX"}, **TILES),
    "tiles-channels": partial(_grey, shape=(4, 3), metadata={"axes": "TCYX"}, **TILES),
    "channels-first": partial(_grey, shape=(3, 4), metadata={"axes": "CTYX"}, **STRIPS),
    "one-page-for-all": partial(_grey, shape=(4, 3), truncate=True),
    "imagej": partial(_grey, shape=(4, 3), imagej=True, metadata={"axes": "TCYX"}),
    "imagej-strips": partial(_grey, shape=(4, 3), imagej=True, metadata={"axes": "ZCYX"}, **STRIPS),
    "ome": partial(_grey, shape=(4, 3), ome=True, metadata={"axes": "TCYX"}, **TILES),
    "colour": lambda path: tifffile.imwrite(
        path, _random(12, "u1").reshape(4, H, W, 3), photometric="rgb", **TILES
    ),
    "colour-planes": lambda path: tifffile.imwrite(
        path, _random(12, "u1").reshape(4, 3, H, W), photometric="rgb", planarconfig="separate", **TILES
    ),
    "volume": _volume,
    "page-after-page": lambda path: _page_after_page(path, TILES, STRIPS, {}, {"rowsperstrip": 8}),
    "npy": lambda path: _array(path, _random(4)),
    "npy-channels": lambda path: _array(path, _random(12).reshape(4, 3, H, W)),
}


@pytest.mark.parametrize("layout", STACKS)
def test_a_part_of_one_image_of_a_stack(tmp_path: Path, opened: ImageReader, layout: str) -> None:
    STACKS[layout](tmp_path / "x")
    assert opened.info(ImageSource((str(tmp_path / "x"),), index=0)).by_region
    for index in (3, 0, 2):
        for box in (Box(30, 40, 40, 60), *EDGES[:2]):
            _same(opened, ImageSource((str(tmp_path / "x"),), index=index), box)
    with pytest.raises(RowRejected, match="index 4"):
        opened.read(ImageSource((str(tmp_path / "x"),), index=4), box=EDGES[0])


def test_one_file_per_channel(tmp_path: Path, opened: ImageReader) -> None:
    truth = _random(3, "u1")
    tifffile.imwrite(tmp_path / "a.tif", truth[0], **TILES)
    PillowImage.fromarray(truth[1]).save(tmp_path / "b.png")
    np.save(tmp_path / "c.npy", truth[2])
    uris = tuple(str(tmp_path / name) for name in ("a.tif", "b.png", "c.npy"))
    box = Box(20, 30, 50, 70)
    image = opened.read(ImageSource(uris, ("a", "b", "c")), box=box, channels=["c", "a", "b"])
    np.testing.assert_array_equal(image.planes, _cut(truth[[2, 0, 1]], box))
    assert (image.channels, image.origin_px, image.size_px) == (("c", "a", "b"), (20, 30), (H, W))


def test_channels_of_different_size_are_refused_though_the_part_lies_in_both(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", _random(1)[0])
    np.save(tmp_path / "b.npy", _random(1)[0, :90])
    source = ImageSource((str(tmp_path / "a.npy"), str(tmp_path / "b.npy")), ("a", "b"))
    with pytest.raises(RowRejected, match="a 96×128, b 90×128") as error:
        read_image(source, box=Box(0, 0, 5, 5))
    assert error.value.code == RejectCode.SHAPE_MISMATCH


@pytest.mark.parametrize("box", [Box(-1, 0, 5, 5), Box(0, -1, 5, 5), Box(92, 0, 5, 5), Box(0, 124, 5, 5)])
@pytest.mark.parametrize("layout", ["plain", "tiles-deflate", "npy", "png"])
def test_a_box_over_the_border_is_a_mistake_of_the_caller(tmp_path: Path, layout: str, box: Box) -> None:
    {**IN_PIECES, **IN_ONE_PIECE}[layout](tmp_path / "x")
    with pytest.raises(ValueError, match="not inside the image of 96 × 128") as error:
        read_image(str(tmp_path / "x"), box=box)
    assert not isinstance(error.value, RowRejected)
    with pytest.raises(ValueError, match="not inside the image of 96 × 128"):
        read_image(ImageSource((str(tmp_path / "x"),), ("a",)), box=box, channels=["a"])
    file = open_image(str(tmp_path / "x"), stack=False)
    with pytest.raises(ValueError, match="not inside the image of 96 × 128"):
        file.read(0, box)
    file.close()


def test_transparency_is_judged_by_what_was_read(tmp_path: Path) -> None:
    array = _random(4, "u1")
    array[3], array[3, 90, 100] = 255, 7
    path = tmp_path / "x.tif"
    stored = np.moveaxis(array, 0, -1)
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["unassalpha"], **TILES)
    assert read_image(str(path), box=Box(0, 0, 40, 40)).flags == ()
    assert read_image(str(path), box=Box(60, 60, 36, 60), channels=[1]).flags == (Flag.ALPHA_DROPPED,)


# only what is needed


@pytest.mark.parametrize("layout", ["plain", "plain-one-page-for-all", "npy", "npy-fortran"])
def test_of_plain_pixels_only_those_of_the_box_are_read(
    tmp_path: Path, counted: list[Any], layout: str
) -> None:
    IN_PIECES[layout](tmp_path / "x")
    with ImageReader() as reader:
        source, box = ImageSource((str(tmp_path / "x"),)), Box(40, 50, 10, 12)
        reader.info(source)
        before = counted[0].n_bytes
        reader.read(source, box=box, channels=[1])
        n_channels = 3 if layout == "npy-fortran" else 1  # there the channels of a pixel lie together
        assert counted[0].n_bytes - before == 10 * 12 * 2 * n_channels


@pytest.mark.parametrize("layout", ["tiles-deflate", "strips-deflate", "colour-planes-tiles", "pyramid"])
def test_only_the_pieces_that_are_touched_are_read(tmp_path: Path, counted: list[Any], layout: str) -> None:
    IN_PIECES[layout](tmp_path / "x")
    with tifffile.TiffFile(tmp_path / "x") as tif:
        series = tif.series[0]
        separate = len(series.pages) == 1
        per_plane = 12 if layout == "strips-deflate" else 9
        counts = series.pages[0 if separate else 1].databytecounts[per_plane if separate else 0 :]
    with ImageReader() as reader:
        source = ImageSource((str(tmp_path / "x"),))
        reader.info(source)
        before = counted[0].n_bytes
        reader.read(source, box=Box(40, 50, 8, 12), channels=[1])
        wanted = counts[5] if layout == "strips-deflate" else counts[4]
        assert counted[0].n_bytes - before <= wanted + 1000  # and perhaps the directory of the page
        assert wanted > 1000


def _pieces(path: Path, page: int = 0) -> list[tuple[int, int]]:
    with tifffile.TiffFile(path) as tif:
        return list(zip(tif.pages[page].dataoffsets, tif.pages[page].databytecounts, strict=True))


def _overwrite(path: Path, start: int, data: bytes) -> None:
    whole = bytearray(path.read_bytes())
    whole[start : start + len(data)] = data
    path.write_bytes(whole)


@pytest.mark.parametrize("layout", ["tiles-deflate", "tiles-lzw-predictor", "tiles-zstd", "strips-deflate"])
def test_damage_elsewhere_does_not_touch_a_part(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "x"
    IN_PIECES[layout](path)
    truth, pieces = read_image(str(path)).planes, _pieces(path, page=1)
    _overwrite(path, pieces[-1][0], b"\xff" * pieces[-1][1])
    box = Box(0, 0, 40, 60)
    np.testing.assert_array_equal(read_image(str(path), box=box).planes, _cut(truth, box))
    corner = Box(90, 120, 6, 8)
    np.testing.assert_array_equal(  # nor the channels that nobody asked for
        read_image(str(path), box=corner, channels=[0, 2]).planes, _cut(truth, corner)[[0, 2]]
    )
    for damaged in ({"box": corner}, {"box": Box(0, 0, H, W)}, {}):
        with pytest.raises(RowRejected) as error:
            read_image(str(path), **damaged)
        assert error.value.code == RejectCode.DECODE_ERROR
        assert str(path) in error.value.message


def _rewrite_tag(path: Path, name: str, position: int, value: int, *, page: int = 1) -> None:
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages[page].tags[name]
        size = {3: 2, 4: 4, 16: 8}[tag.dtype]
        where = tag.valueoffset + position * size
    _overwrite(path, where, value.to_bytes(size, "little"))


@pytest.mark.parametrize(("layout", "kind"), [("tiles-deflate", "Tile"), ("strips-deflate", "Strip")])
@pytest.mark.parametrize(("what", "reason"), [("Offsets", "truncated"), ("ByteCounts", "truncated|cannot")])
def test_a_piece_beyond_the_end_is_refused_where_it_is_needed(
    tmp_path: Path, layout: str, kind: str, what: str, reason: str
) -> None:
    path = tmp_path / "x"
    IN_PIECES[layout](path)
    truth = read_image(str(path)).planes
    _rewrite_tag(path, f"{kind}{what}", 0, 60_000 if what == "ByteCounts" else 2**30)
    below = Box(50, 60, 46, 68)
    np.testing.assert_array_equal(read_image(str(path), box=below).planes, _cut(truth, below))
    with pytest.raises(RowRejected, match=reason) as error:
        read_image(str(path), box=Box(0, 0, 1, 1))
    assert error.value.code == RejectCode.DECODE_ERROR
    assert str(path) in error.value.message
    np.testing.assert_array_equal(
        read_image(str(path), box=Box(0, 0, 1, 1), channels=[0]).planes, truth[:1, :1, :1]
    )


@pytest.mark.parametrize("layout", IN_PIECES)
def test_a_file_cut_short_is_refused_or_gives_the_right_pixels(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "x"
    IN_PIECES[layout](path)
    truth, data = read_image(str(path)).planes, path.read_bytes()
    box, last = Box(10, 10, 20, 30), Box(H - 1, W - 1, 1, 1)
    rejected = 0
    for size in [len(data) * i // 12 for i in range(12)] + [len(data) - 1]:
        path.write_bytes(data[:size])
        for asked in (box, last):
            try:
                found = read_image(str(path), box=asked).planes
            except RowRejected as error:
                assert error.code == RejectCode.DECODE_ERROR  # noqa: PT017
                assert str(path) in error.message  # noqa: PT017
                rejected += 1
            else:
                np.testing.assert_array_equal(found, _cut(truth, asked))
    assert rejected >= 12


@pytest.mark.parametrize("layout", ["plain", "tiles-deflate", "npy"])
def test_a_file_that_shrinks_while_it_is_open(tmp_path: Path, opened: ImageReader, layout: str) -> None:
    path = tmp_path / "x"
    IN_PIECES[layout](path)
    source = ImageSource((str(path),))
    opened.info(source)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)
    with pytest.raises(RowRejected, match="cannot be decoded" if "tiles" in layout else "truncated") as error:
        opened.read(source, box=Box(50, 60, 46, 68))
    assert error.value.code == RejectCode.DECODE_ERROR
    assert str(path) in error.value.message


def test_a_tile_that_was_left_out_is_empty_a_strip_or_a_page_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    _grey(path, **TILES)
    truth = read_image(str(path)).planes
    truth[1, :32, :48] = 0
    for name in ("TileOffsets", "TileByteCounts"):
        _rewrite_tag(path, name, 0, 0)
    np.testing.assert_array_equal(read_image(str(path)).planes, truth)
    box = Box(20, 30, 40, 50)
    np.testing.assert_array_equal(read_image(str(path), box=box).planes, _cut(truth, box))
    for position in range(1, 9):
        _rewrite_tag(path, "TileByteCounts", position, 0)
    with pytest.raises(RowRejected, match="not in the file"):
        read_image(str(path), box=box)
    _grey(path, **STRIPS)
    _rewrite_tag(path, "StripByteCounts", 3, 0)
    with pytest.raises(RowRejected, match="not in the file"):
        read_image(str(path), box=box)


# large files


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8,192 × 8,192 px in 16 bits, of tiles of 256 px; pixel (y, x) is 7 y + 13 x, modulo 2^16."""
    side, tile = 8192, 256
    path = tmp_path_factory.mktemp("large") / "x.tif"
    local = (7 * np.arange(tile)[:, None] + 13 * np.arange(tile)).astype("u2")
    tiles = (
        local + np.uint16((7 * y + 13 * x) % 2**16)
        for y in range(0, side, tile)
        for x in range(0, side, tile)
    )
    tifffile.imwrite(path, tiles, shape=(side, side), dtype="u2", tile=(tile, tile), compression="zstd")
    return path


def test_memory_grows_with_the_part_not_with_the_image(large: Path) -> None:
    box = Box(3001, 5003, 1024, 512)
    read_image(str(large), box=Box(0, 0, 1, 1))  # modules are loaded
    tracemalloc.start()
    try:
        planes = read_image(str(large), box=box).planes
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    ys, xs = np.arange(3001, 4025)[:, None], np.arange(5003, 5515)
    np.testing.assert_array_equal(planes[0], (7 * ys + 13 * xs).astype("u2"))
    assert peak < 4 * planes.nbytes < 8192**2 * 2 / 30


def test_the_limit_counts_for_what_is_read(large: Path, counted: list[Any]) -> None:
    limit_px = 512 * 512
    with ImageReader(limit_px=limit_px) as reader:
        source = ImageSource((str(large),))
        info = reader.info(source)
        assert (info.height_px, info.width_px, info.by_region) == (8192, 8192, True)
        assert reader.read(source, box=Box(7, 9, 512, 512)).planes.shape == (1, 512, 512)
        before = counted[0].n_bytes
        for box, size in ((None, "8,192 × 8,192"), (Box(0, 0, 512, 513), "512 × 513")):
            with pytest.raises(RowRejected, match=f"{size} px is more than the limit of 0.2") as error:
                reader.read(source, box=box)
            assert error.value.code == RejectCode.DECODE_ERROR
            assert str(large) in error.value.message
            assert "input.max_image_mpx" in error.value.message
        assert counted[0].n_bytes == before


@pytest.mark.parametrize("layout", IN_ONE_PIECE)
def test_what_is_decoded_whole_is_refused_by_its_header(
    tmp_path: Path, counted: list[Any], layout: str
) -> None:
    IN_ONE_PIECE[layout](tmp_path / "x")
    with pytest.raises(RowRejected, match="96 × 128 px is more than the limit"):
        open_image(str(tmp_path / "x"), stack=False, limit_px=H * W - 1)
    assert counted[0].closed
    open_image(str(tmp_path / "x"), stack=False, limit_px=H * W).close()


def test_few_huge_pieces_are_no_pieces(tmp_path: Path) -> None:
    """A tile or strip is decoded whole: where it is large, a small part must not cost its memory."""
    for options in ({"rowsperstrip": 8192}, {"tile": (8192, 8192)}):
        path = tmp_path / "x.tif"
        tifffile.imwrite(path, np.zeros((16384, 4096), "u2"), compression="zlib", **options)
        with pytest.raises(RowRejected, match="16,384 × 4,096 px is more than the limit"):
            open_image(str(path), stack=False, limit_px=10**6)


def test_other_readers_use_the_limit_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 300, 400), "u2"))
    path = str(tmp_path / "x.npy")
    with pytest.raises(RowRejected, match="300 × 400 px is more than the limit"):
        read_image(path, limit_px=1000)
    with pytest.raises(RowRejected, match="300 × 400 px is more than the limit"):
        read_image(ImageSource((path,), index=1), limit_px=1000)
    assert read_image(path, limit_px=1000, box=Box(200, 300, 20, 50)).planes.shape == (2, 20, 50)
