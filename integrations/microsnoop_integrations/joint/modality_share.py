"""What each modality gives to a joint representation: how well it is kept, and its weight in each cell.

Source: multimodal spec, section 8, "modality share".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold

from microsnoop.ops.jaccard import check_rows
from microsnoop_integrations.joint.resampling import group_codes

_RIDGE = 1e-4  # of the mean variance of a coordinate: keeps coordinates that hardly vary from being blown up


@dataclass(frozen=True)
class ModalityShare:
    """How much of each modality's hidden values can be told from the latent, linearly: held-out R², at most 1.

    Below 0 the prediction is worse than the mean; NaN where a modality does not vary. ``grouped`` says that whole
    groups were held out.
    """

    rna: float
    image: float
    folds: int
    grouped: bool


def modality_share(
    latent: NDArray[Any],
    hidden_rna: NDArray[Any],
    hidden_image: NDArray[Any],
    *,
    groups: NDArray[Any] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> ModalityShare:
    """Predict both modalities from the latent by ridge regression, each fold from the others.

    R² = 1 - (squared errors) / (squared deviations from the training mean), both summed over cells and features.

    Parameters
    ----------
    latent, hidden_rna, hidden_image
        (n, d), (n, p) and (n, q), finite.
    groups
        (n,): cells of a group (a field of view) are held out together; folds are capped at their number. One group
        alone is no group.
    folds
        At least 2; capped at n.

    Raises
    ------
    ValueError
        Shapes that do not fit, fewer than three cells, values that are not finite, ``folds`` below 2.
    """
    n = len(latent)
    for part in (latent, hidden_rna, hidden_image):
        check_rows(part)
        if len(part) != n:
            raise ValueError(f"all parts must hold the same cells, got {n} and {len(part)}")
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    if n < 3:
        raise ValueError(f"a prediction needs at least 3 cells, got {n}")
    unit = group_codes(groups, n)
    folds = min(folds, n if unit is None else int(unit.max()) + 1)
    split = (KFold if unit is None else GroupKFold)(folds, shuffle=True, random_state=seed)
    fold = np.empty(n, np.int64)
    for number, (_, test) in enumerate(split.split(latent, groups=unit)):
        fold[test] = number
    hidden = np.concatenate([hidden_rna, hidden_image], axis=1).astype(np.float64)
    error, total = _held_out(latent.astype(np.float64), hidden, fold)
    # a constant feature keeps the rounding error of its mean; that is no variance
    total[total <= n * np.square(16 * np.finfo(np.float64).eps * np.abs(hidden).max(axis=0))] = 0
    width = hidden_rna.shape[1]
    rna, image = (_r2(error[part], total[part]) for part in (slice(width), slice(width, None)))
    return ModalityShare(rna, image, folds, unit is not None)


def modality_weight(part_rna: NDArray[Any], part_image: NDArray[Any]) -> NDArray[np.float32]:
    """Return the share of the transcripts in each cell's joint coordinates, float32 (n,) in [0, 1].

    ``|a| / (|a| + |b|)`` with the two parts of the joint layer, each of the hidden values less their mean:
    ``a = Wo_x (hx - mean)`` and ``b = Wo_y (hy - mean)``; 0.5 where both are 0.

    Parameters
    ----------
    part_rna, part_image
        (n, d) each, finite.

    Raises
    ------
    ValueError
        Shapes that differ, or values that are not finite.
    """
    check_rows(part_rna)
    check_rows(part_image)
    if part_rna.shape != part_image.shape:
        raise ValueError(f"both parts must be (n, d), got {part_rna.shape} and {part_image.shape}")
    rna, image = (np.linalg.norm(part.astype(np.float64), axis=1) for part in (part_rna, part_image))
    both = rna + image
    return np.divide(rna, both, out=np.full(len(both), 0.5), where=both > 0).astype(np.float32)


def _held_out(
    z: NDArray[np.float64], hidden: NDArray[np.float64], fold: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return squared errors of the predictions, and of the training mean, of each column of ``hidden``."""
    error, total = np.zeros(hidden.shape[1]), np.zeros(hidden.shape[1])
    for number in range(int(fold.max()) + 1):
        train, test = fold != number, fold == number
        z_mean, h_mean = z[train].mean(axis=0), hidden[train].mean(axis=0)
        known = z[train] - z_mean
        gram = known.T @ known
        ridge = _RIDGE * np.trace(gram) / len(gram)
        # nothing varies: any ridge gives slopes of 0
        gram[np.diag_indices_from(gram)] += ridge if ridge > 0 else 1.0
        slopes = np.linalg.solve(gram, known.T @ (hidden[train] - h_mean))
        deviation = hidden[test] - h_mean
        total += np.square(deviation).sum(axis=0)
        deviation -= (z[test] - z_mean) @ slopes
        error += np.square(deviation).sum(axis=0)
    return error, total


def _r2(error: NDArray[np.float64], total: NDArray[np.float64]) -> float:
    varies = total > 0
    return float(1 - error[varies].sum() / total[varies].sum()) if varies.any() else np.nan
