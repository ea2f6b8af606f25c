"""A fitted correction on disk: ``NAME.safetensors`` holds the arrays, ``NAME.json`` everything else.

The JSON names the class and its parameters, features in and out, facts and findings of every fit, the number and hash
of the control rows, library versions and the SHA-256 of the arrays' file. The arrays of fit i are named ``i/array``;
those of a chain's step s have ``s/`` before that. Nothing that is read can run code.

Source: batch spec, section 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import Corrector, Finding, Fit
from microsnoop.io.fitted_files import Arrays, plain, put_arrays, read_fitted, take_arrays, write_fitted

FORMAT = 1
_STEPS = "steps"  # the parameter of a chain that holds corrections itself
_MODULES = {
    "Sphering": "sphering",
    "Standardize": "standardize",
    "MadRobustize": "standardize",
    "SignedLog": "standardize",
    "PrincipalComponents": "components",
    "TypicalVariation": "typical",
    "Harmony": "harmony",
    "Chain": "chain",
}


def registry() -> dict[str, type[Corrector]]:
    """Return every class that can be saved and loaded, by its name."""
    return {name: _class(name) for name in _MODULES}


def save(corrector: Corrector, path: str | Path) -> tuple[Path, Path]:
    """Write a fitted correction; return the paths of its arrays and its JSON.

    Parameters
    ----------
    path
        Without an ending: ``.safetensors`` and ``.json`` are appended. Files of that name are replaced.

    Raises
    ------
    CorrectionError
        ``not_fitted``, or ``not_savable``: a class that :func:`load` does not know, or facts JSON cannot hold.
    """
    tensors: Arrays = {}
    about = _describe(corrector, tensors, "")
    paths = _paths(path)
    try:
        write_fitted(paths, tensors, about, form=FORMAT, packages=("numpy", "scikit-learn", "scipy"))
    except (TypeError, ValueError) as error:
        raise CorrectionError("not_savable", f"{corrector.method}: {error}") from error
    return paths


def load(path: str | Path) -> Corrector:
    """Read a correction that :func:`save` wrote; it transforms exactly as before.

    Parameters
    ----------
    path
        As given to :func:`save`; one of the two files will do as well.

    Raises
    ------
    InputError
        A file is missing, damaged, of another format, or does not belong to the other.
    """
    return read_fitted(
        _paths(path),
        lambda about, tensors: _restore(about, tensors, ""),
        what="a correction",
        form=FORMAT,
        remedy="fit and save the correction again",
    )


def describe(corrector: Corrector) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return what :func:`save` would write: arrays by name, and everything else as JSON holds it."""
    tensors: Arrays = {}
    about = _describe(corrector, tensors, "")
    return tensors, json.loads(json.dumps(about, default=plain))


def _describe(corrector: Corrector, tensors: Arrays, prefix: str) -> dict[str, Any]:
    """Return what JSON holds of a correction, and put its arrays among ``tensors``."""
    name = type(corrector).__name__
    if name not in _MODULES or type(corrector) is not _class(name):
        known = ", ".join(_MODULES)
        raise CorrectionError(
            "not_savable", f"{name} is not one of the corrections that can be loaded: {known}"
        )
    if not hasattr(corrector, "fits_"):
        raise CorrectionError("not_fitted", f"{corrector.method} must be fitted before it is saved")
    parameters = corrector.get_params(deep=False)
    steps = parameters.pop(_STEPS, None)
    fits = [
        {"group": group, "info": fit.info, "arrays": put_arrays(fit.arrays, tensors, f"{prefix}{i}/")}
        for i, (group, fit) in enumerate(corrector.fits_.items())
    ]
    about: dict[str, Any] = {
        "method": corrector.method,
        "class": name,
        "parameters": parameters,
        "features_in": corrector.features_in_,
        "features_out": corrector.features_out_,
        "n_control": corrector.n_control_,
        "control_hash": corrector.control_hash_,
        "findings": [[f.code, f.message, f.strong] for f in corrector.findings_],
        "fits": fits,
    }
    if steps is not None:
        # a chain's own fits, if it has any, must not stand where its steps' arrays do
        if fits:
            raise CorrectionError("not_savable", f"{name} has steps and fits of its own")
        about[_STEPS] = [_describe(step, tensors, f"{prefix}{s}/") for s, step in enumerate(steps)]
    return about


def _restore(about: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], prefix: str) -> Corrector:
    parameters = dict(about["parameters"])
    if _STEPS in about:
        parameters[_STEPS] = [
            _restore(step, tensors, f"{prefix}{s}/") for s, step in enumerate(about[_STEPS])
        ]
    if about["class"] not in _MODULES:
        raise KeyError(about["class"])
    corrector = _class(about["class"])(**parameters)
    corrector.features_in_ = list(about["features_in"])
    corrector.features_out_ = list(about["features_out"])
    corrector.n_control_, corrector.control_hash_ = int(about["n_control"]), str(about["control_hash"])
    corrector.findings_ = [Finding(code, message, strong) for code, message, strong in about["findings"]]
    corrector.fits_ = {
        fit["group"]: Fit(take_arrays(fit["arrays"], tensors, f"{prefix}{i}/"), fit["info"])
        for i, fit in enumerate(about["fits"])
    }
    return corrector


def _class(name: str) -> type[Corrector]:
    found: type[Corrector] = getattr(import_module(f"microsnoop.correction.{_MODULES[name]}"), name)
    return found


def _paths(path: str | Path) -> tuple[Path, Path]:
    whole = Path(path)
    stem = whole.name.removesuffix(".safetensors").removesuffix(".json")
    return whole.with_name(stem + ".safetensors"), whole.with_name(stem + ".json")
