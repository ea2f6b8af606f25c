"""``microsnoop gallery``: a contact sheet of the rows nearest to and farthest from the centre of each group."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError, RunError
from microsnoop.io.parts import write_atomic
from microsnoop.ops.intensity import Scaling
from microsnoop_apps.terminal import say
from microsnoop_apps.views.groups import Groups, Pick, groups_of, has_vector, order_groups, pick_rows
from microsnoop_apps.views.pixels import Cutout, places_of, read_cutouts
from microsnoop_apps.views.sheet import Shown, draw_sheet
from microsnoop_apps.views.source import RunData, open_data
from microsnoop_apps.views.thumbnails import (
    PALETTE,
    Look,
    coloured,
    contrast,
    look_of,
    padded,
    sheet_contrast,
)

MOST_GROUPS = 12
_DEFAULT_CHANNELS = 3
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
    cutouts = read_cutouts(source, places_of(source, [pick.row for pick in picks]), look.channels)
    shown = _pictures(source, cutouts, look, options.contrast)
    by = options.by or "leiden"
    page = draw_sheet(
        picks, shown, sizes=sizes, title=f"{data.name}, grouped by {by}", subtitle=_subtitle(source, look, options),
        look=look,
    )  # fmt: skip
    page.save(target)
    _write_table(target.with_suffix(".csv"), picks, source)
    if source.cfg.mode == "crop" and source.cfg.crop.kind == "mask":
        say("note: the encoder saw each object with its surroundings erased; here they are left in")
    say(f"gallery: {target}, and {target.with_suffix('.csv').name} names what is on it")
    return target


def picture_path(data: Path, out: Path | None, what: str) -> Path:
    """Return where a picture goes: beside the data unless ``out`` says otherwise.

    Raises
    ------
    ConfigError
        It is no ``.png``.
    """
    if out is None:
        name = data.stem if data.suffix in (".h5ad", ".zarr") else data.name
        return data.with_name(f"{name}.{what}.png")
    if out.suffix != ".png":
        raise ConfigError(f"--out {out} must end in .png")
    return out


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
    limits: dict[str, Any] = {"low": norm.low, "high": norm.high, "together": look.together}
    common: Scaling | None = None
    if how == "sheet":
        common = sheet_contrast([cutout.planes for cutout in cutouts], **limits)
    shown = []
    for cutout in cutouts:
        window, inside = padded(cutout.planes, cutout.box, cutout.image_px)
        scaling = common or contrast(cutout.planes, **limits)
        shown.append(Shown(coloured(window, scaling, look), inside, cutout.pixel_size_um))
    return shown


def _subtitle(source: RunData, look: Look, options: GalleryOptions) -> str:
    norm = source.cfg.normalise
    scope = "each picture" if options.contrast == "cell" else "the whole sheet"
    if look.together:
        scope += ", colours together"
    return (
        f"contrast {norm.low:g} to {norm.high:g} % of {scope}; below: cosine distance to the group's centre"
    )


def _write_table(path: Path, picks: Sequence[Pick], source: RunData) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["group", "rank", "side", "distance", "obs_id", "image_id"])
    names, images = source.data.obs_names, source.data.obs["image_id"]
    for pick in picks:
        row = [
            pick.group,
            pick.rank,
            pick.side,
            f"{pick.distance:.6g}",
            names[pick.row],
            images.iloc[pick.row],
        ]
        table.writerow(row)
    try:
        write_atomic(path, text.getvalue().encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
