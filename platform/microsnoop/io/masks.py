"""Which label image belongs to which image: by name in a folder, or by the fields of a pattern.

An image without a mask keeps its row and becomes a reject that says so; a mask without an image is a note.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow as pa

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError
from microsnoop.core.schema import META_PREFIX
from microsnoop.io.formats import EXTENSIONS
from microsnoop.io.opener import list_files
from microsnoop.io.patterns import compile_pattern, match_files

# what segmenters put behind the name of the image they segmented
_ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")


def attach_masks(records: pa.Table, cfg: InputConfig) -> tuple[pa.Table, list[str]]:
    """Add the column ``mask_uri`` to ``records`` from ``cfg.masks``; null where an image has none.

    Returns
    -------
    Records and notes (masks that no image claims, images without a mask).

    Raises
    ------
    InputError
        No image has a mask, a pattern has fields that the images do not have, or two masks claim one image.
    """
    masks = str(cfg.masks)
    found, count = (_by_fields if "{" in masks else _by_name)(records, masks)
    if not any(found):
        raise InputError(
            f"none of {count:,} label images in {masks} belongs to an image of the input list",
            hint="a mask has the name of its image (perhaps with _masks or _label behind it), or use a pattern "
            "with the same fields",
        )
    notes = []
    if missing := found.count(None):
        notes.append(f"{missing:,} images have no mask in {masks}: they become rejects")
    if unclaimed := count - len(set(filter(None, found))):
        notes.append(f"{unclaimed:,} masks in {masks} belong to no image")
    return records.append_column("mask_uri", pa.array(found, pa.string())), notes


def _by_name(records: pa.Table, folder: str) -> tuple[list[str | None], int]:
    """Match by the image's id as path below the folder, or by file name; endings of segmenters are ignored."""
    files = [uri for uri in list_files(folder) if uri.lower().endswith(EXTENSIONS)]
    by_path: dict[str, list[str]] = {}
    by_stem: dict[str, list[str]] = {}
    for uri in files:
        path = PurePosixPath(uri)
        for stem in {path.stem, _bare(path.stem)}:
            by_stem.setdefault(stem, []).append(uri)
            below = uri.removeprefix(folder.rstrip("/") + "/")
            by_path.setdefault(str(PurePosixPath(below).with_name(stem)), []).append(uri)
    found: list[str | None] = []
    for image_id, uris in zip(records["image_id"].to_pylist(), records["uris"].to_pylist(), strict=True):
        image = PurePosixPath(next((uri for uri in uris if uri is not None), image_id))
        candidates = by_path.get(image_id, []) or by_path.get(
            str(PurePosixPath(image_id).with_suffix("")), []
        )
        candidates = candidates or by_stem.get(image.stem, [])
        near = [uri for uri in candidates if _same_folder(uri, image)]
        candidates = near if len(candidates) > 1 and near else candidates
        if len(candidates) > 1:
            raise InputError(
                f"two masks could belong to {image_id!r}: {candidates[0]} and {candidates[1]}",
                hint="name the masks in the column mask_uri of a manifest",
            )
        found.append(candidates[0] if candidates else None)
    return found, len(files)


def _bare(stem: str) -> str:
    ending = next((ending for ending in _ENDINGS if stem.endswith(ending)), "")
    return stem.removesuffix(ending)


def _same_folder(uri: str, image: PurePosixPath) -> bool:
    return PurePosixPath(uri).parent.name == image.parent.name


def _by_fields(records: pa.Table, pattern: str) -> tuple[list[str | None], int]:
    compiled = compile_pattern(pattern)
    matches = match_files(compiled, list(list_files(compiled.base)))
    names = list(matches.fields)
    lacking = [name for name in names if f"{META_PREFIX}{name}" not in records.column_names]
    if lacking or matches.channels:
        known = [name.removeprefix(META_PREFIX) for name in records.column_names if name.startswith("meta_")]
        raise InputError(
            f"the masks' pattern has the field(s) {', '.join(lacking) or '{channel}'}, which the images do not "
            "have",
            hint=f"their fields are {', '.join(known) or 'none'}",
        )
    masks = dict(zip(_keys([matches.fields[name] for name in names]), matches.uris, strict=True))
    images = _keys([records[f"{META_PREFIX}{name}"].to_pylist() for name in names])
    return [masks[key][0] if key in masks else None for key in images], len(masks)


def _keys(columns: Sequence[Sequence[object]]) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in zip(*columns, strict=True)]
