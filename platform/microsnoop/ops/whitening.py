"""Whitening without labels: centre vectors, turn them to their principal axes, even out the variances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# below this share of the largest eigenvalue a direction is rounding error, not variance
_RANK_TOLERANCE = 1e-10


def fit_whitening(
    vectors: NDArray[Any], ridge: float = 0.02, *, dim: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit mean and matrix such that ``(x - mean) @ matrix`` has nearly equal variance along all axes.

    With eigenvalues λ (largest first) and eigenvectors v of the covariance (divisor n - 1), column k of the
    matrix is ``v_k / sqrt(λ_k + ridge · mean(λ))``: the covariance after whitening is diagonal with entries
    ``λ_k / (λ_k + ridge · mean(λ))``. The ridge keeps directions that hardly vary from being blown up to the
    size of the others. PCA whitening; the ridge as a share of the mean eigenvalue is our choice.

    Parameters
    ----------
    vectors
        (n, D), real and finite, n at least 2. Not changed.
    ridge
        Share of the mean eigenvalue (trace / D) that is added to every eigenvalue, at least 0.
    dim
        Keep only so many axes, those of the largest variance. Default: all that vary.

    Returns
    -------
    mean (D,) and matrix (D, K), float64. Directions without any variance (constant features; all beyond
    n - 1 when n is at most D) are left out, because nothing is known of their scale: K is the rank, at most
    ``min(D, n - 1, dim)``. The sign of each column makes its entry of largest size positive.

    Raises
    ------
    ValueError
        Not (n, D) with n > 1, values that are not finite, no variance at all, ``ridge`` or ``dim`` out of range.
    """
    if vectors.ndim != 2 or len(vectors) < 2 or not vectors.shape[1]:
        raise ValueError(f"vectors must be (n, D) with at least two rows, got shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        raise ValueError(f"{bad} of {len(vectors)} vectors hold values that are not finite")
    if not (np.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge must be a finite number of at least 0, got {ridge}")
    if dim is not None and dim < 1:
        raise ValueError(f"dim must be at least 1, got {dim}")
    x = vectors.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    eigenvalues, axes = np.linalg.eigh(x.T @ x / (len(x) - 1))
    eigenvalues, axes = eigenvalues[::-1], axes[:, ::-1]
    # a constant column keeps the rounding error of its mean; that is no variance
    floor = max(_RANK_TOLERANCE * eigenvalues[0], float(np.square(16 * np.finfo(float).eps * mean).max()))
    rank = min(int((eigenvalues > floor).sum()), len(x) - 1)
    if rank == 0:
        raise ValueError(f"all {len(x)} vectors are the same: there is nothing to whiten")
    kept = rank if dim is None else min(rank, dim)
    scale = np.sqrt(eigenvalues[:kept] + ridge * eigenvalues.clip(min=0).mean())
    columns = axes[:, :kept]
    signs = np.sign(columns[np.abs(columns).argmax(axis=0), np.arange(kept)])
    return mean, columns * (signs / scale)
