"""The command ``microsnoop joint``: its options; what it does is in ``joint`` and ``joint_simulation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer


def joint(
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="YAML configuration of a joint analysis (configs/joint has examples)."),
    ] = None,
    rna: Annotated[
        str, typer.Option(help="Transcripts: .h5ad or .zarr, one row a cell; instead of the file's.")
    ] = "",
    image: Annotated[
        str, typer.Option(help="Embeddings of the same cells: a run directory, .h5ad or .zarr.")
    ] = "",
    mudata: Annotated[str, typer.Option(help="Both in one .h5mu or .zarr file.")] = "",
    labels: Annotated[
        list[str] | None,
        typer.Option(help="Column of obs with known labels, only to score; may be repeated."),
    ] = None,
    out: Annotated[str, typer.Option(help="Folder of the results.")] = "",
    seed: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Seed of models, clusters, permutations and maps.", min=0),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Where the tables are (default: $MICROSNOOP_DATA, ../shared/data).")
    ] = "",
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Tables only: faster.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Any config key: --set muse.gate=none")
    ] = None,
) -> None:
    """Analyse transcripts and images of the same cells together, and say what that adds.

    MUSE beside each modality alone, both side by side, WNN, MOFA, and MUSE with wrong pairs: the same cells, the same
    clustering, scores with intervals, and warnings where the joint model is not the best. Out come MuData and AnnData
    with every representation, the fitted model, genes of clusters, maps of each space, and a report.

    Examples
    --------
      microsnoop joint configs/joint/her2st-b4.yaml

      microsnoop joint --rna counts.h5ad --image runs/cells --labels cell_type --out runs/joint

      microsnoop joint --mudata cells.h5mu --seed 1 --set seeds=3 --set methods=[transcripts,images,concat,muse]

      microsnoop joint configs/joint/simulation.yaml
    """
    from microsnoop_apps.evaluation.recipes import data_root
    from microsnoop_apps.joint.settings import joint_config

    given: dict[str, Any] = {"input.mudata": mudata, "input.rna": rna, "input.image": image, "out": out}
    overrides = {key: value for key, value in given.items() if value}
    if seed is not None:
        overrides["seed"] = seed
    settings = joint_config(config, overrides, labels=labels or [], settings=set_ or [])
    if settings.simulation is not None:
        from microsnoop_apps.joint_simulation.run import run_simulation

        run_simulation(
            settings.simulation,
            out=Path(settings.out),
            muse=settings.muse,
            title=settings.title,
            pictures=not no_pictures,
        )
        return
    from microsnoop_apps.joint.run import analyse

    analyse(settings, root=data_root(data), pictures=not no_pictures)
