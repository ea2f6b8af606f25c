"""Runs become AnnData: every key where it is promised, rows in input order, memory flat."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from microsnoop.core.errors import ConfigError, RunError
from microsnoop.core.schema import ROW_FIELDS, result_schema
from microsnoop.io.store import RunStore
from microsnoop.io.writer import RunWriter
from microsnoop_integrations.anndata_io import export, read
from microsnoop_integrations.scanpy_steps import neighbours_umap_leiden, plot_umap

CHANNELS, DIM = ["DNA", "Actin"], 8


def make_run(
    path: Path, rows: Sequence[dict[str, Any]], records: pa.Table, cells: pa.Table | None = None
) -> RunStore:
    """Write a run directory as the pipeline does, from rows that hold identity and vectors."""
    store = RunStore(path)
    store.create()
    store.write_inputs(records, cells)
    store.write_info(
        {
            "identity": {"channels": CHANNELS, "dim": DIM, "precision": "fp32"},
            "encoder": {"name": "toy", "weights_sha256": "00", "trained": False, "licence": "none"},
            "config": {"fuse": "concat"},
            "versions": {"python": "3"},
        }
    )
    writer = RunWriter(store, channels=CHANNELS, dim=DIM, rows_per_part=5, flush_seconds=1e9)
    blank = {name: None for name, _ in ROW_FIELDS}
    table = pa.Table.from_pylist(
        [{**blank, **row} for row in rows], schema=result_schema(len(CHANNELS) * DIM)
    )
    writer.append(table)
    writer.flush()
    return store


def row(image: int, sample: int = 0, n: int = 1, **changes: Any) -> dict[str, Any]:
    vector = np.arange(16, dtype=np.float32) + 100 * image + 1000 * sample
    return {
        "obs_id": f"i{image}", "image_id": f"i{image}", "parent_id": f"i{image}", "kind": "image",
        "sample_index": sample, "n_samples": n, "y0_px": 10, "x0_px": 20, "height_px": 30, "width_px": 40,
        "image_height_px": 96, "image_width_px": 128, "pixel_size_um": 0.5, "uris": [f"/d/i{image}.tif"],
        "flags": [], "vectors": vector.tolist(), **changes,
    }  # fmt: skip


def records(n: int, **columns: Any) -> pa.Table:
    return pa.table({"image_id": [f"i{k}" for k in range(n)], **columns})


@pytest.fixture(params=["h5ad", "zarr"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_rows_stand_in_input_order_with_their_metadata(tmp_path: Path, suffix: str) -> None:
    order = [3, 0, 6, 1, 5, 2, 4]  # as blocks may come back
    store = make_run(
        tmp_path / "run",
        [row(k) for k in order],
        records(7, meta_well=[f"A0{k}" for k in range(7)], meta_dose=range(7)),
    )
    data = read(export(store, tmp_path / f"out.{suffix}"))
    assert list(data.obs_names) == [f"i{k}" for k in range(7)]
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(data.X)[:, 0], [0, 100, 200, 300, 400, 500, 600])
    assert list(data.obs["well"]) == [f"A0{k}" for k in range(7)]
    assert data.obs["dose"].dtype == np.int64
    assert list(data.obs["uri"]) == [f"/d/i{k}.tif" for k in range(7)]
    assert list(data.var_names[:2]) == ["DNA:000", "DNA:001"]
    assert list(data.var["channel"].cat.categories) == CHANNELS
    assert list(data.var["dimension"]) == [*range(8), *range(8)]
    np.testing.assert_allclose(data.obsm["spatial"], [[20.0, 12.5]] * 7)  # (x, y) in µm, centre of the window
    uns = data.uns["microsnoop"]
    assert uns["encoder"] == "toy"
    assert not uns["encoder_trained"]
    assert json.loads(uns["counts_json"]) == {"written": 7, "rejected": 0, "rejected_by_code": {}}


def test_rows_of_one_part_with_gaps_are_scattered_right(tmp_path: Path) -> None:
    shuffled = np.random.default_rng(1).permutation(23)
    store = make_run(tmp_path / "run", [row(int(k)) for k in shuffled], records(23))
    np.testing.assert_array_equal(np.asarray(read(export(store)).X)[:, 3], np.arange(23) * 100 + 3)


def test_tiles_are_averaged_to_their_parent(tmp_path: Path) -> None:
    rows = [
        row(image, sample, 3, obs_id=f"i{image}@{sample},0", kind="tile")
        for sample in (2, 0, 1)
        for image in (1, 0)
    ]
    store = make_run(tmp_path / "run", rows, records(2))
    data = read(export(store))
    assert list(data.obs_names) == ["i0", "i1"]
    assert list(data.obs["n_tiles"]) == [3, 3]
    np.testing.assert_allclose(np.asarray(data.X)[:, 0], [1000, 1100])
    assert "spatial" not in data.obsm
    every = read(export(store, tmp_path / "all.h5ad", level="sample"))
    assert every.n_obs == 6
    assert list(every.obs_names[:3]) == ["i0@0,0", "i0@1,0", "i0@2,0"]


def test_fusions(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", [row(0), row(1)], records(2))
    mean = read(export(store, tmp_path / "mean.h5ad", fuse="mean"))
    np.testing.assert_allclose(np.asarray(mean.X)[0], np.arange(8) + 4)
    chans = read(export(store, tmp_path / "chans.h5ad", fuse="chans"))
    np.testing.assert_allclose(np.asarray(chans.X)[0], [28, 92])
    assert list(chans.var_names) == ["DNA:sum", "Actin:sum"]


def test_metadata_of_cells_missing_values_and_clashing_names(tmp_path: Path) -> None:
    rows = [row(0, s, 2, obs_id=f"i0#{s}", parent_id=f"i0#{s}", kind="cell", label=str(s)) for s in (1, 0)]
    cells = pa.table(
        {
            "parent_id": ["i0#0", "i0#1"],
            "meta_phase": ["G1", None],
            "meta_area": [7, None],
            "meta_dividing": [True, False],
            "meta_kind": ["own", "own"],  # a name of ours
            "meta_cell/type": ["a", "b"],  # a slash would become a group in HDF5
        }
    )
    data = read(export(make_run(tmp_path / "run", rows, records(1, meta_plate=["P1"]), cells)))
    assert list(data.obs_names) == ["i0#0", "i0#1"]
    assert data.obs["phase"].isna().tolist() == [False, True]
    assert pd.isna(data.obs["area"].iloc[1])
    assert list(data.obs["dividing"]) == [True, False]
    assert list(data.obs["meta_kind"]) == ["own", "own"]
    assert list(data.obs["kind"]) == ["cell", "cell"]
    assert list(data.obs["cell_type"]) == ["a", "b"]
    assert list(data.obs["plate"]) == ["P1", "P1"]


def test_unknown_pixel_size_gives_no_spatial(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", [row(0), row(1, pixel_size_um=None)], records(2))
    assert "spatial" not in read(export(store)).obsm


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        export(tmp_path)
    empty = make_run(tmp_path / "empty", [], records(2))
    with pytest.raises(RunError, match="no embedded row"):
        export(empty)
    store = make_run(tmp_path / "run", [row(0)], records(1))
    with pytest.raises(ConfigError, match=r"must end in \.h5ad or \.zarr"):
        export(store, tmp_path / "out.csv")
    with pytest.raises(RunError, match="cannot write"):
        export(store, tmp_path / "missing" / "out.h5ad")


def test_export_replaces_the_old_file_only_when_done(tmp_path: Path) -> None:
    store = make_run(tmp_path / "run", [row(0)], records(1))
    path = export(store)
    first = path.read_bytes()
    assert export(store).read_bytes()[:8] == first[:8]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_scanpy_works_on_it_and_is_seeded(tmp_path: Path, rng: np.random.Generator) -> None:
    rows = [
        row(k, vectors=(rng.normal(size=16) + 5 * (k % 2)).astype(np.float32).tolist()) for k in range(60)
    ]
    store = make_run(tmp_path / "run", rows, records(60, meta_side=["a", "b"] * 30))
    first, second = read(export(store)), read(export(store))
    for data in (first, second):
        neighbours_umap_leiden(data, n_neighbours=10, seed=3)
    np.testing.assert_array_equal(first.obsm["X_umap"], second.obsm["X_umap"])
    assert (first.obs["leiden"] == second.obs["leiden"]).all()
    for color in ("side", "sample_index", None):
        picture = plot_umap(first, tmp_path / f"{color}.png", color=color)
        assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="no column 'nothing'"):
        plot_umap(first, tmp_path / "x.png", color="nothing")
    with pytest.raises(ConfigError, match="at least 4 rows"):
        neighbours_umap_leiden(read(export(make_run(tmp_path / "two", rows[:2], records(2)))))


_PEAK = """
import resource, sys
from pathlib import Path
from microsnoop_integrations.anndata_io import export
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(sys.argv[1], Path(sys.argv[1]).with_suffix(".h5ad"))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_stays_flat_as_rows_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """15 times the rows (184 MB of X) may cost a few columns of obs, not 15 times the memory."""
    monkeypatch.setattr(sys.modules[__name__], "DIM", 384)
    peaks = []
    for n in (4_000, 60_000):
        store = RunStore(tmp_path / f"run{n}")
        store.create()
        store.write_inputs(records(n, meta_well=["A01"] * n), None)
        store.write_info(
            {"identity": {"channels": CHANNELS, "dim": 384, "precision": "fp32"}, "config": {"fuse": "concat"},
             "encoder": {"name": "t", "weights_sha256": "", "trained": False, "licence": ""}, "versions": {}}
        )  # fmt: skip
        writer = RunWriter(store, channels=CHANNELS, dim=384, rows_per_part=4_000, flush_seconds=1e9)
        blank = {name: None for name, _ in ROW_FIELDS}
        schema = result_schema(768)
        for start in range(0, n, 4_000):
            block = [
                {**blank, "obs_id": f"i{k}", "image_id": f"i{k}", "parent_id": f"i{k}", "kind": "image",
                 "sample_index": 0, "n_samples": 1, "uris": [f"/data/i{k}.tif"], "flags": []}
                for k in range(start, start + 4_000)
            ]  # fmt: skip
            keys = pa.Table.from_pylist(block, schema=schema.remove(schema.get_field_index("vectors")))
            flat = pa.array(np.random.default_rng(start).random(4_000 * 768, np.float32))
            vectors = pa.FixedSizeListArray.from_arrays(flat, 768)
            writer.append(
                keys.add_column(schema.get_field_index("vectors"), schema.field("vectors"), vectors)
            )
        writer.flush()
        out = subprocess.run(
            [sys.executable, "-c", _PEAK, str(store.path)], capture_output=True, text=True, check=True
        )
        peaks.append(int(out.stdout))
    assert peaks[1] - peaks[0] < 60e6, f"peak grew from {peaks[0] / 1e6:.0f} to {peaks[1] / 1e6:.0f} MB"
