"""Factor analysis of both modalities: an adapter to ``mofapy2`` (extra ``multimodal``). Spec, section 7.

Argelaguet et al. 2020 (MOFA+). The package wants both matrices dense in float64 and makes several copies of each:
about 50 MB and 7 s of one core for 1,000 cells with 500 + 500 features. For 100,000 cells with 2,000 + 512 features
one copy alone is 2 GB.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import JointError
from microsnoop.core.optional import require
from microsnoop_integrations.graph_clusters import Method, cluster
from microsnoop_integrations.joint.representation import Representation

FACTORS = 10
MIN_EXPLAINED = 0.01  # of a view's variance; a factor below it in both views is noise
MAX_ITERATIONS = 1_000
_VIEWS = ("rna", "image")


def mofa(
    x: Any,
    y: Any,
    *,
    factors: int = FACTORS,
    max_iterations: int = MAX_ITERATIONS,
    k: int = 30,
    resolution: float = 1.0,
    method: Method = "leiden",
    seed: int = 0,
) -> Representation:
    """Explain both modalities by common factors, and cluster the cells by them.

    Gaussian likelihoods and the priors that the package starts with: relevance of each factor in each view, and
    sparse weights. Factors that explain less than 1 % of either view are left out, with a note that counts them;
    ``info["explained"]`` holds the share of each view's variance for every factor that stays. Prints nothing,
    writes no file, and leaves NumPy's global generator as it was.

    Parameters
    ----------
    x, y
        (n, p) transcripts and (n, q) image features, dense or CSR, finite, rows of the same cells. Features that
        are the same in every cell are left out, with a note.
    factors
        To start with; at most min(n, p, q) - 1.
    k, resolution, method, seed
        Of the clusters, see :func:`microsnoop_integrations.graph_clusters.cluster`; the seed is also MOFA's.

    Raises
    ------
    MissingDependency
        ``mofapy2`` is not installed.
    JointError
        ``not_finite``, ``no_variance``, ``too_few_cells``; ``no_factor``: none explains 1 % of either view;
        ``mofa_failed``: the package gave up.
    ValueError
        Rows that differ in number, or settings below 1.
    """
    start = time.perf_counter()
    notes: list[str] = []
    views = [_view(matrix, name, notes) for matrix, name in zip((x, y), _VIEWS, strict=True)]
    _check(views, factors, max_iterations)
    started = min(factors, len(views[0]) - 1, *(view.shape[1] for view in views))
    fitted = _fit(views, started, max_iterations, seed)
    kept = (fitted.explained >= MIN_EXPLAINED).any(axis=0)
    if not kept.any():
        raise JointError(
            "no_factor",
            f"none of {started} factors explains {MIN_EXPLAINED:.0%} of the transcripts or of the image features",
            hint="the modalities hold no structure that a linear factor can follow; look at their preprocessing",
        )
    if not kept.all():
        dropped = int((~kept).sum())
        notes.append(
            f"{dropped} of {started} factors explain less than {MIN_EXPLAINED:.0%} of both views: dropped"
        )
    if not fitted.converged:
        notes.append(f"MOFA had not converged after {max_iterations} iterations")
    latent = fitted.factors[:, kept].astype(np.float32)
    labels = cluster(latent, k=k, resolution=resolution, method=method, seed=seed)
    info = {
        "factors_started": started,
        "explained": {name: fitted.explained[at, kept].tolist() for at, name in enumerate(_VIEWS)},
        "converged": fitted.converged,
        "iterations": fitted.iterations,
        "k": k,
        "resolution": resolution,
        "method": method,
        "seed": seed,
    }
    seconds = time.perf_counter() - start
    return Representation("MOFA", latent, labels, seconds=seconds, notes=tuple(notes), info=info)


@dataclass(frozen=True)
class _Fitted:
    factors: NDArray[np.float64]  # (n, f)
    explained: NDArray[np.float64]  # (2, f): share of each view's variance
    converged: bool
    iterations: int


def _fit(views: list[NDArray[np.float64]], factors: int, max_iterations: int, seed: int) -> _Fitted:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    said = io.StringIO()
    # its matrix products are so small that several threads take longer than one (8 times the work on 2 cores)
    with _quiet(said), threadpool_limits(1):
        entry = require("mofapy2.run.entry_point", extra="multimodal").entry_point()
        # the noise starts at a variance of 1: views of smaller numbers lose all their factors to it at once
        entry.set_data_options(scale_views=True, scale_groups=False, use_float32=False)
        entry.set_data_matrix(
            [[view] for view in views],
            likelihoods=["gaussian"] * len(views),
            views_names=list(_VIEWS),
            groups_names=["cells"],
        )
        entry.set_model_options(factors=factors, spikeslab_weights=True, ard_weights=True)
        entry.set_train_options(iter=max_iterations, seed=seed, quiet=True, save_interrupted=False)
        try:
            entry.build()
            entry.run()
        except SystemExit as error:  # the package leaves the process where others raise
            last = " ".join(said.getvalue().split()[-40:])
            raise JointError("mofa_failed", f"mofapy2 gave up: {last}") from error
    if not entry.model.trained:  # it takes an interrupt for the end of the training
        raise KeyboardInterrupt
    nodes = entry.model.nodes
    scores = np.asarray(nodes["Z"].getExpectation(), np.float64)
    weights = nodes["W"].getExpectation()
    explained = np.stack([_explained(y, scores, w) for y, w in zip(entry.data, weights, strict=True)])
    iterations = len(entry.model.getTrainingStats()["elbo"])
    return _Fitted(scores, explained, "Converged!" in said.getvalue(), iterations)


@contextlib.contextmanager
def _quiet(said: io.StringIO) -> Iterator[None]:
    """Undo what the package does to its process: prints, a filter for all warnings, and the global generator."""
    state = np.random.get_state()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said):
            # logarithms of weights that became exactly 0 or 1
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="mofapy2")
            yield
    finally:
        np.random.set_state(state)


def _explained(
    view: NDArray[np.float64], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return 1 - |Y - z wᵀ|² / |Y|² of every factor by itself, without making the products (n, d)."""
    gained = 2 * np.einsum("nf,nf->f", scores, view @ weights)
    lost = np.square(scores).sum(axis=0) * np.square(weights).sum(axis=0)
    return np.asarray((gained - lost) / np.square(view).sum())


def _view(matrix: Any, name: str, notes: list[str]) -> NDArray[np.float64]:
    """Return the features that vary, dense and centred."""
    view = np.array(matrix.toarray() if sparse.issparse(matrix) else matrix, np.float64)
    if view.ndim != 2:
        raise ValueError(f"a matrix (cells, features) is needed, got shape {view.shape}")
    if not np.isfinite(view).all():
        raise JointError("not_finite", f"the {name} matrix holds NaN or infinity", hint="drop those cells")
    varies = np.ptp(view, axis=0) > 0 if view.size else np.zeros(view.shape[1], bool)
    if not varies.any():
        raise JointError("no_variance", f"all cells have the same values in the {name} matrix")
    if not varies.all():
        notes.append(f"{(~varies).sum()} features of the {name} matrix are the same in every cell: left out")
    return view[:, varies] - view[:, varies].mean(axis=0)


def _check(views: list[NDArray[np.float64]], factors: int, max_iterations: int) -> None:
    if len(views[0]) != len(views[1]):
        raise ValueError(
            f"rows must be the same cells in both matrices, got {len(views[0])} and {len(views[1])}"
        )
    if factors < 1 or max_iterations < 1:
        raise ValueError(f"factors and iterations must be at least 1, got {factors} and {max_iterations}")
