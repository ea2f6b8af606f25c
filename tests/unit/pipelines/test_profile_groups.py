"""Profiles in blocks, without Ray: grouping against pandas, open wells against all rows at once, nothing lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError, InputError, RunError, StaleOutput
from microsnoop.correction.chain import Chain
from microsnoop.correction.components import PrincipalComponents
from microsnoop.correction.sphering import Sphering
from microsnoop.correction.standardize import MadRobustize, Standardize
from microsnoop.io.parts import list_parts
from microsnoop.ops.aggregate import reduce_rows
from microsnoop.pipelines import profile_blocks, profile_parts, profile_steps
from microsnoop.pipelines.profile_blocks import BlockSummary, run_blocks
from microsnoop.pipelines.profile_groups import OpenGroups, index_groups, reduce_block, reduce_treatments
from microsnoop.pipelines.profile_parts import find_parts, read_unit, sample_rows, scan
from microsnoop.pipelines.profile_steps import correct_unit

D = 6
STATISTICS = ("mean", "median", "trimmed", "modz")
Write = Callable[..., Path]


def screen(seed: int = 0, *, plates: int = 4, wells: int = 12, sites: int = 3) -> pd.DataFrame:
    """Rows of a screen with an effect of batch, plate and treatment; two wells of DMSO on each plate."""
    rng = np.random.default_rng(seed)
    rows = []
    for plate in range(plates):
        shift = rng.normal(size=D)
        for well in range(wells):
            name = "DMSO@na" if well < 2 else f"drug{(well * 7 + plate) % 9 + 1}@10 uM"
            for site in range(sites):
                x = rng.normal(size=D) + shift + (len(name) + int("9" in name)) * np.arange(D) / 10
                rows.append(
                    {
                        "obs_id": f"p{plate + 1}/A{well + 1:02d}/s{site}",
                        "plate": f"p{plate + 1}",
                        "well": f"A{well + 1:02d}",
                        "batch": f"week{plate // 2 + 1}",
                        "treatment": name,
                        "moa": f"moa{len(name)}",
                        "is_control": well < 2,
                        "n_cells": site,
                        "vectors": x.astype(np.float32),
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows as parts."""

    def make(
        rows: pd.DataFrame, name: str = "parts", *, cuts: int = 3, row_group: int = 20, listed: str = "fixed"
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        known = rows.drop(columns="vectors")
        for number, index in enumerate(np.array_split(np.arange(len(rows)), cuts)):
            table = pa.Table.from_pandas(known.iloc[index], preserve_index=False, schema=_schema(known))
            values = [None if v is None else list(map(float, v)) for v in rows["vectors"].iloc[index]]
            if listed == "columns":
                for j in range(D):
                    column = pa.array([None if v is None else v[j] for v in values], pa.float64())
                    table = table.append_column(f"f{j}", column)
            else:
                kind = pa.list_(pa.float32(), D) if listed == "fixed" else pa.list_(pa.float32())
                table = table.append_column("vectors", pa.array(values, kind))
            pq.write_table(table, folder / f"part-{number:03d}.parquet", row_group_size=row_group)
        return folder

    return make


def _schema(frame: pd.DataFrame) -> pa.Schema:
    kinds = {"is_control": pa.bool_(), "n_cells": pa.int64()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in frame.columns])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Path, BlockSummary]]:
    """Run with the worker's function called in this process."""

    def stream(units: Any, job: Any, well_of: NDArray, *, workers: int | None) -> Iterator[pa.Table]:
        for unit in units:
            wells = well_of[unit["first"] : unit["first"] + unit["n"]].tolist()
            yield from correct_unit({**unit, "wells": wells}, job)

    monkeypatch.setattr(profile_blocks, "_stream", stream)
    monkeypatch.setattr(profile_blocks, "cluster", lambda *_, **__: nullcontext())
    for module in (profile_blocks, profile_parts):
        monkeypatch.setattr(module, "BLOCK_BYTES", 4 * D * 8)  # eight rows
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of small parts, and nothing crashes

    def go(source: Path, name: str = "out", **options: Any) -> tuple[Path, BlockSummary]:
        options.setdefault("corrector", Sphering(reg="shrinkage"))
        return tmp_path / name, run_blocks(source, tmp_path / name, **options)

    return go


def read(path: Path) -> tuple[pd.DataFrame, NDArray]:
    """Return the known columns by obs_id, and the vectors."""
    parts = list_parts(path) if path.is_dir() else [path]
    table = pa.concat_tables([pq.read_table(part) for part in parts])
    vectors = np.array(table["vectors"].to_pylist(), np.float32).reshape(table.num_rows, -1)
    return table.drop_columns(["vectors"]).to_pandas().set_index("obs_id"), vectors


def matrix(rows: pd.DataFrame) -> NDArray:
    return np.stack(rows["vectors"].to_list())


def by_hand(
    rows: pd.DataFrame, corrected: NDArray, *, well: str, treatment: str
) -> tuple[pd.Series, pd.Series]:
    """Wells, then treatments, one group at a time."""
    profile = pd.Series(list(corrected), index=rows.index)
    keys = [rows["plate"] + "/" + rows["well"], rows["treatment"]]
    wells = profile.groupby(keys).apply(
        lambda some: reduce_rows(np.stack(some), how=well)[0].astype(np.float32)
    )
    treatments = wells.groupby(level=1).apply(lambda some: reduce_rows(np.stack(some), how=treatment)[0])
    return wells.droplevel(1), treatments


# ---------------------------------------------------------------- end to end


@pytest.mark.parametrize("well", STATISTICS)
@pytest.mark.parametrize("ordered", [True, False])
def test_equal_to_everything_in_memory(
    well: str, ordered: bool, write: Write, run: Callable[..., Any]
) -> None:
    rows = screen() if ordered else screen().sample(frac=1, random_state=3)
    treatment = STATISTICS[(STATISTICS.index(well) + 1) % 4]
    out, summary = run(write(rows), well_statistic=well, treatment_statistic=treatment)
    corrected = Sphering(reg="shrinkage").fit_transform(matrix(rows), rows)
    known, vectors = read(out / "rows")
    assert known.index.tolist() == rows["obs_id"].tolist()
    np.testing.assert_allclose(vectors, corrected, atol=1e-5)
    assert known["n_cells"].tolist() == rows["n_cells"].tolist()
    wells, treatments = by_hand(rows, vectors, well=well, treatment=treatment)
    known, vectors = read(out / "wells")
    assert known.index.is_unique
    np.testing.assert_allclose(vectors, np.stack(wells[known.index]), atol=1e-6)
    assert (known["n_rows"] == 3).all()
    known, vectors = read(out / "treatments.parquet")
    assert known.index.tolist() == ["DMSO@na", *(f"drug{i}@10 uM" for i in range(1, 10))]
    np.testing.assert_allclose(vectors, np.stack(treatments[known.index]), atol=1e-6)
    assert (summary.rows_in, summary.rows_out, summary.rejected) == (144, 144, 0)
    assert (summary.controls, summary.fitted_on, summary.wells, summary.treatments) == (24, 24, 48, 10)
    assert json.loads((out / "summary.json").read_text())["rows_out"] == 144
    assert not [path for path in out.rglob("*") if "partial" in path.name]


def test_treatments_say_where_they_come_from(write: Write, run: Callable[..., Any]) -> None:
    rows = screen()
    known, _ = read(run(write(rows))[0] / "treatments.parquet")
    for name, found in known.iterrows():
        mine = rows[rows["treatment"] == name]
        assert found["n_rows"] == len(mine)
        assert found["n_wells"] == len(mine.drop_duplicates(["plate", "well"]))
        assert found["plates"].split(";") == sorted(mine["plate"].unique())
        assert found["n_plates"] == mine["plate"].nunique()
        assert found["batches"].split(";") == sorted(mine["batch"].unique())
        assert found["n_batches"] == mine["batch"].nunique()
        assert found["is_control"] == (name == "DMSO@na")
        assert found["moa"] == f"moa{len(str(name))}"


def test_cut_and_order_do_not_matter(write: Write, run: Callable[..., Any]) -> None:
    rows = screen()
    results = []
    for number, (some, cuts, group) in enumerate([(rows, 1, 500), (rows, 9, 2), (rows[::-1], 4, 11)]):
        out, _ = run(
            write(some, f"p{number}", cuts=cuts, row_group=group), f"o{number}", well_statistic="modz"
        )
        known, vectors = read(out / "wells")
        order = np.argsort(known.index)
        results.append((known.iloc[order], vectors[order], *read(out / "treatments.parquet")))
    for wells, profiles, treatments, treated in results[1:]:
        pd.testing.assert_frame_equal(wells, results[0][0])
        pd.testing.assert_frame_equal(treatments, results[0][2])
        np.testing.assert_allclose(profiles, results[0][1], rtol=0, atol=2e-6)
        np.testing.assert_allclose(treated, results[0][3], rtol=0, atol=2e-6)


def test_every_row_is_written_or_rejected(write: Write, run: Callable[..., Any]) -> None:
    rows = screen()
    rows.loc[5, "well"] = None
    rows.loc[6, "treatment"] = ""
    rows.at[7, "vectors"] = np.full(D, np.nan, np.float32)
    rows.at[12, "vectors"] = None
    rows.at[13, "vectors"] = np.array([np.inf, *range(D - 1)], np.float32)
    rows.loc[13, "plate"] = None  # two reasons: the key comes first
    gone = rows["treatment"] == "drug3@10 uM"
    for row in np.flatnonzero(gone):
        rows.at[row, "vectors"] = np.full(D, np.inf, np.float32)
    out, summary = run(write(rows))
    rejects = pa.concat_tables([pq.read_table(part) for part in list_parts(out / "rejects")]).to_pandas()
    codes = dict(zip(rejects["obs_id"], rejects["code"], strict=True))
    expected = {rows["obs_id"][row]: "not_finite" for row in (7, 12, *np.flatnonzero(gone))}
    expected |= {rows["obs_id"][row]: "no_group_key" for row in (5, 6, 13)}
    assert codes == expected
    assert len(rejects) == len(expected)
    assert rejects["message"].str.len().min() > 10
    known, _ = read(out / "rows")
    assert known.index.tolist() == [name for name in rows["obs_id"] if name not in expected]
    assert (summary.rows_out, summary.rejected) == (144 - len(expected), len(expected))
    assert summary.rejected_by_code == {"no_group_key": 3, "not_finite": len(expected) - 3}
    wells, vectors = read(out / "wells")
    assert np.isfinite(vectors).all()
    keyed = rows.dropna(subset=["plate", "well"]).query("treatment != ''")
    lost = {f"{r.plate}/{r.well}" for r in keyed[keyed["treatment"] == "drug3@10 uM"].itertuples()}
    missing = pq.read_table(out / "missing.parquet").to_pandas()
    assert set(missing[missing["level"] == "well"]["obs_id"]) == lost
    assert missing[missing["level"] == "treatment"]["obs_id"].tolist() == ["drug3@10 uM"]
    assert set(missing["code"]) == {"too_few_members"}
    assert not lost & set(wells.index)
    assert summary.missing == len(lost) + 1
    assert wells.loc["p1/A05", "n_rows"] == 1  # without rows 12 and 13
    assert "drug3@10 uM" not in read(out / "treatments.parquet")[0].index
    kept = rows.set_index("obs_id").loc[known.index].reset_index()
    corrected = Sphering(reg="shrinkage").fit_transform(matrix(kept), kept)
    np.testing.assert_allclose(read(out / "rows")[1], corrected, atol=1e-5)


def test_without_rows_only_groups_are_written(write: Write, run: Callable[..., Any]) -> None:
    out, summary = run(write(screen()), write_rows=False)
    assert not list((out / "rows").iterdir())
    assert summary.rows_out == 144
    assert summary.wells == 48
    assert len(list_parts(out / "wells")) > 3  # memory is bounded by writing as soon as a block is full


@pytest.mark.parametrize("listed", ["columns", "variable"])
def test_features_in_columns_or_lists_of_any_length(
    listed: str, write: Write, run: Callable[..., Any]
) -> None:
    rows = screen()
    rows.at[9, "vectors"] = None
    fixed, _ = run(write(rows, "a"), "oa")
    other, summary = run(
        write(rows, "b", listed=listed), "ob", features=["f"] if listed == "columns" else None
    )
    np.testing.assert_allclose(read(other / "wells")[1], read(fixed / "wells")[1], atol=1e-6)
    assert summary.rejected_by_code == {"not_finite": 1}
    names = json.loads(pq.read_schema(other / "treatments.parquet").metadata[b"features"])
    assert names == [f"f{j}" if listed == "columns" else f"e{j:04d}" for j in range(D)]


def test_lists_of_other_lengths_are_refused(write: Write, run: Callable[..., Any]) -> None:
    rows = screen()
    rows.at[50, "vectors"] = np.ones(D - 1, np.float32)
    rows.at[51, "vectors"] = np.ones(D + 1, np.float32)  # together they hold as many numbers as two rows
    with pytest.raises(InputError, match="do not all hold 6"):
        run(write(rows, listed="variable", row_group=500))


def test_corrections_by_plate_and_chains(write: Write, run: Callable[..., Any]) -> None:
    rows = screen(wells=14, sites=5)
    steps = [MadRobustize(), Sphering(reg="ridge")]
    out, summary = run(write(rows), corrector=Chain(steps))
    expected = Chain([MadRobustize(), Sphering(reg="ridge")]).fit_transform(matrix(rows), rows)
    np.testing.assert_allclose(read(out / "rows")[1], expected, atol=2e-5)
    assert summary.features_out == D


def test_a_correction_that_learns_from_all_rows_gets_them(write: Write, run: Callable[..., Any]) -> None:
    rows = screen()
    for number, make in enumerate(
        [lambda: PrincipalComponents(n_components=3), lambda: Chain([Standardize(reference="all")])]
    ):
        out, summary = run(write(rows, f"p{number}"), f"o{number}", corrector=make())
        np.testing.assert_allclose(read(out / "rows")[1], make().fit_transform(matrix(rows), rows), atol=2e-5)
        assert (summary.fitted_on, summary.controls) == (144, 24)


def test_too_many_controls_are_sampled_and_said(write: Write, run: Callable[..., Any]) -> None:
    rows = screen(plates=2, wells=40)
    rows["is_control"] = rows["well"] < "A31"  # 90 a plate
    rows.at[0, "vectors"] = np.full(D, np.nan, np.float32)
    _, summary = run(write(rows), max_control_rows=60)
    assert 59 <= summary.fitted_on <= 60
    finding = next(f for f in summary.findings if f["code"] == "fitted_on_sample")
    assert f"{summary.fitted_on} of 180" in finding["message"]
    assert summary.controls == 180


# ---------------------------------------------------------------- refusals


def test_refusals(write: Write, run: Callable[..., Any], tmp_path: Path) -> None:
    rows = screen()
    good = write(rows, "good")
    with pytest.raises(ValueError, match="one statistic"):
        run(good, well_statistic="mean_std")
    with pytest.raises(ValueError, match="unknown statistic"):
        run(good, treatment_statistic="mode")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(StaleOutput, match="not empty"):
        run(good, "full")
    with pytest.raises(InputError, match="no Parquet file"):
        run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="obs_id of another row"):
        run(write(pd.concat([rows, rows[:2]]), "twice"))
    with pytest.raises(InputError, match="true or false"):
        run(write(rows.drop(columns="is_control"), "nocontrol"))
    with pytest.raises(InputError, match="without treatment"):
        run(write(rows.drop(columns="treatment"), "untreated"))
    with pytest.raises(InputError, match="every row needs an obs_id"):
        run(write(rows.drop(columns="obs_id"), "unnamed"))
    with pytest.raises(CorrectionError, match="no control row") as error:
        run(write(rows.assign(is_control=False), "none"))
    assert error.value.code == "too_few_controls"
    assert not (tmp_path / "out").exists()

    class Transductive(Sphering):
        transductive = True

    with pytest.raises(CorrectionError, match="not fitted on"):
        run(good, corrector=Transductive())


def test_a_well_of_two_treatments_or_batches_is_refused(write: Write, run: Callable[..., Any]) -> None:
    rows = screen()
    rows.loc[8, "treatment"] = "other@na"
    with pytest.raises(InputError, match=r"1 wells have rows of more than one treatment: p1/A03"):
        run(write(rows, "a"))
    rows = screen()
    rows["plate"] = "p" + (rows["plate"].str[1:].astype(int) % 2 + 1).astype(str)  # again in the other week
    with pytest.raises(InputError, match="more than one batch") as error:
        run(write(rows.assign(treatment="a"), "b"))
    assert "well_key" in error.value.hint
    out, summary = run(write(rows, "c"), "oc", well_key=("batch", "plate", "well"))
    assert summary.wells == 48
    known, _ = read(out / "treatments.parquet")
    assert known.loc["DMSO@na", "n_plates"] == 4


def test_other_columns_in_a_part_are_refused(write: Write, run: Callable[..., Any]) -> None:
    source = write(screen())
    pq.write_table(
        pq.read_table(source / "part-001.parquet").drop_columns(["moa"]), source / "part-001.parquet"
    )
    with pytest.raises(InputError, match=r"part-001.* other columns or types than part-000"):
        run(source)


def test_unordered_parts_are_refused_when_they_need_too_much(write: Write, run: Callable[..., Any]) -> None:
    shuffled = screen().sample(frac=1, random_state=0)
    with pytest.raises(RunError, match="not ordered by plate and well") as error:
        run(write(shuffled), max_open_bytes=8 * D * 20)
    assert "sorted by plate and well" in error.value.hint
    out, summary = run(write(screen(), "sorted"), "o2", max_open_bytes=8 * D * 2)
    assert summary.peak_open_bytes <= 8 * D * 2
    assert not (out / ".treatments.parquet.partial").exists()


def test_a_source_that_changes_is_noticed(write: Write, run: Callable[..., Any], monkeypatch: Any) -> None:
    source = write(screen())

    def shorter(unit: Any, *args: Any) -> Iterator[Any]:
        yield from list(read_unit(unit, *args))[:-1]

    def fit(job: Any, *_: Any) -> int:
        rows = np.random.default_rng(0).normal(size=(50, D))
        return job.corrector.fit(rows, features=list(job.layout.names)).n_control_

    monkeypatch.setattr(profile_blocks, "fit_chosen", fit)
    monkeypatch.setattr(profile_steps, "read_unit", shorter)
    with pytest.raises(RunError, match="has changed"):
        run(source)


def test_lost_rows_are_noticed(
    write: Write, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = profile_blocks._stream
    monkeypatch.setattr(profile_blocks, "_stream", lambda *a, **k: list(stream(*a, **k))[:-1])
    with pytest.raises(RunError, match="were expected"):
        run(write(screen()))


def test_a_task_that_runs_again_replaces_its_part(
    write: Write, run: Callable[..., Any], monkeypatch: Any
) -> None:
    stream = profile_blocks._stream

    def twice(units: Any, job: Any, well_of: NDArray, *, workers: int | None) -> Iterator[pa.Table]:
        for part in list_parts(job.out / "rows"):
            part.unlink()
        for table in stream(units[:2], job, well_of, workers=None):
            assert table.num_rows
        matrix = job.corrector.fits_["all rows"].arrays["matrix"]
        matrix *= 1 + 1e-6  # the last digits of another number of threads
        yield from stream(units, job, well_of, workers=None)

    monkeypatch.setattr(profile_blocks, "_stream", twice)
    out, _ = run(write(screen()))  # counts rows of the files
    assert len(read(out / "rows")[0]) == 144


def test_progress_counts_all_rows(write: Write, run: Callable[..., Any]) -> None:
    rows = screen()
    rows.loc[0, "well"] = None
    seen: list[tuple[int, int]] = []
    run(write(rows), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (144, 144)
    assert len(seen) > 10


# ---------------------------------------------------------------- pieces


def test_the_index_is_in_natural_order() -> None:
    keys = pd.DataFrame(
        {
            "plate": ["p10", "p2", "p2", "p2", None],
            "well": ["A1", "A10", "A9", "A9", "A1"],
            "treatment": ["b10", "b9", "b9", "b9", "b9"],
            "moa": ["x", "y", "z", "z", "z"],
            "batch": ["1", "1", "1", "1", None],
            "cell_line": ["u"] * 3 + ["v"] * 2,
        }
    )
    index = index_groups(keys, well=("plate", "well"))
    assert index.wells.index.tolist() == ["p2/A9", "p2/A10", "p10/A1"]
    assert index.well_of.tolist() == [2, 1, 0, 0, -1]
    assert index.n_rows.tolist() == [2, 1, 1]
    assert index.treatments.index.tolist() == ["b9", "b10"]
    assert index.treatment_of.tolist() == [0, 0, 1]
    assert index.wells["moa"].tolist() == ["z", "y", "x"]
    assert "cell_line" not in index.wells  # not the same all over p2/A9
    assert list(index.treatments.columns) == ["treatment", "batch", "plate"]  # of b9 the other columns vary


@pytest.mark.parametrize("how", STATISTICS)
def test_open_groups_equal_all_rows_at_once_however_they_are_cut(how: str) -> None:
    rng = np.random.default_rng(1)
    for trial in range(25):
        n, n_wells = int(rng.integers(1, 80)), int(rng.integers(1, 9))
        wells = rng.integers(0, n_wells, n).astype(np.int32)
        if trial % 2:
            wells.sort()
        x = (rng.normal(size=(n, D)) * 10.0 ** rng.integers(-3, 4, D)).astype(np.float32)
        bad = rng.random(n) < 0.2
        expected = np.bincount(wells, minlength=n_wells)
        for array in (wells, x, expected):
            array.flags.writeable = False
        opened = OpenGroups(expected, how=how)
        found: dict[int, NDArray] = {}
        for some in np.array_split(np.arange(n), int(rng.integers(1, 12))):
            good, lost = some[~bad[some]], some[bad[some]]
            whole, pieces = reduce_block(
                wells[good], x[good], rejected=wells[lost], expected=expected, how=how
            )
            for well, rows, profile in whole:
                assert well not in found
                opened.close(well, rows)
                found[well] = profile
            for piece in pieces:
                profile = opened.add(*piece)
                if profile is not None:
                    assert piece[0] not in found
                    found[piece[0]] = profile
        assert opened.unfinished == 0
        assert opened.n_rows.tolist() == np.bincount(wells[~bad], minlength=n_wells).tolist()
        assert opened.n_rejected.tolist() == np.bincount(wells[bad], minlength=n_wells).tolist()
        assert set(found) == set(wells[~bad].tolist())
        for well, profile in found.items():
            assert profile.dtype == np.float32
            expected_row = reduce_rows(x[~bad & (wells == well)], how=how)[0]
            np.testing.assert_allclose(profile, expected_row, rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize("how", STATISTICS)
def test_treatments_that_do_not_fit_are_reduced_some_at_a_time(
    how: str, write: Write, run: Callable[..., Any]
) -> None:
    rows = screen()
    layout, units = find_parts(write(rows))
    index = index_groups(scan(units, layout, well_key=("plate", "well"), seed=0)[0], well=("plate", "well"))
    parts = list_parts(run(Path(units[0]["part"]).parent)[0] / "wells")
    names = [name for part in parts for name in pq.read_table(part)["obs_id"].to_pylist()]
    order = index.wells.index.get_indexer(names)
    found = {
        size: list(reduce_treatments(parts, index, order, how=how, max_bytes=size))
        for size in (1, 8 * D * 12, 2**30)
    }
    assert [len(chunks) for chunks in found.values()] == [10, {"mean": 1}.get(how, 5), 1]
    for chunks in found.values():
        assert np.concatenate([numbers for numbers, _ in chunks]).tolist() == list(range(10))
        np.testing.assert_array_equal(np.concatenate([x for _, x in chunks]), found[2**30][0][1])


def test_sums_are_not_float32() -> None:
    rows = np.array([[2.0**24], [1], [1]], np.float32)  # float32 would lose each 1
    whole, _ = reduce_block(
        np.zeros(3, np.int32), rows, rejected=np.empty(0, np.int32), expected=np.array([3]), how="mean"
    )
    assert whole[0][2][0] == np.float32((2**24 + 2) / 3)
    opened = OpenGroups(np.array([3]), how="mean")
    for row in rows[:2]:
        assert opened.add(0, 1, 0, row.astype(np.float64)) is None
    assert opened.add(0, 1, 0, rows[2].astype(np.float64)) == np.float32((2**24 + 2) / 3)


def test_open_groups_free_what_is_finished() -> None:
    opened = OpenGroups(np.array([2, 2, 2]), how="median", max_bytes=4 * D)
    row = np.ones((1, D), np.float32)
    for well in range(3):
        assert opened.add(well, 1, 0, row) is None
        assert opened.add(well, 0, 1, row[:0]) is not None
    assert opened.peak_bytes == 4 * D
    exact = OpenGroups(np.array([2, 2]), how="median", max_bytes=4 * D)
    assert exact.add(0, 1, 0, row) is None
    with pytest.raises(RunError, match="2 wells are open at once"):
        exact.add(1, 1, 0, row)
    with pytest.raises(RunError, match="1 more came"):
        opened.add(0, 1, 0, row)


def test_a_sum_that_is_added_to_is_a_copy() -> None:
    first = np.ones(D)
    opened = OpenGroups(np.array([2]), how="mean")
    opened.add(0, 1, 0, first)
    opened.add(0, 1, 0, first)
    assert first.tolist() == [1] * D


def test_samples_of_plates_in_proportion_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    plates = np.repeat([0, 1, 2, 3], [4000, 2000, 100, 5])
    order = rng.permutation(len(plates)).astype(np.uint64)
    eligible = rng.random(len(plates)) < 0.5
    eligible[-5:] = True
    chosen = sample_rows(eligible, plates, order, limit=300)
    assert not (chosen & ~eligible).any()
    counts, share = np.bincount(plates[chosen]), 300 / eligible.sum()
    assert counts[3] == 5
    assert counts[2] == 16
    for plate in (0, 1):
        mine = eligible & (plates == plate)
        assert counts[plate] == int(mine.sum() * share)
        assert order[chosen & mine].max() < order[mine & ~chosen].min()
    shuffle = rng.permutation(len(plates))
    again = sample_rows(eligible[shuffle], plates[shuffle], order[shuffle], limit=300)
    np.testing.assert_array_equal(again, chosen[shuffle])
    np.testing.assert_array_equal(sample_rows(eligible, plates, order, limit=eligible.sum()), eligible)


def test_hashes_follow_ids_and_seed(write: Write) -> None:
    rows = screen()
    layout, units = find_parts(write(rows))
    first, again, other = (
        scan(units, layout, well_key=("plate", "well"), seed=seed)[1] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not (first == other).any()
    layout, units = find_parts(write(rows[::-1], "reversed"))
    np.testing.assert_array_equal(scan(units, layout, well_key=("plate", "well"), seed=0)[1], first[::-1])
    assert [unit["n"] for unit in units] == [20, 20, 8] * 3
    assert [unit["first"] for unit in units] == np.cumsum([0, *(unit["n"] for unit in units)])[:-1].tolist()


def test_blocks_are_of_bounded_size(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = screen()
    layout, (unit,) = find_parts(write(rows, cuts=1, row_group=500))
    monkeypatch.setattr(profile_parts, "BLOCK_BYTES", 4 * D * 10)
    blocks = list(read_unit(unit, layout, ["obs_id"]))
    assert [block.num_rows for _, block in blocks] == [10] * 14 + [4]
    assert [first for first, _ in blocks] == list(range(0, 144, 10))
    np.testing.assert_array_equal(np.concatenate([layout.vectors(b) for _, b in blocks]), matrix(rows))
