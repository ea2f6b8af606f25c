"""Windows around cells: the geometry of spec section 10, one reject code for each rule, every object accounted for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.core.codes import Flag, RejectCode
from microsnoop.ops.cell_windows import CellWindow, CropRules, Skipped, erase_outside, plan_cells
from microsnoop.ops.geometry import Box, apply_placement, cut, place, scaled_px
from microsnoop.ops.objects import merge_tables, object_table

PROPERTY = settings(deadline=None, derandomize=True, max_examples=200)
IMAGE_PX = (240, 320)
BASE = CropRules(kind="region", ratio=2.0, window_px=224, oversize="cap", min_area_px=0)
Freeze = Callable[[NDArray], NDArray]
Spans = tuple[int, int, int, int]


def rules(**changes: Any) -> CropRules:
    return dataclasses.replace(BASE, **changes)


def mask_of(*boxes: Spans, image_px: tuple[int, int] = IMAGE_PX) -> NDArray[np.int32]:
    """A mask of full boxes (y0, x0, y1, x1), labelled 10, 20, ..."""
    mask = np.zeros(image_px, np.int32)
    for i, (y0, x0, y1, x1) in enumerate(boxes, 1):
        mask[y0:y1, x0:x1] = 10 * i
    return mask


def plan(mask: NDArray[Any], used: CropRules, *, seed: int = 0) -> list[CellWindow | Skipped]:
    table = object_table(mask)
    return plan_cells(table, used, image_px=mask.shape, generator_for_draw=np.random.default_rng(seed))


def window_of(box: Spans, *, image_px: tuple[int, int] = IMAGE_PX, **changes: Any) -> CellWindow:
    (entry,) = plan(mask_of(box, image_px=image_px), rules(**changes))
    assert isinstance(entry, CellWindow), entry
    return entry


def codes(entries: list[CellWindow | Skipped]) -> list[str]:
    return [str(entry.code) if isinstance(entry, Skipped) else "kept" for entry in entries]


# ---------------------------------------------------------------- windows


def test_the_specs_own_example() -> None:
    # spec 15: rows 30..69 (extent 40), ratio 2 -> centre 50, q = 80
    found = window_of((30, 100, 70, 120), exclude_border=False)
    assert found == CellWindow(Box(50 - 80, 110 - 80, 160, 160), 1.0, ())


def test_ratio_1_spans_twice_the_object_and_ratio_2_four_times() -> None:
    box = (100, 120, 120, 130)
    assert window_of(box, ratio=1.0).box == Box(90, 105, 40, 40)
    assert window_of(box, ratio=2.0).box == Box(70, 85, 80, 80)


@pytest.mark.parametrize(("ratio", "half"), [(0.5, 2), (0.7, 4), (1.5, 8), (0.3, 2), (0.01, 1)])
def test_half_side_is_rounded_half_to_even_and_at_least_one(ratio: float, half: int) -> None:
    assert window_of((100, 120, 105, 123), ratio=ratio).box.height_px == 2 * half


def test_a_half_side_replaces_the_ratio() -> None:
    assert window_of((100, 120, 120, 130), half_side_px=33).box == Box(110 - 33, 125 - 33, 66, 66)


@pytest.mark.parametrize(("window_px", "side_px"), [(64, 64), (65, 64), (100, 100)])
def test_fixed_takes_the_window_whatever_the_object(window_px: int, side_px: int) -> None:
    found = window_of((100, 120, 111, 130), kind="fixed", window_px=window_px)
    assert found.box == Box(105 - side_px // 2, 125 - side_px // 2, side_px, side_px)


@pytest.mark.parametrize("kind", ["bbox", "mask"])
def test_the_box_itself_is_the_window_and_need_not_be_square(kind: str) -> None:
    # 10 x 10 object: 100 pixels, where the published code crops 81
    found = window_of((30, 50, 40, 60), kind=kind, oversize="shrink")
    assert found == CellWindow(Box(30, 50, 10, 10), 1.0, ())
    assert window_of((30, 50, 37, 90), kind=kind).box == Box(30, 50, 7, 40)


# ---------------------------------------------------------------- larger than the window


def test_cap_takes_the_central_part_and_flags_only_what_cuts_the_object() -> None:
    small, large = (100, 100, 130, 130), (100, 100, 130, 181)
    assert window_of(small, window_px=80) == CellWindow(Box(75, 75, 80, 80), 1.0, ())
    assert window_of(large, window_px=80) == CellWindow(Box(75, 100, 80, 80), 1.0, (Flag.TRUNCATED,))
    assert window_of(large, window_px=80, kind="fixed").flags == (Flag.TRUNCATED,)
    assert window_of(large, window_px=82).flags == ()
    assert window_of(large, window_px=81).flags == (Flag.TRUNCATED,)  # an odd window gives 80


def test_cap_of_a_box_cuts_only_the_longer_side() -> None:
    found = window_of((100, 100, 130, 181), window_px=60, kind="bbox", oversize="cap")
    assert found == CellWindow(Box(100, 110, 30, 60), 1.0, (Flag.TRUNCATED,))


def test_shrink_keeps_the_region_and_scales_it_to_the_window() -> None:
    found = window_of((100, 100, 140, 120), window_px=100, oversize="shrink")
    assert found == CellWindow(Box(40, 30, 160, 160), 100 / 160, (Flag.SHRUNK,))
    tall = window_of((50, 100, 150, 120), window_px=64, kind="bbox", oversize="shrink")
    assert tall == CellWindow(Box(50, 100, 100, 20), 0.64, (Flag.SHRUNK,))
    assert window_of((50, 100, 114, 120), window_px=64, kind="bbox", oversize="shrink").factor == 1.0


@PROPERTY
@given(st.integers(9, 5000), st.integers(8, 512))
def test_a_shrunk_side_is_the_window_to_the_pixel(side_px: int, window_px: int) -> None:
    if side_px > window_px:
        assert scaled_px(side_px, window_px / side_px) == window_px


def test_reject_names_the_sides() -> None:
    entries = plan(mask_of((50, 100, 150, 120), (20, 20, 40, 40)), rules(window_px=80, oversize="reject"))
    assert codes(entries) == ["oversize", "kept"]
    assert isinstance(entries[0], Skipped)
    assert entries[0].message == "a window of 400 × 400 px, allowed: 80 px"


# ---------------------------------------------------------------- the border


SIDES = {
    "top": lambda gap: (gap, 100, 30, 120),
    "left": lambda gap: (100, gap, 120, 30),
    "bottom": lambda gap: (200, 100, IMAGE_PX[0] - gap, 120),
    "right": lambda gap: (100, 290, 120, IMAGE_PX[1] - gap),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("margin", [0, 1, 5])
def test_objects_at_each_side_are_rejected_and_one_pixel_inside_kept(side: str, margin: int) -> None:
    at, inside = mask_of(SIDES[side](margin)), mask_of(SIDES[side](margin + 1))
    (entry,) = plan(at, rules(border_margin_px=margin))
    assert isinstance(entry, Skipped)
    assert entry.code is RejectCode.BORDER_CELL
    assert f"more than {margin} px from every border" in entry.message
    assert codes(plan(inside, rules(border_margin_px=margin))) == ["kept"]
    assert codes(plan(at, rules(border_margin_px=margin, exclude_border=False))) == ["kept"]


@pytest.mark.parametrize("side", SIDES)
def test_aligned_to_the_object_its_centre_stays_in_the_middle(side: str) -> None:
    box = SIDES[side](1)
    mask = mask_of(box)
    found = window_of(box, half_side_px=112)
    assert not found.box.inside(*IMAGE_PX)
    placed = apply_placement(
        cut(mask[None], found.box).astype(np.float32),
        place(found.box, IMAGE_PX, side_px=224, factor=found.factor),
    )[0]
    ys, xs = np.nonzero(placed)
    middle = ((ys.min() + ys.max() + 1) // 2, (xs.min() + xs.max() + 1) // 2)
    assert middle == (112, 112)  # spec 15
    assert np.count_nonzero(placed) == np.count_nonzero(mask)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        ("top", Box(0, 10, 115, 200)),
        ("left", Box(10, 0, 200, 115)),
        ("bottom", Box(119, 10, 121, 200)),
        ("right", Box(10, 204, 200, 116)),
    ],
)
def test_aligned_to_the_crop_the_window_is_clipped(side: str, expected: Box) -> None:
    assert window_of(SIDES[side](1), half_side_px=100, align="crop").box == expected


def test_aligned_to_the_crop_only_what_is_left_counts_as_oversize() -> None:
    box = (1, 1, 41, 41)  # centre 21, half side 80: 101 px are left
    assert window_of(box, align="crop", oversize="shrink", window_px=101) == CellWindow(Box(0, 0, 101, 101))
    found = window_of(box, align="object", oversize="shrink", window_px=101)
    assert found == CellWindow(Box(-59, -59, 160, 160), 101 / 160, (Flag.SHRUNK,))


# ---------------------------------------------------------------- which objects


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0, None), ["kept", "kept", "kept"]),
        ((100, None), ["area_out_of_range", "kept", "kept"]),
        ((101, 399), ["area_out_of_range", "area_out_of_range", "area_out_of_range"]),
        ((0, 400), ["kept", "kept", "kept"]),
        ((99.5, 399.5), ["area_out_of_range", "kept", "area_out_of_range"]),
    ],
)
def test_area_limits_are_inclusive(limits: tuple[float, float | None], expected: list[str]) -> None:
    mask = mask_of((50, 50, 59, 59), (50, 100, 60, 110), (50, 150, 70, 170))
    entries = plan(mask, rules(min_area_px=limits[0], max_area_px=limits[1]))
    assert codes(entries) == expected
    for entry, area in zip(entries, (81, 100, 400), strict=True):
        assert not isinstance(entry, Skipped) or f"area of {area} px" in entry.message


def test_the_first_rule_that_speaks_against_an_object_names_it() -> None:
    tiny_at_border, huge_at_border, huge = (0, 50, 2, 52), (0, 100, 90, 110), (20, 150, 120, 160)
    mask = mask_of(tiny_at_border, huge_at_border, huge, (100, 200, 110, 210))
    entries = plan(mask, rules(min_area_px=16, window_px=80, oversize="reject"))
    assert codes(entries) == ["area_out_of_range", "border_cell", "oversize", "kept"]


def test_area_is_of_the_object_not_of_its_box_and_pieces_are_flagged() -> None:
    mask = mask_of((50, 50, 51, 52), (90, 100, 91, 102))
    mask[mask == 20] = 10
    mask[100:110, 200:210] = 30
    entries = plan(mask, rules())
    assert [entry.flags for entry in entries if isinstance(entry, CellWindow)] == [(Flag.FRAGMENTED,), ()]
    assert codes(plan(mask, rules(min_area_px=5))) == ["area_out_of_range", "kept"]


def test_pieces_that_are_unknown_are_not_flagged() -> None:
    mask = mask_of((50, 50, 150, 60))
    halves = [object_table(mask[y : y + 120], origin_px=(y, 0), image_px=IMAGE_PX) for y in (0, 120)]
    table = merge_tables(halves)
    assert table.n_pieces.tolist() == [-1]
    (entry,) = plan_cells(table, BASE, image_px=IMAGE_PX, generator_for_draw=np.random.default_rng(0))
    assert entry == plan(mask, BASE)[0] == CellWindow(Box(-12, -57, 224, 224), 1.0, ())


def test_flags_come_together() -> None:
    mask = mask_of((50, 50, 150, 60), (50, 70, 150, 80))
    mask[mask == 20] = 10
    (capped,) = plan(mask, rules(window_px=64))
    (shrunk,) = plan(mask, rules(window_px=64, oversize="shrink"))
    assert isinstance(capped, CellWindow)
    assert isinstance(shrunk, CellWindow)
    assert capped.flags == (Flag.FRAGMENTED, Flag.TRUNCATED)
    assert shrunk.flags == (Flag.FRAGMENTED, Flag.SHRUNK)


def test_a_table_of_another_image_is_refused() -> None:
    table = object_table(mask_of((100, 300, 120, 310)))
    for image_px in ((240, 305), (110, 320), (320, 240)):
        with pytest.raises(ValueError, match="outside an image"):
            plan_cells(table, BASE, image_px=image_px, generator_for_draw=np.random.default_rng(0))


def test_an_empty_table_gives_no_windows() -> None:
    for kind in ("region", "fixed", "bbox", "mask"):
        for oversize in ("cap", "shrink", "reject"):
            assert plan(np.zeros(IMAGE_PX, np.uint8), rules(kind=kind, oversize=oversize, max_cells=1)) == []


# ---------------------------------------------------------------- the draw


def grid(n: int) -> list[Spans]:
    """``n`` objects of 5 × 5 px, none at the border."""
    return [(4 + 8 * (i // 30), 4 + 8 * (i % 30), 9 + 8 * (i // 30), 9 + 8 * (i % 30)) for i in range(n)]


def kept_labels(mask: NDArray[Any], used: CropRules, *, seed: int = 0) -> list[int]:
    labels = object_table(mask).label.tolist()
    entries = plan(mask, used, seed=seed)
    return [label for label, e in zip(labels, entries, strict=True) if isinstance(e, CellWindow)]


def test_every_nth_of_the_eligible_is_kept_by_label() -> None:
    mask = mask_of(*grid(10))
    assert kept_labels(mask, rules(every_nth=3)) == [10, 40, 70, 100]
    mask[mask == 40] = 0
    mask[0, 0] = 1  # not eligible, so it does not count
    assert kept_labels(mask, rules(every_nth=3)) == [10, 50, 80]
    entries = plan(mask, rules(every_nth=3))
    assert codes(entries)[:3] == ["border_cell", "kept", "not_drawn"]
    assert isinstance(entries[2], Skipped)
    assert entries[2].message == "every_nth: 3 keeps 3 of 9 eligible objects"


def test_max_cells_keeps_so_many_and_says_so() -> None:
    mask = mask_of(*grid(40))
    entries = plan(mask, rules(max_cells=15, every_nth=2))
    assert codes(entries).count("kept") == 15
    assert codes(entries).count("not_drawn") == 25
    messages = {entry.message for entry in entries if isinstance(entry, Skipped)}
    assert "max_cells: 15 of 20 eligible objects are drawn" in messages
    assert len(kept_labels(mask, rules(max_cells=40))) == len(kept_labels(mask, rules(max_cells=99))) == 40


def test_the_draw_depends_on_generator_and_eligible_labels_only() -> None:
    mask = mask_of(*grid(60))
    used = rules(max_cells=20, min_area_px=10)
    first = kept_labels(mask, used)
    assert first == kept_labels(mask, used)
    assert first != kept_labels(mask, used, seed=1)
    with_others = mask.copy()
    with_others[0, :50] = 1  # at the border, label before all others
    with_others[200:202, 300:302] = 305  # too small, label between others
    with_others[-1, -9:] = 2**31 - 1
    assert kept_labels(with_others, used) == first
    assert kept_labels(mask[::-1].copy(), used) == first, "where an object lies must not matter"


def test_every_object_has_the_same_chance() -> None:
    mask = mask_of(*grid(20))
    table, used = object_table(mask), rules(max_cells=5)
    counts = np.zeros(20)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        entries = plan_cells(table, used, image_px=IMAGE_PX, generator_for_draw=rng)
        counts += [isinstance(entry, CellWindow) for entry in entries]
    assert counts.sum() == 2000 * 5
    # 500 each, standard deviation sqrt(2000 · 0.25 · 0.75) = 19
    assert np.abs(counts - 500).max() < 5 * 19


# ---------------------------------------------------------------- everything together


def naive_entry(box: Spans, area: int, used: CropRules) -> Box | str:
    """Spec section 10, one object at a time, in plain numbers."""
    r0, c0, r1, c1 = box
    height, width = IMAGE_PX
    if area < used.min_area_px or (used.max_area_px is not None and area > used.max_area_px):
        return "area_out_of_range"
    m = used.border_margin_px
    if used.exclude_border and (r0 <= m or c0 <= m or r1 >= height - m or c1 >= width - m):
        return "border_cell"
    if used.kind in ("bbox", "mask"):
        spans = [(r0, r1), (c0, c1)]
        if used.oversize == "cap":
            cuts = [max(0, b - a - used.window_px) for a, b in spans]
            spans = [(a + cut // 2, b - (cut - cut // 2)) for (a, b), cut in zip(spans, cuts, strict=True)]
    else:
        q = (
            max(1, round(used.ratio * max(r1 - r0, c1 - c0)))
            if used.half_side_px is None
            else used.half_side_px
        )
        q = used.window_px // 2 if used.kind == "fixed" else q
        q = min(q, used.window_px // 2) if used.oversize == "cap" else q
        spans = [((a + b) // 2 - q, (a + b) // 2 + q) for a, b in ((r0, r1), (c0, c1))]
    if used.align == "crop":
        spans = [(max(0, a), min(side, b)) for (a, b), side in zip(spans, IMAGE_PX, strict=True)]
    (y0, y1), (x0, x1) = spans
    if used.oversize == "reject" and max(y1 - y0, x1 - x0) > used.window_px:
        return "oversize"
    return Box(y0, x0, y1 - y0, x1 - x0)


crop_rules = st.builds(
    CropRules,
    kind=st.sampled_from(["region", "fixed", "bbox", "mask"]),
    ratio=st.sampled_from([0.25, 0.5, 1.0, 1.7, 2.5]),
    window_px=st.integers(8, 120),
    oversize=st.sampled_from(["cap", "shrink", "reject"]),
    align=st.sampled_from(["object", "crop"]),
    exclude_border=st.booleans(),
    border_margin_px=st.integers(0, 30),
    min_area_px=st.sampled_from([0.0, 16.0, 200.0]),
    max_area_px=st.sampled_from([None, 900.0]),
    every_nth=st.integers(1, 3),
    max_cells=st.sampled_from([None, 1, 4]),
)
spans = st.tuples(
    st.integers(0, IMAGE_PX[0] - 1), st.integers(0, IMAGE_PX[1] - 1), st.integers(1, 70), st.integers(1, 70)
)


@PROPERTY
@given(st.lists(spans, max_size=10), crop_rules, st.integers(0, 9))
def test_every_object_is_accounted_for_as_the_plain_rules_say(
    found: list[Spans], used: CropRules, seed: int
) -> None:
    mask = mask_of(*((y, x, y + h, x + w) for y, x, h, w in found))
    mask.flags.writeable = False
    table = object_table(mask)
    entries = plan(mask, used, seed=seed)
    windows = [entry for entry in entries if isinstance(entry, CellWindow)]
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    assert len(windows) + len(skipped) == len(entries) == len(table)
    columns = (table.y0_px, table.x0_px, table.y1_px, table.x1_px)
    boxes = list(zip(*(column.tolist() for column in columns), strict=True))
    expected = [naive_entry(box, area, used) for box, area in zip(boxes, table.area_px.tolist(), strict=True)]
    eligible = [i for i, want in enumerate(expected) if isinstance(want, Box)]
    for entry, want, (y0, x0, y1, x1) in zip(entries, expected, boxes, strict=True):
        if isinstance(entry, Skipped):
            assert entry.code == "not_drawn" if isinstance(want, Box) else entry.code == want
            continue
        assert entry.box == want
        inside = entry.box.y0_px <= y0 and entry.box.x0_px <= x0
        inside &= entry.box.y0_px + entry.box.height_px >= y1 and entry.box.x0_px + entry.box.width_px >= x1
        assert (Flag.TRUNCATED in entry.flags) is (not inside)
        side_px = scaled_px(max(entry.box.height_px, entry.box.width_px), entry.factor)
        assert side_px <= used.window_px
        assert (Flag.SHRUNK in entry.flags) is (entry.factor < 1)
        assert entry.factor == 1 or side_px == used.window_px
        assert entry.box.overlaps(*IMAGE_PX)
    drawn = [i for i in eligible if isinstance(entries[i], CellWindow)]
    assert set(drawn) <= set(eligible[:: used.every_nth])
    assert len(drawn) == min(len(eligible[:: used.every_nth]), used.max_cells or len(eligible))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "circle"}, "kind must be one of"),
        ({"oversize": "drop"}, "oversize must be one of"),
        ({"align": "centre"}, "align must be one of"),
        ({"ratio": 0.0}, "ratio must be above 0"),
        ({"ratio": float("nan")}, "ratio must be above 0"),
        ({"window_px": 1}, "window_px must be at least 2"),
        ({"border_margin_px": -1}, "border_margin_px must be at least 0"),
        ({"min_area_px": 20.0, "max_area_px": 10.0}, "max_area_px must be at least 20"),
        ({"every_nth": 0}, "every_nth must be at least 1"),
        ({"max_cells": 0}, "max_cells must be at least 1"),
        ({"half_side_px": 0}, "half_side_px must be at least 1"),
        ({"half_side_px": 9, "kind": "bbox"}, "half_side_px belongs to kind region"),
    ],
)
def test_rules_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules(**changes)


# ---------------------------------------------------------------- erasing neighbours


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_erase_outside_keeps_the_object_alone(dtype: Any, frozen: Freeze, rng: np.random.Generator) -> None:
    planes = frozen(rng.integers(0, 200, (3, 9, 14)).astype(dtype))
    mask = frozen(rng.choice([0, 7, 2**31 - 1], (9, 14)))
    levels = np.array([0.5, -3.25, 1e4])
    found = erase_outside(planes, mask, 2**31 - 1, levels=levels)
    assert found.dtype == np.float32
    for c, plane in enumerate(found):
        for (y, x), value in np.ndenumerate(plane):
            assert value == (planes[c, y, x] if mask[y, x] == 2**31 - 1 else levels[c])


def test_erase_outside_never_shares_memory_with_its_input() -> None:
    planes = np.ones((1, 3, 4), np.float32)
    found = erase_outside(planes, np.ones((3, 4), np.uint8), 1, levels=np.zeros(1))
    assert not np.shares_memory(found, planes)


@pytest.mark.parametrize(
    ("mask_px", "n_levels"), [((4, 3), 2), ((3, 4), 1), ((3, 4), 3), ((1, 4), 2)], ids=str
)
def test_erase_outside_refuses_shapes_that_do_not_fit(mask_px: tuple[int, int], n_levels: int) -> None:
    with pytest.raises(ValueError, match="expected planes"):
        erase_outside(np.zeros((2, 3, 4)), np.zeros(mask_px, int), 1, levels=np.zeros(n_levels))
