"""What a fit to simulated cells leaves behind, and the names of methods and measures.

Source: multimodal spec, sections 7 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
        Of the fit, on one thread: wall time, and time that the processor worked; NaN where nothing is fitted.
    model
        Facts of a MUSE: mean weight of the transcripts, replicability, gates, margin.
    findings, notes
        Codes of what MUSE warned of; sentences that the other methods say of themselves.
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
    notes: tuple[str, ...] = ()
    failed: str = ""

    def score(self, measure: str) -> float:
        """Return a score; NaN where there is none."""
        return self.scores.get(measure, np.nan)


@dataclass(frozen=True)
class DataFacts:
    """A data set: ARI that each modality reaches when it finds all it can see, and whether its pairs share anything.

    Of the cells simulated, ``empty`` had no transcript and were left out for every method; ``cells`` stayed.
    """

    value: float
    data_seed: int
    cells: int
    empty: int
    ceiling_transcripts: float
    ceiling_images: float
    pairing_ratio: float = np.nan
    pairing_p: float = np.nan


@dataclass(frozen=True)
class Outcome:
    """What a task found; ``facts`` of the data set come with the task that holds its baselines."""

    fits: tuple[Fit, ...]
    facts: DataFacts | None = None
