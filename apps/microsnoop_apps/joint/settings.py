"""The configuration of a joint analysis: a YAML file, options, and ``--set``, later ones first in right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microsnoop.core.config_file import build_config, load_settings
from microsnoop.core.errors import ConfigError
from microsnoop.core.joint_config import JointConfig
from microsnoop_apps.commands import parse_settings

# an option takes the place of what the file says of the same thing
_REPLACES = {
    "input.mudata": ("input.rna", "input.spots", "input.seqfish", "input.image"),
    "input.rna": ("input.mudata", "input.spots", "input.seqfish"),
}


def joint_config(
    path: Path | None, overrides: dict[str, Any], *, labels: list[str], settings: list[str]
) -> JointConfig:
    """Combine a file, options (dotted keys), ``--labels column`` and ``--set key=value``.

    Raises
    ------
    ConfigError
        Nothing to work on, or wrong settings.
    """
    replaced = {
        other: None for key in overrides for other in _REPLACES.get(key, ()) if other not in overrides
    }
    overrides = replaced | overrides
    if labels:
        overrides = overrides | {"labels": labels}
    overrides = overrides | parse_settings(settings)
    if path is not None:
        return load_settings(path, JointConfig, overrides=overrides)
    if not any(key.split(".")[0] in ("input", "simulation") for key in overrides):
        raise ConfigError(
            "no cells: no configuration, and none of --mudata, --rna and --image given",
            hint="give a YAML file of configs/joint, or --rna counts.h5ad --image runs/embedded",
        )
    return build_config({}, overrides=overrides, model=JointConfig, where="the command line")
