"""Bags of many slides made in one way, in memory or on disk. Source: slides spec, section 6."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.bag import BAG_SUFFIX, HEADER_KEYS, read_header
from microsnoop_integrations.tcga.bag import Bag as Bag
from microsnoop_integrations.tcga.bag import read_bag as read_bag
from microsnoop_integrations.tcga.bag import write_bag as write_bag

_SHARED = ("encoder", "tiling", "mask")  # what all bags of a set must have been made with


@dataclass
class BagSet:
    """Bags of many slides made in one way, in memory or on disk; files are opened when they are needed.

    A set is cheap to send to another process: what it has opened stays behind.

    Parameters
    ----------
    sources
        Slide id: its bag, or the file that holds it.
    scratch
        A folder for the features of bags on disk as plain arrays, which are then mapped and read tile by tile;
        without it every use of a bag on disk reads all of it.
    """

    sources: dict[str, Bag | Path]
    scratch: Path | None = None
    shared: dict[str, Any] = field(init=False)
    width: int = field(init=False)
    _mapped: dict[str, NDArray[np.float32]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("a set of bags needs at least one")
        heads = {slide: _summary(source) for slide, source in self.sources.items()}
        first = next(iter(heads))
        for slide, (header, width) in heads.items():
            for key in _SHARED:
                _refuse_mixed(key, first, heads[first][0][key], other=slide, theirs=header[key])
            _refuse_mixed("number of features", first, heads[first][1], other=slide, theirs=width)
        self.shared, self.width = {key: heads[first][0][key] for key in _SHARED}, heads[first][1]

    @classmethod
    def of(cls, bags: Iterable[Bag]) -> BagSet:
        """Make a set of bags in memory.

        Raises
        ------
        InputError
            A slide twice, none, or ``mixed_bags``: made with another encoder, tiling, mask or number of features.
        """
        sources: dict[str, Bag | Path] = {}
        for bag in bags:
            if bag.slide_id in sources:
                raise InputError(f"the slide {bag.slide_id!r} has two bags")
            sources[bag.slide_id] = bag
        return cls(sources)

    @classmethod
    def read(cls, folder: str | Path, *, scratch: str | Path | None = None) -> BagSet:
        """Open all bag files of a folder, sorted by slide; features are read later.

        Raises
        ------
        InputError
            No bag, a damaged one, a slide twice, or ``mixed_bags``.
        """
        sources: dict[str, Bag | Path] = {}
        for path in sorted(Path(folder).glob(f"*{BAG_SUFFIX}")):
            slide = str(read_header(path)["slide_id"])
            if slide in sources:
                raise InputError(f"the slide {slide!r} has two bags: {sources[slide]} and {path}")
            sources[slide] = path
        if not sources:
            raise InputError(f"{folder} holds no bag (*{BAG_SUFFIX})")
        return cls(dict(sorted(sources.items())), Path(scratch) if scratch is not None else None)

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self.sources

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}}

    def bag(self, slide_id: str) -> Bag:
        """Return the bag of a slide, read whole where it is on disk."""
        source = self._source(slide_id)
        return source if isinstance(source, Bag) else read_bag(source)

    def features(self, slide_id: str) -> NDArray[np.float32]:
        """Return (n, F) float32 of a slide, not to be changed; mapped where there is a scratch folder."""
        source = self._source(slide_id)
        if isinstance(source, Bag):
            return source.features
        if self.scratch is None:
            return read_bag(source).features
        if slide_id not in self._mapped:
            self._mapped[slide_id] = _mapped(source, self.scratch)
        return self._mapped[slide_id]

    def write(self, folder: str | Path, *, dtype: Literal["float32", "float16"] = "float32") -> list[Path]:
        """Write every bag; see :func:`write_bag`."""
        return [write_bag(self.bag(slide), folder, dtype=dtype) for slide in self]

    def _source(self, slide_id: str) -> Bag | Path:
        if slide_id not in self.sources:
            raise InputError(f"there is no bag of the slide {slide_id!r}")
        return self.sources[slide_id]


def _summary(source: Bag | Path) -> tuple[Mapping[str, Any], int]:
    if isinstance(source, Bag):
        return source.header, source.features.shape[1]
    header = read_header(source)
    if missing := [key for key in HEADER_KEYS if key not in header]:
        raise InputError(f"{source}: the header of the bag lacks {', '.join(missing)}")
    return header, int(pq.read_schema(source).field("features").type.list_size)


def _refuse_mixed(what: str, slide: str, ours: Any, *, other: str, theirs: Any) -> None:
    if ours != theirs:
        raise InputError(
            f"mixed_bags: the {what} of {other!r} is {theirs}, that of {slide!r} is {ours}",
            hint="embed all slides with the same settings",
        )


def _mapped(source: Path, scratch: Path) -> NDArray[np.float32]:
    status = source.stat()
    # a bag that is written anew gets a new copy
    copy = scratch / f"{source.name}.{status.st_size}.{status.st_mtime_ns}.npy"
    if not copy.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        partial = copy.with_suffix(".partial.npy")
        np.save(partial, read_bag(source).features)
        partial.replace(copy)
    return np.load(copy, mmap_mode="r")
