"""Whether image features are standardised before they become principal components, found without any label.

Features of a network differ in scale for no good reason, and a noisy one may outweigh all others; features that are
principal components already would only have their noise blown up. So both are tried, and what makes clusters easier
to find again in other cells is taken. Ours; the paper names neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import JointError
from microsnoop.core.muse_config import MuseParameters
from microsnoop_integrations.joint.image_features import ImageReduction
from microsnoop_integrations.muse.replicability import replicability

# a difference within what halving cells differently makes: then the features stay as they are
_CLEAR = 0.02


def reduce_images(
    y: NDArray[Any], features: Sequence[str] | None, parameters: MuseParameters
) -> ImageReduction:
    """Learn how (n, q) image features are scaled and reduced; constant ones weigh nothing.

    Raises
    ------
    JointError
        ``no_variance``: all cells have the same features.
    """
    names = tuple(features) if features is not None else tuple(f"feature_{i}" for i in range(y.shape[1]))
    varies = y.max(axis=0) > y.min(axis=0)
    if not varies.any():
        raise JointError("no_variance", f"all {len(y)} cells have the same image features")
    choices = {"auto": (False, True), "yes": (True,), "no": (False,)}[parameters.image_standardise]
    found = [_fitted(y, names, varies, standardise, parameters) for standardise in choices]
    if len(found) == 1:
        return found[0]
    as_is, standardised = (
        replicability(
            reduction.transform(y),
            k=parameters.k,
            resolution=parameters.resolution,
            method=parameters.clustering,
            seed=parameters.seed,
        )
        for reduction in found
    )
    return found[int(standardised > as_is + _CLEAR)]


def _fitted(
    y: NDArray[Any],
    names: tuple[str, ...],
    varies: NDArray[np.bool_],
    standardise: bool,
    parameters: MuseParameters,
) -> ImageReduction:
    """Learn from the features that vary; the others are kept as columns, with a weight of 0."""
    chosen = tuple(name for name, kept in zip(names, varies, strict=True) if kept)
    found = ImageReduction.fit(
        y if varies.all() else y[:, varies],
        chosen,
        components=parameters.image_components,
        standardise=standardise,
        seed=parameters.seed,
    )
    if varies.all():
        return found
    mean, sd, axes = np.zeros(len(names)), np.ones(len(names)), np.zeros((len(names), found.axes.shape[1]))
    mean[varies], sd[varies], axes[varies] = found.mean, found.sd, found.axes
    return ImageReduction(names, mean, sd, axes, found.scale)
