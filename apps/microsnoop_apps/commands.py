"""What the commands do; imported when one of them runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from microsnoop.core.codes import SELECTED_OUT
from microsnoop.core.config import EmbedConfig
from microsnoop.core.config_file import build_config, load_config
from microsnoop.core.errors import ConfigError
from microsnoop.io.store import RunStore
from microsnoop_apps.terminal import say, show_rows, show_table

_SOURCES = ("input.folder", "input.manifest", "input.pattern")


def embed_config(path: Path | None, overrides: dict[str, Any], settings: list[str]) -> EmbedConfig:
    """Combine a YAML file, options and ``--set`` settings, later ones first in right."""
    overrides = overrides | parse_settings(settings)
    if any(source in overrides for source in _SOURCES):  # a source on the command line replaces the file's
        overrides = {**dict.fromkeys(_SOURCES), **overrides}
    if path is not None:
        return load_config(path, overrides=overrides)
    if not any(overrides.get(source) for source in _SOURCES):
        raise ConfigError(
            "nothing to embed: no configuration and no input given",
            hint="give a YAML file, or --folder, --manifest or --pattern; `microsnoop embed --help` has examples",
        )
    if "run_dir" not in overrides:
        raise ConfigError("no place for the results", hint="add --run-dir runs/first")
    return build_config({}, overrides=overrides, model=EmbedConfig, where="the command line")


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Turn ``key=value`` texts of ``--set`` into overrides; values are YAML.

    Raises
    ------
    ConfigError
        A text without ``=``.
    """
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, found, text = setting.partition("=")
        if not found:
            raise ConfigError(f"--set needs key=value, got {setting!r}", hint="e.g. --set tile.overlap=0.2")
        overrides[key.strip()] = yaml.safe_load(text)
    return overrides


def dry_run(cfg: EmbedConfig) -> None:
    """Show plan and first records."""
    from microsnoop.pipelines.embed import prepare
    from microsnoop_apps.terminal import show_plan, show_records

    prepared = prepare(cfg)
    show_plan(prepared)
    show_records(prepared)
    say("Nothing was computed (--dry-run).")


def embed(cfg: EmbedConfig, *, fork: str, debug: bool) -> int:
    """Embed, export, and return the exit code."""
    from microsnoop_apps.runs import embed_with_progress, exit_code

    fork_from = None
    if fork:
        if not RunStore(Path(cfg.run_dir)).exists:
            raise ConfigError(f"--fork takes over rows of run_dir, but {cfg.run_dir} is not a run")
        fork_from, cfg = cfg.run_dir, cfg.model_copy(update={"run_dir": fork})
    summary = embed_with_progress(cfg, fork_from=fork_from, debug=debug)
    code = exit_code(summary, cfg.max_reject_fraction)
    if summary.rejected:
        repairable = summary.rejected_by_code.keys() - SELECTED_OUT
        fix = f"; repair the files, then `microsnoop retry {summary.run_dir}`" if repairable else ""
        say(f"rejects: {summary.run_dir}/rejects/*.parquet{fix}")
    if summary.complete and summary.written and cfg.export != "none":
        export(Path(cfg.run_dir), Path(f"{Path(cfg.run_dir)}.{cfg.export}"), level="auto", fuse="")
    return code


def verify(run: Path) -> int:
    """Print the balance and every problem; return 1 if there is one."""
    from microsnoop.io.verify import verify as check

    result = check(run)
    say(result.summary())
    for problem in result.problems:
        say(problem)
    say("verified: complete, nothing twice, checksums right" if result.ok else "NOT verified")
    return 0 if result.ok else 1


def retry(run: Path, *, debug: bool) -> int:
    """Run the rejects of a run again."""
    from microsnoop.pipelines.embed import retire_rejects
    from microsnoop_apps.runs import embed_with_progress, exit_code

    cfg, count = retire_rejects(run)
    say(f"{count:,} rejected rows to try again")
    if not count:
        return 0
    summary = embed_with_progress(cfg, debug=debug)
    if summary.complete and summary.written and cfg.export != "none":
        export(run, Path(f"{run}.{cfg.export}"), level="auto", fuse="")
    return exit_code(summary, cfg.max_reject_fraction)


def export(run: Path, out: Path | None, *, level: str, fuse: str, aggregate: str = "mean") -> None:
    """Write AnnData and say where."""
    from microsnoop_integrations.anndata_io import export as write

    path = write(run, out, level=level, fuse=fuse, aggregate=aggregate)
    say(f"AnnData: {path}")


def umap(data: Path, *, color: str, out: Path | None, seed: int, save: Path | None) -> None:
    """Compute and draw a UMAP."""
    from microsnoop_integrations.anndata_io import export as write
    from microsnoop_integrations.anndata_io import read
    from microsnoop_integrations.scanpy_steps import neighbours_umap_leiden, plot_umap

    if (data / "run.json").is_file():
        data = write(data)
    adata = read(data)
    neighbours_umap_leiden(adata, seed=seed)
    picture = plot_umap(adata, out or data.with_suffix(".umap.png"), color=color or None, title=data.stem)
    say(f"UMAP: {picture}")
    if save is not None:
        adata.write_zarr(save) if save.suffix == ".zarr" else adata.write_h5ad(save)
        say(f"AnnData: {save}")


def models_list() -> None:
    """Print a table of encoders."""
    from microsnoop.models.registry import DEFAULT_ENCODER, ListedEncoder, list_encoders
    from microsnoop.pipelines.measure import FEATURES, features_bundle

    rows = []
    for entry in [*list_encoders(), ListedEncoder(FEATURES, features_bundle(1).card, "")]:
        name = entry.name + (" (default)" if entry.name == DEFAULT_ENCODER else "")
        card = entry.card
        if card is None:
            rows.append([name, "-", "-", "-", entry.problem])
        else:
            rows.append(
                [
                    name,
                    str(card.dim),
                    "yes" if card.trained else "NO",
                    card.weights_sha256[:12] or "-",
                    card.description,
                ]
            )
    show_table(["name", "dim", "trained", "sha256", "what"], rows)


def models_show(name: str) -> None:
    """Print an encoder's card."""
    from microsnoop.models.registry import load_encoder
    from microsnoop.pipelines.measure import FEATURES, features_bundle

    card = (features_bundle(1) if name == FEATURES else load_encoder(name)).card
    values = {
        **card.model_dump(),
        "head": card.head.describe() if card.head else "the architecture's own mean",
    }
    show_rows([(k, ", ".join(map(str, v)) if isinstance(v, tuple) else str(v)) for k, v in values.items()])
    if card.warning():
        say(card.warning())


def models_import(file: Path, *, name: str, out: Path | None) -> None:
    """Import a checkpoint."""
    from microsnoop.models.registry import import_encoder

    path, card = import_encoder(file, name=name, folder=out)
    say(f"{path} written, sha256 {card.weights_sha256}")
    say(f"licence: {card.licence}")
    say(f"use it with `encoder: {name if out is None else path}`")


def models_whiten(encoder: str, pool: str, *, name: str, out: Path | None, settings: dict[str, Any]) -> None:
    """Fit a whitened head on unlabelled images and say where the new encoder is."""
    from microsnoop.pipelines.whiten import WhitenOptions, whiten
    from microsnoop_apps.terminal import CropCounter

    options = WhitenOptions(**settings)
    path, card = whiten(
        encoder, pool, name=name, folder=out, options=options, on_crops=CropCounter(options.crops)
    )
    say(f"{path} written, sha256 {card.weights_sha256}")
    if card.head is not None:
        say(f"head: {card.head.describe()}; {card.dim} numbers a channel")
    say(f"use it with `encoder: {name if out is None else path}`")
