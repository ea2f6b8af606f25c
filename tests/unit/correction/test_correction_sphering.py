"""Sphering as an estimator: regularisers by their formulas, what held-out rows choose, what is said and refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction import heldout
from microsnoop.correction.base import EVERYTHING, Fit
from microsnoop.correction.heldout import (
    RIDGES,
    Choice,
    choose_floor,
    choose_ridge,
    deal,
    rank_rows,
    replicate_map,
)
from microsnoop.correction.sphering import Sphering, knee_stability
from microsnoop.ops.knee import find_knee
from microsnoop.ops.sphering import VARIANTS

Freeze = Callable[[NDArray], NDArray]
SPREAD = np.array([10, 5, 2.5, 1.2, 0.6, 0.3, 0.2, 0.1, 0.06, 0.04]) ** 0.5


@pytest.fixture
def rows(rng: np.random.Generator, frozen: Freeze) -> NDArray:
    """300 controls of 10 features with a knee in their spectrum, far from the origin."""
    axes, _ = np.linalg.qr(rng.normal(size=(10, 10)))
    return frozen((rng.normal(size=(300, 10)) * SPREAD @ axes.T + 7) * np.logspace(-2, 1, 10))


def only(fitted: Sphering) -> Fit:
    return fitted.fits_[EVERYTHING]


def codes(fitted: Sphering) -> list[tuple[str, bool]]:
    return [(finding.code, finding.strong) for finding in fitted.findings_]


def standardised(rows: NDArray) -> NDArray:
    return (rows - rows.mean(axis=0)) / rows.std(axis=0, ddof=1)


# ---------------------------------------------------------------- f(T)


@pytest.mark.parametrize("variant", VARIANTS)
def test_controls_become_white(variant: str, rows: NDArray) -> None:
    fitted = Sphering(variant=variant, reg="none").fit(rows)
    z = fitted.transform(rows)
    assert z.dtype == np.float32
    assert np.abs(np.cov(z.T.astype(np.float64)) - np.eye(10)).max() < 1e-6
    assert np.abs(z.mean(axis=0, dtype=np.float64)).max() < 1e-6
    fit = only(fitted)
    assert fit.arrays["matrix"].shape == (10, 10)
    assert (
        fit.arrays["mean"].shape == fit.arrays["eigenvalues"].shape == fit.arrays["filtered"].shape == (10,)
    )
    assert all(array.dtype == np.float64 for array in fit.arrays.values())
    np.testing.assert_allclose(z, (rows - fit.arrays["mean"]) @ fit.arrays["matrix"].T, atol=1e-6)
    assert fitted.findings_ == []
    assert fitted.features_out_ == [f"{'x' if VARIANTS[variant][1] else 'axis'}{j}" for j in range(10)]


@pytest.mark.parametrize("variant", ["ZCA-cor", "ZCA"])
def test_what_each_regulariser_makes_of_the_eigenvalues(variant: str, rows: NDArray) -> None:
    from sklearn.covariance import ledoit_wolf_shrinkage

    cor = VARIANTS[variant][0]
    t = np.sort(np.linalg.eigvalsh(np.corrcoef(rows.T) if cor else np.cov(rows.T)))[::-1]
    centred = rows - rows.mean(axis=0)
    a = ledoit_wolf_shrinkage(centred / rows.std(axis=0) if cor else centred, assume_centered=True)
    knee = only(Sphering(variant=variant).fit(rows)).info["knee_index"]
    assert 1 <= knee <= 5
    expected: dict[str, tuple[dict[str, Any], NDArray]] = {
        "knee": ({}, np.maximum(t, t[knee] / 10)),
        "knee, divisor": ({"knee_divisor": 2}, np.maximum(t, t[knee] / 2)),
        "floor": ({"lam": 0.5}, np.maximum(t, 0.5)),
        "ridge": ({}, t + 0.01),
        "ridge, lam": ({"lam": 3}, t + 3),
        "shrinkage": ({}, (1 - a) * t + a * t.mean()),
        "shrinkage, lam": ({"lam": 0.3}, 0.7 * t + 0.3 * t.mean()),
        "none": ({}, t),
    }
    for name, (params, filtered) in expected.items():
        reg = name.split(",")[0]
        fit = only(Sphering(variant=variant, reg=reg, **params).fit(rows))
        np.testing.assert_allclose(fit.arrays["filtered"], filtered, rtol=1e-7, atol=1e-12, err_msg=name)
        np.testing.assert_allclose(fit.arrays["eigenvalues"], t, rtol=1e-7, atol=1e-12)
        assert (fit.info["reg"], fit.info["reg_asked"], fit.info["variant"]) == (reg, reg, variant)
        assert (fit.info["n"], fit.info["d"], fit.info["constant"]) == (300, 10, [])


def test_the_published_floor(rows: NDArray) -> None:
    fit = only(Sphering(variance_floor=1e-3).fit(rows))
    scale = np.sqrt(np.maximum(rows.var(axis=0, ddof=1), 1e-3))
    assert 1 <= (rows.var(axis=0, ddof=1) < 1e-3).sum() <= 4
    values, axes = np.linalg.eigh(np.corrcoef(rows.T))
    lifted = np.maximum(values, fit.info["lambda"])
    np.testing.assert_allclose(
        fit.arrays["matrix"], axes / np.sqrt(lifted) @ axes.T / scale, rtol=1e-6, atol=1e-9
    )


def test_full_floor_and_full_shrinkage_only_standardise(rows: NDArray) -> None:
    z = standardised(rows)
    np.testing.assert_allclose(Sphering(reg="floor", lam=16).fit(rows).transform(rows), z / 4, atol=1e-6)
    np.testing.assert_allclose(Sphering(reg="shrinkage", lam=1).fit(rows).transform(rows), z, atol=1e-6)


def test_fast_products_are_near(rows: NDArray) -> None:
    exact, fast = (
        Sphering(precision=p).fit(rows).transform(rows.astype(np.float32)) for p in ("float64", "float32")
    )
    assert 0 < np.abs(exact - fast).max() < 1e-5


def test_order_and_plate_names_play_no_part(rows: NDArray, rng: np.random.Generator) -> None:
    """Controls are pooled: a global fit is the same whatever plates are called, and in any order."""
    obs = {
        "is_control": np.arange(300) % 3 > 0,
        "plate": np.arange(300) // 60,
        "batch": np.arange(300) // 100,
    }
    order = rng.permutation(300)
    shuffled = {name: values[order] for name, values in obs.items()}
    for reg in ("knee", "heldout"):
        first, second = Sphering(reg=reg).fit(rows, obs), Sphering(reg=reg).fit(rows[order], shuffled)
        np.testing.assert_allclose(second.transform(rows), first.transform(rows), atol=1e-6)
    renamed = {**obs, "plate": rng.permutation(300)}
    a, b = Sphering().fit(rows, obs), Sphering().fit(rows, renamed)
    assert np.array_equal(a.transform(rows), b.transform(rows))


def test_one_fit_a_plate(rows: NDArray) -> None:
    obs = {"is_control": np.arange(300) % 2 == 0, "plate": np.where(np.arange(300) < 160, "a", "b")}
    whole = Sphering(scope="plate", reg="ridge").fit(rows, obs)
    assert set(whole.fits_) == {"a", "b"}
    for plate in "ab":
        chosen = obs["plate"] == plate
        alone = Sphering(reg="ridge").fit(rows[chosen & obs["is_control"]])
        np.testing.assert_allclose(
            whole.transform(rows, obs)[chosen], alone.transform(rows[chosen]), atol=1e-6
        )


# ---------------------------------------------------------------- planted shift


def plant(seed: int) -> tuple[NDArray, dict[str, NDArray], NDArray]:
    """Two plates, the second shifted by 8; ten treatments, once a plate, orthogonal to the shift."""
    rng, d = np.random.default_rng(seed), 20
    along = rng.normal(size=d)
    shift = 8 * along / np.linalg.norm(along)
    effects = rng.normal(size=(10, d))
    effects -= np.outer(effects @ shift, shift) / 64
    effects *= 6 / np.linalg.norm(effects, axis=1, keepdims=True)
    blocks = [rng.normal(size=(200, d)) + p * shift for p in (0, 1)]
    blocks += [effects + rng.normal(size=(10, d)) * 0.7 + p * shift for p in (0, 1)]
    obs = {
        "is_control": np.arange(420) < 400,
        "plate": np.repeat(["p1", "p2", "p1", "p2"], [200, 200, 10, 10]),
    }
    return np.concatenate(blocks), obs, np.tile(np.arange(10), 2)


def nearest_accuracy(rows: NDArray, labels: NDArray) -> float:
    distance = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(axis=1)] == labels).mean())


def plate_share(rows: NDArray, plates: NDArray) -> float:
    grand = rows.mean(axis=0)
    between = sum(
        (plates == p).sum() * np.square(rows[plates == p].mean(axis=0) - grand).sum() for p in set(plates)
    )
    return float(between / np.square(rows - grand).sum())


@pytest.mark.parametrize("reg", ["none", "knee", "shrinkage", "heldout", "ridge"])
def test_a_planted_shift_shrinks_to_one_direction_of_d(reg: str) -> None:
    before, after = [], []
    for seed in range(8):
        rows, obs, treatment = plant(seed)
        control, plates = obs["is_control"], obs["plate"]
        z = Sphering(reg=reg).fit_transform(rows, obs).astype(float)
        for x, found in ((rows, before), (z, after)):
            found.append((nearest_accuracy(x[~control], treatment), plate_share(x[control], plates[control])))
        # sphering does not make plates the same: the shift is still there, as one direction of variance 1
        means = [z[control & (plates == plate)].mean(axis=0) for plate in ("p1", "p2")]
        assert 1.7 < np.linalg.norm(means[1] - means[0]) < 2.1
    (accuracy, share), (accuracy_after, share_after) = np.mean(before, axis=0), np.mean(after, axis=0)
    assert accuracy <= 0.2
    assert share == pytest.approx(16 / 36, abs=0.01)
    assert accuracy_after >= 0.98
    assert share_after <= (
        0.05 if reg != "heldout" else 0.052
    )  # a ridge that strong lifts the other axes too


# ---------------------------------------------------------------- heldout


def naive_likelihood(rows: NDArray, fold: NDArray, lam: float) -> float:
    total = 0.0
    for k in set(fold.tolist()):
        train, test = rows[fold != k], rows[fold == k]
        mean, sd = train.mean(axis=0), train.std(axis=0, ddof=1)
        values, axes = np.linalg.eigh(np.corrcoef(train.T))
        for x in test:
            p = axes.T @ ((x - mean) / sd)
            total += -0.5 * sum(
                p[j] ** 2 / (values[j] + lam) + np.log(values[j] + lam) for j in range(len(p))
            )
    return total


def test_likelihoods_equal_loops(rows: NDArray) -> None:
    obs = {"batch": np.repeat(list("abcdefg"), [10, 90, 30, 40, 60, 50, 20])}
    choice = choose_ridge(rows, obs)
    fold = deal(obs["batch"])
    assert choice.unit == "batch"
    expected = [naive_likelihood(rows, fold, float(lam)) for lam in RIDGES]
    np.testing.assert_allclose([score for _, score in choice.curve], expected, rtol=1e-8)
    np.testing.assert_allclose([lam for lam, _ in choice.curve], RIDGES)
    assert len(RIDGES) == 21
    assert choice.value == RIDGES[int(np.argmax(expected))]
    fit = only(Sphering(reg="heldout").fit(rows, {**obs, "is_control": np.ones(300, bool)}))
    assert fit.info["lambda"] == choice.value
    assert fit.info["curve"] == [list(point) for point in choice.curve]
    assert fit.info["held_out"] == "batch"
    np.testing.assert_allclose(fit.arrays["filtered"], fit.arrays["eigenvalues"] + choice.value)


def test_a_ridge_of_covariances_is_a_share_of_their_mean(rows: NDArray) -> None:
    obs = {"is_control": np.ones(300, bool), "batch": np.arange(300) // 50}
    fit, small = (only(Sphering(variant="ZCA", reg="heldout").fit(rows * s, obs)) for s in (1, 1e-3))
    assert fit.info["lambda"] == small.info["lambda"]
    # in other units the whole curve is shifted
    gains = [np.diff([score for _, score in f.info["curve"]]) for f in (fit, small)]
    np.testing.assert_allclose(gains[1], gains[0], rtol=1e-5)
    t = fit.arrays["eigenvalues"]
    np.testing.assert_allclose(fit.arrays["filtered"], t + fit.info["lambda"] * t.mean())


def test_the_best_ridge_is_where_truth_says(rng: np.random.Generator) -> None:
    """Few rows of nearly independent features need much of it, many rows of a known spectrum little."""
    few = Sphering(reg="heldout").fit(rng.normal(size=(30, 25)))
    axes, _ = np.linalg.qr(rng.normal(size=(10, 10)))
    many = Sphering(reg="heldout").fit(rng.normal(size=(5000, 10)) * SPREAD @ axes.T)
    assert only(few).info["lambda"] > 100 * only(many).info["lambda"]


def test_a_choice_at_the_edge_is_said(rng: np.random.Generator) -> None:
    base = rng.normal(size=(4000, 1))
    nearly_one = base + rng.normal(size=(4000, 6)) * 1e-4  # eigenvalues far below the smallest ridge
    fitted = Sphering(reg="heldout").fit(nearly_one)
    assert only(fitted).info["lambda"] == RIDGES[0]
    assert codes(fitted) == [("heldout_edge", False)]
    # the held-out batch is far from the others each time: nothing is too cautious
    strange = rng.normal(size=(30, 6)) + np.repeat(np.diag([1, 2, 4]) * 100, 10, axis=0).repeat(2, axis=1)
    noise = Sphering(reg="heldout").fit(
        strange, {"is_control": np.ones(30, bool), "batch": np.arange(30) // 10}
    )
    assert only(noise).info["lambda"] == RIDGES[-1]
    assert ("heldout_edge", False) in codes(noise)
    inside = Choice.of([3, 1, 2], [0.5, 0.1, 0.7], unit="row")
    assert (inside.value, inside.edge, inside.curve) == (2, False, [(1, 0.1), (2, 0.7), (3, 0.5)])
    assert Choice.of([3, 1, 2], [0.5, 0.5, 0.5], unit="row").value == 1


@pytest.mark.parametrize(
    ("batches", "plates", "unit"),
    [(3, 3, "batch"), (2, 4, "plate"), (2, 2, "row"), (1, 1, "row"), (None, 5, "plate")],
)
def test_what_is_held_out(batches: int | None, plates: int, unit: str, rows: NDArray) -> None:
    obs = {"plate": np.arange(300) % plates}
    if batches:
        obs["batch"] = np.arange(300) % batches
    assert choose_ridge(rows, obs).unit == unit
    assert choose_ridge(rows).unit == "row"
    scores, reversed_scores = (np.array(choose_ridge(r).curve)[:, 1] for r in (rows, rows[::-1]))
    np.testing.assert_allclose(reversed_scores, scores, rtol=1e-9)  # not which row stands where


def test_the_seed_is_used(rows: NDArray, screen) -> None:
    first, second = (only(Sphering(reg="heldout", seed=seed).fit(rows)).info["curve"] for seed in (1, 2))
    assert first == [list(point) for point in choose_ridge(rows, seed=1).curve]
    assert first != second
    drawn = only(Sphering(reg="grid", seed=5).fit(*screen)).info["curve"]
    assert drawn == [list(point) for point in choose_floor(*screen, seed=5).curve]
    assert [lam for lam, _ in drawn] == sorted(10 ** np.random.default_rng(5).uniform(-5, 3, 25))


def test_folds_keep_groups_together_and_balance() -> None:
    groups = np.repeat(list("abcdefgh"), [50, 20, 10, 10, 10, 30, 5, 25])
    fold = deal(groups, seed=3)
    for group in set(groups):
        assert len(set(fold[groups == group])) == 1
    sizes = np.bincount(fold)
    assert len(sizes) == 5
    assert sizes.max() == 50
    assert sizes.min() >= 20
    order = np.random.default_rng(0).permutation(len(groups))
    assert np.array_equal(deal(groups[order], seed=3), fold[order])
    assert np.bincount(deal(np.arange(23))).tolist() == [5, 5, 5, 4, 4]
    assert not np.array_equal(deal(np.arange(23), seed=1), deal(np.arange(23), seed=2))
    assert deal(np.array(["a", "b", "a"])).max() == 1


def test_ranks_belong_to_rows_not_places(rng: np.random.Generator, frozen: Freeze) -> None:
    rows = frozen(rng.normal(size=(40, 3)).astype(np.float32))
    order = rng.permutation(40)
    rank = rank_rows(rows)
    assert sorted(rank) == list(range(40))
    assert np.array_equal(rank_rows(rows[order]), rank[order])
    assert np.array_equal(rank_rows(np.asfortranarray(rows)), rank)


def test_constant_in_one_fold_is_no_infinity(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(60, 4))
    rows[:, 3] = 0
    obs = {"batch": np.repeat(["a", "b", "c"], 20)}
    expected = choose_ridge(rows[:, :3], obs).curve
    np.testing.assert_allclose(choose_ridge(rows, obs).curve, expected, rtol=1e-9)
    rows[obs["batch"] == "b", 3] = rng.normal(size=20)  # varies only where it is held out
    assert np.isfinite(choose_ridge(rows, obs).curve).all()


# ---------------------------------------------------------------- grid


@pytest.fixture
def screen(rng: np.random.Generator) -> tuple[NDArray, dict[str, Any]]:
    """Six plates, on each 20 controls and 8 treatments twice; the effects are small beside a shared nuisance."""
    d, n = 12, 6 * 36
    treatment = np.tile(np.concatenate([np.full(20, -1), np.repeat(np.arange(8), 2)]), 6)
    effects = np.vstack([rng.normal(size=(8, d)) * 0.8, np.zeros(d)])  # -1 is the last
    rows = (
        effects[treatment]
        + rng.normal(size=(n, d)) * 0.5
        + rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)) * 3
    )
    names = np.array([f"t{t}" if t >= 0 else None for t in treatment], object)
    obs = {"is_control": treatment < 0, "plate": np.repeat(np.arange(6), 36), "treatment": names}
    return rows, {**obs, "batch": np.repeat(["x", "y"], n // 2)}


def naive_map(rows: NDArray, treatment: NDArray) -> float:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    both = []
    for versus_controls in (True, False):
        scores: dict[int, list[float]] = {}
        for i in np.flatnonzero(treatment >= 0):
            rivals = treatment < 0 if versus_controls else (treatment >= 0) & (treatment != treatment[i])
            kept = [j for j in range(len(rows)) if j != i and (treatment[j] == treatment[i] or rivals[j])]
            kept.sort(key=lambda j: -float(unit[i] @ unit[j]))
            hits = [treatment[j] == treatment[i] for j in kept]
            if any(hits):
                precision = [sum(hits[: r + 1]) / (r + 1) for r in range(len(hits)) if hits[r]]
                scores.setdefault(int(treatment[i]), []).append(sum(precision) / len(precision))
        both.append(np.mean([np.mean(values) for values in scores.values()]))
    return float(np.mean(both))


def test_grid_scores_equal_loops(screen) -> None:
    rows, obs = screen
    held = np.isin(obs["plate"], [int(p) for p in np.random.default_rng(0).permutation(list("012345"))[:3]])
    control = obs["is_control"]
    mean = rows[control & ~held].mean(axis=0)
    scaled = (rows[held] - mean) / rows[control & ~held].std(axis=0, ddof=1)
    values, axes = np.linalg.eigh(np.corrcoef(rows[control & ~held].T))
    treatment = np.array([-1 if name is None else int(name[1:]) for name in obs["treatment"]])[held]
    lambdas = np.sort(10 ** np.random.default_rng(0).uniform(-5, 3, 25))
    choice = choose_floor(rows, obs)
    assert [lam for lam, _ in choice.curve] == lambdas.tolist()
    for lam, score in choice.curve[::6]:
        z = scaled @ axes / np.sqrt(np.maximum(values, lam)) @ axes.T
        assert score == pytest.approx(naive_map(z, treatment), abs=1e-9)
    fitted = Sphering(reg="grid").fit(rows, obs)
    assert only(fitted).info["lambda"] == choice.value
    assert only(fitted).info["held_out"] == "plate"
    t = only(fitted).arrays["eigenvalues"]
    np.testing.assert_allclose(only(fitted).arrays["filtered"], np.maximum(t, choice.value))
    assert dict(choice.curve)[choice.value] > choice.curve[-1][1] + 0.05  # only standardised is worse


def test_every_treatment_counts_the_same(rng: np.random.Generator) -> None:
    treatment = np.repeat([-1, 0, 1, 2, 3], [9, 12, 2, 5, 1])  # the last has no replicate and no score
    rows = rng.normal(size=(29, 6)) + rng.normal(size=(5, 6))[treatment] * 0.7
    assert replicate_map(rows, treatment) == pytest.approx(naive_map(rows, treatment), abs=1e-12)


def test_grid_within_batches_sees_their_rows_alone(screen) -> None:
    rows, obs = screen
    fitted = Sphering(reg="grid", scope="batch").fit(rows, obs)
    for batch in "xy":
        chosen = obs["batch"] == batch
        alone = choose_floor(rows[chosen], {name: values[chosen] for name, values in obs.items()})
        assert fitted.fits_[batch].info["curve"] == [list(point) for point in alone.curve]


def test_what_grid_needs(screen) -> None:
    rows, obs = screen
    lonely = np.array([f"t{i}" for i in range(len(rows))], object)
    for changed, code in (
        ({"plate": np.zeros(len(rows))}, "too_few_plates"),
        ({"treatment": lonely}, "no_replicates"),
        ({"is_control": obs["is_control"] & (obs["plate"] == 1)}, "too_few_controls"),
        ({"treatment": np.full(len(rows), None)}, "missing_column"),
    ):
        with pytest.raises(CorrectionError) as caught:
            Sphering(reg="grid").fit(rows, {**obs, **changed, "treatment": changed.get("treatment", lonely)})
        assert caught.value.code == code
    for missing in ("treatment", "plate"):
        with pytest.raises(CorrectionError, match=missing):
            Sphering(reg="grid").fit(rows, {name: values for name, values in obs.items() if name != missing})
    with pytest.raises(CorrectionError) as caught:
        Sphering(reg="grid").fit(rows)
    assert caught.value.code == "missing_column"
    with pytest.raises(CorrectionError) as caught:
        replicate_map(np.eye(4), np.array([0, 0, -1, -1]))  # one treatment: nothing to tell it from
    assert caught.value.code == "no_replicates"


# ---------------------------------------------------------------- what is said, what is refused


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("reg", ["knee", "shrinkage", "ridge", "heldout"])
@pytest.mark.parametrize("variant", ["ZCA-cor", "PCA"])
def test_fewer_controls_than_features(n: int, reg: str, variant: str, rng: np.random.Generator) -> None:
    rows, others = rng.normal(size=(n, 20)), rng.normal(size=(50, 20))
    if reg == "heldout" and n < 3:
        with pytest.raises(CorrectionError, match="needs 3"):
            Sphering(reg=reg, variant=variant).fit(rows)
        return
    fitted = Sphering(reg=reg, variant=variant).fit(rows)
    z = fitted.transform(others)
    assert np.isfinite(z).all()
    assert np.abs(z).max() < 1e3
    assert ("underpowered", True) in codes(fitted)
    assert any("21" in finding.message for finding in fitted.findings_)


def test_too_few_rows(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(60, 20))
    with pytest.raises(CorrectionError, match="needed are 2") as caught:
        Sphering().fit(rows[:1])
    assert caught.value.code == "too_few_controls"
    for n, strong in ((20, [True]), (21, [False]), (39, [False]), (40, [])):
        fitted = Sphering(reg="ridge").fit(rows[:n])
        assert [finding.strong for finding in fitted.findings_ if finding.code == "underpowered"] == strong
    assert "40 are needed" in Sphering(reg="ridge").fit(rows[:39]).findings_[0].message
    with pytest.raises(CorrectionError, match="needs 21") as caught:
        Sphering(reg="none").fit(rows[:20])
    assert caught.value.code == "underpowered"
    Sphering(reg="none").fit(rows[:21])
    for noise in (0, 1e-6):  # with a little noise the smallest eigenvalue is above zero, and means nothing
        dependent = rows[:, :1] + rows[:, 1:2] + noise * rng.normal(size=(60, 1))
        with pytest.raises(CorrectionError, match="depend on each other") as caught:
            Sphering(reg="none").fit(np.hstack([rows, dependent]))
        assert caught.value.code == "underpowered"


def test_two_rows_cannot_say_how_much_to_shrink(rng: np.random.Generator) -> None:
    info = only(Sphering(reg="shrinkage").fit(rng.normal(size=(2, 20)))).info
    assert info["a"] == 1
    assert info["a_estimated"] == pytest.approx(0, abs=1e-12)


def test_no_knee_is_said_and_shrinkage_done(rng: np.random.Generator) -> None:
    d, n = 8, 64
    noise = rng.normal(size=(n, d))
    noise -= noise.mean(axis=0)
    white = np.linalg.qr(noise)[0] * np.sqrt(n - 1)
    angles = np.linalg.qr(rng.normal(size=(d, d)))[0]
    linear = white * np.sqrt(np.linspace(2, 1, d)) @ angles.T  # eigenvalues of the covariance on a line
    fitted = Sphering(variant="ZCA").fit(linear)
    info = only(fitted).info
    assert (info["reg"], info["reg_asked"], info["knee_index"]) == ("shrinkage", "knee", None)
    assert codes(fitted) == [("no_knee", False)]
    assert 0 < info["a"] <= 1
    np.testing.assert_allclose(
        only(fitted).arrays["filtered"],
        only(Sphering(variant="ZCA", reg="shrinkage").fit(linear)).arrays["filtered"],
    )
    with pytest.raises(CorrectionError, match="no knee") as caught:
        Sphering(variant="ZCA", on_no_knee="error").fit(linear)
    assert caught.value.code == "no_knee"
    few = Sphering().fit(rng.normal(size=(5, 20)))
    assert "zero" in few.findings_[0].message
    assert codes(few)[0] == ("no_knee", False)


def test_constant_features(rows: NDArray) -> None:
    more = np.insert(rows, 4, 2.5, axis=1)
    names = [f"f{j}" for j in range(11)]
    fitted = Sphering().fit(more, features=names)
    assert codes(fitted) == [("constant_in_controls", False)]
    assert "f4" in fitted.findings_[0].message
    assert only(fitted).info["constant"] == ["f4"]
    z = fitted.transform(more + 1)
    assert (z[:, 4] == 0).all()
    assert (z[:, 3] != 0).all()
    with pytest.raises(CorrectionError, match="f4") as caught:
        Sphering(constant_feature="error").fit(more, features=names)
    assert caught.value.code == "constant_in_controls"
    with pytest.raises(CorrectionError) as caught:
        Sphering().fit(np.ones((50, 4)))
    assert caught.value.code == "no_variance"


def test_findings_of_many_plates_are_said_once(rng: np.random.Generator) -> None:
    rows, plates = rng.normal(size=(160, 20)), np.repeat(np.arange(8), 20)
    fitted = Sphering(scope="plate", reg="ridge").fit(
        rows, {"is_control": np.ones(160, bool), "plate": plates}
    )
    assert codes(fitted) == [("underpowered", True)]
    assert "3 more" in fitted.findings_[0].message


def test_a_plate_with_one_control_uses_the_fit_of_all(rng: np.random.Generator) -> None:
    rows, plates = rng.normal(size=(160, 20)), np.repeat(np.arange(8), 20)
    obs = {"is_control": (plates > 0) | (np.arange(160) == 0), "plate": plates}
    fitted = Sphering(scope="plate", on_small_group="global", reg="heldout").fit(rows, obs)
    assert only(fitted).info["n"] == 141
    assert only(fitted).info["held_out"] == "plate"  # of all rows; within one plate there are only rows
    assert fitted.fits_["3"].info["held_out"] == "row"
    assert codes(fitted)[0] == ("global_fit_used", False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"variant": "zca"},
        {"reg": "lasso"},
        {"reg": "floor"},
        {"reg": "floor", "lam": 0},
        {"reg": "ridge", "lam": -1},
        {"reg": "ridge", "lam": np.inf},
        {"reg": "shrinkage", "lam": 1.5},
        {"reg": "knee", "lam": 0.1},
        {"reg": "heldout", "lam": 0.1},
        {"knee_divisor": 0},
        {"sensitivity": np.nan},
        {"on_no_knee": "none"},
        {"constant_feature": "drop"},
        {"variance_floor": -1},
        {"on_small_group": "skip"},
        {"precision": "float16"},
        {"scope": "well"},
    ],
    ids=str,
)
def test_bad_parameters(wrong: dict[str, Any], rows: NDArray) -> None:
    with pytest.raises(CorrectionError) as caught:
        Sphering(**wrong).fit(rows)
    assert caught.value.code == "bad_parameter"


def test_it_is_an_estimator(rows: NDArray) -> None:
    from sklearn.base import clone

    original = Sphering(reg="heldout", seed=3, variant="PCA").fit(rows)
    copy = clone(original)
    assert copy.get_params() == original.get_params()
    assert not hasattr(copy, "fits_")
    assert original._seen is None
    with pytest.raises(CorrectionError, match="must be fitted"):
        copy.transform(rows)
    with pytest.raises(CorrectionError, match="have 9"):
        original.transform(rows[:, :9])


# ---------------------------------------------------------------- knee stability


def test_a_clear_knee_is_stable_and_noise_is_not(rng: np.random.Generator, frozen: Freeze) -> None:
    strong = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 30)) * 3 + rng.normal(size=(400, 30)) * 0.1
    low, high = knee_stability(strong)
    assert high - low <= 1
    assert low >= 2
    low, high = knee_stability(frozen(rng.normal(size=(60, 30))))
    assert 0 <= low < high <= 30
    assert high - low > 3


def test_bootstraps_equal_loops(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)) + 3
    ranked, draws, found = rows[np.argsort(rank_rows(rows))], np.random.default_rng(4), []
    for _ in range(7):
        values = np.linalg.eigvalsh(np.corrcoef(ranked[draws.integers(50, size=50)].T))[::-1]
        index = find_knee(values)
        found.append(6 if index is None else index)
    assert knee_stability(rows, bootstraps=7, seed=4) == tuple(np.quantile(found, [0.1, 0.9]))
    assert knee_stability(rows[::-1], bootstraps=7, seed=4) == knee_stability(rows, bootstraps=7, seed=4)


def test_stability_of_many_rows_is_from_some(rng: np.random.Generator, monkeypatch) -> None:
    sizes, seen = [], set()
    draw = heldout.Moments.add

    def add(self, rows: NDArray) -> Any:
        sizes.append(len(rows))
        seen.update(rows[:, 0].tolist())
        return draw(self, rows)

    monkeypatch.setattr(heldout.Moments, "add", add)
    knee_stability(rng.normal(size=(500, 4)), max_rows=80, bootstraps=3)
    assert sizes == [80, 80, 80]
    seen.clear()
    knee_stability(rng.normal(size=(500, 4)), max_rows=80, bootstraps=20)
    assert len(seen) == 80  # thinned once, without repeating a row
    assert knee_stability(rng.normal(size=(500, 2)), bootstraps=3) == (2, 2)  # two features have no knee
    for wrong in ({"bootstraps": 0}, {"max_rows": 1}):
        with pytest.raises(ValueError, match="at least 1"):
            knee_stability(rng.normal(size=(50, 4)), **wrong)
