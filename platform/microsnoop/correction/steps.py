"""Settings to corrections: a list of steps, each with its method and parameters."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from microsnoop.core.errors import ConfigError, CorrectionError
from microsnoop.correction.base import Corrector
from microsnoop.correction.chain import Chain

# method: module and class, which is loaded when asked for
METHODS: dict[str, tuple[str, str]] = {
    "sphering": ("microsnoop.correction.sphering", "Sphering"),
    "standardize": ("microsnoop.correction.standardize", "Standardize"),
    "mad": ("microsnoop.correction.standardize", "MadRobustize"),
    "log": ("microsnoop.correction.standardize", "SignedLog"),
    "pca": ("microsnoop.correction.components", "PrincipalComponents"),
    "tvn": ("microsnoop.correction.typical", "TypicalVariation"),
    "harmony": ("microsnoop.correction.harmony", "Harmony"),
}


def build(steps: Sequence[Mapping[str, Any]]) -> Chain:
    """Return the corrections that settings describe, as one chain.

    Parameters
    ----------
    steps
        ``{"method": name, parameter: value, ...}`` for each, at least one; for the names see :data:`METHODS`, for
        the parameters the classes there. Values are converted to the type of the parameter (``"1e-8"``, as YAML
        reads 1e-8, is a number).

    Raises
    ------
    ConfigError
        No step, an unknown method or parameter (with those there are), or a value that cannot be.
    """
    if not steps:
        raise ConfigError("a correction needs at least one step", hint=f"methods: {', '.join(METHODS)}")
    return Chain([_build_step(number, step) for number, step in enumerate(steps, 1)])


def find_method(name: str) -> type[Corrector]:
    """Return the class of a method.

    Raises
    ------
    ConfigError
        Unknown, naming those there are.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ConfigError(f"unknown method {name!r}", hint=f"choose one of {', '.join(METHODS)}")
    module, cls = METHODS[name]
    found: type[Corrector] = getattr(import_module(module), cls)
    return found


def _build_step(number: int, step: Mapping[str, Any]) -> Corrector:
    where = f"step {number}"
    if not isinstance(step, Mapping) or "method" not in step:
        raise ConfigError(f"{where}: `method` is missing", hint=f"choose one of {', '.join(METHODS)}")
    try:
        cls = find_method(step["method"])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
    where = f"{where} ({step['method']})"
    given = {name: value for name, value in step.items() if name != "method"}
    allowed = [name for name in inspect.signature(cls).parameters if name != "self"]
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise ConfigError(
            f"{where}: unknown parameter {', '.join(map(repr, unknown))}", hint=f"it has {', '.join(allowed)}"
        )
    types = get_type_hints(cls.__init__)
    corrector = cls(
        **{name: _convert(value, types[name], f"{where}: {name}") for name, value in given.items()}
    )
    check = getattr(corrector, "_check_parameters", None)
    if check is not None:
        try:
            check()
        except CorrectionError as error:
            raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error
    return corrector


def _convert(value: Any, kind: Any, where: str) -> Any:
    try:
        return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{where}: {error.errors()[0]['msg'].lower()}, got {value!r}") from error
