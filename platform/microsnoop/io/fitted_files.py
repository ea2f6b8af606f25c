"""What was fitted, on disk as two files: ``.safetensors`` holds the arrays, ``.json`` everything else.

The JSON begins with the format, the SHA-256 of the arrays' file and the versions of the libraries. Nothing that is
read can run code.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from microsnoop.core.errors import InputError
from microsnoop.io.parts import write_atomic

Arrays = dict[str, NDArray[Any]]
T = TypeVar("T")


def write_fitted(
    paths: tuple[Path, Path],
    arrays: Mapping[str, NDArray[Any]],
    about: Mapping[str, Any],
    *,
    form: int,
    packages: Sequence[str],
) -> None:
    """Write both files, replacing what is there.

    Parameters
    ----------
    paths
        Of the arrays and of the JSON.
    arrays
        Contiguous in C order (:func:`put_arrays`): memory is written as it lies.
    about
        What JSON can hold; numbers and arrays of numpy are written as such.
    form
        Version of the format.
    packages
        Those whose versions are noted beside our own.

    Raises
    ------
    TypeError, ValueError
        JSON cannot hold ``about``: then nothing is written.
    """
    data = safetensors.numpy.save(dict(arrays))
    versions = {"python": platform.python_version()}
    versions |= {name: version(name) for name in ("microsnoop-platform", *packages)}
    head = {"format": form, "sha256": hashlib.sha256(data).hexdigest(), "versions": versions}
    # strict JSON: NaN would be read by Python alone
    text = json.dumps(head | dict(about), indent=1, allow_nan=False, default=plain)
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    write_atomic(paths[0], data)
    write_atomic(paths[1], text.encode())


def read_fitted(
    paths: tuple[Path, Path],
    restore: Callable[[dict[str, Any], Arrays], T],
    *,
    what: str,
    form: int,
    remedy: str,
) -> T:
    """Read both files and return what ``restore(about, arrays)`` makes of them.

    Parameters
    ----------
    paths, form
        As for :func:`write_fitted`.
    what, remedy
        What the files hold ("a correction"), and what to do when they do not belong together; for messages.

    Raises
    ------
    InputError
        A file is missing, damaged, of another format, or does not belong to the other.
    """
    arrays, text = paths
    try:
        about, data = json.loads(text.read_text("utf-8")), arrays.read_bytes()
    except OSError as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError)
        reason = f"{error.filename} is not there" if absent else str(error)
        raise InputError(f"{what} is two files, {arrays.name} and {text.name}: {reason}") from error
    except ValueError as error:
        raise InputError(f"{text} is not JSON: {error}") from error
    if not isinstance(about, dict) or about.get("format") != form:
        raise InputError(f"{text} is not {what} in format {form}")
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise InputError(f"{arrays} is not what {text.name} was written with", hint=remedy)
    try:
        return restore(about, safetensors.numpy.load(data))
    except (AttributeError, LookupError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(f"{text} does not describe {what}: {error!r}") from error


def put_arrays(arrays: Mapping[str, NDArray[Any]], among: Arrays, prefix: str) -> dict[str, str]:
    """Put arrays ``among`` others; return their memory order, which decides the last digit of a product."""
    orders = {}
    for name, array in arrays.items():
        orders[name] = "C" if array.flags.c_contiguous or not array.flags.f_contiguous else "F"
        among[prefix + name] = np.asarray(array, order="C")
    return orders


def take_arrays(orders: Mapping[str, str], among: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """Return the arrays that :func:`put_arrays` put there, in the memory order they had."""
    return {
        name: np.array(among[prefix + name], order="F" if order == "F" else "C")
        for name, order in orders.items()
    }


def plain(value: Any) -> Any:
    """Return a number or list for what numpy made, as ``json.dumps`` asks of its ``default``."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r} cannot be written as JSON")
