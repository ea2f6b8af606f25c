"""Where the tissue of a slide is: a mask of its thumbnail.

Source: slides spec, section 3; Otsu 1979 for the threshold. Masks of the user's own are in :mod:`.user_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu

from microsnoop.core.slide_config import TissueConfig
from microsnoop.core.slide_errors import SlideCode, SlideError, SlideFlag

Mask = NDArray[np.bool_]
Grey = NDArray[np.float32]

LUMINANCE = (0.2125, 0.7154, 0.0721)
MIN_VALUES = 100
# share of the variance between the two classes: one Gaussian 0.64, a uniform 0.75, glass and tissue about 0.9
WEAK_CONTRAST = 0.7
_COMPAT_SQUARE_PX = 2
_EIGHT = np.ones((3, 3), bool)
_INK_HUES = (
    (80 / 360, 170 / 360),
    (185 / 360, 240 / 360),
)  # green, blue; haematoxylin begins at some 245 degrees
_INK_SATURATION = 0.4
_INK_BLACK = 0.1
_ROWS_A_BLOCK = 256


@dataclass(frozen=True)
class TissueMask:
    """Which pixels of a thumbnail are tissue, and how that was found.

    ``mask`` (H, W). ``threshold``: the grey value in force (None: no threshold was used). ``contrast``: share
    of the variance that lies between the two sides of the threshold, below 0.7 ``weak_contrast``. ``removed``:
    shares of the thumbnail's pixels that are the frame, ink, and pieces that are too small; ``filled`` is what
    holes added.
    """

    mask: Mask
    tissue_um2: float
    threshold: float | None
    contrast: float | None
    removed: Mapping[str, float]
    flags: tuple[SlideFlag, ...] = ()

    @property
    def weak_contrast(self) -> bool:
        """Whether tissue and glass hardly differ: look at the picture."""
        return SlideFlag.WEAK_CONTRAST in self.flags


def tissue_mask(
    thumbnail: NDArray[np.uint8],
    *,
    mpp: float | tuple[float, float],
    settings: TissueConfig | None = None,
    compat: bool = False,
    name: str = "the slide",
) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    thumbnail
        (H, W, 3) uint8, the whole slide. Not changed.
    mpp
        µm a pixel of the thumbnail: one number, or (x, y).
    settings
        Methods ``otsu`` and ``saturation``; a user's mask is made by :mod:`.user_mask`.
    compat
        As Lazard et al. 2022: squares of 2 × 2 px, no area filter.
    name
        Of the slide, for messages.

    Raises
    ------
    ValueError
        Not (H, W, 3) uint8, empty, or ``mpp`` not positive.
    SlideError
        ``no_tissue``, with the reason.
    """
    settings = TissueConfig() if settings is None else settings
    check_thumbnail(thumbnail)
    x_um, y_um = _both(mpp)
    pixel_um2 = x_um * y_um
    shape = thumbnail.shape[:2]
    if settings.whole_slide:
        return whole_slide((shape[0], shape[1]), pixel_um2=pixel_um2)
    if settings.method == "user":
        raise ValueError("method user takes a mask, not a thumbnail: see microsnoop.ops.user_mask")
    grey = grey_of(thumbnail) if settings.method == "otsu" else _one_minus_saturation(thumbnail)
    frame = _frame(shape[0], shape[1], settings.border)
    ink = ink_mask(thumbnail) & ~frame if settings.pen_filter else np.zeros(shape, bool)
    grey[frame | ink] = 1.0
    threshold, contrast = _threshold(grey, settings, name)
    tissue = (grey > settings.range[0]) & (grey < threshold)
    side_px = _COMPAT_SQUARE_PX if compat else max(2, round(settings.morph_um / pixel_um2**0.5))
    tissue = open_and_close(tissue, side_px)
    # closing may reach into them, and neither can be tissue
    tissue &= ~(frame | ink)
    min_px, fill_px = (0.0, 0.0) if compat else (settings.min_area_um2, settings.fill_holes_um2)
    large = remove_small(tissue, min_px / pixel_um2)
    if not large.any():
        found = f"{tissue.sum() * pixel_um2:,.0f} µm² in pieces below {settings.min_area_um2:,.0f} µm²"
        raise SlideError(
            SlideCode.NO_TISSUE,
            f"{name}: nothing darker than {threshold:.3f} is left after cleaning ({found})",
            "look at the thumbnail; tissue.min_area_um2, a user mask or tissue.whole_slide may help",
        )
    filled = fill_holes(large, fill_px / pixel_um2)
    removed = {
        "frame": float(frame.mean()),
        "pen": float(ink.mean()),
        "small": float((tissue & ~large).mean()),
        "filled": float((filled & ~large).mean()),
    }
    flags = (SlideFlag.WEAK_CONTRAST,) if contrast < WEAK_CONTRAST else ()
    return TissueMask(filled, float(filled.sum() * pixel_um2), threshold, contrast, removed, flags)


def whole_slide(shape: tuple[int, int], *, pixel_um2: float) -> TissueMask:
    """Return a mask (H, W) in which everything is tissue."""
    everything = np.ones(shape, bool)
    return TissueMask(everything, everything.size * pixel_um2, None, None, {}, (SlideFlag.WHOLE_SLIDE,))


def check_thumbnail(thumbnail: NDArray[np.uint8]) -> None:
    """Refuse what is not a colour picture (H, W, 3) uint8 (ValueError)."""
    if thumbnail.ndim != 3 or thumbnail.shape[2] != 3 or thumbnail.dtype != np.uint8 or not thumbnail.size:
        raise ValueError(f"a picture must be (H, W, 3) uint8, got {thumbnail.shape} {thumbnail.dtype}")


def grey_of(picture: NDArray[np.uint8]) -> Grey:
    """Return the grey value (H, W) in [0, 1] of a picture (H, W, 3) uint8: 0.2125 R + 0.7154 G + 0.0721 B."""
    grey = np.zeros(picture.shape[:2], np.float32)
    for colour, weight in enumerate(LUMINANCE):
        grey += picture[..., colour] * np.float32(weight / 255)
    return grey


def ink_mask(picture: NDArray[np.uint8]) -> Mask:
    """Return which pixels (H, W) of a picture (H, W, 3) have the colour of green, blue or black ink.

    Green and blue: hue of that colour and saturation above 0.4; black: grey value below 0.1.
    """
    ink = grey_of(picture) < _INK_BLACK
    for start in range(0, len(picture), _ROWS_A_BLOCK):  # hue and saturation take 24 bytes a pixel
        rows = slice(start, start + _ROWS_A_BLOCK)
        hsv = rgb2hsv(picture[rows])
        for low, high in _INK_HUES:
            ink[rows] |= (hsv[..., 0] >= low) & (hsv[..., 0] <= high) & (hsv[..., 1] > _INK_SATURATION)
    return ink


def open_and_close(mask: Mask, side_px: int) -> Mask:
    """Close, then open a mask (H, W) by a square; what lies outside neither grows nor shrinks it.

    A square of even side has no middle: the erosion uses the mirrored square, so that nothing is shifted.
    """
    closed = _erode(_dilate(mask, side_px), side_px)
    return _dilate(_erode(closed, side_px), side_px)


def remove_small(mask: Mask, min_px: float) -> Mask:
    """Remove 8-connected pieces of fewer than ``min_px`` pixels."""
    pieces, count = ndimage.label(mask, structure=_EIGHT)
    keep = np.bincount(pieces.reshape(-1), minlength=count + 1) >= min_px
    keep[0] = False
    kept: Mask = keep[pieces]
    return kept


def fill_holes(mask: Mask, max_px: float) -> Mask:
    """Fill 4-connected holes of fewer than ``max_px`` pixels; what touches the border is no hole."""
    holes, count = ndimage.label(~mask)
    fill = np.bincount(holes.reshape(-1), minlength=count + 1) < max_px
    for border in ([0], holes[0], holes[-1], holes[:, 0], holes[:, -1]):
        fill[border] = False
    filled: Mask = mask | fill[holes]
    return filled


def _both(mpp: float | tuple[float, float]) -> tuple[float, float]:
    x_um, y_um = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    if not (0 < x_um < np.inf and 0 < y_um < np.inf):
        raise ValueError(f"µm per pixel must be positive, got {mpp}")
    return float(x_um), float(y_um)


def _one_minus_saturation(picture: NDArray[np.uint8]) -> Grey:
    """Return 1 - S of HSV, which is least over greatest colour; black has no saturation."""
    greatest = picture.max(axis=2)
    result = np.ones(greatest.shape, np.float32)
    np.divide(picture.min(axis=2), greatest, out=result, where=greatest > 0, casting="same_kind")
    return result


def _frame(height_px: int, width_px: int, share: float) -> Mask:
    frame = np.ones((height_px, width_px), bool)
    rows, columns = round(share * height_px), round(share * width_px)
    frame[rows : height_px - rows, columns : width_px - columns] = False
    return frame


def _threshold(grey: Grey, settings: TissueConfig, name: str) -> tuple[float, float]:
    """Return Otsu's threshold of the values in range, at most ``t_max``, and the share of variance it explains."""
    low, high = settings.range
    values = grey[(grey > low) & (grey < high)]
    if values.size < MIN_VALUES:
        raise SlideError(
            SlideCode.NO_TISSUE,
            f"{name}: {values.size} of {grey.size} pixels of the thumbnail have a value between {low:g} and "
            f"{high:g}, {MIN_VALUES} are needed: it is white or black all over",
            "look at the thumbnail; tissue.whole_slide: true takes everything for tissue",
        )
    if (values == values[0]).all():  # nothing to separate within the range: the glass is outside of it
        just_above = np.nextafter(values[0], np.float32(np.inf))
        return min(float(just_above), settings.t_max), 0.0
    threshold = min(float(threshold_otsu(values, nbins=256)), settings.t_max)
    return threshold, _between_share(values, threshold)


def _between_share(values: Grey, threshold: float) -> float:
    """Return which share of the variance lies between the values below and above a threshold."""
    below = values < threshold
    weight = float(below.mean())
    if weight in (0.0, 1.0):
        return 0.0
    step = float(values[below].mean(dtype=np.float64) - values[~below].mean(dtype=np.float64))
    return min(1.0, weight * (1 - weight) * step**2 / float(values.var(dtype=np.float64)))


def _dilate(mask: Mask, side_px: int) -> Mask:
    grown: Mask = ndimage.maximum_filter(mask, size=side_px, mode="constant", cval=0)
    return grown


def _erode(mask: Mask, side_px: int) -> Mask:
    origin = -1 if side_px % 2 == 0 else 0
    shrunk: Mask = ndimage.minimum_filter(mask, size=side_px, mode="constant", cval=1, origin=origin)
    return shrunk
