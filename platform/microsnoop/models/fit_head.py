"""Fit the head of an encoder on crops of unlabelled images, and give it a card and weights of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.models.card import EncoderBundle, EncoderCard, HeadCard, Pooling
from microsnoop.models.checkpoint import make_card
from microsnoop.models.cnn import CnnEncoder
from microsnoop.models.head import MATRIX, MEAN, Head
from microsnoop.ops.whitening import fit_whitening

_BATCH_PLANES = 8


def fit_head(
    encoder: CnnEncoder,
    crops: Tensor | Iterable[Tensor] | Iterable[NDArray[np.float32]],
    *,
    pooling: Pooling = "mean_std",
    layers: tuple[int, ...] = (3,),
    ridge: float = 0.02,
    dim: int | None = None,
    on_planes: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Fit a whitening of the pooled vectors of ``crops``; nothing of the encoder changes.

    Parameters
    ----------
    encoder
        In eval mode, float32, on any device.
    crops
        Planes (n, 1, S, S) float32 scaled as at inference, on any device, or batches of such planes (tensors or
        arrays) where all at once would not fit in memory.
    pooling, layers
        As in :class:`HeadCard`.
    ridge, dim
        As in :func:`fit_whitening`.
    on_planes
        Called with the number of planes done after every batch.

    Returns
    -------
    ``head.mean`` (D,) and ``head.matrix`` (D, K), float32 on the CPU: the tensors to store beside the encoder's.

    Raises
    ------
    ValueError
        The encoder is in training mode, or the vectors cannot be whitened.
    """
    if encoder.training:
        raise ValueError("a head is fitted on an encoder in eval mode")
    head = Head(HeadCard(pooling=pooling, layers=layers))
    device = next(encoder.parameters()).device
    network = copy.deepcopy(encoder).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches: Iterable[Any] = crops.split(_BATCH_PLANES) if isinstance(crops, Tensor) else crops
    rows: list[Tensor] = []
    done = 0
    with torch.inference_mode():
        for batch in batches:
            maps = network.maps(torch.as_tensor(batch).to(device, memory_format=torch.channels_last))
            rows.append(head([head.pool(maps[layer]) for layer in head.layers]).cpu())
            done += len(batch)
            if on_planes is not None:
                on_planes(done)
    if not rows:
        raise ValueError("a head cannot be fitted without crops")
    mean, matrix = fit_whitening(torch.cat(rows).numpy(), ridge, dim=dim)
    return {MEAN: torch.from_numpy(mean).float(), MATRIX: torch.from_numpy(matrix).float().contiguous()}


def with_head(
    bundle: EncoderBundle,
    tensors: dict[str, Tensor],
    *,
    pooling: Pooling,
    layers: tuple[int, ...],
    **fields: Any,
) -> tuple[dict[str, Tensor], EncoderCard]:
    """Return weights and card of an encoder with a new head, ready for :func:`checkpoint.write_encoder`.

    Parameters
    ----------
    tensors
        From :func:`fit_head`. A head that was there before is replaced; all other tensors stay as they are.
        The card allows float32 only.
    fields
        Fields of the card that change, ``name`` at least.

    Raises
    ------
    EncoderError
        A name that cannot be an encoder's.
    """
    state = {
        name: value for name, value in safetensors.torch.load(bundle.weights).items() if name not in tensors
    }
    head = HeadCard(pooling=pooling, layers=layers, whitened=True)
    # whitening enlarges what half precision rounds: measured on real crops, cosines fall below 0.999
    changed = {
        "bf16": False,
        "dim": tensors[MATRIX].shape[1],
        "head": head.model_dump(),
        "weights_sha256": "",
    }
    return {**state, **tensors}, make_card(**{**bundle.card.model_dump(), **changed, **fields})
