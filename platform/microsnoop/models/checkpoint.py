"""Weights on disk: safetensors with a JSON card beside it, and the adapter for the published checkpoint.

The published file is a pickle archive; it is opened with torch's tensor-only loader, which runs no code,
its names are mapped to ours, and it is written again as safetensors. None of it is shipped here.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from microsnoop.core.errors import EncoderError
from microsnoop.models.card import EncoderBundle, EncoderCard, sha256
from microsnoop.models.cnn import CnnAutoencoder

PUBLISHED_LICENCE = (
    "The authors' own terms: their repository carries a BSD-3 file, its README asks for authorisation before "
    "business use, and the patent application CNIPA 202310155113.8 is named. Read them before you use it."
)

# published name -> ours; each rule is tried in order, the first that matches the whole name wins
_RULES: tuple[tuple[str, str], ...] = (
    (r"encoder\.downsample\.down\.res_down_(\d)\.conv\.conv_(\d)\.0\.(\w+)", r"encoder.stages.\1.convs.\2.norm.\3"),
    (r"encoder\.downsample\.down\.res_down_(\d)\.conv\.conv_(\d)\.2\.(\w+)", r"encoder.stages.\1.convs.\2.conv.\3"),
    (r"encoder\.downsample\.down\.res_down_(\d)\.proj\.0\.(\w+)", r"encoder.stages.\1.project.norm.\2"),
    (r"encoder\.downsample\.down\.res_down_(\d)\.proj\.1\.(\w+)", r"encoder.stages.\1.project.conv.\2"),
    (r"decoder\.upsample\.up\.res_up_(\d)\.conv\.conv_0\.0\.(\w+)", r"decoder.stages.\1.merge.norm.\2"),
    (r"decoder\.upsample\.up\.res_up_(\d)\.conv\.conv_0\.2\.(\w+)", r"decoder.stages.\1.merge.conv.\2"),
    (r"decoder\.upsample\.up\.res_up_(\d)\.conv\.conv_([123])\.conv\.0\.(\w+)", r"decoder.stages.\1.styled.\2.norm.\3"),
    (r"decoder\.upsample\.up\.res_up_(\d)\.conv\.conv_([123])\.conv\.2\.(\w+)", r"decoder.stages.\1.styled.\2.conv.\3"),
    (r"decoder\.upsample\.up\.res_up_(\d)\.conv\.conv_([123])\.full\.(\w+)", r"decoder.stages.\1.styled.\2.style.\3"),
    (r"decoder\.upsample\.up\.res_up_(\d)\.proj\.0\.(\w+)", r"decoder.stages.\1.project.norm.\2"),
    (r"decoder\.upsample\.up\.res_up_(\d)\.proj\.1\.(\w+)", r"decoder.stages.\1.project.conv.\2"),
    (r"decoder\.base_bn\.(\w+)", r"decoder.norm.\1"),
    (r"decoder\.base_conv\.(\w+)", r"decoder.conv.\1"),
)  # fmt: skip


def adapt_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the published checkpoint to ours and check that all are there.

    Raises
    ------
    EncoderError
        A name that is not of the published network, a tensor that is missing or has another shape.
    """
    adapted = {_our_name(name.removeprefix("module.")): tensor for name, tensor in state.items()}
    expected = CnnAutoencoder().state_dict()
    surplus = sorted(adapted.keys() - expected.keys())
    if not any(name.startswith("decoder.") for name in adapted):
        expected = {name: tensor for name, tensor in expected.items() if name.startswith("encoder.")}
    missing = sorted(expected.keys() - adapted.keys())
    wrong = [
        f"{name} is {_described(adapted[name])}, not {_described(tensor)}"
        for name, tensor in expected.items()
        if name in adapted and not _alike(adapted[name], tensor)
    ]
    problems = [f"missing {name}" for name in missing] + [f"surplus {name}" for name in surplus] + wrong
    if len(adapted) != len(state):
        problems.append("some tensors are there twice, with and without a leading `module.`")
    if problems:
        raise EncoderError(f"not the published network: {len(problems)} problem(s), first: {problems[0]}")
    return {name: adapted[name].clone().contiguous() for name in expected}


def import_checkpoint(path: Path, *, name: str, folder: Path) -> tuple[Path, EncoderCard]:
    """Convert the authors' checkpoint (``.pth``) or a ``.safetensors`` with their names, once.

    Parameters
    ----------
    path
        The user's own copy.
    name
        The encoder's name here.
    folder
        Where ``<name>.safetensors`` and ``<name>.json`` are written.

    Raises
    ------
    EncoderError
        Unreadable, holds code instead of tensors, or another network.
    """
    state = adapt_published(_read_tensors(path))
    if not all(bool(torch.isfinite(tensor.float()).all()) for tensor in state.values()):
        raise EncoderError(f"{path} holds values that are not finite")
    card = make_card(
        name=name,
        architecture="microsnoop-cnn",
        trained=True,
        description=f"Imported from {path.name} (sha256 {sha256(path.read_bytes())[:16]}…)",
        licence=PUBLISHED_LICENCE,
        sources=("as stated by the authors: Cellpose, LIVECell, TissueNet, MoNuSeg, MoNuSAC, NuCLS",),
        dim=256,
        value_range=(-1.0, 10.0),
    )
    return write_encoder(state, card, folder=folder)


def write_encoder(state: dict[str, Tensor], card: EncoderCard, *, folder: Path) -> tuple[Path, EncoderCard]:
    """Write ``<name>.safetensors`` and ``<name>.json``; the card returned carries the weights' SHA-256."""
    data = safetensors.torch.save(state)
    card = card.model_copy(update={"weights_sha256": sha256(data)})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.name}.safetensors"
    _write_atomic(path, data)
    _write_atomic(path.with_suffix(".json"), (card.model_dump_json(indent=2) + "\n").encode())
    return path, card


def read_encoder(path: Path) -> EncoderBundle:
    """Read weights and card from disk; the SHA-256 in the card must be that of the weights.

    Raises
    ------
    EncoderError
        File or card missing, card not valid, or weights changed since the card was written.
    """
    card_path = path.with_suffix(".json")
    for needed in (path, card_path):
        if not needed.is_file():
            raise EncoderError(
                f"{needed} does not exist", hint="`microsnoop models import` writes weights and card together"
            )
    try:
        card = EncoderCard.model_validate(json.loads(card_path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise EncoderError(f"the encoder card {card_path} is not valid: {error}") from error
    weights = path.read_bytes()
    if sha256(weights) != card.weights_sha256:
        raise EncoderError(
            f"{path} is not the file its card describes: sha256 {sha256(weights)[:16]}…, "
            f"card {card.weights_sha256[:16]}…",
            hint="copy both files again, or import the checkpoint anew",
        )
    return EncoderBundle(card, weights)


def load_weights(model: nn.Module, weights: bytes, *, prefix: str = "") -> None:
    """Load safetensors bytes into ``model`` as float32, every tensor, names starting with ``prefix`` only."""
    try:
        state = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise EncoderError(f"the weights are not a readable safetensors file: {error}") from error
    chosen = {
        name.removeprefix(prefix): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    try:
        model.load_state_dict(chosen, strict=True)
    except RuntimeError as error:
        raise EncoderError(f"the weights do not fit the network: {error}") from error


def make_card(**fields: Any) -> EncoderCard:
    """Make a card; a name that cannot be an encoder's is an error of ours.

    Raises
    ------
    EncoderError
    """
    try:
        return EncoderCard(**fields)
    except ValidationError as error:
        raise EncoderError(
            f"{fields['name']!r} cannot be an encoder's name", hint="use letters, digits, and any of . _ + -"
        ) from error


def _alike(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _our_name(published: str) -> str:
    for pattern, ours in _RULES:
        match = re.fullmatch(pattern, published)
        if match:
            name = match.expand(ours)
            # the published decoder counts its styled convolutions from 1
            return re.sub(r"styled\.(\d)", lambda m: f"styled.{int(m.group(1)) - 1}", name)
    raise EncoderError(f"the tensor {published!r} does not belong to the published network")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise EncoderError(
            f"cannot read tensors from {path}: damaged, or it holds more than tensors ({type(error).__name__})",
            hint="only files that hold nothing but tensors are opened; code in a checkpoint is never run",
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()
    ):
        raise EncoderError(f"{path} does not hold a dictionary of named tensors")
    return loaded


def _write_atomic(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)
