"""What is fitted to simulated cells, and how each fit is scored: one task a data set and fit, fit for any process.

Source: multimodal spec, sections 7 and 8. All methods get the same transcripts, and image features that were reduced
as MUSE reduces them; clusters of all of them are found in the same way, whatever a method uses inside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from microsnoop.core.errors import JointError, MissingDependency
from microsnoop.core.muse_config import MuseParameters
from microsnoop_integrations.joint.simulate import Simulation, SimulationParameters, ceiling, simulate

NAMES = {
    "transcripts_raw": "transcripts, raw matrix",
    "images_raw": "images, raw matrix",
    "transcripts": "transcripts",
    "images": "images",
    "concat": "concatenated",
    "wnn": "WNN",
    "mofa": "MOFA",
    "muse": "MUSE",
    "muse_shuffled": "MUSE, shuffled pairs",
    "muse_ungated": "MUSE without gate",
    "muse_published": "MUSE as published",
}
SINGLE = ("transcripts_raw", "images_raw", "transcripts", "images")
MEASURES = (
    "ari_kmeans",
    "ari_leiden",
    "ari_best",
    "nmi_kmeans",
    "nmi_leiden",
    "nmi_best",
    "silhouette",
)
_TRAINED = ("muse", "muse_shuffled", "muse_ungated", "muse_published")
_ON_REDUCED = ("images", "concat", "wnn", "mofa")
_SLOW = ("wnn", *_TRAINED)  # each is a task of its own, so that processes have something to share out


@dataclass(frozen=True)
class Task:
    """Methods to fit to one data set, from one seed (that of ``muse``)."""

    cells: SimulationParameters
    value: float  # of the swept parameter
    data_seed: int
    methods: tuple[str, ...]
    muse: MuseParameters


@dataclass(frozen=True)
class Fit:
    """One fit and its scores; ``failed`` says why there are none, the scores being NaN then.

    Attributes
    ----------
    value, data_seed, model_seed, method
        Which one it is; ``method`` is a key of ``NAMES``.
    scores
        By the names of ``MEASURES``; ARI and NMI with the true clusters of k-means with their true number, of the
        default resolution, and of the best of the resolutions; silhouette of the true clusters in the method's space.
    clusters, best_resolution
        Number of clusters at the default resolution, and the resolution whose ARI is best.
    seconds, cpu_seconds
        Of the fit, on one thread: wall time, and time that the processor worked.
    model
        Facts of a MUSE: mean weight of the transcripts, replicability, gates, margin.
    findings
        Codes of what MUSE warned of, and notes of the others.
    """

    value: float
    data_seed: int
    model_seed: int
    method: str
    scores: dict[str, float] = field(default_factory=dict)
    clusters: int = 0
    best_resolution: float = np.nan
    seconds: float = np.nan
    cpu_seconds: float = np.nan
    model: dict[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    failed: str = ""

    def score(self, measure: str) -> float:
        """Return a score; NaN where there is none."""
        return self.scores.get(measure, np.nan)


@dataclass(frozen=True)
class DataFacts:
    """A data set: ARI that each modality reaches when it finds all it can see, and whether its pairs share anything."""

    value: float
    data_seed: int
    ceiling_transcripts: float
    ceiling_images: float
    pairing_ratio: float = np.nan
    pairing_p: float = np.nan


@dataclass(frozen=True)
class Outcome:
    """What a task found; ``facts`` of the data set come with the task that holds its baselines."""

    fits: tuple[Fit, ...]
    facts: DataFacts | None = None


@dataclass(frozen=True)
class _Space:
    """What is clustered: coordinates (n, d), or the graph of a method that has one."""

    latent: NDArray[np.float32]
    graph: csr_matrix | None = None
    model: dict[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


@dataclass
class _Cells:
    """A data set; its images are reduced once, when somebody asks for them."""

    data: Simulation
    muse: MuseParameters
    seconds: tuple[float, float] = (0.0, 0.0)  # wall and processor time that the reduction took
    _reduced: NDArray[np.float32] | None = None

    def images(self) -> NDArray[np.float32]:
        """Return the image features as MUSE sees them, (n, c)."""
        if self._reduced is None:
            from microsnoop_integrations.muse.image_scaling import reduce_images

            start = _now()
            self._reduced = reduce_images(self.data.y, None, self.muse).transform(self.data.y)
            self.seconds = _since(start)
        return self._reduced


def plan(
    settings: Sequence[tuple[float, SimulationParameters]],
    *,
    methods: Sequence[str],
    data_seeds: Sequence[int],
    muse: MuseParameters,
    model_seeds: int,
    published_seeds: int = 0,
) -> list[Task]:
    """Return all tasks, those that take long first; a method that is not trained is fitted once a data set."""
    baselines = tuple(name for name in methods if name not in _SLOW)
    slow: list[Task] = []
    quick: list[Task] = []
    for value, cells in settings:
        for data_seed in data_seeds:
            one = Task(cells, value, data_seed, baselines, muse)
            quick.append(one)
            if "wnn" in methods:
                slow.append(replace(one, methods=("wnn",)))
            trained = [(name, model_seeds) for name in methods if name in _TRAINED]
            for name, seeds in [*trained, ("muse_published", published_seeds)]:
                slow += [
                    replace(one, methods=(name,), muse=muse.model_copy(update={"seed": muse.seed + i}))
                    for i in range(seeds)
                ]
    return sorted(slow, key=lambda task: task.methods != ("muse_published",)) + quick


def perform(task: Task) -> Outcome:
    """Draw the cells of a task, fit its methods, and score them."""
    cells = _Cells(simulate(task.cells, seed=task.data_seed), task.muse)
    fits = tuple(_fit(name, cells, task) for name in task.methods)
    return Outcome(fits, None if task.methods[0] in _SLOW else _facts(cells, task))


def _fit(name: str, cells: _Cells, task: Task) -> Fit:
    about = Fit(task.value, task.data_seed, task.muse.seed, name)
    try:
        if name in _ON_REDUCED:
            cells.images()  # once; its time is part of what each of its users takes
        start = _now()
        space = _SPACES[name](cells)
        wall, cpu = _since(start)
    except MissingDependency as error:
        return replace(about, failed=f"not installed: {error.hint}")
    except JointError as error:
        return replace(about, failed=f"{error.code}: {error.message}")
    if name in _ON_REDUCED:
        wall, cpu = wall + cells.seconds[0], cpu + cells.seconds[1]
    scored = _scored(space, cells)
    return replace(about, seconds=wall, cpu_seconds=cpu, model=space.model, findings=space.findings, **scored)


def _scored(space: _Space, cells: _Cells) -> dict[str, Any]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    from microsnoop.ops.silhouette import silhouette
    from microsnoop_integrations.graph_clusters import RESOLUTIONS, cluster_graph, kmeans, neighbour_graph

    truth, p = cells.data.label, cells.muse
    graph = space.graph
    if graph is None:
        graph = neighbour_graph(space.latent, k=min(p.k, len(truth) - 1), seed=p.seed).graph
    found = {r: cluster_graph(graph, resolution=r, seed=p.seed) for r in sorted({*RESOLUTIONS, p.resolution})}
    agreement = {r: float(adjusted_rand_score(truth, labels)) for r, labels in found.items()}
    best = max(RESOLUTIONS, key=lambda r: (agreement[r], -r))
    chosen = {
        "kmeans": kmeans(space.latent, len(np.unique(truth)), seed=p.seed),
        "leiden": found[p.resolution],
        "best": found[best],
    }
    scores = {f"ari_{how}": float(adjusted_rand_score(truth, labels)) for how, labels in chosen.items()}
    for how, labels in chosen.items():
        scores[f"nmi_{how}"] = float(normalized_mutual_info_score(truth, labels))
    scores["silhouette"] = silhouette(space.latent, truth).mean
    return {"scores": scores, "clusters": len(np.unique(found[p.resolution])), "best_resolution": best}


def _facts(cells: _Cells, task: Task) -> DataFacts:
    from microsnoop_integrations.joint.baselines import principal_components
    from microsnoop_integrations.joint.neighbourhoods import pairing_test

    data = cells.data
    facts = DataFacts(
        task.value, task.data_seed, ceiling(data.label, data.label_x), ceiling(data.label, data.label_y)
    )
    try:
        found = pairing_test(principal_components(data.x).scores, cells.images(), k=task.muse.k)
    except JointError:  # a modality without any variance: its own row says so
        return facts
    return replace(facts, pairing_ratio=found.ratio, pairing_p=found.p)


def _raw_transcripts(cells: _Cells) -> _Space:
    return _Space(cells.data.x)


def _raw_images(cells: _Cells) -> _Space:
    return _Space(cells.data.y)


def _baseline(method: str) -> Callable[[_Cells], _Space]:
    """Return how a baseline is fitted."""

    def fit(cells: _Cells) -> _Space:
        from microsnoop_integrations.joint.baselines import concat, single
        from microsnoop_integrations.joint.mofa import mofa
        from microsnoop_integrations.joint.wnn import wnn

        p = cells.muse
        shared: dict[str, Any] = {"k": min(p.k, len(cells.data.x) - 2), "seed": p.seed}
        x = cells.data.x
        if method in ("transcripts", "images"):
            values = x if method == "transcripts" else cells.images()
            found = single(values, name=NAMES[method], **shared)
        else:
            join = {"concat": concat, "wnn": wnn, "mofa": mofa}[method]
            found = join(x, cells.images(), **shared)
        model = {} if found.weight_rna is None else {"weight_rna": float(found.weight_rna.mean())}
        return _Space(found.latent, found.graph, model, found.notes)

    return fit


def _muse(*, shuffled: bool = False, ungated: bool = False, published: bool = False) -> Callable[..., _Space]:
    """Return how a variant of MUSE is fitted."""

    def fit(cells: _Cells) -> _Space:
        from microsnoop_integrations.muse.model import Muse

        p, data = cells.muse, cells.data
        p = MuseParameters.published(seed=p.seed, k=p.k) if published else p
        p = p.model_copy(update={"gate": "none"}) if ungated else p
        y = data.y
        if shuffled:
            y = y[np.random.default_rng([data.seed, p.seed]).permutation(len(y))]
        model = Muse(p, device="cpu").fit(data.x, y)
        facts = {"weight_rna": float(model.weight_x_.mean()), "margin": float(model.margin_)}
        facts |= {f"replicability_{name}": float(v) for name, v in model.replicability_.items()}
        facts |= {f"gate_{name}": float(v) for name, v in model.gates_.items()}
        return _Space(model.latent_, None, facts, tuple(found.code for found in model.findings_))

    return fit


_SPACES: dict[str, Callable[[_Cells], _Space]] = {
    "transcripts_raw": _raw_transcripts,
    "images_raw": _raw_images,
    **{name: _baseline(name) for name in ("transcripts", "images", "concat", "wnn", "mofa")},
    "muse": _muse(),
    "muse_shuffled": _muse(shuffled=True),
    "muse_ungated": _muse(ungated=True),
    "muse_published": _muse(published=True),
}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    return time.perf_counter() - start[0], time.process_time() - start[1]
