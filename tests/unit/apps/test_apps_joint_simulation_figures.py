"""The figure of a simulation: a line a method, named beside its end, the same bytes every time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from microsnoop_apps import profiling
from microsnoop_apps.joint_simulation import figures
from microsnoop_apps.joint_simulation.figures import quality_figure, spread
from microsnoop_apps.joint_simulation.fits import MEASURES, NAMES, DataFacts, Fit
from microsnoop_apps.joint_simulation.tables import Scores

SHOWN = {"transcripts": 0.5, "images": 0.2, "muse": 0.8, "muse_shuffled": 0.49, "concat": 0.51}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    seen: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: Any, **kwargs: Any) -> None:
        seen.append(self)
        save(self, *args, **kwargs | {"dpi": 20})

    monkeypatch.setattr(profiling.Figure, "savefig", spy)
    return seen


@pytest.fixture
def scores() -> Scores:
    fits = [
        Fit(value, data, 0, method, scores=dict.fromkeys(MEASURES, ari - value / 10 + data / 50))
        for value in (0.5, 0.1, 0.3)
        for data in (0, 1)
        for method, ari in SHOWN.items()
    ]
    fits += [Fit(value, 0, 0, "wnn", failed="not installed") for value in (0.5, 0.1, 0.3)]
    facts = tuple(DataFacts(value, 0, 100, 0, 0.9, 0.8) for value in (0.5, 0.1, 0.3))
    return Scores("decay_coef_2", (0.5, 0.1, 0.3), tuple(fits), facts)


def test_every_method_is_drawn_and_named(scores: Scores, drawn: list[Figure], tmp_path: Path) -> None:
    path = quality_figure(scores, tmp_path / "s10.png", measures=("ari_kmeans", "silhouette"))
    assert path.read_bytes().startswith(b"\x89PNG")
    panels = drawn[0].axes
    assert len(panels) == 2
    for axes in panels:
        written = [text.get_text().strip() for text in axes.texts]
        assert {NAMES[name] for name in SHOWN} <= set(written)
        assert "WNN" not in written
        lines = {c.get_label(): c.lines[0] for c in axes.containers}
        assert set(lines) == {NAMES[name] for name in SHOWN}
        muse = lines["MUSE"]
        assert np.allclose(
            muse.get_ydata(), [0.8 - v / 10 + 0.01 for v in (0.1, 0.3, 0.5)]
        )  # by rising value
        assert np.allclose(muse.get_xdata(), [0.1, 0.3, 0.5], atol=0.03)
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.1", "0.3", "0.5"]
    assert "all that images can see" in [text.get_text() for text in panels[0].texts]
    assert not any("can see" in text.get_text() for text in panels[1].texts)
    assert "images get worse" in drawn[0].get_supxlabel()


def test_intervals_are_those_of_the_table(scores: Scores, drawn: list[Figure], tmp_path: Path) -> None:
    quality_figure(scores, tmp_path / "s10.png", measures=("ari_leiden",))
    container = next(c for c in drawn[0].axes[0].containers if c.get_label() == "MUSE")
    segments = container.lines[2][0].get_segments()
    mean = scores.mean(0.1, "muse", "ari_leiden")
    assert segments[0][:, 1] == pytest.approx([mean.interval.low, mean.interval.high])


def test_names_do_not_lie_on_one_another(scores: Scores, drawn: list[Figure], tmp_path: Path) -> None:
    quality_figure(scores, tmp_path / "s10.png", measures=("ari_kmeans",))
    axes = drawn[0].axes[0]
    boxes = [t.get_window_extent() for t in axes.texts if t.get_text().strip() in NAMES.values()]
    boxes.sort(key=lambda box: box.y0)
    assert all(upper.y0 >= lower.y1 - 0.5 for lower, upper in pairwise(boxes))


def test_same_scores_are_the_same_file(scores: Scores, tmp_path: Path) -> None:
    mpl.rcParams["font.size"] = 17  # a user's own settings do not count
    try:
        one = quality_figure(scores, tmp_path / "a.png", measures=("ari_kmeans",)).read_bytes()
    finally:
        mpl.rcdefaults()
    assert quality_figure(scores, tmp_path / "b.png", measures=("ari_kmeans",)).read_bytes() == one


def test_one_value_one_data_set_and_nothing_at_all(drawn: list[Figure], tmp_path: Path) -> None:
    one = Fit(0.3, 0, 0, "muse", scores=dict.fromkeys(MEASURES, -0.1))
    quality_figure(Scores("sigma1", (0.3,), (one,), ()), tmp_path / "one.png")
    assert drawn[0].axes[0].get_ylim()[0] < -0.1
    none = Fit(0.3, 0, 0, "muse", failed="why")
    quality_figure(Scores("latent", (0.3,), (none,), ()), tmp_path / "none.png")
    assert not drawn[1].axes[0].containers
    assert drawn[1].get_supxlabel() == "latent"


def test_every_method_has_a_look_of_its_own() -> None:
    assert set(figures._LOOKS) == set(NAMES)
    assert len(set(figures._LOOKS.values())) == len(NAMES)
    assert all(max(to_rgb(colour)) > 0 or name == "muse" for name, (colour, _, _) in figures._LOOKS.items())


@given(
    st.lists(st.floats(-1, 2, allow_nan=False), min_size=1, max_size=12).map(sorted),
    st.floats(0.001, 0.3, allow_nan=False),
)
def test_heights_are_spread_within_limits(heights: list[float], gap: float) -> None:
    placed = spread(heights, gap=gap, low=0.0, high=1.0)
    assert len(placed) == len(heights)
    assert all(-1e-9 <= height <= 1 + 1e-9 for height in placed)
    least = min(gap, 1 / max(1, len(heights) - 1))
    assert all(b - a >= least - 1e-9 for a, b in pairwise(placed))


def test_heights_that_are_far_apart_stay() -> None:
    assert spread([0.1, 0.5, 0.9], gap=0.05, low=0, high=1) == [0.1, 0.5, 0.9]
    assert spread([0.5, 0.5], gap=0.1, low=0, high=1) == [0.5, pytest.approx(0.6)]
    assert spread([0.98, 0.99], gap=0.1, low=0, high=1) == [pytest.approx(0.9), pytest.approx(1.0)]
