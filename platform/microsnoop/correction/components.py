"""Principal components of all rows: the uncorrected baseline that corrections are read against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import EVERYTHING, Corrector, Fit
from microsnoop.correction.rows import Obs, blocks, check_matrix
from microsnoop.ops.coral import principal_axes


def take_all_rows(obs: Obs | None, X: NDArray[Any]) -> Obs | None:
    """Return ``obs`` with every row counted as one to fit on."""
    if obs is None:
        return None
    n = np.shape(X)[0] if np.ndim(X) else 0
    return {**{name: obs[name] for name in obs}, "is_control": np.ones(n, bool)}


@dataclass(frozen=True)
class Components:
    """Leading components: ``mean`` (d,), ``variances`` (k,) and ``axes`` (d, k)."""

    mean: NDArray[np.float64]
    variances: NDArray[np.float64]
    axes: NDArray[np.float64]
    spectrum: NDArray[np.float64]  # the variances of all, (rank,)

    @property
    def share(self) -> float:
        """Share of the variance that is kept."""
        return float(self.variances.sum() / self.spectrum.sum())


def take_components(rows: NDArray[Any], wanted: int, *, ddof: int = 1) -> Components:
    """Return the leading principal components of rows (n, d): as many as wanted, or as there are.

    Raises
    ------
    CorrectionError
        ``too_few_controls``: one row. ``no_variance``: all rows are the same.
    """
    if len(rows) < 2:
        raise CorrectionError("too_few_controls", "principal components need at least two rows, there is one")
    mean, variances, axes = principal_axes(rows, ddof=ddof)
    spectrum = variances[variances > 0]
    if not len(spectrum):
        raise CorrectionError("no_variance", f"all {len(rows)} rows are the same: there is nothing to turn")
    kept = min(wanted, len(spectrum))
    return Components(mean, variances[:kept], axes[:, :kept], spectrum)


def tell_capped(found: Components, shape: tuple[int, ...], wanted: int) -> str:
    """Return what is to be said where fewer components were kept than wanted; nothing where they were not."""
    kept, (n, d) = len(found.variances), shape
    if kept >= wanted:
        return ""
    return f"{n} rows of {d} features vary in {kept} directions: {kept} components instead of {wanted}"


class PrincipalComponents(Corrector):
    """Scores on the leading principal components of **all** rows, controls and treatments.

    Centred, not scaled. It corrects nothing: it is what other methods are compared with. The fit holds ``mean``
    (d,), ``axes`` (d, k) and ``variances`` (k,), in ``info`` the share of variance that is kept.

    Parameters
    ----------
    n_components
        At most so many; fewer where the rows do not vary in so many directions (finding ``components_capped``).
    whiten
        Scale every component to variance 1 (divisor n - 1).
    """

    method: ClassVar[str] = "pca"

    def __init__(self, *, n_components: int = 50, whiten: bool = False) -> None:
        self.n_components = n_components
        self.whiten = whiten

    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        self._check_parameters()
        values, _ = self.begin(X, take_all_rows(obs, X), features)
        found = take_components(values, self.n_components)
        capped = tell_capped(found, values.shape, self.n_components)
        if capped:
            self.note("components_capped", capped)
        arrays = {"mean": found.mean, "axes": found.axes, "variances": found.variances}
        info = {"n": len(values), "rank": len(found.spectrum), "share": found.share}
        self.fits_[EVERYTHING] = Fit(arrays, info)
        self.features_out_ = [f"PC{j + 1}" for j in range(len(found.variances))]
        return self

    def transform(
        self,
        X: NDArray[Any],
        obs: Obs | None = None,  # noqa: ARG002  (part of the contract; components ask nothing of it)
        *,
        features: Sequence[str] | None = None,
    ) -> NDArray[np.float32]:
        values = check_matrix(X)
        self.check_features(features, values.shape[1])
        arrays = self.fits_[EVERYTHING].arrays
        matrix = arrays["axes"] / (np.sqrt(arrays["variances"]) if self.whiten else 1.0)
        out = np.empty((len(values), matrix.shape[1]), np.float32)
        for block in blocks(len(values)):
            out[block] = (values[block] - arrays["mean"]) @ matrix
        return out

    def _check_parameters(self) -> None:
        if self.n_components < 1:
            raise CorrectionError(
                "bad_parameter", f"pca: n_components must be at least 1, got {self.n_components}"
            )
