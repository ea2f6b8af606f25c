"""What every correction checks of its rows: finite numbers, and columns that say what each row is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError

Obs = Mapping[str, Any]

_NAMED_ROWS = 5


def check_matrix(X: NDArray[Any]) -> NDArray[Any]:
    """Return X as a matrix (n, d) of floats, refusing what is not finite.

    Raises
    ------
    CorrectionError
        ``not_finite``, naming the first rows.
    """
    values = np.asarray(X)
    if values.ndim != 2 or 0 in values.shape:
        raise CorrectionError("bad_shape", f"profiles must be (n, d) and not empty, got shape {values.shape}")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise CorrectionError(
            "not_finite",
            f"{len(wrong)} of {len(values)} rows hold values that are not finite: row {named(wrong.tolist())}",
            hint="leave these rows (or features) out first: correction never guesses a number",
        )
    return values


def is_control(obs: Obs | None, n: int) -> NDArray[np.bool_]:
    """Return which rows are controls; all of them where nothing is said."""
    return np.ones(n, bool) if obs is None else column(obs, "is_control", n).astype(bool)


def column(obs: Obs | None, name: str, n: int) -> NDArray[Any]:
    """Return a column of ``obs``, one value a row.

    Raises
    ------
    CorrectionError
        ``missing_column``: not there, not n long, or empty in some row.
    """
    if obs is None or name not in obs:
        raise CorrectionError(
            "missing_column", f"obs needs the column {name!r}", hint=f"add {name} to the metadata"
        )
    values = np.asarray(obs[name])
    if values.shape != (n,):
        raise CorrectionError(
            "missing_column", f"obs[{name!r}] must have {n} values, got shape {values.shape}"
        )
    if values.dtype == bool:
        return values
    empty = np.array([v is None or v != v for v in values.tolist()])
    if empty.any():
        raise CorrectionError("missing_column", f"obs[{name!r}] is empty in {int(empty.sum())} of {n} rows")
    return values.astype(str) if name != "is_control" else values


def named(values: Sequence[Any]) -> str:
    """Return the first few of some names, and how many more there are."""
    shown = ", ".join(map(str, values[:_NAMED_ROWS]))
    return shown + (f" and {len(values) - _NAMED_ROWS} more" if len(values) > _NAMED_ROWS else "")


def order_by_content(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return an order of rows (n, d) that depends on what stands in them, not on where they stand."""
    whole = np.ascontiguousarray(rows)
    as_bytes = whole.view(np.dtype((np.void, whole.itemsize * whole.shape[1]))).ravel()
    return np.argsort(as_bytes, kind="stable")


def blocks(n: int, step: int = 65_536) -> Iterator[slice]:
    """Cut n rows into slices that are worked on one after the other."""
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def feature_names(features: Sequence[str] | None, width: int) -> list[str]:
    """Return the names of the columns, ``x0, x1, ...`` where none were given."""
    names = [f"x{j}" for j in range(width)] if features is None else [str(name) for name in features]
    if len(names) != width or len(set(names)) < width:
        raise CorrectionError(
            "feature_mismatch", f"{width} different feature names are needed, got {len(set(names))}"
        )
    return names


def hash_ids(obs: Obs | None, control: NDArray[np.bool_]) -> str:
    """Return a SHA-256 of the sorted ids of the control rows; empty without ``obs_id``."""
    if obs is None or "obs_id" not in obs:
        return ""
    ids = sorted(np.asarray(obs["obs_id"]).astype(str)[control].tolist())
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
