"""The configuration reference, generated from the settings models: ``python -m microsnoop_apps.reference``."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from microsnoop.core.config import EmbedConfig, InputConfig
from microsnoop.core.evaluate_config import EvaluateConfig
from microsnoop.core.joint_config import JointConfig
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.core.profile_config import ProfileConfig
from microsnoop.core.settings import Settings
from microsnoop.core.simulate_config import SimulateConfig

TARGET = Path("docs/configuration.md")
_HEAD = """# Configuration of an embedding run

Generated from `platform/microsnoop/core/config.py` by `python -m microsnoop_apps.reference`; do not edit.

One YAML file holds these keys, nested as the dots say (`tile.overlap` is `overlap` below `tile`). An unknown key
is an error. Any key can be set on the command line: `microsnoop embed CONFIG --set tile.overlap=0.2`. Relative
paths are relative to the working directory.

Keys under `execution` (but for `precision`) and `export`, `fuse` and `max_reject_fraction` may change between two
sessions of one run. Everything else decides the numbers: a run directory begun with other values is refused.

| key | type | default | meaning |
|---|---|---|---|
"""
_EVALUATE = """
# Configuration of an evaluation recipe

Generated from `platform/microsnoop/core/evaluate_config.py`. One YAML file of `configs/evaluate` holds these keys;
`microsnoop evaluate RECIPE --set embed.input_px=96` sets any of them. Relative paths are relative to the data root.
`input` and the keys below `embed` mean what they mean in an embedding run.

| key | type | default | meaning |
|---|---|---|---|
"""

_PRETRAIN = """
# Configuration of pretraining

Generated from `platform/microsnoop/core/pretrain_config.py`. `phases` is a list of `input_px`, `steps` and `batch`.
Keys under `execution` and `report`, and `name`, may change between two sessions of one run; everything else is the
recipe.

| key | type | default | meaning |
|---|---|---|---|
"""

_PROFILE = """
# Configuration of a batch experiment

Generated from `platform/microsnoop/core/profile_config.py`. One YAML file of `configs/profile` holds these keys;
`microsnoop profile CONFIG --set score.label=null` sets any of them. [profiles.md](profiles.md) lists the methods and
their parameters.

| key | type | default | meaning |
|---|---|---|---|
"""
_SIMULATE = """
# Configuration of simulated plates

Generated from `platform/microsnoop/core/simulate_config.py`, for `microsnoop simulate-plates CONFIG`.

| key | type | default | meaning |
|---|---|---|---|
"""
_JOINT = """
# Configuration of a joint analysis

Generated from `platform/microsnoop/core/joint_config.py`, `muse_config.py` and `joint_simulation_config.py`. One YAML
file of `configs/joint` holds these keys; `microsnoop joint CONFIG --set muse.gate=none` sets any of them. Exactly one
of `input` and `simulation` is given, and exactly one of `input.mudata`, `input.rna`, `input.spots` and
`input.seqfish`. [joint.md](joint.md) says what the methods and scores are.

| key | type | default | meaning |
|---|---|---|---|
"""


def reference() -> str:
    """Return the whole page."""
    pages = (
        (_HEAD, EmbedConfig),
        (_EVALUATE, EvaluateConfig),
        (_PRETRAIN, PretrainConfig),
        (_PROFILE, ProfileConfig),
        (_SIMULATE, SimulateConfig),
        (_JOINT, JointConfig),
    )
    return "".join(head + "".join(_rows(model, "")) for head, model in pages)


def _rows(model: type[Settings], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, field in model.model_fields.items():
        inner = _section(field.annotation)
        if inner is not None:
            rows += _rows(inner, f"{prefix}{name}.")
        else:
            text = (field.description or "").replace("|", "\\|")
            rows.append(f"| `{prefix}{name}` | {_type(field.annotation)} | {_default(field)} | {text} |\n")
    return rows


def _section(annotation: Any) -> type[Settings] | None:
    """Return the settings that a key is a section of; `input` of an embedding run is listed once, with that run."""
    options = [one for one in get_args(annotation) if one is not NoneType]
    if get_origin(annotation) in (Union, UnionType) and len(options) == 1 and options[0] is not InputConfig:
        annotation = options[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def _type(annotation: Any) -> str:
    """Return a type as a reader of YAML needs it: without what only pydantic wants to know, and without null."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return f"one of {list(inner)}"
    if origin in (Union, UnionType):
        return " or ".join(_type(one) for one in inner if one is not NoneType)
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if one is ... else _type(one) for one in inner)}]"
    return "section `input`" if annotation is InputConfig else str(annotation.__name__)


def _default(field: FieldInfo) -> str:
    default: Any = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    return f"`{default}`" if default is not None else ""


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
