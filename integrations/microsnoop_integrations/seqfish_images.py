"""From cells with centroids to their images: the inputs of an embedding run, and its vectors joined by id.

No pixel is cut here. Fields and cells are written as the manifest and the table of cells that ``microsnoop embed``
reads, so that crops, intensities, rejects and resume are those of every other run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import pandas as pd
import yaml

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import InputError
from microsnoop.core.ordering import natural
from microsnoop.core.schema import cell_id
from microsnoop.core.settings import ChannelChoice
from microsnoop.io.images import ImageReader
from microsnoop.io.parts import write_atomic, write_csv
from microsnoop.io.tables import read_table
from microsnoop_integrations.joint.joining import JOIN_COLUMN, REJECT_COLUMNS, reject_frame
from microsnoop_integrations.joint.joining import join_embeddings as join_rows
from microsnoop_integrations.seqfish_fields import FieldPlan, find_fields
from microsnoop_integrations.seqfish_tables import field_name

if TYPE_CHECKING:
    from mudata import MuData

log = logging.getLogger(__name__)

CELL_COLUMNS = ("image", "x_px", "y_px", "label", JOIN_COLUMN)
_UNS = "seqfish"
_SIDE_STEP = 8  # an encoder's input is a multiple of it


@dataclass(frozen=True)
class EmbeddingInputs:
    """Files written by :func:`write_embedding_inputs`, and how many cells are in them.

    ``rejects`` has the columns ``obs_id, modality, code, message``, as ``rejects.csv``.
    """

    manifest: Path
    cells: Path
    config: Path
    n_cells: int
    rejects: pd.DataFrame


def write_embedding_inputs(
    cells: MuData | ad.AnnData | pd.DataFrame,
    images: str | Path | Mapping[str, str],
    out: str | Path,
    *,
    pixel_size_um: float,
    window_um: float = 25.0,
    channels: ChannelChoice | None = None,
    masks: str | Path | Mapping[str, str] | None = None,
    encoder: str = "snoop-trial",
) -> EmbeddingInputs:
    """Write what ``microsnoop embed OUT/embed.yaml`` needs to embed the region of every cell.

    Parameters
    ----------
    cells
        What ``read_seqfish`` or ``read_seqfish_cells`` returned (of a MuData: the cells with counts). Ids end in
        ``:{index}``; columns ``field, x_px, y_px``.
    images
        One multi-channel image a field: a folder (the only number in each file name is the field), a pattern with
        ``{field}`` and perhaps ``{channel}``, or field -> file.
    out
        Folder for ``manifest.csv``, ``cells.csv``, ``rejects.csv`` and ``embed.yaml``; the run goes to ``out/run``.
    pixel_size_um
        Of the images. Given, never assumed.
    window_um
        Side of the window around each centroid; with masks that of the largest region around an object.
    channels
        As ``input.channels``; default: all that the images have.
    masks
        Label images of the fields, given like ``images``. A cell is the object that holds its centroid.
    encoder
        As ``encoder`` of an embedding run.

    Returns
    -------
    Paths, number of cells written, and the rejects: ``no_position``, ``missing_image``, ``missing_mask``,
    ``outside_field`` (no pixel of the image holds the centroid), ``no_object`` and ``shared_object`` (masks), or the
    code of an image that cannot be read. Cells in = cells written + rejects.

    Raises
    ------
    InputError
        No fields or positions, files that cannot be told apart by field, or no cell that can be embedded.
    ValueError
        A pixel size or window that is not positive.
    """
    if not (0 < pixel_size_um < math.inf and 0 < window_um < math.inf):
        raise ValueError(f"pixel_size_um and window_um must be positive, got {pixel_size_um} and {window_um}")
    table = _table(cells)
    labels = None if masks is None else find_fields(masks, "masks")
    with ImageReader() as reader:
        plan = FieldPlan(reader, find_fields(images, "images"), labels)
        for name in sorted(table["field"].unique(), key=natural):
            group = table[table["field"] == name]
            plan.add_field(name, group, channels=channels, pixel_size_um=pixel_size_um)
    if not plan.cells:
        codes = reject_frame(plan.rejects)["code"].value_counts()
        raise InputError(
            f"none of {len(table):,} cells can be embedded: "
            + ", ".join(f"{n:,} {c}" for c, n in codes.items()),
            hint=plan.rejects[0][3],
        )
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    inputs = EmbeddingInputs(
        out / "manifest.csv", out / "cells.csv", out / "embed.yaml", len(plan.cells), reject_frame(plan.rejects)
    )  # fmt: skip
    config = _config(inputs, round(window_um / pixel_size_um), masked=masks is not None)
    config["input"] |= {} if channels is None else {"channels": channels}
    config["encoder"] = encoder
    EmbedConfig.model_validate(config)
    names = list(dict.fromkeys(name for record in plan.fields for name in record))
    write_csv(inputs.manifest, names, [[record.get(name, "") for name in names] for record in plan.fields])
    write_csv(inputs.cells, CELL_COLUMNS, plan.cells)
    write_csv(out / "rejects.csv", REJECT_COLUMNS, plan.rejects)
    write_atomic(inputs.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
    return inputs


def join_embeddings(
    data: MuData, embeddings: ad.AnnData, *, cells: str | Path, join: str = "inner"
) -> MuData:
    """Return a MuData with the modality ``image``: the vectors of the cells that have counts, joined by id.

    Parameters
    ----------
    data
        What ``read_seqfish`` returned. Not changed.
    embeddings
        The exported run (``out/run.h5ad``), one row a cell. Not changed.
    cells
        ``cells.csv`` of :func:`write_embedding_inputs`, which says whose row is whose.
    join
        ``inner``: cells of one side only are rejected. ``error``: they raise.

    Returns
    -------
    ``rna`` and ``image`` with the same ``obs_names`` in the order of ``rna``. ``uns["seqfish"]["rejects"]`` goes on
    with a row for each row of either side that is not joined, ``n_rejected`` counts them by code.

    Raises
    ------
    InputError
        A table of cells without the columns needed, or a MuData that has images already.
    JointError
        No id in common (tiles: export them at level ``image``), or with ``join="error"`` any that is not.
    """
    from mudata import MuData, set_options

    if "image" in data.mod:
        raise InputError("there is a modality `image` already", hint="join to what read_seqfish returned")
    links = _links(cells)
    named = ad.AnnData(
        obs=embeddings.obs.assign(**{JOIN_COLUMN: [links.get(n, n) for n in embeddings.obs_names]}),
        X=embeddings.X, var=embeddings.var, layers=dict(embeddings.layers), obsm=dict(embeddings.obsm),
        uns=dict(embeddings.uns),
    )  # fmt: skip
    image, rejects = join_rows(data["rna"], named, join=join)
    image.obs = image.obs.drop(columns=JOIN_COLUMN)
    with set_options(pull_on_update=False):
        joined = MuData({"rna": data["rna"][image.obs_names].copy(), "image": image})
    facts = dict(data.uns.get(_UNS, {}))
    rejects = pd.concat([facts.get("rejects", reject_frame([])), rejects], ignore_index=True)
    counts = {str(code): int(n) for code, n in rejects["code"].value_counts().items()}
    for name, value in data.uns.items():
        joined.uns[name] = value
    joined.uns[_UNS] = {**facts, "rejects": rejects, "n_rejected": counts}
    if len(rejects):
        log.warning("joined %d cells; rejected: %s", joined.n_obs, counts)
    return joined


def _table(cells: MuData | ad.AnnData | pd.DataFrame) -> pd.DataFrame:
    """Return the cells' id, field and position."""
    obs = cells if isinstance(cells, pd.DataFrame) else (cells["rna"] if hasattr(cells, "mod") else cells).obs
    lacking = [name for name in ("field", "x_px", "y_px") if name not in obs]
    if lacking:
        raise InputError(
            f"the table of cells has no column {', '.join(lacking)}; it has {', '.join(map(str, obs.columns))}",
            hint="positions and fields come from the centroid and annotation tables of the published data",
        )
    odd = [name for name in obs.index.astype(str) if not all(name.rpartition(":"))]
    if odd:
        raise InputError(f"the id {odd[0]!r} does not end in :<index>, as those of read_seqfish do")
    if obs.index.has_duplicates:
        raise InputError(f"the id {obs.index[obs.index.duplicated()][0]!r} stands in several rows")
    return pd.DataFrame(
        {"field": [field_name(str(name)) for name in obs["field"]], "x_px": obs["x_px"], "y_px": obs["y_px"]},
        index=obs.index.astype(str),
    )


def _config(inputs: EmbeddingInputs, window_px: int, *, masked: bool) -> dict[str, Any]:
    """Return the configuration of the run: windows around centroids, or regions around the objects of masks."""
    window_px = max(1, window_px)
    source: dict[str, Any] = {"manifest": str(inputs.manifest)}
    if not masked:
        source |= {"cells": str(inputs.cells), "cell_size_px": window_px}
    config = {
        "version": 1,
        "input": source,
        "run_dir": str(inputs.config.with_name("run")),
        "mode": "crop" if masked else "native",
        "input_px": math.ceil(window_px / _SIDE_STEP) * _SIDE_STEP,
    }
    return config | ({"crop": {"mask_of": "cell"}} if masked else {})


def _links(path: str | Path) -> dict[str, str]:
    """Return the run's id of every cell -> our id."""
    table = read_table(str(path))
    lacking = [name for name in ("image", "label", JOIN_COLUMN) if name not in table.column_names]
    if lacking:
        raise InputError(
            f"{path} has no column {', '.join(lacking)}",
            hint="give the cells.csv that write_embedding_inputs wrote",
        )
    rows = zip(*(table[name].to_pylist() for name in ("image", "label", JOIN_COLUMN)), strict=True)
    return {cell_id(image, label): name for image, label, name in rows}
