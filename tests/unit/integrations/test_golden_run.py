"""A run written by schema version 1 stays readable, verifiable and exportable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from microsnoop.core.schema import embedding_schema, read_header, reject_schema
from microsnoop.io.images import read_image
from microsnoop.io.parts import read_parts
from microsnoop.io.store import RunStore
from microsnoop.io.verify import verify
from microsnoop.models.device import DevicePlan
from microsnoop.models.embedder import Embedder, EmbedderOptions
from microsnoop.models.registry import load_encoder
from microsnoop.ops.geometry import box_around, cut
from microsnoop.ops.intensity import plane_scaling
from microsnoop.ops.modes import PixelSample
from microsnoop_integrations.anndata_io import export, read

GOLDEN = Path(__file__).parents[2] / "golden" / "run_v1"


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    shutil.copytree(GOLDEN, tmp_path / "run")
    return RunStore(tmp_path / "run")


def test_it_verifies(run: RunStore) -> None:
    result = verify(run)
    assert result.problems == []
    assert result.summary() == "expected 5 = written 4 + rejected 1 (shape_mismatch 1)"


def test_its_columns_are_the_first_of_today(run: RunStore) -> None:
    part, rejects = run.embedding_parts()[0], run.reject_parts()[0]
    assert read_header(pq.read_schema(part)) == {"schema_version": 1, "channels": ["DNA"], "dim": 256}
    for path, today in ((part, embedding_schema(channels=["DNA"], dim=256)), (rejects, reject_schema())):
        names = pq.read_schema(path).names
        assert [name for name in today.names if name in names] == names


def test_columns_that_came_later_are_null(run: RunStore) -> None:
    ((_, table),) = read_parts(run.embedding_parts(), ("obs_id", "block", "area_px", "missing_channels"))
    assert table.column_names == ["obs_id", "block", "area_px", "missing_channels"]
    assert [table[name].null_count for name in table.column_names] == [0, 4, 4, 4]


def test_it_exports_with_the_promised_keys(run: RunStore) -> None:
    data = read(export(run))
    assert list(data.obs_names) == [
        "HFF/2023-05-31/17#a",
        "HFF/2023-05-31/5#a",
        "HFF/2023-05-31/5#b",
        "HFF/2023-05-31/5#c",
    ]
    assert list(data.obs.columns) == [
        "image_id", "parent_id", "kind", "label", "sample_index", "y0_px", "x0_px", "height_px", "width_px",
        "image_height_px", "image_width_px", "pixel_size_um", "n_constant_planes", "uri", "flags",
        "line", "session", "field", "phase",
    ]  # fmt: skip
    assert list(data.obs["phase"]) == ["M", "G1", "G2", "G1"]
    assert list(data.obs["flags"]) == ["", "", "", "clipped_window"]
    np.testing.assert_allclose(data.obsm["spatial"][1], [100 * 0.33, 120 * 0.33])
    np.testing.assert_allclose(np.linalg.norm(np.asarray(data.X), axis=1), 1, atol=1e-6)
    assert set(data.uns["microsnoop"]) == {
        "schema_version", "run_dir", "encoder", "encoder_sha256", "encoder_trained", "encoder_licence", "precision",
        "channels", "dim", "level", "counts_json", "config_json", "versions_json",
    }  # fmt: skip
    assert json.loads(data.uns["microsnoop"]["config_json"])["mode"] == "native"


def test_its_numbers_are_still_what_the_encoder_gives(run: RunStore, examples: Path) -> None:
    data = read(export(run))
    planes = read_image(str(examples / "images" / "HFF_2023-05-31_s17.tif")).planes
    box = box_around(256, 256, size_px=48)
    nucleus = cut(planes, box)
    embedder = Embedder(
        load_encoder("pixels16"),
        DevicePlan("cpu", "fp32", 8, 1),
        EmbedderOptions(input_px=48, clip=(-1.0, 10.0)),
    )
    vector = embedder.embed([PixelSample(nucleus, plane_scaling(nucleus), box, (512, 512), 1.0)])[0, 0]
    np.testing.assert_allclose(np.asarray(data.X)[0], vector, atol=1e-5)


@pytest.fixture
def run_v2(tmp_path: Path) -> RunStore:
    shutil.copytree(GOLDEN.with_name("run_v2"), tmp_path / "run_v2")
    return RunStore(tmp_path / "run_v2")


def test_version_2_verifies_with_the_columns_of_today(run_v2: RunStore) -> None:
    result = verify(run_v2)
    assert result.problems == []
    assert result.summary() == "expected 6 = written 4 + rejected 2 (border_cell 2)"
    part, rejects = run_v2.embedding_parts()[0], run_v2.reject_parts()[0]
    assert pq.read_schema(part).equals(embedding_schema(channels=["DNA", "ER"], dim=256))
    assert pq.read_schema(rejects).equals(reject_schema())
    assert read_header(pq.read_schema(part))["schema_version"] == 2
    assert {"mask_uri", "mask_fingerprint"} <= set(run_v2.records.column_names)


def test_version_2_exports_cells_and_fields(run_v2: RunStore) -> None:
    cells = read(export(run_v2, fuse="concat"))
    assert list(cells.obs_names) == ["A01#3", "A01#7", "A02#3", "A02#7"]
    assert list(cells.obs["area_px"]) == [168, 100, 168, 100]
    np.testing.assert_allclose(cells.obsm["spatial"][0], [(18.5 + 0.5) / 2, (15.5 + 0.5) / 2])
    missing = np.isnan(cells.X)
    np.testing.assert_array_equal(missing[:, 256:].all(axis=1), [False, False, True, True])
    assert not missing[:, :256].any()
    fields = read(export(run_v2, run_v2.path / "fields.h5ad", level="field"))
    assert list(fields.obs_names) == ["A01", "A02"]
    assert list(fields.obs["n_cells"]) == [2, 2]
    assert list(fields.obs["n_rejected"]) == [1, 1]
    assert np.isfinite(fields.X).all()  # fused by mean: the channels that are there
