"""Cohorts and folds of a cross-validation: patients apart, no slide forgotten, nothing learned from the test part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop_integrations.tcga.bags import Bag, BagSet
from microsnoop_integrations.tcga.folds import Folds
from microsnoop_integrations.tcga.mil import cross_validate, fit_fold, gather
from microsnoop_integrations.tcga.mil_cohort import make_cohort, plan_folds

pytestmark = pytest.mark.usefixtures("one_thread")

F = 16
HEADER: dict[str, Any] = {
    "encoder": {"name": "toy", "sha256": "0"},
    "mpp": 0.5,
    "mpp_source": "property",
    "tiling": {},
    "mask": {},
    "counts": {},
}
TINY: dict[str, Any] = {
    "device": "cpu", "folds": 3, "repeats": 2, "n_best": 2, "epochs": 20, "patience": 8, "tiles": 16,
    "attention_width": 32, "hidden": 16, "blocks": 1, "bootstrap": 100, "lr": 0.01, "batch_slides": 8,
}  # fmt: skip


def bag(slide: str, features: NDArray) -> Bag:
    n = len(features)
    place = np.arange(n)
    features = features.astype(np.float32)
    features.flags.writeable = False
    return Bag(
        slide, features, x0=place, y0=place, side0_px=np.full(n, 1.0), x_um=place * 0.5, y_um=place * 0.5,
        tissue_fraction=np.ones(n, np.float32), header=HEADER,
    )  # fmt: skip


def planted(n: int = 60, *, bias: float = 0.5) -> tuple[BagSet, pd.DataFrame]:
    """Slides of n / 2 patients, noise; ``bias`` is the share of patients whose class is that of their site."""
    rng = np.random.default_rng(0)
    rows, bags = [], []
    for i in range(n):
        patient = i // 2
        positive = patient % 2 == 1
        site = positive if np.random.default_rng([7, patient]).random() < bias else not positive
        slide = f"s{(i * 37) % n:03d}"
        bags.append(bag(slide, rng.normal(size=(8 + i % 5, F)) + 5.0))
        rows.append((slide, f"p{patient:02d}", "tumour" if positive else "normal", f"site{int(site)}"))
    return BagSet.of(bags), pd.DataFrame(rows, columns=["slide_id", "patient_id", "target", "site"])


def settings(**changes: Any) -> MilSettings:
    return MilSettings.model_validate({**TINY, **changes})


# ---------------------------------------------------------------- folds and leaks


def test_leaks_are_refused() -> None:
    bags, table = planted()
    s = settings()
    good = cross_validate(bags, table, settings=settings(epochs=1, repeats=1, n_best=1)).slides
    folds = dict(zip(good["slide_id"], good["fold"], strict=True))
    leaked = {**folds, "s000": (folds["s000"] + 1) % 3}
    with pytest.raises(InputError, match="leak: 1 patients"):
        cross_validate(bags, table, settings=s, folds=leaked)
    # also where a fold is called by itself
    cohort = make_cohort(bags, table, s)
    plan = Folds(np.array([leaked[str(slide)] for slide in cohort.slides]))
    with pytest.raises(InputError, match="leak: 1 patients"):
        fit_fold(bags, cohort, plan, number=leaked["s000"], settings=s)
    with pytest.raises(InputError, match="1 slides have no fold"):
        cross_validate(bags, table, settings=s, folds={k: v for k, v in folds.items() if k != "s000"})


def test_folds_of_slides_run_and_are_marked() -> None:
    bags, table = planted(24)
    found = cross_validate(
        bags, table, settings=settings(epochs=1, repeats=1, n_best=1, compat={"folds": "slide"})
    )
    assert [f.code for f in found.findings if f.strong] == ["leaky_folds"]
    assert found.slides.groupby("patient_id")["fold"].nunique().max() > 1


def test_a_fold_is_a_function_of_what_it_is_given() -> None:
    bags, table = planted(36)
    s = settings(epochs=3)
    cohort = make_cohort(bags, table, s)
    plan = plan_folds(cohort, s)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    results = [fit_fold(bags, cohort, plan, number=number, settings=s) for number in (2, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    found = gather(cohort, plan, results, settings=s)
    for result in results:
        np.testing.assert_array_equal(found.probabilities("slide")[result.rows], result.probabilities)
        np.testing.assert_array_equal(found.probabilities("slide", "mean_bag")[result.rows], result.baseline)
    shuffled = table.sample(frac=1, random_state=3)
    other = BagSet.of([bags.bag(slide) for slide in sorted(bags, reverse=True)])
    again = cross_validate(other, shuffled, settings=s)
    pd.testing.assert_frame_equal(again.slides, found.slides)
    with pytest.raises(ValueError, match="each must stand once"):
        gather(cohort, plan, results[:2], settings=s)


def test_a_test_slide_changes_nothing_that_is_learned() -> None:
    bags, table = planted(36)
    s = settings(epochs=2, pca=4, site="site", confounders=["site"])
    cohort = make_cohort(bags, table, s)
    plan = plan_folds(cohort, s)
    test = str(cohort.slides[plan.fold == 1][0])
    changed = [bag(x, bags.features(x) * 50 - 7) if x == test else bags.bag(x) for x in bags]
    one, two = (fit_fold(b, cohort, plan, number=1, settings=s) for b in (bags, BagSet.of(changed)))
    for ours, theirs in zip(one.models, two.models, strict=True):
        for name, tensor in ours.network.state_dict().items():
            assert torch.equal(tensor, theirs.network.state_dict()[name]), name
        for name, array in ours.scaling.arrays().items():
            np.testing.assert_array_equal(array, theirs.scaling.arrays()[name])
    place = np.flatnonzero(cohort.slides[one.rows] == test)[0]
    assert not np.allclose(one.probabilities[place], two.probabilities[place])
    same = np.arange(len(one.rows)) != place
    np.testing.assert_array_equal(one.probabilities[same], two.probabilities[same])
    np.testing.assert_array_equal(one.baseline[same], two.baseline[same])


def test_a_baseline_that_did_not_converge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bags, table = planted(36)
    monkeypatch.setattr("microsnoop_integrations.tcga.mil._ITERATIONS", 1)
    s = settings(epochs=1, repeats=1, n_best=1, folds=2)
    found = cross_validate(bags, table, settings=s)
    assert [f.code for f in found.findings].count("not_converged") == 2


def test_a_site_of_one_class_is_named() -> None:
    bags, table = planted(24, bias=1.0)
    with pytest.raises(InputError, match=r"lacks class \w+; it holds site\d"):
        cross_validate(bags, table, settings=settings(folds=2, group_by="site", site="site"))


# ---------------------------------------------------------------- cohorts


def test_what_has_only_bag_or_label_is_counted() -> None:
    bags, table = planted(24)
    some = BagSet.of([bags.bag(slide) for slide in bags if slide != "s003"])
    cohort = make_cohort(some, table[table["slide_id"] != "s005"], settings())
    assert len(cohort) == 22
    assert {f.code: f.message for f in cohort.findings} == {
        "no_bag": "1 slides of the table have no bag: s003",
        "no_label": "1 bags have no row in the table: s005",
    }
    assert cohort.classes == ("normal", "tumour")
    assert cohort.positive == 1
    assert make_cohort(bags, table, settings(positive="normal")).positive == 0


def test_cohorts_that_are_refused() -> None:
    bags, table = planted(24)
    patient = table["patient_id"].iloc[0]
    empty, mixed, one = table.copy(), table.copy(), table.copy()
    empty.loc[3, "target"] = None
    mixed.loc[0, "target"] = "tumour"
    one["target"] = "tumour"
    for wrong, changes, message in [
        (table.drop(columns="patient_id"), {}, "no column patient_id"),
        (table, {"confounders": ["age"]}, "no column age"),
        (pd.concat([table, table[:1]]), {}, "slides twice"),
        (empty, {}, "1 slides have no target"),
        (mixed, {}, f"patient_conflict: 1 patients.*{patient}"),
        (one, {}, "only 'tumour'"),
        (table.assign(slide_id="x" + table["slide_id"]), {}, "no slide of the table has a bag"),
        (table, {"positive": "yes"}, "no class 'yes'"),
    ]:
        with pytest.raises(InputError, match=message):
            make_cohort(bags, wrong, settings(**changes))
    cohort = make_cohort(bags, mixed, settings(level="slide"))
    assert cohort.mixed_patients == (patient,)


def test_patients_of_two_classes_are_scored_by_slide() -> None:
    bags, table = planted(36)
    table.loc[0, "target"] = "tumour"
    found = cross_validate(bags, table, settings=settings(level="slide", epochs=1, repeats=1, n_best=1))
    assert len(found.slides) == 36
    assert len(found.patients) == 17
    assert [f.code for f in found.findings] == ["mixed_patients"]
