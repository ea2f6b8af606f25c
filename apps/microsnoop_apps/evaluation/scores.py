"""Judge every source of one set on the same rows and folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.evaluate_config import EvaluateConfig, variant_file
from microsnoop.io.labelled import LabelledRows
from microsnoop.ops.classify import (
    Predictions,
    chance_folds,
    knn_folds,
    knn_left_out,
    make_folds,
    probe_folds,
    rare_classes,
)
from microsnoop.ops.intervals import Comparison, Interval, compare, score_intervals
from microsnoop.ops.metrics import Scores, confusion_matrix, scores
from microsnoop_apps.evaluation.sources import Source

KNN, PROBE, CHANCE = "knn", "logistic", "chance"
FOLDS, LEFT_OUT = "folds", "left-out"
_MISSING = "not embedded by every encoder"
_EMPTY = "without any embedded cell or tile"


@dataclass(frozen=True)
class Judged:
    """One source (or a kind of chance) under one classifier, folded or left out, with all its scores.

    ``embedding`` is the variant of the recipe that was embedded, empty where there are none.
    """

    name: str
    embedding: str
    sha256: str
    trained: bool
    classifier: str
    level: str
    predictions: Predictions
    confusion: NDArray[np.int64]
    scores: Scores
    intervals: dict[str, Interval]
    accuracy_sd: float  # over folds, n - 1; not a number where there are none

    @property
    def signature(self) -> str:
        """Name and first 12 digits of the weights' SHA-256."""
        return self.name if self.classifier == CHANCE else f"{self.name} ({self.sha256[:12] or 'no weights'})"

    @property
    def file_name(self) -> str:
        """Name as it stands in file names; an encoder's own name is left as it is."""
        encoder = self.name.removesuffix(f", {self.embedding}")
        return f"{encoder}-{variant_file(self.embedding)}" if self.embedding else encoder


@dataclass(frozen=True)
class SetScores:
    """Everything that is known of one set: rows, classes, folds, and every judgement on them."""

    name: str
    recipe: EvaluateConfig
    rows: LabelledRows
    classes: tuple[str, ...]
    truth: NDArray[np.int64]
    fold: NDArray[np.int64]
    judged: tuple[Judged, ...]
    comparisons: tuple[tuple[str, str, str, Comparison], ...]  # classifier, encoder, the other, result
    tested: tuple[str, ...]
    rejected: dict[str, dict[str, int]]
    notes: tuple[str, ...]

    def find(self, name: str, classifier: str, level: str = FOLDS) -> Judged:
        """Return one judgement."""
        return next(j for j in self.judged if (j.name, j.classifier, j.level) == (name, classifier, level))

    @property
    def names(self) -> list[str]:
        """Sources in the order they were given."""
        return list(dict.fromkeys(j.name for j in self.judged if j.classifier != CHANCE))


def score_set(
    name: str, recipe: EvaluateConfig, rows: LabelledRows, sources: Sequence[Source], *, tested: Sequence[str]
) -> SetScores:
    """Score all sources on the rows that every one of them has; images without any cell have none.

    Raises
    ------
    InputError
        Fewer than two classes or fewer groups than folds are left.
    """
    wanted = rows
    known = rows.keep(
        set.intersection(*({*source.ids, *source.empty} for source in sources)), reason=_MISSING
    )
    rows = known.keep(set(known.ids).difference(*(source.empty for source in sources)), reason=_EMPTY)
    classes, truth = np.unique(np.array(rows.classes, str), return_inverse=True)
    groups = None if rows.groups is None else np.unique(np.array(rows.groups, str), return_inverse=True)[1]
    try:
        fold = make_folds(truth, groups, folds=recipe.folds, seed=recipe.seed)
    except ValueError as error:
        raise InputError(f"the set {name!r} cannot be scored: {error}") from error
    scorer = _Scorer(recipe, truth, fold, groups, len(classes))
    judged = [one for source in sources for one in scorer.judge(source, rows)]
    judged += list(scorer.chance())
    comparisons = [
        (classifier, a, b, scorer.compare(judged, classifier, a, b))
        for classifier in (KNN, PROBE)
        for a, b in _pairs(sources, tested)
    ]
    return SetScores(
        name=name,
        recipe=recipe,
        rows=rows,
        classes=tuple(map(str, classes)),
        truth=truth,
        fold=fold,
        judged=tuple(judged),
        comparisons=tuple(comparisons),
        tested=tuple(tested),
        rejected={source.name: source.rejected_by_code for source in sources if source.rejected},
        notes=(
            *(source.note for source in sources if source.note),
            *_lost(wanted, known, rows),
            *_notes(truth, fold, classes),
        ),
    )


def _pairs(sources: Sequence[Source], tested: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield who is compared with whom: encoders by their first variants, a further variant with its first."""
    first: dict[str, str] = {}
    for source in sources:
        first.setdefault(source.encoder, source.name)
    for a in sources:
        if a.name not in tested:
            continue
        if a.name != first[a.encoder]:
            yield a.name, first[a.encoder]
        else:
            yield from ((a.name, b) for b in first.values() if b != a.name)


class _Scorer:
    """What is the same for every source of a set."""

    def __init__(
        self,
        recipe: EvaluateConfig,
        truth: NDArray[np.int64],
        fold: NDArray[np.int64],
        groups: NDArray[np.int64] | None,
        n_classes: int,
    ) -> None:
        self._recipe, self._truth, self._fold = recipe, truth, fold
        self._groups, self._n_classes = groups, n_classes

    def judge(self, source: Source, rows: LabelledRows) -> Iterator[Judged]:
        """Yield kNN in folds, kNN left out, and the probe."""
        x, truth, n = source.rows(rows.ids), self._truth, self._n_classes
        shared = {"n_classes": n, "groups": self._groups, "k": self._recipe.k, "scaled": source.scaled}
        try:
            folded = knn_folds(x, truth, fold=self._fold, **shared)  # type: ignore[arg-type]
            left_out = knn_left_out(x, truth, permutations=200, seed=self._recipe.seed, **shared)  # type: ignore[arg-type]
        except ValueError as error:
            raise InputError(f"{source.name}: {error}") from error
        probe = probe_folds(x, truth, fold=self._fold)
        for classifier, level, predictions in (
            (KNN, FOLDS, folded),
            (KNN, LEFT_OUT, left_out),
            (PROBE, FOLDS, probe),
        ):
            yield self._judged(source, classifier, level, predictions)

    def chance(self) -> Iterator[Judged]:
        """Yield what is reached without looking at anything."""
        for name, strategy in (("chance: majority", "most_frequent"), ("chance: stratified", "stratified")):
            found = chance_folds(self._truth, fold=self._fold, strategy=strategy, seed=self._recipe.seed)  # type: ignore[arg-type]
            yield self._judged(name, CHANCE, FOLDS, found)

    def compare(self, judged: Sequence[Judged], classifier: str, a: str, b: str) -> Comparison:
        """Compare two sources row by row."""
        right = {
            j.name: j.predictions.classes == self._truth
            for j in judged
            if j.classifier == classifier and j.level == FOLDS
        }
        return compare(right[a], right[b], groups=self._groups, seed=self._recipe.seed)

    def _judged(self, source: Source | str, classifier: str, level: str, found: Predictions) -> Judged:
        """Score predictions of a source, or of a kind of chance."""
        by = source if isinstance(source, Source) else None
        confusion = confusion_matrix(self._truth, found.classes, n_classes=self._n_classes)
        right = found.classes == self._truth
        folds = [float(right[self._fold == f].mean()) for f in range(self._recipe.folds)]
        return Judged(
            name=str(source) if by is None else by.name,
            embedding="" if by is None else by.embedding,
            sha256="" if by is None else by.sha256,
            trained=by is not None and by.trained,
            classifier=classifier,
            level=level,
            predictions=found,
            confusion=confusion,
            scores=scores(confusion),
            intervals=score_intervals(
                self._truth,
                found.classes,
                n_classes=self._n_classes,
                groups=self._groups,
                seed=self._recipe.seed,
            ),
            accuracy_sd=float(np.std(folds, ddof=1)) if level == FOLDS else float("nan"),
        )


def _lost(wanted: LabelledRows, known: LabelledRows, rows: LabelledRows) -> Iterator[str]:
    """Say from which classes images without any cell or tile were left out, and which classes are gone."""
    empty = Counter(known.classes) - Counter(rows.classes)
    if empty:
        yield f"left out {_EMPTY}: {', '.join(f'{name} {n:,}' for name, n in sorted(empty.items()))}"
    gone = sorted(set(wanted.classes) - set(rows.classes))
    if gone:
        yield f"no row is left of {', '.join(gone)}"


def _notes(truth: NDArray[np.int64], fold: NDArray[np.int64], classes: NDArray[np.str_]) -> Iterator[str]:
    few, absent = rare_classes(truth, fold)
    if few:
        yield f"fewer rows than folds in {', '.join(classes[few])}: some folds do not test them"
    if absent:
        yield f"all rows of {', '.join(classes[absent])} are in one fold: they can never be recognised"
