"""Groups over their field: every object in the colour of its own row, or an error where that is in doubt."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError, InputError, RunError
from microsnoop.io.store import RunStore
from microsnoop.io.writer import RunWriter
from microsnoop.ops.geometry import Box
from microsnoop.pipelines.embed import prepare
from microsnoop.pipelines.stages import read_samples, result_table
from microsnoop_apps.views import overlay as views
from microsnoop_apps.views.colouring import colour_rows, group_colour, scale_colours
from microsnoop_apps.views.overlay import OverlayOptions, overlay
from microsnoop_apps.views.painting import (
    OTHER,
    REJECTED,
    Size,
    paint_boxes,
    paint_dots,
    paint_labels,
)
from microsnoop_integrations.anndata_io import export, read

SIZE = (96, 128)
# label: (y0, x0, height, width); 9 touches the border, 20 is too small
OBJECTS = {
    3: (10, 12, 20, 16),
    7: (40, 60, 8, 10),
    9: (0, 30, 12, 12),
    20: (70, 100, 3, 4),
    41: (60, 20, 24, 30),
}
KEPT = ("3", "7", "41")
WHITE, INK = (255, 255, 255), (25, 25, 30)
Run = Callable[..., tuple[int, str, str]]


def _mask(objects: dict[int, tuple[int, int, int, int]], size: tuple[int, int] = SIZE) -> NDArray[np.uint16]:
    mask = np.zeros(size, np.uint16)
    for label, (y, x, height, width) in objects.items():
        mask[y : y + height, x : x + width] = label
    return mask


def _put(folder: Path, name: str, mask: NDArray[Any], **options: Any) -> None:
    image = np.random.default_rng(len(name)).integers(100, 400, (2, *mask.shape)).astype(np.uint16)
    image[0][mask > 0] += 2000
    for kind, data in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(exist_ok=True)
        tifffile.imwrite(folder / kind / f"{name}.tif", data, photometric="minisblack", **options)


def _embed(folder: Path, name: str, **settings: Any) -> RunStore:
    """Run the reading stage as the pipeline does, in this process; vectors are just numbers."""
    inputs = {
        "folder": str(folder / "images"),
        "channels": {"DNA": 0, "Actin": 1},
        **settings.pop("input", {}),
    }
    base = {
        "input": inputs,
        "run_dir": str(folder / name),
        "encoder": "pixels16",
        "mode": "crop",
        "input_px": 32,
    }
    cfg = EmbedConfig.model_validate(base | settings)
    prepared = prepare(cfg)
    store, width = RunStore(folder / name), 2 * 256
    store.create()
    store.write_inputs(prepared.inputs.records, prepared.inputs.cells)
    store.write_info(
        {
            "config": cfg.model_dump(mode="json"),
            "identity": prepared.identity.to_json(),
            "encoder": prepared.bundle.card.model_dump(mode="json"),
            "versions": {},
        }
    )
    writer = RunWriter(store, channels=["DNA", "Actin"], dim=256, rows_per_part=1000, flush_seconds=1e9)
    for samples in read_samples(prepared.inputs.records, job=prepared.job):
        vectors = np.ones((samples.num_rows, width), np.float32)
        columns = (samples[column].to_pylist() for column in ("stage", "code", "message"))
        writer.append(result_table(samples, vectors, *columns))
    writer.flush()
    return store


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """A run of mode crop on two fields: ``f`` with the objects above, ``g`` with one more that is kept."""
    _put(tmp_path, "f", _mask(OBJECTS))
    _put(tmp_path, "g", _mask({**OBJECTS, 5: (30, 90, 12, 12)}))
    store = _embed(tmp_path, "run", input={"masks": str(tmp_path / "masks")})
    data = read(export(store))
    assert data.n_obs == 7
    data = data[[6, 1, 4, 0, 5, 3, 2]].copy()  # the order of rows must not matter
    data.obs["leiden"] = pd.Categorical(
        [{"3": "0", "7": "1", "41": "0", "5": "2"}[label] for label in data.obs["label"].astype(str)]
    )
    data.obs["size"] = [float(label) for label in data.obs["label"].astype(str)]
    data.write_h5ad(tmp_path / "run.h5ad")
    return tmp_path / "run.h5ad"


def _picture(data: Path, **options: Any) -> NDArray[Any]:
    """Draw, and return the picture of the field (zoomed by 8) out of the page."""
    path = overlay(data, OverlayOptions(**options), out=data.parent / "o.png")
    return np.asarray(Image.open(path))[74:, 22:]


def _at(picture: NDArray[Any], label: int, *, zoom: int = 8, objects: Any = OBJECTS) -> dict[str, Any]:
    """Return the colours of an object at its four sides, and a few pixels further in."""
    y, x, height, width = objects[label]
    top, left, bottom, right = y * zoom, x * zoom, (y + height) * zoom - 1, (x + width) * zoom - 1
    my, mx = (top + bottom) // 2, (left + right) // 2
    sides = [(top, mx), (bottom, mx), (my, left), (my, right)]
    inner = [(top + 5, mx), (bottom - 5, mx), (my, left + 5), (my, right - 5)]
    return {"edge": {tuple(picture[p]) for p in sides}, "inner": {tuple(picture[p]) for p in inner}}


# ---------------------------------------------------------------- cells of a mask


def test_each_object_is_outlined_in_the_colour_of_its_own_row(field: Path) -> None:
    picture = _picture(field, image="g.tif")
    objects = {**OBJECTS, 5: (30, 90, 12, 12)}
    for label, group in ((3, 0), (7, 1), (41, 0), (5, 2)):
        seen = _at(picture, label, objects=objects)
        assert seen["edge"] == {group_colour(group)}
        assert not seen["inner"] & {group_colour(i) for i in range(3)}
    y, x, _height, width = objects[7]
    outside = picture[8 * y - 1, 8 * x : 8 * (x + width)]
    assert all(len(set(pixel)) == 1 for pixel in outside.tolist())  # the outline lies inside
    assert len({group_colour(i) for i in range(3)}) == 3


def test_rejected_objects_have_a_thin_grey_line(field: Path) -> None:
    picture = _picture(field, image="f.tif")
    for label in (9, 20):
        y, x, height, _width = OBJECTS[label]
        left, middle = 8 * x, 8 * y + 4 * height
        assert tuple(picture[middle, left]) == REJECTED
        assert tuple(picture[middle, left + 1]) != REJECTED


def test_objects_without_a_row_in_the_file_are_told_from_rejected_ones(field: Path) -> None:
    data = read(field)
    data = data[~((data.obs["image_id"] == "g.tif") & (data.obs["label"].astype(str) == "5"))].copy()
    data.write_h5ad(field)
    picture = _picture(field, image="g.tif")
    assert tuple(picture[8 * 36, 8 * 90]) == OTHER
    assert _at(picture, 7)["edge"] == {group_colour(1)}


def test_the_picture_below_is_the_channel_asked_for(field: Path) -> None:
    image = tifffile.imread(field.parent / "images/f.tif").astype(float)
    for channel, plane in (("", image[0]), ("Actin", image[1])):
        low, high = np.percentile(plane, [0.5, 99.8])
        expected = np.rint(255 * np.clip((plane - low) / (high - low), 0, 1))
        picture = _picture(field, image="f.tif", channel=channel)
        for y, x in ((5, 5), (50, 100), (90, 3), (20, 20), (72, 35)):  # background, and inside of objects
            assert tuple(picture[8 * y + 4, 8 * x + 4]) == (expected[y, x],) * 3
    with pytest.raises(ConfigError, match="no channel GFP"):
        _picture(field, channel="GFP")


def test_numbers_have_one_scale_for_all_fields(field: Path) -> None:
    picture = _picture(field, image="f.tif", by="size")
    scale = scale_colours(256)
    for label in (3, 7, 41):
        expected = scale[round(255 * (label - 3) / (41 - 3))]
        assert _at(picture, label)["edge"] == {tuple(expected)}


def test_rows_without_a_value_are_outlined_in_white(field: Path) -> None:
    data = read(field)
    here = (data.obs["label"].astype(str) == "7").to_numpy()
    data.obs["size"] = np.where(here, np.nan, data.obs["size"])
    data.obs["leiden"] = data.obs["leiden"].where(~here)
    data.write_h5ad(field)
    for by in ("size", "leiden"):
        picture = _picture(field, image="f.tif", by=by)
        assert _at(picture, 7)["edge"] == {WHITE}
        assert WHITE not in _at(picture, 3)["edge"]


def test_on_a_bright_field_they_are_dark(field: Path) -> None:
    bright = _mask(OBJECTS)
    folder = field.parent
    for name in "fg":
        tifffile.imwrite(
            folder / f"images/{name}.tif", np.stack([60000 - 40000 * (bright > 0)] * 2).astype(np.uint16)
        )
    store = _embed(folder, "again", input={"masks": str(folder / "masks")})
    data = read(export(store))
    data.obs["none"] = pd.Categorical([None] * data.n_obs, categories=["a"])
    data.write_h5ad(folder / "again.h5ad")
    assert _at(_picture(folder / "again.h5ad", by="none", image="f.tif"), 7)["edge"] == {INK}


def test_the_field_with_most_rows_is_shown_and_an_unknown_one_refused(
    field: Path, capsys: pytest.CaptureFixture
) -> None:
    _picture(field)
    assert "o.png shows g.tif" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"no row of .* is of an image 'h'") as caught:
        _picture(field, image="h")
    assert "f.tif" in caught.value.hint
    assert "g.tif" in caught.value.hint
    with pytest.raises(ConfigError, match="one piece: it has no block 2"):
        _picture(field, block=2)
    with pytest.raises(ConfigError, match="no column 'phase'") as caught:
        _picture(field, by="phase")
    assert "leiden" in caught.value.hint


def test_the_mask_is_the_one_of_the_run_or_an_error(field: Path) -> None:
    path = field.parent / "masks/f.tif"
    state = path.stat()
    tifffile.imwrite(path, _mask({**OBJECTS, 7: (40, 60, 8, 9)}), photometric="minisblack")
    with pytest.raises(InputError, match=rf"{path} was changed"):
        _picture(field, image="f.tif")
    assert path.stat().st_size == state.st_size
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # the same size and time, another object
    with pytest.raises(RunError, match=r"not those of the run .*: f\.tif#7 differ"):
        _picture(field, image="f.tif")
    path.unlink()
    with pytest.raises(InputError, match="is gone"):
        _picture(field, image="f.tif")


def test_segmented_objects_are_found_again(tmp_path: Path) -> None:
    _put(tmp_path, "f", _mask({1: (20, 20, 16, 16), 2: (60, 70, 16, 16)}))
    store = _embed(tmp_path, "run", segment={"diameter_px": 16})
    data = read(export(store))
    assert data.n_obs == 2
    data.obs["y"] = pd.Categorical(np.where(data.obs["y0_px"] < 30, "up", "down"))
    data.write_h5ad(tmp_path / "run.h5ad")
    picture = _picture(tmp_path / "run.h5ad", by="y")
    for group, rows in ((group_colour(1), slice(0, 48 * 8)), (group_colour(0), slice(48 * 8, 96 * 8))):
        part = picture[rows, : 128 * 8].reshape(-1, 3)
        assert (part == group).all(axis=1).any()
        assert not (part == group_colour(0 if group == group_colour(1) else 1)).all(axis=1).any()


# ---------------------------------------------------------------- blocks of a large field


@pytest.mark.parametrize("given", [True, False])
def test_one_block_of_a_large_field_is_shown(
    tmp_path: Path, given: bool, capsys: pytest.CaptureFixture
) -> None:
    objects = {
        i: (y, x, 14, 14)
        for i, (y, x) in enumerate(((20, 20), (20, 150), (60, 180), (100, 30), (100, 170)), start=1)
    }
    _put(tmp_path, "f", _mask(objects, (140, 210)), tile=(32, 32))
    inputs = {"block_px": 128, **({"masks": str(tmp_path / "masks")} if given else {})}
    store = _embed(tmp_path, "run", input=inputs, segment={"diameter_px": 14, "halo_px": 32})
    assert store.records.num_rows == 4  # 70 × 105 px each
    data = read(export(store))
    assert data.n_obs == 5
    data.obs["x"] = pd.Categorical(np.where(data.obs["centroid_x_px"] > 170, "right", "left"))
    data.write_h5ad(tmp_path / "run.h5ad")
    picture = _picture(tmp_path / "run.h5ad", by="x")
    said = capsys.readouterr().out
    assert "block 1 of 4 is shown" in said
    zoom = 10  # 105 px are shown as 1,050; block 1 begins at (0, 105)
    for label, group in ((2, 0), (3, 1)):
        y, x = objects[label][0] * zoom, (objects[label][1] - 105) * zoom
        edge = picture[y : y + 14 * zoom, x : x + 14 * zoom]
        assert (edge == group_colour(group)).all(axis=2).any()
        assert not (edge == group_colour(1 - group)).all(axis=2).any()
    _picture(tmp_path / "run.h5ad", by="x", block=2)
    assert "f.tif, block 2" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no block 7") as caught:
        _picture(tmp_path / "run.h5ad", by="x", block=7)
    assert "1 (2 rows)" in caught.value.hint


# ---------------------------------------------------------------- windows


def test_tiles_are_framed_at_their_windows(tmp_path: Path) -> None:
    _put(tmp_path, "f", _mask(OBJECTS))
    store = _embed(tmp_path, "run", mode="tile", input_px=64, tile={"foreground": 0.05})
    assert store.reject_parts()
    data = read(export(store, level="sample"))
    assert data.n_obs >= 2
    data.obs["place"] = [f"{y}-{x}" for y, x in zip(data.obs["y0_px"], data.obs["x0_px"], strict=True)]
    data.write_h5ad(tmp_path / "run.h5ad")
    picture = _picture(tmp_path / "run.h5ad", by="place")
    colours = colour_rows(data.obs, "place")
    row = data.n_obs - 1  # painted last: nothing lies over it
    y, x = (8 * int(data.obs[name].iloc[row]) for name in ("y0_px", "x0_px"))
    assert tuple(picture[y, x + 100]) == tuple(picture[y + 511, x + 100]) == colours.colour(row)
    assert tuple(picture[y + 100, x]) == tuple(picture[y + 100, x + 511]) == colours.colour(row)
    rejected = store.reject_table().to_pylist()[0]
    corner = picture[8 * rejected["y0_px"], 8 * rejected["x0_px"] :][:512]
    assert (corner == REJECTED).all(axis=1).any()
    with pytest.raises(InputError, match="an average of tiles, which has no place"):
        _picture(export(store, tmp_path / "i.h5ad", level="image"), by="image_id")
    with pytest.raises(InputError, match="a field, which has no place"):
        _picture(export(store, tmp_path / "i.h5ad", level="field"), by="image_id")


def test_cells_of_a_table_have_a_dot_in_their_middle(tmp_path: Path) -> None:
    _put(tmp_path, "f", _mask(OBJECTS))
    (tmp_path / "cells.csv").write_text(
        "image,x_px,y_px,kind_of\nf.tif,20,20,a\nf.tif,64,44,b\nf.tif,1,90,a\n"
    )
    inputs = {"cells": str(tmp_path / "cells.csv"), "cell_size_px": 24}
    store = _embed(tmp_path, "run", mode="native", input=inputs)
    picture = _picture(export(store), by="kind_of")
    for (y, x), group in (((20, 20), 0), ((44, 64), 1), ((90, 1), 0)):
        assert tuple(picture[8 * y, 8 * x]) == group_colour(group)
    assert tuple(picture[8 * 8, 8 * 10]) == group_colour(0)  # a corner of the first window


def test_windows_of_a_large_field_are_shown_block_by_block(tmp_path: Path) -> None:
    _put(tmp_path, "f", _mask({1: (5, 5, 3, 3)}, (140, 210)), tile=(32, 32))
    (tmp_path / "cells.csv").write_text(
        "image,x_px,y_px,kind_of\nf.tif,20,20,a\nf.tif,150,110,b\nf.tif,900,900,a\n"
    )
    inputs = {"cells": str(tmp_path / "cells.csv"), "cell_size_px": 24, "block_px": 128}
    store = _embed(tmp_path, "run", mode="native", input=inputs)
    assert store.records.num_rows == 2  # two of four blocks hold cells
    picture = _picture(export(store), by="kind_of", block=3)
    assert tuple(picture[(110 - 70) * 10, (150 - 105) * 10]) == group_colour(1)
    assert not (picture[: 70 * 10, : 105 * 10] == group_colour(0)).all(axis=2).any()


def test_cells_that_are_not_in_the_file_are_told_from_rejected_ones(tmp_path: Path) -> None:
    _put(tmp_path, "f", _mask(OBJECTS))
    (tmp_path / "cells.csv").write_text(
        "image,x0_px,y0_px,width_px,height_px,kind_of\nf.tif,4,4,24,24,a\nf.tif,60,40,24,24,a\nf.tif,90,70,3,9,a\n"
    )
    store = _embed(tmp_path, "run", mode="native", input={"cells": str(tmp_path / "cells.csv")})
    data = read(export(store))
    data[data.obs["label"].astype(str) == "1"].copy().write_h5ad(tmp_path / "run.h5ad")
    picture = _picture(tmp_path / "run.h5ad", by="kind_of")
    assert tuple(picture[8 * 4, 8 * 4]) == group_colour(0)
    assert tuple(picture[8 * 40, 8 * 60]) == OTHER
    assert tuple(picture[8 * 70, 8 * 90]) == REJECTED


def test_the_legend_counts_what_is_on_the_picture(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, seen = views.draw_field, []

    def draw(picture: Any, legend: Any, **options: Any) -> Any:
        seen.append([entry.text for entry in (*legend.groups, *legend.others)])
        return drawn(picture, legend, **options)

    monkeypatch.setattr(views, "draw_field", draw)
    data = read(field)
    data = data[~((data.obs["image_id"] == "g.tif") & (data.obs["label"].astype(str) == "5"))].copy()
    data.obs["leiden"] = data.obs["leiden"].where((data.obs["label"].astype(str) != "7").to_numpy())
    data.write_h5ad(field)
    _picture(field, image="g.tif")
    (field.parent / "cells.csv").write_text("image,x_px,y_px\nf.tif,20,20\nf.tif,64,44\nf.tif,500,500\n")
    inputs = {"cells": str(field.parent / "cells.csv"), "cell_size_px": 24}
    store = _embed(field.parent, "table", mode="native", input=inputs)
    _picture(export(store), by="kind", image="f.tif")
    assert seen == [["0 (2)", "no value (1)", "rejected (2)", "not in run.h5ad (1)"], ["cell (2)"]]


# ---------------------------------------------------------------- painting


def test_labels_are_painted_inside_and_only_those_named() -> None:
    mask = np.zeros((12, 16), np.int64)
    mask[2:8, 3:9] = 4
    mask[2:8, 9:14] = 6  # touches 4
    mask[9:12, 0:5] = 8  # at the border of the picture
    picture = np.zeros((12, 16, 3), np.uint8)
    paint_labels(picture, mask, {4: (1, 2, 3), 8: (9, 9, 9)}, line_px=2)
    painted = picture.any(axis=2)
    expected = np.zeros((12, 16), bool)
    expected[2:8, 3:9] = True
    expected[4:6, 5:7] = False
    expected[9:11, 0:5] = expected[9:12, 3:5] = True
    np.testing.assert_array_equal(painted, expected)
    assert (picture[2:8, 3] == (1, 2, 3)).all()
    paint_labels(picture, mask, {}, line_px=1)
    np.testing.assert_array_equal(picture.any(axis=2), expected)


def test_boxes_and_dots_stay_in_the_picture() -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    paint_boxes(picture, [Box(-5, -5, 12, 12), Box(15, 25, 40, 40)], [(1, 1, 1), (2, 2, 2)], line_px=2)
    expected = np.zeros((20, 30), np.uint8)
    expected[5:7, 0:7] = expected[0:7, 5:7] = 1
    expected[15:17, 25:] = expected[15:, 25:27] = 2
    np.testing.assert_array_equal(picture[..., 0], expected)
    paint_dots(picture, [(0.0, 29.0), (-40.0, 3.0)], [(7, 8, 9)] * 2)
    assert tuple(picture[0, 29]) == (7, 8, 9)
    assert not picture[10:, :20].any()


def test_small_fields_are_enlarged_and_large_ones_shrunk() -> None:
    assert Size.of(96, 128) == Size(8, 1)
    assert Size.of(512, 512) == Size(2, 1)
    assert Size.of(3000, 4000) == Size(1, 1)
    assert Size.of(3000, 4001) == Size(1, 2)
    assert Size.of(9001, 800) == Size(1, 3)
    plane = np.arange(7 * 11, dtype=np.uint16).reshape(1, 7, 11)
    half = Size(1, 2)
    shrunk = half.planes(plane)
    assert shrunk.shape == (1, 3, 5)
    assert shrunk[0, 1, 2] == plane[0, 2:4, 4:6].mean()
    mask = np.repeat(np.repeat(np.arange(1, 13).reshape(3, 4), 2, axis=0), 2, axis=1)
    np.testing.assert_array_equal(half.mask(mask), np.arange(1, 13).reshape(3, 4))
    assert half.mask(np.zeros((7, 11), int)).shape == (3, 5)
    assert half.box(Box(-3, 4, 8, 5)) == Box(-2, 2, 4, 2)
    double = Size(2, 1)
    assert double.planes(plane)[0, 5, 9] == plane[0, 2, 4]
    assert double.mask(mask)[5, 6] == mask[2, 3]
    assert double.box(Box(-3, 4, 8, 5)) == Box(-6, 8, 16, 10)


def test_the_first_thirty_groups_have_colours_of_their_own() -> None:
    assert len({group_colour(i) for i in range(30)}) == 30


def test_the_command(run: Run, field: Path) -> None:
    code, out, _ = run("overlay", field, "--by", "size", "--image", "f.tif", "--channel", "Actin")
    assert code == 0
    assert f"overlay: {field.parent}/run.overlay.png shows f.tif" in out
    code, out, _ = run("overlay", field.parent / "run", "--by", "area_px")
    assert code == 0
    assert (field.parent / "run.overlay.png").is_file()
    code, _, err = run("overlay", field.parent / "run")
    assert code == 2
    assert "no column 'leiden', so --by must say" in err
