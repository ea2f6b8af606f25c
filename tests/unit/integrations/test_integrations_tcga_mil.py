"""Cross-validated MIL: it learns what is planted and nothing else, keeps patients apart, and forgets no slide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop.ops.roc import auc
from microsnoop_integrations.tcga.bags import Bag, BagSet
from microsnoop_integrations.tcga.mil import cross_validate
from microsnoop_integrations.tcga.mil_cohort import make_cohort
from microsnoop_integrations.tcga.mil_probes import audit_sites, site_auc
from microsnoop_integrations.tcga.mil_results import Predictions, judge_slide

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
    "device": "cpu", "folds": 3, "repeats": 2, "n_best": 2, "epochs": 14, "patience": 8, "tiles": 16,
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


def planted(
    n: int = 60,
    *,
    seed: int = 0,
    share: float = 0.2,
    shift: float = 3.0,
    bias: float = 0.5,
    site_shift: float = 0.0,
) -> tuple[BagSet, pd.DataFrame, dict[str, NDArray[np.bool_]]]:
    """Slides of n / 2 patients; some tiles of the positive ones are of another type. Sites share a colour with them.

    ``bias`` is the share of slides whose class is that of their site; tiles of site 1 are shifted by ``site_shift``.
    """
    rng = np.random.default_rng(seed)
    rows, bags, where = [], [], {}
    for i in range(n):
        patient = i // 2
        positive = patient % 2 == 1
        agrees = np.random.default_rng([seed, patient]).random() < bias
        site = int(positive) if agrees else 1 - int(positive)
        tiles = rng.normal(size=(int(rng.integers(20, 30)), F)) + 5.0
        hit = rng.random(len(tiles)) < share if positive else np.zeros(len(tiles), bool)
        hit[0] = positive
        tiles[hit, 0] += shift
        tiles[hit, 1] -= shift
        tiles[:, 2:8] += site_shift * site
        slide = f"s{(i * 37) % n:03d}"
        bags.append(bag(slide, tiles))
        where[slide] = hit
        rows.append((slide, f"p{patient:02d}", "tumour" if positive else "normal", f"site{site}"))
    table = pd.DataFrame(rows, columns=["slide_id", "patient_id", "target", "site"])
    return BagSet.of(bags), table, where


def settings(**changes: Any) -> MilSettings:
    return MilSettings.model_validate({**TINY, **changes})


@pytest.fixture(scope="module")
def learned() -> tuple[BagSet, pd.DataFrame, dict[str, NDArray[np.bool_]], Predictions]:
    bags, table, where = planted()
    return bags, table, where, cross_validate(bags, table, settings=settings(epochs=24))


# ---------------------------------------------------------------- learning


def test_it_learns_a_planted_tile_type(learned: Any) -> None:
    _, table, _, found = learned
    scores = found.table().set_index(["method", "level"])
    assert scores.loc[("mil", "patient"), "auc"] > 0.95
    assert scores.loc[("mil", "slide"), "auc"] > 0.9
    assert scores.loc[("mil", "patient"), "class"] == "tumour"
    assert scores.loc[("mil", "patient"), "n_positive"] == 15
    assert scores.loc[("mil", "slide"), "n_negative"] == 30
    assert 0 <= scores["low"].min() <= scores["high"].max() <= 1
    assert scores["missing"].eq("").all()
    assert len(scores) == 4
    truth = table.set_index("slide_id")["target"]
    assert found.slides["target"].tolist() == truth[found.slides["slide_id"]].tolist()


def test_attention_finds_the_planted_tiles(learned: Any) -> None:
    bags, _, where, found = learned
    areas, wins = [], []
    for slide, hit in where.items():
        tiles = found.tiles[slide]
        assert tiles.attention.shape == tiles.rank.shape == (len(hit),)
        assert tiles.attention.mean() == pytest.approx(1)
        assert (tiles.rank >= 0).all()
        assert (tiles.rank <= 1).all()
        np.testing.assert_allclose(tiles.probabilities.sum(axis=1), 1, atol=1e-5)
        assert not tiles.constant
        if 0 < hit.sum() < len(hit):
            areas.append(auc(hit, tiles.rank))
            wins.append(auc(hit, tiles.probabilities[:, 1]))
    assert np.mean(areas) > 0.9
    assert np.mean(wins) > 0.9
    assert list(found.tiles) == found.slides["slide_id"].tolist() == sorted(bags)


def test_every_slide_is_predicted_once_by_strangers(learned: Any) -> None:
    _, table, _, found = learned
    assert len(found.slides) == len(table)
    assert found.slides.groupby("patient_id")["fold"].nunique().max() == 1
    np.testing.assert_allclose(found.slides[["p_normal", "p_tumour"]].sum(axis=1), 1, atol=1e-6)
    wanted = np.where(found.slides["p_tumour"] > 0.5, "tumour", "normal")
    assert found.slides["predicted"].tolist() == wanted.tolist()
    means = found.slides.groupby("patient_id")["p_tumour"].mean()
    np.testing.assert_allclose(found.patients.set_index("patient_id")["p_tumour"], means)
    assert found.patients["n_slides"].tolist() == [2] * 30
    assert [len(models) for models in found.models] == [2, 2, 2]
    for models in found.models:
        assert models[0].validation_loss <= models[1].validation_loss
        assert models[0].seed != models[1].seed
    assert found.findings == []
    curve = found.curve()
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(
        auc(found.truth("patient") == 1, found.probabilities("patient")[:, 1])
    )
    assert found.against_baseline().auc_a > 0.95


def test_shuffled_labels_teach_nothing() -> None:
    bags, table, _ = planted()
    patients = table["patient_id"].unique()
    rng = np.random.default_rng(1)
    other = dict(
        zip(patients, rng.permutation(np.array(["normal", "tumour"])[np.arange(30) % 2]), strict=True)
    )
    table["target"] = table["patient_id"].map(other)
    row = cross_validate(bags, table, settings=settings(epochs=8, repeats=1, n_best=1)).table().iloc[0]
    assert row["low"] <= 0.5 <= row["high"]
    assert row["bootstrap_low"] <= 0.5 <= row["bootstrap_high"]


@pytest.mark.parametrize("pooling", ["gated", "mean", "max"])
def test_other_poolings_run_and_learn(pooling: str) -> None:
    bags, table, _ = planted(shift=6, share=0.4)
    s = settings(pooling=pooling, heads=2, repeats=1, n_best=1, epochs=10)
    found = cross_validate(bags, table, settings=s)
    assert found.table().iloc[0]["auc"] > 0.8
    assert all(tiles.constant == (pooling == "mean") for tiles in found.tiles.values())


def test_three_classes_with_components_and_all_tiles() -> None:
    bags, table, _ = planted(60, shift=6, share=0.4)
    third = table["patient_id"].str[1:].astype(int) % 4 == 2
    table.loc[third, "target"] = "other"
    # the third class has a type of its own
    rebuilt = []
    for slide in bags:
        features = np.array(bags.features(slide))
        if third[table["slide_id"] == slide].item():
            features[:8, 3] += 8
        rebuilt.append(bag(slide, features))
    s = settings(pca=6, tiles=None, repeats=1, n_best=1, compat={"draw": False})
    found = cross_validate(BagSet.of(rebuilt), table, settings=s)
    scores = found.table()
    assert scores["class"].tolist()[:4] == ["normal", "other", "tumour", "macro"]
    assert len(scores) == 16
    macro = scores.iloc[3]
    assert macro["auc"] == pytest.approx(scores["auc"].iloc[:3].mean())
    assert macro["auc"] > 0.85
    assert found.models[0][0].scaling.width == 6


# ---------------------------------------------------------------- confounding


def site_in_scores(found: Predictions, table: pd.DataFrame) -> float:
    """How well the site is told from the score, among slides of one class: 0.5 where the score knows no site."""
    site = table.set_index("slide_id")["site"][found.slides["slide_id"]].to_numpy() == "site1"
    target, score = found.slides["target"].to_numpy(), found.slides["p_tumour"].to_numpy()
    return float(np.mean([auc(site[target == t], score[target == t]) for t in ("normal", "tumour")]))


def test_a_confounder_that_is_corrected_for_is_not_learned() -> None:
    """Target = site in 90 %, and the site is easier to see than the target."""
    bags, table, _ = planted(120, bias=0.9, share=0.4, shift=3.0, site_shift=1.0, seed=4)
    common = {"site": "site", "confounders": ["site"], "epochs": 12, "repeats": 1, "n_best": 1, "folds": 2}
    found = {
        sampling: cross_validate(bags, table, settings=settings(**common, sampling=sampling))
        for sampling in ("none", "bias_corrected")
    }
    leans = {sampling: site_in_scores(own, table) for sampling, own in found.items()}
    assert leans["none"] > 0.8
    assert leans["bias_corrected"] < leans["none"] - 0.1
    assert found["bias_corrected"].table().iloc[0]["auc"] > 0.95
    s = settings(**common)
    audit = audit_sites(bags, make_cohort(bags, table, s), s)
    assert audit.accuracy > 0.95
    assert audit.chance == pytest.approx(0.5, abs=0.1)
    assert audit.chance_balanced == 0.5
    assert audit.target_auc > 0.8
    assert audit.target_auc_sampled == pytest.approx(0.5)
    assert audit.n_sites == 2
    assert audit.notes == ()


def test_where_the_site_says_nothing_the_audit_says_so() -> None:
    bags, table, _ = planted(120, bias=0.5, seed=8)
    s = settings(site="site")
    cohort = make_cohort(bags, table, s)
    audit = audit_sites(bags, cohort, s)
    assert 0.35 < audit.accuracy < 0.65
    areas = []
    for seed in range(6):
        own = planted(40, bias=0.5, seed=seed)
        areas.append(site_auc(make_cohort(*own[:2], s), s, sampling="none"))
    assert 0.3 < np.mean(areas) < 0.6
    lone = table.copy()
    lone.loc[:1, "site"] = "alone"
    assert "1 sites of one patient" in audit_sites(bags, make_cohort(bags, lone, s), s).notes[0]
    with pytest.raises(InputError, match="needs the column of sites"):
        audit_sites(bags, make_cohort(bags, table, settings()), settings())
    with pytest.raises(InputError, match="only 'x'"):
        audit_sites(bags, make_cohort(bags, table.assign(site="x"), s), s)


def test_strata_that_cannot_be_balanced() -> None:
    bags, table, _ = planted(36, bias=1.0)
    s = settings(site="site", confounders=["site"])
    with pytest.raises(InputError, match="unbalanced_stratum"):
        cross_validate(bags, table, settings=s)
    audit = audit_sites(bags, make_cohort(bags, table, s), s)
    assert audit.target_auc == 1
    assert np.isnan(audit.target_auc_sampled)
    assert "unbalanced_stratum" in audit.notes[0]


def test_judging_needs_a_network() -> None:
    with pytest.raises(ValueError, match="no network"):
        judge_slide([], np.zeros((3, F), np.float32))
