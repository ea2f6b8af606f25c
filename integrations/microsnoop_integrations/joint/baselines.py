"""What a joint method is measured against: each modality alone, and both put side by side. Spec, section 7.

All of it works on arrays, dense or CSR, row by row in blocks: nothing of the size n × n, no dense copy of a sparse
matrix.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh, qr

from microsnoop.core.errors import JointError
from microsnoop_integrations.graph_clusters import Method, cluster
from microsnoop_integrations.joint.representation import Representation

COMPONENTS = 50  # the paper does not say how many; spec, section 0
K = 30
RESOLUTION = 1.0

_ROWS = 4_096
_EXACT_FEATURES = 4_000  # up to here the covariance is held whole: 128 MB
_SPARE = 20  # directions beyond those asked for, and passes over the data, of the approximate search
_PASSES = 8


@dataclass(frozen=True)
class Components:
    """Principal components: ``scores`` float32 (n, c), and the share of the variance of each, float64 (c,)."""

    scores: NDArray[np.float32]
    explained: NDArray[np.float64]


def single(
    x: Any,
    *,
    name: str,
    components: int = COMPONENTS,
    k: int = K,
    resolution: float = RESOLUTION,
    method: Method = "leiden",
    seed: int = 0,
) -> Representation:
    """See the cells by one modality: its principal components, clustered.

    Parameters
    ----------
    x
        (n, d) dense or CSR, finite.
    name
        Of the modality, as tables show it.
    components
        Capped at min(n - 1, d).
    k, resolution, method, seed
        Of the clusters, see :func:`microsnoop_integrations.graph_clusters.cluster`.

    Raises
    ------
    JointError
        ``not_finite``, ``no_variance``, ``too_few_cells``.
    """
    start = time.perf_counter()
    found = principal_components(x, components=components, seed=seed)
    return _clustered(name, found, start, k=k, resolution=resolution, method=method, seed=seed)


def concat(
    x: Any,
    y: Any,
    *,
    components: int = COMPONENTS,
    k: int = K,
    resolution: float = RESOLUTION,
    method: Method = "leiden",
    seed: int = 0,
) -> Representation:
    """See the cells by both modalities side by side, each with a total variance of 1: components of the whole.

    Parameters
    ----------
    x, y
        (n, p) and (n, q), dense or CSR, finite, rows of the same cells.

    Other parameters and errors as in :func:`single`.
    """
    start = time.perf_counter()
    found = principal_components(x, y, components=components, seed=seed)
    return _clustered("concat", found, start, k=k, resolution=resolution, method=method, seed=seed)


def principal_components(*blocks: Any, components: int = COMPONENTS, seed: int = 0) -> Components:
    """Give the principal components of one matrix, or of several side by side.

    Each feature is centred; several matrices are divided by the square root of their total variance first, so that
    none outweighs another by its number of features or its unit. Exact up to 4,000 features; beyond, the leading
    directions are found by eight seeded passes over the rows. A component's largest loading is positive.

    Parameters
    ----------
    blocks
        Each (n, d), dense or CSR, finite; rows of the same cells. Not changed.
    components
        Capped at min(n - 1, all d).

    Raises
    ------
    JointError
        ``not_finite`` numbers; ``no_variance``: every cell has the same values in a matrix.
    ValueError
        Not matrices, a different number of rows, fewer than two, or ``components`` below 1.
    """
    _check_shapes(blocks, components)
    stack = _Stack([_prepared(block, at, len(blocks) > 1) for at, block in enumerate(blocks)])
    count = min(components, stack.n - 1, stack.d)
    if stack.d <= _EXACT_FEATURES:
        values, vectors = eigh(stack.covariance_times(None), subset_by_index=(stack.d - count, stack.d - 1))
    else:
        values, vectors = _leading(stack, count, seed)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(count)]
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    scores = np.empty((stack.n, count), np.float32)
    for rows, values_of in stack.rows():
        scores[rows] = values_of @ vectors
    return Components(scores, values / stack.total)


@dataclass(frozen=True)
class _Block:
    """A matrix with what centres and scales it."""

    matrix: Any
    mean: NDArray[np.float64]
    total: float  # summed variance of the features, after scaling
    scale: float


class _Stack:
    """Matrices side by side, handed out as centred and scaled rows, a few thousand at a time."""

    def __init__(self, blocks: list[_Block]) -> None:
        self._blocks = blocks
        self.n = int(blocks[0].matrix.shape[0])
        self.d = sum(block.matrix.shape[1] for block in blocks)
        self.total = sum(block.total for block in blocks)

    def rows(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        for rows in _slices(self.n):
            parts = [(_dense(block.matrix[rows]) - block.mean) * block.scale for block in self._blocks]
            yield rows, np.concatenate(parts, axis=1)

    def covariance_times(self, directions: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Return the covariance (d, d), or its product with ``directions`` (d, l)."""
        result = np.zeros((self.d, self.d if directions is None else directions.shape[1]))
        for _, values in self.rows():
            result += values.T @ (values if directions is None else values @ directions)
        return result / self.n


def _leading(stack: _Stack, count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Find the leading directions by subspace iteration; values rise, as those of ``eigh`` do."""
    width = min(count + _SPARE, stack.n, stack.d)
    basis = np.random.default_rng(seed).normal(size=(stack.d, width))
    for _ in range(_PASSES):
        basis = qr(stack.covariance_times(basis), mode="economic")[0]
    values, rotation = eigh(basis.T @ stack.covariance_times(basis))
    return values[-count:], basis @ rotation[:, -count:]


def _prepared(matrix: Any, at: int, balanced: bool) -> _Block:
    """Measure a matrix (two passes, so that a large mean does not swallow the variance)."""
    matrix = matrix.tocsr() if sparse.issparse(matrix) else matrix
    n = int(matrix.shape[0])
    mean = np.zeros(matrix.shape[1])
    for rows in _slices(n):
        mean += _dense(matrix[rows]).sum(axis=0) / n
    if not np.isfinite(mean).all():
        raise JointError(
            "not_finite",
            f"{(~np.isfinite(mean)).sum()} of {len(mean)} features of matrix {at + 1} hold NaN or infinity",
            hint="drop those cells from both modalities, or those features",
        )
    total = sum(float(np.square(_dense(matrix[rows]) - mean).sum()) for rows in _slices(n)) / n
    size = float(np.square(mean).sum())
    if total <= 1e-24 * (size + 1e-300):  # what rounding of equal numbers leaves
        raise JointError(
            "no_variance",
            f"all {n} cells have the same values in matrix {at + 1}",
            hint="a modality in which nothing varies cannot be analysed; look at how it was made",
        )
    return _Block(matrix, mean, 1.0, total**-0.5) if balanced else _Block(matrix, mean, total, 1.0)


def _check_shapes(blocks: tuple[Any, ...], components: int) -> None:
    if components < 1:
        raise ValueError(f"components must be at least 1, got {components}")
    shapes = [np.shape(block) for block in blocks]
    if not shapes or any(len(shape) != 2 or not shape[1] for shape in shapes):
        raise ValueError(f"matrices (cells, features) are needed, got shapes {shapes}")
    if len({shape[0] for shape in shapes}) > 1 or shapes[0][0] < 2:
        raise ValueError(f"rows must be the same two or more cells in every matrix, got shapes {shapes}")


def _clustered(
    name: str, found: Components, start: float, *, k: int, resolution: float, method: Method, seed: int
) -> Representation:
    labels = cluster(found.scores, k=k, resolution=resolution, method=method, seed=seed)
    info = {
        "components": found.scores.shape[1],
        "explained": float(found.explained.sum()),
        "k": k,
        "resolution": resolution,
        "method": method,
        "seed": seed,
    }
    return Representation(name, found.scores, labels, seconds=time.perf_counter() - start, info=info)


def _dense(rows: Any) -> NDArray[np.float64]:
    return np.asarray(rows.toarray() if sparse.issparse(rows) else rows, np.float64)


def _slices(n: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS) for start in range(0, n, _ROWS))
