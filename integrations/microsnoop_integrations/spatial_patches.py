"""What the embedding pipeline needs to cut a patch for every spot: a list of images, a table of cells, a configuration.

A patch is the square around the centre of a spot, as wide as the spot: it holds the tissue that the counts come from,
and in its corners a little of what lies beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from microsnoop.core.config import EmbedConfig, InputConfig
from microsnoop.core.config_file import build_config
from microsnoop.core.errors import ConfigError, RunError
from microsnoop_integrations.joint.joining import JOIN_COLUMN
from microsnoop_integrations.spatial_spots import Spots

_MANIFEST, _CELLS, _CONFIG = "manifest.csv", "cells.csv", "embed.yaml"
_COLOURS = ("red", "green", "blue")
_MIN_SIDE_PX = 16  # below it a patch holds a few cells at best, and of each a few pixels
_ROWS = 1024  # of planes written at a time


def patch_side_px(spots: Spots, diameter_um: float | None = None) -> int:
    """Return the side of a patch in pixels of the image.

    Raises
    ------
    ConfigError
        Diameter or pixel size not known, or a side below 16 px.
    """
    diameter = diameter_um if diameter_um is not None else spots.spot_diameter_um
    if diameter is None or spots.pixel_size_um is None:
        what = "pixel size" if spots.pixel_size_um is None else "spot diameter"
        raise ConfigError(f"section {spots.section!r}: the {what} is not known", hint="give it in µm")
    side = round(diameter / spots.pixel_size_um)
    if side < _MIN_SIDE_PX:
        raise ConfigError(
            f"section {spots.section!r}: {diameter:g} µm are {side} px of {spots.pixel_size_um:.3g} µm, too few to "
            "show cells",
            hint="give the full-resolution image, or a larger diameter_um",
        )
    return side


def write_patch_inputs(
    spots: Spots,
    out: Path | str,
    *,
    diameter_um: float | None = None,
    encoder: str = "snoop-trial",
    run_dir: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``manifest.csv``, ``cells.csv`` and ``embed.yaml`` for ``microsnoop embed``.

    Parameters
    ----------
    spots
        With an image and a pixel size.
    out
        Folder, made where it is not there. Planes that are in no image file are written there as ``.npy``.
    diameter_um
        Side of the square patch; default the diameter of the spots.
    encoder, run_dir
        As in the configuration of an embedding run; ``run_dir`` is ``out/run`` by default.
    settings
        Further settings by dotted name, laid over ours, e.g. ``{"input_px": 96}``.

    Returns
    -------
    The path of ``embed.yaml``. The column ``cell_id`` of the table of cells holds the ids of ``spots.rna``, by which
    ``joint.joining.join_embeddings`` finds the rows again.

    Raises
    ------
    ConfigError
        No image, no pixel size, a patch that is too small, or a wrong setting.
    RunError
        The folder cannot be written.
    """
    side = patch_side_px(spots, diameter_um)
    if spots.image.path is None and spots.image.planes is None:
        raise ConfigError(
            f"section {spots.section!r} has no image to cut patches from", hint="read it with image=..."
        )
    folder = Path(out).resolve()
    data = _config(spots, folder, side, encoder=encoder, run_dir=run_dir)
    config = build_config(
        data, overrides=dict(settings or {}), model=EmbedConfig, where=str(folder / _CONFIG)
    )
    cells = pd.DataFrame(
        {
            "image": spots.section,
            "x_px": spots.centres_px[:, 0],
            "y_px": spots.centres_px[:, 1],
            "label": spots.rna.obs["spot"].to_numpy(object),
            JOIN_COLUMN: spots.rna.obs_names,
        }
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        uri = spots.image.path.resolve() if spots.image.path is not None else _write_planes(spots, folder)
        row = {"image_id": spots.section, "uri": str(uri), "pixel_size_um": spots.pixel_size_um}
        pd.DataFrame([row]).to_csv(folder / _MANIFEST, index=False)
        cells.to_csv(folder / _CELLS, index=False)
        text = yaml.safe_dump(
            config.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True
        )
        (folder / _CONFIG).write_text(_header(spots, side) + text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write the inputs of the embedding to {folder}: {error}") from error
    return folder / _CONFIG


def _config(
    spots: Spots, folder: Path, side: int, *, encoder: str, run_dir: Path | str | None
) -> dict[str, Any]:
    channels: dict[str, Any] = dict(zip(_COLOURS, range(len(_COLOURS)), strict=True))
    megapixels = float(np.prod(spots.image.size_px or (0, 0))) / 1e6
    limit = InputConfig.model_fields["max_image_mpx"].default
    return {
        "version": 1,
        "input": {
            "manifest": str(folder / _MANIFEST),
            "cells": str(folder / _CELLS),
            "cell_size_px": side,
            "channels": channels,  # three one-channel planes
            # the image was chosen by name: its size is no surprise
            **({"max_image_mpx": float(np.ceil(megapixels))} if megapixels > limit else {}),
        },
        "run_dir": str(Path(run_dir).resolve() if run_dir is not None else folder / "run"),
        "encoder": encoder,
        "mode": "rescale",  # the same µm in every section, whatever the scanner
        "normalise": {"pad": "edge_median"},  # beside the border of the image lies background, not black
    }


def _header(spots: Spots, side: int) -> str:
    scale = spots.scale.um_per_px or np.nan
    return (
        f"# {spots.dataset} {spots.section}: patches of {side} px = {side * scale:.1f} µm around {spots.rna.n_obs} "
        f"spots ({len(spots.rejects)} rejected).\n# A pixel is {scale:.4f} µm ({spots.scale.source}).\n"
    )


def _write_planes(spots: Spots, folder: Path) -> Path:
    """Write planes (C, H, W) as an array file, some rows at a time: they may be larger than memory."""
    path = folder / f"{spots.section}.npy"
    planes = spots.image.planes
    shape = (len(_COLOURS), *planes.shape[1:])
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(planes.dtype), shape=shape)
    for start in range(0, shape[1], _ROWS):
        file[:, start : start + _ROWS] = np.asarray(planes[: shape[0], start : start + _ROWS])
    file.flush()
    return path
