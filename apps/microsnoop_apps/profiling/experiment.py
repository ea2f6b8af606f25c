"""A batch experiment in memory: rows checked, every method fitted, applied, aggregated and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from microsnoop.core.errors import ConfigError, CorrectionError, MissingDependency
from microsnoop.core.profile_config import UNCORRECTED, ProfileConfig, ScoreConfig
from microsnoop.correction.base import Corrector, Finding
from microsnoop.correction.chain import Chain
from microsnoop.correction.guards import Whiteness, batch_remains, held_out_whiteness, signal_loss
from microsnoop.correction.sphering import Sphering, knee_stability
from microsnoop.correction.steps import build
from microsnoop.io.profile_columns import shorten
from microsnoop.io.profile_table import ProfileTable
from microsnoop.ops.sphering import VARIANTS
from microsnoop.pipelines.profile_levels import aggregate
from microsnoop.pipelines.profile_plates import correction_obs
from microsnoop.pipelines.profile_scores import DISTINCTNESS, MethodScores, Question, judge

CELL_COUNT = "cell count"
PCA = "PCA"
_KNEE_RANGE = 0.1  # of the number of features


@dataclass(frozen=True)
class Corrected:
    """What one method made of the rows: ``corrector`` is None for the baselines that correct nothing."""

    name: str
    rows: ProfileTable
    treatments: ProfileTable
    scores: MethodScores
    findings: tuple[Finding, ...] = ()
    corrector: Corrector | None = None


@dataclass(frozen=True)
class Experiment:
    """All methods side by side, in the order they are shown; ``failed`` says why others could not be computed."""

    config: ProfileConfig
    source: ProfileTable  # the rows that were corrected, uncorrected
    methods: dict[str, Corrected]
    failed: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()  # guard rails of the method in use
    whiteness: Whiteness | None = None

    @property
    def used(self) -> Corrected:
        """The method whose profiles are written."""
        return self.methods[self.config.use]

    @property
    def raw(self) -> Corrected:
        """The uncorrected profiles."""
        return self.methods[UNCORRECTED]


def question(score: ScoreConfig) -> Question:
    """Return what is asked of every method."""
    return Question(
        label=score.label,
        compound=score.compound,
        exclude_classes=tuple(score.exclude_classes),
        permutations=score.permutations,
        map_null=score.map_null,
        seed=score.seed,
    )


def run_methods(
    rows: ProfileTable, config: ProfileConfig, *, on_method: Callable[[str], None] = lambda _: None
) -> Experiment:
    """Correct, aggregate and judge ``rows`` with every method, baselines among them.

    Parameters
    ----------
    rows
        Rows at the level that is corrected, with ``is_control``, ``treatment``, ``plate``, ``well``, ``batch``.
    on_method
        Told the name of each method before it runs.

    Raises
    ------
    ConfigError, CorrectionError
        Settings of a method that are wrong, or the method in use cannot be computed. Other methods that cannot be
        computed on these rows are left out, with their reason.
    """
    plans = {
        name: build(steps) for name, steps in config.methods.items() if steps
    }  # wrong settings stop here
    methods: dict[str, Corrected] = {}
    failed: dict[str, str] = {}
    for name in _order(config, rows):
        on_method(name)
        try:
            methods[name] = _method(name, rows, plans.get(name), config)
        except (CorrectionError, MissingDependency) as error:
            if name in (config.use, UNCORRECTED):
                raise
            failed[name] = error.message + (f" ({error.hint})" if error.hint else "")
    experiment = Experiment(config, rows, methods, failed)
    return _guarded(experiment, config)


def _order(config: ProfileConfig, rows: ProfileTable) -> list[str]:
    """Return the methods with the baselines first: uncorrected, principal components, cell count."""
    baselines = [UNCORRECTED, PCA]
    if _count_column(rows, config.score.cell_count) is not None:
        baselines.append(CELL_COUNT)
    return list(dict.fromkeys([*baselines, *config.methods]))


def _method(name: str, rows: ProfileTable, corrector: Corrector | None, config: ProfileConfig) -> Corrected:
    corrected = rows
    counted = _count_column(rows, config.score.cell_count) if name == CELL_COUNT else None
    if corrector is None and counted is not None:
        corrected = _as_angles(rows, counted)
    elif corrector is None and name == PCA:
        corrector = build([{"method": "pca"}])
    if corrector is not None:
        x = corrector.fit_transform(rows.x, correction_obs(rows), features=rows.features)
        corrected = rows.with_x(x, corrector.features_out_)
    treatments = _treatments(corrected, config)
    scores = judge(name, corrected, treatments, question(config.score))
    findings = tuple(corrector.findings_) if corrector is not None else ()
    return Corrected(name, corrected, treatments, scores, findings, corrector)


def _treatments(rows: ProfileTable, config: ProfileConfig) -> ProfileTable:
    levels = config.levels
    if levels.through_wells:
        rows = aggregate(rows, "well", statistic=levels.treatment, min_rows=levels.min_rows)
    return aggregate(rows, "treatment", statistic=levels.treatment, min_rows=levels.min_rows)


def _guarded(experiment: Experiment, config: ProfileConfig) -> Experiment:
    """Add what the guard rails say of the method in use."""
    used, raw = experiment.used, experiment.raw
    findings = list(used.findings)
    white = None
    if used.corrector is not None:
        if any(step["method"] in ("sphering", "tvn") for step in config.methods[config.use]):
            white, more = _whiteness(experiment.source, config)
            findings += more
        findings += _knees(used.corrector, experiment.source, seed=config.score.seed)
        loose, kept = raw.scores.map(DISTINCTNESS), used.scores.map(DISTINCTNESS)
        if loose is not None and kept is not None:
            findings += signal_loss("replicates against other treatments", loose.value, kept.value)
        if raw.scores.batch is not None and used.scores.batch is not None:
            before, after = raw.scores.batch, used.scores.batch
            known = np.isfinite([before.control_accuracy, after.control_accuracy]).all()
            if known:  # else the notes of the scores say why not
                findings += batch_remains(
                    before.control_accuracy, after.control_accuracy, after.control_chance
                )
    return Experiment(
        experiment.config, experiment.source, experiment.methods, experiment.failed, tuple(findings), white
    )


def _knees(corrector: Corrector, rows: ProfileTable, *, seed: int) -> list[Finding]:
    """Return ``unstable_knee`` where drawing the controls again moves the knee by more than a tenth of the features.

    Only of sphering as the first and only fit of all controls: a later step sees rows that are not kept.
    """
    first = corrector.steps[0] if isinstance(corrector, Chain) else corrector
    if not isinstance(first, Sphering) or [fit.info["reg"] for fit in first.fits_.values()] != ["knee"]:
        return []
    control = rows.obs["is_control"].to_numpy(bool)
    width = rows.x.shape[1]
    low, high = knee_stability(
        rows.x[control], seed=seed, correlation=VARIANTS[first.variant][0], sensitivity=first.sensitivity
    )
    if high - low <= _KNEE_RANGE * width:
        return []
    told = (
        f"drawn again, controls put the knee anywhere between eigenvalue {low:.0f} and {high:.0f} of {width}"
    )
    return [Finding("unstable_knee", f"{told}: `reg: shrinkage` and `reg: heldout` need no knee")]


def _whiteness(rows: ProfileTable, config: ProfileConfig) -> tuple[Whiteness | None, list[Finding]]:
    """Return how white held-out controls come out; that it could not be found out is a finding, not the end."""
    try:
        white = held_out_whiteness(
            lambda: build(config.methods[config.use]), rows.x, correction_obs(rows), seed=config.score.seed
        )
    except CorrectionError as error:
        return None, [Finding("not_checked", f"held-out controls could not be judged: {error.message}")]
    return white, white.findings() if white is not None else []


def _count_column(rows: ProfileTable, name: str | None) -> pd.Series | None:
    """Return the column that counts the cells of each row, None where nobody counted them.

    Raises
    ------
    ConfigError
        The column that should count them is not there.
    """
    if name is None:
        return rows.obs.get("n_cells")
    if name in rows.features:
        return pd.Series(rows.x[:, rows.features.index(name)], rows.obs.index, name=name)
    if name in rows.obs:
        return rows.obs[name]
    raise ConfigError(
        f"score.cell_count: {rows.source} has no column {name!r}",
        hint=f"beside its features it has {', '.join(map(str, rows.obs.columns))}",
    )


def _as_angles(rows: ProfileTable, counted: pd.Series) -> ProfileTable:
    """Return counts as points on a quarter of a circle: the nearest by cosine are the nearest in number."""
    counts = pd.to_numeric(counted, errors="coerce").to_numpy(np.float64)
    if gaps := counted.index[~np.isfinite(counts)].tolist():
        raise CorrectionError(
            "not_finite",
            f"{counted.name} counts no cells in {len(gaps)} of {len(counts)} rows: {shorten(gaps)}",
            hint="name a column of numbers under score.cell_count",
        )
    span = counts.max() - counts.min()
    angle = (counts - counts.min()) / (span if span > 0 else 1) * (np.pi / 2)
    return rows.with_x(np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32), ("cos", "sin"))


def describe_steps(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return steps in one line: ``log; sphering (reg heldout)``."""
    texts = []
    for step in steps:
        rest = ", ".join(f"{key} {value}" for key, value in step.items() if key != "method")
        texts.append(f"{step['method']}" + (f" ({rest})" if rest else ""))
    return "; ".join(texts) or "nothing"
