from __future__ import annotations

import io
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from microsnoop.core.config import InputConfig
from microsnoop.core.schema import cell_id, result_schema
from microsnoop.io import images
from microsnoop.io.images import Image, ImageReader, ImageSource, read_image
from microsnoop.io.manifest import read_records
from microsnoop.io.opener import open_binary
from microsnoop.io.store import RunStore, row_key
from microsnoop.io.writer import RunWriter

NOBODY = 65534
CHANNELS, DIM, PROCESSING_KEY = ["c0", "c1"], 4, "processing"


class CountingStream(io.RawIOBase):
    """A file that remembers which bytes were read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.n_bytes = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        got = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self.n_bytes += got
        return int(got)

    def close(self) -> None:
        self._stream.close()
        super().close()


@pytest.fixture
def planes() -> Callable[..., NDArray]:
    """Random planes (C, 96, 128) that use the whole range of their dtype; no pixel is 0."""

    def make(count: int = 5, dtype: str = "u2", *, seed: int = 0) -> NDArray:
        random = np.random.default_rng(seed)
        kind = np.dtype(dtype)
        if kind.kind == "f":
            return random.normal(-3, 1000, (count, 96, 128)).astype(kind)
        top = np.iinfo(kind).max
        return random.integers(1, top, (count, 96, 128), dtype=kind.newbyteorder("="), endpoint=True).astype(
            kind
        )

    return make


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], str]:
    """Write bytes below tmp_path and return the path as text."""

    def write(name: str, data: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return write


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[CountingStream]:
    """Every file that the image readers open from now on, in order."""
    opened: list[CountingStream] = []

    def counting(uri: str) -> CountingStream:
        opened.append(CountingStream(open_binary(uri)))
        return opened[-1]

    monkeypatch.setattr(images, "open_binary", counting)
    return opened


@pytest.fixture
def read_index() -> Callable[..., Image]:
    def read(path: str | Path, index: int, **options: Any) -> Image:
        return read_image(ImageSource((str(path),), index=index), **options)

    return read


@pytest.fixture
def read_quietly() -> Callable[..., Image]:
    """Read as outside the tests, where a warning is no error, and fail if there was one."""

    def read(source: Any, **options: Any) -> Image:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                return read_image(source, **options)
            finally:
                leaked = [w for w in caught if not issubclass(w.category, ResourceWarning)]
                if leaked:
                    pytest.fail(f"a decoder leaked the warning {leaked[0].message!r}")

    return read


@pytest.fixture
def records_of() -> Callable[..., list[dict[str, Any]]]:
    def rows(**settings: Any) -> list[dict[str, Any]]:
        return read_records(InputConfig(**settings)).records.to_pylist()

    return rows


@pytest.fixture
def as_nobody() -> Callable[[], Any]:
    """Inside ``with as_nobody():`` root has the rights of an ordinary user."""

    @contextmanager
    def drop() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    return drop


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody may enter (pytest's own may only be entered by its owner)."""
    folder = Path(tempfile.mkdtemp(prefix="microsnoop-test-"))
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def result_rows() -> Callable[..., pa.Table]:
    """Rows of ``schema.result_schema`` for records: one a record, or one a box; some of them rejected."""

    def make(
        records: pa.Table, *, rejected: tuple[str, ...] = (), processing_key: str = PROCESSING_KEY
    ) -> pa.Table:
        rows = []
        for record in records.to_pylist():
            boxes = record.get("boxes")
            for i, box in enumerate([None] if boxes is None else boxes):
                label = None if box is None else box["label"]
                obs_id = record["image_id"] if label is None else cell_id(record["image_id"], label)
                window = (
                    (0, 0, 96, 128)
                    if box is None
                    else (box["y0_px"], box["x0_px"], box["height_px"], box["width_px"])
                )
                bad = obs_id in rejected
                rows.append(
                    {
                        "obs_id": obs_id,
                        "parent_id": obs_id,
                        "image_id": record["image_id"],
                        "kind": "image" if label is None else "cell",
                        "label": label,
                        "sample_index": i,
                        "n_samples": 1 if boxes is None else len(boxes),
                        **dict(zip(("y0_px", "x0_px", "height_px", "width_px"), window, strict=True)),
                        "uris": record["uris"],
                        "flags": [],
                        "row_key": row_key(record["record_key"], window, processing_key),
                        "vectors": None if bad else np.arange(len(CHANNELS) * DIM, dtype="f4"),
                        "stage": "read" if bad else None,
                        "code": "decode_error" if bad else None,
                        "message": "broken" if bad else None,
                    }
                )
        return pa.Table.from_pylist(rows, schema=result_schema(len(CHANNELS) * DIM))

    return make


@pytest.fixture
def records(tmp_path: Path) -> pa.Table:
    """An input list of seven files, in tmp_path/in."""
    (tmp_path / "in").mkdir()
    for i in range(7):
        (tmp_path / "in" / f"{i}.png").write_bytes(b"x")
    return read_records(InputConfig(folder=str(tmp_path / "in"))).records


@pytest.fixture
def begin_run(tmp_path: Path) -> Callable[..., RunStore]:
    """Make a run directory that knows its inputs and settings and has no rows yet."""

    def begin(records: pa.Table, name: str = "run") -> RunStore:
        store = RunStore(tmp_path / name)
        store.create()
        store.write_inputs(records, None)
        store.write_info({"identity": {"channels": CHANNELS, "dim": DIM, "processing_key": PROCESSING_KEY}})
        return store

    return begin


@pytest.fixture
def writer_of() -> Callable[..., RunWriter]:
    def make(store: RunStore, *, rows_per_part: int = 1000, flush_seconds: float = 1e9) -> RunWriter:
        return RunWriter(
            store, channels=CHANNELS, dim=DIM, rows_per_part=rows_per_part, flush_seconds=flush_seconds
        )

    return make


@pytest.fixture
def reader() -> Iterator[ImageReader]:
    with ImageReader() as opened:
        yield opened
