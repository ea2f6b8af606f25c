"""The command ``microsnoop evaluate``: its options; what it does is in ``evaluation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer


def evaluate(
    recipes: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            help="Names in configs/evaluate, YAML files, or .h5ad / .zarr files with --label. Default: all recipes "
            "without variants.",
            metavar="[RECIPE]...",
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(help="Encoder under test (name or .safetensors); may be given several times."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="Where the data of the recipes are (default: $MICROSNOOP_DATA, ../shared/data)."),
    ] = "",
    out: Annotated[
        Path, typer.Option(help="Folder for embeddings and report; the same folder resumes.")
    ] = Path("runs/evaluate"),
    pool: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the training tiles (Parquet, column jpeg): checks for leakage."),
    ] = None,
    max_per_class: Annotated[
        int, typer.Option(help="At most so many rows of a class, drawn by row id: for a machine without GPU.")
    ] = 0,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Leave out what scores are read against; says so loudly.")
    ] = False,
    label: Annotated[str, typer.Option(help="Column of obs with the class, for an AnnData file.")] = "",
    group: Annotated[
        str, typer.Option(help="Column of obs whose rows stay together, for an AnnData file.")
    ] = "",
    device: Annotated[str, typer.Option(help="Where encoders run: auto, cpu, cuda, mps.")] = "auto",
    memory_gb: Annotated[float, typer.Option(help="Memory for each run; the plan is made to fit.")] = 0.0,
    address: Annotated[str, typer.Option(help="A running Ray cluster; default: start one here.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of the recipes: --set embed.input_px=96")
    ] = None,
) -> None:
    """Score encoders on labelled sets, always beside their baselines; run it again to go on where it stopped.

    A recipe says which rows, which label and which groups. Every encoder embeds the same rows; nearest
    neighbours and a logistic probe then guess the label in folds, with intervals and paired comparisons.
    Beside the encoder stand an untrained one, hand-crafted features, ImageNet EfficientNet-lite0 and chance.
    A recipe with variants compares ways to embed the same images: whole, in tiles, by their cells.

    Examples
    --------
      microsnoop evaluate --max-per-class 60

      microsnoop evaluate jurkat-7 rbc12-cells --encoder snoop-trial --encoder my.safetensors --pool tiles/

      microsnoop evaluate rbc-disease-modes

      microsnoop evaluate runs/first.h5ad --label phase --group plate --no-baselines
    """
    from microsnoop_apps.cli import State
    from microsnoop_apps.commands import parse_settings
    from microsnoop_apps.evaluation.recipes import data_root, load_recipes
    from microsnoop_apps.evaluation.run import Job
    from microsnoop_apps.evaluation.run import evaluate as run

    overrides: dict[str, Any] = parse_settings(set_ or [])
    if max_per_class:
        overrides["max_per_class"] = max_per_class
    execution = {"device": device, "memory_gb": memory_gb or None, "address": address or None}
    run(
        Job(
            recipes=load_recipes(recipes or [], overrides=overrides, label=label, group=group),
            encoders=encoder or [],
            root=data_root(data),
            out=out,
            pool=pool,
            baselines=not no_baselines,
            execution={key: value for key, value in execution.items() if value is not None},
            debug=State.debug,
        )
    )
