"""Settings of MUSE, the joint model of several modalities.

Source: Bao et al. 2022 as released (`published` below); multimodal spec, sections 2 to 5.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from microsnoop.core.settings import Settings


class MuseParameters(Settings):
    """How MUSE is built, trained and clustered. The defaults are ours; `MuseParameters.published()` gives theirs."""

    latent: int = Field(100, ge=2, description="Width of the joint latent.")
    hidden: int = Field(128, ge=2, description="Width of the hidden layers.")
    batch_size: int = Field(
        64, ge=2, description="Cells a step; capped at the number of cells. Larger is faster and coarser."
    )
    lr: float = Field(1e-3, gt=0, description="Step of Adam.")
    init_epochs: int = Field(
        5, ge=1, description="Epochs of reconstruction alone, and again of the first triplets; at least."
    )
    init_steps: int = Field(320, ge=0, description="Steps of each of these two phases; at least.")
    n_epochs: int = Field(
        10, ge=1, description="Epochs of the main phase, with labels that are renewed; at least."
    )
    n_steps: int = Field(800, ge=0, description="Steps of the main phase; at least.")
    update_every: int | None = Field(
        None,
        ge=1,
        description="Labels are renewed after epoch 0 of the main phase and every so many (default: 40 %).",
    )
    patience: int = Field(
        0,
        ge=0,
        description="End a phase when reconstruction and triplets together have not fallen by 0.1 % for so many "
        "epochs; 0: never.",
    )
    lambda_regul: float = Field(5.0, ge=0, description="Weight of the size of the decoders' selections.")
    lambda_super: float = Field(5.0, ge=0, description="Weight of the triplets.")
    gate: Literal["replicability", "none"] = Field(
        "replicability",
        description="Weigh the triplets of each modality by how well its clusters are found again in other cells; "
        "`none`: both count the same, as published.",
    )
    label_components: int = Field(
        50, ge=1, description="Principal components of each modality whose clusters are its first labels."
    )
    image_components: int | None = Field(
        50,
        ge=1,
        description="Image features become so many principal components; null: they are taken as they are.",
    )
    image_standardise: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Give every image feature a variance of 1 before; `auto` takes what makes its clusters easier to "
        "find again in other cells.",
    )
    recon: Literal["published", "mean"] = Field(
        "published",
        description="`mean` divides the error of modalities that are not masked by the root of its terms.",
    )
    drop_last: bool = Field(False, description="Leave out the last, smaller batch of an epoch, as published.")
    triplet_row_max: bool = Field(
        False, description="A batch of one label: push apart what is farthest anyway, as published."
    )
    margin_sample: int | None = Field(
        5_000,
        ge=2,
        description="Cells whose distances give the margin; null: all pairs, memory grows with their square.",
    )
    k: int = Field(30, ge=2, description="Neighbours a cell in the graph that is clustered.")
    resolution: float = Field(1.0, gt=0, description="Resolution of the clusters.")
    clustering: Literal["leiden", "louvain"] = Field(
        "leiden", description="`louvain` is what PhenoGraph, and so the published MUSE, uses."
    )
    seed: int = Field(0, ge=0, description="Of weights, shuffles, clusters and samples.")

    @classmethod
    def published(cls, **changes: Any) -> MuseParameters:
        """Return the released settings, 900 epochs of small steps, with ``changes``."""
        theirs: dict[str, Any] = {
            "lr": 1e-4, "init_epochs": 200, "init_steps": 0, "n_epochs": 500, "n_steps": 0, "update_every": 200,
            "gate": "none", "image_components": None, "label_components": 100, "drop_last": True,
            "triplet_row_max": True, "margin_sample": None, "clustering": "louvain",
        }  # fmt: skip
        return cls(**{**theirs, **changes})
