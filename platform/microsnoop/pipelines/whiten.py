"""Give an encoder a whitened head, fitted on crops of a pool of unlabelled images. No Ray: minutes on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError
from microsnoop.io.pool import Pool, open_pool
from microsnoop.models.card import EncoderCard, HeadCard, Pooling
from microsnoop.models.checkpoint import write_encoder
from microsnoop.models.device import resolve_device
from microsnoop.models.fit_head import fit_head, with_head
from microsnoop.models.head import pooled_dim
from microsnoop.models.registry import build_cnn, check_new_name, load_encoder, user_folder
from microsnoop.ops.crops import CROP_SCALE, draw_crop, source_weights
from microsnoop.ops.geometry import apply_placement, cut, place
from microsnoop.ops.intensity import normalise, plane_scaling

_BATCH = {"cpu": 4, "mps": 64, "cuda": 64}
_DRAWS = 8


@dataclass(frozen=True)
class WhitenOptions:
    """What decides the numbers of a head; see ``fit_head`` and ``fit_whitening``."""

    pooling: Pooling = "mean_std"
    layers: tuple[int, ...] = (3,)
    crops: int = 4096
    ridge: float = 0.02
    dim: int | None = None
    input_px: int | None = None
    seed: int = 0


def whiten(
    encoder: str,
    pool: str,
    *,
    name: str,
    folder: Path | None = None,
    options: WhitenOptions = WhitenOptions(),
    on_crops: Callable[[int], None] | None = None,
) -> tuple[Path, EncoderCard]:
    """Fit a head for ``encoder`` on ``pool`` and write it as a new encoder, weights and card.

    Parameters
    ----------
    encoder
        Name or path of an encoder of the published architecture. It stays as it is.
    pool
        A folder of images, or of Parquet shards (:mod:`microsnoop.io.pool`). Labels play no part.
    folder
        Where the two files are written; default: the user's encoders.
    on_crops
        Called with the number of crops done.

    Raises
    ------
    EncoderError
        The encoder cannot be found or is of another architecture; the name is taken.
    InputError
        The pool cannot be used.
    ConfigError
        Options out of range.
    """
    check_new_name(name)
    bundle = load_encoder(encoder)
    network = build_cnn(bundle)
    side = options.input_px or bundle.card.input_px
    _check(options, side, bundle.card)
    device = resolve_device("auto")
    images = open_pool(pool)
    batches = sample_crops(images, bundle.card, options, side_px=side, batch=_BATCH[device])
    tensors = fit_head(
        network.to(device),
        batches,
        pooling=options.pooling,
        layers=options.layers,
        ridge=options.ridge,
        dim=options.dim,
        on_planes=on_crops,
    )
    told = (
        f"Head fitted without labels on {options.crops:,} crops of {len(images.sources):,} images in "
        f"{Path(pool).name} ({len(np.unique(images.sources))} sources) at {side} px, ridge {options.ridge:g}, "
        f"seed {options.seed}."
    )
    state, card = with_head(
        bundle,
        tensors,
        pooling=options.pooling,
        layers=options.layers,
        name=name,
        input_px=side,
        notes=f"{bundle.card.notes} {told}".strip(),
    )
    return write_encoder(state, card, folder=folder or user_folder())


def sample_crops(
    pool: Pool, card: EncoderCard, options: WhitenOptions, *, side_px: int, batch: int
) -> Iterator[NDArray[np.float32]]:
    """Draw crops and make them what the encoder sees at inference; yield batches (b, 1, S, S) float32.

    Images are drawn by :func:`source_weights`, windows by :func:`draw_crop`, one of several channels at random.
    Each crop is scaled by its own percentiles on real pixels, clipped to the card's range, and resized to the
    square with antialiasing. The same seed gives the same crops, in the order of the pool.
    """
    rng = np.random.default_rng(options.seed)
    drawn = rng.choice(len(pool.sources), options.crops, p=source_weights(pool.sources))
    held: list[NDArray[np.float32]] = []
    for planes in pool.planes(np.sort(drawn).tolist()):
        held.append(_crop(planes, card, side_px, rng))
        if len(held) == batch:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _crop(
    planes: NDArray[Any], card: EncoderCard, side_px: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    if not np.isfinite(planes).all():
        raise InputError("an image of the pool holds pixels that are not finite")
    plane = planes[rng.integers(len(planes))][None]
    image_px = (plane.shape[1], plane.shape[2])
    for _ in range(_DRAWS):
        box = draw_crop(*image_px, rng, scale=CROP_SCALE)
        pixels = cut(plane, box)
        scaling = plane_scaling(pixels)
        if not scaling.constant[0]:  # an empty corner says nothing about images: draw another one
            break
    placement = place(box, image_px, side_px=side_px, factor=None)
    return apply_placement(normalise(pixels, scaling, clip=card.value_range), placement)


def _check(options: WhitenOptions, side_px: int, card: EncoderCard) -> None:
    if side_px % card.side_multiple or side_px < 1:
        raise ConfigError(f"input_px must be a multiple of {card.side_multiple}, got {side_px}")
    if options.ridge < 0:
        raise ConfigError(f"ridge must be at least 0, got {options.ridge}")
    if options.dim is not None and options.dim < 1:
        raise ConfigError(f"dim must be at least 1, got {options.dim}")
    try:
        wanted = pooled_dim(HeadCard(pooling=options.pooling, layers=options.layers))
    except ValueError as error:
        raise ConfigError(f"pooling and layers do not describe a head: {error}") from error
    if options.crops <= wanted:
        raise ConfigError(
            f"{options.crops:,} crops are too few for vectors of {wanted} numbers: axes would be left out",
            hint=f"take at least {4 * wanted:,}",
        )
