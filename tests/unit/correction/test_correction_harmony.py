"""The adapter of harmonypy: what it mixes, keeps, promises of seeds and order, and refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import harmonypy
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from microsnoop.core.errors import CorrectionError, MissingDependency
from microsnoop.correction.base import EVERYTHING
from microsnoop.correction.harmony import Harmony

Table = tuple[NDArray[np.float64], dict[str, NDArray[Any]], NDArray[np.int64]]


@pytest.fixture
def table(rng: np.random.Generator) -> Table:
    """Four groups in three batches; every batch is shifted, differently for each group."""
    n = 240
    group = rng.integers(0, 4, n)
    batch = np.array(["b1", "b2", "b3"])[rng.integers(0, 3, n)]
    x = 8 * rng.normal(size=(4, 12))[group] + rng.normal(size=(n, 12))
    for k, name in enumerate(["b1", "b2", "b3"]):
        for g in range(4):
            x[(batch == name) & (group == g)] += 2 * k * rng.normal(size=12)
    x.flags.writeable = False
    return x, {"batch": batch, "plate": batch, "is_control": group == 0}, group


def told_apart(rows: NDArray, what: NDArray) -> float:
    """Accuracy of a nearest-neighbour classifier trained on one half, tested on the other."""
    half = len(rows) // 2
    return float(KNeighborsClassifier(5).fit(rows[:half], what[:half]).score(rows[half:], what[half:]))


def test_batches_are_mixed_and_groups_are_kept(table: Table) -> None:
    x, obs, group = table
    corrector = Harmony(n_pcs=8)
    found = corrector.fit_transform(x, obs)
    assert found.dtype == np.float32
    assert found.shape == (240, 8)
    assert corrector.features_out_ == [f"H{j}" for j in range(1, 9)]
    before = PCA(8).fit_transform(x)
    assert told_apart(before, obs["batch"]) > 0.8
    assert told_apart(found, obs["batch"]) < 0.6
    assert told_apart(found, group) > 0.9
    info = corrector.fits_[EVERYTHING].info
    assert (info["n"], info["n_clusters"]) == (240, 8)
    assert info["converged"] is True
    assert len(info["objective"]) == info["rounds"] + 1
    assert corrector.n_control_ == 240
    assert corrector.findings_ == []


def test_no_penalty_leaves_less_mixed_than_a_strong_one(table: Table) -> None:
    x, obs, _ = table
    rows = [Harmony(n_pcs=8, theta=theta, n_clusters=4).fit_transform(x, obs) for theta in (0.0, 4.0)]
    assert not np.allclose(rows[0], rows[1], atol=1e-3)


def test_what_is_handed_over(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    x, obs, _ = table
    seen: dict[str, Any] = {}
    run: Callable[..., Any] = harmonypy.run_harmony

    def spy(data: NDArray, meta: Any, key: str, **given: Any) -> Any:
        seen.update(given, data=data, meta=meta, key=key)
        return run(data, meta, key, **given)

    monkeypatch.setattr(harmonypy, "run_harmony", spy)
    Harmony(n_pcs=6, batch_key="plate", theta=3, sigma=0.2, max_iter=7, seed=11).fit(x, obs)
    assert seen["key"] == "plate"
    assert (seen["theta"], seen["sigma"], seen["max_iter_harmony"]) == (3.0, 0.2, 7)
    assert (seen["random_state"], seen["nclust"], seen["verbose"]) == (11, 8, False)
    assert seen["epsilon_harmony"] == 1e-2
    spread = PCA(6).fit(x)
    np.testing.assert_allclose(seen["data"].var(axis=0, ddof=1), spread.explained_variance_)
    np.testing.assert_allclose(seen["data"].mean(axis=0), 0, atol=1e-10)
    assert sorted(seen["meta"]["plate"]) == sorted(obs["plate"])


@pytest.mark.parametrize(("n", "clusters"), [(60, 2), (135, 4), (165, 6), (3030, 100)])
def test_one_cluster_for_thirty_rows(n: int, clusters: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=(n, 3))
    corrector = Harmony(max_iter=1).fit(x, {"batch": np.arange(n) % 2})
    assert corrector.fits_[EVERYTHING].info["n_clusters"] == clusters


def test_seed_and_order_of_rows(table: Table, rng: np.random.Generator) -> None:
    x, obs, _ = table
    found = Harmony(n_pcs=5, seed=3).fit_transform(x, obs)
    np.testing.assert_array_equal(Harmony(n_pcs=5, seed=3).fit_transform(x, obs), found)
    assert not np.array_equal(Harmony(n_pcs=5, seed=4).fit_transform(x, obs), found)
    order = rng.permutation(len(x))
    frame = pd.DataFrame(obs).iloc[order]
    np.testing.assert_array_equal(Harmony(n_pcs=5, seed=3).fit_transform(x[order], frame), found[order])
    twice = Harmony(n_pcs=5, seed=3).fit_transform(x.astype(np.float32)[order], frame)
    np.testing.assert_array_equal(
        twice, Harmony(n_pcs=5, seed=3).fit_transform(x.astype(np.float32), obs)[order]
    )


def test_equal_rows_of_unequal_batches_in_any_order(rng: np.random.Generator) -> None:
    x = np.tile(rng.normal(size=(40, 4)), (2, 1))
    batch = np.repeat(["a", "b"], 40)
    order = rng.permutation(80)
    found = Harmony(n_pcs=3).fit_transform(x, {"batch": batch})
    np.testing.assert_array_equal(
        Harmony(n_pcs=3).fit_transform(x[order], {"batch": batch[order]}), found[order]
    )


def test_no_control_is_needed_and_none_changes_anything(table: Table) -> None:
    x, obs, _ = table
    plain = Harmony(n_pcs=5).fit_transform(x, {"batch": obs["batch"]})
    np.testing.assert_array_equal(Harmony(n_pcs=5).fit_transform(x, obs), plain)


def test_rounds_that_do_not_suffice_are_told(table: Table) -> None:
    x, obs, _ = table
    corrector = Harmony(n_pcs=8, max_iter=1).fit(x, obs)
    (finding,) = corrector.findings_
    assert finding.code == "not_converged"
    assert "after 1 rounds" in finding.message
    assert "max_iter" in finding.message
    assert corrector.fits_[EVERYTHING].info["converged"] is False


def test_components_are_capped(rng: np.random.Generator) -> None:
    corrector = Harmony(n_pcs=50).fit(rng.normal(size=(70, 6)), {"batch": np.arange(70) % 2})
    assert len(corrector.features_out_) == 6
    assert "6 components instead of 50" in corrector.findings_[0].message
    wide = Harmony(n_pcs=100).fit(rng.normal(size=(70, 90)), {"batch": np.arange(70) % 2})
    assert len(wide.features_out_) == 69


def test_nothing_is_printed(table: Table, capfd: pytest.CaptureFixture[str]) -> None:
    Harmony(n_pcs=5).fit(table[0], table[1])
    told = capfd.readouterr()
    assert told.out == told.err == ""


# ---------------------------------------------------------------- what is refused


def test_other_rows_cannot_be_corrected(table: Table) -> None:
    x, obs, _ = table
    for corrector in (Harmony(), Harmony(n_pcs=4).fit(x, obs)):
        assert corrector.transductive
        with pytest.raises(CorrectionError, match="only the rows it is fitted with") as caught:
            corrector.transform(x, obs)
        assert caught.value.code == "transductive"
        assert "fit_transform" in caught.value.hint


def test_one_batch_only(table: Table) -> None:
    x, obs, _ = table
    with pytest.raises(CorrectionError, match="one batch, 'b'") as caught:
        Harmony().fit(x, {"batch": np.full(len(x), "b")})
    assert caught.value.code == "too_few_batches"
    assert "batch_key" in caught.value.hint
    with pytest.raises(CorrectionError, match="needs the column 'week'"):
        Harmony(batch_key="week").fit(x, obs)
    with pytest.raises(CorrectionError, match="needs the column 'batch'"):
        Harmony().fit(x)


def test_a_batch_of_few_rows(rng: np.random.Generator) -> None:
    x, batch = rng.normal(size=(100, 4)), np.repeat(["a", "b", "c"], [41, 30, 29])
    with pytest.raises(CorrectionError, match=r"1 of 3 batches have fewer than 30 rows: c \(29\)") as caught:
        Harmony().fit(x, {"batch": batch})
    assert caught.value.code == "too_few_rows"
    assert "min_batch_rows" in caught.value.hint
    Harmony(min_batch_rows=29).fit(x, {"batch": batch})
    few = Harmony(min_batch_rows=3).fit(x[:10], {"batch": np.arange(10) % 2})
    assert few.fits_[EVERYTHING].info["n_clusters"] == 1


def test_more_clusters_than_rows_would_never_end(table: Table) -> None:
    x, obs, _ = table
    with pytest.raises(CorrectionError, match="n_clusters must be at most the number of rows, 240"):
        Harmony(n_clusters=241).fit(x, obs)
    assert Harmony(n_clusters=3).fit(x, obs).fits_[EVERYTHING].info["n_clusters"] == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_pcs": 0},
        {"max_iter": 0},
        {"n_clusters": 0},
        {"theta": -1.0},
        {"sigma": 0.0},
        {"min_batch_rows": 0},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any], table: Table) -> None:
    with pytest.raises(CorrectionError, match=next(iter(wrong))) as caught:
        Harmony(**wrong).fit(table[0], table[1])
    assert caught.value.code == "bad_parameter"


def test_rows_without_variance(table: Table) -> None:
    with pytest.raises(CorrectionError) as caught:
        Harmony().fit(np.ones((240, 3)), table[1])
    assert caught.value.code == "no_variance"


def test_a_missing_package_is_named_with_its_remedy(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setitem(sys.modules, "harmonypy", None)
    with pytest.raises(MissingDependency, match="harmonypy") as caught:
        Harmony().fit(table[0], table[1])
    assert "[harmony]" in caught.value.hint


def test_parameters_are_those_of_scikit_learn() -> None:
    corrector = Harmony(n_pcs=3, batch_key="plate", seed=4)
    assert clone(corrector).get_params() == corrector.get_params()
    assert len(corrector.get_params()) == 8
    assert set(corrector.get_params()) >= {"n_pcs", "theta", "sigma", "max_iter", "seed"}
