"""From the encoder's maps to one vector: pooling over space, and a whitening that was fitted without labels.

The network stays the published one. The paper pools the last map by its mean (Microsnoop spec, section 6); a
card may declare another pooling, more maps, and a whitening that travels in the weights file.
"""

from __future__ import annotations

from collections.abc import Sequence

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from microsnoop.core.errors import EncoderError
from microsnoop.models.card import EncoderBundle, HeadCard, Pooling
from microsnoop.models.cnn import WIDTHS
from microsnoop.models.device import full_precision

MEAN, MATRIX = "head.mean", "head.matrix"
_GEM_POWER, _GEM_FLOOR = 3.0, 1e-6


def pool(feature_map: Tensor, how: Pooling) -> Tensor:
    """Pool a map (N, W, h, w) of any float type over space, in float32.

    ``mean``: (N, W). ``mean_std``: means, then standard deviations (divisor h·w), (N, 2 W). ``gem``:
    ``mean(max(x, 1e-6)³)^(1/3)``, (N, W) (Radenović et al., TPAMI 2019, with the power fixed).
    """
    x = feature_map.float()
    if how == "mean":
        return x.mean(dim=(2, 3))
    if how == "mean_std":
        mean = x.mean(dim=(2, 3), keepdim=True)
        # two passes by hand: torch.var is ten times slower on channels-last maps of a CPU
        return torch.cat([mean, (x - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()], dim=1).flatten(1)
    return x.clamp_min(_GEM_FLOOR).pow(_GEM_POWER).mean(dim=(2, 3)).pow(1 / _GEM_POWER)


def pooled_dim(card: HeadCard) -> int:
    """Return D, the length of the pooled vector before any whitening."""
    return sum(WIDTHS[layer] for layer in card.layers) * (2 if card.pooling == "mean_std" else 1)


class Head(nn.Module):
    """Maps of the encoder -> vectors (N, K) float32, not of unit length.

    Parameters
    ----------
    card
        Pooling and the stages it is applied to; their pooled vectors are joined, finest stage first.
    whitening
        mean (D,) and matrix (D, K), float32: the vector becomes ``(x - mean) @ matrix``.
    """

    mean: Tensor | None
    matrix: Tensor | None

    def __init__(self, card: HeadCard, whitening: tuple[Tensor, Tensor] | None = None) -> None:
        super().__init__()
        self.layers = card.layers
        self._how: Pooling = card.pooling
        mean, matrix = whitening or (None, None)
        self.register_buffer("mean", mean)
        self.register_buffer("matrix", matrix)
        self.dim = pooled_dim(card) if matrix is None else matrix.shape[1]
        self.eval()

    def pool(self, feature_map: Tensor) -> Tensor:
        """Pool the map of one stage."""
        return pool(feature_map, self._how)

    def forward(self, pooled: Sequence[Tensor]) -> Tensor:
        x = torch.cat(list(pooled), dim=1)
        if self.mean is None or self.matrix is None:
            return x
        with full_precision(x):  # bf16 would lose the small directions that whitening makes large
            return (x - self.mean) @ self.matrix


def load_head(bundle: EncoderBundle) -> Head:
    """Build the head that a card declares, with the whitening of its weights file.

    Raises
    ------
    EncoderError
        A whitening that is declared and not there, of another size, or not finite; a card whose ``dim`` is not
        what its head gives.
    """
    card, spec = bundle.card, bundle.card.head or HeadCard()
    head = Head(spec, _whitening(bundle, pooled_dim(spec)) if spec.whitened else None)
    if head.dim != card.dim:
        raise EncoderError(
            f"encoder {card.name!r}: its head gives {head.dim} numbers, its card says {card.dim}"
        )
    return head


def _whitening(bundle: EncoderBundle, dim: int) -> tuple[Tensor, Tensor]:
    try:
        state = safetensors.torch.load(bundle.weights)
    except SafetensorError as error:
        raise EncoderError(f"the weights are not a readable safetensors file: {error}") from error
    where = f"encoder {bundle.card.name!r}"
    for name in (MEAN, MATRIX):
        if name not in state:
            raise EncoderError(f"{where} is declared as whitened, but its weights hold no {name!r}")
    mean, matrix = state[MEAN].float(), state[MATRIX].float()
    if mean.shape != (dim,) or matrix.ndim != 2 or matrix.shape[0] != dim or not matrix.shape[1]:
        raise EncoderError(
            f"{where}: the whitening does not fit vectors of {dim} numbers: "
            f"{MEAN} {tuple(mean.shape)}, {MATRIX} {tuple(matrix.shape)}"
        )
    if not (bool(torch.isfinite(mean).all()) and bool(torch.isfinite(matrix).all())):
        raise EncoderError(f"{where}: the whitening holds values that are not finite")
    return mean, matrix
