"""Read one image or a part of it: one multi-channel file or one file per channel, or one index of a stack.

:func:`read_image` is all a caller needs. Files stay open in a small cache, because the images of a stack are
read one after the other and opening a stack of thousands of pages costs more than reading one of them.
"""

from __future__ import annotations

import io
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError, RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.core.settings import ChannelChoice
from microsnoop.io.formats import ImageFile, ImageInfo, Pixels, as_pixels, as_reject, check_box, sniff
from microsnoop.io.opener import open_binary
from microsnoop.ops.geometry import Box

DEFAULT_LIMIT_PX = 200_000_000


@dataclass(frozen=True)
class Image:
    """Decoded planes (C, H, W) in uint8, uint16, int32 or float32, channels named in that order.

    They may be a part of the image: ``origin_px`` (y, x) is where its upper left pixel lies in the whole, and
    ``size_px`` (height, width) is the size of the whole.
    """

    planes: NDArray[Any]
    channels: tuple[str, ...]
    pixel_size_um: float | None
    flags: tuple[Flag, ...]
    size_px: tuple[int, int]
    origin_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ImageSource:
    """Where the pixels of one image are: one file, or one per channel (then ``uri_channels`` names them)."""

    uris: tuple[str | None, ...]
    uri_channels: tuple[str, ...] | None = None
    index: int | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> ImageSource:
        """Return where the pixels of an image record are."""
        names = record["uri_channels"]
        return cls(tuple(record["uris"]), tuple(names) if names else None, record["index"])

    @property
    def name(self) -> str:
        """The path for messages: the first file there is."""
        return next((uri for uri in self.uris if uri is not None), "(no file)")


def open_image(uri: str, *, stack: bool, limit_px: int = DEFAULT_LIMIT_PX) -> ImageFile:
    """Open one file of any known format; only its header is read.

    Raises
    ------
    RowRejected
        ``decode_error`` (missing, forbidden, empty, unknown, damaged, too large), ``shape_mismatch`` or
        ``channel_mismatch``.
    """
    stream = _opened(uri)
    try:
        with warnings.catch_warnings():  # remarks of decoders on odd metadata
            warnings.simplefilter("ignore")
            return _open(stream, uri, stack=stack, limit_px=limit_px)
    except Exception as error:
        stream.close()
        raise as_reject(error, uri) from error


def _open(stream: BinaryIO, uri: str, *, stack: bool, limit_px: int) -> ImageFile:
    """Open by kind; readers are imported when the first file of their kind is met."""
    kind = sniff(stream, uri)
    if kind == "raster":
        from microsnoop.io.raster import RasterImage

        return RasterImage(stream, uri, limit_px=limit_px)
    if kind == "tiff":
        from microsnoop.io.tiff import TiffImage

        return TiffImage(stream, uri, limit_px=limit_px, stack=stack)
    from microsnoop.io.arrays import NpyImage

    return NpyImage(stream, uri, limit_px=limit_px, stack=stack)


class ImageReader:
    """Reads images one after the other and keeps the last few files open."""

    def __init__(self, *, limit_px: int = DEFAULT_LIMIT_PX, max_open: int = 4) -> None:
        self._limit_px, self._max_open = limit_px, max_open
        self._open: OrderedDict[tuple[str, bool], ImageFile] = OrderedDict()

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def read(
        self, source: ImageSource, *, channels: ChannelChoice | None = None, box: Box | None = None
    ) -> Image:
        """Decode one image, or a part of it, and keep the channels asked for; see :func:`read_image`."""
        if not source.uris:
            raise RowRejected(RejectCode.DECODE_ERROR, "no file is given for this image")
        if source.uri_channels is not None:  # files of channels nobody asked for are not even opened
            positions, kept = select_channels(source.uri_channels, channels, where=source.name)
            return self._read_separate(source, positions, kept, box=box)
        uri = _present(source, 0, "")
        file = self._file(uri, source)
        positions, kept = select_channels(file.info.channels, channels, where=uri)
        check_box(box, file.info, name=uri, limit_px=self._limit_px)
        pixels = _decode(file, source.index or 0, uri, box=box, channels=positions)
        return _image(pixels, kept, file.info, box)

    def info(self, source: ImageSource) -> ImageInfo:
        """Describe one image from the header of its first file."""
        present = [uri for uri in source.uris if uri is not None]
        if not present:
            raise RowRejected(RejectCode.DECODE_ERROR, "no file is given for this image")
        info = self._file(present[0], source).info
        if source.uri_channels is None:
            return info
        return replace(info, n_images=1, channels=source.uri_channels)

    def _file(self, uri: str, source: ImageSource) -> ImageFile:
        key = (uri, source.index is not None)
        if key not in self._open:
            self._open[key] = open_image(uri, stack=key[1], limit_px=self._limit_px)
            while len(self._open) > max(self._max_open, len(source.uris)):
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return self._open[key]

    def _read_separate(
        self, source: ImageSource, positions: Sequence[int], channels: Sequence[str], *, box: Box | None
    ) -> Image:
        """Read one file per channel."""
        uris = [_present(source, *asked) for asked in zip(positions, channels, strict=True)]
        infos = [self._file(uri, source).info for uri in uris]
        if len({(info.height_px, info.width_px) for info in infos}) > 1:
            sizes = (f"{c} {i.height_px}×{i.width_px}" for c, i in zip(channels, infos, strict=True))
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH, f"{source.name}: channels differ in size: {', '.join(sizes)}"
            )
        planes: list[NDArray[Any]] = []
        flags: set[Flag] = set()
        for uri, info, channel in zip(uris, infos, channels, strict=True):
            check_box(box, info, name=uri, limit_px=self._limit_px)
            pixels = _decode(self._file(uri, source), source.index or 0, uri, box=box)
            decoded = pixels.planes
            if len(decoded) > 1 and not (decoded == decoded[:1]).all():  # grey saved as colour is one plane
                what = f"the file of channel {channel!r} holds {len(decoded)} channels itself"
                raise RowRejected(RejectCode.CHANNEL_MISMATCH, f"{uri}: {what}")
            planes.append(decoded[0])
            flags.update(pixels.flags)
        stacked = as_pixels(np.stack(planes), source.name)  # mixed types may have met in a larger one
        pixels = Pixels(stacked.planes, tuple(sorted(flags | set(stacked.flags))))
        size = next((info.pixel_size_um for info in infos if info.pixel_size_um), None)
        return _image(pixels, channels, replace(infos[0], pixel_size_um=size), box)


def read_image(
    source: ImageSource | str,
    *,
    channels: ChannelChoice | None = None,
    box: Box | None = None,
    limit_px: int = DEFAULT_LIMIT_PX,
) -> Image:
    """Decode one image, or a part of it.

    Parameters
    ----------
    source
        A path or URL, or an :class:`ImageSource`.
    channels
        Channels to keep, in order: names or positions, or new name -> old name or position.
    box
        The part to read, inside the image. Where the file is ``by_region``, only what it touches is read.
    limit_px
        Largest image, or part of a ``by_region`` file, in pixels a plane; a larger one is never decoded.

    Returns
    -------
    Image with planes (C, H, W).

    Raises
    ------
    ValueError
        ``box`` reaches over the border of the image.
    RowRejected
        With the reason code and a message that names the file.
    """
    with ImageReader(limit_px=limit_px) as reader:
        source = ImageSource((source,)) if isinstance(source, str) else source
        return reader.read(source, channels=channels, box=box)


def decode_image(data: bytes, name: str, *, limit_px: int = DEFAULT_LIMIT_PX) -> Image:
    """Decode one encoded image that is in memory; like :func:`read_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = _open(io.BytesIO(data), name, stack=False, limit_px=limit_px)
    except Exception as error:
        raise as_reject(error, name) from error
    return _image(_decode(file, 0, name), file.info.channels, file.info, None)


def select_channels(
    names: Sequence[str], choice: ChannelChoice | None, *, where: str
) -> tuple[list[int], list[str]]:
    """Return positions in ``names`` and new names for a choice of channels.

    Raises
    ------
    RowRejected
        ``channel_mismatch``: a channel that this image does not have.
    """
    if choice is None:
        return list(range(len(names))), list(names)
    wanted = choice if isinstance(choice, Mapping) else {_name(names, item): item for item in choice}
    if len(wanted) != len(choice):
        raise ConfigError(f"input.channels names a channel twice: {choice}")
    positions = []
    for item in wanted.values():
        if isinstance(item, int) and 0 <= item < len(names):
            positions.append(item)
        elif isinstance(item, str) and item in names:
            positions.append(list(names).index(item))
        else:
            raise RowRejected(
                RejectCode.CHANNEL_MISMATCH, f"{where}: no channel {item!r}; it has {', '.join(names)}"
            )
    return positions, [str(name) for name in wanted]


def _name(names: Sequence[str], item: str | int) -> str:
    return names[item] if isinstance(item, int) and 0 <= item < len(names) else str(item)


def _present(source: ImageSource, position: int, channel: str) -> str:
    uri = source.uris[position]
    if uri is None:
        what = f"no file for the channel {channel!r}" if channel else "no file is given"
        raise RowRejected(RejectCode.CHANNEL_MISMATCH, f"{source.name}: {what}")
    return uri


def _decode(
    file: ImageFile, index: int, uri: str, *, box: Box | None = None, channels: Sequence[int] | None = None
) -> Pixels:
    try:
        with warnings.catch_warnings():  # what matters is checked and raised
            warnings.simplefilter("ignore")
            return file.read(index, box, channels=channels)
    except Exception as error:
        raise as_reject(error, uri) from error


def _image(pixels: Pixels, channels: Sequence[str], info: ImageInfo, box: Box | None) -> Image:
    size, origin = (info.height_px, info.width_px), (0, 0) if box is None else (box.y0_px, box.x0_px)
    return Image(pixels.planes, tuple(channels), info.pixel_size_um, pixels.flags, size, origin)


def _opened(uri: str) -> BinaryIO:
    try:
        return open_binary(uri)
    except FileNotFoundError as error:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{uri}: the file does not exist") from error
    except PermissionError as error:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{uri}: no permission to read the file") from error
    except InputError as error:
        raise RowRejected(RejectCode.DECODE_ERROR, error.message) from error
    except OSError as error:
        raise RowRejected(
            RejectCode.DECODE_ERROR, f"{uri}: cannot be opened ({error.strerror or error})"
        ) from error
