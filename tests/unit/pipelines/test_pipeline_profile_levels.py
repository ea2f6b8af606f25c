"""Rows to sites, wells and treatments: by key, counted, in any order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.ordering import natural
from microsnoop.io.profile_table import REJECT_COLUMNS, ProfileTable
from microsnoop.pipelines.profile_levels import aggregate


def make(obs: dict[str, list[Any]], x: NDArray[Any] | None = None) -> ProfileTable:
    n = len(next(iter(obs.values())))
    values = np.random.default_rng(0).normal(size=(n, 3)) if x is None else x
    frame = pd.DataFrame(obs, index=pd.Index([f"r{i}" for i in range(n)], name="obs_id"), dtype=object)
    rejects = pd.DataFrame([("gone", "not_finite", "why")], columns=list(REJECT_COLUMNS), dtype=object)
    x32 = values.astype(np.float32)
    x32.flags.writeable = False
    return ProfileTable(x32, frame, tuple(f"f{j}" for j in range(x32.shape[1])), rejects, "a table")


@pytest.fixture
def images() -> ProfileTable:
    """Two plates, wells with 1 to 3 images; compound b stands on both plates."""
    return make(
        {
            "plate": ["p2", "p2", "p2", "p10", "p10", "p10"],
            "well": ["B2", "B2", "B10", "A1", "A1", "A1"],
            "batch": ["w1", "w1", "w1", "w2", "w2", "w2"],
            "compound": ["a", "a", "b", "b", "b", "b"],
            "treatment": ["a@1", "a@1", "b@1", "b@1", "b@1", "b@1"],
            "n_cells": [10, 20, 5, 1, 1, 1],
        }
    )


def test_wells_are_means_with_counts_in_natural_order(images: ProfileTable) -> None:
    wells = aggregate(images, "well")
    assert wells.obs.index.tolist() == ["p2/B2", "p2/B10", "p10/A1"]
    np.testing.assert_allclose(wells.x[0], images.x[:2].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(wells.x[2], images.x[3:].mean(axis=0), rtol=1e-6)
    assert wells.obs["n_rows"].tolist() == [2, 1, 3]
    assert wells.obs["n_cells"].tolist() == [30, 5, 3]
    assert wells.obs["compound"].tolist() == ["a", "b", "b"]
    assert wells.rejects["obs_id"].tolist() == ["gone"]


def test_treatments_know_their_replicates(images: ProfileTable) -> None:
    found = aggregate(images, "treatment").obs
    assert found.index.tolist() == ["a@1", "b@1"]
    assert found[["n_rows", "n_wells", "n_plates", "n_batches"]].to_numpy().tolist() == [
        [2, 1, 1, 1],
        [4, 2, 2, 2],
    ]
    assert found["plates"].tolist() == ["p2", "p2;p10"]
    assert found["batches"].tolist() == ["w1", "w1;w2"]
    assert "plate" not in found  # differs inside b
    assert "well" not in found


def test_mean_of_means_and_mean_of_rows_differ_and_both_are_right(images: ProfileTable) -> None:
    rows = aggregate(images, "treatment")
    wells = aggregate(aggregate(images, "well"), "treatment")
    one, three = images.x[2], images.x[3:].mean(axis=0)
    np.testing.assert_allclose(rows.x[1], images.x[2:].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(wells.x[1], (one + three) / 2, rtol=1e-5)
    assert wells.obs["n_rows"].tolist() == rows.obs["n_rows"].tolist() == [2, 4]
    assert wells.obs["n_wells"].tolist() == [1, 2]


@pytest.mark.parametrize("statistic", ["mean", "median", "trimmed", "modz"])
def test_the_order_of_rows_does_not_matter(images: ProfileTable, statistic: str) -> None:
    order = np.random.default_rng(1).permutation(len(images.obs))
    here, there = (aggregate(t, "treatment", statistic=statistic) for t in (images, images.take(order)))
    np.testing.assert_allclose(here.x, there.x, rtol=1e-6)
    pd.testing.assert_frame_equal(here.obs, there.obs)


def test_cells_can_count_alike(images: ProfileTable) -> None:
    found = aggregate(images, "treatment", statistic="cell_weighted")
    expected = (images.x[0] * 10 + images.x[1] * 20) / 30
    np.testing.assert_allclose(found.x[0], expected, rtol=1e-6)
    wells = aggregate(
        aggregate(images, "well", statistic="cell_weighted"), "treatment", statistic="cell_weighted"
    )
    np.testing.assert_allclose(wells.x, found.x, rtol=1e-5)  # the mean over cells, by whatever road
    for broken in (images.obs.drop(columns="n_cells"), images.obs.assign(n_cells=0)):
        with pytest.raises(InputError, match="n_cells above 0"):
            aggregate(
                ProfileTable(images.x, broken, images.features, images.rejects, "t"),
                "well",
                statistic="cell_weighted",
            )


def test_statistics_are_those_of_their_names(images: ProfileTable) -> None:
    found = aggregate(images, "treatment", statistic="median")
    np.testing.assert_allclose(found.x[1], np.median(images.x[2:], axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="mean_std"):
        aggregate(images, "treatment", statistic="mean_std")


def test_nothing_is_lost(images: ProfileTable) -> None:
    obs = images.obs.assign(treatment=["a@1", None, "b@1", "b@1", "b@1", "c@1"])
    table = ProfileTable(images.x, obs, images.features, images.rejects, "a table")
    found = aggregate(table, "treatment", min_rows=2)
    assert found.obs.index.tolist() == ["b@1"]
    rejects = found.rejects.set_index("obs_id")
    assert rejects["code"].to_dict() == {
        "gone": "not_finite", "r1": "no_group_key", "a@1": "too_few_members", "c@1": "too_few_members",
    }  # fmt: skip
    assert rejects.loc["a@1", "message"] == "a@1 has 1 row(s), needed are 2"


def test_a_level_without_its_columns_is_an_error(images: ProfileTable) -> None:
    with pytest.raises(InputError, match="without site"):
        aggregate(images, "site")
    with pytest.raises(ValueError, match="plates"):
        aggregate(images, "plates")


def test_names_are_ordered_as_people_would() -> None:
    assert sorted(["b10", "b9", "10", "9", "a"], key=natural) == ["9", "10", "a", "b9", "b10"]
    assert sorted(["P1", "P01"], key=natural) == sorted(["P01", "P1"], key=natural)  # never a tie
