"""Settings of an evaluation recipe: which rows, which label, how they are embedded and scored.

A recipe is one YAML file of ``configs/evaluate``. Its paths are relative to the data root (``--data`` or
``MICROSNOOP_DATA``), so that the same recipe works wherever the data are.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from microsnoop.core.config import InputConfig, NativeConfig, NormaliseConfig, Settings, TileConfig


class RecipeEmbedConfig(Settings):
    """How every encoder embeds the rows; the same keys as in an embedding run."""

    mode: Literal["rescale", "native", "tile"] = Field(
        "rescale", description="rescale, native or tile; tiles are averaged before anything is scored."
    )
    input_px: int | None = Field(
        None,
        ge=32,
        multiple_of=32,
        description="Side of the input square, a multiple of 32 so that every encoder takes it (default: each "
        "encoder's own).",
    )
    antialias: bool = Field(True, description="Low-pass before shrinking.")
    normalise: NormaliseConfig = Field(default_factory=NormaliseConfig, description="Intensity scaling.")
    native: NativeConfig = Field(default_factory=NativeConfig, description="Settings of mode native.")
    tile: TileConfig = Field(default_factory=TileConfig, description="Settings of mode tile.")
    seed: int = Field(0, ge=0, description="Seed of the tiles that are kept.")


class EvaluateConfig(Settings):
    """One labelled set: the rows to score, from images, from AnnData files, or both joined by row id."""

    version: Literal[1] = Field(1, description="Version of this file format.")
    title: str = Field(description="What is asked of these rows, in one sentence; stands in the report.")
    input: InputConfig | None = Field(
        None, description="The images, as in an embedding run; paths relative to the data root."
    )
    anndata: dict[str, str] = Field(
        default_factory=dict,
        description="Name: `.h5ad` or `.zarr` file whose X is scored beside (or, without `input`, instead of) "
        "the encoders; rows are joined by obs_names.",
    )
    label: str = Field(description="Column (of the manifest, the cells or obs) that holds the class.")
    group: str | None = Field(
        None,
        description="Column whose rows stay together in a fold (image, patient, plate). `image_id` is always there.",
    )
    where: dict[str, list[str]] = Field(
        default_factory=dict, description="Column: values to keep; all other rows are left out, counted."
    )
    exclude: list[str] = Field(default_factory=list, description="Label values left out, counted.")
    classes: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Class: the label values that it is made of (a name, or a merge); other values stay as they are.",
    )
    max_per_class: int | None = Field(
        None, ge=2, description="At most so many rows of a class, drawn by row id; the rest is counted."
    )
    embed: RecipeEmbedConfig = Field(
        default_factory=RecipeEmbedConfig, description="How the rows are embedded."
    )
    folds: int = Field(5, ge=2, description="Folds, stratified by class, whole groups.")
    k: int | None = Field(
        None,
        ge=1,
        description="Neighbours (default: in folds chosen from 1, 3, 5, 11, 21 by leave-one-out on the training "
        "part; leave-one-out itself 11 from 1,000 rows on, else 1).",
    )
    seed: int = Field(0, ge=0, description="Seed of the draw, the folds, the bootstrap and chance.")

    @model_validator(mode="after")
    def _something_to_score(self) -> EvaluateConfig:
        if self.input is None and not self.anndata:
            raise ValueError("give input (images), anndata (embeddings), or both")
        merged = [value for values in self.classes.values() for value in values]
        twice = sorted(
            {value for value in merged if merged.count(value) > 1} | set(merged) & set(self.exclude)
        )
        if twice:
            raise ValueError(f"the label value(s) {', '.join(twice)} are used twice in classes and exclude")
        if self.label == self.group:
            raise ValueError("label and group must be different columns")
        return self
