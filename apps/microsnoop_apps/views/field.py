"""What the run found in one field: its rows, embedded and rejected, and the label mask they were cut by."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError, RowRejected, RunError
from microsnoop.core.schema import WINDOW_COLUMNS
from microsnoop.io.images import ImageReader
from microsnoop.ops.geometry import Box
from microsnoop.pipelines.fields import ReadJob, block_of, open_field
from microsnoop_apps.terminal import say
from microsnoop_apps.views.pixels import places_of
from microsnoop_apps.views.source import Row, RunData, examples

_COLUMNS = ("obs_id", "image_id", "label", "block", "area_px", *WINDOW_COLUMNS)


@dataclass(frozen=True)
class FieldRows:
    """Rows of one image: of the file (their numbers, labels and windows), and of the run."""

    rows: NDArray[np.int64]
    labels: list[str]
    boxes: list[Box]
    run: list[Row]
    of_cells: bool

    def embedded(self) -> list[Row]:
        """The rows of the run that have a vector."""
        return [row for row in self.run if not row["rejected"]]

    def rejected(self) -> list[Row]:
        """The rows of the run that have none."""
        return [row for row in self.run if row["rejected"]]


@dataclass(frozen=True)
class FieldMask:
    """The label mask (H, W) below a picture; ``prefix`` stands before its labels in the names of cells."""

    mask: NDArray[np.int64]
    prefix: str

    def number(self, label: str | None) -> int | None:
        """Return the number a label has in this mask; None where it belongs to another block."""
        text = label or ""
        own = text.removeprefix(self.prefix)
        return int(own) if text.startswith(self.prefix) and own.isdecimal() else None


def choose_image(source: RunData, asked: str) -> str:
    """Return the image asked for, else the one with most rows.

    Raises
    ------
    ConfigError
        The file has no row of it.
    """
    counts = Counter(source.data.obs["image_id"].astype(str))
    if asked and asked not in counts:
        raise ConfigError(
            f"no row of {source.path} is of an image {asked!r}", hint=f"images: {examples(list(counts), 20)}"
        )
    return asked or counts.most_common(1)[0][0]


def choose_block(records: Sequence[Row], found: FieldRows, asked: int | None) -> Row:
    """Return the record of an image, or of the block asked for, else of the one with most rows.

    Raises
    ------
    ConfigError
        There is no such block.
    """
    image_id = records[0]["image_id"]
    blocks = {record["block"]["number"]: record for record in records if record.get("block")}
    places = {number: block_of(record) for number, record in blocks.items()}
    if not blocks:
        if asked is not None:
            raise ConfigError(f"{image_id} is one piece: it has no block {asked}", hint="leave out --block")
        return records[0]
    centres = [(box.y0_px + box.height_px / 2, box.x0_px + box.width_px / 2) for box in found.boxes]
    counts = {number: sum(bool(p and p.holds(*c)) for c in centres) for number, p in places.items()}
    if asked is None:
        chosen = max(counts, key=lambda number: counts[number])
        say(f"{image_id} is large: block {chosen} of {len(blocks)} is shown, --block N shows another")
        return blocks[chosen]
    if asked not in blocks:
        listed = [f"{number} ({count:,} rows)" for number, count in counts.items()]
        raise ConfigError(f"{image_id} has no block {asked}", hint=f"blocks: {examples(listed, 20)}")
    return blocks[asked]


def find_field_rows(source: RunData, image_id: str) -> FieldRows:
    """Return the rows of one image, from the file and from the run."""
    obs = source.data.obs
    rows = np.flatnonzero((obs["image_id"].astype(str) == image_id).to_numpy())
    labels = [str(label) for label in obs["label"].iloc[rows]] if "label" in obs else [""] * len(rows)
    # every row of a file that is shown here has a window: the level was checked
    boxes = [place.box for place in places_of(source, rows.tolist())]
    table = source.store.rows(_COLUMNS)
    own = table.filter(pc.equal(table["image_id"], pa.scalar(image_id))).to_pylist()
    of_cells = bool((obs["kind"].iloc[rows] == "cell").all())
    return FieldRows(rows, labels, [box for box in boxes if box is not None], own, of_cells)


def window_of(row: Row) -> Box | None:
    """Return the window of a row of the run; a reject may have none."""
    values = [row[name] for name in WINDOW_COLUMNS]
    return None if None in values or min(values[2:]) < 1 else Box(*values)


def find_mask(source: RunData, record: Row, found: FieldRows) -> FieldMask:
    """Return the mask of a field, or of one block of it, exactly as the run found it.

    Raises
    ------
    InputError
        Image or mask cannot be read.
    RunError
        The objects are not those of the run: the segmenter is another one now.
    """
    from microsnoop.pipelines.labels import find_labels, mask_window

    cfg, identity = source.cfg, source.store.identity
    job = ReadJob(
        cfg,
        tuple(source.channels),
        identity["input_px"],
        identity["processing_key"],
        session=uuid.uuid4().hex,
    )
    with ImageReader(limit_px=int(cfg.input.max_image_mpx * 1e6)) as reader:
        try:
            field = open_field(record, reader, job)
            labels = find_labels(field)
            mask = mask_window(field, labels, field.block or Box(0, 0, *field.size_px))
        except RowRejected as error:
            raise InputError(error.message) from error
    areas = dict(zip(labels.table.label.tolist(), labels.table.area_px.tolist(), strict=True))
    mine = FieldMask(np.asarray(mask, np.int64), labels.prefix)
    _check_objects(
        source, [row for row in found.embedded() if mine.number(row["label"]) is not None], areas, mine
    )
    return mine


def _check_objects(source: RunData, rows: Sequence[Row], areas: dict[int, int], mine: FieldMask) -> None:
    """Compare labels and areas with what the run wrote: a mask that differs would colour the wrong cells."""
    other = [
        row["obs_id"]
        for row in rows
        if (number := mine.number(row["label"])) not in areas or row["area_px"] not in (None, areas[number])
    ]
    if other:
        raise RunError(
            f"the objects found now are not those of the run {source.store.path}: {examples(other)} differ",
            hint="another version of the segmenter? embed again into a new run directory",
        )
