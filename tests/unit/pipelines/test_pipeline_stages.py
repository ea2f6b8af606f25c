"""The two stages without Ray: as many rows leave as came, and whatever is wrong with one stays with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tifffile

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import EncoderError
from microsnoop.core.schema import result_schema, sample_schema
from microsnoop.io.images import ImageReader
from microsnoop.models.device import DevicePlan
from microsnoop.models.embedder import Embedder, EmbedderOptions
from microsnoop.models.registry import load_encoder
from microsnoop.ops.modes import PixelSample
from microsnoop.pipelines import stages
from microsnoop.pipelines.actors import EmbedActor
from microsnoop.pipelines.embed import prepare
from microsnoop.pipelines.samples import samples_of
from microsnoop.pipelines.stages import read_samples

Prepare = Callable[..., tuple[pa.Table, object]]
OPTIONS = EmbedderOptions(input_px=32, clip=(-1.0, 10.0))
PLAN = DevicePlan("cpu", "fp32", 4, 1)


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for k in range(5):
        tifffile.imwrite(
            images / f"{k}.tif",
            rng.integers(0, 4000, (2, 48, 64)).astype(np.uint16),
            photometric="minisblack",
        )
    return images


def prepared(folder: Path, **changes: object) -> tuple[pa.Table, object]:
    settings = {"input": {"folder": str(folder)}, "run_dir": "r", "encoder": "pixels16", "input_px": 32}
    run = prepare(EmbedConfig.model_validate(settings | changes))
    return run.inputs.records, run.job


def read(folder: Path, **changes: object) -> pa.Table:
    records, job = prepared(folder, **changes)
    return pa.concat_tables(read_samples(records, job=job))


def actor() -> EmbedActor:
    return EmbedActor(load_encoder("pixels16"), PLAN, OPTIONS, ["c0", "c1"])


def test_reading_gives_one_row_a_sample_in_the_files_own_dtype(folder: Path) -> None:
    table = read(folder)
    assert table.schema.equals(sample_schema())
    assert table["obs_id"].to_pylist() == [f"{k}.tif" for k in range(5)]
    assert set(table["dtype"].to_pylist()) == {"uint16"}
    row = table.slice(3, 1).to_pylist()[0]
    planes = np.frombuffer(row["pixels"], "uint16").reshape(2, row["rows_px"], row["cols_px"])
    np.testing.assert_array_equal(planes, tifffile.imread(folder / "3.tif"))
    np.testing.assert_allclose(row["offset"], np.percentile(planes, 1, axis=(1, 2)))
    np.testing.assert_allclose(np.add(row["offset"], row["span"]), np.percentile(planes, 99, axis=(1, 2)))


def test_a_large_image_is_read_in_bounded_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_YIELD_BYTES", 20_000)
    records, job = prepared(folder)
    pieces = list(read_samples(records, job=job))
    assert [piece.num_rows for piece in pieces] == [2, 2, 1]


def test_no_records_give_an_empty_table_with_the_right_columns(folder: Path) -> None:
    records, job = prepared(folder)
    (empty,) = read_samples(records.slice(0, 0), job=job)
    assert empty.num_rows == 0
    assert empty.schema.equals(sample_schema())


def test_missing_columns_are_named(folder: Path) -> None:
    records, job = prepared(folder)
    with pytest.raises(ValueError, match=r"read_samples needs the columns \['uris'\]"):
        list(read_samples(records.drop_columns(["uris"]), job=job))
    with pytest.raises(ValueError, match="EmbedActor needs the columns"):
        actor()(records)


def test_done_samples_are_skipped(folder: Path) -> None:
    records, job = prepared(folder, mode="tile")
    first = {**records.slice(0, 1).to_pylist()[0]}
    with ImageReader() as reader:
        every = list(samples_of(first, reader, job))
        assert len(every) == 2 * 3  # ceil(1.2 × 48 / 32) = 2, ceil(1.2 × 64 / 32) = 3
        rest = list(samples_of({**first, "skip_obs_ids": [every[1]["obs_id"]]}, reader, job))
    assert [row["obs_id"] for row in rest] == [row["obs_id"] for i, row in enumerate(every) if i != 1]
    assert {row["n_samples"] for row in rest} == {6}


def test_as_many_rows_leave_the_actor_as_came(folder: Path) -> None:
    (folder / "broken.tif").write_bytes(b"II*\x00")
    results = actor()(read(folder))
    assert results.schema.equals(result_schema(512))
    assert results["obs_id"].to_pylist() == [*(f"{k}.tif" for k in range(5)), "broken.tif"]
    assert results["vectors"].is_null().to_pylist() == [False] * 5 + [True]
    assert results["code"].to_pylist() == [None] * 5 + ["decode_error"]


def fail_on(marked: Callable[[PixelSample], bool], error: Exception) -> Callable[..., object]:
    embed = Embedder.embed

    def failing(self: Embedder, samples: Sequence[PixelSample]) -> object:
        if any(marked(sample) for sample in samples):
            raise error
        return embed(self, samples)

    return failing


def test_one_bad_row_does_not_take_its_batch_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = read(folder)
    whole = actor()(table)
    third = tifffile.imread(folder / "2.tif")
    monkeypatch.setattr(
        Embedder, "embed", fail_on(lambda s: bool((s.planes == third).all()), RuntimeError("odd"))
    )
    results = actor()(table)
    assert results["code"].to_pylist() == [None, None, "bad_embedding", None, None]
    assert results["stage"].to_pylist()[2] == "embed"
    assert (
        results["message"].to_pylist()[2]
        == f"{folder / '2.tif'}: the encoder failed on this row: RuntimeError: odd"
    )
    for k in (0, 1, 3, 4):
        np.testing.assert_allclose(results["vectors"][k].as_py(), whole["vectors"][k].as_py(), atol=1e-6)


def test_an_encoder_that_fails_on_every_row_ends_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = read(folder)
    monkeypatch.setattr(Embedder, "embed", fail_on(lambda s: True, RuntimeError("broken encoder")))
    with pytest.raises(RuntimeError, match="broken encoder"):
        actor()(table)
    monkeypatch.setattr(Embedder, "embed", fail_on(lambda s: True, EncoderError("broken promise")))
    with pytest.raises(EncoderError, match="broken promise"):
        actor()(table)


def test_a_vector_without_length_is_a_reject(folder: Path) -> None:
    tifffile.imwrite(folder / "9.tif", np.full((2, 48, 64), 7, np.uint16), photometric="minisblack")
    results = actor()(read(folder))
    assert results["code"].to_pylist() == [None] * 5 + ["bad_embedding"]
    assert "no length" in results["message"].to_pylist()[5]


def test_constant_planes_are_flagged_or_rejected(folder: Path) -> None:
    planes = np.stack([np.full((48, 64), 7, np.uint16), tifffile.imread(folder / "0.tif")[0]])
    tifffile.imwrite(folder / "0.tif", planes, photometric="minisblack")
    first = read(folder).slice(0, 1).to_pylist()[0]
    assert (first["flags"], first["n_constant_planes"], first["code"]) == (["constant_plane"], 1, None)
    first = read(folder, normalise={"constant_plane": "reject"}).slice(0, 1).to_pylist()[0]
    assert first["code"] == "constant_plane"
    assert "c0" in first["message"]


def test_compat_scales_with_the_padding(folder: Path) -> None:
    native = {"mode": "native", "input_px": 224}
    plain = read(folder, **native).slice(0, 1).to_pylist()[0]
    compat = read(folder, **native, compat=["pad_before_normalize"]).slice(0, 1).to_pylist()[0]
    planes = tifffile.imread(folder / "0.tif").astype(float)
    padded = np.zeros((2, 224, 224))
    padded[:, 88:136, 80:144] = planes
    low, high = np.percentile(padded, (1, 99), axis=(1, 2))
    np.testing.assert_allclose(compat["offset"], low)
    np.testing.assert_allclose(compat["span"], np.maximum(high - low, 1e-6))
    assert compat["span"] != plain["span"]


def test_native_scale_by_pixel_size(folder: Path) -> None:
    target = {"mode": "native", "native": {"target_um_per_px": 1.0}}
    unknown = read(folder, **target).to_pylist()
    assert {row["code"] for row in unknown} == {"shape_mismatch"}
    assert all(row["uris"][0] in row["message"] for row in unknown)
    assert "pixel size" in unknown[0]["message"]
    known = read(folder, **target, input={"folder": str(folder), "pixel_size_um": 0.5}).to_pylist()
    assert {(row["code"], row["factor"]) for row in known} == {(None, 0.5)}
