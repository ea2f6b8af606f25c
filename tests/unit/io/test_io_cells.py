# ruff: noqa: PT017  (pixels or a reject: either is right, and both are looked at)
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import ConfigError, InputError
from microsnoop.io.manifest import InputList, read_records

BOX = "x0_px,y0_px,width_px,height_px"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., InputList]:
    """Read cells for images p1/a.tif, p1/b.tif and p2/c.tif (or other ones)."""

    def run(
        cells: str | dict[str, Any],
        *,
        images: str = "uri,plate\np1/a.tif,P1\np1/b.tif,P1\np2/c.tif,P2\n",
        **more: Any,
    ) -> InputList:
        (tmp_path / "m.csv").write_text(images)
        if isinstance(cells, str):
            path = tmp_path / "cells.csv"
            path.write_text(cells)
        else:
            path = tmp_path / "cells.parquet"
            pq.write_table(pa.table(cells), path)
        return read_records(InputConfig(manifest=str(tmp_path / "m.csv"), cells=str(path), **more))

    return run


def _boxes(found: InputList) -> dict[str, list[tuple[Any, ...]]]:
    return {
        row["image_id"]: [
            (b["label"], b["y0_px"], b["x0_px"], b["height_px"], b["width_px"]) for b in row["boxes"]
        ]
        for row in found.records.to_pylist()
    }


def test_boxes(read: Callable[..., InputList]) -> None:
    found = read(
        f"image,label,{BOX},score\np1/a.tif,7,10,20,30,40,0.5\np1/b.tif,1,1,2,3,4,\np1/a.tif,3,-5,0,9,8,1\n"
    )
    assert _boxes(found) == {
        "p1/a.tif": [("7", 20, 10, 40, 30), ("3", 0, -5, 8, 9)],
        "p1/b.tif": [("1", 2, 1, 4, 3)],
    }
    assert found.cells is not None
    assert found.cells.to_pylist() == [
        {"parent_id": "p1/a.tif#7", "meta_score": 0.5},
        {"parent_id": "p1/b.tif#1", "meta_score": None},
        {"parent_id": "p1/a.tif#3", "meta_score": 1.0},
    ]
    assert found.records["meta_plate"].to_pylist() == ["P1", "P1"]
    assert found.notes == ("1 images have no cell in the table and were left out",)


@pytest.mark.parametrize(
    ("size", "x", "y", "wanted"),
    [
        (10, "50", "20", (15, 45, 10, 10)),
        (11, "50", "20", (15, 45, 11, 11)),
        (10, "50.9", "20.1", (15, 45, 10, 10)),
        (1, "0", "0", (0, 0, 1, 1)),
        (10, "0", "0", (-5, -5, 10, 10)),
        (10, "-0.5", "0", (-5, -6, 10, 10)),
    ],
)
def test_centres(read: Callable[..., InputList], size: int, x: str, y: str, wanted: tuple[int, ...]) -> None:
    found = read(f"image,x_px,y_px\np1/a.tif,{x},{y}\n", cell_size_px=size)
    assert _boxes(found) == {"p1/a.tif": [("1", *wanted)]}


def test_a_fractional_box_covers_what_it_touches(read: Callable[..., InputList]) -> None:
    found = read(f"image,{BOX}\np1/a.tif,1.5,2.5,3.2,4.0\n")
    assert _boxes(found) == {"p1/a.tif": [("1", 2, 1, 4, 4)]}


def test_labels_count_within_each_image_where_none_are_given(read: Callable[..., InputList]) -> None:
    found = read(f"image,{BOX}\np1/a.tif,0,0,9,9\np1/b.tif,0,0,9,9\np1/a.tif,1,1,9,9\n")
    assert {image: [box[0] for box in boxes] for image, boxes in _boxes(found).items()} == {
        "p1/a.tif": ["1", "2"],
        "p1/b.tif": ["1"],
    }
    assert found.cells is not None
    assert found.cells["parent_id"].to_pylist() == ["p1/a.tif#1", "p1/b.tif#1", "p1/a.tif#2"]


def test_labels_stay_text(read: Callable[..., InputList]) -> None:
    found = read(f"image,label,{BOX}\np1/a.tif,007,0,0,9,9\np1/a.tif,7,0,0,9,9\n")
    assert [box[0] for box in _boxes(found)["p1/a.tif"]] == ["007", "7"]


@pytest.mark.parametrize("name", ["p1/a.tif", "a.tif", "a", "/elsewhere/p1/a.tif"])
def test_an_image_may_be_named_by_id_or_file_name(read: Callable[..., InputList], name: str) -> None:
    assert list(_boxes(read(f"image,{BOX}\n{name},0,0,9,9\n"))) == ["p1/a.tif"]


def test_an_id_wins_over_a_file_name(read: Callable[..., InputList]) -> None:
    images = "image_id,uri\na,b.tif\nb,a.tif\n"
    found = read(f"image,{BOX}\na,0,0,9,9\n", images=images)
    assert list(_boxes(found)) == ["a"]


def test_a_name_that_several_images_have(read: Callable[..., InputList]) -> None:
    with pytest.raises(InputError, match=r"'x.tif' could be any of \['p1/x.tif', 'p2/x.tif'\]"):
        read(f"image,{BOX}\nx.tif,0,0,9,9\n", images="uri\np1/x.tif\np2/x.tif\n")


def test_the_same_file_name_in_another_folder_is_another_image(read: Callable[..., InputList]) -> None:
    # cells of p2/x.tif must never be cut out of p1/x.tif
    images = "uri\np1/x.tif\np1/y.tif\n"
    found = read(f"image,{BOX}\np2/x.tif,0,0,9,9\np1/y.tif,0,0,9,9\n", images=images)
    assert "p1/x.tif" not in _boxes(found)
    assert found.records.to_pylist()[-1]["image_id"] == "p2/x.tif"


def test_cells_of_an_unknown_image_are_kept_to_be_rejected(read: Callable[..., InputList]) -> None:
    found = read(f"image,{BOX}\np1/a.tif,0,0,9,9\ngone.tif,1,2,3,4\n")
    last = found.records.to_pylist()[-1]
    assert (last["image_id"], last["uris"], last["meta_plate"]) == ("gone.tif", [], None)
    assert _boxes(found)["gone.tif"] == [("1", 2, 1, 4, 3)]
    assert last["record_key"]
    assert "1 images of the cell table are not in the input list, e.g. 'gone.tif'" in found.notes


def test_cells_of_nothing_but_unknown_images(read: Callable[..., InputList]) -> None:
    with pytest.raises(InputError, match="no image of the cell table is in the input list"):
        read(f"image,{BOX}\ngone.tif,1,2,3,4\n")


@pytest.mark.parametrize(
    "label",
    [
        "5",
        pytest.param(""),
    ],
)
def test_repeated_labels(read: Callable[..., InputList], label: str) -> None:
    with pytest.raises(InputError) as error:
        read(f"image,label,{BOX}\np1/a.tif,{label},0,0,9,9\np1/a.tif,{label},1,1,9,9\n")
    assert "p1/a.tif" in error.value.message or "label" in error.value.message
    assert "None" not in error.value.message


def test_the_same_label_in_two_images_is_fine(read: Callable[..., InputList]) -> None:
    assert len(_boxes(read(f"image,label,{BOX}\np1/a.tif,5,0,0,9,9\np1/b.tif,5,1,1,9,9\n"))) == 2


def test_a_cell_without_an_image_is_an_error_not_the_image_none(read: Callable[..., InputList]) -> None:
    with pytest.raises(InputError):
        read(f"image,{BOX}\np1/a.tif,0,0,9,9\n,1,1,9,9\n")


def test_a_cell_without_a_label_is_an_error_not_the_label_none(read: Callable[..., InputList]) -> None:
    with pytest.raises(InputError, match="label"):
        read(f"image,label,{BOX}\np1/a.tif,5,0,0,9,9\np1/a.tif,,1,1,9,9\n")


def test_centres_need_a_size(read: Callable[..., InputList]) -> None:
    with pytest.raises(ConfigError, match="cell_size_px"):
        read("image,x_px,y_px\np1/a.tif,1,2\n")


def test_no_image_column(read: Callable[..., InputList]) -> None:
    with pytest.raises(InputError, match="no column `image`") as error:
        read(f"file,{BOX}\np1/a.tif,0,0,9,9\n")
    assert "file" in error.value.hint


def test_columns_of_other_names(read: Callable[..., InputList]) -> None:
    columns = {"image": "ImageName", "x_px": "Location_Center_X", "y_px": "Location_Center_Y", "label": "N"}
    found = read(
        "ImageName,Location_Center_X,Location_Center_Y,N\np1/a.tif,50,20,4\n",
        cells_columns=columns,
        cell_size_px=10,
    )
    assert _boxes(found) == {"p1/a.tif": [("4", 15, 45, 10, 10)]}


@pytest.mark.parametrize("columns", ["x_px", "x0_px,y0_px,width_px", "a,b"])
def test_neither_centres_nor_boxes(read: Callable[..., InputList], columns: str) -> None:
    with pytest.raises(InputError, match="neither x_px, y_px nor"):
        read(f"image,{columns}\np1/a.tif{',1' * (columns.count(',') + 1)}\n", cell_size_px=9)


@pytest.mark.parametrize("value", ["", "abc", "nan", "inf"])
def test_coordinates_that_are_no_numbers(read: Callable[..., InputList], value: str) -> None:
    with pytest.raises(InputError, match="x_px"):
        read(f'image,x_px,y_px\np1/a.tif,5,5\np1/a.tif,"{value}",5\n', cell_size_px=9)


def test_missing_numbers_are_named_by_row(read: Callable[..., InputList]) -> None:
    with pytest.raises(InputError, match=r"y_px has no usable number in row\(s\) \[2, 3\]"):
        read(
            {"image": ["a", "a", "b"], "x_px": [1.0, 2.0, 3.0], "y_px": [1.0, None, float("nan")]},
            cell_size_px=9,
        )


@pytest.mark.parametrize("value", ["1e30", "-1e300", "9999999999999999999"])
def test_coordinates_beyond_all_images(read: Callable[..., InputList], value: str) -> None:
    try:
        found = read(f"image,x_px,y_px\np1/a.tif,{value},5\n", cell_size_px=9)
    except InputError as error:
        assert "x_px" in error.message
    else:
        assert found.records.num_rows == 1


@pytest.mark.parametrize("size", ["0", "-3"])
def test_boxes_without_pixels_are_kept_to_be_rejected(read: Callable[..., InputList], size: str) -> None:
    assert _boxes(read(f"image,{BOX}\np1/a.tif,0,0,{size},9\n")) == {"p1/a.tif": [("1", 0, 0, 9, int(size))]}


def test_metadata_of_cells_and_images_may_not_share_a_name(read: Callable[..., InputList]) -> None:
    with pytest.raises(InputError, match=r"both have the column.*meta_plate"):
        read(f"image,{BOX},plate\np1/a.tif,0,0,9,9,P1\n")


def test_centres_beside_boxes_are_not_lost(read: Callable[..., InputList]) -> None:
    found = read(f"image,{BOX},x_px,y_px\np1/a.tif,0,0,9,9,4.5,4.5\n")
    assert found.cells is not None
    assert {"meta_x_px", "meta_y_px"} <= set(found.cells.column_names)


def test_a_cell_table_in_parquet(read: Callable[..., InputList]) -> None:
    found = read(
        {
            "image": pa.array(["a", "a"]).dictionary_encode(),
            "label": [1, 2],
            "x_px": pa.array([5, 6], pa.int16()),
            "y_px": pa.array([7.5, 8.5], pa.float32()),
            "type": pa.array(["t", None]).dictionary_encode(),
        },
        cell_size_px=4,
    )
    assert _boxes(found) == {"p1/a.tif": [("1", 5, 3, 4, 4), ("2", 6, 4, 4, 4)]}
    assert found.cells is not None
    assert found.cells["meta_type"].to_pylist() == ["t", None]


def test_images_of_separate_channels_may_be_named_by_any_of_their_files(
    read: Callable[..., InputList],
) -> None:
    images = "image_id,uri_DAPI,uri_ER\nx,a_d.tif,a_e.tif\ny,b_d.tif,\n"
    found = read(f"image,{BOX}\na_e.tif,0,0,9,9\nb_d.tif,0,0,9,9\n", images=images)
    assert list(_boxes(found)) == ["x", "y"]


def test_the_limit_counts_images_with_cells(read: Callable[..., InputList]) -> None:
    cells = f"image,{BOX}\np1/b.tif,0,0,9,9\np2/c.tif,0,0,9,9\n"
    assert list(_boxes(read(cells, limit=1))) == ["p1/b.tif"]


def test_many_cells_are_attached_quickly(read: Callable[..., InputList]) -> None:
    n = 100_000
    found = read({"image": ["a", "b"] * (n // 2), "x_px": list(range(n)), "y_px": [5] * n}, cell_size_px=8)
    assert sum(map(len, _boxes(found).values())) == n
