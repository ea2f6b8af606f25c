"""Batch correction, aggregation and scores as verbs on AnnData: for profiles of any origin.

The raw matrix is never changed: corrected numbers stand in ``layers[key]`` where features stay what they were, else in
``obsm["X_" + key]``; what was done stands in ``uns["batch_correction"][key]``, where the key ``X`` stands for an ``X``
made of corrected rows. ``docs/profiles.md`` lists every key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from microsnoop.core.errors import CorrectionError, InputError
from microsnoop.core.profile_config import PlateConfig
from microsnoop.correction.base import Corrector
from microsnoop.correction.files import describe
from microsnoop.correction.rows import named
from microsnoop.correction.steps import build
from microsnoop.io.profile_table import ProfileTable, from_arrays, read_profiles
from microsnoop.io.store import RunStore
from microsnoop.pipelines.profile_levels import aggregate as aggregate_rows
from microsnoop.pipelines.profile_plates import correction_obs, prepare_plates
from microsnoop.pipelines.profile_scores import MethodScores, Question, judge
from microsnoop_integrations.anndata_io import export, read

UNS = "batch_correction"
_NO_CONTROLS = ("no_control_column", "plate_without_controls")  # nothing is fitted: treatments need none


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
        with TemporaryDirectory() as folder:  # reading leaves nothing beside the run
            data = read(export(RunStore(path), Path(folder) / "fields.h5ad", level="field"))
    elif path.suffix in (".h5ad", ".zarr"):
        if not path.exists():
            raise InputError(f"there is no file {path}")
        try:
            data = read(path)
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{path} is not an AnnData file: {error}") from error
    else:
        return read_profiles(source, columns=columns, features=features, level=level)
    return to_table(data, columns=columns, features=features, source=source, level=level)


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

    Raises
    ------
    InputError
        No such layer or features, no plate or well, or no row that can be used.
    """
    x, names = _matrix(data, layer)
    if features is not None:
        if strange := [f for f in features if not any(name.startswith(f) for name in names)]:
            raise InputError(f"{source}: no feature begins with {', '.join(strange)}")
        keep = [i for i, name in enumerate(names) if name.startswith(tuple(features))]
        x, names = x[:, keep], [names[i] for i in keep]
    obs = data.obs.set_axis(data.obs_names.astype(str))
    return from_arrays(x, obs, names, source=source, columns=columns, level=level)


def to_anndata(table: ProfileTable) -> ad.AnnData:
    """Return a table of profiles as AnnData: ``X`` float32, metadata in ``obs``, features in ``var``.

    A slash in the name of a column becomes ``|``: files would take it for a group.
    """
    obs = table.obs.rename(columns=lambda name: name.replace("/", "|"))
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
    known = dict(data.uns.get(UNS, {}))
    if done := _correction(data, layer):
        raise CorrectionError(
            "already_corrected",
            f"{layer or 'X'!r} was corrected already ({done.get('steps_json', '')})",
            hint="correct what was not, with all steps in one chain",
        )
    odd = data.obs_names[~np.isfinite(_matrix(data, layer)[0]).all(axis=1)].astype(str).tolist()
    if odd:
        raise InputError(
            f"{len(odd)} of {data.n_obs} rows hold values that are not finite: {named(odd)}",
            hint="leave them out first: data[np.isfinite(data.X).all(axis=1)].copy()",
        )
    table = to_table(data, columns=columns, layer=layer)
    if len(table.rejects):
        first = table.rejects.iloc[0]
        raise InputError(
            f"{len(table.rejects)} of {data.n_obs} rows cannot be corrected: {first['obs_id']}: {first['message']}"
        )
    table, _ = prepare_plates(table, PlateConfig(batch=batch, controls=dict(controls)))
    corrector = steps if isinstance(steps, Corrector) else build(steps)
    x = corrector.fit_transform(table.x, correction_obs(table), features=table.features)
    data.layers.pop(key_added, None)  # of an earlier correction of that name, which this one replaces
    data.obsm.pop(f"X_{key_added}", None)
    if list(corrector.features_out_) == list(data.var_names):
        data.layers[key_added] = x
    else:
        data.obsm[f"X_{key_added}"] = x
    data.uns[UNS] = {**known, key_added: provenance(corrector, data.uns.get("microsnoop", {}))}
    return corrector


def provenance(corrector: Corrector, encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a correction says of itself, as AnnData can hold it: arrays, and JSON for what is nested."""
    arrays, facts = describe(corrector)
    steps = [{"method": step["method"], **step["parameters"]} for step in facts.get("steps", [facts])]
    return {
        "schema_version": 1,
        "steps_json": json.dumps(steps),
        "facts_json": json.dumps(facts),
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
    """Return one row a ``site``, ``well`` or ``treatment``: counts in ``obs``, rejects and notes in ``uns``.

    Parameters
    ----------
    data
        Rows with plate and well in ``obs``. Rows that are not finite, or lack a key, become rejects.
    statistic, min_rows
        See ``pipelines.profile_levels.aggregate``.
    layer
        What is aggregated; default ``X``. It becomes ``X`` of the result.
    controls, batch, columns
        As for :func:`correct`; only treatments look at them.

    Raises
    ------
    InputError, ValueError
        Metadata that contradict each other, a key that is not there, or an unknown level or statistic.
    """
    table = to_table(data, columns=columns, layer=layer)
    if level == "treatment":
        plates = PlateConfig(batch=batch, **({"controls": dict(controls)} if controls else {}))
        table, _ = prepare_plates(table, plates, allow=() if controls else _NO_CONTROLS)
    grouped = aggregate_rows(table, level, statistic=statistic, min_rows=min_rows)
    result = to_anndata(grouped)
    result.uns["rejects"] = grouped.rejects.astype(str)
    result.uns["notes"] = np.asarray(grouped.notes, object)
    if done := _correction(data, layer):
        result.uns[UNS] = {"X": done}
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
    """Return NSC, NSCB under every rule, mAP and what is left of batches, for ``X`` or a corrected layer.

    Rows and features that cannot be used are left out, and said in the notes.

    Raises
    ------
    InputError
        Metadata that contradict each other, or what cannot be judged at all.
    """
    table = to_table(data, columns=columns, layer=layer)
    table, _ = prepare_plates(table, PlateConfig(batch=batch, controls=dict(controls)))
    treatments = aggregate_rows(table, "treatment")
    scores = judge(layer or "X", table, treatments, question or Question())
    left_out = [
        f"{n} rows are left out: {code}" for code, n in treatments.rejects["code"].value_counts().items()
    ]
    return replace(scores, notes=(*table.notes, *left_out, *scores.notes))


def _correction(data: ad.AnnData, layer: str | None) -> Mapping[str, Any] | None:
    """Return what is known of the correction that made ``X`` or a layer, None where it is raw."""
    done = data.uns.get(UNS, {})
    names = ("X",) if layer is None else (layer, layer.removeprefix("X_"))
    return next((done[name] for name in names if isinstance(done.get(name), Mapping)), None)


def _matrix(data: ad.AnnData, layer: str | None) -> tuple[Any, list[str]]:
    names = [str(name) for name in data.var_names]
    if layer is None:
        x: Any = data.X
        if x is None:
            raise InputError("there is no X, only layers: name the one that is meant")
    elif layer in data.layers:
        x = data.layers[layer]
    else:
        key = layer if layer in data.obsm else f"X_{layer}"
        if key not in data.obsm:
            raise InputError(f"there is no layer {layer!r}, and no obsm[{key!r}]")
        x = np.asarray(data.obsm[key])
        names = [f"{layer}{j}" for j in range(x.shape[1])]
    return (x.toarray() if hasattr(x, "toarray") else np.asarray(x)), names
