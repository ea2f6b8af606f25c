"""The pool in memory: all tiles in one array, drawn by source; which tiles a step uses depends on seed and step alone.

N tiles, T side of a tile in px.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.core.errors import InputError
from microsnoop.io.parts import write_atomic
from microsnoop.ops.crops import source_weights
from microsnoop.ops.modes import keyed_generator
from microsnoop.train.tiles import TileBatch


@dataclass(frozen=True)
class Pool:
    """Good tiles in a fixed order (by ``tile_id``), and the rows that have no pixels.

    ``pixels`` (N, T, T) uint8 on the device; ``weights`` (N,) float64, summing to 1.
    """

    pixels: Tensor
    tile_ids: NDArray[np.str_]
    sources: NDArray[np.str_]
    images: NDArray[np.str_]
    kinds: NDArray[np.str_]
    weights: NDArray[np.float64]
    problems: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.tile_ids)

    def draw(self, count: int, *, seed: int, step: int) -> NDArray[np.intp]:
        """Return the tiles of a step, with replacement: the same for any number of workers, and after a restart."""
        uniform = np.random.default_rng([seed, step]).random(count)
        chosen = np.searchsorted(np.cumsum(self.weights), uniform, side="right")
        return np.minimum(chosen, len(self) - 1)

    def subset(self, chosen: NDArray[np.intp], *, alpha: float) -> Pool:
        """Return some of the tiles as a pool of their own."""
        sources = self.sources[chosen]
        return Pool(
            self.pixels[torch.from_numpy(chosen).to(self.pixels.device)], self.tile_ids[chosen], sources,
            self.images[chosen], self.kinds[chosen], source_weights(sources, alpha=alpha),
        )  # fmt: skip

    def to(self, device: torch.device) -> Pool:
        """Return the pool with its pixels on a device."""
        return Pool(**{**self.__dict__, "pixels": self.pixels.to(device)})

    def counts(self) -> dict[str, int]:
        """Return tiles a source."""
        names, counts = np.unique(self.sources, return_counts=True)
        return dict(zip(names.tolist(), counts.tolist(), strict=True))


def collect(batches: Iterable[TileBatch], *, alpha: float) -> Pool:
    """Bring blocks of tile rows together.

    Raises
    ------
    InputError
        No good tile, or a ``tile_id`` that stands twice.
    """
    blocks = list(batches)
    columns = {
        name: np.concatenate([block[name] for block in blocks]) if blocks else np.array([])
        for name in ("tile_id", "source", "image", "kind", "problem")
    }
    bad = columns["problem"].astype(str) != ""
    problems = [
        (str(i), str(p)) for i, p in zip(columns["tile_id"][bad], columns["problem"][bad], strict=True)
    ]
    if not len(bad) or bad.all():
        raise InputError(
            f"the pool has no usable tile ({len(bad)} rows, none good)"
            + (f"; the first: {problems[0][0]}: {problems[0][1]}" if problems else ""),
        )
    ids = columns["tile_id"].astype(str)
    order = np.argsort(ids)
    order = order[~bad[order]]
    repeated = ids[order][1:][ids[order][1:] == ids[order][:-1]]
    if len(repeated):
        raise InputError(
            f"{len(repeated)} tile_id(s) of the pool stand more than once, the first: {repeated[0]}"
        )
    pixels = np.concatenate([block["pixels"] for block in blocks])[order]
    sources = columns["source"].astype(str)[order]
    return Pool(
        torch.from_numpy(pixels), ids[order], sources, columns["image"].astype(str)[order],
        columns["kind"].astype(str)[order], source_weights(sources, alpha=alpha), tuple(sorted(problems)),
    )  # fmt: skip


def hold_out(pool: Pool, *, share: float, alpha: float, seed: int) -> tuple[Pool, Pool]:
    """Split by image into a pool to learn from and one to watch progress on (spec, section 1: 95 / 5).

    Keyed by image, so that more data never moves an image to the other side. Too few images for a part of its own:
    progress is watched on the training tiles themselves.
    """
    names, which = np.unique(pool.images, return_inverse=True)
    held = np.array([is_held(name, share=share, seed=seed) for name in names.tolist()])[which]
    if not held.any() or held.all():
        return pool, pool
    learn, watch = (pool.subset(np.flatnonzero(part), alpha=alpha) for part in (~held, held))
    return learn, watch


def is_held(image: str, *, share: float, seed: int) -> bool:
    """Whether an image is held out to watch progress on."""
    return bool(keyed_generator(seed, "validation", image).random() < share)


def write_problems(problems: Iterable[tuple[str, str]], path: Path) -> None:
    """Write the rows without pixels and their reasons as CSV."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["tile_id", "problem"])
    table.writerows(problems)
    write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
