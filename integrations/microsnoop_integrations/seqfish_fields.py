"""Which image belongs to which field of view, and which cells of a field can be cut out of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import InputError, RowRejected
from microsnoop.core.ordering import natural
from microsnoop.core.schema import RejectCode
from microsnoop.core.settings import ChannelChoice
from microsnoop.io.formats import EXTENSIONS, ImageInfo
from microsnoop.io.images import ImageReader, ImageSource, select_channels
from microsnoop.io.labels import read_labels
from microsnoop.io.opener import is_remote, list_files, local_path
from microsnoop.io.patterns import compile_pattern, match_files
from microsnoop_integrations.seqfish_tables import field_name

log = logging.getLogger(__name__)

_SIZE_TOLERANCE = 0.01  # a header that says another pixel size than the user is worth a warning


def find_fields(source: str | Path | Mapping[str, str], what: str) -> dict[str, ImageSource]:
    """Return the files of every field.

    Parameters
    ----------
    source
        A folder in which the only number of each file name is the field, a pattern with ``{field}`` and perhaps
        ``{channel}``, or field -> file.
    what
        What the files are, for messages.

    Raises
    ------
    InputError
        No files, a name without a number or with several, or two files of one field.
    """
    if isinstance(source, Mapping):
        pairs = [(str(name), ImageSource((_absolute(str(uri)),))) for name, uri in source.items()]
    elif "{" in str(source):
        pairs = _by_pattern(str(source), what)
    else:
        files = [uri for uri in list_files(str(source)) if uri.lower().endswith(EXTENSIONS)]
        pairs = [(_number(uri, what), ImageSource((_absolute(uri),))) for uri in files]
    if not pairs:
        raise InputError(f"no {what} in {source}", hint=f"image files end in {', '.join(EXTENSIONS)}")
    found: dict[str, ImageSource] = {}
    for text, image in pairs:
        name = field_name(text)
        if name in found:
            raise InputError(f"two {what} of the field {name}: {found[name].name} and {image.name}")
        found[name] = image
    return found


def _by_pattern(pattern: str, what: str) -> list[tuple[str, ImageSource]]:
    compiled = compile_pattern(pattern)
    if "field" not in compiled.fields or set(compiled.fields) - {"field", "channel"}:
        raise InputError(
            f"the pattern of the {what} must have {{field}} and may have {{channel}}, nothing else: {pattern!r}"
        )
    matches = match_files(compiled, list(list_files(compiled.base)))
    channels = tuple(matches.channels) if matches.channels else None
    return [
        (name, ImageSource(tuple(None if uri is None else _absolute(uri) for uri in uris), channels))
        for name, uris in zip(matches.fields["field"], matches.uris, strict=True)
    ]


def _number(uri: str, what: str) -> str:
    numbers = re.findall(r"\d+", PurePosixPath(uri).stem)
    if len(numbers) != 1:
        raise InputError(
            f"which field is {uri}? The name of a file must hold one number, this one holds {len(numbers)}",
            hint=f"name the {what} by a pattern with {{field}}, e.g. images/Pos{{field}}_stain1.tif",
        )
    return str(numbers[0])


def _absolute(uri: str) -> str:
    return uri if is_remote(uri) or uri.startswith("file://") else str(local_path(uri).absolute())


class FieldPlan:
    """What is embedded: ``fields`` (rows of the manifest), ``cells`` (rows of the table of cells), ``rejects``.

    A cell is (image, x, y, label, id), a reject (id, modality, code, message). Every cell given is one of the two.
    """

    def __init__(
        self, reader: ImageReader, images: Mapping[str, ImageSource], masks: Mapping[str, ImageSource] | None
    ) -> None:
        self._reader, self._images, self._masks = reader, images, masks
        self.fields: list[dict[str, Any]] = []
        self.cells: list[tuple[str, float, float, str, str]] = []
        self.rejects: list[tuple[str, str, str, str]] = []

    def add_field(
        self, name: str, group: pd.DataFrame, *, channels: ChannelChoice | None, pixel_size_um: float
    ) -> None:
        """Take up the cells of one field: index ``...:{index}``, columns ``x_px, y_px``."""
        before = len(self.rejects)
        self._add(name, group, channels, pixel_size_um=pixel_size_um)
        reasons = {code: message for _, _, code, message in reversed(self.rejects[before:])}
        for code, message in reasons.items():
            n = sum(reject[2] == code for reject in self.rejects[before:])
            log.warning("field %s: %d of %d cells rejected: %s (%s)", name, n, len(group), code, message)

    def _add(
        self, name: str, group: pd.DataFrame, channels: ChannelChoice | None, *, pixel_size_um: float
    ) -> None:
        for what, files in (("image", self._images), ("mask", self._masks)):
            if files is not None and name not in files:
                there = ", ".join(sorted(files, key=natural))
                self._reject(
                    group.index, f"missing_{what}", f"field {name} has no {what}; fields with one: {there}"
                )
                return
        source = self._images[name]
        try:
            info = self._reader.info(source)
            select_channels(info.channels, channels, where=source.name)
            mask = None if self._masks is None else self._read_mask(self._masks[name].name, info)
        except RowRejected as error:
            self._reject(group.index, str(error.code), error.message)
            return
        if info.pixel_size_um and abs(info.pixel_size_um / pixel_size_um - 1) > _SIZE_TOLERANCE:
            log.warning(
                "%s says %g µm a pixel, used are the %g that were given",
                source.name, info.pixel_size_um, pixel_size_um,
            )  # fmt: skip
        inside = self._inside(group, info)
        labels = _indices(inside) if mask is None else self._objects(inside, mask)
        images = {obs_id.rpartition(":")[0] for obs_id in labels}
        if len(images) > 1:
            raise InputError(
                f"cells of the field {name} have ids of several: {', '.join(sorted(images)[:2])}"
            )
        for image in images:
            self.fields.append(self._record(image, name, pixel_size_um))
        for obs_id, x, y in zip(inside.index, inside["x_px"], inside["y_px"], strict=True):
            if obs_id in labels:
                self.cells.append((obs_id.rpartition(":")[0], float(x), float(y), labels[obs_id], obs_id))

    def _inside(self, group: pd.DataFrame, info: ImageInfo) -> pd.DataFrame:
        """Return the cells whose centroid some pixel of the image holds; reject the others."""
        known = np.isfinite(group["x_px"]) & np.isfinite(group["y_px"])
        self._reject(group.index[~known], "no_position", "no table has a position of this cell")
        inside = group["x_px"].between(0, info.width_px, inclusive="left")
        inside &= group["y_px"].between(0, info.height_px, inclusive="left")
        size = f"{info.width_px} × {info.height_px} px"
        for row in group[known & ~inside].itertuples():
            at = f"its centroid ({row.x_px:g}, {row.y_px:g}) is not in the image of {size}"
            self._reject([str(row.Index)], "outside_field", at)
        return group[inside]

    def _read_mask(self, uri: str, info: ImageInfo) -> NDArray[Any]:
        mask = read_labels(uri)
        if mask.shape != (info.height_px, info.width_px):
            raise RowRejected(
                RejectCode.SHAPE_MISMATCH,
                f"the mask {uri} has {mask.shape[1]} × {mask.shape[0]} px, its image {info.width_px} × "
                f"{info.height_px} px",
            )
        return mask

    def _objects(self, group: pd.DataFrame, mask: NDArray[Any]) -> dict[str, str]:
        """Return the number of each cell's object; reject cells without one of their own."""
        at = (group["y_px"].to_numpy().astype(int), group["x_px"].to_numpy().astype(int))
        labels = pd.Series(mask[at], index=group.index)
        self._reject(
            labels.index[labels == 0], "no_object", "its centroid lies on the background of the mask"
        )
        labels = labels[labels > 0]
        shared = labels.duplicated(keep=False)
        for obs_id, label in labels[shared].items():
            self._reject(
                [str(obs_id)], "shared_object", f"object {label} of the mask holds several centroids"
            )
        return {str(obs_id): str(label) for obs_id, label in labels[~shared].items()}

    def _record(self, image: str, name: str, pixel_size_um: float) -> dict[str, Any]:
        source = self._images[name]
        names = ["uri"] if source.uri_channels is None else [f"uri_{c}" for c in source.uri_channels]
        record: dict[str, Any] = {"image_id": image, "field": name, "pixel_size_um": pixel_size_um}
        record |= {column: uri or "" for column, uri in zip(names, source.uris, strict=True)}
        return record if self._masks is None else record | {"mask_uri": self._masks[name].name}

    def _reject(self, ids: Sequence[str] | pd.Index, code: str, message: str) -> None:
        self.rejects += [(str(name), "image", code, message) for name in ids]


def _indices(group: pd.DataFrame) -> dict[str, str]:
    """Return the label of every cell without a mask: its index, the end of its id."""
    return {str(obs_id): str(obs_id).rpartition(":")[2] for obs_id in group.index}
