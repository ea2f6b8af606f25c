"""Chains against their steps done by hand, and settings that become chains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import clone

from microsnoop.core.errors import ConfigError, CorrectionError
from microsnoop.correction.base import Corrector
from microsnoop.correction.chain import Chain
from microsnoop.correction.components import PrincipalComponents
from microsnoop.correction.harmony import Harmony
from microsnoop.correction.standardize import MadRobustize, SignedLog, Standardize
from microsnoop.correction.steps import METHODS, build, find_method
from microsnoop.correction.typical import TypicalVariation

Plates = tuple[NDArray[np.float64], dict[str, NDArray[Any]]]


@pytest.fixture
def plates(rng: np.random.Generator) -> Plates:
    """Two batches of 60 rows, a third of them controls; feature x3 does not vary on the second."""
    plate = np.repeat(["p1", "p2"], 60)
    control = np.arange(120) % 3 == 0
    x = rng.normal(size=(120, 12)) @ rng.normal(size=(12, 12))
    x[60:] = 3 * x[60:] + 5
    x[60:, 3] = 1.5
    ids = np.array([f"r{i:03}" for i in range(120)])
    for array in (x, plate, control, ids):
        array.flags.writeable = False
    return x, {"plate": plate, "batch": plate, "is_control": control, "obs_id": ids}


def test_a_chain_is_its_steps_one_after_the_other(plates: Plates) -> None:
    x, obs = plates
    names = [f"f{j}" for j in range(12)]
    chain = Chain([MadRobustize(), TypicalVariation(n_components=20), PrincipalComponents(n_components=4)])
    found = chain.fit_transform(x, obs, features=names)

    first = MadRobustize().fit(x, obs, features=names)
    one = first.transform(x, obs)
    second = TypicalVariation(n_components=20).fit(one, obs, features=first.features_out_)
    two = second.transform(one, obs)
    expected = PrincipalComponents(n_components=4).fit_transform(two, obs)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(chain.transform(x, obs, features=names), expected)
    np.testing.assert_array_equal(clone(chain).fit(x, obs, features=names).transform(x, obs), expected)

    assert chain.features_in_ == names
    assert chain.features_out_ == ["PC1", "PC2", "PC3", "PC4"]
    assert chain.steps[1].features_in_ == first.features_out_ == [n for n in names if n != "f3"]
    assert chain.fits_ == {}
    assert not chain.transductive


def test_findings_say_which_step_they_are_of(plates: Plates) -> None:
    x, obs = plates
    chain = Chain([Standardize(), PrincipalComponents(n_components=50)]).fit(x, obs)
    assert [f.code for f in chain.findings_] == ["zero_scale_dropped", "components_capped"]
    assert chain.findings_[0].message.startswith("step 1 (standardize): 1 of 12 features")
    assert chain.findings_[1].message.startswith("step 2 (pca): 120 rows of 11 features")
    strong = Chain([MadRobustize(zero_scale="eps")]).fit(x, obs)
    assert [f.strong for f in strong.findings_] == [True]
    chain.fit(x, obs)  # told once, not once more for each fit
    assert len(chain.findings_) == 2


def test_the_rows_fitted_on_are_those_of_the_step_with_most(plates: Plates) -> None:
    x, obs = plates
    controls = Chain([MadRobustize(), SignedLog()]).fit(x, obs)
    assert controls.n_control_ == 40
    assert controls.control_hash_ == controls.steps[0].control_hash_ != ""
    for steps in ([PrincipalComponents(), SignedLog()], [SignedLog(), PrincipalComponents()]):
        chain = Chain(steps).fit(x, obs)
        assert chain.n_control_ == 120
        assert chain.control_hash_ != controls.control_hash_


def test_rows_are_corrected_one_by_one_in_any_order(plates: Plates, rng: np.random.Generator) -> None:
    x, obs = plates
    chain = build([{"method": "mad"}, {"method": "tvn"}]).fit(x, obs)
    found, order = chain.transform(x, obs), rng.permutation(120)[:50]
    some = chain.transform(x[order], {name: values[order] for name, values in obs.items()})
    np.testing.assert_allclose(some, found[order], rtol=1e-5, atol=1e-6)


def test_with_a_transductive_step_there_is_fit_transform_only(plates: Plates) -> None:
    x, obs = plates
    for chain in (
        Chain([Standardize(), Harmony(n_pcs=5)]),
        Chain([Standardize(), Harmony(n_pcs=5), PrincipalComponents(n_components=3)]),
    ):
        assert chain.transductive
        found = chain.fit_transform(x, obs)
        one = Standardize().fit_transform(x, obs)
        two = Harmony(n_pcs=5).fit_transform(one, obs)
        last = two if len(chain.steps) == 2 else PrincipalComponents(n_components=3).fit_transform(two)
        np.testing.assert_array_equal(found, last)
        assert len(chain.features_out_) == found.shape[1]
        assert chain.fit(x, obs).features_out_ == chain.features_out_
        with pytest.raises(CorrectionError) as caught:
            chain.transform(x, obs)
        assert caught.value.code == "transductive"
        assert "fit_transform" in caught.value.hint


def test_a_transductive_chain_says_so_before_anything_else(plates: Plates) -> None:
    x, obs = plates
    for chain in (Chain([Standardize(), Harmony()]), Chain([Standardize(), Harmony()]).fit(x, obs)):
        with pytest.raises(CorrectionError) as caught:
            chain.transform(x[:, :2], {})
        assert caught.value.code == "transductive"


def test_a_chain_that_failed_is_not_fitted(plates: Plates) -> None:
    x, obs = plates
    chain = Chain([SignedLog(), MadRobustize()])
    with pytest.raises(CorrectionError) as caught:
        chain.transform(x, obs)
    assert caught.value.code == "not_fitted"
    chain.fit(x, obs)
    with pytest.raises(CorrectionError, match="plate"):
        chain.fit(x, {"is_control": obs["is_control"]})
    with pytest.raises(CorrectionError) as caught:
        chain.transform(x, obs)
    assert caught.value.code == "not_fitted"


def test_features_are_checked(plates: Plates) -> None:
    x, obs = plates
    chain = Chain([MadRobustize()]).fit(x, obs, features=[f"f{j}" for j in range(12)])
    for columns, names in ((slice(0, 11), None), (slice(0, 12), [f"f{11 - j}" for j in range(12)])):
        with pytest.raises(CorrectionError) as caught:
            chain.transform(x[:, columns], obs, features=names)
        assert caught.value.code == "feature_mismatch"


def test_chains_that_cannot_be(plates: Plates) -> None:
    step = SignedLog()
    steps: list[Corrector]
    for steps, message in (([], "at least one step"), ([step, step], "same object twice")):
        with pytest.raises(CorrectionError, match=message) as caught:
            Chain(steps).fit(*plates)
        assert caught.value.code == "bad_parameter"
    assert list(Chain([step]).get_params(deep=False)) == ["steps"]


# ---------------------------------------------------------------- settings


def test_settings_become_a_chain() -> None:
    chain = build(
        [
            {"method": "mad", "scope": "batch", "zero_scale": "eps", "minimum_rows": 6},
            {"method": "standardize", "reference": "all"},
            {"method": "log"},
            {"method": "tvn", "form": "dp", "lam": "auto", "lam2": "1e-8"},
            {"method": "pca", "n_components": "7", "whiten": True},
            {"method": "harmony", "theta": 1, "n_clusters": None},
        ]
    )
    kinds = [MadRobustize, Standardize, SignedLog, TypicalVariation, PrincipalComponents, Harmony]
    assert [type(step) for step in chain.steps] == kinds
    mad, _, _, tvn, pca, harmony = (step.get_params() for step in chain.steps)
    assert (mad["scope"], mad["zero_scale"], mad["minimum_rows"]) == ("batch", "eps", 6)
    assert (tvn["lam"], tvn["lam2"]) == ("auto", 1e-8)
    assert (pca["n_components"], pca["whiten"]) == (7, True)
    assert (harmony["theta"], harmony["n_clusters"]) == (1.0, None)
    assert build([{"method": "tvn", "lam": "1e-3"}]).steps[0].get_params()["lam"] == 1e-3
    assert type(chain.steps[0]) is find_method("mad")


def test_settings_are_left_as_they_are() -> None:
    steps = [{"method": "mad", "scope": "batch"}]
    build(steps)
    assert steps == [{"method": "mad", "scope": "batch"}]


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"sphering"}))
def test_every_method_is_its_class(method: str) -> None:
    (step,) = build([{"method": method}]).steps
    assert step.method == method


def test_sphering_is_built_by_its_settings() -> None:
    pytest.importorskip("microsnoop.correction.sphering")
    (step,) = build([{"method": "sphering", "reg": "floor", "lam": "1e-2", "scope": "plate"}]).steps
    assert (step.method, step.get_params()["lam"]) == ("sphering", 0.01)


@pytest.mark.parametrize(
    ("steps", "message", "hint"),
    [
        ([], "at least one step", "sphering, standardize, mad, log, pca, tvn, harmony"),
        ([{}], "step 1: `method` is missing", "sphering, standardize"),
        (["mad"], "step 1: `method` is missing", "sphering, standardize"),
        (
            [{"method": "mad"}, {"method": "combat"}],
            "step 2: unknown method 'combat'",
            "sphering, standardize",
        ),
        ([{"method": ["mad"]}], "unknown method", "sphering, standardize"),
        (
            [{"method": "mad", "epsilon": 1}],
            r"step 1 \(mad\): unknown parameter 'epsilon'",
            "scope, reference,",
        ),
        ([{"method": "log", "reference": "all"}], "unknown parameter 'reference'", "scope, zero_scale"),
        ([{"method": "pca", "n_components": "many"}], r"step 1 \(pca\): n_components: .*, got 'many'", ""),
        ([{"method": "pca", "whiten": 3}], "whiten: .* got 3", ""),
        ([{"method": "mad", "scope": 3}], "scope: .* string, got 3", ""),
        ([{"method": "tvn", "lam": "median"}], "lam: .* got 'median'", ""),
        ([{"method": "tvn", "lam2": float("inf")}], "lam2: .* got inf", ""),
        ([{"method": "pca", "n_components": 0}], r"step 1 \(pca\): pca: n_components must be", ""),
        ([{"method": "mad", "scope": "well"}], "scope must be one of global, batch, plate, got 'well'", ""),
        ([{"method": "mad", "zero_scale": "keep"}], "zero_scale must be one of drop, error, eps", ""),
    ],
)
def test_wrong_settings_are_refused(steps: Any, message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(steps)
    assert hint in caught.value.hint
