"""Bags as AnnData of tiles, and back. Source: slides spec, section 6."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.schema import Key
from microsnoop_integrations.tcga.bag import COORDINATES, Bag
from microsnoop_integrations.tcga.bags import BagSet

HEADERS = "slide_bags"  # uns: slide id -> header, as JSON text
# our name: the one that an export of tiles gives it
_EXPORTED = {
    "slide_id": "image_id",
    "x0": "x0_px",
    "y0": "y0_px",
    "side0_px": "width_px",
    "mpp": "pixel_size_um",
}


def bags_to_anndata(bags: BagSet) -> ad.AnnData:
    """Return all tiles of a set: ``obs`` has the columns of bags, ``obsm["spatial"]`` centres (n, 2) in µm."""
    parts = [bags.bag(slide) for slide in bags]
    obs = pd.DataFrame(
        {"slide_id": np.repeat([bag.slide_id for bag in parts], [len(bag) for bag in parts])}
        | {name: np.concatenate([getattr(bag, name) for bag in parts]) for name, _ in COORDINATES}
        | {"flags": [",".join(own) for bag in parts for own in bag.flags or ()]}
    )
    obs.index = pd.Index(
        [
            f"{s}:{x}:{y}:{side:g}"
            for s, x, y, side in zip(obs.slide_id, obs.x0, obs.y0, obs.side0_px, strict=True)
        ]
    )
    obs["slide_id"] = pd.Categorical(obs["slide_id"], categories=list(bags))
    data = ad.AnnData(np.concatenate([bag.features for bag in parts]), obs=obs)
    data.obsm[Key.SPATIAL] = obs[["x_um", "y_um"]].to_numpy(np.float64)
    data.uns[HEADERS] = json.dumps({bag.slide_id: dict(bag.header) for bag in parts}, ensure_ascii=False)
    return data


def bags_from_anndata(data: ad.AnnData, *, headers: Mapping[str, Mapping[str, Any]] | None = None) -> BagSet:
    """Cut an AnnData of tiles into bags.

    Parameters
    ----------
    data
        From :func:`bags_to_anndata`, or an export of tiles: ``image_id``, ``x0_px``, ``y0_px``, ``width_px`` and
        ``pixel_size_um`` in ``obs``, centres in µm in ``obsm["spatial"]``. Not changed.
    headers
        Slide id: header; default what ``data`` holds. An export gives encoder, tile sides and pixel size.

    Raises
    ------
    InputError
        A column is missing, features are not finite, or ``mixed_bags``.
    """
    if data.X is None or Key.SPATIAL not in data.obsm:
        raise InputError("tiles need features in X and their centres in µm in obsm['spatial']")
    slide = _column(data, "slide_id").astype(str)
    stored = headers if headers is not None else json.loads(data.uns.get(HEADERS, "{}"))
    features = np.asarray(data.X.toarray() if hasattr(data.X, "toarray") else data.X, np.float32)
    if not np.isfinite(features).all():
        raise InputError(
            f"{int((~np.isfinite(features).all(axis=1)).sum())} tiles have features that are not finite"
        )
    centres = np.asarray(data.obsm[Key.SPATIAL], np.float64)
    flags = _optional(data, "flags", "").astype(str)
    coordinates: dict[str, NDArray[Any]] = {
        "x0": _column(data, "x0").astype(np.int64),
        "y0": _column(data, "y0").astype(np.int64),
        "side0_px": _column(data, "side0_px").astype(np.float64),
        "x_um": centres[:, 0],
        "y_um": centres[:, 1],
        "tissue_fraction": _optional(data, "tissue_fraction", np.float32(np.nan)).astype(np.float32),
    }
    bags = []
    for name in dict.fromkeys(slide.tolist()):
        rows = np.flatnonzero(slide == name)
        own: dict[str, Any] = {column: values[rows] for column, values in coordinates.items()}
        own["tile_index"] = _optional(data, "tile_index", 0)[rows] if "tile_index" in data.obs else None
        header = stored.get(name) or _header_of_export(data, rows)
        marks = tuple(tuple(text.split(",")) if text else () for text in flags[rows].tolist())
        bags.append(Bag(str(name), features[rows], **own, header=header, flags=marks))
    return BagSet.of(bags)


def _header_of_export(data: ad.AnnData, rows: NDArray[np.int64]) -> dict[str, Any]:
    about = data.uns.get(Key.UNS, {})
    if not {"encoder", "encoder_sha256"} <= set(about):
        raise InputError(
            "the tiles do not say which encoder made them",
            hint="give headers, or use an export of this platform",
        )
    mpp = float(_column(data, "mpp")[rows[0]])
    # level-0 sides differ with the pixel size of the slide, sides in µm must not
    sides_um = sorted({round(float(side) * mpp, 1) for side in _column(data, "side0_px")[rows]})
    return {
        "encoder": {"name": str(about["encoder"]), "sha256": str(about["encoder_sha256"])},
        "mpp": mpp,
        "mpp_source": "pixel_size_um of the export",
        "tiling": {"sides_um": sides_um},
        "mask": {},
        "counts": {"grid": len(rows), "kept": len(rows), "rejected": 0},
    }


def _column(data: ad.AnnData, name: str) -> NDArray[Any]:
    for found in (name, _EXPORTED[name]):
        if found in data.obs:
            return np.asarray(data.obs[found])
    raise InputError(f"obs of the tiles has neither {name!r} nor {_EXPORTED[name]!r}")


def _optional(data: ad.AnnData, name: str, default: Any) -> NDArray[Any]:
    return np.asarray(data.obs[name]) if name in data.obs else np.full(data.n_obs, default)
