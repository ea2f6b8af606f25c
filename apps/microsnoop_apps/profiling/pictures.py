"""Which pictures a batch experiment gets, and the numbers they are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.plate import smallest_format
from microsnoop.correction.chain import Chain
from microsnoop.correction.sphering import Sphering
from microsnoop.io.profile_table import ProfileTable
from microsnoop.pipelines.profile_scores import NSC, STRICT, codes
from microsnoop_apps.profiling import figures, plate_figures
from microsnoop_apps.profiling.experiment import Experiment
from microsnoop_integrations.profiles import to_anndata
from microsnoop_integrations.scanpy_steps import neighbours_umap_leiden

PICTURES = ("scores", "replicates", "controls", "spectrum", "heldout", "plates", "maps")
_MOST_MAPPED = 20_000
_MOST_PAIRS = 20_000
_MOST_COVARIANCE = 2_000


@dataclass(frozen=True)
class Picture:
    """A picture of the report."""

    title: str
    path: Path
    caption: str


def draw(experiment: Experiment, out: Path) -> list[Picture]:
    """Draw every picture that the rows allow into a folder, and say what each shows."""
    found = [_scores(experiment, out), _replicates(experiment, out)]
    used, raw = experiment.used.rows, experiment.raw.rows
    control = raw.obs["is_control"].to_numpy(bool)
    if experiment.config.use != "none" and control.sum() > 2:
        found.append(_covariance(experiment, control, out))
    found += _spectrum(experiment, out)
    found.append(_plates(experiment, out))
    if len(raw.obs) >= 10:
        corrected = {experiment.config.use: used} if experiment.used.corrector is not None else {}
        found.append(_maps({"uncorrected": raw} | corrected, experiment, out))
    return [picture for picture in found if picture is not None]


def _scores(experiment: Experiment, out: Path) -> Picture | None:
    bars = [
        (name, [(rule, found.score) for rule in (NSC, STRICT) if (found := m.scores.rule(rule)) is not None])
        for name, m in experiment.methods.items()
    ]
    if not any(rules for _, rules in bars):
        return None
    path = figures.score_bars(bars, out / "scores.png")
    return Picture("Mechanisms of nearest treatments", path, "Bars: share right, Wilson's 95 % interval; ticks: 95 % "
                   "quantile of the same score with permuted labels.")  # fmt: skip


def _replicates(experiment: Experiment, out: Path) -> Picture | None:
    names, matched, random = [], [], []
    for name in dict.fromkeys(["none", experiment.config.use]):
        pairs = replicate_similarities(experiment.methods[name].rows, seed=experiment.config.score.seed)
        if pairs is not None:
            names.append(name)
            matched.append(pairs[0])
            random.append(pairs[1])
    if not names:
        return None
    path = figures.replicate_correlation(matched, random, out / "replicates.png", titles=names)
    return Picture("Replicates", path, "Cosine similarity of replicates of a treatment, and of random pairs of rows of "
                   "different treatments.")  # fmt: skip


def replicate_similarities(
    rows: ProfileTable, *, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return cosine similarities of pairs of replicates, and of random pairs of different treatments.

    At most 20,000 of each, drawn by ``seed``; controls are left out. None where no treatment has two rows.
    """
    treated = rows.take(~rows.obs["is_control"].to_numpy(bool) & rows.obs["treatment"].notna().to_numpy())
    treatment = codes(treated.obs["treatment"])
    order = np.argsort(treatment, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(treatment[order])) + 1)
    matched = [np.stack(np.triu_indices(len(group), 1), axis=1) for group in groups]
    if len(groups) < 2 or not any(len(pair) for pair in matched):
        return None
    pairs: NDArray[np.int64] = np.concatenate([g[pair] for g, pair in zip(groups, matched, strict=True)])
    rng = np.random.default_rng(seed)
    pairs = pairs[rng.permutation(len(pairs))[:_MOST_PAIRS]]
    others = rng.integers(0, len(treatment), size=(3 * len(pairs), 2))
    others = others[treatment[others[:, 0]] != treatment[others[:, 1]]][: len(pairs)]
    x = treated.x.astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    alike, unlike = (np.einsum("ij,ij->i", unit[p[:, 0]], unit[p[:, 1]]) for p in (pairs, others))
    return alike, unlike


def _covariance(experiment: Experiment, control: NDArray[np.bool_], out: Path) -> Picture | None:
    sides = []
    for rows in (experiment.raw.rows, experiment.used.rows):
        x = rows.x[np.flatnonzero(control)][:, :_MOST_COVARIANCE].astype(np.float64)
        sides.append(np.atleast_2d(np.cov(x, rowvar=False)))
    path = figures.control_covariance(
        sides[0],
        sides[1],
        out / "controls.png",
        titles=("controls, uncorrected", f"controls, {experiment.config.use}"),
    )
    return Picture("Controls before and after", path, "How features vary together among the control rows that the "
                   "correction was fitted on: white noise would be blank off the diagonal.")  # fmt: skip


def _spectrum(experiment: Experiment, out: Path) -> list[Picture]:
    """Draw eigenvalues of the controls, and the likelihood of held-out controls, of the sphering step in use."""
    corrector = experiment.used.corrector
    steps = corrector.steps if isinstance(corrector, Chain) else [corrector]
    found = []
    for step in steps:
        if not isinstance(step, Sphering) or len(step.fits_) != 1:
            continue
        fit = next(iter(step.fits_.values()))
        knee = fit.info.get("knee_index")
        path = figures.spectrum(fit.arrays["eigenvalues"], fit.arrays["filtered"], knee, out / "spectrum.png")
        found.append(Picture("Eigenvalues of the controls", path, "Before and after regularisation: directions of "
                             "small variance are not blown up."))  # fmt: skip
        if fit.info.get("reg") == "heldout":
            ridges, likelihoods = np.array(fit.info["curve"], np.float64).T
            path = figures.curve(
                ridges, likelihoods, out / "heldout.png",
                xlabel="ridge λ (correlation units)", ylabel="log likelihood of held-out controls",
            )  # fmt: skip
            found.append(Picture("How strong the ridge is", path, "Chosen where controls of batches that were held "
                                 "out are most likely: no treatment and no label is looked at."))  # fmt: skip
    return found


def _plates(experiment: Experiment, out: Path) -> Picture | None:
    raw, used = experiment.raw.rows, experiment.used.rows
    wells, plates = raw.obs["well"].astype(str).tolist(), raw.obs["plate"].astype(str).tolist()
    size = experiment.config.plates.format or smallest_format(wells)
    path = plate_figures.plate_maps_before_after(
        _first_component(raw.x), _first_component(used.x), out / "plates.png",
        wells=wells, plates=plates, format=size, controls=raw.obs["is_control"].to_numpy(bool),
        label="first principal component", one_scale=False,
    )  # fmt: skip
    caption = (
        "The first principal component of all rows (mean of a well's rows), uncorrected and corrected; controls are "
        "outlined. Rows, columns or edges that stand out are technical."
    )
    return Picture("Plates before and after", path, caption)


def _first_component(x: NDArray[np.float32]) -> NDArray[np.float64]:
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    scale = centred.std(axis=0)
    centred /= np.where(scale > 0, scale, 1)
    if centred.shape[1] > len(centred):
        _, vectors = np.linalg.eigh(centred @ centred.T)
        first = vectors[:, -1]
    else:
        _, vectors = np.linalg.eigh(centred.T @ centred)
        first = centred @ vectors[:, -1]
    sign = np.sign(first[np.abs(first).argmax()]) or 1.0
    return np.asarray(first / (first.std() or 1.0) * sign)


def _maps(tables: dict[str, ProfileTable], experiment: Experiment, out: Path) -> Picture | None:
    seed, label = experiment.config.score.seed, experiment.config.score.label
    n = len(experiment.raw.rows.obs)
    some = np.sort(np.random.default_rng(seed).permutation(n)[:_MOST_MAPPED])
    coordinates, obs = {}, experiment.raw.rows.obs.iloc[some]
    for name, table in tables.items():
        data = to_anndata(table.take(some))
        neighbours_umap_leiden(data, seed=seed)
        coordinates[name] = np.asarray(data.obsm["X_umap"], np.float64)
    names = [name for name in ("batch", label) if name is not None and name in obs]
    path = figures.maps(
        coordinates, {name: obs[name].to_numpy(object) for name in names}, out / "maps.png",
        controls=obs["is_control"].to_numpy(bool), coloured_controls=["batch"],
    )  # fmt: skip
    more = f" ({len(some):,} of {n:,} rows, drawn at random)" if len(some) < n else ""
    return Picture("Maps", path, f"UMAP of rows{more}, coloured by batch and by mechanism. A map shows neighbourhoods, "
                   "not distances: the tables above decide.")  # fmt: skip
