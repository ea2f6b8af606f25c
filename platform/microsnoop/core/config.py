"""Settings: frozen pydantic models that check themselves; an unknown key is an error.

A configuration is one YAML file. Every key is also an option of ``microsnoop embed`` where that makes
sense, and every key is described here and nowhere else: ``docs/configuration.md`` is generated from these
models. Relative paths are relative to the working directory, as in any command.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from microsnoop.core.field_config import SEGMENTER_VERSION, CropConfig, SegmentConfig
from microsnoop.core.settings import ChannelChoice, Settings


class InputConfig(Settings):
    """Where the images are. Exactly one of ``manifest``, ``folder`` and ``pattern``."""

    manifest: str | None = Field(
        None, description="CSV or Parquet table, one row an image; see docs/inputs.md for its columns."
    )
    folder: str | None = Field(None, description="A folder; every image file below it is one image.")
    pattern: str | None = Field(
        None,
        description="File names with fields, e.g. `plates/{plate}/{well}_s{site}_w{channel}.tif`. Files that "
        "differ only in `{channel}` become one image; the other fields become metadata.",
    )
    root: str | None = Field(
        None, description="Folder that relative paths of a manifest start from (default: the manifest's own)."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Our column name: the name in your table, e.g. `{uri: file, image_id: cell_id}`.",
    )
    stack: bool = Field(
        False, description="Each file is a stack (N,C,H,W): every index becomes one image of its own."
    )
    channels: ChannelChoice | None = Field(
        None,
        description="Channels to keep, in this order: a list of names or zero-based positions, or a mapping "
        "of new name to old name or position. Default: all, under their own names.",
    )
    cells: str | None = Field(
        None,
        description="CSV or Parquet table of cells: `image` with `x_px, y_px` (centres, needs `cell_size_px`) "
        "or `x0_px, y0_px, width_px, height_px` (boxes). Each row becomes one sample cut from its image.",
    )
    cells_columns: dict[str, str] = Field(
        default_factory=dict, description="Like `columns`, for the table of cells."
    )
    cell_size_px: int | None = Field(None, ge=1, description="Side of the window cut around each centre.")
    masks: str | None = Field(
        None,
        description="Label images for mode crop: a folder with files of the same names, or a pattern with the "
        "fields of `pattern`, e.g. `masks/{plate}/{well}_s{site}.tif`. A manifest names them in `mask_uri`.",
    )
    mask_kind: Literal["auto", "labels", "binary"] = Field(
        "auto",
        description="labels: one number an object. binary: every connected piece is one object. auto: labels, but "
        "what looks binary is refused.",
    )
    missing_channel: Literal["reject", "mask"] = Field(
        "reject",
        description="An image without the file of one of its channels: reject it, or embed the others and leave "
        "that channel's vector empty (NaN; flag `missing_channel`).",
    )
    pixel_size_um: float | None = Field(
        None, gt=0, description="Pixel size of all images; overrides what the files say."
    )
    max_image_mpx: float = Field(
        200.0, gt=0, description="Largest image that is read, in megapixels a plane; larger is rejected."
    )
    block_px: int = Field(
        2048,
        ge=64,
        description="Fields with a longer side are read and embedded in blocks of this side, where the file can be "
        "read by region (tiled TIFF, .npy) and the mode allows it (tile, crop, a table of cells).",
    )
    min_side_px: int = Field(4, ge=1, description="Images and boxes with a shorter side are rejected.")
    limit: int | None = Field(None, ge=1, description="Use only the first so many images (a trial run).")

    @model_validator(mode="after")
    def _one_source(self) -> InputConfig:
        given = [name for name in ("manifest", "folder", "pattern") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of manifest, folder and pattern, got {given or 'none'}")
        if self.stack and self.cells:
            raise ValueError("stack and cells exclude each other: a stack's images are cut out already")
        if self.masks and self.cells:
            raise ValueError("masks and cells exclude each other: both say where the cells are")
        return self


class NormaliseConfig(Settings):
    """Intensity scaling, per plane, on real pixels, before any padding (Microsnoop spec, section 8)."""

    enabled: bool = Field(True, description="False for data that is scaled already.")
    low: float = Field(1.0, ge=0, lt=100, description="Percentile that becomes 0.")
    high: float = Field(99.0, gt=0, le=100, description="Percentile that becomes 1.")
    clip: Literal["encoder", "none"] | tuple[float, float] = Field(
        "encoder",
        description="Range after scaling: the one the encoder was trained with, none, or [low, high].",
    )
    pad: Literal["zero", "edge_median", "reflect"] = Field(
        "zero",
        description="What surrounds an image that does not fill the square: 0 (the low percentile), the "
        "median of the outermost ring (bright-field, H&E), or its mirror image.",
    )
    constant_plane: Literal["flag", "reject"] = Field(
        "flag", description="A plane without any contrast: embed it as zeros and flag the row, or reject it."
    )

    @model_validator(mode="after")
    def _ordered(self) -> NormaliseConfig:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if isinstance(self.clip, tuple) and not self.clip[0] < self.clip[1]:
            raise ValueError(f"clip must be [low, high] with low < high, got {list(self.clip)}")
        return self


class NativeConfig(Settings):
    """Mode `native`: keep the scale, pad to the input square."""

    rescale_factor: float = Field(1.0, gt=0, description="Both sides are multiplied by this.")
    target_um_per_px: float | None = Field(
        None, gt=0, description="Scale every image to this pixel size instead; needs a known pixel size."
    )
    on_oversize: Literal["reject", "tile"] = Field(
        "reject", description="An image larger than the input square: reject it, or tile it (flagged)."
    )

    @model_validator(mode="after")
    def _one_scale(self) -> NativeConfig:
        if self.target_um_per_px is not None and self.rescale_factor != 1.0:
            raise ValueError("give rescale_factor or target_um_per_px, not both")
        return self


class TileConfig(Settings):
    """Mode `tile`: overlapping windows that cover every pixel."""

    overlap: Annotated[float, Field(ge=0.05, le=0.5)] = Field(0.1, description="Overlap, 0.05 to 0.5.")
    rate: float = Field(1.0, gt=0, le=1, description="Share of the tiles to keep, drawn once an image.")
    norm: Literal["tile", "image"] = Field("tile", description="Scale each tile by itself or by its image.")
    foreground: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Reject tiles with a smaller share of foreground (`background`), found as in `segment`.",
    )


class ExecutionConfig(Settings):
    """How the work is spread. None of these changes which rows come out."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where the encoder runs.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Numbers inside the encoder. auto: bf16 where the hardware is fast at it, else fp32.",
    )
    compile: bool = Field(False, description="torch.compile the encoder: a minute of start-up, then faster.")
    memory_gb: float | None = Field(
        None, gt=0, description="Memory for the whole run on this machine (default: half of what is free)."
    )
    batch_planes: int | None = Field(
        None, ge=1, description="Planes the encoder takes at once (default: by device and input side)."
    )
    actors: int | None = Field(None, ge=1, description="Encoder processes (default: by cores or GPUs).")
    num_gpus_per_actor: float = Field(1.0, gt=0, le=1, description="Share of a GPU each actor asks for.")
    address: str | None = Field(
        None, description="A running Ray cluster (`auto` or its address); default: start a local one."
    )
    rows_per_part: int = Field(4096, ge=1, description="A Parquet file is closed at this many rows at most,")
    flush_seconds: float = Field(20.0, gt=0, description="or after this long: what a crash can cost.")


class EmbedConfig(Settings):
    """One embedding run."""

    version: Literal[1] = Field(1, description="Version of this file format.")
    input: InputConfig = Field(description="Where the images are.")
    run_dir: str = Field(description="Folder the run writes to; `<run_dir>.h5ad` stands beside it.")
    encoder: str = Field(
        "snoop-trial", description="Name of an encoder (`microsnoop models list`) or a .safetensors."
    )
    pooling: Literal["encoder", "paper"] = Field(
        "encoder",
        description="encoder: vectors as the encoder's card says. paper: the plain mean of the last map of the "
        "published network, 256 numbers, from the same weights (docs/encoder.md).",
    )
    mode: Literal["rescale", "native", "tile", "crop"] = Field(
        "rescale",
        description="rescale: pad to a square and resize. native: keep the scale and pad. tile: cut windows. crop: "
        "the region around each object of a mask.",
    )
    input_px: int | None = Field(
        None,
        ge=8,
        description="Side of the encoder's input square, a multiple of 8 (default: the encoder's).",
    )
    antialias: bool = Field(True, description="Low-pass before shrinking; false is what was published.")
    l2: bool = Field(True, description="Divide each channel's vector by its length.")
    normalise: NormaliseConfig = Field(default_factory=NormaliseConfig, description="Intensity scaling.")
    native: NativeConfig = Field(default_factory=NativeConfig, description="Settings of mode native.")
    tile: TileConfig = Field(default_factory=TileConfig, description="Settings of mode tile.")
    segment: SegmentConfig = Field(
        default_factory=SegmentConfig, description="How objects are found in mode crop without masks."
    )
    crop: CropConfig = Field(default_factory=CropConfig, description="Settings of mode crop.")
    seed: int = Field(0, ge=0, description="Seed of every random choice, keyed by image.")
    compat: list[Literal["pad_before_normalize"]] = Field(
        default_factory=list, description="Published behaviours brought back for parity; off by default."
    )
    fuse: Literal["concat", "mean", "chans"] = Field(
        "concat", description="How channel vectors become one row of X in the AnnData file."
    )
    export: Literal["h5ad", "zarr", "none"] = Field("h5ad", description="AnnData file written at the end.")
    max_reject_fraction: float = Field(
        0.05, ge=0, le=1, description="Exit code 3 when a larger share of the images was rejected."
    )
    execution: ExecutionConfig = Field(default_factory=ExecutionConfig, description="How the work is spread.")

    @model_validator(mode="after")
    def _sides(self) -> EmbedConfig:
        if self.input_px is not None and self.input_px % 8:
            raise ValueError(f"input_px must be a multiple of 8, got {self.input_px}")
        if self.mode == "crop" and self.input.cells:
            raise ValueError("mode crop finds the cells itself: with input.cells use native or rescale")
        if self.input.masks and self.mode != "crop":
            raise ValueError(f"input.masks is for mode crop, not {self.mode}")
        return self

    def processing(self) -> dict[str, Any]:
        """Return the settings that change the numbers of a row, and no others.

        A setting that came later stands here only where it is in force: runs begun before keep their key.
        """
        names = {"mode", "input_px", "antialias", "l2", "normalise", "native", "seed", "compat"}
        settings = self.model_dump(mode="json", include=names)
        settings |= settings_of_fields(self.mode, self.tile, segment=self.segment, crop=self.crop)
        settings["channels"] = self.input.channels
        settings["cell_size_px"] = self.input.cell_size_px
        settings["min_side_px"] = self.input.min_side_px
        settings["max_image_mpx"] = self.input.max_image_mpx
        if self.pooling != "encoder":
            settings["pooling"] = self.pooling
        if "segment" in settings:
            settings["segment"]["version"] = SEGMENTER_VERSION
        if self.mode == "crop":
            settings["block_px"] = self.input.block_px
            settings["mask_kind"] = self.input.mask_kind
        if self.input.missing_channel != "reject":
            settings["missing_channel"] = self.input.missing_channel
        return settings


def settings_of_fields(
    mode: str, tile: TileConfig, *, segment: SegmentConfig, crop: CropConfig
) -> dict[str, Any]:
    """Return the sections ``tile``, ``segment`` and ``crop``, the later ones only where they are in force.

    They came when runs existed already: what does not decide the numbers of those must not change their keys.
    """
    settings = {"tile": tile.model_dump(mode="json")}
    if not tile.foreground:
        del settings["tile"]["foreground"]
    if mode == "crop" or tile.foreground:
        settings["segment"] = segment.model_dump(mode="json")
    if mode == "crop":
        settings["crop"] = crop.model_dump(mode="json")
    return settings


def digest(value: Any) -> str:
    """Return a short stable hash of JSON-like ``value``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
