"""Settings of an evaluation recipe: which rows, which label, how they are embedded and scored.

A recipe is one YAML file of ``configs/evaluate``. Its paths are relative to the data root (``--data`` or
``MICROSNOOP_DATA``), so that the same recipe works wherever the data are.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from microsnoop.core.config import InputConfig, NativeConfig, NormaliseConfig, TileConfig, settings_of_fields
from microsnoop.core.field_config import CropConfig, SegmentConfig
from microsnoop.core.settings import Settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")


class RecipeEmbedConfig(Settings):
    """How every encoder embeds the rows; the same keys as in an embedding run."""

    mode: Literal["rescale", "native", "tile", "crop"] = Field(
        "rescale",
        description="rescale, native, tile or crop. Cells and tiles become one vector of their image (`aggregate`) "
        "before anything is scored.",
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
    segment: SegmentConfig = Field(
        default_factory=SegmentConfig, description="How objects are found in mode crop without masks."
    )
    crop: CropConfig = Field(default_factory=CropConfig, description="Settings of mode crop.")
    aggregate: Literal["mean", "median", "mean_std", "trimmed", "modz"] = Field(
        "mean", description="How the tiles or cells of an image become its vector, in modes tile and crop."
    )
    seed: int = Field(0, ge=0, description="Seed of the tiles and cells that are kept.")

    @model_validator(mode="after")
    def _something_to_aggregate(self) -> RecipeEmbedConfig:
        if self.aggregate != "mean" and self.mode not in ("tile", "crop"):
            raise ValueError(f"aggregate {self.aggregate} is for modes tile and crop, not {self.mode}")
        return self

    def laid_over(self, changes: dict[str, Any]) -> RecipeEmbedConfig:
        """Return these settings with ``changes`` laid over them, key by key, also inside sections."""
        return RecipeEmbedConfig.model_validate(_merged(self.model_dump(exclude_unset=True), changes))

    def run_settings(self) -> dict[str, Any]:
        """Return what decides the rows of a run: what is done with them later (``aggregate``) is not part of it.

        A setting that came later stands here only where it is in force: runs begun before keep their folder.
        """
        settings = self.model_dump(mode="json", exclude={"aggregate", "tile", "segment", "crop"})
        return settings | settings_of_fields(self.mode, self.tile, segment=self.segment, crop=self.crop)


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
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Name: settings laid over `embed`. Every encoder under test is scored once a variant, on the same "
        "rows and folds, and compared with its first variant; baselines are embedded like the first variant.",
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

    @field_validator("variants")
    @classmethod
    def _readable_names(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        strange = [name for name in variants if not _NAME.fullmatch(name)]
        if strange:
            raise ValueError(
                f"a variant's name is made of letters, digits, spaces and . _ + -, not {', '.join(map(repr, strange))}"
            )
        files = [variant_file(name) for name in variants]
        if len(set(files)) < len(files):
            raise ValueError(f"the names of variants differ only in spaces: {', '.join(variants)}")
        return variants

    @model_validator(mode="after")
    def _variants_can_be_embedded(self) -> EvaluateConfig:
        if self.variants and self.input is None:
            raise ValueError("variants need input: the rows of AnnData files are embedded already")
        modes = {embed.mode for embed in self.embeddings().values()}
        if self.input is not None and self.input.cells and "crop" in modes:
            raise ValueError("mode crop finds the cells itself: with input.cells use native or rescale")
        if self.input is not None and self.input.masks and "crop" not in modes:
            raise ValueError("input.masks is for mode crop, and nothing is embedded so")
        return self

    def embeddings(self) -> dict[str, RecipeEmbedConfig]:
        """Return how the rows are embedded, by variant; without variants once, under no name.

        Raises
        ------
        ValueError
            Settings of a variant that do not fit; the message names each.
        """
        if not self.variants:
            return {"": self.embed}
        found, wrong = {}, []
        for name, changes in self.variants.items():
            try:
                found[name] = self.embed.laid_over(changes)
            except ValidationError as error:
                wrong += [f"{'.'.join(map(str, (name, *e['loc'])))}: {e['msg']}" for e in error.errors()]
        if wrong:
            raise ValueError(f"variants: {'; '.join(wrong)}")
        return found


def variant_file(name: str) -> str:
    """Return a variant's name as it stands in file names."""
    return "-".join(name.split())


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {name: value for name, value in changes.items() if isinstance(value, dict)}
    inner = {name: _merged(base[name], v) for name, v in both.items() if isinstance(base.get(name), dict)}
    return base | changes | inner
