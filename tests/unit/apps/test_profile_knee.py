"""The guard rail on the knee: said where it hangs on which controls were drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from microsnoop.correction.steps import build
from microsnoop.io.profile_table import ProfileTable, from_arrays
from microsnoop.pipelines.profile_plates import correction_obs
from microsnoop_apps.profiling.experiment import _knees


def table(scales: np.ndarray, n: int) -> ProfileTable:
    rng = np.random.default_rng(0)
    d = len(scales)
    turned = rng.normal(size=(n, d)) * scales @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    obs = pd.DataFrame({"plate": "p1", "well": "A01", "is_control": True}, index=[f"r{i}" for i in range(n)])
    return from_arrays(turned, obs, [f"f{j}" for j in range(d)], source="made up")


def test_a_knee_that_hangs_on_few_controls_is_found() -> None:
    loose = table(np.sqrt(np.linspace(2, 0.02, 60)), 200)  # eigenvalues on a straight line have no bend
    firm = table(np.r_[np.full(3, 10.0), np.full(57, 0.1)], 400)
    found = []
    for rows in (loose, firm):
        corrector = build([{"method": "sphering", "reg": "knee", "variant": "PCA"}])
        corrector.fit(rows.x, correction_obs(rows), features=rows.features)
        found.append([finding.code for finding in _knees(corrector, rows, seed=0)])
    assert found == [["unstable_knee"], []]


@pytest.mark.parametrize("steps", [[{"method": "sphering", "reg": "ridge"}], [{"method": "log"}]])
def test_without_a_knee_there_is_nothing_to_say(steps: list[dict[str, str]]) -> None:
    rows = table(np.linspace(2, 1, 8), 50)
    corrector = build(steps).fit(rows.x, correction_obs(rows), features=rows.features)
    assert _knees(corrector, rows, seed=0) == []
