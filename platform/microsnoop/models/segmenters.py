"""Segmenters behind one contract: a plane (H, W) in, a label mask (H, W) int32 out.

``threshold`` is built in. The others are networks of other projects, used where their package is installed
and their weights lie on disk: nothing is ever downloaded, because a run must be repeatable without a network
and the licence of weights is the user's to accept.

============  =======================================================  ===================================
method        what ``model`` points to                                 source
============  =======================================================  ===================================
threshold     nothing                                                  :mod:`microsnoop.ops.segment`
cellpose      the file of a Cellpose model                             Stringer et al. 2021, Pachitariu 2025
stardist      the folder of a 2D model (config.json, weights_*.h5)     Schmidt et al. 2018
instanseg     the TorchScript file of a model (instanseg.pt)           Goldsborough et al. 2024
============  =======================================================  ===================================
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, EncoderError
from microsnoop.core.optional import require
from microsnoop.ops.intensity import percentiles
from microsnoop.ops.segment import ThresholdSettings, segment_threshold


class Segmenter(Protocol):
    """Finds the objects of a plane."""

    @property
    def name(self) -> str:
        """Method and, for networks, file name of the weights."""

    def __call__(self, plane: NDArray[Any]) -> NDArray[np.int32]:
        """Return the label mask (H, W) of a finite real plane (H, W); 0 is background."""


@dataclass(frozen=True)
class ThresholdSegmenter:
    """The built-in segmenter: threshold and watershed, no weights."""

    settings: ThresholdSettings
    name: str = "threshold"

    def __call__(self, plane: NDArray[Any]) -> NDArray[np.int32]:
        return segment_threshold(plane, self.settings)


@dataclass(frozen=True)
class ForeignSegmenter:
    """A network of another package; ``predict`` takes float32 (H, W) and gives what the package gives."""

    name: str
    predict: Callable[[NDArray[np.float32]], Any]

    def __call__(self, plane: NDArray[Any]) -> NDArray[np.int32]:
        if plane.ndim != 2 or not plane.size or plane.dtype.kind not in "uifb":
            raise ValueError(f"a plane must be (H, W), real and not empty, got {plane.shape} {plane.dtype}")
        values = plane.astype(np.float32)  # a copy: packages may write into it
        if not np.isfinite(values).all():
            raise ValueError("the plane has pixels that are not finite")
        return _as_labels(self.predict(values), plane.shape, self.name)


# method: its package, what model points to, and what a folder of weights holds
_FOREIGN: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cellpose": ("cellpose.models", "the file of a Cellpose model", ()),
    "stardist": ("stardist.models", "the folder of a 2D StarDist model", ("config.json", "weights_*.h5")),
    "instanseg": ("instanseg", "the TorchScript file instanseg.pt", ()),
}


def check_segmenter(method: str, model: str | None) -> None:
    """Raise what :func:`load_segmenter` would for a missing package or weights, without loading either."""
    if method in _FOREIGN:
        package = _FOREIGN[method][0].partition(".")[0]
        if sys.modules.get(package) is None and importlib.util.find_spec(package) is None:
            require(package, extra=method)
        _weights(method, model)


def load_segmenter(
    method: str, *, diameter_px: float | None, settings: ThresholdSettings, model: str | None
) -> Segmenter:
    """Return the segmenter of a method.

    Parameters
    ----------
    method
        ``threshold``, ``cellpose``, ``stardist`` or ``instanseg``.
    diameter_px
        Typical object diameter; None leaves it to the method. Overrides the one in ``settings``. StarDist and
        InstanSeg take no diameter: a number is refused there.
    settings
        Of ``threshold``; the others do not read them.
    model
        Path of the weights on disk, see above.

    Raises
    ------
    ConfigError
        Unknown method, or an argument the method does not take.
    MissingDependency
        The package is not installed.
    EncoderError
        The weights are not on disk.
    """
    if method == "threshold":
        if model is not None:
            raise ConfigError(f"the method 'threshold' has no weights, got model {model!r}")
        if diameter_px is not None:
            settings = replace(settings, diameter_px=diameter_px)
        return ThresholdSegmenter(settings)
    if method == "cellpose":
        return _load_cellpose(model, diameter_px)
    if method not in ("stardist", "instanseg"):
        raise ConfigError(f"a segmenter is one of threshold, cellpose, stardist, instanseg, got {method!r}")
    if diameter_px is not None:
        raise ConfigError(f"{method} takes no diameter, got {diameter_px}", hint="leave diameter_px out")
    return _load_stardist(model) if method == "stardist" else _load_instanseg(model)


def _load_cellpose(model: str | None, diameter_px: float | None) -> Segmenter:
    package = require(_FOREIGN["cellpose"][0], extra="cellpose")
    path = _weights("cellpose", model)
    network = package.CellposeModel(gpu=True, pretrained_model=str(path))  # it falls back to the CPU itself

    def predict(plane: NDArray[np.float32]) -> Any:
        return network.eval(plane, diameter=diameter_px)[0]  # masks, flows, styles

    return ForeignSegmenter(f"cellpose:{path.name}", predict)


def _load_stardist(model: str | None) -> Segmenter:
    package = require(_FOREIGN["stardist"][0], extra="stardist")
    path = _weights("stardist", model)
    network = package.StarDist2D(None, name=path.name, basedir=str(path.parent))

    def predict(plane: NDArray[np.float32]) -> Any:
        low, high = percentiles(plane, (1, 99.8))  # what StarDist's own examples and models are made for
        return network.predict_instances(((plane - low) / ((high - low) or 1.0)).astype(np.float32))[0]

    return ForeignSegmenter(f"stardist:{path.name}", predict)


def _load_instanseg(model: str | None) -> Segmenter:
    package = require(_FOREIGN["instanseg"][0], extra="instanseg")
    path = _weights("instanseg", model)
    # given a name, InstanSeg would look it up on the web; given a module, it does not
    network = package.InstanSeg(require("torch", extra="instanseg").jit.load(str(path)), verbosity=0)

    def predict(plane: NDArray[np.float32]) -> Any:
        labels = network.eval_small_image(plane, return_image_tensor=False, target="nuclei")
        return np.asarray(labels)[0, 0]  # (1, 1, H, W)

    return ForeignSegmenter(f"instanseg:{path.parent.name}", predict)


def _weights(method: str, model: str | None) -> Path:
    """Return the path of weights that are there; never let a package go and fetch them."""
    _, wanted, holds = _FOREIGN[method]
    hint = f"download the weights yourself and set model to {wanted}; nothing is downloaded here"
    if model is None:
        raise EncoderError(f"{method} needs its weights on disk and no model is set", hint=hint)
    path = Path(model).expanduser().resolve()
    there = path.is_dir() and all(any(path.glob(name)) for name in holds) if holds else path.is_file()
    if not there:
        raise EncoderError(f"no weights of {method} at {path}: expected {wanted}", hint=hint)
    return path


def _as_labels(output: Any, shape: tuple[int, ...], name: str) -> NDArray[np.int32]:
    """Check what a package gave and turn it into int32 labels, numbers kept."""
    labels = np.asarray(output)
    if labels.shape != shape:
        raise EncoderError(f"{name} gave a mask of shape {labels.shape} for a plane of {shape}")
    if labels.dtype.kind not in "uif":
        raise EncoderError(f"{name} gave a mask of dtype {labels.dtype}, not labels")
    converted: NDArray[np.int32] = labels.astype(np.int32)
    if (converted != labels).any() or (converted < 0).any():
        raise EncoderError(f"{name} gave a mask whose values are not labels (whole numbers from 0)")
    return converted
