"""Results of joint methods under their documented keys, in AnnData or MuData. Source: multimodal spec, section 11.

For a method with the key ``muse``: ``obsm["X_muse"]`` float32, ``obs["muse_leiden"]`` (categorical of strings),
``obs["muse_weight_rna"]`` float32, ``obsp["wnn_connectivities"]`` where it gives a graph, ``uns["muse"]``. Cells of
the target that the method did not see are NaN, without a cluster and without neighbours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from microsnoop_integrations.joint.paired import Paired, Preparation
from microsnoop_integrations.joint.representation import Representation

SCHEMA_VERSION = 1
MUSE = "muse"


class FittedMuse(Protocol):
    """What is kept of a fitted joint model; see :class:`microsnoop_integrations.muse.model.Muse`."""

    parameters: Any
    latent_: NDArray[np.float32]
    labels_: NDArray[np.int64]
    margin_: float
    seconds_: float

    @property
    def hidden_x_(self) -> NDArray[np.float32]: ...

    @property
    def hidden_y_(self) -> NDArray[np.float32]: ...

    @property
    def weight_x_(self) -> NDArray[np.float32]: ...

    @property
    def history_(self) -> Mapping[str, Sequence[float]]: ...

    @property
    def findings_(self) -> Sequence[Any]: ...


def key_of(name: str) -> str:
    """Return the key of a method's name: lower case, everything but letters and digits as ``_``."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def put_representation(
    target: Any,
    found: Representation,
    ids: Sequence[str],
    *,
    key: str | None = None,
    obsm_key: str | None = None,
    labels_key: str | None = None,
) -> None:
    """Write what a method found into AnnData or MuData.

    Parameters
    ----------
    target
        Changed in place: ``obsm``, ``obs``, ``obsp``, ``uns``. Holds all of ``ids``, in any order, and perhaps more.
    found
        Rows in the order of ``ids``.
    key
        Default: from the name of the method.
    obsm_key, labels_key
        Default ``X_<key>`` and ``<key>_leiden``.
    """
    key = key or key_of(found.name)
    rows = _rows(target, ids)
    target.obsm[obsm_key or f"X_{key}"] = expand(found.latent, rows, target.n_obs)
    target.obs[labels_key or f"{key}_leiden"] = clusters(found.labels, rows, target.n_obs)
    if found.weight_rna is not None:
        target.obs[f"{key}_weight_rna"] = expand(found.weight_rna, rows, target.n_obs)
    if found.graph is not None:
        target.obsp[f"{key}_connectivities"] = expand_graph(found.graph, rows, target.n_obs)
    target.uns[key] = {
        "schema_version": SCHEMA_VERSION,
        "method": found.name,
        "seconds": float(found.seconds),
        "notes": np.asarray(found.notes, object),
        "parameters_json": to_json(found.info),
    }


def put_muse(target: Any, model: FittedMuse, paired: Paired, *, key: str = MUSE) -> None:
    """Write what a fitted joint model found, and what new cells need, into AnnData or MuData (in place)."""
    rows = _rows(target, paired.obs_ids)
    target.obsm[f"X_{key}"] = expand(np.asarray(model.latent_, np.float32), rows, target.n_obs)
    target.obs[f"{key}_leiden"] = clusters(model.labels_, rows, target.n_obs)
    weight = np.asarray(model.weight_x_, np.float32)
    target.obs[f"{key}_weight_rna"] = expand(weight, rows, target.n_obs)
    parameters = _plain(model.parameters)
    target.uns[key] = {
        "schema_version": SCHEMA_VERSION,
        "parameters_json": to_json(parameters),
        "seed": int(parameters.get("seed", 0)),
        "margin": float(model.margin_),
        "seconds": float(model.seconds_),
        "history": {name: np.asarray(values, np.float64) for name, values in model.history_.items()},
        "updates_json": to_json(list(getattr(model, "updates_", []))),
        "gates_json": to_json(
            {name: dict(getattr(model, f"{name}_", {})) for name in ("replicability", "gates")}
        ),
        "findings_json": to_json([_plain(finding) for finding in model.findings_]),
        "notes": np.asarray(paired.notes, object),
        "rejects": paired.rejects.reset_index(drop=True).astype(str).set_axis(_numbers(paired.rejects)),
        "preparation": {**paired.preparation.arrays(), "facts_json": to_json(paired.preparation.facts())},
    }


def put_hidden(target: ad.AnnData, hidden: NDArray[np.float32], ids: Sequence[str], *, key: str) -> None:
    """Write a modality's own latent (n, 128) into ``obsm`` of AnnData (in place)."""
    target.obsm[key] = expand(np.asarray(hidden, np.float32), _rows(target, ids), target.n_obs)


def preparation_of(target: Any, *, key: str = MUSE) -> Preparation:
    """Return what new cells need, as :func:`put_muse` wrote it into ``uns[key]``.

    Raises
    ------
    KeyError
        No joint model under that key.
    """
    found = target.uns[key]["preparation"]
    return Preparation.from_parts(json.loads(found["facts_json"]), found)


def expand(values: NDArray[np.float32], rows: NDArray[np.int64], n: int) -> NDArray[np.float32]:
    """Give values their rows among ``n``; all other rows are NaN."""
    whole = np.full((n, *values.shape[1:]), np.nan, values.dtype)
    whole[rows] = values
    return whole


def expand_graph(graph: Any, rows: NDArray[np.int64], n: int) -> sparse.csr_matrix:
    """Give a graph (len(rows), len(rows)) its rows and columns among ``n``; all others are without edges."""
    edges = sparse.coo_matrix(graph)
    return sparse.csr_matrix((edges.data, (rows[edges.row], rows[edges.col])), shape=(n, n))


def clusters(labels: NDArray[np.int64], rows: NDArray[np.int64], n: int) -> pd.Categorical[Any]:
    """Return cluster numbers as categories ``"0"``, ``"1"``, ... in that order; other rows have none."""
    codes = np.full(n, -1, np.int64)
    values, codes[rows] = np.unique(labels, return_inverse=True)
    found: Any = pd.Categorical.from_codes(codes, categories=pd.Index([str(value) for value in values]))
    return found


def to_json(value: Any) -> str:
    """Return JSON, the only form in which files keep what is nested."""
    return json.dumps(value, ensure_ascii=False, default=_plain_number)


def _rows(target: Any, ids: Sequence[str]) -> NDArray[np.int64]:
    rows = pd.Index(target.obs_names.astype(str)).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise ValueError(f"{int((rows < 0).sum())} of {len(ids)} cells of the result are not in the target")
    return np.asarray(rows, np.int64)


def _plain(value: Any) -> dict[str, Any]:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else dict(vars(value))


def _plain_number(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be kept in a file")


def _numbers(frame: pd.DataFrame) -> pd.Index[str]:
    return pd.Index([str(i) for i in range(len(frame))])
