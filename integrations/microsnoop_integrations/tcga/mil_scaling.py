"""Features made ready inside a fold: mean 0 and deviation 1, then components. Source: slides spec, sections 6 and 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop_integrations.joint.image_features import ImageReduction
from microsnoop_integrations.tcga.bags import BagSet

_CONSTANT = 1e-7  # of the size of a feature: float32 cannot tell less
_REDUCTION = "reduction/"


@dataclass(frozen=True)
class FeatureScaling:
    """``(x - mean) / sd``, then perhaps principal components divided by one number; learned from training slides.

    ``mean`` and ``sd`` are (F,) float64; a constant feature has ``sd`` 1.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    reduction: ImageReduction | None = None

    @classmethod
    def fit(cls, bags: BagSet, slides: Sequence[str], settings: MilSettings, *, seed: int) -> FeatureScaling:
        """Learn from all tiles of the slides, the components from ``pca_tiles`` of each at most.

        Raises
        ------
        InputError
            More components than tiles or features.
        """
        mean, sd = np.zeros(bags.width), np.ones(bags.width)
        if not settings.compat.no_standardise:
            mean, sd = _moments(bags, slides)
        if settings.pca is None:
            return cls(mean, sd)
        rng = np.random.default_rng(seed)
        sample = []
        for slide in slides:
            features = bags.features(slide)
            n = min(settings.pca_tiles, len(features))
            rows = np.sort(rng.choice(len(features), n, replace=False))
            sample.append(((features[rows] - mean) / sd).astype(np.float32))
        values = np.concatenate(sample)
        if settings.pca > min(values.shape):
            raise InputError(
                f"{settings.pca} components need as many tiles and features, there are {values.shape}",
                hint="lower pca",
            )
        names = tuple(f"f{j}" for j in range(values.shape[1]))
        return cls(mean, sd, ImageReduction.fit(values, names, components=settings.pca, seed=seed))

    @property
    def width(self) -> int:
        """How many numbers a tile has afterwards."""
        return len(self.mean) if self.reduction is None else self.reduction.axes.shape[1]

    def apply(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Scale (n, F) to (n, ``width``) float32."""
        scaled = ((features - self.mean) / self.sd).astype(np.float32)
        return scaled if self.reduction is None else self.reduction.transform(scaled)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all numbers by name."""
        found: dict[str, NDArray[Any]] = {"mean": self.mean, "sd": self.sd}
        if self.reduction is not None:
            found |= {_REDUCTION + name: array for name, array in self.reduction.arrays().items()}
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FeatureScaling:
        """Return what :meth:`arrays` described."""
        own = {n.removeprefix(_REDUCTION): a for n, a in arrays.items() if n.startswith(_REDUCTION)}
        names = tuple(f"f{j}" for j in range(len(arrays["mean"])))
        reduction = ImageReduction.from_arrays(names, own) if own else None
        return cls(np.array(arrays["mean"]), np.array(arrays["sd"]), reduction)


def slide_means(bags: BagSet, slides: Sequence[str]) -> NDArray[np.float64]:
    """Return the mean tile of each slide, (S, F) float64."""
    return np.stack([bags.features(slide).mean(axis=0, dtype=np.float64) for slide in slides])


def _moments(bags: BagSet, slides: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation over all tiles, in two passes: sums of squares would lose digits."""
    n = sum(len(bags.features(slide)) for slide in slides)
    mean = sum((bags.features(s).sum(axis=0, dtype=np.float64) for s in slides), np.zeros(bags.width)) / n
    squares = sum((np.square(bags.features(s) - mean).sum(axis=0) for s in slides), np.zeros(bags.width))
    sd = np.sqrt(squares / n)
    return mean, np.where(sd > _CONSTANT * np.maximum(1.0, np.abs(mean)), sd, 1.0)
