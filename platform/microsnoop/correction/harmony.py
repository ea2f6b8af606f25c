"""Harmony: batches are mixed within clusters of rows, by the package ``harmonypy``.

Transductive: it moves the rows it is given and learns nothing that other rows could be corrected with.

Source: batch spec, section 7; Korsunsky et al., Nature Methods 16, 1289 (2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.core.optional import require
from microsnoop.correction.base import EVERYTHING, Corrector, Fit
from microsnoop.correction.components import take_all_rows, take_components, tell_capped
from microsnoop.correction.rows import Obs, column, named, order_by_content

_ROWS_PER_CLUSTER, _MAX_CLUSTERS = 30, 100  # published
_TOLERANCE = 1e-2  # published: a round that lowers the objective by a smaller share is the last one


class Harmony(Corrector):
    """Principal components of all rows, moved until clusters hold all batches alike; (n, n_pcs) float32.

    Only ``fit_transform`` gives rows: there is nothing to apply to others. All rows take part, controls and
    treatments; no label is used but the batch. The result does not depend on the order of rows. ``info`` of the
    one fit holds ``n``, ``n_clusters``, ``rounds``, ``converged`` and the ``objective`` after each round.

    Parameters
    ----------
    n_pcs
        At most so many principal components, of the whole matrix, centred, not scaled.
    batch_key
        The column of ``obs`` that names batches.
    theta
        How strongly a cluster of few batches is penalised; 0 does nothing.
    sigma
        Width of soft clusters.
    n_clusters
        Default: one for 30 rows, at most 100.
    max_iter
        Rounds at most; where they do not suffice, finding ``not_converged``.
    seed
        Of the first clusters.
    min_batch_rows
        The smallest number of rows of a batch.
    """

    method: ClassVar[str] = "harmony"
    transductive: ClassVar[bool] = True

    def __init__(
        self,
        *,
        n_pcs: int = 50,
        batch_key: str = "batch",
        theta: float = 2.0,
        sigma: float = 0.1,
        n_clusters: int | None = None,
        max_iter: int = 10,
        seed: int = 0,
        min_batch_rows: int = 30,
    ) -> None:
        self.n_pcs = n_pcs
        self.batch_key = batch_key
        self.theta = theta
        self.sigma = sigma
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.seed = seed
        self.min_batch_rows = min_batch_rows

    def fit(self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None) -> Self:
        self.fit_transform(X, obs, features=features)
        return self

    def transform(
        self,
        X: NDArray[Any],  # noqa: ARG002
        obs: Obs | None = None,  # noqa: ARG002
        *,
        features: Sequence[str] | None = None,  # noqa: ARG002
    ) -> NoReturn:
        raise CorrectionError(
            "transductive",
            "harmony corrects only the rows it is fitted with",
            hint="call fit_transform on all rows, or take a method that can be applied to new rows",
        )

    def fit_transform(
        self, X: NDArray[Any], obs: Obs | None = None, *, features: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return all rows corrected, float32 (n, number of components), ``H1, H2, ...``.

        Raises
        ------
        CorrectionError
            ``too_few_batches`` (one only), ``too_few_rows`` (in a batch), ``no_variance``, ``not_finite``,
            ``bad_parameter``.
        MissingDependency
            Without ``harmonypy``.
        """
        self._check_parameters()
        harmonypy = require("harmonypy", extra="harmony")
        values, _ = self.begin(X, take_all_rows(obs, X), features)
        batches = column(obs, self.batch_key, len(values))
        clusters = self._clusters(len(values))
        self._check_batches(batches)
        order = _order_rows(values, batches)
        found = take_components(values[order], self.n_pcs)
        capped = tell_capped(found, values.shape, self.n_pcs)
        if capped:
            self.note("components_capped", capped)
        result = harmonypy.run_harmony(
            (values[order] - found.mean) @ found.axes,
            {self.batch_key: batches[order]},
            self.batch_key,
            theta=float(self.theta),
            sigma=float(self.sigma),
            nclust=clusters,
            max_iter_harmony=self.max_iter,
            epsilon_harmony=_TOLERANCE,
            random_state=self.seed,
            verbose=False,
        )
        corrected = np.empty((len(values), len(found.variances)), np.float32)
        corrected[order] = result.Z_corr
        if not np.isfinite(corrected).all():
            raise CorrectionError("not_finite", "harmony: some corrected rows are not finite")
        self._keep(result.objective_harmony, clusters, len(values))
        self.features_out_ = [f"H{j + 1}" for j in range(corrected.shape[1])]
        return corrected

    def _keep(self, objective: Sequence[float], clusters: int, n: int) -> None:
        """Keep what the run says of itself; the first value of the objective is that before any round."""
        values = [float(value) for value in objective]
        converged = values[-2] - values[-1] < _TOLERANCE * abs(values[-2])
        info = {"n": n, "n_clusters": clusters, "rounds": len(values) - 1}
        self.fits_[EVERYTHING] = Fit({}, {**info, "converged": converged, "objective": values})
        if not converged:
            lowered = (values[-2] - values[-1]) / abs(values[-2])
            self.note(
                "not_converged",
                f"harmony stopped after {len(values) - 1} rounds, the last of which still lowered the objective "
                f"by {lowered:.1%}: more may be needed (`max_iter`)",
            )

    def _clusters(self, n: int) -> int:
        if self.n_clusters is None:
            return max(1, min(round(n / _ROWS_PER_CLUSTER), _MAX_CLUSTERS))
        if self.n_clusters > n:  # harmonypy would search without end
            raise _bad(f"n_clusters must be at most the number of rows, {n}, got {self.n_clusters}")
        return self.n_clusters

    def _check_batches(self, batches: NDArray[Any]) -> None:
        names, counts = np.unique(batches, return_counts=True)
        if len(names) < 2:
            raise CorrectionError(
                "too_few_batches",
                f"harmony: all rows are of one {self.batch_key}, {str(names[0])!r}: there is nothing to mix",
                hint="name another column with `batch_key`, or leave harmony out",
            )
        small = [f"{name} ({n})" for name, n in zip(names, counts, strict=True) if n < self.min_batch_rows]
        if small:
            raise CorrectionError(
                "too_few_rows",
                f"harmony: {len(small)} of {len(names)} batches have fewer than {self.min_batch_rows} rows: "
                f"{named(small)}",
                hint="leave these batches out, join them to others, or lower `min_batch_rows`",
            )

    def _check_parameters(self) -> None:
        for name in ("n_pcs", "max_iter", "min_batch_rows", "n_clusters"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _bad(f"{name} must be at least 1, got {value}")
        if not (np.isfinite(self.theta) and self.theta >= 0):
            raise _bad(f"theta must be at least 0, got {self.theta}")
        if not (np.isfinite(self.sigma) and self.sigma > 0):
            raise _bad(f"sigma must be above 0, got {self.sigma}")


def _order_rows(values: NDArray[Any], batches: NDArray[Any]) -> NDArray[np.int64]:
    """Return an order of the rows that depends on nothing but what stands in them.

    Harmony visits rows in a random order of their places: without this, the same rows in another order would
    end elsewhere.
    """
    first = order_by_content(values)
    return first[np.argsort(batches[first], kind="stable")]


def _bad(message: str) -> CorrectionError:
    return CorrectionError("bad_parameter", f"harmony: {message}")
