"""Settings of a joint analysis: which transcripts, which images, which methods, and how they are judged.

Source: multimodal spec, sections 0, 1, 5, 7 and 8. One YAML file of ``configs/joint`` holds them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from microsnoop.core.joint_simulation_config import JointSimulationConfig
from microsnoop.core.muse_config import MuseParameters
from microsnoop.core.settings import Settings

Method = Literal["transcripts", "images", "concat", "wnn", "mofa", "muse", "published", "shuffled"]
METHODS: tuple[Method, ...] = ("transcripts", "images", "concat", "wnn", "mofa", "muse", "shuffled")
ALWAYS: tuple[Method, ...] = (
    "transcripts",
    "images",
    "muse",
)  # what any answer is read against, and the answer
# settings of MUSE that stand elsewhere in the file, because all methods share them
_ELSEWHERE = {
    "seed": "seed and seeds",
    "image_components": "image.components",
    "image_standardise": "image.standardise",
}
_SOURCES = ("mudata", "rna", "spots", "seqfish")


class SpotsInput(Settings):
    """One section of a spot-based experiment; see docs/multimodal-inputs.md."""

    source: str = Field(
        description="A folder laid out as her2st, `outs` of Space Ranger, or a SpatialData `.zarr`; relative to the "
        "data root (`--data`), else to the working directory."
    )
    section: str | None = Field(None, description="Which section; needed where there are several.")
    picture: str | None = Field(
        None, description="The full-resolution image (default: the one that the layout has)."
    )
    pixel_size_um: float | None = Field(
        None, gt=0, description="µm a pixel of that image (default: what the files say, else from the array)."
    )


class SeqfishInput(Settings):
    """A folder of seqFISH+ data; see docs/multimodal-inputs.md."""

    folder: str = Field(description="The folder with the published tables; relative to the data root.")
    tissue: Literal["cortex", "olfactory_bulb"] = Field("cortex", description="Which of the two tissues.")
    field: int | str | None = Field(None, description="Only the cells of this field of view (default: all).")
    pixel_size_um: float | None = Field(
        None, gt=0, description="µm a pixel; never assumed: without it positions stay in pixels."
    )
    cells: str | None = Field(
        None,
        description="The `cells.csv` that `write_embedding_inputs` wrote, which says whose row is whose (default: the "
        "one beside the run directory).",
    )


class JointInput(Settings):
    """The two modalities. Exactly one of `mudata`, `rna`, `spots` and `seqfish`; the last three with `image`."""

    mudata: str | None = Field(
        None, description="A `.h5mu` or `.zarr` file with both modalities; relative to the data root."
    )
    rna_name: str = Field("rna", description="Name of the transcripts in `mudata`.")
    image_name: str = Field("image", description="Name of the images in `mudata`.")
    rna: str | None = Field(None, description="Transcripts: `.h5ad` or `.zarr`, one row a cell.")
    spots: SpotsInput | None = Field(None, description="Transcripts of spots.")
    seqfish: SeqfishInput | None = Field(None, description="Transcripts of seqFISH+ cells.")
    image: str | None = Field(
        None,
        description="Image embeddings: a run directory of `microsnoop embed` (or the folder that holds one as `run`), "
        "`.h5ad` or `.zarr`, one row a cell.",
    )
    join_key: str = Field(
        "cell_id",
        description="Column of the embeddings' `obs` with the ids of the transcripts; where there is none, both have "
        "the same row names.",
    )
    join: Literal["inner", "error"] = Field(
        "inner", description="Cells of one modality only are rejected, counted and listed; `error`: refused."
    )

    @model_validator(mode="after")
    def _one_source(self) -> JointInput:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of {', '.join(_SOURCES)} is needed, got {' and '.join(given) or 'none'}"
            )
        if given == ["mudata"] and self.image is not None:
            raise ValueError("mudata holds the images already: leave image out")
        if given != ["mudata"] and self.image is None:
            raise ValueError(f"{given[0]} needs image: the embeddings of the same cells")
        return self


class TranscriptSettings(Settings):
    """How transcripts are made ready."""

    input: Literal["auto", "counts", "log"] = Field(
        "auto",
        description="`counts` are normalised and logged, `log` values are used as they are; `auto`: whole numbers are "
        "counts.",
    )
    n_genes: int | None = Field(2_000, ge=1, description="The most variable genes that are kept; null: all.")
    target_sum: float = Field(10_000.0, gt=0, description="Sum of a cell after normalisation.")


class ImageSettings(Settings):
    """How image features are made ready."""

    layer: str | None = Field(
        None, description="A layer or key of `obsm`, e.g. X_harmony for corrected embeddings (default: X)."
    )
    components: int | None = Field(
        50,
        ge=1,
        description="Features become so many principal components; null: they are taken as they are.",
    )
    standardise: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="Give every feature a variance of 1 before; `auto` takes what makes image clusters easier to find "
        "again in other cells. No label is looked at.",
    )


class GeneSettings(Settings):
    """Which genes are reported."""

    top: int = Field(20, ge=1, description="Genes a cluster in genes_by_cluster.csv.")
    groups: list[str] = Field(
        default_factory=list,
        description="Genes whose strongest cells (a tenth) are looked up in image space: do they stand together?",
    )


class JointConfig(Settings):
    """A joint analysis of transcripts and images of the same cells, or a simulation of one."""

    version: Literal[1] = Field(1, description="Version of this file format.")
    title: str = Field("Joint analysis", description="Stands at the top of the report.")
    notes: list[str] = Field(
        default_factory=list, description="Sentences that a reader of the report must know about these data."
    )
    input: JointInput | None = Field(None, description="The two modalities; left out with `simulation`.")
    transcripts: TranscriptSettings = Field(default_factory=TranscriptSettings, description="Transcripts.")
    image: ImageSettings = Field(default_factory=ImageSettings, description="Images.")
    muse: MuseParameters = Field(
        default_factory=MuseParameters,
        description="Settings of MUSE. `k`, `resolution` and `clustering` are those of every method; its seed and how "
        "images are made ready stand under `seed` and `image`.",
    )
    methods: list[Method] = Field(
        default_factory=lambda: list(METHODS),
        description="What is compared: transcripts, images (always), concat, wnn, mofa (the last two need the extra "
        "`multimodal`; without it their row says so), muse (always), published (MUSE with the released settings, "
        "slower), shuffled (MUSE on wrong pairs, the null).",
    )
    labels: list[str] = Field(
        default_factory=list,
        description="Columns of `obs` with known labels, for ARI, NMI and silhouette. They are looked at only at the "
        "end, to score.",
    )
    groups: str | None = Field(
        None, description="Column of fields, sections or donors: drawn and held out as a whole."
    )
    seeds: int = Field(
        5, ge=1, description="MUSE is fitted with `seed`, `seed` + 1, ...; the first is shown."
    )
    shuffles: int = Field(3, ge=1, description="Wrong pairings that MUSE is fitted on; the first is shown.")
    resolutions: list[Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: [0.2, 0.5, 1.0, 2.0],
        min_length=1,
        description="Grid of resolutions; the one that agrees best with the labels is shown in a column of its own.",
    )
    bootstrap: int = Field(1_000, ge=20, description="Draws behind each 95 % interval.")
    permutations: int = Field(200, ge=20, description="Permutations behind the test of the pairing.")
    genes: GeneSettings = Field(default_factory=GeneSettings, description="Genes.")
    out: str = Field("runs/joint", description="Folder of the results.")
    seed: int = Field(0, ge=0, description="Seed of models, clusters, permutations, draws and maps.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where MUSE is trained.")
    simulation: JointSimulationConfig | None = Field(
        None,
        description="Simulated cells instead of `input`: how good is each method, by quality of the images?",
    )

    @model_validator(mode="after")
    def _settings_agree(self) -> JointConfig:
        if (self.input is None) == (self.simulation is None):
            raise ValueError("exactly one of input and simulation is needed")
        for name, place in _ELSEWHERE.items():
            if self.input is not None and name in self.muse.model_fields_set:
                raise ValueError(f"muse.{name} is given under {place}, which all methods share")
        if missing := [name for name in ALWAYS if name not in self.methods]:
            raise ValueError(f"methods must hold {', '.join(missing)}: nothing can be judged without")
        for name in ("methods", "labels", "resolutions"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one twice: {', '.join(map(str, values))}")
        return self
