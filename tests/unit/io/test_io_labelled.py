"""Rows of a recipe: every row used or left out for a reason, and the same pixels behind the written manifest."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError
from microsnoop.core.evaluate_config import EvaluateConfig
from microsnoop.io.labelled import choose_rows, image_rows, read_labelled, rooted, write_input
from microsnoop.io.manifest import read_records


def recipe(**changes: Any) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"title": "t", "input": {"folder": "x"}, "label": "kind"} | changes)


def columns(n: int = 60) -> dict[str, list[Any]]:
    return {
        "row_id": [f"r{i}" for i in range(n)],
        "kind": [["a", "b", "c", None][i % 4] for i in range(n)],
        "plate": [i % 5 if i % 7 else None for i in range(n)],
        "run": [1 if i < 40 else 2 for i in range(n)],
    }


def test_every_row_is_used_or_counted() -> None:
    cfg = recipe(where={"run": ["1"]}, exclude=["c"], group="plate", max_per_class=5)
    rows = choose_rows(columns(), cfg, where="table")
    assert rows.n_input == 60 == len(rows.ids) + sum(rows.left_out.values())
    assert rows.left_out["other run"] == 20
    assert rows.left_out["no label"] == 10
    assert rows.left_out["kind excluded"] == 10
    assert set(rows.left_out) == {"other run", "no label", "kind excluded", "no group", "over max_per_class"}
    assert sorted(rows.classes) == ["a"] * 5 + ["b"] * 5
    assert rows.groups is not None
    assert all(group in "01234" for group in rows.groups)
    for name, kind, group in zip(rows.ids, rows.classes, rows.groups, strict=True):
        i = int(name[1:])
        assert (columns()["kind"][i], str(columns()["plate"][i])) == (kind, group)


def test_classes_are_named_and_merged() -> None:
    rows = choose_rows(columns(), recipe(classes={"A or B": ["a", "b"]}), where="table")
    assert sorted(set(rows.classes)) == ["A or B", "c"]
    assert rows.classes.count("A or B") == 30
    assert rows.groups is None


def test_a_larger_draw_holds_the_smaller_one_and_row_order_does_not_matter() -> None:
    small, large = (set(choose_rows(columns(), recipe(max_per_class=n), where="t").ids) for n in (4, 9))
    assert len(small) == 12
    assert small < large
    backwards = {name: values[::-1] for name, values in columns().items()}
    assert set(choose_rows(backwards, recipe(max_per_class=4), where="t").ids) == small
    assert set(choose_rows(columns(), recipe(max_per_class=4, seed=1), where="t").ids) != small


def test_rows_that_no_encoder_has_are_counted() -> None:
    rows = choose_rows(columns(), recipe(group="plate"), where="t")
    kept = rows.keep(set(rows.ids[3:]), reason="gone")
    assert kept.ids == rows.ids[3:]
    assert kept.classes == rows.classes[3:]
    assert kept.groups == (rows.groups or ())[3:]
    assert kept.left_out["gone"] == 3
    assert kept.n_input == len(kept.ids) + sum(kept.left_out.values())
    assert rows.keep(set(rows.ids), reason="gone") is rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": "colour"}, "no column 'colour'"),
        ({"group": "well"}, "no column 'well'"),
        ({"where": {"day": ["1"]}}, "no column 'day'"),
        ({"exclude": ["z"]}, "never holds z"),
        ({"classes": {"new": ["y"]}}, "never holds y"),
        ({"exclude": ["a", "b"]}, "fewer than two classes"),
    ],
)
def test_what_a_recipe_gets_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_rows(columns(), recipe(**changes), where="table.csv")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": None}, "give input"),
        ({"classes": {"x": ["a"], "y": ["a"]}}, "used twice"),
        ({"classes": {"x": ["a"]}, "exclude": ["a"]}, "used twice"),
        ({"group": "kind"}, "must be different"),
        ({"embed": {"input_px": 40}}, "multiple of 32"),
        ({"surplus": 1}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """Two stacks of six pages and a table that names some of them."""
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.arange(6 * 8 * 12, dtype=np.uint16).reshape(6, 8, 12))
    with (tmp_path / "table.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["cell", "file", "index", "kind"])
        writer.writerows(
            [f"{f}{i}", f"{f}.tif", i, "even" if i % 2 == 0 else "odd"] for f in "ab" for i in range(6)
        )
    return tmp_path


def test_the_written_manifest_holds_the_same_records(stacks: Path, tmp_path: Path) -> None:
    cfg = recipe(
        input={"manifest": "table.csv", "columns": {"image_id": "cell", "uri": "file"}}, max_per_class=4
    )
    inputs, rows = read_labelled(cfg, root=str(stacks))
    assert cfg.input is not None
    written, key = write_input(inputs, rows, cfg.input, folder=tmp_path / "inputs")
    again = read_records(written).records
    assert again["image_id"].to_pylist() == list(rows.ids)
    keys = dict(
        zip(inputs.records["image_id"].to_pylist(), inputs.records["record_key"].to_pylist(), strict=True)
    )
    assert again["record_key"].to_pylist() == [keys[name] for name in rows.ids]
    assert set(again["meta_kind"].to_pylist()) == {"even", "odd"}
    merged = recipe(input=cfg.input.model_dump(), max_per_class=4, title="other words")
    assert (
        write_input(*read_labelled(merged, root=str(stacks)), cfg.input, folder=tmp_path / "inputs")[1] == key
    )
    fewer = recipe(input=cfg.input.model_dump(), max_per_class=3)
    assert (
        write_input(*read_labelled(fewer, root=str(stacks)), cfg.input, folder=tmp_path / "inputs")[1] != key
    )


def test_cells_keep_their_boxes_and_only_chosen_ones_stay(examples: Path, tmp_path: Path) -> None:
    images = sorted((examples / "images").glob("*.tif"))[:3]
    with (tmp_path / "cells.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "x_px", "y_px", "kind"])
        writer.writerows(
            [p.name, 50 + 20 * i, 40 + 10 * i, "ab"[i % 2]] for p in images[:2] for i in range(4)
        )
    cfg = recipe(
        input={
            "pattern": str(examples / "images" / "{line}_{day}_s{site}.tif"),
            "cells": "cells.csv",
            "cell_size_px": 31,
        },
        group="image_id",
        max_per_class=3,
    )
    inputs, rows = read_labelled(cfg, root=str(tmp_path))
    assert cfg.input is not None
    assert len(rows.ids) == 6
    assert {"line", "day", "site", "kind", "image_id"} <= set(image_rows(inputs))
    written, _ = write_input(inputs, rows, cfg.input, folder=tmp_path / "inputs")
    again = read_records(written).records

    def boxes(table: Any) -> dict[str, dict[str, Any]]:
        return {
            f"{image}#{box['label']}": box
            for image, own in zip(table["image_id"].to_pylist(), table["boxes"].to_pylist(), strict=True)
            for box in own
        }

    chosen, before = boxes(again), boxes(inputs.records)
    assert set(chosen) == set(rows.ids)
    assert all(chosen[name] == before[name] for name in chosen)


def test_channels_in_separate_files_survive(tmp_path: Path) -> None:
    for name in ("d1", "a1", "d2"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.full((8, 12), 3, np.uint8))
    (tmp_path / "m.csv").write_text("uri_DNA,uri_Actin,image_id,kind\nd1.tif,a1.tif,x,one\nd2.tif,,y,two\n")
    cfg = recipe(input={"manifest": "m.csv"})
    inputs, rows = read_labelled(cfg, root=str(tmp_path))
    assert cfg.input is not None
    written, _ = write_input(inputs, rows, cfg.input, folder=tmp_path / "inputs")
    assert read_records(written).records["record_key"].to_pylist() == inputs.records["record_key"].to_pylist()


def test_paths_are_below_the_root() -> None:
    cfg = InputConfig(manifest="a/m.csv", cells="/abs/c.csv", root="pictures", cell_size_px=5)
    found = rooted(cfg, "/data")
    assert (found.manifest, found.cells, found.root) == ("/data/a/m.csv", "/abs/c.csv", "/data/pictures")
    assert rooted(InputConfig(folder="s3://b/c"), "/data").folder == "s3://b/c"
    assert rooted(InputConfig(pattern="p/{well}.tif"), "s3://b").pattern == "s3://b/p/{well}.tif"
