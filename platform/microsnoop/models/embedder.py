"""Samples in, vectors out: intensity map, geometry and network, all on the device.

Pixels arrive in the dtype of the file. Samples of one shape are stacked and mapped together; planes of all
samples and channels then go through the one-channel network in batches and are put back by position inside
this one call, where nothing is ever sorted or joined.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.core.errors import EncoderError
from microsnoop.models.card import EncoderBundle
from microsnoop.models.device import DevicePlan, DeviceRunner
from microsnoop.models.registry import build_encoder
from microsnoop.ops.geometry import Placement, place
from microsnoop.ops.intensity import normalise
from microsnoop.ops.modes import PixelSample


@dataclass(frozen=True)
class EmbedderOptions:
    """Settings of the embedder that change its numbers."""

    input_px: int
    clip: tuple[float, float] | None
    antialias: bool = True
    reflect: bool = False
    l2: bool = True


class Embedder:
    """One encoder on one device."""

    def __init__(self, bundle: EncoderBundle, plan: DevicePlan, options: EmbedderOptions) -> None:
        multiple = bundle.card.side_multiple
        if options.input_px % multiple:
            raise EncoderError(
                f"encoder {bundle.card.name!r} needs an input side that is a multiple of {multiple}, "
                f"got {options.input_px}"
            )
        self.card = bundle.card
        self.options = options
        self._runner = DeviceRunner(build_encoder(bundle), plan)

    def embed(self, samples: Sequence[PixelSample]) -> NDArray[np.float32]:
        """Return vectors (N, C, D) float32; rows follow the order of ``samples``.

        A vector that is not finite or has no length comes back as NaN: the caller rejects that row.

        Raises
        ------
        ValueError
            The samples differ in their number of channels.
        EncoderError
            The encoder returned another shape than its card promises.
        """
        counts = {len(sample.planes) for sample in samples}
        if len(counts) != 1:
            raise ValueError(f"samples of one call must have the same channels, got counts {sorted(counts)}")
        (n_channels,) = counts
        planes = self._prepare(samples, n_channels)
        vectors = self._runner(planes.flatten(0, 1).unsqueeze(1))
        if vectors.shape != (len(samples) * n_channels, self.card.dim):
            raise EncoderError(
                f"encoder {self.card.name!r} returned {tuple(vectors.shape)} for {len(planes)} samples of "
                f"{n_channels} planes; its card says dim = {self.card.dim}"
            )
        return self._finish(vectors).reshape(len(samples), n_channels, self.card.dim)

    def _prepare(self, samples: Sequence[PixelSample], n_channels: int) -> Tensor:
        """Return planes (N, C, S, S) float32 on the device, scaled, clipped and placed."""
        side = self.options.input_px
        device = self._runner.device
        out = torch.empty(len(samples), n_channels, side, side, device=device)
        groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for i, sample in enumerate(samples):
            inside = sample.box.inside(*sample.image_px)
            window = (sample.box.height_px, sample.box.width_px) if inside else (sample.box, sample.image_px)
            groups[(window, sample.factor, sample.planes.dtype.str)].append(i)
        for members in groups.values():
            mapped, level = self._map_intensity([samples[i] for i in members])
            first = samples[members[0]]
            placement = place(
                first.box,
                first.image_px,
                side_px=side,
                factor=first.factor,
                antialias=self.options.antialias,
                reflect=self.options.reflect,
            )
            out[members] = _placed(mapped, level, placement, side)
        return out

    def _map_intensity(self, samples: list[PixelSample]) -> tuple[Tensor, Tensor]:
        """Return scaled and clipped pixels (n, C, h, w) and pad levels (n, C, 1, 1), float32 on the device."""
        device = self._runner.device
        level = np.stack([sample.scaling.pad_level for sample in samples]).astype(np.float32)
        if samples[0].planes.dtype in (np.uint8, np.uint16):
            # y = (x - offset) / span in float32: the whole part of the offset goes first, which is exact
            offset = np.stack([sample.scaling.offset for sample in samples])
            span = np.stack([sample.scaling.span for sample in samples])
            whole = np.floor(offset)
            pixels = torch.from_numpy(np.stack([sample.planes for sample in samples])).to(device)
            mapped = pixels.float().sub_(_column(whole, device)).sub_(_column(offset - whole, device))
            mapped.div_(_column(span, device))
        else:  # rare dtypes need more digits than float32 has: map them before they go to the device
            planes = np.stack([normalise(sample.planes, sample.scaling) for sample in samples])
            mapped = torch.from_numpy(planes).to(device)
        if self.options.clip is not None:
            mapped.clamp_(*self.options.clip)
            level = level.clip(*self.options.clip)
        return mapped, _column(level, device)

    def _finish(self, vectors: Tensor) -> NDArray[np.float32]:
        """Bring vectors (n, D) to unit length; NaN where that is not possible."""
        norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        good = torch.isfinite(norm) & (norm > 0)
        scaled = vectors / norm if self.options.l2 else vectors
        return torch.where(good, scaled, torch.nan).cpu().numpy()


def _placed(mapped: Tensor, level: Tensor, placement: Placement, side_px: int) -> Tensor:
    """Bring pixels (n, C, h, w) into the square (n, C, S, S); the torch form of ``ops.apply_placement``."""
    if placement.copy is not None:
        top, left = placement.copy
        height, width = mapped.shape[-2:]
        out = level.expand(*mapped.shape[:2], side_px, side_px).clone()
        out[..., top : top + height, left : left + width] = mapped
        return out
    rows, cols = (torch.tensor(weights, device=mapped.device) for weights in (placement.rows, placement.cols))
    return rows @ (mapped - level) @ cols.T + level


def _column(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)[:, :, None, None]
