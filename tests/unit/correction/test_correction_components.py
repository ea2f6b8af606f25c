"""Principal components of all rows against scikit-learn; capping, signs, rows without variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import EVERYTHING
from microsnoop.correction.components import PrincipalComponents, take_all_rows


@pytest.fixture
def x(rng: np.random.Generator) -> NDArray[np.float64]:
    rows = 3 + rng.normal(size=(80, 10)) @ rng.normal(size=(10, 10)) * np.geomspace(5, 0.1, 10)
    rows.flags.writeable = False
    return rows


@pytest.mark.parametrize("whiten", [False, True])
def test_scores_are_those_of_scikit_learn(whiten: bool, x: NDArray) -> None:
    corrector = PrincipalComponents(n_components=4, whiten=whiten)
    found = corrector.fit_transform(x)
    theirs = PCA(4, whiten=whiten, svd_solver="full").fit(x)
    expected = theirs.transform(x)
    signs = np.sign((found * expected).sum(axis=0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected * signs, rtol=1e-4, atol=1e-5)
    assert corrector.features_out_ == ["PC1", "PC2", "PC3", "PC4"]
    assert corrector.features_in_ == [f"x{j}" for j in range(10)]
    assert corrector.findings_ == []
    fit = corrector.fits_[EVERYTHING]
    assert fit.info["share"] == pytest.approx(theirs.explained_variance_ratio_.sum())
    np.testing.assert_allclose(fit.arrays["variances"], theirs.explained_variance_)


def test_all_rows_are_fitted_on_whatever_is_a_control(x: NDArray) -> None:
    whole = PrincipalComponents(n_components=3).fit(x)
    obs = pd.DataFrame({"is_control": np.arange(80) < 5, "obs_id": [f"r{i}" for i in range(80)]})
    marked = PrincipalComponents(n_components=3).fit(x, obs)
    assert whole.n_control_ == marked.n_control_ == 80
    assert len(marked.control_hash_) == 64
    np.testing.assert_array_equal(marked.transform(x, obs), whole.transform(x))
    np.testing.assert_array_equal(
        PrincipalComponents(n_components=3).fit(x, {}).transform(x), whole.transform(x)
    )
    assert obs["is_control"].sum() == 5
    assert take_all_rows(None, x) is None


def test_order_of_rows_does_not_matter(x: NDArray, rng: np.random.Generator) -> None:
    order = rng.permutation(80)
    corrector = PrincipalComponents(n_components=10)
    np.testing.assert_allclose(
        clone(corrector).fit_transform(x[order]), corrector.fit_transform(x)[order], atol=1e-5
    )


@pytest.mark.parametrize(("n", "d", "wanted", "kept"), [(80, 10, 50, 10), (6, 10, 50, 5), (6, 10, 5, 5)])
def test_no_more_components_than_there_are(n: int, d: int, wanted: int, kept: int, x: NDArray) -> None:
    corrector = PrincipalComponents(n_components=wanted).fit(x[:n, :d])
    assert len(corrector.features_out_) == kept
    codes = [finding.code for finding in corrector.findings_]
    assert codes == (["components_capped"] if kept < wanted else [])
    if codes:
        assert f"{n} rows of {d} features" in corrector.findings_[0].message
        assert f"{kept} components instead of {wanted}" in corrector.findings_[0].message


def test_whitened_components_are_those_that_vary(x: NDArray) -> None:
    flat = np.column_stack([x[:, :3], np.full(80, 0.1), x[:, 0] + x[:, 1]])
    found = PrincipalComponents(whiten=True).fit_transform(flat)
    assert found.shape == (80, 3)
    np.testing.assert_allclose(np.cov(found.T), np.eye(3), atol=1e-5)


def test_what_cannot_be_is_refused(x: NDArray) -> None:
    for rows, code in ((np.ones((5, 3)), "no_variance"), (x[:1], "too_few_controls")):
        with pytest.raises(CorrectionError) as caught:
            PrincipalComponents().fit(rows)
        assert caught.value.code == code
    with pytest.raises(CorrectionError, match="n_components must be at least 1"):
        PrincipalComponents(n_components=0).fit(x)
    with pytest.raises(CorrectionError, match="n, d"):
        PrincipalComponents().fit(np.array(3.0), {"is_control": []})
    corrector = PrincipalComponents(n_components=2).fit(x, features=[f"f{j}" for j in range(10)])
    with pytest.raises(CorrectionError, match="9") as caught:
        corrector.transform(x[:, :9])
    assert caught.value.code == "feature_mismatch"


def test_parameters_are_those_of_scikit_learn() -> None:
    corrector: Any = PrincipalComponents(n_components=7, whiten=True)
    assert corrector.get_params() == {"n_components": 7, "whiten": True}
    assert clone(corrector).get_params() == corrector.get_params()
