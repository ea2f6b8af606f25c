"""The label mask of a field, given as a file or segmented, and the table of its objects.

A large field comes block by block. Given masks are tabulated whole, strip by strip, so that every object has one
owner. What is segmented on the fly is segmented with a halo around each block.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import RowRejected
from microsnoop.core.field_config import SegmentConfig
from microsnoop.core.schema import RejectCode
from microsnoop.io.images import ImageReader
from microsnoop.io.labels import labels_info, read_labels
from microsnoop.ops.geometry import Box, cut
from microsnoop.ops.objects import ObjectTable, merge_tables, object_table, relabelled
from microsnoop.pipelines.fields import Field

if TYPE_CHECKING:  # scikit-image takes its time: imported where something is segmented
    from microsnoop.models.segmenters import Segmenter
    from microsnoop.ops.foreground import ThresholdSettings

_STAINS: tuple[Literal["hematoxylin", "grey"], ...] = ("hematoxylin", "grey")
_STRIP_PX = 16_000_000  # pixels of a mask that are tabulated at once


@dataclass(frozen=True)
class Labels:
    """The objects of a field, and the label mask around them, whole or a part that starts at ``origin_px``.

    ``mask`` None: it is read where it is needed. ``number``: of the block the objects were segmented in, where labels
    are only unique within one; ``table`` then holds what lies in the block and its halo.
    """

    table: ObjectTable
    mask: NDArray[Any] | None
    origin_px: tuple[int, int] = (0, 0)
    number: int | None = None

    @property
    def prefix(self) -> str:
        """What stands before an object's number in its name."""
        return "" if self.number is None else f"{self.number}-"


def find_labels(field: Field) -> Labels:
    """Return the objects of a field, from its mask file if the input list names masks, else by segmentation.

    Raises
    ------
    RowRejected
        ``decode_error``: the mask is missing or damaged. ``shape_mismatch``: it has another size than the image, or
        is none. ``non_finite_pixels``: the plane to segment.
    """
    if "mask_uri" not in field.record:
        return segment_field(field) if field.block is None else _segment_block(field, field.block)
    uri = field.record["mask_uri"]
    if uri is None:
        raise RowRejected(RejectCode.DECODE_ERROR, f"{field.name}: there is no mask for this image")
    cfg = field.job.cfg.input
    if field.block is not None:
        if cfg.mask_kind == "binary":
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"{uri}: the pieces of a binary mask are numbered only below input.block_px; give a label image",
            )
        state = str(field.record.get("mask_fingerprint"))
        return Labels(_table_by_strips(uri, state, field.size_px), None)
    mask = read_labels(uri, limit_px=int(cfg.max_image_mpx * 1e6))
    _check_size(uri, mask.shape, field.size_px)
    mask = _as_objects(mask, uri, kind=cfg.mask_kind)
    return Labels(object_table(mask), mask)


def mask_window(field: Field, labels: Labels, box: Box) -> NDArray[Any]:
    """Return the label mask below the part of ``box`` that lies in the image."""
    if labels.mask is not None:
        return cut(labels.mask, box, origin_px=labels.origin_px)
    return read_labels(field.record["mask_uri"], box=box.clipped(*field.size_px), reader=field.reader)


def segmentation_plane(field: Field, box: Box | None) -> NDArray[Any]:
    """Return the plane (h, w) that is segmented: a channel, or a stain of a colour image.

    Raises
    ------
    RowRejected
        The image has no such channel, or its pixels are not finite.
    """
    channel = field.job.cfg.segment.channel
    stain = next((stain for stain in _STAINS if stain == channel), None)
    if stain is not None and stain not in field.job.channels:
        from microsnoop.ops.stain import colour_plane

        plane = colour_plane(field.planes_of(("red", "green", "blue"), box), stain)
    else:
        plane = field.planes_of([field.job.channels[0] if channel is None else channel], box)[0]
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise RowRejected(
            RejectCode.NON_FINITE_PIXELS, f"{field.name}: NaN or infinite pixels in the channel to segment"
        )
    return plane


def threshold_settings(cfg: SegmentConfig, pixel_size_um: float | None) -> ThresholdSettings:
    """Return the built-in segmenter's settings, sizes in pixels of an image with this pixel size.

    Raises
    ------
    RowRejected
        ``diameter_um`` is set and the pixel size is unknown, or too coarse for such objects.
    """
    from microsnoop.ops.foreground import SMALLEST_DIAMETER_PX, ThresholdSettings

    diameter_px = cfg.diameter_px
    if cfg.diameter_um is not None:
        diameter_px = cfg.diameter_um / known_pixel_size(pixel_size_um, "segment.diameter_um")
        if diameter_px < SMALLEST_DIAMETER_PX:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"objects of segment.diameter_um = {cfg.diameter_um:g} are {diameter_px:.1f} px wide here; at least "
                f"{SMALLEST_DIAMETER_PX:g} are needed",
            )
    return ThresholdSettings(
        polarity=cfg.polarity, threshold=cfg.threshold, diameter_px=diameter_px, split=cfg.split
    )


def segment_plane(
    plane: NDArray[Any], cfg: SegmentConfig, *, pixel_size_um: float | None
) -> NDArray[np.int32]:
    """Return the label mask (H, W) of one plane (H, W) by the configured segmenter."""
    return _segmenter(cfg.method, threshold_settings(cfg, pixel_size_um), cfg.model)(plane)


def segment_field(field: Field) -> Labels:
    """Segment a whole field, whether or not it has a mask."""
    plane = segmentation_plane(field, None)
    mask = segment_plane(plane, field.job.cfg.segment, pixel_size_um=field.pixel_size_um)
    return Labels(object_table(mask), mask)


def known_pixel_size(pixel_size_um: float | None, setting: str) -> float:
    """Return the pixel size that ``setting`` needs.

    Raises
    ------
    RowRejected
        It is not known.
    """
    if pixel_size_um is None:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH,
            f"{setting} needs the pixel size, which neither the file nor the manifest gives",
        )
    return pixel_size_um


@functools.lru_cache(maxsize=2)
def _segmenter(method: str, settings: ThresholdSettings, model: str | None) -> Segmenter:
    """One segmenter a process: loading the weights of a foreign one takes seconds."""
    from microsnoop.models.segmenters import load_segmenter

    return load_segmenter(method, diameter_px=settings.diameter_px, settings=settings, model=model)


def _segment_block(field: Field, core: Box) -> Labels:
    halo = field.job.cfg.segment.halo_px
    around = Box(core.y0_px - halo, core.x0_px - halo, core.height_px + 2 * halo, core.width_px + 2 * halo)
    around = around.clipped(*field.size_px)
    plane = segmentation_plane(field, around)
    mask = segment_plane(plane, field.job.cfg.segment, pixel_size_um=field.pixel_size_um)
    origin = (around.y0_px, around.x0_px)
    table = object_table(mask, origin_px=origin, image_px=field.size_px)
    return Labels(table, mask, origin, number=field.record["block"]["number"])


@functools.lru_cache(maxsize=1)
def _table_by_strips(uri: str, state: str, size_px: tuple[int, int]) -> ObjectTable:  # noqa: ARG001  (a changed file)
    """Tabulate a large mask strip by strip; its blocks come one after the other and share the table."""
    rows = max(1, _STRIP_PX // size_px[1])

    def strips(reader: ImageReader) -> Iterator[ObjectTable]:
        for y0 in range(0, size_px[0], rows):
            box = Box(y0, 0, min(rows, size_px[0] - y0), size_px[1])
            part = read_labels(uri, box=box, reader=reader)
            yield object_table(part, origin_px=(y0, 0), image_px=size_px)

    with ImageReader() as reader:
        info = labels_info(uri, reader=reader)
        _check_size(uri, (info.height_px, info.width_px), size_px)
        return merge_tables(strips(reader))


def _check_size(uri: str, mask_px: tuple[int, ...], size_px: tuple[int, int]) -> None:
    if mask_px != size_px:
        raise RowRejected(
            RejectCode.SHAPE_MISMATCH,
            f"{uri}: the mask has {mask_px[0]} × {mask_px[1]} px, its image {size_px[0]} × {size_px[1]} px",
        )


def _as_objects(mask: NDArray[Any], uri: str, *, kind: str) -> NDArray[Any]:
    """Number the pieces of a binary mask; a mask that only looks like one is refused, not guessed."""
    if kind == "binary":
        try:
            return relabelled(mask)
        except ValueError as error:
            raise RowRejected(RejectCode.SHAPE_MISMATCH, f"{uri}: {error}") from error
    if kind == "auto" and mask.max(initial=0) in (1, 255) and len(np.unique(mask)) == 2:
        pieces = int(relabelled(mask).max())
        if pieces > 1:
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"{uri}: one label in {pieces} pieces; say input.mask_kind: binary if each piece is an object, or "
                "labels if they are one",
            )
    return mask
