"""Slides through one protocol: pyramids of every kind, regions, agreement of readers, and what is refused."""

from __future__ import annotations

import builtins
import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.errors import MissingDependency
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io import slide_levels, slide_tiff
from microsnoop.io.slide_levels import PieceCache
from microsnoop.io.slides import open_slide

H, W = 384, 512
KINDS = ("chain", "subifd", "ome", "deflate", "jpeg", "strips", "raw", "planar", "big")
SOME = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def _halved(array: NDArray) -> NDArray:
    height, width = array.shape[0] // 2, array.shape[1] // 2
    return np.rint(array.reshape(height, 2, width, 2, 3).mean((1, 3))).astype(np.uint8)


def _smooth(seed: int = 0) -> NDArray[np.uint8]:
    """A picture (H, W, 3) that JPEG keeps well, no part like another."""
    y, x = np.mgrid[:H, :W]
    rng = np.random.default_rng(seed)
    waves = [128 + 90 * np.sin(x / a + y / b) for a, b in rng.uniform(8, 40, (3, 2))]
    return np.stack(waves, axis=-1).astype(np.uint8)


def write_pyramid(path: Path, levels: list[NDArray], kind: str = "chain", mpp: float = 0.5) -> Path:
    options: dict[str, Any] = {"photometric": "rgb", "resolutionunit": "CENTIMETER", "tile": (64, 80)}
    options |= {
        "deflate": {"compression": "deflate"},
        "jpeg": {"compression": "jpeg", "compressionargs": {"level": 95}},
        "strips": {"tile": None, "rowsperstrip": 40, "compression": "deflate"},
        "raw": {"tile": None},
        "planar": {"planarconfig": "separate"},
    }.get(kind, {})
    nested = kind in ("subifd", "ome")
    first: dict[str, Any] | None = None
    if kind == "ome":
        units = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
        first = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, **units}
    with tifffile.TiffWriter(path, ome=kind == "ome", bigtiff=kind == "big") as tif:
        for k, level in enumerate(levels):
            array = np.moveaxis(level, -1, 0) if kind == "planar" else level
            extra: dict[str, Any] = {"metadata": first if k == 0 else None}
            if k:
                extra["subfiletype"] = 1
            elif nested:
                extra["subifds"] = len(levels) - 1
            tif.write(array, resolution=(1e4 / mpp / 2**k,) * 2, **options, **extra)
    return path


@pytest.fixture
def levels() -> list[NDArray]:
    base = _smooth()
    return [base, _halved(base), _halved(_halved(base))]


def naive_region(level: NDArray, x: int, y: int, width: int, height: int) -> NDArray:
    result = np.full((height, width, 3), 255, np.uint8)
    for row in range(max(0, y), min(level.shape[0], y + height)):
        for column in range(max(0, x), min(level.shape[1], x + width)):
            result[row - y, column - x] = level[row, column]
    return result


# ---------------------------------------------------------------- pyramids


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pyramid(kind: str, levels: list[NDArray], tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.ome.tif", levels, kind)
    with open_slide(str(path)) as reader:
        assert reader.slide_id == "slide"
        assert reader.path == str(path)
        assert reader.properties["reader"] == "tiff"
        assert reader.levels == ((512, 384, 1.0), (256, 192, 2.0), (128, 96, 4.0))
        assert reader.size_px == (512, 384)
        assert reader.mpp == pytest.approx((0.5, 0.5))
        assert reader.resolved_mpp().source == ("ome" if kind == "ome" else "tiff_tags")
        for number, level in enumerate(levels):
            height, width = level.shape[:2]
            found = reader.read_region(0, 0, level=number, width_px=width, height_px=height)
            lossy = kind == "jpeg"
            wanted = tifffile.imread(path, series=0, level=number) if lossy else level
            np.testing.assert_array_equal(found, wanted)
            assert found.dtype == np.uint8
            assert found.flags.writeable


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, list[NDArray]]]:
    base = _smooth(1)
    levels = [base, _halved(base), _halved(_halved(base))]
    path = write_pyramid(tmp_path_factory.mktemp("slides") / "a.tif", levels, "deflate")
    with open_slide(str(path), cache_bytes=100_000) as reader:
        yield reader, levels


@given(
    st.integers(-300, 700),
    st.integers(-300, 600),
    st.integers(0, 2),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
)
@SOME
def test_any_region_equals_a_loop(
    drawn: tuple[Any, list[NDArray]], x0: int, y0: int, level: int, size: tuple[int, int]
) -> None:
    reader, levels = drawn
    found = reader.read_region(x0, y0, level=level, width_px=size[0], height_px=size[1])
    wanted = naive_region(levels[level], round(x0 / 2**level), round(y0 / 2**level), *size)
    np.testing.assert_array_equal(found, wanted)


def test_positions_are_in_level_0_pixels(drawn: tuple[Any, list[NDArray]]) -> None:
    reader, levels = drawn
    found = reader.read_region(100, 60, level=2, width_px=30, height_px=20)
    np.testing.assert_array_equal(found, levels[2][15:35, 25:55])


def test_the_same_region_twice_is_the_same_and_independent(drawn: tuple[Any, list[NDArray]]) -> None:
    reader, levels = drawn
    first = reader.read_region(10, 20, level=0, width_px=64, height_px=64)
    first[...] = 0
    again = reader.read_region(10, 20, level=0, width_px=64, height_px=64)
    np.testing.assert_array_equal(again, levels[0][20:84, 10:74])


def test_the_cache_is_bounded(drawn: tuple[Any, list[NDArray]]) -> None:
    reader, _ = drawn
    reader.read_region(0, 0, level=0, width_px=W, height_px=H)
    assert 0 < reader._cache.nbytes <= 100_000


def test_a_cache_forgets_what_was_asked_longest_ago() -> None:
    cache, made = PieceCache(25), []

    def get(key: str, n_bytes: int = 10) -> None:
        cache.get(key, lambda: made.append(key) or np.zeros(n_bytes, np.uint8))  # type: ignore[func-returns-value]

    for key in ("a", "b", "a", "c", "a", "b"):
        get(key)
    assert made == ["a", "b", "c", "b"]
    get("large", 100)
    assert cache.nbytes == 100
    get("large", 100)
    assert made[-2:] == ["b", "large"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 3, "width_px": 5, "height_px": 5}, "has 3 levels, level 3"),
        ({"level": -1, "width_px": 5, "height_px": 5}, "level -1"),
        ({"level": 0, "width_px": 0, "height_px": 5}, "no pixels"),
    ],
)
def test_bad_arguments(drawn: tuple[Any, list[NDArray]], options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn[0].read_region(0, 0, **options)


@pytest.mark.parametrize("kind", ["chain", "subifd", "ome"])
def test_levels_that_show_something_else_are_left_out(
    kind: str, levels: list[NDArray], tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    write_pyramid(path, [*levels, np.zeros((80, 64, 3), np.uint8)], kind)
    with open_slide(str(path)) as reader:
        assert len(reader.levels) == 3


def test_a_label_beside_the_image_is_not_looked_at(levels: list[NDArray], tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(np.full((90, 70, 3), 77, np.uint8), photometric="rgb", metadata=None)
        tif.write(levels[0], photometric="rgb", tile=(64, 64), metadata=None)
    with open_slide(str(path), mpp=0.5) as reader:
        assert reader.levels == ((512, 384, 1.0),)
        assert not any("label" in key or "macro" in key for key in reader.properties)


@pytest.mark.parametrize("samples", [1, 4])
def test_grey_and_transparent_pictures_become_colours(samples: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (96, 128, samples), dtype=np.uint8)
    if samples == 4:
        array[..., 3] = rng.choice([0, 100, 255], (96, 128))
        wanted = np.rint(array[..., :3] * (array[..., 3:] / 255) + 255 * (1 - array[..., 3:] / 255))
        options: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    else:
        wanted, options = np.repeat(array, 3, axis=2), {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", array if samples == 4 else array[..., 0], tile=(32, 48), **options)
    with open_slide(str(tmp_path / "a.tif")) as reader:
        found = reader.read_region(0, 0, level=0, width_px=128, height_px=96)
    np.testing.assert_allclose(found, wanted, atol=1)
    assert (found[array[..., -1] == 0] == 255).all() or samples == 1


def test_tiles_that_were_not_written_are_white(levels: list[NDArray], tmp_path: Path) -> None:
    path = tmp_path / "a.tif"

    def tiles() -> Iterator[NDArray | None]:
        for k in range(48):
            yield None if k == 9 else np.full((64, 64, 3), k, np.uint8)

    with tifffile.TiffWriter(path) as tif:
        tif.write(
            tiles(), shape=(H, W, 3), dtype=np.uint8, tile=(64, 64), photometric="rgb", compression="lzw"
        )
    with open_slide(str(path)) as reader:
        found = reader.read_region(0, 0, level=0, width_px=W, height_px=H)
    assert (found[64:128, 64:128] == 255).all()
    assert (found[64:128, 128:192] == 10).all()


# ---------------------------------------------------------------- OpenSlide


@pytest.mark.parametrize("kind", ["chain", "deflate", "jpeg"])
def test_openslide_agrees_to_the_pixel(kind: str, levels: list[NDArray], tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = str(write_pyramid(tmp_path / "a.tif", levels, kind))
    with open_slide(path, reader="openslide") as theirs, open_slide(path, reader="tiff") as ours:
        assert theirs.levels == ours.levels
        assert theirs.mpp == pytest.approx(ours.mpp)
        assert theirs.resolved_mpp().source == "slide"
        for x0, y0, level, width, height in (
            (0, 0, 0, W, H),
            (0, 0, 2, 128, 96),
            (100, 60, 1, 90, 70),
            (-40, -24, 2, 60, 50),
            (480, 360, 0, 64, 64),
            (4000, 0, 0, 5, 7),
        ):
            region = {"level": level, "width_px": width, "height_px": height}
            np.testing.assert_array_equal(
                theirs.read_region(x0, y0, **region), ours.read_region(x0, y0, **region)
            )


def test_plain_tiff_does_not_need_openslide(
    levels: list[NDArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pyramid(tmp_path / "a.tif", levels)
    imported = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "openslide":
            raise ImportError("not installed")
        return imported(name, *rest)

    for module in [name for name in sys.modules if name.split(".")[0] == "openslide"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with open_slide(str(path)) as reader:
        assert reader.read_region(0, 0, level=2, width_px=9, height_px=8).shape == (8, 9, 3)
    with pytest.raises(MissingDependency) as caught:
        open_slide(str(path), reader="openslide")
    assert "slides" in caught.value.hint
    # its first bytes are those of a JPEG thumbnail, which is not the slide
    Image.fromarray(levels[2]).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "b.mrxs")
    with pytest.raises(MissingDependency):
        open_slide(str(tmp_path / "b.mrxs"))


def test_openslide_goes_on_after_a_bad_tile(levels: list[NDArray], tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    path = write_pyramid(tmp_path / "a.tif", levels[:1], "jpeg")
    _damage(path, tile=0)
    for kind in ("openslide", "tiff"):
        with open_slide(str(path), reader=kind) as reader:  # type: ignore[arg-type]
            for _ in range(2):
                with pytest.raises(SlideError) as caught:
                    reader.read_region(0, 0, level=0, width_px=20, height_px=20)
                assert caught.value.code == SlideCode.DECODE_ERROR
                assert str(path) in caught.value.message
                assert not reader._opened  # the next read begins with a sound handle
                found = reader.read_region(160, 128, level=0, width_px=80, height_px=64)
                assert np.abs(found.astype(int) - levels[0][128:192, 160:240]).mean() < 3


def _damage(path: Path, *, tile: int) -> None:
    with tifffile.TiffFile(path) as tif:
        start, count = tif.pages[0].dataoffsets[tile], tif.pages[0].databytecounts[tile]
    data = bytearray(path.read_bytes())
    data[start : start + count] = b"\x00" * count
    path.write_bytes(data)


# ---------------------------------------------------------------- failures


def test_a_failure_that_passes_is_not_seen(
    levels: list[NDArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pyramid(tmp_path / "a.tif", levels, "deflate")
    decode, calls = slide_tiff.TiffSlideReader._decode, []

    def flaky(self: Any, *place: Any) -> Any:
        calls.append(place)
        if len(calls) in failing:
            raise OSError("the network is away")
        return decode(self, *place)

    monkeypatch.setattr(slide_tiff.TiffSlideReader, "_decode", flaky)
    failing = {1}
    with open_slide(str(path)) as reader:
        found = reader.read_region(0, 0, level=0, width_px=20, height_px=20)
        np.testing.assert_array_equal(found, levels[0][:20, :20])
        assert len(calls) == 2
        calls.clear()
        failing = {1, 2}
        with pytest.raises(
            SlideError, match=r"a\.tif: level 0, 20 × 20 px at x 300, y 0: .*network"
        ) as caught:
            reader.read_region(300, 0, level=0, width_px=20, height_px=20)
        assert caught.value.code == SlideCode.DECODE_ERROR
        assert len(calls) == 2  # one retry, not more
        reader.read_region(300, 0, level=0, width_px=20, height_px=20)


def test_a_truncated_file(levels: list[NDArray], tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", levels[:1], "deflate")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with open_slide(str(path)) as reader:
        np.testing.assert_array_equal(
            reader.read_region(0, 0, level=0, width_px=64, height_px=64), levels[0][:64, :64]
        )
        with pytest.raises(SlideError, match="truncated"):
            reader.read_region(400, 300, level=0, width_px=64, height_px=64)


def test_a_large_untiled_tiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((96, 128, 3), np.uint8), photometric="rgb")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((96, 128, 3), np.uint8), photometric="rgb", tile=(32, 32))
    monkeypatch.setattr(slide_tiff, "LIMIT_PX", 96 * 128)
    open_slide(str(tmp_path / "a.tif")).close()
    monkeypatch.setattr(slide_tiff, "LIMIT_PX", 96 * 128 - 1)
    with pytest.raises(SlideError, match="must be tiled") as caught:
        open_slide(str(tmp_path / "a.tif"))
    assert caught.value.code == SlideCode.UNTILED
    assert "--tile --pyramid" in caught.value.hint
    open_slide(str(tmp_path / "b.tif")).close()


def test_the_limit_is_200_megapixels() -> None:
    assert slide_levels.LIMIT_PX == 200_000_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "No such file"),
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_bytes(b"no slide at all"), "known format"),
        (lambda p: p.mkdir(), "folder"),
        (lambda p: np.save(p.open("wb"), np.zeros((3, 4))), "kind npy"),
        (lambda p: tifffile.imwrite(p, np.zeros((96, 128), np.uint16), tile=(32, 32)), "8 bits"),
        (
            lambda p: tifffile.imwrite(p, np.zeros((5, 96, 128), np.uint8), photometric="minisblack"),
            "not a colour picture",
        ),
        (lambda p: p.write_bytes(b"II*\x00" + b"\xff" * 40), "cannot be read"),
    ],
)
def test_what_is_no_slide(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    make(path)
    with pytest.raises(SlideError, match=message) as caught:
        open_slide(str(path))
    assert caught.value.code == SlideCode.DECODE_ERROR
    assert caught.value.message.count(str(path)) >= 1
    assert caught.value.hint


def test_a_reader_does_not_travel(drawn: tuple[Any, list[NDArray]]) -> None:
    with pytest.raises(TypeError, match="send its path"):
        copy.copy(drawn[0])


def test_after_closing_a_read_opens_again(levels: list[NDArray], tmp_path: Path) -> None:
    reader = open_slide(str(write_pyramid(tmp_path / "a.tif", levels)))
    reader.close()
    reader.close()
    found = reader.read_region(0, 0, level=0, width_px=7, height_px=6)
    np.testing.assert_array_equal(found, levels[0][:6, :7])
    reader.close()


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_plain_pictures(suffix: str, levels: list[NDArray], tmp_path: Path) -> None:
    path = tmp_path / f"my.slide.{suffix}"
    Image.fromarray(levels[0]).save(path, dpi=(25400, 25400))  # 1 µm a dot, which is for printing
    with open_slide(str(path)) as reader:
        assert reader.slide_id == "my.slide"
        assert reader.levels == ((W, H, 1.0),)
        assert reader.mpp is None
        with pytest.raises(SlideError, match="the file says nothing") as caught:
            reader.resolved_mpp()
        assert caught.value.code == SlideCode.MPP_MISSING
        found = reader.read_region(-10, 20, level=0, width_px=60, height_px=40)
    wanted = np.asarray(Image.open(path))
    np.testing.assert_array_equal(found, naive_region(wanted, -10, 20, 60, 40))
    with open_slide(str(path), mpp=0.25, slide_id="s") as reader:
        assert reader.mpp == (0.25, 0.25)
        assert reader.slide_id == "s"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "CMYK", "1"])
def test_pictures_of_every_mode(mode: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgba = Image.fromarray(rng.integers(0, 256, (48, 64, 4), dtype=np.uint8), "RGBA")
    picture = rgba.convert("RGB").convert(mode) if mode in ("CMYK", "P", "L", "1") else rgba.convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture.save(path)
    stored = Image.open(path).convert("RGBA")
    wanted = Image.alpha_composite(Image.new("RGBA", stored.size, "white"), stored).convert("RGB")
    with open_slide(str(path)) as reader:
        found = reader.read_region(0, 0, level=0, width_px=64, height_px=48)
    np.testing.assert_allclose(found.astype(int), np.asarray(wanted, int), atol=1)


def test_pictures_that_are_too_large_or_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from microsnoop.io import slide_plain

    Image.fromarray(np.zeros((48, 64), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(SlideError, match="not 8 bits"):
        open_slide(str(tmp_path / "deep.png"))
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    monkeypatch.setattr(slide_plain, "LIMIT_PX", 64 * 48)
    open_slide(str(tmp_path / "a.png")).close()
    monkeypatch.setattr(slide_plain, "LIMIT_PX", 64 * 48 - 1)
    with pytest.raises(SlideError, match="megapixels") as caught:
        open_slide(str(tmp_path / "a.png"))
    assert caught.value.code == SlideCode.UNTILED
    assert "vips" in caught.value.hint


def test_a_truncated_picture(tmp_path: Path, levels: list[NDArray]) -> None:
    Image.fromarray(levels[0]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with open_slide(str(tmp_path / "a.png")) as reader, pytest.raises(SlideError, match=r"a\.png"):
        reader.read_region(0, 0, level=0, width_px=5, height_px=5)
