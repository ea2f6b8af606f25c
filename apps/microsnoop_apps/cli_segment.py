"""The command ``microsnoop segment``: its options; what it does is in ``segmenting``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer


def segment(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            help="YAML configuration of an embedding run; its input and segment sections are used."
        ),
    ] = None,
    folder: Annotated[str, typer.Option(help="A folder of images, instead of a configuration.")] = "",
    manifest: Annotated[str, typer.Option(help="A CSV or Parquet table, one row an image.")] = "",
    pattern: Annotated[str, typer.Option(help="File names with fields, as in `microsnoop embed`.")] = "",
    masks: Annotated[str, typer.Option(help="Label images to compare with: a folder or a pattern.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for masks, previews and tables.")] = Path("runs/segment"),
    channel: Annotated[str, typer.Option(help="Channel to segment, or hematoxylin / grey of a colour.")] = "",
    diameter_px: Annotated[
        float, typer.Option(help="Typical diameter of an object; default: estimated.")
    ] = 0.0,
    polarity: Annotated[str, typer.Option(help="Objects are bright or dark; default: auto.")] = "",
    previews: Annotated[int, typer.Option(min=0, help="So many fields get a picture with outlines.")] = 8,
    by: Annotated[
        str, typer.Option(help="Metadata column: a line of the table for each of its values.")
    ] = "",
    iou: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="Overlap above which an object is found.")
    ] = 0.5,
    limit: Annotated[int, typer.Option(help="Only the first so many images.")] = 0,
    address: Annotated[str, typer.Option(help="A running Ray cluster; default: start one here.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any config key: --set segment.split=false")
    ] = None,
) -> None:
    """Find the objects of every field: label masks, pictures with outlines, and a score where masks are given.

    This is what `mode: crop` does on the fly, for a look before a long run. The masks can be handed to it with
    `--masks OUT/masks`, or edited first.

    Examples
    --------
      microsnoop segment --folder images --channel DNA --out runs/segment

      microsnoop segment configs/embed/dsb2018.yaml --by modality
    """
    from microsnoop_apps.segmenting import run

    given: dict[str, Any] = {
        "input.folder": folder, "input.manifest": manifest, "input.pattern": pattern, "input.masks": masks,
        "input.limit": limit, "segment.channel": channel, "segment.diameter_px": diameter_px,
        "segment.polarity": polarity, "execution.address": address,
    }  # fmt: skip
    overrides = {key: value for key, value in given.items() if value}
    run(config, overrides, set_ or [], out=out, previews=previews, by=by, iou=iou)
