"""Scalings by plate against loops and pycytominer; what becomes of features without spread and of small groups."""

from __future__ import annotations

import statistics as stats
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pycytominer.operations.transform import RobustMAD
from sklearn.base import clone

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import EVERYTHING, ScopedCorrector
from microsnoop.correction.standardize import MadRobustize, SignedLog, Standardize

Plates = tuple[NDArray[np.float64], dict[str, NDArray[Any]]]
ALL = [Standardize, MadRobustize, SignedLog]


@pytest.fixture
def plates(rng: np.random.Generator) -> Plates:
    """Three plates of 30 rows, ten of them controls, that differ in centre and scale; treatments are wild."""
    plate = np.repeat(["p1", "p2", "p3"], 30)
    control = np.arange(90) % 3 == 0
    x = rng.normal(size=(90, 12)) * rng.uniform(0.1, 5, 12)
    x[30:60] = 4 * x[30:60] + 100
    x[60:] = 0.1 * x[60:] - 7
    x[~control] *= 50
    for array in (x, plate, control):
        array.flags.writeable = False
    return x, {"plate": plate, "batch": plate, "is_control": control}


def naive(corrector: ScopedCorrector, values: list[float], value: float) -> float:
    if isinstance(corrector, MadRobustize):
        middle = stats.median(values)
        return (value - middle) / (1.4826 * stats.median([abs(v - middle) for v in values]) + 1e-18)
    z = (value - stats.fmean(values)) / stats.stdev(values)
    return float(np.sign(z) * np.log1p(abs(z))) if isinstance(corrector, SignedLog) else z


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("scope", ["plate", "batch", "global"])
def test_every_number_equals_a_loop(cls: type[ScopedCorrector], scope: str, plates: Plates) -> None:
    x, obs = plates
    corrector = cls(scope=scope)
    found = corrector.fit_transform(x, obs)
    assert found.dtype == np.float32
    assert found.shape == x.shape
    assert corrector.findings_ == []
    assert corrector.n_control_ == 30
    for i in (0, 1, 29, 30, 47, 89):
        near = obs["is_control"] & ((obs["plate"] == obs["plate"][i]) | (scope == "global"))
        expected = [naive(corrector, x[near, j].tolist(), x[i, j]) for j in range(12)]
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", [Standardize, MadRobustize])
def test_reference_all_takes_treatments_too_and_needs_no_controls(
    cls: type[ScopedCorrector], plates: Plates
) -> None:
    x, obs = plates
    corrector = cls(reference="all")
    found = corrector.fit_transform(x, pd.DataFrame({"plate": obs["plate"]}))
    assert corrector.n_control_ == 90
    np.testing.assert_array_equal(found, cls(reference="all").fit_transform(x, obs))
    near = obs["plate"] == "p2"
    expected = [naive(corrector, x[near, j].tolist(), x[40, j]) for j in range(12)]
    np.testing.assert_allclose(found[40], expected, rtol=1e-5)
    with pytest.raises(CorrectionError, match="is_control"):
        cls().fit(x, {"plate": obs["plate"]})


def test_controls_are_standard_afterwards(plates: Plates) -> None:
    x, obs = plates
    found = Standardize().fit_transform(x, obs).astype(float)
    for name in ("p1", "p2", "p3"):
        rows = found[(obs["plate"] == name) & obs["is_control"]]
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(rows.std(axis=0, ddof=1), 1, rtol=1e-6)


def test_mad_known_value_and_pycytominer(plates: Plates) -> None:
    known = np.array([[1.0], [2], [3], [4], [100]])
    found = MadRobustize(scope="global", minimum_rows=5).fit_transform(known)
    assert np.round(found.ravel().astype(float), 3).tolist() == [-1.349, -0.674, 0, 0.674, 65.426]
    x, obs = plates
    mine = MadRobustize().fit_transform(x, obs)
    for name in ("p1", "p2", "p3"):
        table = pd.DataFrame(x[obs["plate"] == name])
        theirs = RobustMAD().fit(table[obs["is_control"][obs["plate"] == name]]).transform(table)
        np.testing.assert_allclose(mine[obs["plate"] == name], theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", ALL)
def test_order_of_rows_and_unused_treatments_do_not_matter(
    cls: type[ScopedCorrector], plates: Plates, rng: np.random.Generator
) -> None:
    x, obs = plates
    order = rng.permutation(90)
    found = cls().fit_transform(x[order], {name: values[order] for name, values in obs.items()})
    np.testing.assert_allclose(found, cls().fit_transform(x, obs)[order], rtol=1e-5, atol=1e-6)
    wild = np.where(obs["is_control"][:, None], x, 1e6)
    np.testing.assert_array_equal(cls().fit(wild, obs).transform(x, obs), cls().fit_transform(x, obs))


# ---------------------------------------------------------------- features without spread


@pytest.mark.parametrize("cls", ALL)
def test_a_feature_flat_on_one_plate_goes_everywhere(cls: type[ScopedCorrector], plates: Plates) -> None:
    x, obs = plates
    flat = x.copy()
    flat[(obs["plate"] == "p2") & obs["is_control"], 4] = 0.1
    names = [f"f{j}" for j in range(12)]
    corrector = cls(scope="plate").fit(flat, obs, features=names)
    assert corrector.features_in_ == names
    assert corrector.features_out_ == names[:4] + names[5:]
    (finding,) = corrector.findings_
    assert finding.code == "zero_scale_dropped"
    assert "1 of 12 features" in finding.message
    assert "p2: f4" in finding.message
    assert "p1" not in finding.message
    found = corrector.transform(flat, obs, features=names)
    left = cls(scope="plate").fit_transform(np.delete(flat, 4, axis=1), obs)
    np.testing.assert_array_equal(found, left)
    assert [len(fit.arrays["center"]) for fit in corrector.fits_.values()] == [11] * 3
    assert corrector.fits_["p2"].info["zero_scale"] == ["f4"]


def test_mad_has_no_scale_where_most_controls_are_alike(plates: Plates) -> None:
    x, obs = plates
    flat = x.copy()
    rows = np.flatnonzero((obs["plate"] == "p3") & obs["is_control"])
    flat[rows[:6], 0] = 0.0
    assert len(MadRobustize().fit(flat, obs).features_out_) == 11
    assert len(Standardize().fit(flat, obs).features_out_) == 12


@pytest.mark.parametrize("cls", ALL)
def test_more_than_a_tenth_without_spread_is_an_error(cls: type[ScopedCorrector], plates: Plates) -> None:
    x, obs = plates
    flat = x.copy()
    flat[obs["is_control"] & (obs["plate"] == "p1"), 1] = 3
    flat[obs["is_control"] & (obs["plate"] == "p3"), 7] = 3
    with pytest.raises(
        CorrectionError, match=r"2 of 12 features .* of p1, p3: x1, x7; at most 10%"
    ) as caught:
        cls(scope="plate").fit(flat, obs)
    assert caught.value.code == "zero_scale"
    assert "max_dropped" in caught.value.hint
    assert len(cls(scope="plate", max_dropped=0.2).fit(flat, obs).features_out_) == 10
    with pytest.raises(CorrectionError, match="12 of 12"):
        cls(scope="plate", max_dropped=1.0).fit(np.ones_like(x), obs)


def test_exactly_a_tenth_may_go(plates: Plates) -> None:
    x, obs = plates
    flat = x[:, :10].copy()
    flat[:, 3] = 1
    assert len(Standardize().fit(flat, obs).features_out_) == 9


@pytest.mark.parametrize("cls", ALL)
def test_no_spread_is_an_error_where_asked(cls: type[ScopedCorrector], plates: Plates) -> None:
    x, obs = plates
    flat = x.copy()
    flat[:, 2] = 5
    with pytest.raises(CorrectionError, match="x2") as caught:
        cls(zero_scale="error").fit(flat, obs)
    assert caught.value.code == "zero_scale"


def test_eps_divides_by_the_published_number_and_says_so(plates: Plates) -> None:
    x, obs = plates
    flat = x.copy()
    flat[obs["is_control"], 2] = 5
    flat[1, 2] = 6
    corrector = MadRobustize(zero_scale="eps")
    found = corrector.fit_transform(flat, obs)
    assert found.shape == (90, 12)
    assert found[1, 2] == pytest.approx(1e18, rel=1e-6)
    (finding,) = corrector.findings_
    assert (finding.code, finding.strong) == ("zero_scale_kept", True)
    with pytest.raises(CorrectionError, match="zero_scale must be one of drop, error, got 'eps'"):
        Standardize(zero_scale="eps").fit(x, obs)


def test_what_float32_cannot_hold_is_an_error(plates: Plates) -> None:
    x, obs = plates
    flat = x.copy()
    flat[obs["is_control"], 2] = 5
    flat[1, 2] = 1e25
    with pytest.raises(CorrectionError, match="x2 becomes 1e") as caught:
        MadRobustize(zero_scale="eps").fit_transform(flat, obs)
    assert caught.value.code == "overflow"


# ---------------------------------------------------------------- small groups, parameters, contract


def small(plates: Plates) -> dict[str, NDArray[Any]]:
    """Six controls on p2, the other plates have ten."""
    obs = dict(plates[1])
    few = obs["is_control"].copy()
    few[np.flatnonzero(few & (obs["plate"] == "p2"))[6:]] = False
    return obs | {"is_control": few}


@pytest.mark.parametrize("cls", ALL)
def test_fewer_than_eight_controls_are_too_few(cls: type[ScopedCorrector], plates: Plates) -> None:
    x, obs = plates[0], small(plates)
    with pytest.raises(CorrectionError, match=r"p2 has 6 control row\(s\), needed are 8") as caught:
        cls(scope="plate").fit(x, obs)
    assert caught.value.code == "too_few_controls"
    six = cls(scope="plate", minimum_rows=6).fit(x, obs)
    assert [fit.info["n"] for fit in six.fits_.values()] == [10, 6, 10]
    with pytest.raises(CorrectionError, match="needed are 7"):
        cls(scope="plate", minimum_rows=7).fit(x, obs)


@pytest.mark.parametrize("cls", ALL)
def test_a_small_group_may_use_the_fit_of_all(cls: type[ScopedCorrector], plates: Plates) -> None:
    x, obs = plates[0], small(plates)
    flat = x.copy()
    flat[obs["is_control"] & (obs["plate"] == "p1"), 5] = 1
    corrector = cls(scope="plate", on_small_group="global").fit(flat, obs)
    assert sorted(corrector.fits_) == sorted([EVERYTHING, "p1", "p3"])
    assert sorted(f.code for f in corrector.findings_) == ["global_fit_used", "zero_scale_dropped"]
    keep = [j for j in range(12) if j != 5]
    whole = cls(scope="global").fit(flat[:, keep], obs)
    on_p2 = obs["plate"] == "p2"
    np.testing.assert_array_equal(
        corrector.transform(flat, obs)[on_p2], whole.transform(flat[:, keep], obs)[on_p2]
    )


@pytest.mark.parametrize("cls", ALL)
def test_parameters_are_those_of_scikit_learn(cls: type[ScopedCorrector]) -> None:
    corrector = cls(scope="batch", max_dropped=0.3, minimum_rows=4)
    assert {"scope", "zero_scale", "max_dropped", "on_small_group", "minimum_rows"} <= set(
        corrector.get_params()
    )
    assert clone(corrector).get_params() == corrector.get_params()
    assert ("reference" in corrector.get_params()) == (cls is not SignedLog)
    assert (cls().scope, cls().minimum) == ("global" if cls is SignedLog else "plate", 8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reference": "treatments"},
        {"zero_scale": "keep"},
        {"on_small_group": "skip"},
        {"max_dropped": -0.1},
        {"max_dropped": 1.1},
        {"minimum_rows": 1},
        {"scope": "well"},
    ],
)
@pytest.mark.parametrize("cls", [Standardize, MadRobustize])
def test_wrong_parameters_are_refused(
    cls: type[ScopedCorrector], wrong: dict[str, Any], plates: Plates
) -> None:
    with pytest.raises(CorrectionError, match=next(iter(wrong))) as caught:
        cls(**wrong).fit(*plates)
    assert caught.value.code == "bad_parameter"


def test_log_tames_outliers_and_keeps_order(plates: Plates) -> None:
    x, obs = plates
    wild = x.copy()
    wild[1, 0] = 1e9
    found = SignedLog().fit_transform(wild, obs)
    assert found[1, 0] < 25
    np.testing.assert_array_equal(found.argsort(axis=0, kind="stable"), wild.argsort(axis=0, kind="stable"))
