"""Masks of a user: pictures of any scale, polygons against a point-in-polygon test, what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.ops.user_mask import even_odd, picture_mask, polygon_mask

PROPERTY = settings(deadline=None, derandomize=True, max_examples=30)
Freeze = Callable[[NDArray], NDArray]
GRID: dict[str, Any] = {
    "shape": (24, 32),
    "mask_px": (16.0, 16.0),
    "size_px": (512, 384),
    "pixel_um2": 64.0,
    "name": "a.geojson",
}
SQUARE = [[64, 32], [256, 32], [256, 160], [64, 160], [64, 32]]


def _document(*coordinates: Any, kind: str = "Polygon") -> dict[str, Any]:
    features = [
        {"type": "Feature", "id": f"p{i}", "geometry": {"type": kind, "coordinates": part}}
        for i, part in enumerate(coordinates)
    ]
    return {"type": "FeatureCollection", "features": features}


def _inside(x: float, y: float, rings: list[NDArray]) -> bool:
    crossings = 0
    for ring in rings:
        for k in range(len(ring)):
            (ax, ay), (bx, by) = ring[k], ring[(k + 1) % len(ring)]
            if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
                crossings += 1
    return crossings % 2 == 1


RING = st.lists(st.tuples(st.floats(-5, 20), st.floats(-5, 15)), min_size=3, max_size=8)


@given(st.lists(RING, min_size=1, max_size=3))
@PROPERTY
def test_polygons_equal_a_test_of_every_pixel(rings: list) -> None:
    arrays = [np.asarray(ring, float) for ring in rings]
    found = even_odd(arrays, (10, 14))
    for y, x in np.ndindex(10, 14):
        near = any(
            _inside(x + 0.5 + dx, y + 0.5 + dy, arrays) != _inside(x + 0.5, y + 0.5, arrays)
            for dx, dy in ((1e-6, 0), (-1e-6, 0), (0, 1e-6), (0, -1e-6))
        )
        assert near or found[y, x] == _inside(x + 0.5, y + 0.5, arrays)


def test_polygons_side_by_side_share_no_pixel(rng: np.random.Generator) -> None:
    middle = rng.uniform(3, 9, (12, 1)) * [1, 0] + np.linspace(0, 10, 12)[:, None] * [0, 1]
    left = np.vstack([[[0, 0]], middle, [[0, 10]]])
    right = np.vstack([[[14, 0]], middle, [[14, 10]]])
    a, b = even_odd([left], (10, 14)), even_odd([right], (10, 14))
    assert not (a & b).any()
    assert (a | b).all()


def test_a_square_and_its_hole() -> None:
    hole = [[96, 64], [128, 64], [128, 96], [96, 96]]
    found = polygon_mask(_document([SQUARE, hole]), **GRID)
    wanted = np.zeros((24, 32), bool)
    wanted[2:10, 4:16] = True
    wanted[4:6, 6:8] = False
    np.testing.assert_array_equal(found.mask, wanted)
    assert found.tissue_um2 == wanted.sum() * 64
    assert found.threshold is None


def test_overlapping_polygons_are_joined_not_cancelled() -> None:
    shifted = [[x + 32, y] for x, y in SQUARE]
    found = polygon_mask(_document([SQUARE], [shifted]), **GRID)
    assert found.mask[2:10, 4:18].all()
    assert found.mask.sum() == 8 * 14


def test_other_shapes_of_the_document() -> None:
    one = polygon_mask(_document([SQUARE]), **GRID)
    many = polygon_mask(_document([[SQUARE]], kind="MultiPolygon"), **GRID)
    bare = polygon_mask({"type": "Polygon", "coordinates": [SQUARE]}, **GRID)
    deep = polygon_mask({"type": "Polygon", "coordinates": [[[x, y, 0] for x, y in SQUARE]]}, **GRID)
    for other in (many, bare, deep):
        np.testing.assert_array_equal(other.mask, one.mask)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (_document([SQUARE], [[[0, 0], [10, 10], [0, 0]]]), "polygon p1 has fewer than 3"),
        (_document([[[0, 0], [10, 10], [20, 20], [0, 0]]]), "polygon p0 has no area"),
        (_document([[[0, 0], [10, float("nan")], [20, 0]]]), "not finite"),
        (_document([[[x + 600, y] for x, y in SQUARE]]), "p0 lies outside the slide of 512 × 384"),
        (_document([[[-x, y] for x, y in SQUARE]]), "outside"),
        (_document([]), "no points"),
        (_document(None), "no points"),
        (_document(["here"]), "no list of points"),
        (_document([0, 0], kind="Point"), "Point, not Polygon"),
        ({"features": 3}, "not a GeoJSON"),
        ([1], "not a GeoJSON"),
        ({"features": [None]}, "no geometry"),
    ],
)
def test_bad_polygons_are_refused_by_name(document: Any, message: str) -> None:
    with pytest.raises(SlideError, match=message) as caught:
        polygon_mask(document, **GRID)
    assert caught.value.code == SlideCode.DECODE_ERROR
    assert caught.value.message.startswith("a.geojson")


def test_nothing_marked() -> None:
    for document in ({"type": "FeatureCollection", "features": []}, _document([[[0, 0], [3, 0], [0, 3]]])):
        with pytest.raises(SlideError, match="marks no tissue") as caught:
            polygon_mask(document, **GRID)
        assert caught.value.code == SlideCode.NO_TISSUE
    with pytest.raises(SlideError, match="marks no tissue"):
        picture_mask(np.zeros((24, 32), np.uint8), **GRID)


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("dtype", [np.uint8, bool, np.uint16])
def test_a_picture_of_any_scale(scale: int, dtype: Any, frozen: Freeze, rng: np.random.Generator) -> None:
    wanted = rng.random((24, 32)) < 0.4
    picture = np.kron(wanted, np.ones((scale, scale))).astype(dtype)
    found = picture_mask(frozen(picture), **GRID)
    np.testing.assert_array_equal(found.mask, wanted)
    assert found.tissue_um2 == wanted.sum() * 64


def test_a_coarser_picture_and_one_in_colour() -> None:
    picture = np.zeros((6, 8, 3), np.uint8)
    picture[1:3, 2:5, 1] = 255
    wanted = np.zeros((24, 32), bool)
    wanted[4:12, 8:20] = True
    np.testing.assert_array_equal(picture_mask(picture, **GRID).mask, wanted)


def test_half_covered_pixels_are_tissue() -> None:
    picture = np.zeros((48, 64), np.uint8)
    picture[0, 0] = picture[0, 1] = 1
    assert picture_mask(picture, **GRID).mask.sum() == 1
    picture[0, 1] = 0
    with pytest.raises(SlideError):
        picture_mask(picture, **GRID)


def test_a_last_row_that_reaches_over_the_slide() -> None:
    grid = GRID | {"size_px": (500, 370)}  # 31.25 × 23.1 pixels of the mask
    picture = np.ones((370, 500), np.uint8)
    assert picture_mask(picture, **grid).mask.all()
    picture[:, 496:] = 0
    found = picture_mask(picture, **grid).mask
    assert found[:, :31].all()
    assert not found[:, 31].any()


@pytest.mark.parametrize(
    ("width", "fits"), [(320, True), (323, True), (317, True), (324, False), (316, False)]
)
def test_the_aspect_may_differ_by_1_percent(width: int, fits: bool) -> None:
    picture = np.ones((240, width), np.uint8)
    if fits:
        assert picture_mask(picture, **GRID).mask.all()
        return
    with pytest.raises(SlideError, match="aspects differ") as caught:
        picture_mask(picture, **GRID)
    assert caught.value.code == SlideCode.DECODE_ERROR


def test_not_a_picture() -> None:
    with pytest.raises(ValueError, match="a mask must be"):
        picture_mask(np.zeros(5), **GRID)
