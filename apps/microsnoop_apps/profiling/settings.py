"""The configuration of a batch experiment: a YAML file, options, and ``--set``, later ones first in right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microsnoop.core.config_file import build_config, load_settings
from microsnoop.core.errors import ConfigError
from microsnoop.core.profile_config import ProfileConfig
from microsnoop_apps.commands import parse_settings


def profile_config(
    path: Path | None, overrides: dict[str, Any], *, controls: list[str], settings: list[str]
) -> ProfileConfig:
    """Combine a file, options (dotted keys), ``--control column=value`` and ``--set key=value``.

    Raises
    ------
    ConfigError
        Nothing to work on, or wrong settings.
    """
    if controls:
        overrides = overrides | {"plates.controls": parse_controls(controls)}
    overrides = overrides | parse_settings(settings)
    if path is not None:
        return load_settings(path, ProfileConfig, overrides=overrides)
    if "input.table" not in overrides:
        raise ConfigError(
            "no profiles: no configuration and no --table given",
            hint="give a YAML file of configs/profile, or --table FILE with --control compound=DMSO",
        )
    return build_config({}, overrides=overrides, model=ProfileConfig, where="the command line")


def parse_controls(texts: list[str]) -> dict[str, list[str]]:
    """Turn ``column=value`` texts into the query of negative controls.

    Raises
    ------
    ConfigError
        A text without ``=``.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(
                f"--control needs column=value, got {text!r}", hint="e.g. --control compound=DMSO"
            )
        found.setdefault(name.strip(), []).append(value.strip())
    return found
