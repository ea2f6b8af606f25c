"""The whole chain on real files and real Ray: every row accounted for, nothing computed twice, nothing mixed up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tifffile
from PIL import Image

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import RunError, StaleOutput
from microsnoop.io.images import read_image
from microsnoop.io.parts import read_parts
from microsnoop.io.store import RunStore
from microsnoop.io.verify import verify
from microsnoop.models.device import DevicePlan
from microsnoop.models.embedder import Embedder, EmbedderOptions
from microsnoop.models.registry import load_encoder
from microsnoop.ops.geometry import Box
from microsnoop.ops.intensity import plane_scaling
from microsnoop.ops.modes import PixelSample
from microsnoop.pipelines.embed import embed, retire_rejects

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

Config = Callable[..., EmbedConfig]
Folder = Callable[..., Path]


def vectors_by_id(run: str | Path) -> dict[str, np.ndarray]:
    store = RunStore(Path(run))
    found: dict[str, np.ndarray] = {}
    for _, table in read_parts(store.embedding_parts(), ("obs_id", "vectors")):
        rows = np.stack(table["vectors"].to_pylist()).astype(np.float32)
        found |= dict(zip(table["obs_id"].to_pylist(), rows, strict=True))
    return found


def embedded_directly(path: Path, encoder: str, input_px: int) -> np.ndarray:
    """What the encoder makes of one image without any pipeline."""
    planes = read_image(str(path)).planes
    bundle = load_encoder(encoder)
    embedder = Embedder(
        bundle,
        DevicePlan("cpu", "fp32", 1, 1),
        EmbedderOptions(input_px=input_px, clip=bundle.card.value_range),
    )
    height, width = planes.shape[1:]
    sample = PixelSample(planes, plane_scaling(planes), Box(0, 0, height, width), (height, width), None)
    return embedder.embed([sample])[0].reshape(-1)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=1e-5, err_msg=name)


def test_every_row_belongs_to_its_image(folder_of: Folder, config: Config) -> None:
    folder = folder_of(40)
    summary = embed(config(folder, encoder="snoop-trial"))
    assert (summary.status, summary.expected, summary.written, summary.rejected) == ("complete", 40, 40, 0)
    assert verify(summary.run_dir).problems == []
    found = vectors_by_id(summary.run_dir)
    assert set(found) == {path.name for path in folder.iterdir()}
    for name in ("field 000 µ.tif", "field 017 µ.tif", "field 039 µ.tif"):
        np.testing.assert_allclose(
            found[name], embedded_directly(folder / name, "snoop-trial", 64), atol=1e-5
        )


def test_second_run_computes_nothing(folder_of: Folder, config: Config) -> None:
    cfg = config(folder_of(5))
    assert embed(cfg).computed == 5
    again = embed(cfg)
    assert (again.computed, again.written, again.status) == (0, 5, "complete")


def test_bad_files_become_rejects_and_the_rest_is_embedded(
    folder_of: Folder, config: Config, tiles: np.ndarray
) -> None:
    folder = folder_of(6)
    whole = (folder / "field 000 µ.tif").read_bytes()
    (folder / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.tif").write_text("not an image at all")
    Image.fromarray(tiles[0].astype(np.uint8)[:40, :30]).convert("RGB").save(folder / "three channels.png")
    tifffile.imwrite(folder / "one pixel.tif", np.ones((1, 1), np.uint16))
    tifffile.imwrite(folder / "constant.tif", np.full((32, 48), 7, np.uint16))
    tifffile.imwrite(folder / "nan.tif", np.full((32, 48), np.nan, np.float32))
    negative = tiles[1].astype(np.float64) - 5_000
    tifffile.imwrite(folder / "negative.tif", negative)

    summary = embed(config(folder, encoder="snoop-trial"))
    checked = verify(summary.run_dir)
    assert checked.problems == []
    assert checked.expected == 14 == checked.written + checked.rejected
    rejects = RunStore(Path(summary.run_dir)).reject_table()
    found = dict(zip(rejects["image_id"].to_pylist(), rejects["code"].to_pylist(), strict=True))
    assert found == {
        "truncated.tif": "decode_error",
        "empty.png": "decode_error",
        "text.tif": "decode_error",
        "three channels.png": "channel_mismatch",
        "one pixel.tif": "too_small",
        "nan.tif": "non_finite_pixels",
    }
    for message, name in zip(rejects["message"].to_pylist(), rejects["image_id"].to_pylist(), strict=True):
        assert name in message
    flags = flags_by_id(summary.run_dir)
    assert flags["constant.tif"] == ["constant_plane"]
    assert flags["negative.tif"] == ["float64_narrowed"]
    found_vectors = vectors_by_id(summary.run_dir)
    np.testing.assert_allclose(  # an offset changes nothing
        found_vectors["negative.tif"],
        embedded_directly(folder / "field 001 µ.tif", "snoop-trial", 64),
        atol=1e-4,
    )


def flags_by_id(run: str) -> dict[str, list[str]]:
    tables = [t for _, t in read_parts(RunStore(Path(run)).embedding_parts(), ("obs_id", "flags"))]
    table = pa.concat_tables(tables)
    return dict(zip(table["obs_id"].to_pylist(), table["flags"].to_pylist(), strict=True))


def test_changed_settings_weights_and_inputs_are_refused_by_name(folder_of: Folder, config: Config) -> None:
    folder = folder_of(4)
    embed(config(folder))
    with pytest.raises(StaleOutput, match=r"processing\.mode: the run has 'rescale', now it is 'tile'"):
        embed(config(folder, mode="tile"))
    with pytest.raises(StaleOutput, match="encoder"):
        embed(config(folder, encoder="untrained"))
    folder_of(1, start=4)
    with pytest.raises(StaleOutput, match=r"1 images are new in the input list: field 004"):
        embed(config(folder))
    (folder / "field 004 µ.tif").unlink()
    shutil.copy(folder / "field 001 µ.tif", folder / "field 000 µ.tif")
    with pytest.raises(StaleOutput, match=r"1 images have other files .*field 000"):
        embed(config(folder))


def test_fork_takes_over_valid_rows_only(folder_of: Folder, config: Config, tmp_path: Path) -> None:
    folder = folder_of(6)
    first = embed(config(folder))
    folder_of(2, start=6)
    shutil.copy(folder / "field 001 µ.tif", folder / "field 000 µ.tif")  # one image changed, two are new
    forked = embed(config(folder, run_dir=str(tmp_path / "fork")), fork_from=first.run_dir)
    assert (forked.computed, forked.written, forked.status) == (3, 8, "complete")
    assert verify(forked.run_dir).ok
    found = vectors_by_id(forked.run_dir)
    np.testing.assert_array_equal(found["field 000 µ.tif"], found["field 001 µ.tif"])
    other = embed(
        config(folder, run_dir=str(tmp_path / "other"), mode="native", input_px=96), fork_from=first.run_dir
    )
    assert other.computed == 8  # with other settings no row is valid


def test_fork_with_other_cells_has_just_the_cells_asked_for(
    folder_of: Folder, config: Config, tmp_path: Path
) -> None:
    folder = folder_of(3)
    names = sorted(path.name for path in folder.iterdir())

    def run(
        name: str, cells: list[tuple[str, int, int]], fork_from: str | None = None
    ) -> tuple[int, set[str]]:
        table = tmp_path / f"{name}.csv"
        rows = [f"{image},c{x},{x},{y}" for image, x, y in cells]
        table.write_text("\n".join(["image,label,x_px,y_px", *rows]) + "\n", encoding="utf-8")
        source = {"folder": str(folder), "cells": str(table), "cell_size_px": 24}
        cfg = config(run_dir=str(tmp_path / name), input=source, mode="native")
        summary = embed(cfg, fork_from=fork_from)
        checked = verify(cfg.run_dir)
        assert checked.ok, checked.problems
        assert summary.expected == summary.written == len(cells)
        return summary.computed, set(vectors_by_id(cfg.run_dir))

    first = [(image, x, 30) for image in names for x in (20, 50)]
    assert run("first", first)[0] == 6
    fewer = [*first[1:4], *first[4:]]  # the first image lost a cell
    computed, ids = run("fewer", fewer, str(tmp_path / "first"))
    assert ids == {f"{image}#c{x}" for image, x, _ in fewer}
    assert computed == 1  # that image's other cell: its rows say how many cells it has
    more = [*first, (names[2], 80, 30)]
    computed, ids = run("more", more, str(tmp_path / "first"))
    assert ids == {f"{image}#c{x}" for image, x, _ in more}
    assert computed == 3


def test_a_fork_that_was_cut_off_copies_again(folder_of: Folder, config: Config, tmp_path: Path) -> None:
    first = embed(config(folder_of(6)))
    cfg = config(tmp_path / "images", run_dir=str(tmp_path / "fork"))
    embed(cfg, fork_from=first.run_dir)
    store = RunStore(tmp_path / "fork")
    store.write_info({**store.info, "status": "copying"})  # as a crash in the middle of copying leaves it
    again = embed(cfg, fork_from=first.run_dir)
    assert (again.computed, again.written, again.status) == (0, 6, "complete")
    assert verify(tmp_path / "fork").problems == []


def test_rows_without_their_description_are_not_touched(
    folder_of: Folder, config: Config, tmp_path: Path
) -> None:
    cfg = config(folder_of(2))
    embed(cfg)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(RunError, match="holds the rows of a run, but no run"):
        embed(cfg)
    assert len(RunStore(tmp_path / "run").embedding_parts()) == 1


def test_metadata_may_change_without_computing_again(
    folder_of: Folder, config: Config, tmp_path: Path
) -> None:
    folder = folder_of(4)
    manifest = tmp_path / "plate.csv"
    names = sorted(path.name for path in folder.iterdir())

    def write(treatment: str) -> EmbedConfig:
        manifest.write_text(
            "uri,well,treatment\n" + "".join(f"images/{n},A0{i},{treatment}\n" for i, n in enumerate(names))
        )
        return config(None, input={"manifest": str(manifest)})

    embed(write("DMSO"))
    assert embed(write("Taxol")).computed == 0
    assert RunStore(tmp_path / "run").records["meta_treatment"].to_pylist() == ["Taxol"] * 4


def test_retry_runs_only_the_rejects(folder_of: Folder, config: Config) -> None:
    folder = folder_of(5)
    good = (folder / "field 002 µ.tif").read_bytes()
    (folder / "field 002 µ.tif").write_bytes(good[:100])
    cfg = config(folder)
    first = embed(cfg)
    assert (first.written, first.rejected, first.images_rejected) == (4, 1, 1)
    assert embed(cfg).computed == 0  # a reject is an answer: it is not tried again unasked
    (folder / "field 002 µ.tif").write_bytes(good)
    cfg, count = retire_rejects(Path(first.run_dir))
    assert count == 1
    second = embed(cfg)
    assert (second.computed, second.written, second.rejected) == (1, 5, 0)
    assert verify(second.run_dir).ok


def test_tiles_are_resumed_one_by_one(config: Config, tmp_path: Path, examples: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((examples / "images").glob("*.tif"))[:3]:
        shutil.copy(path, folder)
    cfg = config(folder, mode="tile", input_px=192, execution={"memory_gb": 4, "rows_per_part": 7})
    first = embed(cfg)
    per_image = 4**2  # ceil(1.2 × 512 / 192) = 4 tiles an axis
    assert (first.images, first.expected, first.written) == (3, 3 * per_image, 3 * per_image)
    before = vectors_by_id(first.run_dir)
    store = RunStore(Path(first.run_dir))
    lost = store.embedding_parts()[1]
    n_lost = next(read_parts([lost], ("obs_id",)))[1].num_rows
    lost.unlink()
    broken = verify(store)
    assert not broken.ok
    assert "images are incomplete" in broken.problems[0]
    again = embed(cfg)
    assert again.computed == n_lost
    assert verify(store).ok
    assert_same(before, vectors_by_id(first.run_dir))


def test_number_of_actors_changes_nothing(folder_of: Folder, config: Config, tmp_path: Path) -> None:
    folder = folder_of(24)
    runs = {}
    for actors in (1, 2):
        cfg = config(
            folder,
            encoder="snoop-trial",
            run_dir=str(tmp_path / f"run{actors}"),
            execution={"memory_gb": 6, "actors": actors},
        )
        runs[actors] = vectors_by_id(embed(cfg).run_dir)
    assert_same(runs[1], runs[2])


def test_stack_and_cells_and_channels(config: Config, tmp_path: Path, tiles: np.ndarray) -> None:
    stack = np.stack([tiles[:12], tiles[12:24]], axis=1)  # (N, C, H, W)
    np.save(tmp_path / "stack.npy", stack)
    run = embed(config(None, input={"folder": str(tmp_path), "stack": True, "channels": {"b": 1, "a": 0}}))
    assert run.written == 12
    swapped = vectors_by_id(run.run_dir)
    plain = vectors_by_id(
        embed(
            config(None, input={"folder": str(tmp_path), "stack": True, "channels": {"a": 0, "b": 1}},
                   run_dir=str(tmp_path / "plain"))
        ).run_dir
    )  # fmt: skip
    for name, vector in swapped.items():
        np.testing.assert_array_equal(vector, np.roll(plain[name], 256))


def test_cells_over_the_border_and_outside(config: Config, tmp_path: Path, folder_of: Folder) -> None:
    folder = folder_of(2)
    table = tmp_path / "cells.csv"
    table.write_text(
        "image,label,x_px,y_px,type\n"
        "field 000 µ.tif,a,48,32,G1\n"
        "field 000 µ.tif,b,2,2,G2\n"  # reaches over the corner
        "field 001 µ.tif,c,500,500,G1\n"  # not in the image
        "field 999 µ.tif,d,10,10,G1\n"  # no such image
    )
    cfg = config(
        None,
        input={"folder": str(folder), "cells": str(table), "cell_size_px": 32},
        mode="native",
        input_px=32,
    )
    summary = embed(cfg)
    assert (summary.expected, summary.written, summary.rejected) == (4, 2, 2)
    assert verify(summary.run_dir).problems == []
    flags = flags_by_id(summary.run_dir)
    assert flags == {"field 000 µ.tif#a": [], "field 000 µ.tif#b": ["clipped_window"]}
    rejects = RunStore(Path(summary.run_dir)).reject_table()
    codes = dict(zip(rejects["obs_id"].to_pylist(), rejects["code"].to_pylist(), strict=True))
    assert codes == {"field 001 µ.tif#c": "shape_mismatch", "field 999 µ.tif#d": "decode_error"}
    assert pc.all(pc.equal(rejects["stage"], "read")).as_py()
