"""Read one image: one multi-channel file or one file per channel, a whole file or one index of a stack.

:func:`read_image` is all a caller needs. Files stay open in a small cache, because the images of a stack are
read one after the other and opening a stack of thousands of pages costs more than reading one of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.config import ChannelChoice
from microsnoop.core.errors import ConfigError, MicrosnoopError, RowRejected
from microsnoop.core.schema import Flag, RejectCode
from microsnoop.io.formats import ImageFile, ImageInfo, sniff
from microsnoop.io.opener import open_binary

DEFAULT_LIMIT_PX = 200_000_000


@dataclass(frozen=True)
class Image:
    """A decoded image: planes (C, H, W) in uint8, uint16, int32 or float32, channels named in that order."""

    planes: NDArray[Any]
    channels: tuple[str, ...]
    pixel_size_um: float | None
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class ImageSource:
    """Where the pixels of one image are: one file, or one per channel (then ``uri_channels`` names them)."""

    uris: tuple[str | None, ...]
    uri_channels: tuple[str, ...] | None = None
    index: int | None = None

    @property
    def name(self) -> str:
        """The path for messages."""
        return str(self.uris[0]) if self.uris else "(no file)"


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
        kind = sniff(stream, uri)
        # readers are imported when the first file of their kind is met
        if kind == "raster":
            from microsnoop.io.raster import RasterImage

            return RasterImage(stream, uri, limit_px=limit_px)
        if kind == "tiff":
            from microsnoop.io.tiff import TiffImage

            return TiffImage(stream, uri, limit_px=limit_px, stack=stack)
        from microsnoop.io.arrays import NpyImage

        return NpyImage(stream, uri, limit_px=limit_px, stack=stack)
    except Exception as error:
        stream.close()
        raise _as_reject(error, uri) from error


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

    def read(self, source: ImageSource, *, channels: ChannelChoice | None = None) -> Image:
        """Decode one image and keep the channels asked for; see :func:`read_image`."""
        if not source.uris:
            raise RowRejected(RejectCode.DECODE_ERROR, "no file is given for this image")
        files = [self._file(source, i) for i in range(len(source.uris))]
        names = source.uri_channels or files[0].info.channels
        positions, kept = select_channels(names, channels, where=source.name)
        if source.uri_channels is None:
            planes, flags = self._decode(files[0], source)
            planes = planes if positions == list(range(len(names))) else planes[positions]
        else:
            planes, flags = self._decode_separate([files[i] for i in positions], source, kept)
        return Image(planes, tuple(kept), files[0].info.pixel_size_um, flags)

    def info(self, source: ImageSource) -> ImageInfo:
        """Describe one image from the header of its first file."""
        info = self._file(source, 0).info
        if source.uri_channels is None:
            return info
        return ImageInfo(
            1, source.uri_channels, info.height_px, info.width_px, info.dtype, info.pixel_size_um
        )

    def _file(self, source: ImageSource, i: int) -> ImageFile:
        uri = source.uris[i]
        if uri is None:
            channel = source.uri_channels[i] if source.uri_channels else "?"
            raise RowRejected(
                RejectCode.CHANNEL_MISMATCH, f"{source.name}: no file for the channel {channel!r}"
            )
        key = (uri, source.index is not None)
        if key not in self._open:
            self._open[key] = open_image(uri, stack=key[1], limit_px=self._limit_px)
            while len(self._open) > max(self._max_open, len(source.uris)):
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(key)
        return self._open[key]

    def _decode(self, file: ImageFile, source: ImageSource) -> tuple[NDArray[Any], tuple[Flag, ...]]:
        try:
            pixels = file.read(source.index or 0)
        except Exception as error:
            raise _as_reject(error, source.name) from error
        return pixels.planes, pixels.flags

    def _decode_separate(
        self, files: Sequence[ImageFile], source: ImageSource, channels: Sequence[str]
    ) -> tuple[NDArray[Any], tuple[Flag, ...]]:
        planes: list[NDArray[Any]] = []
        flags: set[Flag] = set()
        for file, channel in zip(files, channels, strict=True):
            decoded, file_flags = self._decode(file, source)
            if (
                len(decoded) > 1 and not (decoded == decoded[:1]).all()
            ):  # grey saved as colour is still one plane
                raise RowRejected(
                    RejectCode.CHANNEL_MISMATCH,
                    f"{source.name}: the file of channel {channel!r} holds {len(decoded)} channels itself",
                )
            planes.append(decoded[0])
            flags.update(file_flags)
        shapes = {plane.shape for plane in planes}
        if len(shapes) > 1:
            described = ", ".join(
                f"{c} {p.shape[0]}×{p.shape[1]}" for c, p in zip(channels, planes, strict=True)
            )
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH, f"{source.name}: channels differ in size: {described}"
            )
        return np.stack(planes), tuple(sorted(flags))


def read_image(
    source: ImageSource | str, *, channels: ChannelChoice | None = None, limit_px: int = DEFAULT_LIMIT_PX
) -> Image:
    """Decode one image.

    Parameters
    ----------
    source
        A path or URL, or an :class:`ImageSource`.
    channels
        Channels to keep, in order: names or positions, or new name -> old name or position.
    limit_px
        Largest image in pixels a plane; a larger one is refused by its header.

    Returns
    -------
    Image with planes (C, H, W).

    Raises
    ------
    RowRejected
        With the reason code and a message that names the file.
    """
    with ImageReader(limit_px=limit_px) as reader:
        return reader.read(ImageSource((source,)) if isinstance(source, str) else source, channels=channels)


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


def _opened(uri: str) -> Any:
    try:
        return open_binary(uri)
    except FileNotFoundError as error:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{uri}: the file does not exist") from error
    except PermissionError as error:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{uri}: no permission to read the file") from error
    except OSError as error:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{uri}: cannot be opened ({error})") from error


def _as_reject(error: Exception, name: str) -> MicrosnoopError:
    """Turn whatever a decoder raised into a reject that names the file.

    Decoders of third parties raise anything on a damaged file (ValueError, KeyError, struct.error, zlib.error,
    their own kinds); each means that this file cannot be read, and none may end the run.
    """
    if isinstance(error, MicrosnoopError):
        return error
    return RowRejected(
        RejectCode.DECODE_ERROR, f"{name}: cannot be decoded ({type(error).__name__}: {error})"
    )
