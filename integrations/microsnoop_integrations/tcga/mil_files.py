"""Trained networks on disk: ``<name>.safetensors`` holds all arrays, ``<name>.json`` everything else.

Nothing that is read can run code. Source: slides spec, sections 7 and 8.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop.io.parts import write_atomic
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
    # copies: safetensors writes the memory of an array as it lies
    arrays: dict[str, NDArray[Any]] = {
        _NETWORK + key: np.array(tensor.cpu().numpy(), order="C")
        for key, tensor in model.network.state_dict().items()
    }
    scaling = model.scaling.arrays()
    arrays |= {_SCALING + key: np.array(array, order="C") for key, array in scaling.items()}
    if odd := [key for key, array in arrays.items() if not np.isfinite(array).all()]:
        raise InputError(f"the network {name!r} cannot be saved: {', '.join(odd[:3])} is not finite")
    data = safetensors.numpy.save(arrays)
    about = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": {p: version(p) for p in ("microsnoop-platform", "numpy", "torch")}
        | {"python": platform.python_version()},
        "settings": model.settings.model_dump(mode="json"),
        "classes": list(model.classes),
        "features": len(model.scaling.mean),
        "orders": {key: "C" if array.flags.c_contiguous else "F" for key, array in scaling.items()},
        "seed": model.seed,
        "best_epoch": model.best_epoch,
        "validation_loss": model.validation_loss,
        "history": model.history,
        "about": model.about,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{name}.safetensors", data)
    text = json.dumps(about, indent=1, allow_nan=False, ensure_ascii=False)
    write_atomic(folder / f"{name}.json", text.encode())
    return folder / f"{name}.json"


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
    text = Path(path)
    arrays = text.with_suffix(".safetensors")
    try:
        about, data = json.loads(text.read_text("utf-8")), arrays.read_bytes()
    except OSError as error:
        raise InputError(f"a network is two files, {text} and {arrays.name}: {error}") from error
    except ValueError as error:
        raise InputError(f"{text} is not JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise InputError(f"{text} is not a network in format {FORMAT}")
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise InputError(f"{arrays} is not what {text.name} was written with", hint="save the network again")
    try:
        return _restore(about, safetensors.numpy.load(data))
    except (LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{text} does not describe a network: {error!r}") from error


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


def _restore(about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> TrainedMil:
    settings = MilSettings(**about["settings"])
    own = {key.removeprefix(_SCALING): array for key, array in arrays.items() if key.startswith(_SCALING)}
    # the memory order decides the last digit of a product
    scaling = FeatureScaling.from_arrays(
        {key: np.array(own[key], order=o) for key, o in about["orders"].items()}
    )
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
