"""Does the nearest other treatment share the label? Not same compound (NSC), nor same batch (NSCB).

Source: evaluation spec, sections 3 and 4. One vector a treatment (or a well); who may be chosen for whom is a matrix
of booleans, made here for each published rule, so that a score names its rule and two rules never get mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from microsnoop.ops.average_precision import unit_rows
from microsnoop.ops.intervals import Interval, Null, permutation_null, wilson

Rule = Literal["nsc", "string", "any_different", "disjoint"]

_BLOCK_PAIRS = 2**21  # pairs of treatments compared at once
_BLOCK_NUMBERS = 2**21  # numbers of vectors compared once more, in float64, at once
_DIGITS = 12  # similarities that agree to so many digits are equal, as in ops/knn.py
_FLOAT32_ERROR = 1e-5  # of a dot product of two unit vectors, generously


@dataclass(frozen=True)
class TreatmentScore:
    """How many treatments get the label of their nearest allowed other: ``correct`` of ``n``.

    ``n`` counts treatments with at least one allowed candidate; the others are listed in ``no_candidate``.
    ``unwinnable`` are those within ``n`` that have candidates, but none of their own label: they are wrong for
    any vectors. ``predicted`` and ``nearest`` (label and row of the nearest, int64 (t,)) are -1 where there is no
    candidate. ``median_candidates`` is over all treatments, the 0 of those without included. ``interval`` is
    Wilson's; ``null`` is None for fewer than six compounds.
    """

    correct: int
    n: int
    no_candidate: NDArray[np.int64]
    unwinnable: NDArray[np.int64]
    median_candidates: float
    predicted: NDArray[np.int64]
    nearest: NDArray[np.int64]
    interval: Interval
    null: Null | None

    @property
    def score(self) -> float:
        """The share that is correct; not a number where no treatment has a candidate."""
        return self.correct / self.n if self.n else float("nan")

    @property
    def n_no_candidate(self) -> int:
        """How many treatments were left out because nothing may be chosen for them."""
        return len(self.no_candidate)

    @property
    def n_unwinnable(self) -> int:
        """How many of ``n`` can never be right."""
        return len(self.unwinnable)


def allowed_pairs(
    compounds: NDArray[np.int64], batch_sets: Sequence[frozenset[str]] | None, *, rule: Rule
) -> NDArray[np.bool_]:
    """Say which treatment may be chosen for which: bool (t, t), row i the query, column j the candidate.

    Never one of the same compound. Beyond that, with B the batches of a treatment: ``nsc`` allows all, ``string``
    where B_i and B_j differ (sorted and joined names would), ``any_different`` where B_j has a member outside B_i
    (which is not symmetric), ``disjoint`` where they share nothing. Each allows a part of what the one before does.

    Parameters
    ----------
    compounds
        Codes int64 (t,), at least 0.
    batch_sets
        Batches of each treatment, none empty; ``nsc`` does not look at them.

    Raises
    ------
    ValueError
        An unknown rule, a compound that is missing, or, for a rule about batches, treatments without a batch
        (named by row) or fewer than two batches.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"unknown rule {rule!r}; choose one of {', '.join(get_args(Rule))}")
    _check_codes(compounds, "compound", len(compounds))
    allowed = np.asarray(compounds[:, None] != compounds[None, :])
    if rule == "nsc":
        return allowed
    if batch_sets is None or len(batch_sets) != len(compounds):
        found = "none" if batch_sets is None else str(len(batch_sets))
        raise ValueError(f"rule {rule!r} needs the batches of {len(compounds)} treatments, got {found}")
    kinds, kind = _kinds_of_sets(batch_sets)
    apart = _batches_apart(kinds, rule)
    allowed &= apart[kind[:, None], kind[None, :]]
    return allowed


def allowed_wells(
    compounds: NDArray[np.int64], batches: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Say which well may be chosen for which under ``well_nscb`` (the style of uniDINO): bool (t, t).

    Excluded are wells of the same compound, and wells of the same batch only where their label is the query's:
    a wrong label from the own batch may still be chosen. All codes int64 (t,), at least 0.

    Raises
    ------
    ValueError
        A code that is missing, or lengths that differ.
    """
    for codes, what in ((compounds, "compound"), (batches, "batch"), (labels, "label")):
        _check_codes(codes, what, len(compounds))
    own = np.asarray(batches[:, None] == batches[None, :])
    own &= labels[:, None] == labels[None, :]
    own |= compounds[:, None] == compounds[None, :]
    return np.asarray(~own)


def nearest_allowed(vectors: NDArray[Any], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the allowed row of the largest cosine similarity for each row, int64 (t,); -1 where none is allowed.

    Searched in float32, decided in float64 to 12 digits; of equals the lowest row.

    Parameters
    ----------
    vectors
        (t, d), finite, no row of zeros; their lengths do not matter. Not changed.
    allowed
        bool (t, t), row i the query. A row may be allowed for itself only on purpose.

    Raises
    ------
    ValueError
        Bad vectors, named by row, or a matrix of another shape.
    """
    unit = unit_rows(vectors)
    t = len(unit)
    _check_allowed(allowed, t)
    rough_unit = unit.astype(np.float32)
    nearest = np.full(t, -1, np.int64)
    for rows in _blocks(t):
        rough = rough_unit[rows] @ rough_unit.T
        rough[~allowed[rows]] = -np.inf
        best = rough.max(axis=1, initial=-np.inf)
        # whatever float32 could have put behind the best by mistake is compared again
        query, candidate = np.nonzero(rough >= (best - np.float32(_FLOAT32_ERROR))[:, None])
        some = np.isfinite(best)[query]
        query, candidate = query[some], candidate[some]
        similarity = _exact(unit, query + rows.start, candidate)
        order = np.lexsort((candidate, -similarity, query))
        first = np.unique(query[order], return_index=True)[1]
        nearest[query[order][first] + rows.start] = candidate[order][first]
    return nearest


def score_treatments(
    vectors: NDArray[Any],
    *,
    labels: NDArray[np.int64],
    compounds: NDArray[np.int64],
    allowed: NDArray[np.bool_],
    permutations: int = 200,
    seed: int = 0,
) -> TreatmentScore:
    """Predict each treatment's label from its nearest allowed other, and score it.

    The null permutes labels between compounds. Neighbours depend on vectors and rule alone, so they are found once
    and stay (``well_nscb`` looks at labels as well: there the true ones decide who may be chosen throughout).

    Parameters
    ----------
    vectors
        (t, d), finite, no row of zeros. Not changed. Of equally near treatments the first is taken: sort the
        table, so that "first" means the same in every run.
    labels, compounds
        Codes int64 (t,), at least 0: treatments without a label are to be left out, and counted, beforehand.
    allowed
        bool (t, t), from :func:`allowed_pairs` or :func:`allowed_wells`.

    Raises
    ------
    ValueError
        Bad vectors, lengths that differ, codes that are missing, or a compound with more than one label.
    """
    _check_codes(labels, "label", len(vectors))
    _check_codes(compounds, "compound", len(vectors))
    _check_one_label(labels, compounds)
    nearest = nearest_allowed(vectors, allowed)
    has = nearest >= 0
    predicted = np.where(has, labels[nearest], -1)
    correct, n = int((predicted == labels).sum()), int(has.sum())

    def share(truth: NDArray[np.int64]) -> float:
        return float((truth[nearest[has]] == truth[has]).mean())

    null = None
    if n and permutations:
        units = np.unique(compounds, return_inverse=True)[1]
        null = permutation_null(share, labels, groups=units, permutations=permutations, seed=seed)
    return TreatmentScore(
        correct,
        n,
        np.flatnonzero(~has),
        np.flatnonzero(has & ~_winnable(labels, allowed)),
        float(np.median(allowed.sum(axis=1))) if len(vectors) else float("nan"),
        predicted,
        nearest,
        wilson(correct, n),
        null,
    )


def classes_without_candidate(labels: NDArray[np.int64], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the labels none of whose treatments may choose one of its own label: ascending, int64 (c,).

    These can only lose under the rule; they stay in the score unless the reader excludes them by name.
    """
    _check_codes(labels, "label", len(labels))
    _check_allowed(allowed, len(labels))
    return np.setdiff1d(labels, labels[_winnable(labels, allowed)])


def _check_codes(codes: NDArray[np.int64], what: str, t: int) -> None:
    if codes.shape != (t,):
        raise ValueError(f"each of {t} treatments needs a {what}, got {codes.shape}")
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {t} treatments have no {what}, rows {missing[:10].tolist()}: leave them out"
        )


def _check_allowed(allowed: NDArray[np.bool_], t: int) -> None:
    if allowed.shape != (t, t) or allowed.dtype != np.bool_:
        raise ValueError(f"allowed must be bool {(t, t)}, got {allowed.dtype} {allowed.shape}")


def _check_one_label(labels: NDArray[np.int64], compounds: NDArray[np.int64]) -> None:
    units, first, unit = np.unique(compounds, return_index=True, return_inverse=True)
    other = np.flatnonzero(labels != labels[first][unit])
    if len(other):
        named = units[np.unique(unit[other])]
        raise ValueError(
            f"{len(named)} of {len(units)} compounds have more than one label, compounds "
            f"{named[:10].tolist()} (first at rows {first[unit[other[0]]]} and {other[0]}): give each compound one"
        )


def _kinds_of_sets(batch_sets: Sequence[frozenset[str]]) -> tuple[list[frozenset[str]], NDArray[np.int64]]:
    """Return the distinct sets, and which of them each treatment has, int64 (t,)."""
    empty = [row for row, batches in enumerate(batch_sets) if not batches]
    if empty:
        raise ValueError(f"{len(empty)} of {len(batch_sets)} treatments have no batch, rows {empty[:10]}")
    number = {batches: at for at, batches in enumerate(dict.fromkeys(batch_sets))}
    if len(frozenset().union(*number)) < 2:
        raise ValueError("a rule about batches needs at least two batches")
    return list(number), np.array([number[batches] for batches in batch_sets], np.int64)


def _batches_apart(kinds: list[frozenset[str]], rule: Rule) -> NDArray[np.bool_]:
    """Say which of the distinct sets may be chosen for which, bool (k, k)."""
    if rule == "string":
        return ~np.eye(len(kinds), dtype=np.bool_)
    column = {name: at for at, name in enumerate(sorted(frozenset().union(*kinds)))}
    holds = np.zeros((len(kinds), len(column)), np.float32)
    for row, batches in enumerate(kinds):
        holds[row, [column[name] for name in batches]] = 1
    shared = holds @ holds.T
    return np.asarray(shared == 0 if rule == "disjoint" else shared < holds.sum(axis=1)[None, :])


def _blocks(t: int) -> Iterator[slice]:
    step = max(1, _BLOCK_PAIRS // max(1, t))
    for start in range(0, t, step):
        yield slice(start, min(start + step, t))


def _exact(
    unit: NDArray[np.float64], query: NDArray[np.int64], candidate: NDArray[np.int64]
) -> NDArray[np.float64]:
    similarity = np.empty(len(query))
    step = max(1, _BLOCK_NUMBERS // unit.shape[1])
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        similarity[part] = np.einsum("pd,pd->p", unit[query[part]], unit[candidate[part]])
    return np.round(similarity, _DIGITS)


def _winnable(labels: NDArray[np.int64], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Say which treatments may choose one of their own label, bool (t,)."""
    t = len(labels)
    found = np.zeros(t, np.bool_)
    for rows in _blocks(t):
        found[rows] = (allowed[rows] & (labels[rows, None] == labels[None, :])).any(axis=1)
    return found
