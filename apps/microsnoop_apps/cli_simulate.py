"""The command ``microsnoop simulate-plates``: its options; what it does is in ``simulation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer


def simulate_plates(
    config: Annotated[
        Path, typer.Argument(help="YAML configuration, e.g. configs/simulate/jurkat-plates.yaml.")
    ],
    data: Annotated[
        str,
        typer.Option(help="Where the source cells are (default: $MICROSNOOP_DATA, ../shared/data)."),
    ] = "",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for images and tables; default as configured."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any config key: --set acquisition.strength=0")
    ] = None,
) -> None:
    """Make plates of images from real cells: known treatments, known batches, a microscope that changes by week.

    Every field is put together from cells of one source; which cell stands where is in cells.csv, what the
    microscope did in layout.json. manifest.csv is ready for `microsnoop embed --manifest`.

    Examples
    --------
      microsnoop simulate-plates configs/simulate/jurkat-plates.yaml

      microsnoop simulate-plates configs/simulate/jurkat-plates.yaml --set acquisition.strength=0 --out runs/clean
    """
    from microsnoop.core.config_file import load_settings
    from microsnoop.core.simulate_config import SimulateConfig
    from microsnoop_apps.commands import parse_settings
    from microsnoop_apps.evaluation.recipes import data_root
    from microsnoop_apps.simulation.run import simulate
    from microsnoop_apps.terminal import say, show_rows

    overrides: dict[str, Any] = parse_settings(set_ or [])
    cfg = load_settings(config, SimulateConfig, overrides=overrides)
    done = simulate(cfg, root=data_root(data), out=out or Path(cfg.out))
    if done.already:
        say(f"{done.folder} holds these plates already: nothing was done")
    else:
        say(
            f"{done.n_images:,} fields with {done.n_cells:,} cells; {done.n_saturated:,} pixels are saturated"
        )
    show_rows(
        [
            ("manifest", str(done.folder / "manifest.csv")),
            ("cells", str(done.folder / "cells.csv")),
            ("layout", str(done.folder / "layout.json")),
            ("overview", str(done.folder / "overview.png")),
        ]
    )
