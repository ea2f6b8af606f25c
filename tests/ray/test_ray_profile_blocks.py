"""Profiles corrected and aggregated by real workers: equal to everything in memory, errors come through as ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.errors import InputError, RunError
from microsnoop.core.profile_config import LevelConfig, PlateConfig, ProfileConfig, ProfileInput
from microsnoop.correction.files import load as load_correction
from microsnoop.correction.sphering import Sphering
from microsnoop.io.parts import is_intact, list_parts
from microsnoop.pipelines import profile_blocks
from microsnoop.pipelines.profile_blocks import run_blocks
from microsnoop_apps.profiling import blocks
from microsnoop_apps.profiling.experiment import run_methods
from microsnoop_apps.profiling.loading import load

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
D, SITES = 24, 4


def write(folder: Path, *, shuffled: bool = False, vectors: pa.Array | None = None) -> pd.DataFrame:
    """Write 1,440 rows of 6 plates in 5 parts of several row groups; return what is known of them."""
    rng = np.random.default_rng(0)
    names = [
        (f"p{p}", f"{r}{c:02d}", s)
        for p in range(6)
        for r in "ABCDEF"
        for c in range(1, 11)
        for s in range(SITES)
    ]
    rows = pd.DataFrame(names, columns=["plate", "well", "site"])
    rows["batch"] = "week" + (rows["plate"].str[1:].astype(int) // 2).astype(str)
    rows["is_control"] = rows["well"].str.endswith("01")
    rows["treatment"] = np.where(
        rows["is_control"], "DMSO@na", "drug" + rows["well"].str[1:].astype(int).astype(str)
    )
    rows["compound"] = rows["treatment"]
    rows["moa"] = "m" + (rows["well"].str[1:].astype(int) % 3).astype(str)
    rows["obs_id"] = rows["plate"] + "/" + rows["well"] + "/" + rows["site"].astype(str)
    x = (
        rng.normal(size=(len(rows), D)) @ rng.normal(size=(D, D))
        + rows["plate"].str[1:].astype(int).to_numpy()[:, None]
    )
    rows["x"] = list(x.astype(np.float32))
    rows.at[17, "x"] = np.full(D, np.nan, np.float32)
    rows.loc[18, "well"] = None
    if shuffled:
        rows = rows.sample(frac=1, random_state=0)
    folder.mkdir()
    for number, some in enumerate(np.array_split(np.arange(len(rows)), 5)):
        part = rows.iloc[some]
        table = pa.Table.from_pandas(part.drop(columns="x"), preserve_index=False)
        column = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(part["x"].to_list())), D)
        pq.write_table(
            table.append_column("vectors", column), folder / f"{number}.parquet", row_group_size=101
        )
    return rows


def test_workers_give_what_memory_gives(tmp_path: Path) -> None:
    rows = write(tmp_path / "parts")
    seen: list[tuple[int, int]] = []
    summary = run_blocks(
        tmp_path / "parts",
        tmp_path / "out",
        corrector=Sphering(reg="shrinkage"),
        on_progress=lambda done, total: seen.append((done, total)),
    )
    good = rows.drop(index=[17, 18])
    x = np.stack(good["x"].to_list())
    corrected = Sphering(reg="shrinkage").fit_transform(x, good)
    parts = list_parts(tmp_path / "out" / "rows")
    assert all(is_intact(part) for part in parts)
    written = pa.concat_tables([pq.read_table(part) for part in parts]).to_pandas()
    assert written["obs_id"].tolist() == good["obs_id"].tolist()  # in the order of the source
    np.testing.assert_allclose(np.stack(written["vectors"].to_list()), corrected, atol=1e-5)
    profiles = pd.Series(list(corrected.astype(np.float64)), index=good.index)
    wells = profiles.groupby([good["plate"], good["well"], good["treatment"]]).apply(
        lambda v: np.stack(v).mean(axis=0)
    )
    expected = wells.groupby(level=2).apply(lambda v: np.stack(v).mean(axis=0))
    treatments = pq.read_table(tmp_path / "out" / "treatments.parquet").to_pandas().set_index("obs_id")
    assert treatments.index.tolist() == ["DMSO@na", *(f"drug{i}" for i in range(2, 11))]
    assert treatments["n_wells"].tolist() == [36] * 10
    of_treatment = {name: 142 if name == "drug5" else 144 for name in treatments.index}
    assert treatments["n_rows"].to_dict() == of_treatment
    np.testing.assert_allclose(
        np.stack(treatments["vectors"].to_list()), np.stack(expected[treatments.index].to_list()), atol=1e-5
    )
    rejects = pa.concat_tables(
        [pq.read_table(p) for p in list_parts(tmp_path / "out" / "rejects")]
    ).to_pandas()
    assert sorted(rejects["code"]) == ["no_group_key", "not_finite"]
    assert (summary.rows_in, summary.rows_out, summary.rejected) == (1440, 1438, 2)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["wells"] == summary.wells == 360
    assert seen == sorted(seen)
    assert seen[-1] == (1440, 1440)


def test_runs_are_the_same_byte_by_byte_and_order_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "parts")
    write(tmp_path / "shuffled", shuffled=True)
    sources = {"a": "parts", "b": "parts", "c": "shuffled"}
    for out, source in sources.items():
        run_blocks(
            tmp_path / source,
            tmp_path / out,
            corrector=Sphering(reg="ridge"),
            well_statistic="median",
            seed=1,
        )
    for name in ("rows", "wells", "rejects"):
        assert [p.name for p in list_parts(tmp_path / "a" / name)] == [
            p.name for p in list_parts(tmp_path / "b" / name)
        ]
    one, other = (pq.read_table(tmp_path / out / "treatments.parquet").to_pandas() for out in "ac")
    pd.testing.assert_frame_equal(one.drop(columns="vectors"), other.drop(columns="vectors"))
    np.testing.assert_allclose(np.stack(one["vectors"]), np.stack(other["vectors"]), rtol=0, atol=2e-5)


def test_what_goes_wrong_in_a_worker_is_said_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "parts")
    fitted = profile_blocks.fit_chosen

    def then_damage(*args: object) -> int:
        n = fitted(*args)  # type: ignore[arg-type]
        (tmp_path / "parts" / "3.parquet").write_bytes(b"PAR1 no longer a table PAR1")
        return n

    monkeypatch.setattr(profile_blocks, "fit_chosen", then_damage)
    with pytest.raises(RunError, match="worker failed"):
        run_blocks(tmp_path / "parts", tmp_path / "out", corrector=Sphering(reg="ridge"))
    assert not (tmp_path / "out" / "summary.json").exists()

    def then_shorten(*args: object) -> int:
        n = fitted(*args)  # type: ignore[arg-type]
        part = tmp_path / "parts2" / "3.parquet"
        table = pq.read_table(part)
        short = pa.array([[1.0]] * table.num_rows, pa.list_(pa.float32()))
        pq.write_table(
            table.drop_columns(["vectors"]).append_column("vectors", short), part, row_group_size=101
        )
        return n

    write(tmp_path / "parts2")
    monkeypatch.setattr(profile_blocks, "fit_chosen", then_shorten)
    with pytest.raises(InputError, match="do not all hold 24"):
        run_blocks(tmp_path / "parts2", tmp_path / "out2", corrector=Sphering(reg="ridge"))


def test_the_command_gives_what_memory_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "parts")
    config = ProfileConfig(
        input=ProfileInput(table=str(tmp_path / "parts")),
        plates=PlateConfig(controls={"compound": ["DMSO@na"]}),
        levels=LevelConfig(through_wells=True),
        methods={"sphering": [{"method": "sphering", "reg": "shrinkage"}]},
        out=str(tmp_path / "blocks"),
        out_of_core="always",
    )
    assert blocks.is_out_of_core(config, config.input.table)
    summary = blocks.profile_blocks(config, config.input.table)
    assert "1,440 rows = 1,438 corrected + 2 rejected" in capsys.readouterr().out
    found = blocks.read_treatments(
        tmp_path / "blocks" / "blocks" / "treatments.parquet", [f"f{j}" for j in range(D)]
    )
    loaded = load(config, root="")
    assert (loaded.n_read, loaded.n_rejected) == (summary.rows_out, summary.rejected)
    expected = run_methods(loaded.rows, config).methods["sphering"]
    assert found.obs.index.tolist() == expected.treatments.obs.index.tolist()
    np.testing.assert_allclose(found.x, expected.treatments.x, atol=1e-5)
    assert found.obs["n_wells"].tolist() == expected.treatments.obs["n_wells"].tolist()
    assert (tmp_path / "blocks" / "report.html").is_file()
    again = load_correction(tmp_path / "blocks" / "correction")
    assert again.control_hash_ == expected.corrector.control_hash_  # type: ignore[union-attr]
