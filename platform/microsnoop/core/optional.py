"""Optional packages: imported when needed, refused with the line that installs them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from microsnoop.core.errors import MissingDependency


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module`` or explain which extra brings it.

    Raises
    ------
    MissingDependency
        With the install line as its hint.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"this needs the package {module!r}, which is not installed ({error})",
            hint=f"pip install 'microsnoop-platform[{extra}]'",
        ) from error
