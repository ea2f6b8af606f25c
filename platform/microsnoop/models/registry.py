"""Encoders by name: shipped with the package, imported by the user, or baselines from optional packages."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import nn

from microsnoop.core.errors import EncoderError, MissingDependency
from microsnoop.models.baselines import EfficientNetLite0, Pixels16, load_lite0, load_pixels16
from microsnoop.models.card import EncoderBundle, EncoderCard, sha256
from microsnoop.models.checkpoint import import_checkpoint, load_weights, read_encoder
from microsnoop.models.cnn import CnnEncoder, initialise
from microsnoop.models.fold import FoldedEncoder
from microsnoop.models.head import load_head

SHIPPED = Path(__file__).parent / "weights"
DEFAULT_ENCODER = "snoop-trial"
_RENAMED = {"trial": "snoop-trial"}  # the same backbone, before it had a head
UNTRAINED_CARD = EncoderCard(
    name="untrained",
    architecture="microsnoop-cnn",
    trained=False,
    description="The network of `snoop-trial` with random weights (seed 0): what training has to beat.",
    licence="Apache-2.0",
    dim=256,
    value_range=(-1.0, 10.0),
)


@dataclass(frozen=True)
class ListedEncoder:
    """One line of ``microsnoop models list``: a card, or the reason why the encoder cannot be used."""

    name: str
    card: EncoderCard | None
    problem: str


def user_folder() -> Path:
    """Return where imported encoders live: ``$MICROSNOOP_MODELS`` or the user's data folder."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(os.environ.get("MICROSNOOP_MODELS") or f"{data}/microsnoop/models").expanduser()


def load_encoder(name: str, *, pooling: Literal["encoder", "paper"] = "encoder") -> EncoderBundle:
    """Return card and weights of an encoder.

    Parameters
    ----------
    name
        A name of :func:`list_encoders`, or the path of a ``.safetensors`` file with its card beside it.
    pooling
        ``encoder``: vectors as its card says. ``paper``: the plain mean of the last map, 256 numbers, from the
        same weights (Microsnoop spec, section 6).

    Raises
    ------
    EncoderError
        Unknown name, damaged or changed weights; ``paper`` asked of another architecture.
    MissingDependency
        A baseline whose package is not installed.
    """
    bundle = _load(name)
    return bundle if pooling == "encoder" else _paper_pooling(bundle)


def _load(name: str) -> EncoderBundle:
    if name.endswith(".safetensors"):
        return read_encoder(Path(name))
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    imported = user_folder() / f"{name}.safetensors"
    if Path(name).name == name and imported.is_file():
        return read_encoder(imported)
    if name in _RENAMED:
        raise EncoderError(
            f"the encoder {name!r} is now called {_RENAMED[name]!r} and has a head",
            hint=f"with `encoder: {_RENAMED[name]}`, `pooling: paper` and `input_px: 224` its numbers come back",
        )
    known = ", ".join(entry.name for entry in list_encoders())
    raise EncoderError(
        f"there is no encoder named {name!r}",
        hint=f"known are {known}; or give the path of a .safetensors file",
    )


def _paper_pooling(bundle: EncoderBundle) -> EncoderBundle:
    card = bundle.card
    if card.architecture != "microsnoop-cnn":
        raise EncoderError(
            f"pooling: paper is not defined for encoder {card.name!r} ({card.architecture})",
            hint="leave pooling at its default, encoder",
        )
    return EncoderBundle(card.model_copy(update={"head": None, "dim": CnnEncoder.dim}), bundle.weights)


def list_encoders() -> list[ListedEncoder]:
    """Return every encoder that can be named, usable or not."""
    imported = sorted(path.stem for path in user_folder().glob("*.safetensors"))
    return [_listed(name) for name in [*_BUILT_IN, *(name for name in imported if name not in _BUILT_IN)]]


def import_encoder(path: Path, *, name: str, folder: Path | None = None) -> tuple[Path, EncoderCard]:
    """Import the authors' checkpoint under a name of its own; see :func:`checkpoint.import_checkpoint`.

    Raises
    ------
    EncoderError
        The name is one of ours, or ends like a file; the file is not usable.
    """
    check_new_name(name)
    return import_checkpoint(path, name=name, folder=folder or user_folder())


def check_new_name(name: str) -> None:
    """Refuse a name for a new encoder that would never be found.

    Raises
    ------
    EncoderError
        The name is one of ours, or ends like a file.
    """
    if name in _BUILT_IN or name in _RENAMED or name.endswith(".safetensors"):
        raise EncoderError(
            f"an encoder of yours cannot be called {name!r}", hint=f"taken are {', '.join(_BUILT_IN)}"
        )


def build_encoder(bundle: EncoderBundle) -> nn.Module:
    """Build the network of a bundle with its weights, every submodule in eval mode, float32 on the CPU.

    The module maps planes (N, 1, S, S) to vectors (N, dim), not of unit length.
    """
    try:
        make = _ARCHITECTURES[bundle.card.architecture]
    except KeyError:
        raise EncoderError(
            f"the architecture {bundle.card.architecture!r} of encoder {bundle.card.name!r} is unknown; "
            f"this version builds {', '.join(_ARCHITECTURES)}"
        ) from None
    module = make(bundle)
    training = [name for name, part in module.named_modules() if part.training]
    if training:
        raise EncoderError(f"encoder {bundle.card.name!r} is not fully in eval mode: {training[:3]}")
    return module


def _listed(name: str) -> ListedEncoder:
    try:
        return ListedEncoder(name, load_encoder(name).card, "")
    except MissingDependency as error:
        return ListedEncoder(name, None, f"not installed: {error.hint}")
    except EncoderError as error:
        return ListedEncoder(name, None, error.message)


def _untrained() -> EncoderBundle:
    weights = safetensors.torch.save(
        {f"encoder.{name}": tensor for name, tensor in initialise(CnnEncoder(), seed=0).state_dict().items()}
    )
    return EncoderBundle(UNTRAINED_CARD.model_copy(update={"weights_sha256": sha256(weights)}), weights)


def build_cnn(bundle: EncoderBundle) -> CnnEncoder:
    """Build the published network alone, without head and unfolded, in eval mode; for fitting a head on it.

    Raises
    ------
    EncoderError
        Another architecture, or weights that do not fit.
    """
    if bundle.card.architecture != "microsnoop-cnn":
        raise EncoderError(
            f"encoder {bundle.card.name!r} is of the architecture {bundle.card.architecture}, not microsnoop-cnn"
        )
    encoder = CnnEncoder()
    load_weights(encoder, bundle.weights, prefix="encoder.")
    return encoder.eval()


def _build_folded(bundle: EncoderBundle) -> nn.Module:
    return FoldedEncoder(build_cnn(bundle), load_head(bundle))


def _build_lite0(bundle: EncoderBundle) -> nn.Module:
    module = EfficientNetLite0()
    load_weights(module, bundle.weights)
    return module.eval()


_BUILT_IN: dict[str, Callable[[], EncoderBundle]] = {
    "snoop-trial": lambda: read_encoder(SHIPPED / "snoop-trial.safetensors"),
    "untrained": _untrained,
    "efficientnet-lite0": load_lite0,
    "pixels16": load_pixels16,
}
_ARCHITECTURES: dict[str, Callable[[EncoderBundle], nn.Module]] = {
    "microsnoop-cnn": _build_folded,
    "efficientnet-lite0": _build_lite0,
    "pixels16": lambda _bundle: Pixels16().eval(),
}
