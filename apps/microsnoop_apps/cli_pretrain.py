"""The command ``microsnoop pretrain``."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from microsnoop.core.pretrain_config import PretrainConfig
    from microsnoop.train.plan import TrainPlan
    from microsnoop.train.run import TrainSummary


def pretrain(
    config: Annotated[Path, typer.Argument(help="YAML recipe; configs/pretrain/ has some to start from.")],
    run_dir: Annotated[
        str, typer.Option(help="Where the run is written; the same directory resumes it.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the encoder it makes.")] = "",
    pool: Annotated[str, typer.Option(help="Folder of Parquet files of tiles (pool.shards).")] = "",
    workers: Annotated[int, typer.Option(help="Worker processes, or GPUs.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "",
    address: Annotated[str, typer.Option(help="A running Ray cluster, e.g. auto.")] = "",
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", help="Any key: --set optimiser.peak_lr=5e-4")  # noqa: UP045
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show recipe and plan, do nothing.")] = False,
) -> None:
    """Train an encoder on unlabelled images: mask patches, rebuild them, agree on two views of the same crop.

    Killed, stopped with Ctrl-C or out of time, the same command goes on from the last checkpoint. In the end
    RUN_DIR/NAME.safetensors and its card can be used as `microsnoop embed --encoder RUN_DIR/NAME.safetensors`.

    Examples
    --------
      microsnoop pretrain configs/pretrain/tiny-cpu.yaml --run-dir runs/tiny

      microsnoop pretrain configs/pretrain/best.yaml --pool tiles/ --run-dir runs/best --device cuda
    """
    from microsnoop.core.config_file import load_settings
    from microsnoop.core.pretrain_config import PretrainConfig
    from microsnoop_apps.cli import State
    from microsnoop_apps.commands import parse_settings

    given: dict[str, Any] = {
        "run_dir": run_dir, "name": name, "pool.shards": pool, "execution.workers": workers,
        "execution.device": device, "execution.address": address,
    }  # fmt: skip
    overrides = {key: value for key, value in given.items() if value} | parse_settings(set_ or [])
    cfg = load_settings(config, PretrainConfig, overrides=overrides)
    raise typer.Exit(_run(cfg, dry_run=dry_run, debug=State.debug))


def _run(cfg: PretrainConfig, *, dry_run: bool, debug: bool) -> int:
    from microsnoop.train.plan import plan_training
    from microsnoop.train.run import pretrain
    from microsnoop_apps.runs import EXIT_INTERRUPTED
    from microsnoop_apps.terminal import ProgressLine, native_messages_held

    if dry_run:
        show_plan(cfg, plan_training(cfg))
        return 0
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    with ExitStack() as stack:
        for name in (signal.SIGINT, signal.SIGTERM):
            stack.callback(signal.signal, name, signal.signal(name, on_signal))
        if not debug:
            stack.enter_context(native_messages_held())
        line = stack.enter_context(ProgressLine("pretraining"))
        summary = pretrain(
            cfg,
            on_plan=lambda plan: show_plan(cfg, plan),
            on_progress=line.training,
            stop=stop,
            verbose=debug,
        )
    show_summary(summary)
    return 0 if summary.status == "complete" else EXIT_INTERRUPTED


def show_plan(cfg: PretrainConfig, plan: TrainPlan) -> None:
    """Print what a run is going to do."""
    from microsnoop_apps.terminal import say, show_rows

    phases = "; ".join(f"{p.steps:,} steps of {p.batch} tiles at {p.input_px} px" for p in cfg.phases)
    say("Plan")
    show_rows(
        [
            ("pool", plan.pool.describe()),
            ("objective", " + ".join(f"{weight:g} × {term}" for term, weight in cfg.objective.items())),
            ("masked", f"{cfg.mask.ratio:.0%} of {cfg.mask.patch_px} px patches"),
            ("phases", phases),
            ("begins with", cfg.init or f"random weights (seed {cfg.seed})"),
            ("device", f"{cfg.execution.workers} × {plan.device}, {plan.precision}"
             + (", compiled" if plan.compile else f", {plan.threads} thread(s) each")),
            ("checkpoint", f"every {cfg.report.checkpoint_minutes:g} minutes, and at Ctrl-C or SIGTERM"),
            ("run", cfg.run_dir),
        ]
    )  # fmt: skip


def show_summary(summary: TrainSummary) -> None:
    """Print what a session did, and what to do next."""
    from microsnoop_apps.terminal import say, show_rows

    for warning in dict.fromkeys(summary.warnings):
        say(f"warning: {warning}")
    if summary.pool:
        learnt, held_out, rejected = (summary.pool[n] for n in ("learnt_from", "held_out", "rejected"))
        say(
            f"pool: {learnt + held_out + rejected:,} tiles = {learnt:,} to learn from + {held_out:,} held out + "
            f"{rejected:,} rejected" + (f" ({summary.run_dir}/rejects.csv says why)" if rejected else "")
        )
    say(f"{summary.status}: {summary.step:,} of {summary.total:,} steps")
    if summary.encoder is None:
        say("the same command goes on from the checkpoint just written")
        return
    show_rows(
        [
            ("encoder", summary.encoder),
            ("log", f"{summary.run_dir}/log.csv, tensorboard --logdir {summary.run_dir}/tensorboard"),
            ("pictures", f"{summary.run_dir}/loss.png, {summary.run_dir}/panel.png"),
            ("next", f"microsnoop embed --encoder {summary.encoder} --folder MY_IMAGES --run-dir runs/mine"),
        ]
    )
