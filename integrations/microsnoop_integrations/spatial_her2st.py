"""her2st (Andersson et al. 2021, Nat Commun 12:6012): counts, spots and H&E of a section, as published.

::

    data/ST-cnts/<s>.tsv.gz                          counts, a row a spot ``<x>x<y>``, a column a gene
    data/ST-spotfiles/<s>_selection.tsv              x, y (array), pixel_x, pixel_y (of the image), selected
    data/ST-imgs/<patient>/<s>/*.jpg                 H&E
    res/ST-cluster/lbl/<s>-cluster-annotation.tsv.gz expression clusters                      (may be missing)
    res/ST-deconv/props/{major,minor}/<s>-proportion.tsv  estimated cell-type proportions     (may be missing)
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from microsnoop.core.errors import InputError
from microsnoop_integrations.spatial_grid import fit_grid, pixel_size_from_grid
from microsnoop_integrations.spatial_matching import assemble, named_counts
from microsnoop_integrations.spatial_spots import Scale, SpotImage, Spots, SpotTable, find_image

PITCH_UM = 200.0
DIAMETER_UM = 100.0
_COUNTS, _SUFFIX = Path("data/ST-cnts"), ".tsv.gz"
_PLACE = re.compile(r"-?\d+x-?\d+")
_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_LEVELS = ("major", "minor")
LICENCE = "the authors' repository states none: use for evaluation, do not redistribute"


def is_her2st(folder: Path) -> bool:
    """Whether a folder has this layout."""
    return (folder / _COUNTS).is_dir()


def read_her2st(
    folder: Path,
    *,
    section: str | None = None,
    dataset: str | None = None,
    image: Path | str | None = None,
    pixel_size_um: float | None = None,
) -> Spots:
    """Read one section; see the module for the files, ``spatial.read_spots`` for the arguments.

    Raises
    ------
    InputError
        A file that is missing, unreadable or contradicts another one; several sections and none named.
    """
    section = _section(folder, section)
    counts_path = folder / _COUNTS / f"{section}{_SUFFIX}"
    spots_path = folder / "data/ST-spotfiles" / f"{section}_selection.tsv"
    missing = [str(path) for path in (counts_path, spots_path) if not path.is_file()]
    if missing:
        raise InputError(f"section {section!r} is not complete: {', '.join(missing)} not there")
    positions = _positions(spots_path)
    notes: list[str] = []
    picture = find_image(image) if image is not None else _image(folder, section, notes)
    positions, arrays = _annotations(folder, section, positions, notes)
    return assemble(
        SpotTable(_counts(counts_path), positions, str(counts_path), arrays),
        dataset=dataset or "her2st",
        section=section,
        image=picture,
        scale=Scale.given(pixel_size_um) if pixel_size_um is not None else _scale(positions),
        spot_diameter_um=DIAMETER_UM,
        notes=tuple(notes),
        uns={"licence": LICENCE} if dataset is None else {},
    )


def _section(folder: Path, section: str | None) -> str:
    there = sorted(path.name.removesuffix(_SUFFIX) for path in (folder / _COUNTS).glob(f"*{_SUFFIX}"))
    if section is None and len(there) == 1:
        return there[0]
    if section is None or section not in there:
        found = ", ".join(there) or "none"
        asked = "name one section" if section is None else f"there is no section {section!r}"
        raise InputError(f"{folder / _COUNTS}: {asked}; it has {found}", hint="section=... chooses one")
    return section


def _counts(path: Path) -> ad.AnnData:
    """Read row by row into a sparse matrix: a section as text is ten times larger."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            genes = next(lines, "").rstrip("\r\n").split("\t")[1:]
            rows = [_row(line, n, len(genes), path) for n, line in enumerate(lines, start=2) if line.strip()]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the counts {path}: {error}") from error
    names = [name for name, _ in rows]
    odd = [name for name in names if not _PLACE.fullmatch(name)]
    if odd and all(_PLACE.fullmatch(gene) for gene in genes):
        raise InputError(
            f"{path} is transposed: its columns are spots ({genes[0]}) and its rows genes ({odd[0]})",
            hint="write it with a row for each spot",
        )
    if odd or not rows:
        raise InputError(f"{path}: rows must be named <x>x<y>, found {odd[:3] or 'no row'}")
    return named_counts(sparse.vstack([row for _, row in rows], format="csr"), names, genes)


def _row(line: str, number: int, width: int, path: Path) -> tuple[str, sparse.csr_matrix]:
    name, *cells = line.rstrip("\r\n").split("\t")
    if len(cells) != width:
        raise InputError(f"{path}, line {number}: {len(cells)} counts, the header names {width} genes")
    try:
        return name, sparse.csr_matrix(np.array(cells, dtype=np.float64)[None])
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {error}") from error


def _table(path: Path, needed: tuple[str, ...], *, index: bool = False) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, sep="\t", index_col=0 if index else None)
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"cannot read the table {path}: {error}") from error
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}"
        )
    return frame


def _named(frame: pd.DataFrame, path: Path) -> pd.Index:
    """Return the names ``<x>x<y>`` of the rows: the only key that all tables of a section share."""
    try:
        x, y = (pd.to_numeric(frame[name]) for name in ("x", "y"))
        if not (np.isfinite(x) & np.isfinite(y) & (x % 1 == 0) & (y % 1 == 0)).all():
            raise ValueError("some are not whole numbers")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: x and y must be the array coordinates of a spot ({error})") from error
    return pd.Index([f"{int(a)}x{int(b)}" for a, b in zip(x, y, strict=True)], dtype=object)


def _positions(path: Path) -> pd.DataFrame:
    frame = _table(path, ("x", "y", "pixel_x", "pixel_y"))
    pixels = {name: pd.to_numeric(frame[f"pixel_{name[0]}"], errors="coerce") for name in ("x_px", "y_px")}
    chosen = frame["selected"].eq(1) if "selected" in frame else np.ones(len(frame), bool)
    own = {"array_x": frame["x"], "array_y": frame["y"], **pixels, "selected": chosen}
    names = _named(frame, path)
    _check_once(names, path)
    return pd.DataFrame(own).set_index(names)


def _image(folder: Path, section: str, notes: list[str]) -> SpotImage:
    root = folder / "data/ST-imgs"
    found = sorted(p for p in root.glob(f"*/{section}/*") if p.suffix.lower() in _IMAGES)
    if len(found) > 1:
        raise InputError(
            f"{section!r} has {len(found)} images: {', '.join(map(str, found[:3]))}",
            hint="image=... chooses one",
        )
    if not found:
        notes.append(f"no image of {section} under {root}: there is nothing to cut patches from")
        return SpotImage()
    return find_image(found[0])


def _scale(positions: pd.DataFrame) -> Scale:
    centres, grid = positions[["x_px", "y_px"]].to_numpy(), positions[["array_x", "array_y"]].to_numpy()
    size = pixel_size_from_grid(centres, grid, pitch_um=PITCH_UM)
    fit = fit_grid(centres, grid)
    first, second = fit.pitches_px
    note = (
        f"the pixel size {size:.4f} µm is derived, not read from the file: spots of this array stand {PITCH_UM:g} µm "
        f"apart, which is {first:.1f} px along x and {second:.1f} px along y (scatter {fit.residual_px:.1f} px)"
    )
    return Scale(size, "grid pitch", note)


def _annotations(
    folder: Path, section: str, positions: pd.DataFrame, notes: list[str]
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Add clusters and cell types where they are published; a spot without one has none, not a class of its own."""
    positions, arrays = positions.copy(), {}
    path = folder / f"res/ST-cluster/lbl/{section}-cluster-annotation.tsv.gz"
    if path.is_file():
        frame = _table(path, ("label", "x", "y"), index=True)
        names = _named(frame, path)
        _check_once(names, path)
        labels = pd.Series(frame["label"].astype(str).to_numpy(object), index=names)
        positions["cluster"] = pd.Categorical(labels.reindex(positions.index))
    else:
        notes.append(f"no expression clusters: {path} is not there")
    for level in _LEVELS:
        path = folder / f"res/ST-deconv/props/{level}/{section}-proportion.tsv"
        if not path.is_file():
            notes.append(f"no {level} cell-type proportions: {path} is not there")
            continue
        shares = _table(path, (), index=True).rename(columns=str.strip)
        _check_once(shares.index, path)
        shares = shares.reindex(positions.index)
        arrays[f"cell_types_{level}"] = shares
        known = shares.notna().all(axis=1)
        positions[f"cell_type_{level}"] = pd.Categorical(
            shares[known].idxmax(axis=1).reindex(positions.index)
        )
    if arrays:
        notes.append(
            "cell_type_* is the type of the largest proportion estimated from the counts, not a pathologist's"
        )
    return positions, arrays


def _check_once(names: pd.Index, path: Path) -> None:
    if names.has_duplicates:
        twice = list(dict.fromkeys(names[names.duplicated()]))
        raise InputError(f"{path}: spot(s) {twice[:3]} stand more than once")
