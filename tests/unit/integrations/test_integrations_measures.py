"""Measures of joint representations against scikit-learn, loops, known values and what simulation says is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_samples
from sklearn.model_selection import GroupKFold, KFold

from microsnoop.ops.silhouette import silhouette
from microsnoop_integrations.joint import measures, resampling
from microsnoop_integrations.joint.measures import (
    label_agreement,
    modality_share,
    modality_weight,
    neighbourhood_agreement,
    pairing_test,
    separation,
    stability,
)

Freeze = Callable[[NDArray], NDArray]


def pair_of_labels(rng: np.random.Generator, n: int = 200) -> tuple[NDArray, NDArray]:
    truth = rng.integers(0, 5, n) * 7
    return truth, np.where(rng.random(n) < 0.3, rng.integers(0, 4, n), truth // 14)


# ---------------------------------------------------------------- agreement of labels


def test_agreement_equals_scikit_learn(frozen: Freeze, rng: np.random.Generator) -> None:
    truth, labels = pair_of_labels(rng)
    found = label_agreement(frozen(truth), frozen(labels), draws=50)
    assert found.ari == pytest.approx(adjusted_rand_score(truth, labels))
    assert found.nmi == pytest.approx(normalized_mutual_info_score(truth, labels))
    assert found.n == 200
    names = np.array(list("ABCabcdefghijklmnopqrstuvwxyz"))
    assert label_agreement(names[truth], names[labels], draws=50) == found


@pytest.mark.parametrize(
    ("truth", "labels"),
    [
        ([0, 0, 1, 1, 2], [0, 0, 1, 2, 2]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 0, 0, 0], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 0, 1], [0, 0, 1, 1]),
        ([0, 1, 2, 2], [1, 1, 1, 1]),
        ([0], [0]),
    ],
)
def test_scores_of_tables_equal_scikit_learn(truth: list[int], labels: list[int]) -> None:
    a, b = np.array(truth), np.array(labels)
    pairs, counts = np.unique(np.c_[a, b], axis=0, return_counts=True)
    tables = np.stack([counts, 3 * counts])  # the second: each cell three times
    ari, nmi = measures._scores(tables, pairs[:, 0], pairs[:, 1])
    for place, times in enumerate([1, 3]):
        known = np.repeat(a, times), np.repeat(b, times)
        assert ari[place] == pytest.approx(adjusted_rand_score(*known), abs=1e-12)
        assert nmi[place] == pytest.approx(normalized_mutual_info_score(*known), abs=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_equal_a_bootstrap_by_loops(grouped: bool, rng: np.random.Generator) -> None:
    truth, labels = pair_of_labels(rng)
    groups = np.sort(rng.integers(0, 9, 200)) if grouped else None
    if groups is not None:  # three of nine fields are segmented badly: cells of a field are alike
        labels = np.where(groups < 3, 0, labels)
    found = label_agreement(truth, labels, groups=groups, draws=4000, seed=1)
    drawn = []
    for _ in range(500):
        if groups is None:
            rows = rng.integers(200, size=200)
        else:
            rows = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(9, size=9)])
        scores = adjusted_rand_score(truth[rows], labels[rows])
        drawn.append((scores, normalized_mutual_info_score(truth[rows], labels[rows])))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    for at, interval in enumerate([found.ari_interval, found.nmi_interval]):
        width = high[at] - low[at]
        assert interval.low == pytest.approx(low[at], abs=0.12 * width)
        assert interval.high == pytest.approx(high[at], abs=0.12 * width)
        assert interval.method == ("bootstrap-groups" if grouped else "bootstrap-rows")


def test_groups_widen_and_one_group_is_none(rng: np.random.Generator) -> None:
    truth, labels = pair_of_labels(rng, 400)
    groups = np.repeat(np.array(["f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8"]), 50)
    labels = np.where(groups < "f4", 0, labels)
    rows = label_agreement(truth, labels)
    fields = label_agreement(truth, labels, groups=groups)
    assert (fields.ari, fields.nmi) == (rows.ari, rows.nmi)
    for one, other in ((rows.ari_interval, fields.ari_interval), (rows.nmi_interval, fields.nmi_interval)):
        assert other.high - other.low > 1.5 * (one.high - one.low)
    assert label_agreement(truth, labels, groups=np.full(400, "f1")) == rows


def test_draws_come_in_parts_that_change_nothing_much(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, labels = pair_of_labels(rng)
    groups = np.arange(200) // 10
    x = rng.normal(size=(200, 3))
    whole = label_agreement(truth, labels, groups=groups).ari_interval
    means = separation(x, truth, groups=groups).interval
    monkeypatch.setattr(resampling, "_DRAWN_AT_ONCE", 100)
    parts = label_agreement(truth, labels, groups=groups).ari_interval
    assert parts == whole  # the same generator, the same order of draws
    assert separation(x, truth, groups=groups).interval == means
    assert label_agreement(truth, labels, draws=37).ari_interval.low < 1


def test_agreement_names_bad_arguments(rng: np.random.Generator) -> None:
    truth, labels = pair_of_labels(rng)
    with pytest.raises(ValueError, match=r"\(200,\) and \(199,\)"):
        label_agreement(truth, labels[1:])
    with pytest.raises(ValueError, match="n above 0"):
        label_agreement(truth[:0], labels[:0])
    with pytest.raises(ValueError, match="draws"):
        label_agreement(truth, labels, draws=0)
    with pytest.raises(ValueError, match=r"each of 200 cells, got shape \(3,\)"):
        label_agreement(truth, labels, groups=np.arange(3))


# ---------------------------------------------------------------- separation and stability


def test_separation_resamples_silhouettes(frozen: Freeze, rng: np.random.Generator) -> None:
    labels = np.r_[rng.integers(0, 3, 149), 9]
    x = frozen(rng.normal(size=(150, 2)) + 1.5 * labels[:, None])
    groups = np.arange(150) // 10
    values = silhouette_samples(x, labels)
    found = separation(x, labels, draws=4000)
    assert found.mean == pytest.approx(values.mean(), abs=1e-9)
    assert (found.n, found.n_clusters, found.n_single) == (150, 4, 1)
    spread = values.std() / np.sqrt(150)
    assert found.interval.low == pytest.approx(values.mean() - 1.96 * spread, abs=0.2 * spread)
    assert found.interval.high == pytest.approx(values.mean() + 1.96 * spread, abs=0.2 * spread)
    shifted = np.asarray(x) + 8 * (groups % 2)[:, None]  # groups differ: cells are far from independent
    by_group, by_row = (separation(shifted, labels, groups=g, draws=2000).interval for g in (groups, None))
    assert by_group.method == "bootstrap-groups"
    assert by_row.method == "bootstrap-rows"
    assert by_group.low != by_row.low


def test_separation_by_groups_of_unequal_size(rng: np.random.Generator) -> None:
    values, unit = np.array([1.0, 1, 1, 1, 1, 1, 0, 0, 0.5]), np.array([0, 0, 0, 0, 0, 0, 1, 1, 2])
    drawn = resampling.draw_means(values, unit, draws=4000, rng=rng)
    # groups (6 of 6, 0 of 2, 0.5 of 1) in all 27 ordered draws of three
    sums, sizes = np.array([6, 0, 0.5]), np.array([6, 2, 1])
    known = {round((sums[list(c)].sum() / sizes[list(c)].sum()), 9) for c in np.ndindex(3, 3, 3)}
    assert {round(v, 9) for v in drawn} == known


def test_one_cluster_has_no_silhouette_and_no_interval(rng: np.random.Generator) -> None:
    found = separation(rng.normal(size=(20, 2)), np.zeros(20, int), groups=np.arange(20) // 5)
    assert np.isnan([found.mean, found.interval.low, found.interval.high]).all()
    assert (found.n, found.n_clusters, found.n_single) == (20, 1, 0)


def test_separation_of_a_sample_uses_its_groups(rng: np.random.Generator) -> None:
    x, labels = rng.normal(size=(300, 2)), rng.integers(0, 2, 300)
    groups = np.arange(300)
    found = separation(x, labels, groups=groups, sample=80, seed=3)
    assert found.n == 80
    assert found == separation(x, labels, groups=groups, sample=80, seed=3)
    assert found.mean != separation(x, labels, groups=groups, sample=80, seed=4).mean
    assert found.interval.low < found.mean < found.interval.high
    # the half of the rows that is drawn: silhouettes differ between groups, and hardly within
    x = np.array([0.0, 1])[labels][:, None] + 0.01 * x[:, :1]
    halves = np.arange(300) >= 150
    x[halves] = 3 + 10 * rng.random((150, 1))
    known = silhouette(x, labels, sample=80, rng=np.random.default_rng(3))
    means = [float(known.values[halves[known.rows] == half].mean()) for half in (False, True)]
    drawn = separation(x, labels, groups=halves, sample=80, seed=3).interval
    assert (drawn.low, drawn.high) == pytest.approx((min(means), max(means)))


def test_stability_is_the_mean_over_pairs(rng: np.random.Generator) -> None:
    runs = [rng.integers(0, 3, 60) for _ in range(3)]
    runs.append((runs[0] + 1) % 3)  # other names, same clusters
    pairs = [adjusted_rand_score(a, b) for a, b in combinations(runs, 2)]
    found = stability(runs)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(pairs), min(pairs), 1.0))
    assert found.n_runs == 4
    assert np.isnan([stability(runs[:1]).mean, stability([]).low]).all()
    with pytest.raises(ValueError, match="same cells"):
        stability([runs[0], runs[1][1:]])


# ---------------------------------------------------------------- modalities


@pytest.mark.parametrize("grouped", [False, True])
def test_share_equals_regression_by_folds(grouped: bool, frozen: Freeze, rng: np.random.Generator) -> None:
    z = frozen(rng.normal(size=(150, 4)) * [1, 2, 1, 1] + 10)
    rna = frozen(z @ rng.normal(size=(4, 6)) + 2 * rng.normal(size=(150, 6)) + 50)
    image = frozen(z[:, :1] @ rng.normal(size=(1, 3)) + 0.1 * rng.normal(size=(150, 3)))
    groups = rng.integers(0, 8, 150) if grouped else None
    found = modality_share(z, rna, image, groups=groups, seed=2)
    split = GroupKFold(5, shuffle=True, random_state=2) if grouped else KFold(5, shuffle=True, random_state=2)
    parts = [[0.0, 0.0], [0.0, 0.0]]
    for train, test in split.split(z, groups=groups):
        for part, hidden in zip(parts, (rna, image), strict=True):
            model = LinearRegression().fit(z[train], hidden[train])
            part[0] += float(((hidden[test] - model.predict(z[test])) ** 2).sum())
            part[1] += float(((hidden[test] - hidden[train].mean(axis=0)) ** 2).sum())
    known = [1 - error / total for error, total in parts]
    assert found.rna == pytest.approx(known[0], abs=2e-3)
    assert found.image == pytest.approx(known[1], abs=2e-3)
    assert (found.folds, found.grouped) == (5, grouped)
    assert modality_share(z, rna, image, groups=groups, seed=2) == found


def test_share_knows_what_the_latent_holds(rng: np.random.Generator) -> None:
    rna, image = rng.normal(size=(400, 5)), rng.normal(size=(400, 7))
    found = modality_share(rna @ np.linalg.qr(rng.normal(size=(5, 5)))[0], rna, image)
    assert found.rna > 0.999
    assert -0.1 < found.image < 0.02
    both = modality_share(np.c_[rna, image][:, ::-1], rna, image)
    assert min(both.rna, both.image) > 0.999


def test_share_at_the_edges(rng: np.random.Generator) -> None:
    z, hidden = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    flat = modality_share(z, np.full((40, 2), 0.1), hidden)
    assert np.isnan(flat.rna)  # nothing to tell: missing, not 0 and not 1
    constant = modality_share(z, np.c_[z[:, 0], np.full(40, 0.1)], hidden)
    assert constant.rna > 0.99
    assert modality_share(np.ones((40, 3)), hidden, hidden).rna == pytest.approx(0, abs=1e-9)
    twice = modality_share(np.c_[z, z, np.zeros(40)], z, hidden)
    assert twice.rna > 0.99
    assert modality_share(z, hidden, hidden, groups=np.arange(40) % 3).folds == 3
    one = modality_share(z, hidden, hidden, groups=np.zeros(40))
    assert (one.folds, one.grouped) == (5, False)
    assert modality_share(z[:4], hidden[:4], hidden[:4]).folds == 4
    for bad, said in (
        (lambda: modality_share(z, hidden[1:], hidden), "same cells, got 40 and 39"),
        (lambda: modality_share(z * np.nan, hidden, hidden), "not finite"),
        (lambda: modality_share(z, hidden, hidden, folds=1), "folds"),
        (lambda: modality_share(z[:2], hidden[:2], hidden[:2]), "at least 3 cells"),
    ):
        with pytest.raises(ValueError, match=said):
            bad()


def test_weight_is_the_share_of_lengths(frozen: Freeze) -> None:
    rna = frozen(np.array([[3.0, 4.0], [0, 0], [0, 0], [1, 0], [1e30, 0]], np.float32))
    image = frozen(np.array([[0.0, 15.0], [0, 2], [0, 0], [0, 0], [1e30, 1e30]], np.float32))
    found = modality_weight(rna, image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0.25, 0, 0.5, 1, 1 / (1 + np.sqrt(2))], rtol=1e-6)
    np.testing.assert_allclose(modality_weight(image, rna), 1 - found, rtol=1e-6)
    with pytest.raises(ValueError, match="both parts"):
        modality_weight(rna, image[:, :1])
    with pytest.raises(ValueError, match="not finite"):
        modality_weight(rna, image * np.nan)


def test_results_are_ready_for_tables(rng: np.random.Generator) -> None:
    x, labels = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    for found in (
        label_agreement(labels, labels),
        separation(x, labels),
        stability([labels, labels]),
        modality_share(x, x, x),
        neighbourhood_agreement(x, x, x),
        pairing_test(x, x, permutations=5),
    ):
        assert is_dataclass(found)
        for value in asdict(found).values():
            assert type(value) in (float, int, bool, dict)
