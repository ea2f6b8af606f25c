"""Settings of multiple-instance learning on slides: network, training, sampling, folds.

Source: slides spec, sections 7 to 9 (Lazard et al. 2022 as released: `published` below).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from microsnoop.core.settings import Settings

Pooling = Literal["attention", "gated", "mean", "max"]
Sampling = Literal["bias_corrected", "inverse", "none"]


class MilCompat(Settings):
    """Switches back to what was published, for comparison; each makes results worse to interpret."""

    draw: bool = Field(False, description="Draw the tiles of a slide with replacement.")
    no_standardise: bool = Field(
        False, description="Feed features as they are, without mean 0 and deviation 1."
    )
    folds: Literal["patient", "slide"] = Field(
        "patient",
        description="`slide`: folds of slides, so that patients leak; the result is marked as over-optimistic.",
    )


class MilSettings(Settings):
    """How a label of patients is learned from bags of tiles, and how that is judged."""

    target: str = Field("target", description="Column of the table with the classes.")
    positive: str | None = Field(None, description="The class scored as 1 (default: the last one by name).")
    confounders: list[str] = Field(
        default_factory=list, description="Columns that folds are stratified by and sampling corrects for."
    )
    continuous: list[str] = Field(
        default_factory=list, description="Those of `confounders` that are numbers: cut at quartiles."
    )
    site: str | None = Field(
        None, description="Column with the tissue source site, for `group_by` and the audit."
    )
    level: Literal["patient", "slide"] = Field(
        "patient",
        description="`slide`: a patient's slides may differ in class (folds stay apart by patient).",
    )

    pooling: Pooling = Field(
        "attention", description="How tiles become one vector; `gated`: Ilse et al. 2018."
    )
    heads: int = Field(1, ge=1, description="Heads of attention.")
    attention_width: int = Field(256, ge=1, description="Units of attention, split evenly over heads.")
    attention_dropout: float = Field(0.4, ge=0, lt=1, description="Dropout inside attention.")
    hidden: int = Field(64, ge=1, description="Width of the classifier.")
    blocks: int = Field(3, ge=0, description="Blocks of the classifier behind the first.")
    dropout: float = Field(0.4, ge=0, lt=1, description="Dropout in the classifier.")

    lr: float = Field(0.003, gt=0, description="Step of Adam.")
    epochs: int = Field(100, ge=1, description="Epochs at most.")
    patience: int = Field(
        20, ge=1, description="Stop when the validation loss has not fallen for so many epochs."
    )
    batch_slides: int = Field(16, ge=2, description="Slides a batch; a last batch of one slide is left out.")
    tiles: int | None = Field(
        300,
        ge=1,
        description="Tiles drawn from a slide in each epoch; null: all, with LayerNorm for BatchNorm.",
    )
    sampling: Sampling = Field("bias_corrected", description="How slides are drawn for an epoch.")
    validation: float = Field(
        0.2, gt=0, lt=1, description="Share of the training patients that stop the training."
    )
    repeats: int = Field(3, ge=1, description="Networks trained a fold, with seeds of their own.")
    n_best: int = Field(3, ge=1, description="Networks of lowest validation loss that predict together.")
    pca: int | None = Field(
        None, ge=1, description="Principal components, fitted on the training part; null: none."
    )
    pca_tiles: int = Field(200, ge=2, description="Tiles a slide that the components are fitted on, at most.")

    folds: int = Field(5, ge=2, description="Outer folds.")
    group_by: Literal["patient", "site"] = Field("patient", description="`site`: a site is in one fold only.")
    bootstrap: int = Field(2_000, ge=20, description="Draws behind each interval.")
    seed: int = Field(0, ge=0, description="Of folds, weights and draws.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where networks are trained.")
    compat: MilCompat = Field(default_factory=MilCompat, description="As published, where ours differs.")

    @model_validator(mode="after")
    def _settings_agree(self) -> MilSettings:
        if self.attention_width % self.heads:
            raise ValueError(
                f"attention_width ({self.attention_width}) must be a multiple of heads ({self.heads})"
            )
        if self.n_best > self.repeats:
            raise ValueError(f"n_best ({self.n_best}) cannot exceed repeats ({self.repeats})")
        if self.group_by == "site" and self.site is None:
            raise ValueError("group_by: site needs site, the column that names it")
        if self.group_by == "site" and self.compat.folds == "slide":
            raise ValueError("compat.folds: slide cannot keep sites apart: choose one of the two")
        if unknown := sorted(set(self.continuous) - set(self.confounders)):
            raise ValueError(f"continuous names {', '.join(unknown)}, not among confounders")
        if len(set(self.confounders)) < len(self.confounders) or self.target in self.confounders:
            raise ValueError("confounders must be different columns, and none of them the target")
        return self
