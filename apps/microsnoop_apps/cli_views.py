"""The commands ``microsnoop gallery`` and ``microsnoop overlay``: their options; what they do is in ``views``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Optional

import typer

Data = Annotated[
    Path,
    typer.Argument(help="An .h5ad or .zarr file, or a run directory (then row by row).", metavar="DATA"),
]
RunOf = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--run", help="Where the run directory is now, if it was moved.", metavar="RUN"),
]


class Contrast(StrEnum):
    """What black and bright mean."""

    cell = "cell"
    sheet = "sheet"


def gallery(
    data: Data,
    by: Annotated[
        str, typer.Option(help="Column of obs that names groups: a class or cluster. Default: leiden.")
    ] = "",
    nearest: Annotated[int, typer.Option(help="Rows nearest to each group's centre.", min=0, max=50)] = 8,
    farthest: Annotated[int, typer.Option(help="Rows farthest from it.", min=0, max=50)] = 8,
    groups: Annotated[
        str, typer.Option(help="Only these groups, in this order: a,b. Default: the 12 largest.")
    ] = "",
    channels: Annotated[
        str, typer.Option(help="Up to 4 channels, each in a colour: DNA,Actin. Default: the first 3.")
    ] = "",
    contrast: Annotated[
        Contrast,
        typer.Option(help="cell: each picture by itself, as the encoder sees it. sheet: one for all."),
    ] = Contrast.cell,
    out: Annotated[Optional[Path], typer.Option(help="Picture (.png); default beside DATA.")] = None,  # noqa: UP045
    run: RunOf = None,
) -> None:
    """Show the cells nearest to and farthest from the centre of each group: one picture to look at.

    The nearest show what a group has in common, the farthest what does not belong or is rare. The centre is the
    mean of the group's unit vectors, the distance is cosine. A CSV beside the picture names every cell on it.
    Pixels come from the source images, through what the run recorded.

    Examples
    --------
      microsnoop umap runs/first.h5ad --save runs/map.h5ad && microsnoop gallery runs/map.h5ad

      microsnoop gallery runs/first.h5ad --by phase --groups G1,M --channels DNA,Actin

      microsnoop gallery runs/first.h5ad --by line --contrast sheet --run /archive/runs/first
    """
    from microsnoop_apps.views.gallery import GalleryOptions
    from microsnoop_apps.views.gallery import gallery as show

    options = GalleryOptions(by, nearest, farthest, _listed(groups), _listed(channels), contrast.value)
    show(data, options, out=out, run=run)


def overlay(
    data: Data,
    by: Annotated[
        str, typer.Option(help="Column of obs to colour by: groups, or numbers. Default: leiden.")
    ] = "",
    image: Annotated[str, typer.Option(help="image_id of the field; default: the one with most rows.")] = "",
    channel: Annotated[
        str,
        typer.Option(help="Channel below the outlines; default: colour if the field has it, else the first."),
    ] = "",
    block: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Block of a large field; default: the one with most rows.", min=0),
    ] = None,
    out: Annotated[Optional[Path], typer.Option(help="Picture (.png); default beside DATA.")] = None,  # noqa: UP045
    run: RunOf = None,
) -> None:
    """Draw clusters, or any column of obs, over the field they come from.

    Cells of mode crop are outlined as in their mask, cells of a table and tiles as boxes. What was rejected has a thin
    grey line. Numbers get a colour bar, with the same colours in every field.

    Examples
    --------
      microsnoop overlay runs/map.h5ad

      microsnoop overlay runs/first.h5ad --by phase --image B03_s2.tif --channel Actin

      microsnoop overlay runs/first --by area_px --block 7
    """
    from microsnoop_apps.views.overlay import OverlayOptions
    from microsnoop_apps.views.overlay import overlay as show

    show(data, OverlayOptions(by, image, channel, block), out=out, run=run)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
