"""Batch correction, aggregation and scores as verbs on AnnData: for profiles of any origin.

The raw matrix is never changed: corrected numbers stand in ``layers[key]`` where features stay what they were, else in
``obsm["X_" + key]``; what was done stands in ``uns["batch_correction"]``. ``docs/profiles.md`` lists every key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from microsnoop.core.errors import CorrectionError, InputError
from microsnoop.core.profile_config import PlateConfig
from microsnoop.correction.base import Corrector
from microsnoop.correction.files import describe
from microsnoop.correction.steps import build
from microsnoop.io.profile_table import ProfileTable, from_arrays, read_profiles
from microsnoop.io.store import RunStore
from microsnoop.pipelines.profile_levels import aggregate as aggregate_rows
from microsnoop.pipelines.profile_plates import correction_obs, prepare_plates
from microsnoop.pipelines.profile_scores import MethodScores, Question, judge
from microsnoop_integrations.anndata_io import export, read

UNS = "batch_correction"
COUNTS = ("n_rows", "n_cells", "n_wells", "n_plates", "n_batches")


def read_profile_source(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    features: Sequence[str] | None = None,
    level: str = "image",
) -> ProfileTable:
    """Read profiles from a table, an AnnData file, or a run directory (one row an image, mean of its cells or tiles).

    Raises
    ------
    InputError
        Nothing there, or not readable as profiles.
    """
    path = Path(source)
    if (path / "run.json").is_file():
        store = RunStore(path)
        return to_table(
            read(export(store, path.with_name(f"{path.name}.fields.h5ad"), level="field")), columns=columns
        )
    if path.suffix in (".h5ad", ".zarr"):
        if not path.exists():
            raise InputError(f"there is no file {path}")
        return to_table(read(path), columns=columns, features=features, source=str(path), level=level)
    return read_profiles(source, columns=columns, features=features, level=level)


def to_table(
    data: ad.AnnData,
    *,
    columns: Mapping[str, str] | None = None,
    features: Sequence[str] | None = None,
    layer: str | None = None,
    source: str = "AnnData",
    level: str = "image",
) -> ProfileTable:
    """Return ``X`` (or a layer, or ``obsm["X_..."]``) with ``obs`` as a table of profiles.

    Parameters
    ----------
    data
        N rows. Not changed.
    columns
        Our name: column of ``obs``.
    features
        Names or prefixes of the columns of ``X`` that are used; default all.
    layer
        A layer, or a key of ``obsm``.
    """
    x, names = _matrix(data, layer)
    if features is not None:
        keep = [i for i, name in enumerate(names) if any(name == f or name.startswith(f) for f in features)]
        if not keep:
            raise InputError(f"{source}: no column of X begins with {', '.join(features)}")
        x, names = x[:, keep], [names[i] for i in keep]
    obs = data.obs.set_axis(data.obs_names.astype(str))
    return from_arrays(x, obs, names, source=source, columns=columns, level=level)


def to_anndata(table: ProfileTable) -> ad.AnnData:
    """Return a table of profiles as AnnData: ``X`` float32, metadata in ``obs``, features in ``var``."""
    obs = table.obs.copy()
    for name in obs.columns:
        if obs[name].dtype == object:  # empty cells stay empty, everything else is text
            obs[name] = pd.Categorical(obs[name].where(obs[name].isna(), obs[name].astype(str)))
    return ad.AnnData(X=table.x.copy(), obs=obs, var=pd.DataFrame(index=pd.Index(table.features)))


def correct(
    data: ad.AnnData,
    steps: Sequence[Mapping[str, Any]] | Corrector,
    *,
    controls: Mapping[str, list[str]],
    batch: str = "batch",
    columns: Mapping[str, str] | None = None,
    layer: str | None = None,
    key_added: str = "corrected",
) -> Corrector:
    """Correct profiles in place of ``layers[key_added]`` (or ``obsm``); ``X`` stays.

    Parameters
    ----------
    data
        Rows are fields or wells, with plate and well in ``obs``. Every row must be finite.
    steps
        Settings of the steps (``[{"method": "sphering", "reg": "knee"}]``), or an unfitted corrector.
    controls
        Column of ``obs``: values, of the negative controls that are fitted on.
    batch
        Column of the largest unit of technical variation.
    columns
        Our name: column of ``obs``, where names are not known.
    layer
        What is corrected; default ``X``.
    key_added
        Where the corrected numbers go.

    Returns
    -------
    The fitted corrector, to be saved (``microsnoop.correction.files.save``) or applied to other rows.

    Raises
    ------
    CorrectionError
        ``already_corrected``: what is to be corrected is the output of a correction. And what the method refuses.
    InputError
        Rows that are not finite, no control, metadata that contradict each other.
    """
    known = data.uns.get(UNS, {})
    if layer is not None and layer in known:
        raise CorrectionError(
            "already_corrected",
            f"{layer!r} was corrected already ({known[layer]['steps_json']})",
            hint="correct X, with all steps in one chain",
        )
    table = to_table(data, columns=columns, layer=layer)
    if len(table.rejects):
        first = table.rejects.iloc[0]
        raise InputError(
            f"{len(table.rejects)} of {data.n_obs} rows cannot be corrected: {first['obs_id']}: {first['message']}",
            hint="leave them out first: data[np.isfinite(data.X).all(axis=1)]",
        )
    table, _ = prepare_plates(table, PlateConfig(batch=batch, controls=dict(controls)))
    corrector = steps if isinstance(steps, Corrector) else build(steps)
    x = corrector.fit_transform(table.x, correction_obs(table), features=table.features)
    if list(corrector.features_out_) == list(data.var_names):
        data.layers[key_added] = x
    else:
        data.obsm[f"X_{key_added}"] = x
    data.uns[UNS] = {**known, key_added: provenance(corrector, data.uns.get("microsnoop", {}))}
    return corrector


def provenance(corrector: Corrector, encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a correction says of itself, as AnnData can hold it: arrays, and JSON for what is nested."""
    arrays, facts = describe(corrector)
    return {
        "schema_version": 1,
        "steps_json": json.dumps(facts["parameters"], default=str),
        "facts_json": json.dumps(facts, default=str),
        "features_out": np.asarray(corrector.features_out_, object),
        "n_control": corrector.n_control_,
        "control_hash": corrector.control_hash_,
        "encoder_sha256": str(encoder.get("encoder_sha256", "")),
        "findings_json": json.dumps([vars(finding) for finding in corrector.findings_]),
        # a slash would make a group of an HDF5 key
        "arrays": {name.replace("/", "|"): values for name, values in arrays.items()},
    }


def aggregate(
    data: ad.AnnData,
    level: str,
    *,
    statistic: str = "mean",
    min_rows: int = 1,
    layer: str | None = None,
    controls: Mapping[str, list[str]] | None = None,
    batch: str = "batch",
    columns: Mapping[str, str] | None = None,
) -> ad.AnnData:
    """Return one row a ``site``, ``well`` or ``treatment``, counts in ``obs``, rejects in ``uns["rejects"]``."""
    table = to_table(data, columns=columns, layer=layer)
    if level == "treatment":
        plates = PlateConfig(batch=batch, **({"controls": dict(controls)} if controls else {}))
        table, _ = prepare_plates(table, plates)
    grouped = aggregate_rows(table, level, statistic=statistic, min_rows=min_rows)
    result = to_anndata(grouped)
    result.uns["rejects"] = grouped.rejects.astype(str)
    return result


def score(
    data: ad.AnnData,
    *,
    controls: Mapping[str, list[str]],
    question: Question | None = None,
    layer: str | None = None,
    batch: str = "batch",
    columns: Mapping[str, str] | None = None,
) -> MethodScores:
    """Return NSC, NSCB under every rule, mAP and what is left of batches, for ``X`` or a corrected layer."""
    table, _ = prepare_plates(
        to_table(data, columns=columns, layer=layer), PlateConfig(batch=batch, controls=dict(controls))
    )
    treatments = aggregate_rows(table, "treatment")
    return judge(layer or "X", table, treatments, question or Question())


def _matrix(data: ad.AnnData, layer: str | None) -> tuple[Any, list[str]]:
    names = [str(name) for name in data.var_names]
    if layer is None:
        x: Any = data.X
    elif layer in data.layers:
        x = data.layers[layer]
    else:
        key = layer if layer in data.obsm else f"X_{layer}"
        if key not in data.obsm:
            raise InputError(f"there is no layer {layer!r}, and no obsm[{key!r}]")
        x = np.asarray(data.obsm[key])
        names = [f"{layer}{j}" for j in range(x.shape[1])]
    return (x.toarray() if hasattr(x, "toarray") else np.asarray(x)), names
