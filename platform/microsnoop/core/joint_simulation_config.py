"""Settings of the joint simulation: what is simulated, what is swept, and which methods look at it.

Source: multimodal spec, sections 6 to 8; Bao et al. 2022. The default is the sweep of image quality of the paper's
Figure S10.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from microsnoop.core.settings import Settings

Parameter = Literal[
    "n", "clusters", "latent", "d1", "d2", "sigma1", "sigma2", "decay_coef_1", "decay_coef_2", "merge"
]
Method = Literal[
    "transcripts_raw",
    "images_raw",
    "transcripts",
    "images",
    "concat",
    "wnn",
    "mofa",
    "muse",
    "muse_shuffled",
    "muse_ungated",
]
_METHODS: tuple[Method, ...] = (
    "transcripts_raw", "images_raw", "transcripts", "images", "concat", "wnn", "mofa", "muse", "muse_shuffled",
)  # fmt: skip
_SINGLE = {"transcripts_raw", "images_raw", "transcripts", "images"}


class SimulatedCells(Settings):
    """The cells of one data set; the limits are checked together when it is made."""

    n: int = Field(1_000, ge=20, description="Cells; at least 5 a cluster.")
    clusters: int = Field(10, ge=4, description="True clusters.")
    latent: int = Field(30, ge=1, description="Dimension of the latents that both modalities are made from.")
    d1: int = Field(500, ge=1, description="Transcripts: number of genes.")
    d2: int = Field(500, ge=1, description="Images: number of features.")
    sigma1: float = Field(0.1, ge=0, description="Transcripts: standard deviation of the noise.")
    sigma2: float = Field(0.1, ge=0, description="Images: standard deviation of the noise.")
    decay_coef_1: float = Field(
        0.5,
        ge=0,
        description="Transcripts: an entry x is lost with probability exp(-c x²); larger loses fewer.",
    )
    decay_coef_2: float = Field(
        0.1, ge=0, le=1, description="Images: an entry is lost with this probability."
    )
    merge: float = Field(
        0.7,
        ge=0,
        le=1,
        description="Probability that a cluster looks like the one before it: to the transcripts in the first half of "
        "the clusters, to the images in the second.",
    )


class Sweep(Settings):
    """One parameter of the cells that takes several values."""

    parameter: Parameter = Field("decay_coef_2", description="Which of the parameters of `cells`.")
    values: tuple[float, ...] = Field(
        (0.1, 0.3, 0.5), min_length=1, description="What it becomes; stands in for the one of `cells`."
    )

    @field_validator("values")
    @classmethod
    def _different(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"a value stands twice in {list(values)}")
        return values

    @model_validator(mode="after")
    def _whole(self) -> Sweep:
        if self.parameter in ("n", "clusters", "latent", "d1", "d2"):
            broken = [value for value in self.values if value != int(value)]
            if broken:
                raise ValueError(f"{self.parameter} is a count: {broken[0]:g} is no whole number")
        return self


class JointSimulationConfig(Settings):
    """Joint quality against the quality of one modality: every method on the same simulated cells."""

    cells: SimulatedCells = Field(default_factory=SimulatedCells, description="The cells.")
    sweep: Sweep = Field(default_factory=Sweep, description="What varies between the settings.")
    data_seeds: int = Field(5, ge=1, description="Data sets of each setting.")
    model_seeds: int = Field(3, ge=1, description="Fits of MUSE to each data set, from other seeds.")
    seed: int = Field(0, ge=0, description="Seed of the first data set; the others follow it.")
    methods: tuple[Method, ...] = Field(
        _METHODS,
        min_length=1,
        description="Which methods look at the cells. `..._raw`: clusters of the matrix as it is, without principal "
        "components; `muse_shuffled`: MUSE on cells whose images were exchanged at random, the null; `muse_ungated`: "
        "MUSE whose triplets of both modalities count the same.",
    )
    published: bool = Field(
        False,
        description="Also fit MUSE with the released settings: 900 epochs of small steps, so it takes minutes a fit.",
    )
    published_seeds: int = Field(1, ge=1, description="Fits of that to each data set.")
    workers: int | None = Field(
        None,
        ge=1,
        description="Processes side by side, each with one thread (default: as many as the machine has cores); 1 works "
        "in this process.",
    )

    @field_validator("methods")
    @classmethod
    def _compared(cls, methods: tuple[Method, ...]) -> tuple[Method, ...]:
        if len(set(methods)) < len(methods):
            raise ValueError(f"a method stands twice in {', '.join(methods)}")
        if not _SINGLE & set(methods):
            raise ValueError(
                f"a joint method is read against one modality alone: add one of {', '.join(sorted(_SINGLE))}"
            )
        return methods
