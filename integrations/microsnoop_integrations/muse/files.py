"""A fitted MUSE on disk: ``muse.safetensors`` holds all arrays, ``muse.json`` everything else.

The JSON names parameters, modalities, genes, features and cells, the course of the training, findings, library
versions, what the caller noted (``about_``: the encoder of the image features and its hash, for one) and the SHA-256
of the arrays' file. Nothing that is read can run code.

Source: multimodal spec, section 9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from microsnoop.core.errors import JointError
from microsnoop.core.muse_config import MuseParameters
from microsnoop.correction.base import Finding
from microsnoop.io.fitted_files import Arrays, put_arrays, read_fitted, take_arrays, write_fitted
from microsnoop.models.device import resolve_device
from microsnoop_integrations.joint.image_features import ImageReduction
from microsnoop_integrations.joint.paired import Preparation
from microsnoop_integrations.muse.network import MuseNetwork

if TYPE_CHECKING:
    from microsnoop_integrations.muse.model import Muse

FORMAT = 1
ARRAYS, TEXT = "muse.safetensors", "muse.json"


def save(model: Muse, folder: str | Path) -> Path:
    """Write a fitted model to ``folder`` and return that; files of a model that was there are replaced.

    What the loaded model answers is what this one does: latent, clusters, hidden values, weights of the modalities,
    history, findings, and the place of new cells. 4 bytes for each of (Z + modalities × H) numbers of a cell.

    Raises
    ------
    JointError
        ``not_fitted``, or ``not_savable``: ``about_`` is not a mapping of text to text, or a number is not finite.
    """
    if not hasattr(model, "latent_"):
        raise JointError("not_fitted", "the model must be fitted before it is saved")
    for key, value in model.about_.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise JointError("not_savable", f"about_ maps text to text, got {key!r}: {value!r}")
    tensors = _arrays(model)
    about = _describe(model, tensors)
    folder = Path(folder)
    try:
        write_fitted(_paths(folder), tensors, about, form=FORMAT, packages=("igraph", "numpy", "torch"))
    except (TypeError, ValueError) as error:
        raise JointError("not_savable", f"the model cannot be written as JSON: {error}") from error
    return folder


def load(folder: str | Path, *, device: str = "auto") -> Muse:
    """Read a model that :func:`save` wrote; on the same machine it places cells exactly as before.

    Raises
    ------
    InputError
        A file is missing, damaged, of another format, or does not belong to the other.
    ConfigError
        No such device here.
    """
    device = resolve_device(device)
    return read_fitted(
        _paths(Path(folder)),
        lambda about, tensors: _restore(about, tensors, device),
        what="a MUSE model",
        form=FORMAT,
        remedy="fit and save the model again",
    )


def _paths(folder: Path) -> tuple[Path, Path]:
    return folder / ARRAYS, folder / TEXT


def _arrays(model: Muse) -> Arrays:
    weights = {f"network/{name}": t.cpu().numpy() for name, t in model.network_.state_dict().items()}
    updates = np.asarray(model.label_updates_, np.int64)
    return {
        **weights,
        "latent": model.latent_,
        "labels": model.labels_,
        "hidden": np.stack(model.hidden_),
        "hidden_means": model.hidden_means_,
        "label_updates": updates.reshape(-1, len(model.names), len(model.labels_)),
    }


def _describe(model: Muse, tensors: Arrays) -> dict[str, Any]:
    """Return what JSON holds of a model, and put the arrays of its preparation among ``tensors``."""
    reduction, preparation = model.reduction_, model.preparation_
    return {
        "parameters": model.parameters.model_dump(mode="json"),
        "names": list(model.names),
        "widths": model.network_.widths(),
        "obs_ids": list(model.obs_ids_),
        "genes": list(model.genes_),
        "features": list(model.features_),
        "reduction": reduction
        and {
            "features": list(reduction.features),
            "arrays": put_arrays(reduction.arrays(), tensors, "reduction/"),
        },
        "preparation": preparation
        and {
            "facts": preparation.facts(),
            "arrays": put_arrays(preparation.arrays(), tensors, "preparation/"),
        },
        "margin": model.margin_,
        "history": {name: [_or_null(v) for v in values] for name, values in model.history_.items()},
        "phases": list(model.phases_),
        "updates": list(model.updates_),
        "replicability": model.replicability_,
        "gates": model.gates_,
        "findings": [[f.code, f.message, f.strong] for f in model.findings_],
        "seconds": model.seconds_,
        "about": dict(model.about_),
    }


def _restore(about: Mapping[str, Any], tensors: Arrays, device: str) -> Muse:
    from microsnoop_integrations.muse.model import Muse

    model = Muse(MuseParameters(**about["parameters"]), device=device)
    model.names = tuple(about["names"])
    model.network_ = _network(about, tensors, model.parameters).to(device).eval()
    model.latent_, model.labels_, model.hidden_means_ = (
        np.array(tensors[name]) for name in ("latent", "labels", "hidden_means")
    )
    model.hidden_ = list(np.array(tensors["hidden"]))
    model.label_updates_ = [list(labels) for labels in np.array(tensors["label_updates"])]
    n, widths = len(model.latent_), about["widths"]
    model.obs_ids_ = _known(about["obs_ids"], n, "cells")
    model.genes_ = _known(about["genes"], widths[0], "genes")
    model.features_ = tuple(about["features"])
    if (found := about["reduction"]) is not None:
        model.reduction_ = _reduction(found, tensors)
    if (found := about["preparation"]) is not None:
        arrays = take_arrays(found["arrays"], tensors, "preparation/")
        model.preparation_ = Preparation.from_parts(found["facts"], arrays)
    model.margin_, model.seconds_ = float(about["margin"]), float(about["seconds"])
    model.history_ = {
        name: [math.nan if v is None else float(v) for v in values]
        for name, values in about["history"].items()
    }
    model.phases_, model.updates_ = list(about["phases"]), list(about["updates"])
    model.replicability_, model.gates_ = dict(about["replicability"]), dict(about["gates"])
    model.findings_ = [Finding(code, message, strong) for code, message, strong in about["findings"]]
    model.about_ = dict(about["about"])
    return model


def _network(about: Mapping[str, Any], tensors: Arrays, parameters: MuseParameters) -> MuseNetwork:
    # on "meta" nothing is drawn: random numbers of the process stay as they are
    with torch.device("meta"):
        network = MuseNetwork(about["widths"], hidden=parameters.hidden, latent=parameters.latent)
    # torch.tensor copies to where torch wants its memory: products may hang on that in the last digit
    weights = {
        name.removeprefix("network/"): torch.tensor(array)
        for name, array in tensors.items()
        if name.startswith("network/")
    }
    network.load_state_dict(weights, assign=True)
    return network


def _reduction(found: Mapping[str, Any], tensors: Arrays) -> ImageReduction:
    arrays = take_arrays(found["arrays"], tensors, "reduction/")
    return ImageReduction.from_arrays(tuple(found["features"]), arrays)


def _known(names: list[str], count: int, kind: str) -> tuple[str, ...]:
    if names and len(names) != count:
        raise ValueError(f"{len(names)} names for {count} {kind}")
    return tuple(names)


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
