"""Image features made ready for a joint analysis: principal components, divided by one number.

Source: multimodal spec, sections 0 and 1: 50 components, capped at min(n - 1, q), scores divided by one scalar so
that the mean feature variance is 1 (the paper names neither). The constants are kept, so that new cells are turned
and scaled as the training cells were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import eigh

from microsnoop.core.errors import JointError
from microsnoop_integrations.joint.feature_order import take_features

COMPONENTS = 50
_EXACT_FEATURES = 4_000  # up to here the covariance is held whole: 128 MB
_BLOCK_ROWS = 4_096
_RANK_TOLERANCE = 1e-10  # of the largest variance: what lies below is rounding
_ARRAYS = ("mean", "sd", "axes")


@dataclass(frozen=True)
class ImageReduction:
    """How image features are made ready, learned from the training cells.

    ``((y - mean) / sd) @ axes / scale``; where ``axes`` has no columns, features are passed on as they are.

    Attributes
    ----------
    features
        Names of the columns that are used, q of them: those that vary.
    mean, sd
        (q,) float64; ``sd`` is 1 unless features are standardised.
    axes
        (q, c) float64, columns of length 1; the largest entry of each is positive.
    scale
        What scores are divided by, so that the mean of their variances is 1.
    """

    features: tuple[str, ...]
    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    axes: NDArray[np.float64]
    scale: float

    @classmethod
    def fit(
        cls,
        y: NDArray[Any],
        features: tuple[str, ...],
        *,
        components: int | None = COMPONENTS,
        standardise: bool = False,
        seed: int = 0,
    ) -> ImageReduction:
        """Learn the reduction from (n, q) finite values, none of the columns constant.

        Parameters
        ----------
        y
            (n, q), n at least 2. Not changed.
        features
            Names of the columns.
        components
            Capped at min(n - 1, q) and at the rank; None passes features on as they are.
        standardise
            Give every feature a variance of 1 before.
        seed
            Of the search for components beyond 4,000 features, which is approximate.
        """
        q = y.shape[1]
        if components is None:
            return cls(features, np.zeros(q), np.ones(q), np.empty((q, 0)), 1.0)
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}")
        mean = y.mean(axis=0, dtype=np.float64)
        sd = y.std(axis=0, dtype=np.float64) if standardise else np.ones(q)
        axes = _principal_axes(y, mean, sd, count=min(components, len(y) - 1, q), seed=seed)
        scores = cls(features, mean, sd, axes, 1.0).transform(y)
        return cls(features, mean, sd, axes, float(np.sqrt(scores.var(axis=0, dtype=np.float64).mean())))

    def transform(self, y: NDArray[Any]) -> NDArray[np.float32]:
        """Reduce (m, q) features, in the order of ``features``, to (m, c) float32."""
        if y.ndim != 2 or y.shape[1] != len(self.features):
            raise ValueError(f"(m, {len(self.features)}) features are needed, got shape {y.shape}")
        if not self.axes.shape[1]:
            return np.array(y, np.float32, order="C")
        reduced = np.empty((len(y), self.axes.shape[1]), np.float32)
        for start in range(0, len(y), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            reduced[rows] = ((y[rows] - self.mean) / self.sd) @ (self.axes / self.scale)
        return reduced

    def apply(self, data: ad.AnnData, *, layer: str | None = None) -> NDArray[np.float32]:
        """Reduce the image features of new cells to (m, c) float32; rows that are not finite stay NaN.

        Raises
        ------
        JointError
            ``feature_mismatch``: features that are missing or in another order.
        """
        y, names = read_features(data, layer)
        y, _ = take_features(y, names, needed=self.features, what="image features")
        finite = np.isfinite(y).all(axis=1)
        width = self.axes.shape[1] or len(self.features)
        reduced = np.full((len(y), width), np.nan, np.float32)
        reduced[finite] = self.transform(y[finite])
        return reduced

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the numbers as arrays: ``mean``, ``sd``, ``axes`` and ``scale`` (1,)."""
        return {**{name: getattr(self, name) for name in _ARRAYS}, "scale": np.array([self.scale])}

    @classmethod
    def from_arrays(cls, features: tuple[str, ...], arrays: Mapping[str, NDArray[Any]]) -> ImageReduction:
        """Return what :meth:`arrays` described."""
        mean, sd, axes = (np.asarray(arrays[name], np.float64) for name in _ARRAYS)
        return cls(features, mean, sd, axes.reshape(len(features), -1), float(arrays["scale"][0]))


def read_features(data: ad.AnnData, layer: str | None = None) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return image features (n, q), dense, and their names.

    Parameters
    ----------
    data
        One row a cell. Not changed.
    layer
        A layer, or a key of ``obsm`` (``X_harmony``: corrected embeddings); default ``X``.

    Raises
    ------
    JointError
        ``no_image_features``: no such layer, no columns, or values that are not numbers. ``duplicate_features``.
    """
    names = [str(name) for name in data.var_names]
    if layer is None or layer in data.layers:
        found: Any = data.X if layer is None else data.layers[layer]
    elif layer in data.obsm:
        found = np.asarray(data.obsm[layer])
        names = [f"{layer}{j}" for j in range(found.shape[1])]
    else:
        raise JointError("no_image_features", f"the images have neither a layer nor an obsm {layer!r}")
    if found is None or 0 in found.shape:
        raise JointError("no_image_features", f"{layer or 'X'} of the images holds no values")
    if hasattr(found, "to_memory"):  # backed by a file
        found = found.to_memory()
    y = found.toarray() if sparse.issparse(found) else np.asarray(found)
    if y.dtype.kind not in "buif":
        raise JointError("no_image_features", f"{layer or 'X'} of the images holds {y.dtype}, not numbers")
    if len(set(names)) < len(names):
        raise JointError(
            "duplicate_features",
            f"{len(names) - len(set(names))} names of image features stand more than once",
            hint="features are told apart by name: data.var_names_make_unique()",
        )
    return y, tuple(names)


def _principal_axes(
    y: NDArray[Any], mean: NDArray[np.float64], sd: NDArray[np.float64], *, count: int, seed: int
) -> NDArray[np.float64]:
    """Return the leading principal axes (q, at most ``count``), those of more than rounding."""
    n, q = y.shape
    if q <= _EXACT_FEATURES:
        covariance = np.zeros((q, q))
        for start in range(0, n, _BLOCK_ROWS):
            block = (y[start : start + _BLOCK_ROWS] - mean) / sd
            covariance += block.T @ block
        variances, axes = eigh(covariance, subset_by_index=(q - count, q - 1))
        variances, axes = variances[::-1], axes[:, ::-1]
    else:
        from sklearn.decomposition import PCA

        # sklearn centres for itself
        pca = PCA(count, svd_solver="randomized", iterated_power=8, random_state=seed)
        pca.fit(np.asarray(y / sd, np.float32))
        variances, axes = pca.explained_variance_, pca.components_.T.astype(np.float64)
    axes = axes[:, variances > _RANK_TOLERANCE * variances[0]]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return np.asarray(axes * np.where(largest < 0, -1.0, 1.0), np.float64)
