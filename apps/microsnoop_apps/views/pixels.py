"""The pixels of rows: windows of their source images, read only from files that are as the run saw them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import InputError, RowRejected, RunError
from microsnoop.core.schema import WINDOW_COLUMNS, cell_id
from microsnoop.io.images import ImageReader, ImageSource
from microsnoop.io.opener import fingerprints
from microsnoop.ops.geometry import Box, bounding_box, cut
from microsnoop_apps.views.painting import block_means
from microsnoop_apps.views.source import Row, RunData, examples


@dataclass(frozen=True)
class Place:
    """Where the pixels of a row are: a window of an image, or all of it (None)."""

    image_id: str
    box: Box | None


@dataclass(frozen=True)
class Cutout:
    """Real pixels (C, h, w) of a window, the window, the size of its image, and the scale in µm a pixel if known.

    ``pixel_px``: pixels of the image a side of one of these; above 1 where a whole image was shrunk.
    """

    planes: NDArray[Any]
    box: Box
    image_px: tuple[int, int]
    pixel_size_um: float | None
    pixel_px: int = 1


def places_of(source: RunData, rows: Sequence[int]) -> list[Place]:
    """Return where the pixels of some rows are.

    A row that stands for a whole image (level ``field``, or an image averaged over its tiles) has all of it; a
    cell averaged over its tiles has its own box.

    Raises
    ------
    InputError
        The file does not say where a row's window is.
    """
    obs = source.data.obs.iloc[list(rows)]
    needed = ["image_id"] if source.level == "field" else ["image_id", "kind", "parent_id", *WINDOW_COLUMNS]
    missing = [name for name in needed if name not in obs]
    if missing:
        raise InputError(
            f"{source.path}: obs lacks {', '.join(missing)}, which say where the pixels of a row are",
            hint="export the run again, and keep these columns",
        )
    images = [str(image_id) for image_id in obs["image_id"]]
    if source.level == "field":
        return [Place(image_id, None) for image_id in images]
    places = []
    for row, image_id in zip(obs.to_dict("records"), images, strict=True):
        if source.level != "image" or row["kind"] != "tile":
            places.append(Place(image_id, Box(*(int(row[name]) for name in WINDOW_COLUMNS))))
        else:  # the window in obs is that of its first tile
            places.append(Place(image_id, _box_of_parent(source, image_id, str(row["parent_id"]))))
    return places


def check_files(records: Iterable[Row]) -> None:
    """Make sure that images and masks are the files the run saw.

    Raises
    ------
    InputError
        A file is gone or was changed.
    """
    seen: dict[str, str | None] = {}
    for record in records:
        seen.update(zip(record["uris"], record["fingerprints"], strict=True))
        seen[record.get("mask_uri") or ""] = record.get("mask_fingerprint")
    uris = [uri for uri in seen if uri]
    now = dict(zip(uris, fingerprints(uris), strict=True))
    other = [
        f"{uri} {'is gone' if now[uri] is None else 'was changed'}" for uri in uris if now[uri] != seen[uri]
    ]
    if other:
        raise InputError(
            f"{len(other)} of {len(uris)} files are not as the run saw them: {examples(other)}",
            hint="put them back as they were (a relative path counts from the working directory), or embed the "
            "files of now in a new run",
        )


def read_cutouts(
    source: RunData, places: Sequence[Place], channels: Sequence[str], *, most_px: int | None = None
) -> list[Cutout]:
    """Read the windows of some rows, image by image.

    Parameters
    ----------
    most_px
        Whole images with a longer side are shrunk to means of blocks: a sheet of them would fill the memory.

    Raises
    ------
    InputError
        A file is gone, was changed, or cannot be read.
    """
    records = {name: rows[0] for name, rows in source.records_of(p.image_id for p in places).items()}
    check_files(records.values())
    in_file = source.in_file(channels)
    found: list[Cutout | None] = [None] * len(places)
    with ImageReader(limit_px=int(source.cfg.input.max_image_mpx * 1e6)) as reader:
        for image_id, record in records.items():
            members = [i for i, place in enumerate(places) if place.image_id == image_id]
            try:
                cutouts = _read_image(reader, record, [places[i].box for i in members], in_file)
            except RowRejected as error:
                raise InputError(error.message) from error
            for i, cutout in zip(members, cutouts, strict=True):
                found[i] = cutout if most_px is None or places[i].box else _shrunk(cutout, most_px)
    return [cutout for cutout in found if cutout is not None]


def _read_image(
    reader: ImageReader, record: Row, boxes: Sequence[Box | None], channels: list[str | int]
) -> list[Cutout]:
    """Read windows of one image: each by itself where that is cheap, else what lies around all of them at once."""
    image = ImageSource.of(record)
    info = reader.info(image)
    size_px = (info.height_px, info.width_px)
    windows = [Box(0, 0, *size_px) if box is None else box for box in boxes]
    real = [box.clipped(*size_px) for box in windows]
    wanted = list(dict.fromkeys(real)) if info.by_region else [bounding_box(real)]
    parts = {box: reader.read(image, channels=channels, box=box) for box in wanted}
    cutouts = []
    for window, box in zip(windows, real, strict=True):
        part = parts[box] if info.by_region else parts[wanted[0]]
        planes = cut(part.planes, box, origin_px=part.origin_px)
        scale = record["pixel_size_um"] or part.pixel_size_um
        cutouts.append(Cutout(np.array(planes), window, size_px, scale))
    return cutouts


def _shrunk(whole: Cutout, most_px: int) -> Cutout:
    by = -(-max(whole.image_px) // most_px)
    if by == 1:
        return whole
    planes = block_means(whole.planes, by)
    size_px = (planes.shape[1], planes.shape[2])
    scale = None if whole.pixel_size_um is None else whole.pixel_size_um * by
    return Cutout(planes, Box(0, 0, *size_px), size_px, scale, by)


def _box_of_parent(source: RunData, image_id: str, parent_id: str) -> Box | None:
    if parent_id == image_id:
        return None
    for record in source.records_of([image_id])[image_id]:
        for box in record.get("boxes") or ():
            if parent_id == cell_id(image_id, box["label"]):
                return Box(*(box[name] for name in WINDOW_COLUMNS))
    raise RunError(f"the run {source.store.path} does not know the cell {parent_id}")
