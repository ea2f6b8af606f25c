"""Pictures of a profile report: what is drawn is what was given, the same bytes every time."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from microsnoop.core.plate import plate_wells
from microsnoop.ops.intervals import Null, wilson
from microsnoop.ops.treatments import TreatmentScore
from microsnoop_apps import profiling
from microsnoop_apps.profiling import GREY, PALETTE, figures, plain, plate_figures

Freeze = Callable[[NDArray], NDArray]
HOSTILE = "5 $\\frac{$g_{x} <b>\n\t\x00 化合物 \U0001f9ea " + "long " * 30


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written, as matplotlib knows them."""
    seen: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: Any, **kwargs: Any) -> None:
        seen.append(self)
        save(self, *args, **kwargs | {"dpi": 20})  # fewer pixels of the same drawing

    monkeypatch.setattr(profiling.Figure, "savefig", spy)
    return seen


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.rstrip().endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(mpl.text.Text))


def score(k: int, n: int, null: float | None = 0.2) -> TreatmentScore:
    none = np.array([], np.int64)
    found = None if null is None else Null(0.1, null, 0.005)
    return TreatmentScore(k, n, none, none, 5.0, none, none, wilson(k, n), found)


def covariance(rng: np.random.Generator, d: int) -> NDArray[np.float64]:
    return np.cov(rng.normal(size=(3 * d, d)) @ rng.normal(size=(d, d)), rowvar=False)


def drawings(rng: np.random.Generator, freeze: Freeze) -> dict[str, tuple[Callable[[Path], Path], Any]]:
    """Every kind of picture of read-only arrays, and the pixels it must have (None: as they come)."""
    c, e = freeze(covariance(rng, 12)), freeze(np.array([4.0, 2.0, 1.0, 0.1]))
    a, b = freeze(rng.uniform(-0.2, 1, 90)), freeze(rng.uniform(-0.5, 0.5, 80))
    xy, control = freeze(rng.normal(size=(40, 2))), freeze(np.arange(40) % 4 == 0)
    names, wells = freeze(rng.choice(["a", "b", "c"], 40)), [*plate_wells(24), *plate_wells(24)[:16]]
    plates, values = ["P1"] * 24 + ["P2"] * 16, freeze(rng.normal(size=40))
    shared: dict[str, Any] = {"wells": wells, "plates": plates, "format": 24, "controls": control}
    return {
        "cov": (lambda p: figures.control_covariance(c, freeze(np.eye(12)), p), (1440, 750)),
        "rep": (
            lambda p: figures.replicate_correlation([a, b], [b, b], p, titles=["none", "x"]),
            (1200, 420),
        ),
        "maps": (lambda p: figures.maps({"none": xy}, {"batch": names}, p, controls=control), (630, 648)),
        "bars": (lambda p: figures.score_bars([("none", [("NSC", score(3, 9))])], p), (765, 231)),
        "spectrum": (lambda p: figures.spectrum(e, freeze(np.maximum(e, 0.2)), 1, p), (960, 630)),
        "curve": (lambda p: figures.curve(e, e, p, xlabel="x", ylabel="y"), (960, 600)),
        "plates": (
            lambda p: plate_figures.plate_maps(
                values, wells, plates, p, format=24, controls=control, centre=True
            ),
            None,
        ),
        "pairs": (lambda p: plate_figures.plate_maps_before_after(values, values, p, **shared), None),
    }


@pytest.mark.parametrize("kind", ["cov", "rep", "maps", "bars", "spectrum", "curve", "plates", "pairs"])
def test_pictures_are_the_same_bytes_whatever_the_settings(
    kind: str, tmp_path: Path, rng: np.random.Generator, frozen: Freeze
) -> None:
    draw, size = drawings(rng, frozen)[kind]
    first, second = tmp_path / "deep" / "one.png", tmp_path / "two.png"
    assert draw(first) == first
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        before = dict(mpl.rcParams)
        draw(second)
        assert dict(mpl.rcParams) == before
    assert first.read_bytes() == second.read_bytes()
    assert b"Software" not in first.read_bytes()
    assert not list(tmp_path.rglob("*.partial"))
    width, height = png_size(first)
    if size is not None:
        assert (width, height) == pytest.approx(size, abs=2)


def test_covariance_titles_hold_means_over_all_features(
    tmp_path: Path, rng: np.random.Generator, drawn: list[Figure]
) -> None:
    before, after = covariance(rng, 7), np.eye(7) * 2
    figures.control_covariance(before, after, tmp_path / "a.png", titles=("raw", "white"))
    pairs = [
        abs(before[i, j] / np.sqrt(before[i, i] * before[j, j])) for i in range(7) for j in range(7) if i != j
    ]
    left, right = drawn[0].axes[0].get_title(), drawn[0].axes[1].get_title()
    variance = np.mean([before[i, i] for i in range(7)])
    assert left == f"raw\nmean |r| off the diagonal {np.mean(pairs):.3f}, mean variance {variance:.3g}"
    assert right == "white\nmean |r| off the diagonal 0.000, mean variance 2"


def test_covariance_is_drawn_as_correlation_in_one_order_on_one_symmetric_scale(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    group = np.arange(40) % 3  # planted groups of features, mixed
    r = np.where(group[:, None] == group, 0.6, 0.05) + 0.4 * np.eye(40)
    np.fill_diagonal(r, 1)
    scale = np.linspace(1, 9, 40)
    figures.control_covariance(r * np.outer(scale, scale), np.diag(np.arange(1.0, 41)), tmp_path / "a.png")
    left, right = (axes.images[0] for axes in drawn[0].axes[:2])
    shown = np.asarray(left.get_array())
    assert np.allclose(np.sort(shown.ravel()), np.sort(r.ravel()))
    same = shown[np.arange(39), np.arange(1, 40)] > 0.5
    assert (~same).sum() == 2  # three blocks have two borders
    assert left.get_clim() == right.get_clim() == pytest.approx((-0.6, 0.6))
    assert np.array_equal(np.asarray(right.get_array()), np.eye(40))


def test_covariance_of_many_features_shows_200_in_the_order_of_the_first(
    tmp_path: Path, rng: np.random.Generator, drawn: list[Figure]
) -> None:
    before = np.cov(rng.normal(size=(50, 450)), rowvar=False)
    figures.control_covariance(before, before, tmp_path / "a.png")
    arrays = [np.asarray(axes.images[0].get_array()) for axes in drawn[0].axes[:2]]
    assert arrays[0].shape == (200, 200)
    assert np.array_equal(*arrays)
    assert drawn[0].axes[0].get_xlabel() == "200 of 450 features, alike ones together"


def test_covariance_of_other_features_constant_ones_and_gaps(
    tmp_path: Path, rng: np.random.Generator, drawn: list[Figure]
) -> None:
    before = covariance(rng, 6)
    before[2, :] = before[:, 2] = 0  # constant
    before[4, :] = before[:, 4] = np.nan
    figures.control_covariance(before, np.array([[3.0]]), tmp_path / "a.png")
    shown = np.ma.getdata(drawn[0].axes[0].images[0].get_array())
    assert np.isnan(shown).sum() == 11
    assert (shown == 0).sum() == 8  # the constant one with four others, both ways
    assert "mean |r| off the diagonal nan, mean variance 3" in drawn[0].axes[1].get_title()


@pytest.mark.parametrize("bad", [np.zeros((2, 3)), np.zeros((0, 0)), np.zeros(4)])
def test_covariance_must_be_square(bad: NDArray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be \(d, d\)"):
        figures.control_covariance(np.eye(2), bad, tmp_path / "a.png")


def test_replicates_say_what_share_lies_above_random_pairs(tmp_path: Path, drawn: list[Figure]) -> None:
    random = np.arange(101) / 128  # exact in binary: the 95 % quantile is 95 / 128
    matched = np.array([-0.75, 95 / 128, 0.76, 0.97, np.nan, 1 + 1e-9])  # equal is not above
    figures.replicate_correlation(
        [matched, matched[:1]], [random, random], tmp_path / "a.png", titles=["m", "n"]
    )
    first, second = drawn[0].axes
    assert [t.get_text() for t in first.texts] == ["60.0 % above"]
    assert [t.get_text() for t in second.texts] == ["0.0 % above"]
    assert first.get_ylabel() == "m\n5 pairs\n1 undefined"
    assert second.get_ylabel() == "n\n1 pairs"
    assert first.lines[0].get_xdata()[0] == 95 / 128
    assert first.get_xlim() == second.get_xlim() == pytest.approx((-0.8, 1))
    heights = [stairs.get_data().values for stairs in first.patches]
    assert [h.sum() for h in heights] == pytest.approx([1] * 4)


def test_replicates_that_do_not_exist(tmp_path: Path, drawn: list[Figure]) -> None:
    nothing = np.array([])
    figures.replicate_correlation(
        [nothing, np.ones(3)], [np.ones(3), nothing], tmp_path / "a.png", titles="ab"
    )
    assert [axes.texts[0].get_text() for axes in drawn[0].axes] == ["no pairs to compare"] * 2
    figures.replicate_correlation([nothing], [nothing], tmp_path / "a.png", titles="a")
    for matched, titles in (([nothing], "ab"), ([], "")):
        with pytest.raises(ValueError, match="titles for"):
            figures.replicate_correlation(matched, matched, tmp_path / "a.png", titles=titles)


def dots(axes: Any) -> tuple[NDArray, NDArray]:
    points = axes.collections[0]
    return np.asarray(points.get_offsets()), points.get_facecolors()


def legend(axes: Any) -> list[str]:
    return [t.get_text() for t in axes.get_legend().get_texts()]


def test_maps_colour_names_and_grey_the_controls(
    tmp_path: Path, rng: np.random.Generator, drawn: list[Figure]
) -> None:
    xy = rng.normal(size=(30, 2))
    names: list[Any] = ["B10", "B2", None, "", np.nan] * 6
    control = np.arange(30) < 5
    figures.maps(
        {"one": xy, "two": -xy}, {"moa": names, "batch": names}, tmp_path / "a.png",
        controls=control, coloured_controls=["batch"],
    )  # fmt: skip
    moa, batch, lower, _, foot, last = drawn[0].axes
    assert (moa.get_title(), batch.get_title(), lower.get_title()) == ("moa", "batch", "")
    assert (moa.get_ylabel(), lower.get_ylabel()) == ("one", "two")
    assert legend(foot) == ["B2 (5)", "B10 (5)", "controls (5)", "no label (15)"]
    assert legend(last) == ["B2 (6)", "B10 (6)", "no label (18)"]
    where, colours = dots(moa)
    by_place = {tuple(p): tuple(c) for p, c in zip(where, colours, strict=True)}
    assert len(by_place) == 30
    for i in range(30):
        rgba = by_place[tuple(xy[i])]
        if control[i]:
            assert rgba == to_rgba(GREY, 0.4)
        elif names[i] in ("B2", "B10"):
            assert rgba[:3] == to_rgba(PALETTE[int(names[i] == "B10")])[:3]
    named = np.array([rgba[3] == 0.8 and tuple(rgba[:3]) != to_rgba("#DCDCDC")[:3] for rgba in colours])
    assert named[-10:].all()  # drawn last, above the others
    assert not named[:-10].any()
    assert np.allclose(np.sort(dots(lower)[0], axis=0), np.sort(-xy, axis=0))


def test_maps_with_many_names_explain_the_commonest(
    tmp_path: Path, rng: np.random.Generator, drawn: list[Figure]
) -> None:
    plates = np.repeat(np.arange(20), np.arange(20, 0, -1))
    n = len(plates)
    xy = rng.normal(size=(n, 2))
    xy[3] = np.nan
    figures.maps({"one": xy}, {"plate": plates, "cells": rng.normal(size=n)}, tmp_path / "a.png")
    every, _, names, numbers = drawn[0].axes
    assert legend(names) == [f"{i} ({20 - i})" for i in range(12)] + ["and 8 more; colours run on by name"]
    assert len({tuple(c) for c in dots(every)[1]}) == 20
    assert len(legend(numbers)) == 5
    assert float(legend(numbers)[0]) > float(legend(numbers)[-1])
    assert every.get_ylabel() == "one\n1 rows have no place"


def test_maps_of_very_many_rows_draw_some_and_say_so(
    tmp_path: Path, rng: np.random.Generator, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_MOST_POINTS", 25)
    xy = rng.normal(size=(60, 2))
    figures.maps({"a": xy, "b": xy}, {"batch": ["x"] * 60}, tmp_path / "a.png")
    assert drawn[0].get_supxlabel() == "25 of 60 rows, drawn at random"
    upper, lower = dots(drawn[0].axes[0])[0], dots(drawn[0].axes[1])[0]
    assert len(upper) == 25
    assert np.array_equal(upper, lower)
    assert not np.array_equal(upper, xy[:25])


def test_maps_of_nothing_of_one_name_and_of_other_rows(tmp_path: Path, drawn: list[Figure]) -> None:
    figures.maps({"one": np.zeros((0, 2))}, {"batch": []}, tmp_path / "a.png")
    figures.maps({"one": np.full((3, 2), np.nan)}, {"batch": [None] * 3}, tmp_path / "a.png")
    assert legend(drawn[1].axes[1]) == ["no label (3)"]
    figures.maps({"one": np.zeros((3, 2))}, {"cells": np.full(3, 2.5)}, tmp_path / "a.png")
    assert legend(drawn[2].axes[1]) == ["2.5 (3)"]
    for xy, labels, control in (
        ({}, {"a": []}, None),
        ({"one": np.zeros((3, 2))}, {}, None),
        ({"one": np.zeros((3, 2))}, {"a": ["x"] * 2}, None),
        ({"one": np.zeros((3, 2))}, {"a": ["x"] * 3}, np.zeros(2, bool)),
    ):
        with pytest.raises(ValueError, match="of the same rows"):
            figures.maps(xy, labels, tmp_path / "a.png", controls=control)


def test_score_bars_show_share_interval_null_and_count(tmp_path: Path, drawn: list[Figure]) -> None:
    figures.score_bars(
        [("none", [("NSC", score(50, 103)), ("NSCB", score(40, 92))]), ("TVN", [("NSC", score(100, 103, None))]),
         ("x", [("NSC", score(0, 0))])],
        tmp_path / "a.png",
    )  # fmt: skip
    nsc, nscb = drawn[0].axes
    assert [bar.get_width() for bar in nsc.patches] == pytest.approx([5000 / 103, 10000 / 103])
    assert [bar.get_facecolor() for bar in nsc.patches] == [to_rgba(GREY), to_rgba(PALETTE[0])]
    assert [t.get_text() for t in nsc.texts] == ["48.5  (50/103)", "97.1  (100/103)", "not computed"]
    assert [t.get_text() for t in nscb.texts] == ["43.5  (40/92)", "not computed", "not computed"]
    assert [label.get_text() for label in nsc.get_yticklabels()] == ["none", "TVN", "x"]
    at_first = [tuple(line.get_xdata()) for line in nsc.lines]
    assert at_first[2] == (20, 20)  # after the dotted line and the interval
    assert nsc.lines[-1].get_xdata() == pytest.approx([91.8, 99.0], abs=0.06)  # the known interval of 100/103
    assert nsc.get_ylim()[0] > nsc.get_ylim()[1]  # the first method on top
    with pytest.raises(ValueError, match="at least one score"):
        figures.score_bars([("none", [])], tmp_path / "a.png")


def test_spectrum_marks_knee_and_floor_and_counts_zeros(tmp_path: Path, drawn: list[Figure]) -> None:
    found = np.array([10, 5, 2.5, 1.2, 0.6, 0.0, 0.0])
    figures.spectrum(found, np.maximum(found, 0.12), 3, tmp_path / "a.png")
    axes = drawn[0].axes[0]
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["as used", "as found, 2 not above 0 left out", "floor: 0.12", "knee: 4 of 7, at 1.2"]
    used, raw, floor, knee = axes.lines
    assert list(raw.get_xdata()) == [1, 2, 3, 4, 5]
    assert used.get_ydata()[-1] == floor.get_ydata()[0] == 0.12
    assert (knee.get_xdata()[0], knee.get_ydata()[0]) == (4, 1.2)
    assert axes.get_yscale() == "log"
    figures.spectrum(np.ones(3), np.ones(3), None, tmp_path / "a.png")
    assert len(drawn[1].axes[0].lines) == 3
    with pytest.raises(ValueError, match="none of 3"):
        figures.spectrum(np.zeros(3), np.zeros(3), None, tmp_path / "a.png")


def test_curve_marks_the_largest_on_a_fitting_axis(tmp_path: Path, drawn: list[Figure]) -> None:
    x = 10.0 ** np.arange(-4, 2)
    y = np.array([-9, -5, -2, -3, np.nan, np.inf])
    figures.curve(x, y, tmp_path / "a.png", xlabel="λ", ylabel="l", title="t")
    figures.curve(x - 1, np.full(6, np.nan), tmp_path / "a.png", xlabel="λ", ylabel="l")
    first, second = (figure.axes[0] for figure in drawn)
    assert first.lines[1].get_xdata()[0] == 0.01
    assert first.get_legend().get_texts()[0].get_text() == "largest at 0.01"
    assert (first.get_xscale(), second.get_xscale()) == ("log", "linear")
    assert len(second.lines) == 1


def maps_of(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.images]


def grids(figure: Figure) -> list[NDArray]:
    return [np.ma.filled(axes.images[0].get_array(), np.nan) for axes in maps_of(figure)]


def test_plate_maps_put_values_on_their_wells(tmp_path: Path, drawn: list[Figure]) -> None:
    wells = ["A01", "A06", "d1", "B02", "B02", "B02", "C03"]
    values = np.array([1.0, 2.0, 3.0, 4.0, 8.0, np.nan, np.nan])
    control = np.array([1, 0, 1, 0, 0, 0, 1], bool)
    plate_figures.plate_maps(
        values, wells, ["P"] * 7, tmp_path / "a.png", format=24, title="T", label="L", controls=control
    )
    expected = np.full((4, 6), np.nan)
    expected[0, 0], expected[0, 5], expected[3, 0], expected[1, 1] = 1, 2, 3, 6
    (found,) = grids(drawn[0])
    assert np.array_equal(found, expected, equal_nan=True)
    (axes,) = maps_of(drawn[0])
    (outlines,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    centres = {tuple(np.round(path.vertices[:4].mean(axis=0), 9).tolist()) for path in outlines.get_paths()}
    assert centres == {(0, 0), (0, 3), (2, 2)}  # x, y
    assert axes.patch.get_hatch()
    assert [t.get_text() for t in axes.get_yticklabels()] == ["A", "B", "C", "D"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "3", "4", "5", "6"]
    assert drawn[0].get_suptitle() == "T; hatched: no value; outlined: controls"
    assert "L" in texts(drawn[0]).split("\n")


def test_plate_maps_share_one_robust_scale(
    tmp_path: Path, rng: np.random.Generator, drawn: list[Figure]
) -> None:
    wells = plate_wells(96) * 2
    values = rng.normal(5, 1, 192)
    values[7] = 1e6
    plates = ["P10"] * 96 + ["P2"] * 96
    for centre in (False, True):
        plate_figures.plate_maps(values, wells, plates, tmp_path / "a.png", format=96, centre=centre)
    flat, diverging = drawn
    assert [axes.get_title() for axes in maps_of(flat)] == ["P2", "P10"]
    assert grids(flat)[1][0, 7] == 1e6
    assert len({axes.images[0].get_clim() for axes in maps_of(flat)}) == 1
    low, high = maps_of(flat)[0].images[0].get_clim()
    assert 2 < low < 4 < 6 < high < 9
    low, high = maps_of(diverging)[0].images[0].get_clim()
    assert (low + high) / 2 == pytest.approx(np.median(values))
    assert high - low < 9
    assert maps_of(diverging)[0].images[0].get_cmap().name == "RdBu_r"


def test_of_many_plates_some_are_drawn_and_the_rest_is_said(
    tmp_path: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plate_figures._MOST_PLATES == 24
    monkeypatch.setattr(plate_figures, "_MOST_PLATES", 6)
    plates, wells, path = [f"P{i}" for i in range(11)], ["A01"] * 11, tmp_path / "a.png"
    plate_figures.plate_maps(np.arange(11.0), wells, plates, path, format=6)
    assert [axes.get_title() for axes in maps_of(drawn[0])] == [f"P{i}" for i in range(0, 11, 2)]
    assert drawn[0].get_suptitle() == "6 of 11 plates, evenly spaced by name; hatched: no value"
    values = np.arange(11.0)
    plate_figures.plate_maps_before_after(values, values, path, wells=wells, plates=plates, format=6)
    titles = [f"P{i}, {side}" for i in (0, 5, 10) for side in ("before", "after")]
    assert [axes.get_title() for axes in maps_of(drawn[1])] == titles


@pytest.mark.parametrize(("n", "across"), [(1, 1), (2, 2), (4, 2), (5, 5), (7, 4), (12, 4), (24, 6)])
def test_plates_leave_few_gaps(n: int, across: int) -> None:
    assert plate_figures._across(n, 6) == across


@pytest.mark.parametrize("one_scale", [True, False])
def test_plates_before_and_after_stand_side_by_side(
    one_scale: bool, tmp_path: Path, drawn: list[Figure]
) -> None:
    wells, plates = plate_wells(6) * 2, ["a"] * 6 + ["b"] * 6
    before, after = np.arange(12.0), np.arange(12.0) / 100
    plate_figures.plate_maps_before_after(
        before,
        after,
        tmp_path / "a.png",
        wells=wells,
        plates=plates,
        format=6,
        label="PC",
        one_scale=one_scale,
    )
    axes = maps_of(drawn[0])
    assert [a.get_title() for a in axes] == ["a, before", "a, after", "b, before", "b, after"]
    assert np.array_equal(grids(drawn[0])[3], after[6:].reshape(2, 3))
    limits = [a.images[0].get_clim() for a in axes]
    assert limits[0] == limits[2]
    assert limits[1] == limits[3]
    assert (limits[0] == limits[1]) == one_scale
    bars = [a.get_ylabel() for a in drawn[0].axes if a.get_label() == "<colorbar>"]
    assert sorted(bars) == (["PC"] if one_scale else ["PC, after", "PC, before"])


def test_plates_of_1536_wells_and_of_one_or_no_value(tmp_path: Path, drawn: list[Figure]) -> None:
    wells = plate_wells(1536)
    values = np.arange(1536.0)
    plate_figures.plate_maps(values, wells, ["p"] * 1536, tmp_path / "a.png", format=1536)
    assert np.array_equal(grids(drawn[0])[0], values.reshape(32, 48))
    assert maps_of(drawn[0])[0].get_yticklabels()[-1].get_text() == "AF"
    for value, centre in ((3.0, True), (-3.0, False), (0.0, False), (np.nan, True)):
        values = np.full(2, value)
        plate_figures.plate_maps(values, ["A01"] * 2, ["p", "q"], tmp_path / "a.png", format=6, centre=centre)
        first, second = (axes.images[0].get_clim() for axes in maps_of(drawn[-1]))
        assert first == second
        assert first[0] < first[1]


def test_plate_maps_refuse_what_lies_on_no_plate(tmp_path: Path) -> None:
    path, one = tmp_path / "a.png", np.ones(1)
    with pytest.raises(ValueError, match="not on a plate of 6 wells"):
        plate_figures.plate_maps(one, ["C01"], ["p"], path, format=6)
    with pytest.raises(ValueError, match="no plate of 7 wells"):
        plate_figures.plate_maps(one, ["A01"], ["p"], path, format=7)
    for values, wells, plates, control in (
        (np.ones(2), ["A01"], ["p"], None),
        (one, ["A01"], ["p", "p"], None),
        (one, ["A01"], ["p"], np.zeros(2, bool)),
        (np.ones(0), [], [], None),
    ):
        with pytest.raises(ValueError, match="same rows"):
            plate_figures.plate_maps(values, wells, plates, path, format=6, controls=control)
    with pytest.raises(ValueError, match="same rows"):
        plate_figures.plate_maps_before_after(one, np.ones(2), path, wells=["A01"], plates=["p"], format=6)
    assert not path.exists()


def test_names_are_text_however_odd(tmp_path: Path, drawn: list[Figure]) -> None:
    path, xy = tmp_path / "a.png", np.zeros((2, 2))
    figures.maps({HOSTILE: xy}, {HOSTILE: [HOSTILE, "10²"]}, path)
    figures.score_bars([(HOSTILE, [(HOSTILE, score(1, 2))])], path)
    figures.replicate_correlation([xy[0]], [xy[0]], path, titles=[HOSTILE], measure=HOSTILE)
    figures.control_covariance(np.eye(2), np.eye(2), path, titles=(HOSTILE, HOSTILE))
    figures.curve(xy[0], xy[0], path, xlabel=HOSTILE, ylabel=HOSTILE, title=HOSTILE)
    plate_figures.plate_maps(xy[0], ["A01"] * 2, [HOSTILE, "²"], path, format=6, title=HOSTILE, label=HOSTILE)
    for figure in drawn:
        assert "5 $\\frac{$g_{x} <b>" in texts(figure)
        assert "化" not in texts(figure)
        assert max(map(len, texts(figure).split("\n"))) < 130


def test_plain_text_is_one_short_line_the_font_can_write() -> None:
    assert plain("a\n b\t c") == "a b c"
    assert plain("µ × λ ±") == "µ × λ ±"
    assert plain("x" * 41) == "x" * 39 + "…"
    assert plain("x" * 40) == "x" * 40
    assert plain("化\ud800") == "\ufffd\ufffd"
