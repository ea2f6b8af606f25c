"""Run the pipeline for a person: plan, progress bar, summary; interrupts end it cleanly."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from microsnoop.core.config import EmbedConfig
from microsnoop.pipelines.embed import embed
from microsnoop.pipelines.progress import Summary
from microsnoop_apps.terminal import ProgressLine, native_messages_held, say, show_plan, show_summary

EXIT_REJECTS = 3
EXIT_INTERRUPTED = 130


def embed_with_progress(cfg: EmbedConfig, *, fork_from: str | None = None, debug: bool = False) -> Summary:
    """Embed with plan, progress and summary on the screen."""
    with ExitStack() as stack:
        if not debug:
            stack.enter_context(native_messages_held())
        stack.enter_context(_stop_on_signal())
        progress = stack.enter_context(ProgressLine())
        summary = embed(
            cfg, on_plan=show_plan, on_progress=progress.embedding, fork_from=fork_from, verbose=debug
        )
    show_summary(summary)
    return summary


def exit_code(summary: Summary, max_reject_fraction: float) -> int:
    """Return 0, 1 (rows missing), 3 (too many images rejected) or 130 (interrupted)."""
    if summary.status == "interrupted":
        return EXIT_INTERRUPTED
    if not summary.complete:
        say("error: rows are missing; `microsnoop verify` lists them, the same command computes them")
        return 1
    share = summary.images_rejected / max(1, summary.images)
    if share > max_reject_fraction:
        say(
            f"{summary.images_rejected:,} of {summary.images:,} images ({share:.1%}) were rejected, more than "
            f"max_reject_fraction = {max_reject_fraction:.0%}: `microsnoop verify {summary.run_dir}` names them"
        )
        return EXIT_REJECTS
    return 0


@contextmanager
def _stop_on_signal() -> Iterator[None]:
    """Make the first SIGINT or SIGTERM a clean stop; the next ones are ignored until the books are closed."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
