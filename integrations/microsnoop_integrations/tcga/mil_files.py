"""Trained networks on disk: ``<name>.safetensors`` holds all arrays, ``<name>.json`` everything else.

Nothing that is read can run code. Source: slides spec, sections 7 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop.io.fitted_files import Arrays, put_arrays, read_fitted, take_arrays, write_fitted
from microsnoop_integrations.tcga.mil_network import MilNetwork
from microsnoop_integrations.tcga.mil_scaling import FeatureScaling
from microsnoop_integrations.tcga.mil_training import TrainedMil

FORMAT = 1
_NETWORK, _SCALING = "network/", "scaling/"


def save_mil(model: TrainedMil, folder: str | Path, *, name: str) -> Path:
    """Write one network and return the path of its JSON; what the loaded one answers is what this one does.

    Raises
    ------
    InputError
        A number that is not finite.
    """
    # copies: the memory of an array is written as it lies
    arrays: Arrays = {
        _NETWORK + key: np.array(tensor.cpu().numpy(), order="C")
        for key, tensor in model.network.state_dict().items()
    }
    orders = put_arrays(model.scaling.arrays(), arrays, _SCALING)
    if odd := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
        raise InputError(f"the network {name!r} cannot be saved: {', '.join(odd[:3])} is not finite")
    about = {
        "settings": model.settings.model_dump(mode="json"),
        "classes": list(model.classes),
        "features": len(model.scaling.mean),
        "orders": orders,
        "seed": model.seed,
        "best_epoch": model.best_epoch,
        "validation_loss": model.validation_loss,
        "history": model.history,
        "about": model.about,
    }
    text = Path(folder) / f"{name}.json"
    write_fitted(_paths(text), arrays, about, form=FORMAT, packages=("numpy", "torch"))
    return text


def save_all(models: Sequence[Sequence[TrainedMil]], folder: str | Path) -> list[Path]:
    """Write the networks of every fold (``Predictions.models``) as ``fold<k>-<n>``, the best of a fold as n = 0."""
    return [
        save_mil(model, folder, name=f"fold{fold}-{n}")
        for fold, own in enumerate(models)
        for n, model in enumerate(own)
    ]


def load_mil(path: str | Path) -> TrainedMil:
    """Read a network by the path of its JSON.

    Raises
    ------
    InputError
        A file is missing, damaged, of another format, or does not belong to the other.
    """
    return read_fitted(
        _paths(Path(path)), _restore, what="a network", form=FORMAT, remedy="save the network again"
    )


def load_all(folder: str | Path) -> list[TrainedMil]:
    """Read every network of a folder, by name.

    Raises
    ------
    InputError
        There is none, or one cannot be read.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no network")
    return [load_mil(path) for path in paths]


def _restore(about: dict[str, Any], arrays: Arrays) -> TrainedMil:
    settings = MilSettings(**about["settings"])
    scaling = FeatureScaling.from_arrays(take_arrays(about["orders"], arrays, _SCALING))
    with torch.device("meta"):  # nothing is drawn: random numbers of the process stay as they are
        network = MilNetwork(scaling.width, len(about["classes"]), settings)
    weights = {
        key.removeprefix(_NETWORK): torch.tensor(a) for key, a in arrays.items() if key.startswith(_NETWORK)
    }
    network.load_state_dict(weights, assign=True)
    return TrainedMil(
        network=network.eval(),
        scaling=scaling,
        classes=tuple(about["classes"]),
        settings=settings,
        seed=int(about["seed"]),
        best_epoch=int(about["best_epoch"]),
        validation_loss=float(about["validation_loss"]),
        history=list(about["history"]),
        about=dict(about["about"]),
    )


def _paths(text: Path) -> tuple[Path, Path]:
    return text.with_suffix(".safetensors"), text
