"""Cross-validation of attention MIL on bags of tiles: patients apart, everything fitted inside the fold.

Source: slides spec, sections 7 to 11. A fold is a pure function of what it is given, so folds can run anywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop.correction.base import Finding
from microsnoop.models.device import resolve_device
from microsnoop.ops.classify import standardise
from microsnoop_integrations.tcga.bags import BagSet
from microsnoop_integrations.tcga.folds import Folds, check_apart, split_validation
from microsnoop_integrations.tcga.mil_cohort import Cohort, make_cohort, plan_folds
from microsnoop_integrations.tcga.mil_results import Predictions, TileScores, judge_slide, patient_means
from microsnoop_integrations.tcga.mil_scaling import FeatureScaling, slide_means
from microsnoop_integrations.tcga.mil_training import Part, TrainedMil, train
from microsnoop_integrations.tcga.sampling import Stratifier, Weights, sampling_weights

_ITERATIONS = 1_000


@dataclass(frozen=True)
class FoldResult:
    """What one fold says of its test slides: probabilities (n, K) of networks and baseline, tiles, networks."""

    number: int
    rows: NDArray[np.int64]  # of the cohort
    probabilities: NDArray[np.float64]
    baseline: NDArray[np.float64]
    tiles: dict[str, TileScores]
    models: list[TrainedMil]  # best first
    findings: tuple[Finding, ...]


def cross_validate(
    bags: BagSet,
    table: pd.DataFrame,
    *,
    settings: MilSettings,
    folds: Mapping[str, int] | None = None,
) -> Predictions:
    """Predict every slide by networks that were trained on other patients.

    Parameters
    ----------
    bags
        One bag a slide.
    table
        ``slide_id``, ``patient_id`` and the columns that the settings name.
    folds
        Slide: fold, where the caller made them (default: made from the settings).

    Raises
    ------
    InputError
        What cannot be judged honestly: ``leak``, ``patient_conflict``, ``unbalanced_stratum``, too few patients, folds
        of one class.
    ConfigError
        No such device here.
    """
    cohort = make_cohort(bags, table, settings)
    plan = plan_folds(cohort, settings, folds)
    numbers = range(int(plan.fold.max()) + 1)
    return gather(
        cohort,
        plan,
        [fit_fold(bags, cohort, plan, number=n, settings=settings) for n in numbers],
        settings=settings,
    )


def fit_fold(bags: BagSet, cohort: Cohort, plan: Folds, *, number: int, settings: MilSettings) -> FoldResult:
    """Train on all folds but one and predict that; scaling, weights and choice of networks see the training part alone.

    Raises
    ------
    InputError
        As :func:`cross_validate`.
    """
    device = resolve_device(settings.device)
    test, rest = np.flatnonzero(plan.fold == number), np.flatnonzero(plan.fold != number)
    if not plan.leaky:
        check_apart((plan.fold == number).astype(np.int64), cohort.patients, what="patient")
    seed = settings.seed + 1_000 * number
    validates = split_validation(
        cohort.patients[rest],
        cohort.names[rest],
        confounders=_strata(cohort, rest, settings)(rest),
        share=settings.validation,
        seed=seed,
    )
    training, validation = rest[~validates], rest[validates]
    if lacking := sorted(set(cohort.classes) - set(cohort.names[training].tolist())):
        raise InputError(f"the training part of fold {number} lacks class {', '.join(lacking)}")
    strata = _strata(cohort, training, settings)
    weights = sampling_weights(strata(training), cohort.names[training], method=settings.sampling)
    scaling = FeatureScaling.fit(bags, cohort.slides[training].tolist(), settings, seed=seed)
    models = _train_all(
        bags,
        Part(tuple(cohort.slides[training].tolist()), cohort.targets[training], weights),
        Part(
            tuple(cohort.slides[validation].tolist()),
            cohort.targets[validation],
            Weights(weights.of(strata(validation), cohort.names[validation])),
        ),
        scaling=scaling,
        classes=cohort.classes,
        settings=settings,
        seed=seed,
    )
    judged = {str(s): judge_slide(models, bags.features(str(s)), device=device) for s in cohort.slides[test]}
    baseline, converged = _baseline(bags, cohort, rest=rest, test=test)
    return FoldResult(
        number=number,
        rows=test,
        probabilities=np.stack([p for p, _ in judged.values()]),
        baseline=baseline,
        tiles={slide: tiles for slide, (_, tiles) in judged.items()},
        models=models,
        findings=_findings(number, weights, converged=converged),
    )


def gather(cohort: Cohort, plan: Folds, results: list[FoldResult], *, settings: MilSettings) -> Predictions:
    """Put the folds together, in the order of the cohort.

    Raises
    ------
    ValueError
        Folds that do not cover every slide once.
    """
    results = sorted(results, key=lambda result: result.number)
    rows = np.concatenate([result.rows for result in results])
    if sorted(rows.tolist()) != list(range(len(cohort))):
        raise ValueError(f"the folds hold {len(rows)} slides, the cohort {len(cohort)}: each must stand once")
    order = np.argsort(rows)
    found, simple = (
        np.concatenate([getattr(result, name) for result in results])[order]
        for name in ("probabilities", "baseline")
    )
    slides = pd.DataFrame(
        {"slide_id": cohort.slides, "patient_id": cohort.patients, "target": cohort.names, "fold": plan.fold}
    )
    slides["predicted"] = np.asarray(cohort.classes)[found.argmax(axis=1)]
    for prefix, values in (("p_", found), ("mean_bag_", simple)):
        for k, name in enumerate(cohort.classes):
            slides[prefix + name] = values[:, k]
    columns = [prefix + name for prefix in ("p_", "mean_bag_") for name in cohort.classes]
    patients = patient_means(slides, columns, leave_out=cohort.mixed_patients)
    findings = [*cohort.findings, *(finding for result in results for finding in result.findings)]
    findings += [Finding("rare_stratum", text) for text in plan.merged]
    if plan.leaky:
        findings.append(
            Finding(
                "leaky_folds", "patients are in training and test parts: scores are too good", strong=True
            )
        )
    if n := len(cohort.mixed_patients):
        findings.append(
            Finding("mixed_patients", f"{n} patients of several classes are scored by slide alone")
        )
    tiles = {slide: own for result in results for slide, own in result.tiles.items()}
    return Predictions(
        slides=slides,
        patients=patients,
        classes=cohort.classes,
        positive=cohort.positive,
        tiles={str(slide): tiles[str(slide)] for slide in cohort.slides},
        models=[result.models for result in results],
        settings=settings,
        findings=findings,
    )


def _train_all(
    bags: BagSet,
    training: Part,
    validation: Part,
    *,
    scaling: FeatureScaling,
    classes: tuple[str, ...],
    settings: MilSettings,
    seed: int,
) -> list[TrainedMil]:
    """Train ``repeats`` networks on one split and return the ``n_best`` of lowest validation loss."""
    models = [
        train(
            bags,
            training,
            validation,
            scaling=scaling,
            classes=classes,
            settings=settings,
            seed=seed + repeat,
        )
        for repeat in range(settings.repeats)
    ]
    return sorted(models, key=lambda model: (model.validation_loss, model.seed))[: settings.n_best]


def _baseline(
    bags: BagSet, cohort: Cohort, *, rest: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[NDArray[np.float64], bool]:
    """Judge slides by their mean tile (n, K): logistic regression, C = 1, classes balanced; did it converge?"""
    train_means, test_means = standardise(
        slide_means(bags, cohort.slides[rest].tolist()), slide_means(bags, cohort.slides[test].tolist())
    )
    found = np.zeros((len(test), len(cohort.classes)))
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train_means, cohort.targets[rest])
    found[:, model.classes_] = model.predict_proba(test_means)
    return found, not any(issubclass(entry.category, ConvergenceWarning) for entry in caught)


def _strata(
    cohort: Cohort, fitted: NDArray[np.int64], settings: MilSettings
) -> Callable[[NDArray[np.int64]], NDArray[np.str_]]:
    """Return what gives slides their strata, with the quartiles of ``fitted``."""
    stratifier = Stratifier.fit(cohort.columns(fitted), continuous=settings.continuous)
    return lambda rows: stratifier.strata(cohort.columns(rows), len(rows))


def _findings(number: int, weights: Weights, *, converged: bool) -> tuple[Finding, ...]:
    found = []
    if weights.unbalanced_strata:
        names = ", ".join(weights.unbalanced_strata)
        found.append(Finding("unbalanced_stratum", f"fold {number}: one target only in {names}; weight 1"))
    if not converged:
        found.append(
            Finding("not_converged", f"fold {number}: the mean-bag baseline after {_ITERATIONS} iterations")
        )
    return tuple(found)
