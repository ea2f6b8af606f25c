"""TVN in both published forms against computations by hand, and what it promises: equal control covariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import fractional_matrix_power
from sklearn.base import clone

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import EVERYTHING
from microsnoop.correction.typical import TypicalVariation

Batches = tuple[NDArray[np.float64], dict[str, NDArray[Any]]]


@pytest.fixture
def batches(rng: np.random.Generator) -> Batches:
    """Two batches of unequal covariance, size and mean; half the rows are controls, treatments are wild."""
    batch = np.repeat(["a", "b"], [160, 100])
    control = np.arange(260) % 2 == 0
    x = rng.normal(size=(260, 5)) @ rng.normal(size=(5, 5))
    x[batch == "b"] = x[batch == "b"] @ rng.normal(size=(5, 5)) + 3
    x[~control] *= 20
    for array in (x, batch, control):
        array.flags.writeable = False
    return x, {"batch": batch, "is_control": control}


def power(matrix: NDArray, exponent: float, ridge: float) -> NDArray:
    return np.real(fractional_matrix_power(matrix + ridge * np.eye(len(matrix)), exponent))


def control_covariances(y: NDArray, obs: dict[str, NDArray[Any]]) -> list[NDArray]:
    return [
        np.cov(y[obs["is_control"] & (obs["batch"] == name)].T.astype(float))
        for name in np.unique(obs["batch"])
    ]


@pytest.mark.parametrize("lam", [1.0, 0.05, "auto"])
def test_dp_by_hand(lam: float | str, batches: Batches) -> None:
    x, obs = batches
    corrector = TypicalVariation(form="dp", lam=lam, lam2=1.0)
    found = corrector.fit_transform(x, obs)
    c = x[obs["is_control"]]
    of = obs["batch"][obs["is_control"]]
    s, q = np.linalg.eigh(np.cov(c.T, ddof=0))
    number = np.median(s) if lam == "auto" else lam
    assert corrector.fits_[EVERYTHING].info["lam"] == pytest.approx(number)
    assert corrector.fits_[EVERYTHING].info["lam2"] == 1.0
    white = (x - c.mean(axis=0)) @ q @ np.diag(1 / np.sqrt(s + number))
    controls = white[obs["is_control"]]
    target = power(np.cov(controls.T, ddof=0), 0.5, 1.0)
    expected = np.empty_like(white)
    for name in ("a", "b"):
        source = power(np.cov(controls[of == name].T, ddof=0), -0.5, 1.0)
        expected[obs["batch"] == name] = white[obs["batch"] == name] @ source @ target
    # the largest variance comes first here and last there; signs are free
    expected = expected[:, ::-1] * np.sign((found * expected[:, ::-1]).sum(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert found.dtype == np.float32
    assert corrector.features_out_ == [f"TVN{j}" for j in range(1, 6)]
    assert corrector.findings_ == []
    assert corrector.n_control_ == 130


def efaar_by_hand(
    x: NDArray, obs: dict[str, NDArray[Any]], *, first: bool, lam2: float = 0.5, kept: int = 5
) -> NDArray:
    control, y = obs["is_control"], x.copy()
    for rows in [obs["batch"] == "a", obs["batch"] == "b"] if first else [np.ones(len(x), bool)]:
        y[rows] = (y[rows] - y[rows & control].mean(axis=0)) / y[rows & control].std(axis=0, ddof=1)
    q = np.linalg.eigh(np.cov(y[control].T))[1]
    y = (y - y[control].mean(axis=0)) @ q[:, ::-1][:, :kept]
    y = (y - y[control].mean(axis=0)) / y[control].std(axis=0, ddof=1)
    for name in ("a", "b"):
        rows = obs["batch"] == name
        y[rows] = y[rows] @ power(np.cov(y[rows & control].T), -0.5, lam2)
    return y


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kept", [5, 3])
def test_efaar_by_hand(first: bool, kept: int, batches: Batches) -> None:
    x, obs = batches
    corrector = TypicalVariation(
        form="efaar", standardize_first=first, n_components=None if kept == 5 else kept
    )
    found = corrector.fit_transform(x, obs).astype(float)
    expected = efaar_by_hand(x, obs, first=first, kept=kept)
    expected *= np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert corrector.fits_[EVERYTHING].info["lam2"] == 0.5
    assert corrector.findings_ == []


@pytest.mark.parametrize("lam2", [1e-6, 0.5, 1.0, 50.0])
def test_alignment_of_one_batch_is_the_identity(lam2: float, batches: Batches) -> None:
    x, obs = batches
    one = {"is_control": obs["is_control"], "batch": np.full(260, "a")}
    corrector = TypicalVariation(form="dp", lam2=lam2).fit(x, one)
    np.testing.assert_allclose(corrector.fits_["a"].arrays["coral"], np.eye(5), atol=1e-10)


def test_one_batch_of_efaar_is_whitened_and_scaled(batches: Batches) -> None:
    x, obs = batches
    one = {"is_control": obs["is_control"], "batch": np.full(260, "a")}
    corrector = TypicalVariation(form="efaar").fit(x, one)
    np.testing.assert_allclose(corrector.fits_["a"].arrays["coral"], np.eye(5) / np.sqrt(1.5), atol=1e-10)


@pytest.mark.parametrize("form", ["dp", "efaar"])
@pytest.mark.parametrize("first", [False, True])
def test_control_covariances_of_batches_agree(form: str, first: bool, batches: Batches) -> None:
    x, obs = batches
    before = control_covariances(x, obs)
    assert np.abs(before[0] - before[1]).max() > 1
    found = TypicalVariation(form=form, lam2=1e-8, standardize_first=first).fit_transform(x, obs)
    # divisors differ between a batch and the whole by 1 / n at most
    scale = [79 / 80, 49 / 50] if form == "dp" else [1, 1]
    one, other = (cov * factor for cov, factor in zip(control_covariances(found, obs), scale, strict=True))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_standardising_first_takes_out_centres_of_batches(batches: Batches) -> None:
    x, obs = batches
    for form in ("dp", "efaar"):
        found = TypicalVariation(form=form, standardize_first=True).fit_transform(x, obs)
        for name in ("a", "b"):
            rows = found[obs["is_control"] & (obs["batch"] == name)]
            np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("form", ["dp", "efaar"])
def test_order_of_rows_and_values_of_treatments_do_not_matter(
    form: str, batches: Batches, rng: np.random.Generator
) -> None:
    x, obs = batches
    corrector = TypicalVariation(form=form)
    found, order = corrector.fit_transform(x, obs), rng.permutation(260)
    shuffled = clone(corrector).fit_transform(x[order], {name: v[order] for name, v in obs.items()})
    np.testing.assert_allclose(shuffled, found[order], rtol=1e-4, atol=1e-4)
    wild = np.where(obs["is_control"][:, None], x, -1e5)
    np.testing.assert_array_equal(clone(corrector).fit(wild, obs).transform(x, obs), found)
    np.testing.assert_array_equal(
        corrector.transform(x[200:], {"batch": obs["batch"][200:]}), found[200:]
    )  # no control is needed to apply it


# ---------------------------------------------------------------- components, features, lambda


def test_lambda_auto_survives_unit_norm_where_the_published_one_swamps(rng: np.random.Generator) -> None:
    x = rng.normal(size=(400, 64)) * np.geomspace(1, 0.1, 64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    obs = {"batch": np.repeat(["a", "b"], 200), "is_control": np.ones(400, bool)}
    spread = {
        lam: TypicalVariation(lam=lam).fit_transform(x, obs).var(axis=0)
        for lam in ("auto", 1.0)  # type: ignore[arg-type]
    }
    assert spread["auto"].min() > 0.05
    assert spread["auto"].max() < 1
    assert spread[1.0].max() < 0.1


@pytest.mark.parametrize("form", ["dp", "efaar"])
def test_more_features_than_controls(form: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(24, 30))
    obs = {"batch": np.repeat(["a", "b"], 12), "is_control": np.arange(24) % 2 == 0}
    corrector = TypicalVariation(form=form)
    found = corrector.fit_transform(x, obs)
    assert found.shape == (24, 11)
    assert np.isfinite(found).all()
    (finding,) = corrector.findings_
    assert finding.code == "components_capped"
    assert "12 rows of 30 features vary in 11 directions: 11 components instead of 30" in finding.message
    variances = corrector.fits_[EVERYTHING].arrays["variances"]
    if form == "dp":  # the median of those that vary, not of zeros
        assert corrector.fits_[EVERYTHING].info["lam"] == pytest.approx(np.median(variances))


def test_lambda_is_the_median_of_all_components_kept_or_not(batches: Batches) -> None:
    x, obs = batches
    whole, few = (TypicalVariation(n_components=k).fit(x, obs).fits_[EVERYTHING] for k in (None, 2))
    assert len(few.arrays["variances"]) == 2
    assert few.info["lam"] == whole.info["lam"] == np.median(whole.arrays["variances"])


def test_efaar_keeps_128_components(rng: np.random.Generator) -> None:
    x = rng.normal(size=(320, 140))
    obs = {"batch": np.repeat(["a", "b"], 160), "is_control": np.ones(320, bool)}
    assert len(TypicalVariation(form="efaar").fit(x, obs).features_out_) == 128
    assert len(TypicalVariation(form="efaar", n_components=135).fit(x, obs).features_out_) == 135
    assert len(TypicalVariation(form="dp").fit(x, obs).features_out_) == 140
    assert len(TypicalVariation(form="dp", n_components=9).fit(x, obs).features_out_) == 9


@pytest.mark.parametrize("form", ["dp", "efaar"])
@pytest.mark.parametrize("first", [False, True])
def test_a_feature_without_spread_is_left_out_and_named(form: str, first: bool, batches: Batches) -> None:
    x, obs = batches
    everywhere = np.column_stack([x[:, :2], np.full(260, 0.1), x[:, 2:]])
    corrector = TypicalVariation(form=form, standardize_first=first).fit(everywhere, obs)
    plain = TypicalVariation(form=form, standardize_first=first).fit_transform(x, obs)
    found = corrector.transform(everywhere, obs)
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)
    codes = [finding.code for finding in corrector.findings_]
    scaled = first or form == "efaar"
    assert codes == ["zero_scale_dropped" if scaled else "components_capped"]
    assert not scaled or "x2" in corrector.findings_[0].message


def test_a_feature_flat_in_one_batch_goes_where_batches_are_scaled(batches: Batches) -> None:
    x, obs = batches
    flat = x.copy()
    flat[obs["is_control"] & (obs["batch"] == "b"), 1] = 4
    corrector = TypicalVariation(standardize_first=True).fit(flat, obs)
    assert corrector.fits_[EVERYTHING].arrays["columns"].tolist() == [0, 2, 3, 4]
    assert np.isfinite(corrector.transform(flat, obs)).all()
    with pytest.raises(CorrectionError, match="none of 1 features varies") as caught:
        TypicalVariation(standardize_first=True).fit(flat[:, 1:2], obs)
    assert caught.value.code == "no_variance"


# ---------------------------------------------------------------- what is refused


def test_a_batch_without_controls(batches: Batches) -> None:
    x, obs = batches
    for left in (0, 1):
        control = obs["is_control"].copy()
        control[np.flatnonzero(control & (obs["batch"] == "b"))[left:]] = False
        with pytest.raises(
            CorrectionError, match=rf"1 of 2 batches .* fewer than 2 control rows: b \({left}\)"
        ) as e:
            TypicalVariation().fit(x, {"batch": obs["batch"], "is_control": control})
        assert e.value.code == "too_few_controls"
    corrector = TypicalVariation().fit(x, obs)
    with pytest.raises(CorrectionError, match=r"1 batch\(es\) were not among the fitted ones: c") as e:
        corrector.transform(x[:3], {"batch": np.array(["a", "c", "b"])})
    assert e.value.code == "too_few_controls"
    with pytest.raises(CorrectionError, match="not among the fitted"):
        corrector.transform(x[:1], {"batch": np.array([EVERYTHING])})


def test_the_name_of_the_whole_is_no_batch(batches: Batches) -> None:
    x, obs = batches
    named = {"is_control": obs["is_control"], "batch": np.where(obs["batch"] == "a", EVERYTHING, "b")}
    with pytest.raises(CorrectionError, match="no batch may be called"):
        TypicalVariation().fit(x, named)


def test_missing_batches_and_other_features(batches: Batches) -> None:
    x, obs = batches
    with pytest.raises(CorrectionError, match="batch"):
        TypicalVariation().fit(x)
    corrector = TypicalVariation().fit(x, obs)
    with pytest.raises(CorrectionError, match="batch"):
        corrector.transform(x)
    with pytest.raises(CorrectionError) as caught:
        corrector.transform(x[:, :4], obs)
    assert caught.value.code == "feature_mismatch"


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "google"},
        {"lam": -1.0},
        {"lam": float("nan")},
        {"lam": 1.0, "form": "efaar"},
        {"lam2": 0.0},
        {"n_components": 0},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any], batches: Batches) -> None:
    with pytest.raises(CorrectionError, match=f"tvn: {next(iter(wrong))}") as caught:
        TypicalVariation(**wrong).fit(*batches)
    assert caught.value.code == "bad_parameter"


def test_parameters_are_those_of_scikit_learn() -> None:
    corrector = TypicalVariation(form="efaar", lam2=0.1, n_components=4, standardize_first=True)
    assert clone(corrector).get_params() == corrector.get_params()
    assert set(corrector.get_params()) == {"form", "lam", "lam2", "n_components", "standardize_first"}
