"""The contact sheet: the right rows, their own pixels, and an error wherever either is in doubt."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError, InputError, RunError
from microsnoop.core.schema import ROW_FIELDS, result_schema
from microsnoop.io.manifest import read_records
from microsnoop.io.store import RunStore
from microsnoop.io.writer import RunWriter
from microsnoop.ops.geometry import Box
from microsnoop_apps.views import gallery as views
from microsnoop_apps.views import groups as grouping
from microsnoop_apps.views import pixels
from microsnoop_apps.views import sheet as sheets
from microsnoop_apps.views.gallery import GalleryOptions, gallery
from microsnoop_apps.views.pixels import Cutout, Place, places_of, read_cutouts
from microsnoop_apps.views.sheet import THUMB_PX
from microsnoop_apps.views.source import open_data
from microsnoop_apps.views.thumbnails import (
    OUTSIDE,
    PALETTE,
    coloured,
    contrast,
    finite,
    look_of,
    padded,
    scale_bar,
    sheet_contrast,
    thumbnail,
)
from microsnoop_integrations.anndata_io import export, read

CHANNELS, DIM, SIZE, WINDOW = ["DNA", "Actin"], 4, (96, 128), 24
CELLS = 14  # of each image
LINES = ("rare", "common", "common", "odd")
Run = Callable[..., tuple[int, str, str]]


def _begin(path: Path, cfg: EmbedConfig) -> tuple[RunStore, list[dict[str, Any]]]:
    """Found a run directory as the pipeline does, and return its records."""
    store, inputs = RunStore(path), read_records(cfg.input)
    store.create()
    store.write_inputs(inputs.records, inputs.cells)
    store.write_info(
        {
            "config": cfg.model_dump(mode="json"),
            "identity": {"channels": CHANNELS, "dim": DIM, "precision": "fp32", "encoder_sha256": "ab"},
            "encoder": {"name": "toy", "weights_sha256": "ab", "trained": False, "licence": "none"},
            "versions": {"python": "3"},
        }
    )
    return store, inputs.records.to_pylist()


def _write(store: RunStore, rows: list[dict[str, Any]]) -> None:
    blank: dict[str, Any] = {name: None for name, _ in ROW_FIELDS} | {"flags": []}
    table = pa.Table.from_pylist([blank | row for row in rows], schema=result_schema(len(CHANNELS) * DIM))
    writer = RunWriter(store, channels=CHANNELS, dim=DIM, rows_per_part=20, flush_seconds=1e9)
    writer.append(table)
    writer.flush()


def _row(record: dict[str, Any], number: int, box: dict[str, Any]) -> dict[str, Any]:
    name = f"{record['image_id']}#{box['label']}"
    vector = np.random.default_rng([ord(record["image_id"][0]), number]).normal(size=8) + [3, 0] * 4
    return {
        "obs_id": name, "image_id": record["image_id"], "parent_id": name, "kind": "cell", "label": box["label"],
        "sample_index": number, "n_samples": CELLS, "uris": record["uris"], "row_key": name,
        **{key: box[key] for key in ("y0_px", "x0_px", "height_px", "width_px")},
        "image_height_px": SIZE[0], "image_width_px": SIZE[1], "pixel_size_um": 0.5,
        "vectors": vector.astype(np.float32).tolist(),
    }  # fmt: skip


def _images(folder: Path, names: str = "cab") -> None:
    """Two-channel images; the file holds three planes, and the run takes the last as DNA and the first as Actin."""
    folder.mkdir()
    for i, name in enumerate(names):
        planes = np.random.default_rng(i).integers(100, 4000, (3, *SIZE), dtype=np.uint16)
        tile = (32, 32) if name == "a" else None  # one of them can be read by region
        tifffile.imwrite(folder / f"{name}.tif", planes, photometric="minisblack", tile=tile)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run of 42 cells in three images; many windows reach over a border."""
    _images(tmp_path / "images")
    table = ["image,x_px,y_px,line"]
    for name in "abc":
        random = np.random.default_rng(ord(name))
        for i in range(CELLS):
            y, x = random.integers(0, 96), random.integers(0, 128)
            table.append(f"{name}.tif,{x},{y},{LINES[i % 4] if i % 5 else ''}")
    (tmp_path / "cells.csv").write_text("\n".join(table) + "\n")
    cfg = EmbedConfig.model_validate(
        {
            "input": {
                "folder": str(tmp_path / "images"), "cells": str(tmp_path / "cells.csv"), "cell_size_px": WINDOW,
                "channels": {"DNA": 2, "Actin": 0}, "pixel_size_um": 0.5,
            },
            "run_dir": str(tmp_path / "run"), "mode": "native", "input_px": 32, "encoder": "toy",
            "normalise": {"low": 2.0, "high": 90.0},
        }
    )  # fmt: skip
    store, records = _begin(tmp_path / "run", cfg)
    _write(store, [_row(record, i, box) for record in records for i, box in enumerate(record["boxes"])])
    data = read(export(store))
    x = np.array(data.X)
    x[3] = np.nan
    x[8, 2] = np.nan
    x[11] = 0
    data.X = x
    data.write_h5ad(tmp_path / "run.h5ad")
    return tmp_path / "run.h5ad"


def _naive(data: Any, column: str, group: str) -> list[tuple[str, float]]:
    """All rows of a group with their distances, nearest first, in plain Python."""
    vectors = {}
    for name, value, x in zip(data.obs_names, data.obs[column], np.asarray(data.X), strict=True):
        numbers = [float(v) for v in x]
        if str(value) == group and not any(math.isnan(v) for v in numbers) and any(numbers):
            length = math.sqrt(sum(v * v for v in numbers))
            vectors[str(name)] = [v / length for v in numbers]
    centre = [sum(v[i] for v in vectors.values()) / len(vectors) for i in range(8)]
    size = math.sqrt(sum(c * c for c in centre))
    away = {
        name: 1 - sum(a * b for a, b in zip(v, centre, strict=True)) / size for name, v in vectors.items()
    }
    return sorted(away.items(), key=lambda item: item[1])


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _sheet(made: Path, **options: Any) -> list[dict[str, str]]:
    out = made.parent / "sheet.png"
    gallery(made, GalleryOptions(**options), out=out)
    return _table(out.with_suffix(".csv"))


# ---------------------------------------------------------------- which rows


def test_the_nearest_and_the_farthest_of_each_group_are_chosen(made: Path) -> None:
    rows = _sheet(made, by="line", nearest=3, farthest=2)
    data = read(made)
    sizes = {group: len(_naive(data, "line", group)) for group in ("common", "odd", "rare")}
    assert list(dict.fromkeys(row["group"] for row in rows)) == sorted(sizes, key=lambda group: -sizes[group])
    for group in ("common", "rare", "odd"):
        expected = _naive(data, "line", group)
        for side, wanted in (("nearest", expected[:3]), ("farthest", expected[::-1][:2])):
            own = [row for row in rows if (row["group"], row["side"]) == (group, side)]
            assert [row["obs_id"] for row in own] == [name for name, _ in wanted]
            assert [int(row["rank"]) for row in own] == list(range(1, len(wanted) + 1))
            np.testing.assert_allclose(
                [float(row["distance"]) for row in own], [d for _, d in wanted], rtol=1e-4
            )
    assert all(row["obs_id"].partition("#")[0] == row["image_id"] for row in rows)


def test_rows_without_vector_or_group_are_left_out_and_counted(
    made: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = _sheet(made, by="line", nearest=50, farthest=50)
    data = read(made)
    said = capsys.readouterr().out
    bad = [3, 8, 11]
    nameless = int((data.obs["line"].isna() & ~np.isin(np.arange(42), bad)).sum())
    assert "left out: 3 of 42 rows have no vector" in said
    assert f"left out: {nameless} of 42 rows have no value of 'line'" in said
    shown = [row["obs_id"] for row in rows]
    assert len(shown) == len(set(shown)) == 42 - 3 - nameless  # none twice, though more were asked for
    assert not set(shown) & set(data.obs_names[bad])


def test_a_small_group_shows_no_row_twice() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    near, far = grouping.pick_rows(x, np.arange(5), nearest=4, farthest=4)
    assert (len(near), len(far)) == (4, 1)
    assert sorted(row for row, _ in [*near, *far]) == list(range(5))
    near, far = grouping.pick_rows(x, np.array([2]), nearest=1, farthest=3)
    assert near == [(2, 0.0)]
    assert far == []


def test_equal_distances_go_to_the_row_that_comes_first() -> None:
    x = np.array([[1.0, 1], [1, 0], [0, 2], [3, 3]])
    near, far = grouping.pick_rows(x, np.arange(4), nearest=2, farthest=2)
    assert [row for row, _ in near] == [0, 3]
    assert [row for row, _ in far] == [2, 1]


def test_a_group_without_a_centre_is_an_error() -> None:
    with pytest.raises(ValueError, match="add up to nothing"):
        grouping.pick_rows(np.array([[1.0, 0], [-2, 0]]), np.arange(2), nearest=1, farthest=1)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    rows = np.arange(3, 45)
    whole = grouping.pick_rows(x, rows, nearest=9, farthest=9)
    monkeypatch.setattr(grouping, "_CHUNK_ROWS", 5)
    assert grouping.pick_rows(x, rows, nearest=9, farthest=9) == whole


def test_the_largest_groups_are_shown_and_the_others_counted(
    made: Path, capsys: pytest.CaptureFixture
) -> None:
    data = read(made)
    sizes = [4, 4, 4, 3, 3, *[2] * 12]
    data.obs["leiden"] = pd.Categorical([str(i) for i, n in enumerate(sizes) for _ in range(n)])
    data.write_h5ad(made)
    rows = _sheet(made, nearest=1, farthest=0)
    assert next(row["group"] for row in rows) == "1"  # rows 3, 8 and 11 have no vector: only 1 keeps its four
    assert len(rows) == 12
    assert "the 12 largest groups are shown; 5 more with 10 rows are not" in capsys.readouterr().out
    assert [r["group"] for r in _sheet(made, groups=("16", "3"), nearest=1, farthest=0)] == ["16", "3"]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({}, "no column 'leiden'", "columns that name groups: image_id, line"),
        ({"by": "lin"}, "no column 'lin'", "columns that name groups: image_id, line"),
        ({"by": "dose"}, "holds measurements", "image_id, line"),
        ({"by": "line", "groups": ("rare", "x")}, "'line' has no group x", "common, odd, rare"),
        ({"by": "line", "channels": ("DNA", "GFP")}, "no channel GFP", "DNA, Actin"),
        ({"by": "line", "channels": ("DNA", "DNA")}, "twice", ""),
        ({"by": "line", "nearest": 0, "farthest": 0}, "nothing to show", ""),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(made: Path, options: Any, message: str, hint: str) -> None:
    data = read(made)
    data.obs["dose"] = np.linspace(0, 1, 42)
    data.write_h5ad(made)
    with pytest.raises(ConfigError, match=message) as caught:
        _sheet(made, **options)
    assert hint in caught.value.hint


def test_whole_numbers_and_truth_values_name_groups() -> None:
    obs = pd.DataFrame(
        {"n": [2.0, np.nan, 10.0, 2.0], "b": [True, False, True, True], "c": ["x", None, "y", "x"]}
    )
    for column, names, code in (
        ("n", ["2", "10"], [0, -1, 1, 0]),
        ("b", ["False", "True"], [1, 0, 1, 1]),
        ("c", ["x", "y"], [0, -1, 1, 0]),
    ):
        found = grouping.groups_of(obs, column)
        assert found.names == names
        assert found.code.tolist() == code
    ordered = pd.Categorical(["10", "9", "10"], categories=["9", "10", "11"])
    assert grouping.groups_of(pd.DataFrame({"leiden": ordered})).names == ["9", "10"]


# ---------------------------------------------------------------- their pixels


def _expected(folder: Path, row: Any, plane: int) -> NDArray[Any]:
    """The whole window of a row, cut pixel by pixel from its file; 0 outside."""
    image = tifffile.imread(folder / row["image_id"])[plane]
    window = np.zeros((row["height_px"], row["width_px"]), image.dtype)
    for y in range(row["height_px"]):
        for x in range(row["width_px"]):
            in_y, in_x = row["y0_px"] + y, row["x0_px"] + x
            if 0 <= in_y < SIZE[0] and 0 <= in_x < SIZE[1]:
                window[y, x] = image[in_y, in_x]
    return window


def test_every_picture_has_the_pixels_of_its_own_window(made: Path) -> None:
    source = open_data(made)
    rows = list(range(41, -1, -1))  # neither by image nor in order
    cutouts = read_cutouts(source, places_of(source, rows), ["Actin", "DNA"])
    over = 0
    for row, cutout in zip(rows, cutouts, strict=True):
        obs = source.data.obs.iloc[row]
        window, inside = padded(cutout.planes, cutout.box, cutout.image_px)
        np.testing.assert_array_equal(window[0], _expected(made.parent / "images", obs, 0))
        np.testing.assert_array_equal(window[1], _expected(made.parent / "images", obs, 2))
        np.testing.assert_array_equal(inside, window[1] > 0)  # no pixel of the files is 0
        over += not inside.all()
    assert over > 5
    assert {cutout.pixel_size_um for cutout in cutouts} == {0.5}


def test_padding_stands_where_the_image_ends() -> None:
    planes = np.ones((2, 3, 3), np.uint16)
    window, inside = padded(planes, Box(-2, 125, 5, 6), SIZE)
    assert window.shape == (2, 5, 6)
    assert inside[2:, :3].all()
    assert inside.sum() == 9
    picture = np.full((5, 6, 3), 7, np.uint8)
    square = thumbnail(picture, inside, zoom=1.0, side_px=10)
    assert (square[2:4, 2:8] == OUTSIDE).all()
    assert (square[4:7, 2:5] == 7).all()
    assert (square[4:7, 5:8] == OUTSIDE).all()
    assert (square[7:] == 255).all()


def padded_planes() -> NDArray[np.uint16]:
    return np.random.default_rng(4).integers(50, 3000, (2, 13, 17), dtype=np.uint16)


def test_contrast_is_that_of_the_encoder_per_cell_or_one_for_the_sheet() -> None:
    planes, other = padded_planes(), padded_planes() * 3
    look = look_of(["x"])
    for how, values in (
        ("cell", planes[0]),
        ("sheet", np.concatenate([planes[0].ravel(), other[0].ravel()])),
    ):
        scaling = (
            contrast(planes[:1], low=2, high=90)
            if how == "cell"
            else sheet_contrast([planes[:1], other[:1]], low=2, high=90, together=False)
        )
        low, high = np.percentile(values, [2, 90])
        expected = np.rint(255 * np.clip((planes[0] - low) / (high - low), 0, 1))
        shown = coloured(planes[:1], scaling, look)
        np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, axis=2))


def test_the_options_reach_the_pictures(made: Path) -> None:
    def sheet(**options: Any) -> NDArray[Any]:
        _sheet(made, by="line", nearest=2, farthest=1, **options)
        return np.asarray(Image.open(made.parent / "sheet.png"))

    first = sheet()
    corner = (slice(110, 200), slice(140, 240))
    assert (first[corner] != sheet(contrast="sheet")[corner]).any()
    grey = sheet(channels=("Actin",))[corner]
    assert np.ptp(grey.astype(int), axis=2).max() <= 20  # padding is nearly grey
    assert np.ptp(first[corner].astype(int), axis=2).max() > 100


def test_a_picture_on_the_sheet_is_the_thumbnail_of_its_row(made: Path) -> None:
    rows = _sheet(made, by="line", nearest=2, farthest=2, channels=("DNA",))
    page = np.asarray(Image.open(made.parent / "sheet.png"))
    source = open_data(made)
    numbers = [int(source.data.obs_names.get_loc(row["obs_id"])) for row in rows]
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for row, cutout in zip(
        rows[:4], read_cutouts(source, places_of(source, numbers[:4]), ["DNA"]), strict=True
    ):
        window, inside = padded(cutout.planes, cutout.box, cutout.image_px)
        picture = coloured(window, contrast(cutout.planes, low=2, high=90), look_of(["DNA"]))
        expected = thumbnail(picture, inside, zoom=THUMB_PX / WINDOW, side_px=THUMB_PX)
        places = [
            (y, x)
            for y in range(90, 110)
            for x in range(page.shape[1] - THUMB_PX)
            if (page[y : y + THUMB_PX, x : x + THUMB_PX] == expected).all()
        ]
        assert len(places) == 1
        found[row["side"], row["rank"]] = places[0]
    # distances grow from left to right: the farthest of all stands last
    order = [("nearest", "1"), ("nearest", "2"), ("farthest", "2"), ("farthest", "1")]
    assert [found[key] for key in order] == sorted(found.values())


def test_the_size_of_a_group_counts_rows_with_a_vector(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: dict[str, int] = {}
    drawn = sheets.draw_sheet

    def draw(*args: Any, sizes: dict[str, int], **options: Any) -> Any:
        counted.update(sizes)
        return drawn(*args, sizes=sizes, **options)

    monkeypatch.setattr(views, "draw_sheet", draw)
    _sheet(made, by="line", nearest=1, farthest=0)
    data = read(made)
    assert counted == {group: len(_naive(data, "line", group)) for group in ("common", "odd", "rare")}
    assert sum(counted.values()) < data.obs["line"].notna().sum()


def test_large_whole_images_are_shrunk_and_keep_their_scale(tmp_path: Path, made: Path) -> None:
    plane = np.random.default_rng(0).integers(0, 999, (1, 70, 101), dtype=np.uint16)
    whole = Cutout(plane, Box(0, 0, 70, 101), (70, 101), 0.5)
    small = pixels._shrunk(whole, 51)
    assert small.planes.shape == (1, 35, 50)
    assert small.planes[0, 3, 7] == plane[0, 6:8, 14:16].mean()
    assert (small.box, small.image_px, small.pixel_size_um, small.pixel_px) == (
        Box(0, 0, 35, 50),
        (35, 50),
        1.0,
        2,
    )
    assert pixels._shrunk(whole, 101) is whole
    source = open_data(made)
    (cell,) = read_cutouts(source, places_of(source, [5]), ["DNA"], most_px=8)
    (image,) = read_cutouts(source, [Place("a.tif", None)], ["DNA"], most_px=64)
    assert cell.box.height_px == WINDOW  # only whole images
    assert image.planes.shape == (1, 48, 64)
    shown = sheets.Shown(np.zeros((48, 64, 3), np.uint8), np.ones((48, 64), bool), None, image.pixel_px)
    assert sheets._zoom([shown]) == (THUMB_PX / 128, "px")
    assert sheets._zoom([replace(shown, pixel_size_um=1.0)]) == (THUMB_PX / 64, "µm")


def test_numbers_that_are_none_become_the_smallest() -> None:
    planes = np.array([[[2.0, np.nan], [np.inf, 5.0]]], np.float32)
    np.testing.assert_array_equal(finite(planes), [[[2, 2], [2, 5]]])
    assert not finite(np.full((1, 2, 2), np.nan)).any()
    whole = np.ones((1, 2, 2), np.uint8)
    assert finite(whole) is whole


def test_channels_have_colours_that_add_up() -> None:
    planes = np.zeros((3, 2, 2), np.uint8)
    planes[0, 0, 0] = planes[1, 0, 1] = planes[2, 1, 0] = 100
    planes[:2, 1, 1] = 100
    look = look_of(["a", "b", "c"])
    shown = coloured(planes, contrast(planes, low=0, high=100), look)
    cyan, magenta, yellow = list(PALETTE.values())[:3]
    assert tuple(shown[0, 0]) == cyan
    assert tuple(shown[0, 1]) == magenta
    assert tuple(shown[1, 0]) == yellow
    assert tuple(shown[1, 1]) == (255, 255, 255)
    assert look.text == "a cyan, b magenta, c yellow"
    with pytest.raises(ValueError, match="1 to 4"):
        look_of(list("abcde"))


def test_red_green_and_blue_are_stretched_together() -> None:
    planes = np.stack([np.full((4, 5), v, np.uint8) for v in (200, 100, 50)])
    look = look_of(["red", "green", "blue"])
    shown = coloured(planes, contrast(planes, low=0, high=100, together=look.together), look)
    assert tuple(shown[2, 3]) == (255, 85, 0)


def test_the_scale_bar_is_a_round_number_that_fits() -> None:
    assert scale_bar(2.0, room_px=120) == (100, 50)
    assert scale_bar(10.0, room_px=120) == (100, 10)
    assert scale_bar(1.0, room_px=120) == (100, 100)
    assert scale_bar(250.0, room_px=120) == (50, 0.2)


@pytest.mark.parametrize("level", ["image", "field"])
def test_rows_that_stand_for_an_image_show_all_of_it(made: Path, tmp_path: Path, level: str) -> None:
    cfg = EmbedConfig.model_validate(
        {
            "input": {"folder": str(tmp_path / "images"), "channels": {"DNA": 1, "Actin": 2}},
            "run_dir": str(tmp_path / "tiles"),
            "mode": "tile",
        }
    )
    store, records = _begin(tmp_path / "tiles", cfg)
    _write(
        store,
        [
            {
                **_row(record, i, {"label": None, "y0_px": 40, "x0_px": 8 * i, "height_px": 32, "width_px": 32}),
                "obs_id": f"{record['image_id']}@40,{8 * i}", "parent_id": record["image_id"], "kind": "tile",
            }
            for record in records
            for i in range(3)
        ],
    )  # fmt: skip
    source = open_data(export(store, tmp_path / "t.h5ad", level=level))
    assert places_of(source, [2, 0]) == [Place("c.tif", None), Place("a.tif", None)]
    for name, cutout in zip(
        ("c.tif", "a.tif"), read_cutouts(source, places_of(source, [2, 0]), ["DNA"]), strict=True
    ):
        np.testing.assert_array_equal(cutout.planes, tifffile.imread(tmp_path / "images" / name)[[1]])
        assert cutout.box == Box(0, 0, *SIZE)
    gallery(tmp_path / "t.h5ad", GalleryOptions(by="image_id"), out=tmp_path / "t.png")


def test_a_cell_averaged_over_tiles_shows_its_box(tmp_path: Path, made: Path) -> None:
    store = RunStore(tmp_path / "run")
    record = store.records.to_pylist()[0]
    box = record["boxes"][4]
    for part in store.embedding_parts():
        part.unlink()
    corner = {**box, "height_px": 8, "width_px": 8}
    tile = {**_row(record, 0, corner), "kind": "tile", "obs_id": "t"}
    _write(store, [tile, {**tile, "obs_id": "u", "y0_px": box["y0_px"] + 8}])
    source = open_data(export(store, tmp_path / "t.h5ad", level="image"))
    assert places_of(source, [0]) == [Place("a.tif", Box(box["y0_px"], box["x0_px"], WINDOW, WINDOW))]


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    planes = np.random.default_rng(0).integers(1, 200, (2, *SIZE), dtype=np.uint8)
    for name, plane in zip(("w1", "w2"), planes, strict=True):
        Image.fromarray(plane).save(folder / f"s_{name}.png")
    cfg = EmbedConfig.model_validate(
        {
            "input": {
                "pattern": f"{folder}/{{site}}_{{channel}}.png",
                "channels": {"DNA": "w2", "Actin": "w1"},
            },
            "run_dir": str(tmp_path / "run"),
        }
    )
    store, records = _begin(tmp_path / "run", cfg)
    box = {"label": "1", "y0_px": 90, "x0_px": 120, "height_px": 20, "width_px": 20}
    _write(store, [_row(records[0], 0, box)])
    source = open_data(export(store))
    (cutout,) = read_cutouts(source, places_of(source, [0]), ["Actin", "DNA"])
    np.testing.assert_array_equal(cutout.planes, planes[:, 90:96, 120:128])


# ---------------------------------------------------------------- never the wrong pixels


def test_a_run_that_was_moved_is_named_and_found_with_run(made: Path, tmp_path: Path) -> None:
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=rf"made from the run {tmp_path}/run, which is not there") as caught:
        _sheet(made, by="line")
    assert "--run" in caught.value.hint
    path = gallery(made, GalleryOptions(by="line"), out=tmp_path / "g.png", run=tmp_path / "elsewhere")
    assert path.is_file()
    with pytest.raises(RunError, match="nowhere is not there"):
        gallery(made, GalleryOptions(by="line"), run=tmp_path / "nowhere")


def test_another_run_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    other = RunStore(tmp_path / "other")
    config = other.info["config"]
    other.write_info({**other.info, "config": {**config, "input": {**config["input"], "cell_size_px": 30}}})
    with pytest.raises(RunError, match=r"not made from the run .*other: they differ in input"):
        gallery(made, GalleryOptions(by="line"), run=tmp_path / "other")
    other.write_info({**other.info, "config": config, "identity": {**other.identity, "encoder_sha256": "cd"}})
    with pytest.raises(RunError, match="the encoder's weights"):
        gallery(made, GalleryOptions(by="line"), run=tmp_path / "other")
    moved = {**config, "run_dir": "x", "execution": {}, "fuse": "mean"}
    other.write_info({**other.info, "config": moved, "identity": RunStore(tmp_path / "run").identity})
    assert open_data(made, tmp_path / "other").channels == CHANNELS


@pytest.mark.parametrize("what", ["is gone", "was changed"])
def test_a_file_that_is_not_as_the_run_saw_it_is_an_error(made: Path, tmp_path: Path, what: str) -> None:
    file = tmp_path / "images" / "b.tif"
    if what == "is gone":
        file.unlink()
    else:
        tifffile.imwrite(file, np.ones((3, *SIZE), np.uint16), photometric="minisblack")
    with pytest.raises(InputError, match=f"1 of 3 files are not as the run saw them: {file} {what}"):
        _sheet(made, by="line")
    assert not (tmp_path / "sheet.png").exists()


def test_an_image_the_run_does_not_know_is_an_error(made: Path) -> None:
    data = read(made)
    data.obs["image_id"] = data.obs["image_id"].astype(str).replace("b.tif", "z.tif")
    data.write_h5ad(made)
    with pytest.raises(RunError, match=r"does not know: z\.tif"):
        _sheet(made, by="line")


def test_a_file_of_somebody_else_is_an_error(made: Path, tmp_path: Path) -> None:
    data = read(made)
    del data.uns["microsnoop"]
    data.write_h5ad(tmp_path / "bare.h5ad")
    for path, kind, message in (
        (tmp_path / "bare.h5ad", InputError, "does not say which run"),
        (tmp_path / "none.h5ad", InputError, "does not exist"),
        (tmp_path / "cells.csv", ConfigError, "neither a run directory nor"),
        (tmp_path / "images", ConfigError, "neither a run directory nor"),
    ):
        with pytest.raises(kind, match=message):
            gallery(path, GalleryOptions(by="line"))
    (tmp_path / "broken.h5ad").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="cannot be read as AnnData"):
        gallery(tmp_path / "broken.h5ad", GalleryOptions(by="line"))


# ---------------------------------------------------------------- the command


def test_the_command_takes_runs_and_files_and_says_what_it_wrote(
    run: Run, made: Path, tmp_path: Path
) -> None:
    code, out, _ = run("gallery", made, "--by", "line", "--groups", "odd, rare", "--channels", "Actin")
    assert code == 0
    assert f"gallery: {tmp_path}/run.gallery.png, and run.gallery.csv names what is on it" in out
    assert {row["group"] for row in _table(tmp_path / "run.gallery.csv")} == {"odd", "rare"}
    export(tmp_path / "run", tmp_path / "z.zarr")
    assert run("gallery", tmp_path / "z.zarr", "--by", "line")[0] == 0
    assert (tmp_path / "z.gallery.png").is_file()
    code, out, _ = run("gallery", tmp_path / "run", "--by", "line")  # the run's own rows: all have vectors
    assert code == 0
    assert "no vector" not in out
    code, _, err = run("gallery", made)
    assert code == 2
    assert "fix: columns that name groups: image_id, line" in err
    code, _, err = run("gallery", made, "--by", "line", "--out", tmp_path / "x.jpg")
    assert code == 2
    assert "must end in .png" in err


def test_odd_names_are_plain_text(made: Path) -> None:
    data = read(made)
    names = np.array(["$\\frac{1}$", "a/very/long/path/" * 9, "µ\n±"])
    data.obs["odd"] = names[np.arange(42) % 3]
    data.write_h5ad(made)
    rows = _sheet(made, by="odd", nearest=1, farthest=0)
    assert {row["group"] for row in rows} == set(names)
