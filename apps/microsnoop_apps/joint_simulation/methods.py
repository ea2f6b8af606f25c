"""How each method sees simulated cells: coordinates, or a graph, and what it says of itself.

Source: multimodal spec, section 7. All methods get the same transcripts, and image features that were reduced as MUSE
reduces them; MUSE reduces them itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from microsnoop.core.muse_config import MuseParameters
from microsnoop_apps.joint_simulation.fits import NAMES
from microsnoop_integrations.joint.representation import Representation
from microsnoop_integrations.joint.simulate import Simulation


@dataclass(frozen=True)
class Space:
    """What is clustered: coordinates (n, d), or the graph of a method that has one."""

    latent: NDArray[np.float32]
    graph: csr_matrix | None = None
    model: dict[str, float] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Cells:
    """A data set; its images are reduced once, when somebody asks for them."""

    data: Simulation
    muse: MuseParameters
    seconds: tuple[float, float] = (0.0, 0.0)  # wall and processor time that the reduction took
    _reduced: NDArray[np.float32] | None = None

    def images(self) -> NDArray[np.float32]:
        """Return the image features as MUSE sees them, (n, c)."""
        if self._reduced is None:
            from microsnoop_integrations.muse.image_scaling import reduce_images

            start = now()
            self._reduced = reduce_images(self.data.y, None, self.muse).transform(self.data.y)
            self.seconds = since(start)
        return self._reduced


def now() -> tuple[float, float]:
    """Return wall and processor time, seconds."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Return how much of both has passed."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def _raw_transcripts(cells: Cells) -> Space:
    return Space(cells.data.x)


def _raw_images(cells: Cells) -> Space:
    return Space(cells.data.y)


def _baseline(method: str) -> Callable[[Cells], Space]:
    """Return how a baseline is fitted."""

    def fit(cells: Cells) -> Space:
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
            joint: dict[str, Callable[..., Representation]] = {"concat": concat, "wnn": wnn, "mofa": mofa}
            found = joint[method](x, cells.images(), **shared)
        model = {} if found.weight_rna is None else {"weight_rna": float(found.weight_rna.mean())}
        return Space(found.latent, found.graph, model, notes=found.notes)

    return fit


def _muse(*, shuffled: bool = False, ungated: bool = False, published: bool = False) -> Callable[..., Space]:
    """Return how a variant of MUSE is fitted."""

    def fit(cells: Cells) -> Space:
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
        return Space(model.latent_, None, facts, tuple(found.code for found in model.findings_))

    return fit


SPACES: dict[str, Callable[[Cells], Space]] = {
    "transcripts_raw": _raw_transcripts,
    "images_raw": _raw_images,
    **{name: _baseline(name) for name in ("transcripts", "images", "concat", "wnn", "mofa")},
    "muse": _muse(),
    "muse_shuffled": _muse(shuffled=True),
    "muse_ungated": _muse(ungated=True),
    "muse_published": _muse(published=True),
}
