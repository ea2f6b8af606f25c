"""Settings of a batch experiment: which profiles, which plates, how they are corrected, aggregated and scored.

Source: batch spec, sections 1, 2, 5 to 8; evaluation spec, sections 3 to 6.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, StrictStr, field_validator, model_validator

from microsnoop.core.settings import Settings

Statistic = Literal["mean", "median", "trimmed", "modz", "cell_weighted"]
UNCORRECTED = "none"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()-]*")
_DEFAULT_METHODS: dict[str, list[dict[str, Any]]] = {
    UNCORRECTED: [],
    "MAD": [{"method": "mad", "scope": "plate", "minimum_rows": 2, "max_dropped": 0.2}],
    "sphering": [{"method": "sphering", "reg": "knee"}],
}


class ProfileInput(Settings):
    """Where the profiles come from."""

    table: str = Field(
        description="A table of profiles (CSV, TSV, Parquet, a folder of Parquet parts), `.h5ad`, `.zarr`, or a run "
        "directory of `microsnoop embed`; relative to the data root (`--data`), else to the working directory."
    )
    level: Literal["cell", "image", "well"] = Field(
        "image", description="What a row is: a well may stand once in a table of wells only."
    )
    columns: dict[str, StrictStr] = Field(
        default_factory=dict,
        description="Our name: column of the table, for plate, well, site, batch, week, compound, concentration, moa, "
        "... (default: the names of CellProfiler, JUMP and DeepProfiler are known).",
    )
    features: list[StrictStr] | None = Field(
        None,
        description="Features, by name or prefix (default: the numeric columns that are no metadata; for CellProfiler "
        "tables those of Cells_, Nuclei_, Cytoplasm_ that measure the cell).",
    )
    plate_map: str | None = Field(
        None,
        description="A table with well (and plate) that says what was in it: joined by name, never by order.",
    )
    compound_map: str | None = Field(
        None, description="A table with compound (and concentration) that says its MoA: joined by name."
    )
    where: dict[str, list[str]] = Field(
        default_factory=dict, description="Column: values to keep; all other rows are left out, counted."
    )


class PlateConfig(Settings):
    """What stands on the plates."""

    format: Literal[6, 12, 24, 48, 96, 384, 1536] | None = Field(
        None, description="Wells a plate; a well outside is an error (default: the smallest that holds all)."
    )
    batch: str = Field(
        "batch",
        description="Column of the largest unit of technical variation: week, experiment, laboratory. Without it each "
        "plate is a batch, with a warning.",
    )
    controls: dict[str, list[str]] = Field(
        default_factory=lambda: {"control_type": ["negative"]},
        description="Column: values of the negative controls, which corrections are fitted on.",
    )
    treatment: list[str] = Field(
        default_factory=lambda: ["compound", "concentration"],
        min_length=1,
        description="Columns that make a treatment.",
    )


class LevelConfig(Settings):
    """Which rows are corrected, and how rows become wells and treatments."""

    correct: Literal["row", "site", "well"] = Field(
        "row",
        description="Rows are aggregated to this level before they are corrected: `row` corrects them as they come "
        "(the paper corrects images).",
    )
    statistic: Statistic = Field("mean", description="How rows become sites or wells.")
    treatment: Statistic = Field(
        "mean", description="How corrected rows become treatments (published: mean)."
    )
    through_wells: bool = Field(
        False, description="Rows become wells first, then treatments, so that every well counts the same."
    )
    min_rows: int = Field(
        1, ge=1, description="A site, well or treatment of fewer rows is a reject, never a zero."
    )


class ScoreConfig(Settings):
    """How corrected profiles are judged."""

    label: str | None = Field(
        "moa", description="Column with the mechanism; null: no NSC, only replicates are judged."
    )
    compound: str = Field("compound", description="Column with the compound.")
    exclude_classes: list[str] = Field(
        default_factory=list, description="Mechanisms left out of NSCB (those of a single batch), by name."
    )
    cell_count: str | None = Field(
        None,
        description="Column or feature that counts cells, as a baseline (default: n_cells where it is there).",
    )
    map_null: int = Field(10_000, ge=100, description="Random rankings behind each p-value of mAP.")
    permutations: int = Field(200, ge=20, description="Label permutations behind the null of NSC and NSCB.")
    seed: int = Field(0, ge=0, description="Seed of nulls, folds and maps.")


class ProfileConfig(Settings):
    """A batch experiment, from profiles of rows to corrected treatment profiles and a report."""

    version: Literal[1] = Field(1, description="Version of this file format.")
    title: str = Field("Batch experiment", description="Stands at the top of the report.")
    input: ProfileInput = Field(description="Where the profiles come from.")
    plates: PlateConfig = Field(default_factory=PlateConfig, description="What stands on the plates.")
    levels: LevelConfig = Field(default_factory=LevelConfig, description="Levels.")
    methods: dict[str, list[dict[str, Any]]] = Field(
        default_factory=lambda: dict(_DEFAULT_METHODS),
        description="Name: steps, one after the other; each is `method` (standardize, mad, log, sphering, pca, tvn, "
        "harmony) and its parameters (docs/profiles.md). All are scored side by side; `none` is always among them.",
    )
    use: str = Field(
        "sphering", description="The method whose profiles are written; the others are only scored."
    )
    score: ScoreConfig = Field(default_factory=ScoreConfig, description="Scores.")
    out: str = Field("runs/profile", description="Folder of the results.")
    out_of_core: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Correct and aggregate block by block with Ray Data, with `use` alone: for a folder of Parquet "
        "parts that is larger than a quarter of the free memory (auto).",
    )

    @field_validator("methods")
    @classmethod
    def _named_methods(cls, methods: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        strange = [name for name in methods if not _NAME.fullmatch(name)]
        if strange:
            raise ValueError(
                f"a method's name is made of letters, digits, spaces and . _ + - ( ), not {strange[0]!r}"
            )
        empty = [name for name, steps in methods.items() if not steps and name != UNCORRECTED]
        if empty:
            raise ValueError(f"{empty[0]!r} has no steps; only {UNCORRECTED!r} may be empty")
        if methods.get(UNCORRECTED):
            raise ValueError(f"{UNCORRECTED!r} is the uncorrected baseline and has no steps")
        return {UNCORRECTED: []} | methods

    @model_validator(mode="after")
    def _known_use(self) -> ProfileConfig:
        if self.use not in self.methods:
            raise ValueError(f"use: {self.use!r} is not among the methods {', '.join(self.methods)}")
        return self
