"""Count, means and co-moments of rows that come in blocks: covariances of matrices that are never in memory whole.

Source: batch spec, section 12; the pairwise merge is that of Chan, Golub and LeVeque (1979).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_BLOCK_NUMBERS = 2**22  # float64 copies are made of so many numbers at a time


class Moments:
    """Count, mean and co-moments ``Σ (x - mean)(x - mean)ᵀ`` of all rows fed so far.

    Every block is centred on its own mean before it is multiplied, and blocks are merged by the difference of
    their means. A sum of squares would lose all digits where means are large and spreads small.

    Attributes
    ----------
    count
        Number of rows.
    mean
        (d,) float64; zeros before the first row.
    comoments
        (d, d) float64, symmetric.
    """

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(width)
        self.comoments: NDArray[np.float64] = np.zeros((width, width))

    @property
    def width(self) -> int:
        """Number of features d."""
        return len(self.mean)

    def add(self, rows: NDArray[Any]) -> Self:
        """Take in rows (m, d), m may be 0; returns itself. The rows are not changed.

        Raises
        ------
        ValueError
            Rows of another shape, or values that are not finite.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            raise ValueError(f"rows must be (m, {self.width}), got shape {rows.shape}")
        step = max(1, _BLOCK_NUMBERS // self.width)
        for start in range(0, len(rows), step):
            block = rows[start : start + step].astype(np.float64)
            mean = block.mean(axis=0)
            if not np.isfinite(mean).all():
                raise ValueError(f"rows {start} to {start + len(block) - 1}: some values are not finite")
            block -= mean
            self._join(len(block), mean, block.T @ block)
        return self

    def merge(self, other: Moments) -> Self:
        """Take in all that ``other`` has seen; returns itself. ``other`` is not changed."""
        if other.width != self.width:
            raise ValueError(f"moments of {self.width} features cannot take in those of {other.width}")
        self._join(other.count, other.mean, other.comoments)
        return self

    def covariance(self, ddof: int = 1) -> NDArray[np.float64]:
        """Return the covariance (d, d), divisor ``count - ddof``.

        Raises
        ------
        ValueError
            Not more rows than ``ddof``.
        """
        if self.count <= ddof:
            raise ValueError(f"a covariance with ddof {ddof} needs more rows than {self.count}")
        return self.comoments / (self.count - ddof)

    def about(self, centre: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``Σ (x - centre)(x - centre)ᵀ`` (d, d) for any centre (d,)."""
        shift = self.mean - centre
        return self.comoments + self.count * np.outer(shift, shift)

    def _join(self, count: int, mean: NDArray[np.float64], comoments: NDArray[np.float64]) -> None:
        total = self.count + count
        if count == 0:
            return
        shift = mean - self.mean
        # new arrays, not `+=`: what a caller read from here earlier stays what it was
        self.comoments = self.comoments + comoments
        if self.count:
            self.comoments += np.outer(shift, shift) * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total
