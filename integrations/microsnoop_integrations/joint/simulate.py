"""Cells seen by two modalities, neither of which can tell all clusters apart. Source: multimodal spec, section 6.

The generator is that of the published MUSE (Bao et al. 2022), written anew: transcripts and image features of the
same cells, drawn from latents that are independent given the clusters that each modality sees.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import adjusted_rand_score

from microsnoop.core.errors import ConfigError

_MIN_CLUSTERS = 4
_MIN_CELLS_PER_CLUSTER = 5
_LATENT_VARIANCE = 0.1
_ROWS = 4_096  # cells drawn at a time: bounds the memory beside the two matrices; part of the order of draws


@dataclass(frozen=True)
class SimulationParameters:
    """What is simulated.

    Attributes
    ----------
    n, clusters, latent
        Cells, true clusters (K), and dimension of the latents (k).
    d1, d2
        Features of modality A (transcripts) and B (image).
    sigma1, sigma2
        Standard deviation of the noise of A and B.
    decay_coef_1
        A: an entry ``x`` is lost with probability ``exp(-decay_coef_1 x²)``; larger loses fewer.
    decay_coef_2
        B: an entry is lost with this probability; larger loses more.
    merge
        Probability that a cluster looks like the one before it, to A in the first half of the clusters, to B in
        the second.

    Raises
    ------
    ConfigError
        A value out of range, fewer than 4 clusters, or fewer than 5 cells per cluster.
    """

    n: int = 1_000
    clusters: int = 10
    latent: int = 30
    d1: int = 500
    d2: int = 500
    sigma1: float = 0.1
    sigma2: float = 0.1
    decay_coef_1: float = 0.5
    decay_coef_2: float = 0.1
    merge: float = 0.7

    def __post_init__(self) -> None:
        if self.clusters < _MIN_CLUSTERS:
            raise ConfigError(f"the simulation needs at least {_MIN_CLUSTERS} clusters, got {self.clusters}")
        if self.n < _MIN_CELLS_PER_CLUSTER * self.clusters:
            raise ConfigError(
                f"{self.n} cells are too few for {self.clusters} clusters",
                hint=f"give at least {_MIN_CELLS_PER_CLUSTER * self.clusters} (5 per cluster)",
            )
        for name in ("latent", "d1", "d2"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("sigma1", "sigma2", "decay_coef_1"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("decay_coef_2", "merge"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} is a probability and must lie in [0, 1], got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class Simulation:
    """Cells of one simulation.

    Attributes
    ----------
    x
        (n, d1) float32, not negative: transcripts.
    y
        (n, d2) float32 in [0, 1): image features.
    label
        (n,) int64: true cluster, 0..K-1.
    label_x, label_y
        (n,) int64: cluster as A and as B see it, named after the first of those that were merged.
    obs_ids
        (n,) str: ``cell_0000`` and on.
    parameters, seed
        What it was made with.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    label: NDArray[np.int64]
    label_x: NDArray[np.int64]
    label_y: NDArray[np.int64]
    obs_ids: NDArray[np.str_]
    parameters: SimulationParameters
    seed: int


def simulate(parameters: SimulationParameters | None = None, *, seed: int) -> Simulation:
    """Draw one data set (default: the demo setting of the published tool).

    One generator gives every number, in this order: labels; merges of A; merges of B; then for A: means of K
    clusters (also of those merged away), latents of all cells, projection, and for every 4,096 cells their noise
    and their losses; then the same for B, whose two projections follow one another. So the labels depend on ``n``,
    ``clusters`` and the seed alone, and the transcripts on nothing that concerns the images.

    Raises
    ------
    ValueError
        A negative seed.
    """
    given = parameters or SimulationParameters()
    rng = np.random.default_rng(seed)
    half = given.clusters // 2
    label = rng.integers(given.clusters, size=given.n)
    seen_x = _merged(range(1, half), given, rng)
    seen_y = _merged(range(half + 1, given.clusters), given, rng)
    label_x, label_y = seen_x[label], seen_y[label]
    x = _transcripts(_latents(label_x, given, rng), given, rng)
    y = _image_features(_latents(label_y, given, rng), given, rng)
    width = max(4, len(str(given.n - 1)))
    ids = np.array([f"cell_{row:0{width}d}" for row in range(given.n)])
    return Simulation(x, y, label, label_x, label_y, ids, given, seed)


def ceiling(label: NDArray[np.int64], seen: NDArray[np.int64]) -> float:
    """Give the ARI between the true partition and what a modality sees.

    It is what a modality reaches when it finds exactly the clusters that it sees. Not a strict bound: cutting a
    merged cluster into parts at random joins fewer wrong pairs, and may score a little higher.
    """
    return float(adjusted_rand_score(label, seen))


def _merged(later: range, given: SimulationParameters, rng: np.random.Generator) -> NDArray[np.int64]:
    """Give what each cluster looks like; each of ``later`` may take the look of the one before it (chains)."""
    seen = np.arange(given.clusters)
    takes = rng.random(len(later)) < given.merge
    for cluster, taken in zip(later, takes, strict=True):
        if taken:
            seen[cluster] = seen[cluster - 1]
    return seen


def _latents(
    seen: NDArray[np.int64], given: SimulationParameters, rng: np.random.Generator
) -> NDArray[np.float64]:
    means = rng.uniform(-0.5, 0.5, size=(given.clusters, given.latent))
    spread = rng.normal(scale=math.sqrt(_LATENT_VARIANCE), size=(given.n, given.latent))
    return means[seen] + spread


def _transcripts(
    latents: NDArray[np.float64], given: SimulationParameters, rng: np.random.Generator
) -> NDArray[np.float32]:
    projection = rng.uniform(-0.5, 0.5, size=(given.latent, given.d1))
    x = np.empty((given.n, given.d1), np.float32)
    for rows in _blocks(given.n):
        values = np.maximum(latents[rows] @ projection, 0)
        # weak entries are lost more often, and what counts is how strong they are before the noise
        lost = np.exp(-given.decay_coef_1 * values**2)
        values = np.maximum(values + rng.normal(scale=given.sigma1, size=values.shape), 0)
        x[rows] = np.where(rng.random(values.shape) < lost, 0, values)
    return x


def _image_features(
    latents: NDArray[np.float64], given: SimulationParameters, rng: np.random.Generator
) -> NDArray[np.float32]:
    first = rng.uniform(-0.5, 0.5, size=(given.latent, given.d2))
    second = rng.uniform(-0.5, 0.5, size=(given.d2, given.d2))
    y = np.empty((given.n, given.d2), np.float32)
    for rows in _blocks(given.n):
        values = expit(latents[rows] @ first) @ second
        values = expit(values + rng.normal(scale=given.sigma2, size=values.shape))
        y[rows] = np.where(rng.random(values.shape) < given.decay_coef_2, 0, values)
    return y


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, n, _ROWS))
