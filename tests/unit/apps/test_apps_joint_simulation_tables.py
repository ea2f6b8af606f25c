"""Means, intervals, differences and words of a simulation, from fits that are made up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from microsnoop_apps.joint_simulation.fits import MEASURES, DataFacts, Fit
from microsnoop_apps.joint_simulation.report import (
    difference_table,
    findings_of,
    gate_table,
    notes_of,
    overview,
    table_of,
    verdicts,
    write_report,
)
from microsnoop_apps.joint_simulation.tables import (
    BEST_SINGLE,
    Scores,
    data_rows,
    differences,
    fit_rows,
    short,
    sorted_fits,
    summary_rows,
    t_interval,
    with_interval,
)


def fit(method: str, ari: float, *, data: int = 0, seed: int = 0, value: float = 0.1, **more: Any) -> Fit:
    scores = dict.fromkeys(MEASURES, ari) | {"silhouette": ari / 2}
    return Fit(value, data, seed, method, **({"scores": scores, "seconds": 2.0, "cpu_seconds": 1.0} | more))


def scores(*fits: Fit, facts: tuple[DataFacts, ...] = ()) -> Scores:
    values = tuple(dict.fromkeys(one.value for one in fits))
    return Scores("decay_coef_2", values, fits, facts)


@pytest.fixture
def three() -> Scores:
    """Data sets 0 to 2; MUSE has two fits to each, and is .05 below transcripts in one of them."""
    fits = []
    for data, (rna, image, joint) in enumerate([(0.50, 0.30, 0.60), (0.40, 0.35, 0.70), (0.60, 0.10, 0.55)]):
        fits += [
            fit("transcripts", rna, data=data), fit("images", image, data=data),
            fit("muse", joint - 0.02, data=data, model={"gate_rna": 1.0, "gate_image": 0.5}),
            fit("muse", joint + 0.02, data=data, seed=1, model={"gate_rna": 1.0, "gate_image": 0.7}),
            fit("muse_shuffled", rna - 0.1, data=data),
        ]  # fmt: skip
    facts = tuple(DataFacts(0.1, data, 100, 0, 0.9, 0.8, 1.5, 0.01 * (data + 1)) for data in range(3))
    return scores(*fits, facts=facts)


def test_interval_is_students() -> None:
    found = t_interval(np.array([1.0, 2.0, 3.0]))
    assert found.method == "t"
    # t of two degrees of freedom times 1 / sqrt(3)
    assert (found.low, found.high) == (
        pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4),
        pytest.approx(4.4841, abs=1e-3),
    )
    assert math.isnan(t_interval(np.array([1.0])).low)
    assert math.isnan(t_interval(np.array([])).high)


def test_fits_are_averaged_before_data_sets() -> None:
    uneven = scores(fit("muse", 1.0, data=0), fit("muse", 0.0, data=1), fit("muse", 0.2, data=1, seed=1))
    found = uneven.mean(0.1, "muse", "ari_kmeans")
    assert found.value == pytest.approx((1.0 + 0.1) / 2)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 2)


def test_missing_silhouettes_are_left_out_and_failures_counted() -> None:
    gone = fit("muse", 0.4, data=1)
    gone.scores["silhouette"] = math.nan
    found = scores(fit("muse", 0.2), gone, Fit(0.1, 2, 0, "muse", failed="why"), fit("images", 0.1))
    assert found.mean(0.1, "muse", "silhouette").value == pytest.approx(0.1)
    assert found.mean(0.1, "muse", "silhouette").n == 1
    assert found.mean(0.1, "muse", "ari_kmeans").n == 2
    assert found.mean(0.1, "wnn", "ari_kmeans").n == 0
    assert findings_of(found) == [("no result", "MUSE, 1 fits: why", True)]


def test_best_single_modality_is_chosen_by_value_and_measure() -> None:
    raw = fit("images_raw", 0.9)
    raw.scores["ari_leiden"] = 0.1
    found = scores(fit("transcripts", 0.5), raw, fit("muse", 0.8), fit("transcripts", 0.5, value=0.5),
                   fit("images_raw", 0.2, value=0.5), fit("muse", 0.48, value=0.5))  # fmt: skip
    assert found.best_single(0.1, "ari_kmeans") == "images_raw"
    assert found.best_single(0.1, "ari_leiden") == "transcripts"
    assert found.best_single(0.5, "ari_kmeans") == "transcripts"
    assert scores(fit("muse", 0.3)).best_single(0.1, "ari_kmeans") is None
    low = found.difference(0.1, "ari_kmeans", "muse", BEST_SINGLE)
    near = found.difference(0.5, "ari_kmeans", "muse", BEST_SINGLE)
    assert low is not None
    assert near is not None
    assert (low.which, low.within, near.which, near.within) == ("images_raw", False, "transcripts", True)


def test_exactly_the_tolerance_is_within() -> None:
    found = scores(fit("transcripts", 0.5), fit("muse", 0.47)).difference(
        0.1, "ari_best", "muse", BEST_SINGLE
    )
    assert found is not None
    assert found.within
    assert not math.isclose(found.mean, -0.03, rel_tol=0, abs_tol=1e-18)  # what rounding makes of it


def test_differences_are_paired(three: Scores) -> None:
    found = three.difference(0.1, "ari_kmeans", "muse", BEST_SINGLE)
    assert found is not None
    gained = np.array([0.10, 0.30, -0.05])
    assert found.which == "transcripts"
    assert found.mean == pytest.approx(gained.mean())
    assert found.interval.low == pytest.approx(t_interval(gained).low)
    assert (found.n, found.better_in) == (3, 2)
    pairs = {(one.method, one.other) for one in differences(three)}
    assert pairs == {
        ("muse", BEST_SINGLE), ("muse_shuffled", BEST_SINGLE), ("muse", "transcripts"), ("muse", "images"),
        ("muse", "muse_shuffled"),
    }  # fmt: skip
    assert len(differences(three)) == 5 * len(MEASURES)


def test_only_data_sets_that_both_have_are_compared() -> None:
    found = scores(fit("transcripts", 0.5), fit("transcripts", 0.1, data=1), fit("muse", 0.6),
                   fit("muse", 0.9, data=2))  # fmt: skip
    one = found.difference(0.1, "ari_kmeans", "muse", "transcripts")
    assert one is not None
    assert (one.n, one.mean) == (1, pytest.approx(0.1))
    assert scores(fit("transcripts", 0.5), fit("muse", 0.9, data=2)).difference(
        0.1, "ari_kmeans", "muse", "transcripts"
    ) is None  # fmt: skip


def test_tables_for_people(three: Scores) -> None:
    found = differences(three)
    header, rows = difference_table(found, "decay_coef_2")
    assert header[:3] == ("decay_coef_2", "measure", "MUSE less")
    assert [row[:3] for row in rows] == [
        ["0.1", measure, "transcripts"] for measure in ("ARI k-means", "ARI Leiden", "ARI Leiden, best")
    ]
    assert rows[0][3].startswith("+0.12 [")
    assert rows[0][4:] == ["2 of 3", "yes"]
    assert difference_table(found, "x", method="muse_shuffled")[1][0][-1] == "NO"
    header, rows = table_of(three, 0.1)
    assert [row[0] for row in rows] == ["transcripts", "images", "MUSE", "MUSE, shuffled pairs"]
    assert rows[2][1].startswith("0.62 [")
    assert rows[2][-2:] == ["2.0", "1.0"]
    assert all(len(row) == len(header) for row in rows)
    assert overview(three, "silhouette")[1][0][1].startswith("0.25 [")
    header, rows = gate_table(three)
    # ceilings, gates (mean over fits), ratio, largest p, data sets in which pairs matter
    assert rows == [["0.1", "0.90", "0.80", "–", "–", "1.00", "0.60", "–", "1.50", "0.03", "3 of 3"]]
    assert len(header) == len(rows[0])


def test_verdict_says_when_it_is_worse(three: Scores) -> None:
    [text] = verdicts(three, differences(three))
    assert "MUSE 0.62, +0.12" in text
    assert ", within 0.03 of it; better than with shuffled pairs in 3 of 3 data sets." in text
    worse = scores(fit("transcripts", 0.5), fit("muse", 0.4))
    [text] = verdicts(worse, differences(worse))
    assert text.endswith("-0.10 against the best single modality (transcripts), NOT within 0.03 of it.")
    beaten = scores(
        fit("transcripts", 0.5),
        fit("muse", 0.6),
        fit("concat", 0.7),
        fit("wnn", 0.65),
        fit("mofa", 0.9, data=1),
    )
    [text] = verdicts(beaten, differences(beaten))
    assert text.endswith("within 0.03 of it; -0.10 against the best other joint method (concatenated).")
    assert verdicts(scores(fit("transcripts", 0.5)), []) == []


def test_warnings_and_notes_are_counted() -> None:
    found = scores(
        fit("muse", 0.1, findings=("weak_modality", "flat_latent")), fit("muse", 0.1, data=1),
        fit("muse", 0.2, data=2, findings=("weak_modality",)), fit("mofa", 0.1, notes=("7 of 10",)),
        fit("mofa", 0.1, data=1, notes=("7 of 10",)),
        facts=(DataFacts(0.1, 0, 98, 2, 1.0, 1.0), DataFacts(0.1, 1, 99, 1, 1.0, 1.0),
               DataFacts(0.1, 2, 100, 0, 1.0, 1.0)),
    )  # fmt: skip
    assert findings_of(found) == [
        ("flat_latent", "MUSE, decay_coef_2 0.1: 1 of 3 fits", False),
        ("weak_modality", "MUSE, decay_coef_2 0.1: 2 of 3 fits", False),
        ("empty_cell", "3 cells of 2 data sets have no transcript: left out for every method", False),
    ]
    assert notes_of(found) == ["MOFA, 2 fits: 7 of 10"]


def test_rows_leave_what_is_missing_empty(three: Scores) -> None:
    failed = Fit(0.1, 0, 0, "wnn", failed="not installed: do this")
    rows = fit_rows(scores(failed))
    assert rows == [
        ["decay_coef_2", "0.1", "0", "0", "WNN", *[""] * (len(rows[0]) - 6), "not installed: do this"]
    ]
    summary = summary_rows(scores(failed, fit("images", 0.25)))
    assert summary[0][:6] == ["decay_coef_2", "0.1", "images", "1", "1", "0.25"]
    assert summary[0][6:8] == ["", ""]  # no interval of one data set
    assert summary[1][2:6] == ["WNN", "0", "0", ""]
    assert data_rows(three)[2] == ["decay_coef_2", "0.1", "2", "100", "0", "0.9", "0.8", "1.5", "0.03"]


def test_words_of_numbers() -> None:
    assert (short(math.nan), short(0.456)) == ("–", "0.46")
    pair = t_interval(np.array([0.1, 0.1]))
    assert with_interval(0.1, pair) == "0.10 [0.10, 0.10]"
    assert with_interval(0.1, t_interval(np.array([0.1])), sign=True) == "+0.10"
    assert with_interval(math.nan, pair) == "–"


def test_fits_are_sorted_by_what_they_are() -> None:
    fits = [Fit(v, d, s, m)
            for v in (0.1, 0.5) for d in (1, 0) for s in (1, 0) for m in ("muse", "transcripts")]  # fmt: skip
    found = sorted_fits(fits, (0.5, 0.1))
    assert [(f.value, f.data_seed, f.method, f.model_seed) for f in found[:5]] == [
        (0.5, 0, "transcripts", 0), (0.5, 0, "transcripts", 1), (0.5, 0, "muse", 0), (0.5, 0, "muse", 1),
        (0.5, 1, "transcripts", 0),
    ]  # fmt: skip
    assert found[-1].value == 0.1


def test_report_shows_the_released_tool_only_beside_its_cells(three: Scores, tmp_path: Any) -> None:
    for is_reference in (False, True):
        write_report(
            three, differences(three), title="<b>", is_reference=is_reference, figure=None,
            provenance={"a": "b"}, out=tmp_path,
        )  # fmt: skip
        page = (tmp_path / "report.md").read_text()
        assert ("What the released tool reached" in page) == is_reference
        assert "<b>" not in page
    line = next(line for line in page.splitlines() if line.startswith("| 0.1 | MUSE as published"))
    assert line.split("|")[3:6] == [" 0.89 ", " – ", " 0.62 "]
