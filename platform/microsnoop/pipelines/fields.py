"""One record on its way to samples: what is known of its image, and the pixels that its windows need.

An image is decoded whole and once. Of a large field (a record with ``block``) only the header is read first; its
windows then say which rectangle is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import RowRejected
from microsnoop.core.schema import WINDOW_COLUMNS, RejectCode, cell_id
from microsnoop.io.images import Image, ImageReader, ImageSource, select_channels
from microsnoop.ops.geometry import Box, bounding_box, cut

Row = dict[str, Any]


@dataclass(frozen=True)
class ReadJob:
    """What the reading stage must know of the run."""

    cfg: EmbedConfig
    channels: tuple[str, ...]
    input_px: int
    processing_key: str
    session: str  # unique for each session: files held open by an earlier one are not trusted


@dataclass(frozen=True)
class Region:
    """What a record asks for: its whole image, one of its boxes, or one object of its mask."""

    parent_id: str
    label: str | None
    box: Box | None
    asked: tuple[int | None, int | None, int | None, int | None]


@dataclass(frozen=True)
class Field:
    """The image of a record: its size, the part of it that this record is about, and decoded pixels, if any."""

    record: Row
    job: ReadJob
    reader: ImageReader
    size_px: tuple[int, int]
    pixel_size_um: float | None
    block: Box | None
    missing: tuple[str, ...]  # channels that are left empty, because they have no file
    image: Image | None

    @property
    def image_id(self) -> str:
        """The image's id."""
        return str(self.record["image_id"])

    @property
    def name(self) -> str:
        """The file, for messages."""
        return ImageSource.of(self.record).name

    def planes_of(self, channels: Sequence[str | int], box: Box | None) -> NDArray[Any]:
        """Return planes (C, h, w) of some channels, as they are.

        A channel is named as in the run, or named or numbered as in the file.

        Raises
        ------
        RowRejected
            A channel this image does not have, or a file that cannot be read.
        """
        names = self.job.channels
        if self.image is not None and all(channel in names for channel in channels):
            planes = self.image.planes[[names.index(str(channel)) for channel in channels]]
            return planes if box is None else cut(planes, box)
        choice = self.job.cfg.input.channels
        asked = list(choice.values() if isinstance(choice, dict) else choice or names)
        in_file = [asked[names.index(str(c))] if c in names else c for c in channels]
        return self.reader.read(ImageSource.of(self.record), channels=in_file, box=box).planes

    def decoded(self, windows: Sequence[Box]) -> Image:
        """Return the image with at least the pixels of ``windows``.

        Raises
        ------
        RowRejected
            The file cannot be read, or its channels are not those of the run.
        """
        if self.image is not None:
            return self.image
        box = bounding_box(windows).clipped(*self.size_px)
        return _decode(self.record, self.reader, self.job, box, missing=self.missing)


def open_field(record: Row, reader: ImageReader, job: ReadJob) -> Field:
    """Open the image of a record and, unless the record is a block of a large one, decode it.

    Raises
    ------
    RowRejected
        With the reason why nothing of it can be embedded.
    """
    block, missing = block_of(record), _missing(record, job)
    if block is None:
        image = _decode(record, reader, job, None, missing=missing)
        size_px, stated = image.size_px, image.pixel_size_um
    else:
        image = None
        info = reader.info(ImageSource.of(record))
        size_px, stated = (info.height_px, info.width_px), info.pixel_size_um
    return Field(record, job, reader, size_px, record["pixel_size_um"] or stated, block, missing, image)


def block_of(record: Row) -> Box | None:
    """Return the block of a large field that a record is about, None where it is about a whole image."""
    block = record.get("block")
    return None if block is None else Box(*(block[name] for name in WINDOW_COLUMNS))


def listed_regions(record: Row) -> list[Region]:
    """Return the cells of a record that has a table of them, else its whole image."""
    boxes = record.get("boxes")
    if boxes is None:
        return [Region(record["image_id"], None, None, (None, None, None, None))]
    regions = []
    for b in boxes:
        asked = (b["y0_px"], b["x0_px"], b["height_px"], b["width_px"])
        box = Box(*asked) if min(asked[2:]) >= 1 else None
        regions.append(Region(cell_id(record["image_id"], b["label"]), b["label"], box, asked))
    return regions


def _missing(record: Row, job: ReadJob) -> tuple[str, ...]:
    """Return the channels to leave empty: those without a file, unless that is a reject or there is none at all."""
    source, cfg = ImageSource.of(record), job.cfg.input
    if cfg.missing_channel == "reject" or source.uri_channels is None:
        return ()
    positions, kept = select_channels(source.uri_channels, cfg.channels, where=source.name)
    files = list(zip(source.uris, record["fingerprints"], strict=True))
    missing = tuple(name for p, name in zip(positions, kept, strict=True) if None in files[p])
    return missing if len(missing) < len(kept) else ()


def _decode(
    record: Row, reader: ImageReader, job: ReadJob, box: Box | None, *, missing: Sequence[str]
) -> Image:
    source = ImageSource.of(record)
    if not source.uris:
        raise RowRejected(
            RejectCode.DECODE_ERROR,
            f"the image {record['image_id']!r} of the cell table is not in the input list",
        )
    if missing:
        return _decode_present(source, missing, reader, job, box)
    image = reader.read(source, channels=job.cfg.input.channels, box=box)
    if image.channels != job.channels:
        raise RowRejected(
            RejectCode.CHANNEL_MISMATCH,
            f"{source.name}: has the channel(s) {', '.join(image.channels)}, but this run is made of "
            f"{', '.join(job.channels)}; choose channels by position or name with input.channels",
        )
    return image


def _decode_present(
    source: ImageSource, missing: Sequence[str], reader: ImageReader, job: ReadJob, box: Box | None
) -> Image:
    """Decode the channels that have a file; the planes of the others are zeros, and never become a vector."""
    assert source.uri_channels is not None
    positions, kept = select_channels(source.uri_channels, job.cfg.input.channels, where=source.name)
    there = [(p, name) for p, name in zip(positions, kept, strict=True) if name not in missing]
    present = ImageSource(
        tuple(source.uris[p] for p, _ in there), tuple(name for _, name in there), source.index
    )
    image = reader.read(present, box=box)
    planes = np.zeros((len(job.channels), *image.planes.shape[1:]), image.planes.dtype)
    planes[[job.channels.index(name) for name in image.channels]] = image.planes
    return Image(
        planes,
        job.channels,
        image.pixel_size_um,
        image.flags,
        origin_px=image.origin_px,
        size_px=image.size_px,
    )
