"""BBBC021 from its published per-well features: counts of the plates, and scores that were measured once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from microsnoop.core.config_file import load_settings
from microsnoop.core.profile_config import ProfileConfig
from microsnoop.pipelines.profile_scores import NSC, STRICT
from microsnoop_apps.profiling.experiment import run_methods
from microsnoop_apps.profiling.loading import Loaded, load

pytestmark = pytest.mark.shared
SHIPPED = Path(__file__).parents[3] / "configs" / "profile" / "bbbc021.yaml"
METHODS = {
    "standardise": [{"method": "standardize", "scope": "plate", "minimum_rows": 6}],
    "sphering (ridge 1)": [{"method": "sphering", "reg": "ridge", "lam": 1.0}],
    "log + sphering (held-out)": [{"method": "log"}, {"method": "sphering", "reg": "heldout"}],
}


@pytest.fixture(scope="module")
def config() -> ProfileConfig:
    """The shipped experiment with few methods and small nulls, and one in use that is not fitted five times more."""
    return load_settings(
        SHIPPED,
        ProfileConfig,
        overrides={
            "methods": METHODS, "use": "standardise", "score.permutations": 20, "score.map_null": 100,
            "score.cell_count": None,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def loaded(shared_data: Path, config: ProfileConfig) -> Loaded:
    if not (shared_data / config.input.table).is_file():
        pytest.skip(f"NOT TESTED: no {config.input.table} below {shared_data}")
    return load(config, root=str(shared_data))


def test_the_plates_are_those_of_the_publication(loaded: Loaded) -> None:
    obs = loaded.rows.obs
    assert loaded.rows.x.shape == (632, 516)
    assert np.isfinite(loaded.rows.x).all()
    counts = [obs[name].nunique() for name in ("plate", "batch", "treatment", "compound")]
    assert counts == [55, 10, 103 + 1, 38 + 1]  # the vehicle is one more treatment, of one more compound
    assert obs.loc[~obs["is_control"], "moa"].nunique() == 12
    assert int(obs["is_control"].sum()) == 330 == 6 * 55
    assert (loaded.n_input, loaded.n_read, loaded.n_rejected, loaded.n_left_out) == (632, 632, 0, 0)


def test_every_compound_is_of_one_week(loaded: Loaded) -> None:
    treated = loaded.rows.obs[~loaded.rows.obs["is_control"]]
    assert treated.groupby("compound")["batch"].nunique().eq(1).all()


def test_scores_are_those_measured(loaded: Loaded, config: ProfileConfig) -> None:
    with threadpool_limits(limits=1):  # more of them only wait for each other where tests run side by side
        experiment = run_methods(loaded.rows, config)
    assert not experiment.failed
    assert list(experiment.methods) == ["none", "PCA", *METHODS]
    right: dict[str, dict[str, int]] = {NSC: {}, STRICT: {}}
    for name, method in experiment.methods.items():
        assert len(method.scores.rules) == 5
        for rule in method.scores.rules:
            # two mechanisms are of one week each: 11 treatments that cannot be found in another one
            assert (rule.score.n, rule.n_excluded) == ((103, 0) if rule.name == NSC else (92, 11))
            assert rule.score.n_no_candidate == 0
            assert rule.score.null is not None
            assert rule.score.null.mean < 0.12
            assert rule.score.null.p == pytest.approx(1 / 21)
            if rule.name in right:
                right[rule.name][name] = rule.score.correct
    assert right[NSC]["none"] == 51
    assert 83 <= right[NSC]["standardise"] <= 86
    assert 93 <= right[NSC]["sphering (ridge 1)"] <= 97
    assert right[NSC]["log + sphering (held-out)"] >= 95
    assert right[STRICT]["none"] == 30
    assert 65 <= right[STRICT]["standardise"] <= 69
    assert 67 <= right[STRICT]["sphering (ridge 1)"] <= 72
    assert right[STRICT]["log + sphering (held-out)"] >= 74
