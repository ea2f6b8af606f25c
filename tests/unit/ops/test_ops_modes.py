"""Which windows of a region are embedded, at what scale, and which regions are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microsnoop.core.config import EmbedConfig
from microsnoop.core.config_file import build_config
from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.ops.geometry import Box, place, scaled_px, tile_boxes
from microsnoop.ops.modes import Window, keyed_generator, scale_factor, windows

PROPERTY = settings(deadline=None, derandomize=True, max_examples=100)
FIELD = Box(0, 0, 520, 1040)
CELL = Box(-10, 100, 96, 128)


def config(**overrides: Any) -> EmbedConfig:
    data = {"input": {"folder": "x"}, "run_dir": "r"}
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return build_config(data, overrides=dotted, model=EmbedConfig, where="test")


def chosen(region: Box, cfg: EmbedConfig, **options: Any) -> tuple[list[Window], list[Flag]]:
    return windows(region, cfg, **{"side_px": 224, "pixel_size_um": None, "draw_key": "img", **options})


# ---------------------------------------------------------------- rescale


@pytest.mark.parametrize("region", [FIELD, CELL, Box(0, 0, 1, 1), Box(0, 0, 5000, 3)])
def test_rescale_takes_the_whole_region(region: Box) -> None:
    assert chosen(region, config(mode="rescale")) == ([Window(region, None, is_tile=False)], [])


# ---------------------------------------------------------------- native


def test_native_keeps_the_scale() -> None:
    assert chosen(CELL, config(mode="native")) == ([Window(CELL, 1.0, is_tile=False)], [])


def test_native_scales_by_the_factor_asked_for() -> None:
    region = Box(0, 0, 400, 448)
    cfg = config(mode="native", native__rescale_factor=0.5)
    assert chosen(region, cfg) == ([Window(region, 0.5)], [])


@pytest.mark.parametrize("region", [Box(0, 0, 225, 10), Box(0, 0, 10, 225), Box(-50, -50, 225, 225)])
def test_native_refuses_what_does_not_fit_and_says_what_to_do(region: Box) -> None:
    with pytest.raises(RowRejected, match=f"{region.height_px} × {region.width_px} px") as caught:
        chosen(region, config(mode="native"))
    assert caught.value.code is RejectCode.TOO_LARGE_FOR_NATIVE
    assert "tile" in caught.value.message  # spec 9: the error names `tile`
    assert "224" in caught.value.message


def test_native_takes_what_just_fits_after_rounding_down() -> None:
    cfg = config(mode="native", native__rescale_factor=0.5)
    assert chosen(Box(0, 0, 449, 3), cfg)[0][0].factor == 0.5  # floor(224.5) = 224
    with pytest.raises(RowRejected):
        chosen(Box(0, 0, 450, 3), cfg)


def test_the_side_of_the_input_decides() -> None:
    region = Box(0, 0, 96, 128)
    assert chosen(region, config(mode="native"), side_px=128)[0] == [Window(region, 1.0)]
    with pytest.raises(RowRejected):
        chosen(region, config(mode="native"), side_px=120)


def test_pixel_size_sets_the_scale() -> None:
    cfg = config(mode="native", native__target_um_per_px=0.5)
    assert chosen(CELL, cfg, pixel_size_um=0.25) == ([Window(CELL, 0.5)], [])
    assert scale_factor(cfg, 1.0) == 2.0
    assert (
        scale_factor(config(native__rescale_factor=0.7), 0.25) == 0.7
    )  # no target: the file's size is ignored
    assert scale_factor(config(), None) == 1.0


def test_a_target_without_a_pixel_size_is_refused() -> None:
    cfg = config(mode="native", native__target_um_per_px=0.5)
    with pytest.raises(RowRejected, match="needs the pixel size") as caught:
        chosen(CELL, cfg)
    assert isinstance(caught.value.code, RejectCode)


def test_oversize_native_becomes_tiles_only_where_asked_and_is_flagged() -> None:
    cfg = config(mode="native", native__on_oversize="tile")
    found, flags = chosen(FIELD, cfg)
    assert flags == [Flag.AUTO_TILED]
    tiles, no_flags = chosen(FIELD, config(mode="tile"))
    assert found == tiles
    assert no_flags == []
    assert chosen(CELL, cfg) == ([Window(CELL, 1.0)], [])  # it fits: neither tiled nor flagged


def test_oversize_native_keeps_its_scale_in_the_tiles() -> None:
    cfg = config(mode="native", native__on_oversize="tile", native__rescale_factor=0.5)
    found, flags = chosen(Box(30, -40, 600, 1000), cfg)
    assert flags == [Flag.AUTO_TILED]
    # 224 px of input show 448 px of the image: ceil(1.2 * 600 / 448) = 2, ceil(1.2 * 1000 / 448) = 3
    assert [window.box for window in found] == [
        Box(30 + y, -40 + x, 448, 448) for y in (0, 152) for x in (0, 276, 552)
    ]
    assert {window.factor for window in found} == {0.5}
    assert all(window.is_tile for window in found)


@PROPERTY
@given(
    st.integers(-300, 300),
    st.integers(-300, 300),
    st.integers(1, 1500),
    st.integers(1, 1500),
    st.floats(0.1, 8),
    st.sampled_from([40, 96, 224]),
    st.floats(0.05, 0.5),
)
def test_native_tiles_cover_the_region_and_fit_the_input(
    y0_px: int, x0_px: int, height_px: int, width_px: int, factor: float, side_px: int, overlap: float
) -> None:
    region = Box(y0_px, x0_px, height_px, width_px)
    assume(max(height_px, width_px) * factor / side_px < 12)
    cfg = config(
        mode="native", native__on_oversize="tile", native__rescale_factor=factor, tile__overlap=overlap
    )
    found, flags = chosen(region, cfg, side_px=side_px)
    fits = scaled_px(max(height_px, width_px), factor) <= side_px
    assert flags == ([] if fits else [Flag.AUTO_TILED])
    assert len(found) == 1 or not fits
    seen = np.zeros((height_px, width_px), bool)
    for window in found:
        box = window.box
        assert window.is_tile is not fits
        assert max(scaled_px(box.height_px, factor), scaled_px(box.width_px, factor)) <= side_px
        y, x = box.y0_px - y0_px, box.x0_px - x0_px
        assert Box(y, x, box.height_px, box.width_px).inside(height_px, width_px)
        seen[y : y + box.height_px, x : x + box.width_px] = True
    assert seen.all()


def test_every_window_handed_out_can_be_placed() -> None:
    cfg = config(mode="native", native__on_oversize="tile", native__rescale_factor=300.0)
    try:
        found, _ = chosen(Box(0, 0, 5, 6), cfg)
    except RowRejected:
        return
    place(found[0].box, (5, 6), side_px=224, factor=found[0].factor)


# ---------------------------------------------------------------- tile


def test_tiles_of_an_image() -> None:
    found, flags = chosen(FIELD, config(mode="tile"))
    # spec 9: starts at o = 0.1 for 520 px; 1040 px: ceil(1.2 * 1040 / 224) = 6 starts over 816 px
    xs = [0, 163, 326, 489, 652, 816]
    assert [window.box for window in found] == [Box(y, x, 224, 224) for y in (0, 148, 296) for x in xs]
    assert {window.factor for window in found} == {1.0}
    assert all(window.is_tile for window in found)
    assert flags == []


def test_tiles_ignore_the_scale_of_native_mode() -> None:
    cfg = config(mode="tile", native__rescale_factor=0.5)
    assert chosen(FIELD, cfg) == chosen(FIELD, config(mode="tile"))


def test_tiles_of_a_cell_stand_in_its_image() -> None:
    region = Box(-10, 100, 300, 224)
    found, _ = chosen(region, config(mode="tile", tile__overlap=0.5))
    assert [window.box for window in found] == [Box(y, 100, 224, 224) for y in (-10, 28, 66)]


def test_a_region_that_fits_is_one_tile_of_its_own_size() -> None:
    assert chosen(CELL, config(mode="tile")) == ([Window(CELL, 1.0, is_tile=True)], [])


def test_overlap_of_the_configuration_is_used() -> None:
    for overlap in (0.05, 0.5):
        found, _ = chosen(FIELD, config(mode="tile", tile__overlap=overlap))
        assert [w.box for w in found] == tile_boxes(520, 1040, window_px=224, overlap=overlap)


# ---------------------------------------------------------------- drawing tiles


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.5, 0.9, 0.999])
def test_rate_keeps_a_share_rounded_up(rate: float) -> None:
    everything, _ = chosen(FIELD, config(mode="tile"))
    found, _ = chosen(FIELD, config(mode="tile", tile__rate=rate))
    assert len(found) == math.ceil(rate * len(everything))  # spec 9
    assert [w for w in everything if w in found] == found  # a subset, each once, in the same order


def test_rate_keeps_the_exact_share() -> None:
    region = Box(0, 0, 900, 900)
    assert len(chosen(region, config(mode="tile"))[0]) == 25
    assert len(chosen(region, config(mode="tile", tile__rate=0.28))[0]) == 7


def test_the_draw_depends_on_seed_and_identity_only() -> None:
    cfg = config(mode="tile", tile__rate=0.5)
    first = chosen(FIELD, cfg)
    for key in ("other", "a", "b"):  # what is drawn in between does not matter
        chosen(FIELD, cfg, draw_key=key)
    assert chosen(FIELD, cfg) == first
    assert chosen(FIELD, cfg, draw_key="other") != first
    assert chosen(FIELD, config(mode="tile", tile__rate=0.5, seed=1)) != first
    # another place, the same identity: the same tiles of the region
    moved, _ = chosen(Box(7, -9, 520, 1040), cfg)
    assert [(w.box.y0_px - 7, w.box.x0_px + 9) for w in moved] == [
        (w.box.y0_px, w.box.x0_px) for w in first[0]
    ]


def test_auto_tiled_images_are_drawn_too() -> None:
    cfg = config(mode="native", native__on_oversize="tile", tile__rate=0.5)
    assert chosen(FIELD, cfg)[0] == chosen(FIELD, config(mode="tile", tile__rate=0.5))[0]


def test_every_tile_has_the_same_chance() -> None:
    cfg = config(mode="tile", tile__rate=1 / 3)
    region = Box(0, 0, 520, 520)
    counts: dict[Box, int] = {}
    for i in range(900):
        for window in chosen(region, cfg, draw_key=f"img{i}")[0]:
            counts[window.box] = counts.get(window.box, 0) + 1
    assert len(counts) == 9
    # 3 of 9 tiles, 900 draws: 300 each, standard deviation 14
    assert all(abs(n - 300) < 70 for n in counts.values()), counts


# ---------------------------------------------------------------- generators


def test_keyed_generator_gives_known_numbers() -> None:
    # changing this changes which tiles every earlier run kept
    found = [int(keyed_generator(0, "tile", "img").bit_generator.random_raw()) for _ in range(2)]
    assert found == [8557429195484712968, 8557429195484712968]


def test_keyed_generator_tells_its_three_keys_apart() -> None:
    keys = [
        (0, "tile", "a"),
        (1, "tile", "a"),
        (0, "mask", "a"),
        (0, "tile", "b"),
        (0, "til", "ea"),
        (0, "", ""),
    ]
    keys += [(11, "", "a"), (1, "1", "a"), (1, "1a", "")]
    firsts = {int(keyed_generator(*key).integers(2**62)) for key in keys}
    assert len(firsts) == len(keys)


@PROPERTY
@given(st.integers(0, 2**63), st.text(max_size=8), st.text(max_size=20))
def test_keyed_generator_is_a_function_of_its_key(seed: int, purpose: str, obs_id: str) -> None:
    a, b = (keyed_generator(seed, purpose, obs_id).random(4) for _ in range(2))
    np.testing.assert_array_equal(a, b)
