"""The command line: one thin function a command; what is slow to import is imported inside.

Errors are one readable line with the fix. ``--debug``, anywhere on the line, shows the traceback and Ray's
messages as well.
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from microsnoop import __version__
from microsnoop.core.errors import ConfigError, MicrosnoopError
from microsnoop_apps.cli_evaluate import evaluate
from microsnoop_apps.cli_joint import joint
from microsnoop_apps.cli_models import models_app
from microsnoop_apps.cli_pretrain import pretrain
from microsnoop_apps.cli_profile import profile
from microsnoop_apps.cli_segment import segment
from microsnoop_apps.cli_simulate import simulate_plates
from microsnoop_apps.cli_views import gallery, overlay

app = typer.Typer(
    help="Microscopy images to embeddings to AnnData, every row accounted for.",
    epilog="First steps: `microsnoop demo`, then `microsnoop embed --folder MY_IMAGES --run-dir runs/first`. "
    "--debug anywhere on the line shows tracebacks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app, name="models")
app.command()(pretrain)
app.command()(segment)
app.command()(profile)
app.command()(joint)
app.command()(simulate_plates)


class State:
    """Flags of the whole command line."""

    debug = False


class Mode(StrEnum):
    """Image modes."""

    rescale = "rescale"
    native = "native"
    tile = "tile"
    crop = "crop"


class VectorPooling(StrEnum):
    """How the encoder's maps become a vector."""

    encoder = "encoder"
    paper = "paper"


class Precision(StrEnum):
    """Numbers inside the encoder."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Device(StrEnum):
    """Where the encoder runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Format(StrEnum):
    """AnnData files."""

    h5ad = "h5ad"
    zarr = "zarr"
    none = "none"


RunDir = Annotated[Path, typer.Argument(help="The run directory.", metavar="RUN")]


@app.command()
def embed(
    config: Annotated[Optional[Path], typer.Argument(help="YAML configuration; options override it.")] = None,  # noqa: UP045
    folder: Annotated[
        str, typer.Option(help="A folder of images: every image file below it is one image.")
    ] = "",
    manifest: Annotated[str, typer.Option(help="A CSV or Parquet table, one row an image.")] = "",
    pattern: Annotated[
        str, typer.Option(help="File names with fields: 'P/{plate}/{well}_s{site}_w{channel}.tif'.")
    ] = "",
    cells: Annotated[
        str, typer.Option(help="A table of cells (image, x_px, y_px, or boxes) to cut out.")
    ] = "",
    cell_size_px: Annotated[int, typer.Option(help="Side of the window around each centre of --cells.")] = 0,
    masks: Annotated[
        str, typer.Option(help="Label images for --mode crop: a folder, or a pattern with the same fields.")
    ] = "",
    run_dir: Annotated[
        str, typer.Option(help="Where the run is written; the same directory resumes it.")
    ] = "",
    encoder: Annotated[
        str, typer.Option(help="Encoder name (`microsnoop models list`) or .safetensors path.")
    ] = "",
    pooling: Annotated[
        VectorPooling | None, typer.Option(help="The encoder's own head, or the paper's plain mean.")
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="rescale to the input, keep native scale, tile, or crop around each cell."),
    ] = None,
    input_px: Annotated[int, typer.Option(help="Side of the encoder's input, a multiple of 8.")] = 0,
    device: Annotated[Optional[Device], typer.Option(help="Where the encoder runs.")] = None,  # noqa: UP045
    precision: Annotated[Precision | None, typer.Option(help="bf16 is fast only where it is native.")] = None,
    memory_gb: Annotated[
        float, typer.Option(help="Memory for the whole run; the plan is made to fit.")
    ] = 0.0,
    batch_planes: Annotated[int, typer.Option(help="Planes the encoder takes at once.")] = 0,
    actors: Annotated[int, typer.Option(help="Encoder processes.")] = 0,
    address: Annotated[
        str, typer.Option(help="A running Ray cluster, e.g. auto; default: start one here.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Only the first so many images: a trial run.")] = 0,
    export: Annotated[Optional[Format], typer.Option(help="AnnData file written at the end.")] = None,  # noqa: UP045
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any config key: --set tile.overlap=0.2")
    ] = None,
    fork: Annotated[
        str, typer.Option(help="Begin a new run there, taking over every row that is still valid.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and the first records, do nothing.")
    ] = False,
) -> None:
    """Embed images into RUN_DIR and write RUN_DIR.h5ad; run it again to go on after a crash.

    Examples
    --------
      microsnoop embed --folder images --run-dir runs/first

      microsnoop embed configs/embed/plate.yaml --memory-gb 16 --dry-run

      microsnoop embed --manifest cells.csv --mode native --input-px 64 --run-dir runs/cells
    """
    from microsnoop_apps import commands

    given = {
        "input.folder": folder, "input.manifest": manifest, "input.pattern": pattern, "input.cells": cells,
        "input.cell_size_px": cell_size_px, "input.masks": masks, "input.limit": limit,
        "run_dir": run_dir, "encoder": encoder, "pooling": pooling, "mode": mode, "input_px": input_px,
        "export": export, "execution.device": device,
        "execution.precision": precision, "execution.memory_gb": memory_gb,
        "execution.batch_planes": batch_planes, "execution.actors": actors, "execution.address": address,
    }  # fmt: skip
    overrides: dict[str, Any] = {
        key: str(v) if isinstance(v, StrEnum) else v for key, v in given.items() if v
    }
    cfg = commands.embed_config(config, overrides, set_ or [])
    if dry_run:
        commands.dry_run(cfg)
        return
    raise typer.Exit(commands.embed(cfg, fork=fork, debug=State.debug))


@app.command()
def verify(run: RunDir) -> None:
    """Prove that a run is complete: expected = written + rejected, no duplicates, checksums right.

    Exits with 1 and a list when anything is wrong.
    """
    from microsnoop_apps import commands

    raise typer.Exit(commands.verify(run))


@app.command()
def retry(run: RunDir) -> None:
    """Try the rejected rows of a run again, after their files were repaired; nothing else is touched."""
    from microsnoop_apps import commands

    raise typer.Exit(commands.retry(run, debug=State.debug))


@app.command()
def export(
    run: RunDir,
    out: Annotated[Optional[Path], typer.Option(help=".h5ad or .zarr; default RUN.h5ad.")] = None,  # noqa: UP045
    level: Annotated[
        str,
        typer.Option(help="sample, image (tiles to one row), field (all of an image to one row), or auto."),
    ] = "auto",
    fuse: Annotated[str, typer.Option(help="concat, mean or chans; default as configured.")] = "",
    aggregate: Annotated[
        str, typer.Option(help="mean, median, mean_std, trimmed or modz: how rows become one.")
    ] = "mean",
) -> None:
    """Write a run as AnnData, in bounded memory."""
    from microsnoop_apps import commands

    commands.export(run, out, level=level, fuse=fuse, aggregate=aggregate)


@app.command()
def umap(
    data: Annotated[Path, typer.Argument(help="An .h5ad or .zarr file, or a run directory.")],
    color: Annotated[str, typer.Option(help="Column of obs to colour by; default: Leiden clusters.")] = "",
    out: Annotated[Optional[Path], typer.Option(help="Picture; default beside the data.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Seed of PCA, neighbours, UMAP and Leiden.")] = 0,
    save: Annotated[Path | None, typer.Option(help="Also write the AnnData with UMAP and clusters.")] = None,
) -> None:
    """Compute neighbours, UMAP and Leiden clusters with scanpy, seeded, and save a picture."""
    from microsnoop_apps import commands

    commands.umap(data, color=color, out=out, seed=seed, save=save)


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo")) -> None:
    """Run the main job on the real images in examples/: crop, embed, verify, AnnData, UMAP, kNN table."""
    from microsnoop_apps.demo import run_demo

    raise typer.Exit(run_demo(out))


app.command()(gallery)
app.command()(overlay)
app.command()(evaluate)


@app.command()
def doctor() -> None:
    """Show versions, devices, memory, encoders, and what is missing with the line that installs it."""
    from microsnoop_apps.doctor import examine

    raise typer.Exit(0 if examine() else 1)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"microsnoop-platform {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; errors of ours are one line, others too unless ``--debug`` is given."""
    State.debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    logging.basicConfig(
        level=logging.DEBUG if State.debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("numba").setLevel(logging.WARNING)  # its compiler logs more than the whole run computes
    from microsnoop_apps.terminal import show_error

    try:
        app(args=arguments, prog_name="microsnoop")
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    except Exception as error:
        if State.debug:
            raise
        show_error(error)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


__all__ = ["MicrosnoopError", "app", "main"]
