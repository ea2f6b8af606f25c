"""Settings of pretraining: where the tiles come from, how they are varied, what is learnt, how long and where."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from microsnoop.core.config import InputConfig
from microsnoop.core.settings import Settings

Term = Literal["masked", "vicreg", "barlow", "dino"]
_RUN_ONLY = {"run_dir", "execution", "report", "name"}


class PoolConfig(Settings):
    """The one-channel pool (Microsnoop spec, section 1). Exactly one of ``shards`` and ``images``."""

    shards: str | None = Field(
        None,
        description="Folder of Parquet files, one row a tile: `tile_id`, `source`, and the encoded one-channel image "
        "in `jpeg`; `image`, `kind` and `licence` are used where they stand.",
    )
    images: InputConfig | None = Field(
        None, description="Or images of your own, as in `microsnoop embed`; every channel is cut into tiles."
    )
    tile_px: int = Field(256, ge=32, description="Side of a tile; smaller ones are mirrored up to it.")
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A source of n tiles is drawn with probability ∝ n^alpha: 1 = all tiles alike, 0 = all sources "
        "alike; 0.5 weighs a tile by the inverse square root of its source's size.",
    )
    placement: Literal["auto", "memory", "stream"] = Field(
        "auto",
        description="memory: all tiles stay on the device. stream: they pass through Ray Data again and again. auto: "
        "memory when they take at most `memory_gb`.",
    )
    memory_gb: float = Field(8.0, gt=0, description="Largest pool that `auto` keeps in (device) memory.")
    validation: float = Field(
        0.05, ge=0, lt=0.5, description="Share of the images whose tiles are only used to watch progress."
    )

    @model_validator(mode="after")
    def _one_source(self) -> PoolConfig:
        if (self.shards is None) == (self.images is None):
            raise ValueError("give exactly one of shards and images")
        return self


class ViewConfig(Settings):
    """How a crop of a tile becomes an input: all on the device, all random choices keyed by seed and step."""

    scale: tuple[float, float] = Field(
        (0.2, 1.1), description="Side of the crop as a share of the tile's, drawn log-uniformly."
    )
    rotate: Literal["any", "right_angles", "none"] = Field("any", description="Rotation of the crop.")
    flip: bool = Field(True, description="Mirror half of the crops.")
    gamma: tuple[float, float] = Field((0.8, 1.25), description="Exponent of the scaled intensities,")
    gain: tuple[float, float] = Field((0.8, 1.2), description="and factor;")
    jitter_probability: float = Field(0.5, ge=0, le=1, description="each with this probability.")
    noise_sd: float = Field(0.0, ge=0, description="Standard deviation of added noise, at most (uniform).")
    min_span: float = Field(
        8.0,
        gt=0,
        description="Grey levels between the percentiles that count as full contrast: an empty crop stays dark.",
    )
    clip: tuple[float, float] = Field(
        (-1.0, 3.0), description="Range after scaling; becomes the encoder's own."
    )

    @model_validator(mode="after")
    def _ordered(self) -> ViewConfig:
        for name in ("scale", "gamma", "gain"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be [low, high] with 0 < low <= high, got {[low, high]}")
        if not self.clip[0] < 0 < self.clip[1]:
            raise ValueError(f"clip must be [low, high] around 0, got {list(self.clip)}")
        return self


class MaskConfig(Settings):
    """Masking (Microsnoop spec, section 2)."""

    patch_px: int = Field(16, ge=4, description="Side of a patch.")
    ratio: float = Field(0.25, ge=0, lt=1, description="Share of the patches that are set to 0.")
    w_vis: float = Field(
        0.0, ge=0, le=1, description="Weight of visible pixels in the loss; 0 = masked only."
    )


class PhaseConfig(Settings):
    """A stretch of training at one input side."""

    input_px: int = Field(224, ge=16, description="Side of the input, a multiple of 16 and of the patch.")
    steps: int = Field(ge=1, description="How many optimiser steps.")
    batch: int = Field(ge=2, description="Tiles a step, over all workers; each gives `views` inputs.")


class OptimiserConfig(Settings):
    """AdamW with linear warm-up and cosine decay over all phases."""

    peak_lr: float = Field(1e-3, gt=0, description="Learning rate at 256 inputs a step; scales by the root.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps that warm up.")
    final_lr: float = Field(1e-6, ge=0, description="Learning rate at the end.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's.")
    weight_decay: float = Field(0.05, ge=0, description="None on biases and normalisations.")
    clip_norm: float = Field(1.0, gt=0, description="Largest global norm of the gradient.")
    ema: float = Field(0.999, ge=0, lt=1, description="Decay of the running mean of the weights; 0 = off.")


class HeadConfig(Settings):
    """What the embedding is: fitted once at the end, on crops of the pool, without labels."""

    pooling: Literal["mean", "mean_std", "gem"] = Field("mean_std", description="Of the last map.")
    whiten: bool = Field(True, description="Fit a whitening and ship it in the weights.")
    crops: int = Field(4096, ge=16, description="Crops it is fitted on.")
    ridge: float = Field(0.02, gt=0, description="Share of the mean eigenvalue added to each.")


class TrainExecution(Settings):
    """Where it runs. None of these is part of the recipe."""

    workers: int = Field(
        1, ge=1, description="Ray Train workers (processes, or GPUs); gradients are averaged."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network is trained.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="bf16 where it is fast.")
    compile: bool = Field(True, description="torch.compile on a GPU (a minute of start-up a phase).")
    sync_batchnorm: bool = Field(False, description="Share batch statistics between workers.")
    threads: int | None = Field(None, ge=1, description="CPU threads a worker (default: cores / workers).")
    address: str | None = Field(None, description="A running Ray cluster; default: start a local one.")
    max_failures: int = Field(3, ge=0, description="Restarts after a worker was lost.")


class ReportConfig(Settings):
    """What is written on the way."""

    checkpoint_minutes: float = Field(
        3.0, gt=0, description="Time between checkpoints: what a crash can cost."
    )
    log_every: int = Field(20, ge=1, description="Steps between writes of the log (every step has its line).")
    watch_every: int = Field(500, ge=1, description="Steps between validation, pictures and collapse check.")
    watch_crops: int = Field(128, ge=8, description="Fixed crops they are made on.")


def _default_objective() -> dict[Term, float]:
    return {"masked": 10.0, "vicreg": 1.0}


class PretrainConfig(Settings):
    """One pretraining run."""

    version: Literal[1] = Field(1, description="Version of this file format.")
    name: str = Field("mine", pattern=r"^[A-Za-z0-9][\w+.-]*$", description="Name of the encoder it makes.")
    run_dir: str = Field(description="Folder for checkpoints, log, pictures and the encoder.")
    pool: PoolConfig = Field(description="The images.")
    views: ViewConfig = Field(default_factory=ViewConfig, description="Crops and intensity.")
    mask: MaskConfig = Field(default_factory=MaskConfig, description="Masking.")
    objective: dict[Term, Annotated[float, Field(gt=0)]] = Field(
        default_factory=_default_objective,
        min_length=1,
        description="Terms of the loss and their weights: `masked` (the paper's), `vicreg`, `barlow`, `dino`.",
    )
    projector: tuple[int, ...] = Field(
        (1024, 1024), min_length=1, description="Widths of the projector behind the invariance terms."
    )
    init: str | None = Field(
        None, description="Begin with this encoder's weights instead of random ones (a name or .safetensors)."
    )
    phases: list[PhaseConfig] = Field(
        min_length=1, description="Input side, steps and batch, one after another."
    )
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig, description="AdamW.")
    head: HeadConfig = Field(default_factory=HeadConfig, description="The embedding.")
    seed: int = Field(0, ge=0, description="Seed of weights, batches, crops and masks.")
    execution: TrainExecution = Field(default_factory=TrainExecution, description="Where it runs.")
    report: ReportConfig = Field(default_factory=ReportConfig, description="What is written.")

    @model_validator(mode="after")
    def _fits(self) -> PretrainConfig:
        for phase in self.phases:
            if phase.input_px % self.mask.patch_px or phase.input_px % 16:
                raise ValueError(
                    f"input_px must be a multiple of 16 and of patch_px ({self.mask.patch_px}), got {phase.input_px}"
                )
            if phase.batch % self.execution.workers or phase.batch // self.execution.workers < 2:
                raise ValueError(
                    f"a batch of {phase.batch} cannot be shared by {self.execution.workers} workers, two each at least"
                )
        if "masked" in self.objective and self.mask.ratio == 0 and self.mask.w_vis == 0:
            raise ValueError("mask.ratio and mask.w_vis are both 0: the masked loss has no pixel")
        return self

    @property
    def views_per_tile(self) -> int:
        """1 for the masked loss alone, 2 where two views are compared."""
        return 1 if set(self.objective) == {"masked"} else 2

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def recipe(self) -> dict[str, Any]:
        """Return the settings that decide what is learnt: a resumed run must have the same."""
        return self.model_dump(mode="json", exclude=_RUN_ONLY)
