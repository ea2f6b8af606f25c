"""A simulation of joint analysis from settings to report, small enough to train in seconds."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_info, threadpool_limits

from microsnoop.core.config_file import load_settings
from microsnoop.core.errors import ConfigError, JointError, MissingDependency, RunError
from microsnoop.core.joint_config import JointConfig
from microsnoop.core.joint_simulation_config import JointSimulationConfig, SimulatedCells, Sweep
from microsnoop.core.muse_config import MuseParameters
from microsnoop_apps.joint_simulation import run as simulation_run
from microsnoop_apps.joint_simulation import tasks, workers
from microsnoop_apps.joint_simulation.fits import MEASURES, NAMES
from microsnoop_apps.joint_simulation.methods import SPACES, Cells, Space
from microsnoop_apps.joint_simulation.run import _is_reference, run_simulation, settings_of
from microsnoop_apps.joint_simulation.tables import (
    DATA_HEADER,
    DIFFERENCE_HEADER,
    FIT_HEADER,
    SUMMARY_HEADER,
    Scores,
)
from microsnoop_apps.joint_simulation.tasks import Task, perform, plan
from microsnoop_integrations.graph_clusters import cluster, kmeans
from microsnoop_integrations.joint.baselines import single
from microsnoop_integrations.joint.simulate import SimulationParameters, ceiling, simulate
from microsnoop_integrations.muse.model import Muse

QUICK = MuseParameters(
    init_epochs=1, init_steps=10, n_epochs=1, n_steps=20, k=10, seed=3, image_standardise="no"
)
CELLS = SimulatedCells(n=130, clusters=4, d1=60, d2=30)
METHODS = ("transcripts_raw", "transcripts", "images", "concat", "muse", "muse_shuffled")
RECIPE = Path(__file__).parents[3] / "configs" / "joint" / "simulation.yaml"


def config(**changes: Any) -> JointSimulationConfig:
    given: dict[str, Any] = {
        "cells": CELLS, "sweep": Sweep(values=(0.5, 0.1)), "data_seeds": 2, "model_seeds": 2, "methods": METHODS,
        "seed": 5, "workers": 1,
    }  # fmt: skip
    return JointSimulationConfig(**(given | changes))


@dataclass
class Run:
    scores: Scores
    out: Path
    printed: str
    told: str

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.out / name).open(newline="") as stream:
            return list(csv.DictReader(stream))


def run(out: Path, *, pictures: bool = False, **changes: Any) -> Run:
    printed, told = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(told):
        scores = run_simulation(config(**changes), out=out, muse=QUICK, title="A title", pictures=pictures)
    return Run(scores, out, printed.getvalue(), told.getvalue())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(tmp_path_factory.mktemp("simulation"), pictures=True)


def numbers(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "cpu_seconds")} for row in rows]


def test_every_fit_has_a_row_in_order(done: Run) -> None:
    rows = done.rows("simulation.csv")
    assert tuple(rows[0]) == FIT_HEADER
    expected = [
        (value, seed, model, NAMES[name])
        for value in ("0.5", "0.1")  # as they were given
        for seed in ("5", "6")
        for name in METHODS
        for model in (("3", "4") if name.startswith("muse") else ("3",))
    ]
    assert [(r["value"], r["data_seed"], r["model_seed"], r["method"]) for r in rows] == expected
    assert {r["parameter"] for r in rows} == {"decay_coef_2"}
    assert not any(r["failed"] for r in rows)
    for row in rows:
        assert all(-1 <= float(row[m]) <= 1 for m in MEASURES)
        assert float(row["ari_best"]) >= float(row["ari_leiden"])
        assert (row["seconds"] == "") == (row["method"] == "transcripts, raw matrix")  # nothing is fitted
        assert (row["gate_rna"] == "") == (not row["method"].startswith("MUSE"))
    trained = [row for row in rows if row["method"].startswith("MUSE")]
    assert all(0 <= float(row["weight_rna"]) <= 1 and 0 <= float(row["gate_image"]) <= 1 for row in trained)


def test_summary_is_the_mean_over_data_sets(done: Run) -> None:
    rows, fits = done.rows("summary.csv"), done.rows("simulation.csv")
    assert tuple(rows[0]) == SUMMARY_HEADER
    assert [(r["value"], r["method"]) for r in rows] == [
        (v, NAMES[m]) for v in ("0.5", "0.1") for m in METHODS
    ]
    row = next(r for r in rows if (r["value"], r["method"]) == ("0.1", "MUSE"))
    own = [r for r in fits if (r["value"], r["method"]) == ("0.1", "MUSE")]
    assert (row["data_sets"], row["fits"]) == ("2", "4")
    for measure in MEASURES:
        found = [float(r[measure]) for r in own]
        assert float(row[measure]) == pytest.approx(np.mean(found), abs=1e-5)
        assert float(row[f"{measure}_min"]) == pytest.approx(min(found), abs=1e-5)
        assert float(row[f"{measure}_max"]) == pytest.approx(max(found), abs=1e-5)
        first, second = np.mean(found[:2]), np.mean(found[2:])
        half = (
            12.7062 * abs(first - second) / 2
        )  # t of 1 degree of freedom; the s.e. of two is half their gap
        assert float(row[f"{measure}_high"]) - float(row[measure]) == pytest.approx(half, abs=1e-3)
    assert float(row["seconds"]) > 0


def test_differences_and_data_sets_are_written(done: Run) -> None:
    differences, data = done.rows("differences.csv"), done.rows("data_sets.csv")
    assert tuple(differences[0]) == DIFFERENCE_HEADER
    assert tuple(data[0]) == DATA_HEADER
    assert [(r["value"], r["data_seed"]) for r in data] == [
        (v, s) for v in ("0.5", "0.1") for s in ("5", "6")
    ]
    others = Counter(r["other"] for r in differences if r["method"] == "MUSE" and r["value"] == "0.1")
    assert others == dict.fromkeys(
        ["best single modality", *(NAMES[m] for m in METHODS if m != "muse")], len(MEASURES)
    )
    cells = simulate(SimulationParameters(n=130, clusters=4, d1=60, d2=30, decay_coef_2=0.1), seed=6)
    kept = cells.x.any(axis=1)
    assert int(data[3]["cells"]) == kept.sum()
    assert int(data[3]["empty_cells"]) == (~kept).sum()
    seen = ceiling(cells.label[kept], cells.label_x[kept])
    assert float(data[3]["ceiling_transcripts"]) == pytest.approx(seen, abs=1e-5)
    assert float(data[3]["ceiling_images"]) == pytest.approx(
        ceiling(cells.label[kept], cells.label_y[kept]), abs=1e-5
    )
    assert 0 < float(data[3]["pairing_p"]) <= 1


def test_report_and_console_say_the_same(done: Run) -> None:
    page = (done.out / "report.md").read_text()
    html = (done.out / "report.html").read_text()
    assert page.startswith("# A title\n")
    assert "figure_s10.png" in page
    assert html.count("<img") == 1
    for name in METHODS:
        assert NAMES[name] in page
        assert NAMES[name] in done.printed
    verdict = next(
        line for line in page.splitlines() if line.startswith("decay_coef_2 0.1: k-means ARI of MUSE")
    )
    plain = verdict.replace("\\", "")
    assert plain in done.printed
    mean = done.scores.mean(0.1, "muse", "ari_kmeans").value
    assert f"MUSE {mean:.2f}," in plain
    assert "28 of 28 fits" not in done.printed  # progress goes to the error stream
    assert "32 of 32 fits" in done.told
    assert '"sigma2": 0.1' in page
    assert "released tool" not in page  # whose figures are of other cells


def test_same_seeds_give_the_same_numbers_whatever_the_processes(done: Run, tmp_path: Path) -> None:
    again = run(
        tmp_path, workers=2, sweep=Sweep(values=(0.1,)), methods=("transcripts", "muse"), model_seeds=1
    )
    assert "2 processes" in again.printed
    before = [
        r for r in done.rows("simulation.csv")
        if r["value"] == "0.1" and r["method"] in ("transcripts", "MUSE") and r["model_seed"] == "3"
    ]  # fmt: skip
    assert numbers(again.rows("simulation.csv")) == numbers(before)
    assert not (tmp_path / "figure_s10.png").exists()


def test_a_picture_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "figure_s10.png").write_bytes(b"old")
    run(tmp_path, methods=("transcripts",), sweep=Sweep(values=(0.1,)), data_seeds=1)
    assert not (tmp_path / "figure_s10.png").exists()
    assert "MUSE less" not in (tmp_path / "report.md").read_text()


def test_scores_are_those_of_the_parts() -> None:
    cells = SimulationParameters(n=200, clusters=4, d1=80, d2=30)
    fit = perform(Task(cells, 0.1, 2, ("transcripts",), QUICK)).fits[0]
    data = simulate(cells, seed=2)
    kept = data.x.any(axis=1)
    x, truth = data.x[kept], data.label[kept]
    alone = single(x, name="t", k=10, seed=3)
    assert fit.score("ari_kmeans") == adjusted_rand_score(truth, kmeans(alone.latent, 4, seed=3))
    assert fit.score("ari_leiden") == adjusted_rand_score(truth, alone.labels)
    assert fit.clusters == len(np.unique(alone.labels))
    found = {
        r: adjusted_rand_score(truth, cluster(alone.latent, k=10, resolution=r, seed=3))
        for r in (0.2, 0.5, 1, 2)
    }
    assert fit.score("ari_best") == max(found.values())
    assert found[fit.best_resolution] == fit.score("ari_best")


def test_muse_is_the_model_itself_and_shuffled_pairs_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[MuseParameters, Any, Any]] = []
    fit = Muse.fit

    def spy(self: Muse, x: Any, y: Any, **keywords: Any) -> Muse:
        seen.append((self.parameters, x, y))
        return fit(self, x, y, **keywords)

    monkeypatch.setattr(Muse, "fit", spy)
    data = simulate(SimulationParameters(n=130, clusters=4, d1=60, d2=30), seed=1)
    data = tasks._without_empty(data)
    cells = Cells(data, QUICK)
    with workers.one_thread():
        latents = {name: SPACES[name](cells).latent for name in ("muse", "muse_shuffled", "muse_ungated")}
        alone = fit(Muse(QUICK, device="cpu"), data.x, data.y)
    assert [p.gate for p, _, _ in seen] == ["replicability", "replicability", "none"]
    assert all(np.array_equal(x, data.x) for _, x, _ in seen)
    assert np.array_equal(seen[0][2], data.y)
    shuffled = seen[1][2]
    assert np.array_equal(np.sort(shuffled, axis=0), np.sort(data.y, axis=0))
    assert (shuffled == data.y).all(axis=1).mean() < 0.1
    assert np.array_equal(latents["muse"], alone.latent_)
    assert not np.array_equal(latents["muse"], latents["muse_ungated"])


def test_released_settings_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[MuseParameters] = []
    fit = Muse.fit

    def quicker(self: Muse, x: Any, y: Any, **keywords: Any) -> Muse:
        seen.append(self.parameters)
        self.parameters = self.parameters.model_copy(update={"init_epochs": 1, "n_epochs": 1})
        return fit(self, x, y, **keywords)

    monkeypatch.setattr(Muse, "fit", quicker)
    outcome = perform(Task(SimulationParameters(n=130, clusters=4), 0.1, 0, ("muse_published",), QUICK))
    assert seen == [MuseParameters.published(seed=3, k=10)]
    assert outcome.fits[0].model["gate_image"] == 1
    assert outcome.facts is None


def test_plan_fits_what_is_not_trained_once() -> None:
    found = plan(
        [(0.1, SimulationParameters())], methods=("images", "wnn", "mofa", "muse"), data_seeds=range(2),
        muse=QUICK, model_seeds=3, published_seeds=1,
    )  # fmt: skip
    counts = Counter((task.methods, task.muse.seed) for task in found)
    assert counts == {
        (("images", "mofa"), 3): 2, (("wnn",), 3): 2, (("muse_published",), 3): 2,
        (("muse",), 3): 2, (("muse",), 4): 2, (("muse",), 5): 2,
    }  # fmt: skip
    assert found[0].methods == ("muse_published",)  # the longest first
    assert found[-1].methods == ("images", "mofa")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MissingDependency("no", hint="pip install x"), "not installed: pip install x"),
        (JointError("no_factor", "none explains anything"), "no_factor: none explains anything"),
    ],
)
def test_a_method_that_cannot_run_has_a_row_that_says_so(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(cells: Cells) -> Space:
        raise error

    monkeypatch.setitem(SPACES, "wnn", refuse)
    found = run(
        tmp_path, methods=("transcripts", "wnn"), sweep=Sweep(values=(0.1,)), data_seeds=2, pictures=True
    )
    rows = [row for row in found.rows("simulation.csv") if row["method"] == "WNN"]
    assert [row["failed"] for row in rows] == [told, told]
    assert all(row[m] == "" for row in rows for m in (*MEASURES, "clusters", "seconds"))
    summary = next(row for row in found.rows("summary.csv") if row["method"] == "WNN")
    assert (summary["data_sets"], summary["fits"], summary["failed"]) == ("0", "0", told)
    assert f"WNN: {told}" in (tmp_path / "report.md").read_text().replace("\\", "")
    assert f"WNN, 2 fits: {told}" in found.printed
    assert not [row for row in found.rows("differences.csv") if "WNN" in row.values()]


def test_other_errors_are_not_swallowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(cells: Cells) -> Space:
        raise ZeroDivisionError

    monkeypatch.setitem(SPACES, "transcripts", broken)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, methods=("transcripts",))


def test_cells_without_transcripts_are_left_out_and_counted(tmp_path: Path) -> None:
    cells = CELLS.model_copy(update={"decay_coef_1": 0.2})
    found = run(
        tmp_path, cells=cells, sweep=Sweep(values=(0.1,)), data_seeds=1, model_seeds=1, methods=METHODS
    )
    facts = found.scores.facts[0]
    assert facts.empty > 0
    assert facts.cells + facts.empty == 130
    assert [fit.failed for fit in found.scores.fits] == [""] * len(METHODS)
    assert f"{facts.empty} cells of 1 data sets have no transcript" in found.printed


def test_a_modality_without_any_signal_fails_alone(tmp_path: Path) -> None:
    cells = CELLS.model_copy(update={"decay_coef_2": 0.1})
    found = run(
        tmp_path, cells=cells, sweep=Sweep(parameter="decay_coef_1", values=(0.0,)), data_seeds=1,
        methods=("transcripts", "images", "muse"), model_seeds=1,
    )  # fmt: skip
    failed = {fit.method: fit.failed.split(":")[0] for fit in found.scores.fits}
    assert failed == {"transcripts": "no_variance", "images": "", "muse": "empty_cell"}
    assert math.isnan(found.scores.facts[0].pairing_p)


def test_swept_counts_become_whole_and_limits_are_named() -> None:
    settings = settings_of(config(sweep=Sweep(parameter="n", values=(100.0, 60.0))))
    assert [(value, cells.n) for value, cells in settings] == [(100.0, 100), (60.0, 60)]
    assert all(isinstance(cells.n, int) for _, cells in settings)
    assert settings[0][1].d1 == 60
    with pytest.raises(ConfigError, match=r"simulation, n = 15: 15 cells are too few for 4 clusters"):
        settings_of(config(sweep=Sweep(parameter="n", values=(15.0,))))
    with pytest.raises(ConfigError, match=r"simulation, merge = 2: merge is a probability"):
        settings_of(config(sweep=Sweep(parameter="merge", values=(2.0,))))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sweep": {"parameter": "blur"}}, "Input should be 'n', 'clusters'"),
        ({"sweep": {"values": [0.1, 0.1]}}, "a value stands twice"),
        ({"sweep": {"values": []}}, "at least 1 item"),
        ({"sweep": {"parameter": "d1", "values": [10.5]}}, "d1 is a count: 10.5 is no whole number"),
        ({"methods": ["muse", "muse", "images"]}, "a method stands twice"),
        ({"methods": ["muse"]}, "read against one modality alone"),
        ({"methods": ["totalvi", "images"]}, "Input should be 'transcripts_raw'"),
        ({"workers": 0}, "greater than or equal to 1"),
        ({"cells": {"cells": 10}}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        JointSimulationConfig(**changes)


def test_recipe_is_the_sweep_of_the_paper() -> None:
    given = load_settings(RECIPE, JointConfig).simulation
    assert given is not None
    assert (given.sweep.parameter, given.sweep.values) == ("decay_coef_2", (0.1, 0.3, 0.5))
    assert (given.data_seeds, given.model_seeds) == (5, 3)
    assert set(given.methods) == set(NAMES) - {"muse_ungated", "muse_published"}
    assert [cells for _, cells in settings_of(given)] == [
        SimulationParameters(decay_coef_2=value) for value in (0.1, 0.3, 0.5)
    ]
    assert _is_reference(given)
    assert not _is_reference(config())
    assert not _is_reference(given.model_copy(update={"sweep": Sweep(values=(0.2,))}))
    assert not _is_reference(given.model_copy(update={"sweep": Sweep(parameter="sigma2", values=(0.1,))}))


def test_one_thread_and_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threadpool_limits(2):
            with workers.one_thread():
                assert torch.get_num_threads() == 1
                assert {pool["num_threads"] for pool in threadpool_info()} == {1}
            assert torch.get_num_threads() == 2
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
    finally:
        torch.set_num_threads(before)


def test_order_does_not_depend_on_which_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(
        [(v, SimulationParameters(n=130, clusters=4, d1=60, d2=30, decay_coef_2=v)) for v in (0.5, 0.1)],
        methods=("transcripts",), data_seeds=range(2), muse=QUICK, model_seeds=1,
    )  # fmt: skip

    def backwards(tasks: list[Task], *, workers: int) -> list[Any]:
        return [perform(task) for task in reversed(tasks)]

    monkeypatch.setattr(simulation_run, "perform_all", backwards)
    scores = simulation_run.collect(found, workers=1, parameter="decay_coef_2", values=(0.5, 0.1))
    expected = [(0.5, 0), (0.5, 1), (0.1, 0), (0.1, 1)]
    assert [(one.value, one.data_seed) for one in scores.facts] == expected
    assert [(one.value, one.data_seed) for one in scores.fits] == expected


def test_a_process_that_dies_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def __init__(self, *args: Any, **keywords: Any) -> None:
            self.closed = False

        def submit(self, *args: Any) -> Any:
            raise workers.BrokenProcessPool("gone")

        def shutdown(self, **keywords: Any) -> None:
            assert keywords == {"cancel_futures": True}

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Dying)
    with pytest.raises(RunError, match="one of 2 processes died") as caught:
        list(workers.perform_all([Task(SimulationParameters(), 0.1, 0, ("images",), QUICK)], workers=2))
    assert "memory" in caught.value.hint
