"""Full fields on real Ray: cells of masks, blocks of large fields, missing channels; counted, resumed, exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import StaleOutput
from microsnoop.io.labels import read_labels
from microsnoop.io.parts import read_parts
from microsnoop.io.store import RunStore
from microsnoop.io.verify import verify
from microsnoop.pipelines.embed import embed, retire_rejects
from microsnoop_apps.segmenting import run as segment
from microsnoop_integrations.anndata_io import export, read

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Config = Callable[..., EmbedConfig]


@pytest.fixture
def masked(examples: Path, tmp_path: Path) -> dict[str, str]:
    """Three real fields of nuclei and their masks; the mask of the third is empty."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for path in sorted((examples / "images").glob("*.tif"))[:3]:
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
        mask = read_labels(str(next((examples / "masks").glob(f"{path.stem}*"))))
        tifffile.imwrite(tmp_path / "masks" / path.name, mask, tile=(64, 64))
    tifffile.imwrite(tmp_path / "masks" / path.name, np.zeros_like(mask))
    return {"folder": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}


def _objects(folder: str) -> int:
    return sum(len(np.unique(tifffile.imread(path))) - 1 for path in Path(folder).glob("*.tif"))


def test_every_object_of_every_mask_is_accounted_for(masked: dict[str, str], config: Config) -> None:
    cfg = config(input=masked, mode="crop", max_reject_fraction=1)
    summary = embed(cfg)
    n_objects = _objects(masked["masks"])
    assert summary.complete
    assert summary.rejected_by_code["empty_mask"] == 1
    assert summary.written + summary.rejected == n_objects + 1
    assert (summary.images, summary.images_rejected) == (3, 1)
    assert verify(summary.run_dir).problems == []
    assert embed(cfg).computed == 0

    cells = read(export(summary.run_dir))
    assert cells.n_obs == summary.written
    assert {"area_px", "centroid_y_px", "object_height_px", "n_border_px", "scale"} <= set(cells.obs)
    fields = read(export(summary.run_dir, Path(cfg.run_dir).with_name("fields.h5ad"), level="field"))
    assert fields.n_obs == 3
    assert fields.obs["n_cells"].sum() == summary.written
    empty = fields.obs["n_cells"] == 0
    assert empty.sum() == 1
    assert np.isnan(fields.X[empty.to_numpy()]).all()
    assert np.isfinite(fields.X[~empty.to_numpy()]).all()


def test_a_changed_mask_is_noticed(masked: dict[str, str], config: Config) -> None:
    cfg = config(input=masked, mode="crop", max_reject_fraction=1)
    embed(cfg)
    path = sorted(Path(masked["masks"]).glob("*.tif"))[0]
    mask = tifffile.imread(path)
    mask[mask == mask.max()] = 0
    tifffile.imwrite(path, mask)
    with pytest.raises(StaleOutput, match="files changed since"):
        embed(cfg)
    with pytest.raises(StaleOutput, match=r"crop\.ratio"):
        embed(config(input=masked, mode="crop", crop={"ratio": 1.0}))


def test_a_large_field_is_many_records_and_one_image(tmp_path: Path, config: Config) -> None:
    rng = np.random.default_rng(5)
    image = rng.integers(50, 90, (2, 700, 900)).astype(np.uint16)
    y, x = np.mgrid[:700, :900]
    for r in range(30, 690, 60):
        for c in range(33, 890, 60):
            image[:, (y - r) ** 2 + (x - c) ** 2 < 120] += 700
    (tmp_path / "images").mkdir()
    tifffile.imwrite(
        tmp_path / "images" / "big.tif", image, tile=(64, 64), photometric="minisblack", compression="zlib"
    )
    inputs = {"folder": str(tmp_path / "images"), "block_px": 256, "max_image_mpx": 0.3}
    cfg = config(input=inputs, mode="crop", segment={"diameter_px": 22}, input_px=32)
    summary = embed(cfg)
    # the field as a whole is above max_image_mpx: it was never decoded whole
    assert (summary.status, summary.images, summary.images_rejected) == ("complete", 1, 0)
    store = RunStore(Path(summary.run_dir))
    assert store.records.num_rows == 12
    assert summary.written == 11 * 15
    assert verify(store).problems == []

    # a lost part is computed again, block by block, and nothing else is
    part = store.embedding_parts()[1]
    ((_, lost),) = read_parts([part], ("obs_id",))
    part.unlink()
    assert not verify(store).ok
    again = embed(cfg)
    assert again.computed == lost.num_rows
    assert verify(RunStore(Path(summary.run_dir))).problems == []
    whole = read(export(summary.run_dir, tmp_path / "field.h5ad", level="field", aggregate="median"))
    assert list(whole.obs_names) == ["big.tif"]
    assert list(whole.obs["n_cells"]) == [summary.written]


def test_a_missing_channel_is_a_reject_or_a_vector_that_is_not_there(tmp_path: Path, config: Config) -> None:
    rng = np.random.default_rng(6)
    for well in ("A01", "A02", "A03"):
        for channel in ("DNA", "ER", "RNA"):
            tifffile.imwrite(
                tmp_path / f"{well}_{channel}.tif", rng.integers(0, 999, (64, 80)).astype(np.uint16)
            )
    (tmp_path / "A02_ER.tif").unlink()
    pattern = {"pattern": str(tmp_path / "{well}_{channel}.tif")}
    strict = embed(config(input=pattern, run_dir=str(tmp_path / "strict")))
    assert strict.rejected_by_code == {"channel_mismatch": 1}

    cfg = config(input={**pattern, "missing_channel": "mask"}, run_dir=str(tmp_path / "masked"))
    summary = embed(cfg)
    assert (summary.written, summary.rejected) == (3, 0)
    assert verify(summary.run_dir).problems == []
    assert embed(cfg).computed == 0
    data = read(export(summary.run_dir))
    missing = np.isnan(data.X)
    assert (data.obs["missing_channels"].astype(str) == "ER").tolist() == [False, True, False]
    assert missing[1, data.var["channel"] == "ER"].all()
    assert missing.sum() == (data.var["channel"] == "ER").sum()
    # the other channels are what they are in a run without the missing one
    other = embed(config(input={**pattern, "channels": ["DNA", "RNA"]}, run_dir=str(tmp_path / "two")))
    two = read(export(other.run_dir))
    np.testing.assert_allclose(data[:, data.var["channel"] != "ER"].X, two.X, atol=1e-6)
    fused = read(export(summary.run_dir, tmp_path / "mean.h5ad", fuse="mean"))
    assert np.isfinite(fused.X).all()

    # a file that came back is used after a retry of that image's rows
    assert retire_rejects(Path(strict.run_dir))[1] == 1


def test_the_built_in_segmenter_is_scored_against_masks(
    masked: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "segmented"
    overrides = {f"input.{key}": value for key, value in masked.items()}
    segment(None, overrides, [], out=out, previews=1, by="", iou=0.5)
    printed = capsys.readouterr().out
    assert "3 fields" in printed
    assert "F1" in printed
    masks = sorted((out / "masks").glob("*_masks.tif"))
    assert len(masks) == 3
    assert len(list((out / "previews").glob("*.png"))) == 1
    lines = (out / "fields.csv").read_text().splitlines()
    assert len(lines) == 4
    # the written masks serve as the masks of a run
    inputs = {"folder": masked["folder"], "masks": str(out / "masks")}
    summary = embed(
        EmbedConfig.model_validate(
            {
                "input": inputs,
                "run_dir": str(tmp_path / "run"),
                "encoder": "pixels16",
                "mode": "crop",
                "input_px": 64,
            }
        )
    )
    n_objects = sum(len(np.unique(tifffile.imread(path))) - 1 for path in masks)
    assert summary.written + summary.rejected == n_objects
