"""How far a run is, and what it did in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far a run is; ``rows_per_s`` leaves the start-up out."""

    images_done: float
    images_total: int
    computed: int
    rejected: int
    written: int
    rows_per_s: float
    seconds_left: float | None


@dataclass
class Summary:
    """What a run did. ``expected = written + rejected`` holds when ``complete``."""

    run_dir: str
    status: str = "running"
    images: int = 0
    expected: int = 0
    written: int = 0
    rejected: int = 0
    rejected_by_code: dict[str, int] = field(default_factory=dict)
    images_rejected: int = 0
    computed: int = 0
    seconds: float = 0.0
    rows_per_s: float = 0.0
    planes_per_s: float = 0.0
    constant_plane_fraction: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every expected row is written or rejected."""
        return self.status == "complete"


Reporter = Callable[[Progress], None]


class RateClock:
    """Rows per second with the start-up left out: counted from the arrival of the first block."""

    def __init__(self) -> None:
        self.rows = 0
        self._first = self._last = 0.0
        self._first_rows = 0

    def add(self, rows: int) -> None:
        """Count rows that have just arrived."""
        self._last = time.monotonic()
        if self.rows == 0:
            self._first, self._first_rows = self._last, rows
        self.rows += rows

    @property
    def rows_per_s(self) -> float:
        """The rate so far; 0 until the second block has come."""
        later = self.rows - self._first_rows
        return later / max(1e-9, self._last - self._first) if later else 0.0
