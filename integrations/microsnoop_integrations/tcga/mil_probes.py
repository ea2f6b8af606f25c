"""Do features know the site, and does the site know the target? Source: slides spec, section 9."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings, Sampling
from microsnoop.ops.classify import chance_folds, make_folds, probe_folds
from microsnoop.ops.metrics import confusion_matrix, scores
from microsnoop.ops.roc import auc
from microsnoop_integrations.tcga.bags import BagSet
from microsnoop_integrations.tcga.mil_cohort import Cohort
from microsnoop_integrations.tcga.mil_scaling import slide_means
from microsnoop_integrations.tcga.sampling import Stratifier, sampling_weights

_PRIOR_SLIDES = 1.0  # a site without training slides is given the share of all


@dataclass(frozen=True)
class SiteAudit:
    """How much site there is in features and target; patients are kept apart in all probes.

    Attributes
    ----------
    accuracy, balanced_accuracy
        Of a logistic probe that tells the site of a slide from its mean tile.
    chance, chance_balanced
        Of always answering the most frequent site, and one in so many sites.
    target_auc
        AUC of the target when the site alone is known, mean over folds: about 0.5 where it says nothing, and below
        where there are few patients, because what the training part has more of, the test part has less of.
    target_auc_sampled
        The same as training sees it, slides weighed as the settings say: what a network could gain from the site.
    notes
        What limits the numbers.
    """

    n_sites: int
    accuracy: float
    balanced_accuracy: float
    chance: float
    chance_balanced: float
    target_auc: float
    target_auc_sampled: float
    notes: tuple[str, ...] = ()


def audit_sites(bags: BagSet, cohort: Cohort, settings: MilSettings) -> SiteAudit:
    """Ask slide means for the site, and the site for the target.

    Raises
    ------
    InputError
        The cohort has no sites, or only one.
    """
    names, sites, patients = _codes(cohort)
    fold = make_folds(sites, patients, folds=min(settings.folds, int(patients.max()) + 1), seed=settings.seed)
    found = probe_folds(slide_means(bags, cohort.slides.tolist()), sites, fold=fold)
    said = scores(confusion_matrix(sites, found.classes, n_classes=len(names)))
    chance = chance_folds(sites, fold=fold, strategy="most_frequent", seed=settings.seed)
    lone = [str(name) for i, name in enumerate(names) if len(set(patients[sites == i])) == 1]
    notes = [f"{len(lone)} sites of one patient cannot be told: {', '.join(lone[:5])}"] if lone else []
    plain = site_auc(cohort, settings, sampling="none")
    try:
        sampled = site_auc(cohort, settings, sampling=settings.sampling)
    except InputError as error:
        sampled, notes = float("nan"), [*notes, error.message]
    return SiteAudit(
        n_sites=len(names),
        accuracy=said.accuracy,
        balanced_accuracy=said.balanced_accuracy,
        chance=float((chance.classes == sites).mean()),
        chance_balanced=1 / len(names),
        target_auc=plain,
        target_auc_sampled=sampled,
        notes=(*notes, *found.notes),
    )


def site_auc(cohort: Cohort, settings: MilSettings, *, sampling: Sampling) -> float:
    """Predict the target of a slide by the (weighted) share of its class in its site, learned on other patients.

    Areas are averaged over folds, not pooled: pooled, a site whose positives are in the test part would have few in
    its training part, and no information would look like less than none. Several classes: mean of one against rest.

    Raises
    ------
    InputError
        The cohort has no sites, or only one; ``unbalanced_stratum``.
    """
    names, sites, patients = _codes(cohort)
    n_classes = len(cohort.classes)
    folds = min(settings.folds, int(patients.max()) + 1)
    fold = make_folds(cohort.targets, patients, folds=folds, seed=settings.seed)
    areas = []
    for number in range(folds):
        training, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        columns = cohort.columns(training)
        strata = Stratifier.fit(columns, continuous=settings.continuous).strata(columns, len(training))
        weights = sampling_weights(strata, cohort.names[training], method=sampling).values
        counts = np.zeros((len(names), n_classes))
        np.add.at(counts, (sites[training], cohort.targets[training]), weights)
        prior = counts.sum(axis=0) / counts.sum()
        rates = (counts + _PRIOR_SLIDES * prior) / (counts.sum(axis=1, keepdims=True) + _PRIOR_SLIDES)
        # sums in another order may differ in the last digit, which must not decide
        rates = np.round(rates, 9)[sites[test]]
        scored = [cohort.positive] if n_classes == 2 else range(n_classes)
        areas += [auc(cohort.targets[test] == k, rates[:, k]) for k in scored]
    known = np.array(areas)[np.isfinite(areas)]
    return float(known.mean()) if len(known) else float("nan")


def _codes(cohort: Cohort) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    """Return names of sites, and numbers of the site and the patient of each slide."""
    if cohort.sites is None:
        raise InputError("the site audit needs the column of sites", hint="set site")
    names, sites = np.unique(cohort.sites, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"the site audit needs two sites, there is only {str(names[0])!r}")
    return names, sites, np.unique(cohort.patients, return_inverse=True)[1]
