"""What is done for one data set: cells drawn, methods fitted, fits scored. One task is what a process is given.

Source: multimodal spec, sections 6 to 8. Clusters of all methods are found in the same way, whatever a method uses
inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from microsnoop.core.errors import JointError, MissingDependency
from microsnoop.core.muse_config import MuseParameters
from microsnoop_apps.joint_simulation.fits import DataFacts, Fit, Outcome
from microsnoop_apps.joint_simulation.methods import SPACES, Cells, Space, now, since
from microsnoop_integrations.joint.simulate import Simulation, SimulationParameters, ceiling, simulate

_TRAINED = ("muse", "muse_shuffled", "muse_ungated", "muse_published")
_RAW = ("transcripts_raw", "images_raw")
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
    cells = Cells(_without_empty(simulate(task.cells, seed=task.data_seed)), task.muse)
    fits = tuple(_fit(name, cells, task) for name in task.methods)
    return Outcome(fits, None if task.methods[0] in _SLOW else _facts(cells, task))


def _fit(name: str, cells: Cells, task: Task) -> Fit:
    about = Fit(task.value, task.data_seed, task.muse.seed, name)
    try:
        if name in _ON_REDUCED:
            cells.images()  # once; its time is part of what each of its users takes
        start = now()
        space = SPACES[name](cells)
        wall, cpu = since(start) if name not in _RAW else (np.nan, np.nan)
    except MissingDependency as error:
        return replace(about, failed=f"not installed: {error.hint}")
    except JointError as error:
        return replace(about, failed=f"{error.code}: {error.message}")
    if name in _ON_REDUCED:
        wall, cpu = wall + cells.seconds[0], cpu + cells.seconds[1]
    scored = _scored(space, cells)
    told: dict[str, Any] = {"model": space.model, "findings": space.findings, "notes": space.notes}
    return replace(about, seconds=wall, cpu_seconds=cpu, **told, **scored)


def _scored(space: Space, cells: Cells) -> dict[str, Any]:
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


def _facts(cells: Cells, task: Task) -> DataFacts:
    from microsnoop_integrations.joint.baselines import principal_components
    from microsnoop_integrations.joint.neighbourhoods import pairing_test

    data = cells.data
    facts = DataFacts(
        task.value,
        task.data_seed,
        len(data.x),
        task.cells.n - len(data.x),
        ceiling(data.label, data.label_x),
        ceiling(data.label, data.label_y),
    )
    try:
        found = pairing_test(principal_components(data.x).scores, cells.images(), k=task.muse.k)
    except JointError:  # a modality without any variance: its own row says so
        return facts
    return replace(facts, pairing_ratio=found.ratio, pairing_p=found.p)


def _without_empty(data: Simulation) -> Simulation:
    """Leave out cells without any transcript, which no method can place; all stay where none has any."""
    seen = data.x.any(axis=1)
    if seen.all() or not seen.any():
        return data
    rows = {name: getattr(data, name)[seen] for name in ("x", "y", "label", "label_x", "label_y", "obs_ids")}
    return replace(data, **rows)
