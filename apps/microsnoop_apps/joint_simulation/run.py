"""A simulation from start to end: cells drawn, every method fitted in parallel, tables, figure and report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import microsnoop
from microsnoop.core.config import digest
from microsnoop.core.errors import ConfigError
from microsnoop.core.joint_simulation_config import JointSimulationConfig
from microsnoop.core.muse_config import MuseParameters
from microsnoop.io.parts import write_csv
from microsnoop_apps.joint_simulation import tables
from microsnoop_apps.joint_simulation.figures import quality_figure
from microsnoop_apps.joint_simulation.fits import DataFacts, Fit
from microsnoop_apps.joint_simulation.report import (
    HEADLINE,
    JUDGED,
    REFERENCE,
    difference_table,
    findings_of,
    gate_table,
    overview,
    verdicts,
    write_report,
)
from microsnoop_apps.joint_simulation.tables import Scores
from microsnoop_apps.joint_simulation.tasks import Task, plan
from microsnoop_apps.joint_simulation.workers import available_cores, perform_all
from microsnoop_apps.terminal import ProgressLine, say, show_rows, show_table
from microsnoop_integrations.joint.simulate import SimulationParameters

FIGURE = "figure_s10.png"
Setting = tuple[float, SimulationParameters]


def run_simulation(
    config: JointSimulationConfig,
    *,
    out: Path,
    muse: MuseParameters | None = None,
    title: str = "Joint analysis of simulated cells",
    pictures: bool = True,
) -> Scores:
    """Fit every method to every data set, write tables, figure and report to ``out``, and print what came of it.

    Parameters
    ----------
    config
        What is simulated and compared.
    out
        Folder of ``simulation.csv`` (a line a fit), ``summary.csv``, ``differences.csv``, ``data_sets.csv``,
        ``figure_s10.png`` and ``report.html``, ``.md``.
    muse
        Settings of MUSE; its seed is that of the first fit to each data set.

    Raises
    ------
    ConfigError
        Cells that cannot be simulated.
    RunError
        A process died.
    """
    muse = muse or MuseParameters()
    settings = settings_of(config)
    tasks = plan(
        settings,
        methods=config.methods,
        data_seeds=range(config.seed, config.seed + config.data_seeds),
        muse=muse,
        model_seeds=config.model_seeds,
        published_seeds=config.published_seeds if config.published else 0,
    )
    workers = min(config.workers or available_cores(), len(tasks))
    show_plan(config, settings, tasks, workers)
    start = time.perf_counter()
    scores = collect(tasks, workers=workers, parameter=config.sweep.parameter, values=config.sweep.values)
    seconds = time.perf_counter() - start
    found = tables.differences(scores)
    out.mkdir(parents=True, exist_ok=True)
    write_tables(scores, found, out)
    (out / FIGURE).unlink(missing_ok=True)  # none of an earlier run beside tables of this one
    figure = quality_figure(scores, out / FIGURE) if pictures else None
    report = write_report(
        scores,
        found,
        title=title,
        is_reference=_is_reference(config),
        figure=figure,
        provenance=facts(config, muse, workers=workers, seconds=seconds),
        out=out,
    )
    show_scores(scores, found)
    written = [
        ("report", str(report)),
        ("tables", f"{out}/simulation.csv, summary.csv, differences.csv, data_sets.csv"),
    ]
    show_rows([*written, ("figure", str(figure))] if figure else written)
    return scores


def settings_of(config: JointSimulationConfig) -> list[Setting]:
    """Return the cells at each value of the swept parameter.

    Raises
    ------
    ConfigError
        Too few cells a cluster, or a value out of range; the message says at which value.
    """
    name, found = config.sweep.parameter, []
    base = config.cells.model_dump()
    for value in config.sweep.values:
        typed = int(value) if isinstance(base[name], int) else value
        try:
            found.append((value, SimulationParameters(**(base | {name: typed}))))
        except ConfigError as error:
            raise ConfigError(f"simulation, {name} = {value:g}: {error.message}", hint=error.hint) from error
    return found


def collect(tasks: Sequence[Task], *, workers: int, parameter: str, values: Sequence[float]) -> Scores:
    """Perform all tasks, and put what they found in an order that does not depend on which ended first."""
    fits: list[Fit] = []
    about: list[DataFacts] = []
    total = sum(len(task.methods) for task in tasks)
    start = time.perf_counter()
    with ProgressLine("simulation") as line:
        for outcome in perform_all(tasks, workers=workers):
            fits += outcome.fits
            about += [outcome.facts] if outcome.facts is not None else []
            rate = len(fits) / (time.perf_counter() - start)
            line.counting(len(fits), total, f"{len(fits):,} of {total:,} fits", per_s=rate)
    ordered = sorted(about, key=lambda one: (values.index(one.value), one.data_seed))
    return Scores(parameter, tuple(values), tables.sorted_fits(fits, values), tuple(ordered))


def write_tables(scores: Scores, found: list[tables.Difference], out: Path) -> None:
    """Write the four tables."""
    write_csv(out / "simulation.csv", tables.FIT_HEADER, tables.fit_rows(scores))
    write_csv(out / "summary.csv", tables.SUMMARY_HEADER, tables.summary_rows(scores))
    rows = tables.difference_rows(scores.parameter, found)
    write_csv(out / "differences.csv", tables.DIFFERENCE_HEADER, rows)
    write_csv(out / "data_sets.csv", tables.DATA_HEADER, tables.data_rows(scores))


def facts(
    config: JointSimulationConfig, muse: MuseParameters, *, workers: int, seconds: float
) -> dict[str, str]:
    """Return where the numbers come from."""
    described = {"simulation": config.model_dump(mode="json"), "muse": muse.model_dump(mode="json")}
    return {
        "microsnoop": microsnoop.__version__,
        "processes": f"{workers}, each with one thread; {seconds:.0f} s in all",
        "configuration": json.dumps(described, ensure_ascii=False),
        "hash of the configuration": digest(described),
    }


def show_plan(
    config: JointSimulationConfig, settings: Sequence[Setting], tasks: Sequence[Task], workers: int
) -> None:
    """Say what is going to be done."""
    cells, sweep = config.cells, config.sweep
    total = sum(len(task.methods) for task in tasks)
    say("Simulation")
    values = ", ".join(f"{value:g}" for value in sweep.values)
    show_rows(
        [
            (
                "cells",
                f"{cells.n:,} of {cells.clusters} clusters, {cells.d1:,} genes, {cells.d2:,} image features",
            ),
            (sweep.parameter, values),
            ("data sets", f"{config.data_seeds} × {len(settings)}"),
            (
                "fits",
                f"{total:,}, {config.model_seeds} seeds of MUSE; {workers} processes with one thread each",
            ),
        ]
    )


def show_scores(scores: Scores, found: list[tables.Difference]) -> None:
    """Print scores, what they mean, and what fits warned of."""
    for measure in JUDGED:
        say(f"\n{HEADLINE[measure]}, mean of the data sets [95 %]")
        show_table(*overview(scores, measure))
    header, rows = difference_table(found, scores.parameter)
    if rows:
        say("\nMUSE less the best single modality")
        show_table(header, rows)
        say("\nWhat MUSE makes of the modalities")
        show_table(*gate_table(scores))
    say()
    for text in verdicts(scores, found):
        say(f"  {text}")
    for code, message, strong in findings_of(scores):
        say(f"  {'WARNING' if strong else 'careful'} ({code}): {message}")
    say()


def _is_reference(config: JointSimulationConfig) -> bool:
    """Whether figures of the released tool are about such cells."""
    swept = config.sweep.parameter
    usual, ours = (
        dict(cells, **{swept: None}) for cells in (asdict(SimulationParameters()), config.cells.model_dump())
    )
    return swept == "decay_coef_2" and usual == ours and bool(set(config.sweep.values) & set(REFERENCE))
