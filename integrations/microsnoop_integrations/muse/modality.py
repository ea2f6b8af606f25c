"""One modality of the cells, as the network is fed with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from microsnoop.core.errors import JointError


@dataclass(frozen=True)
class Modality:
    """Values of n cells, dense or CSR; rows of CSR become dense a batch at a time.

    Attributes
    ----------
    name
        As messages call it.
    values
        (n, f) float32, finite.
    masked
        Zeros say nothing and do not count in the reconstruction (counts); then no value may be negative.
    weight
        Of its reconstruction.
    """

    name: str
    values: Any
    masked: bool = False
    weight: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and features."""
        return self.values.shape

    def rows(self, index: NDArray[np.int64] | slice) -> Tensor:
        """Return some rows, dense, (m, f)."""
        part = self.values[index]
        # a copy: a slice may be a view of the caller's array, perhaps a read-only one
        return torch.tensor(part.toarray() if sparse.issparse(part) else part)


def modality(name: str, values: Any, *, masked: bool = False, weight: float = 1.0) -> Modality:
    """Check (n, f) values and return them as float32, dense or CSR.

    Raises
    ------
    JointError
        ``not_finite``, or ``negative_input`` where ``masked`` (sign(x) is the mask of the loss).
    ValueError
        Not a matrix, or a negative weight.
    """
    if len(np.shape(values)) != 2:
        raise ValueError(f"{name} must be a matrix (cells, features), got shape {np.shape(values)}")
    if weight < 0:
        raise ValueError(f"the weight of {name} must not be negative, got {weight}")
    if sparse.issparse(values):
        table: Any = values.tocsr().astype(np.float32)
        entries = table.data
    else:
        table = entries = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(entries).all():
        raise JointError(
            "not_finite",
            f"{name}: {int((~np.isfinite(entries)).sum())} values are NaN or infinite",
            hint="leave these cells out, or find out why they have no values",
        )
    if masked and entries.size and entries.min() < 0:
        raise JointError(
            "negative_input",
            f"{name}: values go down to {entries.min():g}; is this a scaled matrix or principal components?",
            hint="give counts or their logarithm: zero must mean that nothing was seen",
        )
    return Modality(name, table, masked, weight)
