"""``microsnoop gallery``: a contact sheet of the rows nearest to and farthest from the centre of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError
from microsnoop.ops.intensity import Scaling
from microsnoop_apps.terminal import say
from microsnoop_apps.views.groups import Groups, Pick, groups_of, has_vector, order_groups, pick_rows
from microsnoop_apps.views.page import picture_path
from microsnoop_apps.views.pixels import Cutout, places_of, read_cutouts
from microsnoop_apps.views.sheet import Shown, draw_sheet, write_table
from microsnoop_apps.views.source import RunData, open_data
from microsnoop_apps.views.thumbnails import (
    PALETTE,
    Look,
    coloured,
    contrast,
    finite,
    look_of,
    padded,
    sheet_contrast,
)

MOST_GROUPS = 12
_DEFAULT_CHANNELS = 3
_WHOLE_PX = 512  # side of whole images in memory
NEAREST, FARTHEST = "nearest", "farthest"


@dataclass(frozen=True)
class GalleryOptions:
    """What to show; an empty ``by`` means Leiden clusters, empty ``groups`` the largest, ``channels`` the first."""

    by: str = ""
    nearest: int = 8
    farthest: int = 8
    groups: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    contrast: str = "cell"


def gallery(data: Path, options: GalleryOptions, *, out: Path | None = None, run: Path | None = None) -> Path:
    """Choose rows, read their pixels, and write the sheet with a table of what is on it; return its path.

    Raises
    ------
    ConfigError
        An option that does not fit the data.
    InputError, RunError
        Pixels that cannot be found again as the run saw them.
    """
    target = picture_path(data, out, "gallery")
    if options.nearest + options.farthest < 1:
        raise ConfigError("nothing to show: --nearest and --farthest are both 0")
    source = open_data(data, run)
    look = _look(source, options.channels)
    picks, sizes = _pick(source, options)
    places = places_of(source, [pick.row for pick in picks])
    cutouts = read_cutouts(source, places, look.channels, most_px=_WHOLE_PX)
    shown = _pictures(source, cutouts, look, options.contrast)
    by = options.by or "leiden"
    page = draw_sheet(
        picks, shown, sizes=sizes, title=f"{data.name}, grouped by {by}", subtitle=_subtitle(source, look, options),
        look=look,
    )  # fmt: skip
    page.save(target)
    write_table(target.with_suffix(".csv"), picks, source.data.obs)
    for note in _notes(source):
        say(f"note: {note}")
    say(f"gallery: {target}, and {target.with_suffix('.csv').name} names what is on it")
    return target


def _look(source: RunData, asked: Sequence[str]) -> Look:
    """Return the colours of the channels asked for, else of the first three."""
    chosen = tuple(asked) or tuple(source.channels[:_DEFAULT_CHANNELS])
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"--channels names a channel twice: {', '.join(chosen)}")
    source.in_file(chosen)  # an unknown channel is an error now
    if len(chosen) > len(PALETTE):
        raise ConfigError(
            f"--channels takes up to {len(PALETTE)} channels, got {len(chosen)}: more colours cannot be told apart"
        )
    if not asked and len(source.channels) > len(chosen):
        say(
            f"the first {len(chosen)} of {len(source.channels)} channels are shown; --channels chooses others"
        )
    return look_of(chosen)


def _pick(source: RunData, options: GalleryOptions) -> tuple[list[Pick], dict[str, int]]:
    """Choose rows and say what is left out; return picks group by group, and the size of each group shown."""
    x = source.data.X
    vectors = np.asarray(x.toarray() if hasattr(x, "toarray") else x)
    groups, there = groups_of(source.data.obs, options.by), has_vector(vectors)
    shown = order_groups(groups, there, asked=options.groups, limit=MOST_GROUPS)
    if not shown:
        raise InputError(f"no row of {source.path} has both a vector and a value of {groups.column!r}")
    _say_left_out(groups, there, len(shown), asked=bool(options.groups))
    picks: list[Pick] = []
    for group in shown:
        rows = np.flatnonzero(there & (groups.code == group))
        name = groups.names[group]
        try:
            near, far = pick_rows(vectors, rows, nearest=options.nearest, farthest=options.farthest)
        except ValueError as error:
            raise InputError(
                f"the group {name} has no centre: {error}", hint="--groups chooses others"
            ) from error
        for side, chosen in ((NEAREST, near), (FARTHEST, far)):
            picks += [Pick(name, side, rank, d, row) for rank, (row, d) in enumerate(chosen, start=1)]
    sizes = groups.sizes(there)
    return picks, {groups.names[group]: int(sizes[group]) for group in shown}


def _say_left_out(groups: Groups, there: NDArray[np.bool_], n_shown: int, *, asked: bool) -> None:
    without_group = int((there & (groups.code < 0)).sum())
    for count, what in (
        (int((~there).sum()), "have no vector (NaN or zeros in X)"),
        (without_group, f"have no value of {groups.column!r}"),
    ):
        if count:
            say(f"left out: {count:,} of {len(there):,} rows {what}")
    sizes = groups.sizes(there)
    more = int((sizes > 0).sum()) - n_shown
    if more > 0 and not asked:
        rows = int(np.sort(sizes)[::-1][n_shown:].sum())
        say(
            f"the {n_shown} largest groups are shown; {more} more with {rows:,} rows are not: --groups a,b names them"
        )


def _pictures(source: RunData, cutouts: Sequence[Cutout], look: Look, how: str) -> list[Shown]:
    """Make pictures of windows: contrast by the percentiles that scaled them for the encoder, or one for all."""
    norm = source.cfg.normalise
    cutouts = [replace(cutout, planes=finite(cutout.planes)) for cutout in cutouts]
    limits: dict[str, Any] = {"low": norm.low, "high": norm.high, "together": look.together}
    common: Scaling | None = None
    if how == "sheet":
        common = sheet_contrast([cutout.planes for cutout in cutouts], **limits)
    shown = []
    for cutout in cutouts:
        window, inside = padded(cutout.planes, cutout.box, cutout.image_px)
        scaling = common or contrast(cutout.planes, **limits)
        shown.append(Shown(coloured(window, scaling, look), inside, cutout.pixel_size_um, cutout.pixel_px))
    return shown


def _notes(source: RunData) -> list[str]:
    """Say where the pictures differ from what the encoder saw."""
    cfg, notes = source.cfg, []
    if cfg.mode == "crop" and cfg.crop.kind == "mask":
        notes.append("the encoder saw each object with its surroundings erased; here they are left in")
    if cfg.mode == "tile" and cfg.tile.norm == "image":
        notes.append(
            "the encoder saw each tile in the contrast of its whole image (tile.norm), which is not shown here"
        )
    if not cfg.normalise.enabled:
        notes.append(
            "the encoder took the pixels as they are (normalise.enabled: false), without this contrast"
        )
    return notes


def _subtitle(source: RunData, look: Look, options: GalleryOptions) -> str:
    norm = source.cfg.normalise
    scope = "each picture" if options.contrast == "cell" else "the whole sheet"
    if look.together:
        scope += ", colours together"
    return (
        f"contrast {norm.low:g} to {norm.high:g} % of {scope}; below: cosine distance to the group's centre"
    )
