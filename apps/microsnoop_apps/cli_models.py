"""``microsnoop models``: list encoders, read their cards, import the authors' checkpoint, fit a head."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

models_app = typer.Typer(
    help="Encoders: list them, read their cards, import the authors' checkpoint, fit a head.",
    no_args_is_help=True,
)
Out = Annotated[Optional[Path], typer.Option(help="Folder; default: your encoders' folder.")]  # noqa: UP045


class HeadPooling(StrEnum):
    """Pooling of the maps that a new head is fitted on."""

    mean = "mean"
    mean_std = "mean_std"
    gem = "gem"


@models_app.command("list")
def models_list() -> None:
    """List the encoders that can be named in a configuration."""
    from microsnoop_apps import commands

    commands.models_list()


@models_app.command("show")
def models_show(name: Annotated[str, typer.Argument(help="An encoder's name or .safetensors path.")]) -> None:
    """Show an encoder's card: what it takes and gives, its head, data, licence, checksum."""
    from microsnoop_apps import commands

    commands.models_show(name)


@models_app.command("import")
def models_import(
    file: Annotated[
        Path, typer.Argument(help="The authors' checkpoint (.pth) or a .safetensors with its names.")
    ],
    name: Annotated[str, typer.Option(help="Its name here.")] = "published",
    out: Out = None,
) -> None:
    """Import the published checkpoint: read tensors only, write safetensors and a JSON card.

    The authors' weights are not shipped here and keep their own terms; `microsnoop models show` repeats them.
    """
    from microsnoop_apps import commands

    commands.models_import(file, name=name, out=out)


@models_app.command("whiten")
def models_whiten(
    encoder: Annotated[str, typer.Argument(help="Encoder to start from; it stays as it is.")],
    pool: Annotated[
        str, typer.Option(help="Folder of unlabelled images, or of Parquet shards (jpeg, source).")
    ],
    name: Annotated[str, typer.Option(help="Name of the new encoder.")],
    pooling: Annotated[
        HeadPooling, typer.Option(help="What is taken of each map over space.")
    ] = HeadPooling.mean_std,
    layers: Annotated[str, typer.Option(help="Encoder stages to pool, 0 (finest) to 3, e.g. 2,3.")] = "3",
    crops: Annotated[int, typer.Option(help="Random crops the head is fitted on.")] = 4096,
    ridge: Annotated[float, typer.Option(help="Added to each variance, as a share of their mean.")] = 0.02,
    dim: Annotated[int, typer.Option(help="Keep only so many axes; 0: all.")] = 0,
    input_px: Annotated[int, typer.Option(help="Input side; default: the encoder's own.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the crops.")] = 0,
    out: Out = None,
) -> None:
    """Fit a whitened head on unlabelled images and write it as a new encoder.

    Your own images will do: a few hundred fields of the kind you are going to embed.

    Examples
    --------
      microsnoop models whiten untrained --pool my_images --name mine --crops 2048
    """
    from microsnoop.core.errors import ConfigError
    from microsnoop_apps import commands

    try:
        stages = tuple(int(text) for text in layers.split(","))
    except ValueError as error:
        raise ConfigError(f"--layers needs numbers like 3 or 2,3, got {layers!r}") from error
    settings = {
        "pooling": pooling.value, "layers": stages, "crops": crops, "ridge": ridge, "dim": dim or None,
        "input_px": input_px or None, "seed": seed,
    }  # fmt: skip
    commands.models_whiten(encoder, pool, name=name, out=out, settings=settings)
