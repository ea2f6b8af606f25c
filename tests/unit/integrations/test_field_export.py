"""Fields made of their cells and tiles: one row for every image of the input list, NaN where nothing was embedded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, RunError
from microsnoop.core.schema import ROW_FIELDS, result_schema
from microsnoop.io.store import RunStore
from microsnoop.io.writer import RunWriter
from microsnoop.ops.aggregate import REDUCERS
from microsnoop_apps import commands
from microsnoop_integrations import anndata_io
from microsnoop_integrations.anndata_io import export, read
from microsnoop_integrations.scanpy_steps import neighbours_umap_leiden, plot_umap

CHANNELS, DIM = ["DNA", "Actin"], 3
WIDTH = len(CHANNELS) * DIM
STATISTICS = sorted(REDUCERS)


def make_run(path: Path, rows: Sequence[dict[str, Any]], images: Sequence[str], **columns: Any) -> RunStore:
    """Write a run directory as the pipeline does: four rows a part, rejects where a row has a code."""
    store = RunStore(path)
    store.create()
    store.write_inputs(pa.table({"image_id": list(images), **columns}), None)
    store.write_info(
        {
            "identity": {"channels": CHANNELS, "dim": DIM, "precision": "fp32"},
            "encoder": {"name": "toy", "weights_sha256": "00", "trained": False, "licence": "none"},
            "config": {"fuse": "concat"},
            "versions": {"python": "3"},
        }
    )
    writer = RunWriter(store, channels=CHANNELS, dim=DIM, rows_per_part=4, flush_seconds=1e9)
    blank = {name: None for name, _ in ROW_FIELDS}
    writer.append(pa.Table.from_pylist([{**blank, **row} for row in rows], schema=result_schema(WIDTH)))
    writer.flush()
    return store


def vector(*key: int) -> list[float]:
    return np.random.default_rng(key).normal(size=WIDTH).astype(np.float32).tolist()


def cell(image: str, number: int, **changes: Any) -> dict[str, Any]:
    name = f"{image}#{number}"
    return {
        "obs_id": name, "image_id": image, "parent_id": name, "kind": "cell", "label": str(number),
        "sample_index": number, "image_height_px": 96, "image_width_px": 128, "uris": [f"/d/{image}.tif"],
        "flags": [], "vectors": vector(ord(image[-1]), number), **changes,
    }  # fmt: skip


def tile(parent: str, number: int, **changes: Any) -> dict[str, Any]:
    image = parent.partition("#")[0]
    return {
        **cell(image, number), "obs_id": f"{parent}@{number},0", "parent_id": parent, "kind": "tile",
        "vectors": vector(ord(image[-1]), 100 + number, len(parent)), **changes,
    }  # fmt: skip


def reject(row: dict[str, Any], code: str = "border_cell") -> dict[str, Any]:
    return {**row, "vectors": None, "stage": "read", "code": code, "message": "no"}


def unreadable(image: str) -> dict[str, Any]:
    row = {"obs_id": image, "image_id": image, "parent_id": image, "kind": "image", "sample_index": 0}
    return reject({**row, "flags": [], "uris": [f"/d/{image}.tif"]}, "decode_error")


IMAGES = ["f5", "f1", "f0", "f3", "f2", "f4"]  # neither sorted nor in the order of the rows below
CELLS = {"f0": 5, "f1": 1, "f2": 12, "f3": 0, "f4": 0, "f5": 3}
ROWS = [cell(image, number) for image, n in CELLS.items() for number in range(n)]
REJECTS = [
    reject(cell("f3", 0)), reject(cell("f3", 1)), unreadable("f4"), reject(cell("f0", 9), "oversize"),
]  # fmt: skip


@pytest.fixture
def plate(tmp_path: Path) -> RunStore:
    """A plate of six fields: f3 has only rejected cells, f4 cannot be read; rows in random order, so parts mix."""
    rows = [*ROWS, *REJECTS]
    shuffled = [rows[i] for i in np.random.default_rng(5).permutation(len(rows))]
    wells = [f"well {image}" for image in IMAGES]
    store = make_run(tmp_path / "plate", shuffled, IMAGES, meta_well=wells, meta_dose=range(6))
    assert len(store.embedding_parts()) > 4
    return store


def members(image: str) -> NDArray[np.float64]:
    return np.array([row["vectors"] for row in ROWS if row["image_id"] == image], float)


# ---------------------------------------------------------------- fields of cells


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_every_image_of_the_input_list_is_a_row(plate: RunStore, suffix: str) -> None:
    data = read(export(plate, plate.path.with_suffix(f".{suffix}"), level="field"))
    assert list(data.obs_names) == IMAGES
    assert list(data.obs["image_id"]) == IMAGES
    assert dict(zip(IMAGES, data.obs["n_cells"], strict=True)) == CELLS
    assert list(data.obs["n_rejected"]) == [0, 0, 1, 2, 0, 1]
    assert list(data.obs["well"]) == [f"well {image}" for image in IMAGES]
    assert list(data.obs["dose"]) == list(range(6))
    assert list(data.obs["uri"]) == [f"/d/{image}.tif" for image in IMAGES]
    # f3 is known from its rejects; nobody ever read f4
    assert data.obs["image_height_px"].fillna(-1).tolist() == [96, 96, 96, 96, 96, -1]
    x = np.asarray(data.X)
    assert x.dtype == np.float32
    for image, found in zip(IMAGES, x, strict=True):
        if CELLS[image]:
            np.testing.assert_allclose(found, members(image).mean(axis=0), rtol=1e-6)
        else:
            assert np.isnan(found).all()
    uns = data.uns["microsnoop"]
    assert (uns["level"], uns["aggregate"]) == ("field", "mean")
    assert "spatial" not in data.obsm
    for foreign in (
        "kind",
        "label",
        "y0_px",
        "flags",
        "n_tiles",
        "n_images",
    ):  # of a cell, or of nothing here
        assert foreign not in data.obs


@pytest.mark.parametrize("how", STATISTICS)
def test_statistics_are_those_of_a_field_s_cells(plate: RunStore, how: str) -> None:
    data = read(export(plate, level="field", aggregate=how))
    assert data.uns["microsnoop"]["aggregate"] == how
    for image, found in zip(IMAGES, np.asarray(data.X), strict=True):
        if CELLS[image]:
            np.testing.assert_allclose(found, REDUCERS[how](members(image)), rtol=1e-5, atol=1e-6)
        else:
            assert np.isnan(found).all()


@pytest.mark.parametrize("how", STATISTICS)
def test_small_chunks_change_nothing(plate: RunStore, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.asarray(read(export(plate, level="field", aggregate=how)).X)
    read_rows = []
    gathered = anndata_io.reduce_groups

    def watched(blocks: Any, counts: NDArray[np.int64], **keywords: Any) -> Any:
        read_rows.append((len(counts), int(counts.sum())))
        return gathered(blocks, counts, **keywords)

    monkeypatch.setattr(anndata_io, "reduce_groups", watched)
    monkeypatch.setattr(anndata_io, "_SUMS", 4 * WIDTH)  # at most 4 fields
    monkeypatch.setattr(anndata_io, "_MEMBERS", 6 * WIDTH)  # at most 6 cells, or one field
    found = np.asarray(read(export(plate, level="field", aggregate=how)).X)
    np.testing.assert_array_equal(found, whole)
    assert sum(n for n, _ in read_rows) == 6
    assert sum(n for _, n in read_rows) == sum(CELLS.values())
    if how != "mean":  # 3 + 1, 5 + 0, 12 + 0 or fewer
        assert all(rows <= 6 or fields == 1 for fields, rows in read_rows), read_rows
    assert all(fields <= 4 for fields, _ in read_rows)


def test_streamed_means_equal_means_of_gathered_rows(plate: RunStore) -> None:
    streamed = np.asarray(read(export(plate, level="field")).X)
    gathered = np.asarray(read(export(plate, level="field", aggregate="mean_std")).X)
    np.testing.assert_allclose(gathered[:, :WIDTH], streamed, rtol=1e-6)


def test_mean_std_doubles_the_columns(plate: RunStore) -> None:
    data = read(export(plate, level="field", aggregate="mean_std"))
    assert list(data.var_names) == [
        "DNA:000", "DNA:001", "DNA:002", "Actin:000", "Actin:001", "Actin:002",
        "DNA:000:std", "DNA:001:std", "DNA:002:std", "Actin:000:std", "Actin:001:std", "Actin:002:std",
    ]  # fmt: skip
    assert list(data.var["statistic"]) == ["mean"] * 6 + ["std"] * 6
    assert list(data.var["channel"]) == ["DNA"] * 3 + ["Actin"] * 3 + ["DNA"] * 3 + ["Actin"] * 3
    assert list(data.var["dimension"]) == [0, 1, 2] * 4
    one = np.asarray(data["f1"].X)[0]  # one cell has no spread
    np.testing.assert_array_equal(one[WIDTH:], 0)
    np.testing.assert_allclose(np.asarray(data["f2"].X)[0, WIDTH:], members("f2").std(axis=0), rtol=1e-5)
    median = read(export(plate, level="field", aggregate="median"))
    assert list(median.var["statistic"].unique()) == ["median"]


@pytest.mark.parametrize("how", STATISTICS)
def test_first_aggregated_then_fused(plate: RunStore, how: str) -> None:
    whole = REDUCERS[how](members("f2")).reshape(-1, len(CHANNELS), DIM)
    mean = read(export(plate, level="field", aggregate=how, fuse="mean"))
    np.testing.assert_allclose(np.asarray(mean["f2"].X)[0], whole.mean(axis=1).ravel(), rtol=1e-4, atol=1e-6)
    chans = read(export(plate, level="field", aggregate=how, fuse="chans"))
    np.testing.assert_allclose(np.asarray(chans["f2"].X)[0], whole.sum(axis=2).ravel(), rtol=1e-4, atol=1e-6)
    assert len(mean.var_names) == len(whole) * DIM
    if how == "mean_std":
        assert list(mean.var_names[DIM:]) == ["mean:000:std", "mean:001:std", "mean:002:std"]
        assert list(chans.var_names) == ["DNA:sum", "Actin:sum", "DNA:sum:std", "Actin:sum:std"]


def test_a_large_field_in_several_records_is_one_row(tmp_path: Path) -> None:
    rows = [*(cell("f1", k, block=k // 2) for k in range(4)), cell("f0", 0)]
    store = make_run(
        tmp_path / "blocks", rows, ["f1", "f0", "f1"], meta_well=["B2", "A1", "B2"],
        uris=[["/d/f1.tif"], ["/d/f0.tif"], ["/d/f1.tif"]], index=[7, None, 7],
    )  # fmt: skip
    data = read(export(store, level="field"))
    assert list(data.obs_names) == ["f1", "f0"]
    assert list(data.obs["n_cells"]) == [4, 1]
    assert list(data.obs["well"]) == ["B2", "A1"]
    assert list(data.obs["index"].fillna(-1)) == [7, -1]
    every = read(export(store, level="sample"))
    assert list(every.obs_names) == ["f1#0", "f1#1", "f1#2", "f1#3", "f0#0"]
    assert list(every.obs["well"]) == ["B2"] * 4 + ["A1"]


def test_samples_of_blocks_stand_block_by_block_however_they_came(tmp_path: Path) -> None:
    rows = [cell("f0", 10 * block + k, block=block, sample_index=k) for k in (1, 0) for block in (2, 0, 1)]
    store = make_run(tmp_path / "blocks", rows, ["f0"] * 3)
    assert [name[3:] for name in read(export(store)).obs_names] == ["0", "1", "10", "11", "20", "21"]


# ---------------------------------------------------------------- tiles, whole images


def test_tiles_in_cells_and_tiles_in_images_are_counted_apart(tmp_path: Path) -> None:
    rows = [
        tile("f0#1", 0), tile("f0#2", 1), tile("f0#1", 2), reject(tile("f0#3", 3)),
        tile("f1", 0), tile("f1", 1), cell("f2", 0), unreadable("f3"),
        {**cell("f4", 0), "kind": "image", "parent_id": "f4", "obs_id": "f4"},
    ]  # fmt: skip
    data = read(export(make_run(tmp_path / "run", rows, ["f0", "f1", "f2", "f3", "f4"]), level="field"))
    assert list(data.obs["n_cells"]) == [2, 0, 1, 0, 0]
    assert list(data.obs["n_tiles"]) == [3, 2, 0, 0, 0]
    assert list(data.obs["n_images"]) == [0, 0, 0, 0, 1]
    assert list(data.obs["n_rejected"]) == [1, 0, 0, 1, 0]
    assert np.isnan(np.asarray(data.X)).all(axis=1).tolist() == [False, False, False, True, False]
    expected = np.mean(
        [rows[k]["vectors"] for k in (0, 1, 2)], axis=0
    )  # of all tiles, not of the cells' means
    np.testing.assert_allclose(np.asarray(data.X)[0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("how", STATISTICS)
def test_level_image_honours_the_statistic(tmp_path: Path, how: str) -> None:
    rows = [tile(image, k) for k in range(11) for image in ("f1", "f0")]
    store = make_run(tmp_path / "run", [*rows, unreadable("f2")], ["f0", "f1", "f2"])
    data = read(export(store, aggregate=how))
    assert list(data.obs_names) == ["f0", "f1"]
    assert list(data.obs["n_tiles"]) == [11, 11]
    assert (data.uns["microsnoop"]["level"], data.uns["microsnoop"]["aggregate"]) == ("image", how)
    of_f0 = np.array([row["vectors"] for row in rows if row["image_id"] == "f0"])
    np.testing.assert_allclose(np.asarray(data.X)[0], REDUCERS[how](of_f0), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- missing channels


@pytest.mark.parametrize("how", STATISTICS)
def test_a_channel_counts_only_the_cells_that_have_it(tmp_path: Path, how: str) -> None:
    rows = [cell("f0", k) for k in range(6)] + [cell("f1", k) for k in range(2)]
    for k in (1, 4, 6, 7):  # f1 has no Actin at all
        rows[k]["vectors"][DIM:] = [float("nan")] * DIM
    store = make_run(tmp_path / "run", rows, ["f0", "f1"])
    x = np.asarray(read(export(store, level="field", aggregate=how)).X).reshape(2, -1, len(CHANNELS), DIM)
    vectors = np.array([row["vectors"] for row in rows]).reshape(8, 2, DIM)
    for field, channel, there in ((0, 0, range(6)), (0, 1, (0, 2, 3, 5)), (1, 0, (6, 7))):
        alone = REDUCERS[how](vectors[list(there), channel])
        np.testing.assert_allclose(x[field, :, channel].ravel(), alone, rtol=1e-5, atol=1e-6)
    assert np.isnan(x[1, :, 1]).all()
    fused = np.asarray(read(export(store, level="field", aggregate=how, fuse="mean")).X).reshape(2, -1, DIM)
    np.testing.assert_allclose(fused[1], x[1, :, 0])  # the mean over the channels there are
    sums = np.asarray(read(export(store, level="field", aggregate=how, fuse="chans")).X).reshape(2, -1, 2)
    assert np.isnan(sums).any(axis=1).tolist() == [[False, False], [False, True]]


def test_the_file_of_a_missing_channel_leaves_its_place_empty(tmp_path: Path) -> None:
    uris = [["/d/a.tif", None], [None, "/d/b.tif"], ["/d/c.tif", "/d/d.tif"]]
    images = ["f0", "f1", "f2"]
    rows = [cell(image, 0, uris=one) for image, one in zip(images, uris, strict=True)]
    store = make_run(tmp_path / "run", rows, images, uris=uris)
    for level in ("sample", "field"):
        found = read(export(store, level=level)).obs["uri"]
        assert list(found) == ["/d/a.tif;", ";/d/b.tif", "/d/c.tif;/d/d.tif"], level


# ---------------------------------------------------------------- refusals


def test_what_cannot_be_asked_for(plate: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown level 'well': choose one of auto, sample, image, field"):
        export(plate, level="well")
    with pytest.raises(ConfigError, match="unknown statistic 'max': choose one of mean, median"):
        export(plate, level="field", aggregate="max")
    for level in ("auto", "sample"):
        with pytest.raises(ConfigError, match="'median' has nothing to aggregate"):
            export(plate, level=level, aggregate="median")
    monkeypatch.setattr(anndata_io, "MAX_GROUP_ROWS", 11)
    with pytest.raises(ConfigError, match="the largest has 12, allowed are 11"):
        export(plate, level="field", aggregate="modz")
    assert read(export(plate, level="field")).n_obs == 6
    with pytest.raises(RunError, match="no embedded row"):
        export(make_run(tmp_path / "none", REJECTS[:3], ["f3", "f4"]), level="field")
    stranger = make_run(tmp_path / "stranger", [*ROWS, reject(cell("x7", 0))], IMAGES)
    with pytest.raises(RunError, match=r"1 rows of images that are not in its input list, e\.g\. 'x7'"):
        export(stranger, level="field")


# ---------------------------------------------------------------- UMAP


@pytest.fixture
def screen(tmp_path: Path) -> ad.AnnData:
    """40 fields of two kinds; three without cells, one without one of its channels."""
    rng = np.random.default_rng(2)
    rows = [
        cell(f"f{k}", 0, vectors=(rng.normal(size=WIDTH) + 6 * (k % 2)).astype(np.float32).tolist())
        for k in range(40)
        if k not in (0, 17, 39)
    ]
    rows[4]["vectors"][:DIM] = [float("nan")] * DIM  # f5
    store = make_run(tmp_path / "screen", rows, [f"f{k}" for k in range(40)], meta_side=["a", "b"] * 20)
    return read(export(store, level="field"))


def test_rows_without_a_vector_are_left_out_of_the_map_and_stay_in_the_data(
    screen: ad.AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = np.isin(screen.obs_names, ["f0", "f5", "f17", "f39"])
    alone = screen[~gone].copy()
    with caplog.at_level(logging.WARNING):
        neighbours_umap_leiden(alone, n_neighbours=8, seed=1)
        assert not caplog.messages
        neighbours_umap_leiden(screen, n_neighbours=8, seed=1)
    assert caplog.messages == [
        "3 of 40 rows have no vector (n_cells = 0) and 1 of 40 rows have a vector that lacks a channel "
        "and were left out of neighbours, UMAP and clusters"
    ]
    assert screen.n_obs == 40
    for key in ("X_pca", "X_umap"):
        assert np.isnan(screen.obsm[key]).all(axis=1).tolist() == gone.tolist()
        np.testing.assert_array_equal(screen.obsm[key][~gone], alone.obsm[key])
    assert screen.obs["leiden"].isna().tolist() == gone.tolist()
    assert list(screen.obs["leiden"][~gone]) == list(alone.obs["leiden"])
    for key in ("distances", "connectivities"):
        graph = screen.obsp[key].toarray()
        assert not graph[gone].any()
        assert not graph[:, gone].any()
        np.testing.assert_array_equal(graph[~gone][:, ~gone], alone.obsp[key].toarray())
    assert plot_umap(screen, tmp_path / "leiden.png").read_bytes().startswith(b"\x89PNG")
    screen.write_h5ad(tmp_path / "saved.h5ad")
    again = read(tmp_path / "saved.h5ad")
    assert again.obs["leiden"].isna().tolist() == gone.tolist()
    np.testing.assert_array_equal(again.obsm["X_umap"], screen.obsm["X_umap"])


def test_the_command_draws_and_saves_such_data(
    screen: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen.write_h5ad(tmp_path / "fields.h5ad")
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.legend", lambda axes, **_: drawn.append(axes))
    commands.umap(tmp_path / "fields.h5ad", color="side", out=None, seed=0, save=tmp_path / "map.h5ad")
    assert sum(len(points.get_offsets()) for points in drawn[0].collections) == 36
    assert (tmp_path / "fields.umap.png").is_file()
    assert int(np.isnan(read(tmp_path / "map.h5ad").obsm["X_umap"]).any(axis=1).sum()) == 4


def test_too_few_rows_with_a_vector_are_refused(screen: ad.AnnData) -> None:
    few = screen[["f0", "f17", "f39", "f5", "f1", "f2", "f3"]].copy()
    with pytest.raises(ConfigError, match="at least 4 rows, there are 3 with a vector, of 7"):
        neighbours_umap_leiden(few)


def test_the_command_exports_fields(plate: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    out = plate.path.with_name("fields.zarr")
    commands.export(plate.path, out, level="field", fuse="mean", aggregate="median")
    assert capsys.readouterr().out.strip() == f"AnnData: {out}"
    assert read(out).shape == (6, DIM)
