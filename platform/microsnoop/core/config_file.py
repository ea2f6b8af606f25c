"""Read settings from YAML, lay the command line over them, and say everything that is wrong at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError
from microsnoop.core.settings import Settings

Model = TypeVar("Model", bound=Settings)


def load_config(path: str | Path, *, overrides: dict[str, Any] | None = None) -> EmbedConfig:
    """Read the YAML configuration of an embedding run; see :func:`load_settings`."""
    return load_settings(path, EmbedConfig, overrides=overrides)


def load_settings(path: str | Path, model: type[Model], *, overrides: dict[str, Any] | None = None) -> Model:
    """Read a YAML file and check it against ``model``.

    Parameters
    ----------
    path
        The YAML file.
    model
        The settings model.
    overrides
        Dotted key to value, laid over the file (what the command line gave).

    Raises
    ------
    ConfigError
        With the file, every wrong key and what was expected there.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    try:
        data = _StrictLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold keys and values, got {type(data).__name__}")
    return build_config(data, overrides=overrides, model=model, where=str(path))


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader without surprises: keys are text and stand once, and a date is the text it looks like."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (overrides an attribute of yaml's own)
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        wrong = [key for i, key in enumerate(keys) if not isinstance(key, str) or key in keys[:i]]
        if wrong:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {wrong[0]!r} stands twice or is not text", node.start_mark
            )
        return super().construct_mapping(node, deep)


def build_config(
    data: dict[str, Any], *, overrides: dict[str, Any] | None, model: type[Model], where: str
) -> Model:
    """Check ``data`` with ``overrides`` laid over it; errors name ``where`` the data came from.

    Raises
    ------
    ConfigError
        Every wrong key, and what was expected there.
    """
    merged = copy.deepcopy(data)
    for dotted, value in (overrides or {}).items():
        *parents, leaf = dotted.split(".")
        place = merged
        for parent in parents:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise ConfigError(
                    f"{where}: {dotted} cannot be set, because {parent} is a value, not a section"
                )
        place[leaf] = copy.deepcopy(value)  # a later key may go into it
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        # inside a union pydantic adds the names of its alternatives to the key: only real keys are shown
        lines = [
            f"  {'.'.join(str(part) for part in e['loc'] if str(part).isidentifier()) or '(top)'}: {e['msg']}"
            for e in error.errors()
        ]
        raise ConfigError(
            f"{where} has wrong settings:\n" + "\n".join(dict.fromkeys(lines)),
            hint="docs/configuration.md lists every key",
        ) from error
