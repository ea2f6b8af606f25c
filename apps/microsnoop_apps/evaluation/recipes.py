"""Which sets are evaluated: recipes by name, by file, or an AnnData file given on the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microsnoop.core.config_file import build_config, load_settings
from microsnoop.core.errors import ConfigError
from microsnoop.core.evaluate_config import EvaluateConfig
from microsnoop.io.opener import is_remote, local_path

FOLDER = Path("configs/evaluate")
_DEFAULT_DATA = "../shared/data"
_ANNDATA = (".h5ad", ".zarr")


def data_root(given: str) -> str:
    """Return where the data of recipes are: the option, ``MICROSNOOP_DATA``, or the folder beside the checkout.

    A local folder becomes an absolute path: chosen rows are written as manifests in another folder, and relative paths
    in a manifest start there.
    """
    root = given or os.environ.get("MICROSNOOP_DATA") or _DEFAULT_DATA
    return root if is_remote(root) else str(local_path(root).absolute())


def load_recipes(
    names: Sequence[str], *, overrides: dict[str, Any], label: str = "", group: str = ""
) -> dict[str, EvaluateConfig]:
    """Return the recipes asked for by name, in order; without names those of ``configs/evaluate``.

    Recipes with variants compare ways to embed, not encoders: they only come when they are asked for.

    Parameters
    ----------
    names
        Names of recipes, YAML files, or ``.h5ad`` / ``.zarr`` files (which need ``label``).
    overrides
        Dotted settings laid over every recipe.

    Raises
    ------
    ConfigError
        An unknown recipe, or two of one name; a recipe with wrong settings.
    """
    chosen = list(names) or [path.stem for path in sorted(FOLDER.glob("*.yaml"))]
    if not chosen:
        raise ConfigError(
            f"no recipe given, and none in {FOLDER}",
            hint="give YAML files, or run from the top of a checkout",
        )
    recipes: dict[str, EvaluateConfig] = {}
    for name in chosen:
        path = Path(name)
        if path.suffix in _ANNDATA:
            recipe = _of_anndata(path, label=label, group=group, overrides=overrides)
        else:
            recipe = load_settings(_find(name), EvaluateConfig, overrides=overrides)
        if path.stem in recipes:
            raise ConfigError(f"two recipes are named {path.stem!r}", hint="rename one of the files")
        recipes[path.stem] = recipe
    return {name: recipe for name, recipe in recipes.items() if names or not recipe.variants}


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(found.stem for found in sorted(FOLDER.glob("*.yaml"))) or "none here"
        raise ConfigError(
            f"there is no recipe {name!r}", hint=f"known are {known}; or give a YAML, .h5ad or .zarr file"
        )
    return path


def _of_anndata(path: Path, *, label: str, group: str, overrides: dict[str, Any]) -> EvaluateConfig:
    if not label:
        raise ConfigError(f"{path} needs --label: the column of obs that holds the class")
    data = {
        "title": f"Which {label} has a row of {path.name}?",
        "anndata": {path.stem: str(path.resolve())},
        "label": label,
        "group": group or None,
    }
    return build_config(data, overrides=overrides, model=EvaluateConfig, where=str(path))
