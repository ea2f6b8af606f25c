"""Names of TCGA slides, and which of them are kept. Source: slides spec, section 12."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.labels import read_text_table

SLIDE_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".bif", ".png", ".jpg", ".jpeg",
)  # fmt: skip
_NAME = re.compile(
    r"TCGA-(?P<site>[A-Z0-9]{2})-(?P<participant>[A-Z0-9]{4})-(?P<sample_type>[0-9]{2})(?P<vial>[A-Z])"
    r"-(?P<portion>[0-9]{2})-(?P<slide_type>DX|TS|MS|BS)(?P<number>[A-Z0-9]{1,2})"
    r"(?:\.(?P<uuid>[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}))?"
)
SELECTION_COLUMNS = (
    "slide_id",
    "patient_id",
    "sample_id",
    "site",
    "sample_type",
    "slide_type",
    "uuid",
    "path",
)


@dataclass(frozen=True)
class Barcode:
    """What the name of a TCGA slide says; all in upper case but ``uuid``."""

    site: str  # tissue source site, TT
    participant: str
    sample_type: str  # 01 primary, 02 recurrent, 06 metastatic, 11 normal
    vial: str
    portion: str
    slide_type: str  # DX diagnostic FFPE; TS, MS, BS frozen
    number: str
    uuid: str = ""

    @property
    def patient_id(self) -> str:
        """``TCGA-TT-PPPP``."""
        return f"TCGA-{self.site}-{self.participant}"

    @property
    def sample_id(self) -> str:
        """``TCGA-TT-PPPP-SS``."""
        return f"{self.patient_id}-{self.sample_type}"

    @property
    def slide_id(self) -> str:
        """The whole barcode, without uuid."""
        return f"{self.sample_id}{self.vial}-{self.portion}-{self.slide_type}{self.number}"


@dataclass(frozen=True)
class Selection:
    """Slides that are kept, and why the others are not: ``len(slides) + len(rejects)`` names came in.

    ``slides`` has ``SELECTION_COLUMNS``; ``rejects`` has ``path``, ``code``, ``message``, the codes being
    ``bad_barcode``, ``not_selected`` and ``duplicate``.
    """

    slides: pd.DataFrame
    rejects: pd.DataFrame

    def counts(self) -> dict[str, int]:
        """Return how many are kept, and how many rejects each code has."""
        return {"selected": len(self.slides), **Counter(self.rejects["code"])}


def parse_barcode(name: str) -> Barcode:
    """Read the name of a TCGA slide: a file name or path, or the barcode alone, in any case.

    Raises
    ------
    InputError
        ``bad_barcode``: not of the form ``TCGA-TT-PPPP-SSV-NN-XXn[.uuid][.svs]``.
    """
    # a path of either system; the suffix goes only where it is one of a slide
    stem = PurePosixPath(name.replace("\\", "/")).name.strip().upper()
    for suffix in SLIDE_SUFFIXES:
        stem = stem.removesuffix(suffix.upper())
    match = _NAME.fullmatch(stem)
    if match is None:
        raise InputError(
            f"bad_barcode: {name!r} is not the name of a TCGA slide",
            hint="TCGA-TT-PPPP-SSV-NN-XXn.uuid.svs; slides of other collections need a table "
            "slide_id, patient_id, path",
        )
    return Barcode(**{**match.groupdict(), "uuid": (match["uuid"] or "").lower()})


def select_slides(
    names: Iterable[str | Path],
    *,
    slide_types: Sequence[str] = ("DX",),
    sample_types: Sequence[str] = ("01",),
) -> Selection:
    """Parse names or paths and keep diagnostic slides of primary tumours (the default), each barcode once.

    Slides come sorted by ``slide_id``; of two files of one barcode the first by path is kept.
    """
    kept: dict[str, dict[str, str]] = {}
    rejects: list[tuple[str, str, str]] = []
    for path in sorted(map(str, names)):
        try:
            code = parse_barcode(path)
        except InputError as error:
            rejects.append((path, "bad_barcode", error.message))
            continue
        if code.slide_type not in slide_types or code.sample_type not in sample_types:
            found = f"slide type {code.slide_type}, sample type {code.sample_type}"
            rejects.append((path, "not_selected", found))
        elif code.slide_id in kept:
            first = kept[code.slide_id]["path"]
            rejects.append((path, "duplicate", f"{code.slide_id} is {first} already"))
        else:
            row = {name: getattr(code, name) for name in SELECTION_COLUMNS if name != "path"}
            kept[code.slide_id] = {**row, "path": path}
    slides = pd.DataFrame([kept[key] for key in sorted(kept)], columns=list(SELECTION_COLUMNS), dtype=object)
    return Selection(slides, pd.DataFrame(rejects, columns=["path", "code", "message"], dtype=object))


def read_slide_table(path: str | Path) -> pd.DataFrame:
    """Read the slides of another collection: columns ``slide_id``, ``patient_id``, ``path``, and any others, as text.

    Relative paths are taken from the table's folder.

    Raises
    ------
    InputError
        Unreadable, a column is missing, a cell of one of these is empty, or a slide stands twice.
    """
    path = Path(path)
    needed = ["slide_id", "patient_id", "path"]
    table = read_text_table(path, needed=needed)
    for column in needed:
        empty = table[column].isna()
        if empty.any():
            raise InputError(f"{path}: {column} is empty in row {int(empty.to_numpy().argmax()) + 2}")
    twice = sorted(set(table["slide_id"][table["slide_id"].duplicated()]))
    if twice:
        raise InputError(f"{path}: {len(twice)} slide_id stand more than once, e.g. {twice[0]!r}")
    return table.assign(path=[str(path.parent / found) for found in table["path"]])
