"""How long MUSE trains, what becomes of the learning, and how cells are dealt into batches.

Source: multimodal spec, section 4. The published schedule counts epochs; ours also counts steps, so that 100 cells
and 100,000 are both trained: a phase lasts until both minima are reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.muse_config import MuseParameters

_ENOUGH = 1e-3  # a phase goes on while its loss falls by this share


@dataclass(frozen=True)
class Phases:
    """Epochs of the three phases, and how often labels are renewed in the last."""

    reconstruct: int
    triplets: int
    main: int
    update_every: int

    @property
    def total(self) -> int:
        """All epochs, unless a phase ends early."""
        return self.reconstruct + self.triplets + self.main


def plan(n: int, parameters: MuseParameters) -> Phases:
    """Return the phases for n cells."""
    steps = max(1, n // min(parameters.batch_size, n))
    first = max(parameters.init_epochs, math.ceil(parameters.init_steps / steps))
    main = max(parameters.n_epochs, math.ceil(parameters.n_steps / steps))
    return Phases(first, first, main, parameters.update_every or max(1, round(0.4 * main)))


def batches(n: int, size: int, *, drop_last: bool, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Deal n cells into batches in random order; a single last cell joins the batch before it.

    With ``drop_last`` only whole batches come.
    """
    order = rng.permutation(n)
    starts = list(range(0, n, size))
    if n % size and (drop_last or (n % size == 1 and len(starts) > 1)):
        starts.pop()
    for i, start in enumerate(starts):
        last = i == len(starts) - 1
        yield order[start:] if last and not drop_last else order[start : start + size]


@dataclass
class History:
    """Terms of the loss, the mean of each epoch (NaN where a phase has no such term), and when labels were renewed."""

    terms: dict[str, list[float]] = field(default_factory=dict)
    phases: list[str] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)

    def add(self, phase: str, means: dict[str, float]) -> None:
        """Note one epoch."""
        for name in means.keys() - self.terms.keys():
            self.terms[name] = [math.nan] * len(self.phases)
        self.phases.append(phase)
        for name, values in self.terms.items():
            values.append(means.get(name, math.nan))

    def of(self, phase: str, name: str) -> list[float]:
        """Return a term over the epochs of one phase."""
        return [v for p, v in zip(self.phases, self.terms[name], strict=True) if p == phase]

    def stalls(self, phase: str, patience: int) -> bool:
        """Whether what is learned (not the size of weights) has stopped falling for ``patience`` epochs."""
        learned = self.of(phase, "learned")
        if patience == 0 or len(learned) <= patience:
            return False
        return min(learned[-patience:]) > (1 - _ENOUGH) * min(learned[:-patience])

    def learns(self, phase: str) -> bool:
        """Whether the last (up to 20) epochs of a phase are lower than its first; too few epochs say nothing."""
        loss = self.of(phase, "loss")
        some = min(20, len(loss) // 2)
        return some == 0 or float(np.mean(loss[-some:])) < float(np.mean(loss[:some]))
