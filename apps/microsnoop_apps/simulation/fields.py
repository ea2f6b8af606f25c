"""Clean fields: real cells on a background like their own, with the place of every cell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError
from microsnoop.core.evaluate_config import EvaluateConfig
from microsnoop.core.simulate_config import FieldConfig, SimulateConfig
from microsnoop.io.images import ImageReader, ImageSource
from microsnoop.io.labelled import read_labelled
from microsnoop_apps.simulation.layout import Compound, Pools

_OUTLIERS_SD = 4.0  # border pixels farther from the level belong to a cell that reaches the border
_SD_PER_MAD = 1.4826

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SourceCells:
    """Cells with their phases; ``planes`` is (N, C, h, w), all of one size, in the dtype of the files.

    ``n_input`` cells were listed, ``left_out`` counts those not taken by reason.
    """

    ids: tuple[str, ...]
    phases: tuple[str, ...]
    channels: tuple[str, ...]
    planes: NDArray[Any]
    n_input: int
    left_out: Mapping[str, int]

    @property
    def sha256(self) -> str:
        """Digest of ids, phases and pixels: other cells make other plates."""
        found = hashlib.sha256(repr((self.ids, self.phases, self.channels, self.planes.shape)).encode())
        found.update(np.ascontiguousarray(self.planes).tobytes())
        return found.hexdigest()

    @cached_property
    def levels(self) -> Floats:
        """Return the background of each cell, float64 (N, C): the median of its outermost ring."""
        return np.asarray(np.median(self._rings, axis=2), np.float64)

    @cached_property
    def level(self) -> Floats:
        """Return the background of a field, float64 (C,)."""
        return np.asarray(np.median(self.levels, axis=0), np.float64)

    def background_noise(self) -> list[Floats]:
        """Return, for each channel, how far pixels of borders are from their cell's level (mean 0)."""
        away = self._rings.astype(np.float64) - self.levels[:, :, None]
        noise = []
        for c in range(len(self.channels)):
            values = away[:, c].ravel()
            sd = _SD_PER_MAD * np.median(np.abs(values))
            quiet = values[np.abs(values) <= _OUTLIERS_SD * sd]
            noise.append(quiet - quiet.mean())
        return noise

    @property
    def _rings(self) -> NDArray[Any]:
        ring = np.ones(self.planes.shape[2:], bool)
        ring[1:-1, 1:-1] = False
        return self.planes[:, :, ring]


@dataclass(frozen=True)
class Placement:
    """One cell of a field: its number among the source cells, why it is there, and how it stands.

    ``y_px``, ``x_px`` is the upper left corner of its picture, which was first mirrored left to right (``mirrored``)
    and then turned ``quarter_turns`` times 90° against the clock.
    """

    cell: int
    role: str
    y_px: int
    x_px: int
    quarter_turns: int
    mirrored: bool


def read_cells(cfg: SimulateConfig, root: str) -> SourceCells:
    """Read all source cells below the data root ``root``.

    Raises
    ------
    InputError
        Columns that are missing, cells of different sizes or channels, or pictures that are not square.
    RowRejected
        A picture that cannot be read.
    """
    recipe = EvaluateConfig(title="source cells", input=cfg.input, label=cfg.label, where=cfg.where)
    inputs, rows = read_labelled(recipe, root=root)
    place = {name: i for i, name in enumerate(inputs.records["image_id"].to_pylist())}
    records = inputs.records.take([place[name] for name in rows.ids]).to_pylist()
    with ImageReader() as reader:
        images = [reader.read(ImageSource.of(record), channels=cfg.input.channels) for record in records]
    first = images[0]
    for name, image in zip(rows.ids, images, strict=True):
        if image.planes.shape != first.planes.shape or image.channels != first.channels:
            raise InputError(
                f"{name} has {image.planes.shape} in {', '.join(image.channels)}, {rows.ids[0]} has "
                f"{first.planes.shape} in {', '.join(first.channels)}: all cells need one size and the same channels"
            )
    if first.planes.shape[1] != first.planes.shape[2]:
        raise InputError(f"cells must be square to be turned, they are {first.planes.shape[1:]} px")
    planes = np.stack([image.planes for image in images])
    return SourceCells(rows.ids, rows.classes, first.channels, planes, rows.n_input, rows.left_out)


def check_field(field: FieldConfig, patch_px: int) -> None:
    """Make sure that cells have room.

    Raises
    ------
    ConfigError
        More cells than fit without covering one another.
    """
    pitch, needed = field.side_px / field.grid, patch_px - 2 * field.feather_px
    if field.side_px < patch_px or pitch < needed:
        raise ConfigError(
            f"{field.grid} × {field.grid} cells of {patch_px} px do not fit into a field of {field.side_px} px: "
            f"{pitch:.1f} px each, and {needed} are needed",
            hint=f"field.side_px={max(patch_px, needed * field.grid)}, or a smaller field.grid",
        )


def choose_cells(
    compound: Compound | None, pools: Pools, n: int, rng: np.random.Generator
) -> list[tuple[int, str]]:
    """Draw the ``n`` cells of a field, with their role: control, or responder and bystander of a compound.

    A cell stands in a field twice only where its pool is smaller than what is needed.
    """
    if compound is None:
        return [(cell, "control") for cell in _draw(pools.controls, n, rng)]
    n_responding = int(rng.binomial(n, compound.penetrance))
    chosen = [(cell, "responder") for cell in _draw(pools.responders[compound.name], n_responding, rng)]
    rest = _draw(pools.bystanders[compound.name], n - n_responding, rng)
    chosen += [(cell, "bystander") for cell in rest]
    return [chosen[i] for i in rng.permutation(n)]


def place_cells(
    chosen: Sequence[tuple[int, str]], field: FieldConfig, *, patch_px: int, rng: np.random.Generator
) -> list[Placement]:
    """Put the cells of a field on its grid, each off its place, turned and mirrored by chance; none is cut."""
    pitch, n = field.side_px / field.grid, len(chosen)
    slots = np.stack(np.divmod(np.arange(n), field.grid), axis=1)
    corners = np.rint((slots + 0.5) * pitch - patch_px / 2).astype(np.int64)
    corners += rng.integers(-field.jitter_px, field.jitter_px, size=(n, 2), endpoint=True)
    corners = np.clip(corners, 0, field.side_px - patch_px)
    turns, mirrored = rng.integers(0, 4, size=n), rng.integers(0, 2, size=n)
    return [
        Placement(cell, role, int(y), int(x), int(turn), bool(flip))
        for (cell, role), (y, x), turn, flip in zip(chosen, corners, turns, mirrored, strict=True)
    ]


def compose_field(
    placements: Sequence[Placement],
    cells: SourceCells,
    noise: Sequence[Floats],
    *,
    field: FieldConfig,
    rng: np.random.Generator,
) -> Floats:
    """Return the clean field, float64 (C, H, W) in counts of the source.

    Each picture, minus its own background, fades out over its border, and noise fades in by the root of what is left
    of the variance: neither level nor grain shows where a picture ends.
    """
    side, patch_px = field.side_px, cells.planes.shape[-1]
    window = feather(patch_px, field.feather_px)
    signal = np.zeros((len(cells.channels), side, side))
    covered = np.zeros((side, side))
    for put in placements:
        away = cells.planes[put.cell].astype(np.float64) - cells.levels[put.cell][:, None, None]
        away = away[:, :, ::-1] if put.mirrored else away
        away = np.rot90(away, put.quarter_turns, axes=(1, 2))
        part = (slice(put.y_px, put.y_px + patch_px), slice(put.x_px, put.x_px + patch_px))
        signal[:, *part] += window * away
        covered[part] += window**2
    left = np.sqrt(np.maximum(0.0, 1.0 - covered))
    grain = np.stack([rng.choice(values, size=(side, side)) for values in noise])
    composed: Floats = cells.level[:, None, None] + signal + left * grain
    return composed


def feather(side_px: int, width_px: int) -> Floats:
    """Return the weight of a picture's pixels, float64 (side, side): 1 inside, falling to near 0 at the border."""
    depth = np.minimum(np.arange(side_px), np.arange(side_px)[::-1]) + 0.5
    ramp = np.sin(np.pi / 2 * np.clip(depth / max(width_px, 0.5), 0, 1)) ** 2
    window: Floats = np.minimum.outer(ramp, ramp)
    return window


def _draw(pool: Sequence[int], n: int, rng: np.random.Generator) -> list[int]:
    rounds = [rng.permutation(len(pool)) for _ in range(-(-n // len(pool)))]
    return [pool[i] for i in np.concatenate([np.zeros(0, np.int64), *rounds])[:n]]
