"""What all slide readers share: levels, µm per pixel, white outside, one retry, and a bounded cache of pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import MicrosnoopError, MissingDependency
from microsnoop.core.slide_errors import SlideCode, SlideError
from microsnoop.io.slide_mpp import Mpp, MppHints, resolve_mpp
from microsnoop.ops.geometry import Box

CACHE_BYTES = 64 * 10**6
WHITE = 255
LIMIT_PX = 200_000_000  # the largest picture that is decoded as a whole
CONVERT = (
    "convert it to a tiled pyramid: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff --compression jpeg"
)


class Level(NamedTuple):
    """One resolution of a slide; ``downsample`` is level-0 pixels a pixel, the mean of x and y."""

    width_px: int
    height_px: int
    downsample: float


@dataclass(frozen=True)
class SlideSource:
    """What a reader is told about its slide."""

    path: str
    slide_id: str
    override: float | tuple[float, float] | None = None
    allow_objective_guess: bool = False
    cache_bytes: int = CACHE_BYTES


class LevelReader(ABC):
    """Base of the readers: turns level-0 positions into boxes of a level that lie inside it."""

    def __init__(self, source: SlideSource) -> None:
        self.slide_id, self.path = source.slide_id, source.path
        self._source = source
        self.levels: tuple[Level, ...] = ()
        self.properties: Mapping[str, str] = {}
        self._mpp: Mpp | SlideError | None = None
        self._opened = False

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height at level 0."""
        return self.levels[0].width_px, self.levels[0].height_px

    @property
    def mpp(self) -> tuple[float, float] | None:
        """µm per pixel (x, y) at level 0, None where it is not known."""
        return (self._mpp.x_um, self._mpp.y_um) if isinstance(self._mpp, Mpp) else None

    def resolved_mpp(self) -> Mpp:
        """Return µm per pixel with source and flags, or raise why there is none."""
        if isinstance(self._mpp, Mpp):
            return self._mpp
        assert self._mpp is not None, "a reader describes itself when it is opened"
        raise self._mpp

    def read_region(
        self, x0: int, y0: int, *, level: int, width_px: int, height_px: int
    ) -> NDArray[np.uint8]:
        """Return (height_px, width_px, 3) uint8; see :class:`microsnoop.io.slides.SlideReader`."""
        if not 0 <= level < len(self.levels):
            raise ValueError(f"{self.path}: has {len(self.levels)} levels, level {level} was asked")
        if width_px < 1 or height_px < 1:
            raise ValueError(f"{self.path}: a region of {width_px} × {height_px} px has no pixels")
        factor = self.levels[level].downsample
        wanted = Box(round(y0 / factor), round(x0 / factor), height_px, width_px)
        size = self.levels[level].height_px, self.levels[level].width_px
        if wanted.inside(*size):
            return self._read_twice(level, wanted)
        region = np.full((height_px, width_px, 3), WHITE, np.uint8)
        if wanted.overlaps(*size):
            inside = wanted.clipped(*size)
            top, left = inside.y0_px - wanted.y0_px, inside.x0_px - wanted.x0_px
            target = region[top : top + inside.height_px, left : left + inside.width_px]
            target[...] = self._read_twice(level, inside)
        return region

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        self._opened = False
        self._close()

    @abstractmethod
    def _open(self) -> None:
        """Open the file."""

    @abstractmethod
    def _close(self) -> None:
        """Close the file, which need not be open."""

    @abstractmethod
    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Return (h, w, 3) uint8 of a box inside a level, in pixels of that level; a new array."""

    def _open_anew(self) -> None:
        self.close()
        try:
            self._open()
        except Exception as error:
            self.close()
            raise as_slide_error(self.path, error) from error
        self._opened = True

    def _describe(self, sizes: list[tuple[int, int]], hints: MppHints, properties: Mapping[str, str]) -> None:
        """Take levels (width, height) and what the file says."""
        width, height = sizes[0]
        self.levels = tuple(Level(w, h, (width / w + height / h) / 2) for w, h in sizes)
        self.properties = dict(properties)
        try:
            self._mpp = resolve_mpp(
                hints,
                name=self.path,
                override=self._source.override,
                allow_objective_guess=self._source.allow_objective_guess,
            )
        except SlideError as error:
            self._mpp = error

    def _read_twice(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Read a box; a failure may be of the file system, so there is a second try with the file opened anew."""
        try:
            return self._read_once(level, box)
        except SlideError:
            self.close()
        try:
            return self._read_once(level, box)
        except SlideError:
            self.close()  # OpenSlide refuses every further read of a handle after one failure
            raise

    def _read_once(self, level: int, box: Box) -> NDArray[np.uint8]:
        if not self._opened:
            self._open_anew()
        try:
            return self._read_inside(level, box)
        except Exception as error:
            where = f"level {level}, {box.width_px} × {box.height_px} px at x {box.x0_px}, y {box.y0_px}: "
            raise as_slide_error(self.path, error, where=where) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> NoReturn:
        raise TypeError("a slide reader stays in the process that opened it; send its path")


class PieceCache:
    """The pieces that were asked for last, up to a number of bytes (and always the very last one)."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._bytes = max_bytes, 0
        self._pieces: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return a piece, made anew where it is not kept."""
        if key in self._pieces:
            self._pieces.move_to_end(key)
            return self._pieces[key]
        piece = make()
        self._pieces[key] = piece
        self._bytes += piece.nbytes
        while self._bytes > self._max_bytes and len(self._pieces) > 1:
            self._bytes -= self._pieces.popitem(last=False)[1].nbytes
        return piece

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._bytes


def on_white(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (h, w, 3) uint8 of grey (h, w, 1), colours (h, w, 3), or colours with opacity (h, w, 4)."""
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    opacity = pixels[..., 3:]
    if (opacity == WHITE).all():
        return np.ascontiguousarray(pixels[..., :3])
    share = opacity.astype(np.float32) / WHITE
    laid = np.rint(pixels[..., :3] * share + WHITE * (1 - share))
    return np.asarray(laid, np.float32).astype(np.uint8)


def as_slide_error(path: str, error: Exception, *, where: str = "") -> MicrosnoopError:
    """Turn whatever a decoder raised into ``decode_error`` with a message that names the file.

    Decoders raise anything on a damaged file; each means that this slide, or this part of it, cannot be read.
    """
    if isinstance(error, (SlideError, MissingDependency)):
        return error
    if isinstance(error, MicrosnoopError):
        reason = error.message.removeprefix(f"{path}: ")
    else:
        reason = f"{type(error).__name__}: {error}"
    return SlideError(
        SlideCode.DECODE_ERROR,
        f"{path}: {where}cannot be read ({reason})",
        "check the file, or copy it again from where it came from",
    )
