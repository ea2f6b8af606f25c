"""Pictures of profiles before and after correction: arrays in, a PNG file out, the same bytes every time.

What they show is of the batch spec, sections 4 and 9, and the evaluation spec, sections 4 to 6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from microsnoop.ops.treatments import TreatmentScore
from microsnoop_apps.profiling import BLUE, GREY, ORANGE, RED, Floats, Look, canvas, plain

_MOST_FEATURES, _MOST_POINTS = 200, 50_000


def control_covariance(
    before: Floats, after: Floats, path: Path, *, titles: tuple[str, str] = ("before", "after")
) -> Path:
    """Draw how features of control rows vary together, before and after correction, on one scale.

    Parameters
    ----------
    before, after
        Covariance or correlation matrices (d, d), drawn as correlations. Of more than 200 features evenly spaced ones
        are drawn, those that vary alike in ``before`` side by side (where ``after`` has another d: in ``after``).
        Means in the titles are over all features.

    Raises
    ------
    ValueError
        A matrix that is not square, or is empty.
    """
    if any(m.ndim != 2 or m.shape[0] != m.shape[1] or m.size == 0 for m in (before, after)):
        raise ValueError(f"covariances must be (d, d) with d > 0, got {before.shape} and {after.shape}")
    r = [_correlation(matrix) for matrix in (before, after)]
    first = _alike(r[0])
    orders = (first, first if len(before) == len(after) else _alike(r[1]))
    apart = [np.abs(one[~np.eye(len(one), dtype=bool) & np.isfinite(one)]) for one in r]
    most = max((np.percentile(part, 99) for part in apart if len(part)), default=1.0)
    limit = min(
        1.0, max(0.2, np.ceil(10 * most - 1e-6) / 10)
    )  # weak correlations would be pale on a scale to 1
    with canvas(path, width=9.6, height=5) as figure:
        for axes, one, order, part, matrix, title in zip(
            figure.subplots(1, 2), r, orders, apart, (before, after), titles, strict=True
        ):
            axes.set_facecolor(GREY)
            drawn = one[np.ix_(order, order)]
            image = axes.imshow(drawn, vmin=-limit, vmax=limit, cmap="RdBu_r", interpolation="nearest")
            means = f"mean |r| off the diagonal {_mean(part):.3f}, mean variance {_mean(np.diag(matrix)):.3g}"
            axes.set_title(f"{plain(title)}\n{means}")
            shown = f"{len(drawn)} of " if len(drawn) < len(one) else ""
            axes.set(xlabel=f"{shown}{len(one):,} features, alike ones together", xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
        ends: Literal["both", "neither"] = "both" if limit < 1 else "neither"
        figure.colorbar(image, ax=figure.axes, label="correlation r", shrink=0.75, pad=0.02, extend=ends)
    return path


def _correlation(covariance: Floats) -> Floats:
    """Return correlations; a constant feature has 0 off the diagonal, what is not finite stays not a number."""
    variance = np.diag(covariance)
    inverse = np.where(variance > 0, 1 / np.sqrt(np.where(variance > 0, variance, 1)), 0 * variance)
    found = np.array(covariance * inverse[:, None] * inverse, np.float64)
    np.fill_diagonal(found, 1 + 0 * variance)
    return found


def _alike(correlation: Floats) -> NDArray[np.int64]:
    """Return at most 200 evenly spaced features, ordered by average linkage so that alike ones are neighbours."""
    d = len(correlation)
    some = np.linspace(0, d - 1, min(d, _MOST_FEATURES)).round().astype(np.int64)
    if len(some) < 3:
        return some
    distance = np.clip(1 - np.nan_to_num(correlation[np.ix_(some, some)]), 0, 2)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return some[leaves_list(tree)]


def _mean(values: Floats) -> float:
    found = values[np.isfinite(values)]
    return float(found.mean()) if len(found) else np.nan


def replicate_correlation(
    matched: Sequence[Floats],
    random: Sequence[Floats],
    path: Path,
    *,
    titles: Sequence[str],
    measure: str = "cosine similarity",
) -> Path:
    """Draw, for each method, how similar replicates of a treatment are, beside random pairs.

    Parameters
    ----------
    matched, random
        Similarities of pairs, -1 to 1, float (m,) and (r,) of each method; what is not finite is left out, counted.
    titles
        Names of the methods.

    Raises
    ------
    ValueError
        Numbers of methods that differ, or no method.
    """
    if not titles or not len(matched) == len(random) == len(titles):
        raise ValueError(f"{len(titles)} titles for {len(matched)} matched and {len(random)} random sets")
    good = [[part[np.isfinite(part)] for part in both] for both in zip(matched, random, strict=True)]
    lowest = min((part.min() for both in good for part in both if len(part)), default=-1.0)
    edges = np.linspace(np.clip(np.floor(10 * lowest) / 10, -1, 0.9), 1, 61)
    with canvas(path, width=8, height=0.9 + 0.95 * len(titles)) as figure:
        every = figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0]
        for axes, title, raw, (pairs, others) in zip(every, titles, matched, good, strict=True):
            _ridge(axes, pairs, others, edges)
            undefined = f"\n{len(raw) - len(pairs):,} undefined" if len(pairs) < len(raw) else ""
            name = f"{plain(title, 28)}\n{len(pairs):,} pairs{undefined}"
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
        every[-1].set_xlabel(plain(measure))
        swatches = [mpl.patches.Patch(color=colour, alpha=0.6) for colour in (BLUE, GREY)]
        level = Line2D([], [], color="black", linewidth=1, linestyle="--")
        names = ("replicates of a treatment", "random pairs", "95 % of random pairs lie below")
        figure.legend([*swatches, level], names, loc="outside upper center", ncols=3, frameon=False)
    return path


def _ridge(axes: Axes, pairs: Floats, others: Floats, edges: Floats) -> None:
    for part, colour in ((others, GREY), (pairs, BLUE)):
        height = np.histogram(np.clip(part, edges[0], 1), edges)[0] / max(1, len(part))  # 1 + rounding is 1
        axes.stairs(height, edges, fill=True, color=colour, alpha=0.5)
        axes.stairs(height, edges, color=colour, linewidth=1)
    note = "no pairs to compare"
    if len(pairs) and len(others):
        level = float(np.percentile(others, 95))
        axes.axvline(level, color="black", linewidth=1, linestyle="--")
        note = f"{100 * (pairs > level).mean():.1f} % above"
    axes.text(0.01, 0.9, note, transform=axes.transAxes, va="top", fontweight="bold")
    axes.set(yticks=[], xlim=(edges[0], edges[-1]), ylim=(0, None))
    axes.spines["left"].set_visible(False)


def maps(
    coordinates: Mapping[str, Floats],
    colours: Mapping[str, Sequence[Any] | NDArray[Any]],
    path: Path,
    *,
    controls: NDArray[np.bool_] | None = None,
    coloured_controls: Collection[str] = (),
) -> Path:
    """Draw a map of all rows for each method (down) and each colouring (across).

    Parameters
    ----------
    coordinates
        Of each method, float (n, 2); rows without finite ones are left out, counted.
    colours
        Labels (n,) of each colouring: names, or floats for a scale. None, NaN and "" are no label. Of more than 12
        names the commonest 12 stand in the legend. Of more than 50,000 rows some are drawn, at random (seed 0).
    controls
        Rows drawn in grey under all others, bool (n,), except in ``coloured_controls``.

    Raises
    ------
    ValueError
        No method, no colouring, or lengths that differ.
    """
    masks = () if controls is None else (controls,)
    lengths = {len(values) for values in (*coordinates.values(), *colours.values(), *masks)}
    if not coordinates or not colours or len(lengths) > 1:
        raise ValueError(f"maps need coordinates and colours of the same rows, got {sorted(lengths)} rows")
    n = lengths.pop()
    order = np.random.default_rng(0).permutation(n)[:_MOST_POINTS]  # at random: no name hides another
    looks = [Look.of(v, None if name in coloured_controls else controls) for name, v in colours.items()]
    heights = [3.3] * len(coordinates) + [0.3 + 0.18 * max(len(look.entries) for look in looks)]
    size = float(np.clip(20_000 / max(1, len(order)), 0.6, 26))
    with canvas(path, width=3.7 * len(looks) + 0.5, height=sum(heights)) as figure:
        every = figure.subplots(len(heights), len(looks), squeeze=False, height_ratios=heights)
        for line, (method, places) in zip(every, coordinates.items(), strict=False):
            lost = int((~np.isfinite(places).all(axis=1)).sum())
            note = f"\n{lost:,} rows have no place" if lost else ""
            line[0].set_ylabel(f"{plain(method)}{note}", fontsize=10)
            for axes, look in zip(line, looks, strict=True):
                rows = order[np.argsort(look.layer[order], kind="stable")]
                axes.scatter(*places[rows].T, s=size, c=look.rgba[rows], linewidths=0, plotnonfinite=False)
                axes.set(xticks=[], yticks=[])
        for top, foot, look, name in zip(every[0], every[-1], looks, colours, strict=True):
            top.set_title(plain(name))
            foot.set_axis_off()
            spots = [Line2D([], [], marker="o", linestyle="", color=colour) for colour, _ in look.entries]
            texts = [text for _, text in look.entries]
            foot.legend(spots, texts, loc="upper left", frameon=False, fontsize=8)
        if len(order) < n:
            figure.supxlabel(f"{len(order):,} of {n:,} rows, drawn at random", fontsize=8)
    return path


def score_bars(methods: Sequence[tuple[str, Sequence[tuple[str, TreatmentScore]]]], path: Path) -> Path:
    """Draw scores of methods with Wilson's 95 % intervals, a panel a score.

    A black tick is the 95 % quantile of the score with permuted labels. The first method, what the others are read
    against, is grey, its value continued as a dotted line.

    Parameters
    ----------
    methods
        Name, and (name, score) of what was computed, of each method.

    Raises
    ------
    ValueError
        No score at all.
    """
    scores = list(dict.fromkeys(name for _, found in methods for name, _ in found))
    if not scores:
        raise ValueError("score bars need at least one score of one method")
    with canvas(path, width=1.2 + 3.9 * len(scores), height=1.2 + 0.34 * len(methods)) as figure:
        every = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
        for axes, score in zip(every, scores, strict=True):
            for y, (_, found) in enumerate(methods):
                _bar(axes, y, dict(found).get(score))
            axes.set(xlim=(0, 132), xticks=range(0, 101, 20), ylim=(len(methods) - 0.4, -0.6))
            axes.set_title(plain(score, 45), loc="left")
        every[0].set_yticks(range(len(methods)), [plain(method, 34) for method, _ in methods])
        note = "% right, with 95 % interval; black tick: 95 % of permuted labels score below"
        figure.supxlabel(note, fontsize=8)
    return path


def _bar(axes: Axes, y: int, found: TreatmentScore | None) -> None:
    if found is None or found.n == 0:
        axes.text(1, y, "not computed", va="center", color=GREY, style="italic", fontsize=8)
        return
    value = 100 * found.correct / found.n
    axes.barh(y, value, 0.66, color=BLUE if y else GREY)
    if y == 0:
        axes.axvline(value, color=GREY, linewidth=1, linestyle=":", zorder=0)
    axes.plot([100 * found.interval.low, 100 * found.interval.high], [y, y], color="black", linewidth=1.2)
    if found.null is not None:
        axes.plot([100 * found.null.quantile_95] * 2, [y - 0.42, y + 0.42], color="black", linewidth=2.4)
    axes.text(103, y, f"{value:.1f}  ({found.correct:,}/{found.n:,})", va="center", fontsize=8)


def spectrum(eigenvalues: Floats, filtered: Floats, knee: int | None, path: Path) -> Path:
    """Draw eigenvalues of control rows (d,) as found and as used, both descending, on a log scale.

    ``knee`` is an index from 0, None where there is none. Values that are not above 0 are counted, not drawn; with
    nothing above 0 there is nothing to draw (ValueError).
    """
    if not (filtered > 0).any():
        raise ValueError(f"none of {len(filtered)} eigenvalues is above 0")
    with canvas(path, width=6.4, height=4.2) as figure:
        axes = figure.subplots()
        kinds = ((filtered, "as used", ORANGE, 4), (eigenvalues, "as found", BLUE, 1.2))
        for values, name, colour, width in kinds:
            shown = values > 0
            label = name if shown.all() else f"{name}, {(~shown).sum():,} not above 0 left out"
            axes.plot(1 + np.flatnonzero(shown), values[shown], color=colour, linewidth=width, label=label)
        floor = filtered[filtered > 0].min()
        axes.axhline(floor, color=GREY, linestyle=":", label=f"floor: {floor:.3g}")
        if knee is not None:
            where = f"knee: {knee + 1:,} of {len(eigenvalues):,}, at {eigenvalues[knee]:.3g}"
            axes.plot(knee + 1, eigenvalues[knee], "o", color=RED, label=where)
        axes.set(yscale="log", xlabel="eigenvalues, the largest first", ylabel="variance of control rows")
        axes.yaxis.set_major_formatter("{x:,.6g}")
        axes.legend(frameon=False)
    return path


def curve(x: Floats, y: Floats, path: Path, *, xlabel: str, ylabel: str, title: str = "") -> Path:
    """Draw ``y`` (n,) over ``x`` (n,) and mark the largest, for example of likelihoods of held-out rows.

    The axis of x is a log scale where x are positive and span more than a hundredfold.
    """
    with canvas(path, width=6.4, height=4) as figure:
        axes = figure.subplots()
        axes.plot(x, y, "o-", color=BLUE, markersize=4)
        if np.isfinite(y).any():
            best = int(np.nanargmax(np.where(np.isfinite(y), y, np.nan)))
            axes.axvline(x[best], color=RED, linestyle="--", label=f"largest at {x[best]:.3g}")
            axes.legend(frameon=False)
        axes.yaxis.set_major_formatter("{x:,.6g}")
        axes.set(xlabel=plain(xlabel, 70), ylabel=plain(ylabel, 60), title=plain(title, 70))
        if x.min() > 0 and x.max() > 100 * x.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:,.6g}")
    return path
