"""Batch experiments that do not fit in memory: one method, block by block, then scores of the treatments."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from microsnoop.core.errors import ConfigError
from microsnoop.core.profile_config import UNCORRECTED, ProfileConfig
from microsnoop.correction.files import save
from microsnoop.correction.steps import build
from microsnoop.io.profile_table import ProfileTable, read_profiles
from microsnoop.pipelines.profile_blocks import BlockSummary, run_blocks
from microsnoop.pipelines.profile_levels import WEIGHTED
from microsnoop.pipelines.profile_scores import MethodScores, judge_treatments
from microsnoop_apps.profiling import tables
from microsnoop_apps.profiling.experiment import describe_steps, question
from microsnoop_apps.profiling.html import Document
from microsnoop_apps.terminal import ProgressLine, native_messages_held, say, show_rows, show_table

_SHARE = 4  # parts larger than this share of the free memory are not read at once


def is_out_of_core(config: ProfileConfig, source: str) -> bool:
    """Whether the rows are to be corrected block by block: asked for, or a folder of parts too large for memory.

    Raises
    ------
    ConfigError
        Asked for, and the source is not a folder of Parquet parts.
    """
    folder = Path(source)
    parts = (
        [] if (folder / "run.json").is_file() or folder.suffix == ".zarr" else list(folder.rglob("*.parquet"))
    )
    if config.out_of_core == "always" and not (folder.is_dir() and parts):
        raise ConfigError(
            f"out_of_core: always needs a folder of Parquet parts, {source} is none",
            hint="docs/profiles.md says which columns the parts must have",
        )
    if config.out_of_core != "auto" or not folder.is_dir():
        return config.out_of_core == "always"
    return sum(part.stat().st_size for part in parts) > psutil.virtual_memory().available / _SHARE


def profile_blocks(config: ProfileConfig, source: str) -> BlockSummary:
    """Correct parts with the method in use, aggregate to wells and treatments, score these, write a report.

    Raises
    ------
    ConfigError
        Settings that need all rows at once.
    MicrosnoopError
        Parts, correction or run cannot be used.
    """
    _check(config)
    out = Path(config.out)
    corrector = build(config.methods[config.use])
    say(f"{config.title}: block by block, {config.use} ({describe_steps(config.methods[config.use])})")
    began = time.monotonic()
    with ProgressLine("correcting") as line, native_messages_held():

        def show(done: int, total: int) -> None:
            rate = done / (time.monotonic() - began)
            line.counting(done, total, f"{done:,} of {total:,} rows", per_s=rate)

        summary = run_blocks(
            Path(source), out / "blocks", corrector=corrector, features=config.input.features,
            well_statistic=config.levels.statistic, treatment_statistic=config.levels.treatment,
            seed=config.score.seed, on_progress=show,
        )  # fmt: skip
    save(corrector, out / "correction")
    treatments = read_treatments(out / "blocks" / "treatments.parquet", corrector.features_out_)
    scores = judge_treatments(config.use, treatments, question(config.score))
    report = _report(config, summary, scores, source, out)
    _show(summary, scores, report, out)
    return summary


def read_treatments(path: Path, features: list[str]) -> ProfileTable:
    """Read treatments that were made block by block, under the names of the corrected features."""
    table = read_profiles(str(path), level="treatment", columns={"obs_id": "treatment"})
    table = replace(table, features=tuple(features))
    control = table.obs["is_control"] if "is_control" in table.obs else np.zeros(len(table.obs), bool)
    return replace(table, obs=table.obs.assign(is_control=np.asarray(control, bool)))


def balance(summary: BlockSummary) -> str:
    """Return where all rows went, in one sentence."""
    codes = ", ".join(f"{code} {n:,}" for code, n in summary.rejected_by_code.items())
    sign = "=" if summary.rows_in == summary.rows_out + summary.rejected else "≠"
    return (
        f"{summary.rows_in:,} rows {sign} {summary.rows_out:,} corrected + {summary.rejected:,} rejected"
        + (f" ({codes})" if codes else "")
        + f"; {summary.controls:,} controls, {summary.wells:,} wells, {summary.treatments:,} treatments, "
        f"{summary.missing:,} wells and treatments without a profile"
    )


def _check(config: ProfileConfig) -> None:
    wrong = {
        "use: none": config.use == UNCORRECTED,
        "levels.correct": config.levels.correct != "row",
        "levels.min_rows": config.levels.min_rows > 1,
        "cell_weighted statistic": WEIGHTED in (config.levels.statistic, config.levels.treatment),
        "input.where": bool(config.input.where),
        "input.plate_map": config.input.plate_map is not None,
        "input.compound_map": config.input.compound_map is not None,
        "input.columns": bool(config.input.columns),
    }
    if given := [name for name, bad in wrong.items() if bad]:
        raise ConfigError(
            f"out of core there is no {', '.join(given)}: rows are corrected as the parts hold them",
            hint="write plate, well, batch, treatment and is_control into the parts (docs/profiles.md)",
        )


def _report(
    config: ProfileConfig, summary: BlockSummary, scores: MethodScores, source: str, out: Path
) -> Path:
    page = Document(config.title)
    page.paragraph(balance(summary) + ".")
    page.findings([(f["code"], f["message"], f["strong"]) for f in summary.findings])
    page.heading("Scores", 2)
    page.table(tables.HEADLINE_HEADER, [tables.headline_row(scores)])
    page.paragraph(
        "Corrected out of core: only the method in use, rows to wells to treatments; other methods and pictures need "
        "all rows in memory."
    )
    for note in scores.notes:
        page.paragraph(f"Note: {note}.")
    page.heading("Provenance", 2)
    page.provenance(
        {"source": source, "configuration": config.model_dump(mode="json"), "seconds": summary.seconds}
    )
    return page.write(out)


def _show(summary: BlockSummary, scores: MethodScores, report: Path, out: Path) -> None:
    say(balance(summary))
    say(", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary.seconds.items()))
    for finding in summary.findings:
        say(f"  {'WARNING' if finding['strong'] else 'careful'} ({finding['code']}): {finding['message']}")
    show_table(tables.HEADLINE_HEADER, [tables.headline_row(scores)])
    show_rows(
        [
            ("report", str(report)),
            ("treatments", f"{out / 'blocks' / 'treatments.parquet'}"),
            ("wells, rows", f"{out / 'blocks'}/wells, rows, rejects"),
            ("correction", f"{out / 'correction'}.safetensors, .json"),
        ]
    )
