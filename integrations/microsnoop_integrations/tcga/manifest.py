"""A portal's manifest checked against a folder of slides: nothing is downloaded. Source: slides spec, section 12."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.barcodes import SLIDE_SUFFIXES, parse_barcode
from microsnoop_integrations.tcga.labels import read_text_table

_NEEDED = ("id", "filename", "md5", "size")
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ManifestReport:
    """What a folder holds of a manifest: every row is found, missing, of wrong size, or of wrong hash.

    Rows are named ``id/filename``; ``found`` maps them to paths, ``extra`` are slides in the folder that the manifest
    does not name; ``duplicate_uuids`` and ``duplicate_barcodes`` stand more than once in the manifest.
    """

    found: dict[str, Path]
    missing: tuple[str, ...]
    wrong_size: tuple[str, ...]
    wrong_hash: tuple[str, ...]
    extra: tuple[str, ...]
    duplicate_uuids: tuple[str, ...]
    duplicate_barcodes: tuple[str, ...]
    hashed: bool

    @property
    def complete(self) -> bool:
        """Whether every row is found; extra files and duplicates do no harm."""
        return not (self.missing or self.wrong_size or self.wrong_hash)

    def counts(self) -> dict[str, int]:
        """Return how many there are of each."""
        names = (
            "found",
            "missing",
            "wrong_size",
            "wrong_hash",
            "extra",
            "duplicate_uuids",
            "duplicate_barcodes",
        )
        return {name: len(getattr(self, name)) for name in names}


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Read a manifest: tab-separated ``id``, ``filename``, ``md5``, ``size`` (int64), ``state`` (may be absent).

    Raises
    ------
    InputError
        Unreadable, a column is missing, or a cell cannot be what its column says.
    """
    table = read_text_table(path, needed=_NEEDED, separator="\t")
    for row, (uuid, name, md5, size) in enumerate(table[list(_NEEDED)].itertuples(index=False, name=None)):
        where = f"{path}, data row {row + 1}"
        if not uuid or not name or _leaves_folder(uuid) or _leaves_folder(name):
            raise InputError(f"{where}: id {uuid!r} and filename {name!r} must be plain names")
        if not _MD5.fullmatch(str(md5).lower()):
            raise InputError(f"{where}: md5 must be 32 hexadecimal digits, got {md5!r}")
        if not str(size).isdecimal():
            raise InputError(f"{where}: size must be a number of bytes, got {size!r}")
    state = table["state"] if "state" in table else pd.Series([None] * len(table), dtype=object)
    return table[list(_NEEDED)].assign(
        md5=table["md5"].str.lower(), size=table["size"].astype("int64"), state=state
    )


def check_manifest(manifest: pd.DataFrame, folder: str | Path, *, md5: bool = False) -> ManifestReport:
    """Look for every file of a manifest as ``folder/<id>/<filename>`` or ``folder/<filename>``.

    Parameters
    ----------
    manifest
        From :func:`read_manifest`. Not changed.
    md5
        Also read every file of the right size and compare its MD5.

    Raises
    ------
    InputError
        No such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder")
    found: dict[str, Path] = {}
    wrong: dict[str, list[str]] = {"missing": [], "wrong_size": [], "wrong_hash": []}
    named: set[Path] = set()
    for row in manifest.drop_duplicates(["id", "filename"]).itertuples(index=False):
        key = f"{row.id}/{row.filename}"
        nested, flat = root / key, root / str(row.filename)
        path = nested if nested.is_file() else flat
        if not path.is_file():
            wrong["missing"].append(key)
            continue
        named.add(path)
        if path.stat().st_size != row.size:
            wrong["wrong_size"].append(key)
        elif md5 and _md5(path) != row.md5:
            wrong["wrong_hash"].append(key)
        else:
            found[key] = path
    slides = (path for path in root.rglob("*") if path.suffix.lower() in SLIDE_SUFFIXES and path.is_file())
    return ManifestReport(
        found=found,
        **{code: tuple(sorted(names)) for code, names in wrong.items()},
        extra=tuple(sorted(str(path.relative_to(root)) for path in slides if path not in named)),
        duplicate_uuids=_twice(map(str, manifest["id"])),
        duplicate_barcodes=_twice(_barcodes(manifest["filename"])),
        hashed=md5,
    )


def _barcodes(names: Iterable[str]) -> list[str]:
    codes = []
    for name in names:
        try:
            codes.append(parse_barcode(name).slide_id)
        except InputError:  # files of other collections have no barcode to stand twice
            continue
    return codes


def _twice(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, n in Counter(names).items() if n > 1))


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        # what the portal publishes, against damage, not against forgery
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _leaves_folder(name: str) -> bool:
    return "/" in name or "\\" in name or name in (".", "..")
