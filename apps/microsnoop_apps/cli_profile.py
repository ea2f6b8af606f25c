"""The command ``microsnoop profile``: its options; what it does is in ``profiling``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer


def profile(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="YAML configuration of a batch experiment (configs/profile has examples)."),
    ] = None,
    table: Annotated[
        str,
        typer.Option(help="Profiles: CSV, Parquet, .h5ad, .zarr, or a run directory; instead of the file's."),
    ] = "",
    plate_map: Annotated[
        str, typer.Option(help="A table of wells: well, plate, compound, concentration, ...")
    ] = "",
    control: Annotated[
        list[str] | None,
        typer.Option(help="Negative controls, column=value: --control compound=DMSO; may be repeated."),
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Column of the largest unit of technical variation, e.g. week.")
    ] = "",
    use: Annotated[str, typer.Option(help="Method whose profiles are written.")] = "",
    out: Annotated[str, typer.Option(help="Folder of the results.")] = "",
    data: Annotated[
        str, typer.Option(help="Where the tables are (default: $MICROSNOOP_DATA, ../shared/data).")
    ] = "",
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Tables only: faster.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any config key: --set score.label=null")
    ] = None,
) -> None:
    """Correct profiles of plates, make treatments of them, and judge every method side by side.

    Profiles of any origin: our runs, CellProfiler, DeepProfiler, cytotable, AnnData. Corrections are fitted on negative
    controls only. Out come treatment profiles (AnnData and Parquet), the fitted correction, and a report with
    NSC and NSCB under every batch rule, mAP of replicates, plate heat maps, and warnings.

    Examples
    --------
      microsnoop profile configs/profile/bbbc021.yaml

      microsnoop profile --table runs/plate --plate-map wells.csv --control compound=DMSO --batch week
    """
    from microsnoop_apps.evaluation.recipes import data_root
    from microsnoop_apps.profiling.blocks import is_out_of_core, profile_blocks
    from microsnoop_apps.profiling.loading import place_of
    from microsnoop_apps.profiling.run import profile as run
    from microsnoop_apps.profiling.settings import profile_config

    given: dict[str, Any] = {
        "input.table": table, "input.plate_map": plate_map, "plates.batch": batch, "use": use, "out": out,
    }  # fmt: skip
    overrides = {key: value for key, value in given.items() if value}
    settings = profile_config(config, overrides, controls=control or [], settings=set_ or [])
    root = data_root(data)
    source = place_of(settings.input.table, root)
    if is_out_of_core(settings, source):
        profile_blocks(settings, source)
    else:
        run(settings, root=root, pictures=not no_pictures)
