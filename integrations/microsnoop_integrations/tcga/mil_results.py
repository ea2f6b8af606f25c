"""What a cross-validation gives: predictions nobody trained on, and how good these are. Source: slides spec, 10, 11."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from microsnoop.core.mil_config import MilSettings
from microsnoop.correction.base import Finding
from microsnoop.ops.roc import AucComparison, compare_auc, fold_aucs, one_vs_rest, score_two_classes
from microsnoop.ops.roc_curve import RocCurve, roc_curve
from microsnoop_integrations.tcga.mil_training import TrainedMil, judge

Method = Literal["mil", "mean_bag"]
Unit = Literal["patient", "slide"]
METHODS: tuple[Method, ...] = ("mil", "mean_bag")
UNITS: tuple[Unit, ...] = ("patient", "slide")


@dataclass(frozen=True)
class TileScores:
    """What an ensemble says of the n tiles of a slide, in the order of its bag.

    Attributes
    ----------
    attention
        (n,) mean over networks of attention × n: 1 is uniform.
    rank
        (n,) mean over networks of the rank of attention, 0 lowest, 1 highest; 0.5 where all are equal.
    probabilities
        (n, K) mean over networks of the classes of each tile alone.
    constant
        Whether attention is the same everywhere.
    """

    attention: NDArray[np.float64]
    rank: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    constant: bool


@dataclass
class Predictions:
    """Predictions of every slide by networks that saw none of its patient.

    Attributes
    ----------
    slides
        ``slide_id``, ``patient_id``, ``target``, ``fold``, ``predicted``, ``p_<class>`` of the networks and
        ``mean_bag_<class>`` of the simple baseline.
    patients
        The same of patients: means over their slides; without those of several classes.
    tiles
        Slide: what was said of its tiles.
    models
        The networks of each fold, best first.
    findings
        What a reader must know.
    """

    slides: pd.DataFrame
    patients: pd.DataFrame
    classes: tuple[str, ...]
    positive: int
    tiles: dict[str, TileScores]
    models: list[list[TrainedMil]]
    settings: MilSettings
    findings: list[Finding] = field(default_factory=list)

    def probabilities(self, level: Unit, method: Method = "mil") -> NDArray[np.float64]:
        """Return (n, K) of patients or slides."""
        prefix = "p_" if method == "mil" else "mean_bag_"
        frame = self.patients if level == "patient" else self.slides
        return frame[[prefix + name for name in self.classes]].to_numpy(np.float64)

    def truth(self, level: Unit) -> NDArray[np.int64]:
        """Return the class of each patient or slide as a number, int64 (n,)."""
        frame = self.patients if level == "patient" else self.slides
        return np.array([self.classes.index(name) for name in frame["target"]], np.int64)

    def table(self) -> pd.DataFrame:
        """Score both methods at both levels: a row a method, level and class that is scored against the others.

        Columns: ``auc`` with DeLong's ``se`` and ``low``, ``high``; ``bootstrap_low``, ``bootstrap_high`` over
        patients; ``fold_mean``, ``fold_sd``; ``average_precision``, ``balanced_accuracy``, ``brier``;
        ``n_positive``, ``n_negative``, ``flags`` (``pooling_gap``: pooled and mean of folds differ by more than 0.03),
        ``missing``. Several classes have a further row ``macro``.
        """
        scored = [self.positive] if len(self.classes) == 2 else range(len(self.classes))
        rows = []
        for method in METHODS:
            for level in UNITS:
                rows += [self._row(method, level, k) for k in scored]
                if len(self.classes) > 2:
                    macro = one_vs_rest(self.truth(level), self.probabilities(level, method))
                    lacking = ", ".join(self.classes[k] for k in macro.missing)
                    rows.append(
                        {
                            "method": method,
                            "level": level,
                            "class": "macro",
                            "auc": macro.macro,
                            "missing": lacking,
                        }
                    )
        return pd.DataFrame(rows)

    def curve(self, level: Unit = "patient", method: Method = "mil") -> RocCurve:
        """Return the ROC curve of the positive class with its band."""
        s = self.settings
        return roc_curve(
            self.truth(level) == self.positive,
            self.probabilities(level, method)[:, self.positive],
            groups=self._groups(level),
            draws=s.bootstrap,
            seed=s.seed,
        )

    def against_baseline(self) -> AucComparison:
        """Compare the networks with the simple baseline on patients (DeLong, paired)."""
        own, simple = (self.probabilities("patient", method)[:, self.positive] for method in METHODS)
        return compare_auc(self.truth("patient") == self.positive, own, simple)

    def _groups(self, level: Unit) -> NDArray[np.int64] | None:
        if level == "patient":
            return None
        return np.asarray(np.unique(self.slides["patient_id"], return_inverse=True)[1], np.int64)

    def _row(self, method: Method, level: Unit, k: int) -> dict[str, object]:
        s = self.settings
        truth, values = self.truth(level) == k, self.probabilities(level, method)[:, k]
        frame = self.patients if level == "patient" else self.slides
        found = score_two_classes(truth, values, groups=self._groups(level), draws=s.bootstrap, seed=s.seed)
        folds = fold_aucs(truth, values, frame["fold"].to_numpy(np.int64))
        return {
            "method": method,
            "level": level,
            "class": self.classes[k],
            "auc": found.auc,
            "se": found.se,
            "low": found.delong.low,
            "high": found.delong.high,
            "bootstrap_low": found.bootstrap.low,
            "bootstrap_high": found.bootstrap.high,
            "fold_mean": folds.mean,
            "fold_sd": folds.sd,
            "average_precision": found.average_precision,
            "balanced_accuracy": found.balanced_accuracy,
            "brier": found.brier,
            "n_positive": found.n_positive,
            "n_negative": found.n_negative,
            "flags": ",".join([*found.flags, *(["pooling_gap"] if folds.differs else [])]),
            "missing": found.missing,
        }


def judge_slide(
    models: Sequence[TrainedMil], features: NDArray[np.float32], *, device: str = "cpu"
) -> tuple[NDArray[np.float64], TileScores]:
    """Judge one slide by several networks: mean probabilities (K,), and what they say of its tiles.

    Raises
    ------
    ValueError
        No network.
    """
    if not models:
        raise ValueError("no network to judge with")
    found = [judge(model, features, device=device) for model in models]
    attention = np.stack([own for _, own, _ in found])
    scores = TileScores(
        attention=attention.mean(axis=0) * len(features),
        rank=np.mean([_ranks(own) for own in attention], axis=0),
        probabilities=np.mean([alone for _, _, alone in found], axis=0),
        constant=bool(np.allclose(attention * len(features), 1, rtol=0, atol=1e-6)),
    )
    return np.mean([p for p, _, _ in found], axis=0), scores


def patient_means(slides: pd.DataFrame, columns: list[str], *, leave_out: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row a patient: its class, its fold (the first), means of ``columns``, ``n_slides``; sorted."""
    kept = slides[~slides["patient_id"].isin(list(leave_out))]
    grouped = kept.groupby("patient_id", sort=True)
    frame = grouped[["target", "fold"]].first()
    frame["n_slides"] = grouped.size()
    return frame.join(grouped[columns].mean()).reset_index()


def _ranks(attention: NDArray[np.float64]) -> NDArray[np.float64]:
    n = len(attention)
    return (rankdata(attention) - 1) / (n - 1) if n > 1 else np.array([0.5])
