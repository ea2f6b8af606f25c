"""Features of new cells, brought to those a model was trained with: by name, in the order of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from microsnoop.core.errors import JointError
from microsnoop.correction.rows import named


def take_features(
    values: Any, names: Sequence[str], *, needed: Sequence[str], what: str, fill_zero: bool = False
) -> tuple[Any, list[str]]:
    """Return the columns that a model needs, and which of them were not there.

    Another order is refused although names would tell the columns apart: where it differs, names may have been
    given to the wrong columns. Source: multimodal spec, section 9.

    Parameters
    ----------
    values
        (m, any), dense or CSR. Not changed.
    names
        Of its columns, each once.
    needed
        Names of the columns wanted, in the order of training.
    what
        What they are, for messages: ``genes``.
    fill_zero
        Columns that are not there are zero.

    Returns
    -------
    (m, len(needed)) of the same kind and dtype, and the names that were not there.

    Raises
    ------
    JointError
        ``feature_mismatch``: some are missing (unless ``fill_zero``), or stand in another order.
    """
    place = pd.Index(names).get_indexer(pd.Index(needed))
    missing = [name for name, at in zip(needed, place, strict=True) if at < 0]
    if missing and (not fill_zero or len(missing) == len(needed)):
        raise JointError(
            "feature_mismatch",
            f"{len(missing)} of {len(needed)} {what} of the training cells are missing: {named(missing)}",
            hint="the same ones are needed; some may be taken for zero with fill_zero=True, never all",
        )
    there = place[place >= 0]
    if (np.diff(there) < 0).any():
        first = needed[int(np.flatnonzero(place >= 0)[int(np.argmax(np.diff(there) < 0)) + 1])]
        raise JointError(
            "feature_mismatch",
            f"the {what} stand in another order than in the training cells, the first of them {first!r}",
            hint="if the names are right, bring the columns into the order of training by name",
        )
    if not missing:
        return values[:, there], missing
    columns = np.flatnonzero(place >= 0)
    shape = (values.shape[0], len(needed))
    if sparse.issparse(values):
        part = values[:, there].tocoo()
        return sparse.csr_matrix((part.data, (part.row, columns[part.col])), shape=shape), missing
    filled = np.zeros(shape, values.dtype)
    filled[:, columns] = values[:, there]
    return filled, missing
