"""Settings of simulated plates: which cells, which treatments, which layout, and what the microscope does.

One YAML file of ``configs/simulate``. Paths of ``input`` are relative to the data root (``--data`` or
``MICROSNOOP_DATA``), ``out`` is relative to the working directory.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from microsnoop.core.config import InputConfig
from microsnoop.core.settings import Settings

_WELL = re.compile(r"[A-H](0[1-9]|1[0-2])")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")
_SHARES_AGREE = 1e-6
Share = Annotated[float, Field(gt=0, le=1)]


class CellPoolConfig(Settings):
    """How the source cells are dealt out: no cell is in two pools."""

    controls: int = Field(400, ge=1, description="Cells that all negative controls are drawn from.")
    bystanders: int = Field(
        40,
        ge=1,
        description="Cells of the control mixture kept for each compound: those that do not respond to it.",
    )
    responders: int = Field(80, ge=1, description="Cells in the compound's own phases, at most.")
    min_responders: int = Field(20, ge=1, description="Fewer such cells for a compound are an error.")


class CompoundConfig(Settings):
    """The treatments."""

    per_moa: int = Field(4, ge=1, description="Compounds of each mechanism, spread over the weeks.")
    weeks_per_moa: int | None = Field(
        None,
        ge=1,
        description="A mechanism is screened in so many of the weeks (default: in all), as compounds of one kind often "
        "come together: then the most alike week need not hold any compound of the same mechanism.",
    )
    penetrance: tuple[float, float] = Field(
        (0.55, 0.85), description="Share of cells that respond: a compound's is drawn from this range."
    )
    wells: int = Field(2, ge=1, description="Wells of a compound on each plate of its week.")
    concentration: float = Field(1.0, gt=0, description="Stands in the manifest; controls have 0.")


class PlateConfig(Settings):
    """96-well plates: the same compounds at the same places on all plates of a week."""

    weeks: int = Field(4, ge=1, description="Weeks (batches); each compound is screened within one.")
    per_week: int = Field(3, ge=1, description="Plates a week.")
    sites: int = Field(2, ge=1, description="Fields a well.")
    control_wells: tuple[str, ...] = Field(
        ("A01", "C01", "E01", "G01", "B12", "D12", "F12", "H12"),
        min_length=1,
        description="Wells of the negative control, the same on all plates. Treatments stay out of columns 1 and 12.",
    )

    @model_validator(mode="after")
    def _wells_are_wells(self) -> PlateConfig:
        wrong = [well for well in self.control_wells if not _WELL.fullmatch(well)]
        if wrong:
            raise ValueError(
                f"control_wells must be wells of 96 (A01 to H12), not {', '.join(map(repr, wrong))}"
            )
        if len(set(self.control_wells)) < len(self.control_wells):
            raise ValueError(f"control_wells names a well twice: {', '.join(self.control_wells)}")
        return self


class FieldConfig(Settings):
    """How cells stand in a field."""

    side_px: int = Field(224, ge=16, description="Side of a field in pixels of the source.")
    grid: int = Field(5, ge=1, description="A field holds grid × grid cells.")
    jitter_px: int = Field(
        6, ge=0, description="Cells stand off their place in the grid by up to so many pixels."
    )
    feather_px: int = Field(
        5, ge=0, description="Width of the border over which a cell's picture fades into the background."
    )


class SpreadConfig(Settings):
    """Standard deviation between weeks, plates of a week, places of wells, and fields."""

    week: float = Field(0.0, ge=0, description="Between weeks.")
    plate: float = Field(0.0, ge=0, description="Between the plates of a week.")
    well: float = Field(
        0.0,
        ge=0,
        description="Between places on a plate, the same on all plates; twice that in the outermost wells.",
    )
    field: float = Field(0.0, ge=0, description="Between fields.")


def _spread(week: float, plate: float, well: float, field: float) -> SpreadConfig:
    return SpreadConfig(week=week, plate=plate, well=well, field=field)


class AcquisitionConfig(Settings):
    """The microscope. All channels vary, each by itself; the default sizes are those of a well-kept one."""

    strength: float = Field(1.0, ge=0, le=2, description="Factor on all that follows; 0 = clean fields.")
    gain: SpreadConfig = Field(
        default_factory=lambda: _spread(0.25, 0.08, 0.03, 0.01),
        description="Of the log of brightness: 0.25 is about 25 % (staining, lamp, exposure).",
    )
    offset: SpreadConfig = Field(
        default_factory=lambda: _spread(6.0, 2.0, 0.5, 0.3),
        description="Of the dark level, in counts (0 to 4095 in a 12-bit camera).",
    )
    tilt: SpreadConfig = Field(
        default_factory=lambda: _spread(0.10, 0.03, 0.02, 0.005),
        description="Of the log of the light, from the middle to a border: 0.10 is 10 % darker there.",
    )
    vignette: SpreadConfig = Field(
        default_factory=lambda: _spread(0.05, 0.02, 0.01, 0.0),
        description="Of the fall of the log of the light from the middle to a corner.",
    )
    mean_vignette: float = Field(0.08, ge=0, description="That fall in a microscope that does not deviate.")
    blur_px: SpreadConfig = Field(
        default_factory=lambda: _spread(0.6, 0.2, 0.1, 0.15),
        description="Of the focus: the absolute sum is the standard deviation of a Gaussian, in pixels.",
    )
    noise: SpreadConfig = Field(
        default_factory=lambda: _spread(0.4, 0.1, 0.0, 0.0),
        description="Of the log of the noise that is added.",
    )
    read_sd: float = Field(1.5, ge=0, description="Read noise that is added, in counts.")
    shot: float = Field(0.02, ge=0, description="Photon noise that is added: variance a count of signal.")
    edge_gain: float = Field(
        0.03, ge=0, description="Log of how much brighter the outermost wells are (evaporation)."
    )
    white_level: int = Field(
        4095, ge=255, le=65535, description="Counts above it are cut and counted as saturated."
    )


class SimulateConfig(Settings):
    """Plates of fields made of real cells, with known treatments, batches and acquisition."""

    version: Literal[1] = Field(1, description="Version of this file format.")
    input: InputConfig = Field(
        description="The source cells, one image each; paths relative to the data root."
    )
    label: str = Field(description="Column of the manifest that holds the phase (class) of a cell.")
    where: dict[str, list[str]] = Field(
        default_factory=dict, description="Column: values to keep; all other cells are left out, counted."
    )
    out: str = Field(description="Folder for images, manifest, layout and overview.")
    control: str = Field("DMSO", description="Name of the negative control.")
    mixture: dict[str, Share] = Field(
        min_length=1, description="Phase: its share among untreated cells; shares add up to 1."
    )
    moas: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        min_length=1, description="Mechanism of action: the phases in which it stops cells."
    )
    cells: CellPoolConfig = Field(
        default_factory=CellPoolConfig, description="How cells are dealt out to controls and compounds."
    )
    compounds: CompoundConfig = Field(default_factory=CompoundConfig, description="The treatments.")
    plates: PlateConfig = Field(default_factory=PlateConfig, description="The layout.")
    field: FieldConfig = Field(default_factory=FieldConfig, description="How cells stand in a field.")
    acquisition: AcquisitionConfig = Field(
        default_factory=AcquisitionConfig, description="What the microscope does."
    )
    seed: int = Field(0, ge=0, description="Seed of every draw.")

    @model_validator(mode="after")
    def _makes_sense(self) -> SimulateConfig:
        total = sum(self.mixture.values())
        if abs(total - 1) > _SHARES_AGREE:
            raise ValueError(f"the shares of mixture must add up to 1, they add up to {total:g}")
        low, high = self.compounds.penetrance
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"compounds.penetrance must be [low, high] with 0 < low <= high <= 1, got {[low, high]}"
            )
        if self.control in self.moas:
            raise ValueError(f"{self.control!r} is both the control and a mechanism")
        strange = [name for name in (self.control, *self.moas) if not _NAME.fullmatch(name)]
        if strange:
            raise ValueError(
                "names of mechanisms are made of letters, digits, spaces and . _ + -, not "
                + ", ".join(map(repr, strange))
            )
        twice = [moa for moa, phases in self.moas.items() if len(set(phases)) < len(phases)]
        if twice:
            raise ValueError(f"a phase stands twice in {', '.join(twice)}")
        if self.cells.min_responders > self.cells.responders:
            raise ValueError("cells.min_responders is above cells.responders")
        return self

    def recipe(self) -> dict[str, Any]:
        """Return what decides the images: where they are written does not."""
        return self.model_dump(mode="json", exclude={"out"})
