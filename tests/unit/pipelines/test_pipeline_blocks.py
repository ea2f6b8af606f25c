"""Large fields come block by block, and give exactly the rows of the whole field: nothing twice, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile

from microsnoop.core.config import EmbedConfig
from microsnoop.io.images import ImageReader
from microsnoop.pipelines.blocks import split_large
from microsnoop.pipelines.embed import prepare
from microsnoop.pipelines.stages import read_samples

SIZE = (300, 410)
BLOCK_PX = 128


@pytest.fixture
def field(tmp_path: Path) -> Path:
    """A tiled TIFF of two channels with 60 discs, its mask, and a table of cells."""
    rng = np.random.default_rng(3)
    mask = np.zeros(SIZE, np.uint16)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    centres = [(r, c) for r in range(24, 290, 45) for c in range(22, 400, 42)]
    for label, (r, c) in enumerate(centres, start=1):
        mask[(y - r) ** 2 + (x - c) ** 2 < 100] = label
    image = rng.integers(100, 300, (2, *SIZE)).astype(np.uint16)
    image[0][mask > 0] += 3000
    for name, data in (("images/f.tif", image), ("masks/f.tif", mask)):
        (tmp_path / name).parent.mkdir()
        tifffile.imwrite(tmp_path / name, data, tile=(64, 64), photometric="minisblack", compression="zlib")
    lines = [f"f.tif,{c},{r}" for r, c in centres] + ["f.tif,900,900"]  # the last one lies outside
    (tmp_path / "cells.csv").write_text("image,x_px,y_px\n" + "\n".join(lines) + "\n")
    return tmp_path


def _rows(folder: Path, block_px: int, **settings: Any) -> tuple[list[dict[str, Any]], pa.Table]:
    inputs = {"folder": str(folder / "images"), "block_px": block_px, **settings.pop("input", {})}
    base = {"input": inputs, "run_dir": "r", "encoder": "pixels16", "input_px": 32}
    run = prepare(EmbedConfig.model_validate(base | settings))
    records = run.inputs.records
    tables = [t for i in range(records.num_rows) for t in read_samples(records.slice(i, 1), job=run.job)]
    return pa.concat_tables(tables).to_pylist(), records


def _same(row: dict[str, Any], other: dict[str, Any]) -> bool:
    own = {"sample_index", "n_samples", "block", "row_key"}  # what a block is about
    return all(
        np.array_equal(row[name], other[name]) if isinstance(row[name], list) else row[name] == other[name]
        for name in row.keys() - own
    )


MODES: dict[str, dict[str, Any]] = {
    "tile": {"mode": "tile", "tile": {"overlap": 0.2}},
    "some tiles": {"mode": "tile", "tile": {"rate": 0.1}},
    "cells": {"mode": "native", "input": {"cells": "cells.csv", "cell_size_px": 32}},
    "masks": {"mode": "crop", "input": {"masks": "masks"}},
    "masks, erased": {"mode": "crop", "input": {"masks": "masks"}, "crop": {"kind": "mask"}},
    "masks, drawn": {"mode": "crop", "input": {"masks": "masks"}, "crop": {"max_cells": 11}},
}


@pytest.mark.parametrize("mode", MODES)
def test_blocks_give_the_rows_of_the_whole_field(field: Path, mode: str) -> None:
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in MODES[mode].items()}
    inputs = {
        key: str(field / value) if isinstance(value, str) else value
        for key, value in settings.pop("input", {}).items()
    }
    whole, records = _rows(field, 4096, input=dict(inputs), **settings)
    blocks, pieces = _rows(field, BLOCK_PX, input=dict(inputs), **settings)
    assert "block" not in records.column_names
    assert pieces.num_rows > 4
    assert sorted(row["obs_id"] for row in blocks) == sorted(row["obs_id"] for row in whole)
    by_id = {row["obs_id"]: row for row in whole}
    assert all(_same(row, by_id[row["obs_id"]]) for row in blocks)
    assert {row["image_id"] for row in blocks} == {"f.tif"}
    # the balance holds in every block
    for number in {row["block"] for row in blocks}:
        own = [row for row in blocks if row["block"] == number]
        assert {row["n_samples"] for row in own} == {len(own)}


def test_every_block_has_a_key_and_a_place_of_its_own(field: Path) -> None:
    _, records = _rows(field, BLOCK_PX, mode="tile")
    blocks = records["block"].to_pylist()
    assert len(set(records["record_key"].to_pylist())) == records.num_rows == 3 * 4
    covered = np.zeros(SIZE, int)
    for b in blocks:
        covered[b["y0_px"] : b["y0_px"] + b["height_px"], b["x0_px"] : b["x0_px"] + b["width_px"]] += 1
    assert (covered == 1).all()
    assert max(b["height_px"] for b in blocks) <= BLOCK_PX


def test_segmented_objects_have_one_owner(field: Path) -> None:
    whole, _ = _rows(field, 4096, mode="crop", crop={"exclude_border": False})
    blocks, _ = _rows(field, BLOCK_PX, mode="crop", crop={"exclude_border": False}, segment={"halo_px": 40})
    centres = sorted((round(r["centroid_y_px"]), round(r["centroid_x_px"])) for r in whole if not r["code"])
    found = sorted((round(r["centroid_y_px"]), round(r["centroid_x_px"])) for r in blocks if not r["code"])
    assert len(centres) == 54
    assert found == centres
    assert len({row["obs_id"] for row in blocks}) == len(blocks)


def test_an_object_cut_by_the_halo_is_rejected_by_name(field: Path) -> None:
    rows, _ = _rows(field, BLOCK_PX, mode="crop", segment={"halo_px": 0})
    cut = [row for row in rows if row["code"] == "oversize"]
    assert cut
    assert all("segment.halo_px" in row["message"] for row in cut)


def test_a_block_without_objects_says_so_under_an_id_of_its_own(field: Path) -> None:
    mask = tifffile.imread(field / "masks/f.tif")
    mask[:128, :128] = 0
    tifffile.imwrite(field / "masks/f.tif", mask, tile=(64, 64))
    rows, _ = _rows(field, BLOCK_PX, mode="crop", input={"masks": str(field / "masks")})
    empty = [row for row in rows if row["code"] == "empty_mask"]
    assert [row["obs_id"] for row in empty] == ["f.tif[block 0]"]


def test_blocks_without_a_drawn_tile_or_a_cell_are_left_out(field: Path) -> None:
    rows, records = _rows(field, 64, mode="tile", tile={"rate": 0.02})
    assert records.num_rows <= len(rows) < 10
    (field / "cells.csv").write_text("image,x_px,y_px\nf.tif,30,30\nf.tif,390,280\n")
    settings = {"cells": str(field / "cells.csv"), "cell_size_px": 16}
    _, records = _rows(field, BLOCK_PX, mode="native", input=settings)
    assert records.num_rows == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "rescale"},
        {"mode": "native", "native": {"on_oversize": "tile"}},
        {"mode": "tile", "tile": {"norm": "image"}},
    ],
)
def test_modes_that_need_the_whole_field_are_not_split(field: Path, settings: dict[str, Any]) -> None:
    _, records = _rows(field, BLOCK_PX, **settings)
    assert "block" not in records.column_names


def test_small_files_are_not_opened(field: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a header was read")

    base = {"input": {"folder": str(field / "images"), "block_px": 8192}, "run_dir": "r", "mode": "tile"}
    run = prepare(EmbedConfig.model_validate({**base, "encoder": "pixels16", "input_px": 32}))
    monkeypatch.setattr(ImageReader, "info", refuse)
    assert split_large(run.inputs, EmbedConfig.model_validate(base), input_px=32) is run.inputs


def test_no_more_than_a_block_and_its_surroundings_is_decoded(
    field: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    plain = ImageReader.read

    def watched(self: ImageReader, *args: Any, **kwargs: Any) -> Any:
        image = plain(self, *args, **kwargs)
        shapes.append(image.planes.shape)
        return image

    monkeypatch.setattr(ImageReader, "read", watched)
    _rows(field, BLOCK_PX, mode="tile")
    assert len(shapes) == 12
    assert max(max(shape[1:]) for shape in shapes) <= BLOCK_PX + 32
